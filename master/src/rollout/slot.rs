//! A slot and the workers in it: what *is*, as far as the mind knows.

use alloc::vec::Vec;

use proto::{Incarnation, Phase, Slot};

use crate::Rollout;
use crate::event::ReleaseId;
use crate::policy::{LARGEST_NUMBER, NUMBERS_AT_A_TIME};

/// A release and the phase that brought it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Code {
    /// The release.
    pub release: ReleaseId,
    /// Its phase.
    pub phase: Phase,
}

/// What a worker is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// To serve in its slot.
    Serve,
    /// To boot and check the candidate off-traffic. It has no seat.
    Rehearse,
    /// To run the hook before a rollout. It has no seat, and is no app instance.
    BeforeRollout,
    /// The same after a promotion.
    OnPromote,
    /// The same after a rollout that failed.
    OnFailure,
}

impl Role {
    /// Whether a rollout waits for what it finds out.
    pub(crate) fn is_scout(self) -> bool {
        matches!(self, Self::Rehearse | Self::BeforeRollout)
    }

    /// Whether it is an instance of the app (P3).
    pub(crate) fn is_app(self) -> bool {
        matches!(self, Self::Serve | Self::Rehearse)
    }
}

/// One worker, from its spawn until nothing of it is left.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Worker {
    /// Its seat; 0 for one that has none.
    pub slot: Slot,
    /// What it is for.
    pub role: Role,
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
    /// It is too old or too large, and is to be replaced when nothing else goes on.
    pub(crate) due: bool,
    /// A [`crate::Timer::Age`] is armed.
    pub(crate) aging: bool,
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
    /// Its worker is due, and the one that replaces it is on its way.
    pub(crate) recycling: bool,
    /// One has been replaced so since the last rollout.
    pub(crate) recycled: bool,
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

    /// The number of a new worker.
    pub(crate) fn take_number(&mut self) -> Incarnation {
        let number = Incarnation(self.next_incarnation);
        self.next_incarnation += 1;
        number
    }

    /// These numbers have been given by another machine.
    pub(crate) fn take_numbers_below(&mut self, next: u64) {
        if next <= LARGEST_NUMBER {
            self.next_incarnation = self.next_incarnation.max(next);
        }
    }

    /// Where the next machine begins to number: above whatever this one gives before it has that written down.
    pub(crate) fn taken_numbers(&self) -> u64 {
        (self.next_incarnation - 1).next_multiple_of(NUMBERS_AT_A_TIME) + 1
    }

    /// A new worker takes its seat, or stands aside.
    pub(crate) fn seat(&mut self, id: Incarnation, worker: Worker) {
        if worker.role != Role::Serve {
            self.aside.push(id);
            self.workers.insert(id, worker);
            return;
        }
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
        if worker.role != Role::Serve {
            self.aside.retain(|aside| *aside != id);
            return true;
        }
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
        self.workers.len() as u32 - self.aside().filter(|w| !w.role.is_app()).count() as u32
    }

    /// The workers that have no seat.
    pub(crate) fn aside(&self) -> impl Iterator<Item = &Worker> {
        self.aside.iter().filter_map(|id| self.workers.get(id))
    }

    /// Whether a worker must give way to one of the known-good release.
    pub(crate) fn is_bad(&self, worker: &Worker) -> bool {
        worker.stale
            || (worker.due && self.slot(worker.slot).is_some_and(|s| s.recycling))
            || (worker.code.release != self.known_good.release
                && !self.is_fallback(worker)
                && self.slot(worker.slot).is_some_and(|s| s.put_back))
    }

    /// Whether a worker runs something else than the known-good release because that one's directory is gone.
    pub(crate) fn is_fallback(&self, worker: &Worker) -> bool {
        worker.code.phase == self.known_good.phase && worker.code.release != self.known_good.release
    }
}
