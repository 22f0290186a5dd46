//! Hooks: a line that is run before the app ([`before_boot`]) or instead of it ([`instead`]). While it runs it is the first process,
//! and ends as an app does.

use std::fs::File;
use std::io::{self, Seek, Write};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::sys::memfd::{MFdFlags, memfd_create};
use proto::worker::{BootSpec, ExitStatus, HookCommand, HookSpec, Stage};

use crate::boot::{self, Failure, Line, Spawned};
use crate::command;
use crate::ending::FAR;
use crate::report::{ended, span};

/// A hook that runs.
#[derive(Debug)]
pub(crate) struct Hook {
    /// What people call it.
    name: String,
    deadline: Instant,
    /// How long it has, as people read it.
    within: String,
}

impl Hook {
    /// When it has taken too long.
    pub(crate) fn deadline(&self) -> Instant {
        self.deadline
    }

    /// What is wrong then.
    pub(crate) fn overdue(&self) -> Failure {
        Failure::new(Stage::Hook, format!("{} did not end within {}", self.name, self.within))
    }

    /// It has ended, after this errno where it could not be executed.
    ///
    /// # Errors
    /// A [`Failure`] of stage `hook` when that was not well.
    pub(crate) fn ended(&self, program: &str, errno: Option<i32>, status: ExitStatus) -> Result<(), Failure> {
        match (errno, status) {
            (Some(errno), _) => {
                let why = command::exec_trouble(program, errno);
                Err(Failure::new(Stage::Hook, format!("{}: {why}", self.name)))
            }
            (None, ExitStatus::Code(0)) => Ok(()),
            (None, status) => Err(Failure::new(Stage::Hook, format!("{} {}", self.name, ended(status)))),
        }
    }
}

/// Makes the process of `--before-boot`, if there is one.
///
/// # Errors
/// As [`boot::line`].
pub(crate) fn before_boot(
    spec: &BootSpec,
    dir: BorrowedFd<'_>,
    since: Instant,
) -> Result<Option<(Spawned, Hook)>, Failure> {
    const NAME: &str = "--before-boot";
    let Some(line) = &spec.before_boot else { return Ok(None) };
    let line = command::fill_in(line, spec).map_err(|e| Failure::new(Stage::Hook, format!("in {NAME}, {e}")))?;
    let spawned = boot::line(spec, dir, Line::BeforeBoot, line, None)?;
    let timeout = Duration::from_millis(spec.boot_timeout_ms).min(FAR);
    let within = format!("the boot timeout of {}", span(timeout));
    Ok(Some((spawned, Hook { name: NAME.into(), deadline: since + timeout, within })))
}

/// Makes the process of a hook that is run instead of an app, if there is anything to run.
///
/// # Errors
/// As [`boot::line`].
pub(crate) fn instead(
    spec: &BootSpec,
    order: &HookSpec,
    dir: BorrowedFd<'_>,
    since: Instant,
) -> Result<Option<(Spawned, Hook)>, Failure> {
    let failure = |message: String| Failure::new(Stage::Hook, message);
    let line = match &order.command {
        HookCommand::Shell(line) => {
            Some(command::fill_in(line, spec).map_err(|e| failure(format!("in {}, {e}", order.name)))?)
        }
        HookCommand::Procfile(process) => command::procfile_hook(process, spec, dir).map_err(failure)?,
    };
    let Some(line) = line else { return Ok(None) };
    let (what, stdin) = if order.input.is_empty() {
        (Line::Hook, None)
    } else {
        let input = input(&order.input).map_err(|e| Failure::spawn("keep what a hook is to read", e))?;
        (Line::News, Some(input))
    };
    let spawned = boot::line(spec, dir, what, line, stdin)?;
    let timeout = Duration::from_millis(order.timeout_ms).min(FAR);
    Ok(Some((spawned, Hook { name: order.name.clone(), deadline: since + timeout, within: span(timeout) })))
}

/// What a hook reads on stdin: a file in memory and no pipe, so that one that does not read it hinders nobody.
fn input(bytes: &[u8]) -> io::Result<OwnedFd> {
    let mut file = File::from(memfd_create(c"hook-input", MFdFlags::MFD_CLOEXEC)?);
    file.write_all(bytes)?;
    file.rewind()?;
    Ok(file.into())
}
