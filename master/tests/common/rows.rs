//! Which rows of the contract's table of transitions a search has come through.

use std::collections::BTreeMap;

use rollout::{
    Action, Answer, Command, END_TIMEOUT, Ended, Event, Exit, Incarnation, Kind, Note, Outcome, Reason, Rollout,
    RunStage, ScaleTo, Settings, SlotView, State, Timer, Worker, WorkerState,
};

/// What must be met at least once, row by row. The first word names the row.
pub(crate) const MUST: [&str; 62] = [
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
                Action::Reply { answer: Answer::Refused(reason), .. } => self.refused(before, event, reason),
                Action::Ended(ended) => self.ended(before, event, ended, after),
                Action::Began { kind, .. } => self.began(house, before, *kind, actions),
                Action::Note(note) => self.noted(before, event, note, actions, after),
                Action::Drain { worker, timeout } => {
                    self.drained(house, before, event, *worker, *timeout == END_TIMEOUT)
                }
                Action::Spawn { worker, .. } => self.spawned(before, event, *worker, after),
                Action::Exit(Exit::NothingBoots) => self.met("first start: nothing boots"),
                _ => {}
            }
        }
        if let Event::Command { command, .. } = event {
            self.commanded(before, command, actions, after);
        }
        let soak = matches!(event, Event::Fired(Timer::Soak));
        let drains = matches!(after.running().map(|r| r.stage), Some(RunStage::Draining(_)));
        self.met_if(soak && drains, "ends: the soak is over while something drains");
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
            Command::Stop if before.running().is_some() => self.met("stop: during a rollout"),
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
        self.met_if(house.surge > slots, "budget: surge > workers");
        if kind != Kind::PhasedRestart {
            return;
        }
        let ended_backoff = actions.iter().any(|a| matches!(a, Action::Disarm(Timer::Backoff(_))));
        let ended_boot = actions.iter().any(|a| matches!(a, Action::Drain { timeout, .. } if *timeout == END_TIMEOUT));
        self.met_if(house.surge == 0 && ended_backoff, "surge 0: a slot in backoff is next");
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
            Note::Promoted(_) => {
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
            self.met_if(house.surge == 0 && never_ready, "surge 0: a slot whose old worker crashed is next");
        }
    }

    fn spawned(&mut self, before: &Rollout, event: &Event, id: Incarnation, after: &Rollout) {
        let Some((_, new)) = after.workers().find(|(w, _)| *w == id) else { return };
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
