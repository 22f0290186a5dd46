//! One number for all states that behave alike: what a search over reachable states remembers of them.
//!
//! Two states have the same fingerprint when every event that means the same to both leads them to the same again.
//! So it leaves out what nothing depends on: how far the counters have run (incarnations, rollouts, phases: only
//! which are equal matters), what releases are called, what exactly drains, who waits for an answer, and by how
//! much a slot's crashes exceed one (they only make its delays longer).

use alloc::vec::Vec;

use proto::{Phase, Slot, Surge};

use crate::event::ReleaseId;
use crate::run::{Run, RunStage};
use crate::scout::Scout;
use crate::slot::{Role, SlotState, Worker, WorkerState};
use crate::{Mode, Rollout};

/// What a search does not tell states apart by.
#[derive(Clone, Copy, Debug, Default)]
pub struct Forget {
    /// Which releases were known-good before: nothing is lost while nobody asks for a `rollback` from steady.
    /// More than the last two are not told apart anyway.
    pub history: bool,
    /// Which releases were refused: nothing is lost while no known-good directory is gone.
    pub refusals: bool,
    /// Which slot is which, and in which of the slots that a rollout has taken on something drains.
    ///
    /// This one does lose something: of all the orders in which slots can stand, one is followed.
    pub seats: bool,
}

impl Rollout {
    /// The number. Equal for states that differ in no way that matters.
    #[must_use]
    pub fn fingerprint(&self, forget: Forget) -> u128 {
        let mut names = Names { releases: Vec::with_capacity(4), held: self.held.map(|h| h.phase), to: None };
        names.of(self.known_good.release);
        if let Some(held) = self.held {
            names.of(held.release);
        }
        if let Some(run) = self.run() {
            names.of(run.to.release);
            names.to = Some(run.to.phase);
        }
        if !forget.seats {
            return self.print(forget, &mut names).done();
        }
        // The others have no order of their own: whichever gives the smallest number.
        let named = names.releases.len();
        let mut others: Vec<ReleaseId> = self.workers.values().map(|w| w.code.release).collect();
        others.extend(self.slots.iter().filter_map(|s| s.fallback));
        others.retain(|r| !names.releases.contains(r));
        others.sort_unstable();
        others.dedup();
        let turns = (0..others.len().max(1)).map(|turn| {
            names.releases.truncate(named);
            names.releases.extend(others.iter().cycle().skip(turn).take(others.len()));
            self.print(forget, &mut names).done()
        });
        turns.min().unwrap_or_default()
    }

    fn print(&self, forget: Forget, names: &mut Names) -> Print {
        let mut print = Print::new();
        let run = self.run();
        print.put(match &self.mode {
            Mode::Starting(start) => {
                let Scout { hook, rehearse, current } = start.scout;
                let flags = [start.trial, start.one, hook, rehearse, current.is_some()];
                flags.iter().fold(16, |bits, flag| bits << 1 | u64::from(*flag))
            }
            Mode::Idle => 1,
            Mode::Running(_) => 2,
            Mode::Stopping { exit, .. } => 3 + *exit as u64,
        });
        if matches!(self.mode, Mode::Stopping { .. }) {
            // Nothing but the end of all workers matters any more.
            self.workers.values().for_each(|w| print.put(if forget.seats { 0 } else { u64::from(w.slot.0) }));
            return print;
        }
        print.option(self.held.map(|h| names.of(h.release)));
        if let Mode::Starting(start) = &self.mode {
            print.put(names.of(start.to.release));
        }
        print
            .put(u64::from(self.pending.is_some()) << 2 | u64::from(self.unconfirmed) << 1 | u64::from(self.fell_back));
        let mut aside: Vec<&Worker> = self.aside().collect();
        aside.sort_by_key(|w| (w.role, w.state));
        for worker in aside {
            print.put(worker.role as u64);
            self.print_worker(worker, names, &mut print);
        }
        if let Some(run) = run {
            print_run(run, names, &mut print);
        }
        let mut seats: Vec<u128> = Vec::with_capacity(self.slots.len());
        let mut drains = [0; 3];
        for (slot, number) in self.slots.iter().zip(0..) {
            let mut seat = Print::new();
            let touched = run.is_some_and(|r| r.touched.contains(&Slot(number)));
            let only = run.is_some_and(|r| r.only == Some(Slot(number)));
            seat.put(u64::from(touched) | u64::from(only) << 1);
            for scaling in &self.scaling {
                seat.put(u64::from((scaling.from..scaling.to).contains(&number)));
            }
            print_slot(slot, names, &mut seat);
            let seated = self.seats.get(number as usize).map_or(&[][..], Vec::as_slice);
            let mut here: Vec<&Worker> = seated.iter().filter_map(|id| self.workers.get(id)).collect();
            here.sort_by_key(|w| (w.state, w.run.is_some()));
            for worker in here {
                if worker.state == WorkerState::Draining && forget.seats {
                    drains[usize::from(touched)] += 1;
                } else {
                    self.print_worker(worker, names, &mut seat);
                }
            }
            seats.push(seat.done());
        }
        // What a scale down has left without a slot only drains.
        let unseated = self.workers.values().filter(|w| w.role == Role::Serve && self.slot(w.slot).is_none());
        drains[2] = unseated.clone().count() as u64;
        if forget.seats {
            seats.sort_unstable();
            drains.iter().for_each(|n| print.put(*n));
        } else {
            unseated.for_each(|w| print.put(u64::from(w.slot.0)));
        }
        for seat in seats {
            print.put((seat >> 64) as u64);
            print.put(seat as u64);
        }
        for scaling in &self.scaling {
            let (from, to) = (u64::from(scaling.from), u64::from(scaling.to));
            print.put(if forget.seats { u64::from(from < to) } else { from << 32 | to });
        }
        if !forget.history {
            print.put(u64::from(self.confirmed));
            self.previous.iter().rev().take(2).for_each(|r| print.put(names.of(*r)));
            print.put(u64::MAX);
        }
        if !forget.refusals {
            let mut refused: Vec<u64> = self.refused.iter().map(|r| names.of(*r)).collect();
            refused.sort_unstable();
            refused.into_iter().for_each(|r| print.put(r));
        }
        print
    }

