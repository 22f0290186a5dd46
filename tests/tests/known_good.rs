//! P5: every spawn outside a phased restart uses the known-good release.

use std::fs;

use nix::sys::signal::Signal;
use proto::control::{Stats, WorkerStatus};
use tests::master::{all_on, app_pid, name_of, ready, release_name};
use tests::{Master, Site, process};

const BROKEN: &str = "eprint broken\nexit 1";

/// What of a worker is killed.
const VICTIMS: [fn(&WorkerStatus) -> Option<i32>; 2] = [app_pid, |worker| worker.pid.map(|pid| pid as i32)];

/// Kills one slot's app or worker and waits until the slot is ready again, with what.
fn crash(master: &Master<'_>, slot: u32, victim: fn(&WorkerStatus) -> Option<i32>) -> Stats {
    let before = master.slot(slot).into_iter().find(|worker| worker.state == "ready").expect("a ready worker");
    process::signal(victim(&before).expect("a pid"), Signal::SIGKILL);
    master.until(&format!("slot {slot} is ready again"), |stats| {
        let workers: Vec<_> = stats.worker_status.iter().filter(|worker| worker.index.0 == slot).collect();
        workers.iter().all(|worker| worker.incarnation != before.incarnation)
            && workers.iter().any(|worker| worker.state == "ready" && worker.incarnation > before.incarnation)
    })
}

fn on(stats: &Stats, slot: u32) -> String {
    ready(stats).into_iter().find(|(index, _)| *index == slot).expect("a ready worker").1
}

#[test]
fn a_crash_while_current_names_broken_code() {
    for victim in VICTIMS {
        let site = Site::new();
        let master = site.steady("41", "", 2);
        site.release("42", BROKEN);
        site.deploy("42");
        let stats = crash(&master, 0, victim);
        assert_eq!(on(&stats, 0), "41");
        assert_eq!(stats.worker_status[0].phase.0, 0);
        assert_eq!(
            (name_of(&stats.dir_target.expect("a target")), name_of(&stats.release)),
            ("42".into(), "41".into())
        );
        assert_eq!(site.boots("42"), 0);
        assert_eq!(stats.worker_status[0].crashes, 1);
    }
}

#[test]
fn a_crash_after_an_abort() {
    for victim in VICTIMS {
        let site = Site::new();
        let master = site.steady("41", "", 2);
        site.release("42", "slot 1 exit 1");
        master.roll("42").expect(3);
        let boots = site.boots("42");
        for slot in [0, 1] {
            assert_eq!(on(&crash(&master, slot, victim), slot), "41");
        }
        assert_eq!(site.boots("42"), boots);
    }
}

#[test]
fn a_crash_in_the_middle_of_a_rollout() {
    for victim in VICTIMS {
        let site = Site::new();
        let master = site.steady("41", "", 2);
        site.release("42", "gate boot");
        site.deploy("42");
        let ctl = master.ctl_start(&["phased-restart"]);
        let booting = site.arrival("boot");
        // Not the slot that is being replaced: its old worker is known-good again.
        assert_eq!(on(&crash(&master, 1, victim), 1), "41");
        process::signal(booting.app.pid, Signal::SIGKILL);
        ctl.end().expect(3);
        assert!(all_on(&master.stats(), "41"));
    }
}

#[test]
fn a_crash_of_the_slot_that_is_being_replaced_starts_both() {
    let site = Site::new();
    let master = site.steady("41", "", 2);
    site.release("42", "gate boot");
    site.deploy("42");
    let ctl = master.ctl_start(&["phased-restart"]);
    let booting = site.arrival("boot");
    let slot = booting.app.slot.parse().expect("a slot");
    let old = master.slot(slot).into_iter().find(|worker| worker.state == "ready").expect("the old worker");
    process::signal(app_pid(&old).expect("a pid"), Signal::SIGKILL);
    let stats = master.until("the slot is ready again", |stats| {
        stats.worker_status.iter().any(|w| w.index.0 == slot && w.state == "ready" && w.incarnation != old.incarnation)
    });
    assert_eq!(on(&stats, slot), "41");
    site.open("boot");
    booting.open();
    ctl.end().expect(0);
    assert!(all_on(&master.stats(), "42"), "the loser is ended");
    site.until_alive(|alive| alive.len() == 2 && alive.iter().all(|app| app.release == "42"));
}

