//! Passes on what the app prints, whole lines at a time, to the master's own stdout and stderr.
//!
//! Several workers write to the same place: whole lines in writes of at most 4096 bytes do not interleave on a pipe. The
//! inherited descriptions are shared with the master and everything beside it, so they never become non-blocking:
//! pipes and terminals are opened anew instead.

use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::OnceLock;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::{SFlag, fstat};
use proto::worker::{BootSpec, Bytes, TAIL_BYTES};

use crate::report::last_lines;
use crate::sys;
use crate::tail::Tail;

/// What a pipe takes in one piece (PIPE_BUF on Linux).
const BATCH: usize = 4096;
/// How much may wait for a full sink before the app's own writes wait.
const WAITING: usize = 64 << 10;
/// A line longer than this is passed on in pieces.
const LINE: usize = 16 << 10;

/// Where the streams go, opened while that was allowed.
static KEPT: OnceLock<[Option<OwnedFd>; 2]> = OnceLock::new();

/// Opens anew where the streams go, for later: another user may not.
pub(crate) fn keep_sinks() {
    KEPT.get_or_init(|| [1, 2].map(|fd| if let Sink::Own(own) = Sink::open(fd) { Some(own) } else { None }));
}

/// What [`keep_sinks`] has opened.
fn kept(fd: RawFd) -> Option<OwnedFd> {
    let [out, err] = KEPT.get()?;
    let own = if fd == 1 { out } else { err };
    own.as_ref()?.try_clone().ok()
}

/// Both streams of one app, and their tail.
pub(crate) struct Relay {
    streams: [Stream; 2],
    tail: Tail,
    prefix: Bytes,
    /// The app is being ended: it must not wait for a full sink any more.
    ending: bool,
    dropped: u64,
}

struct Stream {
    /// The app's end, until all who hold it have closed it.
    pipe: Option<OwnedFd>,
    /// A line that is not finished yet.
    line: Bytes,
    /// Whether pieces of that line have been passed on.
    in_line: bool,
    /// What waits for the sink; `sent` bytes of it are written.
    waiting: Bytes,
    sent: usize,
    sink: Sink,
}

/// Where a stream goes.
enum Sink {
    /// A pipe or terminal, opened anew without blocking.
    Own(OwnedFd),
    /// A socket: each send says that it does not wait.
    Socket(RawFd),
    /// A pipe or terminal that may not be opened anew (another user's): written only when poll(2) sees room.
    Shared(RawFd),
    /// A file or device, where a write does not wait for a reader.
    Plain(RawFd),
    /// Nobody reads any more.
    Dead,
}

impl Relay {
    /// Reads the app's stdout and stderr from these pipes' ends; its lines are prefixed where that was ordered.
    pub(crate) fn new(pipes: [OwnedFd; 2], spec: &BootSpec) -> Self {
        Self::with_prefix(pipes, spec.log_prefix.then(|| format!("[slot {} phase {}] ", spec.slot, spec.phase)))
    }

    fn with_prefix(pipes: [OwnedFd; 2], prefix: Option<String>) -> Self {
        let [out, err] = pipes;
        Self {
            streams: [Stream::new(out, 1), Stream::new(err, 2)],
            tail: Tail::default(),
            prefix: prefix.map(String::into_bytes).unwrap_or_default(),
            ending: false,
            dropped: 0,
        }
    }

    /// From now on lines that a full sink does not take are dropped and counted.
    pub(crate) fn end(&mut self) {
        self.ending = true;
    }

    /// The last of what was printed, lines that are not finished yet at its end.
    pub(crate) fn tail(&self) -> Bytes {
        let mut tail = self.tail.bytes();
        for stream in self.streams.iter().filter(|s| !s.line.is_empty()) {
            tail.extend_from_slice(&stream.line);
            tail.push(b'\n');
        }
        last_lines(tail, TAIL_BYTES)
    }

    /// Nobody can print any more, and everything has been passed on.
    pub(crate) fn is_over(&self) -> bool {
        self.streams.iter().all(|s| s.pipe.is_none() && s.line.is_empty() && s.waiting() == 0)
    }

