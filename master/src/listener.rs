//! The app's listening sockets: bound once, shared by every instance, and kept working whatever an instance does.
//!
//! A release must not be able to break the socket for the others. `listen(2)` is repeated after each app's end, for
//! an app may have called it with a small backlog. After `shutdown(2)` epoll reports a hang-up: a TCP socket is
//! revived by `listen`, a Unix one has to be bound anew. A Unix path that an app unlinks is linked back: a second,
//! hidden hard link keeps the inode, and a watch on that inode (its link count changes) tells when to look.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::inotify::{AddWatchFlags, Inotify};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, UnixAddr, bind, connect, getsockname, getsockopt,
    listen, setsockopt, socket, sockopt,
};
use nix::unistd::{Gid, Group, Uid, chown};
use proto::worker::User;

use crate::address::{Address, Place};
use crate::holder;
use crate::leftovers::has_ended;
use crate::timers;

/// The backlog asked for; the kernel lowers it to `net.core.somaxconn`.
pub(crate) const BACKLOG: u32 = 65_535;
/// How long a socket is waited for whose holder is dead.
const DYING: Duration = Duration::from_secs(2);

/// One listening socket.
#[derive(Debug)]
pub(crate) struct Listener {
    pub(crate) name: String,
    pub(crate) fd: OwnedFd,
    place: Place,
    /// The hidden second link to a Unix socket's inode.
    spare: Option<PathBuf>,
    /// A service manager's socket: its path is not ours to remove.
    inherited: bool,
    /// Somebody else's, until this master runs: a start that fails takes nothing away from those who serve.
    foreign: bool,
}

/// What a look at a broken socket led to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Mended {
    /// The same socket listens again.
    Revived,
    /// A new socket listens at the same place; whoever has the old one serves nobody.
    Replaced,
}

impl Listener {
    /// Binds and listens.
    ///
    /// # Errors
    /// Names the address, the reason, and for an address in use who holds it.
    pub(crate) fn bind(address: &Address, index: usize) -> Result<Self> {
        let name = Self::name_of(address, index);
        let fd = open(&address.place)?;
        let place = address.place.clone();
        let mut listener = Self { name, fd, place, spare: None, inherited: false, foreign: false };
        listener.read_place()?;
        listener.keep_link();
        Ok(listener)
    }

    /// What the socket of a `--listen` is called.
    pub(crate) fn name_of(address: &Address, index: usize) -> String {
        address.name.clone().unwrap_or_else(|| format!("listen{index}"))
    }

    /// Takes over a socket that an earlier master has bound for this `--listen`.
    ///
    /// # Errors
    /// When it does not listen, or listens elsewhere.
    pub(crate) fn adopt(fd: BorrowedFd<'_>, address: &Address, index: usize) -> Result<Self> {
        let fd = fd.try_clone_to_owned()?;
        if !getsockopt(&fd, sockopt::AcceptConn)? {
            bail!("it is no listening socket");
        }
        let place = address.place.clone();
        let name = Self::name_of(address, index);
        let mut listener = Self { name, fd, place, spare: None, inherited: false, foreign: true };
        listener.read_place()?;
        match (&address.place, &listener.place) {
            // A port of the kernel's choice was asked for, and this is one.
            (Place::Tcp(asked), Place::Tcp(is)) if asked.ip() == is.ip() && [0, is.port()].contains(&asked.port()) => {}
            (Place::Unix { path, .. }, _) => {
                let storage: SockaddrStorage = getsockname(listener.fd.as_raw_fd())?;
                if storage.as_unix_addr().and_then(UnixAddr::path) != Some(path) {
                    bail!("it listens elsewhere");
                }
                listener.find_link()?;
                if let Place::Unix { path, mode, group } = &address.place {
                    admit(path, *mode, group.as_deref())?;
                }
            }
            _ => bail!("it listens at {}", listener.place),
        }
        Ok(listener)
    }

