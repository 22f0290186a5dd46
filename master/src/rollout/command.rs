//! What operators ask for: which commands are taken when, and what they begin.

use alloc::collections::BTreeSet;
use alloc::vec;
use alloc::vec::Vec;

use proto::{Phase, Slot};

use crate::action::{Action, Answer, Exit, Kind, Outcome, Reason};
use crate::event::{Command, CommandId, ReleaseId, ScaleTo, Timer};
use crate::policy::MAX_WORKERS;
use crate::run::{Run, RunStage};
use crate::slot::{Code, SlotState};
use crate::{Mode, Rollout, Scaling};

impl Rollout {
    pub(crate) fn command(&mut self, id: CommandId, command: Command, out: &mut Vec<Action>) {
        let refused = match command {
            Command::Stop => self.stop(id, out),
            Command::Halt => self.halt(id, out),
            Command::Abort => self.abort_by(id, out),
            command => self.busy().map_or_else(|| self.begin_command(id, command, out), Err),
        };
        if let Err(reason) = refused {
            out.push(Action::Reply { command: id, answer: Answer::Refused(reason) });
        }
    }

    /// Why nothing can begin now, if so.
    fn busy(&self) -> Option<Reason> {
        match &self.mode {
            Mode::Starting => Some(Reason::BusyStarting),
            Mode::Idle => None,
            Mode::Running(run) => Some(Reason::BusyRollout { id: run.id, kind: run.kind, to: run.to.release }),
            Mode::Stopping { .. } => Some(Reason::Stopping),
        }
    }

    fn begin_command(&mut self, id: CommandId, command: Command, out: &mut Vec<Action>) -> Result<(), Reason> {
        match command {
            Command::PhasedRestart { release, hold, surge, max_unavailable, soak } => {
                let surge = surge.unwrap_or(self.settings.surge);
                let max_unavailable = max_unavailable.unwrap_or(self.settings.max_unavailable);
                if surge == 0 && max_unavailable == 0 {
                    return Err(Reason::NoBudget);
                }
                let to = Code { release, phase: self.take_phase() };
                let mut run = self.new_run(id, Kind::PhasedRestart, to);
                (run.surge, run.max_unavailable, run.hold) = (surge, max_unavailable, hold);
                run.soak = soak.unwrap_or(self.settings.soak);
                self.begin(run, out);
                Ok(())
            }
            Command::ReloadDir { release, explicit } => self.reload_dir(id, release, explicit, out),
            Command::Rollback { gone } => self.rollback(id, gone, out),
            Command::Scale(to) => self.scale(id, to, out),
            Command::Restart(slot) => {
                let workers = self.slots.len() as u32;
                if slot.0 >= workers {
                    return Err(Reason::NoSuchSlot { workers });
                }
                let mut run = self.new_run(id, Kind::Restart, self.known_good);
                run.only = Some(slot);
                self.begin(run, out);
                Ok(())
            }
            Command::Abort | Command::Stop | Command::Halt => Ok(()),
        }
    }

    fn take_phase(&mut self) -> Phase {
        let phase = Phase(self.next_phase);
        self.next_phase += 1;
        phase
    }

    fn new_run(&mut self, command: CommandId, kind: Kind, to: Code) -> Run {
        let id = self.next_run;
        self.next_run += 1;
        Run {
            id,
            kind,
            from: self.known_good,
            to,
            stage: RunStage::Rolling,
            surge: self.settings.surge,
            max_unavailable: self.settings.max_unavailable,
            soak: self.settings.soak,
            hold: false,
            only: None,
            touched: BTreeSet::new(),
            failed: None,
            command,
            aborts: Vec::new(),
        }
    }

    fn reload_dir(
        &mut self,
        id: CommandId,
        release: ReleaseId,
        explicit: bool,
        out: &mut Vec<Action>,
    ) -> Result<(), Reason> {
        let old = self.known_good.release;
        let to = match self.held {
            Some(held) if held.release == release => held,
            Some(held) if !explicit => return Err(Reason::HeldOther { held: held.release, named: release }),
            None if release == old => self.known_good,
            _ => Code { release, phase: self.take_phase() },
        };
        if to == self.known_good {
            self.confirmed = true;
        } else {
            self.make_known_good(to, true);
        }
        out.push(Action::Reply { command: id, answer: Answer::Pinned { old, new: release } });
        Ok(())
    }

    /// The release that `rollback` would go to now.
    #[must_use]
    pub fn rollback_target(&self) -> Option<ReleaseId> {
        match self.held {
            Some(_) => Some(self.known_good.release),
            None => self.previous.last().copied(),
        }
    }

