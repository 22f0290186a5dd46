//! `--user`, `--group`, `--umask`: the master stays root, and nothing of a release ever is.

use std::collections::BTreeMap;
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;

use nix::sys::signal::Signal;
use nix::unistd::User;
use tests::master::{Start, all_on, app_pid};
use tests::{Load, Master, Site, binaries, process, servers};

/// Whose the apps are. On every Debian and Ubuntu; on others `nobody` is enough for what is tested here.
fn user() -> User {
    let named = ["www-data", "nobody"].into_iter().find_map(|name| User::from_name(name).expect("a lookup"));
    named.expect("a user that is not root")
}

fn is_root() -> bool {
    let is_root = nix::unistd::geteuid().is_root();
    if !is_root {
        eprintln!("NOT TESTED: only root can start an app as another user");
        assert!(std::env::var_os("CI").is_none(), "CI has to be able to");
    }
    is_root
}

fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, PermissionsExt::from_mode(mode)).expect("a mode");
}

/// A site in which the user may leave traces, and a master that runs the fixture as that user.
fn theirs(site: &Site) -> Start<'_> {
    mode(site.root(), 0o777);
    mode(&site.root().join("gates.sock"), 0o666);
    // The binary may stand in a folder that the user cannot enter.
    let copy = site.root().join("fixture");
    if !copy.exists() {
        binaries::copy("fixture", &copy);
    }
    let log = site.root().join("apps.log");
    fs::OpenOptions::new().append(true).create(true).open(&log).expect("a log");
    mode(&log, 0o666);
    site.master().options(&["--user", &user().name, "--drain-timeout", "5s"]).command(&[copy])
}

fn steady<'a>(site: &'a Site, script: &str, workers: u32) -> Master<'a> {
    site.release("41", script);
    site.deploy("41");
    let master = theirs(site).workers(workers).start();
    master.until_state("steady");
    master
}

/// A line of a process's status, as often as it has columns.
fn has(status: &BTreeMap<String, String>, line: &str, value: &str) {
    let words: Vec<&str> = status[line].split_whitespace().collect();
    assert!(!words.is_empty() && words.iter().all(|word| *word == value), "{line}: {words:?} and not {value}");
}

/// The workers' own sockets.
fn doors(site: &Site) -> usize {
    fs::read_dir(site.root().join("run/site.sock.d")).map_or(0, Iterator::count)
}

fn workers(master: &Master<'_>) -> Vec<i32> {
    master.stats().worker_status.iter().filter_map(|worker| worker.pid).map(|pid| pid as i32).collect()
}

#[test]
fn worker_and_app_are_the_user_on_a_port_of_root_s() {
    if !is_root() {
        return;
    }
    let site = Site::new();
    let user = user();
    let free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
    let port = (600..1024).rev().find(free).expect("a free port below 1024");
    site.release("41", "");
    site.deploy("41");
    let listen = format!("tcp://127.0.0.1:{port}");
    let start = theirs(&site).workers(2).listen(&[&listen]).options(&["--umask", "027", "--limit", "nofile=777:888"]);
    let mut master = start.start();
    master.until_state("steady");
    has(&process::status(master.pid()), "Uid", "0");
    for pid in workers(&master).into_iter().chain(master.app_pids()) {
        let status = process::status(pid);
        has(&status, "Uid", &user.uid.to_string());
        has(&status, "Gid", &user.gid.to_string());
        has(&status, "NoNewPrivs", "1");
        has(&status, "CapEff", "0000000000000000");
        has(&status, "Umask", "0027");
        let limits = fs::read_to_string(format!("/proc/{pid}/limits")).expect("limits");
        let files = limits.lines().find(|line| line.starts_with("Max open files")).expect("a line");
        assert!(files.split_whitespace().eq("Max open files 777 888 files".split(' ')), "{files}");
        assert!(!status["Groups"].split_whitespace().any(|group| group == "0"), "{}", status["Groups"]);
    }
    let environment = process::environment(master.app_pids()[0]);
    assert_eq!(environment["USER"], user.name);
    assert_eq!(environment["LOGNAME"], user.name);
    assert_eq!(Path::new(&environment["HOME"]), user.dir);
    assert_eq!(master.get("/cwd"), site.release_dir("41").display().to_string());
    master.ctl(&["stop"]).expect(0);
    assert_eq!(master.end().code(), Some(0));
    assert_eq!(doors(&site), 0);
}

