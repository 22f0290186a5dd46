//! The listeners are shared: what a release does to them must not break the others.

use std::os::unix::fs::{FileTypeExt, MetadataExt};

use nix::sys::signal::Signal;
use tests::http::{self, Address};
use tests::master::all_on;
use tests::{Site, process};

#[test]
fn shutdown_on_a_tcp_listener_is_revived() {
    let site = Site::new();
    let master = site.steady("41", "", 2);
    let address = master.address();
    site.release("42", "shutdown-listener\nslot 0 exit 1");
    master.roll("42").expect(3);
    // The same port, and the old workers behind it.
    for _ in 0..20 {
        assert!(http::get(&address, "/").expect("an answer").starts_with("release=41"));
    }
    assert_eq!(master.address(), address);
    assert!(all_on(&master.stats(), "41"));
}

#[test]
fn shutdown_at_exit_does_not_break_the_next_release() {
    let site = Site::new();
    let master = site.steady("41", "shutdown-at-exit", 2);
    let address = master.address();
    site.release("42", "");
    master.roll("42").expect(0);
    for _ in 0..20 {
        assert!(http::get(&address, "/").expect("an answer").starts_with("release=42"));
    }
    assert!(all_on(&master.stats(), "42"));
}

#[test]
fn a_small_backlog_of_one_release_is_undone() {
    let site = Site::new();
    let master = site.steady("41", "", 1);
    let backlog = || master.get("/backlog").parse::<u32>().expect("a number");
    let before = backlog();
    assert!(before >= 128, "{before}");
    site.release("42", "listen 1");
    master.roll("42").expect(0);
    assert_eq!(backlog(), before, "listened again when it was ready");
    // One that fails after it broke the backlog.
    site.release("43", "listen 1\nexit 1");
    master.roll("43").expect(3);
    assert_eq!(backlog(), before, "listened again after its exit");
}

#[test]
fn a_unix_socket_that_apps_unlink_is_put_back() {
    let site = Site::new();
    site.release("41", "unlink-at-exit");
    site.deploy("41");
    let path = site.root().join("run/app.sock");
    let listen = format!("unix://{}?mode=0660", path.display());
    let master = site.master().workers(2).listen(&[&listen]).start();
    master.until_state("steady");
    let mode = path.metadata().expect("a socket").mode() & 0o777;
    assert_eq!(mode, 0o660);
    let address = Address::Unix(path.clone());
    // The path is away from an app's end until the master sees it: no client could be spared that.
    for name in ["42", "43", "44"] {
        site.release(name, "unlink-at-exit");
        master.roll(name).expect(0);
        // What was put back is the socket of all: a new one would lead to nobody.
        assert!(path.symlink_metadata().expect("a socket").file_type().is_socket());
        let answer = format!("release={name} ");
        assert!((0..8).all(|_| http::get(&address, "/").expect("an answer").starts_with(&answer)));
    }
    assert_eq!(path.metadata().expect("a socket").mode() & 0o777, 0o660);
}

#[test]
fn a_unix_socket_that_was_shut_down_is_bound_anew() {
    let site = Site::new();
    site.release("41", "");
    site.deploy("41");
    let path = site.root().join("run/app.sock");
    let listen = format!("unix://{}", path.display());
    let master = site.master().workers(2).listen(&[&listen]).start();
    master.until_state("steady");
    let old = master.app_pids();
    site.release("42", "shutdown-listener\nslot 0 exit 1");
    master.roll("42").expect(3);
    // Nothing revives a Unix socket: it is bound anew, the workers are replaced, and that is said.
    master.until("all workers have the new socket", |stats| {
        all_on(stats, "41") && stats.worker_status.iter().all(|w| !old.contains(&(w.app_pid.unwrap_or(0) as i32)))
    });
    for _ in 0..10 {
        assert!(http::get(&Address::Unix(path.clone()), "/").expect("an answer").starts_with("release=41"));
    }
    assert!(master.stderr.text().contains("app.sock"), "{}", master.stderr.text());
}

#[test]
fn the_readiness_of_a_serving_child_is_seen() {
    let site = Site::new();
    let master = site.steady("41", "serving-child", 1);
    assert!(master.get("/").starts_with("release=41"));
    let stats = master.stats();
    assert_eq!(stats.worker_status[0].evidence.map(|e| e.to_string()).as_deref(), Some("accepting"));
}

#[test]
fn an_app_that_says_ready_too_early_is_not_believed() {
    // As gunicorn does, which says READY=1 before it loads the application.
    let site = Site::new();
    let master = site.steady("41", "", 1);
    let old = master.app_pids();
    site.release("42", "notify READY=1\nexit 1");
    master.roll("42").expect(3);
    assert_eq!(master.app_pids(), old);
}

#[test]
fn notify_and_alive_are_evidence_where_they_are_asked_for() {
    let site = Site::new();
    site.release("41", "notify READY=1\nwait-forever");
    site.deploy("41");
    let master = site.master().workers(1).options(&["--ready", "notify"]).start();
    master.until_state("steady");
    assert_eq!(master.stats().worker_status[0].evidence, Some(proto::worker::Evidence::Notify));
    drop(master);
    site.release("41", "wait-forever");
    let master = site.master().workers(1).options(&["--ready", "alive:100ms"]).start();
    master.until_state("steady");
    assert_eq!(master.stats().worker_status[0].evidence, Some(proto::worker::Evidence::Alive));
    drop(master);
    // Without listeners `auto` is notify as well.
    site.release("41", "notify READY=1\nwait-forever");
    let master = site.master().workers(1).listen(&[]).start();
    master.until_state("steady");
    assert_eq!(master.stats().worker_status[0].evidence, Some(proto::worker::Evidence::Notify));
}

#[test]
fn an_app_that_listens_elsewhere_is_hinted_at_while_it_boots() {
    let site = Site::new();
    site.release("41", "listen-elsewhere");
    site.deploy("41");
    let master = site.master().workers(1).start();
    // After 5 s.
    let line = master.until_log("not on the inherited socket");
    assert!(line.contains("127.0.0.1:"), "{line}");
    process::signal(master.pid(), Signal::SIGTERM);
}
