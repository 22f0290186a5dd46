//! One rollout: from its beginning to the word that ends it.

use alloc::collections::BTreeSet;
use alloc::vec::Vec;
use core::time::Duration;

use proto::{Incarnation, Slot, Surge};

use crate::action::{Action, Answer, Ended, Kind, Note, Outcome, Reason};
use crate::event::{CommandId, Timer};
use crate::scout::Scout;
use crate::slot::Role;
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
    pub(crate) surge: Surge,
    pub(crate) max_unavailable: u32,
    pub(crate) soak: Duration,
    pub(crate) hold: bool,
    /// What is to be found out before the first slot is touched.
    pub(crate) scout: Scout,
    /// How many slots come first, until they have been watched for a while.
    pub(crate) canary: u32,
    pub(crate) canary_soak: Duration,
    /// They have been.
    pub(crate) watched: bool,
    pub(crate) confirm_within: Option<Duration>,
    /// It takes on no further slot.
    pub(crate) paused: bool,
    /// Its quiet time is over; only a pause keeps it.
    pub(crate) soaked: bool,
    /// The only slot that a `restart` is about.
    pub(crate) only: Option<Slot>,
    /// Slots that it has begun with.
    pub(crate) touched: BTreeSet<Slot>,
    /// The worker whose failure ended it.
    pub(crate) failed: Option<Incarnation>,
    /// Nobody has asked for it: what it leaves was not confirmed in time.
    pub(crate) by_itself: bool,
    /// Who began it and waits for its end.
    pub(crate) command: Option<CommandId>,
    /// Who waits for it to stand still.
    pub(crate) pauses: Vec<CommandId>,
    /// Who asked to abort it.
    pub(crate) aborts: Vec<CommandId>,
    /// Who waits for its end besides.
    pub(crate) awaits: Vec<CommandId>,
}

