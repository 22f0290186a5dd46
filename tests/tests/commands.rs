//! The table of transitions of the contract, row by row, and what each command says.

use std::fs;

use nix::sys::signal::Signal;
use tests::master::{all_on, app_pid, name_of, ready};
use tests::{Load, Site, process};

const BROKEN: &str = "eprint broken\nexit 1";

#[test]
fn a_second_rollout_and_most_commands_are_busy() {
    let site = Site::new();
    let master = site.steady("41", "", 2);
    site.release("42", "gate boot");
    site.deploy("42");
    let ctl = master.ctl_start(&["phased-restart"]);
    let waiting = site.arrival("boot");
    for args in [&["phased-restart"][..], &["reload-dir"], &["rollback"], &["restart", "0"], &["scale", "+1"]] {
        let said = master.ctl(args).expect(5);
        assert!(said.stderr.contains(site.release_dir("42").to_str().unwrap()), "names what runs: {}", said.stderr);
    }
    waiting.open();
    site.open("boot");
    ctl.end().expect(0);
    assert!(all_on(&master.stats(), "42"));
}

#[test]
fn commands_are_busy_during_the_first_start_and_stop_is_not() {
    let site = Site::new();
    site.release("41", "gate boot");
    site.deploy("41");
    let mut master = site.master().start();
    let waiting = site.arrival("boot");
    assert_eq!(master.stats().state, "booting");
    master.ctl(&["status"]).expect(5);
    for args in [&["phased-restart"][..], &["reload-dir"], &["rollback"], &["restart", "0"], &["scale", "+1"]] {
        master.ctl(args).expect(5);
    }
    drop(waiting);
    master.ctl(&["stop"]).expect(0);
    assert_eq!(master.end().code(), Some(0));
}

#[test]
fn stop_during_a_rollout_puts_nothing_back() {
    let site = Site::new();
    let mut master = site.steady("41", "", 2);
    site.release("42", "slot 1 gate boot");
    site.deploy("42");
    let ctl = master.ctl_start(&["phased-restart"]);
    let _waiting = site.arrival("boot");
    let boots = site.boots("41");
    master.ctl(&["stop"]).expect(0);
    let said = ctl.end().expect(1);
    assert!(said.stderr.contains("master stopped"), "{}", said.stderr);
    assert_eq!(master.end().code(), Some(0));
    assert_eq!(site.boots("41"), boots);
    assert!(process::of_site(site.root()).is_empty());
}

#[test]
fn halt_ends_what_would_not_finish() {
    let site = Site::new();
    let mut master = site.steady("41", "drain-gate never", 2);
    let stop = master.ctl_start(&["stop"]);
    let _one = site.arrival("never");
    assert_eq!(master.stats().state, "stopping");
    master.ctl(&["phased-restart"]).expect(1);
    master.ctl(&["halt"]).expect(0);
    stop.end().expect(0);
    assert_eq!(master.end().code(), Some(0));
    assert!(process::of_site(site.root()).is_empty());
}

#[test]
fn abort_in_each_state() {
    let site = Site::new();
    let master = site.steady("41", "", 2);
    let nothing = master.ctl(&["abort"]).expect(1);
    assert!(nothing.stderr.contains("rollback"), "{}", nothing.stderr);

    // While a candidate boots: nothing to put back.
    site.release("42", "gate boot");
    site.deploy("42");
    let old = master.app_pids();
    let ctl = master.ctl_start(&["phased-restart"]);
    let waiting = site.arrival("boot");
    master.ctl(&["abort"]).expect(0);
    ctl.end().expect(3);
    assert_eq!(master.app_pids(), old);
    drop(waiting);

    // While soaking: every slot is put back. A second abort joins the first one's rollback.
    site.release("43", "");
    site.deploy("43");
    let ctl = master.ctl_start(&["phased-restart", "--soak", "10m"]);
    master.until_state("soaking");
    site.release("41", "gate back");
    let abort = master.ctl_start(&["abort"]);
    let back = site.arrival("back");
    assert_eq!(master.stats().state, "rolling_back");
    let second = master.ctl_start(&["abort"]);
    master.until_step(0, "the second abort", {
        let mut seen = 0;
        move |step| {
            seen += usize::from(step.contains(" abort"));
            seen >= 3
        }
    });
    back.open();
    site.open("back");
    abort.end().expect(0);
    second.end().expect(0);
    ctl.end().expect(3);
    let stats = master.stats();
    assert!(all_on(&stats, "41") && stats.state == "steady", "{stats:#?}");
}

