//! Workers that fall silent, grow too large or too old are replaced.

use nix::sys::signal::Signal;
use proto::control::Stats;
use tests::master::{all_on, app_pid, doing, name_of, refused};
use tests::{Load, Master, Site, process};

/// Two workers of 41 with this script and these options.
fn steady<'a>(site: &'a Site, script: &str, options: &[&str]) -> Master<'a> {
    site.release("41", script);
    site.deploy("41");
    let master = site.master().workers(2).options(options).start();
    master.until_state("steady");
    master
}

/// Waits until a slot's only worker is another, ready one.
fn until_replaced(master: &Master<'_>, slot: u32, old: i32) -> Stats {
    master.until(&format!("slot {slot} is replaced"), |stats| {
        let of: Vec<_> = stats.worker_status.iter().filter(|worker| worker.index.0 == slot).collect();
        matches!(of[..], [one] if one.booted && app_pid(one) != Some(old))
    })
}

#[test]
fn an_app_that_falls_silent_is_replaced_and_one_that_does_not_lives() {
    let site = Site::new();
    let master = steady(&site, "slot 0 watchdog\nslot 1 watchdog-until silent\nrecord app", &["--watchdog", "2s"]);
    for record in site.records("app") {
        assert_eq!(record["env"]["WATCHDOG_USEC"], "2000000");
    }
    let old = master.app_pids();
    site.arrival("silent").open();
    let stats = until_replaced(&master, 1, old[1]);
    assert_eq!(app_pid(&stats.worker_status[0]), Some(old[0]));
    let last = stats.worker_status[1].last_exit.clone().expect("an end");
    assert_eq!(last, "it said no WATCHDOG=1 for 2s: killed by SIGABRT");
    assert_eq!((stats.state.as_str(), stats.worker_status[1].crashes), ("steady", 1), "one crash changes no state");
    master.until_log("it said no WATCHDOG=1 for 2s");
    let said = master.ctl(&["report"]).expect(0);
    assert!(said.stdout.contains("it said no WATCHDOG=1 for 2s: killed by SIGABRT"), "{}", said.stdout);
    // The one that took its place feeds the watchdog, and nobody else has gone.
    assert_eq!(site.boots("41"), 3);
}

#[test]
fn one_that_is_deaf_to_abrt_is_killed() {
    let site = Site::new();
    let master = steady(
        &site,
        "slot 0 watchdog\nslot 1 starts 2 ignore ABRT\nslot 1 watchdog-until silent",
        &["--watchdog", "1s"],
    );
    let old = master.app_pids();
    site.arrival("silent").open();
    let stats = until_replaced(&master, 1, old[1]);
    let last = stats.worker_status[1].last_exit.clone().expect("an end");
    assert_eq!(last, "it said no WATCHDOG=1 for 1s: killed by SIGKILL");
    assert!(process::look(old[1]).is_none());
}

#[test]
fn a_candidate_that_never_says_it_lives_is_refused() {
    let site = Site::new();
    let master = steady(&site, "watchdog", &["--watchdog", "2s"]);
    let old = master.app_pids();
    site.release("42", "");
    site.deploy("42");
    let said = master.ctl(&["phased-restart", "--soak", "10m"]).expect(3);
    assert!(said.stderr.contains("stage soak: it said no WATCHDOG=1 for 2s: killed by SIGABRT"), "{}", said.stderr);
    let stats = master.stats();
    assert!(all_on(&stats, "41") && stats.state == "steady", "{stats:#?}");
    assert_eq!(refused(&stats), ["42"]);
    assert!(master.app_pids() != old);
}

#[test]
fn an_app_that_grows_is_replaced_by_one_that_is_ready_before() {
    let site = Site::new();
    let master = steady(&site, "slot 1 grow-gate grow 200", &["--max-memory", "100M"]);
    let old = master.app_pids();
    let load = Load::start(&master.address());
    site.gates().reset_most();
    site.release("41", "slot 1 gate boot");
    site.arrival("grow").open();
    let booting = site.arrival("boot");
    let stats = master.stats();
    assert_eq!((stats.state.as_str(), stats.booted_workers, stats.rollout.as_ref()), ("steady", 2, None));
    assert_eq!(master.app_pids(), old, "the old one serves until the new one is ready");
    booting.open();
    let stats = until_replaced(&master, 1, old[1]);
    assert_eq!(app_pid(&stats.worker_status[0]), Some(old[0]));
    assert_eq!(
        (stats.worker_status[1].crashes, stats.last_rollout.as_ref()),
        (0, None),
        "it is no crash, and no rollout"
    );
    let line = master.until_log("replacing its worker");
    assert!(line.contains("slot 1") && line.contains("MiB"), "{line}");
    load.more(20);
    load.finish();
    assert!(site.gates().most() <= 3, "P3: {} lived at once", site.gates().most());
    assert!(site.fewest_serving(2) >= 2, "P2: {:#?}", site.history());
}

#[test]
fn every_app_of_an_age_is_replaced_one_at_a_time() {
    let site = Site::new();
    let master = steady(&site, "", &["--max-age", "700ms"]);
    let old = master.app_pids();
    let load = Load::start(&master.address());
    site.gates().reset_most();
    let (first, second) = (until_replaced(&master, 0, old[0]), until_replaced(&master, 1, old[1]));
    let again = [app_pid(&first.worker_status[0]), second.worker_status.last().and_then(app_pid)];
    until_replaced(&master, 0, again[0].expect("a pid"));
    until_replaced(&master, 1, again[1].expect("a pid"));
    assert!(master.until_log("replacing its worker").contains("it has served for its time"));
    load.more(20);
    load.finish();
    assert_eq!(site.gates().most(), 3, "P3, and one at a time");
    assert!(site.fewest_serving(2) >= 2, "P2: {:#?}", site.history());
    assert_eq!(name_of(&master.stats().release), "41");
}

