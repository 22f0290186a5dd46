//! The worker's reports to its master, on fd 3, and their words.
//!
//! Nothing is lost while the master lives: what the pipe does not take waits here. When the master is gone, reports
//! have no reader and are forgotten.

use std::io::ErrorKind;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use proto::Outbox;
use proto::worker::{BootReport, BootSpec, Bytes, Command, ExitStatus, FromWorker, TAIL_BYTES};

use crate::boot::Failure;
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

/// A time as people write it: `5m`, `90s`, `300ms`.
pub(crate) fn span(time: Duration) -> String {
    match time.as_millis() {
        ms if ms > 0 && ms % 60_000 == 0 => format!("{}m", ms / 60_000),
        ms if ms % 1000 == 0 => format!("{}s", ms / 1000),
        ms => format!("{ms}ms"),
    }
}

/// How a process ended.
pub(crate) fn ended(status: ExitStatus) -> String {
    match status {
        ExitStatus::Code(code) => format!("exited with status {code}"),
        ExitStatus::Signal(signal) => match Signal::try_from(signal) {
            Ok(signal) => format!("killed by {signal}"),
            Err(_) => format!("killed by signal {signal}"),
        },
    }
}

/// How an app ended that was not ready yet, and what may be behind that. `is_left`: it has left processes.
pub(crate) fn early_exit(status: ExitStatus, is_left: bool, spec: &BootSpec) -> String {
    match status {
        ExitStatus::Code(0) if is_left => {
            "exited with status 0 and left processes in the background; run the app in the foreground".into()
        }
        ExitStatus::Code(0) => "exited with status 0 before it was ready; an app is to run in the foreground".into(),
        ExitStatus::Code(127) if matches!(spec.command, Command::Procfile(_)) => {
            "exited with status 127: the shell did not find what the Procfile's line names".into()
        }
        status => ended(status),
    }
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

/// The app's output with what a check said behind it, where it cannot be missed: half of the room is its own, and a line says where it
/// begins.
pub(crate) fn with_check(app: Bytes, name: &str, said: Bytes) -> Bytes {
    if said.is_empty() {
        return app;
    }
    let said = last_lines(said, TAIL_BYTES / 2);
    if app.is_empty() {
        return said;
    }
    let between = format!("--- {name} ---\n").into_bytes();
    let mut all = last_lines(app, TAIL_BYTES - between.len().min(TAIL_BYTES / 4) - said.len());
    if !all.ends_with(b"\n") {
        all.push(b'\n');
    }
    all.extend(between);
    all.extend(said);
    all
}

/// The last `most` bytes, from the first whole line on; where there is but the end of one line, from its first byte that fits.
pub(crate) fn last_lines(mut text: Bytes, most: usize) -> Bytes {
    if let Some(over) = text.len().checked_sub(most).filter(|over| *over > 0) {
        let rest = text[over - 1..].iter().position(|b| *b == b'\n').filter(|rest| over + rest < text.len());
        text.drain(..over + rest.unwrap_or(0));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_short() {
        let spans = [300_000, 90_000, 5000, 1500, 0].map(|ms| span(Duration::from_millis(ms)));
        assert_eq!(spans, ["5m", "90s", "5s", "1500ms", "0s"]);
    }

    #[test]
    fn a_check_s_words_have_their_room() {
        assert_eq!(with_check(b"app\n".to_vec(), "x", Vec::new()), b"app\n");
        assert_eq!(with_check(Vec::new(), "x", b"no".to_vec()), b"no");
        assert_eq!(with_check(b"app\n".to_vec(), "check x", b"no\n".to_vec()), b"app\n--- check x ---\nno\n");
        let loud = b"the app goes on and on\n".repeat(4000);
        let all = with_check(loud.clone(), "check x", b"no\n".to_vec());
        assert!(all.starts_with(b"the app goes") && all.ends_with(b"on\n--- check x ---\nno\n"));
        assert!(all.len() <= TAIL_BYTES && all.len() > TAIL_BYTES - 100, "{}", all.len());
        let both = with_check(loud.clone(), "check x", loud);
        assert!(both.len() <= TAIL_BYTES && both.len() > TAIL_BYTES - 100, "{}", both.len());
    }
}
