//! The promises of the contract, as checks over one step: what the state was, what was done, what it is.
//!
//! P2 ready workers are never taken below the budget, P3 never too many instances, P4 a failed candidate costs no
//! good worker and what it replaced is put back, P5 no spawn outside a rollout uses untried code, P6 everybody who
//! waits is answered once, P8 no timer is armed without a reason.

mod adopt;
mod ends;
mod timers;
mod trust;

pub use adopt::{reborn, settings};
pub use ends::waiting;
pub use timers::armed;
pub use trust::check_cut;

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use proto::Slot;

use crate::action::{Action, Exit, Kind};
use crate::event::{Event, ReleaseId, Timer};
use crate::run::RunStage;
use crate::slot::{Role, Worker, WorkerState};
use crate::{Mode, Rollout};

/// Checks one step.
///
/// # Errors
/// Which promise was broken, and how.
pub fn check(before: &Rollout, event: &Event, actions: &[Action], after: &Rollout) -> Result<(), String> {
    if actions.iter().any(|a| matches!(a, Action::Exit(Exit::Detached | Exit::Upgraded))) {
        return adopt::check_leaving(before, event, actions, after);
    }
    if matches!(event, Event::Adopt { .. }) {
        // What was before is another machine's.
        adopt::check_adoption(before, event, actions, after)?;
        check_spawns(before, actions, after)?;
        timers::check_timers(before, event, actions, after)?;
        trust::check_memory(before, event, actions, after)?;
        return check_state(after);
    }
    check_drains(before, event, actions, after)?;
    check_spawns(before, actions, after)?;
    check_retries(before, event, actions, after)?;
    check_order(before, event, actions, after)?;
    ends::check_undoing(before, actions, after)?;
    ends::check_put_back(before, after)?;
    ends::check_concluded(before, event, actions, after)?;
    ends::check_ended(before, actions, after)?;
    ends::check_commands(before, event, actions, after)?;
    ends::check_answers(before, event, actions, after)?;
    timers::check_timers(before, event, actions, after)?;
    trust::check_memory(before, event, actions, after)?;
    trust::check_scouts(before, event, actions, after)?;
    trust::check_hooks(before, event, actions, after)?;
    trust::check_pause(before, event, after)?;
    check_state(after)
}

/// P2, P4: what the step told to end.
fn check_drains(before: &Rollout, event: &Event, actions: &[Action], after: &Rollout) -> Result<(), String> {
    if matches!(after.mode, Mode::Stopping { .. }) {
        return Ok(());
    }
    let drained: Vec<_> = actions
        .iter()
        .filter_map(|a| match a {
            Action::Drain { worker, .. } | Action::Kill(worker) => Some(*worker),
            _ => None,
        })
        .filter(|id| before.workers.get(id).is_some_and(|w| w.state == WorkerState::Ready))
        .collect();
    for id in drained {
        let worker = &before.workers[&id];
        if after.slot(worker.slot).is_none() {
            continue; // scaled down: the command itself was checked
        }
        if !after.is_ready(worker.slot) && after.ready_slots() < after.needed() {
            return Err(format!(
                "P2: draining worker {id} leaves {} ready slots, {} are needed",
                after.ready_slots(),
                after.needed()
            ));
        }
        // A surge is there so that a replacement is ready first.
        if after.budget().surge > 0 && !after.is_ready(worker.slot) {
            return Err(format!("P2: worker {id} is drained and nobody is ready in its slot"));
        }
        let rolling_back = matches!(after.run().map(|r| r.stage), Some(RunStage::RollingBack(_) | RunStage::GivingUp));
        let known_good = worker.code.release == before.known_good.release;
        let candidate = before.is_candidate(worker);
        // The listener's loss is the one reason to replace a good worker then.
        if rolling_back && known_good && !candidate && !worker.stale && !matches!(event, Event::ListenerLost) {
            let other = after
                .living(worker.slot)
                .any(|(_, w)| w.state == WorkerState::Ready && w.code.release == after.known_good.release);
            if !other {
                return Err(format!("P4: known-good worker {id} is drained while rolling back"));
            }
        }
    }
    Ok(())
}

