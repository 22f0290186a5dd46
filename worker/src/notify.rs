//! The app's own `NOTIFY_SOCKET` (sd_notify(3)): `READY=1`, `STATUS=` and `WATCHDOG=1`.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::report::cut;
use crate::{procfs, sys};

/// The longest status that is kept, in bytes.
const STATUS_BYTES: usize = 1024;

/// What one message says that matters here.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Said {
    /// `READY=1`.
    pub(crate) ready: bool,
    /// `WATCHDOG=1`.
    pub(crate) alive: bool,
    /// `STATUS=`, cut to [`STATUS_BYTES`] at a character's end.
    pub(crate) status: Option<String>,
}

/// The receiving socket.
pub(crate) struct Notify {
    socket: OwnedFd,
    /// Its abstract name, without the leading NUL.
    pub(crate) name: Vec<u8>,
}

impl Notify {
    /// A new socket.
    ///
    /// # Errors
    /// Whatever the kernel says; sockets run out as fds do.
    pub(crate) fn open() -> std::io::Result<Self> {
        let (socket, name) = sys::autobound_datagram()?;
        Ok(Self { socket, name })
    }

    /// What to poll.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// The next message that may be believed, `None` when none waits. Abstract names have no permissions: the sender must
    /// be of the worker's user or root, or a process of the app that changed its user.
    pub(crate) fn receive(&self) -> Option<Said> {
        let mut buffer = [0; 4096];
        loop {
            let (length, sender) = sys::receive(self.fd(), &mut buffer).ok()?;
            let own = nix::unistd::geteuid().as_raw();
            let believed = sender.is_some_and(|s| s.uid == own || s.uid == 0 || procfs::is_descendant(s.pid));
            if believed {
                return Some(parse(&buffer[..length]));
            }
        }
    }
}

fn parse(message: &[u8]) -> Said {
    let mut said = Said::default();
    for line in message.split(|b| *b == b'\n') {
        if line == b"READY=1" {
            said.ready = true;
        } else if line == b"WATCHDOG=1" {
            said.alive = true;
        } else if let Some(status) = line.strip_prefix(b"STATUS=") {
            said.status = Some(cut(String::from_utf8_lossy(status).into_owned(), STATUS_BYTES));
        }
    }
    said
}

#[cfg(test)]
mod tests {
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::{SocketAddr, UnixDatagram};

    use super::*;

    #[test]
    fn lines_of_a_message() {
        assert_eq!(parse(b"READY=1\nSTATUS=up"), Said { ready: true, alive: false, status: Some("up".into()) });
        let said = Said { ready: false, alive: true, status: Some(String::new()) };
        assert_eq!(parse(b"READY=0\nMAINPID=3\nSTATUS=\nWATCHDOG=1"), said);
        assert!(!parse(b"WATCHDOG=0\nWATCHDOG_USEC=1").alive);
        let long = [b"STATUS=".to_vec(), "ü".repeat(600).into_bytes(), b"x".to_vec()].concat();
        let status = parse(&long).status.unwrap();
        assert!(status.len() <= STATUS_BYTES && status.chars().all(|c| c == 'ü'));
        let odd = [b"STATUS=a".to_vec(), "ü".repeat(600).into_bytes()].concat();
        assert_eq!(parse(&odd).status.unwrap().len(), STATUS_BYTES - 1);
    }

    #[test]
    fn messages_arrive() {
        let notify = Notify::open().unwrap();
        let to = SocketAddr::from_abstract_name(&notify.name).unwrap();
        let from = UnixDatagram::unbound().unwrap();
        from.send_to_addr(b"STATUS=loading", &to).unwrap();
        from.send_to_addr(b"READY=1", &to).unwrap();
        assert_eq!(notify.receive().unwrap().status.as_deref(), Some("loading"));
        assert!(notify.receive().unwrap().ready);
        assert_eq!(notify.receive(), None);
    }
}
