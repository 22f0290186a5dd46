//! One app's life, from the order to boot until nothing of it is left: what happens is told to [`Run`], which acts and
//! reports.
//!
//! ```text
//! Executing ──exec──▶ Booting ──evidence──▶ Serving
//!     └───────────────────┴── failure, exit, drain ──┴──▶ Ending ──▶ nothing left
//! ```
//!
//! `Ending` begins with the stop signal to the first process; when that one ends, what it left gets the signal; at the
//! deadline everything is killed, again and again until nothing is left.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::libc;
use nix::sys::signal::Signal;
use proto::worker::{BootReport, BootSpec, Command, Evidence, ExitReport, ExitStatus, FromWorker, Stage};

use crate::app::App;
use crate::boot::{Failure, Spawned};
use crate::notify::Notify;
use crate::ready::{Verdict, Watch, listen_again};
use crate::relay::Relay;
use crate::report::{Reports, cut};
use crate::{command, sys};

/// How long an app that was never ready may take to end.
const NEVER_READY: Duration = Duration::from_secs(5);
/// Between two rounds of SIGKILL, for processes that were forked meanwhile; doubled each time, up to [`KILL_GAP_MOST`].
const KILL_GAP: Duration = Duration::from_millis(5);
const KILL_GAP_MOST: Duration = Duration::from_secs(1);
/// How long the last lines wait for a full sink, in milliseconds.
const LAST_LINES: u8 = 100;

/// One app.
pub(crate) struct Run {
    spec: Box<BootSpec>,
    /// When the order to boot came.
    since: Instant,
    listeners: Vec<OwnedFd>,
    app: App,
    program: String,
    notify: Option<Notify>,
    status: Option<String>,
    relay: Relay,
    state: State,
    /// The master has been told how it ended.
    told: bool,
}

enum State {
    /// The first process is about to execute the app; here its trouble arrives, or end-of-file.
    Executing(OwnedFd),
    Booting(Box<Watch>),
    Serving,
    Ending {
        deadline: Instant,
        /// When the next round of SIGKILL is due, once the deadline is over, and the gap behind it.
        killing: Option<(Instant, Duration)>,
    },
}

impl Run {
    /// Takes over a process that has just got its go-byte.
    pub(crate) fn new(
        spec: Box<BootSpec>,
        since: Instant,
        listeners: Vec<OwnedFd>,
        notify: Option<Notify>,
        spawned: Spawned,
    ) -> Self {
        let prefix = spec.log_prefix.then(|| format!("[slot {} phase {}] ", spec.slot, spec.phase));
        Self {
            since,
            listeners,
            app: App::new(spawned.pid),
            program: spawned.program,
            notify,
            status: None,
            relay: Relay::new(spawned.output, prefix),
            state: State::Executing(spawned.trouble),
            told: false,
            spec,
        }
    }

    /// What the app prints, and where that goes.
    pub(crate) fn relay(&mut self) -> &mut Relay {
        &mut self.relay
    }

    /// The same, for polling.
    pub(crate) fn relayed(&self) -> &Relay {
        &self.relay
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
        self.notify.as_ref().filter(|_| !matches!(self.state, State::Executing(_))).map(Notify::fd)
    }

    /// Nothing of the app is left, and the master knows how it ended.
    pub(crate) fn is_over(&self) -> bool {
        self.app.exit.is_some() && !self.app.is_left
    }

