//! The loop: turns what fds and timers say into events for the mind, one at a time, and has its actions performed.
//!
//! No policy here: who is spawned, drained or refused is decided in the `rollout` library alone.

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::inotify::{InitFlags, Inotify};
use nix::sys::signalfd::SignalFd;
use nix::unistd::Uid;
use proto::control::{Code, LastRollout, Reply};
use proto::worker::BootReport;
use proto::{Incarnation, Slot};
use rollout::{Event, Exit, Kind, ReleaseId, Rollout, Timer};

use crate::adoption::Estate;
use crate::child::{Child, WorkerExe};
use crate::control::Control;
use crate::counters::Counters;
use crate::happen::Seen;
use crate::leftovers::{Leftovers, variable};
use crate::listener::Listener;
use crate::manager::Manager;
use crate::narrate;
use crate::recall::Recalled;
use crate::record::Record;
use crate::release::Releases;
use crate::settings::Site;
use crate::state::{Extra, State};
use crate::timers::{Timers, unix_millis};
use crate::token::Token;
use crate::upgrade::{Program, Proof};

/// Commands of the master's own (signals) have numbers that no client gets.
pub(crate) const OWN_COMMANDS: u64 = 1 << 60;

/// A deadline of the mind's or of a control client's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Deadline {
    Mind(Timer),
    Client(u64),
    /// The service manager's watchdog.
    Manager,
    /// A new program has to have proved itself.
    Proof,
}

/// The rollout that runs, as far as the mind does not know it.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) id: u64,
    pub(crate) kind: Kind,
    pub(crate) from: ReleaseId,
    pub(crate) to: ReleaseId,
    pub(crate) phase: proto::Phase,
    pub(crate) started_at: u64,
    pub(crate) began: std::time::Instant,
    pub(crate) report: Option<BootReport>,
}

/// The master's body.
pub(crate) struct Shell {
    pub(crate) site: Site,
    pub(crate) mind: Rollout,
    pub(crate) releases: Releases,
    pub(crate) listeners: Vec<Listener>,
    pub(crate) children: BTreeMap<Incarnation, Child>,
    pub(crate) leftovers: Leftovers,
    /// The pidfds of left-overs that are no children of ours.
    pub(crate) strays: BTreeMap<i32, OwnedFd>,
    pub(crate) control: Control,
    pub(crate) timers: Timers<Deadline>,
    pub(crate) exe: WorkerExe,
    pub(crate) started_at: u64,
    pub(crate) running: Option<Running>,
    pub(crate) state: State,
    /// What is remembered beyond what the mind knows.
    pub(crate) extra: Extra,
    pub(crate) last_report: Option<BootReport>,
    /// How the last rollout ended, in words.
    pub(crate) ended_as: Option<(Code, String)>,
    pub(crate) last_exits: BTreeMap<Slot, String>,
    pub(crate) backoff_since: BTreeMap<Slot, u64>,
    /// Clients that wait for the end of something, and are told what happens meanwhile.
    pub(crate) waiting: std::collections::BTreeSet<u64>,
    pub(crate) record: Record,
    pub(crate) counters: Counters,
    /// What the last step has left behind.
    pub(crate) seen: Seen,
    pub(crate) queue: VecDeque<Event>,
    pub(crate) exit: Option<Exit>,
    pub(crate) reports: VecDeque<BootReport>,
    pub(crate) epoll: Epoll,
    pub(crate) signals: SignalFd,
    pub(crate) inotify: Inotify,
    pub(crate) own_commands: u64,
    manager: Manager,
    trace: Option<File>,
    /// What the mind hears first.
    opening: Event,
    /// A rollout that the last master did not bring to its end.
    interrupted: Option<LastRollout>,
    /// What an upgrade executes.
    pub(crate) program: Program,
    /// The one that is about to take this one's place.
    pub(crate) proof: Option<Proof>,
    /// The control socket, kept open for the next program.
    pub(crate) kept_control: Option<OwnedFd>,
}

