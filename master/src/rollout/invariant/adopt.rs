//! P7: what the death of a master may cost, and the way in which one leaves its workers to the next.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;

use proto::Slot;

use crate::action::{Action, Answer, Exit, Kind, Note, Outcome};
use crate::adopt::{Found, Left};
use crate::event::{Command, Event, ReleaseId, Timer};
use crate::memory::{Memory, RunMemory};
use crate::policy::{LARGEST_NUMBER, Settings};
use crate::run::RunStage;
use crate::slot::{Code, Role, Worker, WorkerState};
use crate::{Mode, Rollout};

/// The machine that comes after this one's death, before it has heard of its workers: `dir` is what the directory names
/// then, `settings` are its own. `None`: nothing is left to start, and `serving` says that nobody serves.
#[must_use]
pub fn reborn(
    state: &Rollout,
    settings: &Settings,
    dir: Option<ReleaseId>,
    serving: Option<ReleaseId>,
) -> Option<Rollout> {
    let (settings, memory) = (settings.clone(), state.memory());
    match Rollout::restore(settings.clone(), memory.clone(), dir, &[]) {
        Ok(mind) => Some(mind),
        Err(_) => serving.map(|release| Rollout::reopen(settings, memory, release)),
    }
}

/// The settings that a machine goes by.
#[must_use]
pub fn settings(state: &Rollout) -> &Settings {
    &state.settings
}

/// Whoever leaves its workers to the next machine touches nothing any more, and goes only when nothing is under way.
pub(super) fn check_leaving(
    before: &Rollout,
    event: &Event,
    actions: &[Action],
    after: &Rollout,
) -> Result<(), String> {
    let Event::Command { id, command } = event else { return Err(String::from("P7: it leaves and nobody has asked")) };
    let replied = |wanted: Answer| Action::Reply { command: *id, answer: wanted };
    let said = match command {
        Command::Leave => actions == [Action::Exit(Exit::Detached)],
        Command::Detach => actions == [replied(Answer::Detached), Action::Exit(Exit::Detached)],
        Command::Upgrade => actions == [replied(Answer::Upgrading), Action::Exit(Exit::Upgraded)],
        _ => false,
    };
    if !said || before != after {
        return Err(String::from("P7: something else happens while the workers are left to the next master"));
    }
    if before.settings.no_orphans {
        return Err(String::from("P7: workers are left alone that must not be"));
    }
    let busy = before.mode != Mode::Idle || before.aside().next().is_some();
    if busy && *command != Command::Leave {
        return Err(String::from("P7: it leaves in the midst of something"));
    }
    Ok(())
}

/// What a machine makes of the workers that another one has left behind.
pub(super) fn check_adoption(
    before: &Rollout,
    event: &Event,
    actions: &[Action],
    after: &Rollout,
) -> Result<(), String> {
    let Event::Adopt { found, confirm_left } = event else { return Ok(()) };
    let fresh = before.starting().filter(|_| before.workers.is_empty());
    let Some(start) = fresh else {
        return match before == after && actions.is_empty() {
            true => Ok(()),
            false => Err(String::from("P7: it adopts in the midst of its life")),
        };
    };
    let memory = start.memory.as_deref().cloned().unwrap_or_default();
    let mut found = found.clone();
    found.sort_unstable();
    found.dedup_by_key(|f| f.worker);
    check_found(&found, actions, after)?;
    check_numbers(&memory, &found, actions, after)?;
    if !actions.iter().any(|a| matches!(a, Action::Remember(_))) {
        return Err(String::from("what is taken over is not written"));
    }
    let serving: Vec<Found> = found.iter().copied().filter(serves).collect();
    if serving.is_empty() {
        let ends =
            |a: &Action| matches!(a, Action::Drain { .. } | Action::Kill(_) | Action::Note(Note::Adopted { .. }));
        return match after.starting().is_some() && !actions.iter().any(ends) {
            true => Ok(()),
            false => Err(String::from("nothing serves, and it is no cold start")),
        };
    }
    if !matches!(after.mode, Mode::Idle | Mode::Running(_)) {
        return Err(String::from("P7: something serves, and it is a cold start"));
    }
    check_ready(&serving, actions, after)?;
    check_trust(&memory, &serving, actions, after)?;
    let promoted = actions.iter().any(|a| matches!(a, Action::Note(Note::Promoted(_))));
    if after.fell_back != (memory.fell_back && !promoted) {
        return Err(String::from("the known-good release stands in for what did not boot, and that is forgotten"));
    }
    let by_itself = |r: &crate::Run| r.by_itself != memory.run.as_ref().is_some_and(|m| m.id == r.id && m.by_itself);
    if after.run().is_some_and(|r| by_itself(r) && r.id < memory.next_run) {
        return Err(String::from("who asked for the rollout is forgotten"));
    }
    check_confirm(&memory, *confirm_left, actions, after)?;
    check_run(&memory, &serving, actions, after)
}