#[test]
fn rollback_walks_back_and_never_forward() {
    let site = Site::new();
    let master = site.steady("41", "", 1);
    master.ctl(&["rollback"]).expect(1);
    for name in ["42", "43"] {
        site.release(name, "");
        master.roll(name).expect(0);
    }
    for wanted in ["42", "41"] {
        master.ctl(&["rollback"]).expect(0);
        let stats = master.stats();
        assert!(all_on(&stats, wanted) && name_of(&stats.release) == wanted, "{stats:#?}");
    }
    let phase = master.stats().phase.0;
    assert_eq!(phase, 4, "each takes the next number");
    master.ctl(&["rollback"]).expect(1);
    assert!(all_on(&master.stats(), "41"));
}

#[test]
fn rollback_to_a_directory_that_is_gone_fails() {
    let site = Site::new();
    let master = site.steady("41", "", 1);
    site.release("42", "");
    master.roll("42").expect(0);
    fs::remove_dir_all(site.release_dir("41")).expect("removed");
    let said = master.ctl(&["rollback"]).expect(1);
    assert!(said.stderr.contains(site.release_dir("41").to_str().unwrap()), "{}", said.stderr);
    assert!(all_on(&master.stats(), "42"));
}

#[test]
fn rollback_to_a_release_that_does_not_boot_any_more_is_refused() {
    let site = Site::new();
    let master = site.steady("41", "", 2);
    site.release("42", "");
    master.roll("42").expect(0);
    let pids = master.app_pids();
    site.release("41", BROKEN);
    master.ctl(&["rollback"]).expect(3);
    assert_eq!(master.app_pids(), pids);
    assert_eq!(name_of(&master.stats().release), "42");
}

#[test]
fn the_known_good_release_as_a_candidate() {
    let site = Site::new();
    let master = site.steady("41", "", 2);
    let old = master.app_pids();
    master.ctl(&["phased-restart"]).expect(0);
    let stats = master.stats();
    assert!(all_on(&stats, "41"));
    assert_eq!((stats.phase.0, stats.old_workers), (1, 0));
    assert!(master.app_pids().iter().all(|pid| !old.contains(pid)), "it runs normally");
    // --hold then promotes: there is nothing to hold.
    master.ctl(&["phased-restart", "--hold"]).expect(0);
    assert_eq!(master.stats().state, "steady");
    // Failing, it is not refused, and nothing needs putting back: the code is the same.
    site.release("41", "slot 1 exit 1");
    let boots = site.boots("41");
    master.ctl(&["phased-restart"]).expect(3);
    assert_eq!(site.boots("41"), boots + 2);
    site.release("41", "");
    process::signal(master.app_pids()[0], Signal::SIGKILL);
    master.until("the slot is back", |stats| all_on(stats, "41") && stats.worker_status[0].crashes == 1);
    master.ctl(&["phased-restart"]).expect(0);
}

#[test]
fn a_rollout_begun_while_held_is_aborted() {
    let site = Site::new();
    let master = site.steady("41", "", 3);
    site.release("42", "");
    site.deploy("42");
    master.ctl(&["phased-restart", "--hold"]).expect(0);
    site.release("43", "slot 1 exit 1");
    let said = master.roll("43").expect(3);
    for name in ["41", "42"] {
        assert!(said.stderr.contains(site.release_dir(name).to_str().unwrap()), "the mix: {}", said.stderr);
    }
    let stats = master.stats();
    assert_eq!(stats.state, "held");
    assert_eq!(ready(&stats), [(0, "41".into()), (1, "42".into()), (2, "42".into())]);
}

