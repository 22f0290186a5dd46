//! Every `unsafe` of the worker: fork and exec, inherited fds, and the system calls that std and nix do not have.
//!
//! Nothing here decides anything. Called by the rest of the crate; panics nowhere.

#![allow(unsafe_code)]

use std::ffi::{CStr, CString};
use std::io;
use std::mem::{MaybeUninit, size_of, zeroed};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;
use std::time::Duration;

use nix::libc;
use proto::worker::ExitStatus;

/// What `fork_held` makes a process of. Everything is prepared before the fork; the child allocates nothing.
pub(crate) struct Program<'a> {
    /// What to execute, relative to `dir` or absolute.
    pub(crate) path: &'a CStr,
    /// The words, `argv[0]` first.
    pub(crate) argv: &'a [CString],
    /// `KEY=value` entries, each with its closing NUL.
    pub(crate) env: &'a mut [Vec<u8>],
    /// The entry of `env` that is `LISTEN_PID=` with room for ten digits.
    pub(crate) listen_pid: Option<usize>,
    /// The working directory.
    pub(crate) dir: BorrowedFd<'a>,
    /// Standard input, output and error.
    pub(crate) stdio: [BorrowedFd<'a>; 3],
    /// What becomes fd 3, 4, …; their own numbers are above the number that each gets.
    pub(crate) listeners: &'a [OwnedFd],
    /// Sent to the first process when the worker dies.
    pub(crate) death_signal: i32,
    /// The child executes when a byte arrives here …
    pub(crate) go: BorrowedFd<'a>,
    /// … and writes `errno` here when it cannot.
    pub(crate) trouble: BorrowedFd<'a>,
}

/// Forks; the child prepares itself, waits for the go-byte and executes. Its trouble comes as four bytes
/// of errno (native order) on `trouble`, which is closed by a successful exec.
///
/// # Errors
/// Whatever fork(2) says.
pub(crate) fn fork_held(program: &mut Program<'_>) -> io::Result<i32> {
    let mut argv: Vec<*const libc::c_char> = program.argv.iter().map(|a| a.as_ptr()).collect();
    argv.push(ptr::null());
    let mut env: Vec<*mut u8> = program.env.iter_mut().map(|e| e.as_mut_ptr()).collect();
    env.push(ptr::null_mut());
    let listeners: Vec<RawFd> = program.listeners.iter().map(AsRawFd::as_raw_fd).collect();
    let digits = program.listen_pid.map(|i| (env[i], "LISTEN_PID=".len()));
    // SAFETY: getpid has no preconditions.
    let worker = unsafe { libc::getpid() };
    // SAFETY: the worker has one thread, so no lock can be held by another one; the child below only makes
    // async-signal-safe calls on memory that was prepared above.
    let pid = unsafe { libc::fork() };
    if pid < 0 {
        return Err(io::Error::last_os_error());
    }
    if pid > 0 {
        // Both sides do it, so that neither ever sees the other's group.
        // SAFETY: plain system call on our own child.
        unsafe { libc::setpgid(pid, pid) };
        return Ok(pid);
    }
    // SAFETY: in the child: only async-signal-safe calls, all pointers outlive them, and it never returns.
    unsafe {
        libc::setpgid(0, 0);
        // Not signal(2): glibc keeps two numbers for itself, which may be inherited as ignored all the same. Zeros are SIG_DFL.
        let default = [0u64; 4];
        for signal in 1..=64 {
            libc::syscall(libc::SYS_rt_sigaction, signal, default.as_ptr(), ptr::null_mut::<u8>(), 8usize);
        }
        // Without this an orphan of a worker that died before the next call would wait for ever.
        libc::prctl(libc::PR_SET_PDEATHSIG, program.death_signal as libc::c_ulong, 0, 0, 0);
        if libc::getppid() != worker {
            libc::_exit(127);
        }
        let mut none: libc::sigset_t = zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, ptr::null_mut());
        let trouble = program.trouble.as_raw_fd();
        let prepared = libc::fchdir(program.dir.as_raw_fd()) == 0
            && (0..3).all(|i| libc::dup2(program.stdio[i as usize].as_raw_fd(), i) == i)
            && (3..).zip(&listeners).all(|(to, from)| libc::dup2(*from, to) == to);
        if prepared {
            close_on_exec_from(3 + listeners.len() as libc::c_uint);
            if let Some((entry, at)) = digits {
                write_decimal(entry.add(at), libc::getpid() as u32);
            }
            let mut go = 0u8;
            loop {
                let got = libc::read(program.go.as_raw_fd(), (&raw mut go).cast(), 1);
                if got == 1 {
                    break;
                }
                if got == 0 || *libc::__errno_location() != libc::EINTR {
                    libc::_exit(127);
                }
            }
            libc::execve(program.path.as_ptr(), argv.as_ptr(), env.as_ptr().cast());
        }
        let errno = *libc::__errno_location();
        libc::write(trouble, (&raw const errno).cast(), size_of::<libc::c_int>());
        libc::_exit(127)
    }
}

