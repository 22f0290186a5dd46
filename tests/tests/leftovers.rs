//! When a worker is gone, nothing of its app is left; and nothing is ever left a zombie.

use std::process::Command;

use nix::sys::signal::Signal;
use tests::master::{all_on, app_pid, release_name};
use tests::{Load, Master, Site, process};

/// Some of it is deaf to the stop signal, and so takes the whole drain timeout.
const FAMILY: &str = "daemon\nbare-daemon\nchildren 2\ndeaf-children 1";

/// A steady master whose app has a family.
fn with_family(site: &Site, workers: u32) -> Master<'_> {
    site.release("41", FAMILY);
    site.deploy("41");
    let master = site.master().workers(workers).options(&["--drain-timeout", "500ms"]).start();
    master.until_state("steady");
    master
}

/// Everything that is of the app's program and below the master (or was left to it).
fn family(master: &Master<'_>) -> Vec<i32> {
    process::descendants(master.pid()).iter().map(|process| process.pid).collect()
}

fn until_gone(site: &Site, pids: &[i32]) {
    for pid in pids {
        site.until_ended(*pid);
    }
}

/// What runs of a release, apps and everything that they left: found by their folder, environment or parent.
fn only_workers_and_apps(master: &Master<'_>) {
    let family = process::descendants(master.pid());
    let wanted: Vec<i32> = master
        .stats()
        .worker_status
        .iter()
        .flat_map(|worker| [worker.pid, worker.app_pid])
        .flatten()
        .map(|pid| pid as i32)
        .collect();
    let strangers: Vec<_> = family.into_iter().filter(|process| !wanted.contains(&process.pid)).collect();
    assert!(strangers.is_empty(), "left over:\n{}", process::table(&strangers));
}

#[test]
fn children_and_daemons_end_with_their_app_in_a_rollout() {
    let site = Site::new();
    let master = with_family(&site, 2);
    let old = family(&master);
    assert_eq!(old.len(), 2 * (2 + 1 + 1 + 2 + 1), "{}", process::table(&process::descendants(master.pid())));
    site.release("42", "");
    master.roll("42").expect(0);
    for pid in &old {
        assert!(process::look(*pid).is_none(), "{:?}", process::look(*pid));
    }
    only_workers_and_apps(&master);
}

#[test]
fn children_and_daemons_end_with_their_app_when_it_dies() {
    let site = Site::new();
    let master = with_family(&site, 1);
    let old = family(&master);
    // What comes back has no family: whatever is found then is a left-over.
    site.release("41", "");
    process::signal(master.app_pids()[0], Signal::SIGKILL);
    until_gone(&site, &old);
    master.until("respawned", |stats| all_on(stats, "41"));
    only_workers_and_apps(&master);
    assert!(process::zombies(master.pid()).is_empty());
}

#[test]
fn children_and_daemons_end_when_the_worker_is_killed() {
    let site = Site::new();
    let master = with_family(&site, 1);
    let old = family(&master);
    site.release("41", "");
    let worker = master.slot(0)[0].clone();
    process::signal(worker.pid.expect("a pid") as i32, Signal::SIGKILL);
    until_gone(&site, &old);
    master.until("respawned", |stats| all_on(stats, "41") && stats.worker_status[0].incarnation > worker.incarnation);
    only_workers_and_apps(&master);
    assert!(process::zombies(master.pid()).is_empty());
}

#[test]
fn what_a_failed_boot_started_is_gone_when_its_failure_is_told() {
    let site = Site::new();
    site.release("41", "");
    site.deploy("41");
    let master = site.master().workers(1).options(&["--drain-timeout", "500ms"]).start();
    master.until_state("steady");
    site.release("42", &format!("{FAMILY}\nexit 1"));
    master.roll("42").expect(3);
    only_workers_and_apps(&master);
    site.release("43", &format!("{FAMILY}\ndaemon-at-exit"));
    master.roll("43").expect(0);
    site.release("44", "");
    master.roll("44").expect(0);
    only_workers_and_apps(&master);
}

#[test]
fn a_killed_worker_loses_no_request() {
    let site = Site::new();
    let master = site.steady("41", "", 2);
    let load = Load::full_speed(&master.address(), 4, 2);
    load.more(100);
    for _ in 0..10 {
        let worker = master.slot(0).into_iter().find(|worker| worker.state == "ready").expect("a ready worker");
        process::signal(worker.pid.expect("a pid") as i32, Signal::SIGKILL);
        until_gone(&site, &[worker.pid.expect("a pid") as i32, app_pid(&worker).expect("a pid")]);
        load.more(50);
        master.ctl(&["restart", "0"]).expect(0);
    }
    load.finish();
    only_workers_and_apps(&master);
    // Every app that ever served and is gone has finished by itself; at least ten were left behind by a killed worker.
    let count = |what: &str| site.history().iter().filter(|entry| entry.what == what).count();
    assert_eq!(count("exit"), count("serving") - 2, "{:#?}", site.history());
    assert!(count("exit") >= 10);
}

