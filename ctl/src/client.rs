//! One connection to a master: greets, sends the request, hears replies.
//!
//! A connection carries one request. What [`Client::hear`] returns is either a reply or the reason why
//! there is none; what that means for the command is `ask`'s business.

use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::socket::{getsockopt, sockopt};
use proto::control::{Code, Reply, Request};
use proto::version::Mismatch;
use proto::worker::BootReport;
use proto::{CodecError, Hello, Inbox, frame};

use crate::exit::Failure;
use crate::locate::Found;
use crate::wait::{Until, Woken};

/// How long a master may take to answer what it can answer at once, a greeting above all.
pub(crate) const ANSWER: Duration = Duration::from_secs(5);

const READ: usize = 16 << 10;

/// A greeted connection.
pub(crate) struct Client {
    stream: UnixStream,
    inbox: Inbox<Reply>,
    path: PathBuf,
    other: Option<Other>,
}

/// A master of another protocol. Of what it answers only [`Reply::Done`] and [`Reply::Error`] are sure to keep their bytes:
/// what cannot be read is passed over.
struct Other {
    mismatch: Mismatch,
    /// Something was passed over.
    passed_over: bool,
    /// No frame can be told from the next any more.
    lost: bool,
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

impl Client {
    /// Says Hello and reads the master's. With `first`, a request that changes nothing, it is sent along with
    /// the Hello to save a turn; a request that acts must wait, so that a hung master cannot act on it
    /// long after this command gave up. `any`: a master of another protocol will do.
    ///
    /// # Errors
    /// Code 9 when the master speaks another protocol, 8 when it refuses this user, 1 when it closes the
    /// connection, hangs or talks nonsense.
    pub(crate) fn greet(found: Found, first: Option<&Request>, any: bool, until: &Until<'_>) -> Result<Self, Failure> {
        let Found { stream, path } = found;
        let mut client = Self { stream, inbox: Inbox::default(), path, other: None };
        let mut bytes = encoded(&Request::Hello(Hello::ours()))?;
        if let Some(request) = first {
            bytes.extend_from_slice(&encoded(request)?);
        }
        // A master that refuses this user may close before it reads: its words still wait to be read.
        let sent = client.write(&bytes);
        match client.hear(until)? {
            Heard::Reply(reply) => match *reply {
                Reply::Hello(hello) => match hello.check() {
                    Ok(()) => {}
                    Err(mismatch) if any => {
                        client.other = Some(Other { mismatch, passed_over: false, lost: false });
                    }
                    Err(mismatch) => return Err(Failure::new(Code::Version, mismatch.to_string())),
                },
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

    /// The socket's path.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// What the master speaks, where that is another protocol.
    pub(crate) fn other(&self) -> Option<&Mismatch> {
        self.other.as_ref().map(|o| &o.mismatch)
    }

    /// The master's pid, as the kernel tells it; `None` where it has none here (it runs in a container).
    pub(crate) fn pid(&self) -> Option<u32> {
        let peer = getsockopt(&self.stream, sockopt::PeerCredentials).ok()?;
        u32::try_from(peer.pid()).ok().filter(|pid| *pid != 0)
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
        match self.hear(&Until::within(ANSWER)) {
            Ok(Heard::Reply(reply)) => match *reply {
                Reply::Error { code, message, report } => self.refused(code, message, report),
                _ => silent,
            },
            _ => silent,
        }
    }

    /// The next reply, or why none comes.
    ///
    /// # Errors
    /// Code 1 when what arrives is not the protocol.
    pub(crate) fn hear(&mut self, until: &Until<'_>) -> Result<Heard, Failure> {
        let mut buffer = [0; READ];
        loop {
            if let Some(reply) = self.take()? {
                return Ok(Heard::Reply(Box::new(reply)));
            }
            match until.wait(Some(self.stream.as_fd())) {
                Ok(Woken::Readable) => {}
                Ok(Woken::Late) => return Ok(Heard::Late),
                Ok(Woken::Interrupted) => return Ok(Heard::Interrupted),
                Ok(Woken::Unread) => return Ok(Heard::Unread),
                Err(e) => return Err(Failure::other(format!("waiting for {}: {}", self.path.display(), e.desc()))),
            }
            match self.stream.read(&mut buffer) {
                Ok(0) => return Ok(Heard::Gone),
                Ok(_) if self.other.as_ref().is_some_and(|o| o.lost) => {}
                Ok(read) => self.inbox.push(&buffer[..read]),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if e.kind() == ErrorKind::ConnectionReset => return Ok(Heard::Gone),
                Err(e) => return Err(Failure::other(format!("reading from {}: {e}", self.path.display()))),
            }
        }
    }

    /// The next reply that has arrived whole.
    fn take(&mut self) -> Result<Option<Reply>, Failure> {
        loop {
            let taken = self.inbox.take();
            let Some(other) = &mut self.other else { return taken.map_err(|e| self.nonsense(&e.to_string())) };
            match taken {
                Ok(None) => return Ok(None),
                // Beside the two, lines for people, as far as they still look like ours.
                Ok(Some(
                    reply @ (Reply::Accepted { .. } | Reply::Progress(_) | Reply::Done { .. } | Reply::Error { .. }),
                )) => return Ok(Some(reply)),
                Ok(Some(_)) | Err(CodecError::Body(_) | CodecError::Trailing(_)) => other.passed_over = true,
                Err(CodecError::Length(_)) => {
                    (other.passed_over, other.lost) = (true, true);
                    self.inbox = Inbox::default();
                }
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

    /// The master refused the request. One of another protocol that does not even know it says so about the protocols,
    /// from its own side.
    pub(crate) fn refused(&self, code: Code, message: String, report: Option<Box<BootReport>>) -> Failure {
        match &self.other {
            Some(other) if code == Code::Version => Failure::new(
                code,
                format!("{}; this master takes no orders from a ctl of another protocol", other.mismatch),
            ),
            _ => Failure { code, message, report },
        }
    }

    /// The master went away after it was asked.
    pub(crate) fn gone(&self) -> Failure {
        if let Some(other) = self.other.as_ref().filter(|o| o.passed_over) {
            let message = format!(
                "{}; the master was asked and went away, and what it said before was not understood: outcome unknown",
                other.mismatch
            );
            return Failure::new(Code::Version, message);
        }
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

    fn greeted(replies: &[Reply], first: Option<&Request>) -> Result<Client, Failure> {
        Client::greet(closed_after(replies), first, false, &Until::within(ANSWER))
    }

    fn refusal() -> Reply {
        Reply::Error { code: Code::NotPermitted, message: "not you".into(), report: None }
    }

    #[test]
    fn a_refusal_is_heard_though_the_connection_is_closed() {
        for replies in [vec![refusal()], vec![Reply::Hello(Hello::ours()), refusal()]] {
            for first in [None, Some(&Request::Stats)] {
                let failure = greeted(&replies, first).err().unwrap();
                assert_eq!((failure.code, failure.message.as_str()), (Code::NotPermitted, "not you"));
            }
        }
    }

    #[test]
    fn another_protocol_is_heard_though_the_connection_is_closed() {
        let other = Reply::Hello(Hello { protocol: 99, build: "9.9.9".into() });
        let failure = greeted(&[other], None).err().unwrap();
        assert_eq!(failure.code, Code::Version);
    }

    #[test]
    fn a_connection_closed_early_asked_nothing() {
        for replies in [vec![], vec![Reply::Hello(Hello::ours())]] {
            let failure = greeted(&replies, None).err().unwrap();
            assert_eq!(failure.code, Code::Failed);
            assert!(failure.message.contains("nothing was asked"), "{}", failure.message);
        }
    }
}
