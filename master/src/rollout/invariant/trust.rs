//! What is remembered, what is found out before anything is exposed, what hooks may do, and that a pause is one.

use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use crate::action::{Action, Answer, Kind, Note, Outcome};
use crate::event::{Command, Event, ReleaseId, Timer};
use crate::run::RunStage;
use crate::slot::{Role, Worker, WorkerState};
use crate::{Mode, Rollout};

/// The memory is written whenever it changes, once, and before anything of the step can be noticed.
pub(super) fn check_memory(before: &Rollout, event: &Event, actions: &[Action], after: &Rollout) -> Result<(), String> {
    check_known_good(before, event, actions, after)?;
    let written = |a: &&Action| matches!(a, Action::Remember(_));
    let noticed = |a: &Action| {
        use Action::{Drain, EndLeftovers, Exit, Kill, Reply, ResolveDir, Spawn};
        matches!(a, Spawn { .. } | Drain { .. } | Kill(_) | EndLeftovers(_) | Reply { .. } | ResolveDir(_) | Exit(_))
    };
    let changed = !same_memory(before, after);
    let at = actions.iter().position(|a| written(&a));
    if actions.iter().filter(written).count() > 1 {
        return Err(String::from("the memory is written more than once"));
    }
    let Some(at) = at else {
        return if changed { Err(String::from("the memory has changed and is not written")) } else { Ok(()) };
    };
    if !changed && !matches!(event, Event::Start | Event::Adopt { .. }) {
        return Err(String::from("the memory is written and has not changed"));
    }
    if !matches!(&actions[at], Action::Remember(memory) if **memory == after.memory()) {
        return Err(String::from("something else is written than what is remembered"));
    }
    if actions[..at].iter().any(noticed) {
        return Err(String::from("something can be noticed before it is remembered"));
    }
    Ok(())
}

/// P5: of itself a release becomes known-good only where it serves every slot.
fn check_known_good(before: &Rollout, event: &Event, actions: &[Action], after: &Rollout) -> Result<(), String> {
    let said =
        |a: &Action| matches!(a, Action::Note(Note::Promoted(_)) | Action::Reply { answer: Answer::Pinned { .. }, .. });
    let became = after.confirmed && !(before.confirmed && before.known_good == after.known_good);
    if !became || matches!(event, Event::Adopt { .. }) || actions.iter().any(said) {
        return Ok(());
    }
    // What comes next may begin in the same step, and with surge 0 by ending somebody.
    let ends = |id| actions.iter().any(|a| matches!(a, Action::Drain { worker, .. } if worker == id));
    let good = |w: &Worker| w.role == Role::Serve && w.code.release == after.known_good.release;
    let serves = |id, w: &Worker| good(w) && (w.state == WorkerState::Ready || ends(id));
    match after.slot_numbers().all(|s| after.workers.iter().any(|(id, w)| w.slot == s && serves(id, w))) {
        true => Ok(()),
        false => Err(String::from("P5: a release is known-good that has never served every slot")),
    }
}

/// Whether [`Rollout::memory`] is the same of both: without making either, which would be most of a search's work.
fn same_memory(a: &Rollout, b: &Rollout) -> bool {
    let good = |r: &Rollout| r.confirmed.then_some(r.known_good);
    let run = |r: &Rollout| r.run().filter(|r| r.kind != Kind::Rehearsal).map(crate::Run::memory);
    let next = |r: &Rollout| (r.next_phase, r.next_run, r.taken_numbers(), r.fell_back, r.scaled());
    (good(a), a.held, a.pending, next(a)) == (good(b), b.held, b.pending, next(b))
        && a.previous == b.previous
        && a.refused == b.refused
        && run(a) == run(b)
}

