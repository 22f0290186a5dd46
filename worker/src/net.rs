//! Which of an app's sockets are connections of an inherited listener, and where else it listens.
//!
//! A socket is asked itself, through a copy of it that lives for microseconds. Where the kernel gives none, `/proc/PID/net` says
//! the same, at a cost that grows with the machine's connections.

use std::fmt;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::PathBuf;

use nix::sys::socket::sockopt::AcceptConn;
use nix::sys::socket::{SockaddrStorage, getpeername, getsockname, getsockopt};

/// Where a socket is bound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Address {
    /// TCP.
    Tcp(SocketAddr),
    /// A Unix socket's path.
    Unix(PathBuf),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => path.display().fmt(f),
        }
    }
}

impl Address {
    /// Where this listening socket is bound, if it is TCP or a named Unix socket.
    pub(crate) fn of(fd: BorrowedFd<'_>) -> Option<Self> {
        let name = getsockname::<SockaddrStorage>(fd.as_raw_fd()).ok()?;
        if let Some(four) = name.as_sockaddr_in() {
            return Some(Self::Tcp(SocketAddr::V4((*four).into())));
        }
        if let Some(six) = name.as_sockaddr_in6() {
            return Some(Self::Tcp(SocketAddr::V6((*six).into())));
        }
        Some(Self::Unix(name.as_unix_addr()?.path()?.to_path_buf()))
    }

    /// Where this socket listens, if it does.
    pub(crate) fn of_listening(fd: BorrowedFd<'_>) -> Option<Self> {
        getsockopt(&fd, AcceptConn).is_ok_and(|listens| listens).then(|| Self::of(fd)).flatten()
    }

    /// Whether a connection with this local address was accepted from a listener bound here.
    fn accepts(&self, local: &Self) -> bool {
        match (self, local) {
            (Self::Tcp(here), Self::Tcp(local)) => {
                here.port() == local.port()
                    && (here.ip().is_unspecified() || here.ip().to_canonical() == local.ip().to_canonical())
            }
            _ => self == local,
        }
    }
}

/// Whether this socket is a connection that was accepted from one of the listeners.
pub(crate) fn is_connection(fd: BorrowedFd<'_>, listeners: &[Address]) -> bool {
    let from = Address::of(fd).is_some_and(|local| listeners.iter().any(|l| l.accepts(&local)));
    // Another socket that is bound there, but not connected, has no peer.
    from && getpeername::<SockaddrStorage>(fd.as_raw_fd()).is_ok()
}

/// One line of a table.
#[derive(Debug, PartialEq, Eq)]
struct Entry {
    inode: u64,
    local: Address,
    listens: bool,
    connected: bool,
}

/// Whether one of `sockets` (inodes) is an established connection that was accepted from one of the listeners. The tables are
/// those of the process's own network namespace.
pub(crate) fn holds_connection(pid: i32, sockets: &[u64], listeners: &[Address]) -> bool {
    let is_one = |e: &Entry| e.connected && sockets.contains(&e.inode) && listeners.iter().any(|l| l.accepts(&e.local));
    let tcp = listeners.iter().any(|l| matches!(l, Address::Tcp(_)));
    let unix = listeners.iter().any(|l| matches!(l, Address::Unix(_)));
    (tcp && (entries(pid, "tcp").any(|e| is_one(&e)) || entries(pid, "tcp6").any(|e| is_one(&e))))
        || (unix && entries(pid, "unix").any(|e| is_one(&e)))
}

/// Where those of `sockets` (inodes) that listen are bound.
pub(crate) fn listens_on(pid: i32, sockets: &[u64]) -> Vec<Address> {
    let tables = ["tcp", "tcp6", "unix"].into_iter().flat_map(|table| entries(pid, table));
    tables.filter(|e| e.listens && sockets.contains(&e.inode)).map(|e| e.local).collect()
}

fn entries(pid: i32, table: &str) -> impl Iterator<Item = Entry> {
    let parse: fn(&str) -> Option<Entry> = if table == "unix" { parse_unix } else { parse_tcp };
    // Line by line: on a busy machine a table is larger than this whole process.
    let reader = File::open(format!("/proc/{pid}/net/{table}")).ok().map(|f| BufReader::with_capacity(4096, f));
    let mut line = Vec::new();
    let mut lines = reader.map(move |mut reader| {
        std::iter::from_fn(move || {
            line.clear();
            let length = reader.read_until(b'\n', &mut line).ok()?;
            (length > 0).then(|| std::str::from_utf8(&line).ok().and_then(parse))
        })
    });
    std::iter::from_fn(move || lines.as_mut()?.next()).flatten()
}

/// `  0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 12345 1 …`
fn parse_tcp(line: &str) -> Option<Entry> {
    let mut words = line.split_ascii_whitespace();
    words.next().filter(|w| w.ends_with(':'))?;
    let (ip, port) = words.next()?.split_once(':')?;
    words.next()?;
    let state = u8::from_str_radix(words.next()?, 16).ok()?;
    let inode = words.nth(5)?.parse().ok()?;
    let port = u16::from_str_radix(port, 16).ok()?;
    // Words of the address, each printed as a native number.
    let word = |i: usize| u32::from_str_radix(ip.get(i * 8..i * 8 + 8)?, 16).ok().map(u32::to_ne_bytes);
    let ip = match ip.len() {
        8 => IpAddr::from(Ipv4Addr::from(word(0)?)),
        32 => {
            let mut bytes = [0; 16];
            for (i, chunk) in bytes.chunks_exact_mut(4).enumerate() {
                chunk.copy_from_slice(&word(i)?);
            }
            IpAddr::from(Ipv6Addr::from(bytes))
        }
        _ => return None,
    };
    // TCP_ESTABLISHED, TCP_CLOSE_WAIT (the client has said all) and TCP_LISTEN.
    let (connected, listens) = (matches!(state, 1 | 8), state == 10);
    Some(Entry { inode, local: Address::Tcp(SocketAddr::new(ip, port)), listens, connected })
}

