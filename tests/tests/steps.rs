//! Canary, pause and resume, and second thoughts after the promotion.

use nix::sys::signal::Signal;
use proto::control::Stats;
use tests::master::{all_on, app_pid, doing, name_of, ready, refused};
use tests::{Load, Master, Site, process};

/// The slots whose ready worker is of this release.
fn on(stats: &Stats, release: &str) -> Vec<u32> {
    ready(stats).into_iter().filter(|(_, name)| name == release).map(|(slot, _)| slot).collect()
}

#[test]
fn a_canary_goes_first_and_then_the_rest() {
    let site = Site::new();
    let master = site.steady("41", "", 4);
    let load = Load::start(&master.address());
    site.gates().reset_most();
    site.release("42", "");
    site.deploy("42");
    // As long as the canary is watched, nothing else happens: its time is as good as for ever, and then as good as none.
    let ctl = master.ctl_start(&["phased-restart", "--canary", "2", "--canary-soak", "10m"]);
    let stats = master.until_doing("canary");
    assert_eq!((on(&stats, "42"), stats.state.as_str(), stats.old_workers), (vec![0, 1], "rolling", 2));
    assert_eq!(stats.rollout.as_ref().map(|rollout| (rollout.step, rollout.of)), Some((2, 4)));
    load.more(50);
    assert_eq!(on(&master.stats(), "42"), [0, 1]);
    master.ctl(&["abort"]).expect(0);
    ctl.end().expect(3);
    assert!(all_on(&master.stats(), "41"));
    let seen = master.trace().len();
    let said = master.ctl(&["phased-restart", "--canary", "1", "--canary-soak", "1ms"]).expect(0);
    assert!(said.stdout.contains("1 canary slot through"), "{}", said.stdout);
    load.finish();
    assert!(all_on(&master.stats(), "42"));
    // One slot was ready on 42 when its quiet time began, and none was begun with before that was over.
    let steps = master.trace().all()[seen..].join("\n");
    let (canary, fired) = (steps.find("< note canary-soaking 1 "), steps.find("> fired canary"));
    assert!(canary.is_some() && fired > canary, "{steps}");
    let spawned = |steps: &str| steps.matches("< spawn ").count();
    assert_eq!((spawned(&steps[..canary.unwrap_or(0)]), spawned(&steps[..fired.unwrap_or(0)])), (1, 1), "{steps}");
    assert!(site.gates().most() <= 5, "P3: {} lived at once", site.gates().most());
    assert!(site.fewest_serving(4) >= 4, "P2: {:#?}", site.history());
}

#[test]
fn a_canary_that_dies_is_put_back_and_no_other_slot_was_touched() {
    let site = Site::new();
    site.release("41", "");
    site.deploy("41");
    let master = site.master().workers(3).options(&["--canary", "1", "--canary-soak", "10m"]).start();
    master.until_state("steady");
    let old = master.app_pids();
    let load = Load::start(&master.address());
    // It finishes what it holds, so that its death costs nobody anything.
    site.release("42", "leave-gate leave 7");
    site.deploy("42");
    let ctl = master.ctl_start(&["phased-restart"]);
    master.until_doing("canary");
    load.more(50);
    site.arrival("leave").open();
    let said = ctl.end().expect(3);
    assert!(said.stderr.contains("slot 0, stage soak: exited with status 7"), "{}", said.stderr);
    load.more(20);
    load.finish();
    let stats = master.stats();
    assert!(all_on(&stats, "41") && stats.state == "steady", "{stats:#?}");
    assert_eq!((&master.app_pids()[1..], site.boots("42"), refused(&stats)), (&old[1..], 1, vec!["42".into()]));
}

#[test]
fn a_canary_is_no_larger_than_asked_for_whatever_the_surge() {
    let site = Site::new();
    let master = site.steady("41", "", 4);
    site.release("42", "");
    site.deploy("42");
    let ctl = master.ctl_start(&["phased-restart", "--surge", "3", "--canary", "1", "--canary-soak", "10m"]);
    let stats = master.until_doing("canary");
    assert_eq!((on(&stats, "42"), site.boots("42")), (vec![0], 1));
    // A pause of the canary's quiet time holds back everything behind it, too.
    master.ctl(&["pause"]).expect(0);
    assert_eq!(doing(&master.stats()), "paused");
    master.ctl(&["resume"]).expect(0);
    assert_eq!(doing(&master.stats()), "canary");
    master.ctl(&["abort"]).expect(0);
    ctl.end().expect(3);
    assert!(all_on(&master.stats(), "41"));
    assert_eq!(site.boots("42"), 1);
}

