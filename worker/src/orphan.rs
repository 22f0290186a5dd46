//! A worker without a master: how long it serves on, and how the next master finds out about it and takes it over.
//!
//! ```text
//! master is gone ──▶ alone ──connects──▶ visited ──Hello, Adopt──▶ has a master
//!                      ▲ └─ timeout ─▶ drains │
//!                      └─────── leaves ───────┘
//! ```
//!
//! A visitor is told everything at once, and may stay without adopting: the timeout begins anew when it leaves. Each
//! visitor has the worker for itself; others wait in the backlog.

use std::io::{self, ErrorKind, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use nix::poll::PollFlags;
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use proto::worker::{Evidence, FromWorker, Orphan, ToWorker};
use proto::{Hello, Outbox};

use crate::door::Door;
use crate::ending::later;
use crate::master::Master;
use crate::run::Run;

/// The most sockets that one message brings; the kernel's own limit is 253.
const MOST_SOCKETS: usize = 250;
/// When it is tried again to let somebody in, after fds or memory had run out.
const REST: Duration = Duration::from_secs(1);

/// What the masters so far have been told, for the next one.
#[derive(Debug, Default)]
pub(crate) struct Told {
    app_pid: Option<i32>,
    booted: Option<(Evidence, u64)>,
    status: Option<String>,
}

impl Told {
    /// This is told now.
    pub(crate) fn note(&mut self, report: &FromWorker) {
        match report {
            FromWorker::Started { app_pid } => self.app_pid = Some(*app_pid),
            FromWorker::Booted { evidence, boot_us } => self.booted = Some((*evidence, *boot_us)),
            FromWorker::Status(status) => self.status = Some(status.clone()),
            _ => {}
        }
    }
}

/// The way from one master to the next.
pub(crate) struct Succession {
    door: Door,
    /// When the order to boot came, in milliseconds since 1970.
    started_at: u64,
    timeout: Duration,
    /// When it is over for a worker that is alone.
    deadline: Option<Instant>,
    /// Until then nobody is let in.
    rest: Option<Instant>,
    visitor: Option<Visitor>,
}

/// What came of a visitor.
pub(crate) enum Meeting {
    /// It is still there.
    GoesOn,
    /// It has left, or was sent away.
    Left,
    /// It is the master.
    Adopted(Master),
}

/// Whoever is connected, and has not adopted the worker yet.
struct Visitor {
    master: Master,
    /// What it is still to be told before it is listened to.
    greeting: Outbox<FromWorker>,
    has_sockets: bool,
}

impl Succession {
    /// Through this door; for a worker that was ordered to boot then.
    pub(crate) fn new(door: Door, started_at: u64, timeout_ms: u64) -> Self {
        let timeout = Duration::from_millis(timeout_ms);
        Self { door, started_at, timeout, deadline: None, rest: None, visitor: None }
    }

    /// Whether an app is served without a master at all.
    pub(crate) fn is_wanted(&self) -> bool {
        !self.timeout.is_zero()
    }

    /// The worker has no master from now on.
    pub(crate) fn begin(&mut self) {
        self.deadline = Some(later(self.timeout));
    }

    /// When the app that is served is to be ended, if nobody comes.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.deadline.filter(|_| self.visitor.is_none())
    }

    /// When [`Self::time`] is to be called.
    pub(crate) fn rest(&self) -> Option<Instant> {
        self.rest
    }

    /// Time has passed: whoever waits may be let in again.
    pub(crate) fn time(&mut self, now: Instant) {
        self.rest.take_if(|rest| now >= *rest);
    }

    /// Where somebody may wait.
    pub(crate) fn door(&self) -> Option<BorrowedFd<'_>> {
        (self.visitor.is_none() && self.rest.is_none()).then(|| self.door.fd())
    }

    /// Where the visitor is heard, or has room for what it is told.
    pub(crate) fn visitor(&self) -> Option<(BorrowedFd<'_>, PollFlags)> {
        let visitor = self.visitor.as_ref()?;
        let events = if visitor.greeting.is_empty() { PollFlags::POLLIN } else { PollFlags::POLLOUT };
        Some((visitor.master.fd(), events))
    }

    /// Lets in who waits, and greets it. True: somebody has come.
    pub(crate) fn admit(&mut self, run: &Run, told: &Told) -> bool {
        match self.door.admit() {
            Ok(stream) => self.visitor = stream.and_then(|stream| self.greeted(stream, run, told)),
            Err(e) => {
                complain!("cannot let a new master in: {e}");
                self.rest = Some(later(REST));
            }
        }
        self.visitor.is_some()
    }

    fn greeted(&self, stream: UnixStream, run: &Run, told: &Told) -> Option<Visitor> {
        let mut greeting = Outbox::default();
        let orphan = FromWorker::Orphan(Box::new(self.describe(run, told)));
        let queued = greeting.push(&FromWorker::Hello(Hello::ours())).and_then(|()| greeting.push(&orphan));
        if let Err(e) = queued {
            complain!("a new master cannot be told about this worker: {e}");
            return None;
        }
        let mut visitor = Visitor { master: Master::new(stream.into()), greeting, has_sockets: false };
        match visitor.greet(run.listeners()) {
            Ok(()) => return Some(visitor),
            // One that has left already is no visit.
            Err(e) if matches!(e.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) => {}
            Err(e) => complain!("a new master cannot be told about this worker: {e}"),
        }
        None
    }

    /// The visitor has said something, has room, or has left.
    pub(crate) fn meet(&mut self, run: &Run) -> Meeting {
        let Some(mut visitor) = self.visitor.take() else { return Meeting::Left };
        match visitor.turn(run.listeners()) {
            Ok(false) => {
                self.visitor = Some(visitor);
                return Meeting::GoesOn;
            }
            Ok(true) => {
                self.deadline = None;
                return Meeting::Adopted(visitor.master);
            }
            Err(None) => {}
            Err(Some(why)) => complain!("somebody who is not the next master is sent away: {why}"),
        }
        self.begin();
        Meeting::Left
    }

    fn describe(&self, run: &Run, told: &Told) -> Orphan {
        let spec = run.spec();
        Orphan {
            site: spec.site.clone(),
            slot: spec.slot,
            incarnation: spec.incarnation,
            phase: spec.phase,
            release: spec.release.clone(),
            serves: run.serves(),
            // A process that ended has left its number to others, and a hook is not the app.
            app_pid: run.first().filter(|pid| told.app_pid == Some(*pid)),
            started_at: self.started_at,
            boot_us: told.booted.map(|(_, boot_us)| boot_us),
            evidence: told.booted.map(|(evidence, _)| evidence),
            status: told.status.clone(),
            listeners: spec.listeners.iter().take(MOST_SOCKETS).cloned().collect(),
        }
    }
}

