//! One connection to a master: greets, sends the request, hears replies.
//!
//! A connection carries one request. What [`Client::hear`] returns is either a reply or the reason why
//! there is none; what that means for the command is `ask`'s business.

use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use proto::control::{Code, Reply, Request};
use proto::{CodecError, Hello, Inbox, frame};

use crate::exit::Failure;
use crate::locate::Found;
use crate::sys;

/// How long a master may take to answer what it can answer at once, a greeting above all.
pub(crate) const ANSWER: Duration = Duration::from_secs(5);

const READ: usize = 16 << 10;

/// A greeted connection.
pub(crate) struct Client {
    stream: UnixStream,
    inbox: Inbox<Reply>,
    path: PathBuf,
}

/// What came of waiting for the master.
pub(crate) enum Heard {
    /// A reply.
    Reply(Box<Reply>),
    /// The master closed the connection.
    Gone,
    /// The deadline passed.
    Late,
    /// The person pressed Ctrl-C, or this process is to end.
    Interrupted,
    /// Nobody reads standard output any more.
    Unread,
}

/// What else ends a wait, beside a reply.
#[derive(Default)]
pub(crate) struct Until {
    /// This moment.
    pub(crate) deadline: Option<Instant>,
    /// SIGINT or SIGTERM.
    pub(crate) interrupts: Option<Interrupts>,
    /// The reader of standard output going away.
    pub(crate) unread: bool,
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

impl Client {
    /// Says Hello and reads the master's. With `first`, a request that only reads, it is sent along with
    /// the Hello to save a turn; a request that acts must wait, so that a hung master cannot act on it
    /// long after this command gave up.
    ///
    /// # Errors
    /// Code 9 when the master speaks another protocol, 8 when it refuses this user, 1 when it closes the
    /// connection, hangs or talks nonsense.
    pub(crate) fn greet(found: Found, first: Option<&Request>) -> Result<Self, Failure> {
        let Found { stream, path } = found;
        let mut client = Self { stream, inbox: Inbox::default(), path };
        let mut bytes = encoded(&Request::Hello(Hello::ours()))?;
        if let Some(request) = first {
            bytes.extend_from_slice(&encoded(request)?);
        }
        // A master that refuses this user may close before it reads: its words still wait to be read.
        let sent = client.write(&bytes);
        let until = Until { deadline: Some(Instant::now() + ANSWER), ..Until::default() };
        match client.hear(&until)? {
            Heard::Reply(reply) => match *reply {
                Reply::Hello(hello) => hello.check().map_err(|e| Failure::new(Code::Version, e.to_string()))?,
                Reply::Error { code, message, report } => return Err(Failure { code, message, report }),
                _ => return Err(client.nonsense("another message came before its greeting")),
            },
            Heard::Late | Heard::Interrupted | Heard::Unread => return Err(client.hangs()),
            Heard::Gone => return Err(client.closed()),
        }
        match sent {
            Ok(()) => Ok(client),
            Err(_) => {
                let closed = client.closed();
                Err(client.last_words(closed))
            }
        }
    }

    /// Sends the request.
    ///
    /// # Errors
    /// What the master said before it closed the connection; code 10 when it said nothing.
    pub(crate) fn send(&mut self, request: &Request) -> Result<(), Failure> {
        let bytes = encoded(request)?;
        self.write(&bytes).map_err(|unsent| self.last_words(unsent))
    }

    /// A master that turns a client away says why before it closes, and what it said can still be read
    /// when nothing can be written any more. `silent`: what is to be said when it did not.
    fn last_words(&mut self, silent: Failure) -> Failure {
        let until = Until { deadline: Some(Instant::now() + ANSWER), ..Until::default() };
        match self.hear(&until) {
            Ok(Heard::Reply(reply)) => match *reply {
                Reply::Error { code, message, report } => Failure { code, message, report },
                _ => silent,
            },
            _ => silent,
        }
    }

    /// The next reply, or why none comes.
    ///
    /// # Errors
    /// Code 1 when what arrives is not the protocol.
    pub(crate) fn hear(&mut self, until: &Until) -> Result<Heard, Failure> {
        let mut buffer = [0; READ];
        loop {
            if let Some(reply) = self.inbox.take().map_err(|e| self.nonsense(&e.to_string()))? {
                return Ok(Heard::Reply(Box::new(reply)));
            }
            match self.wait(until)? {
                None => {}
                Some(why) => return Ok(why),
            }
            match self.stream.read(&mut buffer) {
                Ok(0) => return Ok(Heard::Gone),
                Ok(read) => self.inbox.push(&buffer[..read]),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if e.kind() == ErrorKind::ConnectionReset => return Ok(Heard::Gone),
                Err(e) => return Err(Failure::other(format!("reading from {}: {e}", self.path.display()))),
            }
        }
    }

