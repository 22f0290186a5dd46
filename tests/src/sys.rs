//! The few system calls that neither std nor nix offers safely; the only module of this crate with `unsafe`.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::atomic::{AtomicI32, Ordering};

use nix::libc;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

/// A descriptor that becomes readable when the process has ended.
///
/// # Errors
/// `ESRCH` when there is no such process (any more).
pub fn pidfd(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: pidfd_open takes two integers and returns a new descriptor or -1.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor for us; nobody else knows its number.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// Takes an inherited descriptor. `None` when it is not open.
#[must_use]
pub fn inherited(fd: RawFd) -> Option<OwnedFd> {
    // SAFETY: F_GETFD only asks whether the number names an open descriptor.
    if unsafe { libc::fcntl(fd, libc::F_GETFD) } < 0 {
        return None;
    }
    // SAFETY: the descriptor is open, and the caller (the fixture, once, at its start) is the only one who uses it.
    Some(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The backlog of a listening TCP socket.
///
/// # Errors
/// Those of getsockopt(2).
pub fn backlog(listener: &OwnedFd) -> io::Result<u32> {
    // SAFETY: tcp_info is a plain C structure; all its bytes may be zero.
    let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
    let mut length = size_of::<libc::tcp_info>() as libc::socklen_t;
    let to = (&raw mut info).cast();
    // SAFETY: `to` and `length` describe `info`, which outlives the call.
    let got = unsafe { libc::getsockopt(listener.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_INFO, to, &mut length) };
    // For a listening socket the kernel puts its backlog there (tcp_get_info).
    if got == 0 { Ok(info.tcpi_sacked) } else { Err(io::Error::last_os_error()) }
}

/// Gives a descriptor to a program that is about to be started, under this number.
pub fn hand_over(command: &mut Command, fd: OwnedFd, number: RawFd) {
    let give = move || {
        // SAFETY: dup2 and fcntl take numbers; `fd` is open, as the closure owns it.
        let done = unsafe {
            if fd.as_raw_fd() == number {
                libc::fcntl(number, libc::F_SETFD, 0)
            } else {
                libc::dup2(fd.as_raw_fd(), number)
            }
        };
        if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    };
    // SAFETY: between fork and exec the closure makes one async-signal-safe system call and allocates nothing.
    unsafe { command.pre_exec(give) };
}

static WAKE: AtomicI32 = AtomicI32::new(-1);

extern "C" fn wake(_: libc::c_int) {
    // SAFETY: write(2) is async-signal-safe; the buffer lives as long as the program.
    unsafe { libc::write(WAKE.load(Ordering::Relaxed), b"x".as_ptr().cast(), 1) };
}

/// From now on `signal` writes a byte to `fd` instead of ending the process. One `fd` a process.
///
/// # Errors
/// Those of sigaction(2).
pub fn on_signal(signal: Signal, fd: RawFd) -> nix::Result<()> {
    WAKE.store(fd, Ordering::Relaxed);
    let action = SigAction::new(SigHandler::Handler(wake), SaFlags::SA_RESTART, SigSet::empty());
    // SAFETY: the handler does nothing but one write(2).
    unsafe { sigaction(signal, &action) }.map(drop)
}

/// From now on `signal` is ignored.
///
/// # Errors
/// Those of sigaction(2).
pub fn ignore(signal: Signal) -> nix::Result<()> {
    let action = SigAction::new(SigHandler::SigIgn, SaFlags::empty(), SigSet::empty());
    // SAFETY: ignoring runs no code of ours.
    unsafe { sigaction(signal, &action) }.map(drop)
}
