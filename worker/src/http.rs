//! An HTTP check: a GET on the first listener until it is answered with 2xx, without ever waiting.
//!
//! The listener is a rehearsal's own, so that nobody but this release can answer. What is wrong with an answer may be over a
//! moment later: everything is tried again, for as long as the check may take, and the last answer is what is reported. A
//! try that is not answered at all has a second one beside it after half of that time, as one process of an app may hang while
//! others serve.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::PollFlags;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrIn, SockaddrIn6, SockaddrLike, UnixAddr, connect, socket,
};
use proto::worker::Bytes;

use crate::answer::{self, Head};
use crate::net::Address;
use crate::sys;

/// The longest head of an answer.
const HEAD: usize = 16 << 10;
/// How much of an answer's body is shown.
const BODY: usize = 1 << 10;
/// How long the body of a bad answer is waited for.
const BODY_TIME: Duration = Duration::from_millis(250);
/// Between two tries, doubled each time up to [`GAP_MOST`].
const GAP: Duration = Duration::from_millis(10);
const GAP_MOST: Duration = Duration::from_millis(200);
/// Tries under way at the same time.
const TRIES: usize = 2;

/// A check under way.
pub(crate) struct Http {
    address: Address,
    request: Bytes,
    tries: Vec<Try>,
    /// When to try again.
    next: Instant,
    gap: Duration,
    /// How long a try stays alone.
    patience: Duration,
    /// What the last try came to; an answer is not forgotten for a connection that failed.
    last: Option<Bad>,
}

/// What a try came to that did not pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Bad {
    /// What people read behind the check's name.
    pub(crate) message: String,
    /// The beginning of what was answered.
    pub(crate) body: Bytes,
    is_answer: bool,
}

impl Bad {
    fn of_error(what: &str, e: &io::Error) -> Self {
        let why = e.raw_os_error().map_or_else(|| e.to_string(), |n| Errno::from_raw(n).desc().to_lowercase());
        Self { message: format!("{what}{why}"), body: Bytes::new(), is_answer: false }
    }

    fn answer(message: impl Into<String>, answered: &[u8]) -> Self {
        let body = answered[..answered.len().min(BODY)].to_vec();
        Self { message: message.into(), body, is_answer: true }
    }
}