    /// How many lines were dropped.
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped
    }

    /// What to poll.
    pub(crate) fn polled(&self) -> impl Iterator<Item = (BorrowedFd<'_>, PollFlags)> {
        self.streams
            .iter()
            .flat_map(|stream| {
                let reads = stream.pipe.as_ref().filter(|_| self.ending || stream.waiting() <= WAITING);
                let writes = stream.sink.fd().filter(|_| stream.waiting() > 0);
                [reads.map(|pipe| (pipe.as_fd(), PollFlags::POLLIN)), writes.map(|fd| (fd, PollFlags::POLLOUT))]
            })
            .flatten()
    }

    /// Moves what can be moved without waiting, up to a bound that lets others have their turn.
    pub(crate) fn turn(&mut self) {
        for i in 0..2 {
            self.streams[i].write();
            if self.ending || self.streams[i].waiting() <= WAITING {
                self.read(i, WAITING);
            }
            self.streams[i].write();
        }
    }

    /// Reads everything that the app has printed so far: to EAGAIN, as a grandchild may hold the other end.
    pub(crate) fn drain(&mut self) {
        for i in 0..2 {
            // A pipe holds 1 MiB at most, for users without privileges; another writer could go on for ever.
            self.read(i, 2 << 20);
        }
    }

    /// Ends unfinished lines and writes what the sinks take within `patience` milliseconds.
    pub(crate) fn finish(&mut self, patience: u8) {
        self.drain();
        for i in 0..2 {
            if !self.streams[i].line.is_empty() || self.streams[i].in_line {
                self.streams[i].line.push(b'\n');
                let line = std::mem::take(&mut self.streams[i].line);
                self.pass_on(i, &line);
            }
        }
        for stream in &mut self.streams {
            stream.write();
            while let Some(fd) = stream.sink.fd().filter(|_| stream.waiting() > 0) {
                if poll(&mut [PollFd::new(fd, PollFlags::POLLOUT)], PollTimeout::from(patience)) != Ok(1) {
                    break;
                }
                stream.write();
            }
        }
    }

    fn read(&mut self, i: usize, most: usize) {
        let mut buffer = [0; 4096];
        let mut total = 0;
        while total < most {
            let Some(pipe) = &self.streams[i].pipe else { return };
            match sys::read(pipe.as_fd(), &mut buffer) {
                Ok(0) => self.streams[i].pipe = None,
                Ok(length) => {
                    total += length;
                    self.take_in(i, &buffer[..length]);
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => return,
                Err(_) => self.streams[i].pipe = None,
            }
        }
    }

    fn take_in(&mut self, i: usize, printed: &[u8]) {
        let mut rest = printed;
        if !self.streams[i].line.is_empty()
            && let Some(end) = rest.iter().position(|b| *b == b'\n')
        {
            let mut line = std::mem::take(&mut self.streams[i].line);
            line.extend_from_slice(&rest[..=end]);
            self.pass_on(i, &line);
            rest = &rest[end + 1..];
        }
        if let Some(end) = rest.iter().rposition(|b| *b == b'\n') {
            self.pass_on(i, &rest[..=end]);
            rest = &rest[end + 1..];
        }
        self.streams[i].line.extend_from_slice(rest);
        if self.streams[i].line.len() > LINE {
            let piece = std::mem::take(&mut self.streams[i].line);
            self.pass_on(i, &piece);
        }
    }

    /// Whole lines, or a piece of one.
    fn pass_on(&mut self, i: usize, lines: &[u8]) {
        self.tail.push(lines);
        let stream = &mut self.streams[i];
        if matches!(stream.sink, Sink::Dead) {
            return;
        }
        for line in lines.split_inclusive(|b| *b == b'\n') {
            if self.ending && stream.waiting() + line.len() > WAITING {
                stream.write();
            }
            if self.ending && stream.waiting() + line.len() > WAITING {
                self.dropped += u64::from(line.ends_with(b"\n"));
                continue;
            }
            if !stream.in_line {
                stream.waiting.extend_from_slice(&self.prefix);
            }
            stream.waiting.extend_from_slice(line);
            stream.in_line = !line.ends_with(b"\n");
        }
    }
}