#[test]
fn reload_dir_while_held() {
    let site = Site::new();
    let master = site.steady("41", "", 1);
    for name in ["42", "43"] {
        site.release(name, "");
    }
    site.deploy("42");
    master.ctl(&["phased-restart", "--hold"]).expect(0);
    site.deploy("43");
    let said = master.ctl(&["reload-dir"]).expect(1);
    for name in ["42", "43"] {
        assert!(said.stderr.contains(site.release_dir(name).to_str().unwrap()), "names both: {}", said.stderr);
    }
    assert_eq!((master.stats().state.as_str(), name_of(&master.stats().release)), ("held", "41".into()));
    let held = site.release_dir("42");
    let said = master.ctl(&["reload-dir", held.to_str().unwrap()]).expect(0);
    for name in ["41", "42"] {
        assert!(said.stdout.contains(site.release_dir(name).to_str().unwrap()), "old and new: {}", said.stdout);
    }
    let stats = master.stats();
    assert_eq!((stats.state.as_str(), name_of(&stats.release).as_str()), ("steady", "42"));
    assert_eq!((stats.phase.0, stats.old_workers), (1, 0), "pinned with the held phase");
}

#[test]
fn reload_dir_when_steady_pins_and_restarts_nothing() {
    let site = Site::new();
    let master = site.steady("41", "", 2);
    let pids = master.app_pids();
    site.release("42", "");
    site.deploy("42");
    // The name that pull request 478 gave it.
    let said = master.ctl(&["reload-worker-directory"]).expect(0);
    for name in ["41", "42"] {
        assert!(said.stdout.contains(site.release_dir(name).to_str().unwrap()), "{}", said.stdout);
    }
    let stats = master.stats();
    assert_eq!(master.app_pids(), pids);
    assert_eq!((name_of(&stats.release).as_str(), stats.phase.0, stats.old_workers), ("42", 1, 2));
    process::signal(pids[0], Signal::SIGKILL);
    let stats = master.until("respawned", |stats| ready(stats) == [(0, "42".into()), (1, "41".into())]);
    assert_eq!((stats.old_workers, stats.worker_status[0].phase.0), (1, 1));
    // A relative DIR is the caller's, not the master's.
    let mut ctl = tests::ctl::command(&site.socket(), &["reload-dir", "releases/41"]);
    tests::Ctl::start(ctl.current_dir(site.root())).end().expect(0);
    assert_eq!(name_of(&master.stats().release), "41");
}

#[test]
fn another_dir_for_one_rollout() {
    let site = Site::new();
    let master = site.steady("41", "", 1);
    let other = site.release("42", "");
    master.ctl(&["phased-restart", "--dir", other.to_str().unwrap()]).expect(0);
    assert!(all_on(&master.stats(), "42"));
    master.ctl(&["phased-restart"]).expect(0);
    assert!(all_on(&master.stats(), "41"));
}

#[test]
fn scaling_takes_the_highest_index_and_has_limits() {
    let site = Site::new();
    let master = site.steady("41", "", 3);
    let pids = master.app_pids();
    let load = Load::start(&master.address());
    load.more(20);
    master.ctl(&["scale", "-1"]).expect(0);
    assert_eq!(master.app_pids(), pids[..2]);
    master.ctl(&["scale", "1"]).expect(0);
    assert_eq!(master.app_pids(), pids[..1]);
    for none in ["0", "-1"] {
        master.ctl(&["scale", none]).expect(1);
    }
    assert_eq!(master.app_pids(), pids[..1]);
    master.ctl(&["scale", "+2"]).expect(0);
    assert_eq!((master.stats().workers, master.stats().booted_workers), (3, 3));
    load.more(20);
    load.finish();
}

#[test]
fn scaling_down_is_refused_where_too_few_would_be_ready() {
    let site = Site::new();
    let master = site.steady("41", "", 3);
    // Slot 0 cannot be filled any more.
    site.release("41", "slot 0 exit 1");
    process::signal(app_pid(&master.slot(0)[0]).expect("a pid"), Signal::SIGKILL);
    master.until_state("degraded");
    let said = master.ctl(&["scale", "1"]).expect(1);
    assert!(said.stderr.contains("ready"), "{}", said.stderr);
    assert_eq!(master.stats().workers, 3);
    assert_eq!(master.stats().booted_workers, 2);
}

