//! Bad input gets a clear error, and nothing is lost: the rows of the contract's table that have no file of their own.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;

use tests::Site;
use tests::master::all_on;

#[test]
fn a_command_that_is_not_there() {
    let site = Site::new();
    site.release("41", "");
    site.deploy("41");
    let said = site.master().workers(1).command(&["no-such-program", "--port", "1"]).run().expect(3);
    assert!(said.stderr.contains("stage exec") && said.stderr.contains("no-such-program"), "{}", said.stderr);
    assert!(said.stderr.contains("PATH"), "where it was looked for: {}", said.stderr);
    let said = site.master().workers(1).command(&["./none"]).run().expect(3);
    assert!(said.stderr.contains("stage exec") && said.stderr.contains("./none"), "{}", said.stderr);
}

#[test]
fn a_command_that_is_not_executable() {
    let site = Site::new();
    site.release("41", "");
    site.deploy("41");
    let file = site.release_dir("41").join("app");
    fs::write(&file, "#!/bin/sh\n").expect("a file");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).expect("a mode");
    let said = site.master().workers(1).command(&["./app"]).run().expect(3);
    assert!(said.stderr.contains("stage exec") && said.stderr.contains("./app"), "{}", said.stderr);
    assert!(said.stderr.to_lowercase().contains("execut") || said.stderr.contains("ermission"), "{}", said.stderr);
    // An interpreter that is not there is as good as no program.
    fs::write(&file, "#!/no/such/interpreter\n").expect("a file");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).expect("a mode");
    let said = site.master().workers(1).command(&["./app"]).run().expect(3);
    assert!(said.stderr.contains("stage exec"), "{}", said.stderr);
}

#[test]
fn no_procfile_or_no_such_line() {
    let site = Site::new();
    site.release("41", "");
    site.deploy("41");
    let said = site.master().workers(1).procfile().run().expect(3);
    assert!(said.stderr.contains("stage exec") && said.stderr.contains("Procfile"), "{}", said.stderr);
    fs::write(site.release_dir("41").join("Procfile"), "worker: true\n").expect("a file");
    let said = site.master().workers(1).procfile().options(&["--process", "web"]).run().expect(3);
    assert!(said.stderr.contains("web") && said.stderr.contains("worker"), "what there is: {}", said.stderr);
}

#[test]
fn an_address_in_use_names_its_holder() {
    let site = Site::new();
    site.release("41", "");
    site.deploy("41");
    let holder = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = format!("tcp://{}", holder.local_addr().expect("an address"));
    let said = site.master().listen(&[&address]).run().expect(1);
    assert!(said.stderr.contains(address.trim_start_matches("tcp://")), "{}", said.stderr);
    assert!(said.stderr.contains(&format!("{}", std::process::id())), "names the holder: {}", said.stderr);
    assert_eq!(site.boots("41"), 0);
}

#[test]
fn a_control_socket_held_by_a_living_master() {
    let site = Site::new();
    let master = site.steady("41", "", 1);
    let said = site.master().run().expect(1);
    assert!(said.stderr.contains(site.socket().to_str().unwrap()), "{}", said.stderr);
    assert!(said.stderr.contains(&master.pid().to_string()), "names the holder: {}", said.stderr);
    // The first one did not notice.
    master.ctl(&["status"]).expect(0);
    assert_eq!(site.boots("41"), 1);
}

#[test]
fn a_stale_control_socket_is_replaced() {
    let site = Site::new();
    drop(UnixListener::bind(site.socket()).expect("a socket"));
    assert!(site.socket().exists());
    site.release("41", "");
    site.deploy("41");
    // The harness would find the stale file: it is the living one that answers.
    let master = site.master().workers(1).start();
    master.until_state("steady");
    master.ctl(&["status"]).expect(0);
}

