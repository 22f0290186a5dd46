//! Workers that are too old or too large are replaced, one at a time, while nothing else goes on: the new one is ready
//! before the old one drains (with surge 0, within max-unavailable).

use alloc::vec::Vec;

use proto::{Incarnation, Slot};

use crate::action::{Action, Note};
use crate::event::Timer;
use crate::policy::RECYCLE_AGAIN;
use crate::slot::{Role, Worker, WorkerState};
use crate::{Mode, Rollout};

impl Rollout {
    /// A worker's app holds too much. Where the last one was replaced already, time has to pass first: an app that needs
    /// more than it may from its boot on would be replaced for ever.
    pub(crate) fn outgrown(&mut self, id: Incarnation, out: &mut Vec<Action>) {
        let again = |slot| self.slot(slot).is_some_and(|s| s.recycled);
        let Some(worker) = self.workers.get(&id).filter(|w| w.role == Role::Serve && w.state == WorkerState::Ready)
        else {
            return;
        };
        let later = again(worker.slot) && !worker.due;
        if let Some(worker) = self.workers.get_mut(&id) {
            worker.due |= !later;
            worker.aging |= later;
        }
        if later {
            out.push(Action::Note(Note::RecycleLater { worker: id, after: RECYCLE_AGAIN }));
            out.push(Action::Arm(Timer::Age(id), RECYCLE_AGAIN));
        }
    }

    /// The worker that is to be replaced now: one that is due, while every slot is well.
    pub(crate) fn recyclable(&self) -> Option<(Incarnation, Slot)> {
        let calm = self.mode == Mode::Idle && self.held.is_none() && self.scaling.is_empty() && !self.is_degraded();
        if !calm || self.ready_slots() < self.slots.len() as u32 || self.slots.iter().any(|s| s.recycling) {
            return None;
        }
        // With surge 0 the old one has to stop first, which max-unavailable allows.
        let room = self.budget().surge == 0 || self.alive() < self.capacity();
        let settled = self.workers.values().all(|w| w.role != Role::Serve || w.state == WorkerState::Ready);
        let due =
            self.workers.iter().find(|(_, w)| w.due && w.state == WorkerState::Ready).map(|(id, w)| (*id, w.slot));
        due.filter(|_| room && settled)
    }

    /// Begins to replace it. True when something changed.
    pub(crate) fn recycle(&mut self, out: &mut Vec<Action>) -> bool {
        let Some((worker, slot)) = self.recyclable() else { return false };
        if let Some(state) = self.slot_mut(slot) {
            state.recycling = true;
            state.recycled = true;
        }
        out.push(Action::Note(Note::Recycling { worker }));
        true
    }

    /// The one that was to replace a worker did not boot: the old one stays, and is tried again later.
    pub(crate) fn recycle_failed(&mut self, id: Incarnation, slot: Slot, out: &mut Vec<Action>) -> bool {
        // One whose socket was lost meanwhile has to go all the same, and the slot waits as ever.
        let stays = |w: &Worker| w.due && !w.stale && w.state == WorkerState::Ready;
        let old = self.living(slot).find(|(_, w)| stays(w)).map(|(id, _)| id);
        let Some(old) = old else { return false };
        self.stop_recycling(slot);
        if let Some(worker) = self.workers.get_mut(&old) {
            worker.due = false;
            worker.aging = true;
        }
        out.push(Action::Note(Note::RecycleFailed { worker: id, retry: RECYCLE_AGAIN }));
        out.push(Action::Arm(Timer::Age(old), RECYCLE_AGAIN));
        true
    }

    /// A rollout begins: what was to replace a worker is not wanted any more.
    pub(crate) fn end_recycling(&mut self, slot: Slot, out: &mut Vec<Action>) {
        let Some(state) = self.slot_mut(slot) else { return };
        // Other code may need less.
        state.recycled = false;
        if !core::mem::take(&mut state.recycling) {
            return;
        }
        let booting: Vec<_> =
            self.living(slot).filter(|(_, w)| w.state == WorkerState::Booting).map(|(id, _)| id).collect();
        if self.is_ready(slot) {
            for worker in booting {
                self.end(worker, out);
            }
        }
    }

    pub(crate) fn stop_recycling(&mut self, slot: Slot) {
        if let Some(state) = self.slot_mut(slot) {
            state.recycling = false;
        }
    }

    /// A worker that serves from now on grows older.
    pub(crate) fn begin_to_age(&mut self, id: Incarnation, out: &mut Vec<Action>) {
        if let (Some(age), Some(worker)) = (self.settings.max_age, self.workers.get_mut(&id)) {
            worker.aging = true;
            out.push(Action::Arm(Timer::Age(id), age));
        }
    }

    /// A worker that ends does not.
    pub(crate) fn stop_aging(&mut self, id: Incarnation, out: &mut Vec<Action>) {
        if let Some(worker) = self.workers.get_mut(&id)
            && core::mem::take(&mut worker.aging)
        {
            out.push(Action::Disarm(Timer::Age(id)));
        }
    }
}
