//! One worker process: its spawn, its two pipes, and what it has told so far.

use std::collections::BTreeSet;
use std::ffi::{CString, OsString};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, IntoRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl, open};
use nix::spawn::{PosixSpawnAttr, PosixSpawnFileActions, PosixSpawnFlags, posix_spawn};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, pipe2};
use proto::worker::{Evidence, FIRST_LISTENER_FD, FromWorker, REPORT_FD, Stage, ToWorker};
use proto::{CodecError, Inbox, Incarnation, Outbox, Phase, Slot};
use rollout::{ReleaseId, Role};

use crate::limit::Limit;
use crate::listener::Listener;
use crate::orphans::Met;
use crate::timers::unix_millis;

/// The worker's executable, opened once, so that a package upgrade under a living master cannot mix versions.
#[derive(Debug)]
pub(crate) struct WorkerExe {
    fd: OwnedFd,
    /// How many files a process may open, soft and hard, as the master was started.
    files: Files,
}

/// How many files a process may open, soft and hard.
pub(crate) type Files = (u64, u64);

/// Raises the limit of open files as far as it may be; what it was. Each worker costs two fds here, and more while it is
/// adopted: the usual 1024 would end a site of some hundreds. Programs that use select(2) need the usual one, so workers and
/// apps get it back (see [`Child::spawn`]).
///
/// # Errors
/// When the limit cannot be read.
pub(crate) fn raise_limit() -> Result<Files> {
    let files = getrlimit(Resource::RLIMIT_NOFILE).context("cannot read the limit of open files")?;
    let _ = setrlimit(Resource::RLIMIT_NOFILE, files.1, files.1);
    Ok(files)
}

impl WorkerExe {
    /// Opens `$PHASED_WORKER`, else the `worker` beside this executable.
    ///
    /// # Errors
    /// Names the path when it cannot be opened.
    pub(crate) fn find(files: Files) -> Result<Self> {
        let path = match std::env::var_os("PHASED_WORKER").filter(|path| !path.is_empty()) {
            Some(path) => PathBuf::from(path),
            None => std::env::current_exe().context("cannot tell where this executable is")?.with_file_name("worker"),
        };
        nix::unistd::eaccess(&path, nix::unistd::AccessFlags::X_OK)
            .with_context(|| format!("cannot execute {} (set PHASED_WORKER to where it is)", path.display()))?;
        let fd = open(&path, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())
            .with_context(|| format!("cannot open {}", path.display()))?;
        Ok(Self { fd, files })
    }
}

impl WorkerExe {
    /// Gives this process back the limit that it was started with, for the program that takes its place.
    pub(crate) fn lower_limit(&self) {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, self.files.0, self.files.1);
    }
}

/// What a worker is to be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seat {
    pub(crate) id: Incarnation,
    pub(crate) slot: Slot,
    pub(crate) phase: Phase,
    pub(crate) release: ReleaseId,
    pub(crate) role: Role,
}

/// A worker process.
#[derive(Debug)]
pub(crate) struct Child {
    pub(crate) id: Incarnation,
    pub(crate) slot: Slot,
    pub(crate) phase: Phase,
    pub(crate) release: ReleaseId,
    /// `None` once it was waited for.
    pub(crate) pid: Option<i32>,
    pub(crate) app_pid: Option<i32>,
    pub(crate) started_at: u64,
    pub(crate) boot_us: Option<u64>,
    pub(crate) evidence: Option<Evidence>,
    pub(crate) status: Option<String>,
    /// It has said Hello in our protocol.
    pub(crate) greeted: bool,
    /// How far its boot has come.
    pub(crate) stage: Stage,
    /// Its boot's end was told.
    pub(crate) reported: bool,
    /// What it is for.
    pub(crate) role: Role,
    /// Its watchdog heard nothing from its app.
    pub(crate) silent: bool,
    /// It is being replaced because of its age or its size.
    pub(crate) recycled: bool,
    /// What its app held when it had outgrown its memory, in bytes.
    pub(crate) outgrown: Option<u64>,
    /// A rehearsal's own listening sockets.
    pub(crate) private: Vec<Listener>,
    /// For one that is no child of ours: tells its end, and is signalled instead of its pid.
    pub(crate) pidfd: Option<OwnedFd>,
    /// It speaks our protocol; else it is led by signals.
    understands: bool,
    /// One connection is both pipes.
    is_adopted: bool,
    commands: Option<File>,
    outbox: Outbox<ToWorker>,
    reports: Option<File>,
    inbox: Inbox<FromWorker>,
}

/// What a read of a worker's reports gave.
#[derive(Debug)]
pub(crate) struct Heard {
    pub(crate) messages: Vec<FromWorker>,
    pub(crate) broken: Option<CodecError>,
    /// The pipe is closed: nothing will ever follow.
    pub(crate) ended: bool,
}