#[test]
fn without_a_surge_the_old_one_goes_first_as_far_as_it_may() {
    let site = Site::new();
    let options = ["--max-memory", "100M", "--surge", "0", "--max-unavailable", "1"];
    let master = steady(&site, "slot 1 grow-gate grow 200", &options);
    let old = master.app_pids();
    site.gates().reset_most();
    site.release("41", "");
    site.arrival("grow").open();
    let stats = until_replaced(&master, 1, old[1]);
    assert_eq!(app_pid(&stats.worker_status[0]), Some(old[0]));
    assert!(site.gates().most() <= 2, "P3: {} lived at once", site.gates().most());
    assert!(site.fewest_serving(2) >= 1, "P2: {:#?}", site.history());
}

#[test]
fn a_rollout_cancels_it() {
    let site = Site::new();
    // Whatever would end the replacement otherwise comes too late.
    let options = ["--max-memory", "100M", "--boot-timeout", "10m"];
    let master = steady(&site, "slot 1 grow-gate grow 200", &options);
    let load = Load::start(&master.address());
    site.gates().reset_most();
    site.release("41", "slot 1 gate boot");
    site.arrival("grow").open();
    let replacement = site.arrival("boot");
    site.release("42", "");
    let said = master.roll("42").expect(0);
    site.until_ended(replacement.app.pid);
    assert!(all_on(&master.stats(), "42"), "{}", said.stdout);
    load.more(20);
    load.finish();
    assert!(site.gates().most() <= 3, "P3: {} lived at once", site.gates().most());
    assert!(site.fewest_serving(2) >= 2, "P2: {:#?}", site.history());
}

#[test]
fn it_waits_until_a_rollout_is_over() {
    let site = Site::new();
    let master = steady(&site, "grow-gate grow 200", &["--max-memory", "100M"]);
    let old = master.app_pids();
    site.release("42", "gate boot\nexit 1");
    site.deploy("42");
    let ctl = master.ctl_start(&["phased-restart"]);
    let booting = site.arrival("boot");
    let seen = master.trace().len();
    site.arrival("grow").open();
    site.arrival("grow").open();
    let first = master.until_step(seen, "one is too large", |step| step.starts_with("> outgrown"));
    master.until_step(first + 1, "and the other", |step| step.starts_with("> outgrown"));
    assert_eq!((doing(&master.stats()), master.app_pids()), ("rolling", old.clone()));
    site.release("41", "");
    booting.open();
    ctl.end().expect(3);
    until_replaced(&master, 0, old[0]);
    until_replaced(&master, 1, old[1]);
    assert!(all_on(&master.stats(), "41"));
}

#[test]
fn a_replacement_that_does_not_boot_costs_nothing() {
    let site = Site::new();
    let master = steady(&site, "slot 1 grow-gate grow 200", &["--max-memory", "100M"]);
    let old = master.app_pids();
    site.release("41", "eprint no disk\nexit 1");
    site.arrival("grow").open();
    let line = master.until_log("the old worker stays");
    assert!(line.contains("slot 1") && line.contains("exited with status 1") && line.contains("next try in"), "{line}");
    let stats = master.until("it has left", |stats| stats.worker_status.len() == 2);
    assert_eq!((stats.state.as_str(), master.app_pids()), ("steady", old));
    let said = master.ctl(&["report"]).expect(0);
    assert!(said.stdout.contains("no disk"), "{}", said.stdout);
}

#[test]
fn a_crash_meanwhile_is_an_ordinary_one() {
    let site = Site::new();
    let master = steady(&site, "slot 1 grow-gate grow 200", &["--max-memory", "100M"]);
    let old = master.app_pids();
    site.gates().reset_most();
    site.release("41", "slot 1 gate boot");
    site.arrival("grow").open();
    let replacement = site.arrival("boot");
    // Both of slot 1's, the old one first.
    process::signal(old[1], Signal::SIGKILL);
    master.until("the old one is gone", |stats| stats.booted_workers == 1);
    replacement.open();
    site.open("boot");
    let stats = until_replaced(&master, 1, old[1]);
    assert_eq!((stats.booted_workers, stats.state.as_str()), (2, "steady"));
    assert!(site.gates().most() <= 3, "P3: {} lived at once", site.gates().most());
}

#[test]
fn what_is_held_is_not_replaced() {
    let site = Site::new();
    let master = steady(&site, "", &["--max-memory", "100M"]);
    site.release("42", "slot 1 grow-gate grow 200");
    site.deploy("42");
    master.ctl(&["phased-restart", "--hold"]).expect(0);
    let held = master.app_pids();
    let seen = master.trace().len();
    site.arrival("grow").open();
    // A respawn would be known-good code: a worker of the held release stays, however large.
    let at = master.until_step(seen, "it is too large", |step| step.starts_with("> outgrown"));
    assert!(!master.trace().all()[at].contains("spawn"), "{}", master.trace().all()[at]);
    assert_eq!(master.app_pids(), held);
    site.release("42", "");
    master.ctl(&["reload-dir"]).expect(0);
    until_replaced(&master, 1, held[1]);
    assert!(all_on(&master.stats(), "42"));
}
