//! P4, P6: how rollouts and commands end.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use crate::action::{Action, Answer, Kind, Note, Outcome};
use crate::event::{Command, CommandId, Event, Timer};
use crate::run::RunStage;
use crate::slot::{Role, Worker, WorkerState};
use crate::{Mode, Rollout};

/// P4: a slot that is to be put back is, unless another release was made known-good or held.
pub(super) fn check_put_back(before: &Rollout, after: &Rollout) -> Result<(), String> {
    if before.known_good != after.known_good || before.held != after.held || matches!(after.mode, Mode::Stopping { .. })
    {
        return Ok(());
    }
    // One that was not confirmed in time is gone back from as soon as the rollout is over.
    if after.run().is_some() && before.run().map(|r| r.id) != after.run().map(|r| r.id) {
        return Ok(());
    }
    for slot in before.slot_numbers() {
        let wanted = |r: &Rollout| r.slot(slot).is_some_and(|s| s.put_back);
        let foreign = |w: &Worker| w.code.release != after.known_good.release && !after.is_fallback(w);
        let serves = after.living(slot).any(|(_, w)| w.state == WorkerState::Ready && foreign(w));
        if wanted(before) && !wanted(after) && serves {
            return Err(format!("P4: slot {slot} is not put back any more and serves other code"));
        }
    }
    Ok(())
}

/// P4, P6: what the end of a rollout says is so.
pub(super) fn check_ended(before: &Rollout, actions: &[Action], after: &Rollout) -> Result<(), String> {
    let Some(run) = before.run() else { return Ok(()) };
    for action in actions {
        let Action::Ended(ended) = action else { continue };
        if ended.stopped {
            continue;
        }
        // What comes next may begin in the same step, and with surge 0 by ending somebody.
        let next = after.run().is_some() || after.slots.iter().any(|s| s.recycling);
        let next = next && after.settings.surge.is_zero() && after.ready_slots() >= after.needed();
        let all = next || after.slot_numbers().all(|s| after.is_ready(s));
        let candidate = |w: &Worker| w.state == WorkerState::Ready && w.code == run.to;
        if ended.outcome == Outcome::Aborted && !all {
            return Err(String::from("P6: 'the old code serves everywhere' and a slot serves nobody"));
        }
        if ended.outcome == Outcome::Aborted
            && run.to.release != after.known_good.release
            && after.workers.values().any(candidate)
        {
            return Err(String::from("P4: 'the old code serves everywhere' and a refused candidate serves"));
        }
        let drains = |r: &Rollout, id| r.workers.get(id).is_some_and(|w| w.state == WorkerState::Draining);
        let about = |w: &Worker| match w.role {
            Role::Serve => run.touched.contains(&w.slot),
            role => role.is_scout() && w.run == Some(run.id),
        };
        let of_it = |id| about(&before.workers[id]) && drains(before, id) && drains(after, id);
        if before.workers.keys().any(of_it) {
            return Err(String::from("the rollout has ended and something of it drains"));
        }
    }
    Ok(())
}

/// A candidate is promoted or held when it serves every slot and its soak is over, and not before.
pub(super) fn check_concluded(
    before: &Rollout,
    event: &Event,
    actions: &[Action],
    after: &Rollout,
) -> Result<(), String> {
    let word = |a: &Action| matches!(a, Action::Note(Note::Promoted(_) | Note::Held(_)));
    if !actions.iter().any(word) {
        return Ok(());
    }
    let to = match (&before.mode, before.run()) {
        (_, Some(run)) => run.to,
        (Mode::Starting(start), _) if start.trial => start.to,
        _ => return Err(String::from("promoted, and no rollout ran")),
    };
    // What comes next may begin in the same step, and with surge 0 by ending somebody.
    let serves = |s| {
        let ready = |r: &Rollout| r.living(s).any(|(_, w)| w.state == WorkerState::Ready && w.code == to);
        // With no soak it may have become ready in this very step.
        let now = |w: &Worker| w.slot == s && w.code == to;
        let became = actions.iter().any(|a| match a {
            Action::Note(Note::SlotReady { worker, .. }) => after.workers.get(worker).is_some_and(now),
            _ => false,
        });
        ready(before) || ready(after) || became
    };
    let Some(run) = before.run() else {
        return match after.slot_numbers().all(serves) {
            true => Ok(()),
            false => Err(String::from("P5: a trial is over, and a slot does not serve it")),
        };
    };
    if run.kind != Kind::Restart && !after.slot_numbers().all(serves) {
        return Err(String::from("P4: promoted, and a slot does not serve it"));
    }
    if run.kind == Kind::Rollback && after.previous.len() >= before.previous.len() {
        return Err(String::from("a rollback did not go further back"));
    }
    let resumed = matches!(event, Event::Command { command: Command::Resume, .. });
    if run.paused && !resumed {
        return Err(String::from("promoted while paused"));
    }
    if !run.soak.is_zero() && *event != Event::Fired(Timer::Soak) && !(run.soaked && resumed) {
        return Err(String::from("P4: promoted before the soak was over"));
    }
    Ok(())
}