fn serves(found: &Found) -> bool {
    matches!(found.left, Left::Serving | Left::Unfit)
}

/// Everybody is taken over as what he is, and nobody else is there but who is spawned.
fn check_found(found: &[Found], actions: &[Action], after: &Rollout) -> Result<(), String> {
    let drained = |id| actions.iter().any(|a| matches!(a, Action::Drain { worker, .. } if *worker == id));
    for f in found {
        let state = if serves(f) && !drained(f.worker) { WorkerState::Ready } else { WorkerState::Draining };
        let as_found = |w: &&Worker| w.role == Role::Serve && (w.slot, w.code, w.state) == (f.slot, f.code, state);
        let Some(worker) = after.workers.get(&f.worker).filter(as_found) else {
            return Err(format!("P7: worker {} is not taken over as it was found", f.worker));
        };
        if (f.left == Left::Unfit) != worker.stale {
            return Err(format!("P7: worker {} does not fit and stays, or fits and is replaced", f.worker));
        }
        let strays = actions.contains(&Action::EndLeftovers(f.worker));
        if strays != (f.left == Left::Strays) {
            return Err(format!("P7: what worker {} has left behind is not ended", f.worker));
        }
        if actions.contains(&Action::Kill(f.worker)) || (drained(f.worker) && !serves(f)) {
            return Err(format!("P7: worker {} is ending already and is not left alone", f.worker));
        }
    }
    let known = |id| found.iter().any(|f| f.worker == id);
    let spawned = |id| actions.iter().any(|a| matches!(a, Action::Spawn { worker, .. } if *worker == id));
    match after.workers.keys().find(|id| known(**id) == spawned(**id)) {
        Some(id) => Err(format!("worker {id} comes from nowhere, or has another one's number")),
        None => Ok(()),
    }
}

/// No number is given twice.
fn check_numbers(memory: &Memory, found: &[Found], actions: &[Action], after: &Rollout) -> Result<(), String> {
    let workers = found.iter().map(|f| f.worker.0).filter(|n| *n < LARGEST_NUMBER).max().unwrap_or(0);
    let workers = workers.max(memory.next_incarnation.min(LARGEST_NUMBER).saturating_sub(1));
    let phases = found.iter().filter(|f| serves(f)).map(|f| f.code.phase.0);
    let phases = phases.chain(memory.known_good.map(|k| k.phase.0)).max().unwrap_or(0);
    if after.next_incarnation <= workers {
        return Err(format!("worker {workers} would come again"));
    }
    let cold = after.starting().is_some();
    if after.next_phase < memory.next_phase || (!cold && after.next_phase <= phases) {
        return Err(format!("phase {} would come again", after.next_phase));
    }
    let began = actions.iter().filter_map(|a| match a {
        Action::Began { id, .. } => Some(*id),
        _ => None,
    });
    let last = began.clone().chain(memory.run.as_ref().map(|r| r.id)).max().unwrap_or(0);
    if after.next_run < memory.next_run || (!cold && memory.next_run > last && after.next_run <= last) {
        return Err(format!("rollout {} would come again", after.next_run));
    }
    let again = |id: u64| memory.run.as_ref().is_none_or(|r| r.id != id) && id < memory.next_run;
    match began.into_iter().find(|id| again(*id)) {
        Some(id) => Err(format!("rollout {id} begins and has been")),
        None => Ok(()),
    }
}