/// `0000000000000000: 00000002 00000000 00010000 0001 01 6957 /run/app.sock`
fn parse_unix(line: &str) -> Option<Entry> {
    let mut words = line.trim_end_matches('\n').splitn(8, ' ').filter(|w| !w.is_empty());
    words.next().filter(|w| w.ends_with(':'))?;
    let flags = u32::from_str_radix(words.nth(2)?, 16).ok()?;
    words.next()?;
    let state = words.next()?;
    // The inode is padded to five places, which splits differently.
    let rest = line.trim_end_matches('\n').split_once(&format!(" {state} "))?.1.trim_start();
    let (inode, path) = rest.split_once(' ')?;
    // __SO_ACCEPTCON and SS_CONNECTED.
    let (listens, connected) = (flags & 0x10000 != 0, state == "03");
    Some(Entry { inode: inode.parse().ok()?, local: Address::Unix(PathBuf::from(path)), listens, connected })
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsFd;
    use std::os::unix::fs::MetadataExt;
    use std::os::unix::net::UnixListener;

    use super::*;

    fn tcp(address: &str) -> Address {
        Address::Tcp(address.parse().unwrap())
    }

    #[test]
    fn tcp_lines() {
        let line = "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 12345 1 0000 100 0";
        let want = Entry { inode: 12345, local: tcp("127.0.0.1:8080"), listens: true, connected: false };
        assert_eq!(parse_tcp(line), Some(want));
        let line = "  7: 00000000000000000000000001000000:0050 00000000000000000000000001000000:D431 01 \
                    00000000:00000000 02:0000 00000000  33  0 99 2";
        let want = Entry { inode: 99, local: tcp("[::1]:80"), listens: false, connected: true };
        assert_eq!(parse_tcp(line), Some(want));
        assert_eq!(parse_tcp("  sl  local_address rem_address   st tx_queue rx_queue tr"), None);
        assert_eq!(parse_tcp("  1: 0100:1 0:0 01"), None);
    }

    #[test]
    fn unix_lines() {
        let listens = parse_unix("0000000000000000: 00000002 00000000 00010000 0001 01  6957 /run/a b.sock\n");
        let want = Entry { inode: 6957, local: Address::Unix("/run/a b.sock".into()), listens: true, connected: false };
        assert_eq!(listens, Some(want));
        let connected = parse_unix("ffff8880: 00000003 00000000 00000000 0001 03 1234567 /run/a.sock\n").unwrap();
        assert!(connected.connected && !connected.listens && connected.inode == 1_234_567);
        assert_eq!(parse_unix("ffff8880: 00000003 00000000 00000000 0001 03 12\n"), None, "unnamed");
        assert_eq!(parse_unix("Num       RefCount Protocol Flags    Type St Inode Path\n"), None);
    }

    #[test]
    fn which_listener_a_connection_came_from() {
        assert!(tcp("0.0.0.0:80").accepts(&tcp("10.0.0.7:80")));
        assert!(tcp("[::]:80").accepts(&tcp("[::ffff:10.0.0.7]:80")));
        assert!(tcp("10.0.0.7:80").accepts(&tcp("10.0.0.7:80")));
        assert!(!tcp("10.0.0.7:80").accepts(&tcp("10.0.0.8:80")));
        assert!(!tcp("0.0.0.0:80").accepts(&tcp("10.0.0.7:81")));
    }

    #[test]
    fn own_sockets() {
        let own = std::process::id().cast_signed();
        let inode = |fd: BorrowedFd<'_>| File::from(fd.try_clone_to_owned().unwrap()).metadata().unwrap().ino();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = Address::of(listener.as_fd()).unwrap();
        assert_eq!(listens_on(own, &[inode(listener.as_fd())]), std::slice::from_ref(&address));
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (server, _) = listener.accept().unwrap();
        let listeners = [address];
        assert!(is_connection(server.as_fd(), &listeners));
        assert!(!is_connection(client.as_fd(), &listeners));
        assert!(!is_connection(listener.as_fd(), &listeners));
        assert_eq!(Address::of_listening(listener.as_fd()).as_ref(), Some(&listeners[0]));
        assert_eq!(Address::of_listening(server.as_fd()), None);
        assert!(holds_connection(own, &[inode(server.as_fd())], &listeners));
        assert!(!holds_connection(own, &[inode(client.as_fd())], &listeners), "the client's own end does not count");
        let dir = tempfile::tempdir().unwrap();
        let unix = UnixListener::bind(dir.path().join("s")).unwrap();
        let address = Address::of(unix.as_fd()).unwrap();
        assert_eq!(listens_on(own, &[inode(unix.as_fd())]), [address]);
    }
}
