//! Who holds an address: for the error that says it is in use.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::sys::socket::{getsockopt, sockopt};

/// The process that listens on a port, as `pid 4711 (nginx)`.
pub(crate) fn of_port(address: SocketAddr) -> Option<String> {
    let inode = ["/proc/net/tcp", "/proc/net/tcp6"].iter().find_map(|table| listening_inode(table, address))?;
    of_socket(&inode)
}

/// The process that listens at a Unix socket's path.
pub(crate) fn of_path(path: &Path) -> Option<String> {
    // Num RefCount Protocol Flags Type St Inode Path; the flag is __SO_ACCEPTCON of a listening socket (proc_net(5)).
    let text = fs::read("/proc/net/unix").ok()?;
    let inode = text.split(|b| *b == b'\n').skip(1).find_map(|line| {
        let line = line.strip_suffix(path.as_os_str().as_bytes())?.strip_suffix(b" ")?;
        let fields: Vec<&str> = std::str::from_utf8(line).ok()?.split_whitespace().collect();
        (fields.get(3) == Some(&"00010000")).then(|| fields.get(6).map(ToString::to_string))?
    })?;
    of_socket(&inode)
}

/// A process that has this socket.
fn of_socket(inode: &str) -> Option<String> {
    let link = format!("socket:[{inode}]");
    for process in fs::read_dir("/proc").ok()?.flatten() {
        let Some(pid) = process.file_name().to_str().and_then(|n| n.parse::<i32>().ok()) else { continue };
        let Ok(fds) = fs::read_dir(process.path().join("fd")) else { continue };
        if fds.flatten().any(|fd| fs::read_link(fd.path()).is_ok_and(|l| l.as_os_str() == link.as_str())) {
            return Some(named(pid));
        }
    }
    None
}

/// The pid of the process at the other end of a Unix connection.
pub(crate) fn pid_of_peer(socket: BorrowedFd<'_>) -> Option<i32> {
    let peer = getsockopt(&socket, sockopt::PeerCredentials).ok()?;
    (peer.pid() > 0).then_some(peer.pid())
}

/// The process at the other end of a Unix connection.
pub(crate) fn of_peer(socket: BorrowedFd<'_>) -> Option<String> {
    pid_of_peer(socket).map(named)
}

/// A process with its name.
pub(crate) fn named(pid: i32) -> String {
    match fs::read_to_string(format!("/proc/{pid}/comm")) {
        Ok(comm) => format!("pid {pid} ({})", comm.trim()),
        Err(_) => format!("pid {pid}"),
    }
}

/// The inode of a listening socket (state 0A) whose port is the address's and whose host overlaps with it.
fn listening_inode(table: &str, address: SocketAddr) -> Option<String> {
    let text = fs::read_to_string(table).ok()?;
    text.lines().skip(1).find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (host, port) = fields.get(1)?.split_once(':')?;
        let listens = fields.get(3) == Some(&"0A") && u16::from_str_radix(port, 16) == Ok(address.port());
        let any = host.bytes().all(|b| b == b'0');
        let same = match address.ip() {
            IpAddr::V4(ip) => host == format!("{:08X}", u32::from_ne_bytes(ip.octets())),
            IpAddr::V6(_) => true,
        };
        (listens && (any || same || address.ip().is_unspecified())).then(|| fields.get(9).map(ToString::to_string))?
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_holder_of_a_port_is_found() {
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let holder = super::of_port(socket.local_addr().unwrap()).unwrap();
        assert!(holder.contains(&format!("pid {}", std::process::id())), "{holder}");
    }
}
