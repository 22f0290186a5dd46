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

/// Puts a copy of an fd at this number, open across an exec, whatever was there before. For the last moments of a
/// program: who owned that number does not any more.
pub(crate) fn place(fd: std::os::fd::BorrowedFd<'_>, number: RawFd) {
    use std::os::fd::AsRawFd;
    // SAFETY: dup2 takes two integers; the caller promises that nobody relies on what was open at `number`.
    unsafe { nix::libc::dup2(fd.as_raw_fd(), number) };
}

/// Takes over an fd that a system call has just made.
pub(crate) fn own(fd: RawFd) -> OwnedFd {
    // SAFETY: callers pass the fresh result of fcntl(F_DUPFD_CLOEXEC), which nobody else owns.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// Gives a child process a limit.
///
/// # Errors
/// Whatever prlimit(2) says.
pub(crate) fn limit(pid: i32, what: nix::sys::resource::Resource, soft: u64, hard: u64) -> std::io::Result<()> {
    let limit = nix::libc::rlimit { rlim_cur: soft, rlim_max: hard };
    // SAFETY: the new limit is read from a living value, and no old one is written.
    let set = unsafe { nix::libc::prlimit(pid, what as _, &raw const limit, std::ptr::null_mut()) };
    if set < 0 { Err(std::io::Error::last_os_error()) } else { Ok(()) }
}

/// Undoes an ignored SIGCHLD, which some parents hand down: the kernel would reap our children before we can wait.
pub(crate) fn default_sigchld() {
    // SAFETY: the default disposition runs no code of ours.
    let _ = unsafe { nix::sys::signal::signal(nix::sys::signal::SIGCHLD, nix::sys::signal::SigHandler::SigDfl) };
}

/// A descriptor that stands for a process, and becomes readable when that has ended.
///
/// # Errors
/// Whatever pidfd_open(2) says; `ESRCH` when there is no such process any more.
pub(crate) fn pidfd(pid: i32) -> std::io::Result<OwnedFd> {
    // SAFETY: pidfd_open takes two integers, and gives a new descriptor (close-on-exec) or -1.
    let fd = unsafe { nix::libc::syscall(nix::libc::SYS_pidfd_open, pid, 0) };
    if fd < 0 { Err(std::io::Error::last_os_error()) } else { Ok(own(fd as RawFd)) }
}

/// Signals the process behind a [`pidfd`], and no other one that may have its number by now.
///
/// # Errors
/// Whatever pidfd_send_signal(2) says; `ESRCH` when it has ended.
pub(crate) fn pidfd_kill(pidfd: &OwnedFd, signal: i32) -> std::io::Result<()> {
    use std::os::fd::AsRawFd;
    let (none, flags) = (std::ptr::null::<nix::libc::siginfo_t>(), 0);
    // SAFETY: the descriptor is open, and the null pointer asks for what kill(2) would send.
    let sent = unsafe { nix::libc::syscall(nix::libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, none, flags) };
    if sent < 0 { Err(std::io::Error::last_os_error()) } else { Ok(()) }
}
