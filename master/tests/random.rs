//! Long random runs of the mind: more slots, larger and mixed budgets, many releases, hundreds of events, and some
//! that make no sense.
//!
//! A [`World`] keeps its own books from the actions alone: who is alive, which timers run, who waits for an answer.
//! After the random part comes a friendly ending, in which boots succeed, what drains goes and timers fire: it must
//! come to rest, with every command answered once.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::Config;
use rollout::{
    Action, Answer, Command, CommandId, Event, Incarnation, ReleaseId, Rollout, ScaleTo, Settings, Slot, State, Timer,
    invariant,
};

/// Whatever a run decides, it decides by numbers that are drawn before.
type Draw = (u8, u8, u8);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Life {
    Booting,
    Ready,
    Draining,
}

struct World {
    mind: Rollout,
    /// What hears only what was written down.
    replay: Rollout,
    settings: Settings,
    script: String,
    alive: BTreeMap<Incarnation, Life>,
    armed: BTreeSet<Timer>,
    asked: BTreeSet<Slot>,
    /// Everybody who ever asked, and how many last words each has heard.
    answers: BTreeMap<CommandId, u32>,
    surge: u32,
    ended: bool,
}

impl World {
    fn new(settings: &Settings) -> Self {
        Self {
            mind: Rollout::new(settings.clone(), ReleaseId(0)),
            replay: Rollout::new(settings.clone(), ReleaseId(0)),
            settings: settings.clone(),
            script: format!("settings {settings}\n"),
            alive: BTreeMap::new(),
            armed: BTreeSet::new(),
            asked: BTreeSet::new(),
            answers: BTreeMap::new(),
            surge: settings.surge,
            ended: false,
        }
    }

    fn hear(&mut self, event: &Event) -> Result<(), TestCaseError> {
        let line = event.to_string();
        writeln!(self.script, "> {line}").expect("text");
        match event {
            Event::Booted(id) => {
                if let Some(life @ Life::Booting) = self.alive.get_mut(id) {
                    *life = Life::Ready;
                }
            }
            Event::BootFailed { worker: id, .. } => {
                if let Some(life @ Life::Booting) = self.alive.get_mut(id) {
                    *life = Life::Draining;
                }
            }
            Event::Exited(id) | Event::Lost(id) => {
                if let Some(life) = self.alive.get_mut(id) {
                    *life = Life::Draining;
                }
            }
            Event::Gone(id) => {
                self.alive.remove(id);
            }
            Event::Fired(timer) => {
                if let (true, Timer::BootLate(id)) = (self.armed.remove(timer), timer) {
                    self.alive.insert(*id, Life::Draining);
                }
            }
            Event::Resolved { slot, .. } => {
                self.asked.remove(slot);
            }
            Event::Command { id, command } => {
                self.answers.insert(*id, 0);
                if let (None, Command::PhasedRestart { surge, .. }) = (self.mind.running(), command) {
                    self.surge = surge.unwrap_or(self.settings.surge).max(self.settings.surge);
                }
            }
            Event::Start | Event::ListenerLost => {}
        }
        let before = self.mind.clone();
        let mut actions = Vec::new();
        self.mind.step(event.clone(), &mut actions);
        for action in &actions {
            writeln!(self.script, "< {action}").expect("text");
        }
        for action in &actions {
            self.perform(action)?;
        }
        if let Err(why) = invariant::check(&before, event, &actions, &self.mind) {
            return Err(self.fail(&why));
        }
        // A trace read back says the same.
        let read: Event = line.parse().map_err(|why: String| self.fail(&why))?;
        if read != *event {
            return Err(self.fail(&format!("'{line}' reads back as '{read}'")));
        }
        let mut again = Vec::new();
        self.replay.step(read, &mut again);
        if again != actions || self.replay != self.mind {
            return Err(self.fail("the same events lead elsewhere"));
        }
        Ok(())
    }

