//! The stages of a boot up to the app's exec: the release directory is entered, the command looked up, the process made.
//!
//! Called once, by [`crate::lead`], with the master's order. Everything that fails before there is a process fails here.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use nix::fcntl::OFlag;
use nix::libc;
use nix::unistd::pipe2;
use proto::worker::{BootSpec, Stage};

use crate::notify::Notify;
use crate::sys::{self, Program};
use crate::{command, env};

/// Why a boot ended before there was an app.
#[derive(Debug)]
pub(crate) struct Failure {
    /// Where.
    pub(crate) stage: Stage,
    /// A sentence with the reason and the way out.
    pub(crate) message: String,
    /// The release directory does not exist any more.
    pub(crate) release_gone: bool,
}

impl Failure {
    fn new(stage: Stage, message: impl Into<String>) -> Self {
        Self { stage, message: message.into(), release_gone: false }
    }

    /// Stage `spawn`: the system refused something.
    pub(crate) fn spawn(what: &str, e: impl Into<io::Error>) -> Self {
        let e = e.into();
        Self::new(
            Stage::Spawn,
            format!("cannot {what}: {e}; check this user's limits on processes and files, and memory"),
        )
    }
}

/// A process that is about to execute the app.
pub(crate) struct Spawned {
    /// Its pid, also its group's.
    pub(crate) pid: i32,
    /// What is executed, for messages.
    pub(crate) program: String,
    /// It executes when a byte is written here.
    pub(crate) go: OwnedFd,
    /// Its errno arrives here when it cannot; end-of-file says that it could.
    pub(crate) trouble: OwnedFd,
    /// What it prints: stdout and stderr.
    pub(crate) output: [OwnedFd; 2],
}

/// Enters the release directory.
///
/// # Errors
/// A [`Failure`] of stage `directory`, or `spawn` when fds have run out.
pub(crate) fn enter(spec: &BootSpec) -> Result<OwnedFd, Failure> {
    let path = Path::new(std::ffi::OsStr::from_bytes(&spec.release));
    let opened = std::ffi::CString::new(spec.release.as_slice()).map_err(io::Error::from).and_then(|c_path| {
        let dir = sys::open_at(sys::standard(1), &c_path, libc::O_PATH | libc::O_DIRECTORY)?;
        // O_PATH asks for no permission on the directory itself; looking something up in it does.
        sys::open_at(dir.as_fd(), c".", libc::O_PATH)?;
        Ok(dir)
    });
    opened.map_err(|e| {
        if matches!(e.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM)) {
            return Failure::spawn("open the release directory", e);
        }
        let path = path.display();
        let release_gone = e.kind() == ErrorKind::NotFound;
        let message = match e.kind() {
            ErrorKind::NotFound => format!("the release directory {path} does not exist any more; deploy it again"),
            ErrorKind::NotADirectory => format!("{path} is not a directory"),
            ErrorKind::PermissionDenied => {
                format!(
                    "the release directory {path} may not be entered by this user: {e}; chmod it or a directory above"
                )
            }
            _ => format!("the release directory {path} cannot be entered: {e}"),
        };
        Failure { stage: Stage::Directory, message, release_gone }
    })
}

/// Looks the command up and makes the process, which waits for its go-byte.
///
/// # Errors
/// A [`Failure`] of stage `exec`, or `spawn` when processes or fds have run out.
pub(crate) fn spawn(
    spec: &BootSpec,
    dir: &OwnedFd,
    listeners: &[OwnedFd],
    notify: Option<&Notify>,
) -> Result<Spawned, Failure> {
    // The worker never closes 0 to 3 nor a listener, so that whatever it opens is above the numbers that the app's fds get.
    let pipe = || pipe2(OFlag::O_CLOEXEC).map_err(|e| Failure::spawn("make a pipe", e));
    let (out_read, out_write) = pipe()?;
    let (err_read, err_write) = pipe()?;
    let (go_read, go_write) = pipe()?;
    let (trouble_read, trouble_write) = pipe()?;
    let null = File::open("/dev/null").map_err(|e| Failure::spawn("open /dev/null", e))?;
    // One is left for the lookups, so that they cannot fail for want of it.
    drop(null.try_clone().map_err(|e| Failure::spawn("open a file", e))?);
    let inherited = std::env::vars_os().map(|(k, v)| (k.into_vec(), v.into_vec()));
    let mut env = env::build(inherited, spec, notify.map(|n| n.name.as_slice()));
    let resolved =
        command::resolve(spec, dir.as_fd(), &mut env).map_err(|message| Failure::new(Stage::Exec, message))?;
    let (mut entries, listen_pid) = env.into_entries();
    let mut program = Program {
        path: &resolved.path,
        argv: &resolved.argv,
        env: &mut entries,
        listen_pid,
        dir: dir.as_fd(),
        stdio: [null.as_fd(), out_write.as_fd(), err_write.as_fd()],
        listeners,
        death_signal: spec.stop_signal,
        go: go_read.as_fd(),
        trouble: trouble_write.as_fd(),
    };
    let pid = sys::fork_held(&mut program).map_err(|e| Failure::spawn("fork", e))?;
    Ok(Spawned {
        pid,
        program: resolved.path.to_string_lossy().into_owned(),
        go: go_write,
        trouble: trouble_read,
        output: [out_read, err_read],
    })
}
