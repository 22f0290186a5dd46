//! What the mind hears.

use alloc::vec::Vec;
use core::time::Duration;

use proto::{Incarnation, Slot, Surge};

use crate::adopt::Found;

/// A release directory, known by a number; the body keeps the paths.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReleaseId(pub u32);

/// Somebody who waits for an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CommandId(pub u64);

/// A timer that the mind arms. One of each kind and subject at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Timer {
    /// The quiet time after the last candidate worker is ready.
    Soak,
    /// A crashing slot may be tried again.
    Backoff(Slot),
    /// A slot that had crashed has been healthy for long enough.
    Healthy(Slot),
    /// A worker should have reported its boot's end by now.
    BootLate(Incarnation),
    /// A worker should be gone by now.
    Overdue(Incarnation),
    /// The quiet time after the canary slots are through.
    Canary,
    /// A promotion should have been confirmed by now.
    Confirm,
    /// A worker is old enough to be replaced.
    Age(Incarnation),
}

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Event {
    /// The master has its sockets: begin.
    Start,
    /// The same, where an earlier master has left workers behind.
    Adopt {
        /// Each of them.
        found: Vec<Found>,
        /// What is left of the time to confirm what was promoted last; `None`: it cannot be told.
        confirm_left: Option<Duration>,
    },
    /// A worker's app is ready and has passed its checks; a hook has exited with status 0.
    Booted(Incarnation),
    /// A worker's app did not boot or failed its check, a hook failed, or the worker could not be spawned. The worker
    /// ends what is left of it.
    BootFailed {
        /// Which worker.
        worker: Incarnation,
        /// Its release directory does not exist any more.
        release_gone: bool,
    },
    /// A worker's app ended after it had been ready. The worker ends what is left of it.
    Exited(Incarnation),
    /// A worker process died and processes of its app live on.
    Lost(Incarnation),
    /// A worker process has ended and nothing of its app is left.
    Gone(Incarnation),
    /// A timer ran out.
    Fired(Timer),
    /// The answer to [`crate::Action::ResolveDir`]: what `dir` names now, if anything.
    Resolved {
        /// The slot that asked.
        slot: Slot,
        /// The release, `None` when `dir` does not resolve.
        release: Option<ReleaseId>,
    },
    /// A worker's app holds more memory than it should.
    Outgrown(Incarnation),
    /// A listening socket was lost for good and has been bound anew: every worker so far holds a dead one.
    ListenerLost,
    /// Somebody wants something.
    Command {
        /// Whom to answer.
        id: CommandId,
        /// What is wanted.
        command: Command,
    },
}

/// What an operator can ask of the mind. Releases are already resolved, once.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Command {
    /// Roll a release out.
    PhasedRestart {
        /// The candidate.
        release: ReleaseId,
        /// How.
        options: Options,
    },
    /// Boot and check a release off-traffic.
    Rehearse {
        /// The release.
        release: ReleaseId,
    },
    /// Take on no further slot.
    Pause,
    /// Go on.
    Resume,
    /// The promoted release is good.
    Confirm,
    /// Pin a release for every later spawn.
    ReloadDir {
        /// The release.
        release: ReleaseId,
        /// Whether a person named the directory (else it is what `dir` resolves to).
        explicit: bool,
    },
    /// End the running rollout and put back what it replaced.
    Abort,
    /// Go back to the known-good release (held) or to the one before it.
    Rollback {
        /// The directory of [`crate::Rollout::rollback_target`] does not exist any more.
        gone: bool,
    },
    /// Change the number of slots.
    Scale(ScaleTo),
    /// Replace one slot's worker.
    Restart(Slot),
    /// Hear of the end of a rollout that runs.
    Await {
        /// Its number.
        run: u64,
    },
    /// End, and leave every worker to the next master.
    Detach,
    /// The same whatever goes on: whoever asks would kill this process otherwise.
    Leave,
    /// The same; the next master is about to take this one's place.
    Upgrade,
    /// Drain everything and end.
    Stop,
    /// The same; while it goes on already, kill everything: a person who presses Ctrl-C again does not want to wait.
    Interrupt,
    /// Kill everything and end.
    Halt,
}

/// The options of one phased restart. `None`: the master's own setting.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Options {
    /// Do not promote the candidate.
    pub hold: bool,
    /// Expose it without a rehearsal.
    pub no_rehearse: bool,
    /// Do nothing when it runs already, and refuse at once what was refused before.
    pub if_new: bool,
    /// `--surge`.
    pub surge: Option<Surge>,
    /// `--max-unavailable`.
    pub max_unavailable: Option<u32>,
    /// `--soak`.
    pub soak: Option<Duration>,
    /// `--canary`.
    pub canary: Option<u32>,
    /// `--canary-soak`.
    pub canary_soak: Option<Duration>,
    /// `--confirm-within`.
    pub confirm_within: Option<Duration>,
}

/// How many slots are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ScaleTo {
    /// This many.
    Exactly(u32),
    /// This many more.
    Up(u32),
    /// This many fewer.
    Down(u32),
}
