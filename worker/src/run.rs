//! One app's life, from the order to boot until nothing of it is left: what happens is told to [`Run`], which acts and
//! reports.
//!
//! ```text
//! Hooking ──exit 0──▶ Executing ──exec──▶ Booting ──evidence──▶ Checking ──passed──▶ Serving
//!    └────────────────────┴───────────────────┴── failure, exit, drain ──┴─────────────┴──▶ Ending ──▶ nothing left
//! ```
//!
//! Without a hook it begins with `Executing`, without checks `Booting` leads to `Serving`. A worker that has nothing but a hook to
//! run comes from `Hooking` to `Ending`. `Ending` begins with the stop signal to the first process; when that one ends, what it left
//! gets the signal; at the deadline everything is killed.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::libc;
use nix::poll::PollFlags;
use proto::worker::{BootReport, BootSpec, Bytes, Check, Evidence, ExitReport, FromWorker, Stage, Task};

use crate::app::App;
use crate::begin::{Begun, is_hook};
use crate::boot::{self, Failure, Spawned, errno};
use crate::check::{self, Checking};
use crate::door::Door;
use crate::ending::{Ending, FAR, later};
use crate::hook::Hook;
use crate::memory::Memory;
use crate::notify::Notify;
use crate::output::Output;
use crate::ready::{Verdict, Watch, listen_again};
use crate::relay::Relay;
use crate::report::{Reports, boot_report, early_exit, ended, with_check};
use crate::watchdog::Watchdog;
use crate::{command, sys};

/// How long something may take to end that was never ready, or that is taken for dead.
const SOON: Duration = Duration::from_secs(5);

/// One app, or a hook instead.
pub(crate) struct Run {
    spec: Box<BootSpec>,
    /// When the order to boot came.
    since: Instant,
    /// The release, as long as something may have to be executed there.
    dir: Option<OwnedFd>,
    listeners: Vec<OwnedFd>,
    /// The first process, and what is below it.
    app: App,
    program: String,
    /// Nobody knows its name but the app.
    notify: Notify,
    status: Option<String>,
    output: Output,
    state: State,
    watchdog: Option<Watchdog>,
    memory: Option<Memory>,
    /// The master has been told how it ended.
    told: bool,
    /// Why it was ended here.
    reason: Option<String>,
}

enum State {
    /// The first process is a hook; here its trouble arrives.
    Hooking(Hook, OwnedFd),
    /// The first process is about to execute the app; here its trouble arrives, or end-of-file.
    Executing(OwnedFd),
    Booting(Box<Watch>),
    Checking(Box<Checking>),
    Serving,
    Ending(Ending),
}

impl Run {
    /// Begins with what was ordered, and makes the worker's own socket where there is to be one. `None`: there was nothing to run,
    /// which has been reported.
    ///
    /// # Errors
    /// The report of a boot that ended before there was a process.
    pub(crate) fn begin(
        spec: Box<BootSpec>,
        since: Instant,
        reports: &mut Reports,
    ) -> Result<Option<(Self, Option<Door>)>, Box<BootReport>> {
        let begun = Begun::new(&spec, since, reports);
        let Some(Begun { dir, listeners, door, notify, spawned, hook }) =
            begun.map_err(|failure| Box::new(boot_report(&spec, since, failure)))?
        else {
            reports.send(&hook_done(since));
            return Ok(None);
        };
        // What runs before the app is not what the master knows as the app.
        if spec.before_boot.is_some() && !is_hook(&spec) {
            spawned.start()
        } else {
            spawned.start_told(reports)
        };
        let Spawned { pid, program, trouble, output, .. } = spawned;
        let run = Self {
            since,
            dir: Some(dir),
            listeners,
            app: App::new(pid),
            program,
            notify,
            status: None,
            output: Output::new(Relay::new(output, &spec)),
            state: match hook {
                Some(hook) => State::Hooking(hook, trouble),
                None => State::Executing(trouble),
            },
            watchdog: None,
            memory: None,
            told: false,
            reason: None,
            spec,
        };
        Ok(Some((run, door)))
    }

    /// What was ordered.
    pub(crate) fn spec(&self) -> &BootSpec {
        &self.spec
    }

    /// The inherited sockets.
    pub(crate) fn listeners(&self) -> &[OwnedFd] {
        &self.listeners
    }

    /// The app is ready, and is not being ended.
    pub(crate) fn serves(&self) -> bool {
        matches!(self.state, State::Serving)
    }

    /// The first process, if it has not ended.
    pub(crate) fn first(&self) -> Option<i32> {
        self.app.exit.is_none().then_some(self.app.pid)
    }