    /// Finds the second link again that an earlier master has kept, or the path itself.
    fn find_link(&mut self) -> Result<()> {
        let Place::Unix { path, .. } = &self.place else { return Ok(()) };
        let is_socket = |path: &Path| fs::symlink_metadata(path).is_ok_and(|m| m.file_type().is_socket());
        let spare = beside(path, "phased");
        if is_socket(&spare) {
            self.spare = Some(spare);
            self.restore_path();
        } else if is_socket(path) {
            self.keep_link();
        } else {
            bail!("nothing of it is left at {}", path.display());
        }
        Ok(())
    }

    /// It is this master's from now on.
    pub(crate) fn own(&mut self) {
        self.foreign = false;
    }

    /// Whether a service manager has passed it.
    pub(crate) fn is_inherited(&self) -> bool {
        self.inherited
    }

    /// Leaves the socket to the next master: its path stays.
    pub(crate) fn leave(mut self) {
        self.spare = None;
    }

    /// The same, and the socket stays open.
    pub(crate) fn forget(self) {
        std::mem::forget(self);
    }

    /// Takes over a socket that a service manager has bound and passed as fd `number`.
    ///
    /// # Errors
    /// When the fd is not a listening stream socket.
    pub(crate) fn inherit(fd: OwnedFd, number: i32, name: String) -> Result<Self> {
        if !getsockopt(&fd, sockopt::AcceptConn)
            .with_context(|| format!("LISTEN_FDS: fd {number} ({name}) is not a socket"))?
        {
            bail!("LISTEN_FDS: fd {number} ({name}) is not a listening stream socket; see the socket unit");
        }
        let place = Place::Tcp(SocketAddr::from(([0, 0, 0, 0], 0)));
        let mut listener = Self { name, fd, place, spare: None, inherited: true, foreign: false };
        listener.read_place()?;
        Ok(listener)
    }

    /// A socket of the same kind and name for a rehearsal: on a loopback address and a port of the kernel's choice, or at a
    /// path beside this one's. A service manager's folder need not be ours to write in, and a longer path may be too long: then
    /// it is at `spare`, which no other socket has. `owner`: who connects to it, where that is not us. It goes away with the value.
    ///
    /// # Errors
    /// Names the addresses and the reasons.
    pub(crate) fn private(&self, spare: &Path, owner: Option<&User>) -> Result<Self> {
        let listener = self.private_of_us(spare)?;
        if let (Place::Unix { path, .. }, Some(User { uid, gid, name, .. })) = (&listener.place, owner) {
            chown(path, Some(Uid::from_raw(*uid)), Some(Gid::from_raw(*gid)))
                .with_context(|| format!("cannot give {} to {name}", path.display()))?;
        }
        Ok(listener)
    }

