//! `--before-boot`: a hook that every app waits for.

mod common;

use std::fs;

use common::{Release, Worker, environment, idle, is_alive, listener, processes_with};
use proto::worker::{ExitStatus, FromWorker, Stage, Task, ToWorker};

fn was_started(worker: &Worker) -> bool {
    worker.seen.iter().any(|r| matches!(r, FromWorker::Started { .. }))
}

#[test]
fn it_runs_first_in_the_app_s_environment_and_without_its_sockets() {
    let (release, socket) = (Release::empty(), listener());
    let mut order = idle(&release, "before", &[&socket]);
    order.env = vec![(b"GIVEN".to_vec(), b"{release} {addr}".to_vec())];
    order.watchdog_ms = Some(60_000);
    order.before_boot = Some(
        b"env -0 > environment; pwd -P > where; readlink /proc/self/fd/* > fds; echo {slot} {phase} {addr}; echo err >&2"
            .to_vec(),
    );
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_worker"));
    command.env("LISTEN_FDS", "7").env("PHASED_REHEARSAL", "1").env("KEPT", "yes");
    let mut worker = Worker::start_as(&mut command, &[&socket]);
    worker.order(&ToWorker::Boot(order));
    worker.booted();
    assert_eq!(worker.stages(), [Stage::Directory, Stage::Hook, Stage::Exec, Stage::Ready]);
    assert_eq!(worker.seen.iter().filter(|r| matches!(r, FromWorker::Started { .. })).count(), 1, "the app alone");
    let real = release.path().canonicalize().unwrap();
    let read = |name: &str| fs::read_to_string(release.path().join(name)).unwrap();
    assert_eq!(read("where").trim_end(), real.to_str().unwrap());
    let address = socket.local_addr().unwrap();
    let environment = environment(&read("environment"));
    for (key, value) in [
        ("GIVEN", format!("{} {address}", real.display())),
        ("KEPT", "yes".into()),
        ("WORKER_INDEX", "2".into()),
        ("RELEASE_DIR", real.to_str().unwrap().into()),
        ("PHASED_TOKEN", "before".into()),
    ] {
        assert_eq!(environment.get(key), Some(&value), "{key}: {environment:#?}");
    }
    for prefix in ["LISTEN_", "EINHORN_", "SERVER_STARTER_", "FPM_", "NOTIFY_", "WATCHDOG_", "PHASED_REHEARSAL"] {
        assert!(!environment.keys().any(|key| key.starts_with(prefix)), "{prefix}");
    }
    assert!(!read("fds").contains("socket:"), "{}", read("fds"));
    worker.order(&ToWorker::Kill);
    let (_, worker) = worker.end();
    assert_eq!(worker.out(), format!("2 7 {address}\n"));
    assert_eq!(worker.err(), "err\n");
}

#[test]
fn one_that_fails_is_a_boot_failure_with_its_output() {
    for (line, message, exit) in [
        ("echo migrating; echo 'no such table' >&2; exit 3", "--before-boot exited with status 3", ExitStatus::Code(3)),
        ("kill -KILL $$", "--before-boot killed by SIGKILL", ExitStatus::Signal(9)),
    ] {
        let release = Release::empty();
        let mut order = idle(&release, "failing", &[]);
        order.before_boot = Some(line.into());
        let mut worker = Worker::boot(&order, &[]);
        let report = worker.refused();
        assert_eq!((report.stage, report.message.as_str(), report.exit), (Stage::Hook, message, Some(exit)));
        if exit == ExitStatus::Code(3) {
            assert_eq!(report.output, b"migrating\nno such table\n");
        }
        let (code, worker) = worker.end();
        assert_eq!(code, Some(0));
        assert!(!was_started(&worker), "no app");
    }
}

#[test]
fn it_counts_into_the_boot_timeout() {
    let release = Release::empty();
    let mut order = idle(&release, "endless-hook", &[]);
    order.boot_timeout_ms = 300;
    order.before_boot = Some(b"echo waits; sleep 1000; true".to_vec());
    let mut worker = Worker::boot(&order, &[]);
    let report = worker.refused();
    assert_eq!(report.stage, Stage::Hook);
    assert_eq!(report.message, "--before-boot did not end within the boot timeout of 300ms");
    assert_eq!((report.exit, report.output), (None, b"waits\n".to_vec()));
    assert_eq!(worker.end().0, Some(0));
    assert_eq!(processes_with("endless-hook"), [0; 0]);
}