    /// When [`Self::time`] is to be called.
    pub(crate) fn next(&self) -> Option<Instant> {
        match &self.state {
            State::Executing(_) => Some(self.boot_deadline()),
            State::Booting(watch) => Some(watch.next()),
            State::Serving => None,
            State::Ending { killing: Some((next, _)), .. } => Some(*next),
            State::Ending { deadline, .. } => Some(*deadline),
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
        while let Some(said) = self.notify.as_ref().and_then(Notify::receive) {
            if let Some(status) = said.status.filter(|s| self.status.as_ref() != Some(s)) {
                // An app that says more than the master reads is heard again when there is room.
                if !reports.is_behind() {
                    reports.send(&FromWorker::Status(status.clone()));
                    self.status = Some(status);
                }
            }
            if said.ready
                && let State::Booting(watch) = &self.state
                && let Verdict::Ready(evidence) = watch.notified()
            {
                self.ready(evidence, reports);
            }
        }
    }

    /// Time has passed.
    pub(crate) fn time(&mut self, reports: &mut Reports) {
        let now = Instant::now();
        let boot_deadline = self.boot_deadline();
        match &mut self.state {
            State::Executing(_) if now >= boot_deadline => {
                let message = format!("did not execute {} before the boot timeout", self.program);
                self.fail(Stage::Exec, message, reports);
            }
            State::Booting(watch) => match watch.look(self.app.pid, &self.spec, &self.listeners, now) {
                Verdict::Wait => {}
                Verdict::Ready(evidence) => self.ready(evidence, reports),
                Verdict::Hint(text) => reports.send(&FromWorker::Hint(text)),
                Verdict::Failed(message) => self.fail(Stage::Ready, message, reports),
            },
            State::Ending { killing: Some((next, gap)), .. } if now >= *next => {
                *gap = (*gap * 2).min(KILL_GAP_MOST);
                *next = now + *gap;
                self.app.signal_all(libc::SIGKILL);
            }
            State::Ending { deadline, killing } if killing.is_none() && now >= *deadline => {
                *killing = Some((now + KILL_GAP, KILL_GAP));
                self.app.signal_all(libc::SIGKILL);
            }
            _ => {}
        }
    }

    /// A child has ended, or more.
    pub(crate) fn child_ended(&mut self, reports: &mut Reports) {
        if self.app.reap() {
            self.first_ended(reports);
        }
    }

    /// Ends the app: stop signal, SIGKILL after this time. A second call can only shorten it.
    pub(crate) fn drain(&mut self, timeout: Duration) {
        if self.end_by(later(timeout)) {
            self.app.signal_first(self.spec.stop_signal);
        }
    }

    /// Sets or shortens the time until SIGKILL. True when the ending begins with this.
    fn end_by(&mut self, end: Instant) -> bool {
        if let State::Ending { deadline, .. } = &mut self.state {
            *deadline = end.min(*deadline);
            return false;
        }
        self.relay.end();
        self.state = State::Ending { deadline: end, killing: None };
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

    /// Passes a signal on to the first process.
    pub(crate) fn signal(&self, signal: i32) {
        self.app.signal_first(signal);
    }

    /// The last lines, when it is over.
    pub(crate) fn finish(&mut self) {
        self.relay.finish(LAST_LINES);
    }

    fn boot_deadline(&self) -> Instant {
        self.since + Duration::from_millis(self.spec.boot_timeout_ms).min(FAR)
    }

    fn ready(&mut self, evidence: Evidence, reports: &mut Reports) {
        let boot_us = self.since.elapsed().as_micros().try_into().unwrap_or(u64::MAX);
        reports.send(&FromWorker::Booted { evidence, boot_us });
        self.state = State::Serving;
        sys::trim();
    }

    fn first_ended(&mut self, reports: &mut Reports) {
        let Some(status) = self.app.exit else { return };
        self.relay.drain();
        for listener in &self.listeners {
            listen_again(listener, self.spec.backlog);
        }
        if !self.told {
            match &self.state {
                State::Executing(trouble) => match errno(trouble) {
                    Some(errno) => self.failed_to_execute(errno, reports),
                    None => self.fail(Stage::Ready, self.exit_message(status), reports),
                },
                State::Booting(_) => self.fail(Stage::Ready, self.exit_message(status), reports),
                State::Serving | State::Ending { .. } => {
                    self.told = true;
                    reports.send(&FromWorker::Exited(Box::new(ExitReport {
                        status,
                        millis: self.millis(),
                        output: self.relay.tail(),
                        dropped_lines: self.relay.dropped(),
                    })));
                }
            }
        }
        // What it left is not to outlive it.
        if !matches!(self.state, State::Ending { .. }) {
            self.drain_unasked();
        }
        if self.app.is_left {
            self.app.signal_all(self.spec.stop_signal);
        }
    }

    fn failed_to_execute(&mut self, errno: i32, reports: &mut Reports) {
        self.fail(Stage::Exec, command::exec_trouble(&self.program, errno), reports);
    }

    fn fail(&mut self, stage: Stage, message: String, reports: &mut Reports) {
        self.relay.drain();
        self.told = true;
        let mut report = boot_report(&self.spec, self.since, Failure { stage, message, release_gone: false });
        report.exit = self.app.exit.filter(|_| stage == Stage::Ready);
        report.output = self.relay.tail();
        reports.send(&FromWorker::BootFailed(Box::new(report)));
        self.drain(NEVER_READY);
    }

    fn millis(&self) -> u64 {
        self.since.elapsed().as_millis().try_into().unwrap_or(u64::MAX)
    }

    fn exit_message(&self, status: ExitStatus) -> String {
        match status {
            ExitStatus::Code(0) if self.app.is_left => {
                "exited with status 0 and left processes in the background; run the app in the foreground".into()
            }
            ExitStatus::Code(0) => {
                "exited with status 0 before it was ready; an app is to run in the foreground".into()
            }
            ExitStatus::Code(127) if matches!(self.spec.command, Command::Procfile(_)) => {
                "exited with status 127: the shell did not find what the Procfile's line names".into()
            }
            ExitStatus::Code(code) => format!("exited with status {code}"),
            ExitStatus::Signal(signal) => match Signal::try_from(signal) {
                Ok(signal) => format!("killed by {signal}"),
                Err(_) => format!("killed by signal {signal}"),
            },
        }
    }
}

/// Longer than anything runs, and far from what an [`Instant`] cannot hold.
pub(crate) const FAR: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

fn later(timeout: Duration) -> Instant {
    Instant::now() + timeout.min(FAR)
}

/// A report of a boot that failed, as yet without exit and output.
pub(crate) fn boot_report(spec: &BootSpec, since: Instant, failure: Failure) -> BootReport {
    BootReport {
        slot: spec.slot,
        incarnation: spec.incarnation,
        phase: spec.phase,
        release: spec.release.clone(),
        stage: failure.stage,
        // It may hold paths of any length.
        message: cut(failure.message, 16 << 10),
        exit: None,
        millis: since.elapsed().as_millis().try_into().unwrap_or(u64::MAX),
        output: Vec::new(),
        release_gone: failure.release_gone,
    }
}

/// What the first process wrote before it gave up, if it did.
fn errno(trouble: &OwnedFd) -> Option<i32> {
    let mut errno = [0; 4];
    match sys::read(trouble.as_fd(), &mut errno) {
        Ok(4) => Some(i32::from_ne_bytes(errno)),
        _ => None,
    }
}