#[test]
fn a_unix_listener_in_use_or_stale() {
    let site = Site::new();
    site.release("41", "");
    site.deploy("41");
    let path = site.root().join("run/app.sock");
    let holder = UnixListener::bind(&path).expect("a socket");
    let address = format!("unix://{}", path.display());
    let said = site.master().listen(&[&address]).run().expect(1);
    assert!(said.stderr.contains(path.to_str().unwrap()), "{}", said.stderr);
    drop(holder);
    let master = site.master().workers(1).listen(&[&address]).start();
    master.until_state("steady");
    assert!(master.get("/").starts_with("release=41"));
}

#[test]
fn a_dir_that_cannot_be_entered() {
    // For root every directory is enterable: here the way leads in a circle instead.
    let site = Site::new();
    let master = site.steady("41", "", 1);
    let (one, two) = (site.root().join("one"), site.root().join("two"));
    symlink(&two, &one).expect("a symlink");
    symlink(&one, &two).expect("a symlink");
    site.point(&one);
    let pids = master.app_pids();
    master.ctl(&["phased-restart"]).expect(1);
    master.ctl(&["reload-dir"]).expect(1);
    if !nix::unistd::geteuid().is_root() {
        let closed = site.release("42", "");
        fs::set_permissions(&closed, fs::Permissions::from_mode(0o000)).expect("a mode");
        let said = master.roll("42").expect(1);
        assert!(said.stderr.contains(closed.to_str().unwrap()), "{}", said.stderr);
    }
    assert_eq!(master.app_pids(), pids);
}

#[test]
fn a_release_that_vanishes_between_resolving_and_booting() {
    let site = Site::new();
    let master = site.steady("41", "", 2);
    site.release("42", "gate boot");
    site.deploy("42");
    let ctl = master.ctl_start(&["phased-restart"]);
    let first = site.arrival("boot");
    fs::remove_dir_all(site.release_dir("42")).expect("removed");
    first.open();
    let said = ctl.end().expect(3);
    assert!(said.stderr.contains("stage directory"), "{}", said.stderr);
    assert!(all_on(&master.stats(), "41"));
}

#[test]
fn no_more_processes_or_descriptors_is_a_boot_failure_and_not_the_end() {
    // RLIMIT_NOFILE of the master, lowered under it while it runs, until nothing can be made.
    let site = Site::new();
    let master = site.steady("41", "", 2);
    let pids = master.app_pids();
    let open = tests::process::descriptors(master.pid()).len();
    let limit = |soft: u64| {
        let said = std::process::Command::new("prlimit")
            .args(["--pid", &master.pid().to_string(), &format!("--nofile={soft}:")])
            .status();
        assert!(said.expect("prlimit (of util-linux) is installed").success());
    };
    let mut refused = 0;
    // From `open` on there is room for a client's connection, and bit by bit for more of a spawn.
    for spare in 1..8 {
        limit(4096);
        site.deploy("41");
        // The connection first: no client can be served when there is no descriptor for it.
        let mut control = tests::control::Control::open(&site.socket()).expect("a client");
        limit((open + spare) as u64);
        control.send(&proto::control::Request::PhasedRestart(proto::control::PhasedRestart::default())).expect("sent");
        let end = loop {
            match control.receive().expect("a reply") {
                Some(proto::control::Reply::Accepted { .. } | proto::control::Reply::Progress(_)) => {}
                end => break end,
            }
        };
        limit(4096);
        match end {
            Some(proto::control::Reply::Ended { code: proto::control::Code::Done, .. }) => continue,
            Some(proto::control::Reply::Ended { code, rollout, .. }) => {
                assert_eq!(code, proto::control::Code::Aborted);
                let report = rollout.report.expect("a report");
                assert_eq!(report.stage, proto::worker::Stage::Spawn, "{}", report.message);
                refused += 1;
            }
            Some(proto::control::Reply::Error { .. }) => refused += 1,
            other => panic!("{other:?}"),
        }
        master.until("steady", |stats| stats.state == "steady" && all_on(stats, "41"));
    }
    assert!(refused > 0, "{open} descriptors and some more were always enough");
    assert!(master.stats().worker_status.len() == 2 && !pids.is_empty());
    master.ctl(&["phased-restart"]).expect(0);
}