/// P2: what served goes on serving: whoever drains has no slot any more, or another one is ready in it.
fn check_ready(serving: &[Found], actions: &[Action], after: &Rollout) -> Result<(), String> {
    let was = |slot: Slot| serving.iter().any(|f| f.slot == slot);
    let ready = after.slot_numbers().filter(|s| was(*s)).count() as u32;
    if after.ready_slots() < ready.min(after.needed()) {
        return Err(format!("P2: {ready} slots were ready, and {} are", after.ready_slots()));
    }
    for action in actions {
        let Action::Drain { worker, .. } = action else { continue };
        let Some(drained) = serving.iter().find(|f| f.worker == *worker) else { continue };
        if after.slot(drained.slot).is_none() || after.is_ready(drained.slot) {
            continue;
        }
        // With surge 0 what has to go stops first.
        let bad = drained.left == Left::Unfit || drained.code.release != after.known_good.release;
        let rolled = after.run().is_some_and(|r| r.touched.contains(&drained.slot));
        if after.budget().surge > 0 || !(bad || rolled) {
            return Err(format!("P2: worker {worker} is drained, and nobody is ready in its slot"));
        }
    }
    // Of two in a slot the one stays that is to serve there.
    for slot in after.slot_numbers() {
        let here = || serving.iter().filter(|f| f.slot == slot && f.left == Left::Serving);
        let finishes = after.run().filter(|r| r.stage != RunStage::RollingBack(Outcome::Aborted)).map(|r| r.to);
        let wanted = finishes.or(after.held).unwrap_or(after.known_good);
        let stays = |f: &Found| after.workers.get(&f.worker).is_some_and(|w| w.state == WorkerState::Ready);
        if here().any(|f| f.code == wanted) && !here().any(|f| f.code == wanted && stays(f)) {
            return Err(format!("P7: slot {slot} loses the worker that was to serve there"));
        }
    }
    Ok(())
}

/// P5: what was trusted is, and nothing else is begun with.
fn check_trust(memory: &Memory, serving: &[Found], actions: &[Action], after: &Rollout) -> Result<(), String> {
    let good = after.known_good;
    let finished = memory.run.as_deref().filter(|run| {
        let promoted = actions.contains(&Action::Note(Note::Promoted(run.to.release)));
        promoted && matches!(verdict(memory, run, serving, after), Verdict::Finish)
    });
    if finished.map(|run| run.to).or(memory.known_good).is_some_and(|k| k != good) {
        return Err(format!("P5: {good} is known-good now"));
    }
    if finished.is_none() && memory.known_good.is_none() {
        let run = memory.run.as_ref().map(|r| r.from);
        if run.is_some_and(|from| from != good) || (run.is_none() && !serving.iter().any(|f| f.code == good)) {
            return Err(format!("P5: nobody has trusted {good}"));
        }
    }
    // One that nobody has confirmed in time takes what is held with it.
    let all_there_is = memory.known_good.is_none() && memory.held.is_some_and(|held| held.release == good.release);
    // A rollout without a soak may be over in this step, and takes its place.
    let over = memory.run.as_deref().filter(|run| matches!(verdict(memory, run, serving, after), Verdict::Finish));
    let replaced = over.is_some_and(|run| after.held.is_none_or(|held| held == run.to));
    if memory.held != after.held && !after.unconfirmed && !all_there_is && !replaced {
        return Err(String::from("P7: what is held is not what was"));
    }
    // What is held from now on serves by a person's will.
    let held = after.held.filter(|_| replaced).map(|held| held.release);
    let kept = memory.refused.iter().all(|r| *r == good.release || Some(*r) == held || after.refused.contains(r));
    if !kept {
        return Err(String::from("P5: a refused release is forgotten"));
    }
    for action in actions {
        let Action::Spawn { worker, slot, release, role, .. } = action else { continue };
        let back = after.run().is_some_and(|r| r.kind == Kind::Rollback && r.to.release == *release);
        let hook = !matches!(role, Role::Serve);
        if !(*release == good.release || (back && after.unconfirmed && !hook)) {
            return Err(format!("P5: worker {worker} is spawned from {release}"));
        }
        let fits = |f: &Found| f.slot == *slot && f.left == Left::Serving && f.code == good;
        if !hook && !after.unconfirmed && serving.iter().any(fits) {
            return Err(format!("P7: slot {slot} serves what it should and is replaced"));
        }
    }
    Ok(())
}