/// No slot is touched before everything has been found out, and it is found out where that is asked for.
pub(super) fn check_scouts(before: &Rollout, event: &Event, actions: &[Action], after: &Rollout) -> Result<(), String> {
    let serves = |w: &crate::Worker| w.role == Role::Serve;
    if let Some(run) = after.run()
        && (run.stage == RunStage::Scouting || run.kind == Kind::Rehearsal)
    {
        let tried = after.workers.values().any(|w| serves(w) && after.is_candidate(w));
        if !run.touched.is_empty() || tried {
            return Err(String::from("P4: a slot is touched before everything has been found out"));
        }
        // Whatever its own budget will be: it may never come to that.
        let stopped = |a: &Action| match a {
            Action::Drain { worker, .. } => before.workers.get(worker).is_some_and(|w| !after.is_ready(w.slot)),
            _ => false,
        };
        let fewest = (after.slots.len() as u32).saturating_sub(after.settings.max_unavailable);
        if after.ready_slots() < fewest && before.ready_slots() > after.ready_slots() && actions.iter().any(stopped) {
            return Err(String::from("P2: a worker is stopped first before everything has been found out"));
        }
    }
    if let Some(start) = after.starting()
        && !start.scout.is_through()
        && after.workers.values().any(|w| serves(w) && w.state != WorkerState::Draining)
    {
        return Err(String::from("P4: a slot starts before everything has been found out"));
    }
    // Only when the last scout has passed and is gone does the first slot begin.
    if let (Some(was), Some(now)) = (before.run(), after.run())
        && was.id == now.id
        && was.stage == RunStage::Scouting
        && !matches!(now.stage, RunStage::Scouting | RunStage::RollingBack(_) | RunStage::GivingUp)
        && now.kind != Kind::Rehearsal
    {
        let gone = |id| matches!(event, Event::Gone(gone) if *gone == id);
        let passed = |id| before.workers.get(&id).is_some_and(|w| w.state == WorkerState::Draining);
        let resumed = matches!(event, Event::Command { command: Command::Resume, .. });
        let through = match was.scout.current {
            Some(id) => gone(id) && passed(id),
            None => resumed,
        };
        if !through || was.scout.hook || was.scout.rehearse {
            return Err(String::from("P4: slots are touched and not everything was found out"));
        }
    }
    let spawned = |role| actions.iter().any(|a| matches!(a, Action::Spawn { role: r, .. } if *r == role));
    for action in actions {
        let Action::Began { kind: Kind::PhasedRestart | Kind::Rehearsal, id, .. } = action else { continue };
        let Event::Command { command, .. } = event else { return Err(String::from("a rollout begins by itself")) };
        let (hook, rehearse) = match command {
            Command::PhasedRestart { options, .. } => {
                (after.settings.before_rollout, after.settings.rehearse && !options.no_rehearse)
            }
            _ => (false, true),
        };
        let left = after.run().filter(|r| r.id == *id).map(|r| r.scout).unwrap_or_default();
        let hooked = !hook || left.hook || spawned(Role::BeforeRollout);
        let rehearsed = !rehearse || left.rehearse || spawned(Role::Rehearse);
        if !hooked || !rehearsed || (!hook && spawned(Role::BeforeRollout)) {
            return Err(String::from("P4: a rollout begins and does not find out what it should"));
        }
    }
    // The one exception of P3 is announced, except where nobody serves yet.
    let alone = after.budget().surge > 0 || after.starting().is_some();
    let announced = actions.contains(&Action::Note(Note::ExtraInstance));
    if spawned(Role::Rehearse) && !alone && !announced {
        return Err(String::from("P3: an instance too many, and nobody is told"));
    }
    let scouts = after.aside().filter(|w| w.role.is_scout()).count();
    if scouts > 1 {
        return Err(format!("{scouts} scouts at a time"));
    }
    Ok(())
}

/// A hook after a rollout is run once where there is one, and changes nothing.
pub(super) fn check_hooks(before: &Rollout, event: &Event, actions: &[Action], after: &Rollout) -> Result<(), String> {
    let mut wanted = Vec::new();
    for action in actions {
        let Action::Ended(ended) = action else { continue };
        // One with nothing to do begins and ends in one step.
        let begun = |a: &Action| match a {
            Action::Began { id, kind, .. } if *id == ended.id => Some(*kind),
            _ => None,
        };
        let kind = actions.iter().find_map(begun).or(before.run().map(|r| r.kind));
        if ended.stopped || !matches!(kind, Some(Kind::PhasedRestart | Kind::Rollback)) {
            continue;
        }
        // A rollback that nobody has asked for is none of the good news.
        let by_itself = before.run().is_some_and(|r| r.by_itself);
        match ended.outcome {
            Outcome::Promoted if by_itself && after.settings.on_failure => wanted.push(Role::OnFailure),
            Outcome::Promoted if !by_itself && after.settings.on_promote => wanted.push(Role::OnPromote),
            Outcome::Aborted | Outcome::Degraded if after.settings.on_failure => wanted.push(Role::OnFailure),
            _ => {}
        }
    }
    let role = |a: &Action| match a {
        Action::Spawn { role: role @ (Role::OnPromote | Role::OnFailure), .. } => Some(*role),
        _ => None,
    };
    let run: Vec<Role> = actions.iter().filter_map(role).collect();
    if run != wanted {
        return Err(format!("the hooks {run:?} are run, {wanted:?} should be"));
    }
    let (Event::Booted(id)
    | Event::BootFailed { worker: id, .. }
    | Event::Exited(id)
    | Event::Lost(id)
    | Event::Gone(id)
    | Event::Outgrown(id)
    | Event::Fired(Timer::BootLate(id) | Timer::Overdue(id))) = event
    else {
        return Ok(());
    };
    let hook = before.workers.get(id).is_some_and(|w| matches!(w.role, Role::OnPromote | Role::OnFailure));
    if !hook || matches!(before.mode, Mode::Stopping { .. }) {
        return Ok(());
    }
    let without = |state: &Rollout| {
        let mut state = state.clone();
        state.unseat(*id);
        state
    };
    if without(before) != without(after) {
        return Err(format!("worker {id} is a hook after a rollout and changes something"));
    }
    Ok(())
}

