//! P1 to P4: a phased restart is a transaction.

use std::collections::BTreeMap;
use std::fs;

use nix::sys::signal::Signal;
use proto::control::{Reply, Request};
use tests::control::Control;
use tests::master::{all_on, app_pid, name_of, ready, release_name};
use tests::{Load, Master, Site, process};

const BROKEN: &str = "eprint ModuleNotFoundError: No module named 'flask_login'\nexit 1";

#[test]
fn a_good_release_is_promoted_without_losing_a_request() {
    let site = Site::new();
    let master = site.steady("41", "", 3);
    let old = master.app_pids();
    let load = Load::start(&master.address());
    load.more(50);
    site.gates().reset_most();
    site.release("42", "");
    master.roll("42").expect(0);
    load.until("42");
    load.more(50);
    load.finish();
    let stats = master.stats();
    assert!(all_on(&stats, "42"), "{stats:#?}");
    assert_eq!((stats.state.as_str(), stats.phase.0, stats.old_workers), ("steady", 1, 0));
    assert_eq!(name_of(&stats.release), "42");
    assert_eq!(stats.last_rollout.expect("a rollout").outcome, "promoted");
    assert!(master.app_pids().iter().all(|pid| !old.contains(pid)));
    assert!(site.fewest_serving(3) >= 3, "P2: {:#?}", site.history());
    assert!(site.gates().most() <= 4, "P3: {} lived at once", site.gates().most());
}

#[test]
fn a_release_that_does_not_boot_is_refused_and_costs_nothing() {
    let site = Site::new();
    let master = site.steady("41", "", 3);
    let old = master.app_pids();
    let load = Load::start(&master.address());
    load.more(20);
    site.release("42", BROKEN);
    master.roll("42").expect(3);
    load.more(20);
    let tally = load.finish();
    assert_eq!(tally.releases.keys().collect::<Vec<_>>(), ["41"]);
    let stats = master.stats();
    assert_eq!(master.app_pids(), old);
    assert_eq!((stats.state.as_str(), stats.phase.0, stats.old_workers), ("steady", 0, 0));
    assert_eq!(name_of(&stats.release), "41");
    assert_eq!(stats.last_rollout.expect("a rollout").outcome, "aborted");
    assert_eq!(site.boots("42"), 1, "no other worker tries what one could not boot");
}

#[test]
fn what_was_replaced_is_put_back_and_the_rest_is_not_touched() {
    for failing in 1..4 {
        let site = Site::new();
        let master = site.steady("41", "", 4);
        let old = master.app_pids();
        let load = Load::start(&master.address());
        load.more(20);
        site.gates().reset_most();
        site.release("42", &format!("slot {failing} exit 1"));
        master.roll("42").expect(3);
        load.more(20);
        load.finish();
        let stats = master.stats();
        assert!(all_on(&stats, "41"), "{stats:#?}");
        assert_eq!((stats.state.as_str(), stats.booted_workers, stats.old_workers), ("steady", 4, 0));
        let new = master.app_pids();
        for slot in 0..4 {
            assert_eq!(old[slot] == new[slot], slot >= failing, "slot {slot}, failing {failing}");
        }
        assert!(stats.worker_status.iter().all(|worker| worker.phase.0 == 0), "put back with the known-good phase");
        assert!(site.fewest_serving(4) >= 4, "P2: {:#?}", site.history());
        assert!(site.gates().most() <= 5, "P3: {} lived at once", site.gates().most());
    }
}

#[test]
fn slots_are_put_back_in_parallel_as_far_as_surge_allows() {
    let site = Site::new();
    site.release("41", "");
    site.deploy("41");
    let master = site.master().workers(4).options(&["--surge", "2"]).start();
    master.until_state("steady");
    site.gates().reset_most();
    // 42 takes slots 0 to 2 and fails in the last one; meanwhile 41 is made to wait at a gate when it boots again.
    site.release("42", "slot 3 gate fail\nslot 3 exit 1");
    site.deploy("42");
    let ctl = master.ctl_start(&["phased-restart"]);
    let last = site.arrival("fail");
    master.until("three slots are on 42", |stats| ready(stats).iter().filter(|(_, name)| name == "42").count() == 3);
    site.release("41", "gate back");
    last.open();
    let (one, two) = (site.arrival("back"), site.arrival("back"));
    assert_ne!(one.app.slot, two.app.slot);
    assert_eq!(master.stats().state, "rolling_back");
    assert_eq!(master.stats().booted_workers, 4, "P2: nothing is drained before its replacement is ready");
    one.open();
    two.open();
    site.open("back");
    ctl.end().expect(3);
    assert!(all_on(&master.stats(), "41"));
    assert!(site.gates().most() <= 6, "P3: {} lived at once", site.gates().most());
}

