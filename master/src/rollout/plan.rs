//! From what *is* to what is *wanted*: after each event, which workers end, which are spawned, what is over.
//!
//! The order within a step is fixed: take on slots, end workers, spawn workers, and see whether something is
//! over; again for as long as something was. A drained worker frees its place only when it is gone.

use alloc::vec::Vec;

use proto::{Incarnation, Slot};

use crate::action::{Action, Answer, Kind, Note, Outcome, Reason};
use crate::event::{ReleaseId, Timer};
use crate::run::{Run, RunStage};
use crate::slot::{Code, Role, Worker, WorkerState};
use crate::{Mode, Rollout};

impl Rollout {
    pub(crate) fn plan(&mut self, out: &mut Vec<Action>) {
        loop {
            if matches!(self.mode, Mode::Stopping { .. }) {
                self.plan_stop(out);
                return;
            }
            self.take_on(out);
            self.retire(out);
            self.fill(out);
            if !self.advance(out) && !self.answer_scaling(out) {
                break;
            }
        }
        self.answer_pauses(out);
    }

    fn plan_stop(&mut self, out: &mut Vec<Action>) {
        if !self.workers.is_empty() {
            return;
        }
        if let Mode::Stopping { exit, waiting } = &mut self.mode {
            for command in core::mem::take(waiting) {
                out.push(Action::Reply { command, answer: Answer::Stopped });
            }
            out.push(Action::Exit(*exit));
        }
    }

    /// Whether the rollout is through with a slot.
    pub(crate) fn is_done(&self, slot: Slot) -> bool {
        self.living(slot).any(|(_, w)| w.state == WorkerState::Ready && self.is_candidate(w))
    }

    /// How many slots the rollout is through with.
    pub(crate) fn steps_done(&self) -> u32 {
        self.slot_numbers().filter(|s| self.is_done(*s)).count() as u32
    }

    /// Takes on as many slots as the budget allows: those without a ready worker first, then in order.
    fn take_on(&mut self, out: &mut Vec<Action>) {
        loop {
            let Some(run) = self.run() else { return };
            if run.stage != RunStage::Rolling || run.paused || self.canary_is_out() {
                return;
            }
            let budget = self.budget();
            let under_way = run.touched.iter().filter(|s| !self.is_done(**s)).count() as u32;
            if under_way >= budget.width()
                || (budget.surge > 0 && self.alive() + under_way_unspawned(self) >= self.capacity())
            {
                return;
            }
            // A `restart` takes on its slot and no other.
            let untouched =
                self.slot_numbers().filter(|s| !run.touched.contains(s) && run.only.is_none_or(|o| o == *s));
            let Some(next) = untouched.min_by_key(|s| (self.is_ready(*s), *s)) else { return };
            self.touch(next, out);
            // Whoever served there has crashed since the rollout began, and comes back.
            let crashed = budget.surge > 0 && !self.is_ready(next);
            if let Some(state) = self.slot_mut(next) {
                state.lost_old = crashed;
            }
        }
    }

    /// Ends what has been replaced, what lost a race, and (with surge 0) what is to be replaced.
    fn retire(&mut self, out: &mut Vec<Action>) {
        for slot in self.slot_numbers() {
            let rolling = self.run().is_some_and(|r| r.stage == RunStage::Rolling && r.touched.contains(&slot));
            let keeper = self.keeper(slot, rolling);
            let living: Vec<(Incarnation, Worker)> = self.living(slot).map(|(id, w)| (id, w.clone())).collect();
            if let Some(keeper) = keeper {
                for (id, _) in living.iter().filter(|(id, _)| *id != keeper) {
                    self.end(*id, out);
                }
                continue;
            }
            if rolling && self.budget().surge == 0 {
                self.cancel_backoff(slot, out);
            }
            for (id, worker) in &living {
                let replaced = if rolling { !self.is_candidate(worker) } else { self.is_bad(worker) };
                if !replaced {
                    continue;
                }
                match worker.state {
                    // With a surge, a booting known-good worker may yet win against the candidate.
                    WorkerState::Booting if rolling && self.budget().surge > 0 => {}
                    WorkerState::Booting => self.end(*id, out),
                    WorkerState::Ready => {
                        let put_back = || self.may_put_back(slot) && !self.gives_up();
                        let stop_first = self.budget().surge == 0 && (rolling || put_back());
                        if stop_first && self.ready_slots() > self.needed() {
                            self.end(*id, out);
                            // The rollout's budget allows it: it is not over before that one is gone.
                            if let Some(run) = self.run_mut().filter(|r| r.touches()) {
                                run.touched.insert(slot);
                            }
                        }
                    }
                    WorkerState::Draining => {}
                }
            }
        }
    }