impl Visitor {
    /// Whether it adopts the worker.
    ///
    /// # Errors
    /// It is no visitor any more; why it was sent away, if it was.
    fn turn(&mut self, listeners: &[OwnedFd]) -> Result<bool, Option<String>> {
        if !self.greeting.is_empty() {
            self.greet(listeners).map_err(|_| None)?;
            return Ok(false);
        }
        if !self.master.read() {
            return Err(None);
        }
        match self.master.order()? {
            None => Ok(false),
            Some(ToWorker::Adopt) => Ok(true),
            Some(_) => Err(Some("an order came before Adopt".into())),
        }
    }

    /// Tells it what it takes of the greeting.
    fn greet(&mut self, listeners: &[OwnedFd]) -> io::Result<()> {
        while !self.greeting.is_empty() {
            let listeners = if self.has_sockets { &[] } else { listeners };
            match send(self.master.fd(), self.greeting.pending(), listeners) {
                Ok(sent) => {
                    self.greeting.written(sent);
                    self.has_sockets = true;
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }
}

/// Sends bytes without waiting, and sockets with the first of them.
fn send(to: BorrowedFd<'_>, bytes: &[u8], sockets: &[OwnedFd]) -> io::Result<usize> {
    let sockets: Vec<RawFd> = sockets.iter().take(MOST_SOCKETS).map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&sockets)];
    let rights = if sockets.is_empty() { &[] } else { &rights[..] };
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    Ok(sendmsg::<()>(to.as_fd().as_raw_fd(), &[IoSlice::new(bytes)], rights, flags, None)?)
}