impl Child {
    /// Spawns the worker process of an incarnation.
    ///
    /// # Errors
    /// The system call's own error, when a pipe or a process cannot be made.
    pub(crate) fn spawn(exe: &WorkerExe, listeners: &[BorrowedFd<'_>], name: &str, seat: Seat) -> Result<Self, Errno> {
        let Seat { id, slot, phase, release, role } = seat;
        let (commands_theirs, commands) = pipe2(OFlag::O_CLOEXEC)?;
        let (reports, reports_theirs) = pipe2(OFlag::O_CLOEXEC)?;
        for ours in [&commands, &reports] {
            fcntl(ours, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        }
        let mut actions = PosixSpawnFileActions::init()?;
        actions.add_dup2(commands_theirs.as_raw_fd(), 0)?;
        actions.add_dup2(reports_theirs.as_raw_fd(), REPORT_FD)?;
        for (fd, theirs) in listeners.iter().zip(FIRST_LISTENER_FD..) {
            actions.add_dup2(fd.as_raw_fd(), theirs)?;
        }
        let mut attributes = PosixSpawnAttr::init()?;
        attributes.set_flags(PosixSpawnFlags::POSIX_SPAWN_SETSIGMASK | PosixSpawnFlags::POSIX_SPAWN_SETSIGDEF)?;
        attributes.set_sigmask(&SigSet::empty())?;
        attributes.set_sigdefault(&SigSet::all())?;
        // For whoever reads `ps`.
        let what = match role {
            Role::Serve => format!("{name} slot {slot}"),
            other => format!("{name} {other}"),
        };
        let argv = [c"worker".to_owned(), c_string(what.into())];
        let path = c_string(format!("/proc/self/fd/{}", exe.fd.as_raw_fd()).into());
        let pid = posix_spawn(path.as_c_str(), &actions, &attributes, &argv, &environment())?;
        // Before its order to boot is sent: no app can have inherited ours, but what the master was started with.
        let _ = crate::sys::limit(pid.as_raw(), Resource::RLIMIT_NOFILE, exe.files.0, exe.files.1);
        Ok(Self {
            id,
            slot,
            phase,
            release,
            pid: Some(pid.as_raw()),
            app_pid: None,
            started_at: unix_millis(),
            boot_us: None,
            evidence: None,
            status: None,
            greeted: false,
            stage: Stage::Spawn,
            reported: false,
            role,
            silent: false,
            recycled: false,
            outgrown: None,
            private: Vec::new(),
            pidfd: None,
            understands: true,
            is_adopted: false,
            commands: Some(commands.into()),
            outbox: Outbox::default(),
            reports: Some(reports.into()),
            inbox: Inbox::default(),
        })
    }

    /// A worker that has outlived its master: the connection is what the pipes were. One that speaks another protocol is
    /// not told that we are its master now: it waits, for as long as the connection lasts.
    ///
    /// # Errors
    /// The system call's own error, when an fd cannot be had.
    pub(crate) fn adopt(met: Met, seat: Seat) -> io::Result<Self> {
        let Met { pid, pidfd, stream, inbox, facts, understands, .. } = met;
        let commands = stream.try_clone()?;
        Ok(Self {
            id: seat.id,
            slot: seat.slot,
            phase: seat.phase,
            release: seat.release,
            pid: Some(pid),
            app_pid: facts.app_pid,
            started_at: facts.started_at,
            boot_us: facts.boot_us,
            evidence: facts.evidence,
            status: facts.status,
            greeted: true,
            stage: Stage::Ready,
            reported: true,
            role: seat.role,
            silent: false,
            recycled: false,
            outgrown: None,
            private: Vec::new(),
            pidfd,
            understands,
            is_adopted: true,
            commands: Some(OwnedFd::from(commands).into()),
            outbox: Outbox::default(),
            reports: Some(OwnedFd::from(stream).into()),
            inbox,
        })
    }

    /// A worker that has outlived its master and does not answer: it is led by signals, and its end is watched.
    ///
    /// # Errors
    /// The system call's own error, when it has ended or an fd cannot be had.
    pub(crate) fn unreachable(pid: i32, seat: Seat) -> io::Result<Self> {
        let Seat { id, slot, phase, release, role } = seat;
        Ok(Self {
            id,
            slot,
            phase,
            release,
            pid: Some(pid),
            app_pid: None,
            started_at: unix_millis(),
            boot_us: None,
            evidence: None,
            status: None,
            greeted: true,
            stage: Stage::Ready,
            reported: true,
            role,
            silent: false,
            recycled: false,
            outgrown: None,
            private: Vec::new(),
            pidfd: Some(crate::sys::pidfd(pid)?),
            understands: false,
            is_adopted: true,
            commands: None,
            outbox: Outbox::default(),
            reports: None,
            inbox: Inbox::default(),
        })
    }

    /// Sets what it, and everything below it, may use.
    ///
    /// # Errors
    /// Whatever prlimit(2) says.
    pub(crate) fn limit(&self, limit: &Limit) -> io::Result<()> {
        self.pid.map_or(Ok(()), |pid| limit.set(pid))
    }

    /// Whether it boots an app: a hook is none.
    pub(crate) fn is_app(&self) -> bool {
        matches!(self.role, Role::Serve | Role::Rehearse)
    }

    pub(crate) fn reports_fd(&self) -> Option<BorrowedFd<'_>> {
        self.reports.as_ref().map(AsFd::as_fd)
    }

    pub(crate) fn commands_fd(&self) -> Option<BorrowedFd<'_>> {
        self.commands.as_ref().map(AsFd::as_fd)
    }

