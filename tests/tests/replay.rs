//! The event trace of a real master, replayed through the mind, gives the same actions; and every state on the way keeps
//! the promises (`rollout::invariant`).
//!
//! A subscriber hears what follows its subscription. The first release of each scenario waits at a gate, so that the
//! start itself is the one step before that; it is known (`start`).

use nix::sys::signal::Signal;
use rollout::{Event, ReleaseId, Rollout, Settings};
use tests::binaries::hook;
use tests::master::{all_on, app_pid};
use tests::{Ctl, Load, Master, Site, process};

/// Replays a whole trace; how many steps it had.
fn replay(settings: &str, trace: &[String]) -> usize {
    let settings: Settings = settings.parse().expect("settings");
    let mut mind = Rollout::new(settings, ReleaseId(0));
    let mut started = Vec::new();
    mind.step(Event::Start, &mut started);
    for (at, block) in trace.iter().enumerate() {
        let mut event = None;
        let mut actions = Vec::new();
        for line in block.lines() {
            match (line.strip_prefix("> "), line.strip_prefix("< ")) {
                (Some(text), _) => event = Some(text.parse::<Event>().expect("an event")),
                (_, Some(text)) => actions.push(text.to_owned()),
                _ => panic!("step {at} has the line {line:?}"),
            }
        }
        let event = event.unwrap_or_else(|| panic!("step {at} has no event: {block}"));
        let before = mind.clone();
        let mut out = Vec::new();
        mind.step(event.clone(), &mut out);
        let replayed: Vec<_> = out.iter().map(ToString::to_string).collect();
        assert_eq!(actions, replayed, "step {at}: {event}");
        rollout::invariant::check(&before, &event, &out, &mind).unwrap_or_else(|broken| panic!("step {at}: {broken}"));
    }
    trace.len()
}

/// A master whose start is in the trace.
fn start<'a>(site: &'a Site, workers: u32, options: &[&str]) -> Master<'a> {
    site.release("41", "gate first");
    site.deploy("41");
    let master = site.master().workers(workers).options(options).start();
    site.open("first");
    master.until_state("steady");
    site.release("41", "");
    master
}

/// Stops the master and gives its whole trace.
fn stop(mut master: Master<'_>) -> Vec<String> {
    master.ctl(&["stop"]).expect(0);
    master.end();
    master.trace().wait_closed(master.site().deadline()).expect("the end of the trace");
    master.trace().all()
}

#[test]
fn good_and_bad_rollouts_and_crashes() {
    let site = Site::new();
    let master = start(&site, 3, &[]);
    site.release("42", "");
    master.roll("42").expect(0);
    site.release("43", "slot 2 exit 1");
    master.roll("43").expect(3);
    process::signal(master.app_pids()[0], Signal::SIGKILL);
    master.until("respawned", |stats| all_on(stats, "42") && stats.worker_status[0].crashes == 1);
    let worker = master.slot(1)[0].pid.expect("a pid") as i32;
    process::signal(worker, Signal::SIGKILL);
    master.until("respawned", |stats| all_on(stats, "42") && stats.worker_status[1].crashes == 1);
    master.ctl(&["rollback"]).expect(0);
    master.ctl(&["restart", "1"]).expect(0);
    master.ctl(&["scale", "+1"]).expect(0);
    master.ctl(&["scale", "-2"]).expect(0);
    let steps = replay("workers=3 surge=1 max-unavailable=0 soak=0s drain=30s boot=60s", &stop(master));
    assert!(steps > 30, "{steps} steps");
}

#[test]
fn holding_aborting_and_being_busy() {
    let site = Site::new();
    let master = start(&site, 2, &["--surge", "2", "--drain-timeout", "10s"]);
    site.release("42", "");
    site.deploy("42");
    master.ctl(&["phased-restart", "--hold"]).expect(0);
    site.release("43", "gate boot");
    site.deploy("43");
    let ctl = master.ctl_start(&["phased-restart"]);
    let _waiting = site.arrival("boot");
    master.ctl(&["scale", "5"]).expect(5);
    process::signal(app_pid(&master.slot(0)[0]).expect("a pid"), Signal::SIGKILL);
    master.ctl(&["abort"]).expect(0);
    let _ = ctl.end();
    master.until_state("held");
    master.ctl(&["reload-dir", site.release_dir("42").to_str().unwrap()]).expect(0);
    let steps = replay("workers=2 surge=2 max-unavailable=0 soak=0s drain=10s boot=60s", &stop(master));
    assert!(steps > 15, "{steps} steps");
}

