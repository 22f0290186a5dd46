//! The loop: turns what fds and timers say into events for the mind, one at a time, and has its actions performed.
//!
//! No policy here: who is spawned, drained or refused is decided in the `rollout` library alone.

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::inotify::{InitFlags, Inotify};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use proto::control::{Code, LastRollout, Reply};
use proto::worker::{BootReport, ExitReport, ExitStatus, FromWorker, Stage};
use proto::{Incarnation, Slot};
use rollout::{Command, CommandId, Event, Exit, Kind, ReleaseId, Rollout, ScaleTo, Timer, WorkerState};

use crate::child::{self, Child, WorkerExe};
use crate::control::{Control, Heard, REQUEST_DEADLINE};
use crate::leftovers::Leftovers;
use crate::listener::{Listener, Mended};
use crate::narrate;
use crate::release::{self, Releases};
use crate::settings::Site;
use crate::timers::{Timers, unix_millis};
use crate::token::Token;

/// How many boot reports are kept beside those of living workers.
const KEPT_REPORTS: usize = 16;
/// Commands of the master's own (signals) have numbers that no client gets.
const OWN_COMMANDS: u64 = 1 << 60;

/// A deadline of the mind's or of a control client's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Deadline {
    Mind(Timer),
    Client(u64),
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
    pub(crate) control: Control,
    pub(crate) timers: Timers<Deadline>,
    pub(crate) exe: WorkerExe,
    pub(crate) started_at: u64,
    pub(crate) running: Option<Running>,
    pub(crate) last_rollout: Option<LastRollout>,
    pub(crate) last_report: Option<BootReport>,
    /// How the last rollout ended, in words.
    pub(crate) ended_as: Option<(Code, String)>,
    pub(crate) last_exits: BTreeMap<Slot, String>,
    pub(crate) backoff_since: BTreeMap<Slot, u64>,
    /// Clients that wait for the end of something, and are told what happens meanwhile.
    pub(crate) waiting: std::collections::BTreeSet<u64>,
    pub(crate) queue: VecDeque<Event>,
    pub(crate) exit: Option<Exit>,
    reports: BTreeMap<Incarnation, BootReport>,
    epoll: Epoll,
    signals: SignalFd,
    inotify: Inotify,
    own_commands: u64,
    trace: Option<File>,
}