    fn print_worker(&self, worker: &Worker, names: &mut Names, print: &mut Print) {
        print.put(worker.state as u64);
        if worker.state != WorkerState::Draining {
            print.put(names.of(worker.code.release));
            print.put(names.of_phase(worker.code.phase, self.known_good.phase));
            let flags = [self.is_candidate(worker), worker.stale, worker.due, worker.aging];
            print.put(flags.iter().fold(0, |bits, flag| bits << 1 | u64::from(*flag)));
        }
    }
}

fn print_run(run: &Run, names: &mut Names, print: &mut Print) {
    let stage = match run.stage {
        RunStage::Rolling => 0,
        RunStage::Soaking => 1,
        RunStage::GivingUp => 2,
        RunStage::Scouting => 3,
        RunStage::Canary => 4,
        RunStage::Draining(outcome) => 10 + outcome as u64,
        RunStage::RollingBack(outcome) => 20 + outcome as u64,
    };
    print.put(run.kind as u64 | stage << 8 | u64::from(run.hold) << 16 | u64::from(run.only.is_some()) << 17);
    let surge = match run.surge {
        Surge::Count(n) => u64::from(n),
        Surge::Percent(n) => u64::from(n) << 16,
    };
    print.put(surge << 32 | u64::from(run.max_unavailable));
    print.put(run.soak.as_millis() as u64);
    let Scout { hook, rehearse, current } = run.scout;
    let flags = [
        hook,
        rehearse,
        current.is_some(),
        run.paused,
        run.soaked,
        run.watched,
        !run.pauses.is_empty(),
        run.confirm_within.is_some(),
        run.by_itself,
    ];
    print.put(flags.iter().fold(1, |bits, flag| bits << 1 | u64::from(*flag)) << 32 | u64::from(run.canary));
    print.put(names.of(run.to.release));
}

fn print_slot(slot: &SlotState, names: &mut Names, print: &mut Print) {
    let SlotState {
        crashes,
        backoff,
        healing,
        failing,
        first,
        lost_old,
        put_back,
        resolving,
        fallback,
        recycling,
        recycled,
    } = slot;
    let flags = [*crashes > 0, *backoff, *healing, *failing, *lost_old, *put_back, *resolving, *recycling, *recycled];
    print.put(flags.iter().fold(1, |bits, flag| bits << 1 | u64::from(*flag)));
    print.option(first.map(u64::from));
    print.option(fallback.map(|r| names.of(r)));
}

/// Releases in the order in which they are met, and the phases that can still come to matter.
struct Names {
    releases: Vec<ReleaseId>,
    held: Option<Phase>,
    to: Option<Phase>,
}

impl Names {
    fn of(&mut self, release: ReleaseId) -> u64 {
        let known = self.releases.iter().position(|r| *r == release);
        known.unwrap_or_else(|| {
            self.releases.push(release);
            self.releases.len() - 1
        }) as u64
    }

    fn of_phase(&self, phase: Phase, known_good: Phase) -> u64 {
        u64::from(phase == known_good) << 2
            | u64::from(Some(phase) == self.held) << 1
            | u64::from(Some(phase) == self.to)
    }
}

/// Two lanes of 64 bits, so that two states among many millions do not meet by chance.
struct Print(u64, u64);

impl Print {
    fn new() -> Self {
        Self(0x243f_6a88_85a3_08d3, 0x1319_8a2e_0370_7344)
    }

    fn put(&mut self, value: u64) {
        self.0 = mix(self.0 ^ value);
        self.1 = mix(self.1.rotate_left(23) ^ value ^ 0xa409_3822_299f_31d0);
    }

    fn option(&mut self, value: Option<u64>) {
        self.put(value.unwrap_or(u64::MAX));
    }

    fn done(self) -> u128 {
        u128::from(self.0) << 64 | u128::from(self.1)
    }
}

/// The finalizer of splitmix64 (Steele, Lea, Flood 2014).
fn mix(mut x: u64) -> u64 {
    x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}
