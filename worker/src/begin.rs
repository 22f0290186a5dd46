//! What comes before the first process: everything up to its fork, for each task of a worker.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;

use proto::worker::{BootSpec, FromWorker, Stage, Task};

use crate::boot::{self, Failure, Spawned};
use crate::door::Door;
use crate::hook::{self, Hook};
use crate::notify::Notify;
use crate::report::Reports;
use crate::user;

/// What there is when the first process has been made, which waits for its go-byte.
pub(crate) struct Begun {
    /// The release.
    pub(crate) dir: OwnedFd,
    /// The inherited sockets.
    pub(crate) listeners: Vec<OwnedFd>,
    /// The worker's own socket.
    pub(crate) door: Option<Door>,
    /// The app's own `NOTIFY_SOCKET`.
    pub(crate) notify: Notify,
    /// The first process.
    pub(crate) spawned: Spawned,
    /// It is this hook.
    pub(crate) hook: Option<Hook>,
}

impl Begun {
    /// `None`: there is nothing to run.
    ///
    /// # Errors
    /// A [`Failure`] of any stage up to `exec`.
    pub(crate) fn new(spec: &BootSpec, since: Instant, reports: &mut Reports) -> Result<Option<Self>, Failure> {
        let listeners = if is_hook(spec) { Vec::new() } else { boot::listeners(spec)? };
        // Behind them: what is opened before may get a number that one of them should have.
        let door = Door::open(spec);
        // Before anything of the release is looked at.
        user::change(spec)?;
        reports.send(&FromWorker::Stage(Stage::Directory));
        let dir = boot::enter(spec)?;
        let first = if is_hook(spec) || spec.before_boot.is_some() { Stage::Hook } else { Stage::Exec };
        reports.send(&FromWorker::Stage(first));
        let notify = Notify::open().map_err(|e| Failure::spawn("make the notify socket", e))?;
        let hook = match &spec.task {
            Task::Hook(order) => match hook::instead(spec, order, dir.as_fd(), since)? {
                Some(hook) => Some(hook),
                None => return Ok(None),
            },
            Task::Serve | Task::Rehearse => hook::before_boot(spec, dir.as_fd(), since)?,
        };
        let (spawned, hook) = match hook {
            Some((spawned, hook)) => (spawned, Some(hook)),
            None => (boot::app(spec, dir.as_fd(), &listeners, &notify)?, None),
        };
        Ok(Some(Self { dir, listeners, door, notify, spawned, hook }))
    }
}

/// Whether it is a hook that is to run, and no app.
pub(crate) fn is_hook(spec: &BootSpec) -> bool {
    matches!(spec.task, Task::Hook(_))
}