    fn rollback(&mut self, id: CommandId, gone: bool, out: &mut Vec<Action>) -> Result<(), Reason> {
        let Some(target) = self.rollback_target() else { return Err(Reason::NothingBefore) };
        if gone {
            return Err(Reason::TargetGone(target));
        }
        let Some(held) = self.held.take() else {
            let to = Code { release: target, phase: self.take_phase() };
            let run = self.new_run(id, Kind::Rollback, to);
            self.begin(run, out);
            return Ok(());
        };
        // From a held release: everything that is not known-good is put back, as after an abort.
        self.refused.insert(held.release);
        let mut run = self.new_run(id, Kind::Rollback, self.known_good);
        run.stage = RunStage::RollingBack(Outcome::Promoted);
        for slot in self.slot_numbers() {
            if self.living(slot).any(|(_, w)| w.code.release != self.known_good.release) {
                run.touched.insert(slot);
                self.reset_crashes(slot, out);
                if let Some(state) = self.slot_mut(slot) {
                    state.put_back = true;
                }
            }
        }
        self.begin(run, out);
        Ok(())
    }

    fn scale(&mut self, id: CommandId, to: ScaleTo, out: &mut Vec<Action>) -> Result<(), Reason> {
        let from = self.slots.len() as u32;
        let wanted = match to {
            ScaleTo::Exactly(n) => i64::from(n),
            ScaleTo::Up(n) => i64::from(from) + i64::from(n),
            ScaleTo::Down(n) => i64::from(from) - i64::from(n),
        };
        let to = u32::try_from(wanted)
            .ok()
            .filter(|n| (1..=MAX_WORKERS).contains(n))
            .ok_or(Reason::WorkersOutOfRange { wanted: wanted.max(0).unsigned_abs() })?;
        let ready = (0..to.min(from)).filter(|s| self.is_ready(Slot(*s))).count() as u32;
        let needed = to.saturating_sub(self.settings.max_unavailable);
        if to < from && ready < needed {
            return Err(Reason::TooFewReady { ready, needed });
        }
        for slot in (to..from).map(Slot) {
            self.cancel_backoff(slot, out);
            self.reset_crashes(slot, out);
            let living: Vec<_> = self.living(slot).map(|(id, _)| id).collect();
            for worker in living {
                self.end(worker, out);
            }
        }
        self.slots.resize_with(to as usize, SlotState::default);
        self.scaling.push(Scaling { command: id, from, to, failed: None });
        Ok(())
    }

    fn abort_by(&mut self, id: CommandId, out: &mut Vec<Action>) -> Result<(), Reason> {
        match self.run().map(|r| r.stage) {
            None if matches!(self.mode, Mode::Stopping { .. }) => return Err(Reason::Stopping),
            None => return Err(Reason::NothingToAbort),
            Some(RunStage::Draining(_)) => return Err(Reason::AlreadyPromoted),
            Some(_) => {}
        }
        self.abort(None, out);
        if let Some(run) = self.run_mut() {
            run.aborts.push(id);
        }
        Ok(())
    }

    /// From now on nothing is spawned, put back or retried.
    fn begin_stop(&mut self, id: CommandId, out: &mut Vec<Action>) {
        if let Mode::Stopping { waiting, .. } = &mut self.mode {
            waiting.push(id);
            return;
        }
        if self.run().is_some_and(|r| r.stage == RunStage::Soaking) {
            out.push(Action::Disarm(Timer::Soak));
        }
        let outcome = match self.run().map(|r| r.stage) {
            Some(RunStage::Draining(outcome)) => outcome,
            _ => Outcome::Aborted,
        };
        self.end_run(outcome, true, out);
        for slot in self.slot_numbers() {
            self.cancel_backoff(slot, out);
            self.reset_crashes(slot, out);
        }
        for scaling in core::mem::take(&mut self.scaling) {
            out.push(Action::Reply { command: scaling.command, answer: Answer::Refused(Reason::Stopping) });
        }
        self.mode = Mode::Stopping { exit: Exit::Stopped, waiting: vec![id] };
    }

    fn stop(&mut self, id: CommandId, out: &mut Vec<Action>) -> Result<(), Reason> {
        self.begin_stop(id, out);
        let all: Vec<_> = self.workers.keys().copied().collect();
        for worker in all {
            self.end(worker, out);
        }
        Ok(())
    }

    fn halt(&mut self, id: CommandId, out: &mut Vec<Action>) -> Result<(), Reason> {
        self.stop(id, out)?;
        let all: Vec<_> = self.workers.keys().copied().collect();
        for worker in all {
            self.kill(worker, out);
        }
        Ok(())
    }
}
