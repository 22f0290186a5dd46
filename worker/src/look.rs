//! One look at all processes of an app: does one of them wait on an inherited listener?
//!
//! The app need not cooperate and is not disturbed: everything is read from `/proc`. What a look cannot see it says, so that
//! [`crate::ready`] can decide.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;

use nix::libc;

use crate::net::{self, Address};
use crate::procfs::{self, Dir, Inode, Link};
use crate::sys;
use crate::syscall::{self, Wait};

/// The most of a poll array or fd set that is read, in bytes (as many as 64 Ki fds take in a poll array).
const ARRAY_BYTES: u64 = 512 << 10;

/// What one look saw.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// A process waits on an inherited listener.
    pub(crate) waiting: bool,
    /// A living process that may not be looked at; of several, the oldest generation's.
    pub(crate) denied: Option<i32>,
    /// A process that holds an inherited listener and waits in an io_uring, whose requests cannot be seen.
    pub(crate) ring: Option<i32>,
    /// Processes that hold sockets other than the listeners, and those sockets.
    pub(crate) sockets: Vec<(i32, Vec<Socket>)>,
}

/// A socket of a process.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Socket {
    fd: i32,
    inode: u64,
}

/// Knows what to look for.
pub(crate) struct Looker {
    inodes: Vec<Inode>,
    addresses: Vec<Address>,
    /// Lent to each look, as it would be asked for hundreds of times a second.
    text: Vec<u8>,
    fds: Vec<i32>,
    threads: Vec<i32>,
    /// Inodes of sockets that are no connections of the listeners, and never will be.
    dismissed: Vec<u64>,
    /// The kernel copies no sockets for us: only its tables are left.
    only_tables: bool,
}

impl Looker {
    /// Looks for those who wait on these sockets.
    pub(crate) fn new(listeners: &[OwnedFd]) -> Self {
        let inode = |fd: &OwnedFd| {
            let metadata = File::from(fd.try_clone().ok()?).metadata().ok()?;
            let device = metadata.dev();
            // fdinfo prints the kernel's own form of a device number.
            let device = u64::from(libc::major(device)) << 20 | u64::from(libc::minor(device));
            Some(Inode { number: metadata.ino(), device })
        };
        Self {
            inodes: listeners.iter().filter_map(inode).collect(),
            addresses: listeners.iter().filter_map(|fd| Address::of(fd.as_fd())).collect(),
            text: Vec::new(),
            fds: Vec::new(),
            threads: Vec::new(),
            dismissed: Vec::new(),
            only_tables: false,
        }
    }

    /// Looks at the app's first process and everything below the worker; stops at the first evidence.
    pub(crate) fn look(&mut self, app: i32) -> Seen {
        let mut seen = Seen::default();
        let Ok((mut pids, complete)) = procfs::first_descendants() else {
            seen.denied = Some(app);
            return seen;
        };
        let mut at = 0;
        while let Some(pid) = pids.get(at).copied().filter(|_| !seen.waiting) {
            at += 1;
            match self.look_at(pid, (!complete).then_some(&mut pids), &mut seen) {
                // A process that ends has nothing to show either; ESRCH comes from within its directory. But the first one is
                // there until the worker reaps it: who cannot see it sees no other user's processes (hidepid).
                Err(e) if is_gone(&e) && pid == app && Dir::open(&format!("/proc/{pid}")).is_err() => {
                    seen.denied.get_or_insert(pid);
                }
                Err(e) if e.kind() == ErrorKind::PermissionDenied && procfs::is_alive(pid) => {
                    seen.denied.get_or_insert(pid);
                }
                _ => {}
            }
        }
        seen
    }

    /// Whether the app has accepted a connection of an inherited listener: what a server shows that is too busy to be caught
    /// waiting.
    pub(crate) fn serves(&mut self, seen: &Seen) -> bool {
        for (pid, sockets) in &seen.sockets {
            for socket in sockets {
                if self.dismissed.contains(&socket.inode) {
                    continue;
                }
                match copy(*pid, socket.fd) {
                    Ok(copy) if net::is_connection(copy.as_fd(), &self.addresses) => return true,
                    Ok(_) => self.dismissed.push(socket.inode),
                    Err(e) if is_refused(&e) => self.only_tables = true,
                    // The process or the fd is gone.
                    Err(_) => {}
                }
            }
        }
        false
    }

    /// Whether [`Self::serves_by_tables`] may know more than [`Self::serves`], at a cost.
    pub(crate) fn needs_tables(&self, seen: &Seen) -> bool {
        self.only_tables && !seen.sockets.is_empty()
    }

    /// The same as [`Self::serves`], from the kernel's tables of all connections.
    pub(crate) fn serves_by_tables(&self, seen: &Seen) -> bool {
        seen.sockets.iter().any(|(pid, sockets)| net::holds_connection(*pid, &inodes(sockets), &self.addresses))
    }

