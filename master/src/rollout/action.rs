//! What the mind wants done.

use core::time::Duration;

use proto::{Incarnation, Phase, Slot};

use crate::event::{CommandId, ReleaseId, Timer};

/// One thing to do. The body performs it without asking why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Spawn a worker that boots `release`.
    Spawn {
        /// The new worker's number.
        worker: Incarnation,
        /// Its seat.
        slot: Slot,
        /// Its release's phase.
        phase: Phase,
        /// Its release.
        release: ReleaseId,
    },
    /// Send the stop signal to a worker's app, KILL after `timeout`.
    Drain {
        /// Which worker.
        worker: Incarnation,
        /// How long the app may take.
        timeout: Duration,
    },
    /// SIGKILL a worker and everything of its app.
    Kill(Incarnation),
    /// Send the stop signal to what a dead worker left behind.
    EndLeftovers(Incarnation),
    /// Start a timer (or start it anew).
    Arm(Timer, Duration),
    /// Stop a timer.
    Disarm(Timer),
    /// Say what `dir` names now, as [`crate::Event::Resolved`].
    ResolveDir(Slot),
    /// A rollout has begun.
    Began {
        /// Its number.
        id: u64,
        /// What kind it is.
        kind: Kind,
        /// The known-good release it begins with.
        from: ReleaseId,
        /// The candidate.
        to: ReleaseId,
        /// The candidate's phase.
        phase: Phase,
    },
    /// The running rollout has ended.
    Ended(Ended),
    /// Answer somebody.
    Reply {
        /// Whom.
        command: CommandId,
        /// What.
        answer: Answer,
    },
    /// Tell people (log, waiting `ctl`s).
    Note(Note),
    /// End the master process; nothing is left of any app.
    Exit(Exit),
}

/// What kind of rollout it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// `phased-restart`.
    PhasedRestart,
    /// `rollback`.
    Rollback,
    /// `restart SLOT`.
    Restart,
}

/// How a rollout ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Its number.
    pub id: u64,
    /// How.
    pub outcome: Outcome,
    /// The worker whose failure ended it.
    pub failed: Option<Incarnation>,
    /// A release that is still held, and serves beside the known-good one.
    pub mixed_with: Option<ReleaseId>,
    /// The master was stopped meanwhile.
    pub stopped: bool,
}

/// How a rollout can end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Outcome {
    /// The candidate is the known-good release (a `restart` is through).
    Promoted,
    /// The candidate serves and is not promoted.
    Held,
    /// The old code serves.
    Aborted,
    /// Aborted, and not every slot is served by the known-good release.
    Degraded,
}

/// Why the master process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Exit {
    /// It was asked to.
    Stopped,
    /// No worker could boot at first start.
    NothingBoots,
}

/// The answer to a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// A rollout has begun; [`Answer::Ended`] follows.
    Accepted {
        /// The rollout's number.
        id: u64,
    },
    /// The rollout that this command began has ended as [`Action::Ended`] just said.
    RolloutEnded(Ended),
    /// An `abort` is through.
    Aborted(Ended),
    /// Pinned.
    Pinned {
        /// What was known-good before.
        old: ReleaseId,
        /// What is known-good now.
        new: ReleaseId,
    },
    /// Scaled.
    Scaled {
        /// How many slots there were.
        from: u32,
        /// How many there are.
        to: u32,
    },
    /// Everything has ended.
    Stopped,
    /// Not done.
    Refused(Reason),
}

/// Why a command was not done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// A rollout runs.
    BusyRollout {
        /// Its number.
        id: u64,
        /// Its kind.
        kind: Kind,
        /// Its candidate.
        to: ReleaseId,
    },
    /// The first start is not over.
    BusyStarting,
    /// The master is stopping.
    Stopping,
    /// `surge` and `max-unavailable` are both 0.
    NoBudget,
    /// No rollout runs.
    NothingToAbort,
    /// The candidate has been promoted already; only old workers drain.
    AlreadyPromoted,
    /// No release was promoted before this one.
    NothingBefore,
    /// The directory of the release before is gone.
    TargetGone(ReleaseId),
    /// `dir` names another release than the held one.
    HeldOther {
        /// What is held.
        held: ReleaseId,
        /// What `dir` names.
        named: ReleaseId,
    },
    /// There is no such slot.
    NoSuchSlot {
        /// How many slots there are.
        workers: u32,
    },
    /// The number of slots must be from 1 to [`crate::MAX_WORKERS`].
    WorkersOutOfRange {
        /// What was asked for.
        wanted: u64,
    },
    /// Too few workers would be ready.
    TooFewReady {
        /// How many would be.
        ready: u32,
        /// How many have to be.
        needed: u32,
    },
    /// A slot that was to be added did not boot.
    ScaleFailed {
        /// The worker that failed.
        failed: Incarnation,
    },
}

/// Something that people are told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Note {
    /// A rollout with surge 0 on a single slot: nothing is ready while the slot is replaced.
    ZeroReady,
    /// A candidate's worker is ready.
    SlotReady {
        /// The worker.
        worker: Incarnation,
        /// Slots that are through.
        step: u32,
        /// Slots in all.
        of: u32,
    },
    /// A worker of the known-good release is ready in a slot.
    Ready {
        /// The worker.
        worker: Incarnation,
    },
    /// Every slot has a ready candidate; the quiet time begins.
    Soaking(Duration),
    /// The candidate is the known-good release now.
    Promoted(ReleaseId),
    /// The candidate serves, and the known-good release stays what it was.
    Held(ReleaseId),
    /// A rollout is being undone.
    RollingBack {
        /// The worker whose failure is the reason; `None`: a person asked.
        failed: Option<Incarnation>,
        /// How many slots have to be put back.
        put_back: u32,
    },
    /// A worker did not boot.
    BootFailed {
        /// The worker.
        worker: Incarnation,
        /// When the slot is tried again; `None`: not by itself.
        retry: Option<Duration>,
    },
    /// A ready worker ended by itself.
    Crashed {
        /// The worker.
        worker: Incarnation,
        /// When it is respawned; zero: at once. `None`: it is not.
        retry: Option<Duration>,
    },
    /// The known-good directory is gone, so this slot tries what `dir` names.
    Fallback {
        /// The slot.
        slot: Slot,
        /// What `dir` names.
        release: ReleaseId,
    },
    /// The known-good directory is gone, and what `dir` names cannot be used.
    NoFallback {
        /// The slot.
        slot: Slot,
        /// What `dir` names: a refused release, the lost one, or nothing.
        release: Option<ReleaseId>,
    },
    /// From steady to degraded.
    Degraded,
    /// From degraded to steady (or held).
    Recovered,
    /// Workers are replaced because their listening socket is dead.
    RenewingListeners,
}