/// The window to confirm goes on, or is over and it is gone back.
fn check_confirm(memory: &Memory, left: Option<Duration>, actions: &[Action], after: &Rollout) -> Result<(), String> {
    let armed = actions.iter().find_map(|a| match a {
        Action::Arm(Timer::Confirm, left) => Some(*left),
        _ => None,
    });
    let Some(pending) = memory.pending else {
        // A rollout of which nothing was left may be promoted in this very step, with a window of its own.
        let promoted = actions.iter().any(|a| matches!(a, Action::Note(Note::Confirming { .. })));
        return match (armed, after.pending) {
            (None, None) => Ok(()),
            (Some(_), Some(_)) if promoted => Ok(()),
            _ => Err(String::from("a confirm is waited for that nobody owes")),
        };
    };
    // A rollout without a soak may be over in this step: what it brings takes the place of what was waited for.
    let promoted = |to: ReleaseId| actions.contains(&Action::Note(Note::Promoted(to)));
    let to = memory.run.as_ref().map(|run| run.to.release).filter(|to| promoted(*to));
    if to.is_some_and(|to| memory.known_good.is_none_or(|good| good.release != to)) {
        let confirming = actions.iter().any(|a| matches!(a, Action::Note(Note::Confirming { .. })));
        return match after.pending.is_some() == confirming && !after.unconfirmed {
            true => Ok(()),
            false => Err(String::from("something else was promoted, and the confirm is still waited for")),
        };
    }
    let left = left.unwrap_or(pending.within);
    if !left.is_zero() {
        return match armed == Some(left) && after.pending == Some(pending) && !after.unconfirmed {
            true => Ok(()),
            false => Err(String::from("the time to confirm does not go on where it was")),
        };
    }
    let goes_back = |r: &crate::Run| r.kind == Kind::Rollback && r.to.release == pending.back;
    let begins = after.run().is_some_and(|r| goes_back(r) || memory.run.as_ref().is_some_and(|m| m.id == r.id));
    let nowhere = memory.previous.is_empty() && after.pending.is_none();
    match armed.is_none() && (nowhere || (after.unconfirmed && after.pending == Some(pending) && begins)) {
        true => Ok(()),
        false => Err(String::from("nobody has confirmed it in time, and it stays")),
    }
}

/// A rollout that was under way is finished where every slot is through and nobody has said otherwise, else undone.
fn check_run(memory: &Memory, serving: &[Found], actions: &[Action], after: &Rollout) -> Result<(), String> {
    let began = |id: u64| actions.iter().any(|a| matches!(a, Action::Began { id: began, .. } if *began == id));
    let noted = |wanted: fn(&Note) -> bool| actions.iter().any(|a| matches!(a, Action::Note(n) if wanted(n)));
    let decided = noted(|n| matches!(n, Note::Promoted(_) | Note::Held(_)));
    let Some(run) = memory.run.as_deref() else {
        let back = after.run().is_none_or(|r| r.kind == Kind::Rollback && after.unconfirmed && began(r.id));
        return match back && !decided {
            true => Ok(()),
            false => Err(String::from("a rollout goes on that was none")),
        };
    };
    if after.run().is_some_and(|r| r.id != run.id && r.kind == Kind::Rollback && after.unconfirmed && began(r.id)) {
        return Ok(());
    }
    if !began(run.id) {
        return Err(format!("rollout {} is forgotten", run.id));
    }
    let outcome = actions.iter().find_map(|a| match a {
        Action::Ended(ended) if ended.id == run.id => Some(ended.outcome),
        _ => None,
    });
    let now = after.run().filter(|r| r.id == run.id);
    if now.is_some() == outcome.is_some() {
        return Err(format!("rollout {} has no end, or goes on after it", run.id));
    }
    let stage = now.map(|r| r.stage);
    let ends = match (stage, outcome) {
        (Some(RunStage::RollingBack(outcome) | RunStage::Draining(outcome)), _) | (_, Some(outcome)) => Some(outcome),
        _ => None,
    };
    let is = match verdict(memory, run, serving, after) {
        Verdict::Decided(outcome) => ends == Some(outcome),
        Verdict::Finish => !matches!(stage, Some(RunStage::RollingBack(_))) && ends != Some(Outcome::Aborted),
        Verdict::Undo => ends == Some(Outcome::Aborted) && !decided,
    };
    if !is {
        return Err(format!("rollout {} is {stage:?} {ends:?}", run.id));
    }
    if stage == Some(RunStage::Soaking) && !actions.contains(&Action::Arm(Timer::Soak, run.soak)) {
        return Err(String::from("the soak does not begin anew"));
    }
    Ok(())
}

/// What is to become of a rollout.
enum Verdict {
    Decided(Outcome),
    Finish,
    Undo,
}

fn verdict(memory: &Memory, run: &RunMemory, serving: &[Found], after: &Rollout) -> Verdict {
    let is = |code: Option<Code>| code == Some(run.to);
    match run.kind {
        Kind::Restart | Kind::Rehearsal => return Verdict::Undo,
        Kind::PhasedRestart if is(memory.held) => return Verdict::Decided(Outcome::Held),
        // The way back from what was held.
        Kind::Rollback if run.from == run.to => return Verdict::Decided(Outcome::Promoted),
        _ if is(memory.known_good) => return Verdict::Decided(Outcome::Promoted),
        _ => {}
    }
    let through = |slot| serving.iter().any(|f| f.slot == slot && f.left == Left::Serving && f.code == run.to);
    let lost = serving.iter().filter(|f| after.slot(f.slot).is_none()).all(|f| f.code == run.to);
    if run.finish && lost && after.slot_numbers().all(through) { Verdict::Finish } else { Verdict::Undo }
}
