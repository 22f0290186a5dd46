//! The worker's one loop: orders, signals, the app's messages and output, and time become calls of [`Run`].
//!
//! It sleeps in poll(2) without a timeout while the app serves: nothing ticks.

use std::ops::ControlFlow;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use proto::worker::{BootSpec, FromWorker, ToWorker};
use proto::{Hello, Inbox};

use crate::report::Reports;
use crate::run::Run;
use crate::sys;

/// The worker, from its start to its end.
pub(crate) struct Lead {
    orders: OwnedFd,
    /// The master has closed its end, or cannot be understood.
    master_is_gone: bool,
    inbox: Inbox<ToWorker>,
    greeted: bool,
    reports: Reports,
    signals: SignalFd,
    run: Option<Run>,
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
            orders,
            master_is_gone: false,
            inbox: Inbox::default(),
            greeted: false,
            reports: Reports::new(reports),
            signals,
            run: None,
        })
    }

    /// Works until nothing of the app is left, or there is nothing to do.
    pub(crate) fn work(mut self) {
        self.reports.send(&FromWorker::Hello(Hello::ours()));
        while self.turn().is_continue() {}
        if let Some(run) = &mut self.run {
            run.finish();
        }
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
            }
        }
        if self.reports.is_gone() && !self.master_is_gone {
            self.master_gone()?;
        }
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
        let read = |fd| (fd, PollFlags::POLLIN);
        let single = [
            (Source::Trouble, run.and_then(Run::trouble).map(read)),
            (Source::Notify, run.and_then(Run::notify).map(read)),
            (Source::Signals, Some(read(self.signals.as_fd()))),
            (Source::Orders, (!self.master_is_gone).then(|| read(self.orders.as_fd()))),
            (Source::Reports, self.reports.polled()),
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
        let Some(next) = self.run.as_ref().and_then(Run::next) else { return PollTimeout::NONE };
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
        let mut buffer = [0; 4096];
        match sys::read(self.orders.as_fd(), &mut buffer) {
            Ok(0) => return self.master_gone(),
            Ok(length) => self.inbox.push(&buffer[..length]),
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => return ControlFlow::Continue(()),
            Err(_) => return self.master_gone(),
        }
        loop {
            match self.inbox.take() {
                Ok(Some(order)) => self.obey(order)?,
                Ok(None) => return ControlFlow::Continue(()),
                Err(e) => return self.misunderstood(&e.to_string()),
            }
        }
    }

    fn obey(&mut self, order: ToWorker) -> ControlFlow<()> {
        match (order, &mut self.run) {
            (ToWorker::Hello(hello), _) => match hello.check() {
                Ok(()) => self.greeted = true,
                Err(mismatch) => return self.misunderstood(&mismatch.to_string()),
            },
            _ if !self.greeted => return self.misunderstood("an order came before Hello"),
            (ToWorker::Boot(spec), None) => return self.boot(spec),
            (ToWorker::Boot(_), Some(_)) => return self.misunderstood("a second order to boot"),
            // There is no app yet, and there will be none.
            (_, None) => return ControlFlow::Break(()),
            (ToWorker::Drain { timeout_ms }, Some(run)) => run.drain(Duration::from_millis(timeout_ms)),
            (ToWorker::Kill, Some(run)) => run.kill(&mut self.reports),
            (ToWorker::Signal(signal), Some(run)) => run.signal(signal),
        }
        ControlFlow::Continue(())
    }

    fn boot(&mut self, spec: Box<BootSpec>) -> ControlFlow<()> {
        match Run::begin(spec, Instant::now(), &mut self.reports) {
            Ok(Some(run)) => {
                self.run = Some(run);
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

    /// Without a master nobody would replace or end this app: it is drained.
    fn master_gone(&mut self) -> ControlFlow<()> {
        self.master_is_gone = true;
        self.reports.abandon();
        self.end_unasked()
    }

    fn end_unasked(&mut self) -> ControlFlow<()> {
        match &mut self.run {
            Some(run) => run.drain_unasked(),
            None => return ControlFlow::Break(()),
        }
        ControlFlow::Continue(())
    }
}
