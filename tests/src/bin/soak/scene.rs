//! The soak from its start to its end: what is at work, what has to be true behind every action, and the sum of it all.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use proto::control::Stats;
use tests::http::{Address, get};
use tests::master::{name_of, release_name};
use tests::process;
use tests::show::Place;

use crate::acts::Acts;
use crate::chance::Chance;
use crate::clients::{Clients, tcp};
use crate::figures::{Sum, sample};
use crate::keep::{keep, tail};
use crate::lead::Lead;

/// Slots at the start and at the end.
const WORKERS: u32 = 3;
/// Clients of each kind.
const CLIENTS: usize = 4;
/// Answers behind every action.
const ANSWERS: u64 = 60;
/// What an answer may take without a word about it.
const SLOW: Duration = Duration::from_millis(500);
/// The master's options.
const OPTIONS: [&str; 8] = ["--workers", "3", "--soak", "100ms", "--check", "http:/health", "--check-timeout", "300ms"];

/// How long it goes on.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Length {
    /// So many actions.
    Actions(u64),
    /// So long, and then to the end of an action.
    Time(Duration),
}

/// What is at work, and what has to be true of it.
pub(crate) struct Scene {
    // The first to end.
    pub(crate) clients: Clients,
    pub(crate) lead: Lead,
    pub(crate) place: Place,
    pub(crate) chance: Chance,
    pub(crate) acts: Acts,
    /// The known-good release.
    pub(crate) good: String,
    /// The known-good ones before it.
    pub(crate) older: Vec<String>,
    /// The held one.
    pub(crate) held: Option<String>,
    /// How many slots.
    pub(crate) workers: u32,
    /// The number of the last release.
    releases: u64,
    address: Address,
    seed: u64,
}

/// Runs a soak and prints its sum; whether everything was as it has to be.
///
/// # Errors
/// When something was not, and it could not go on.
pub(crate) fn play(length: Length, seed: u64) -> Result<bool> {
    println!("seed {seed}");
    let begun = Instant::now();
    let mut scene = Scene::begin(Place::new("soak-")?, seed)?;
    let result = scene.run(length, begun);
    if !matches!(result, Ok(true)) {
        tests::show::place::unless_ending();
        scene.complain();
    }
    if !matches!(result, Ok(true)) || std::env::var_os("SOAK_KEEP").is_some() {
        match keep(scene.place.root(), seed, scene.acts.all()) {
            Ok(kept) => println!("actions, log, traces and state are in {}", kept.display()),
            Err(error) => println!("nothing could be kept: {error}"),
        }
    }
    result
}

impl Scene {
    fn begin(place: Place, seed: u64) -> Result<Self> {
        place.release("good-0", &[("version", "good-0\n")])?;
        place.deploy("good-0")?;
        let mut lead = Lead::new(place.root(), &OPTIONS);
        lead.start()?;
        let listeners = lead.stats()?.listeners;
        let address = &listeners.first().context("no listener")?.address;
        let clients = Clients::start(tcp(address)?, CLIENTS);
        let address = address.parse()?;
        let good = "good-0".to_owned();
        let (chance, acts, older) = (Chance::new(seed), Acts::default(), Vec::new());
        Ok(Self {
            clients,
            lead,
            place,
            chance,
            acts,
            good,
            older,
            held: None,
            workers: WORKERS,
            releases: 0,
            address,
            seed,
        })
    }