#[test]
fn a_canary_of_every_slot_and_of_none() {
    let site = Site::new();
    let master = site.steady("41", "", 2);
    for canary in ["0", "2", "9"] {
        let release = format!("42-{canary}");
        site.release(&release, "");
        site.deploy(&release);
        master.ctl(&["phased-restart", "--canary", canary, "--canary-soak", "10m"]).expect(0);
        assert!(all_on(&master.stats(), &release));
    }
}

#[test]
fn a_share_as_surge() {
    let site = Site::new();
    let master = site.steady("41", "", 4);
    site.gates().reset_most();
    site.release("42", "gate boot");
    site.deploy("42");
    let ctl = master.ctl_start(&["phased-restart", "--surge", "50%"]);
    let (one, two) = (site.arrival("boot"), site.arrival("boot"));
    one.open();
    two.open();
    site.open("boot");
    ctl.end().expect(0);
    assert_eq!(site.gates().most(), 6, "half of four, and all of that is used");
    assert!(all_on(&master.stats(), "42"));
}

/// A rollout to 42 of three slots that is paused with slot 0 through; slot 1's app waits at the gate `boot` when the pause is asked
/// for.
fn paused<'a>(site: &'a Site, master: &Master<'a>, args: &[&str]) -> tests::Ctl {
    site.release("42", "gate boot");
    site.deploy("42");
    let ctl = master.ctl_start(&[&["phased-restart"], args].concat());
    site.arrival("boot").open();
    let second = site.arrival("boot");
    let mut pause = master.ctl_start(&["pause"]);
    let stats = master.until_doing("paused");
    assert_eq!((stats.state.as_str(), on(&stats, "42")), ("rolling", vec![0]));
    assert!(pause.waits(), "the slot under way is not through");
    second.open();
    let said = pause.end().expect(0);
    assert!(said.stdout.contains("paused: 2 of 3 slots are through"), "{}", said.stdout);
    ctl
}

#[test]
fn a_pause_finishes_the_slots_under_way_and_takes_no_other() {
    let site = Site::new();
    let master = site.steady("41", "", 3);
    let load = Load::start(&master.address());
    let mut ctl = paused(&site, &master, &[]);
    assert!(ctl.waits());
    let stats = master.stats();
    assert_eq!((stats.state.as_str(), doing(&stats), on(&stats, "42")), ("rolling", "paused", vec![0, 1]));
    let said = master.ctl(&["status"]).expect(5);
    assert!(said.stdout.contains("paused after 2 of 3 slots"), "{}", said.stdout);
    load.more(50);
    // A second rollout is busy, a second pause is the same one.
    master.ctl(&["phased-restart"]).expect(5);
    master.ctl(&["pause"]).expect(0);
    master.ctl(&["resume"]).expect(0);
    master.ctl(&["resume"]).expect(1);
    let third = site.arrival("boot");
    assert_eq!(doing(&master.stats()), "rolling");
    third.open();
    ctl.end().expect(0);
    assert!(all_on(&master.stats(), "42"));
    load.finish();
    assert!(site.fewest_serving(3) >= 3, "P2: {:#?}", site.history());
    for nothing in ["pause", "resume"] {
        master.ctl(&[nothing]).expect(1);
    }
}

#[test]
fn while_paused_a_candidates_crash_aborts() {
    let site = Site::new();
    let master = site.steady("41", "", 3);
    let ctl = paused(&site, &master, &[]);
    process::signal(master.app_pids()[1], Signal::SIGKILL);
    let said = ctl.end().expect(3);
    assert!(said.stderr.contains("slot 1, stage soak: killed by SIGKILL"), "{}", said.stderr);
    let stats = master.stats();
    assert!(all_on(&stats, "41") && stats.state == "steady", "{stats:#?}");
    assert_eq!(refused(&stats), ["42"]);
}

#[test]
fn while_paused_an_old_workers_crash_respawns_known_good_code() {
    let site = Site::new();
    let master = site.steady("41", "", 3);
    let ctl = paused(&site, &master, &[]);
    let victim = master.app_pids()[2];
    process::signal(victim, Signal::SIGKILL);
    let stats = master.until("slot 2 is back", |stats| {
        stats.worker_status.iter().any(|worker| worker.index.0 == 2 && worker.booted && app_pid(worker) != Some(victim))
    });
    assert_eq!((on(&stats, "41"), doing(&stats)), (vec![2], "paused"));
    master.ctl(&["resume"]).expect(0);
    site.arrival("boot").open();
    ctl.end().expect(0);
    assert!(all_on(&master.stats(), "42"));
}