    fn private_of_us(&self, spare: &Path) -> Result<Self> {
        match &self.place {
            Place::Tcp(SocketAddr::V4(_)) => self.private_at(Place::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))),
            Place::Tcp(SocketAddr::V6(_)) => self.private_at(Place::Tcp(SocketAddr::from((Ipv6Addr::LOCALHOST, 0)))),
            Place::Unix { path, .. } => {
                let at = |path| self.private_at(Place::Unix { path, mode: Some(0o600), group: None });
                at(beside(path, "r")).or_else(|why| at(spare.to_owned()).with_context(|| format!("{why:#}; and")))
            }
        }
    }

    fn private_at(&self, place: Place) -> Result<Self> {
        let fd = open(&place)?;
        let spare = match &place {
            // Its one link: removed in the end, and never put back.
            Place::Unix { path, .. } => Some(path.clone()),
            Place::Tcp(_) => None,
        };
        let name = self.name.clone();
        let mut listener = Self { name, fd, place, spare, inherited: false, foreign: false };
        listener.read_place()?;
        Ok(listener)
    }

    /// Reads the address that the socket really has.
    fn read_place(&mut self) -> Result<()> {
        let storage: SockaddrStorage = getsockname(self.fd.as_raw_fd()).context("cannot read a socket's address")?;
        if let Some(v4) = storage.as_sockaddr_in() {
            self.place = Place::Tcp(SocketAddr::V4((*v4).into()));
        } else if let Some(v6) = storage.as_sockaddr_in6() {
            self.place = Place::Tcp(SocketAddr::V6((*v6).into()));
        } else if self.inherited {
            let path = storage.as_unix_addr().and_then(UnixAddr::path);
            let path = path.ok_or_else(|| anyhow!("LISTEN_FDS: neither a TCP socket nor one with a path"))?;
            self.place = Place::Unix { path: path.to_owned(), mode: None, group: None };
        } else if matches!(self.place, Place::Tcp(_)) {
            bail!("it is no TCP socket");
        }
        Ok(())
    }

    /// The address as `--listen` takes it.
    pub(crate) fn address(&self) -> String {
        self.place.to_string()
    }

    /// The address as servers call it.
    pub(crate) fn plain_address(&self) -> String {
        match &self.place {
            Place::Tcp(address) => address.to_string(),
            Place::Unix { path, .. } => path.display().to_string(),
        }
    }

    /// Undoes a smaller backlog (and a shutdown of a TCP socket, whose port is its own: see [`open_tcp`]).
    pub(crate) fn listen_again(&self) {
        let _ = listen(&self.fd, Backlog::MAXALLOWABLE);
    }

    /// After a hang-up: makes the place listen again.
    ///
    /// # Errors
    /// When that cannot be done; the socket stays dead.
    pub(crate) fn mend(&mut self) -> Result<Mended> {
        match self.place.clone() {
            Place::Tcp(address) => {
                // The port is kept where it was asked for; where it was 0 the shutdown has given it up.
                let storage = SockaddrStorage::from(address);
                match bind(self.fd.as_raw_fd(), &storage) {
                    Ok(()) | Err(Errno::EINVAL | Errno::EADDRINUSE) => {}
                    Err(e) => return Err(e).with_context(|| format!("cannot bind {} again", self.place)),
                }
                listen(&self.fd, Backlog::MAXALLOWABLE).with_context(|| format!("cannot listen on {}", self.place))?;
                let now: SockaddrStorage = getsockname(self.fd.as_raw_fd())?;
                if now != storage {
                    bail!("{} came back on another port; restart the master", self.place);
                }
                Ok(Mended::Revived)
            }
            Place::Unix { path, .. } => {
                self.remove_links();
                match fs::remove_file(&path) {
                    Err(e) if e.kind() != io::ErrorKind::NotFound => {
                        return Err(e).with_context(|| format!("cannot replace {}", path.display()));
                    }
                    _ => {}
                }
                let fresh = open(&self.place)?;
                nix::unistd::dup3(&fresh, &mut self.fd, OFlag::O_CLOEXEC).context("cannot replace a socket")?;
                self.keep_link();
                Ok(Mended::Replaced)
            }
        }
    }

    fn keep_link(&mut self) {
        let Place::Unix { path, .. } = &self.place else { return };
        if self.inherited {
            return;
        }
        let spare = beside(path, "phased");
        let _ = fs::remove_file(&spare);
        self.spare = fs::hard_link(path, &spare).is_ok().then_some(spare);
    }

    /// Watches a Unix socket's inode for a change of its links.
    pub(crate) fn watch(&self, inotify: &Inotify) {
        if let Some(spare) = &self.spare {
            let _ = inotify.add_watch(spare, AddWatchFlags::IN_ATTRIB);
        }
    }

    /// Links the path back when it no longer leads to our socket. True when that was needed.
    pub(crate) fn restore_path(&self) -> bool {
        let (Place::Unix { path, .. }, Some(spare)) = (&self.place, &self.spare) else { return false };
        if same_inode(path, spare) {
            return false;
        }
        let fresh = spare.with_extension("new");
        let _ = fs::remove_file(&fresh);
        // link and rename, so that whatever lies at the path meanwhile is replaced in one step
        fs::hard_link(spare, &fresh).and_then(|()| fs::rename(&fresh, path)).is_ok()
    }

    fn remove_links(&mut self) {
        if let Some(spare) = self.spare.take() {
            if let Place::Unix { path, .. } = &self.place
                && same_inode(path, &spare)
            {
                let _ = fs::remove_file(path);
            }
            let _ = fs::remove_file(spare);
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if !self.foreign {
            self.remove_links();
        }
    }
}

