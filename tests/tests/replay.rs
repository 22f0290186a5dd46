//! The event trace of a real master, replayed through the mind, gives the same actions; and every state on the way keeps
//! the promises (`rollout::invariant`).
//!
//! A subscriber hears what follows its subscription. The first release of each scenario waits at a gate, so that the
//! start itself is the one step before that; it is known (`start`).

use nix::sys::signal::Signal;
use rollout::{Event, ReleaseId, Rollout, Settings};
use tests::master::{all_on, app_pid};
use tests::{Master, Site, process};

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
