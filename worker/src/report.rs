//! The worker's reports to its master, on fd 3.
//!
//! Nothing is lost while the master lives: what the pipe does not take waits here. When the master is gone, reports
//! have no reader and are forgotten.

use std::io::ErrorKind;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use proto::Outbox;
use proto::worker::FromWorker;

use crate::sys;

/// The reporting end.
pub(crate) struct Reports {
    /// Never closed: the app's fd 3 is to be made of another number.
    pipe: OwnedFd,
    gone: bool,
    outbox: Outbox<FromWorker>,
}

impl Reports {
    /// Reports on this pipe, whose description is the worker's alone.
    pub(crate) fn new(pipe: OwnedFd) -> Self {
        // Where this fails, writes wait for the master, which reads.
        let _ = fcntl(&pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK));
        Self { pipe, gone: false, outbox: Outbox::default() }
    }

    /// Sends one report, now if the pipe takes it.
    pub(crate) fn send(&mut self, report: &FromWorker) {
        if !self.gone {
            // Every report is bounded far below a frame's limit by what goes into it.
            if let Err(e) = self.outbox.push(report) {
                complain!("a report could not be sent: {e}");
            }
            self.flush();
        }
    }

    /// What to poll: always, as an error says that the master is gone; for room only while reports wait.
    pub(crate) fn polled(&self) -> Option<(BorrowedFd<'_>, PollFlags)> {
        let events = if self.outbox.is_empty() { PollFlags::empty() } else { PollFlags::POLLOUT };
        (!self.gone).then(|| (self.pipe.as_fd(), events))
    }

    /// The master reads more slowly than the worker reports.
    pub(crate) fn is_behind(&self) -> bool {
        self.outbox.pending().len() > 64 << 10
    }

    /// Nobody reads the reports any more.
    pub(crate) fn is_gone(&self) -> bool {
        self.gone
    }

    /// The pipe has room, or an error to tell.
    pub(crate) fn happened(&mut self) {
        if self.outbox.is_empty() {
            // Room was not asked for.
            self.abandon();
        }
        self.flush();
    }

    /// Writes what the pipe takes.
    pub(crate) fn flush(&mut self) {
        while !self.gone && !self.outbox.is_empty() {
            match sys::write(self.pipe.as_fd(), self.outbox.pending()) {
                Ok(written) => self.outbox.written(written),
                Err(e) if e.kind() == ErrorKind::WouldBlock => return,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(_) => self.abandon(),
            }
        }
    }

    /// Writes everything, waiting for the master to read, or until it is gone.
    pub(crate) fn flush_all(&mut self) {
        self.flush();
        while let Some((pipe, events)) = self.polled().filter(|_| !self.outbox.is_empty()) {
            if poll(&mut [PollFd::new(pipe, events)], PollTimeout::NONE).is_err_and(|e| e != nix::Error::EINTR) {
                return;
            }
            self.flush();
        }
    }

    /// The master is gone.
    pub(crate) fn abandon(&mut self) {
        self.gone = true;
        self.outbox = Outbox::default();
    }
}

/// The first `most` bytes of a text, or a few less, to end with a whole character.
pub(crate) fn cut(mut text: String, most: usize) -> String {
    if text.len() > most {
        let end = (0..=most).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        text.truncate(end);
    }
    text
}
