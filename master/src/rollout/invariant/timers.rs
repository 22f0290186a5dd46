//! P8: no timer is armed without a reason.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use proto::Slot;

use crate::action::Action;
use crate::event::{Event, Timer};
use crate::run::RunStage;
use crate::slot::{Role, WorkerState};
use crate::{Mode, Rollout};

/// Every timer that runs in a state.
#[must_use]
pub fn armed(state: &Rollout) -> Vec<Timer> {
    timers(state).0
}

/// Which timers a state needs, and which may be armed besides.
fn timers(state: &Rollout) -> (Vec<Timer>, Vec<Timer>) {
    let (mut needed, mut allowed) = (Vec::with_capacity(8), Vec::new());
    for (id, worker) in &state.workers {
        match worker.state {
            WorkerState::Booting => needed.push(Timer::BootLate(*id)),
            WorkerState::Ready if worker.aging => needed.push(Timer::Age(*id)),
            WorkerState::Ready => {}
            // Once it has fired the worker is being killed, and more cannot be done.
            WorkerState::Draining if worker.killed => allowed.push(Timer::Overdue(*id)),
            WorkerState::Draining => needed.push(Timer::Overdue(*id)),
        }
    }
    for (slot, seat) in state.slots.iter().zip(0..) {
        if slot.backoff {
            needed.push(Timer::Backoff(Slot(seat)));
        }
        if slot.healing {
            needed.push(Timer::Healthy(Slot(seat)));
        }
    }
    match state.run().map(|r| (r.stage, r.soaked)) {
        Some((RunStage::Soaking, false)) => needed.push(Timer::Soak),
        Some((RunStage::Canary, _)) => needed.push(Timer::Canary),
        _ => {}
    }
    if state.pending.is_some() && !state.unconfirmed && !matches!(state.mode, Mode::Stopping { .. }) {
        needed.push(Timer::Confirm);
    }
    (needed, allowed)
}

/// P8: every timer that is armed has a reason, and every reason its timer.
pub(super) fn check_timers(before: &Rollout, event: &Event, actions: &[Action], after: &Rollout) -> Result<(), String> {
    let (mut armed, mut maybe) = timers(before);
    if let Event::Fired(timer) = event {
        armed.retain(|t| t != timer);
        maybe.retain(|t| t != timer);
    }
    for action in actions {
        match action {
            Action::Arm(timer, time) if time.is_zero() => return Err(format!("{timer} is armed for no time")),
            Action::Arm(timer, _) => armed.push(*timer),
            Action::Disarm(timer) => {
                armed.retain(|t| t != timer);
                maybe.retain(|t| t != timer);
            }
            _ => {}
        }
    }
    for (id, worker) in &after.workers {
        let serves = worker.role == Role::Serve && worker.state == WorkerState::Ready;
        if worker.aging && !serves {
            return Err(format!("P8: worker {id} ages and does not serve"));
        }
        if serves && after.settings.max_age.is_some() && !worker.aging && !worker.due {
            return Err(format!("worker {id} never gets old"));
        }
    }
    let (needed, allowed) = timers(after);
    if let Some(timer) = needed.iter().find(|t| !armed.contains(t)) {
        return Err(format!("P8: {timer} should be armed and is not"));
    }
    if let Some(timer) = armed.iter().chain(&maybe).find(|t| !needed.contains(t) && !allowed.contains(t)) {
        return Err(format!("P8: {timer} is armed without a reason"));
    }
    Ok(())
}