impl Http {
    /// Asks this listener for `path`, as `host`, for so long.
    ///
    /// # Errors
    /// A sentence on why there is nothing to ask.
    pub(crate) fn new(
        host: &str,
        path: &str,
        listener: Option<BorrowedFd<'_>>,
        timeout: Duration,
        now: Instant,
    ) -> Result<Self, String> {
        let address = listener.and_then(Address::of).ok_or("there is no listening socket to ask; give --listen")?;
        if let Some(c) = host.chars().chain(path.chars()).find(|c| c.is_control() || c.is_whitespace()) {
            return Err(format!("{c:?} cannot stand in a request; write it as %{:02X}", u32::from(c)));
        }
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: phased-check\r\nAccept: */*\r\nConnection: close\r\n\r\n"
        );
        Ok(Self {
            address,
            request: request.into_bytes(),
            tries: Vec::new(),
            next: now,
            gap: GAP,
            patience: timeout / 2,
            last: None,
        })
    }

    /// What to poll.
    pub(crate) fn polled(&self) -> impl Iterator<Item = (BorrowedFd<'_>, PollFlags)> {
        self.tries.iter().map(|t| {
            let is_sent = t.sent == self.request.len();
            (t.socket.as_fd(), if is_sent { PollFlags::POLLIN } else { PollFlags::POLLOUT })
        })
    }

    /// When [`Self::turn`] is to be called.
    pub(crate) fn next(&self) -> Option<Instant> {
        let try_again = (self.tries.len() < TRIES).then_some(self.next);
        try_again.into_iter().chain(self.tries.iter().filter_map(|t| t.body_by)).min()
    }

    /// Something may have happened, or time has passed. True when the check has passed.
    pub(crate) fn turn(&mut self, now: Instant) -> bool {
        if self.tries.len() < TRIES && now >= self.next {
            match Try::begin(&self.address) {
                Ok(new) => {
                    self.tries.push(new);
                    self.next = now + self.patience;
                }
                Err(e) => self.came_to(Bad::of_error("", &e), now),
            }
        }
        let mut at = 0;
        while let Some(each) = self.tries.get_mut(at) {
            match each.turn(&self.request, now) {
                None => at += 1,
                Some(Ok(())) => return true,
                Some(Err(bad)) => {
                    self.tries.remove(at);
                    self.came_to(bad, now);
                }
            }
        }
        false
    }

    fn came_to(&mut self, bad: Bad, now: Instant) {
        if bad.is_answer || !self.last.as_ref().is_some_and(|last| last.is_answer) {
            self.last = Some(bad);
        }
        self.next = now + self.gap;
        self.gap = (self.gap * 2).min(GAP_MOST);
    }

    /// What to report when the time is over, which was so long.
    pub(crate) fn verdict(&self, within: &str) -> Bad {
        let answering = self.tries.iter().rev().find_map(|t| t.head.as_ref().map(|head| t.bad(head)));
        let answer = answering.or_else(|| self.last.clone().filter(|bad| bad.is_answer));
        // As long as one try is not over, what became of an earlier one says less.
        let silent = || {
            let what = if self.tries.iter().all(|t| t.sent == 0) { "connection" } else { "answer" };
            let read = self.tries.iter().map(|t| t.read.as_slice()).max_by_key(|read| read.len()).unwrap_or_default();
            let body = read[..read.len().min(BODY)].to_vec();
            Bad { message: format!("no {what} within {within}"), body, is_answer: false }
        };
        let over = || self.last.clone().filter(|_| self.tries.is_empty());
        answer.or_else(over).unwrap_or_else(silent)
    }
}

/// One request.
struct Try {
    socket: OwnedFd,
    /// How much of the request is sent.
    sent: usize,
    /// The head, or what is behind it once that has been read.
    read: Bytes,
    /// The head of an answer that is not 2xx.
    head: Option<Head>,
    /// When the rest of its body is not waited for any more.
    body_by: Option<Instant>,
}

impl Try {
    fn begin(address: &Address) -> io::Result<Self> {
        let socket = match address {
            Address::Unix(path) => open(AddressFamily::Unix, &UnixAddr::new(path)?)?,
            Address::Tcp(address) => {
                // What listens everywhere is reached here.
                let ip = match address.ip() {
                    IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
                    IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
                    ip => ip,
                };
                match SocketAddr::new(ip, address.port()) {
                    SocketAddr::V4(four) => open(AddressFamily::Inet, &SockaddrIn::from(four))?,
                    SocketAddr::V6(six) => open(AddressFamily::Inet6, &SockaddrIn6::from(six))?,
                }
            }
        };
        Ok(Self { socket, sent: 0, read: Bytes::new(), head: None, body_by: None })
    }

    /// Moves what can be moved without waiting. `None`: there is more to come.
    fn turn(&mut self, request: &[u8], now: Instant) -> Option<Result<(), Bad>> {
        while self.sent < request.len() {
            // While it is connecting, this would wait; then it says whether that went well.
            match sys::send_now(self.socket.as_fd(), &request[self.sent..]) {
                Ok(sent) => self.sent += sent,
                Err(e) if e.kind() == ErrorKind::WouldBlock => return None,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Some(Err(Bad::of_error("", &e))),
            }
        }
        let mut buffer = [0; 4096];
        // One that never stops sending gets no more than its turn.
        for _ in 0..16 {
            match sys::read(self.socket.as_fd(), &mut buffer) {
                Ok(0) => return Some(Err(self.ended())),
                Ok(length) => {
                    self.read.extend_from_slice(&buffer[..length]);
                    match self.understand() {
                        Some(outcome) => return Some(outcome),
                        None if self.head.is_some() && self.body_by.is_none() => self.body_by = Some(now + BODY_TIME),
                        None => {}
                    }
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => {
                    let bad = self.head.as_ref().map(|head| self.bad(head));
                    return Some(Err(bad.unwrap_or_else(|| Bad::of_error("no answer: ", &e))));
                }
            }
        }
        let head = self.head.as_ref().filter(|_| self.body_by.is_some_and(|by| now >= by))?;
        Some(Err(self.bad(head)))
    }

    /// What has been read so far.
    fn understand(&mut self) -> Option<Result<(), Bad>> {
        while self.head.is_none() {
            match answer::head(&self.read) {
                Ok(None) if self.read.len() > HEAD => {
                    return Some(Err(Bad::answer("the head of its answer is longer than 16 KiB", &self.read)));
                }
                Ok(None) => return None,
                Ok(Some((200..=299, ..))) => return Some(Ok(())),
                // Another head follows.
                Ok(Some((100 | 102..=199, _, length))) => drop(self.read.drain(..length)),
                Ok(Some((_, head, length))) => {
                    self.read.drain(..length);
                    self.head = Some(head);
                }
                Err(e) => return Some(Err(Bad::answer(format!("its answer is not HTTP ({e})"), &self.read))),
            }
        }
        let head = self.head.as_ref().filter(|head| head.is_whole(&self.read))?;
        Some(Err(self.bad(head)))
    }

    /// An answer that is not 2xx.
    fn bad(&self, head: &Head) -> Bad {
        Bad::answer(head.message.clone(), &head.body(&self.read))
    }

    /// The server has closed the connection.
    fn ended(&self) -> Bad {
        match &self.head {
            Some(head) => self.bad(head),
            None if self.read.is_empty() => {
                Bad { message: "closed the connection without an answer".into(), body: Bytes::new(), is_answer: false }
            }
            None => Bad::answer("closed the connection in the head of its answer", &self.read),
        }
    }
}

fn open(family: AddressFamily, address: &dyn SockaddrLike) -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(family, SockType::Stream, flags, None)?;
    match connect(socket.as_raw_fd(), address) {
        Ok(()) | Err(Errno::EINPROGRESS) => Ok(socket),
        Err(e) => Err(e.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::os::unix::net::UnixListener;

    use nix::poll::{PollFd, PollTimeout, poll};

    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(20);

    /// Asks until it passes, or the server's last answer has been seen.
    fn ask(listener: BorrowedFd<'_>, serve: impl FnOnce() + Send + 'static) -> Result<(), Bad> {
        let begun = Instant::now();
        let mut http = Http::new("localhost", "/health?x=1", Some(listener), TIMEOUT, begun).unwrap();
        let server = std::thread::spawn(serve);
        loop {
            if http.turn(Instant::now()) {
                server.join().unwrap();
                return Ok(());
            }
            // The server is gone when its last answer has been read.
            if server.is_finished() && http.tries.iter().all(|t| t.read.is_empty()) && http.last.is_some() {
                server.join().unwrap();
                return Err(http.last.take().unwrap());
            }
            let mut fds: Vec<_> = http.polled().map(|(fd, events)| PollFd::new(fd, events)).collect();
            assert!(begun.elapsed() < TIMEOUT, "{:?}", http.last);
            poll(&mut fds, PollTimeout::from(20u8)).unwrap();
        }
    }

    fn answers(answers: &[&[u8]]) -> Result<(), Bad> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (server, answers) = (listener.try_clone().unwrap(), answers.iter().map(|a| a.to_vec()).collect::<Vec<_>>());
        ask(listener.as_fd(), move || {
            for answer in answers {
                let (mut client, _) = server.accept().unwrap();
                let mut asked = [0; 1000];
                let length = client.read(&mut asked).unwrap();
                let asked = String::from_utf8_lossy(&asked[..length]).into_owned();
                assert!(
                    asked.starts_with("GET /health?x=1 HTTP/1.1\r\nHost: localhost\r\nUser-Agent: phased-check\r\n")
                );
                assert!(asked.ends_with("\r\nConnection: close\r\n\r\n"));
                // Byte by byte: a head comes in pieces, too.
                answer.iter().for_each(|b| drop(client.write_all(&[*b])));
            }
        })
    }

    fn bad(answer: &[u8]) -> (String, String) {
        let bad = answers(&[answer]).unwrap_err();
        (bad.message, String::from_utf8_lossy(&bad.body).into_owned())
    }

    #[test]
    fn two_hundreds_pass() {
        for good in ["HTTP/1.1 200 OK\r\n\r\n", "HTTP/1.0 204 No Content\r\nA: b\r\n\r\n", "HTTP/1.1 299 \r\n\r\nx"] {
            assert_eq!(answers(&[good.as_bytes()]), Ok(()));
        }
        assert_eq!(answers(&[b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\n\r\n"]), Ok(()));
    }

    #[test]
    fn what_is_not_yet_good_is_asked_again() {
        let later = [&b"HTTP/1.1 503 No\r\n\r\n"[..], b"", b"garbage\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\n"];
        assert_eq!(answers(&later), Ok(()));
    }

    #[test]
    fn bad_answers_are_shown() {
        let said = bad(b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 5\r\n\r\noops\nand more");
        assert_eq!(said.0, "HTTP/1.1 500 Internal Server Error");
        assert!(said.1.starts_with("oops\n"));
        let said =
            bad(b"HTTP/1.1 404 Not Found\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nno \r\n5;x=y\r\nroute\r\n0\r\n\r\n");
        assert_eq!(said, ("HTTP/1.1 404 Not Found".into(), "no route".into()));
        let said = bad(b"HTTP/1.1 301 Moved Permanently\r\nLocation: https://localhost/health\r\n\r\n");
        assert_eq!(said.0, "HTTP/1.1 301 Moved Permanently (to https://localhost/health)");
        let said = bad(&[&b"HTTP/1.1 500 No\r\n\r\n"[..], &[b'x'; 9000]].concat());
        assert_eq!(said, ("HTTP/1.1 500 No".into(), "x".repeat(1024)));
        let said = bad(b"-ERR unknown command\r\n");
        assert!(said.0.starts_with("its answer is not HTTP (") && said.1.starts_with('-'), "{said:?}");
        assert_eq!(bad(b"").0, "closed the connection without an answer");
        assert_eq!(bad(b"HTTP/1.1 200").0, "closed the connection in the head of its answer");
        let said = bad(&[&b"HTTP/1.1 200 OK\r\nX: "[..], &[b'x'; 20_000]].concat());
        assert_eq!(said.0, "the head of its answer is longer than 16 KiB");
    }

    #[test]
    fn a_unix_socket_is_asked_and_refuses() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let listener = UnixListener::bind(&path).unwrap();
        let server = listener.try_clone().unwrap();
        let asked = ask(listener.as_fd(), move || {
            server.accept().unwrap().0.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
        });
        assert_eq!(asked, Ok(()));
        std::fs::remove_file(&path).unwrap();
        assert_eq!(ask(listener.as_fd(), || ()).unwrap_err().message, "no such file or directory");
    }

    #[test]
    fn what_cannot_be_asked_is_said() {
        let new = |path, listener| Http::new("localhost", path, listener, TIMEOUT, Instant::now()).err().unwrap();
        assert!(new("/", None).contains("give --listen"));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        assert_eq!(new("/a b", Some(listener.as_fd())), "' ' cannot stand in a request; write it as %20");
        assert!(new("/\r\nX: y", Some(listener.as_fd())).contains("%0D"));
    }

    #[test]
    fn silence_gets_a_second_try_and_an_end() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let begun = Instant::now();
        let mut http = Http::new("h", "/", Some(listener.as_fd()), TIMEOUT, begun).unwrap();
        assert!(!http.turn(begun));
        assert_eq!((http.tries.len(), http.next()), (1, Some(begun + TIMEOUT / 2)));
        assert!(!http.turn(begun + TIMEOUT / 2));
        assert_eq!((http.tries.len(), http.next()), (2, None), "nothing more to wait for but the end");
        while http.tries.iter().any(|t| t.sent == 0) {
            http.turn(begun);
        }
        assert_eq!(http.verdict("20s").message, "no answer within 20s");
    }
}