/// A paused rollout takes on no slot.
pub(super) fn check_pause(before: &Rollout, event: &Event, after: &Rollout) -> Result<(), String> {
    let (Some(was), Some(now)) = (before.run(), after.run()) else { return Ok(()) };
    if was.id == now.id && was.paused && now.paused && was.touched != now.touched {
        return Err(String::from("a slot is taken on while the rollout is paused"));
    }
    if was.id == now.id && was.paused && !now.paused {
        let undone = matches!(now.stage, RunStage::RollingBack(_) | RunStage::GivingUp);
        let resumed = matches!(event, Event::Command { command: Command::Resume, .. });
        if !undone && !resumed {
            return Err(String::from("a paused rollout goes on by itself"));
        }
    }
    Ok(())
}

/// P5: whatever `dir` names, a master that begins with this state's memory begins with nothing that was refused, is
/// held, was under way or waits for a confirm; only with the release that was known-good before where the last one is
/// not to be had.
///
/// # Errors
/// What it begins with.
pub fn check_cut(state: &Rollout) -> Result<(), String> {
    let memory = state.memory();
    let good = memory.known_good.map(|k| k.release);
    let under_way = memory.run.as_ref().filter(|r| r.kind == Kind::PhasedRestart).map(|r| r.to.release);
    let mut distrusted = memory.refused.clone();
    distrusted.extend(memory.held.map(|h| h.release));
    distrusted.extend(under_way.filter(|r| Some(*r) != good));
    distrusted.extend(good.filter(|_| memory.pending.is_some()));
    let mut dirs: Vec<Option<ReleaseId>> = vec![None, Some(ReleaseId(u32::MAX)), good];
    dirs.extend(distrusted.iter().rev().take(3).map(|r| Some(*r)));
    let all_before = memory.previous.clone();
    for lost in [&[][..], good.as_slice(), &all_before] {
        let known = good.filter(|g| memory.pending.is_none() && !lost.contains(g));
        let trusted = |r: &ReleaseId| !lost.contains(r) && (!distrusted.contains(r) || Some(*r) == known);
        let before = memory.previous.iter().rev().copied().find(trusted);
        // Where nothing else is left, it stays although nobody has confirmed it.
        let best = known.or(before).or(good.filter(|g| !lost.contains(g)));
        for dir in dirs.iter().filter(|d| !d.is_some_and(|d| lost.contains(&d))) {
            let begun = Rollout::restore(state.settings.clone(), memory.clone(), *dir, lost);
            let Ok(mut begun) = begun else {
                if best.is_some() || dir.is_some_and(|d| !distrusted.contains(&d)) {
                    return Err(format!("P5: cut at '{memory}', dir {dir:?}, lost {lost:?}: nothing is begun"));
                }
                continue;
            };
            let (was, mut actions) = (begun.clone(), Vec::new());
            begun.step(Event::Start, &mut actions);
            super::check(&was, &Event::Start, &actions, &begun)?;
            for action in &actions {
                let Action::Spawn { release, .. } = action else { continue };
                let tried = *dir == Some(*release) && !distrusted.contains(release);
                if best != Some(*release) && !tried {
                    return Err(format!("P5: cut at '{memory}', dir {dir:?}, lost {lost:?}: {release} is begun"));
                }
                let surely = *dir == best || dir.is_none_or(|d| distrusted.contains(&d));
                if surely && best != Some(*release) {
                    return Err(format!("P5: cut at '{memory}', dir {dir:?}: {release} is begun, {best:?} is good"));
                }
            }
            if !actions.iter().any(|a| matches!(a, Action::Spawn { .. })) {
                return Err(format!("P5: cut at '{memory}', dir {dir:?}: nothing is spawned"));
            }
        }
    }
    Ok(())
}
