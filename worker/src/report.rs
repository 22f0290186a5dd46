//! The worker's reports to its master, and their words.
//!
//! Nothing is lost while the master lives: what the connection does not take waits here. When the master is gone, reports
//! have no reader and are forgotten, but for those that somebody may read who is about to become the master.

use std::io::ErrorKind;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use proto::Outbox;
use proto::worker::{BootReport, BootSpec, Bytes, Command, ExitStatus, FromWorker, TAIL_BYTES};

use crate::boot::Failure;
use crate::orphan::Told;
use crate::sys;

/// The reporting end.
pub(crate) struct Reports {
    /// The pipe, or the stream that came after it. The pipe is kept as long as there may be something to execute: the app's fd 3 is to be
    /// made of another number.
    end: Option<Rc<OwnedFd>>,
    reader: Reader,
    outbox: Outbox<FromWorker>,
    told: Told,
}

/// Who reads.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reader {
    /// The master.
    Master,
    /// Perhaps somebody, later.
    Later,
    Nobody,
}

impl Reports {
    /// Reports on this pipe, whose description is the worker's alone.
    pub(crate) fn new(pipe: OwnedFd) -> Self {
        // Where this fails, writes wait for the master, which reads.
        let _ = fcntl(&pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK));
        Self { end: Some(Rc::new(pipe)), reader: Reader::Master, outbox: Outbox::default(), told: Told::default() }
    }

    /// What has been sent so far, or would have been.
    pub(crate) fn told(&self) -> &Told {
        &self.told
    }

    /// Sends one report, now if the connection takes it.
    pub(crate) fn send(&mut self, report: &FromWorker) {
        self.told.note(report);
        if self.reader != Reader::Nobody {
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
        self.connected().map(|end| (end, events))
    }

    fn connected(&self) -> Option<BorrowedFd<'_>> {
        self.end.as_ref().filter(|_| self.reader == Reader::Master).map(AsFd::as_fd)
    }

    /// The master reads more slowly than the worker reports.
    pub(crate) fn is_behind(&self) -> bool {
        self.outbox.pending().len() > 64 << 10
    }

    /// Nobody reads the reports any more.
    pub(crate) fn is_gone(&self) -> bool {
        self.reader == Reader::Nobody
    }

    /// The connection has room, or an error to tell.
    pub(crate) fn happened(&mut self) {
        self.flush();
        // What was sent in the same turn may have taken the room that there was: only an error is asked for here.
        if let Some(end) = self.connected().filter(|_| self.outbox.is_empty())
            && poll(&mut [PollFd::new(end, PollFlags::empty())], PollTimeout::ZERO).is_ok_and(|errors| errors > 0)
        {
            self.abandon();
        }
    }

    /// Writes what the connection takes.
    pub(crate) fn flush(&mut self) {
        while let Some(end) = self.connected().filter(|_| !self.outbox.is_empty()) {
            match sys::write(end, self.outbox.pending()) {
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
        while let Some((end, events)) = self.polled().filter(|_| !self.outbox.is_empty()) {
            if poll(&mut [PollFd::new(end, events)], PollTimeout::NONE).is_err_and(|e| e != nix::Error::EINTR) {
                return;
            }
            self.flush();
        }
    }

    /// The master is gone.
    pub(crate) fn abandon(&mut self) {
        self.reader = Reader::Nobody;
        self.outbox = Outbox::default();
    }

    /// The master is gone, and nothing will be executed any more. One that is not as dead as it seemed sees the end of the
    /// connection.
    pub(crate) fn close(&mut self) {
        self.abandon();
        self.end = None;
    }

    /// From now on reports are kept for a master that is about to come.
    pub(crate) fn keep(&mut self) {
        self.reader = Reader::Later;
    }

    /// It has come: this stream does not block, and what was kept goes out first.
    pub(crate) fn connect(&mut self, stream: Rc<OwnedFd>) {
        self.end = Some(stream);
        self.reader = Reader::Master;
        self.flush();
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
    fn a_master_that_reads_late_is_not_gone() {
        let (reader, pipe) = nix::unistd::pipe().unwrap();
        let mut reports = Reports::new(pipe);
        while reports.outbox.is_empty() {
            reports.send(&FromWorker::Status("x".repeat(1024)));
        }
        assert_eq!(reports.polled().unwrap().1, PollFlags::POLLOUT);
        let mut buffer = vec![0; 1 << 20];
        assert!(sys::read(reader.as_fd(), &mut buffer).unwrap() > 0);
        // There is room, and before that is heard, something else has used it.
        reports.send(&FromWorker::Status("y".into()));
        assert!(reports.outbox.is_empty());
        reports.happened();
        assert!(!reports.is_gone());
        drop(reader);
        reports.happened();
        assert!(reports.is_gone());
    }

    #[test]
    fn what_is_kept_goes_to_the_next_master() {
        let (first, pipe) = nix::unistd::pipe().unwrap();
        let mut reports = Reports::new(pipe);
        reports.send(&FromWorker::HookDone { took_us: 1 });
        reports.close();
        let mut buffer = [0; 100];
        assert_eq!(sys::read(first.as_fd(), &mut buffer).unwrap(), 6);
        assert_eq!(sys::read(first.as_fd(), &mut buffer).unwrap(), 0, "it was closed");
        reports.send(&FromWorker::HookDone { took_us: 2 });
        reports.keep();
        reports.send(&FromWorker::HookDone { took_us: 3 });
        reports.abandon();
        reports.keep();
        reports.send(&FromWorker::HookDone { took_us: 4 });
        assert!(reports.polled().is_none() && !reports.is_gone());
        reports.flush_all();
        let (second, stream) = nix::unistd::pipe().unwrap();
        reports.connect(Rc::new(stream));
        reports.send(&FromWorker::HookDone { took_us: 5 });
        let length = sys::read(second.as_fd(), &mut buffer).unwrap();
        let mut inbox = proto::Inbox::<FromWorker>::default();
        inbox.push(&buffer[..length]);
        let heard: Vec<_> = std::iter::from_fn(|| inbox.take().unwrap()).collect();
        assert_eq!(heard, [4, 5].map(|took_us| FromWorker::HookDone { took_us }));
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