#[test]
fn restarting_a_slot() {
    let site = Site::new();
    let master = site.steady("41", "", 2);
    let pids = master.app_pids();
    // Known-good code, whatever current names.
    site.release("42", BROKEN);
    site.deploy("42");
    master.ctl(&["restart", "1"]).expect(0);
    let new = master.app_pids();
    assert_eq!(new[0], pids[0]);
    assert_ne!(new[1], pids[1]);
    assert!(all_on(&master.stats(), "41"));
    assert_eq!(master.stats().phase.0, 0);
    // The new one fails: the old one stays.
    site.release("41", BROKEN);
    let said = master.ctl(&["restart", "1"]).expect(3);
    assert!(said.stderr.contains("broken"), "{}", said.stderr);
    assert_eq!(master.app_pids(), new);
    assert_eq!(master.stats().state, "steady");
    master.ctl(&["restart", "2"]).expect(1);
    assert!(site.fewest_serving(2) >= 2);
}

#[test]
fn with_surge_0_an_empty_slot_is_the_next_one() {
    let site = Site::new();
    site.release("41", "");
    site.deploy("41");
    let master = site.master().workers(3).options(&["--surge", "0", "--max-unavailable", "1"]).start();
    master.until_state("steady");
    // Slot 2 is in backoff: the whole of what may be unavailable.
    site.release("41", "slot 2 exit 1");
    process::signal(master.app_pids()[2], Signal::SIGKILL);
    master.until("slot 2 waits", |stats| stats.worker_status.iter().any(|worker| worker.state == "backoff"));
    site.release("42", "");
    master.roll("42").expect(0);
    assert!(all_on(&master.stats(), "42"), "P2 does not block a rollout");
    let first = site.history().into_iter().find(|entry| entry.app.release == "42").expect("a start");
    assert_eq!(first.app.slot, "2", "the slot without a ready worker goes first");
}

#[test]
fn a_rollout_from_degraded_ends_it_or_says_4() {
    let site = Site::new();
    let master = site.steady("41", "", 3);
    site.release("41", "slot 2 exit 1");
    process::signal(master.app_pids()[2], Signal::SIGKILL);
    master.until_state("degraded");
    master.ctl(&["status"]).expect(4);
    // The empty slot is tried first, and fails: nothing was lost, and still not every slot is ready.
    site.release("42", BROKEN);
    let said = master.roll("42").expect(4);
    assert!(said.stderr.contains("slot 2, stage ready"), "{}", said.stderr);
    assert_eq!((master.stats().state.as_str(), master.stats().booted_workers), ("degraded", 2));
    site.release("43", "");
    master.roll("43").expect(0);
    let stats = master.stats();
    assert!(all_on(&stats, "43") && stats.state == "steady", "{stats:#?}");
    let first = site.history().into_iter().find(|entry| entry.app.release == "43").expect("a start");
    assert_eq!(first.app.slot, "2");
}

#[test]
fn a_rollback_to_what_does_not_boot_any_more_is_degraded() {
    let site = Site::new();
    let master = site.steady("41", "", 2);
    let old = master.app_pids();
    site.release("42", "slot 1 gate fail\nslot 1 exit 1");
    site.deploy("42");
    let load = Load::start(&master.address());
    let ctl = master.ctl_start(&["phased-restart"]);
    let waiting = site.arrival("fail");
    site.release("41", BROKEN);
    waiting.open();
    let said = ctl.end().expect(4);
    assert!(said.stderr.contains("phased restart failed"), "{}", said.stderr);
    let stats = master.stats();
    assert_eq!((stats.state.as_str(), stats.booted_workers), ("degraded", 2), "what serves keeps serving");
    assert_eq!(ready(&stats), [(0, "42".into()), (1, "41".into())]);
    assert_eq!(master.app_pids()[1], old[1]);
    assert_eq!(stats.last_rollout.expect("a rollout").outcome, "degraded");
    // Retries go on under backoff; once it boots again, all is steady.
    site.release("41", "");
    master.until_state("steady");
    master.until("what it replaces is gone", |stats| all_on(stats, "41"));
    load.more(20);
    load.finish();
}

