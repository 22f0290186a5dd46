//! Reading `/proc`: processes, their children, their fds. Parsing is apart from reading, so that it can be tested on text.

use std::ffi::CString;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::libc;

use crate::sys;

/// A socket, as fdinfo and fd links name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Inode {
    /// The inode number.
    pub(crate) number: u64,
    /// The device of the socket filesystem, as the kernel prints it (`sdev`).
    pub(crate) device: u64,
}

/// A directory below `/proc`.
pub(crate) struct Dir(OwnedFd);

impl Dir {
    /// Opens `/proc/…`.
    ///
    /// # Errors
    /// As openat(2).
    pub(crate) fn open(path: &str) -> io::Result<Self> {
        let root = sys::standard(1);
        // The path is absolute, so that the fd does not matter.
        sys::open_at(root, &c_path(path), libc::O_RDONLY | libc::O_DIRECTORY).map(Self)
    }

    /// Opens a directory in this one.
    ///
    /// # Errors
    /// As openat(2).
    pub(crate) fn dir(&self, path: &str) -> io::Result<Self> {
        sys::open_at(self.0.as_fd(), &c_path(path), libc::O_RDONLY | libc::O_DIRECTORY).map(Self)
    }

    /// Opens a file in this directory for reading.
    ///
    /// # Errors
    /// As openat(2).
    pub(crate) fn file(&self, path: &str) -> io::Result<OwnedFd> {
        sys::open_at(self.0.as_fd(), &c_path(path), libc::O_RDONLY)
    }

    /// Reads a whole file of this directory into `text`, which is cleared first.
    ///
    /// # Errors
    /// As openat(2) and read(2).
    pub(crate) fn read(&self, path: &str, text: &mut Vec<u8>) -> io::Result<()> {
        read_all(self.file(path)?.as_fd(), text)
    }

    /// The target of a link in this directory, cut to the buffer.
    ///
    /// # Errors
    /// As readlinkat(2).
    pub(crate) fn link<'b>(&self, number: i32, into: &'b mut [u8]) -> io::Result<&'b [u8]> {
        sys::read_link(self.0.as_fd(), &c_path(&number.to_string()), into)
    }

    /// The numbers in this directory, into `numbers`, which is cleared first.
    ///
    /// # Errors
    /// As getdents64(2).
    pub(crate) fn numbers(&self, numbers: &mut Vec<i32>) -> io::Result<()> {
        numbers.clear();
        sys::numbered_entries(self.0.as_fd(), &mut [0; 256], |n| numbers.push(n))
    }
}

fn c_path(path: &str) -> CString {
    CString::new(path).unwrap_or_default()
}