    fn run(&mut self, length: Length, begun: Instant) -> Result<bool> {
        self.settle()?;
        println!("in {}", self.place.root().display());
        let at_start = sample(&self.lead, None)?;
        loop {
            let over = match length {
                Length::Actions(number) => self.acts.count() >= number,
                Length::Time(time) => begun.elapsed() >= time,
            };
            if over {
                break;
            }
            self.act().with_context(|| format!("action {} of seed {}", self.acts.count(), self.seed))?;
            self.settle().with_context(|| format!("behind action {} of seed {}", self.acts.count(), self.seed))?;
        }
        if self.workers != WORKERS {
            self.scale(WORKERS)?;
            self.settle()?;
        }
        // The workers of the start were children of their master, and not adopted.
        self.good_release()?;
        self.settle()?;
        let at_end = sample(&self.lead, Some(&at_start))?;
        let tally = std::mem::take(&mut self.clients).finish();
        self.lead.ctl(&["stop"], &[0])?;
        ensure!(self.lead.ended()?, "the master that was stopped has failed");
        let left = process::of_site(self.place.root());
        let sockets = std::fs::read_dir(self.place.root().join("run/soak.sock.d")).map_or(0, Iterator::count);
        if !left.is_empty() {
            println!("left over:\n{}", process::table(&left));
        }
        let sum = Sum { seed: self.seed, took: begun.elapsed(), tally, at_start, at_end, left: left.len(), sockets };
        print!("{}", sum.table(&self.acts));
        Ok(sum.is_well())
    }

    /// Makes a release of this kind, and lets `current` name it.
    pub(crate) fn deploy(&mut self, kind: &str, files: &[(&str, &str)]) -> Result<String> {
        self.releases += 1;
        self.clients.expect(self.releases);
        let name = format!("{kind}-{}", self.releases);
        let version = format!("{name}\n");
        let files: Vec<(&str, &str)> = files.iter().copied().chain([("version", version.as_str())]).collect();
        self.place.release(&name, &files)?;
        self.place.deploy(&name)?;
        self.acts.note(&format!("current is {name}"));
        Ok(name)
    }

    /// A release was promoted.
    pub(crate) fn promoted(&mut self, name: String) {
        if self.good != name {
            self.older.push(std::mem::replace(&mut self.good, name));
        }
    }

    /// Waits until nothing goes on, demands that everything is as it has to be, and lets the clients meet it.
    pub(crate) fn settle(&mut self) -> Result<()> {
        let workers = self.workers;
        let all_ready = |stats: &Stats| {
            stats.worker_status.len() == workers as usize && stats.worker_status.iter().all(|w| w.state == "ready")
        };
        let state = if self.held.is_some() { "held" } else { "steady" };
        let what = format!("it is {state}, and all of {workers} are ready");
        let stats = self.lead.until(&what, |stats| stats.state == state && all_ready(stats))?;
        ensure!(stats.workers == workers, "{} workers instead of {workers}", stats.workers);
        let known_good = name_of(&stats.release);
        ensure!(known_good == self.good, "{known_good} is known-good instead of {}", self.good);
        // While a release is held, what crashes comes back as the known-good one.
        let serves = |name: &str| self.held.as_deref() == Some(name) || (self.held.is_none() && name == self.good);
        let may = |name: &str| serves(name) || (self.held.is_some() && name == self.good);
        for worker in &stats.worker_status {
            let name = release_name(worker);
            ensure!(may(&name), "slot {} runs {name}: {stats:#?}", worker.index);
        }
        self.clients.more(ANSWERS)?;
        let slowest = self.clients.forget();
        if slowest > SLOW {
            self.acts.slow(slowest);
        }
        for _ in 0..workers {
            let body = get(&self.address, "/")?;
            ensure!(body.strip_suffix('\n').is_some_and(may), "{body:?} answers, the state is {state}");
        }
        Ok(())
    }

    /// The release that is there when a rollout has ended by itself, which is `candidate` or the one before; whether it was
    /// promoted.
    pub(crate) fn learn(&mut self, candidate: String) -> Result<bool> {
        let stats = self.lead.until("the rollout is over", |stats| stats.state == "steady")?;
        let good = name_of(&stats.release);
        let promoted = good == candidate;
        if !promoted && good != self.good {
            bail!("{good} is known-good, neither {candidate} nor {}", self.good);
        }
        if promoted {
            self.promoted(candidate);
        }
        Ok(promoted)
    }

    fn complain(&self) {
        println!("the last actions:\n{}", self.acts.last(12).join("\n"));
        println!("the log's end:\n{}", tail(&self.place.root().join("log"), 40));
        println!("processes:\n{}", process::table(&process::of_site(self.place.root())));
        let tally = self.clients.tally();
        for failure in tally.failures.iter().take(20) {
            println!("failure: {failure}");
        }
    }
}