#[test]
fn a_request_in_the_hands_of_a_killed_workers_app_is_answered() {
    let site = Site::new();
    let master = site.steady("41", "", 1);
    let address = master.address();
    let client = std::thread::spawn(move || tests::http::get(&address, "/gate/answer"));
    let asked = site.arrival("answer");
    let worker = master.slot(0)[0].clone();
    assert_eq!(app_pid(&worker), Some(asked.app.pid));
    process::signal(worker.pid.expect("a pid") as i32, Signal::SIGKILL);
    // P3 leaves room beside the one that drains: the slot is filled at once.
    master.until("filled", |stats| {
        stats.worker_status.iter().any(|other| other.state == "ready" && other.incarnation > worker.incarnation)
    });
    assert!(process::look(asked.app.pid).is_some());
    let pid = asked.app.pid;
    asked.open();
    assert_eq!(client.join().expect("a client").expect("an answer"), "release=41 gate=answer\n");
    site.until_ended(pid);
}

#[test]
fn a_killed_worker_of_a_stubborn_app_is_drained_for_the_drain_timeout_only() {
    let site = Site::new();
    site.release("41", "ignore-term\ndaemon");
    site.deploy("41");
    let master = site.master().workers(1).options(&["--drain-timeout", "500ms"]).start();
    master.until_state("steady");
    let old = family(&master);
    let worker = master.slot(0)[0].clone();
    process::signal(worker.pid.expect("a pid") as i32, Signal::SIGKILL);
    until_gone(&site, &old);
    master.until("respawned", |stats| all_on(stats, "41") && stats.worker_status[0].incarnation > worker.incarnation);
}

#[test]
fn stop_leaves_nothing() {
    let site = Site::new();
    let mut master = with_family(&site, 2);
    let old = family(&master);
    master.signal(Signal::SIGTERM);
    assert_eq!(master.end().code(), Some(0));
    for pid in old {
        assert!(process::look(pid).is_none(), "{:?}", process::look(pid));
    }
    assert!(!site.socket().exists());
}

