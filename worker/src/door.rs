//! The worker's own socket: where a new master finds it when the old one is gone.
//!
//! It is made before the app is, and asked by nobody while there is a master: whoever connects then waits in the backlog.

use std::ffi::OsString;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use nix::fcntl::AtFlags;
use nix::libc;
use nix::sys::socket::getsockopt;
use nix::sys::socket::sockopt::PeerCredentials;
use nix::sys::stat::{Mode, fstatat, umask};
use nix::unistd::{UnlinkatFlags, geteuid, unlinkat};
use proto::worker::{BootSpec, Task};

use crate::sys;

/// A listening socket in a folder; its file goes when this goes.
pub(crate) struct Door {
    socket: UnixListener,
    folder: OwnedFd,
    name: OsString,
    /// Device and number of the file, as another one may be at its place by the end.
    inode: (u64, u64),
}

impl Door {
    /// Makes the socket that was ordered. Only an app that serves has one; without it the worker works as well, until its master
    /// is gone.
    pub(crate) fn open(spec: &BootSpec) -> Option<Self> {
        if spec.orphan_socket.is_empty() || spec.task != Task::Serve {
            return None;
        }
        let path = OsString::from_vec(spec.orphan_socket.clone());
        let made = Self::make(Path::new(&path));
        made.inspect_err(|e| {
            let path = path.display();
            complain!("slot {}: cannot make the socket {path}: {e}; this worker cannot be adopted", spec.slot);
        })
        .ok()
    }

    fn make(path: &Path) -> io::Result<Self> {
        let (Some(folder), Some(name), true) = (path.parent(), path.file_name(), path.is_absolute()) else {
            return Err(io::Error::new(ErrorKind::InvalidInput, "not an absolute path of a file"));
        };
        let c_folder = std::ffi::CString::new(folder.as_os_str().as_bytes())?;
        // The path is absolute, so that the fd does not matter.
        let folder = sys::open_at(sys::standard(1), &c_folder, libc::O_PATH | libc::O_DIRECTORY)?;
        match unlinkat(&folder, name, UnlinkatFlags::NoRemoveDir) {
            // Left by a worker that was killed.
            Ok(()) | Err(nix::Error::ENOENT) => {}
            Err(e) => return Err(e.into()),
        }
        // A socket's address holds 107 bytes, and a folder's path may be longer than that.
        let short = Path::new("/proc/self/fd").join(folder.as_raw_fd().to_string()).join(name);
        let before = umask(Mode::from_bits_truncate(0o177));
        let bound = UnixListener::bind(short);
        umask(before);
        let socket = bound?;
        let made = fstatat(&folder, name, AtFlags::AT_SYMLINK_NOFOLLOW)?;
        let door = Self { socket, folder, name: name.into(), inode: (made.st_dev, made.st_ino) };
        door.socket.set_nonblocking(true)?;
        Ok(door)
    }

    /// What to poll.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Lets one in who waits; its connection does not block. `None`: nobody waits any more, or it was somebody who may not come in.
    ///
    /// # Errors
    /// When nobody can come in for now: fds or memory have run out.
    pub(crate) fn admit(&self) -> io::Result<Option<UnixStream>> {
        match self.socket.accept() {
            Ok((stream, _)) if is_admitted(&stream) => stream.set_nonblocking(true).map(|()| Some(stream)),
            Ok(_) => Ok(None),
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::ConnectionAborted) => Ok(None),
            Err(e) => Err(e),
        }
    }
}

/// Whether a peer is root or of this user.
fn is_admitted(stream: &UnixStream) -> bool {
    getsockopt(stream, PeerCredentials).is_ok_and(|peer| peer.uid() == 0 || peer.uid() == geteuid().as_raw())
}

impl Drop for Door {
    fn drop(&mut self) {
        let found = fstatat(&self.folder, self.name.as_os_str(), AtFlags::AT_SYMLINK_NOFOLLOW);
        if found.is_ok_and(|file| (file.st_dev, file.st_ino) == self.inode) {
            // Where this fails, the file is one more that nobody listens on.
            let _ = unlinkat(&self.folder, self.name.as_os_str(), UnlinkatFlags::NoRemoveDir);
        }
    }
}