impl Stream {
    fn new(pipe: OwnedFd, fd: RawFd) -> Self {
        // The reading end's description is the worker's alone; the app's end stays as it is.
        let _ = fcntl(&pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK));
        Self {
            pipe: Some(pipe),
            line: Bytes::new(),
            in_line: false,
            waiting: Bytes::new(),
            sent: 0,
            sink: Sink::open(fd),
        }
    }

    fn waiting(&self) -> usize {
        self.waiting.len() - self.sent
    }

    /// Writes batches of whole lines until the sink is full.
    fn write(&mut self) {
        while self.waiting() > 0 {
            let batch = batch(&self.waiting[self.sent..], self.sink.batch());
            match self.sink.write(batch) {
                Ok(written) => self.sent += written,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                Err(_) => {
                    self.sink = Sink::Dead;
                    self.sent = self.waiting.len();
                }
            }
        }
        if self.waiting() == 0 {
            // An idle worker holds no memory for the most that ever waited.
            self.waiting = Bytes::new();
            self.sent = 0;
        } else if self.sent > WAITING {
            self.waiting.drain(..self.sent);
            self.sent = 0;
        }
    }
}

/// The first of `waiting` that goes out in one write: whole lines as far as they fit, else a piece of the first.
fn batch(waiting: &[u8], most: usize) -> &[u8] {
    if waiting.len() <= most {
        return waiting;
    }
    let fits = &waiting[..most];
    match fits.iter().rposition(|b| *b == b'\n') {
        Some(end) => &fits[..=end],
        None => fits,
    }
}

