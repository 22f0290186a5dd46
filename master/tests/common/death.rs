//! The death of a master: what the next one finds of its workers.

use std::time::Duration;

use rollout::{Event, Found, Incarnation, Left, ReleaseId, Role, Rollout, Settings, Worker, WorkerState, invariant};

/// A death, and what comes after it.
pub(crate) struct Death {
    /// The machine that comes next, before it has heard of anything.
    pub(crate) next: Rollout,
    /// What `dir` names then.
    pub(crate) dir: Option<ReleaseId>,
    /// What it hears of first.
    pub(crate) event: Event,
}

/// What is left of each worker that had a seat, by its state when the master died. `None`: nothing.
pub(crate) type Fate<'a> = &'a dyn Fn(Incarnation, WorkerState) -> Option<Left>;

/// Those that are left.
pub(crate) fn found(mind: &Rollout, fate: Fate<'_>) -> Vec<Found> {
    // Hooks and rehearsals end with their master.
    let seated = mind.workers().filter(|(_, w)| w.role == Role::Serve);
    let left = |(worker, w): (Incarnation, &Worker)| {
        fate(worker, w.state).map(|left| Found { worker, slot: w.slot, code: w.code, left })
    };
    seated.filter_map(left).collect()
}

/// The next one with these settings. `None`: it finds nothing to start with.
pub(crate) fn death(
    mind: &Rollout,
    settings: &Settings,
    dir: Option<ReleaseId>,
    found: Vec<Found>,
    confirm_left: Option<Duration>,
) -> Option<Death> {
    let serves = |f: &&Found| matches!(f.left, Left::Serving | Left::Unfit);
    let serving = found.iter().find(serves).map(|f| f.code.release);
    let next = invariant::reborn(mind, settings, dir, serving)?;
    Some(Death { next, dir, event: Event::Adopt { found, confirm_left } })
}
