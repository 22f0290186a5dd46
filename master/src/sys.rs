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

/// Gives a child process this soft limit of open files: what the master was started with, not what it has raised its own to.
pub(crate) fn limit_files(pid: i32, soft: u64, hard: u64) {
    let limit = nix::libc::rlimit { rlim_cur: soft, rlim_max: hard };
    // SAFETY: the new limit is read from a living value, and no old one is written.
    unsafe { nix::libc::prlimit(pid, nix::libc::RLIMIT_NOFILE, &raw const limit, std::ptr::null_mut()) };
}

/// Undoes an ignored SIGCHLD, which some parents hand down: the kernel would reap our children before we can wait.
pub(crate) fn default_sigchld() {
    // SAFETY: the default disposition runs no code of ours.
    let _ = unsafe { nix::sys::signal::signal(nix::sys::signal::SIGCHLD, nix::sys::signal::SigHandler::SigDfl) };
}
