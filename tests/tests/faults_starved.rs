//! The master runs out of open files or of processes in the middle of its work: a rollout then goes on or is undone, no
//! request fails, nothing ends that served; and when there is room again, everything works. (A full disk: `state.rs`.)

use std::fs;
use std::os::unix::fs::chown;
use std::process::Command;

use nix::sys::signal::Signal;
use tests::aftermath::{kill, settled};
use tests::master::{Start, name_of};
use tests::{Load, Master, Site, process};

/// What of a living process is limited, as prlimit(1) calls it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Limit {
    Files,
    /// Of the process's user, threads counted.
    Processes,
}

/// Sets a soft limit of a master; what it was. Whoever sets it has to be the same user.
fn limit(master: &Master<'_>, what: Limit, to: u64) -> u64 {
    let (option, name) = match what {
        Limit::Files => ("--nofile", "Max open files"),
        Limit::Processes => ("--nproc", "Max processes"),
    };
    let limits = fs::read_to_string(format!("/proc/{}/limits", master.pid())).expect("limits");
    let line = limits.lines().find_map(|line| line.strip_prefix(name)).expect("a line");
    let was = line.split_whitespace().next().expect("a number");
    let user = &process::status(master.pid())["Uid"];
    let user = user.split_whitespace().next().expect("a number");
    let set = Command::new("setpriv")
        .args(["--reuid", user, "--regid", user, "--keep-groups", "prlimit", "--pid", &master.pid().to_string()])
        .arg(format!("{option}={to}:"))
        .status();
    assert!(set.expect("setpriv runs").success());
    was.parse().unwrap_or(u64::MAX)
}

/// Lets a master with only so much of something do a rollout from 41 to 42, and then, with room again, to 43.
fn rolls<'a>(site: &'a Site, start: Start<'a>, what: Limit, room: impl Fn(&Master<'_>) -> u64) {
    site.release("41", "");
    site.deploy("41");
    let mut master = start.start();
    master.until_state("steady");
    // An app that boots within a limit of processes has it, too, and no thread for each client: clients come later then.
    let load = (what == Limit::Files).then(|| Load::start(&master.address()));
    let more = |load: &Option<Load>| load.iter().for_each(|load| load.more(20));
    more(&load);
    for release in ["42", "43"] {
        site.release(release, "");
    }
    site.deploy("42");
    let seen = master.trace().len();
    let room = room(&master);
    let old = limit(&master, what, room);
    // No descriptor is needed to ask for it.
    master.signal(Signal::SIGUSR1);
    master.until_step(seen, "the end of the rollout", |step| step.contains("\n< ended "));
    more(&load);
    assert!(!master.has_ended());
    limit(&master, what, old);
    let (release, stats) = settled(&master);
    let last = stats.last_rollout.as_ref().expect("a rollout");
    // What cannot be put back at once for want of the same thing is `degraded`, and comes back with the room.
    let outcomes: &[&str] = if release == "42" { &["promoted"] } else { &["aborted", "degraded"] };
    assert!(outcomes.contains(&last.outcome.as_str()), "room {room}: {stats:#?}");
    assert_eq!(name_of(&stats.release), release, "room {room}: {stats:#?}");
    if release == "41" {
        assert!(last.report.is_some(), "room {room}: nobody knows why: {last:#?}");
    }
    master.roll("43").expect(0);
    assert_eq!(settled(&master).0, "43");
    let load = load.unwrap_or_else(|| Load::start(&master.address()));
    load.more(20);
    load.finish();
    let fewest = site.fewest_serving(2);
    assert!(fewest >= 2, "P2, room {room}: {fewest}\n{:#?}", site.history());
}

#[test]
fn open_files() {
    // A worker takes two for good and some more while it is made.
    for spare in 0..8 {
        let site = Site::new();
        let room = |master: &Master<'_>| {
            let used = process::descriptors(master.pid());
            used.keys().max().map_or(0, |most| *most as u64 + 1) + spare
        };
        rolls(&site, site.master(), Limit::Files, room);
    }
}

#[test]
fn open_files_when_a_worker_dies() {
    let site = Site::new();
    let master = site.steady("41", "leave-gate crash 1", 2);
    let load = Load::start(&master.address());
    load.more(10);
    site.release("41", "");
    let seen = master.trace().len();
    let old = limit(&master, Limit::Files, 4);
    site.arrival("crash").open();
    // Nothing can be made; it is tried again, and slower each time.
    master.until_step(seen, "a failed boot", |step| step.starts_with("> boot-failed"));
    load.more(20);
    limit(&master, Limit::Files, old);
    assert_eq!(settled(&master).0, "41");
    load.more(20);
    load.finish();
}

#[test]
fn open_files_of_the_next_master() {
    // The first one raises its limit to what it may have; the next one needs more than it is given, too.
    let site = Site::new();
    site.release("41", "");
    site.deploy("41");
    let start = || site.master().workers(8).wrap(&["sh", "-c", "ulimit -Sn 32; exec \"$@\"", "sh"]);
    let master = start().start();
    master.until_state("steady");
    let load = Load::start(&master.address());
    load.more(10);
    let apps = master.app_pids();
    kill(&master);
    let next = start().start();
    assert_eq!(settled(&next).0, "41");
    assert_eq!(next.app_pids(), apps);
    load.more(20);
    load.finish();
}

/// A user that nobody else is: the limit counts all processes of a user.
const NOBODY_ELSE: u32 = 61_234;

#[test]
fn processes() {
    // It does not bind root; and only root can become somebody else.
    if !nix::unistd::Uid::effective().is_root() {
        eprintln!("not root: not tested");
        return;
    }
    for spare in 0..4 {
        let site = Site::new();
        // Each round has a user of its own: what the last one left may still be ending.
        let user = NOBODY_ELSE + spare;
        for folder in [site.root().to_owned(), site.root().join("run"), site.state()] {
            chown(&folder, Some(user), Some(user)).expect("chown");
        }
        let gates = site.root().join("gates.sock");
        chown(&gates, Some(user), Some(user)).expect("chown");
        let id = user.to_string();
        let start = site.master().wrap(&["setpriv", "--reuid", &id, "--regid", &id, "--clear-groups"]);
        let room = |_: &Master<'_>| threads_of(user) + u64::from(spare);
        rolls(&site, start, Limit::Processes, room);
    }
}

/// How many threads a user has.
fn threads_of(user: u32) -> u64 {
    let of = |pid: i32| {
        let status = process::status(pid);
        let uid = status.get("Uid")?.split_whitespace().next()?.parse::<u32>().ok()?;
        (uid == user).then(|| status.get("Threads")?.parse::<u64>().ok()).flatten()
    };
    process::all().iter().filter_map(|process| of(process.pid)).sum()
}
