//! A slot and the workers in it: what *is*, as far as the mind knows.

use alloc::vec::Vec;

use proto::{Incarnation, Phase, Slot};

use crate::Rollout;
use crate::event::ReleaseId;

/// A release and the phase that brought it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Code {
    /// The release.
    pub release: ReleaseId,
    /// Its phase.
    pub phase: Phase,
}

/// One worker, from its spawn until nothing of it is left.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Worker {
    /// Its seat.
    pub slot: Slot,
    /// What it runs.
    pub code: Code,
    /// How it is.
    pub state: WorkerState,
    /// The rollout that tries it as a candidate.
    pub(crate) run: Option<u64>,
    /// It holds a listening socket that is dead.
    pub(crate) stale: bool,
    /// It is being killed: what it leaves behind gets no time of its own.
    pub(crate) killed: bool,
}

/// How a worker is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum WorkerState {
    /// Spawned, not ready.
    Booting,
    /// Ready.
    Ready,
    /// Told to end, or ending by itself; something of it is left.
    Draining,
}

/// A seat: what outlives its workers.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct SlotState {
    /// Crashes and failed boots since the slot was last healthy for a while.
    pub(crate) crashes: u32,
    /// A [`crate::Timer::Backoff`] is armed: no spawn before it fires.
    pub(crate) backoff: bool,
    /// A [`crate::Timer::Healthy`] is armed.
    pub(crate) healing: bool,
    /// From the first failed boot (or the first backoff) until a worker is ready.
    pub(crate) failing: bool,
    /// The first start's attempt in this slot: `None` while it runs.
    pub(crate) first: Option<bool>,
    /// Its old worker crashed while the candidate boots: known-good is wanted beside it.
    pub(crate) lost_old: bool,
    /// What it runs is to be replaced by the known-good release.
    pub(crate) put_back: bool,
    /// The body was asked what `dir` names.
    pub(crate) resolving: bool,
    /// The release to spawn next instead of the known-good one, whose directory is gone.
    pub(crate) fallback: Option<ReleaseId>,
}

impl Rollout {
    pub(crate) fn slot(&self, slot: Slot) -> Option<&SlotState> {
        self.slots.get(slot.0 as usize)
    }

    pub(crate) fn slot_mut(&mut self, slot: Slot) -> Option<&mut SlotState> {
        self.slots.get_mut(slot.0 as usize)
    }

    /// Every slot's number, in order.
    pub(crate) fn slot_numbers(&self) -> impl Iterator<Item = Slot> + use<> {
        (0..self.slots.len() as u32).map(Slot)
    }

    /// The workers in a slot that are not on their way out.
    pub(crate) fn living(&self, slot: Slot) -> impl Iterator<Item = (Incarnation, &Worker)> {
        let seated = self.seats.get(slot.0 as usize).map_or(&[][..], Vec::as_slice);
        seated
            .iter()
            .filter_map(|id| self.workers.get(id).map(|w| (*id, w)))
            .filter(|(_, w)| w.state != WorkerState::Draining)
    }

    /// A new worker takes its seat.
    pub(crate) fn seat(&mut self, id: Incarnation, worker: Worker) {
        let seat = worker.slot.0 as usize;
        if self.seats.len() <= seat {
            self.seats.resize_with(seat + 1, Vec::new);
        }
        self.seats[seat].push(id);
        self.workers.insert(id, worker);
    }

    /// Nothing is left of a worker. True when it was known.
    pub(crate) fn unseat(&mut self, id: Incarnation) -> bool {
        let Some(worker) = self.workers.remove(&id) else { return false };
        if let Some(seated) = self.seats.get_mut(worker.slot.0 as usize) {
            seated.retain(|seated| *seated != id);
        }
        true
    }

    /// Whether a slot has a ready worker.
    pub(crate) fn is_ready(&self, slot: Slot) -> bool {
        self.living(slot).any(|(_, w)| w.state == WorkerState::Ready)
    }

    /// How many slots have a ready worker.
    pub(crate) fn ready_slots(&self) -> u32 {
        self.slot_numbers().filter(|s| self.is_ready(*s)).count() as u32
    }

    /// How many app instances are alive, draining ones counted.
    pub(crate) fn alive(&self) -> u32 {
        self.workers.len() as u32
    }

    /// Whether a worker must give way to one of the known-good release.
    pub(crate) fn is_bad(&self, worker: &Worker) -> bool {
        worker.stale
            || (worker.code.release != self.known_good.release
                && !self.is_fallback(worker)
                && self.slot(worker.slot).is_some_and(|s| s.put_back))
    }

    /// Whether a worker runs something else than the known-good release because that one's directory is gone.
    pub(crate) fn is_fallback(&self, worker: &Worker) -> bool {
        worker.code.phase == self.known_good.phase && worker.code.release != self.known_good.release
    }
}