    /// Waits until there is something to read (`None`) or something else ends the wait.
    fn wait(&self, until: &Until) -> Result<Option<Heard>, Failure> {
        let stdout = std::io::stdout();
        let readable = |fd| PollFd::new(fd, PollFlags::POLLIN);
        let mut fds = vec![readable(self.stream.as_fd())];
        let interrupts = until.interrupts.as_ref().map(|i| {
            fds.push(readable(i.0.as_fd()));
            fds.len() - 1
        });
        let unread = until.unread.then(|| {
            // No event is asked for: POLLERR, a reader gone, is always told.
            fds.push(PollFd::new(stdout.as_fd(), PollFlags::empty()));
            fds.len() - 1
        });
        loop {
            let timeout = match until.deadline {
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
                Err(e) => return Err(Failure::other(format!("waiting for {}: {}", self.path.display(), e.desc()))),
                Ok(_) => {}
            }
            let told = |i: usize| fds[i].revents().is_some_and(|r| !r.is_empty());
            // What the master said comes first: a rollout that has just ended is not reported as going on.
            if told(0) {
                return Ok(None);
            }
            if interrupts.is_some_and(told) {
                return Ok(Some(Heard::Interrupted));
            }
            if unread.is_some_and(told) {
                return Ok(Some(Heard::Unread));
            }
            if until.deadline.is_some_and(|d| d <= Instant::now()) {
                return Ok(Some(Heard::Late));
            }
        }
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.stream.write_all(bytes).map_err(|e| match e.kind() {
            ErrorKind::BrokenPipe | ErrorKind::ConnectionReset => self.gone(),
            ErrorKind::WouldBlock => self.hangs(),
            _ => Failure::other(format!("writing to {}: {e}", self.path.display())),
        })
    }

    /// The master went away after it was asked.
    pub(crate) fn gone(&self) -> Failure {
        Failure::new(
            Code::Lost,
            format!("the master went away while waiting; outcome unknown (its socket: {})", self.path.display()),
        )
    }

    /// The master closed the connection before it was asked anything.
    fn closed(&self) -> Failure {
        Failure::other(format!(
            "the master at {} closed the connection: it is ending, or has too many clients; nothing was asked",
            self.path.display()
        ))
    }

    /// The master does not answer what it could answer at once.
    pub(crate) fn hangs(&self) -> Failure {
        Failure::other(format!(
            "the master at {} did not answer within {} seconds: it hangs or is stopped",
            self.path.display(),
            ANSWER.as_secs()
        ))
    }

    /// The other end does not speak the protocol.
    pub(crate) fn nonsense(&self, what: &str) -> Failure {
        Failure::other(format!("not understood what {} said: {what}", self.path.display()))
    }
}

fn encoded(request: &Request) -> Result<Vec<u8>, Failure> {
    frame::frame(request).map_err(|e: CodecError| Failure::new(Code::Usage, format!("the request is too long: {e}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A connection whose master has said `replies` and closed it, before `ctl` could say anything.
    fn closed_after(replies: &[Reply]) -> Found {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        for reply in replies {
            theirs.write_all(&frame::frame(reply).unwrap()).unwrap();
        }
        Found { stream: ours, path: "/run/phased/shop.sock".into() }
    }

    fn refusal() -> Reply {
        Reply::Error { code: Code::NotPermitted, message: "not you".into(), report: None }
    }

    #[test]
    fn a_refusal_is_heard_though_the_connection_is_closed() {
        for replies in [vec![refusal()], vec![Reply::Hello(Hello::ours()), refusal()]] {
            for first in [None, Some(&Request::Stats)] {
                let failure = Client::greet(closed_after(&replies), first).err().unwrap();
                assert_eq!((failure.code, failure.message.as_str()), (Code::NotPermitted, "not you"));
            }
        }
    }

    #[test]
    fn another_protocol_is_heard_though_the_connection_is_closed() {
        let other = Reply::Hello(Hello { protocol: 99, build: "9.9.9".into() });
        let failure = Client::greet(closed_after(&[other]), None).err().unwrap();
        assert_eq!(failure.code, Code::Version);
    }

    #[test]
    fn a_connection_closed_early_asked_nothing() {
        for replies in [vec![], vec![Reply::Hello(Hello::ours())]] {
            let failure = Client::greet(closed_after(&replies), None).err().unwrap();
            assert_eq!(failure.code, Code::Failed);
            assert!(failure.message.contains("nothing was asked"), "{}", failure.message);
        }
    }
}