#[test]
fn one_crash_whose_respawn_boots_changes_no_state() {
    let site = Site::new();
    let master = site.steady("41", "", 2);
    let seen = master.trace().len();
    process::signal(master.app_pids()[0], Signal::SIGKILL);
    master.until("respawned", |stats| all_on(stats, "41") && stats.worker_status[0].crashes == 1);
    let steps = master.trace().all()[seen..].join("\n");
    assert!(!steps.contains("< note degraded"), "{steps}");
    assert_eq!(master.stats().state, "steady");
}

#[test]
fn a_booting_worker_that_is_deaf_is_killed_after_5_s() {
    let site = Site::new();
    let master = site.steady("41", "", 1);
    site.release("42", "ignore-term\ngate boot");
    site.deploy("42");
    let ctl = master.ctl_start(&["phased-restart"]);
    let waiting = site.arrival("boot");
    let abort = master.ctl_start(&["abort"]);
    site.until_ended(waiting.app.pid);
    abort.end().expect(0);
    let said = ctl.end().expect(3);
    assert!(master.stats().last_rollout.expect("a rollout").millis >= 5000, "{}", said.stderr);
    assert!(all_on(&master.stats(), "41"));
}

#[test]
fn an_app_that_does_not_finish_is_killed_after_the_drain_timeout() {
    let site = Site::new();
    site.release("41", "ignore-term\nchildren 1");
    site.deploy("41");
    let master = site.master().workers(1).options(&["--drain-timeout", "500ms"]).start();
    master.until_state("steady");
    let old = site.alive()[0].pid;
    site.release("42", "");
    master.roll("42").expect(0);
    assert!(process::look(old).is_none());
    assert!(master.stats().last_rollout.expect("a rollout").millis >= 500);
    assert_eq!(process::descendants(master.pid()).len(), 2);
}

#[test]
fn budgets_that_make_no_sense_and_one_that_needs_a_warning() {
    let site = Site::new();
    let master = site.steady("41", "", 1);
    site.release("42", "");
    site.deploy("42");
    master.ctl(&["phased-restart", "--surge", "0"]).expect(2);
    assert_eq!(master.stats().last_rollout, None);
    // More than there are workers is as many as there are workers.
    site.gates().reset_most();
    master.ctl(&["phased-restart", "--surge", "50"]).expect(0);
    assert!(site.gates().most() <= 2);
    // One worker and no surge: allowed and announced.
    let load = Load::start(&master.address());
    load.more(20);
    let said = master.ctl(&["phased-restart", "--surge", "0", "--max-unavailable", "1"]).expect(0);
    assert!(said.stdout.to_lowercase().contains("zero"), "{}", said.stdout);
    load.more(20);
    load.finish();
    site.master().options(&["--surge", "0"]).run().expect(2);
}

#[test]
fn a_signal_reaches_every_app() {
    let site = Site::new();
    let master = site.steady("41", "", 2);
    let pids = master.app_pids();
    master.ctl(&["signal", "KILL"]).expect(0);
    for pid in pids {
        site.until_ended(pid);
    }
    master.until("all are back", |stats| {
        all_on(stats, "41") && stats.worker_status.iter().all(|worker| worker.crashes == 1)
    });
    master.ctl(&["signal", "NONSENSE"]).expect(2);
}

#[test]
fn a_put_back_worker_that_crashes_is_respawned_once() {
    let site = Site::new();
    let master = site.steady("41", "", 3);
    // 42 takes slots 0 and 1; when it fails in slot 2, the put-back 41 of slot 1 waits at a gate, that of slot 0 serves.
    site.release("42", "slot 2 gate fail\nslot 2 exit 1");
    site.deploy("42");
    let ctl = master.ctl_start(&["phased-restart"]);
    let waiting = site.arrival("fail");
    site.release("41", "slot 1 gate back\nslot 0 die-gate die 1");
    waiting.open();
    // It serves, crashes, and its respawn serves: the rollback goes on.
    let first = site.arrival("die");
    let serves = |stats: &proto::control::Stats| ready(stats).contains(&(0, "41".into()));
    master.until("slot 0 is put back", serves);
    first.open();
    let second = site.arrival("die");
    let back = site.arrival("back");
    assert_eq!(master.stats().state, "rolling_back");
    back.open();
    ctl.end().expect(3);
    let stats = master.stats();
    assert!(all_on(&stats, "41") && stats.state == "steady", "{stats:#?}");
    drop(second);
}

