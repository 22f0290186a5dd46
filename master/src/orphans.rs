//! Workers that have outlived their master: each listens at `SOCKET.d/NUMBER`, answers a new master with what it is, and
//! hands over the listening sockets that it holds.
//!
//! Nothing is adopted here; see [`crate::adoption`]. The sockets of workers that are gone are removed.

use std::ffi::OsString;
use std::fs;
use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::cmsg_space;
use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, MsgFlags, SockFlag, SockType, UnixAddr, connect, getsockopt, recvmsg, socket,
    sockopt,
};
use nix::sys::stat::Mode;
use nix::unistd::Uid;
use proto::worker::{FromWorker, Orphan};
use proto::{CodecError, Inbox, Incarnation};
use rollout::MAX_WORKERS;

use crate::{sys, timers};

/// How long workers may take to answer, all together. They do nothing else meanwhile.
const ANSWER: Duration = Duration::from_secs(5);
/// A number that no incarnation reaches.
pub(crate) const FAR: u64 = 1 << 48;
/// The most sockets that one message can bring (`SCM_MAX_FD`).
const MOST_SOCKETS: usize = 253;

/// The folder of the workers' own sockets.
pub(crate) fn folder(control: &Path) -> PathBuf {
    let mut name = control.as_os_str().to_owned();
    name.push(".d");
    PathBuf::from(name)
}

/// A worker's own socket.
pub(crate) fn place(control: &Path, worker: Incarnation) -> PathBuf {
    folder(control).join(worker.to_string())
}

/// Removes the socket of a worker that has ended.
pub(crate) fn forget(control: &Path, worker: Incarnation) {
    // Most workers have done so themselves.
    let _ = fs::remove_file(place(control, worker));
}

/// A worker that has answered.
#[derive(Debug)]
pub(crate) struct Met {
    pub(crate) pid: i32,
    /// Made while it lived, so that it is nobody else's; `None` for a child of this process, which is waited for.
    pub(crate) pidfd: Option<OwnedFd>,
    pub(crate) stream: UnixStream,
    pub(crate) inbox: Inbox<FromWorker>,
    pub(crate) facts: Orphan,
    /// In the order of [`Orphan::listeners`].
    pub(crate) sockets: Vec<OwnedFd>,
    /// It speaks our protocol.
    pub(crate) understands: bool,
}

/// How often one is read before the others' turn comes.
const READS: usize = 16;

/// Somebody who is being asked.
struct Asked {
    pid: i32,
    pidfd: OwnedFd,
    stream: UnixStream,
    inbox: Inbox<FromWorker>,
    sockets: Vec<OwnedFd>,
    understands: Option<bool>,
    facts: Option<Orphan>,
    /// It has closed the connection, or cannot be understood.
    over: bool,
}

/// Makes the folder where it is missing, and meets every worker there that says it belongs to `site`.
///
/// # Errors
/// When the folder cannot be made or read.
pub(crate) fn meet(control: &Path, site: &str) -> Result<Vec<Met>> {
    let folder = folder(control);
    let named = || format!("cannot use {}, where workers outlive a master", folder.display());
    make(&folder).with_context(named)?;
    let mut asked = Vec::new();
    for entry in fs::read_dir(&folder).with_context(named)? {
        let name = entry.with_context(named)?.file_name();
        // Anything else there is none of ours.
        if name.to_str().is_none_or(|name| name.parse::<u64>().is_err()) {
            continue;
        }
        match ask(&folder, &name) {
            Ok(Some(one)) => asked.push(one),
            // Its worker was killed: nobody will ever answer there.
            Ok(None) => {
                let path = folder.join(&name);
                if fs::symlink_metadata(&path).is_ok_and(|m| m.file_type().is_socket()) {
                    let _ = fs::remove_file(path);
                }
            }
            Err(error) => tracing::warn!("cannot reach a worker at {}: {error}", folder.join(&name).display()),
        }
    }
    hear(&mut asked);
    let mut met = Vec::new();
    let mut strangers = 0;
    for one in asked {
        let Asked { pid, pidfd, stream, inbox, sockets, understands, facts, .. } = one;
        // Whoever lives and does not answer is found by its app (see [`crate::adoption`]).
        let (Some(understands), Some(facts)) = (understands, facts) else { continue };
        // No worker of ours has such a number; whoever says so is not to be believed in anything.
        let absurd = facts.incarnation.0 >= FAR || facts.slot.0 >= MAX_WORKERS;
        if facts.site != site || absurd {
            strangers += 1;
            continue;
        }
        let ours = crate::leftovers::parent_of(pid) == Some(std::process::id() as i32);
        let pidfd = (!ours).then_some(pidfd);
        met.push(Met { pid, pidfd, stream, inbox, facts, sockets, understands });
    }
    if strangers > 0 {
        tracing::warn!("{strangers} workers in {} belong to another site: left alone", folder.display());
    }
    met.sort_by_key(|met| met.facts.incarnation);
    Ok(met)
}