#[test]
fn a_crash_while_held() {
    for victim in VICTIMS {
        let site = Site::new();
        let master = site.steady("41", "", 3);
        site.release("42", "");
        site.deploy("42");
        master.ctl(&["phased-restart", "--hold"]).expect(0);
        let stats = master.stats();
        assert_eq!((stats.state.as_str(), name_of(&stats.release).as_str(), stats.phase.0), ("held", "41", 1));
        assert!(all_on(&stats, "42"));
        let stats = crash(&master, 1, victim);
        assert_eq!(on(&stats, 1), "41");
        assert_eq!((stats.state.as_str(), stats.old_workers), ("held", 1), "the respawned one has another phase");
        // A person trusts it: from now on it is what respawns use.
        master.ctl(&["reload-dir"]).expect(0);
        assert_eq!(name_of(&master.stats().release), "42");
        assert_eq!(on(&crash(&master, 0, victim), 0), "42");
    }
}

#[test]
fn added_workers_are_known_good() {
    let site = Site::new();
    let master = site.steady("41", "", 1);
    site.release("42", BROKEN);
    site.deploy("42");
    master.ctl(&["scale", "2"]).expect(0);
    assert!(all_on(&master.stats(), "41"));
    site.release("43", "");
    site.deploy("43");
    master.ctl(&["phased-restart", "--hold"]).expect(0);
    master.ctl(&["scale", "+1"]).expect(0);
    assert_eq!(ready(&master.stats()), [(0, "43".into()), (1, "43".into()), (2, "41".into())]);
    assert_eq!(site.boots("42"), 0);
}

#[test]
fn a_deleted_known_good_directory_falls_back_to_dir_and_says_so() {
    let site = Site::new();
    let master = site.steady("41", "", 2);
    site.release("42", "");
    site.deploy("42");
    let gone = site.release_dir("41");
    fs::remove_dir_all(&gone).expect("removed");
    let json = master.ctl(&["--json", "stats"]).expect(0).json();
    assert_eq!(json["release_gone"], true, "{json:#}");
    assert!(master.ctl(&["stats"]).expect(0).stdout.contains("gone"));
    process::signal(master.app_pids()[0], Signal::SIGKILL);
    let stats =
        master.until("the slot serves what dir names", |stats| ready(stats) == [(0, "42".into()), (1, "41".into())]);
    assert_eq!(stats.state, "degraded", "what serves is a fallback");
    assert_eq!(name_of(&stats.release), "41", "and nobody has promoted it");
    master.until_log(gone.to_str().expect("a path"));
    assert!(master.stderr.text().contains(site.release_dir("42").to_str().expect("a path")));
    // A phased restart of it ends the matter.
    master.ctl(&["phased-restart"]).expect(0);
    let stats = master.stats();
    assert!(all_on(&stats, "42") && stats.state == "steady", "{stats:#?}");
}

#[test]
fn where_dir_names_nothing_that_can_be_what_was_trusted_before_comes_back() {
    let site = Site::new();
    let master = site.steady("41", "", 2);
    site.release("42", "");
    master.roll("42").expect(0);
    site.release("43", BROKEN);
    master.roll("43").expect(3);
    fs::remove_dir_all(site.release_dir("42")).expect("removed");
    for pid in master.app_pids() {
        process::signal(pid, Signal::SIGKILL);
    }
    let stats = master.until("every slot serves", |stats| all_on(stats, "41"));
    assert_eq!(
        (stats.state.as_str(), name_of(&stats.release)),
        ("degraded", "42".to_string()),
        "it stands in, and is not promoted"
    );
    assert_eq!(site.boots("43"), 1, "and nothing that was refused was tried");
    master.ctl(&["rollback"]).expect(0);
    assert!(all_on(&master.stats(), "41") && master.stats().state == "steady");
}