/// A command that is refused changes nothing; one that is not changes what it is about.
pub(super) fn check_commands(
    before: &Rollout,
    event: &Event,
    actions: &[Action],
    after: &Rollout,
) -> Result<(), String> {
    let Event::Command { id, command } = event else { return Ok(()) };
    let refused = |a: &Action| matches!(a, Action::Reply { command, answer: Answer::Refused(_) } if command == id);
    if actions.iter().any(refused) {
        return match actions {
            [_] if before == after => Ok(()),
            _ => Err(String::from("a refused command changes something")),
        };
    }
    let nothing_new = |a: &Action| matches!(a, Action::Reply { answer: Answer::NothingNew(_), .. });
    if actions.iter().any(nothing_new) && (actions.len() > 1 || before != after) {
        return Err(String::from("nothing is new, and something changes"));
    }
    use Command::{Abort, Await, Confirm, Halt, Interrupt, Leave, Pause, Resume, Stop};
    let always = matches!(command, Stop | Leave | Await { .. } | Interrupt | Halt | Abort | Pause | Resume | Confirm);
    if !always && !matches!(before.mode, Mode::Idle) {
        return Err(String::from("a command is taken while something else runs"));
    }
    let left = after.slots.len() as u32;
    if matches!(command, Command::Scale(_)) && left < before.slots.len() as u32 && after.ready_slots() < after.needed()
    {
        return Err(format!("P2: {} of {left} slots are left ready by a scale", after.ready_slots()));
    }
    let dropped = before.held.filter(|_| matches!(command, Command::Rollback { .. }));
    if dropped.is_some_and(|held| !after.refused.contains(&held.release)) {
        return Err(String::from("P5: a release is rolled back from and not refused"));
    }
    for action in actions {
        let Action::Drain { worker, .. } = action else { continue };
        // Whoever is to be put back anyway may have waited for just this.
        let recycled = |w: &Worker| after.slot(w.slot).is_some_and(|s| s.recycling);
        let serves = |w: &&Worker| w.state == WorkerState::Ready && !before.is_bad(w) && !recycled(w);
        let Some(worker) = before.workers.get(worker).filter(serves) else { continue };
        match command {
            Command::ReloadDir { .. } => return Err(String::from("reload-dir restarts something")),
            Command::Scale(_) if after.slot(worker.slot).is_some() => {
                return Err(format!("scale ends the worker of slot {}, which stays", worker.slot));
            }
            Command::Restart(slot) if *slot != worker.slot => {
                return Err(format!("restart {slot} ends the worker of slot {}", worker.slot));
            }
            _ => {}
        }
    }
    Ok(())
}

/// While a rollout is undone, what it has not replaced is left alone.
pub(super) fn check_undoing(before: &Rollout, actions: &[Action], after: &Rollout) -> Result<(), String> {
    let Some(run) = after.run() else { return Ok(()) };
    if matches!(run.stage, RunStage::RollingBack(_)) && after.slots.iter().any(|s| s.backoff) {
        return Err(String::from("a slot is in backoff and the rollback goes on"));
    }
    if !matches!(run.stage, RunStage::RollingBack(_) | RunStage::GivingUp) {
        return Ok(());
    }
    for slot in after.slot_numbers() {
        let put_back = |r: &Rollout| r.slot(slot).is_some_and(|s| s.put_back);
        let old = |w: &Worker| w.state == WorkerState::Ready && w.run.is_none();
        let aborted = before.run().is_some_and(|r| r.stage != run.stage);
        if aborted && !put_back(before) && put_back(after) && after.living(slot).any(|(_, w)| old(w)) {
            return Err(format!("P4: slot {slot} had not been replaced and is to be put back"));
        }
    }
    for action in actions {
        let Action::Drain { worker: id, .. } = action else { continue };
        let Some(worker) = before.workers.get(id).filter(|w| w.state == WorkerState::Ready) else { continue };
        let put_back = |r: &Rollout| r.slot(worker.slot).is_some_and(|s| s.put_back);
        let stale = after.workers.get(id).is_some_and(|w| w.stale);
        if !before.is_candidate(worker) && !put_back(before) && !put_back(after) && !stale {
            return Err(format!("P4: worker {id} had not been replaced and is drained by a rollback"));
        }
        // Its own budget may allow what the master's does not.
        if !after.is_ready(worker.slot) && !run.touched.contains(&worker.slot) {
            return Err(format!("P2: worker {id} is stopped first by a rollback that does not wait for its end"));
        }
    }
    Ok(())
}

/// Everybody who waits for an answer.
#[must_use]
pub fn waiting(state: &Rollout) -> Vec<CommandId> {
    let mut waiting: Vec<CommandId> = state.scaling.iter().map(|s| s.command).collect();
    match &state.mode {
        Mode::Running(run) => {
            waiting.extend(run.command);
            waiting.extend(&run.pauses);
            waiting.extend(&run.aborts);
            waiting.extend(&run.awaits);
        }
        Mode::Stopping { waiting: stopping, .. } => waiting.extend(stopping),
        Mode::Starting(_) | Mode::Idle => {}
    }
    waiting
}

/// P6: who asks waits until the last word, and hears it once.
pub(super) fn check_answers(
    before: &Rollout,
    event: &Event,
    actions: &[Action],
    after: &Rollout,
) -> Result<(), String> {
    let mut open = waiting(before);
    if let Event::Command { id, .. } = event {
        open.push(*id);
    }
    for action in actions {
        let Action::Reply { command, answer } = action else { continue };
        let Some(at) = open.iter().position(|id| id == command) else {
            return Err(format!("P6: command {} is answered and does not wait", command.0));
        };
        if !matches!(answer, Answer::Accepted { .. }) {
            open.remove(at);
        }
    }
    let mut still = waiting(after);
    open.sort_unstable();
    still.sort_unstable();
    if open != still {
        return Err(format!("P6: {open:?} should wait for an answer, {still:?} do"));
    }
    Ok(())
}
