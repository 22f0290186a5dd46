//! The one system call that neither std nor nix offers; the only module of this program with `unsafe`.
#![allow(unsafe_code)]

use std::io;
use std::net::TcpStream;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};

use nix::libc;

/// What another process has open under this number, shared with it. A [`TcpStream`] in name alone: it may be anything.
///
/// # Errors
/// Those of pidfd_getfd(2): `EPERM` where processes may not be traced.
pub(crate) fn of_process(pidfd: &impl AsFd, number: RawFd) -> io::Result<TcpStream> {
    // SAFETY: pidfd_getfd takes three integers and returns a new descriptor or -1.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_getfd, pidfd.as_fd().as_raw_fd(), number, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor for us; nobody else knows its number.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) }.into())
}
