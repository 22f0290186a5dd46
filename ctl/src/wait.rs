//! Waiting: for the other end of a connection, for a moment, for the person.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use crate::sys;

/// What else ends a wait, beside what is waited for.
#[derive(Clone, Copy, Default)]
pub(crate) struct Until<'a> {
    /// This moment.
    pub(crate) deadline: Option<Instant>,
    /// SIGINT or SIGTERM.
    pub(crate) interrupts: Option<&'a Interrupts>,
    /// The reader of standard output going away.
    pub(crate) unread: bool,
}

/// What ended a wait.
#[derive(Debug, PartialEq)]
pub(crate) enum Woken {
    /// There is something to read.
    Readable,
    /// The deadline passed.
    Late,
    /// The person pressed Ctrl-C, or this process is to end.
    Interrupted,
    /// Nobody reads standard output any more.
    Unread,
}

/// SIGINT and SIGTERM as something to wait for. They do not kill this process from here on.
pub(crate) struct Interrupts(SignalFd);

impl Interrupts {
    /// Catches both, except where this process was started with them ignored. `None`: the kernel
    /// refused, and they end the process as usual.
    pub(crate) fn catch() -> Option<Self> {
        let mut set = SigSet::empty();
        for signal in [Signal::SIGINT, Signal::SIGTERM] {
            if !sys::ignored(signal) {
                set.add(signal);
            }
        }
        let fd = SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC).ok()?;
        set.thread_block().ok()?;
        Some(Self(fd))
    }
}

impl Until<'_> {
    /// From now on for this long.
    pub(crate) fn within(time: Duration) -> Self {
        Self { deadline: Instant::now().checked_add(time), ..Self::default() }
    }

    /// The same, but no later than `moment`.
    pub(crate) fn by(self, moment: Instant) -> Self {
        Self { deadline: Some(self.deadline.map_or(moment, |d| d.min(moment))), ..self }
    }

    /// Whether the deadline has passed.
    pub(crate) fn is_over(&self) -> bool {
        self.deadline.is_some_and(|d| d <= Instant::now())
    }

    /// Waits until `stream`, where there is one, has something to read, or something else ends the wait.
    ///
    /// # Errors
    /// The kernel's: it cannot wait.
    pub(crate) fn wait(&self, stream: Option<BorrowedFd<'_>>) -> Result<Woken, Errno> {
        let stdout = std::io::stdout();
        let readable = |fd| PollFd::new(fd, PollFlags::POLLIN);
        // What the master said comes first: a rollout that has just ended is not reported as going on.
        let (mut fds, mut meant) = (Vec::new(), Vec::new());
        if let Some(stream) = stream {
            fds.push(readable(stream));
            meant.push(Woken::Readable);
        }
        if let Some(interrupts) = self.interrupts {
            fds.push(readable(interrupts.0.as_fd()));
            meant.push(Woken::Interrupted);
        }
        if self.unread {
            // No event is asked for: POLLERR, a reader gone, is always told.
            fds.push(PollFd::new(stdout.as_fd(), PollFlags::empty()));
            meant.push(Woken::Unread);
        }
        loop {
            let timeout = match self.deadline {
                None => PollTimeout::NONE,
                Some(deadline) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    // Rounded up, so that the last wait does not spin through a fraction of a millisecond.
                    let millis = left.as_nanos().div_ceil(1_000_000);
                    PollTimeout::try_from(millis).unwrap_or(PollTimeout::MAX)
                }
            };
            match poll(&mut fds, timeout) {
                Err(Errno::EINTR) => continue,
                Err(e) => return Err(e),
                Ok(_) => {}
            }
            let told = fds.iter().position(|fd| fd.revents().is_some_and(|r| !r.is_empty()));
            if let Some(told) = told {
                return Ok(meant.swap_remove(told));
            }
            if self.is_over() {
                return Ok(Woken::Late);
            }
        }
    }
}