/// P3, P5: what the step spawned.
fn check_spawns(before: &Rollout, actions: &[Action], after: &Rollout) -> Result<(), String> {
    // A rollout that ends in this step has spawned with its own surge.
    let capacity = after.capacity().max(before.capacity());
    let app = |a: &Action| matches!(a, Action::Spawn { role, .. } if role.is_app());
    if after.alive() > capacity && actions.iter().any(app) {
        return Err(format!("P3: {} instances are alive, {capacity} may be", after.alive()));
    }
    for action in actions {
        let Action::Spawn { worker, slot, release, role, .. } = action else { continue };
        let Some(spawned) = after.workers.get(worker) else { continue };
        if worker.0 >= after.taken_numbers() {
            return Err(format!("worker {worker} is spawned, and the next master may give its number again"));
        }
        if !trusts(before, after, spawned, *slot, *release) {
            return Err(format!("P5: worker {worker} ({role}) is spawned from {release}, which nobody trusts"));
        }
    }
    Ok(())
}

/// P5: whether this release may be spawned for what it is spawned for.
fn trusts(before: &Rollout, after: &Rollout, spawned: &Worker, slot: Slot, release: ReleaseId) -> bool {
    let good = [before.known_good.release, after.known_good.release].contains(&release);
    let tried = after.run().is_some_and(|r| spawned.run == Some(r.id) && r.to.release == release);
    let starts = after.starting().is_some_and(|s| s.to.release == release && !after.is_refused(release));
    match spawned.role {
        Role::Serve => {
            if after.starting().is_some() {
                return starts && spawned.run.is_none();
            }
            let candidate = tried && after.run().is_some_and(|r| r.stage == RunStage::Rolling);
            let fallback = before.slot(slot).is_some_and(|s| s.fallback == Some(release) || s.resolving);
            let failed = after.run().is_some_and(|r| r.stage != RunStage::Rolling && r.to.release == release);
            candidate || (spawned.run.is_none() && (good || (fallback && !after.is_refused(release) && !failed)))
        }
        Role::Rehearse => starts || (tried && after.run().is_some_and(|r| r.stage == RunStage::Scouting)),
        // A known-good release has been through it, and so has what is put back or gone back to.
        Role::BeforeRollout => {
            let first = after.starting().is_some_and(|s| s.trial || !after.confirmed);
            let restart = after.run().is_some_and(|r| r.kind == Kind::PhasedRestart);
            (starts && first) || (tried && restart)
        }
        Role::OnPromote | Role::OnFailure => release == after.known_good.release,
    }
}

/// P5: a boot that failed is not tried again at once, whatever else happens.
fn check_retries(before: &Rollout, event: &Event, actions: &[Action], after: &Rollout) -> Result<(), String> {
    let (Event::BootFailed { worker: id, .. }
    | Event::Exited(id)
    | Event::Lost(id)
    | Event::Gone(id)
    | Event::Fired(Timer::BootLate(id))) = event
    else {
        return Ok(());
    };
    let tried = |w: &&Worker| w.role == Role::Serve && w.state == WorkerState::Booting && !before.is_candidate(w);
    let failed = before.workers.get(id).filter(tried);
    for action in actions {
        if let (Some(failed), Action::Spawn { worker, slot, release, role: Role::Serve, .. }) = (failed, action)
            && failed.slot == *slot
            && failed.code.release == *release
            && !after.workers.get(worker).is_some_and(|w| after.is_candidate(w))
        {
            return Err(format!("worker {id} did not boot and its slot {slot} is tried again at once"));
        }
    }
    Ok(())
}

/// Which slot comes first: one that serves nobody, and in a degraded state one after the other.
fn check_order(before: &Rollout, event: &Event, actions: &[Action], after: &Rollout) -> Result<(), String> {
    if let (Some(run), Some(now)) = (before.run(), after.run())
        && now.stage == RunStage::Rolling
        && now.only.is_none()
    {
        let ends = match event {
            Event::Exited(id) | Event::Lost(id) | Event::Gone(id) => before.workers.get(id).map(|w| w.slot),
            _ => None,
        };
        let served = now.touched.difference(&run.touched).any(|s| before.is_ready(*s) && Some(*s) != ends);
        let waits = |s: &Slot| !now.touched.contains(s) && !after.is_ready(*s);
        if let (true, Some(slot)) = (served, after.slot_numbers().find(waits)) {
            return Err(format!("slot {slot} serves nobody and is not the next"));
        }
    }
    let ran = before.next_run != after.next_run;
    if before.mode != Mode::Idle || after.mode != Mode::Idle || ran {
        return Ok(());
    }
    let mut tried = after.slots.iter().any(|s| s.backoff);
    tried |= before.workers.iter().any(|(id, w)| {
        w.role == Role::Serve
            && w.state == WorkerState::Booting
            && after.workers.get(id).is_some_and(|w| w.state == WorkerState::Booting)
    });
    for action in actions {
        let Action::Spawn { slot, role: Role::Serve, .. } = action else { continue };
        let refused = |w: &Worker| after.is_bad(w) && !w.stale;
        if after.living(*slot).any(|(_, w)| refused(w)) && core::mem::replace(&mut tried, true) {
            return Err(format!("slot {slot} is put back while another one is tried"));
        }
    }
    Ok(())
}