#[test]
fn a_retry_right_after_an_abort_works() {
    let site = Site::new();
    let master = site.steady("41", "", 2);
    site.release("42", BROKEN);
    master.roll("42").expect(3);
    // The same directory, mended.
    site.release("42", "");
    master.ctl(&["phased-restart"]).expect(0);
    assert!(all_on(&master.stats(), "42"));
    // Phases are never reused.
    assert_eq!(master.stats().phase.0, 2);
    site.release("43", BROKEN);
    master.roll("43").expect(3);
    site.release("44", "");
    master.roll("44").expect(0);
    assert!(all_on(&master.stats(), "44"));
}

#[test]
fn a_dir_that_cannot_be_resolved_changes_nothing() {
    let site = Site::new();
    let master = site.steady("41", "", 2);
    let before = master.stats();
    let old = master.app_pids();
    let file = site.root().join("file");
    fs::write(&file, "").expect("a file");
    for target in [site.root().join("releases/none"), file] {
        site.point(&target);
        for command in [["phased-restart"], ["reload-dir"]] {
            let said = master.ctl(&command).expect(1);
            assert!(said.stderr.contains(site.current().to_str().unwrap()), "{}", said.stderr);
        }
        let after = master.stats();
        assert_eq!(master.app_pids(), old);
        assert_eq!((&after.release, after.phase, &after.state), (&before.release, before.phase, &before.state));
        assert_eq!(after.last_rollout, None);
    }
    // And once it can be resolved again, all is as ever.
    site.release("42", "");
    master.roll("42").expect(0);
}

#[test]
fn a_symlink_that_moves_while_a_rollout_runs_changes_nothing() {
    let site = Site::new();
    let master = site.steady("41", "", 3);
    site.release("42", "gate boot");
    site.release("43", BROKEN);
    site.deploy("42");
    let ctl = master.ctl_start(&["phased-restart"]);
    site.arrival("boot").open();
    let second = site.arrival("boot");
    site.deploy("43");
    second.open();
    let third = site.arrival("boot");
    site.point(&site.root().join("releases/none"));
    third.open();
    ctl.end().expect(0);
    let stats = master.stats();
    assert!(all_on(&stats, "42"));
    assert_eq!((name_of(&stats.release).as_str(), stats.dir_target), ("42", None));
    assert_eq!(site.boots("43"), 0);
}

#[test]
fn surge_0_stops_one_and_then_starts_one() {
    let site = Site::new();
    site.release("41", "");
    site.deploy("41");
    let master = site.master().workers(3).options(&["--surge", "0", "--max-unavailable", "1"]).start();
    master.until_state("steady");
    site.gates().reset_most();
    let load = Load::start(&master.address());
    load.more(20);
    site.release("42", "");
    master.roll("42").expect(0);
    assert!(all_on(&master.stats(), "42"));
    assert!(site.gates().most() <= 3, "P3: {} lived at once", site.gates().most());
    assert!(site.fewest_serving(3) >= 2, "P2: {:#?}", site.history());
    // A broken one costs no more than the one slot, which is put back.
    site.release("43", BROKEN);
    master.roll("43").expect(3);
    assert!(all_on(&master.stats(), "42"));
    assert!(site.gates().most() <= 3, "P3: {} lived at once", site.gates().most());
    assert!(site.fewest_serving(3) >= 2, "P2: {:#?}", site.history());
    load.more(20);
    load.finish();
}

#[test]
fn surge_allows_as_many_at_once_and_no_more() {
    let site = Site::new();
    let master = site.steady("41", "", 3);
    site.gates().reset_most();
    site.release("42", "gate boot");
    site.deploy("42");
    let ctl = master.ctl_start(&["phased-restart", "--surge", "2"]);
    let (one, two) = (site.arrival("boot"), site.arrival("boot"));
    assert_eq!(master.stats().booted_workers, 3);
    assert!(site.gates().at("boot").is_empty());
    one.open();
    two.open();
    site.open("boot");
    ctl.end().expect(0);
    assert!(all_on(&master.stats(), "42"));
    assert_eq!(site.gates().most(), 5, "P3, and what is allowed is used");
    assert!(site.fewest_serving(3) >= 3, "P2: {:#?}", site.history());
}

#[test]
fn a_candidate_that_dies_in_the_soak_fails_the_rollout() {
    let site = Site::new();
    let master = site.steady("41", "", 2);
    site.release("42", "slot 1 die-gate die 7");
    site.deploy("42");
    let ctl = master.ctl_start(&["phased-restart", "--soak", "10m"]);
    let stats = master.until_state("soaking");
    assert_eq!(stats.booted_workers, 2);
    assert_eq!(name_of(&stats.release), "41", "not promoted before the soak is over");
    site.arrival("die").open();
    let said = ctl.end().expect(3);
    assert!(said.stderr.contains("slot 1, stage soak: exited with status 7"), "{}", said.stderr);
    assert!(all_on(&master.stats(), "41"));
}

