//! What the mind wants done.

use alloc::boxed::Box;
use core::time::Duration;

use proto::{Incarnation, Phase, Slot};

use crate::event::{CommandId, ReleaseId, Timer};
use crate::memory::Memory;
use crate::slot::Role;

/// One thing to do. The body performs it without asking why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Write this down, so that it is found again whatever happens to this process. It comes before everything in the
    /// same step that somebody could notice.
    Remember(Box<Memory>),
    /// Spawn a worker that boots `release`, or runs a hook in it.
    Spawn {
        /// The new worker's number.
        worker: Incarnation,
        /// Its seat; 0 for one that has none.
        slot: Slot,
        /// Its release's phase.
        phase: Phase,
        /// Its release.
        release: ReleaseId,
        /// What it is for.
        role: Role,
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
    /// The rehearsal that ran by itself has ended.
    Rehearsed(Ended),
    /// Answer somebody.
    Reply {
        /// Whom.
        command: CommandId,
        /// What.
        answer: Answer,
    },
    /// Tell people (log, waiting `ctl`s).
    Note(Note),
    /// End the master process; nothing is left of any app, or the next master takes care of it.
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
    /// `rehearse`: no slot is touched.
    Rehearsal,
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
    /// The candidate is the known-good release (a `restart` is through, a rehearsal has passed).
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
    /// Every worker is left to the next master.
    Detached,
    /// The same; the next one takes this process's place.
    Upgraded,
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
    /// A rehearsal is over; its outcome is `promoted` when it has passed.
    Rehearsed(Ended),
    /// The rollout stands still.
    Paused {
        /// Slots that are through.
        step: u32,
        /// Slots in all.
        of: u32,
    },
    /// The rollout goes on.
    Resumed,
    /// This release is confirmed.
    Confirmed(ReleaseId),
    /// `--if-new`: this release runs already.
    NothingNew(ReleaseId),
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
    /// The workers are left to the next master.
    Detached,
    /// The same; that one takes this process's place.
    Upgrading,
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
    /// `--hold` and `--confirm-within` together.
    HoldAndConfirm,
    /// `--if-new`: this release was refused before.
    RefusedBefore(ReleaseId),
    /// No rollout runs that could be paused.
    NothingToPause,
    /// The rollout is decided: only what is replaced ends, or what was replaced is put back.
    TooLateToPause,
    /// The rollout is not paused.
    NotPaused,
    /// The rollout did not come to stand still: it goes on, or is being undone.
    PauseOver,
    /// No promotion waits for a confirm.
    NothingToConfirm,
    /// No rollout runs.
    NothingToAbort,
    /// The rollout of this number does not run.
    NotRunning(u64),
    /// A hook of the last rollout runs.
    BusyHook,
    /// No worker outlives its master here.
    NoOrphans,
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
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Note {
    /// A rollout with surge 0 on a single slot: nothing is ready while the slot is replaced.
    ZeroReady,
    /// A rehearsal with surge 0: one instance more than ever else is alive for a while.
    ExtraInstance,
    /// The candidate was refused before, and is tried again because a person asks.
    RefusedBefore(ReleaseId),
    /// A hook runs before the rollout, or a rehearsal.
    Scouting {
        /// The worker.
        worker: Incarnation,
        /// What it is for.
        role: Role,
    },
    /// It has passed.
    Scouted {
        /// The worker.
        worker: Incarnation,
        /// What it was for.
        role: Role,
    },
    /// A hook failed that changes nothing any more.
    HookFailed {
        /// The worker.
        worker: Incarnation,
        /// Which one.
        role: Role,
    },
    /// The canary slots are through; their quiet time begins.
    CanarySoaking {
        /// How many.
        slots: u32,
        /// For how long.
        soak: Duration,
    },
    /// The rollout takes on no further slot.
    Paused,
    /// It goes on.
    Resumed,
    /// The promotion is undone unless it is confirmed in time.
    Confirming {
        /// What was promoted.
        release: ReleaseId,
        /// How long a confirm may take.
        within: Duration,
    },
    /// Something else has taken the place of a promotion before it was confirmed.
    NotConfirmed(ReleaseId),
    /// No confirm came in time.
    Unconfirmed(ReleaseId),
    /// A worker is replaced because of its age or its size.
    Recycling {
        /// The worker.
        worker: Incarnation,
    },
    /// A worker is to be replaced again, for the one that has replaced the last one holds as much; time has to pass first.
    RecycleLater {
        /// The worker.
        worker: Incarnation,
        /// How much time.
        after: Duration,
    },
    /// The one that was to replace it did not boot; the old one goes on serving.
    RecycleFailed {
        /// The worker that did not boot.
        worker: Incarnation,
        /// When it is tried again.
        retry: Duration,
    },
    /// At a start: what serves, and why that is not what `dir` names.
    ColdStart {
        /// What is started.
        release: ReleaseId,
        /// Why.
        why: Cold,
    },
    /// At a start: this release was never tried, and begins on one slot.
    Trial(ReleaseId),
    /// It failed: every slot gets the known-good release.
    TrialFailed {
        /// The release.
        release: ReleaseId,
        /// The worker that failed.
        failed: Incarnation,
        /// What is started instead.
        instead: ReleaseId,
    },
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
    /// At a start: workers of an earlier master are taken over.
    Adopted {
        /// How many serve.
        serving: u32,
        /// How many more are ending.
        ending: u32,
    },
    /// At a start: a rollout was under way when the last master ended, and is undone.
    Interrupted {
        /// Its candidate.
        to: ReleaseId,
        /// How many slots have to be put back.
        put_back: u32,
    },
}

/// Why a master starts with something else than what `dir` names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Cold {
    /// This was refused, or was never confirmed.
    Refused(ReleaseId),
    /// `dir` does not resolve.
    Dangling,
    /// The known-good directory is gone.
    Gone(ReleaseId),
    /// This was promoted and not confirmed yet.
    Unconfirmed(ReleaseId),
    /// What is started was never confirmed either, and nothing that was good before is left.
    NothingBefore,
}