#[test]
fn while_paused_promotion_waits() {
    let site = Site::new();
    let master = site.steady("41", "", 2);
    site.release("42", "slot 1 gate boot");
    site.deploy("42");
    let mut ctl = master.ctl_start(&["phased-restart", "--soak", "1ms"]);
    let last = site.arrival("boot");
    let pause = master.ctl_start(&["pause"]);
    master.until_doing("paused");
    let seen = master.trace().len();
    last.open();
    pause.end().expect(0);
    // Every slot is through, and so is the soak.
    master.until_step(seen, "the soak is over", |step| step.starts_with("> fired soak"));
    let stats = master.stats();
    assert_eq!((stats.state.as_str(), doing(&stats), on(&stats, "42")), ("rolling", "paused", vec![0, 1]));
    assert_eq!((name_of(&stats.release).as_str(), ctl.waits()), ("41", true));
    master.ctl(&["resume"]).expect(0);
    ctl.end().expect(0);
    assert_eq!(name_of(&master.stats().release), "42");
}

#[test]
fn an_abort_and_a_stop_end_a_pause() {
    let site = Site::new();
    let mut master = site.steady("41", "", 3);
    let ctl = paused(&site, &master, &[]);
    master.ctl(&["abort"]).expect(0);
    ctl.end().expect(3);
    assert!(all_on(&master.stats(), "41"));
    let ctl = paused(&site, &master, &[]);
    master.ctl(&["stop"]).expect(0);
    ctl.end().expect(1);
    assert!(master.end().success());
}

#[test]
fn a_pause_that_meets_a_failure_says_so() {
    let site = Site::new();
    let master = site.steady("41", "", 2);
    site.release("42", "slot 1 gate boot\nslot 1 exit 1");
    site.deploy("42");
    let ctl = master.ctl_start(&["phased-restart"]);
    let last = site.arrival("boot");
    let pause = master.ctl_start(&["pause"]);
    master.until_doing("paused");
    last.open();
    let said = pause.end().expect(1);
    assert!(said.stderr.contains("not paused"), "{}", said.stderr);
    ctl.end().expect(3);
    assert!(all_on(&master.stats(), "41"));
}

#[test]
fn a_rehearsal_and_a_hook_can_be_paused_behind() {
    let site = Site::new();
    site.release("41", "");
    site.deploy("41");
    let options = ["--check", "http:/health", "--before-rollout", &tests::binaries::hook("migrate")];
    let master = site.master().workers(2).options(&options).start();
    master.until_state("steady");
    site.release("42", "");
    site.hook_script("42", "migrate", "gate migrating");
    site.deploy("42");
    let ctl = master.ctl_start(&["phased-restart"]);
    let migrating = site.arrival("migrating");
    let pause = master.ctl_start(&["pause"]);
    let stats = master.until_doing("paused");
    assert_eq!(stats.state, "rolling");
    migrating.open();
    pause.end().expect(0);
    assert_eq!(on(&master.stats(), "41"), [0, 1]);
    master.ctl(&["resume"]).expect(0);
    ctl.end().expect(0);
    assert_eq!((site.rehearsals("42"), all_on(&master.stats(), "42")), (1, true));
}

#[test]
fn confirmed_in_time() {
    let site = Site::new();
    let master = site.steady("41", "", 2);
    let said = master.ctl(&["confirm"]).expect(1);
    assert!(said.stderr.contains("nothing to confirm"), "{}", said.stderr);
    site.release("42", "");
    site.deploy("42");
    let said = master.ctl(&["phased-restart", "--confirm-within", "10m"]).expect(0);
    assert!(said.stdout.contains("ctl confirm"), "{}", said.stdout);
    let stats = master.stats();
    assert_eq!((stats.state.as_str(), name_of(&stats.release).as_str()), ("steady", "42"), "while it is pending");
    let confirm = stats.confirm.expect("pending");
    assert_eq!((name_of(&confirm.release).as_str(), name_of(&confirm.back_to).as_str()), ("42", "41"));
    let json = master.ctl(&["--json", "stats"]).expect(0).json();
    assert!(json["confirm"].is_object(), "{json:#}");
    master.ctl(&["status"]).expect(0);
    // The app itself may say it: it has PHASED_SOCKET.
    let json = master.ctl(&["--json", "confirm"]).expect(0).json();
    assert_eq!(json["ok"], true);
    assert_eq!(master.stats().confirm, None);
    master.ctl(&["confirm"]).expect(1);
    assert!(all_on(&master.stats(), "42") && refused(&master.stats()).is_empty());
}