/// Makes the folder, or sees that nobody else can have put anything there.
fn make(folder: &Path) -> Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let metadata = fs::symlink_metadata(folder)?;
    if !metadata.is_dir() || metadata.uid() != Uid::effective().as_raw() || metadata.mode() & 0o022 != 0 {
        bail!("it is not a folder of yours that nobody else may write to; remove it, or give another --socket");
    }
    Ok(())
}

/// Connects. `None`: nobody listens there any more.
fn ask(folder: &Path, name: &OsString) -> io::Result<Option<Asked>> {
    let stream = match reach(folder, name) {
        Ok(stream) => stream,
        Err(Errno::ECONNREFUSED | Errno::ENOENT | Errno::ENOTSOCK) => return Ok(None),
        Err(errno) => return Err(errno.into()),
    };
    let peer = getsockopt(&stream, sockopt::PeerCredentials)?;
    if ![0, Uid::effective().as_raw()].contains(&peer.uid()) {
        return Err(io::Error::other(format!("it belongs to uid {}", peer.uid())));
    }
    let pid = peer.pid();
    let pidfd = match sys::pidfd(pid) {
        Ok(pidfd) => pidfd,
        Err(error) if error.raw_os_error() == Some(Errno::ESRCH as i32) => return Ok(None),
        Err(error) => return Err(error),
    };
    let (inbox, sockets) = (Inbox::default(), Vec::new());
    Ok(Some(Asked { pid, pidfd, stream, inbox, sockets, understands: None, facts: None, over: false }))
}

/// A connection to a socket in a folder, however long its path is.
fn reach(folder: &Path, name: &OsString) -> Result<UnixStream, Errno> {
    let dir = open(folder, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
    let mut path = format!("/proc/self/fd/{}/", dir.as_raw_fd()).into_bytes();
    path.extend_from_slice(name.as_bytes());
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    connect(fd.as_raw_fd(), &UnixAddr::new(Path::new(std::ffi::OsStr::from_bytes(&path)))?)?;
    Ok(fd.into())
}

/// Hears them all, until each has said who it is or will not any more, or time is over.
fn hear(asked: &mut [Asked]) {
    let deadline = timers::now() + ANSWER;
    loop {
        let mut waits: Vec<&mut Asked> = asked.iter_mut().filter(|one| one.facts.is_none() && !one.over).collect();
        let left = deadline.saturating_duration_since(timers::now());
        if waits.is_empty() || left.is_zero() {
            return;
        }
        let mut fds: Vec<PollFd<'_>> =
            waits.iter().map(|one| PollFd::new(one.stream.as_fd(), PollFlags::POLLIN)).collect();
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        if poll(&mut fds, timeout).is_err() {
            continue;
        }
        let ready: Vec<bool> = fds.iter().map(|fd| fd.any() != Some(false)).collect();
        for (one, _) in waits.iter_mut().zip(ready).filter(|(_, ready)| *ready) {
            one.hear();
        }
    }
}

impl Asked {
    /// Reads what is there; of one that does not stop talking a part, so that it takes nobody else's time.
    fn hear(&mut self) {
        for _ in 0..READS {
            let mut buffer = [0; 16 << 10];
            let mut space = cmsg_space!([RawFd; MOST_SOCKETS]);
            let mut into = [IoSliceMut::new(&mut buffer)];
            let flags = MsgFlags::MSG_CMSG_CLOEXEC;
            let length = match recvmsg::<()>(self.stream.as_raw_fd(), &mut into, Some(&mut space), flags) {
                Ok(message) => {
                    for control in message.cmsgs().into_iter().flatten() {
                        if let ControlMessageOwned::ScmRights(fds) = control {
                            self.sockets.extend(fds.into_iter().map(sys::own));
                        }
                    }
                    message.bytes
                }
                Err(Errno::EINTR) => continue,
                Err(Errno::EAGAIN) => return,
                Err(_) => 0,
            };
            if length == 0 || self.sockets.len() > MOST_SOCKETS {
                self.over = true;
                return;
            }
            self.inbox.push(&buffer[..length]);
            match self.take() {
                Ok(true) => return,
                Ok(false) => {}
                Err(error) => {
                    tracing::warn!("worker process {}: {error}", self.pid);
                    self.over = true;
                    return;
                }
            }
        }
    }

    /// Takes what was said. True: it has said who it is.
    fn take(&mut self) -> Result<bool, CodecError> {
        while let Some(message) = self.inbox.take()? {
            match message {
                FromWorker::Hello(hello) => {
                    if let Err(mismatch) = hello.check() {
                        tracing::warn!("worker process {}: {mismatch}; it is replaced", self.pid);
                    }
                    self.understands = Some(hello.check().is_ok());
                }
                FromWorker::Orphan(facts) => {
                    self.facts = Some(*facts);
                    return Ok(true);
                }
                _ => {}
            }
        }
        Ok(false)
    }
}
