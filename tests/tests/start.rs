//! How a master is started: its defaults, its listeners, its own surroundings.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use nix::sys::signal::Signal;
use tests::binaries::{binary, copy};
use tests::http::{self, Address};
use tests::master::{all_on, app_pid};
use tests::{Site, process};

#[test]
fn sockets_inherited_by_listen_fds_are_taken_as_well() {
    let site = Site::new();
    site.release("41", "quiet");
    site.deploy("41");
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let inherited = Address::Tcp(listener.local_addr().expect("an address"));
    let master = site.master().workers(1).inherit(listener.into()).start();
    master.until_state("steady");
    let stats = master.stats();
    assert_eq!(stats.listeners.len(), 2, "{:#?}", stats.listeners);
    for listener in &stats.listeners {
        let address: Address = listener.address.parse().expect("an address");
        assert!(http::get(&address, "/").expect("an answer").starts_with("release=41"));
    }
    assert!(stats.listeners.iter().any(|listener| listener.address == inherited.to_string()));
    let env = master.get("/env");
    assert!(env.contains("\nLISTEN_FDS=2\n"), "{env}");
    assert!(env.contains(&format!("\nLISTEN_PID={}\n", master.app_pids()[0])), "the app's own: {env}");
    assert_eq!(master.get("/fds").lines().count(), 5);
}

#[test]
fn stray_descriptors_of_the_master_reach_no_app() {
    let site = Site::new();
    site.release("41", "quiet");
    site.deploy("41");
    let stray = ["sh", "-c", "exec 5</etc/passwd 7>/dev/null 9<>/dev/zero; exec \"$@\"", "sh"];
    let master = site.master().workers(1).wrap(&stray).start();
    master.until_state("steady");
    let fds = master.get("/fds");
    assert_eq!(
        fds.lines().map(|line| line.split(' ').next().unwrap()).collect::<Vec<_>>(),
        ["0", "1", "2", "3"],
        "{fds}"
    );
}

#[test]
fn a_master_without_standard_descriptors() {
    let site = Site::new();
    site.release("41", "print hello\neprint hello\nquiet");
    site.deploy("41");
    let closed = ["sh", "-c", "exec \"$@\" <&- >&- 2>&-", "sh"];
    let master = site.master().workers(1).wrap(&closed).start();
    master.until_state("steady");
    assert!(master.get("/").starts_with("release=41"));
    let fds = master.get("/fds");
    assert_eq!(
        fds.lines().map(|line| line.split(' ').next().unwrap()).collect::<Vec<_>>(),
        ["0", "1", "2", "3"],
        "{fds}"
    );
    site.release("42", "print hello\nexit 1");
    master.roll("42").expect(3);
}

#[test]
fn the_number_of_workers_comes_from_the_environment_and_stays_there() {
    let site = Site::new();
    site.release("41", "");
    site.deploy("41");
    let master = site.master().default_workers().env("WEB_CONCURRENCY", "3").start();
    master.until_state("steady");
    assert_eq!(master.stats().workers, 3);
    assert!(!master.get("/env").contains("WEB_CONCURRENCY"));
    drop(master);
    let master = site.master().default_workers().start();
    let cpus = std::thread::available_parallelism().expect("a number").get();
    assert_eq!(master.stats().workers as usize, cpus);
}

#[test]
fn ipv6_and_a_unix_socket_with_a_mode_at_once() {
    let site = Site::new();
    site.release("41", "");
    site.deploy("41");
    let path = site.root().join("run/app.sock");
    let unix = format!("local=unix://{}?mode=0600", path.display());
    let mut listen = vec!["tcp://127.0.0.1:0", unix.as_str()];
    // Some machines have no IPv6 at all.
    if TcpListener::bind("[::1]:0").is_ok() {
        listen.push("six=tcp://[::1]:0");
    }
    let mut master = site.master().workers(2).listen(&listen).start();
    master.until_state("steady");
    for listener in master.stats().listeners {
        let address: Address = listener.address.parse().expect("an address");
        assert!(http::get(&address, "/").expect("an answer").starts_with("release=41"), "{address}");
    }
    assert_eq!(path.metadata().expect("a socket").mode() & 0o777, 0o600);
    master.ctl(&["stop"]).expect(0);
    assert_eq!(master.end().code(), Some(0));
    assert!(!path.exists(), "the socket's path is the master's to remove");
}

#[test]
fn binaries_that_are_replaced_under_a_living_master_are_not_mixed() {
    let site = Site::new();
    let bin = site.root().join("bin");
    fs::create_dir(&bin).expect("a folder");
    for name in ["master", "worker"] {
        copy(name, &bin.join(name));
    }
    site.release("41", "");
    site.deploy("41");
    let master = site.master().workers(1).bin(&bin).start();
    master.until_state("steady");
    // As a package upgrade does: another file of the same name.
    let other = bin.join("other");
    fs::write(&other, "#!/bin/sh\nexit 1\n").expect("a file");
    fs::set_permissions(&other, fs::Permissions::from_mode(0o755)).expect("a mode");
    fs::rename(&other, bin.join("worker")).expect("renamed");
    process::signal(app_pid(&master.slot(0)[0]).expect("a pid"), Signal::SIGKILL);
    master.until("respawned", |stats| all_on(stats, "41") && stats.worker_status[0].crashes == 1);
    site.release("42", "");
    master.roll("42").expect(0);
}

#[test]
fn no_worker_binary_is_an_error_that_names_where_it_was_looked_for() {
    let site = Site::new();
    let bin = site.root().join("bin");
    fs::create_dir(&bin).expect("a folder");
    copy("master", &bin.join("master"));
    site.release("41", "");
    site.deploy("41");
    let said = site.master().bin(&bin).run().expect(1);
    assert!(said.stderr.contains(bin.join("worker").to_str().unwrap()), "{}", said.stderr);
    assert!(said.stderr.contains("PHASED_WORKER"), "the way out: {}", said.stderr);
    // Which is taken.
    let worker = binary("worker");
    let master = site.master().workers(1).bin(&bin).env("PHASED_WORKER", worker.to_str().unwrap()).start();
    master.until_state("steady");
}

#[test]
fn what_the_master_was_told_stands_in_its_stats() {
    let site = Site::new();
    let master = site.steady("41", "", 1);
    let stats = master.stats();
    assert_eq!((stats.name.as_str(), stats.pid as i32), ("site", master.pid()));
    assert_eq!(stats.dir, site.current().to_str().unwrap().as_bytes());
    let said = master.ctl(&["stats"]).expect(0);
    for word in ["site", "steady", "41"] {
        assert!(said.stdout.contains(word), "{word} in {}", said.stdout);
    }
}

#[test]
fn another_master_can_start_as_soon_as_stop_has_returned() {
    let site = Site::new();
    site.release("41", "");
    site.deploy("41");
    let first = site.master().workers(1).start();
    first.until_state("steady");
    let address = first.address().to_string();
    first.ctl(&["stop"]).expect(0);
    drop(first);
    for _ in 0..10 {
        // The same address and the same control socket, without a pause.
        let mut master = site.master().workers(1).listen(&[&address]).start();
        master.until_state("steady");
        master.ctl(&["stop"]).expect(0);
        let next = site.master().workers(1).listen(&[&address]).start();
        next.until_state("steady");
        assert_eq!(master.end().code(), Some(0));
        next.ctl(&["stop"]).expect(0);
    }
}