/// Sets close-on-exec on every fd from `first` on (async-signal-safe).
///
/// # Safety
/// To be called between fork and exec only: it changes fds that others own.
unsafe fn close_on_exec_from(first: libc::c_uint) {
    const CLOSE_RANGE_CLOEXEC: libc::c_uint = 4;
    // SAFETY: plain system calls on numbers.
    unsafe {
        if libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, CLOSE_RANGE_CLOEXEC) == 0 {
            return;
        }
        // Before Linux 5.11. All that the worker opens is close-on-exec anyway.
        for fd in first as RawFd..4096 {
            libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC);
        }
    }
}

/// Writes `number` in decimal and a NUL.
///
/// # Safety
/// `at` has room for eleven bytes.
unsafe fn write_decimal(at: *mut u8, number: u32) {
    let mut digits = [0u8; 10];
    let mut left = number;
    let mut length = 0;
    loop {
        digits[length] = b'0' + (left % 10) as u8;
        length += 1;
        left /= 10;
        if left == 0 {
            break;
        }
    }
    for i in 0..length {
        // SAFETY: at most ten digits, for which the caller vouches.
        unsafe { *at.add(i) = digits[length - 1 - i] };
    }
    // SAFETY: the eleventh byte at most.
    unsafe { *at.add(length) = 0 };
}

/// Takes over an fd that this process was started with, and makes it close-on-exec; `None` when it is not open.
pub(crate) fn take_inherited(fd: RawFd) -> Option<OwnedFd> {
    // SAFETY: fcntl checks the number itself.
    if unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) } < 0 {
        return None;
    }
    // SAFETY: it is open, and every inherited number is taken once, at start, before anything else is opened.
    Some(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Whether an inherited fd is a pipe.
pub(crate) fn is_pipe(fd: RawFd) -> bool {
    is_kind(fd, libc::S_IFIFO)
}

/// Whether an inherited fd is a socket.
pub(crate) fn is_socket(fd: RawFd) -> bool {
    is_kind(fd, libc::S_IFSOCK)
}

fn is_kind(fd: RawFd, kind: libc::mode_t) -> bool {
    let mut stat = MaybeUninit::<libc::stat>::uninit();
    // SAFETY: fstat checks the number and fills the whole struct when it returns 0.
    unsafe { libc::fstat(fd, stat.as_mut_ptr()) == 0 && stat.assume_init().st_mode & libc::S_IFMT == kind }
}

/// The worker's own standard output (1) or error (2), never closed by us.
pub(crate) fn standard(fd: RawFd) -> BorrowedFd<'static> {
    // SAFETY: std has opened 0 to 2 at start where they were closed, and the worker never closes 1 and 2.
    unsafe { BorrowedFd::borrow_raw(fd) }
}

/// listen(2) with this backlog.
///
/// # Errors
/// Whatever listen(2) says.
pub(crate) fn listen(fd: BorrowedFd<'_>, backlog: u32) -> io::Result<()> {
    // SAFETY: plain system call.
    check(unsafe { libc::listen(fd.as_raw_fd(), i32::try_from(backlog).unwrap_or(i32::MAX)) }).map(drop)
}