/// A hidden neighbour of a path.
pub(crate) fn beside(path: &Path, extension: &str) -> PathBuf {
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(".");
    name.push(extension);
    path.with_file_name(name)
}

fn same_inode(a: &Path, b: &Path) -> bool {
    match (fs::symlink_metadata(a), fs::symlink_metadata(b)) {
        (Ok(a), Ok(b)) => (a.dev(), a.ino()) == (b.dev(), b.ino()),
        _ => false,
    }
}

fn open(place: &Place) -> Result<OwnedFd> {
    let fd = match place {
        Place::Tcp(address) => open_tcp(*address).with_context(|| format!("cannot listen on {place}"))?,
        Place::Unix { path, mode, group } => {
            open_unix(path, *mode, group.as_deref()).with_context(|| format!("cannot listen on {place}"))?
        }
    };
    listen(&fd, Backlog::MAXALLOWABLE).with_context(|| format!("cannot listen on {place}"))?;
    Ok(fd)
}

/// A bound TCP socket. A port of the kernel's choice is bound a second time by its number: only a port that was asked
/// for stays a socket's own when somebody calls shutdown(2) on it; else the next listen(2) takes another one.
fn open_tcp(address: SocketAddr) -> Result<OwnedFd> {
    let first = bind_tcp(address)?;
    if address.port() != 0 {
        return Ok(first);
    }
    let chosen: SockaddrStorage = getsockname(first.as_raw_fd())?;
    let port = chosen.as_sockaddr_in().map(|a| a.port()).or_else(|| chosen.as_sockaddr_in6().map(|a| a.port()));
    // The first one, which does not listen, holds the port until the second one has it (SO_REUSEADDR).
    bind_tcp(SocketAddr::new(address.ip(), port.unwrap_or_default()))
}

fn bind_tcp(address: SocketAddr) -> Result<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let fd = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    setsockopt(&fd, sockopt::ReuseAddr, &true)?;
    match bind(fd.as_raw_fd(), &SockaddrStorage::from(address)) {
        Err(Errno::EADDRINUSE) => {
            let holder = holder::of_port(address).unwrap_or_else(|| "another process".into());
            // A worker that outlived its master keeps the socket until its app has finished.
            let drains = if holder.ends_with("(worker)") { "; it ends when its app has drained" } else { "" };
            bail!("address in use: {holder} listens there{drains}")
        }
        Err(Errno::EACCES) => bail!("permission denied: ports below 1024 need root or CAP_NET_BIND_SERVICE"),
        other => other?,
    }
    Ok(fd)
}

fn open_unix(path: &Path, mode: Option<u32>, group: Option<&str>) -> Result<OwnedFd> {
    if let Some(name) = group {
        // Before anything is made.
        find_group(name)?;
    }
    clear_stale(path)?;
    let fd = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    let address =
        UnixAddr::new(path).with_context(|| format!("{} bytes of path", path.as_os_str().as_bytes().len()))?;
    bind(fd.as_raw_fd(), &address)?;
    admit(path, mode, group)?;
    Ok(fd)
}

/// Says who may connect to a Unix socket.
fn admit(path: &Path, mode: Option<u32>, group: Option<&str>) -> Result<()> {
    if let Some(gid) = group.map(find_group).transpose()? {
        chown(path, None, Some(gid)).context("cannot give the socket to its group")?;
    }
    if let Some(mode) = mode {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).context("cannot set the socket's mode")?;
    }
    Ok(())
}

fn find_group(name: &str) -> Result<Gid> {
    let group = Group::from_name(name).with_context(|| format!("cannot look up the group '{name}'"))?;
    Ok(group.ok_or_else(|| anyhow!("there is no group '{name}'"))?.gid)
}