#[test]
fn without_surge_and_degraded() {
    let site = Site::new();
    let master = start(&site, 2, &["--surge", "0", "--max-unavailable", "1"]);
    site.release("42", "");
    master.roll("42").expect(0);
    site.release("42", "exit 1");
    process::signal(master.app_pids()[1], Signal::SIGKILL);
    master.until_state("degraded");
    site.release("43", "slot 0 exit 1");
    master.roll("43").expect(4);
    site.release("44", "");
    master.roll("44").expect(0);
    let steps = replay("workers=2 surge=0 max-unavailable=1 soak=0s drain=30s boot=60s", &stop(master));
    assert!(steps > 20, "{steps} steps");
}

/// Options with everything that a release has to pass, and what the mind makes of them.
const TRUST: &str =
    "soak=0s drain=30s boot=60s checks=500ms rehearse before-rollout on-promote on-failure canary=1 canary-soak=1ms";

/// A master with these options whose start is in the trace: its first step is the end of the hook.
fn start_trusting<'a>(site: &'a Site, surge: u64) -> Master<'a> {
    site.release("41", "");
    site.hook_script("41", "migrate", "gate first");
    site.deploy("41");
    let (surge, migrate, promoted, failed) = (surge.to_string(), hook("migrate"), hook("promoted"), hook("failed"));
    let options =
        ["--surge", &surge, "--check", "http:/health", "--check-timeout", "500ms", "--before-rollout", &migrate];
    let hooks = ["--on-promote", &promoted, "--on-failure", &failed, "--canary", "1", "--canary-soak", "1ms"];
    let master = site.master().workers(3).options(&options).options(&hooks).start();
    site.open("first");
    master.until_state("steady");
    site.hook_script("41", "migrate", "");
    master
}

/// Releases that do not pass what 41 passes.
fn bad_ones(site: &Site) {
    site.release("sick", "health 500 no database");
    site.release("unmigrated", "");
    site.hook_script("unmigrated", "migrate", "exit 1");
    site.release("late", "live slot 1 exit 1");
}

#[test]
fn hooks_rehearsals_steps_and_second_thoughts() {
    let site = Site::new();
    let master = start_trusting(&site, 1);
    bad_ones(&site);
    for bad in ["sick", "unmigrated", "late"] {
        master.roll(bad).expect(3);
    }
    site.release("42", "live slot 1 gate boot");
    site.deploy("42");
    master.ctl(&["phased-restart", "--dir", site.release_dir("41").to_str().expect("a path")]).expect(0);
    let ctl = master.ctl_start(&["phased-restart", "--confirm-within", "10m"]);
    let booting = site.arrival("boot");
    let pause = master.ctl_start(&["pause"]);
    master.until_doing("paused");
    process::signal(app_pid(&master.slot(2)[0]).expect("a pid"), Signal::SIGKILL);
    booting.open();
    pause.end().expect(0);
    master.ctl(&["resume"]).expect(0);
    ctl.end().expect(0);
    master.ctl(&["confirm"]).expect(0);
    master.ctl(&["rehearse"]).expect(0);
    master.ctl(&["phased-restart", "--if-new"]).expect(0);
    site.release("43", "");
    site.deploy("43");
    let seen = master.trace().len();
    master.ctl(&["phased-restart", "--no-rehearse", "--confirm-within", "1ms"]).expect(0);
    master.until_step(seen, "nobody confirms", |step| step.starts_with("> fired confirm"));
    site.open("boot");
    let stats = master.until("it is rolled back", |stats| {
        stats.rollout.is_none() && stats.last_rollout.as_ref().is_some_and(|last| last.kind == "rollback")
    });
    assert!(all_on(&stats, "42"), "{stats:#?}");
    let steps = replay(&format!("workers=3 surge=1 max-unavailable=0 {TRUST}"), &stop(master));
    assert!(steps > 60, "{steps} steps");
}

#[test]
fn ages_and_sizes() {
    let site = Site::new();
    let master = start(&site, 2, &["--max-age", "500ms", "--max-memory", "100M"]);
    let seen = master.trace().len();
    site.release("41", "grow-gate grow 200");
    let recycled = |from| master.until_step(from, "one is replaced", |step| step.contains("< note recycling"));
    let second = recycled(recycled(seen) + 1);
    site.arrival("grow").open();
    let outgrown = master.until_step(second, "one is too large", |step| step.starts_with("> outgrown"));
    recycled(outgrown);
    site.release("42", "");
    master.roll("42").expect(0);
    let steps = replay("workers=2 surge=1 max-unavailable=0 soak=0s drain=30s boot=60s max-age=500ms", &stop(master));
    assert!(steps > 20, "{steps} steps");
}

/// The same numbers for the same seed (xorshift).
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % limit
    }
}

/// Whatever is ordered while workers are killed at any moment: no request fails, no promise is broken on the way, and
/// in the end everything is as it should be, with nothing left over. `$SEED` tries another course.
#[test]
fn random_courses() {
    for seed in seeds() {
        random_course(seed, false);
    }
}