    /// Queues a message and writes what the pipe takes. True when something is left to be written.
    pub(crate) fn send(&mut self, message: &ToWorker) -> bool {
        if !self.understands {
            // It drains its app on TERM, in the time that its own master had given it.
            match message {
                ToWorker::Drain { .. } => self.signal(Signal::SIGTERM),
                ToWorker::Kill => self.signal(Signal::SIGKILL),
                _ => false,
            };
            return false;
        }
        if self.outbox.push(message).is_err() {
            tracing::error!("slot {}: an order for the worker is larger than a frame", self.slot);
        }
        self.flush()
    }

    /// Writes what the pipe takes. True when something is left to be written.
    pub(crate) fn flush(&mut self) -> bool {
        let Some(pipe) = &mut self.commands else { return false };
        while !self.outbox.is_empty() {
            match pipe.write(self.outbox.pending()) {
                Ok(n) => self.outbox.written(n),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return true,
                Err(_) => {
                    // The worker is dead or dying; its end is told elsewhere.
                    self.commands = None;
                    self.outbox = Outbox::default();
                    return false;
                }
            }
        }
        false
    }

    /// Reads everything that the worker has written so far.
    pub(crate) fn hear(&mut self) -> Heard {
        let mut heard = Heard { messages: Vec::new(), broken: None, ended: false };
        let Some(pipe) = &mut self.reports else { return heard };
        let mut buffer = [0; 16 << 10];
        loop {
            match pipe.read(&mut buffer) {
                Ok(0) => heard.ended = true,
                Ok(n) => {
                    self.inbox.push(&buffer[..n]);
                    continue;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => heard.ended = true,
            }
            break;
        }
        loop {
            match self.inbox.take() {
                Ok(Some(message)) => heard.messages.push(message),
                Ok(None) => break,
                Err(error) => {
                    heard.broken = Some(error);
                    heard.ended = true;
                    break;
                }
            }
        }
        if heard.ended {
            self.reports = None;
            if self.is_adopted {
                // The same connection: open on, it would say that it is closed again and again.
                self.commands = None;
            }
        }
        heard
    }

    /// Sends SIGKILL to the worker process, when it was not waited for yet.
    pub(crate) fn kill(&self) -> bool {
        self.signal(Signal::SIGKILL)
    }

    /// Has a worker end its app that cannot be told so.
    pub(crate) fn end(&self) {
        let _ = self.signal(Signal::SIGTERM);
    }

    fn signal(&self, signal: Signal) -> bool {
        match (&self.pidfd, self.pid) {
            (_, None) => false,
            (Some(pidfd), _) => crate::sys::pidfd_kill(pidfd, signal as i32).is_ok(),
            (None, Some(pid)) => nix::sys::signal::kill(Pid::from_raw(pid), signal).is_ok(),
        }
    }
}

/// The pids of all worker processes.
pub(crate) fn pids<'a>(children: impl Iterator<Item = &'a Child>) -> BTreeSet<i32> {
    children.filter_map(|c| c.pid).collect()
}

/// Occupies every fd below the listeners' places in a worker, for the life of the process, so that no dup2 there can
/// hit an fd that is still needed. Sockets that came in on such fds move up. Call it before anything that workers
/// inherit is opened.
///
/// # Errors
/// When no fd is left.
pub(crate) fn reserve_fds(inherited: Vec<OwnedFd>, more: usize) -> Result<Vec<OwnedFd>> {
    let end: RawFd = FIRST_LISTENER_FD + (inherited.len() + more) as RawFd;
    let mut moved = Vec::new();
    for fd in inherited {
        let number = fcntl(&fd, FcntlArg::F_DUPFD_CLOEXEC(end)).context("cannot move an inherited socket")?;
        moved.push(crate::sys::own(number));
    }
    loop {
        let fd =
            open("/dev/null", OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty()).context("cannot open /dev/null")?;
        if fd.as_raw_fd() >= end {
            return Ok(moved);
        }
        let _stays = fd.into_raw_fd();
    }
}

/// Moves an fd that was handed down out of the way of what workers inherit, and keeps it from them.
///
/// # Errors
/// When no fd is left.
pub(crate) fn move_up(fd: OwnedFd) -> Result<OwnedFd> {
    let number = fcntl(&fd, FcntlArg::F_DUPFD_CLOEXEC(100)).context("cannot move an inherited fd")?;
    Ok(crate::sys::own(number))
}

pub(crate) fn c_string(text: OsString) -> CString {
    let bytes = text.into_vec().into_iter().filter(|b| *b != 0).collect::<Vec<u8>>();
    CString::new(bytes).unwrap_or_default()
}

fn environment() -> Vec<CString> {
    std::env::vars_os()
        .filter(|(key, _)| !crate::upgrade::is_ours(key))
        .map(|(mut key, value)| {
            key.push("=");
            key.push(value);
            c_string(key)
        })
        .collect()
}