#[test]
fn a_candidate_that_is_killed_fails_the_rollout() {
    for whole_worker in [false, true] {
        let site = Site::new();
        let master = site.steady("41", "", 2);
        site.release("42", "slot 1 gate boot");
        site.deploy("42");
        let ctl = master.ctl_start(&["phased-restart"]);
        let booting = site.arrival("boot");
        let slot = master.slot(0);
        assert_eq!(release_name(&slot[0]), "42");
        let victim = if whole_worker { slot[0].pid.map(|pid| pid as i32) } else { app_pid(&slot[0]) };
        process::signal(victim.expect("a pid"), Signal::SIGKILL);
        let said = ctl.end().expect(3);
        assert!(said.stderr.contains("slot 0, stage soak"), "{}", said.stderr);
        assert!(all_on(&master.stats(), "41"));
        site.until_alive(|alive| alive.iter().all(|app| app.release == "41"));
        drop(booting);
    }
}

#[test]
fn a_candidate_killed_while_it_boots_fails_the_rollout() {
    for whole_worker in [false, true] {
        let site = Site::new();
        let master = site.steady("41", "", 2);
        let old = master.app_pids();
        site.release("42", "gate boot");
        site.deploy("42");
        let ctl = master.ctl_start(&["phased-restart"]);
        let booting = site.arrival("boot");
        let stats = master.stats();
        let candidate = stats.worker_status.iter().find(|worker| release_name(worker) == "42").expect("a candidate");
        assert_eq!(candidate.state, "booting");
        let victim = if whole_worker { candidate.pid.expect("a pid") as i32 } else { booting.app.pid };
        process::signal(victim, Signal::SIGKILL);
        ctl.end().expect(3);
        assert_eq!(master.app_pids(), old);
        site.until_alive(|alive| alive.iter().all(|app| app.release == "41"));
        assert_eq!(site.boots("42"), 1);
    }
}

#[test]
fn an_old_worker_that_crashes_comes_back_as_known_good_and_the_rollout_goes_on() {
    let site = Site::new();
    let master = site.steady("41", "", 3);
    site.release("42", "gate boot");
    site.deploy("42");
    let ctl = master.ctl_start(&["phased-restart"]);
    let booting = site.arrival("boot");
    let victim = master.slot(2)[0].clone();
    process::signal(app_pid(&victim).expect("a pid"), Signal::SIGKILL);
    let stats = master.until("slot 2 is back", |stats| {
        stats
            .worker_status
            .iter()
            .any(|worker| worker.index.0 == 2 && worker.state == "ready" && worker.incarnation != victim.incarnation)
    });
    assert_eq!(ready(&stats).last().expect("slot 2").1, "41");
    booting.open();
    site.open("boot");
    ctl.end().expect(0);
    assert!(all_on(&master.stats(), "42"));
}

#[test]
fn at_full_speed_good_and_bad_lose_nothing() {
    for server in ["", "poll"] {
        let site = Site::new();
        let master = site.steady("0", server, 2);
        site.release("broken", &format!("{server}\nslot 1 exit 1"));
        let load = Load::full_speed(&master.address(), 2, 2);
        load.more(100);
        for n in 1..4 {
            let good = n.to_string();
            site.release(&good, server);
            master.roll(&good).expect(0);
            load.until(&good);
            master.roll("broken").expect(3);
            load.more(100);
        }
        load.finish();
        assert!(all_on(&master.stats(), "3"));
    }
}

/// The master's descriptors, once it has closed the connections of its clients: one whose request is answered is closed.
fn descriptors(master: &Master<'_>) -> BTreeMap<i32, String> {
    let mut client = Control::open(&master.site().socket()).expect("a client");
    client.send(&Request::Ping).expect("sent");
    assert_eq!(client.receive().expect("a reply"), Some(Reply::Pong));
    assert_eq!(client.receive().expect("the end"), None);
    process::descriptors(master.pid())
}

/// `$ROLLS` says how many.
#[test]
fn many_restarts_in_a_row_lose_nothing_and_leave_nothing() {
    let rolls: u32 = std::env::var("ROLLS").ok().and_then(|rolls| rolls.parse().ok()).unwrap_or(100);
    let site = Site::new();
    let master = site.steady("0", "", 2);
    site.release("broken", "children 2\nslot 1 exit 1");
    let load = Load::start(&master.address());
    load.more(20);
    let before = descriptors(&master);
    let mut good = String::from("0");
    for n in 1..=rolls {
        if n % 5 == 0 {
            master.roll("broken").expect(3);
        } else {
            good = n.to_string();
            site.release(&good, "");
            master.roll(&good).expect(0);
        }
    }
    load.until(&good);
    load.finish();
    let stats = master.stats();
    assert!(all_on(&stats, &good), "{stats:#?}");
    let after = descriptors(&master);
    assert_eq!(after.len(), before.len(), "{before:#?}\n{after:#?}");
    // A worker and its app for each slot, and nothing else, anywhere.
    let family = process::descendants(master.pid());
    assert_eq!(family.len(), 4, "{}", process::table(&family));
    let all = process::of_site(site.root());
    assert_eq!(all.len(), 5, "{}", process::table(&all));
}
