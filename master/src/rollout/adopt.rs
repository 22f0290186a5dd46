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

/// What becomes of a rollout that is not finished.
const UNDONE: RunStage = RunStage::RollingBack(Outcome::Aborted);

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
            self.resume_run(memory.run, &found, out);
            self.one_in_each_slot(out);
            self.put_back_foreign(out);
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
        self.fell_back = memory.fell_back;
        // Without a memory: what most of them run; what is held only where there is nothing else.
        let most = || {
            let codes = found.iter().filter(|f| f.serves()).map(|f| f.code);
            let count = |code: Code| found.iter().filter(|f| f.serves() && f.code == code).count();
            codes.min_by_key(|code| (memory.held == Some(*code), core::cmp::Reverse(count(*code)), *code))
        };
        // Nothing was known-good when it began: what it is to replace is the next best.
        let from = memory.run.as_ref().map(|run| run.from);
        if let Some(good) = memory.known_good.or(from).or_else(most) {
            self.known_good = good;
        }
        let good = self.known_good.release;
        self.held = self.held.filter(|held| held.release != good);
        self.refused.retain(|r| *r != good);
        self.previous.retain(|r| *r != good);
        // (What strays say of themselves is only what their environment says.)
        let used = found
            .iter()
            .filter(|f| f.left != Left::Strays)
            .map(|f| f.code.phase)
            .chain([self.known_good.phase])
            .max()
            .unwrap_or(Phase(0));
        self.next_phase = memory.next_phase.max(used.0.saturating_add(1));
        self.next_run = memory.next_run.max(1);
    }

    fn seat_found(&mut self, found: &[Found], out: &mut Vec<Action>) {
        let drain = self.settings.drain_timeout;
        for Found { worker: id, slot, code, left } in found.iter().copied() {
            self.take_numbers_below(id.0.saturating_add(1));
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
        // A clock that was set back gives nobody more time.
        let left = left.unwrap_or(pending.within).min(pending.within);
        self.unconfirmed = left.is_zero();
        if !left.is_zero() {
            out.push(Action::Arm(Timer::Confirm, left));
        }
    }

    fn resume_run(&mut self, run: Option<Box<RunMemory>>, found: &[Found], out: &mut Vec<Action>) {
        let Some(run) = run else { return };
        // The way back from what nobody has confirmed begins anew; a `restart` has nothing to undo but an end.
        let goes_back = run.kind == Kind::Rollback && self.pending.is_some_and(|p| p.back == run.to.release);
        if goes_back && self.unconfirmed {
            return;
        }
        let of_it = |w: &&Worker| w.state == WorkerState::Ready && w.code == run.to && !w.stale;
        let through: Vec<Slot> = self.workers.values().filter(of_it).map(|w| w.slot).collect();
        // Also in slots that are no more: what was not through there has not been watched.
        let lost = found.iter().filter(|f| f.serves() && self.slot(f.slot).is_none()).all(|f| f.code == run.to);
        let all = run.finish && lost && self.slot_numbers().all(|s| through.contains(&s));
        let back_from_held = run.kind == Kind::Rollback && run.to == run.from;
        let stage = match run.kind {
            Kind::Restart | Kind::Rehearsal => UNDONE,
            // It was decided, and only what it had replaced was left to drain.
            _ if self.held == Some(run.to) => RunStage::Draining(Outcome::Held),
            _ if back_from_held => RunStage::RollingBack(Outcome::Promoted),
            _ if self.known_good == run.to => RunStage::Draining(Outcome::Promoted),
            _ if all => RunStage::Rolling,
            _ => UNDONE,
        };
        let undone = stage == UNDONE;
        let tried = run.kind != Kind::Restart && (undone || stage == RunStage::Rolling);
        out.push(Action::Began {
            id: run.id,
            kind: run.kind,
            from: run.from.release,
            to: run.to.release,
            phase: run.to.phase,
        });
        let candidate = |w: &Worker| w.state == WorkerState::Ready && w.code == run.to;
        if tried {
            self.workers.values_mut().filter(|w| candidate(w)).for_each(|w| w.run = Some(run.id));
        }
        // Whatever drains there is waited for.
        let decided = matches!(stage, RunStage::Draining(_));
        let touched = self.workers.values().filter(|w| decided || w.code == run.to).map(|w| w.slot);
        let touched = touched.filter(|s| self.slot(*s).is_some()).collect();
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
            touched,
            failed: None,
            by_itself: run.by_itself,
            command: None,
            pauses: Vec::new(),
            aborts: Vec::new(),
            awaits: Vec::new(),
        });
    }

    /// The last master may have died before it ended what was replaced: the one stays that is to serve there.
    fn one_in_each_slot(&mut self, out: &mut Vec<Action>) {
        let wanted = self.run().filter(|run| run.stage != UNDONE).map(|run| run.to);
        let wanted = wanted.or(self.held).unwrap_or(self.known_good);
        for slot in self.slot_numbers() {
            let rank = |id: Incarnation, w: &Worker| {
                let good = w.code.release == self.known_good.release;
                (!w.stale, w.code == wanted, w.code.release == wanted.release, good, !self.is_candidate(w), id)
            };
            let ready = self.living(slot).filter(|(_, w)| w.state == WorkerState::Ready);
            let mut ready: Vec<_> = ready.map(|(id, w)| rank(id, w)).collect();
            ready.sort_unstable();
            ready.pop();
            for (.., id) in ready {
                self.end(id, out);
            }
        }
    }

    /// Whatever serves without anybody's trust gives way to the known-good release.
    fn put_back_foreign(&mut self, out: &mut Vec<Action>) {
        let stage = self.run().map(|run| run.stage);
        let mut put_back = 0;
        for slot in self.slot_numbers() {
            let foreign = self.living(slot).any(|(_, w)| {
                let release = w.code.release;
                let held = self.held.is_some_and(|held| held.release == release);
                // `reload-dir` leaves alone what was known-good before it; a promotion does not.
                let before = self.previous.contains(&release) && !self.refused.contains(&release);
                let before = before && !matches!(stage, Some(RunStage::Draining(Outcome::Promoted)));
                // The way back that begins next brings it anyway.
                let back = self.unconfirmed && self.pending.is_some_and(|p| p.back == release);
                let stays = match self.is_candidate(w) {
                    true => stage != Some(UNDONE),
                    false => held || before || back || self.is_fallback(w),
                };
                release != self.known_good.release && !stays
            });
            if foreign && let Some(state) = self.slot_mut(slot) {
                state.put_back = true;
                put_back += 1;
            }
        }
        if let Some(run) = self.run().filter(|run| run.stage == UNDONE) {
            out.push(Action::Note(Note::Interrupted { to: run.to.release, put_back }));
        }
    }
}