impl Sink {
    fn open(fd: RawFd) -> Self {
        if let Some(own) = kept(fd) {
            return Self::Own(own);
        }
        let shared = sys::standard(fd);
        let kind = fstat(shared).map(|s| SFlag::from_bits_truncate(s.st_mode) & SFlag::S_IFMT);
        let is_terminal = || std::io::IsTerminal::is_terminal(&shared);
        match kind {
            Ok(SFlag::S_IFSOCK) => return Self::Socket(fd),
            Ok(SFlag::S_IFIFO) => {}
            Ok(SFlag::S_IFCHR) if is_terminal() => {}
            Ok(_) => return Self::Plain(fd),
            Err(_) => return Self::Dead,
        }
        let path = std::ffi::CString::new(format!("/proc/self/fd/{fd}")).unwrap_or_default();
        let flags = libc::O_WRONLY | libc::O_NONBLOCK | libc::O_NOCTTY;
        match sys::open_at(shared, &path, flags) {
            Ok(own) => Self::Own(own),
            // A pipe that nobody reads.
            Err(e) if e.raw_os_error() == Some(libc::ENXIO) => Self::Dead,
            Err(_) => Self::Shared(fd),
        }
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Own(own) => Some(own.as_fd()),
            Self::Socket(fd) | Self::Shared(fd) | Self::Plain(fd) => Some(sys::standard(*fd)),
            Self::Dead => None,
        }
    }

    fn batch(&self) -> usize {
        if matches!(self, Self::Plain(_) | Self::Socket(_)) { WAITING } else { BATCH }
    }

    fn write(&self, batch: &[u8]) -> io::Result<usize> {
        match self {
            Self::Own(own) => sys::write(own.as_fd(), batch),
            Self::Socket(fd) => sys::send_now(sys::standard(*fd), batch),
            Self::Plain(fd) => sys::write(sys::standard(*fd), batch),
            Self::Shared(fd) => {
                let fd = sys::standard(*fd);
                match poll(&mut [PollFd::new(fd, PollFlags::POLLOUT)], PollTimeout::ZERO) {
                    Ok(0) => Err(ErrorKind::WouldBlock.into()),
                    Ok(_) => sys::write(fd, batch),
                    Err(e) => Err(e.into()),
                }
            }
            Self::Dead => Err(ErrorKind::BrokenPipe.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_end_at_lines() {
        assert_eq!(batch(b"ab\ncd\n", 10), b"ab\ncd\n");
        assert_eq!(batch(b"ab\ncd\n", 5), b"ab\n");
        assert_eq!(batch(b"abcdefgh\n", 5), b"abcde");
    }

    fn relay(prefix: Option<&str>) -> (Relay, OwnedFd, [OwnedFd; 2]) {
        let (out, app_out) = nix::unistd::pipe().unwrap();
        let (err, _) = nix::unistd::pipe().unwrap();
        let (reader, sink) = nix::unistd::pipe().unwrap();
        let mut relay = Relay::with_prefix([out, err], prefix.map(String::from));
        fcntl(&sink, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
        relay.streams[0].sink = Sink::Own(sink);
        relay.streams[1].sink = Sink::Dead;
        fcntl(&app_out, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
        fcntl(&reader, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
        (relay, app_out, [reader, err_holder()])
    }

    fn err_holder() -> OwnedFd {
        nix::unistd::pipe().unwrap().1
    }

    fn read_all(fd: &OwnedFd) -> Bytes {
        let mut all = Bytes::new();
        let mut buffer = [0; 65536];
        while let Ok(n @ 1..) = sys::read(fd.as_fd(), &mut buffer) {
            all.extend_from_slice(&buffer[..n]);
        }
        all
    }

    #[test]
    fn whole_lines_pass_and_the_last_gets_its_newline() {
        let (mut relay, app, [reader, _]) = relay(Some("[slot 2 phase 3] "));
        sys::write(app.as_fd(), b"one\ntw").unwrap();
        relay.turn();
        assert_eq!(read_all(&reader), b"[slot 2 phase 3] one\n");
        sys::write(app.as_fd(), b"o\nthree").unwrap();
        relay.turn();
        relay.finish(0);
        assert_eq!(read_all(&reader), b"[slot 2 phase 3] two\n[slot 2 phase 3] three\n");
        assert_eq!(relay.tail(), b"one\ntwo\nthree\n");
    }

    #[test]
    fn the_end_of_one_endless_line_is_a_tail() {
        let (mut relay, app, [reader, _]) = relay(None);
        sys::write(app.as_fd(), b"E: the reason\n").unwrap();
        for _ in 0..20 {
            sys::write(app.as_fd(), &[b'y'; 9000]).unwrap();
            relay.turn();
            read_all(&reader);
        }
        let tail = relay.tail();
        assert!(tail.len() <= TAIL_BYTES && tail.len() > 1000, "{}", tail.len());
        assert!(tail.ends_with(b"yy\n"));
    }

    #[test]
    fn a_tail_with_an_unfinished_line_is_no_longer_than_any() {
        let (mut relay, app, [reader, _]) = relay(None);
        for _ in 0..8 {
            sys::write(app.as_fd(), &[[b'x'; 9999].as_slice(), b"\n"].concat()).unwrap();
            relay.turn();
            read_all(&reader);
        }
        sys::write(app.as_fd(), &[b'y'; 9000]).unwrap();
        relay.turn();
        let tail = relay.tail();
        assert!(tail.starts_with(&[b'x'; 9999]) && tail.ends_with(b"y\n"));
        assert_eq!(tail.len(), 5 * 10_000 + 9001);
    }

    #[test]
    fn a_long_line_is_passed_whole_but_in_pieces() {
        let (mut relay, app, [reader, _]) = relay(Some("> "));
        let line = [vec![b'x'; 50_000], b"\nnext\n".to_vec()].concat();
        sys::write(app.as_fd(), &line).unwrap();
        relay.turn();
        assert_eq!(read_all(&reader), [b"> ".to_vec(), vec![b'x'; 50_000], b"\n> next\n".to_vec()].concat());
    }

    #[test]
    fn a_full_sink_slows_the_app_and_an_ending_app_loses_lines() {
        let (mut relay, app, [reader, _]) = relay(None);
        let line = [vec![b'x'; 999], b"\n".to_vec()].concat();
        let mut written = 0;
        while let Ok(n) = sys::write(app.as_fd(), &line) {
            written += n;
            relay.turn();
        }
        // The sink's pipe, what may wait, and the app's own pipe; then the app waits.
        assert!((3 * 60_000..4 * 70_000).contains(&written), "{written}");
        assert_eq!(relay.dropped(), 0);
        relay.end();
        relay.turn();
        assert!(relay.dropped() > 0);
        let passed = read_all(&reader);
        assert!(passed.split_inclusive(|b| *b == b'\n').all(|l| l == line), "lines stay whole");
    }

    #[test]
    fn a_dead_sink_stops_nothing() {
        let (mut relay, app, [reader, _]) = relay(None);
        drop(reader);
        for _ in 0..100 {
            sys::write(app.as_fd(), &[b'x'; 4000]).unwrap();
            sys::write(app.as_fd(), b"\n").unwrap();
            relay.turn();
        }
        assert!(matches!(relay.streams[0].sink, Sink::Dead));
        assert!(!relay.tail().is_empty());
    }
}