#[test]
fn a_refused_release_is_no_fallback_and_there_is_no_crash_loop() {
    let site = Site::new();
    let master = site.steady("41", "", 2);
    site.release("42", BROKEN);
    master.roll("42").expect(3);
    assert_eq!(site.boots("42"), 1);
    fs::rename(site.release_dir("41"), site.release_dir("away")).expect("moved");
    let seen = master.trace().len();
    process::signal(master.app_pids()[0], Signal::SIGKILL);
    master.until("the slot waits", |stats| stats.worker_status.iter().any(|worker| worker.state == "backoff"));
    // Two more attempts, each behind a growing delay.
    let mut at = seen;
    for _ in 0..2 {
        at = 1 + master.until_step(at, "a retry", |step| step.contains("> fired backoff 0"));
    }
    let stats = master.stats();
    assert_eq!((stats.state.as_str(), stats.booted_workers), ("degraded", 1));
    assert_eq!((site.boots("42"), site.boots("41")), (1, 2), "nothing was started of either");
    master.ctl(&["status"]).expect(4);
    // It comes back by itself once the directory does.
    fs::rename(site.release_dir("away"), site.release_dir("41")).expect("moved");
    let stats = master.until_state("steady");
    assert!(all_on(&stats, "41"));
}

#[test]
fn a_crash_storm_is_bounded_by_backoff() {
    let site = Site::new();
    let master = site.steady("41", "", 1);
    // Whatever boots from now on serves and dies at once.
    site.release("41", "die-gate now 1");
    site.open("now");
    process::signal(master.app_pids()[0], Signal::SIGKILL);
    master.until("the slot waits", |stats| stats.worker_status[0].state == "backoff");
    let boots = site.boots("41");
    assert!(boots <= 3, "{boots} boots before the first pause");
    master.until_step(0, "a longer pause", |step| step.contains("< arm backoff 0 1s"));
    assert!(site.boots("41") <= 4, "{} boots", site.boots("41"));
}

#[test]
fn nothing_of_one_release_leaks_into_another() {
    let site = Site::new();
    let master = site.steady("41", "", 1);
    let (old, new) = (site.release_dir("41"), site.release_dir("42"));
    let clean = |own: &std::path::Path, other: &std::path::Path| {
        let (own, other) = (own.to_str().unwrap(), other.to_str().unwrap());
        assert_eq!(master.get("/cwd"), own);
        let env = master.get("/env");
        assert!(env.contains(&format!("\nPWD={own}\n")), "{env}");
        assert!(env.contains(&format!("\nRELEASE_DIR={own}\n")), "{env}");
        for (name, text) in [("env", &env), ("fds", &master.get("/fds"))] {
            assert!(!text.contains(other), "{other} in the {name} of {own}:\n{text}");
        }
        let worker = master.slot(0)[0].pid.expect("a pid") as i32;
        let leaked = process::descriptors(worker).into_values().chain(process::environment(worker).into_values());
        assert!(leaked.into_iter().all(|text| !text.contains(other)), "{other} in the worker of {own}");
    };
    clean(&old, &new);
    site.release("42", "");
    master.roll("42").expect(0);
    clean(&new, &old);
    site.release("43", BROKEN);
    master.roll("43").expect(3);
    crash(&master, 0, app_pid);
    clean(&new, &site.release_dir("43"));
    assert_eq!(release_name(&master.slot(0)[0]), "42");
}

#[test]
fn a_rollback_after_a_hold_serves_known_good_code() {
    let site = Site::new();
    let master = site.steady("41", "", 2);
    site.release("42", "");
    site.deploy("42");
    master.ctl(&["phased-restart", "--hold"]).expect(0);
    master.ctl(&["rollback"]).expect(0);
    let stats = master.stats();
    assert!(all_on(&stats, "41") && stats.state == "steady" && stats.old_workers == 0, "{stats:#?}");
}
