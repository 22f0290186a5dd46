//! The next master, as small as can be: it connects to a worker's own socket and takes the worker over.

use std::io::{ErrorKind, IoSliceMut, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use proto::worker::{ExitReport, FromWorker, Orphan, ToWorker};
use proto::{Hello, Inbox};

use super::{DEADLINE, sys};

/// A connection to a worker's own socket.
pub struct Heir {
    stream: UnixStream,
    inbox: Inbox<FromWorker>,
    /// What came with the first byte.
    pub sockets: Vec<OwnedFd>,
    begun: bool,
    /// Every message so far.
    pub seen: Vec<FromWorker>,
}

impl Heir {
    /// Connects; the worker may still have a master.
    pub fn connect(path: &Path) -> Self {
        let folder = std::fs::File::open(path.parent().unwrap()).unwrap();
        let short = format!("/proc/self/fd/{}/{}", folder.as_raw_fd(), path.file_name().unwrap().display());
        let stream = UnixStream::connect(short).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        Self { stream, inbox: Inbox::default(), sockets: Vec::new(), begun: false, seen: Vec::new() }
    }

    /// Reads how the worker introduces itself.
    pub fn meet(&mut self) -> Orphan {
        let Some(FromWorker::Hello(hello)) = self.next() else { panic!("{:#?}", self.seen) };
        hello.check().unwrap();
        let Some(FromWorker::Orphan(orphan)) = self.next() else { panic!("{:#?}", self.seen) };
        *orphan
    }

    /// Connects, and reads that.
    pub fn met(path: &Path) -> (Self, Orphan) {
        let mut heir = Self::connect(path);
        let orphan = heir.meet();
        (heir, orphan)
    }

    /// Connects, and adopts the worker.
    pub fn adopted(path: &Path) -> (Self, Orphan) {
        let (mut heir, orphan) = Self::met(path);
        heir.adopt();
        (heir, orphan)
    }

    pub fn adopt(&mut self) {
        self.order(&ToWorker::Hello(Hello::ours()));
        self.order(&ToWorker::Adopt);
    }

    pub fn order(&mut self, order: &ToWorker) {
        self.raw(&proto::frame::frame(order).unwrap());
    }

    pub fn raw(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    /// The next message, `None` at the end of the connection.
    pub fn next(&mut self) -> Option<FromWorker> {
        loop {
            if let Some(message) = self.inbox.take().unwrap() {
                self.seen.push(message.clone());
                return Some(message);
            }
            let mut buffer = [0; 65536];
            let length = if self.begun { self.read(&mut buffer) } else { self.receive(&mut buffer) };
            self.begun = true;
            if length == 0 {
                return None;
            }
            self.inbox.push(&buffer[..length]);
        }
    }

    /// Reads until a message is as wanted.
    pub fn until(&mut self, wanted: impl Fn(&FromWorker) -> bool) -> FromWorker {
        loop {
            match self.next() {
                Some(message) if wanted(&message) => return message,
                Some(_) => {}
                None => panic!("the worker closed the connection; so far: {:#?}", self.seen),
            }
        }
    }

    /// Reads until the app has ended.
    pub fn exited(&mut self) -> ExitReport {
        match self.until(|m| matches!(m, FromWorker::Exited(_))) {
            FromWorker::Exited(report) => *report,
            other => panic!("{other:#?}"),
        }
    }

    /// Reads to the end, at which nothing else may come.
    pub fn ended(&mut self) {
        assert_eq!(self.next(), None);
    }

    /// Whether the worker has said nothing so far.
    pub fn hears_nothing(&self) -> bool {
        self.stream.set_nonblocking(true).unwrap();
        let got = (&self.stream).read(&mut [0]);
        self.stream.set_nonblocking(false).unwrap();
        matches!(got, Err(e) if e.kind() == ErrorKind::WouldBlock)
    }

    fn read(&mut self, buffer: &mut [u8]) -> usize {
        match self.stream.read(buffer) {
            Ok(length) => length,
            // It was closed with something of ours unread.
            Err(e) if e.kind() == ErrorKind::ConnectionReset => 0,
            Err(e) => panic!("{e}; so far: {:#?}", self.seen),
        }
    }

    fn receive(&mut self, buffer: &mut [u8]) -> usize {
        let mut parts = [IoSliceMut::new(buffer)];
        let mut space = nix::cmsg_space!([i32; 253]);
        let flags = MsgFlags::MSG_CMSG_CLOEXEC;
        let message = match recvmsg::<()>(self.stream.as_raw_fd(), &mut parts, Some(&mut space), flags) {
            Ok(message) => message,
            Err(nix::Error::ECONNRESET) => return 0,
            Err(e) => panic!("{e}"),
        };
        for control in message.cmsgs().unwrap() {
            match control {
                ControlMessageOwned::ScmRights(fds) => self.sockets.extend(fds.into_iter().map(sys::received)),
                other => panic!("{other:?}"),
            }
        }
        message.bytes
    }
}
