//! The one question to the kernel that no safe wrapper asks.
#![allow(unsafe_code)]

use nix::libc;
use nix::sys::signal::Signal;

/// Whether this process was started with `signal` ignored (`nohup`, a background job of a script).
pub(crate) fn ignored(signal: Signal) -> bool {
    let mut old = std::mem::MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: a null new action only asks; `old` is a valid place for the answer.
    let asked = unsafe { libc::sigaction(signal as libc::c_int, std::ptr::null(), old.as_mut_ptr()) };
    // SAFETY: zeroed is a valid sigaction, and the kernel fills it in on success.
    let old = unsafe { old.assume_init() };
    asked == 0 && old.sa_sigaction == libc::SIG_IGN
}
