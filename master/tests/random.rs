//! Long random runs of the mind: more slots, larger and mixed budgets, many releases, hundreds of events, and some
//! that make no sense.
//!
//! A [`World`] keeps its own books from the actions alone: who is alive, which timers run, who waits for an answer.
//! After the random part comes a friendly ending, in which boots succeed, what drains goes and timers fire: it must
//! come to rest, with every command answered once.

#[path = "common/death.rs"]
mod death;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::{Config, RngSeed};
use rollout::{
    Action, Answer, Code, Command, CommandId, Event, Exit, Found, Incarnation, Kind, Left, Memory, Options, Outcome,
    Phase, ReleaseId, Role, Rollout, ScaleTo, Settings, Slot, State, Surge, Timer, WorkerState, invariant,
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
    roles: BTreeMap<Incarnation, Role>,
    /// The last number that any master has given.
    last: Incarnation,
    /// Rollouts that any master has begun.
    begun: BTreeSet<u64>,
    /// Rollbacks that nobody has asked for.
    by_itself: BTreeSet<u64>,
    /// Hooks and rehearsals that have passed, of which release.
    passed: BTreeSet<(Role, ReleaseId)>,
    /// What an earlier master would find, were this one gone now.
    written: Option<Memory>,
    armed: BTreeSet<Timer>,
    asked: BTreeSet<Slot>,
    /// Everybody who ever asked, and how many last words each has heard.
    answers: BTreeMap<CommandId, u32>,
    /// The surge of the settings, and that of the last rollout.
    surges: [Surge; 2],
    ended: bool,
    /// It has left its workers to the next one.
    left: bool,
}

/// A memory to begin with, and what `dir` names and what is gone.
#[derive(Clone, Debug)]
struct Opening {
    memory: Memory,
    dir: Option<ReleaseId>,
    gone: Vec<ReleaseId>,
}

impl World {
    /// `None`: what it begins with leaves nothing to start.
    fn new(settings: &Settings, opening: Option<&Opening>) -> Option<Self> {
        let mut script = format!("settings {settings}\n");
        let mind = match opening {
            Some(Opening { memory, dir, gone }) => {
                writeln!(script, "memory {memory}").expect("text");
                dir.iter().for_each(|dir| writeln!(script, "dir {dir}").expect("text"));
                gone.iter().for_each(|gone| writeln!(script, "gone {gone}").expect("text"));
                Rollout::restore(settings.clone(), memory.clone(), *dir, gone).ok()?
            }
            None => Rollout::new(settings.clone(), ReleaseId(0)),
        };
        Some(Self {
            replay: mind.clone(),
            mind,
            settings: settings.clone(),
            script,
            alive: BTreeMap::new(),
            roles: BTreeMap::new(),
            last: Incarnation(0),
            begun: opening.and_then(|o| o.memory.run.as_ref()).map(|run| run.id).into_iter().collect(),
            by_itself: BTreeSet::new(),
            passed: BTreeSet::new(),
            written: None,
            armed: BTreeSet::new(),
            asked: BTreeSet::new(),
            answers: BTreeMap::new(),
            surges: [settings.surge; 2],
            ended: false,
            left: false,
        })
    }

