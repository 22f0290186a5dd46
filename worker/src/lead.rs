//! The worker's one loop: orders, signals, the app's messages and output, and time become calls of [`Run`].
//!
//! It sleeps in poll(2) without a timeout while the app serves: nothing ticks. Without a master it sleeps until the time is over in
//! which another one may come.

use std::ops::ControlFlow;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant, SystemTime};

use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use proto::Hello;
use proto::worker::{BootSpec, FromWorker, ToWorker};

use crate::master::Master;
use crate::orphan::{Meeting, Succession};
use crate::report::{Reports, span};
use crate::run::Run;
use crate::sys;

/// The worker, from its start to its end.
pub(crate) struct Lead {
    /// `None`: it has closed its end, or could not be understood.
    master: Option<Master>,
    reports: Reports,
    signals: SignalFd,
    run: Option<Run>,
    /// How another master can come, if one can.
    succession: Option<Succession>,
}

/// What poll(2) was asked about.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Source {
    Orders,
    Reports,
    Signals,
    Trouble,
    Notify,
    Relay,
    Check,
    Door,
    Visitor,
}

impl Lead {
    /// A worker that takes orders and reports here.
    ///
    /// # Errors
    /// When the kernel refuses a signalfd.
    pub(crate) fn new(orders: OwnedFd, reports: OwnedFd) -> Result<Self, nix::Error> {
        // Every signal that would end the worker by itself waits in the signalfd; those that it does not act on are read and
        // forgotten. The app's first process clears this mask before it executes.
        let mut mask = SigSet::all();
        for fatal in [Signal::SIGSEGV, Signal::SIGBUS, Signal::SIGILL, Signal::SIGFPE, Signal::SIGABRT, Signal::SIGTRAP]
        {
            mask.remove(fatal);
        }
        sys::hear_of_children();
        mask.thread_block()?;
        let signals = SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        Ok(Self {
            master: Some(Master::new(orders)),
            reports: Reports::new(reports),
            signals,
            run: None,
            succession: None,
        })
    }

    /// Works until nothing of the app is left, or there is nothing to do.
    pub(crate) fn work(mut self) {
        self.reports.send(&FromWorker::Hello(Hello::ours()));
        while self.turn().is_continue() {}
        if let Some(run) = &mut self.run {
            run.finish();
        }
        // Who reads of the end finds no socket any more.
        self.succession = None;
        self.reports.flush_all();
    }

    fn turn(&mut self) -> ControlFlow<()> {
        for source in self.wait() {
            match source {
                Source::Orders => self.take_orders()?,
                Source::Reports => self.reports.happened(),
                Source::Signals => self.take_signals()?,
                Source::Trouble => self.run.as_mut().into_iter().for_each(|run| run.executed(&mut self.reports)),
                Source::Notify => self.run.as_mut().into_iter().for_each(|run| run.heard(&mut self.reports)),
                Source::Relay => self.run.as_mut().into_iter().for_each(Run::relay),
                // Every turn ends with a look at what time it is, and at this.
                Source::Check => {}
                Source::Door => self.admit(),
                Source::Visitor => self.meet()?,
            }
        }
        if self.master.is_some() && self.reports.is_gone() {
            self.master_gone()?;
        }
        self.time_alone();
        if let Some(run) = &mut self.run {
            run.time(&mut self.reports);
            if run.is_over() {
                return ControlFlow::Break(());
            }
        }
        ControlFlow::Continue(())
    }

    /// Waits until something happens; says what, each once, in the order in which it is to be handled: what the app said before
    /// its end, and its end before the orders that may cross it.
    fn wait(&self) -> Vec<Source> {
        let run = self.run.as_ref();
        let alone = self.alone();
        let read = |fd| (fd, PollFlags::POLLIN);
        let single = [
            (Source::Trouble, run.and_then(Run::trouble).map(read)),
            (Source::Notify, run.and_then(Run::notify).map(read)),
            (Source::Signals, Some(read(self.signals.as_fd()))),
            (Source::Orders, self.master.as_ref().map(|master| read(master.fd()))),
            (Source::Reports, self.reports.polled()),
            (Source::Door, alone.and_then(Succession::door).map(read)),
            (Source::Visitor, alone.and_then(Succession::visitor)),
        ];
        let single = single.into_iter().filter_map(|(source, polled)| Some((source, polled?)));
        let relay = run.into_iter().flat_map(Run::printed).map(|polled| (Source::Relay, polled));
        let check = run.into_iter().flat_map(Run::asked).map(|polled| (Source::Check, polled));
        let (sources, mut fds): (Vec<_>, Vec<_>) =
            relay.chain(check).chain(single).map(|(source, (fd, events))| (source, PollFd::new(fd, events))).unzip();
        // An interrupted wait is one in which nothing happened.
        if poll(&mut fds, self.timeout()).is_err() {
            return Vec::new();
        }
        let happened = sources.into_iter().zip(&fds).filter(|(_, fd)| fd.any() != Some(false));
        let mut happened: Vec<Source> = happened.map(|(source, _)| source).collect();
        happened.dedup();
        happened
    }

    fn timeout(&self) -> PollTimeout {
        let next = self.run.as_ref().and_then(Run::next);
        let rest = self.alone().and_then(Succession::rest);
        let Some(next) = next.into_iter().chain(self.patience()).chain(rest).min() else { return PollTimeout::NONE };
        let left = next.saturating_duration_since(Instant::now());
        // Rounded up: waking too early would be for nothing.
        let left = left.as_micros().div_ceil(1000).min(60_000_000);
        PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
    }