#[test]
fn as_pid_1_of_a_namespace() {
    let site = Site::new();
    let unshare: &[&str] = if nix::unistd::geteuid().is_root() {
        &["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
    } else {
        &["unshare", "--user", "--map-root-user", "--pid", "--fork", "--mount-proc", "--kill-child"]
    };
    let allowed = Command::new(unshare[0]).args(&unshare[1..]).arg("true").output().expect("unshare is installed");
    if !allowed.status.success() {
        eprintln!("NOT TESTED: this kernel allows no pid namespace: {}", String::from_utf8_lossy(&allowed.stderr));
        assert!(std::env::var_os("CI").is_none(), "CI has to be able to");
        return;
    }
    site.release("41", FAMILY);
    site.deploy("41");
    let master = site.master().workers(2).options(&["--drain-timeout", "500ms"]).wrap(unshare).start();
    master.until_state("steady");
    assert_eq!(master.stats().pid, 1, "the master is the namespace's first process");
    // Pids in its stats are the namespace's; from out here its processes are below unshare's.
    let below = |name: &str| {
        let all = process::descendants(master.pid());
        all.into_iter()
            .filter(|process| process.command.starts_with(name))
            .map(|process| process.pid)
            .collect::<Vec<_>>()
    };
    let apps: Vec<i32> =
        below("fixture").into_iter().filter(|pid| process::environment(*pid).contains_key("LISTEN_PID")).collect();
    assert!(!apps.is_empty());
    site.release("42", FAMILY);
    master.roll("42").expect(0);
    site.release("43", "bare-daemon\nchildren 2\nexit 1");
    master.roll("43").expect(3);
    for pid in below("worker") {
        process::signal(pid, Signal::SIGKILL);
        site.until_ended(pid);
    }
    master.until("all are back", |stats| {
        all_on(stats, "42") && stats.worker_status.iter().all(|worker| worker.crashes == 1)
    });
    let zombies = process::zombies(master.pid());
    assert!(zombies.is_empty(), "{}", process::table(&zombies));
    // unshare, the master, and for each slot a worker, an app and its family of five.
    let all = process::descendants(master.pid());
    assert_eq!(all.len(), 1 + 2 * 7, "{}", process::table(&all));
}

#[test]
fn the_stop_signal_reaches_the_rest_of_the_group() {
    // The app's first process is a shell that ends at once on TERM; what it started is asked, too, and may finish.
    let site = Site::new();
    site.release("41", "drain-gate drain");
    site.deploy("41");
    let fixture = tests::binaries::binary("fixture");
    let line = format!("{} & wait", fixture.display());
    let master = site.master().workers(1).command(&["sh", "-c", &line]).start();
    master.until_state("steady");
    site.release("42", "");
    site.deploy("42");
    let ctl = master.ctl_start(&["phased-restart"]);
    let draining = site.arrival("drain");
    assert_eq!(draining.app.release, "41");
    draining.open();
    ctl.end().expect(0);
    let left: Vec<_> = site.history().into_iter().filter(|entry| entry.what == "exit").collect();
    assert_eq!(left.len(), 1, "the server behind the shell finished");
    only_children(&master, &["worker", "sh", "fixture"]);
}

fn only_children(master: &Master<'_>, names: &[&str]) {
    let family = process::descendants(master.pid());
    let known = |command: &str| names.iter().any(|name| command.contains(name));
    assert!(family.len() == names.len() && family.iter().all(|p| known(&p.command)), "{}", process::table(&family));
}

#[test]
fn another_users_app_is_gone_too() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("NOT TESTED: only root can start an app as another user");
        assert!(std::env::var_os("CI").is_none(), "CI has to be able to");
        return;
    }
    // setuid clears the parent-death signal: a killed worker's app is found all the same.
    let site = Site::new();
    site.release("41", "quiet");
    site.deploy("41");
    let setpriv = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"];
    // The binary may stand in a folder that the other user cannot enter: a copy in the site is readable.
    let copy = site.root().join("fixture");
    tests::binaries::copy("fixture", &copy);
    let words = [&setpriv[..], &[copy.to_str().unwrap()]].concat();
    let master = site.master().workers(1).command(&words).start();
    master.until_state("steady");
    let worker = master.slot(0)[0].clone();
    assert_eq!(release_name(&worker), "41");
    let app = app_pid(&worker).expect("a pid");
    assert_eq!(process::status(app)["Uid"].split_whitespace().next(), Some("65534"));
    process::signal(worker.pid.expect("a pid") as i32, Signal::SIGKILL);
    site.until_ended(app);
    master.until("respawned", |stats| all_on(stats, "41") && stats.worker_status[0].incarnation > worker.incarnation);
    only_workers_and_apps(&master);
}

#[test]
fn workers_killed_together_leave_room_for_what_drains() {
    let site = Site::new();
    let master = site.steady("41", "drain-gate finish", 3);
    let trace = master.trace();
    let old = master.app_pids();
    // Ready at once, and nothing to wait for: what comes back has no gate.
    site.release("41", "");
    let workers: Vec<i32> = (0..3).map(|slot| master.slot(slot)[0].pid.expect("a pid") as i32).collect();
    // Each of them has left its app behind, and each app counts until it is gone.
    let begun = trace.len();
    workers.iter().for_each(|pid| process::signal(*pid, Signal::SIGKILL));
    let mut from = begun;
    for _ in 0..3 {
        from = master.until_step(from, "a lost worker", |step| step.starts_with("> lost")) + 1;
    }
    let alive = |trace: &str| {
        let count = |what: &str| trace.lines().filter(|line| line.starts_with(what)).count();
        3 + count("< spawn") - count("> gone")
    };
    let mut seen = String::new();
    for step in &trace.all()[begun..] {
        seen.push_str(step);
        assert!(alive(&seen) <= 4, "P3: {} apps with 3 workers and surge 1:\n{seen}", alive(&seen));
    }
    (0..3).for_each(|_| site.open("finish"));
    until_gone(&site, &old);
    master.until("refilled", |stats| all_on(stats, "41") && stats.booted_workers == 3);
    only_workers_and_apps(&master);
}

#[test]
fn a_worker_that_is_told_to_end_while_it_boots_says_so() {
    let site = Site::new();
    let master = site.steady("41", "", 1);
    site.release("42", "print so far\ngate never");
    site.deploy("42");
    let restart = master.ctl_start(&["phased-restart"]);
    let _booting = site.arrival("never");
    let worker = master.slot(0).into_iter().find(|worker| worker.state == "booting").expect("a booting worker");
    process::signal(worker.pid.expect("a pid") as i32, Signal::SIGTERM);
    let output = restart.end().expect(3);
    assert!(output.stderr.contains("stage ready: its worker was told to end"), "{}", output.stderr);
    assert!(output.stderr.contains("| so far"), "{}", output.stderr);
}
