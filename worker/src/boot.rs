//! The steps up to an exec: the release directory is entered, the command looked up, the process made, for the app and for the
//! hooks and checks beside it.
//!
//! Everything that fails before there is a process fails here.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use nix::fcntl::OFlag;
use nix::libc;
use nix::unistd::pipe2;
use proto::worker::{BootSpec, Bytes, FIRST_LISTENER_FD, FromWorker, Stage};

use crate::command::Resolved;
use crate::env::{Env, Whose};
use crate::notify::Notify;
use crate::report::Reports;
use crate::sys::{self, Program};
use crate::{command, dotenv, env};

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
    /// Of this stage.
    pub(crate) fn new(stage: Stage, message: impl Into<String>) -> Self {
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

/// A process that is about to execute the app, or a hook or check.
pub(crate) struct Spawned {
    /// Its pid, also its group's.
    pub(crate) pid: i32,
    /// What is executed, for messages.
    pub(crate) program: String,
    /// It executes when a byte is written here.
    go: OwnedFd,
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

/// Takes over the listening sockets that the master has passed.
///
/// # Errors
/// A [`Failure`] of stage `spawn`: there is none where one should be.
pub(crate) fn listeners(spec: &BootSpec) -> Result<Vec<OwnedFd>, Failure> {
    let taken = (FIRST_LISTENER_FD..).zip(&spec.listeners).map(|(fd, listener)| {
        sys::take_inherited(fd).filter(|_| sys::is_socket(fd)).ok_or_else(|| {
            let address = &listener.address;
            let message = format!("the master passed no socket as fd {fd} for {address}; this is a fault of it");
            Failure::new(Stage::Spawn, message)
        })
    });
    taken.collect()
}

/// The app's process, which waits for its go-byte.
///
/// # Errors
/// A [`Failure`] of stage `exec`, or `spawn` when processes or fds have run out.
pub(crate) fn app(
    spec: &BootSpec,
    dir: BorrowedFd<'_>,
    listeners: &[OwnedFd],
    notify: &Notify,
) -> Result<Spawned, Failure> {
    let ends = Ends::new(None)?;
    let mut env = env::build(inherited(), spec, Whose::App(&notify.name));
    dotenv::add(&mut env, spec, dir).map_err(|trouble| Failure::new(Stage::Exec, trouble.message))?;
    let resolved = command::resolve(spec, dir, &mut env).map_err(|message| Failure::new(Stage::Exec, message))?;
    ends.fork(spec, dir, listeners, env, &resolved)
}

/// What a line for the shell belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Line {
    /// A hook that the app's boot depends on.
    Hook,
    /// A hook after which the app reads its `--env-file`: it may be what writes that.
    BeforeBoot,
    /// A hook that hears how a rollout ended, even if the `--env-file` was what was wrong.
    News,
    /// A check.
    Check,
}

impl Line {
    fn stage(self) -> Stage {
        if self == Self::Check { Stage::Check } else { Stage::Hook }
    }
}

/// The process of a hook or check, which waits for its go-byte: a line, its words already filled in, by sh, in the app's environment,
/// without the listening sockets. `stdin`: else `/dev/null`.
///
/// # Errors
/// A [`Failure`] of stage `hook`, `check` or `exec`, or `spawn` when processes or fds have run out.
pub(crate) fn line(
    spec: &BootSpec,
    dir: BorrowedFd<'_>,
    what: Line,
    line: Bytes,
    stdin: Option<OwnedFd>,
) -> Result<Spawned, Failure> {
    let ends = Ends::new(stdin)?;
    let mut env = env::build(inherited(), spec, Whose::Helper);
    match dotenv::add(&mut env, spec, dir) {
        Err(trouble) if what == Line::News || (what == Line::BeforeBoot && trouble.is_missing) => {}
        added => added.map_err(|trouble| Failure::new(Stage::Exec, trouble.message))?,
    }
    let resolved =
        command::resolve_line(line, spec, dir, &mut env).map_err(|message| Failure::new(what.stage(), message))?;
    ends.fork(spec, dir, &[], env, &resolved)
}

fn inherited() -> impl Iterator<Item = (Bytes, Bytes)> {
    std::env::vars_os().map(|(k, v)| (k.into_vec(), v.into_vec()))
}

/// Both ends of every pipe to a new process. The worker never closes 0 to 3 nor a listener, so that whatever it opens is above the
/// numbers that the process's fds get.
struct Ends {
    stdin: OwnedFd,
    out: (OwnedFd, OwnedFd),
    err: (OwnedFd, OwnedFd),
    go: (OwnedFd, OwnedFd),
    trouble: (OwnedFd, OwnedFd),
}

impl Ends {
    fn new(stdin: Option<OwnedFd>) -> Result<Self, Failure> {
        let pipe = || pipe2(OFlag::O_CLOEXEC).map_err(|e| Failure::spawn("make a pipe", e));
        let (out, err, go, trouble) = (pipe()?, pipe()?, pipe()?, pipe()?);
        let null = || File::open("/dev/null").map(OwnedFd::from).map_err(|e| Failure::spawn("open /dev/null", e));
        let stdin = stdin.map_or_else(null, Ok)?;
        // One is left for the lookups, so that they cannot fail for want of it.
        drop(stdin.try_clone().map_err(|e| Failure::spawn("open a file", e))?);
        Ok(Self { stdin, out, err, go, trouble })
    }

    fn fork(
        self,
        spec: &BootSpec,
        dir: BorrowedFd<'_>,
        listeners: &[OwnedFd],
        env: Env,
        resolved: &Resolved,
    ) -> Result<Spawned, Failure> {
        let (mut entries, listen_pid) = env.into_entries();
        let mut program = Program {
            path: &resolved.path,
            argv: &resolved.argv,
            env: &mut entries,
            listen_pid,
            dir,
            stdio: [self.stdin.as_fd(), self.out.1.as_fd(), self.err.1.as_fd()],
            listeners,
            death_signal: spec.stop_signal,
            go: self.go.0.as_fd(),
            trouble: self.trouble.1.as_fd(),
        };
        let pid = sys::fork_held(&mut program).map_err(|e| Failure::spawn("fork", e))?;
        Ok(Spawned {
            pid,
            program: resolved.path.to_string_lossy().into_owned(),
            go: self.go.1,
            trouble: self.trouble.0,
            output: [self.out.0, self.err.0],
        })
    }
}

impl Spawned {
    /// Has the process execute. The master is told first: whatever happens to this worker, it can find the process.
    pub(crate) fn start_told(&self, reports: &mut Reports) {
        reports.send(&FromWorker::Started { app_pid: self.pid });
        reports.flush_all();
        self.start();
    }

    /// Has the process execute.
    pub(crate) fn start(&self) {
        // One that cannot be told has died, which is seen as any death.
        let _ = sys::write(self.go.as_fd(), b"!");
    }
}

/// What the first process wrote before it gave up, if it did.
pub(crate) fn errno(trouble: &OwnedFd) -> Option<i32> {
    let mut errno = [0; 4];
    match sys::read(trouble.as_fd(), &mut errno) {
        Ok(4) => Some(i32::from_ne_bytes(errno)),
        _ => None,
    }
}
