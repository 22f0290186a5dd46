//! What becomes of a worker: the one path on which boots succeed, fail, crash and end.

use alloc::vec::Vec;
use core::time::Duration;

use proto::{Incarnation, Slot};

use crate::action::{Action, Note};
use crate::event::{ReleaseId, Timer};
use crate::policy::{BOOT_GRACE, END_TIMEOUT, HEALTHY_AFTER, OVERDUE_GRACE, delay_after, delay_after_failed_boot};
use crate::run::RunStage;
use crate::slot::{Code, Role, Worker, WorkerState};
use crate::{Mode, Rollout};

impl Rollout {
    /// Spawns a worker; `candidate` says that the running rollout tries it.
    pub(crate) fn spawn(&mut self, slot: Slot, code: Code, candidate: bool, out: &mut Vec<Action>) {
        let worker = self.take_number();
        let run = if candidate { self.run().map(|r| r.id) } else { None };
        let (role, state) = (Role::Serve, WorkerState::Booting);
        let due = false;
        self.seat(worker, Worker { slot, role, code, state, run, stale: false, killed: false, due, aging: false });
        out.push(Action::Spawn { worker, slot, phase: code.phase, release: code.release, role });
        out.push(Action::Arm(Timer::BootLate(worker), self.boot_limit().saturating_add(BOOT_GRACE)));
    }

    /// Tells a worker to end: a ready one gets the drain timeout, one that was never ready five seconds.
    pub(crate) fn end(&mut self, id: Incarnation, out: &mut Vec<Action>) {
        let Some((_, timeout)) = self.drains(id, out) else { return };
        out.push(Action::Drain { worker: id, timeout });
        out.push(Action::Arm(Timer::Overdue(id), timeout + OVERDUE_GRACE));
    }

    /// From now on a worker is a draining one: what it was before, and how long its app may take. `None`: it drains already.
    fn drains(&mut self, id: Incarnation, out: &mut Vec<Action>) -> Option<(WorkerState, Duration)> {
        let drain = self.settings.drain_timeout;
        let worker = self.workers.get_mut(&id)?;
        let was = worker.state;
        let timeout = match was {
            WorkerState::Draining => return None,
            WorkerState::Ready => drain,
            WorkerState::Booting => {
                out.push(Action::Disarm(Timer::BootLate(id)));
                END_TIMEOUT
            }
        };
        worker.state = WorkerState::Draining;
        self.stop_aging(id, out);
        Some((was, timeout))
    }

    /// SIGKILL for a worker and everything of its app, whatever state it is in.
    pub(crate) fn kill(&mut self, id: Incarnation, out: &mut Vec<Action>) {
        if let Some(worker) = self.workers.get_mut(&id) {
            worker.killed = true;
            out.push(Action::Kill(id));
        }
    }

    pub(crate) fn booted(&mut self, id: Incarnation, out: &mut Vec<Action>) {
        let run = self.run().map(|r| r.id);
        let Some(worker) = self.workers.get_mut(&id) else { return };
        if worker.state != WorkerState::Booting {
            return;
        }
        if worker.role != Role::Serve {
            let role = worker.role;
            self.passed(id, role, out);
            return;
        }
        worker.state = WorkerState::Ready;
        let (slot, candidate) = (worker.slot, run.is_some() && worker.run == run);
        out.push(Action::Disarm(Timer::BootLate(id)));
        let starting = self.starting().is_some();
        self.begin_to_age(id, out);
        let crashed = self.slot(slot).is_some_and(|s| s.crashes > 0);
        let Some(state) = self.slot_mut(slot) else { return };
        state.failing = false;
        state.fallback = None;
        state.lost_old = false;
        state.first = starting.then_some(true);
        // Whoever crashed beside it has held nobody back.
        self.cancel_backoff(slot, out);
        if candidate {
            // A slot that the rollout has brought up again has its past behind it.
            self.reset_crashes(slot, out);
            let of = self.run().map_or(0, |r| if r.only.is_some() { 1 } else { self.slots.len() as u32 });
            let step = self.steps_done();
            out.push(Action::Note(Note::SlotReady { worker: id, step, of }));
        } else {
            if crashed && let Some(state) = self.slot_mut(slot) {
                state.healing = true;
                out.push(Action::Arm(Timer::Healthy(slot), HEALTHY_AFTER));
            }
            out.push(Action::Note(Note::Ready { worker: id }));
        }
    }