fn read_all(fd: BorrowedFd<'_>, text: &mut Vec<u8>) -> io::Result<()> {
    text.clear();
    let mut buffer = [0; 2048];
    loop {
        match sys::read(fd, &mut buffer) {
            Ok(length) => {
                text.extend_from_slice(&buffer[..length]);
                // procfs fills a buffer that is smaller than a page as far as there is text.
                if length < buffer.len() {
                    return Ok(());
                }
            }
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

/// State letter and parent of `/proc/PID/stat`; the name in it may hold anything, parentheses too.
pub(crate) fn parse_stat(text: &[u8]) -> Option<(u8, i32)> {
    let after = text.iter().rposition(|b| *b == b')')? + 1;
    let mut words = std::str::from_utf8(&text[after..]).ok()?.split_ascii_whitespace();
    let state = *words.next()?.as_bytes().first()?;
    Some((state, words.next()?.parse().ok()?))
}

/// Whether a process is there and has not ended. An unreadable one is.
pub(crate) fn is_alive(pid: i32) -> bool {
    let mut text = Vec::new();
    match Dir::open(&format!("/proc/{pid}")).and_then(|dir| dir.read("stat", &mut text)) {
        Ok(()) => parse_stat(&text).is_none_or(|(state, _)| !matches!(state, b'Z' | b'X' | b'x')),
        Err(e) => e.kind() == ErrorKind::PermissionDenied,
    }
}

/// Whether a process is below this worker.
pub(crate) fn is_descendant(pid: i32) -> bool {
    let own = std::process::id().cast_signed();
    let mut text = Vec::new();
    let mut at = pid;
    // A chain can only be longer than this on purpose.
    for _ in 0..1000 {
        if at == own {
            return true;
        }
        let read = Dir::open(&format!("/proc/{at}")).and_then(|dir| dir.read("stat", &mut text));
        match parse_stat(&text).filter(|_| read.is_ok()) {
            Some((_, parent)) if parent > 1 => at = parent,
            _ => return false,
        }
    }
    false
}

/// All living processes below this worker: the app, its descendants, and those that were orphaned, which the kernel gives to
/// the worker. Zombies may be among them.
///
/// # Errors
/// When `/proc` is not there or may not be read.
pub(crate) fn descendants() -> io::Result<Vec<i32>> {
    let (mut found, complete) = first_descendants()?;
    let (mut ids, mut text) = (Vec::new(), Vec::new());
    let mut at = 0;
    while let Some(pid) = found.get(at).filter(|_| !complete) {
        // One that has ended meanwhile has no children any more.
        if let Ok(tasks) = Dir::open(&format!("/proc/{pid}/task"))
            && tasks.numbers(&mut ids).is_ok()
        {
            add_children(&tasks, &ids, &mut text, &mut found);
        }
        at += 1;
    }
    Ok(found)
}

/// The worker's own children, to which each one's are to be added ([`add_children`]); or all descendants and true on a kernel that
/// does not list children (without CONFIG_PROC_CHILDREN).
///
/// # Errors
/// When `/proc` is not there or may not be read.
pub(crate) fn first_descendants() -> io::Result<(Vec<i32>, bool)> {
    let own = std::process::id().cast_signed();
    let (mut found, mut text) = (Vec::new(), Vec::new());
    let proc = Dir::open("/proc")?;
    // The worker has one thread.
    match proc.read("thread-self/children", &mut text) {
        Ok(()) => {
            parse_numbers(&text, &mut found);
            Ok((found, false))
        }
        Err(e) if e.kind() == ErrorKind::NotFound => Ok((by_parents(own)?, true)),
        Err(e) => Err(e),
    }
}

/// Adds the children of the threads `ids` in a process's `task` directory.
pub(crate) fn add_children(tasks: &Dir, ids: &[i32], text: &mut Vec<u8>, found: &mut Vec<i32>) {
    for id in ids {
        if tasks.read(&format!("{id}/children"), text).is_ok() {
            parse_numbers(text, found);
        }
    }
}

/// Adds every number of a blank-separated list.
pub(crate) fn parse_numbers(text: &[u8], found: &mut Vec<i32>) {
    let numbers = text.split(u8::is_ascii_whitespace).filter_map(|n| std::str::from_utf8(n).ok()?.parse::<i32>().ok());
    found.extend(numbers);
}

fn by_parents(own: i32) -> io::Result<Vec<i32>> {
    let proc = Dir::open("/proc")?;
    let (mut pids, mut text, mut parents) = (Vec::new(), Vec::new(), Vec::new());
    proc.numbers(&mut pids)?;
    for pid in pids {
        if proc.read(&format!("{pid}/stat"), &mut text).is_ok()
            && let Some((_, parent)) = parse_stat(&text)
        {
            parents.push((pid, parent));
        }
    }
    if !parents.iter().any(|(pid, _)| *pid == own) {
        // An empty directory where /proc should be mounted, or another PID namespace's.
        return Err(ErrorKind::NotFound.into());
    }
    let mut found = vec![own];
    let mut at = 0;
    while let Some(parent) = found.get(at).copied() {
        found.extend(parents.iter().filter(|(_, p)| *p == parent).map(|(pid, _)| *pid));
        at += 1;
    }
    found.remove(0);
    Ok(found)
}

/// What a link in `/proc/PID/fd` leads to, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Link {
    /// A socket of this inode number.
    Socket(u64),
    /// An epoll instance.
    Epoll,
    /// An io_uring.
    Ring,
    /// Anything else.
    Other,
}

/// Reads an fd's link.
pub(crate) fn parse_link(link: &[u8]) -> Link {
    match link {
        b"anon_inode:[eventpoll]" => Link::Epoll,
        b"anon_inode:[io_uring]" => Link::Ring,
        _ => std::str::from_utf8(link)
            .ok()
            .and_then(|l| l.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok())
            .map_or(Link::Other, Link::Socket),
    }
}

/// Whether an epoll instance's fdinfo says that it waits for something to read on one of the listeners: by the fds under
/// which the process holds them, or by inode, as an fd may have been closed or taken over since it was added.
pub(crate) fn epoll_watches(fdinfo: &[u8], fds: &[i32], inodes: &[Inode]) -> bool {
    // EPOLLIN and EPOLLRDNORM; a one-shot entry that has fired has neither until it is armed again.
    const READABLE: u64 = 0x41;
    fdinfo.split(|b| *b == b'\n').filter_map(|line| std::str::from_utf8(line).ok()).any(|line| {
        let Some(rest) = line.strip_prefix("tfd:") else { return false };
        // `tfd:        5 events:       19 data:                5  pos:0 ino:1b2c sdev:9`, the last three since Linux 4.12.
        let mut words = rest.split_ascii_whitespace();
        let fd = words.next().and_then(|w| w.parse::<i32>().ok());
        let (mut events, mut number, mut device) = (0, None, None);
        let mut key = "";
        for word in words {
            let (k, value) = word.split_once(':').unwrap_or((key, word));
            key = k;
            let value = u64::from_str_radix(value, 16).ok();
            match k {
                "events" => events = value.unwrap_or(events),
                "ino" => number = value,
                "sdev" => device = value,
                _ => {}
            }
        }
        let same = match (number, device) {
            (Some(number), Some(device)) => inodes.contains(&Inode { number, device }),
            _ => fd.is_some_and(|fd| fds.contains(&fd)),
        };
        same && events & READABLE != 0
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const INODES: [Inode; 1] = [Inode { number: 0x1b2c, device: 9 }];

    #[test]
    fn stat_with_a_name_made_to_confuse() {
        assert_eq!(parse_stat(b"42 (a) b) R 1 ( x) S 7 42 42 0"), Some((b'S', 7)));
        assert_eq!(parse_stat(b""), None);
        assert_eq!(parse_stat(b"42 (x)"), None);
    }

    #[test]
    fn links() {
        assert_eq!(parse_link(b"socket:[6956]"), Link::Socket(6956));
        assert_eq!(parse_link(b"anon_inode:[eventpoll]"), Link::Epoll);
        assert_eq!(parse_link(b"anon_inode:[io_uring]"), Link::Ring);
        assert_eq!(parse_link(b"socket:[69"), Link::Other);
        assert_eq!(parse_link(b"/dev/null"), Link::Other);
    }

    #[test]
    fn an_epoll_that_watches_the_listener() {
        let text = b"pos:\t0\nflags:\t02000002\nmnt_id:\t16\nino:\t2059\n\
            tfd:        4 events:       19 data:                4  pos:0 ino:aaaa sdev:9\n\
            tfd:        3 events: 80000001 data:     7f0000000003  pos:0 ino:1b2c sdev:9\n";
        assert!(epoll_watches(text, &[], &INODES));
        assert!(epoll_watches(b"tfd:        3 events:       19 data:  3\n", &[3], &INODES), "before Linux 4.12");
    }

    #[test]
    fn an_epoll_that_watches_others() {
        let line = |rest: &str| format!("tfd:        3 {rest}\n").into_bytes();
        assert!(
            !epoll_watches(&line("events:  19 data: 3  pos:0 ino:aaaa sdev:9"), &[3], &INODES),
            "its number was reused"
        );
        assert!(!epoll_watches(&line("events:  19 data: 3  pos:0 ino:1b2c sdev:8"), &[3], &INODES), "another device");
        assert!(!epoll_watches(&line("events: 40000000 data: 3  pos:0 ino:1b2c sdev:9"), &[3], &INODES), "disarmed");
        assert!(!epoll_watches(&line("events:   4 data: 3  pos:0 ino:1b2c sdev:9"), &[3], &INODES), "for writing only");
        assert!(!epoll_watches(b"tfd:", &[3], &INODES));
        assert!(!epoll_watches(b"", &[3], &INODES));
    }

    #[test]
    fn own_descendants_are_found() {
        let mut child = std::process::Command::new("cat").stdin(std::process::Stdio::piped()).spawn().unwrap();
        let pid = child.id().cast_signed();
        assert!(descendants().unwrap().contains(&pid));
        assert!(by_parents(std::process::id().cast_signed()).unwrap().contains(&pid));
        assert!(is_descendant(pid) && is_alive(pid));
        assert!(!is_descendant(1));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!descendants().unwrap().contains(&pid));
        assert!(!is_alive(pid));
    }
}
