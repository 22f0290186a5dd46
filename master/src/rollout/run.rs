//! One rollout: from its beginning to the word that ends it.

use alloc::collections::BTreeSet;
use alloc::vec::Vec;
use core::time::Duration;

use proto::{Incarnation, Slot};

use crate::action::{Action, Answer, Ended, Kind, Note, Outcome};
use crate::event::{CommandId, Timer};
use crate::policy::REMEMBERED;
use crate::slot::{Code, WorkerState};
use crate::{Mode, Rollout};

/// A rollout that runs.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Run {
    /// Its number.
    pub id: u64,
    /// What kind it is.
    pub kind: Kind,
    /// The known-good code it began with.
    pub from: Code,
    /// The candidate.
    pub to: Code,
    /// How far it is.
    pub stage: RunStage,
    pub(crate) surge: u32,
    pub(crate) max_unavailable: u32,
    pub(crate) soak: Duration,
    pub(crate) hold: bool,
    /// The only slot that a `restart` is about.
    pub(crate) only: Option<Slot>,
    /// Slots that it has begun with.
    pub(crate) touched: BTreeSet<Slot>,
    /// The worker whose failure ended it.
    pub(crate) failed: Option<Incarnation>,
    /// Who waits for its end.
    pub(crate) command: CommandId,
    /// Who asked to abort it.
    pub(crate) aborts: Vec<CommandId>,
}

/// How far a rollout is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RunStage {
    /// Slot after slot.
    Rolling,
    /// Every slot is through; quiet time.
    Soaking,
    /// Decided so; the last old workers drain.
    Draining(Outcome),
    /// What it replaced is put back, and the outcome is this when that succeeds.
    RollingBack(Outcome),
    /// Putting back has failed; the last workers drain.
    GivingUp,
}

impl Rollout {
    pub(crate) fn run(&self) -> Option<&Run> {
        match &self.mode {
            Mode::Running(run) => Some(run),
            _ => None,
        }
    }

    pub(crate) fn run_mut(&mut self) -> Option<&mut Run> {
        match &mut self.mode {
            Mode::Running(run) => Some(run),
            _ => None,
        }
    }

    /// Whether candidates are being tried: a death among them fails the rollout.
    pub(crate) fn trying(&self) -> bool {
        self.run().is_some_and(|r| matches!(r.stage, RunStage::Rolling | RunStage::Soaking))
    }

    /// Begins a rollout. Slots without a ready worker go first: their timers and booting workers are ended.
    pub(crate) fn begin(&mut self, run: Run, out: &mut Vec<Action>) {
        out.push(Action::Began {
            id: run.id,
            kind: run.kind,
            from: run.from.release,
            to: run.to.release,
            phase: run.to.phase,
        });
        out.push(Action::Reply { command: run.command, answer: Answer::Accepted { id: run.id } });
        let rolling = run.stage == RunStage::Rolling;
        let only = run.only;
        self.mode = Mode::Running(run);
        let budget = self.budget();
        if budget.surge == 0 && self.slots.len() == 1 {
            out.push(Action::Note(Note::ZeroReady));
        }
        if !rolling {
            return;
        }
        for slot in self.slot_numbers() {
            if self.is_ready(slot) || only.is_some_and(|o| o != slot) {
                continue;
            }
            self.cancel_backoff(slot, out);
            let booting: Vec<_> = self.living(slot).map(|(id, _)| id).collect();
            for worker in booting {
                self.end(worker, out);
            }
            self.touch(slot, out);
        }
    }

    /// The rollout takes a slot on.
    pub(crate) fn touch(&mut self, slot: Slot, out: &mut Vec<Action>) {
        // Where somebody serves, only the candidate is to boot: not what a put-back has begun.
        if self.is_ready(slot) {
            let booting: Vec<_> =
                self.living(slot).filter(|(_, w)| w.state == WorkerState::Booting).map(|(id, _)| id).collect();
            for worker in booting {
                self.end(worker, out);
            }
        }
        if let Some(run) = self.run_mut() {
            run.touched.insert(slot);
        }
        if let Some(state) = self.slot_mut(slot) {
            state.fallback = None;
            state.resolving = false;
            state.lost_old = false;
        }
    }

