//! Locks between masters: a file beside what only one of them may use, locked (flock(2)) for the life of a process.
//!
//! The kernel takes the lock away with the process, however that ends. The file stays for ever: a second master may
//! have opened it already, and would hold a lock on a name that nobody else finds any more. In the file stand the
//! holder's pid and its `dir`, so that whoever is refused can say by whom. The descriptor is closed at every exec, so
//! no worker and no app keeps the lock.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg, OFlag};

use crate::leftovers::has_ended;
use crate::timers;

/// How often a lock is looked at whose holder has not signed it yet, or is about to let it go.
const LOOKS: u32 = 1000;
/// How long a lock is waited for whose holder is dead. On a busy machine its last child may take seconds until it has executed, or
/// until the kernel has closed its files (an inotify waits for the whole system there); and nobody else can be meant.
const DYING: Duration = Duration::from_secs(20);
/// How long it is left alone between two looks then.
const BETWEEN: Duration = Duration::from_millis(2);
/// The most that is read of what a holder wrote: a pid and a path.
const SIGNATURE: usize = 8 << 10;

/// A lock that this process holds; its end lets it go.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: Flock<File>,
}

/// Why there is no lock.
#[derive(Debug)]
pub(crate) enum NotTaken {
    /// Another process holds it.
    Held(Holder),
    /// The file cannot be opened or locked.
    Failed(io::Error),
}

/// Who holds a lock, as far as it can be told.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Holder {
    pub(crate) pid: Option<i32>,
    pub(crate) dir: Option<PathBuf>,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.pid {
            Some(pid) => write!(f, "another master (pid {pid})"),
            None => f.write_str("another master"),
        }
    }
}

impl Lock {
    /// Takes the lock at `path` for the master of `dir`, without waiting for anybody.
    ///
    /// # Errors
    /// Who holds it; or the system's word, when the file can be neither made nor read.
    pub(crate) fn take(path: &Path, dir: &Path) -> Result<Self, NotTaken> {
        let mut file = open(path).map_err(NotTaken::Failed)?;
        let mut looks = 0;
        let until = timers::now() + DYING;
        loop {
            file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(mut file) => {
                    sign(&mut file, dir);
                    return Ok(Self { _file: file });
                }
                Err((file, Errno::EWOULDBLOCK)) => file,
                Err((_, errno)) => return Err(NotTaken::Failed(errno.into())),
            };
            looks += 1;
            let (lockers, signed) = (lockers(&file), signature(&file));
            match signed {
                // A child of its that has not executed yet keeps the lock for an instant.
                Some((pid, _)) if has_ended(pid) && timers::now() < until => timers::rest(BETWEEN),
                Some((pid, dir)) if lockers.contains(&pid) => {
                    return Err(NotTaken::Held(Holder { pid: Some(pid), dir: Some(dir) }));
                }
                _ if looks < LOOKS => std::thread::yield_now(),
                // Another pid namespace: the kernel names nobody, and what was written has to do.
                Some((pid, dir)) if lockers.is_empty() => {
                    return Err(NotTaken::Held(Holder { pid: Some(pid), dir: Some(dir) }));
                }
                // A full disk: the holder could not sign.
                _ => return Err(NotTaken::Held(Holder { pid: lockers.first().copied(), dir: None })),
            }
        }
    }
}

/// Opens the file, and makes it where it is missing. One that cannot be written (a read-only file system) can still be
/// locked.
fn open(path: &Path) -> io::Result<File> {
    let flags = (OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits();
    let made = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(flags)
        .open(path);
    made.or_else(|error| OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(|_| error))
}

/// Writes who holds it. Without it the lock is as good; only its name is missing.
fn sign(file: &mut Flock<File>, dir: &Path) {
    let mut text = format!("{}\n", std::process::id()).into_bytes();
    text.extend_from_slice(dir.as_os_str().as_bytes());
    text.push(b'\n');
    let _ = file.set_len(0).and_then(|()| file.write_all(&text));
}

fn signature(file: &File) -> Option<(i32, PathBuf)> {
    let mut text = vec![0; SIGNATURE];
    let length = file.read_at(&mut text, 0).ok()?;
    text.truncate(length);
    let end = text.iter().position(|b| *b == b'\n')?;
    let pid = std::str::from_utf8(&text[..end]).ok()?.parse().ok()?;
    let dir = text[end + 1..].strip_suffix(b"\n")?.to_vec();
    Some((pid, PathBuf::from(std::ffi::OsString::from_vec(dir))))
}

/// Who has locked this file, in the kernel's own words (`/proc/locks`): `1: FLOCK  ADVISORY  WRITE 4711 fd:01:1310736 0
/// EOF`. The device is not compared: for some file systems stat(2) tells another one.
fn lockers(file: &File) -> Vec<i32> {
    let Ok(inode) = file.metadata().map(|m| m.ino().to_string()) else { return Vec::new() };
    let text = std::fs::read_to_string("/proc/locks").unwrap_or_default();
    let locker = |line: &str| {
        let mut words = line.split_whitespace().skip(1);
        let (kind, pid) = (words.next()?, words.nth(2)?);
        let place = words.next()?.rsplit(':').next()?;
        (kind == "FLOCK" && place == inode).then(|| pid.parse().ok().filter(|pid| *pid > 0)).flatten()
    };
    text.lines().filter_map(locker).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_one_is_told_who_holds_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let dir = PathBuf::from(std::ffi::OsString::from_vec(b"/app/\xff\n/current".to_vec()));
        let first = Lock::take(&path, &dir).unwrap();
        let Err(NotTaken::Held(holder)) = Lock::take(&path, Path::new("/other")) else { panic!("taken twice") };
        assert_eq!(holder, Holder { pid: Some(std::process::id() as i32), dir: Some(dir) });
        drop(first);
        assert!(path.exists(), "somebody may wait on it");
        let _second = Lock::take(&path, Path::new("/other")).unwrap();
    }

    #[test]
    fn what_an_earlier_holder_wrote_does_not_count() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let _first = Lock::take(&path, Path::new("/app/current")).unwrap();
        // As if the holder had not come to write it: what stands there is a dead master's.
        std::fs::write(&path, "1\n/elsewhere\n").unwrap();
        let Err(NotTaken::Held(holder)) = Lock::take(&path, Path::new("/x")) else { panic!("taken twice") };
        assert_eq!(holder, Holder { pid: Some(std::process::id() as i32), dir: None });
    }

    #[test]
    fn what_a_dead_holder_leaves_locked_for_a_while_is_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let first = Lock::take(&path, Path::new("/app/current")).unwrap();
        // As if a child of a dead master's had not executed yet.
        let mut dead = std::process::Command::new("true").spawn().unwrap();
        std::fs::write(&path, format!("{}\n/app/current\n", dead.id())).unwrap();
        dead.wait().unwrap();
        let taken = std::thread::scope(|scope| {
            let next = scope.spawn(|| Lock::take(&path, Path::new("/app/current")));
            let looks = || lockers(&File::open(&path).unwrap()).len();
            assert_eq!(looks(), 1);
            drop(first);
            next.join().unwrap()
        });
        assert!(taken.is_ok());
    }

    #[test]
    fn a_lock_that_cannot_be_made_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("none/lock");
        assert!(matches!(Lock::take(&path, Path::new("/x")), Err(NotTaken::Failed(_))));
    }
}
