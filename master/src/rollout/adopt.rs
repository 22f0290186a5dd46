//! Adoption: a machine takes over the workers that another one has left behind.
//!
//! What serves goes on serving, whatever it runs: no cold start, no trial. A rollout that was under way is rolled back, or
//! finished where every slot is through and only the soak was left. What is missing is spawned from the known-good
//! release, what has no slot any more ends at once, and what does not fit is replaced, the new one ready before it ends.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::time::Duration;

use proto::{Incarnation, Phase, Slot};

use crate::action::{Action, Kind, Note, Outcome};
use crate::event::Timer;
use crate::memory::{Memory, RunMemory};
use crate::policy::OVERDUE_GRACE;
use crate::run::{Run, RunStage};
use crate::scout::Scout;
use crate::slot::{Code, Role, SlotState, Worker, WorkerState};
use crate::{Mode, Rollout};

/// A worker that has outlived its master.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Found {
    /// Its number.
    pub worker: Incarnation,
    /// Its seat.
    pub slot: Slot,
    /// What it runs.
    pub code: Code,
    /// What is left of it.
    pub left: Left,
}

/// What is left of a worker that has outlived its master.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Left {
    /// Its app is ready.
    Serving,
    /// The same, but it speaks another protocol, or holds other sockets than are wanted now.
    Unfit,
    /// It is ending its app.
    Ending,
    /// The worker process is dead, and processes of its app live on.
    Strays,
}

impl Found {
    fn serves(&self) -> bool {
        matches!(self.left, Left::Serving | Left::Unfit)
    }
}

impl Rollout {
    /// The opening event of a machine that finds workers. Where none of them serves, the start is a cold one.
    /// `confirm_left`: what is left of the time to confirm; `None`: all of it.
    pub(crate) fn adopt(&mut self, mut found: Vec<Found>, confirm_left: Option<Duration>, out: &mut Vec<Action>) {
        if self.starting().is_none() || !self.workers.is_empty() {
            return;
        }
        found.sort_unstable();
        found.dedup_by_key(|f| f.worker);
        let serving = found.iter().filter(|f| f.serves()).count() as u32;
        if serving == 0 {
            self.announce_start(out);
        } else {
            let memory = match &mut self.mode {
                Mode::Starting(start) => start.memory.take().map(|memory| *memory).unwrap_or_default(),
                _ => Memory::default(),
            };
            self.mode = Mode::Idle;
            self.recall(&memory, &found);
            out.push(Action::Note(Note::Adopted { serving, ending: found.len() as u32 - serving }));
            self.seat_found(&found, out);
            self.resume_confirm(&memory, confirm_left, out);
            self.resume_run(memory.run, out);
            self.put_back_foreign();
            return;
        }
        self.seat_found(&found, out);
    }

    /// What is trusted is what was trusted before, not what a cold start would make of it.
    fn recall(&mut self, memory: &Memory, found: &[Found]) {
        if let Some((setting, slots)) = memory.scaled
            && setting == self.settings.workers
        {
            self.slots.resize_with(slots as usize, SlotState::default);
        }
        self.previous = memory.previous.clone();
        self.refused = memory.refused.clone();
        self.held = memory.held;
        self.confirmed = memory.known_good.is_some();
        // Without a memory: what most of them run.
        let most = || {
            let codes = found.iter().filter(|f| f.serves()).map(|f| f.code);
            let count = |code: Code| found.iter().filter(|f| f.serves() && f.code == code).count();
            codes.min_by_key(|code| (core::cmp::Reverse(count(*code)), *code))
        };
        if let Some(good) = memory.known_good.or_else(most) {
            self.known_good = good;
        }
        let good = self.known_good.release;
        self.refused.retain(|r| *r != good);
        self.previous.retain(|r| *r != good);
        let used = found.iter().map(|f| f.code.phase).chain([self.known_good.phase]).max().unwrap_or(Phase(0));
        self.next_phase = memory.next_phase.max(used.0.saturating_add(1));
        self.next_run = memory.next_run.max(1);
    }