/// write(2).
///
/// # Errors
/// Whatever write(2) says.
pub(crate) fn write(fd: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<usize> {
    // SAFETY: the slice is valid for its length.
    checked_size(unsafe { libc::write(fd.as_raw_fd(), bytes.as_ptr().cast(), bytes.len()) })
}

/// send(2) that neither blocks nor raises SIGPIPE, whatever the socket's own mode is.
///
/// # Errors
/// Whatever send(2) says.
pub(crate) fn send_now(fd: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<usize> {
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: the slice is valid for its length.
    checked_size(unsafe { libc::send(fd.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), flags) })
}

/// read(2).
///
/// # Errors
/// Whatever read(2) says.
pub(crate) fn read(fd: BorrowedFd<'_>, into: &mut [u8]) -> io::Result<usize> {
    // SAFETY: the slice is valid for its length.
    checked_size(unsafe { libc::read(fd.as_raw_fd(), into.as_mut_ptr().cast(), into.len()) })
}

/// pread64(2): at a position, which for `/proc/PID/mem` is an address of that process.
///
/// # Errors
/// Whatever pread64(2) says.
pub(crate) fn read_at(fd: BorrowedFd<'_>, into: &mut [u8], position: u64) -> io::Result<usize> {
    // SAFETY: the slice is valid for its length; addresses above i64::MAX are the kernel's to refuse.
    checked_size(unsafe {
        libc::pread64(fd.as_raw_fd(), into.as_mut_ptr().cast(), into.len(), position as libc::off64_t)
    })
}

/// openat(2), close-on-exec, without a mode.
///
/// # Errors
/// Whatever openat(2) says.
pub(crate) fn open_at(dir: BorrowedFd<'_>, path: &CStr, flags: i32) -> io::Result<OwnedFd> {
    // SAFETY: the path is a C string; a new fd is ours alone.
    let fd = check(unsafe { libc::openat(dir.as_raw_fd(), path.as_ptr(), flags | libc::O_CLOEXEC) })?;
    // SAFETY: just opened.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// readlinkat(2) into a buffer; a longer target is cut.
///
/// # Errors
/// Whatever readlinkat(2) says.
pub(crate) fn read_link<'b>(dir: BorrowedFd<'_>, name: &CStr, into: &'b mut [u8]) -> io::Result<&'b [u8]> {
    // SAFETY: a C string, and a slice valid for its length.
    let length = checked_size(unsafe {
        libc::readlinkat(dir.as_raw_fd(), name.as_ptr(), into.as_mut_ptr().cast(), into.len())
    })?;
    Ok(&into[..length])
}

/// Calls `each` with every entry of a directory whose name is a number, which is all that procfs lists of fds,
/// tasks and processes. `buffer` is only lent, and read through again and again.
///
/// # Errors
/// Whatever getdents64(2) says.
pub(crate) fn numbered_entries(dir: BorrowedFd<'_>, buffer: &mut [u64], mut each: impl FnMut(i32)) -> io::Result<()> {
    // struct linux_dirent64 { u64 d_ino; i64 d_off; u16 d_reclen; u8 d_type; char d_name[]; }, 8-byte aligned.
    const RECLEN: usize = 16;
    const NAME: usize = 19;
    let size = size_of_val(buffer);
    loop {
        // SAFETY: the buffer is valid and writable for `size` bytes.
        let got = unsafe { libc::syscall(libc::SYS_getdents64, dir.as_raw_fd(), buffer.as_mut_ptr(), size) };
        let filled = checked_size(got as isize)?;
        if filled == 0 {
            return Ok(());
        }
        // SAFETY: the kernel filled that many bytes of the buffer.
        let bytes = unsafe { std::slice::from_raw_parts(buffer.as_ptr().cast::<u8>(), filled) };
        let mut at = 0;
        while let Some(&[low, high]) = bytes.get(at + RECLEN..at + RECLEN + 2) {
            let length = usize::from(u16::from_ne_bytes([low, high]));
            let Some(entry) = bytes.get(at + NAME..at + length) else { break };
            let mut number = None;
            for byte in entry.iter().take_while(|b| **b != 0) {
                number = match byte {
                    b'0'..=b'9' => Some(number.unwrap_or(0) * 10 + i32::from(byte - b'0')),
                    _ => None,
                };
                if number.is_none() {
                    break;
                }
            }
            if let Some(number) = number {
                each(number);
            }
            at += length;
        }
        // No entry that is listed here takes this much: what is left of the buffer was not needed.
        if size - filled >= 128 {
            return Ok(());
        }
    }
}

/// A datagram socket with an abstract name that the kernel chose and no other process can have taken, which
/// hears its senders' credentials. The name is without its leading NUL.
///
/// # Errors
/// Whatever socket(2), bind(2), setsockopt(2) or getsockname(2) say.
pub(crate) fn autobound_datagram() -> io::Result<(OwnedFd, Vec<u8>)> {
    // SAFETY: plain system call; a new fd is ours alone.
    let fd = unsafe {
        let kind = libc::SOCK_DGRAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        OwnedFd::from_raw_fd(check(libc::socket(libc::AF_UNIX, kind, 0))?)
    };
    // SAFETY: an all-zero sockaddr_un is a valid one.
    let mut address: libc::sockaddr_un = unsafe { zeroed() };
    address.sun_family = libc::AF_UNIX as libc::sa_family_t;
    let family = size_of::<libc::sa_family_t>();
    let on: libc::c_int = 1;
    let mut length = size_of::<libc::sockaddr_un>() as libc::socklen_t;
    // SAFETY: each pointer is to a live local of the length that is passed with it. bind(2) with nothing but the
    // family is autobind (unix(7)).
    unsafe {
        check(libc::bind(fd.as_raw_fd(), (&raw const address).cast(), family as libc::socklen_t))?;
        let option = (&raw const on).cast();
        check(libc::setsockopt(fd.as_raw_fd(), libc::SOL_SOCKET, libc::SO_PASSCRED, option, 4))?;
        check(libc::getsockname(fd.as_raw_fd(), (&raw mut address).cast(), &raw mut length))?;
    }
    let name = address.sun_path.iter().take((length as usize).saturating_sub(family)).skip(1);
    // Signed on one architecture, unsigned on the other.
    let name = name.flat_map(|c| c.to_ne_bytes()).collect();
    Ok((fd, name))
}

/// Who sent a datagram: process and user, as the kernel vouches for.
pub(crate) struct Sender {
    /// The sending process.
    pub(crate) pid: i32,
    /// Its user.
    pub(crate) uid: u32,
}

/// Receives one datagram (without waiting) and who sent it; fds in it are closed by the kernel, for want of room.
///
/// # Errors
/// Whatever recvmsg(2) says.
pub(crate) fn receive(fd: BorrowedFd<'_>, into: &mut [u8]) -> io::Result<(usize, Option<Sender>)> {
    // Exactly one struct ucred (unix(7)): header, then three 32-bit numbers. The kernel puts credentials first.
    const HEADER: usize = size_of::<libc::cmsghdr>();
    let mut control = [0u64; (HEADER + size_of::<libc::ucred>()).div_ceil(8)];
    let mut part = libc::iovec { iov_base: into.as_mut_ptr().cast(), iov_len: into.len() };
    // SAFETY: an all-zero msghdr is a valid one.
    let mut message: libc::msghdr = unsafe { zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = (HEADER + size_of::<libc::ucred>()) as _;
    // SAFETY: all of the message points to live locals of the stated lengths.
    let got = checked_size(unsafe {
        libc::recvmsg(fd.as_raw_fd(), &raw mut message, libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC)
    })?;
    // SAFETY: CMSG_FIRSTHDR returns null or a header inside `control`, which is aligned for it; its data is one
    // ucred when level, type and length say so.
    let sender = unsafe {
        let header = libc::CMSG_FIRSTHDR(&raw const message);
        if !header.is_null()
            && (*header).cmsg_level == libc::SOL_SOCKET
            && (*header).cmsg_type == libc::SCM_CREDENTIALS
            && (*header).cmsg_len as usize >= HEADER + size_of::<libc::ucred>()
        {
            let credentials = ptr::read_unaligned(libc::CMSG_DATA(header).cast::<libc::ucred>());
            Some(Sender { pid: credentials.pid, uid: credentials.uid })
        } else {
            None
        }
    };
    Ok((got, sender))
}

/// A handle on a process that its number's next owner cannot take over (Linux 5.3).
///
/// # Errors
/// Whatever pidfd_open(2) says.
pub(crate) fn pidfd(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: plain system call; a new fd is ours alone, and the kernel makes it close-on-exec.
    unsafe {
        let fd = check(libc::syscall(libc::SYS_pidfd_open, pid, 0) as i32)?;
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

/// A copy of another process's fd (Linux 5.6); it needs the same permission as looking at the process's system calls.
///
/// # Errors
/// Whatever pidfd_getfd(2) says.
pub(crate) fn pidfd_copy(pidfd: BorrowedFd<'_>, fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: plain system call; a new fd is ours alone, and the kernel makes it close-on-exec.
    unsafe {
        let fd = check(libc::syscall(libc::SYS_pidfd_getfd, pidfd.as_raw_fd(), fd, 0) as i32)?;
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

/// Signals the process behind a [`pidfd`].
pub(crate) fn pidfd_signal(pidfd: BorrowedFd<'_>, signal: i32) {
    let none = ptr::null::<libc::siginfo_t>();
    // SAFETY: plain system call; a null siginfo is allowed. A process that is gone needs no signal.
    unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, none, 0) };
}

/// Has the kernel tell of children that end, and keep their status, even if the worker was started with SIGCHLD ignored; not
/// of those that stop.
pub(crate) fn hear_of_children() {
    // SAFETY: an all-zero sigaction is SIG_DFL with an empty mask; the pointers are to live locals or null.
    unsafe {
        let mut action: libc::sigaction = zeroed();
        action.sa_flags = libc::SA_NOCLDSTOP;
        libc::sigaction(libc::SIGCHLD, &raw const action, ptr::null_mut());
    }
}

/// What waiting for any child said.
pub(crate) enum Reaped {
    /// This child ended like this and is no more.
    Ended(i32, ExitStatus),
    /// There are children, and none of them has ended.
    NoneYet,
    /// There are no children.
    NoneLeft,
}

/// Takes in the end of one child, without waiting.
pub(crate) fn reap() -> Reaped {
    loop {
        let mut status = 0;
        // SAFETY: the pointer is to a live local.
        let pid = unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) };
        return match pid {
            0 => Reaped::NoneYet,
            1.. if libc::WIFEXITED(status) => Reaped::Ended(pid, ExitStatus::Code(libc::WEXITSTATUS(status))),
            1.. if libc::WIFSIGNALED(status) => Reaped::Ended(pid, ExitStatus::Signal(libc::WTERMSIG(status))),
            // A stop or a continuation, which was not asked for.
            1.. => continue,
            _ if io::Error::last_os_error().kind() == io::ErrorKind::Interrupted => continue,
            _ => Reaped::NoneLeft,
        };
    }
}

/// kill(2) on a process group that is known to exist.
pub(crate) fn kill_group(group: i32, signal: i32) {
    if group > 1 {
        // SAFETY: plain system call.
        unsafe { libc::kill(-group, signal) };
    }
}

/// kill(2) on one process; one that is gone needs no signal.
pub(crate) fn kill(pid: i32, signal: i32) {
    if pid > 0 {
        // SAFETY: plain system call.
        unsafe { libc::kill(pid, signal) };
    }
}

/// The CPU time that this process has used.
pub(crate) fn cpu_time() -> Duration {
    // SAFETY: an all-zero timespec is a valid one, and the pointer is to a live local.
    let spent = unsafe {
        let mut spent: libc::timespec = zeroed();
        libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut spent);
        spent
    };
    Duration::new(spent.tv_sec.unsigned_abs(), u32::try_from(spent.tv_nsec).unwrap_or(0))
}

/// Gives freed memory back to the system, once, after the boot.
pub(crate) fn trim() {
    #[cfg(target_env = "gnu")]
    // SAFETY: no preconditions.
    unsafe {
        libc::malloc_trim(0);
    }
}

fn check(result: i32) -> io::Result<i32> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn checked_size(result: isize) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}