    /// The ready worker because of which every other one in its slot can end.
    fn keeper(&self, slot: Slot, rolling: bool) -> Option<Incarnation> {
        let mut ready = self.living(slot).filter(|(_, w)| w.state == WorkerState::Ready);
        if rolling {
            return ready.find(|(_, w)| self.is_candidate(w)).map(|(id, _)| id);
        }
        ready.find(|(_, w)| !self.is_bad(w)).map(|(id, _)| id)
    }

    /// Spawns what is wanted, the most needed first, as far as P3 allows.
    fn fill(&mut self, out: &mut Vec<Action>) {
        let slots: Vec<Slot> = self.slot_numbers().collect();
        // Seats where nobody sits and nobody is coming.
        for slot in &slots {
            if self.living(*slot).next().is_none() && self.may_spawn(*slot) {
                let lost_old = self.slot(*slot).is_some_and(|s| s.lost_old);
                match self.candidate_for(*slot).filter(|_| !lost_old) {
                    Some(code) => self.spawn_within(*slot, code, true, out),
                    None => self.spawn_within(*slot, self.code_for(*slot), false, out),
                }
            }
        }
        // An old worker crashed while its candidate boots: whichever is ready first.
        for slot in &slots {
            let wanted = self.slot(*slot).is_some_and(|s| s.lost_old && !s.backoff);
            let served = self.living(*slot).any(|(_, w)| w.state == WorkerState::Ready || !self.is_candidate(w));
            if wanted && !served {
                self.spawn_within(*slot, self.known_good, false, out);
            }
        }
        // Candidates beside old workers.
        for slot in &slots {
            let Some(code) = self.candidate_for(*slot) else { continue };
            let stop_first = self.budget().surge == 0;
            let has = self.living(*slot).any(|(_, w)| self.is_candidate(w));
            let waits = stop_first && self.living(*slot).next().is_some();
            if !has && !waits {
                self.spawn_within(*slot, code, true, out);
            }
        }
        // Known-good beside what has to go.
        for slot in &slots {
            let bad = self.living(*slot).any(|(_, w)| self.is_bad(w) && w.state == WorkerState::Ready);
            let good = self.living(*slot).any(|(_, w)| !self.is_bad(w));
            if bad && !good && self.budget().surge > 0 && self.may_put_back(*slot) {
                self.spawn_within(*slot, self.code_for(*slot), false, out);
            }
        }
    }

    fn spawn_within(&mut self, slot: Slot, code: Code, candidate: bool, out: &mut Vec<Action>) {
        if self.alive() < self.capacity() {
            self.spawn(slot, code, candidate, out);
        }
    }

    /// The candidate's code, when the rollout wants one in this slot.
    fn candidate_for(&self, slot: Slot) -> Option<Code> {
        let run = self.run()?;
        (run.stage == RunStage::Rolling && run.touched.contains(&slot)).then_some(run.to)
    }

    /// What a spawn outside the rollout uses: known-good, or what stands in for it when its directory is gone.
    fn code_for(&self, slot: Slot) -> Code {
        // What `dir` names may have turned out to be no good since it was asked for.
        let tried = |r: &ReleaseId| self.refused.contains(r) || self.run().is_some_and(|run| run.to.release == *r);
        if let Some(start) = self.starting() {
            return start.to;
        }
        let fallback = self.slot(slot).and_then(|s| s.fallback).filter(|r| !tried(r));
        Code { release: fallback.unwrap_or(self.known_good.release), phase: self.known_good.phase }
    }

    fn may_spawn(&self, slot: Slot) -> bool {
        // At a start a slot is tried once, until every slot has been.
        self.may_start(slot) && self.slot(slot).is_some_and(|s| !s.backoff && !s.resolving)
    }

    /// Whether as many slots have been begun with as come first.
    fn canary_is_out(&self) -> bool {
        self.run().is_some_and(|r| !r.watched && r.canary > 0 && r.touched.len() as u32 >= r.canary)
    }

