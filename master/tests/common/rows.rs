//! Which rows of the contract's table of transitions a search has come through.

use std::collections::BTreeMap;

use rollout::{
    Action, Answer, Command, CommandId, END_TIMEOUT, Ended, Event, Exit, Found, Incarnation, Kind, Left, Note, Outcome,
    Reason, Role, Rollout, RunStage, ScaleTo, Settings, SlotView, State, Surge, Timer, Worker, WorkerState, invariant,
};

/// What must be met at least once, row by row. The first word names the row.
pub(crate) const MUST: [&str; 135] = [
    "ends: the soak is over while something drains",
    "ends: when the last one is gone",
    "busy: phased-restart during a rollout",
    "busy: reload-dir during a rollout",
    "busy: rollback during a rollout",
    "busy: scale during a rollout",
    "busy: restart during a rollout",
    "busy: phased-restart during the first start",
    "busy: reload-dir during the first start",
    "busy: rollback during the first start",
    "busy: scale during the first start",
    "busy: restart during the first start",
    "busy: stop during the first start",
    "busy: halt during the first start",
    "stop: during a rollout",
    "stop: halt during a rollout",
    "stop: its rollout is aborted",
    "abort: while soaking, every slot is put back",
    "abort: while rolling back, joins it",
    "abort: nothing runs",
    "rollback: while held",
    "rollback: while steady",
    "rollback: back to the one before that",
    "rollback: none before",
    "rollback: its directory is gone",
    "known-good candidate: --hold promotes",
    "known-good candidate: aborted, nothing to put back",
    "held and aborted: a mix",
    "reload-dir: held, dir names another",
    "reload-dir: held, an explicit one decides",
    "reload-dir: held, pins with the held phase",
    "reload-dir: steady, workers on other code are old",
    "scale: down, the highest goes",
    "scale: down while held",
    "scale: down refused, too few ready",
    "scale: below one",
    "scale: up, known-good",
    "scale: up while held",
    "scale: up, does not boot",
    "restart SLOT: through",
    "restart SLOT: failed, the old one stays",
    "old worker: crashes, known-good beside the candidate",
    "old worker: the candidate wins",
    "old worker: known-good wins, then the candidate",
    "surge 0: a slot in backoff is next",
    "surge 0: a slot whose old worker crashed is next",
    "backoff: a slot has it when the rollback begins",
    "put back: crashes once, respawned at once",
    "put back: crashes twice",
    "put back: does not boot",
    "degraded: by a failed boot",
    "degraded: until ready",
    "degraded: not by one crash",
    "degraded: a candidate that serves stays",
    "degraded: retried beside a candidate that serves",
    "from degraded: a backoff is ended",
    "from degraded: a booting known-good is ended",
    "never ready: gets five seconds",
    "budget: surge > workers",
    "budget: zero ready is announced",
    "first start: nothing boots",
    "first start: partly",
    "busy: rehearse during a rollout",
    "busy: rehearse during the first start",
    "scout: a hook fails",
    "scout: a rehearsal fails",
    "scout: aborted",
    "scout: stop meanwhile",
    "scout: an old worker crashes meanwhile",
    "scout: a rehearsal waits for its place",
    "scout: the extra instance is announced",
    "scout: fails at the first start",
    "rehearse: passes",
    "rehearse: fails",
    "rehearse: aborted",
    "canary: watched",
    "canary: dies in its soak",
    "pause: stands still",
    "pause: before any slot",
    "pause: a candidate crashes",
    "pause: over before it stood still",
    "pause: an old worker crashes and comes back",
    "pause: promotion waits for resume",
    "pause: nothing to pause",
    "pause: too late",
    "confirm: in time",
    "confirm: not in time",
    "confirm: not in time while a rollout runs",
    "confirm: late, and nothing has happened yet",
    "confirm: nothing to confirm",
    "confirm: superseded by another promotion",
    "confirm: the rollback does not succeed",
    "recycle: through",
    "recycle: cancelled by a rollout",
    "recycle: the new one does not boot",
    "recycle: the old one stops first",
    "hooks: on-promote",
    "hooks: on-failure",
    "hooks: one fails",
    "trial: passes",
    "trial: fails before any slot",
    "trial: fails on the first slot",
    "trial: fails on a later slot",
    "if-new: nothing new",
    "if-new: refused before",
    "refused before: tried again",
    "adopted: as it was",
    "adopted: a rollout is undone",
    "adopted: a rollout that was aborted is not finished",
    "adopted: a paused rollout is undone",
    "adopted: a rollout finishes",
    "adopted: a rollout was decided",
    "adopted: a restart ends",
    "adopted: the way back from held goes on",
    "adopted: held",
    "adopted: waits for a confirm",
    "adopted: not confirmed in time",
    "adopted: the way back begins anew",
    "adopted: unfit ones are replaced",
    "adopted: unfit ones stop first",
    "adopted: a trial or first start is over",
    "adopted: strays",
    "adopted: too many in a slot",
    "adopted: too many slots",
    "adopted: missing",
    "adopted: nothing serves, a cold start",
    "await: until the end",
    "await: does not run",
    "leave: detach",
    "leave: upgrade",
    "leave: at once",
    "leave: busy with a rollout",
    "leave: busy with the first start",
    "leave: busy with a hook",
    "leave: nobody may be left",
];

