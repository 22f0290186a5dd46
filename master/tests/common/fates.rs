//! The ways in which the search lets a master die.

use std::time::Duration;

use rollout::{Incarnation, Left, ReleaseId, Rollout, WorkerState, invariant};

use super::death::{Death, Fate, death, found};

/// Each of them. `turn` says which of the workers is the one in question.
pub(crate) fn deaths(mind: &Rollout, turn: usize) -> Vec<Death> {
    use Left::{Ending, Serving, Strays, Unfit};
    use WorkerState::{Booting, Draining, Ready};
    let ready: Vec<Incarnation> = mind.workers().filter(|(_, w)| w.state == Ready).map(|(id, _)| id).collect();
    let one = ready.get(turn % ready.len().max(1)).copied();
    let fates: [Fate<'_>; 7] = [
        // As usual: what boots ends its app when its master dies.
        &|_, state| Some(if state == Ready { Serving } else { Ending }),
        // The next one comes late.
        &|_, state| (state == Ready).then_some(Serving),
        // What boots was ready just then, and nobody was told to drain.
        &|_, state| Some(if state == Draining { Strays } else { Serving }),
        &|_, state| (state != Booting).then_some(Serving),
        // One is lost meanwhile.
        &|id, state| (state == Ready).then_some(if Some(id) == one { Strays } else { Serving }),
        // One, or nobody, fits.
        &|id, state| (state == Ready).then_some(if Some(id) == one { Unfit } else { Serving }),
        &|_, state| (state != Booting).then_some(Unfit),
    ];
    let settings = invariant::settings(mind);
    let dir = Some(mind.known_good().release);
    let mut deaths: Vec<Death> = Vec::new();
    let mut add = |new: Option<Death>| {
        let known = |new: &Death| deaths.iter().any(|d| d.event == new.event && d.dir == new.dir && d.next == new.next);
        deaths.extend(new.filter(|new| !known(new)));
    };
    for fate in fates {
        // The whole time where nobody knows: only what is left of it differs.
        add(death(mind, settings, dir, found(mind, fate), None));
    }
    if mind.pending().is_some() {
        add(death(mind, settings, dir, found(mind, fates[0]), Some(Duration::ZERO)));
    }
    // With one slot fewer.
    let mut fewer = settings.clone();
    fewer.workers = mind.slots().count().saturating_sub(1).max(1) as u32;
    if fewer.workers as usize != mind.slots().count() {
        add(death(mind, &fewer, dir, found(mind, fates[0]), None));
    }
    // Nothing serves any more, whatever `dir` names.
    let run = mind.running().map(|r| r.to.release);
    for dir in [dir, Some(run.unwrap_or(ReleaseId(1))), None] {
        add(death(mind, settings, dir, found(mind, &|_, state| (state != Booting).then_some(Ending)), None));
    }
    deaths
}
