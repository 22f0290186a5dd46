//! What operators ask for: which commands are taken when, and what they begin.

use alloc::collections::BTreeSet;
use alloc::vec;
use alloc::vec::Vec;
use core::time::Duration;

use proto::{Phase, Slot};

use crate::action::{Action, Answer, Exit, Kind, Note, Outcome, Reason};
use crate::event::{Command, CommandId, Options, ReleaseId, ScaleTo, Timer};
use crate::policy::MAX_WORKERS;
use crate::run::{Run, RunStage};
use crate::scout::Scout;
use crate::slot::{Code, SlotState};
use crate::{Mode, Rollout, Scaling};

impl Rollout {
    pub(crate) fn command(&mut self, id: CommandId, command: Command, out: &mut Vec<Action>) {
        let refused = match command {
            Command::Interrupt if matches!(self.mode, Mode::Stopping { .. }) => self.halt(id, out),
            Command::Stop | Command::Interrupt => self.stop(id, out),
            Command::Halt => self.halt(id, out),
            Command::Abort => self.abort_by(id, out),
            Command::Pause => self.pause(id),
            Command::Resume => self.resume(id, out),
            // Where no worker outlives it, a master that is to leave ends as it always does.
            Command::Leave if self.settings.no_orphans => self.stop(id, out),
            Command::Leave => {
                out.push(Action::Exit(Exit::Detached));
                Ok(())
            }
            Command::Await { run } => self.await_end(id, run),
            Command::Confirm if !matches!(self.mode, Mode::Stopping { .. }) => self.confirm(id, out),
            command => self.busy().map_or_else(|| self.begin_command(id, command, out), Err),
        };
        if let Err(reason) = refused {
            out.push(Action::Reply { command: id, answer: Answer::Refused(reason) });
        }
    }

    /// Why nothing can begin now, if so.
    fn busy(&self) -> Option<Reason> {
        match &self.mode {
            Mode::Starting(_) => Some(Reason::BusyStarting),
            Mode::Idle => None,
            Mode::Running(run) => Some(Reason::BusyRollout { id: run.id, kind: run.kind, to: run.to.release }),
            Mode::Stopping { .. } => Some(Reason::Stopping),
        }
    }

    fn begin_command(&mut self, id: CommandId, command: Command, out: &mut Vec<Action>) -> Result<(), Reason> {
        match command {
            Command::PhasedRestart { release, options } => self.phased_restart(id, release, options, out),
            Command::Rehearse { release } => {
                // It takes no phase: it is to see the one that a phased restart would.
                let to = Code { release, phase: Phase(self.next_phase) };
                let mut run = self.new_run(Some(id), Kind::Rehearsal, to);
                (run.stage, run.scout) = (RunStage::Scouting, Scout::new(false, true));
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
                let mut run = self.new_run(Some(id), Kind::Restart, self.known_good);
                run.only = Some(slot);
                self.begin(run, out);
                Ok(())
            }
            Command::Detach | Command::Upgrade => {
                if self.settings.no_orphans {
                    return Err(Reason::NoOrphans);
                }
                if self.aside().next().is_some() {
                    return Err(Reason::BusyHook);
                }
                let (exit, answer) = match command {
                    Command::Upgrade => (Exit::Upgraded, Answer::Upgrading),
                    _ => (Exit::Detached, Answer::Detached),
                };
                out.push(Action::Reply { command: id, answer });
                out.push(Action::Exit(exit));
                Ok(())
            }
            Command::Abort
            | Command::Await { .. }
            | Command::Leave
            | Command::Confirm
            | Command::Pause
            | Command::Resume
            | Command::Stop
            | Command::Interrupt
            | Command::Halt => Ok(()),
        }
    }

    fn phased_restart(
        &mut self,
        id: CommandId,
        release: ReleaseId,
        options: Options,
        out: &mut Vec<Action>,
    ) -> Result<(), Reason> {
        let settings = &self.settings;
        let surge = options.surge.unwrap_or(settings.surge);
        let max_unavailable = options.max_unavailable.unwrap_or(settings.max_unavailable);
        if surge.is_zero() && max_unavailable == 0 {
            return Err(Reason::NoBudget);
        }
        if options.hold && options.confirm_within.is_some() {
            return Err(Reason::HoldAndConfirm);
        }
        let refused = self.refused.contains(&release);
        if options.if_new {
            if refused {
                return Err(Reason::RefusedBefore(release));
            }
            if self.serves_everywhere(release) {
                out.push(Action::Reply { command: id, answer: Answer::NothingNew(release) });
                return Ok(());
            }
        }
        let soak = options.soak.unwrap_or(settings.soak);
        let canary = options.canary.unwrap_or(settings.canary);
        let canary_soak = options.canary_soak.or(settings.canary_soak).unwrap_or(soak);
        let confirm_within = options.confirm_within.or(settings.confirm_within);
        // Zero: this one needs none.
        let confirm_within = confirm_within.filter(|within| !options.hold && !within.is_zero());
        let scout = Scout::new(settings.before_rollout, settings.rehearse && !options.no_rehearse);
        let to = Code { release, phase: self.take_phase() };
        let mut run = self.new_run(Some(id), Kind::PhasedRestart, to);
        (run.surge, run.max_unavailable, run.hold) = (surge, max_unavailable, options.hold);
        (run.soak, run.canary, run.canary_soak) = (soak, canary, canary_soak);
        (run.confirm_within, run.scout) = (confirm_within, scout);
        if !scout.is_through() {
            run.stage = RunStage::Scouting;
        }
        self.begin(run, out);
        if refused {
            out.push(Action::Note(Note::RefusedBefore(release)));
        }
        Ok(())
    }

