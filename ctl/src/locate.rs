//! Finds the control socket of a living master.
//!
//! `--socket` names it, `--name` looks for `NAME.sock` in the places below, and without either every
//! socket there is tried and exactly one living master is used. Living means that it takes a
//! connection, and that connection is the one that is used: nothing is connected to twice.

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::socket::{self, AddressFamily, SockFlag, SockType, UnixAddr, sockopt};
use nix::sys::time::TimeVal;
use nix::unistd::{Uid, geteuid};
use proto::control::Code;

use crate::client::ANSWER;
use crate::exit::Failure;

/// A connection to a master, not yet greeted.
pub(crate) struct Found {
    /// The connection.
    pub(crate) stream: UnixStream,
    /// The socket's path.
    pub(crate) path: PathBuf,
}

/// Which master is meant.
pub(crate) enum Target<'a> {
    /// The one at this socket.
    Socket(&'a Path),
    /// The one of this name.
    Name(&'a str),
    /// The only one there is.
    Only,
}

/// A folder that may hold control sockets.
#[derive(Debug, PartialEq)]
pub(crate) struct Place {
    dir: PathBuf,
    /// Whether anybody could have made it: then it has to be the caller's own, or root's.
    distrusted: bool,
}

impl Place {
    fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into(), distrusted: false }
    }

    /// Why nothing in this folder may be used, if so.
    fn refused(&self, uid: Uid) -> Option<String> {
        if !self.distrusted {
            return None;
        }
        let meta = fs::symlink_metadata(&self.dir).ok()?;
        if !meta.is_dir() {
            return Some("refused: not a directory of its own".into());
        }
        if meta.uid() != uid.as_raw() && meta.uid() != 0 {
            return Some(format!("refused: it belongs to uid {}, not to you", meta.uid()));
        }
        if meta.mode() & 0o022 != 0 {
            return Some(format!("refused: others may write to it (mode {:04o})", meta.mode() & 0o7777));
        }
        None
    }
}

/// The folders that are searched, in order: `$RUNTIME_DIRECTORY` (systemd separates several
/// by colons), `$XDG_RUNTIME_DIR/phased`, `/run/phased`, the folders in it (one an instance of a systemd template), and the
/// user's folder in the temp dir.
pub(crate) fn places(uid: Uid) -> Vec<Place> {
    let mut all = Vec::new();
    if let Some(dirs) = set("RUNTIME_DIRECTORY") {
        all.extend(env::split_paths(&dirs).filter(|d| d.is_absolute()).map(Place::new));
    }
    if let Some(dir) = set("XDG_RUNTIME_DIR") {
        all.push(Place::new(Path::new(&dir).join("phased")));
    }
    all.push(Place::new("/run/phased"));
    all.extend(instances(Path::new("/run/phased")).into_iter().map(Place::new));
    let temp = set("TMPDIR").unwrap_or_else(|| "/tmp".into());
    all.push(Place { dir: Path::new(&temp).join(format!("phased-{uid}")), distrusted: true });
    let mut seen: Vec<Place> = Vec::new();
    for place in all {
        if !seen.iter().any(|s| s.dir == place.dir) {
            seen.push(place);
        }
    }
    seen
}

/// The folders in a folder, in order; those in which workers wait for a master (`NAME.sock.d`) are none of them.
fn instances(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let paths = entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    let mut found: Vec<PathBuf> = paths.map(|entry| entry.path()).collect();
    found.retain(|path| path.extension() != Some(OsStr::new("d")));
    found.sort();
    found
}

/// An environment variable that is set and not empty.
pub(crate) fn set(name: &str) -> Option<std::ffi::OsString> {
    env::var_os(name).filter(|v| !v.is_empty())
}

/// Connects to the master that is meant.
///
/// # Errors
/// Code 7 when there is none (or several, and no name was given), 8 when one may not be spoken to.
pub(crate) fn connect(target: &Target<'_>) -> Result<Found, Failure> {
    match target {
        Target::Socket(path) => at_path(path),
        Target::Name(name) => by_name(name, &places(geteuid()), geteuid()),
        Target::Only => the_only_one(&places(geteuid()), geteuid()),
    }
}

fn at_path(path: &Path) -> Result<Found, Failure> {
    match dial(path) {
        Ok(stream) => Ok(Found { stream, path: path.to_owned() }),
        Err(errno) => {
            let mut message = format!("{}: {}", headline(errno), reason(path, errno));
            if code(errno) == Code::NoMaster {
                message.push_str("; start it, or leave --socket and $PHASED_SOCKET out to have every place searched");
            }
            Err(Failure::new(code(errno), message))
        }
    }
}

/// Connects once more to a path at which a master was, without waiting for one that does not take the connection.
///
/// # Errors
/// The path with what connecting to it met.
pub(crate) fn again(path: &Path) -> Result<Found, String> {
    match dialled(path, SockFlag::SOCK_NONBLOCK) {
        Ok(stream) => Ok(Found { stream, path: path.to_owned() }),
        Err(Errno::EAGAIN) => Err(format!("{} (too many wait there already)", path.display())),
        Err(errno) => Err(reason(path, errno)),
    }
}