#[test]
fn a_put_back_worker_that_crashes_twice_is_degraded() {
    let site = Site::new();
    let master = site.steady("41", "", 3);
    site.release("42", "slot 2 gate fail\nslot 2 exit 1");
    site.deploy("42");
    let ctl = master.ctl_start(&["phased-restart"]);
    let waiting = site.arrival("fail");
    site.release("41", "slot 1 gate back\nslot 0 die-gate die 1");
    waiting.open();
    for _ in 0..2 {
        let serving = site.arrival("die");
        let pid = serving.app.pid as u32;
        master.until("slot 0 is put back", |stats| {
            stats.worker_status.iter().any(|worker| worker.app_pid == Some(pid) && worker.state == "ready")
        });
        serving.open();
    }
    let said = ctl.end().expect(4);
    assert!(said.stderr.contains("phased restart failed"), "{}", said.stderr);
    assert_eq!(master.stats().last_rollout.expect("a rollout").outcome, "degraded");
    // Later it boots, and so does the other: steady by itself.
    site.open("back");
    site.release("41", "");
    master.until_state("steady");
    master.until("all on 41", |stats| all_on(stats, "41"));
}

#[test]
fn with_surge_0_a_slot_whose_old_worker_crashes_is_the_next_one() {
    let site = Site::new();
    site.release("41", "");
    site.deploy("41");
    let master = site.master().workers(3).options(&["--surge", "0", "--max-unavailable", "1"]).start();
    master.until_state("steady");
    site.release("42", "gate boot");
    site.deploy("42");
    let ctl = master.ctl_start(&["phased-restart"]);
    let first = site.arrival("boot");
    assert_eq!(first.app.slot, "0");
    // What comes back in the crashed slot does not get ready: had it, the slot would have no reason to be the next.
    site.release("41", "gate back");
    let victim = master.app_pids().into_iter().next_back().expect("slot 2's");
    process::signal(victim, Signal::SIGKILL);
    assert_eq!(site.arrival("back").app.slot, "2");
    first.open();
    let second = site.arrival("boot");
    assert_eq!(second.app.slot, "2", "the one that is empty anyway");
    second.open();
    site.open("boot");
    ctl.end().expect(0);
    assert!(all_on(&master.stats(), "42"));
}

#[test]
fn restarting_and_scaling_while_held() {
    let site = Site::new();
    let master = site.steady("41", "", 3);
    site.release("42", "");
    site.deploy("42");
    master.ctl(&["phased-restart", "--hold"]).expect(0);
    master.ctl(&["restart", "1"]).expect(0);
    let stats = master.stats();
    assert_eq!(ready(&stats), [(0, "42".into()), (1, "41".into()), (2, "42".into())]);
    assert_eq!((stats.state.as_str(), stats.old_workers), ("held", 1));
    master.ctl(&["scale", "-1"]).expect(0);
    assert_eq!(ready(&master.stats()), [(0, "42".into()), (1, "41".into())]);
    assert_eq!(master.stats().state, "held");
    master.ctl(&["abort"]).expect(1);
    master.ctl(&["rollback"]).expect(0);
    assert!(all_on(&master.stats(), "41"));
}

#[test]
fn a_rollback_over_a_slot_in_backoff_is_degraded() {
    let site = Site::new();
    let master = site.steady("41", "", 3);
    site.release("41", "slot 2 exit 1");
    process::signal(master.app_pids()[2], Signal::SIGKILL);
    master.until("slot 2 waits", |stats| stats.worker_status.iter().any(|worker| worker.state == "backoff"));
    // 42 fills the empty slot first and fails in the next one: slot 2 cannot be put back.
    site.release("42", "slot 0 exit 1\nslot 1 exit 1");
    master.roll("42").expect(4);
    let stats = master.stats();
    assert_eq!(
        (stats.state.as_str(), stats.last_rollout.expect("a rollout").outcome.as_str()),
        ("degraded", "degraded")
    );
    assert_eq!(stats.booted_workers, 3, "the candidate that serves stays");
    site.release("41", "");
    master.until_state("steady");
    master.until("all on 41", |stats| all_on(stats, "41"));
}