#[test]
fn rollouts_crashes_and_drains() {
    if !is_root() {
        return;
    }
    let site = Site::new();
    let mut master = steady(&site, "", 2);
    let load = Load::start(&master.address());
    load.more(20);
    site.release("42", "");
    master.roll("42").expect(0);
    site.release("43", "eprint no way\nexit 1");
    let said = master.roll("43").expect(3);
    assert!(said.stderr.contains("| no way"), "{}", said.stderr);
    load.more(20);
    load.finish();
    // A release that the user may not enter is refused, whatever root may.
    mode(&site.release("44", ""), 0o700);
    let said = master.roll("44").expect(3);
    assert!(said.stderr.contains("stage directory: the release directory"), "{}", said.stderr);
    let crashed = master.app_pids()[0];
    process::signal(crashed, Signal::SIGKILL);
    let stats = master.until("it is back", |stats| {
        all_on(stats, "42")
            && stats.booted_workers == 2
            && !stats.worker_status.iter().any(|w| app_pid(w) == Some(crashed))
    });
    assert_eq!(stats.worker_status.len(), doors(&site), "a socket for each worker, and none of those that are gone");
    master.ctl(&["stop"]).expect(0);
    assert_eq!(master.end().code(), Some(0));
    assert_eq!(doors(&site), 0);
    assert!(process::of_site(site.root()).is_empty());
}

#[test]
fn a_killed_worker_leaves_nothing_and_its_app_finishes() {
    if !is_root() {
        return;
    }
    let site = Site::new();
    let master = steady(&site, "children 2\ndaemon", 1);
    let worker = workers(&master)[0];
    let app = master.app_pids()[0];
    let left: Vec<i32> = process::descendants(worker).iter().map(|process| process.pid).collect();
    assert!(left.len() >= 4, "{left:?}");
    process::signal(worker, Signal::SIGKILL);
    left.iter().for_each(|pid| site.until_ended(*pid));
    let exits = site.history().into_iter().filter(|entry| entry.what == "exit").count();
    assert_eq!(exits, 1, "{app} has heard the stop signal: {:#?}", site.history());
    master.until("the slot is filled", |stats| {
        all_on(stats, "41") && stats.worker_status.len() == 1 && stats.worker_status[0].pid != Some(worker as u32)
    });
    assert_eq!(doors(&site), 1);
}

#[test]
fn a_request_in_the_hands_of_a_killed_workers_app_is_answered() {
    if !is_root() {
        return;
    }
    let site = Site::new();
    let master = steady(&site, "", 1);
    let address = master.address();
    let client = std::thread::spawn(move || tests::http::get(&address, "/gate/answer"));
    let asked = site.arrival("answer");
    process::signal(workers(&master)[0], Signal::SIGKILL);
    master.until("filled", |stats| {
        stats.worker_status.iter().any(|other| other.state == "ready" && app_pid(other) != Some(asked.app.pid))
    });
    let pid = asked.app.pid;
    asked.open();
    assert_eq!(client.join().expect("a client").expect("an answer"), "release=41 gate=answer\n");
    site.until_ended(pid);
}

#[test]
fn the_next_master_adopts_them() {
    if !is_root() {
        return;
    }
    let site = Site::new();
    let master = steady(&site, "children 1", 2);
    let (apps, theirs_before) = (master.app_pids(), workers(&master));
    let load = Load::start(&master.address());
    load.more(20);
    master.signal(Signal::SIGKILL);
    site.until_ended(master.pid());
    load.more(20);
    let mut next = theirs(&site).workers(2).start();
    next.until_state("steady");
    load.more(20);
    load.finish();
    assert_eq!((next.app_pids(), workers(&next)), (apps, theirs_before.clone()));
    // What an adopted worker leaves behind is no child of anybody here.
    let left: Vec<i32> = process::descendants(theirs_before[0]).iter().map(|process| process.pid).collect();
    process::signal(theirs_before[0], Signal::SIGKILL);
    left.iter().for_each(|pid| site.until_ended(*pid));
    next.until("filled", |stats| {
        // (It is steady also while a slot is respawned.)
        all_on(stats, "41") && !stats.worker_status.iter().any(|w| w.pid == Some(theirs_before[0] as u32))
    });
    assert_eq!(doors(&site), 2);
    next.ctl(&["upgrade"]).expect(0);
    site.release("42", "");
    next.roll("42").expect(0);
    next.ctl(&["stop"]).expect(0);
    assert_eq!(next.end().code(), Some(0));
    assert_eq!(doors(&site), 0);
}

#[test]
fn rehearsals_hooks_and_checks_are_the_user_s() {
    if !is_root() {
        return;
    }
    let site = Site::new();
    site.release("41", "");
    site.deploy("41");
    let uid = user().uid.to_string();
    let is_user = format!("test $(id -u) = {uid} && test $(whoami) = $USER");
    let socket = format!("unix://{}", site.root().join("app.sock").display());
    let check = format!("exec:{is_user}");
    let options =
        ["--check", "http:/health", "--check", &check, "--before-rollout", &is_user, "--before-boot", &is_user];
    for listen in ["tcp://127.0.0.1:0", &socket] {
        let mut master = theirs(&site).workers(1).listen(&[listen]).options(&options).start();
        master.until_state("steady");
        site.release("42", "health 503 sick");
        master.roll("42").expect(3);
        site.release("43", "");
        master.roll("43").expect(0);
        master.ctl(&["stop"]).expect(0);
        assert_eq!(master.end().code(), Some(0));
    }
}