fn by_name(name: &str, places: &[Place], uid: Uid) -> Result<Found, Failure> {
    let mut tried = Vec::new();
    let mut denied = false;
    for place in places {
        let path = place.dir.join(format!("{name}.sock"));
        if let Some(why) = place.refused(uid) {
            tried.push(format!("{} ({why})", path.display()));
            continue;
        }
        match dial(&path) {
            Ok(stream) => return Ok(Found { stream, path }),
            Err(errno) => {
                denied |= code(errno) == Code::NotPermitted;
                tried.push(reason(&path, errno));
            }
        }
    }
    let code = if denied { Code::NotPermitted } else { Code::NoMaster };
    let head = if denied { "not permitted to reach a master" } else { "no master" };
    Err(Failure::new(code, listed(&format!("{head} named '{name}'; searched:"), &tried, WAY_OUT)))
}

fn the_only_one(places: &[Place], uid: Uid) -> Result<Found, Failure> {
    let mut living = Vec::new();
    let mut tried = Vec::new();
    let mut denied = false;
    for place in places {
        let shown = place.dir.join("*.sock");
        if let Some(why) = place.refused(uid) {
            tried.push(format!("{} ({why})", shown.display()));
            continue;
        }
        let sockets = match sockets_in(&place.dir) {
            Ok(sockets) => sockets,
            Err(e) => {
                denied |= e.kind() == io::ErrorKind::PermissionDenied;
                tried.push(format!("{} ({})", shown.display(), words(&e)));
                continue;
            }
        };
        if sockets.is_empty() {
            tried.push(format!("{} (none)", shown.display()));
        }
        for path in sockets {
            match dial(&path) {
                Ok(stream) => living.push(Found { stream, path }),
                Err(errno) => {
                    denied |= code(errno) == Code::NotPermitted;
                    tried.push(reason(&path, errno));
                }
            }
        }
    }
    if living.len() > 1 {
        let names: Vec<String> = living.iter().map(|f| format!("{} ({})", stem(&f.path), f.path.display())).collect();
        let head = "several masters run, none was named; found:";
        return Err(Failure::new(Code::NoMaster, listed(head, &names, "choose one with --name NAME or --socket PATH")));
    }
    living.pop().ok_or_else(|| {
        let (code, head) = if denied {
            (Code::NotPermitted, "no master that you may command; searched:")
        } else {
            (Code::NoMaster, "no master; searched:")
        };
        Failure::new(code, listed(head, &tried, WAY_OUT))
    })
}

const WAY_OUT: &str = "start one with `master --dir DIR`, or name its socket with --socket PATH";

fn listed(head: &str, lines: &[String], tail: &str) -> String {
    let mut text = String::from(head);
    for line in lines {
        text.push_str("\n  ");
        text.push_str(line);
    }
    text.push('\n');
    text.push_str(tail);
    text
}