    fn take_signals(&mut self) -> ControlFlow<()> {
        while let Ok(Some(signal)) = self.signals.read_signal() {
            match signal.ssi_signo.cast_signed() {
                libc::SIGCHLD => {
                    if let Some(run) = &mut self.run {
                        run.child_ended(&mut self.reports);
                    }
                }
                // Somebody ends this worker by hand. The master will hear of the app's exit and act on it.
                libc::SIGTERM | libc::SIGINT => self.end_unasked()?,
                _ => {}
            }
        }
        ControlFlow::Continue(())
    }

    fn take_orders(&mut self) -> ControlFlow<()> {
        let Some(master) = &mut self.master else { return ControlFlow::Continue(()) };
        if !master.read() {
            return self.master_gone();
        }
        self.obey_all()
    }

    /// Obeys what has been read.
    fn obey_all(&mut self) -> ControlFlow<()> {
        while let Some(master) = &mut self.master {
            match master.order() {
                Ok(Some(order)) => self.obey(order)?,
                Ok(None) => break,
                Err(why) => return self.misunderstood(&why),
            }
        }
        ControlFlow::Continue(())
    }

    fn obey(&mut self, order: ToWorker) -> ControlFlow<()> {
        match (order, &mut self.run) {
            // Heard where orders are read.
            (ToWorker::Hello(_), _) => {}
            (ToWorker::Boot(spec), None) => return self.boot(spec),
            (ToWorker::Boot(_), Some(_)) => return self.misunderstood("a second order to boot"),
            // There is no app yet, and there will be none.
            (_, None) => return ControlFlow::Break(()),
            (ToWorker::Drain { timeout_ms }, Some(run)) => run.drain(Duration::from_millis(timeout_ms)),
            (ToWorker::Kill, Some(run)) => run.kill(&mut self.reports),
            (ToWorker::Signal(signal), Some(run)) => run.signal(signal),
            (ToWorker::Adopt, Some(_)) => return self.misunderstood("it is the master already"),
        }
        ControlFlow::Continue(())
    }

    fn boot(&mut self, spec: Box<BootSpec>) -> ControlFlow<()> {
        let started_at = unix_millis();
        let timeout_ms = spec.orphan_timeout_ms;
        match Run::begin(spec, Instant::now(), &mut self.reports) {
            Ok(Some((run, door))) => {
                self.run = Some(run);
                self.succession = door.map(|door| Succession::new(door, started_at, timeout_ms));
                ControlFlow::Continue(())
            }
            Ok(None) => ControlFlow::Break(()),
            Err(report) => {
                self.reports.send(&FromWorker::BootFailed(report));
                ControlFlow::Break(())
            }
        }
    }

    /// The connection cannot be understood any more: as if the master had closed it.
    fn misunderstood(&mut self, why: &str) -> ControlFlow<()> {
        complain!("the master's orders are not understood: {why}");
        self.master_gone()
    }

    /// An app that serves is kept for the next master, if one can come. Nobody would replace or end another one: it is drained.
    fn master_gone(&mut self) -> ControlFlow<()> {
        self.master = None;
        // Nothing is executed any more: the app serves, or is ended now.
        self.reports.close();
        let serves = self.run.as_ref().is_some_and(Run::serves);
        match &mut self.succession {
            Some(succession) if serves && succession.is_wanted() => succession.begin(),
            _ => self.end_unasked()?,
        }
        ControlFlow::Continue(())
    }

    /// How the next master comes, while there is none.
    fn alone(&self) -> Option<&Succession> {
        self.succession.as_ref().filter(|_| self.master.is_none())
    }

    /// When an app that is served without a master is ended.
    fn patience(&self) -> Option<Instant> {
        let serves = self.run.as_ref().is_some_and(Run::serves);
        self.alone().filter(|_| serves).and_then(Succession::deadline)
    }

    /// Time has passed for a worker that may have no master: an app for which nobody has come is ended.
    fn time_alone(&mut self) {
        self.succession.iter_mut().for_each(|succession| succession.time(Instant::now()));
        if self.patience().is_some_and(|deadline| Instant::now() >= deadline)
            && let Some(run) = &mut self.run
        {
            let timeout = span(Duration::from_millis(run.spec().orphan_timeout_ms));
            complain!(
                "slot {}: the master is gone and no other came within {timeout}; the app is ended",
                run.spec().slot
            );
            run.drain_unasked();
        }
    }

    /// Somebody waits at the door.
    fn admit(&mut self) {
        if let (Some(succession), Some(run)) = (&mut self.succession, &mut self.run)
            && succession.admit(run, self.reports.told())
        {
            self.reports.keep();
            run.tell_again();
        }
    }

    /// Something is new about who came in.
    fn meet(&mut self) -> ControlFlow<()> {
        let (Some(succession), Some(run)) = (&mut self.succession, &self.run) else { return ControlFlow::Continue(()) };
        match succession.meet(run) {
            Meeting::GoesOn => {}
            Meeting::Left => self.reports.abandon(),
            Meeting::Adopted(master) => {
                self.reports.connect(master.stream());
                self.master = Some(master);
                return self.obey_all();
            }
        }
        ControlFlow::Continue(())
    }

    fn end_unasked(&mut self) -> ControlFlow<()> {
        match &mut self.run {
            Some(run) => run.drain_unasked(),
            None => return ControlFlow::Break(()),
        }
        ControlFlow::Continue(())
    }
}

/// Milliseconds since 1970.
fn unix_millis() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    since.as_millis().try_into().unwrap_or(u64::MAX)
}