impl Shell {
    /// Registers everything and is ready to run; nothing was spawned yet.
    ///
    /// # Errors
    /// Anything that keeps the master from starting, naming it.
    pub(crate) fn new(
        site: Site,
        control: Control,
        listeners: Vec<Listener>,
        recalled: Recalled,
        manager: Manager,
        estate: Estate,
        exe: WorkerExe,
    ) -> Result<Self> {
        nix::sys::prctl::set_child_subreaper(true).context("cannot become a subreaper")?;
        let Recalled { state, extra, releases, mind, interrupted, origin } = recalled;
        let last_report = extra.last_report().cloned();
        let mut leftovers = Leftovers::of(site.user.as_ref().map(|user| Uid::from_raw(user.uid)));
        leftovers.note_strangers(|pid| variable(pid, "PHASED_TOKEN").is_some_and(|t| site.incarnation(&t).is_some()));
        let trace = std::env::var_os("PHASED_TRACE").filter(|path| !path.is_empty()).map(PathBuf::from);
        let create = |path: PathBuf| {
            File::create(&path).with_context(|| format!("PHASED_TRACE: cannot write {}", path.display()))
        };
        let trace = trace.map(create).transpose()?;
        let mut shell = Self {
            mind,
            site,
            releases,
            listeners,
            children: BTreeMap::new(),
            leftovers,
            strays: BTreeMap::new(),
            control,
            timers: Timers::new(),
            exe,
            started_at: unix_millis(),
            running: None,
            state,
            extra,
            last_report,
            ended_as: None,
            last_exits: BTreeMap::new(),
            backoff_since: BTreeMap::new(),
            waiting: std::collections::BTreeSet::new(),
            record: Record::new(),
            counters: Counters::default(),
            seen: Seen::default(),
            queue: VecDeque::new(),
            exit: None,
            reports: VecDeque::new(),
            epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).context("cannot make an epoll set")?,
            signals: crate::signals::open()?,
            inotify: Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK).context("cannot make an inotify")?,
            own_commands: OWN_COMMANDS,
            manager,
            trace,
            opening: Event::Start,
            interrupted,
            program: Program::of_this_process(),
            proof: None,
            kept_control: None,
        };
        shell.epoll.add(&shell.signals, EpollEvent::new(EpollFlags::EPOLLIN, Token::Signals.pack()))?;
        shell.epoll.add(&shell.inotify, EpollEvent::new(EpollFlags::EPOLLIN, Token::Paths.pack()))?;
        shell.epoll.add(shell.control.fd(), EpollEvent::new(EpollFlags::EPOLLIN, Token::Control.pack()))?;
        for n in 0..shell.listeners.len() {
            shell.watch_listener(n);
        }
        shell.opening = shell.take_over(estate);
        shell.trace(|shell| format!("settings {}\n{origin}", shell.site.settings));
        Ok(shell)
    }

    /// Runs until the mind says that everything is over.
    ///
    /// # Errors
    /// When the epoll set itself fails.
    pub(crate) fn run(&mut self) -> Result<Exit> {
        let opening = std::mem::replace(&mut self.opening, Event::Start);
        self.listeners.iter_mut().for_each(Listener::own);
        self.master_started();
        self.feed(opening);
        self.note_interrupted();
        // An upgrade may have lost the signal of a child's end.
        self.reap();
        self.feed_manager();
        let mut ready = [EpollEvent::empty(); 64];
        loop {
            if let Some(exit) = self.exit {
                self.master_ends(narrate::exit_word(exit));
                self.flush_clients();
                // Whoever hears that the master has stopped finds its addresses free, or left to the next one.
                match exit {
                    Exit::Stopped | Exit::NothingBoots => self.listeners.clear(),
                    Exit::Detached => {
                        self.listeners.drain(..).for_each(Listener::leave);
                        // The workers are free before anybody hears of it.
                        self.children.clear();
                    }
                    // The next program finds them open.
                    Exit::Upgraded => {}
                }
                self.state.release();
                if exit != Exit::Upgraded {
                    self.control.finish();
                }
                return Ok(exit);
            }
            let sleep = self.timers.sleep().map_or(EpollTimeout::NONE, up_to);
            let count = match self.epoll.wait(&mut ready, sleep) {
                Ok(count) => count,
                Err(Errno::EINTR) => continue,
                Err(e) => return Err(e).context("epoll_wait"),
            };
            for event in &ready[..count] {
                if let Some(token) = Token::unpack(event.data()) {
                    self.dispatch(token);
                }
            }
            while let Some(deadline) = self.timers.expired() {
                self.expire(deadline);
            }
        }
    }

    fn dispatch(&mut self, token: Token) {
        match token {
            Token::Signals => self.take_signals(),
            Token::Control => self.accept(),
            Token::Paths => self.restore_paths(),
            Token::Listener(n) => self.mend_listener(n),
            Token::Client(id) => self.hear_client(id),
            Token::Reports(id) => self.hear_worker(id),
            Token::Commands(id) => self.flush_commands(id),
            Token::Death(id) => self.stranger_died(id),
            Token::Stray(pid) => self.stray_died(pid),
        }
    }

    /// Hands one event to the mind and performs what it wants, and whatever that brings about at once.
    pub(crate) fn feed(&mut self, event: Event) {
        self.queue.push_back(event);
        while let Some(event) = self.queue.pop_front() {
            let mut actions = Vec::new();
            self.mind.step(event.clone(), &mut actions);
            self.trace(|_| narrate::step(&event, &actions));
            for action in actions {
                self.perform(action);
            }
            self.compare();
        }
        self.manager.tell(&self.mind, &self.releases, &self.listeners);
        if self.exit.is_none() {
            self.flush_clients();
        }
    }

    /// Feeds the service manager's watchdog, now and as often as it wants.
    fn feed_manager(&mut self) {
        if let Some(interval) = self.manager.interval() {
            self.manager.feed(&self.mind);
            self.timers.arm(Deadline::Manager, interval);
        }
    }

    /// A rollout that ended with everything else is one that has ended: its line in the history is written now.
    fn note_interrupted(&mut self) {
        let Some(rollout) = self.interrupted.take() else { return };
        let goes_on = self.running.as_ref().is_some_and(|running| running.id == rollout.id);
        if !goes_on && self.extra.last_rollout.as_ref().is_none_or(|last| last.id < rollout.id) {
            self.state.append(&rollout);
            self.extra.last_rollout = Some(rollout);
            self.remember(&self.mind.memory());
        }
    }

    /// Executes the new program. Does not return, unless nothing can be executed.
    pub(crate) fn upgrade(&mut self) -> anyhow::Error {
        self.control.hand_over();
        self.exe.lower_limit();
        self.program.replace(self.kept_control.as_ref(), &self.site.mark, std::mem::take(&mut self.listeners))
    }

    fn trace(&mut self, text: impl FnOnce(&Self) -> String) {
        let subscribers = self.control.subscribers();
        if self.trace.is_none() && subscribers.is_empty() {
            return;
        }
        let text = text(self);
        if let Some(file) = &mut self.trace {
            let _ = file.write_all(text.as_bytes());
        }
        for id in subscribers {
            self.reply(id, &Reply::Event(text.clone()), false);
        }
    }

    fn expire(&mut self, deadline: Deadline) {
        match deadline {
            Deadline::Client(id) => {
                let what = if self.control.has_asked(id) { "does not read its answer" } else { "says nothing" };
                tracing::warn!("control client closed: it {what}");
                self.control.late(id);
                self.forget(id);
            }
            Deadline::Manager => self.feed_manager(),
            Deadline::Proof => self.proof_overdue(),
            Deadline::Mind(timer) => {
                if let Timer::BootLate(id) = timer {
                    let message = "its worker did not report the end of the boot in time".into();
                    self.file_report(self.report(id, self.stage_of(id), message));
                }
                self.feed(Event::Fired(timer));
            }
        }
    }
}

/// epoll counts whole milliseconds: rounded up, lest the loop spin until a deadline.
fn up_to(sleep: Duration) -> EpollTimeout {
    let millis = sleep.as_nanos().div_ceil(1_000_000);
    EpollTimeout::try_from(i32::try_from(millis).unwrap_or(i32::MAX)).unwrap_or(EpollTimeout::MAX)
}