    fn perform(&mut self, action: &Action) -> Result<(), TestCaseError> {
        match action {
            Action::Spawn { worker, slot, .. } => {
                let slots = self.mind.slots().count();
                if slot.0 as usize >= slots {
                    return Err(self.fail(&format!("worker {worker} is spawned in a slot that does not exist")));
                }
                if self.alive.insert(*worker, Life::Booting).is_some() {
                    return Err(self.fail(&format!("worker {worker} is spawned twice")));
                }
                let may = slots + (self.surge as usize).min(slots);
                if self.alive.len() > may {
                    return Err(self.fail(&format!("P3: {} are alive, {may} may be", self.alive.len())));
                }
            }
            Action::Drain { worker, .. } => match self.alive.get_mut(worker) {
                Some(life) if *life != Life::Draining => *life = Life::Draining,
                _ => return Err(self.fail(&format!("worker {worker} is told to drain and cannot"))),
            },
            Action::Kill(worker) | Action::EndLeftovers(worker) => match self.alive.get_mut(worker) {
                Some(life) => *life = Life::Draining,
                None => return Err(self.fail(&format!("worker {worker} is to be killed and is gone"))),
            },
            Action::Arm(timer, _) => {
                self.armed.insert(*timer);
            }
            Action::Disarm(timer) => {
                self.armed.remove(timer);
            }
            Action::ResolveDir(slot) => {
                self.asked.insert(*slot);
            }
            Action::Reply { answer: Answer::Accepted { .. }, .. } => {}
            Action::Reply { command, .. } => *self.answers.entry(*command).or_default() += 1,
            Action::Exit(_) => self.ended = true,
            Action::Began { .. } | Action::Ended(_) | Action::Note(_) => {}
        }
        Ok(())
    }

    fn fail(&self, why: &str) -> TestCaseError {
        TestCaseError::fail(format!("{why}\n{}", self.script))
    }

    /// Something friendly, if anything is left.
    fn friendly(&self, turn: usize) -> Option<Event> {
        let workers = self.alive.iter().filter_map(|(id, life)| match life {
            Life::Booting => Some(Event::Booted(*id)),
            Life::Ready => None,
            Life::Draining => Some(Event::Gone(*id)),
        });
        let timers = self
            .armed
            .iter()
            .filter(|t| matches!(t, Timer::Soak | Timer::Backoff(_) | Timer::Healthy(_)))
            .map(|t| Event::Fired(*t));
        let asked = self.asked.iter().map(|slot| Event::Resolved { slot: *slot, release: None });
        let all: Vec<Event> = workers.chain(timers).chain(asked).collect();
        all.get(turn % all.len().max(1)).cloned()
    }

    /// Something that can happen, good or bad, or something that cannot.
    fn any(&self, (kind, which, how): Draw) -> Event {
        let pick = |from: &BTreeMap<Incarnation, Life>| {
            from.iter()
                .nth(usize::from(which) % from.len().max(1))
                .map_or((Incarnation(7), Life::Draining), |(a, b)| (*a, *b))
        };
        let release = ReleaseId(u32::from(how) % 5);
        match kind {
            0..=109 => self.friendly(usize::from(which)).unwrap_or(Event::Start),
            110..=179 => {
                let (id, life) = pick(&self.alive);
                match (life, how % 8) {
                    (Life::Booting, 0..=2) => Event::BootFailed { worker: id, release_gone: false },
                    (Life::Booting, 3) => Event::BootFailed { worker: id, release_gone: true },
                    (Life::Booting, 4) => Event::Fired(Timer::BootLate(id)),
                    (Life::Ready, 0..=4) => Event::Exited(id),
                    (Life::Draining, 0..=4) => Event::Fired(Timer::Overdue(id)),
                    (_, 5) => Event::Lost(id),
                    _ => Event::Gone(id),
                }
            }
            180..=184 => match self.asked.first() {
                Some(slot) => Event::Resolved { slot: *slot, release: Some(release) },
                None => Event::Resolved { slot: Slot(u32::from(which) % 10), release: Some(release) },
            },
            185..=186 => Event::ListenerLost,
            187..=195 => self.nonsense(which, how),
            _ => {
                Event::Command { id: CommandId(self.answers.len() as u64 + 1), command: self.command(kind, which, how) }
            }
        }
    }

    /// News of somebody who is not known, or not in a state to say so; timers that may not run.
    fn nonsense(&self, which: u8, how: u8) -> Event {
        let id = Incarnation(u64::from(which));
        let slot = Slot(u32::from(which) % 12);
        match how % 10 {
            0 => Event::Booted(id),
            1 => Event::BootFailed { worker: id, release_gone: how > 100 },
            2 => Event::Start,
            3 => Event::Fired(Timer::Soak),
            4 => Event::Fired(Timer::Backoff(slot)),
            5 => Event::Fired(Timer::Healthy(slot)),
            6 => Event::Fired(Timer::BootLate(Incarnation(1000 + id.0))),
            7 => Event::Fired(Timer::Overdue(Incarnation(1000 + id.0))),
            8 => Event::Gone(Incarnation(1000 + id.0)),
            _ => Event::Resolved { slot, release: None },
        }
    }

