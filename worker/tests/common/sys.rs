//! The one `unsafe` of these tests: giving a child fds at the numbers that a worker expects.

#![allow(unsafe_code)]

use std::os::fd::{AsRawFd, OwnedFd};
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