/// The same with hooks, checks, rehearsals, canaries, pauses and windows to confirm; and nobody ever sees a release that fails
/// its hook or its check.
#[test]
fn random_courses_with_trust() {
    for seed in seeds() {
        random_course(seed, true);
    }
}

fn seeds() -> Vec<u64> {
    std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).map_or(vec![1, 2, 3], |seed| vec![seed])
}

fn random_course(seed: u64, trust: bool) {
    println!("seed {seed}");
    let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let site = Site::new();
    let surge = 1 + dice.below(2);
    let master = if trust { start_trusting(&site, surge) } else { start(&site, 3, &["--surge", &surge.to_string()]) };
    let load = Load::start(&master.address());
    for name in ["42", "43"] {
        site.release(name, "");
    }
    site.release("broken", "slot 0 exit 1\nslot 1 exit 1");
    bad_ones(&site);
    let mut orders: Vec<&[&str]> = vec![
        &["phased-restart"],
        &["phased-restart"],
        &["phased-restart", "--hold"],
        &["phased-restart", "--surge", "0", "--max-unavailable", "1"],
        &["restart", "1"],
        &["rollback"],
        &["scale", "+1"],
        &["scale", "3"],
    ];
    let mut releases = vec!["41", "42", "43", "broken"];
    if trust {
        orders.extend([
            &["phased-restart", "--confirm-within", "50ms"][..],
            &["phased-restart", "--canary", "2", "--canary-soak", "50ms"],
            &["phased-restart", "--if-new", "--surge", "50%"],
            &["rehearse"],
            &["confirm"],
        ]);
        releases.extend(["42", "43", "sick", "unmigrated", "late"]);
    }
    for _ in 0..12 {
        site.deploy(releases[dice.below(releases.len() as u64) as usize]);
        let order = orders[dice.below(orders.len() as u64) as usize];
        println!("{order:?} to {:?}", std::fs::read_link(site.current()).expect("a symlink"));
        let seen = master.trace().len();
        let ctl = master.ctl_start(order);
        if dice.below(2) == 0 {
            // The command itself is a step, whatever comes of it.
            master.until_step(seen, "the command", |step| step.starts_with("> command"));
        }
        let pause = (trust && dice.below(3) == 0).then(|| master.ctl_start(&["pause"]));
        for _ in 0..dice.below(3) {
            kill_a_worker(&master, &mut dice);
        }
        if let Some(pause) = pause {
            finish(pause);
            finish(master.ctl_start(&["resume"]));
        }
        if dice.below(4) == 0 {
            let code = master.ctl(&["abort"]).code.expect("an exit code");
            assert!(matches!(code, 0 | 1 | 4), "abort: {code}");
        }
        finish(ctl);
        master.until("every slot is filled", |stats| stats.rollout.is_none() && stats.booted_workers == stats.workers);
    }
    // A window may be open, or just have ended.
    finish(master.ctl_start(&["confirm"]));
    master.until("nothing runs", |stats| stats.rollout.is_none());
    if master.stats().state == "held" {
        master.ctl(&["rollback"]).expect(0);
    }
    master.until_state("steady");
    let good = tests::master::name_of(&master.stats().release);
    // What `reload-dir` or a put-back left for later is brought about by one more restart.
    site.deploy(&good);
    master.ctl(&["phased-restart"]).expect(0);
    let stats = master.until("nothing but the known-good release", |stats| all_on(stats, &good));
    load.more(20);
    let tally = load.finish();
    if trust {
        for bad in ["sick", "unmigrated"] {
            assert_eq!(tally.releases.get(bad), None, "answers by {bad}");
        }
    }
    // (A hook may just be ending.)
    let family = || process::descendants(master.pid());
    master.until("no hook runs", |_| !trust || family().len() == 2 * stats.workers as usize);
    let family = family();
    assert_eq!(family.len(), 2 * stats.workers as usize, "{}", process::table(&family));
    let settings = if trust { TRUST } else { "soak=0s drain=30s boot=60s" };
    replay(&format!("workers=3 surge={surge} max-unavailable=0 {settings}"), &stop(master));
}

fn kill_a_worker(master: &Master<'_>, dice: &mut Dice) {
    let workers: Vec<_> = master.stats().worker_status.into_iter().filter_map(|worker| worker.pid).collect();
    if !workers.is_empty() {
        let victim = workers[dice.below(workers.len() as u64) as usize];
        println!("kill {victim}");
        process::signal(victim as i32, Signal::SIGKILL);
    }
}

fn finish(ctl: Ctl) {
    let said = ctl.end();
    println!("{:?} {}", said.code, said.stderr);
    assert!(matches!(said.code, Some(0 | 1 | 3 | 4 | 5)), "{said:?}");
}