    /// Whether a slot that serves something else may be put back now: in a rollback all of them, as far as surge
    /// allows; when that has failed one after the other, for what serves keeps serving.
    fn may_put_back(&self, slot: Slot) -> bool {
        if !self.may_spawn(slot) {
            return false;
        }
        match &self.mode {
            Mode::Running(run) if run.stage != RunStage::Scouting => {
                matches!(run.stage, RunStage::RollingBack(_) | RunStage::Draining(_))
            }
            // What a rollout finds out before it touches anything keeps no slot waiting.
            Mode::Running(_) | Mode::Idle => {
                let waits = |s: Slot| self.slot(s).is_some_and(|s| s.backoff || s.resolving);
                let boots = |s: Slot| self.living(s).any(|(_, w)| w.state == WorkerState::Booting);
                let put_back = self.slot(slot).is_some_and(|s| s.put_back);
                !put_back || !self.slot_numbers().any(|s| waits(s) || boots(s))
            }
            _ => false,
        }
    }

    /// Sees whether something is over. True when something changed.
    fn advance(&mut self, out: &mut Vec<Action>) -> bool {
        match &self.mode {
            Mode::Starting(_) => self.advance_start(out),
            Mode::Idle => self.settle(out) || self.go_back(out) || self.recycle(out),
            Mode::Running(_) => self.advance_run(out),
            Mode::Stopping { .. } => false,
        }
    }

    /// Whether a rollback is over before it puts anything back: a slot that waits counts as failed.
    fn gives_up(&self) -> bool {
        let back = self.run().is_some_and(|r| matches!(r.stage, RunStage::RollingBack(_)));
        back && self.slots.iter().any(|s| s.backoff)
    }

    pub(crate) fn retry_later(&mut self, slot: Slot, out: &mut Vec<Action>) {
        let Some(state) = self.slot_mut(slot) else { return };
        state.backoff = true;
        let delay = crate::policy::delay_after_failed_boot(state.crashes);
        out.push(Action::Arm(Timer::Backoff(slot), delay));
    }

    /// What follows from slots being served by what should serve them. True when another slot may go on because of it.
    fn settle(&mut self, out: &mut Vec<Action>) -> bool {
        let mut changed = false;
        for slot in self.slot_numbers() {
            let good = self.living(slot).any(|(_, w)| w.state == WorkerState::Ready && !self.is_bad(w));
            let bad = self.living(slot).any(|(_, w)| self.is_bad(w));
            if !good || bad {
                continue;
            }
            let Some(state) = self.slot_mut(slot) else { continue };
            state.put_back = false;
            state.recycling = false;
            // What did not boot beside it is not wanted any more: `reload-dir` trusts what serves.
            if core::mem::take(&mut state.failing) {
                changed = true;
                self.cancel_backoff(slot, out);
                self.reset_crashes(slot, out);
            }
        }
        // Also beside a rollout that is undone, or held: whatever else may serve does not count.
        let good = |w: &Worker| w.state == WorkerState::Ready && w.code.release == self.known_good.release;
        if self.slot_numbers().all(|slot| self.living(slot).any(|(_, w)| good(w))) {
            self.confirmed = true;
        }
        changed
    }