    /// Whoever was told is gone: what is told once is told once more.
    pub(crate) fn tell_again(&mut self) {
        self.memory.iter_mut().for_each(Memory::tell_again);
    }

    /// What everything prints, for polling.
    pub(crate) fn printed(&self) -> impl Iterator<Item = (BorrowedFd<'_>, PollFlags)> {
        let check = if let State::Checking(checking) = &self.state { checking.relay() } else { None };
        self.output.polled().chain(check.into_iter().flat_map(Relay::polled))
    }

    /// Something has been printed, or can be passed on.
    pub(crate) fn relay(&mut self) {
        self.output.turn();
        if let State::Checking(checking) = &mut self.state
            && let Some(relay) = checking.relay_mut()
        {
            relay.turn();
        }
    }

    /// Where the trouble of an exec arrives, while there is one.
    pub(crate) fn trouble(&self) -> Option<BorrowedFd<'_>> {
        match &self.state {
            State::Executing(trouble) => Some(trouble.as_fd()),
            _ => None,
        }
    }

    /// Where the app's messages arrive, while they mean something.
    pub(crate) fn notify(&self) -> Option<BorrowedFd<'_>> {
        // One that comes with the exec is heard when the exec is known.
        (!matches!(self.state, State::Hooking(..) | State::Executing(_))).then(|| self.notify.fd())
    }

    /// Where a check is answered.
    pub(crate) fn asked(&self) -> impl Iterator<Item = (BorrowedFd<'_>, PollFlags)> {
        let checking = if let State::Checking(checking) = &self.state { Some(checking) } else { None };
        checking.into_iter().flat_map(|checking| checking.polled())
    }

    /// Nothing of the app is left, and the master knows how it ended.
    pub(crate) fn is_over(&self) -> bool {
        self.app.exit.is_some() && !self.app.is_left
    }

    /// When [`Self::time`] is to be called.
    pub(crate) fn next(&self) -> Option<Instant> {
        match &self.state {
            State::Hooking(hook, _) => Some(hook.deadline()),
            State::Executing(_) => Some(self.boot_deadline()),
            State::Booting(watch) => Some(watch.next()),
            State::Checking(checking) => Some(checking.next()),
            State::Serving => {
                let watchdog = self.watchdog.as_ref().map(Watchdog::deadline);
                watchdog.into_iter().chain(self.memory.as_ref().map(Memory::next)).min()
            }
            State::Ending(ending) => Some(ending.next()),
        }
    }

    /// The exec has succeeded or failed.
    pub(crate) fn executed(&mut self, reports: &mut Reports) {
        let State::Executing(trouble) = &self.state else { return };
        if let Some(errno) = errno(trouble) {
            self.failed_to_execute(errno, reports);
        } else {
            reports.send(&FromWorker::Stage(Stage::Ready));
            let watch = Watch::new(&self.spec, &self.listeners, self.since, Instant::now());
            self.state = State::Booting(Box::new(watch));
        }
    }

    /// The app has said something.
    pub(crate) fn heard(&mut self, reports: &mut Reports) {
        while let Some(said) = self.notify.receive() {
            if let Some(status) = said.status.filter(|s| self.status.as_ref() != Some(s)) {
                // An app that says more than the master reads is heard again when there is room.
                if !reports.is_behind() {
                    reports.send(&FromWorker::Status(status.clone()));
                    self.status = Some(status);
                }
            }
            if let Some(watchdog) = self.watchdog.as_mut().filter(|_| said.alive) {
                watchdog.heard(Instant::now());
            }
            self.memory.iter_mut().for_each(Memory::heard);
            if said.ready
                && let State::Booting(watch) = &self.state
                && let Verdict::Ready(evidence) = watch.notified()
            {
                self.ready(evidence, reports);
            }
        }
    }

    /// Time has passed, or a check may have been answered.
    pub(crate) fn time(&mut self, reports: &mut Reports) {
        let now = Instant::now();
        let boot_deadline = self.boot_deadline();
        match &mut self.state {
            State::Hooking(hook, _) if now >= hook.deadline() => {
                let failure = hook.overdue();
                self.fail(failure, reports);
            }
            State::Executing(_) if now >= boot_deadline => {
                let message = format!("did not execute {} before the boot timeout", self.program);
                self.fail(Failure::new(Stage::Exec, message), reports);
            }
            State::Hooking(..) | State::Executing(_) => {}
            State::Booting(watch) => match watch.look(self.app.pid, &self.spec, &self.listeners, now) {
                Verdict::Wait => {}
                Verdict::Ready(evidence) => self.ready(evidence, reports),
                Verdict::Hint(text) => reports.send(&FromWorker::Hint(text)),
                Verdict::Failed(message) => self.fail(Failure::new(Stage::Ready, message), reports),
            },
            State::Checking(checking) => {
                let verdict = checking.turn(now);
                self.checked(verdict, reports);
            }
            State::Serving => self.watch(now, reports),
            State::Ending(ending) => ending.time(&self.app, now),
        }
    }

    /// A child has ended, or more.
    pub(crate) fn child_ended(&mut self, reports: &mut Reports) {
        let had_ended = self.app.exit.is_some();
        let ends = self.app.reap();
        // Its death explains whatever else ended with it.
        if !had_ended && self.app.exit.is_some() {
            self.first_ended(reports);
        }
        for (pid, status) in ends {
            if let State::Checking(checking) = &mut self.state {
                let verdict = checking.ended(pid, status);
                self.checked(verdict, reports);
            }
        }
    }

    /// Ends the app: stop signal, SIGKILL after this time. A second call can only shorten it.
    pub(crate) fn drain(&mut self, timeout: Duration) {
        self.end(timeout, self.spec.stop_signal);
    }

    fn end(&mut self, timeout: Duration, signal: i32) {
        if self.end_by(later(timeout)) {
            self.app.signal_first(signal);
        }
    }

    /// Sets or shortens the time until SIGKILL. True when the ending begins with this.
    fn end_by(&mut self, deadline: Instant) -> bool {
        if let State::Ending(ending) = &mut self.state {
            ending.shorten(deadline);
            return false;
        }
        let before = std::mem::replace(&mut self.state, State::Ending(Ending::new(deadline)));
        if let State::Checking(checking) = before
            && let Some(relay) = checking.into_rest().1
        {
            self.output.set_aside(relay);
        }
        self.output.end();
        true
    }

    /// Ends the app in the time that it has for that when nobody asks.
    pub(crate) fn drain_unasked(&mut self) {
        self.drain(Duration::from_millis(self.spec.drain_timeout_ms));
    }

    /// SIGKILL to everything, now.
    pub(crate) fn kill(&mut self, reports: &mut Reports) {
        self.end_by(Instant::now());
        self.time(reports);
    }

    /// Passes a signal on to the app's first process. A hook before it would not know what it means.
    pub(crate) fn signal(&self, signal: i32) {
        if !matches!(self.state, State::Hooking(..)) {
            self.app.signal_first(signal);
        }
    }

    /// The last lines, when it is over.
    pub(crate) fn finish(&mut self) {
        self.output.finish();
    }

    fn boot_deadline(&self) -> Instant {
        self.since + Duration::from_millis(self.spec.boot_timeout_ms).min(FAR)
    }

    /// Executes the app after its hook.
    fn execute(&mut self, reports: &mut Reports) {
        reports.send(&FromWorker::Stage(Stage::Exec));
        let Some(dir) = &self.dir else { return };
        match boot::app(&self.spec, dir.as_fd(), &self.listeners, &self.notify) {
            Ok(spawned) => {
                spawned.start_told(reports);
                self.app = App::new(spawned.pid);
                self.program = spawned.program;
                self.output.replace(Relay::new(spawned.output, &self.spec));
                self.state = State::Executing(spawned.trouble);
            }
            Err(failure) => self.fail(failure, reports),
        }
    }

    fn ready(&mut self, evidence: Evidence, reports: &mut Reports) {
        let todo = check::todo(&self.spec);
        if !todo.is_empty() {
            reports.send(&FromWorker::Stage(Stage::Check));
        }
        self.check(todo, evidence, reports);
    }

    fn check(&mut self, todo: VecDeque<Check>, evidence: Evidence, reports: &mut Reports) {
        let Some(dir) = &self.dir else { return };
        match Checking::begin(todo, evidence, &self.spec, dir.as_fd(), &self.listeners) {
            Ok(Some(checking)) => self.state = State::Checking(Box::new(checking)),
            Ok(None) => self.serve(evidence, reports),
            Err(failure) => self.fail(failure, reports),
        }
    }

    fn checked(&mut self, verdict: check::Verdict, reports: &mut Reports) {
        match verdict {
            check::Verdict::Wait => {}
            check::Verdict::Failed(failure, said) => self.fail_with(failure, said, reports),
            check::Verdict::Passed => {
                // Whatever follows sets the state.
                if let State::Checking(checking) = std::mem::replace(&mut self.state, State::Serving) {
                    let evidence = checking.evidence;
                    let (todo, relay) = checking.into_rest();
                    relay.into_iter().for_each(|relay| self.output.set_aside(relay));
                    self.check(todo, evidence, reports);
                }
            }
        }
    }

    fn serve(&mut self, evidence: Evidence, reports: &mut Reports) {
        let boot_us = micros(self.since);
        reports.send(&FromWorker::Booted { evidence, boot_us });
        self.state = State::Serving;
        self.dir = None;
        let now = Instant::now();
        self.watchdog = self.spec.watchdog_ms.map(|every| Watchdog::new(every, now));
        let limit = self.spec.max_memory.filter(|_| matches!(self.spec.task, Task::Serve));
        self.memory = limit.map(|most| Memory::new(most, now));
        sys::trim();
    }

    /// Looks after an app that serves, where that was ordered.
    fn watch(&mut self, now: Instant, reports: &mut Reports) {
        if self.watchdog.as_ref().is_some_and(|watchdog| now >= watchdog.deadline()) {
            // It may have been this worker that slept.
            self.heard(reports);
        }
        if let Some(watchdog) = self.watchdog.as_ref().filter(|watchdog| now >= watchdog.deadline()) {
            self.reason = Some(watchdog.reason());
            self.end(SOON, libc::SIGABRT);
        } else if let Some(bytes) = self.memory.as_mut().and_then(|memory| memory.time(now)) {
            reports.send(&FromWorker::Outgrown { bytes });
        }
    }

    fn first_ended(&mut self, reports: &mut Reports) {
        let Some(status) = self.app.exit else { return };
        for listener in &self.listeners {
            listen_again(listener, self.spec.backlog);
        }
        if !self.told {
            match &mut self.state {
                State::Hooking(hook, trouble) => match hook.ended(&self.program, errno(trouble), status) {
                    Err(failure) => self.fail(failure, reports),
                    Ok(()) if is_hook(&self.spec) => {
                        self.told = true;
                        reports.send(&hook_done(self.since));
                        self.drain(SOON);
                    }
                    // Something that it left in the background is the app's from now on.
                    Ok(()) => {
                        self.execute(reports);
                        if matches!(self.state, State::Executing(_)) {
                            return;
                        }
                    }
                },
                State::Executing(trouble) => match errno(trouble) {
                    Some(errno) => self.failed_to_execute(errno, reports),
                    None => {
                        self.fail(Failure::new(Stage::Ready, early_exit(status, self.app.is_left, &self.spec)), reports)
                    }
                },
                State::Booting(_) => {
                    self.fail(Failure::new(Stage::Ready, early_exit(status, self.app.is_left, &self.spec)), reports)
                }
                State::Checking(checking) => {
                    let message = format!("{} during {}", ended(status), checking.name());
                    self.fail(Failure::new(Stage::Check, message), reports);
                }
                State::Serving | State::Ending(_) => {
                    self.told = true;
                    reports.send(&FromWorker::Exited(Box::new(ExitReport {
                        status,
                        millis: micros(self.since) / 1000,
                        output: self.output.tail(),
                        dropped_lines: self.output.dropped(),
                        reason: self.reason.take(),
                    })));
                }
            }
        }
        // What it left is not to outlive it.
        if !matches!(self.state, State::Ending(_)) {
            self.drain_unasked();
        }
        if self.app.is_left {
            self.app.signal_all(self.spec.stop_signal);
        }
    }

    fn failed_to_execute(&mut self, errno: i32, reports: &mut Reports) {
        self.fail(Failure::new(Stage::Exec, command::exec_trouble(&self.program, errno)), reports);
    }

    fn fail(&mut self, failure: Failure, reports: &mut Reports) {
        let said = if let State::Checking(checking) = &mut self.state { checking.said() } else { Bytes::new() };
        self.fail_with(failure, said, reports);
    }

    /// Reports, with what a check said, and ends the rest.
    fn fail_with(&mut self, failure: Failure, said: Bytes, reports: &mut Reports) {
        self.told = true;
        let mut report = boot_report(&self.spec, self.since, failure);
        report.exit = self.app.exit.filter(|_| matches!(report.stage, Stage::Hook | Stage::Ready | Stage::Check));
        let name = if let State::Checking(checking) = &self.state { checking.name() } else { "" };
        report.output = with_check(self.output.tail(), name, said);
        reports.send(&FromWorker::BootFailed(Box::new(report)));
        self.drain(SOON);
    }
}

fn hook_done(since: Instant) -> FromWorker {
    FromWorker::HookDone { took_us: micros(since) }
}

/// Microseconds since then.
fn micros(since: Instant) -> u64 {
    since.elapsed().as_micros().try_into().unwrap_or(u64::MAX)
}
