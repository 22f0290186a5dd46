//! Which code is trusted: what becomes known-good, what is refused, what waits for a confirm, and what is remembered
//! of all that.

use alloc::boxed::Box;
use alloc::vec::Vec;

use crate::action::{Action, Answer, Kind, Note, Outcome, Reason};
use crate::event::{CommandId, ReleaseId, Timer};
use crate::memory::{Memory, Pending, RunMemory};
use crate::policy::REMEMBERED;
use crate::run::{Run, RunStage};
use crate::slot::{Code, Worker, WorkerState};
use crate::{Mode, Rollout};

/// What changes whenever the memory does.
#[derive(PartialEq, Eq)]
pub(crate) struct Mark {
    known_good: Option<Code>,
    held: Option<Code>,
    pending: Option<Pending>,
    run: Option<(u64, bool)>,
    refused: (usize, Option<ReleaseId>),
    previous: (usize, Option<ReleaseId>),
    next: (u32, u64, u64),
    fell_back: bool,
    slots: usize,
}

impl Rollout {
    pub(crate) fn mark(&self) -> Mark {
        Mark {
            known_good: self.confirmed.then_some(self.known_good),
            held: self.held,
            pending: self.pending,
            run: self.run().filter(|r| r.kind != Kind::Rehearsal).map(|r| (r.id, r.finishes())),
            refused: (self.refused.len(), self.refused.last().copied()),
            previous: (self.previous.len(), self.previous.last().copied()),
            next: (self.next_phase, self.next_run, self.taken_numbers()),
            fell_back: self.fell_back,
            slots: self.slots.len(),
        }
    }

    /// What has to be found again after the death of this process.
    #[must_use]
    pub fn memory(&self) -> Memory {
        let run = self.run().filter(|r| r.kind != Kind::Rehearsal);
        Memory {
            known_good: self.confirmed.then_some(self.known_good),
            previous: self.previous.clone(),
            held: self.held,
            refused: self.refused.clone(),
            pending: self.pending,
            run: run.map(|run| Box::new(run.memory())),
            next_phase: self.next_phase,
            next_run: self.next_run,
            next_incarnation: self.taken_numbers(),
            fell_back: self.fell_back,
            scaled: self.scaled(),
        }
    }

    /// How many slots there were to be, and how many there are, where that is not the same.
    pub(crate) fn scaled(&self) -> Option<(u32, u32)> {
        let slots = self.slots.len() as u32;
        (slots != self.settings.workers).then_some((self.settings.workers, slots))
    }

    /// Has the memory written before anything else of this step, which began at `begins`, can be noticed.
    pub(crate) fn remember(&self, begins: usize, out: &mut Vec<Action>) {
        let noticed = |a: &Action| {
            matches!(
                a,
                Action::Spawn { .. }
                    | Action::Drain { .. }
                    | Action::Kill(_)
                    | Action::EndLeftovers(_)
                    | Action::Reply { .. }
                    | Action::Exit(_)
            )
        };
        let at = out.iter().skip(begins).position(noticed).map_or(out.len(), |at| begins + at);
        out.insert(at, Action::Remember(Box::new(self.memory())));
    }

    /// Whether a release is in force, and every slot serves it.
    pub(crate) fn serves_everywhere(&self, release: ReleaseId) -> bool {
        let in_force = self.held.map_or(self.known_good.release, |held| held.release) == release;
        let serves = |w: &Worker| w.state == WorkerState::Ready && w.code.release == release;
        in_force && !self.is_degraded() && self.slot_numbers().all(|slot| self.living(slot).any(|(_, w)| serves(w)))
    }

    /// A release is not to be trusted; the oldest such verdicts are forgotten.
    pub(crate) fn refuse(&mut self, release: ReleaseId) {
        self.refused.retain(|r| *r != release);
        self.refused.push(release);
        if self.refused.len() > REMEMBERED {
            self.refused.remove(0);
        }
    }