    fn advance_run(&mut self, out: &mut Vec<Action>) -> bool {
        let Some(run) = self.run() else { return false };
        let Run { stage, soak, kind, only, to, canary, canary_soak, watched, paused, soaked, .. } = *run;
        let id = run.id;
        let of_it = |w: &Worker| {
            if w.role == Role::Serve { run.touched.contains(&w.slot) } else { w.role.is_scout() }
        };
        let draining = self.workers.values().any(|w| w.state == WorkerState::Draining && of_it(w));
        match stage {
            RunStage::Scouting => {
                if !run.scout.is_through() {
                    return self.scout(to, Some(id), out);
                }
                match kind {
                    Kind::Rehearsal => self.end_run(Outcome::Promoted, false, out),
                    _ if paused => return false,
                    _ => self.begin_to_roll(true, out),
                }
                true
            }
            RunStage::Rolling => {
                if canary > 0 && !watched && self.canary_is_through(canary) {
                    let slots = self.steps_done();
                    if let Some(run) = self.run_mut() {
                        if canary_soak.is_zero() {
                            run.watched = true;
                            return true;
                        }
                        run.stage = RunStage::Canary;
                    }
                    out.push(Action::Arm(Timer::Canary, canary_soak));
                    out.push(Action::Note(Note::CanarySoaking { slots, soak: canary_soak }));
                    return true;
                }
                let all = match only {
                    Some(slot) => self.is_done(slot),
                    None => self.slot_numbers().all(|s| self.is_done(s)),
                };
                if !all {
                    return false;
                }
                if kind == Kind::Restart || soak.is_zero() {
                    if paused {
                        return false;
                    }
                    self.conclude(out);
                } else {
                    if let Some(run) = self.run_mut() {
                        run.stage = RunStage::Soaking;
                    }
                    out.push(Action::Arm(Timer::Soak, soak));
                    out.push(Action::Note(Note::Soaking(soak)));
                }
                true
            }
            RunStage::Soaking if soaked && !paused => {
                self.conclude(out);
                true
            }
            RunStage::Canary | RunStage::Soaking => false,
            RunStage::Draining(outcome) => {
                if draining {
                    return false;
                }
                self.end_run(outcome, false, out);
                true
            }
            RunStage::RollingBack(outcome) => {
                if self.gives_up() {
                    if let Some(run) = self.run_mut() {
                        run.stage = RunStage::GivingUp;
                    }
                    return true;
                }
                self.settle(out);
                let back = self.slot_numbers().all(|s| {
                    self.is_ready(s) && !self.living(s).any(|(_, w)| self.is_bad(w) || w.state == WorkerState::Booting)
                });
                if !back || draining {
                    return false;
                }
                self.end_run(outcome, false, out);
                true
            }
            RunStage::GivingUp => {
                if draining {
                    return false;
                }
                self.end_run(Outcome::Degraded, false, out);
                true
            }
        }
    }

    /// Whether a slot cannot be filled, or what serves is not what should.
    pub(crate) fn is_degraded(&self) -> bool {
        self.mode == Mode::Idle
            && (self.fell_back
                || self.slots.iter().any(|s| s.failing || s.put_back)
                || self.workers.values().any(|w| w.state != WorkerState::Draining && (w.stale || self.is_fallback(w))))
    }

    /// Whether the slots that come first are through, and others are not.
    fn canary_is_through(&self, canary: u32) -> bool {
        let Some(run) = self.run() else { return false };
        let through = run.touched.len() as u32 >= canary && run.touched.iter().all(|s| self.is_done(*s));
        through && self.slot_numbers().any(|s| !self.is_done(s))
    }

    /// A paused rollout stands still when the slots under way are through.
    fn answer_pauses(&mut self, out: &mut Vec<Action>) {
        let Some(run) = self.run().filter(|r| !r.pauses.is_empty()) else { return };
        if run.scout.current.is_some() || run.touched.iter().any(|s| !self.is_done(*s)) {
            return;
        }
        let (step, of) = self.progress();
        out.push(Action::Note(Note::Paused));
        let Some(run) = self.run_mut() else { return };
        for command in core::mem::take(&mut run.pauses) {
            out.push(Action::Reply { command, answer: Answer::Paused { step, of } });
        }
    }

    /// Answers the scalings that are through, or have failed. True when there were some.
    fn answer_scaling(&mut self, out: &mut Vec<Action>) -> bool {
        let mut waiting = core::mem::take(&mut self.scaling);
        let waited = waiting.len();
        waiting.retain(|scaling| {
            let answer = if let Some(failed) = scaling.failed {
                Answer::Refused(Reason::ScaleFailed { failed })
            } else if (scaling.from..scaling.to).map(Slot).any(|s| self.slot(s).is_some() && !self.is_ready(s))
                || (scaling.to..scaling.from)
                    .any(|s| self.workers.values().any(|w| w.slot.0 == s && self.slot(w.slot).is_none()))
            {
                return true;
            } else {
                Answer::Scaled { from: scaling.from, to: scaling.to }
            };
            out.push(Action::Reply { command: scaling.command, answer });
            false
        });
        self.scaling = waiting;
        self.scaling.len() < waited
    }
}

/// Slots taken on whose candidate is still to be spawned: their places are spoken for.
fn under_way_unspawned(rollout: &Rollout) -> u32 {
    let Some(run) = rollout.run() else { return 0 };
    run.touched.iter().filter(|s| !rollout.living(**s).any(|(_, w)| rollout.is_candidate(w))).count() as u32
}