impl Shell {
    /// Binds, registers and is ready to run; nothing was spawned yet.
    ///
    /// # Errors
    /// Anything that keeps the master from starting, naming it.
    pub(crate) fn new(site: Site, control: Control, listeners: Vec<Listener>, release: PathBuf) -> Result<Self> {
        let exe = WorkerExe::find()?;
        nix::sys::prctl::set_child_subreaper(true).context("cannot become a subreaper")?;
        let mut releases = Releases::default();
        let first = releases.id(&release);
        let mut leftovers = Leftovers::default();
        leftovers.note_strangers();
        let trace = std::env::var_os("PHASED_TRACE").map(File::create).transpose().context("PHASED_TRACE")?;
        let mut shell = Self {
            mind: Rollout::new(site.settings.clone(), first),
            site,
            releases,
            listeners,
            children: BTreeMap::new(),
            leftovers,
            control,
            timers: Timers::new(),
            exe,
            started_at: unix_millis(),
            running: None,
            last_rollout: None,
            last_report: None,
            ended_as: None,
            last_exits: BTreeMap::new(),
            backoff_since: BTreeMap::new(),
            waiting: std::collections::BTreeSet::new(),
            queue: VecDeque::new(),
            exit: None,
            reports: BTreeMap::new(),
            epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).context("cannot make an epoll set")?,
            signals: take_signals()?,
            inotify: Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK).context("cannot make an inotify")?,
            own_commands: OWN_COMMANDS,
            trace,
        };
        shell.epoll.add(&shell.signals, EpollEvent::new(EpollFlags::EPOLLIN, Token::Signals.pack()))?;
        shell.epoll.add(&shell.inotify, EpollEvent::new(EpollFlags::EPOLLIN, Token::Paths.pack()))?;
        shell.epoll.add(shell.control.fd(), EpollEvent::new(EpollFlags::EPOLLIN, Token::Control.pack()))?;
        for n in 0..shell.listeners.len() {
            shell.watch_listener(n);
        }
        shell.trace(|shell| format!("settings {}\n", shell.site.settings));
        Ok(shell)
    }

    /// Runs until the mind says that everything is over.
    ///
    /// # Errors
    /// When the epoll set itself fails.
    pub(crate) fn run(&mut self) -> Result<Exit> {
        self.feed(Event::Start);
        let mut ready = [EpollEvent::empty(); 64];
        loop {
            if let Some(exit) = self.exit {
                self.control.finish();
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
        }
        self.flush_clients();
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

    // --- signals and children ---

    fn take_signals(&mut self) {
        while let Ok(Some(info)) = self.signals.read_signal() {
            match Signal::try_from(info.ssi_signo as i32) {
                Ok(Signal::SIGCHLD) => self.reap(),
                Ok(Signal::SIGTERM) => self.own_command(Command::Stop),
                Ok(Signal::SIGINT) => {
                    // A person who presses Ctrl-C again does not want to wait.
                    let again = self.mind.state() == rollout::State::Stopping;
                    self.own_command(if again { Command::Halt } else { Command::Stop });
                }
                Ok(Signal::SIGQUIT) => self.own_command(Command::Halt),
                Ok(Signal::SIGUSR1) => self.restart_by_signal(),
                Ok(Signal::SIGTTIN) => self.own_command(Command::Scale(ScaleTo::Up(1))),
                Ok(Signal::SIGTTOU) => self.own_command(Command::Scale(ScaleTo::Down(1))),
                Ok(Signal::SIGHUP) => {
                    tracing::info!(
                        "HUP ignored: USR1 or `ctl phased-restart` deploys, output goes to stdout and stderr"
                    );
                }
                Ok(Signal::SIGUSR2) => tracing::warn!("USR2 ignored: this version cannot upgrade itself in place"),
                _ => {}
            }
        }
    }

    fn restart_by_signal(&mut self) {
        match release::resolve(&self.site.dir) {
            Ok(path) => {
                let release = self.releases.id(&path);
                self.own_command(Command::PhasedRestart {
                    release,
                    hold: false,
                    surge: None,
                    max_unavailable: None,
                    soak: None,
                });
            }
            Err(error) => tracing::error!("USR1: {error:#}; nothing changed"),
        }
    }

    pub(crate) fn is_own(&self, command: CommandId) -> bool {
        command.0 > OWN_COMMANDS
    }

    fn own_command(&mut self, command: Command) {
        self.own_commands += 1;
        self.feed(Event::Command { id: CommandId(self.own_commands), command });
    }

    /// Waits for every child that has ended; its pipe is read to the end before its end is told.
    fn reap(&mut self) {
        let mut dead = Vec::new();
        loop {
            match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) => dead.push((pid.as_raw(), ExitStatus::Code(code))),
                Ok(WaitStatus::Signaled(pid, signal, _)) => {
                    dead.push((pid.as_raw(), ExitStatus::Signal(signal as i32)))
                }
                Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => break,
                Err(Errno::EINTR) | Ok(_) => {}
                Err(e) => {
                    tracing::error!("waitpid: {e}");
                    break;
                }
            }
        }
        for (pid, status) in dead {
            let worker = self.children.values().find(|c| c.pid == Some(pid)).map(|c| c.id);
            if let Some(id) = worker {
                self.worker_died(id, status);
            }
        }
        let workers = child::pids(self.children.values());
        let site = &self.site;
        for id in self.leftovers.cleared(&workers, |id| site.token(id)) {
            self.gone(id);
        }
    }

    fn worker_died(&mut self, id: Incarnation, status: ExitStatus) {
        self.hear_worker(id);
        let Some(child) = self.children.get_mut(&id) else { return };
        child.pid = None;
        let (app_pid, reported, slot) = (child.app_pid, child.reported, child.slot);
        let state = self.mind.workers().find(|(worker, _)| *worker == id).map(|(_, w)| w.state);
        let silent = match state {
            Some(WorkerState::Booting) if !reported => Some(self.stage_of(id)),
            Some(WorkerState::Ready) => Some(Stage::Soak),
            _ => None,
        };
        if let Some(stage) = silent {
            let message = format!("its worker process {}", narrate::exit(status));
            self.last_exits.insert(slot, message.clone());
            self.file_report(self.report(id, stage, message));
        }
        let workers = child::pids(self.children.values());
        let site = &self.site;
        if self.leftovers.worker_died(id, app_pid, &workers, |id| site.token(id)) {
            self.feed(Event::Lost(id));
        } else {
            self.gone(id);
        }
    }

    fn gone(&mut self, id: Incarnation) {
        self.feed(Event::Gone(id));
        self.children.remove(&id);
        self.listen_again();
    }

    /// An app may have asked for a small backlog.
    fn listen_again(&self) {
        for listener in &self.listeners {
            listener.listen_again();
        }
    }

    // --- workers ---

    pub(crate) fn watch(&self, fd: Option<BorrowedFd<'_>>, flags: EpollFlags, token: Token) {
        if let Some(fd) = fd
            && let Err(e) = self.epoll.add(fd, EpollEvent::new(flags, token.pack()))
            && e != Errno::EEXIST
        {
            tracing::error!("epoll: cannot watch {token:?}: {e}");
        }
    }

    /// Sends a worker something, and watches its pipe when that does not fit at once.
    pub(crate) fn tell(&mut self, id: Incarnation, message: &proto::worker::ToWorker) {
        if self.children.get_mut(&id).is_some_and(|child| child.send(message)) {
            let fd = self.children.get(&id).and_then(Child::commands_fd);
            self.watch(fd, EpollFlags::EPOLLOUT, Token::Commands(id));
        }
    }

    fn flush_commands(&mut self, id: Incarnation) {
        let Some(child) = self.children.get_mut(&id) else { return };
        if !child.flush()
            && let Some(fd) = child.commands_fd()
        {
            let _ = self.epoll.delete(fd);
        }
    }

    fn hear_worker(&mut self, id: Incarnation) {
        let Some(child) = self.children.get_mut(&id) else { return };
        let heard = child.hear();
        for message in heard.messages {
            self.take_message(id, message);
        }
        if let Some(error) = heard.broken {
            tracing::error!("worker {id}: {error}; it is ended");
            if let Some(child) = self.children.get(&id) {
                child.kill();
            }
        }
    }

    fn take_message(&mut self, id: Incarnation, message: FromWorker) {
        let Some(child) = self.children.get_mut(&id) else { return };
        if let FromWorker::Hello(hello) = &message {
            child.greeted = true;
            if let Err(mismatch) = hello.check() {
                self.refuse_worker(id, &mismatch.to_string());
            }
            return;
        }
        if !child.greeted {
            self.refuse_worker(id, "it did not say Hello first");
            return;
        }
        match message {
            FromWorker::Hello(_) => {}
            FromWorker::Stage(stage) => {
                tracing::debug!("worker {id}: stage {stage}");
                child.stage = stage;
            }
            FromWorker::Started { app_pid } => child.app_pid = Some(app_pid),
            FromWorker::Hint(text) => tracing::warn!("slot {}: {text}", child.slot),
            FromWorker::Status(text) => child.status = Some(text),
            FromWorker::Booted { evidence, boot_us } => {
                child.reported = true;
                (child.evidence, child.boot_us) = (Some(evidence), Some(boot_us));
                self.feed(Event::Booted(id));
            }
            FromWorker::BootFailed(report) => {
                child.reported = true;
                let (slot, release_gone) = (child.slot, report.release_gone);
                // A worker speaks for itself alone.
                let report = BootReport { incarnation: id, slot, ..*report };
                self.last_exits.insert(slot, report.message.clone());
                self.file_report(report);
                self.feed(Event::BootFailed { worker: id, release_gone });
                self.listen_again();
            }
            FromWorker::Exited(exited) => self.app_exited(id, *exited),
        }
    }

    fn app_exited(&mut self, id: Incarnation, exited: ExitReport) {
        let message = narrate::exit(exited.status);
        let mut report = self.report(id, Stage::Soak, message.clone());
        report.exit = Some(exited.status);
        report.millis = exited.millis;
        report.output = exited.output;
        self.last_exits.insert(report.slot, message);
        if exited.dropped_lines > 0 {
            tracing::warn!("slot {}: {} lines of output lost while it drained", report.slot, exited.dropped_lines);
        }
        if self.mind.workers().any(|(worker, w)| worker == id && w.state == WorkerState::Ready) {
            self.file_report(report);
        }
        self.feed(Event::Exited(id));
        self.listen_again();
    }

    fn refuse_worker(&mut self, id: Incarnation, why: &str) {
        let message = format!("the worker cannot be used: {why}");
        self.file_report(self.report(id, Stage::Spawn, message));
        if let Some(child) = self.children.get_mut(&id) {
            child.reported = true;
            child.kill();
        }
    }

    fn stage_of(&self, id: Incarnation) -> Stage {
        self.children.get(&id).map_or(Stage::Spawn, |c| c.stage)
    }

    /// A report in the master's own words, where the worker could not give one.
    pub(crate) fn report(&self, id: Incarnation, stage: Stage, message: String) -> BootReport {
        let child = self.children.get(&id);
        BootReport {
            slot: child.map_or(Slot(0), |c| c.slot),
            incarnation: id,
            phase: child.map_or(proto::Phase(0), |c| c.phase),
            release: child.map_or_else(Vec::new, |c| self.releases.bytes(c.release)),
            stage,
            message,
            exit: None,
            millis: child.map_or(0, |c| unix_millis().saturating_sub(c.started_at)),
            output: Vec::new(),
            release_gone: false,
        }
    }

    /// Keeps a report for whoever asks.
    pub(crate) fn file_report(&mut self, report: BootReport) {
        self.last_report = Some(report.clone());
        self.reports.insert(report.incarnation, report);
        while self.reports.len() > KEPT_REPORTS {
            self.reports.pop_first();
        }
    }

    pub(crate) fn report_of(&self, id: Incarnation) -> Option<&BootReport> {
        self.reports.get(&id)
    }

    // --- listeners ---

    fn watch_listener(&self, n: usize) {
        let Some(listener) = self.listeners.get(n) else { return };
        // No readiness is asked for: only a hang-up is news.
        self.watch(Some(listener.fd.as_fd()), EpollFlags::EPOLLRDHUP, Token::Listener(n));
        listener.watch(&self.inotify);
    }

    fn mend_listener(&mut self, n: usize) {
        let Some(listener) = self.listeners.get_mut(n) else { return };
        let _ = self.epoll.delete(&listener.fd);
        match listener.mend() {
            Ok(Mended::Revived) => {
                tracing::error!("an app shut {} down: it listens again", listener.address());
                self.watch_listener(n);
            }
            Ok(Mended::Replaced) => {
                self.watch_listener(n);
                self.feed(Event::ListenerLost);
            }
            Err(error) => tracing::error!("an app shut {} down: {error:#}", listener.address()),
        }
    }

    fn restore_paths(&mut self) {
        while self.inotify.read_events().is_ok_and(|events| !events.is_empty()) {}
        for listener in &self.listeners {
            if listener.restore_path() {
                tracing::warn!("an app removed {}: put back", listener.address());
            }
        }
    }

    // --- control ---

    fn accept(&mut self) {
        while let Some(accepted) = self.control.accept() {
            if let Ok(id) = accepted {
                self.watch(self.control.client_fd(id), EpollFlags::EPOLLIN, Token::Client(id));
                self.timers.arm(Deadline::Client(id), REQUEST_DEADLINE);
                // Most have sent everything by now: one turn of the loop less, for them and for us.
                self.hear_client(id);
            }
        }
    }

    fn hear_client(&mut self, id: u64) {
        match self.control.hear(id) {
            Heard::Request(request) => {
                self.timers.disarm(Deadline::Client(id));
                self.request(id, request);
                self.flush_client(id);
            }
            Heard::Nothing => self.flush_client(id),
            Heard::Closed => self.forget(id),
        }
    }

    fn flush_client(&mut self, id: u64) {
        match self.control.flush(id) {
            None => self.forget(id),
            Some(left) => {
                let flags = if left { EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT } else { EpollFlags::EPOLLIN };
                if let Some(fd) = self.control.client_fd(id) {
                    let _ = self.epoll.modify(fd, &mut EpollEvent::new(flags, Token::Client(id).pack()));
                }
            }
        }
    }

    /// Everybody who waits may have been told something.
    pub(crate) fn flush_clients(&mut self) {
        for id in self.waiting.clone() {
            self.flush_client(id);
        }
    }

    fn forget(&mut self, id: u64) {
        self.timers.disarm(Deadline::Client(id));
        self.waiting.remove(&id);
        self.control.forget(id);
    }

    fn expire(&mut self, deadline: Deadline) {
        match deadline {
            Deadline::Client(id) => {
                let what = if self.control.has_asked(id) { "does not read its answer" } else { "says nothing" };
                tracing::warn!("control client closed: it {what}");
                self.forget(id);
            }
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

fn take_signals() -> Result<SignalFd> {
    let mut set = SigSet::empty();
    for signal in [
        Signal::SIGCHLD,
        Signal::SIGTERM,
        Signal::SIGINT,
        Signal::SIGQUIT,
        Signal::SIGUSR1,
        Signal::SIGUSR2,
        Signal::SIGTTIN,
        Signal::SIGTTOU,
        Signal::SIGHUP,
    ] {
        set.add(signal);
    }
    set.thread_block().context("cannot block signals")?;
    SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK).context("cannot make a signalfd")
}

/// epoll counts whole milliseconds: rounded up, lest the loop spin until a deadline.
fn up_to(sleep: Duration) -> EpollTimeout {
    let millis = sleep.as_nanos().div_ceil(1_000_000);
    EpollTimeout::try_from(i32::try_from(millis).unwrap_or(i32::MAX)).unwrap_or(EpollTimeout::MAX)
}