    fn seat_found(&mut self, found: &[Found], out: &mut Vec<Action>) {
        let drain = self.settings.drain_timeout;
        for Found { worker: id, slot, code, left } in found.iter().copied() {
            self.next_incarnation = self.next_incarnation.max(id.0.saturating_add(1));
            let state = match left {
                Left::Serving | Left::Unfit => WorkerState::Ready,
                Left::Ending | Left::Strays => WorkerState::Draining,
            };
            let (role, run, stale) = (Role::Serve, None, left == Left::Unfit);
            self.seat(id, Worker { slot, role, code, state, run, stale, killed: false, due: false, aging: false });
            if left == Left::Strays {
                out.push(Action::EndLeftovers(id));
            }
            if state == WorkerState::Draining {
                out.push(Action::Arm(Timer::Overdue(id), drain.saturating_add(OVERDUE_GRACE)));
            } else if self.slot(slot).is_some() {
                self.begin_to_age(id, out);
            } else {
                self.end(id, out);
            }
        }
    }

    /// The window to confirm goes on where it was.
    fn resume_confirm(&mut self, memory: &Memory, left: Option<Duration>, out: &mut Vec<Action>) {
        self.pending = memory.pending;
        let Some(pending) = self.pending else { return };
        let left = left.unwrap_or(pending.within);
        self.unconfirmed = left.is_zero();
        if !left.is_zero() {
            out.push(Action::Arm(Timer::Confirm, left));
        }
    }

    fn resume_run(&mut self, run: Option<Box<RunMemory>>, out: &mut Vec<Action>) {
        let Some(run) = run else { return };
        // The way back from what nobody has confirmed begins anew; a `restart` has nothing to undo but an end.
        let by_itself = run.kind == Kind::Rollback && self.pending.is_some_and(|p| p.back == run.to.release);
        if by_itself && self.unconfirmed {
            return;
        }
        let of_it = |w: &&Worker| w.state == WorkerState::Ready && w.code == run.to && !w.stale;
        let through: Vec<Slot> = self.workers.values().filter(of_it).map(|w| w.slot).collect();
        let all = run.kind != Kind::Restart && self.slot_numbers().all(|s| through.contains(&s));
        let back_from_held = run.kind == Kind::Rollback && run.to.release == self.known_good.release;
        let stage = match (all, back_from_held) {
            (_, true) => RunStage::RollingBack(Outcome::Promoted),
            (true, _) => RunStage::Rolling,
            _ => RunStage::RollingBack(Outcome::Aborted),
        };
        out.push(Action::Began {
            id: run.id,
            kind: run.kind,
            from: run.from.release,
            to: run.to.release,
            phase: run.to.phase,
        });
        for worker in self.workers.values_mut() {
            if worker.state == WorkerState::Ready && worker.code == run.to && !back_from_held {
                worker.run = Some(run.id);
            }
        }
        let foreign = run.to.release != self.known_good.release;
        let mut put_back = 0;
        if stage != RunStage::Rolling {
            for slot in through.iter().filter(|_| foreign) {
                if let Some(state) = self.slot_mut(*slot) {
                    put_back += u32::from(!core::mem::replace(&mut state.put_back, true));
                }
            }
        }
        if stage == RunStage::RollingBack(Outcome::Aborted) {
            out.push(Action::Note(Note::Interrupted { to: run.to.release, put_back }));
        }
        self.mode = Mode::Running(Run {
            id: run.id,
            kind: run.kind,
            from: run.from,
            to: run.to,
            stage,
            surge: run.surge,
            max_unavailable: run.max_unavailable,
            soak: run.soak,
            hold: run.hold,
            scout: Scout::default(),
            canary: run.canary,
            canary_soak: run.canary_soak,
            watched: true,
            confirm_within: run.confirm_within,
            paused: false,
            soaked: false,
            only: None,
            touched: through.into_iter().filter(|s| self.slot(*s).is_some()).collect(),
            failed: None,
            by_itself,
            command: None,
            pauses: Vec::new(),
            aborts: Vec::new(),
            awaits: Vec::new(),
        });
    }

    /// Whatever serves without anybody's trust gives way to the known-good release.
    fn put_back_foreign(&mut self) {
        let trying = self.trying();
        for slot in self.slot_numbers() {
            let foreign = self.living(slot).any(|(_, w)| {
                let candidate = trying && self.is_candidate(w);
                let held = self.held.is_some_and(|held| held.release == w.code.release);
                // The way back that begins next brings it anyway.
                let back = self.unconfirmed && self.pending.is_some_and(|p| p.back == w.code.release);
                w.code.release != self.known_good.release && !held && !back && !candidate && !self.is_fallback(w)
            });
            if foreign && let Some(state) = self.slot_mut(slot) {
                state.put_back = true;
            }
        }
    }
}