    fn take_phase(&mut self) -> Phase {
        let phase = Phase(self.next_phase);
        self.next_phase += 1;
        phase
    }

    fn new_run(&mut self, command: Option<CommandId>, kind: Kind, to: Code) -> Run {
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
            scout: Scout::default(),
            canary: 0,
            canary_soak: Duration::ZERO,
            watched: false,
            confirm_within: None,
            paused: false,
            soaked: false,
            only: None,
            touched: BTreeSet::new(),
            failed: None,
            by_itself: command.is_none(),
            command,
            pauses: Vec::new(),
            aborts: Vec::new(),
            awaits: Vec::new(),
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
            self.drop_pending(out);
            (self.confirmed, self.fell_back) = (true, false);
        } else {
            self.make_known_good(to, true, out);
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
        let Some(held) = self.held.take() else { return self.begin_rollback(Some(id), out) };
        // From a held release: everything that is not known-good is put back, as after an abort.
        self.refuse(held.release);
        let mut run = self.new_run(Some(id), Kind::Rollback, self.known_good);
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

    /// Back to the release that was promoted before this one.
    pub(crate) fn begin_rollback(&mut self, id: Option<CommandId>, out: &mut Vec<Action>) -> Result<(), Reason> {
        let target = *self.previous.last().ok_or(Reason::NothingBefore)?;
        let to = Code { release: target, phase: self.take_phase() };
        let run = self.new_run(id, Kind::Rollback, to);
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
            self.stop_recycling(slot);
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
            Some(RunStage::Draining(Outcome::Promoted | Outcome::Held)) => return Err(Reason::AlreadyPromoted),
            Some(_) => {}
        }
        self.abort(None, out);
        if let Some(run) = self.run_mut() {
            run.aborts.push(id);
        }
        Ok(())
    }

    fn await_end(&mut self, id: CommandId, run: u64) -> Result<(), Reason> {
        let running = self.run_mut().filter(|r| r.id == run && r.kind != Kind::Rehearsal);
        running.ok_or(Reason::NotRunning(run))?.awaits.push(id);
        Ok(())
    }

    /// Whoever asks is answered when the slots under way are through.
    fn pause(&mut self, id: CommandId) -> Result<(), Reason> {
        if matches!(self.mode, Mode::Stopping { .. }) {
            return Err(Reason::Stopping);
        }
        let trying = self.trying();
        let run = self.run_mut().filter(|r| r.kind != Kind::Rehearsal).ok_or(Reason::NothingToPause)?;
        if !trying {
            return Err(Reason::TooLateToPause);
        }
        run.paused = true;
        run.pauses.push(id);
        Ok(())
    }

    fn resume(&mut self, id: CommandId, out: &mut Vec<Action>) -> Result<(), Reason> {
        if matches!(self.mode, Mode::Stopping { .. }) {
            return Err(Reason::Stopping);
        }
        let run = self.run_mut().filter(|r| r.paused).ok_or(Reason::NotPaused)?;
        run.paused = false;
        for command in core::mem::take(&mut run.pauses) {
            out.push(Action::Reply { command, answer: Answer::Refused(Reason::PauseOver) });
        }
        out.push(Action::Note(Note::Resumed));
        out.push(Action::Reply { command: id, answer: Answer::Resumed });
        Ok(())
    }

    /// From now on nothing is spawned, put back or retried.
    fn begin_stop(&mut self, id: CommandId, out: &mut Vec<Action>) {
        if let Mode::Stopping { waiting, .. } = &mut self.mode {
            waiting.push(id);
            return;
        }
        if let Some(run) = self.run() {
            run.quiet(out);
        }
        if self.pending.is_some() && !self.unconfirmed {
            out.push(Action::Disarm(Timer::Confirm));
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