#[test]
fn it_can_be_ended_and_hears_no_signals_that_are_the_app_s() {
    for kill in [false, true] {
        let release = Release::empty();
        let mut order = idle(&release, "ended-hook", &[]);
        order.before_boot = Some(b"echo waits; sleep 1000; true".to_vec());
        let mut worker = Worker::boot(&order, &[]);
        worker.until_printed("waits\n");
        worker.order(&ToWorker::Signal(10));
        worker.order(&if kill { ToWorker::Kill } else { ToWorker::Drain { timeout_ms: 20_000 } });
        assert_eq!(worker.exited().status, ExitStatus::Signal(if kill { 9 } else { 15 }));
        let (code, worker) = worker.end();
        assert_eq!(code, Some(0));
        assert!(!was_started(&worker));
        assert_eq!(processes_with("ended-hook"), [0; 0]);
    }
}

#[test]
fn what_it_leaves_in_the_background_lives_as_long_as_the_app() {
    let release = Release::empty();
    let mut order = idle(&release, "companion", &[]);
    let companion = "sh -c 'trap \"echo left\" USR1; echo $$; while :; do sleep 1000 & wait $!; done' &";
    order.before_boot = Some(companion.into());
    let mut worker = Worker::boot(&order, &[]);
    worker.booted();
    worker.until_printed("\n");
    let companion: i32 = worker.out().trim().parse().unwrap();
    // The app itself is not the companion's.
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(companion), nix::sys::signal::Signal::SIGUSR1).unwrap();
    worker.until_printed("left\n");
    worker.order(&ToWorker::Drain { timeout_ms: 20_000 });
    worker.exited();
    assert_eq!(worker.end().0, Some(0));
    assert!(!is_alive(companion));
}

#[test]
fn words_that_cannot_be_filled_in_are_named() {
    let release = Release::empty();
    let refused = |line: &str| {
        let mut order = idle(&release, "words", &[]);
        order.before_boot = Some(line.into());
        let mut worker = Worker::boot(&order, &[]);
        let report = worker.refused();
        assert_eq!((report.stage, worker.end().0), (Stage::Hook, Some(0)));
        report.message
    };
    let said = refused("echo {addr:api}");
    assert!(
        said.starts_with("in --before-boot, {addr:api} stands for a listening socket, and there is none"),
        "{said}"
    );
    let spaced = Release::empty();
    fs::create_dir(spaced.path().join("a b")).unwrap();
    let mut order = idle(&spaced, "words", &[]);
    order.release.extend_from_slice(b"/a b");
    order.before_boot = Some(b"ls {release}".to_vec());
    let said = Worker::boot(&order, &[]).refused().message;
    assert!(said.contains("use \"$RELEASE_DIR\""), "{said}");
    order.before_boot = Some(b"ls \"$RELEASE_DIR\"".to_vec());
    Worker::boot(&order, &[]).booted();
}

#[test]
fn it_may_make_the_app() {
    let release = Release::empty();
    let mut order = common::spec(&release, &["./made"], &[]);
    order.ready = proto::worker::Ready::Alive(1);
    order.before_boot = Some(b"printf '#!/bin/sh\\nexec sleep 1000\\n' > made && chmod +x made".to_vec());
    let mut worker = Worker::boot(&order, &[]);
    worker.booted();
    assert!(is_alive(worker.app_pid()));
    order.before_boot = Some(b"echo made nothing; rm made".to_vec());
    let mut worker = Worker::boot(&order, &[]);
    let report = worker.refused();
    assert_eq!((report.stage, report.output), (Stage::Exec, b"made nothing\n".to_vec()));
    assert!(report.message.contains("./made does not exist"), "{}", report.message);
    assert_eq!((report.exit, worker.end().0), (None, Some(0)));
}

#[test]
fn a_rehearsal_s_hook_knows() {
    let release = Release::empty();
    let mut order = idle(&release, "rehearsed-hook", &[]);
    order.task = Task::Rehearse;
    order.before_boot = Some(b"test \"$PHASED_REHEARSAL\" = 1".to_vec());
    Worker::boot(&order, &[]).booted();
}