    /// A candidate failed, or a person asked: put back what was replaced.
    pub(crate) fn abort(&mut self, failed: Option<Incarnation>, out: &mut Vec<Action>) {
        let Some(run) = self.run_mut() else { return };
        if !matches!(run.stage, RunStage::Rolling | RunStage::Soaking) {
            return;
        }
        if run.stage == RunStage::Soaking {
            out.push(Action::Disarm(Timer::Soak));
        }
        run.stage = RunStage::RollingBack(Outcome::Aborted);
        run.failed = failed;
        let (id, to) = (run.id, run.to);
        let touched: Vec<Slot> = run.touched.iter().copied().collect();
        let booting: Vec<_> = self
            .workers
            .iter()
            .filter(|(_, w)| w.run == Some(id) && w.state == WorkerState::Booting)
            .map(|(worker, _)| *worker)
            .collect();
        for worker in booting {
            self.end(worker, out);
        }
        // A candidate of the known-good release leaves nothing to put back: what it started may stay.
        let foreign = to.release != self.known_good.release;
        for slot in touched {
            let serves_old = self.living(slot).any(|(_, w)| w.state == WorkerState::Ready && w.run != Some(id));
            if !serves_old {
                self.reset_crashes(slot, out);
            }
            if let Some(state) = self.slot_mut(slot) {
                // An old worker may itself have been to be put back, since an earlier rollout.
                state.put_back |= foreign && !serves_old;
                state.lost_old = false;
            }
        }
        let put_back = self.slots.iter().filter(|s| s.put_back).count() as u32;
        out.push(Action::Note(Note::RollingBack { failed, put_back }));
    }

    /// The soak is over: the candidate is promoted, or held.
    pub(crate) fn conclude(&mut self, out: &mut Vec<Action>) {
        let Some(run) = self.run() else { return };
        let (kind, to, hold) = (run.kind, run.to, run.hold);
        let outcome = if kind == Kind::Restart {
            Outcome::Promoted
        } else if hold && to.release != self.known_good.release {
            self.held = Some(to);
            // It serves every slot, whatever an earlier rollout had left to put back there.
            self.slots.iter_mut().for_each(|slot| slot.put_back = false);
            out.push(Action::Note(Note::Held(to.release)));
            Outcome::Held
        } else {
            self.promote(to, kind);
            out.push(Action::Note(Note::Promoted(to.release)));
            Outcome::Promoted
        };
        if let Some(run) = self.run_mut() {
            run.stage = RunStage::Draining(outcome);
        }
        for worker in self.workers.values_mut() {
            worker.run = None;
        }
    }

    fn promote(&mut self, to: Code, kind: Kind) {
        let from = self.known_good;
        if kind == Kind::Rollback {
            self.previous.pop();
            self.refused.insert(from.release);
        }
        self.make_known_good(to, kind != Kind::Rollback);
    }

    /// Makes a release the known-good one; `remember` keeps the one before for `rollback`.
    pub(crate) fn make_known_good(&mut self, to: Code, remember: bool) {
        let from = self.known_good;
        if remember && self.confirmed && from.release != to.release {
            self.previous.push(from.release);
            if self.previous.len() > REMEMBERED {
                self.previous.remove(0);
            }
        }
        self.refused.remove(&to.release);
        self.held = None;
        self.known_good = to;
        self.confirmed = true;
        for slot in &mut self.slots {
            slot.put_back = false;
            slot.fallback = None;
        }
    }

    /// The last word on the running rollout.
    pub(crate) fn end_run(&mut self, outcome: Outcome, stopped: bool, out: &mut Vec<Action>) {
        let Mode::Running(run) = self.mode.clone() else { return };
        self.mode = Mode::Idle;
        for worker in self.workers.values_mut() {
            worker.run = None;
        }
        for slot in &mut self.slots {
            slot.lost_old = false;
        }
        let undone = matches!(outcome, Outcome::Aborted | Outcome::Degraded);
        if undone && run.kind != Kind::Restart && run.to.release != self.known_good.release {
            self.refused.insert(run.to.release);
        }
        let serves = |held: &Code| self.workers.values().any(|w| w.state == WorkerState::Ready && w.code == *held);
        let mixed_with = self.held.filter(|held| undone && serves(held)).map(|held| held.release);
        let ended = Ended { id: run.id, outcome, failed: run.failed, mixed_with, stopped };
        out.push(Action::Ended(ended.clone()));
        out.push(Action::Reply { command: run.command, answer: Answer::RolloutEnded(ended.clone()) });
        for command in run.aborts {
            out.push(Action::Reply { command, answer: Answer::Aborted(ended.clone()) });
        }
    }
}