#[test]
fn not_confirmed_in_time() {
    let site = Site::new();
    let master = site.steady("41", "", 2);
    let load = Load::start(&master.address());
    site.gates().reset_most();
    site.release("42", "");
    site.deploy("42");
    let seen = master.trace().len();
    master.ctl(&["phased-restart", "--confirm-within", "300ms"]).expect(0);
    master.until_step(seen, "nobody confirms", |step| step.starts_with("> fired confirm"));
    let stats = master.until("it is rolled back", |stats| {
        stats.rollout.is_none() && stats.last_rollout.as_ref().is_some_and(|last| last.kind == "rollback")
    });
    assert!(all_on(&stats, "41") && stats.state == "steady", "{stats:#?}");
    let last = stats.last_rollout.clone().expect("a rollout");
    assert_eq!((last.kind.as_str(), last.outcome.as_str(), name_of(&last.to).as_str()), ("rollback", "promoted", "41"));
    assert_eq!((name_of(&stats.release).as_str(), stats.confirm.as_ref()), ("41", None));
    assert_eq!(refused(&stats), ["42"]);
    master.until_log("nobody confirmed");
    master.ctl(&["confirm"]).expect(1);
    load.more(50);
    load.finish();
    assert!(site.gates().most() <= 3, "P3: {} lived at once", site.gates().most());
    assert!(site.fewest_serving(2) >= 2, "P2: {:#?}", site.history());
}

#[test]
fn a_confirm_that_comes_while_another_rollout_runs() {
    let site = Site::new();
    let master = site.steady("41", "", 2);
    site.release("42", "");
    site.deploy("42");
    master.ctl(&["phased-restart", "--confirm-within", "10m"]).expect(0);
    site.release("43", "gate boot\nexit 1");
    site.deploy("43");
    let ctl = master.ctl_start(&["phased-restart"]);
    let booting = site.arrival("boot");
    master.ctl(&["confirm"]).expect(0);
    booting.open();
    ctl.end().expect(3);
    assert!(all_on(&master.stats(), "42"));
}

#[test]
fn a_rollback_and_a_newer_release_end_the_window() {
    let site = Site::new();
    let master = site.steady("41", "", 2);
    site.release("42", "");
    site.deploy("42");
    master.ctl(&["phased-restart", "--confirm-within", "10m"]).expect(0);
    master.ctl(&["rollback"]).expect(0);
    assert!(all_on(&master.stats(), "41"));
    master.ctl(&["confirm"]).expect(1);
    master.ctl(&["phased-restart", "--confirm-within", "10m"]).expect(0);
    site.release("43", "");
    master.roll("43").expect(0);
    let stats = master.stats();
    assert!(all_on(&stats, "43") && stats.confirm.is_none(), "{stats:#?}");
    // What was never confirmed is no release to go back to.
    master.ctl(&["rollback"]).expect(0);
    assert!(all_on(&master.stats(), "41"));
}

#[test]
fn a_rollback_leads_back_and_never_forward() {
    let site = Site::new();
    let mut master = site.steady("41", "", 2);
    for release in ["42", "43"] {
        site.release(release, "");
        master.roll(release).expect(0);
    }
    for back in ["42", "41"] {
        master.ctl(&["rollback"]).expect(0);
        let stats = master.stats();
        assert!(all_on(&stats, back) && name_of(&stats.release) == back, "{stats:#?}");
    }
    let boots = |release: &str| site.boots(release);
    let before = (boots("41"), boots("42"), boots("43"));
    assert_eq!(before, (4, 4, 2));
    let stays = |master: &Master<'_>| {
        let said = master.ctl(&["rollback"]).expect(1);
        assert!(said.stderr.contains("nothing to roll back to"), "{}", said.stderr);
        let stats = master.stats();
        assert!(all_on(&stats, "41") && stats.state == "steady", "{stats:#?}");
        assert_eq!((refused(&stats), name_of(&stats.release)), (vec!["43".into(), "42".into()], "41".into()));
        assert_eq!((boots("42"), boots("43")), (4, 2));
    };
    stays(&master);
    // `dir` still names 43, and the next start knows better, too.
    master.signal(Signal::SIGKILL);
    master.end();
    drop(master);
    let master = site.master().workers(2).start();
    master.until_state("steady");
    stays(&master);
    // Where a newer one was good, the one before it is what is gone back to, not what was left behind.
    site.release("44", "");
    master.roll("44").expect(0);
    master.ctl(&["rollback"]).expect(0);
    assert!(all_on(&master.stats(), "41"));
    master.ctl(&["rollback"]).expect(1);
    assert_eq!((boots("42"), boots("43"), boots("44")), (4, 2, 2));
}

