//! The `unsafe` of these tests: giving a child fds at the numbers that a worker expects, taking over those that come in messages,
//! a listener's backlog, and being another user.

#![allow(unsafe_code)]

use std::net::TcpListener;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::libc;

/// The child gets `fds` as 3, 4, …
pub fn pass(command: &mut Command, fds: Vec<OwnedFd>) {
    // SAFETY: between fork and exec only fcntl and dup2 are called, on fds that the closure owns.
    unsafe {
        command.pre_exec(move || {
            // First out of the way of each other, then into place.
            let mut away = [0; 16];
            for (to, from) in away.iter_mut().zip(&fds) {
                *to = libc::fcntl(from.as_raw_fd(), libc::F_DUPFD_CLOEXEC, 32);
            }
            for (to, from) in (3..).zip(&away[..fds.len()]) {
                if libc::dup2(*from, to) < 0 {
                    return Err(std::io::Error::last_os_error());
                }
            }
            Ok(())
        });
    }
}

/// A TCP listener's backlog (`tcp_info`'s `tcpi_sacked` is that, for a listener).
pub fn backlog(listener: &TcpListener) -> u32 {
    let mut info = [0u32; 64];
    let mut length = size_of_val(&info) as libc::socklen_t;
    // SAFETY: the pointers are to live locals, the length is theirs; any bytes are a valid array of numbers.
    let result = unsafe {
        libc::getsockopt(
            listener.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    assert_eq!(result, 0);
    // Eight bytes, then rto, ato, snd_mss, rcv_mss, unacked, sacked.
    info[7]
}

/// listen(2).
pub fn listen(listener: &TcpListener, backlog: i32) {
    // SAFETY: plain system call.
    assert_eq!(unsafe { libc::listen(listener.as_raw_fd(), backlog) }, 0);
}

/// Takes over an fd that has just been received.
pub fn received(fd: RawFd) -> OwnedFd {
    // SAFETY: the kernel has made it for the message that was received, and nobody else knows its number.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// Calls this as another user: a thread has a user of its own, where libc does not see to it that all threads have the same.
pub fn as_user<T: Send + 'static>(uid: u32, call: impl FnOnce() -> T + Send + 'static) -> T {
    let thread = std::thread::spawn(move || {
        // SAFETY: plain system call with numbers; the thread ends with this call.
        assert_eq!(unsafe { libc::syscall(libc::SYS_setresuid, uid, uid, uid) }, 0);
        call()
    });
    thread.join().unwrap()
}