    /// Where else the app listens.
    pub(crate) fn elsewhere(&self, seen: &Seen) -> Vec<Address> {
        let mut found = Vec::new();
        for (pid, sockets) in &seen.sockets {
            if self.only_tables {
                found.extend(net::listens_on(*pid, &inodes(sockets)));
            } else {
                let copies = sockets.iter().filter_map(|socket| copy(*pid, socket.fd).ok());
                found.extend(copies.filter_map(|copy| Address::of_listening(copy.as_fd())));
            }
        }
        // TCP first: a Unix socket beside it is often for something else.
        found.sort_unstable_by_key(|a| (matches!(a, Address::Unix(_)), a.to_string()));
        found.dedup();
        found
    }

    fn look_at(&mut self, pid: i32, children: Option<&mut Vec<i32>>, seen: &mut Seen) -> io::Result<()> {
        let proc = Dir::open(&format!("/proc/{pid}"))?;
        let tasks = proc.dir("task")?;
        tasks.numbers(&mut self.threads)?;
        if let Some(children) = children {
            procfs::add_children(&tasks, &self.threads, &mut self.text, children);
        }
        let (mut held, mut epolls, mut rings, mut sockets) = (Vec::new(), Vec::new(), false, Vec::new());
        let fds = proc.dir("fd")?;
        fds.numbers(&mut self.fds)?;
        let mut link = [0; 64];
        for fd in &self.fds {
            // One that was closed meanwhile shows nothing.
            match fds.link(*fd, &mut link).map(procfs::parse_link) {
                Ok(Link::Socket(inode)) if self.inodes.iter().any(|i| i.number == inode) => held.push(*fd),
                Ok(Link::Socket(inode)) => sockets.push(Socket { fd: *fd, inode }),
                Ok(Link::Epoll) => epolls.push(*fd),
                Ok(Link::Ring) => rings = true,
                Ok(Link::Other) => {}
                Err(e) if e.kind() == ErrorKind::PermissionDenied => return Err(e),
                Err(_) => {}
            }
        }
        for fd in epolls {
            if proc.read(&format!("fdinfo/{fd}"), &mut self.text).is_ok()
                && procfs::epoll_watches(&self.text, &held, &self.inodes)
            {
                seen.waiting = true;
                return Ok(());
            }
        }
        if !held.is_empty() {
            self.look_at_threads(pid, &proc, &tasks, &held, rings, seen)?;
        }
        if !sockets.is_empty() {
            seen.sockets.push((pid, sockets));
        }
        Ok(())
    }

    fn look_at_threads(
        &mut self,
        pid: i32,
        proc: &Dir,
        tasks: &Dir,
        held: &[i32],
        rings: bool,
        seen: &mut Seen,
    ) -> io::Result<()> {
        for i in 0..self.threads.len() {
            let id = self.threads[i];
            match tasks.read(&format!("{id}/syscall"), &mut self.text) {
                Ok(()) => {}
                // A kernel that does not have this file (gVisor).
                Err(e) if is_gone(&e) && id == pid && procfs::is_alive(pid) => {
                    return Err(ErrorKind::PermissionDenied.into());
                }
                Err(e) if is_gone(&e) => continue,
                Err(e) => return Err(e),
            }
            let waits = match syscall::parse(&self.text, &syscall::HERE) {
                Wait::Accept(fd) => held.contains(&fd),
                Wait::Poll { address, count } => {
                    self.read_memory(proc, address, count.saturating_mul(8))? && syscall::poll_holds(&self.text, held)
                }
                Wait::Select { address, limit } if address != 0 => {
                    // The kernel reads whole words.
                    let length = limit.div_ceil(64).saturating_mul(8);
                    self.read_memory(proc, address, length)? && syscall::set_holds(&self.text, limit, held)
                }
                Wait::Ring => {
                    if rings {
                        seen.ring = Some(pid);
                    }
                    false
                }
                _ => false,
            };
            if waits {
                seen.waiting = true;
                return Ok(());
            }
        }
        Ok(())
    }

    /// Reads a process's memory into `text`; false where the address is not there any more.
    fn read_memory(&mut self, proc: &Dir, address: u64, length: u64) -> io::Result<bool> {
        let memory = proc.file("mem")?;
        self.text.clear();
        self.text.resize(length.min(ARRAY_BYTES) as usize, 0);
        let got = sys::read_at(memory.as_fd(), &mut self.text, address);
        // Whatever is not readable there is a wait that is over by now.
        self.text.truncate(got.unwrap_or(0));
        Ok(!self.text.is_empty())
    }
}

fn copy(pid: i32, fd: i32) -> io::Result<OwnedFd> {
    sys::pidfd_copy(sys::pidfd(pid)?.as_fd(), fd)
}

/// The kernel is too old for this, or a container forbids it.
fn is_refused(e: &io::Error) -> bool {
    matches!(e.raw_os_error(), Some(libc::ENOSYS | libc::EPERM | libc::EACCES))
}

fn inodes(sockets: &[Socket]) -> Vec<u64> {
    sockets.iter().map(|s| s.inode).collect()
}

fn is_gone(e: &io::Error) -> bool {
    matches!(e.raw_os_error(), Some(libc::ENOENT | libc::ESRCH))
}