    fn hear(&mut self, event: &Event) -> Result<(), TestCaseError> {
        let line = event.to_string();
        writeln!(self.script, "> {line}").expect("text");
        match event {
            Event::Booted(id) => {
                if let Some(life @ Life::Booting) = self.alive.get_mut(id) {
                    let role = self.roles[id];
                    *life = if role == Role::Serve { Life::Ready } else { Life::Draining };
                    // A rehearsal is told to drain, as every app is.
                    if role == Role::Rehearse {
                        *life = Life::Ready;
                    }
                    let release = self.mind.workers().find(|(w, _)| w == id).map(|(_, w)| w.code.release);
                    self.passed.extend(release.map(|release| (role, release)));
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
                if let (None, Command::PhasedRestart { options, .. }) = (self.mind.running(), command) {
                    let asked = options.surge.unwrap_or(self.settings.surge);
                    // One that is refused or has nothing to do begins with no surge of its own.
                    self.surges = [self.settings.surge, asked];
                }
            }
            Event::Start | Event::Adopt { .. } | Event::ListenerLost | Event::Outgrown(_) => {}
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
        self.look_at_hooks(event, &actions)?;
        if let Err(why) = invariant::check(&before, event, &actions, &self.mind) {
            return Err(self.fail(&why));
        }
        let written = actions.iter().any(|a| matches!(a, Action::Remember(_)));
        if let (true, Err(why)) = (written, invariant::check_cut(&self.mind)) {
            return Err(self.fail(&why));
        }
        if self.written.as_ref().is_some_and(|w| *w != self.mind.memory()) {
            return Err(self.fail("what is written is not what is remembered"));
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

    /// The hook after a rollback says whether anybody had asked for it, whoever is the master by then.
    fn look_at_hooks(&mut self, event: &Event, actions: &[Action]) -> Result<(), TestCaseError> {
        let asked = matches!(event, Event::Command { .. });
        for action in actions {
            match action {
                // What is taken over has begun before.
                Action::Began { id, kind: Kind::Rollback, .. } if !asked && self.begun.insert(*id) => {
                    self.by_itself.insert(*id);
                }
                Action::Began { id, .. } => {
                    self.begun.insert(*id);
                }
                Action::Ended(ended) if ended.outcome == Outcome::Promoted => {
                    let wrong = match self.by_itself.contains(&ended.id) {
                        true => Role::OnPromote,
                        false => Role::OnFailure,
                    };
                    if actions.iter().any(|a| matches!(a, Action::Spawn { role, .. } if *role == wrong)) {
                        return Err(self.fail(&format!("the hook of rollout {} is {wrong}", ended.id)));
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn perform(&mut self, action: &Action) -> Result<(), TestCaseError> {
        match action {
            Action::Remember(memory) => {
                self.written = Some((**memory).clone());
                let text = memory.to_string();
                self.read_back(&text, memory)?;
            }
            Action::Spawn { worker, slot, release, role, .. } => {
                self.roles.insert(*worker, *role);
                if let Some(why) = self.exposes(*worker, *release, *role) {
                    return Err(self.fail(&why));
                }
                let slots = self.mind.slots().count();
                if slot.0 as usize >= slots {
                    return Err(self.fail(&format!("worker {worker} is spawned in a slot that does not exist")));
                }
                if *worker <= self.last {
                    return Err(self.fail(&format!("worker {worker} comes again, or after {}", self.last)));
                }
                self.last = *worker;
                self.alive.insert(*worker, Life::Booting);
                let surge = self.surges.map(|s| s.of(slots as u32)).into_iter().max().unwrap_or(0) as usize;
                let is = |role| self.alive.keys().filter(|id| self.roles[*id] == role).count();
                let (serving, rehearsing) = (is(Role::Serve), is(Role::Rehearse));
                // The announced exception.
                let may = slots + surge.max(rehearsing.min(1));
                let app = matches!(role, Role::Serve | Role::Rehearse);
                if app && (serving + rehearsing > may || serving > slots + surge) {
                    return Err(self.fail(&format!("P3: {serving} and {rehearsing} are alive, {may} may be")));
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
            Action::Exit(exit) => {
                self.ended = true;
                self.left = matches!(exit, Exit::Detached | Exit::Upgraded);
            }
            Action::Began { .. } => self.passed.clear(),
            Action::Rehearsed(ended) => {
                let passed = self.passed.iter().any(|(role, _)| *role == Role::Rehearse);
                if (ended.outcome == Outcome::Promoted) != passed && ended.failed.is_none() && !ended.stopped {
                    let aborted = ended.outcome == Outcome::Aborted;
                    if !aborted {
                        return Err(self.fail("it says that a rehearsal has passed, and none has"));
                    }
                }
            }
            Action::Ended(_) | Action::Note(_) => {}
        }
        Ok(())
    }

    /// Why this spawn exposes what was not found out about before, if it does.
    fn exposes(&self, worker: Incarnation, release: ReleaseId, role: Role) -> Option<String> {
        let run = self.mind.running()?;
        let tried = run.kind == Kind::PhasedRestart && release == run.to.release;
        if role != Role::Serve || !tried || release == self.mind.known_good().release {
            return None;
        }
        let missing = |role, wanted: bool| wanted && !self.passed.contains(&(role, release));
        let hook = missing(Role::BeforeRollout, self.settings.before_rollout);
        hook.then(|| format!("P4: worker {worker} is exposed, and the hook has not passed"))
    }

    /// The memory as its text says it.
    fn read_back(&self, text: &str, memory: &Memory) -> Result<Memory, TestCaseError> {
        let mut read: Memory = text.parse().map_err(|why: String| self.fail(&why))?;
        // Of a rollout's options the text leaves out what the next master does not go by.
        if let (Some(read), Some(run)) = (&mut read.run, &memory.run) {
            (read.canary, read.canary_soak) = (run.canary, run.canary_soak);
        }
        if read != *memory {
            return Err(self.fail(&format!("'{text}' reads back as '{read}'")));
        }
        Ok(read)
    }

    /// The master dies, and another one comes. False when nothing is left that it could begin with.
    fn die(&mut self, (_, which, how): Draw) -> Result<bool, TestCaseError> {
        use Left::{Ending, Serving, Strays, Unfit};
        let fate = |id: Incarnation, state: WorkerState| {
            let one = (id.0 as usize * 7 + usize::from(which)) % 11;
            match state {
                // Most deaths change nothing.
                WorkerState::Ready if how % 3 == 0 => Some(Serving),
                WorkerState::Ready => {
                    [Some(Unfit), Some(Strays), None, Some(Ending)].get(one).copied().unwrap_or(Some(Serving))
                }
                WorkerState::Booting => [None, Some(Serving), Some(Strays)].get(one).copied().unwrap_or(Some(Ending)),
                WorkerState::Draining => [None, Some(Serving), Some(Strays)].get(one).copied().unwrap_or(Some(Ending)),
            }
        };
        let mut found = death::found(&self.mind, &fate);
        if how % 16 == 1 {
            found.retain(|f| !matches!(f.left, Serving | Unfit));
        }
        let slots = self.mind.slots().count() as u32;
        let mut settings = self.settings.clone();
        match which % 8 {
            0 => settings.workers = (slots + u32::from(how) % 3).saturating_sub(1).max(1),
            1 => settings.surge = Surge::Count(u32::from(how) % 3 + 1),
            2 => settings.max_age = (how & 8 != 0).then_some(Duration::from_secs(60)),
            _ => {}
        }
        let dir = (how % 5 > 0).then_some(ReleaseId(u32::from(which) % 5));
        let left = [None, Some(Duration::ZERO), Some(Duration::from_secs(9))][usize::from(how / 8) % 3];
        let memory = self.mind.memory();
        let Some(death) = death::death(&self.mind, &settings, dir, found.clone(), left) else { return Ok(false) };
        write!(self.script, "\nsettings {settings}\nmemory {memory}\n").expect("text");
        death.dir.iter().for_each(|dir| writeln!(self.script, "dir {dir}").expect("text"));
        // Who hears only what was written begins with that.
        let read = self.read_back(&memory.to_string(), &memory)?;
        let serving = found.iter().find(|f| matches!(f.left, Serving | Unfit)).map(|f| f.code.release);
        self.replay = match Rollout::restore(settings.clone(), read.clone(), dir, &[]) {
            Ok(mind) => mind,
            Err(_) => Rollout::reopen(settings.clone(), read, serving.expect("somebody")),
        };
        self.mind = death.next;
        self.settings = settings;
        self.take_over(&found, &memory);
        self.hear(&death.event)?;
        Ok(true)
    }

    /// The books of the next master.
    fn take_over(&mut self, found: &[Found], memory: &Memory) {
        let life = |left| if matches!(left, Left::Serving | Left::Unfit) { Life::Ready } else { Life::Draining };
        self.alive = found.iter().map(|f| (f.worker, life(f.left))).collect();
        self.roles = found.iter().map(|f| (f.worker, Role::Serve)).collect();
        self.passed.clear();
        self.armed.clear();
        self.asked.clear();
        // Whoever waited has lost its connection.
        self.answers.values_mut().filter(|words| **words == 0).for_each(|words| *words = 1);
        (self.written, self.ended, self.left) = (None, false, false);
        self.surges = [self.settings.surge, memory.run.as_ref().map_or(self.settings.surge, |run| run.surge)];
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
            .filter(|t| !matches!(t, Timer::BootLate(_) | Timer::Overdue(_) | Timer::Age(_)))
            .map(|t| Event::Fired(*t));
        let asked = self.asked.iter().map(|slot| Event::Resolved { slot: *slot, release: None });
        let paused = (self.mind.detail() == Some("paused"))
            .then(|| Event::Command { id: CommandId(self.answers.len() as u64 + 1), command: Command::Resume });
        let all: Vec<Event> = workers.chain(timers).chain(asked).chain(paused).collect();
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
                    (Life::Ready, 0..=3) => Event::Exited(id),
                    (Life::Ready, 4) if self.armed.contains(&Timer::Age(id)) => Event::Fired(Timer::Age(id)),
                    (Life::Ready, 4) => Event::Outgrown(id),
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
        match how % 14 {
            0 => Event::Booted(id),
            1 => Event::BootFailed { worker: id, release_gone: how > 100 },
            2 => Event::Start,
            3 => Event::Fired(Timer::Soak),
            4 => Event::Fired(Timer::Backoff(slot)),
            5 => Event::Fired(Timer::Healthy(slot)),
            6 => Event::Fired(Timer::BootLate(Incarnation(1000 + id.0))),
            7 => Event::Fired(Timer::Overdue(Incarnation(1000 + id.0))),
            8 => Event::Gone(Incarnation(1000 + id.0)),
            9 => Event::Outgrown(id),
            10 => Event::Fired(Timer::Canary),
            11 => Event::Fired(Timer::Age(Incarnation(1000 + id.0))),
            12 => Event::Adopt { found: vec![self.stranger(which)], confirm_left: None },
            _ => Event::Resolved { slot, release: None },
        }
    }

    /// A worker that nobody knows.
    fn stranger(&self, which: u8) -> Found {
        let code = Code { release: ReleaseId(u32::from(which) % 5), phase: Phase(u32::from(which) % 7) };
        Found { worker: Incarnation(500), slot: Slot(u32::from(which) % 9), code, left: Left::Serving }
    }

    fn command(&self, kind: u8, which: u8, how: u8) -> Command {
        let release = ReleaseId(u32::from(how) % 5);
        let maybe = |bit: u8, n: u32| (which & bit != 0).then_some(n);
        match kind {
            196..=213 => Command::PhasedRestart {
                release,
                options: Options {
                    hold: which & 1 != 0,
                    no_rehearse: how & 1 != 0,
                    if_new: which & 96 == 96,
                    surge: match which & 2 {
                        0 => None,
                        _ if how > 200 => Some(Surge::Percent(u32::from(how % 5) * 25)),
                        _ => Some(Surge::Count(u32::from(how / 5) % 4)),
                    },
                    max_unavailable: maybe(4, u32::from(how / 20) % 3),
                    soak: (which & 8 != 0).then(|| Duration::from_millis(u64::from(how / 5) % 3 * 500)),
                    canary: maybe(16, u32::from(how / 7) % 4),
                    canary_soak: (which & 32 != 0).then(|| Duration::from_millis(u64::from(how / 7) % 2 * 500)),
                    confirm_within: (which & 64 != 0).then(|| Duration::from_secs(u64::from(how % 2) * 60)),
                },
            },
            214..=215 => Command::Rehearse { release },
            216..=217 if which & 1 == 0 => Command::Pause,
            216..=217 => Command::Resume,
            218..=219 => Command::Confirm,
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
            246 => match which % 3 {
                0 => Command::Detach,
                1 => Command::Upgrade,
                _ => Command::Leave,
            },
            247 => Command::Await { run: self.mind.running().map_or(u64::from(how), |run| run.id) },
            248..=253 => Command::Restart(Slot(u32::from(how) % 9)),
            _ if which > 127 => Command::Restart(Slot(0)),
            254 if which > 64 => Command::Stop,
            254 => Command::Interrupt,
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
        if self.left {
            // Whoever waits asks the next one.
            return Ok(());
        }
        if let Some((command, words)) = self.answers.iter().find(|(_, words)| **words != 1) {
            return Err(self.fail(&format!("P6: command {} has heard {words} last words", command.0)));
        }
        if self.ended {
            return Ok(());
        }
        // What serves grows older, and nothing else runs.
        if let Some(timer) = self.armed.iter().find(|t| !matches!(t, Timer::Age(_))) {
            return Err(self.fail(&format!("P8: at rest, and {timer} runs")));
        }
        let known_good = self.mind.known_good();
        let fallback =
            self.mind.workers().any(|(_, w)| w.code.phase == known_good.phase && w.code.release != known_good.release);
        let rests = match self.mind.state() {
            State::Steady | State::Held => true,
            State::Degraded => fallback || self.mind.fell_back(),
            _ => false,
        };
        if !rests || self.alive.len() != self.mind.slots().count() {
            return Err(self.fail(&format!("at rest it is {}", self.mind.state().as_str())));
        }
        Ok(())
    }
}

fn settings() -> impl Strategy<Value = Settings> {
    let surge = prop_oneof![(1u32..=9).prop_map(Surge::Count), (1u32..=100).prop_map(Surge::Percent)];
    let budget = prop_oneof![(surge, 0u32..=2), (Just(Surge::Count(0)), 1u32..=3)];
    let seldom = || prop::bool::weighted(0.3);
    let maybe = || prop::option::weighted(0.3, Just(Duration::from_secs(60)));
    let alone = prop::bool::weighted(0.05);
    let more = (seldom(), seldom(), seldom(), seldom(), prop_oneof![Just(0), 0u32..=3], maybe(), maybe(), alone);
    (1u32..=8, budget, prop_oneof![Just(0u64), Just(5)], more).prop_map(|(workers, budget, soak, more)| {
        let (rehearse, before_rollout, on_promote, on_failure, canary, confirm_within, max_age, no_orphans) = more;
        Settings {
            workers,
            surge: budget.0,
            max_unavailable: budget.1,
            soak: Duration::from_secs(soak),
            rehearse,
            before_rollout,
            on_promote,
            on_failure,
            canary,
            confirm_within,
            max_age,
            no_orphans,
            ..Settings::default()
        }
    })
}

fn openings() -> impl Strategy<Value = Opening> {
    let release = || (0u32..5).prop_map(ReleaseId);
    let some = || prop::collection::vec(release(), 0..3);
    let of = |release: Option<ReleaseId>, phase| release.map(|r| format!("{r}@{phase} "));
    let what = (prop::option::weighted(0.9, release()), prop::option::weighted(0.2, release()), any::<u8>());
    (what, prop::option::weighted(0.2, release()), some(), some(), prop::option::weighted(0.9, release()), some())
        .prop_map(move |((good, held, kind), run, previous, refused, dir, gone)| {
            let mut text = String::new();
            text += &of(good, 3).map_or_else(String::new, |code| format!("known-good={code}"));
            text += &of(held.filter(|h| Some(*h) != good), 4).map_or_else(String::new, |code| format!("held={code}"));
            let kind = ["phased-restart", "rollback", "restart"][usize::from(kind % 3)];
            text += &of(run, 5).map_or_else(String::new, |code| format!("{kind}=7@{code}"));
            for release in previous.iter().filter(|p| Some(**p) != good) {
                text += &format!("previous={release} ");
            }
            for release in refused.iter().filter(|r| Some(**r) != good) {
                text += &format!("refused={release} ");
            }
            let back = previous.last().filter(|back| good.is_some() && Some(**back) != good && gone.len() > 1);
            text += &back.map_or_else(String::new, |back| format!("pending={back}@60s "));
            let memory = (text + "next=6/8").parse().expect("a memory");
            // What is gone cannot be named.
            Opening { memory, dir: dir.filter(|d| !gone.contains(d)), gone }
        })
}

fn from_environment(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

fn cases() -> u32 {
    from_environment("PROPTEST_CASES").map_or(1000, |cases| cases as u32)
}

fn seed() -> RngSeed {
    RngSeed::Fixed(from_environment("PROPTEST_RNG_SEED").unwrap_or(1))
}

proptest! {
    // The same runs every time, so that a change is judged by what it changes; PROPTEST_RNG_SEED gives others.
    #![proptest_config(Config { cases: cases(), failure_persistence: None, rng_seed: seed(), ..Config::default() })]

    #[test]
    fn whatever_happens_it_comes_to_rest(
        settings in settings(),
        opening in prop::option::weighted(0.3, openings()),
        draws in prop::collection::vec(any::<Draw>(), 0..600),
    ) {
        let Some(mut world) = World::new(&settings, opening.as_ref()) else { return Ok(()) };
        world.hear(&Event::Start)?;
        for draw in draws {
            if world.ended && !world.left {
                break;
            }
            if world.left || draw.0 == 253 {
                if !world.die(draw)? {
                    return Ok(());
                }
                continue;
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