    fn command(&self, kind: u8, which: u8, how: u8) -> Command {
        let release = ReleaseId(u32::from(how) % 5);
        let maybe = |bit: u8, n: u32| (which & bit != 0).then_some(n);
        match kind {
            196..=219 => Command::PhasedRestart {
                release,
                hold: which & 1 != 0,
                surge: maybe(2, u32::from(how / 5) % 4),
                max_unavailable: maybe(4, u32::from(how / 20) % 3),
                soak: (which & 8 != 0).then(|| Duration::from_millis(u64::from(how / 5) % 3 * 500)),
            },
            220..=225 => Command::ReloadDir { release, explicit: which & 1 != 0 },
            226..=231 => Command::Abort,
            232..=237 => Command::Rollback { gone: how.is_multiple_of(8) },
            238..=245 => Command::Scale(match which % 8 {
                0 => ScaleTo::Exactly(0),
                1 => ScaleTo::Exactly(5000),
                2 | 3 => ScaleTo::Up(u32::from(how) % 3),
                4 | 5 => ScaleTo::Down(u32::from(how) % 3),
                _ => ScaleTo::Exactly(u32::from(how) % 8 + 1),
            }),
            246..=253 => Command::Restart(Slot(u32::from(how) % 9)),
            _ if which > 127 => Command::Restart(Slot(0)),
            254 => Command::Stop,
            _ => Command::Halt,
        }
    }

    /// From here on everything goes well.
    fn come_to_rest(&mut self) -> Result<(), TestCaseError> {
        let mut turn = 0;
        while let Some(event) = self.friendly(turn) {
            if self.ended {
                break;
            }
            self.hear(&event)?;
            turn += 1;
            if turn > 5000 {
                return Err(self.fail("it does not come to rest"));
            }
        }
        if let Some((command, words)) = self.answers.iter().find(|(_, words)| **words != 1) {
            return Err(self.fail(&format!("P6: command {} has heard {words} last words", command.0)));
        }
        if self.ended {
            return Ok(());
        }
        if !self.armed.is_empty() {
            return Err(self.fail(&format!("P8: at rest, and {:?} run", self.armed)));
        }
        let known_good = self.mind.known_good();
        let fallback =
            self.mind.workers().any(|(_, w)| w.code.phase == known_good.phase && w.code.release != known_good.release);
        let rests = match self.mind.state() {
            State::Steady | State::Held => true,
            State::Degraded => fallback,
            _ => false,
        };
        if !rests || self.alive.len() != self.mind.slots().count() {
            return Err(self.fail(&format!("at rest it is {}", self.mind.state().as_str())));
        }
        Ok(())
    }
}

fn settings() -> impl Strategy<Value = Settings> {
    let budget = prop_oneof![(1u32..=9, 0u32..=2), (Just(0u32), 1u32..=3)];
    (1u32..=8, budget, prop_oneof![Just(0u64), Just(5)]).prop_map(|(workers, (surge, max_unavailable), soak)| {
        Settings {
            workers,
            surge,
            max_unavailable,
            soak: Duration::from_secs(soak),
            drain_timeout: Duration::from_secs(30),
            boot_timeout: Duration::from_secs(60),
        }
    })
}

proptest! {
    #![proptest_config(Config { cases: 1000, failure_persistence: None, ..Config::default() })]

    #[test]
    fn whatever_happens_it_comes_to_rest(settings in settings(), draws in prop::collection::vec(any::<Draw>(), 0..600)) {
        let mut world = World::new(&settings);
        world.hear(&Event::Start)?;
        for draw in draws {
            if world.ended {
                break;
            }
            let event = world.any(draw);
            world.hear(&event)?;
        }
        world.come_to_rest()?;
    }

    #[test]
    fn settings_read_back_as_they_were_written(settings in settings()) {
        let read: Settings = settings.to_string().parse().expect("settings");
        prop_assert_eq!(read, settings);
    }
}
