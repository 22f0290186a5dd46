//! The app's processes: signals to them, and taking in their ends.
//!
//! The first process leads a group of its own; the worker is the subreaper, so that whatever the app forks, daemonised or
//! not, stays below the worker until it ends. No child is left if and only if no descendant is.

use std::os::fd::AsFd;

use nix::libc;
use proto::worker::ExitStatus;

use crate::procfs;
use crate::sys::{self, Reaped};

/// One app, or a hook that is run before it or instead of it.
#[derive(Debug)]
pub(crate) struct App {
    /// Its first process, also its group.
    pub(crate) pid: i32,
    /// How that one ended.
    pub(crate) exit: Option<ExitStatus>,
    /// Whether any process of the app is left, as far as has been reaped.
    pub(crate) is_left: bool,
}

impl App {
    /// An app whose first process has been made.
    pub(crate) fn new(pid: i32) -> Self {
        Self { pid, exit: None, is_left: true }
    }

    /// Takes in all ends so far, and gives them.
    pub(crate) fn reap(&mut self) -> Vec<(i32, ExitStatus)> {
        let mut ended = Vec::new();
        loop {
            match sys::reap() {
                Reaped::Ended(pid, status) => ended.push((pid, status)),
                Reaped::NoneYet => break,
                Reaped::NoneLeft => {
                    self.is_left = false;
                    break;
                }
            }
        }
        if self.exit.is_none() {
            self.exit = ended.iter().find(|(pid, _)| *pid == self.pid).map(|(_, status)| *status);
        }
        ended
    }

    /// Signals the first process, if it has not ended: until it is reaped its number is its own.
    pub(crate) fn signal_first(&self, signal: i32) {
        if self.exit.is_none() {
            sys::kill(self.pid, signal);
        }
    }

    /// Signals everything that is left.
    pub(crate) fn signal_all(&self, signal: i32) {
        match procfs::descendants() {
            Ok(pids) => pids.into_iter().for_each(|pid| signal_one(pid, signal)),
            // Without /proc there is still the group. Its number is its own while anything of it is left, and what is left of the
            // app is most likely of it.
            Err(_) if self.is_left => sys::kill_group(self.pid, signal),
            Err(_) => {}
        }
    }
}

/// Signals a descendant that may be somebody else's child: its number may go to another process at any moment, while a handle
/// stays with the one that it was opened for.
fn signal_one(pid: i32, signal: i32) {
    match sys::pidfd(pid) {
        Ok(handle) if procfs::is_descendant(pid) => sys::pidfd_signal(handle.as_fd(), signal),
        Ok(_) => {}
        Err(e) if e.raw_os_error() == Some(libc::ESRCH) => {}
        // Before Linux 5.3, or out of fds.
        Err(_) => sys::kill(pid, signal),
    }
}