fn stem(path: &Path) -> String {
    path.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

fn sockets_in(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.extension() == Some(OsStr::new("sock")) {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// Connects, and lets neither a full backlog nor a full buffer hold a write up for longer than [`ANSWER`].
fn dial(path: &Path) -> Result<UnixStream, Errno> {
    dialled(path, SockFlag::empty())
}

fn dialled(path: &Path, flags: SockFlag) -> Result<UnixStream, Errno> {
    let address = UnixAddr::new(path)?;
    let flags = flags | SockFlag::SOCK_CLOEXEC;
    let socket: OwnedFd = socket::socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    socket::setsockopt(&socket, sockopt::SendTimeout, &TimeVal::new(ANSWER.as_secs() as _, 0))?;
    socket::connect(socket.as_raw_fd(), &address)?;
    let stream = UnixStream::from(socket);
    stream.set_nonblocking(false).map_err(|e| Errno::from_raw(e.raw_os_error().unwrap_or_default()))?;
    Ok(stream)
}

fn code(errno: Errno) -> Code {
    match errno {
        Errno::EACCES | Errno::EPERM => Code::NotPermitted,
        Errno::ENOENT | Errno::ENOTDIR | Errno::ECONNREFUSED | Errno::ENOTSOCK => Code::NoMaster,
        _ => Code::Failed,
    }
}

fn headline(errno: Errno) -> &'static str {
    match code(errno) {
        Code::NotPermitted => "not permitted",
        Code::NoMaster => "no master",
        _ => "no connection",
    }
}

/// The path with what connecting to it met.
fn reason(path: &Path, errno: Errno) -> String {
    let path = path.display();
    match errno {
        Errno::ENOENT | Errno::ENOTDIR => format!("{path} (no such socket)"),
        Errno::ECONNREFUSED => format!("{path} (nobody listens on it)"),
        Errno::ENOTSOCK => format!("{path} (not a socket)"),
        Errno::EACCES | Errno::EPERM => {
            format!("{path} (permission denied: it is open to root and to the master's own user)")
        }
        Errno::EAGAIN => {
            format!("{path} (the master took no connection for {} seconds: it hangs)", ANSWER.as_secs())
        }
        Errno::ENAMETOOLONG => format!("{path} (longer than the 107 bytes that a socket's path may have)"),
        other => format!("{path} ({})", other.desc()),
    }
}

fn words(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "no such directory".into(),
        io::ErrorKind::PermissionDenied => "permission denied".into(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::UnixListener;

    use super::*;

    fn place(dir: &Path, distrusted: bool) -> Place {
        Place { dir: dir.to_owned(), distrusted }
    }

    fn me() -> Uid {
        geteuid()
    }

    #[test]
    fn instances_are_folders_in_which_no_workers_wait() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["shop", "blog", "app.sock.d"] {
            fs::create_dir(folder.path().join(name)).unwrap();
        }
        fs::write(folder.path().join("file"), "").unwrap();
        assert_eq!(instances(folder.path()), [folder.path().join("blog"), folder.path().join("shop")]);
        assert_eq!(instances(&folder.path().join("none")), Vec::<PathBuf>::new());
    }

    #[test]
    fn the_only_living_master_is_used_and_stale_files_do_not_count() {
        let dir = tempfile::tempdir().unwrap();
        drop(UnixListener::bind(dir.path().join("dead.sock")).unwrap());
        let _living = UnixListener::bind(dir.path().join("shop.sock")).unwrap();
        let found = the_only_one(&[place(dir.path(), false)], me()).ok().unwrap();
        assert_eq!(found.path, dir.path().join("shop.sock"));
    }

    #[test]
    fn several_are_listed_by_name() {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let _a = UnixListener::bind(one.path().join("blog.sock")).unwrap();
        let _b = UnixListener::bind(two.path().join("shop.sock")).unwrap();
        let failure = the_only_one(&[place(one.path(), false), place(two.path(), false)], me()).err().unwrap();
        assert_eq!(failure.code, Code::NoMaster);
        assert!(
            failure.message.contains("\n  blog (") && failure.message.contains("\n  shop ("),
            "{}",
            failure.message
        );
        assert!(failure.message.contains("--name"), "{}", failure.message);
    }

    #[test]
    fn every_searched_place_is_named_with_its_reason() {
        let (empty, stale) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        drop(UnixListener::bind(stale.path().join("dead.sock")).unwrap());
        let gone = empty.path().join("gone");
        let all = [place(empty.path(), false), place(&gone, false), place(stale.path(), false)];
        let failure = the_only_one(&all, me()).err().unwrap();
        assert_eq!(failure.code, Code::NoMaster);
        for part in [
            format!("{} (none)", empty.path().join("*.sock").display()),
            format!("{} (no such directory)", gone.join("*.sock").display()),
            format!("{} (nobody listens on it)", stale.path().join("dead.sock").display()),
        ] {
            assert!(failure.message.contains(&part), "{part} in {}", failure.message);
        }
    }

    #[test]
    fn a_temp_folder_that_others_may_write_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let _living = UnixListener::bind(dir.path().join("shop.sock")).unwrap();
        let distrusted = [place(dir.path(), true)];
        assert!(the_only_one(&distrusted, me()).is_ok());
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o770)).unwrap();
        for failure in [the_only_one(&distrusted, me()).err(), by_name("shop", &distrusted, me()).err()] {
            let failure = failure.unwrap();
            assert_eq!(failure.code, Code::NoMaster);
            assert!(failure.message.contains("refused: others may write to it (mode 0770)"), "{}", failure.message);
        }
    }

    #[test]
    fn a_temp_folder_of_somebody_else_or_a_symlink_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let real = dir.path().join("real");
        fs::create_dir(&real).unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&real, &link).unwrap();
        assert!(place(&link, true).refused(me()).unwrap().contains("not a directory of its own"));
        assert_eq!(place(&real, true).refused(me()), None);
        if me().is_root() {
            std::os::unix::fs::chown(&real, Some(4242), None).unwrap();
            assert!(place(&real, true).refused(me()).unwrap().contains("belongs to uid 4242"));
        } else {
            assert!(place(&real, true).refused(Uid::from_raw(4242)).is_some());
        }
    }

    #[test]
    fn a_name_is_looked_for_until_a_living_one_is_found() {
        let (stale, good) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        drop(UnixListener::bind(stale.path().join("shop.sock")).unwrap());
        let _living = UnixListener::bind(good.path().join("shop.sock")).unwrap();
        let both = [place(stale.path(), false), place(good.path(), false)];
        assert_eq!(by_name("shop", &both, me()).ok().unwrap().path, good.path().join("shop.sock"));
        let failure = by_name("blog", &both, me()).err().unwrap();
        assert_eq!(failure.code, Code::NoMaster);
        assert!(failure.message.starts_with("no master named 'blog'"), "{}", failure.message);
    }

    #[test]
    fn a_path_that_is_too_long_says_so() {
        let path = PathBuf::from(format!("/tmp/{}", "x".repeat(200)));
        let failure = at_path(&path).err().unwrap();
        assert_eq!(failure.code, Code::Failed);
        assert!(failure.message.contains("107 bytes"), "{}", failure.message);
    }
}