#[test]
fn a_group_of_its_own_and_a_user_without_a_name() {
    if !is_root() {
        return;
    }
    let site = Site::new();
    site.release("41", "");
    site.deploy("41");
    // Opens the site to whoever it is.
    let _other = theirs(&site);
    let copy = site.root().join("fixture");
    let start = site.master().workers(1).options(&["--user", "64321", "--group", "64322"]).command(&[copy]);
    let master = start.start();
    master.until_state("steady");
    let status = process::status(master.app_pids()[0]);
    has(&status, "Uid", "64321");
    has(&status, "Gid", "64322");
    has(&status, "Groups", "64322");
    assert_eq!(process::environment(master.app_pids()[0])["HOME"], "/");
}

#[test]
fn what_cannot_be_is_a_usage_error() {
    let site = Site::new();
    site.release("41", "");
    site.deploy("41");
    for (options, said) in [
        (&["--user", "no-such-user"][..], "there is no user 'no-such-user'"),
        (&["--user", "root", "--group", "no-such-group"], "there is no group 'no-such-group'"),
        (&["--group", "root"], "--group needs --user"),
        (&["--user", "3999999999"], "--group"),
        (&["--limit", "files=3"], "there is no limit 'files'"),
        (&["--umask", "9"], "octal digits are wanted"),
    ] {
        let output = site.master().options(options).run();
        assert_eq!(output.code, Some(2), "{options:?}: {}", output.stderr);
        assert!(output.stderr.contains(said), "{options:?}: {}", output.stderr);
    }
}

#[test]
fn whoever_is_not_root_can_be_itself_alone() {
    if !is_root() {
        return;
    }
    let site = Site::new();
    site.release("41", "");
    site.deploy("41");
    let user = user();
    let (uid, gid) = (user.uid.to_string(), user.gid.to_string());
    let setpriv = ["setpriv", "--reuid", &uid, "--regid", &gid, "--clear-groups"];
    for folder in ["run", "state"] {
        chown(site.root().join(folder), Some(user.uid.as_raw()), Some(user.gid.as_raw())).expect("an owner");
    }
    // The programs, too, may stand where the user cannot go.
    let bin = site.root().join("bin");
    fs::create_dir(&bin).expect("a folder");
    ["master", "worker"].iter().for_each(|name| binaries::copy(name, &bin.join(name)));
    let output = site.master().bin(&bin).options(&["--user", "root"]).wrap(&setpriv).run();
    assert_eq!(output.code, Some(2), "{}", output.stderr);
    assert!(
        output.stderr.contains("only root can run workers as root, and this master is of uid"),
        "{}",
        output.stderr
    );
    let master = theirs(&site).bin(&bin).workers(1).wrap(&setpriv).start();
    master.until_state("steady");
    let status = process::status(master.app_pids()[0]);
    has(&status, "Uid", &uid);
    has(&status, "NoNewPrivs", "0");
}

#[test]
fn root_that_may_not_change_its_user_boots_nothing() {
    if !is_root() {
        return;
    }
    let site = Site::new();
    site.release("41", "");
    site.deploy("41");
    let output = theirs(&site).workers(1).wrap(&["setpriv", "--bounding-set", "-setuid"]).run();
    assert_eq!(output.code, Some(3), "{}", output.stderr);
    let user = user();
    let said =
        format!("stage spawn: cannot become the user {} (uid {}, gid {}): setresuid: ", user.name, user.uid, user.gid);
    assert!(output.stderr.contains(&said), "{}", output.stderr);
    assert_eq!(site.boots("41"), 0);
}

#[test]
fn gunicorn_as_the_user() {
    if !is_root() {
        return;
    }
    let site = Site::new();
    let server = &servers::GUNICORN_SYNC;
    for name in ["one", "two"] {
        server.release(&site, name, "good");
    }
    server.release(&site, "broken", "broken");
    site.deploy("one");
    let master = server.start(site.master().options(&["--ready", "auto", "--user", &user().name]));
    servers::all_on(&master.until_state("steady"), "one");
    for pid in master.app_pids() {
        has(&process::status(pid), "Uid", &user().uid.to_string());
    }
    let load = Load::start(&master.address());
    load.more(20);
    master.roll("two").expect(0);
    let said = master.roll("broken").expect(3);
    assert!(said.stderr.contains(server.error), "{}", said.stderr);
    load.more(20);
    load.finish();
    servers::all_on(&master.stats(), "two");
    servers::stopped(master);
}