    pub(crate) fn boot_failed(&mut self, id: Incarnation, release_gone: bool, out: &mut Vec<Action>) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        if worker.state != WorkerState::Booting {
            return;
        }
        worker.state = WorkerState::Draining;
        out.push(Action::Disarm(Timer::BootLate(id)));
        out.push(Action::Arm(Timer::Overdue(id), END_TIMEOUT + OVERDUE_GRACE));
        self.not_ready(id, release_gone, out);
    }

    /// What a boot that failed means: for a candidate the end of its rollout, else a delay for its slot.
    fn not_ready(&mut self, id: Incarnation, release_gone: bool, out: &mut Vec<Action>) {
        let Some(worker) = self.workers.get(&id).cloned() else { return };
        if worker.role != Role::Serve {
            self.aside_failed(id, &worker, out);
            return;
        }
        for scaling in &mut self.scaling {
            if (scaling.from..scaling.to).contains(&worker.slot.0) {
                scaling.failed = Some(id);
            }
        }
        if self.is_candidate(&worker) && self.trying() {
            out.push(Action::Note(Note::BootFailed { worker: id, retry: None }));
            self.abort(Some(id), out);
            return;
        }
        let first = self.slot(worker.slot).is_some_and(|s| s.first.is_none());
        if self.starting().is_some_and(|s| s.trial && s.to == worker.code) {
            out.push(Action::Note(Note::BootFailed { worker: id, retry: None }));
            self.start_failed(id, out);
            return;
        }
        if self.starting().is_some() && first {
            if let Some(state) = self.slot_mut(worker.slot) {
                state.crashes += 1;
                state.first = Some(false);
                state.failing = true;
            }
            out.push(Action::Note(Note::BootFailed { worker: id, retry: None }));
            return;
        }
        if self.slot(worker.slot).is_some_and(|s| s.recycling) && self.recycle_failed(id, worker.slot, out) {
            return;
        }
        let known_good = worker.code.release == self.known_good.release;
        let idle = self.mode == Mode::Idle;
        if let Some(run) = self.run_mut()
            && matches!(run.stage, RunStage::RollingBack(_))
        {
            run.stage = RunStage::GivingUp;
        }
        let Some(state) = self.slot_mut(worker.slot) else { return };
        state.failing = true;
        state.fallback = None;
        if release_gone && known_good && idle {
            // The slot's delay begins when it is known that `dir` does not help either.
            state.resolving = true;
            out.push(Action::Note(Note::BootFailed { worker: id, retry: None }));
            out.push(Action::ResolveDir(worker.slot));
            return;
        }
        let retry = self.back_off(worker.slot, delay_after_failed_boot, out);
        out.push(Action::Note(Note::BootFailed { worker: id, retry: Some(retry) }));
    }

    pub(crate) fn resolved(&mut self, slot: Slot, release: Option<ReleaseId>, out: &mut Vec<Action>) {
        let known_good = self.known_good.release;
        let usable = |r: &ReleaseId| *r != known_good && !self.refused.contains(r);
        // What was trusted before, where `dir` names nothing that can be: a rollback would start that as well.
        let fallback = release.filter(usable).or(self.previous.last().copied().filter(usable));
        let Some(state) = self.slot_mut(slot) else { return };
        if !core::mem::take(&mut state.resolving) {
            return;
        }
        if let Some(release) = fallback {
            state.fallback = Some(release);
            out.push(Action::Note(Note::Fallback { slot, release }));
        } else {
            out.push(Action::Note(Note::NoFallback { slot, release }));
            self.back_off(slot, delay_after_failed_boot, out);
        }
    }

    pub(crate) fn exited(&mut self, id: Incarnation, out: &mut Vec<Action>) {
        self.dying(id, Some(OVERDUE_GRACE), out);
    }

    pub(crate) fn lost(&mut self, id: Incarnation, out: &mut Vec<Action>) {
        let Some(worker) = self.workers.get(&id) else { return };
        // Whoever was to be killed has had its time.
        out.push(if worker.killed { Action::Kill(id) } else { Action::EndLeftovers(id) });
        self.dying(id, Some(Duration::ZERO), out);
    }

    pub(crate) fn gone(&mut self, id: Incarnation, out: &mut Vec<Action>) {
        if self.workers.get(&id).is_some_and(|w| w.state == WorkerState::Draining) {
            out.push(Action::Disarm(Timer::Overdue(id)));
        }
        self.dying(id, None, out);
        self.unseat(id);
    }

    /// A worker ends that was not told to: a crash, or a boot that ended without a word.
    /// `grace`: what it gets beyond the time that is left to its app; `None`: nothing is left of it.
    fn dying(&mut self, id: Incarnation, grace: Option<Duration>, out: &mut Vec<Action>) {
        let Some((was, timeout)) = self.drains(id, out) else { return };
        if let Some(grace) = grace {
            out.push(Action::Arm(Timer::Overdue(id), timeout + grace));
        }
        match was {
            WorkerState::Booting => self.not_ready(id, false, out),
            _ => self.crashed(id, out),
        }
    }

    fn crashed(&mut self, id: Incarnation, out: &mut Vec<Action>) {
        let Some(worker) = self.workers.get(&id).cloned() else { return };
        if worker.role != Role::Serve {
            return;
        }
        if self.starting().is_some_and(|s| s.trial && s.to == worker.code) {
            out.push(Action::Note(Note::Crashed { worker: id, retry: None }));
            self.start_failed(id, out);
            return;
        }
        if self.is_candidate(&worker) && self.trying() {
            out.push(Action::Note(Note::Crashed { worker: id, retry: None }));
            self.abort(Some(id), out);
            return;
        }
        // Whoever was to be replaced by the rollback anyway does not count against the one that replaces it.
        let replaced = self.is_candidate(&worker) || self.is_bad(&worker);
        if replaced && self.run().is_some_and(|r| matches!(r.stage, RunStage::RollingBack(_))) {
            out.push(Action::Note(Note::Crashed { worker: id, retry: Some(Duration::ZERO) }));
            return;
        }
        // With surge 0 no old worker serves beside its candidate.
        let beside = self.budget().surge > 0;
        let lost_old =
            beside && self.run().is_some_and(|r| r.stage == RunStage::Rolling && r.touched.contains(&worker.slot));
        let Some(state) = self.slot_mut(worker.slot) else { return };
        state.lost_old = lost_old;
        let retry = self.back_off(worker.slot, delay_after, out);
        out.push(Action::Note(Note::Crashed { worker: id, retry: Some(retry) }));
    }

    /// Counts a failure and holds the slot back for as long as that many failures deserve.
    fn back_off(&mut self, slot: Slot, delay: fn(u32) -> Duration, out: &mut Vec<Action>) -> Duration {
        let Some(state) = self.slot_mut(slot) else { return Duration::ZERO };
        state.crashes = state.crashes.saturating_add(1);
        let delay = delay(state.crashes);
        if core::mem::take(&mut state.healing) {
            out.push(Action::Disarm(Timer::Healthy(slot)));
        }
        if !delay.is_zero() {
            state.backoff = true;
            state.failing = true;
            out.push(Action::Arm(Timer::Backoff(slot), delay));
        }
        delay
    }

    pub(crate) fn cancel_backoff(&mut self, slot: Slot, out: &mut Vec<Action>) {
        if let Some(state) = self.slot_mut(slot)
            && core::mem::take(&mut state.backoff)
        {
            out.push(Action::Disarm(Timer::Backoff(slot)));
        }
    }

    pub(crate) fn reset_crashes(&mut self, slot: Slot, out: &mut Vec<Action>) {
        let Some(state) = self.slot_mut(slot) else { return };
        if state.backoff {
            return;
        }
        state.crashes = 0;
        if core::mem::take(&mut state.healing) {
            out.push(Action::Disarm(Timer::Healthy(slot)));
        }
    }

    pub(crate) fn fired(&mut self, timer: Timer, out: &mut Vec<Action>) {
        match timer {
            Timer::Soak => {
                if let Some(run) = self.run_mut().filter(|r| r.stage == RunStage::Soaking) {
                    run.soaked = true;
                }
            }
            Timer::Canary => {
                if let Some(run) = self.run_mut().filter(|r| r.stage == RunStage::Canary) {
                    run.stage = RunStage::Rolling;
                    run.watched = true;
                }
            }
            Timer::Confirm => self.unconfirmed = self.pending.is_some(),
            Timer::Age(id) => {
                if let Some(worker) = self.workers.get_mut(&id)
                    && core::mem::take(&mut worker.aging)
                {
                    worker.due = true;
                }
            }
            Timer::Backoff(slot) => {
                if let Some(state) = self.slot_mut(slot) {
                    state.backoff = false;
                }
            }
            Timer::Healthy(slot) => {
                if let Some(state) = self.slot_mut(slot)
                    && core::mem::take(&mut state.healing)
                {
                    state.crashes = 0;
                }
            }
            Timer::BootLate(id) => {
                if self.workers.get(&id).is_some_and(|w| w.state == WorkerState::Booting) {
                    self.kill(id, out);
                    self.boot_failed(id, false, out);
                }
            }
            Timer::Overdue(id) => {
                if self.workers.get(&id).is_some_and(|w| w.state == WorkerState::Draining) {
                    self.kill(id, out);
                }
            }
        }
    }

    pub(crate) fn listener_lost(&mut self, out: &mut Vec<Action>) {
        for worker in self.workers.values_mut().filter(|w| w.role == Role::Serve && w.state != WorkerState::Draining) {
            worker.stale = true;
        }
        out.push(Action::Note(Note::RenewingListeners));
        // Whoever closed the socket: a candidate that serves nobody cannot be judged.
        self.abort(None, out);
    }

    pub(crate) fn is_candidate(&self, worker: &Worker) -> bool {
        worker.run.is_some() && worker.run == self.run().map(|r| r.id)
    }
}