    /// A rollout's candidate is promoted.
    pub(crate) fn promote(&mut self, run: &Run, out: &mut Vec<Action>) {
        let (from, to) = (self.known_good, run.to);
        out.push(Action::Note(Note::Promoted(to.release)));
        if run.kind == Kind::Rollback {
            self.previous.pop();
            self.refuse(from.release);
            self.make_known_good(to, false, out);
            return;
        }
        if to.release == from.release {
            // The same release in a new phase: whatever it waits for, it goes on waiting for.
            let (pending, unconfirmed) = (self.pending.take(), self.unconfirmed);
            self.make_known_good(to, false, out);
            (self.pending, self.unconfirmed) = (pending, unconfirmed);
            return;
        }
        // A release that was never confirmed is none to go back to.
        self.make_known_good(to, true, out);
        if let (Some(within), Some(back)) = (run.confirm_within, self.previous.last()) {
            self.pending = Some(Pending { back: *back, within });
            out.push(Action::Note(Note::Confirming { release: to.release, within }));
            out.push(Action::Arm(Timer::Confirm, within));
        }
    }

    /// Makes a release the known-good one; `remember` keeps the one before for `rollback`.
    pub(crate) fn make_known_good(&mut self, to: Code, remember: bool, out: &mut Vec<Action>) {
        let from = self.known_good;
        let was_pending = self.pending.is_some();
        self.drop_pending(out);
        if remember && self.confirmed && from.release != to.release {
            if was_pending {
                out.push(Action::Note(Note::NotConfirmed(from.release)));
                self.refuse(from.release);
            } else {
                self.previous.push(from.release);
            }
            // Each stands there once, and the one in force does not: a rollback never leads forward.
            self.previous.retain(|r| *r != to.release);
            if self.previous.len() > REMEMBERED {
                self.previous.remove(0);
            }
        }
        self.refused.retain(|r| *r != to.release);
        self.held = None;
        self.known_good = to;
        self.confirmed = true;
        self.fell_back = false;
        for slot in &mut self.slots {
            slot.put_back = false;
            slot.fallback = None;
        }
    }

    /// No confirm is waited for any more.
    pub(crate) fn drop_pending(&mut self, out: &mut Vec<Action>) {
        if self.pending.take().is_some() && !core::mem::take(&mut self.unconfirmed) {
            out.push(Action::Disarm(Timer::Confirm));
        }
    }

    pub(crate) fn confirm(&mut self, id: CommandId, out: &mut Vec<Action>) -> Result<(), Reason> {
        let leaves = |run: &Run| run.kind == Kind::Rollback && run.to.release != self.known_good.release;
        if self.pending.is_none() || self.run().is_some_and(leaves) {
            return Err(Reason::NothingToConfirm);
        }
        self.drop_pending(out);
        out.push(Action::Reply { command: id, answer: Answer::Confirmed(self.known_good.release) });
        Ok(())
    }

    /// Nobody has confirmed the known-good release in time: goes back as soon as nothing else runs. True when it began.
    pub(crate) fn go_back(&mut self, out: &mut Vec<Action>) -> bool {
        if !self.unconfirmed || self.mode != Mode::Idle {
            return false;
        }
        // It stays pending until the rollback is through: a master that dies meanwhile goes back as well.
        out.push(Action::Note(Note::Unconfirmed(self.known_good.release)));
        let Some(back) = self.previous.last().copied() else {
            self.drop_pending(out);
            return false;
        };
        if let Some(held) = self.held.take()
            && held.release != back
        {
            self.refuse(held.release);
        }
        self.begin_rollback(None, out).is_ok()
    }

    /// A rollback is undone: the release that nobody has confirmed in time stays, and is not gone back from again.
    pub(crate) fn stay(&mut self, run: &Run, out: &mut Vec<Action>) {
        if self.unconfirmed && run.kind == Kind::Rollback && run.to.release != self.known_good.release {
            self.drop_pending(out);
        }
    }
}

impl Run {
    /// Whether it goes on towards its end, and nobody has asked for anything else.
    fn finishes(&self) -> bool {
        !self.paused && !matches!(self.stage, RunStage::RollingBack(Outcome::Aborted) | RunStage::GivingUp)
    }

    pub(crate) fn memory(&self) -> RunMemory {
        RunMemory {
            id: self.id,
            kind: self.kind,
            from: self.from,
            to: self.to,
            hold: self.hold,
            surge: self.surge,
            max_unavailable: self.max_unavailable,
            soak: self.soak,
            canary: self.canary,
            canary_soak: self.canary_soak,
            confirm_within: self.confirm_within,
            by_itself: self.by_itself,
            finish: self.finishes(),
        }
    }
}