/// How far a rollout is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RunStage {
    /// A hook runs, or a rehearsal; no slot is touched yet.
    Scouting,
    /// Slot after slot.
    Rolling,
    /// The canary slots are through; quiet time.
    Canary,
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
        use RunStage::{Canary, Rolling, Scouting, Soaking};
        self.run().is_some_and(|r| matches!(r.stage, Scouting | Rolling | Canary | Soaking))
    }

    /// Begins a rollout.
    pub(crate) fn begin(&mut self, run: Run, out: &mut Vec<Action>) {
        out.push(Action::Began {
            id: run.id,
            kind: run.kind,
            from: run.from.release,
            to: run.to.release,
            phase: run.to.phase,
        });
        if let Some(command) = run.command {
            out.push(Action::Reply { command, answer: Answer::Accepted { id: run.id } });
        }
        let rolling = run.stage == RunStage::Rolling;
        self.mode = Mode::Running(run);
        for slot in self.slot_numbers() {
            self.end_recycling(slot, out);
        }
        if rolling {
            self.begin_to_roll(false, out);
        }
    }

    /// Slots without a ready worker go first: their timers and booting workers are ended, except what comes back after
    /// a crash since the rollout began (`scouted`: it began a while ago).
    pub(crate) fn begin_to_roll(&mut self, scouted: bool, out: &mut Vec<Action>) {
        let Some(run) = self.run_mut() else { return };
        run.stage = RunStage::Rolling;
        let only = run.only;
        let surge = self.budget().surge;
        if surge == 0 && self.slots.len() == 1 {
            out.push(Action::Note(Note::ZeroReady));
        }
        for slot in self.slot_numbers() {
            if self.is_ready(slot) || only.is_some_and(|o| o != slot) {
                continue;
            }
            if scouted && surge > 0 && self.slot(slot).is_some_and(|s| !s.failing) {
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
        run.quiet(out);
        match run.stage {
            // Nothing was touched, and nothing depends on it.
            _ if run.kind == Kind::Rehearsal => run.stage = RunStage::Draining(Outcome::Aborted),
            RunStage::Scouting | RunStage::Rolling | RunStage::Canary | RunStage::Soaking => {
                run.stage = RunStage::RollingBack(Outcome::Aborted);
            }
            _ => return,
        }
        run.failed = run.failed.or(failed);
        run.paused = false;
        for command in core::mem::take(&mut run.pauses) {
            out.push(Action::Reply { command, answer: Answer::Refused(Reason::PauseOver) });
        }
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
        if self.run().is_some_and(|r| r.kind == Kind::Rehearsal) {
            return;
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
        let Some(run) = self.run().cloned() else { return };
        let (kind, to, hold) = (run.kind, run.to, run.hold);
        let outcome = if kind == Kind::Restart {
            Outcome::Promoted
        } else if hold && to.release != self.known_good.release {
            self.held = Some(to);
            // It serves by a person's will: it is not refused any more, nor trusted yet.
            self.refused.retain(|r| *r != to.release);
            // It serves every slot, whatever an earlier rollout had left to put back there.
            self.slots.iter_mut().for_each(|slot| slot.put_back = false);
            out.push(Action::Note(Note::Held(to.release)));
            Outcome::Held
        } else {
            self.promote(&run, out);
            Outcome::Promoted
        };
        if let Some(run) = self.run_mut() {
            run.stage = RunStage::Draining(outcome);
        }
        for worker in self.workers.values_mut() {
            worker.run = None;
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
        let tried = matches!(run.kind, Kind::PhasedRestart | Kind::Rollback);
        // What a person does not want to go back to after all was good once.
        let spared = run.kind == Kind::Rollback && run.failed.is_none();
        if undone && tried && !spared && run.to.release != self.known_good.release {
            self.refuse(run.to.release);
        }
        if undone && !stopped {
            self.stay(&run, out);
        }
        let serves = |held: &Code| self.workers.values().any(|w| w.state == WorkerState::Ready && w.code == *held);
        let mixed_with = self.held.filter(|held| undone && serves(held)).map(|held| held.release);
        let ended = Ended { id: run.id, outcome, failed: run.failed, mixed_with, stopped };
        let (action, answer) = if run.kind == Kind::Rehearsal {
            (Action::Rehearsed(ended.clone()), Answer::Rehearsed(ended.clone()))
        } else {
            (Action::Ended(ended.clone()), Answer::RolloutEnded(ended.clone()))
        };
        out.push(action);
        for command in run.command.into_iter().chain(run.awaits) {
            out.push(Action::Reply { command, answer: answer.clone() });
        }
        for command in run.aborts {
            out.push(Action::Reply { command, answer: Answer::Aborted(ended.clone()) });
        }
        for command in run.pauses {
            out.push(Action::Reply { command, answer: Answer::Refused(Reason::PauseOver) });
        }
        // A master that stops begins nothing more.
        if !tried || stopped {
            return;
        }
        // One that began by itself did so because nobody has confirmed what was promoted.
        let role = match outcome {
            Outcome::Held => return,
            Outcome::Promoted if !run.by_itself => Role::OnPromote,
            _ => Role::OnFailure,
        };
        if if role == Role::OnPromote { self.settings.on_promote } else { self.settings.on_failure } {
            self.spawn_aside(role, self.known_good, None, out);
        }
    }
}

impl Run {
    /// Whether it has to do with slots, by now.
    pub(crate) fn touches(&self) -> bool {
        self.stage != RunStage::Scouting && self.kind != Kind::Rehearsal
    }

    /// Stops the quiet time that runs, if one does.
    pub(crate) fn quiet(&self, out: &mut Vec<Action>) {
        match self.stage {
            RunStage::Canary => out.push(Action::Disarm(Timer::Canary)),
            RunStage::Soaking if !self.soaked => out.push(Action::Disarm(Timer::Soak)),
            _ => {}
        }
    }
}