/// What holds between steps.
fn check_state(after: &Rollout) -> Result<(), String> {
    for slot in after.slot_numbers() {
        let Some(state) = after.slot(slot) else { continue };
        let living = after.living(slot).count();
        if living > 2 {
            return Err(format!("slot {slot} has {living} living workers"));
        }
        let ready = after.living(slot).filter(|(_, w)| w.state == WorkerState::Ready).count();
        if ready > 1 {
            return Err(format!("slot {slot} has {ready} ready workers between steps"));
        }
        if state.healing && state.crashes == 0 {
            return Err(format!("P8: slot {slot} has a healthy timer without a crash"));
        }
        let bad = after.living(slot).any(|(_, w)| after.is_bad(w));
        if after.mode == Mode::Idle && ready > 0 && !bad {
            if state.failing {
                return Err(format!("slot {slot} serves what it should and counts as failing"));
            }
            if state.crashes > 0 && !state.healing {
                return Err(format!("slot {slot} would never forget its crashes"));
            }
        }
        if wants_somebody(after, slot) && after.alive() < after.capacity() {
            return Err(format!("slot {slot} is empty and nothing is under way for it"));
        }
    }
    check_seats(after)?;
    if matches!(after.mode, Mode::Idle) {
        if after.workers.values().any(|w| w.run.is_some()) {
            return Err(String::from("a candidate outlived its rollout"));
        }
        if after.slots.iter().any(|s| s.lost_old) {
            return Err(String::from("lost_old outlived its rollout"));
        }
    }
    let untouched = after.run().is_some_and(|r| r.stage != RunStage::Rolling) && after.slots.iter().any(|s| s.lost_old);
    if untouched {
        return Err(String::from("lost_old outlived the rolling"));
    }
    if after.refused.contains(&after.known_good.release) {
        return Err(String::from("the known-good release counts as refused"));
    }
    Ok(())
}

/// Who has no seat is in no slot; and one worker at a time is recycled, while nothing else goes on.
fn check_seats(after: &Rollout) -> Result<(), String> {
    let serves = |id| after.workers.get(id).map(|w| w.role == Role::Serve);
    if after.seats.iter().flatten().any(|id| serves(id) != Some(true)) {
        return Err(String::from("somebody has a seat who does not serve"));
    }
    if after.aside.iter().any(|id| serves(id) != Some(false)) {
        return Err(String::from("somebody stands aside who serves"));
    }
    if after.seats.iter().map(Vec::len).sum::<usize>() + after.aside.len() != after.workers.len() {
        return Err(String::from("somebody has no place"));
    }
    if let Some((worker, _)) = after.recyclable() {
        return Err(format!("worker {worker} is due, and nothing is done about it"));
    }
    let recycled = after.slots.iter().filter(|s| s.recycling).count();
    if recycled > 1 || (recycled > 0 && !matches!(after.mode, Mode::Idle | Mode::Stopping { .. })) {
        return Err(format!("{recycled} slots are recycled at a time, or beside a rollout"));
    }
    Ok(())
}

/// P6 in small: an empty slot is waiting for a timer, for an answer, or is being filled.
fn wants_somebody(rollout: &Rollout, slot: Slot) -> bool {
    let Some(state) = rollout.slot(slot) else { return false };
    let tried = !rollout.may_start(slot);
    !matches!(rollout.mode, Mode::Stopping { .. })
        && rollout.living(slot).next().is_none()
        && !state.backoff
        && !state.resolving
        && !tried
}