/// Makes way at a Unix socket's path: a socket that nobody listens on is removed, anything else stays.
pub(crate) fn clear_stale(path: &Path) -> Result<()> {
    let kind = match fs::symlink_metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(e).with_context(|| format!("cannot look at {}", path.display())),
        Ok(metadata) => metadata.file_type(),
    };
    if !kind.is_socket() {
        bail!("{} exists and is not a socket", path.display());
    }
    let until = timers::now() + DYING;
    // A child of a dead master's that has not executed yet keeps its sockets for an instant.
    let dead = |stream: &OwnedFd| holder::pid_of_peer(stream.as_fd()).is_some_and(has_ended);
    let met = loop {
        match try_connect(path) {
            Ok(stream) if dead(&stream) && timers::now() < until => std::thread::yield_now(),
            met => break met,
        }
    };
    match met {
        Ok(stream) => {
            let holder = holder::of_peer(stream.as_fd()).unwrap_or_else(|| "another process".into());
            bail!("address in use: {holder} listens there")
        }
        Err(Errno::EAGAIN) => {
            let holder = holder::of_path(path).unwrap_or_else(|| "another process".into());
            bail!("address in use: {holder} listens there, and takes no connection")
        }
        Err(Errno::ECONNREFUSED) => {
            fs::remove_file(path).with_context(|| format!("cannot remove the stale {}", path.display()))
        }
        Err(e) => Err(e).with_context(|| format!("cannot tell whether somebody listens on {}", path.display())),
    }
}

/// Connects without waiting: the queue of somebody who hangs may be full for ever (unix(7), EAGAIN).
fn try_connect(path: &Path) -> nix::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let stream = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    connect(stream.as_raw_fd(), &UnixAddr::new(path)?)?;
    Ok(stream)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tcp_socket_survives_shutdown_on_its_port() {
        let mut listener = Listener::bind(&Address::parse("tcp://127.0.0.1:0").unwrap(), 0).unwrap();
        let address = listener.plain_address();
        nix::sys::socket::shutdown(listener.fd.as_raw_fd(), nix::sys::socket::Shutdown::Both).unwrap();
        assert!(std::net::TcpStream::connect(&address).is_err());
        // Whoever listens on it first, an app or we: the port is the same.
        listener.listen_again();
        std::net::TcpStream::connect(&address).unwrap();
        nix::sys::socket::shutdown(listener.fd.as_raw_fd(), nix::sys::socket::Shutdown::Both).unwrap();
        assert_eq!(listener.mend().unwrap(), Mended::Revived);
        assert_eq!(listener.plain_address(), address);
        std::net::TcpStream::connect(&address).unwrap();
    }

    #[test]
    fn a_rehearsal_has_a_socket_where_the_folder_has_no_room_for_one() {
        let folder = tempfile::tempdir().unwrap();
        let room = 107 - folder.path().as_os_str().len() - 1;
        let public = format!("unix://{}/{}", folder.path().display(), "s".repeat(room));
        let public = Listener::bind(&Address::parse(&public).unwrap(), 0).unwrap();
        let spare = folder.path().join("spare");
        let private = public.private(&spare, None).unwrap();
        assert_eq!(private.plain_address(), spare.to_str().unwrap());
        std::os::unix::net::UnixStream::connect(&spare).unwrap();
        drop(private);
        assert!(!spare.exists());
        let said = format!("{:#}", public.private(&folder.path().join("none/spare"), None).unwrap_err());
        assert!(said.contains("110 bytes of path"), "{said}");
        assert!(said.contains("none/spare"), "{said}");
    }

    #[test]
    fn a_socket_whose_queue_is_full_is_in_use() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("app.sock");
        let hangs = {
            let fd = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
            bind(fd.as_raw_fd(), &UnixAddr::new(&path).unwrap()).unwrap();
            listen(&fd, Backlog::new(0).unwrap()).unwrap();
            fd
        };
        let _waits = try_connect(&path).unwrap();
        assert_eq!(try_connect(&path).unwrap_err(), Errno::EAGAIN);
        let said = clear_stale(&path).unwrap_err().to_string();
        assert!(said.contains(&format!("pid {}", std::process::id())), "{said}");
        assert!(path.exists());
        drop(hangs);
        clear_stale(&path).unwrap();
        assert!(!path.exists());
    }
}