/// How often each was met.
#[derive(Default)]
pub(crate) struct Rows(BTreeMap<&'static str, u64>);

impl Rows {
    /// Both together.
    pub(crate) fn add(&mut self, other: Self) {
        for (name, count) in other.0 {
            *self.0.entry(name).or_default() += count;
        }
    }

    /// Those of [`MUST`] that were never met.
    pub(crate) fn missing(&self) -> Vec<&'static str> {
        MUST.into_iter().filter(|name| !self.0.contains_key(name)).collect()
    }

    /// One line each.
    pub(crate) fn print(&self) {
        for (name, count) in &self.0 {
            println!("{count:>12}  {name}");
        }
    }

    fn met(&mut self, name: &'static str) {
        debug_assert!(MUST.contains(&name), "{name} is not listed");
        *self.0.entry(name).or_default() += 1;
    }

    fn met_if(&mut self, is: bool, name: &'static str) {
        if is {
            self.met(name);
        }
    }

    /// Looks at one step.
    pub(crate) fn look(
        &mut self,
        house: &Settings,
        before: &Rollout,
        event: &Event,
        actions: &[Action],
        after: &Rollout,
    ) {
        for action in actions {
            match action {
                Action::Reply { answer: Answer::Refused(reason), .. } if *reason != Reason::PauseOver => {
                    self.refused(before, event, reason);
                }
                Action::Ended(ended) => self.ended(before, event, ended, after),
                Action::Began { kind, .. } => self.began(house, before, *kind, actions),
                Action::Note(note) => self.noted(before, event, note, actions, after),
                Action::Drain { worker, timeout } => {
                    self.drained(house, before, event, *worker, *timeout == END_TIMEOUT)
                }
                Action::Spawn { worker, .. } => self.spawned(before, event, *worker, after),
                Action::Exit(Exit::NothingBoots) => self.met("first start: nothing boots"),
                Action::Reply { command, answer } => self.answered(before, *command, answer, event),
                Action::Rehearsed(ended) => {
                    let Ended { outcome, failed, stopped, .. } = ended;
                    self.met_if(*outcome == Outcome::Promoted, "rehearse: passes");
                    self.met_if(failed.is_some(), "rehearse: fails");
                    self.met_if(failed.is_none() && *outcome == Outcome::Aborted && !stopped, "rehearse: aborted");
                }
                _ => {}
            }
        }
        if let Event::Command { command, .. } = event {
            self.commanded(before, command, actions, after);
            self.left(before, command, actions);
        }
        if let Event::Adopt { found, .. } = event {
            self.adopted(found, actions, after);
            return;
        }
        self.trusted(before, event, actions, after);
        let soak = matches!(event, Event::Fired(Timer::Soak));
        let drains = matches!(after.running().map(|r| r.stage), Some(RunStage::Draining(_)));
        self.met_if(soak && drains, "ends: the soak is over while something drains");
    }

    /// What a master that has found workers makes of them; the memory is what it has written.
    fn adopted(&mut self, found: &[Found], actions: &[Action], after: &Rollout) {
        let left = |left| found.iter().any(|f| f.left == left);
        let noted = |wanted: fn(&Note) -> bool| actions.iter().any(|a| matches!(a, Action::Note(n) if wanted(n)));
        self.met_if(left(Left::Strays), "adopted: strays");
        if !noted(|n| matches!(n, Note::Adopted { .. })) {
            return self.met_if(!found.is_empty(), "adopted: nothing serves, a cold start");
        }
        let nothing = !actions.iter().any(|a| matches!(a, Action::Spawn { .. } | Action::Drain { .. }));
        self.met_if(nothing && after.running().is_none(), "adopted: as it was");
        self.met_if(after.held().is_some(), "adopted: held");
        let confirm = actions.iter().any(|a| matches!(a, Action::Arm(Timer::Confirm, _)));
        self.met_if(confirm, "adopted: waits for a confirm");
        self.met_if(noted(|n| matches!(n, Note::Unconfirmed(_))), "adopted: not confirmed in time");
        for action in actions {
            match action {
                Action::Drain { worker, .. } => {
                    let Some(drained) = found.iter().find(|f| f.worker == *worker) else { continue };
                    let slot = after.slots().any(|s| s.slot == drained.slot);
                    let alone = found.iter().filter(|f| f.slot == drained.slot).count() == 1;
                    self.met_if(slot && !alone, "adopted: too many in a slot");
                    self.met_if(!slot, "adopted: too many slots");
                    self.met_if(slot && alone && drained.left == Left::Unfit, "adopted: unfit ones stop first");
                }
                Action::Spawn { slot, role: Role::Serve, .. } => {
                    let here = |f: &&Found| f.slot == *slot && !matches!(f.left, Left::Ending | Left::Strays);
                    match found.iter().find(here) {
                        None => self.met("adopted: missing"),
                        Some(f) => self.met_if(f.left == Left::Unfit, "adopted: unfit ones are replaced"),
                    }
                }
                _ => {}
            }
        }
        let Some(run) = after.running() else { return };
        match run.stage {
            RunStage::RollingBack(Outcome::Promoted) => self.met("adopted: the way back from held goes on"),
            RunStage::RollingBack(_) if run.kind == Kind::Restart => self.met("adopted: a restart ends"),
            RunStage::RollingBack(_) => self.met("adopted: a rollout is undone"),
            RunStage::Draining(_) => self.met("adopted: a rollout was decided"),
            RunStage::Soaking => self.met("adopted: a rollout finishes"),
            _ => {}
        }
    }

    /// What becomes of the state that a master leaves behind when it dies: `next` is the one that comes after it.
    pub(crate) fn died(&mut self, before: &Rollout, event: &Event, next: &Rollout) {
        let Event::Adopt { found, .. } = event else { return };
        let serves = |f: &&Found| f.left == Left::Serving;
        let starting = before.state() == State::Booting && found.iter().any(|f| serves(&f));
        self.met_if(starting, "adopted: a trial or first start is over");
        let (Some(was), Some(now)) = (before.running(), next.running()) else { return };
        let through = found.iter().filter(serves).filter(|f| f.code == was.to).count();
        let undone = now.id == was.id && now.stage == RunStage::RollingBack(Outcome::Aborted);
        let all = undone && was.kind != Kind::Restart && through >= next.slots().count();
        self.met_if(all && before.state() == State::RollingBack, "adopted: a rollout that was aborted is not finished");
        self.met_if(undone && before.detail() == Some("paused"), "adopted: a paused rollout is undone");
        let anew = now.id != was.id && was.kind == Kind::Rollback && now.kind == Kind::Rollback;
        self.met_if(anew, "adopted: the way back begins anew");
    }

    fn left(&mut self, before: &Rollout, command: &Command, actions: &[Action]) {
        let refused = actions.iter().find_map(|a| match a {
            Action::Reply { answer: Answer::Refused(reason), .. } => Some(reason),
            _ => None,
        });
        match (command, refused) {
            (Command::Detach, None) => self.met("leave: detach"),
            (Command::Upgrade, None) => self.met("leave: upgrade"),
            (Command::Leave, None) => self.met_if(before.running().is_some(), "leave: at once"),
            (Command::Detach | Command::Upgrade, Some(Reason::BusyRollout { .. })) => {
                self.met("leave: busy with a rollout");
            }
            (Command::Detach | Command::Upgrade, Some(Reason::BusyStarting)) => {
                self.met("leave: busy with the first start");
            }
            (Command::Detach | Command::Upgrade, Some(Reason::BusyHook)) => self.met("leave: busy with a hook"),
            (Command::Detach | Command::Upgrade, Some(Reason::NoOrphans)) => self.met("leave: nobody may be left"),
            (Command::Await { .. }, None) => self.met("await: until the end"),
            (Command::Await { .. }, Some(Reason::NotRunning(_))) => self.met("await: does not run"),
            _ => {}
        }
    }

    fn refused(&mut self, before: &Rollout, event: &Event, reason: &Reason) {
        self.met_if(matches!(reason, Reason::ScaleFailed { .. }), "scale: up, does not boot");
        let Event::Command { command, .. } = event else { return };
        let held = before.held().is_some();
        match (reason, command) {
            (Reason::BusyRollout { .. }, Command::PhasedRestart { .. }) => {
                self.met("busy: phased-restart during a rollout");
            }
            (Reason::BusyRollout { .. }, Command::ReloadDir { .. }) => self.met("busy: reload-dir during a rollout"),
            (Reason::BusyRollout { .. }, Command::Rollback { .. }) => self.met("busy: rollback during a rollout"),
            (Reason::BusyRollout { .. }, Command::Scale(_)) => self.met("busy: scale during a rollout"),
            (Reason::BusyRollout { .. }, Command::Restart(_)) => self.met("busy: restart during a rollout"),
            (Reason::BusyStarting, Command::PhasedRestart { .. }) => {
                self.met("busy: phased-restart during the first start");
            }
            (Reason::BusyStarting, Command::ReloadDir { .. }) => self.met("busy: reload-dir during the first start"),
            (Reason::BusyStarting, Command::Rollback { .. }) => self.met("busy: rollback during the first start"),
            (Reason::BusyStarting, Command::Scale(_)) => self.met("busy: scale during the first start"),
            (Reason::BusyRollout { .. }, Command::Rehearse { .. }) => self.met("busy: rehearse during a rollout"),
            (Reason::BusyStarting, Command::Rehearse { .. }) => self.met("busy: rehearse during the first start"),
            (Reason::NothingToPause, _) => self.met("pause: nothing to pause"),
            (Reason::TooLateToPause, _) => self.met("pause: too late"),
            (Reason::NothingToConfirm, _) => self.met("confirm: nothing to confirm"),
            (Reason::RefusedBefore(_), _) => self.met("if-new: refused before"),
            (Reason::BusyStarting, Command::Restart(_)) => self.met("busy: restart during the first start"),
            (Reason::NothingToAbort, _) => self.met("abort: nothing runs"),
            (Reason::NothingBefore, _) => self.met("rollback: none before"),
            (Reason::TargetGone(_), _) => self.met("rollback: its directory is gone"),
            (Reason::HeldOther { .. }, _) => self.met_if(held, "reload-dir: held, dir names another"),
            (Reason::TooFewReady { .. }, _) => self.met("scale: down refused, too few ready"),
            (Reason::WorkersOutOfRange { .. }, Command::Scale(ScaleTo::Exactly(0) | ScaleTo::Down(_))) => {
                self.met("scale: below one");
            }
            _ => {}
        }
    }

    fn answered(&mut self, before: &Rollout, command: CommandId, answer: &Answer, event: &Event) {
        let asks = matches!(event, Event::Command { id, .. } if *id == command);
        let scouting = before.running().is_some_and(|r| r.stage == RunStage::Scouting);
        match answer {
            Answer::Paused { .. } => {
                self.met("pause: stands still");
                self.met_if(scouting, "pause: before any slot");
            }
            Answer::Refused(Reason::PauseOver) => self.met("pause: over before it stood still"),
            Answer::Confirmed(_) => {
                let late = before.pending().is_some() && !invariant::armed(before).contains(&Timer::Confirm);
                self.met(if late { "confirm: late, and nothing has happened yet" } else { "confirm: in time" });
            }
            Answer::NothingNew(_) => self.met_if(asks, "if-new: nothing new"),
            _ => {}
        }
    }

    /// What is found out before, what waits for a confirm, and what is replaced by itself.
    fn trusted(&mut self, before: &Rollout, event: &Event, actions: &[Action], after: &Rollout) {
        let run = before.running();
        let scouting = run.is_some_and(|r| r.stage == RunStage::Scouting);
        let paused = before.detail() == Some("paused");
        let noted = |wanted: fn(&Note) -> bool| actions.iter().any(|a| matches!(a, Action::Note(n) if wanted(n)));
        let crashed = noted(|n| matches!(n, Note::Crashed { retry: Some(_), .. }));
        self.met_if(scouting && crashed, "scout: an old worker crashes meanwhile");
        self.met_if(
            paused && crashed && after.detail() == Some("paused"),
            "pause: an old worker crashes and comes back",
        );
        let aborted = noted(|n| matches!(n, Note::RollingBack { .. }));
        self.met_if(paused && aborted && noted(|n| matches!(n, Note::Crashed { .. })), "pause: a candidate crashes");
        let canary = run.is_some_and(|r| r.stage == RunStage::Canary);
        self.met_if(canary && *event == Event::Fired(Timer::Canary), "canary: watched");
        self.met_if(canary && aborted && !matches!(event, Event::Command { .. }), "canary: dies in its soak");
        let failed = |role| {
            let worker = |id| before.workers().any(|(w, worker)| w == id && worker.role == role);
            actions.iter().any(|a| matches!(a, Action::Note(Note::BootFailed { worker: id, .. }) if worker(*id)))
        };
        self.met_if(scouting && failed(Role::BeforeRollout), "scout: a hook fails");
        self.met_if(scouting && failed(Role::Rehearse), "scout: a rehearsal fails");
        let scout = failed(Role::BeforeRollout) || failed(Role::Rehearse);
        self.met_if(before.state() == State::Booting && scout, "scout: fails at the first start");
        let fired = *event == Event::Fired(Timer::Confirm) && before.pending().is_some();
        self.met_if(fired && run.is_none(), "confirm: not in time");
        self.met_if(fired && run.is_some(), "confirm: not in time while a rollout runs");
        let new = before.known_good() != after.known_good() && after.is_refused(before.known_good().release);
        let promoted = noted(|n| matches!(n, Note::Promoted(_)));
        let restart = run.is_some_and(|r| r.kind == Kind::PhasedRestart);
        self.met_if(
            before.pending().is_some() && new && promoted && restart,
            "confirm: superseded by another promotion",
        );
        let undone =
            actions.iter().any(|a| matches!(a, Action::Ended(e) if e.outcome == Outcome::Aborted && !e.stopped));
        let back = run.is_some_and(|r| r.kind == Kind::Rollback);
        let late = before.pending().is_some() && after.pending().is_none();
        self.met_if(undone && back && late, "confirm: the rollback does not succeed");
        for action in actions {
            let Action::Drain { worker: id, timeout } = action else { continue };
            let Some((_, old)) = before.workers().find(|(w, _)| w == id) else { continue };
            let idle = run.is_none() && after.running().is_none() && *timeout != END_TIMEOUT;
            if idle && before.recycles(old.slot) && matches!(event, Event::Booted(_)) {
                self.met("recycle: through");
            }
            let begun = noted(|n| matches!(n, Note::Recycling { .. }));
            self.met_if(idle && begun, "recycle: the old one stops first");
        }
        let recycled = before.slots().any(|s| before.recycles(s.slot));
        let began = actions.iter().any(|a| matches!(a, Action::Began { .. }));
        self.met_if(recycled && began, "recycle: cancelled by a rollout");
    }

    fn commanded(&mut self, before: &Rollout, command: &Command, actions: &[Action], after: &Rollout) {
        let done = !actions.iter().any(|a| matches!(a, Action::Reply { answer: Answer::Refused(_), .. }));
        if !done {
            return;
        }
        let state = before.state();
        let held = before.held().is_some();
        match command {
            Command::Stop if state == State::Booting => self.met("busy: stop during the first start"),
            Command::Halt if state == State::Booting => self.met("busy: halt during the first start"),
            Command::Stop if before.running().is_some() => {
                self.met("stop: during a rollout");
                let scouting = before.running().is_some_and(|r| r.stage == RunStage::Scouting);
                self.met_if(scouting, "scout: stop meanwhile");
            }
            Command::Abort if before.running().is_some_and(|r| r.stage == RunStage::Scouting) => {
                let rollout = before.running().is_some_and(|r| r.kind == Kind::PhasedRestart);
                self.met_if(rollout, "scout: aborted");
            }
            Command::Halt if before.running().is_some() => self.met("stop: halt during a rollout"),
            Command::Abort if state == State::RollingBack => {
                let again = actions.iter().any(|a| matches!(a, Action::Note(Note::RollingBack { .. })));
                self.met_if(!again, "abort: while rolling back, joins it");
            }
            Command::Rollback { .. } if held => self.met("rollback: while held"),
            Command::Rollback { .. } => self.met("rollback: while steady"),
            Command::ReloadDir { release, explicit } => {
                if let Some(held) = before.held() {
                    let other = held.release != *release;
                    self.met_if(other && *explicit, "reload-dir: held, an explicit one decides");
                    let pinned = after.known_good() == held;
                    self.met_if(!other && pinned, "reload-dir: held, pins with the held phase");
                } else if before.known_good().release != *release && after.state() == State::Steady {
                    let old = after.old_workers() == after.slots().count() as u32;
                    self.met_if(old, "reload-dir: steady, workers on other code are old");
                }
            }
            Command::Scale(_) => {
                let (from, to) = (before.slots().count(), after.slots().count());
                self.met_if(to < from && !held, "scale: down, the highest goes");
                self.met_if(to < from && held, "scale: down while held");
            }
            _ => {}
        }
    }

    fn began(&mut self, house: &Settings, before: &Rollout, kind: Kind, actions: &[Action]) {
        let slots = before.slots().count() as u32;
        self.met_if(matches!(house.surge, Surge::Count(n) if n > slots), "budget: surge > workers");
        if kind != Kind::PhasedRestart {
            return;
        }
        let ended_backoff = actions.iter().any(|a| matches!(a, Action::Disarm(Timer::Backoff(_))));
        let ended_boot = actions.iter().any(|a| matches!(a, Action::Drain { timeout, .. } if *timeout == END_TIMEOUT));
        self.met_if(house.surge.is_zero() && ended_backoff, "surge 0: a slot in backoff is next");
        if before.state() == State::Degraded {
            self.met_if(ended_backoff, "from degraded: a backoff is ended");
            self.met_if(ended_boot, "from degraded: a booting known-good is ended");
        }
    }

    fn ended(&mut self, before: &Rollout, event: &Event, ended: &Ended, after: &Rollout) {
        let Some(run) = before.running() else { return };
        let known_good = run.to.release == before.known_good().release;
        let gone = matches!(event, Event::Gone(_));
        match ended.outcome {
            _ if ended.stopped => self.met_if(ended.outcome == Outcome::Aborted, "stop: its rollout is aborted"),
            Outcome::Promoted => {
                self.met_if(gone && run.kind == Kind::PhasedRestart, "ends: when the last one is gone");
                self.met_if(run.kind == Kind::Restart, "restart SLOT: through");
                self.met_if(
                    run.kind == Kind::Rollback && before.rollback_target().is_some(),
                    "rollback: back to the one before that",
                );
            }
            Outcome::Aborted => {
                let restart = run.kind == Kind::Restart;
                self.met_if(restart && ended.failed.is_some(), "restart SLOT: failed, the old one stays");
                let refused = after.is_refused(run.to.release);
                self.met_if(!restart && known_good && !refused, "known-good candidate: aborted, nothing to put back");
                let mix = ended.mixed_with.is_some() && after.state() == State::Held && after.old_workers() > 0;
                self.met_if(mix, "held and aborted: a mix");
            }
            Outcome::Degraded => {
                let stays = |w: &Worker| w.state == WorkerState::Ready && w.code == run.to;
                self.met_if(
                    !known_good && after.workers().any(|(_, w)| stays(w)),
                    "degraded: a candidate that serves stays",
                );
            }
            Outcome::Held => {}
        }
    }

    fn noted(&mut self, before: &Rollout, event: &Event, note: &Note, actions: &[Action], after: &Rollout) {
        let stage = before.running().map(|r| r.stage);
        let rolling_back = matches!(stage, Some(RunStage::RollingBack(_)));
        let given_up = matches!(after.running().map(|r| r.stage), Some(RunStage::GivingUp))
            || actions.iter().any(|a| matches!(a, Action::Ended(e) if e.outcome == Outcome::Degraded));
        match note {
            Note::RollingBack { put_back, .. } => {
                let all = *put_back as usize == after.slots().count();
                let aborted = matches!(event, Event::Command { .. });
                self.met_if(
                    aborted && before.state() == State::Soaking && all,
                    "abort: while soaking, every slot is put back",
                );
                let backoff = before.slots().any(|s: SlotView| s.backoff);
                self.met_if(backoff && given_up, "backoff: a slot has it when the rollback begins");
            }
            Note::Promoted(_) if before.running().is_none() => self.met("trial: passes"),
            Note::Promoted(_) => {
                let resumed = matches!(event, Event::Command { command: Command::Resume, .. });
                self.met_if(resumed, "pause: promotion waits for resume");
                let to_known_good = before.running().is_some_and(|r| r.to.release == before.known_good().release);
                self.met_if(to_known_good, "known-good candidate: --hold promotes");
            }
            Note::Crashed { retry: Some(retry), .. } if rolling_back => {
                self.met_if(retry.is_zero(), "put back: crashes once, respawned at once");
                self.met_if(!retry.is_zero() && given_up, "put back: crashes twice");
            }
            Note::Crashed { retry: Some(retry), .. } => {
                let steady = before.state() == State::Steady && after.state() == State::Steady;
                self.met_if(retry.is_zero() && steady, "degraded: not by one crash");
            }
            Note::BootFailed { retry: Some(_), .. } if rolling_back => {
                self.met_if(given_up, "put back: does not boot");
            }
            Note::Degraded => {
                self.met_if(before.state() == State::Booting, "first start: partly");
                let failed = matches!(event, Event::BootFailed { .. });
                self.met_if(before.state() == State::Steady && failed, "degraded: by a failed boot");
            }
            Note::Recovered => self.met_if(matches!(event, Event::Booted(_)), "degraded: until ready"),
            Note::ExtraInstance => self.met("scout: the extra instance is announced"),
            Note::HookFailed { .. } => self.met("hooks: one fails"),
            Note::RecycleFailed { .. } => self.met("recycle: the new one does not boot"),
            Note::RefusedBefore(_) => self.met("refused before: tried again"),
            Note::TrialFailed { failed, .. } => {
                let failed = before.workers().find(|(id, _)| id == failed).map(|(_, w)| (w.role, w.slot.0));
                match failed {
                    Some((Role::Serve, 0)) => self.met("trial: fails on the first slot"),
                    Some((Role::Serve, _)) => self.met("trial: fails on a later slot"),
                    _ => self.met("trial: fails before any slot"),
                }
            }
            Note::ZeroReady => self.met("budget: zero ready is announced"),
            _ => {}
        }
    }

    fn drained(&mut self, house: &Settings, before: &Rollout, event: &Event, id: Incarnation, never_ready: bool) {
        self.met_if(never_ready, "never ready: gets five seconds");
        let (Some(run), Event::Booted(winner)) = (before.running(), event) else { return };
        let worker = |id: &Incarnation| before.workers().find(|(w, _)| w == id).map(|(_, w)| w);
        let (Some(loser), Some(winner)) = (worker(&id), worker(winner)) else { return };
        if run.stage != RunStage::Rolling || winner.code != run.to {
            return;
        }
        if loser.slot == winner.slot {
            let other = loser.code != run.to && run.to != before.known_good();
            self.met_if(never_ready && other, "old worker: the candidate wins");
            let crashed = before.slots().any(|s| s.slot == loser.slot && s.crashes > 0);
            self.met_if(!never_ready && crashed, "old worker: known-good wins, then the candidate");
        } else {
            self.met_if(house.surge.is_zero() && never_ready, "surge 0: a slot whose old worker crashed is next");
        }
    }

    fn spawned(&mut self, before: &Rollout, event: &Event, id: Incarnation, after: &Rollout) {
        let Some((_, new)) = after.workers().find(|(w, _)| *w == id) else { return };
        match new.role {
            Role::Serve => {}
            Role::OnPromote => return self.met("hooks: on-promote"),
            Role::OnFailure => return self.met("hooks: on-failure"),
            Role::Rehearse => {
                // It could have begun as soon as the rollout did.
                let waited = before.running().is_some() && !before.workers().any(|(_, w)| w.role != Role::Serve);
                return self.met_if(waited, "scout: a rehearsal waits for its place");
            }
            Role::BeforeRollout => return,
        }
        let known_good = new.code == after.known_good();
        let beside = |state, code| {
            after.workers().any(|(other, w)| other != id && w.slot == new.slot && w.state == state && w.code == code)
        };
        match after.running() {
            Some(run) if run.stage == RunStage::Rolling && known_good && run.to != new.code => {
                let candidate = beside(WorkerState::Booting, run.to);
                self.met_if(candidate, "old worker: crashes, known-good beside the candidate");
            }
            None if before.running().is_none() => {
                let serves = after.workers().any(|(_, w)| {
                    w.slot == new.slot && w.state == WorkerState::Ready && after.is_refused(w.code.release)
                });
                self.met_if(serves, "degraded: retried beside a candidate that serves");
                let up = matches!(event, Event::Command { command: Command::Scale(_), .. });
                self.met_if(up && known_good, "scale: up, known-good");
                self.met_if(up && known_good && after.held().is_some(), "scale: up while held");
            }
            _ => {}
        }
    }
}
