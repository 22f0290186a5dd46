//! What is found out before a release is exposed: its hook runs, and it is rehearsed off-traffic.
//!
//! Both are workers without a seat, one after the other; the next one, or the first slot, begins when nothing of the last
//! one is left. A hook is no instance of the app; a rehearsal is one, and takes a place of the surge.

use alloc::vec::Vec;
use core::time::Duration;

use proto::{Incarnation, Slot};

use crate::action::{Action, Note};
use crate::event::Timer;
use crate::policy::{BOOT_GRACE, END_TIMEOUT, OVERDUE_GRACE};
use crate::slot::{Code, Role, Worker, WorkerState};
use crate::{Mode, Rollout};

/// What is still to be found out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Scout {
    /// The hook is still to be run.
    pub(crate) hook: bool,
    /// The release is still to be rehearsed.
    pub(crate) rehearse: bool,
    /// Who is about it.
    pub(crate) current: Option<Incarnation>,
}

impl Scout {
    pub(crate) fn new(hook: bool, rehearse: bool) -> Self {
        Self { hook, rehearse, current: None }
    }

    /// Nothing is left to be found out.
    pub(crate) fn is_through(self) -> bool {
        self == Self::default()
    }
}

impl Rollout {
    fn scout_mut(&mut self) -> Option<&mut Scout> {
        match &mut self.mode {
            Mode::Starting(start) => Some(&mut start.scout),
            Mode::Running(run) => Some(&mut run.scout),
            _ => None,
        }
    }

    /// Sends the next scout, when the last one has left. True when something changed.
    pub(crate) fn scout(&mut self, code: Code, run: Option<u64>, out: &mut Vec<Action>) -> bool {
        let Some(scout) = self.scout_mut() else { return false };
        let mut next = *scout;
        // Also what a trial has left of its own: there is one place for a rehearsal.
        if self.aside().any(|w| w.role.is_scout()) {
            return false;
        }
        let waited = next.current.take().is_some();
        if self.run().is_some_and(|r| r.paused) {
            if let Some(scout) = self.scout_mut() {
                *scout = next;
            }
            return waited;
        }
        let surge = self.budget().surge;
        if next.hook {
            next.hook = false;
            next.current = Some(self.spawn_aside(Role::BeforeRollout, code, run, out));
        } else if next.rehearse {
            // One place of the surge, or the one that is announced where there is none.
            if self.alive() >= self.slots.len() as u32 + surge.max(1) {
                return false;
            }
            if surge == 0 && self.starting().is_none() {
                out.push(Action::Note(Note::ExtraInstance));
            }
            next.rehearse = false;
            next.current = Some(self.spawn_aside(Role::Rehearse, code, run, out));
        }
        if let (Some(worker), Some(w)) = (next.current, next.current.and_then(|id| self.workers.get(&id))) {
            out.push(Action::Note(Note::Scouting { worker, role: w.role }));
        }
        if let Some(scout) = self.scout_mut() {
            *scout = next;
        }
        true
    }

    /// Spawns a worker that has no seat.
    pub(crate) fn spawn_aside(
        &mut self,
        role: Role,
        code: Code,
        run: Option<u64>,
        out: &mut Vec<Action>,
    ) -> Incarnation {
        let worker = self.take_number();
        let slot = Slot(0);
        let state = WorkerState::Booting;
        self.seat(
            worker,
            Worker { slot, role, code, state, run, stale: false, killed: false, due: false, aging: false },
        );
        out.push(Action::Spawn { worker, slot, phase: code.phase, release: code.release, role });
        let limit = if role == Role::Rehearse { self.boot_limit() } else { self.settings.hook_timeout };
        out.push(Action::Arm(Timer::BootLate(worker), limit.saturating_add(BOOT_GRACE)));
        worker
    }

    /// How long an app may take until it is ready and checked.
    pub(crate) fn boot_limit(&self) -> Duration {
        self.settings.boot_timeout.saturating_add(self.settings.check_time)
    }

    /// A worker without a seat has done what it is for.
    pub(crate) fn passed(&mut self, id: Incarnation, role: Role, out: &mut Vec<Action>) {
        out.push(Action::Disarm(Timer::BootLate(id)));
        if role.is_scout() {
            out.push(Action::Note(Note::Scouted { worker: id, role }));
        }
        let Some(worker) = self.workers.get_mut(&id) else { return };
        if role == Role::Rehearse {
            worker.state = WorkerState::Ready;
            self.end(id, out);
        } else {
            worker.state = WorkerState::Draining;
            out.push(Action::Arm(Timer::Overdue(id), END_TIMEOUT + OVERDUE_GRACE));
        }
    }

    /// A worker without a seat has failed: the end of its rollout or start, where one waits for it.
    pub(crate) fn aside_failed(&mut self, id: Incarnation, worker: &Worker, out: &mut Vec<Action>) {
        if !worker.role.is_scout() {
            out.push(Action::Note(Note::HookFailed { worker: id, role: worker.role }));
        } else if self.is_candidate(worker) && self.trying() {
            out.push(Action::Note(Note::BootFailed { worker: id, retry: None }));
            self.abort(Some(id), out);
        } else if self.starting().is_some_and(|s| s.scout.current == Some(id)) {
            out.push(Action::Note(Note::BootFailed { worker: id, retry: None }));
            self.start_failed(id, out);
        }
    }
}