#[test]
fn the_masters_own_settings_and_what_excludes_each_other() {
    let site = Site::new();
    site.release("41", "");
    site.deploy("41");
    let master = site.master().workers(1).options(&["--confirm-within", "10m"]).start();
    master.until_state("steady");
    assert_eq!(master.stats().confirm, None, "a start needs no confirm");
    site.release("42", "");
    master.roll("42").expect(0);
    assert!(master.stats().confirm.is_some());
    // The same release again: it goes on waiting.
    master.ctl(&["phased-restart"]).expect(0);
    assert!(master.stats().confirm.is_some());
    let said = master.ctl(&["phased-restart", "--hold", "--confirm-within", "1m"]).expect(2);
    assert!(said.stderr.contains("--hold") && said.stderr.contains("--confirm-within"), "{}", said.stderr);
    // With the master's own window a hold is no error: what is held is not promoted.
    master.ctl(&["confirm"]).expect(0);
    site.release("43", "");
    site.deploy("43");
    master.ctl(&["phased-restart", "--hold"]).expect(0);
    let stats = master.stats();
    assert_eq!((stats.state.as_str(), stats.confirm.as_ref()), ("held", None));
}

#[test]
fn a_reboot_inside_the_window_goes_back() {
    let site = Site::new();
    let mut master = site.steady("41", "", 2);
    site.release("42", "");
    site.deploy("42");
    master.ctl(&["phased-restart", "--confirm-within", "10m"]).expect(0);
    master.signal(Signal::SIGKILL);
    master.end();
    drop(master);
    let master = site.master().workers(2).start();
    let stats = master.until_state("steady");
    assert!(all_on(&stats, "41"), "{stats:#?}");
    assert_eq!((refused(&stats), stats.confirm.as_ref()), (vec!["42".into()], None));
    master.until_log("never confirmed");
}

#[test]
fn a_reboot_inside_the_window_with_nothing_to_go_back_to() {
    let site = Site::new();
    let mut master = site.steady("41", "", 2);
    site.release("42", "");
    site.deploy("42");
    master.ctl(&["phased-restart", "--confirm-within", "10m"]).expect(0);
    std::fs::remove_dir_all(site.release_dir("41")).expect("removed");
    master.signal(Signal::SIGKILL);
    master.end();
    drop(master);
    assert!(process::of_site(site.root()).is_empty());
    let mut master = site.master().workers(2).start();
    let stats = master.until_state("steady");
    assert!(all_on(&stats, "42") && name_of(&stats.release) == "42", "{stats:#?}");
    assert!(master.get("/").starts_with("release=42"));
    let line = master.until_log("never confirmed");
    assert!(line.contains("releases/42") && line.contains("nothing that was good before is left"), "{line}");
    // It stays for good: there is no window any more, and nobody has refused it.
    assert_eq!((stats.confirm.as_ref(), refused(&stats)), (None, Vec::new()));
    master.ctl(&["confirm"]).expect(1);
    master.ctl(&["rollback"]).expect(1);
    let said = master.ctl(&["phased-restart", "--if-new"]).expect(0);
    assert!(said.stdout.contains("nothing new"), "{}", said.stdout);
    process::signal(master.app_pids()[0], Signal::SIGKILL);
    master.until("respawned", |stats| all_on(stats, "42") && stats.worker_status[0].crashes == 1);
    // One that is worse does not take its place.
    site.release("43", "exit 1");
    master.roll("43").expect(3);
    assert!(all_on(&master.stats(), "42"));
    master.ctl(&["stop"]).expect(0);
    assert!(master.end().success());
    drop(master);
    // The next start has nothing to say about it.
    let master = site.master().workers(2).start();
    assert!(all_on(&master.until_state("steady"), "42"));
    assert!(!master.stderr.text().contains("never confirmed: nothing"), "{}", master.stderr.text());
}
