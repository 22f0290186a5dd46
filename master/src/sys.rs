//! The only unsafe code of the master: taking over what it was started with.
#![allow(unsafe_code)]

use std::os::fd::{FromRawFd, OwnedFd, RawFd};

/// Takes over fds `first..first + count`, as a service manager passed them. Call it once, before any other fd is opened.
pub(crate) fn adopt_fds(first: RawFd, count: u32) -> Vec<OwnedFd> {
    let open = |fd: &RawFd| std::path::Path::new(&format!("/proc/self/fd/{fd}")).exists();
    (first..first.saturating_add_unsigned(count))
        .filter(open)
        // SAFETY: the fd is open, the service manager's contract (sd_listen_fds(3)) makes it ours, and the caller
        // promises that nothing else of this process has taken it over.
        .map(|fd| unsafe { OwnedFd::from_raw_fd(fd) })
        .collect()
}

/// Takes over an fd that a system call has just made.
pub(crate) fn own(fd: RawFd) -> OwnedFd {
    // SAFETY: callers pass the fresh result of fcntl(F_DUPFD_CLOEXEC), which nobody else owns.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// Undoes an ignored SIGCHLD, which some parents hand down: the kernel would reap our children before we can wait.
pub(crate) fn default_sigchld() {
    // SAFETY: the default disposition runs no code of ours.
    let _ = unsafe { nix::sys::signal::signal(nix::sys::signal::SIGCHLD, nix::sys::signal::SigHandler::SigDfl) };
}
