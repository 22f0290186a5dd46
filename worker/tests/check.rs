//! `exec:` checks, beside every app.

mod common;

use std::fs;

use common::{Release, Worker, environment, idle, is_alive, listener, processes_with};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use proto::worker::{BootSpec, Check, Command, ExitStatus, FromWorker, Stage, ToWorker};

fn exec(line: &str) -> Check {
    Check::Exec(line.into())
}

/// An app that prints this and then lives.
fn printing(release: &Release, token: &str, script: &str) -> Box<BootSpec> {
    let mut order = idle(release, token, &[]);
    let script = format!("{script}; echo up; exec sleep 1000");
    order.command = Command::Words(vec![b"sh".to_vec(), b"-c".to_vec(), script.into()]);
    order
}

/// A line that goes on when the gate is opened.
fn gated(release: &Release, behind: &str) -> Check {
    nix::unistd::mkfifo(&release.path().join("gate"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    exec(&format!("echo asked; read -r line < gate; {behind}"))
}

#[test]
fn an_app_is_booted_when_every_check_has_passed() {
    let (release, socket) = (Release::empty(), listener());
    let mut order = idle(&release, "checked", &[&socket]);
    order.env = vec![(b"GIVEN".to_vec(), b"{addr}".to_vec())];
    order.checks = vec![
        exec("pwd -P; env -0 > environment; readlink /proc/self/fd/* > fds; echo {slot}"),
        Check::Http { host: "localhost".into(), path: "/asked-in-a-rehearsal-only".into() },
        exec("printf second; cat >&2; test -e environment"),
    ];
    let mut worker = Worker::boot(&order, &[&socket]);
    worker.booted();
    assert_eq!(worker.stages(), [Stage::Directory, Stage::Exec, Stage::Ready, Stage::Check]);
    let read = |name: &str| fs::read_to_string(release.path().join(name)).unwrap();
    let environment = environment(&read("environment"));
    assert_eq!(environment["GIVEN"], socket.local_addr().unwrap().to_string());
    assert_eq!(environment["PHASED_TOKEN"], "checked");
    for prefix in ["LISTEN_", "EINHORN_", "NOTIFY_", "PHASED_REHEARSAL"] {
        assert!(!environment.keys().any(|key| key.starts_with(prefix)), "{prefix}");
    }
    assert!(!read("fds").contains("socket:"), "{}", read("fds"));
    assert!(is_alive(worker.app_pid()));
    worker.order(&ToWorker::Kill);
    let real = release.path().canonicalize().unwrap();
    assert_eq!(worker.end().1.out(), format!("{}\n2\nsecond\n", real.display()));
}

#[test]
fn without_checks_there_is_no_such_stage() {
    let release = Release::empty();
    let mut order = idle(&release, "unchecked", &[]);
    order.checks = vec![Check::Http { host: "localhost".into(), path: "/".into() }];
    let mut worker = Worker::boot(&order, &[]);
    worker.booted();
    assert!(!worker.stages().contains(&Stage::Check));
}

#[test]
fn one_that_fails_refuses_the_app_and_shows_what_it_said() {
    let release = Release::empty();
    // More than a report holds, before the check begins.
    let mut order = printing(
        &release,
        "refused-check",
        "i=0; while [ $i -lt 3000 ]; do echo line $i of a very loud app; i=$((i+1)); done; echo > said",
    );
    order.checks =
        vec![exec("while ! test -e said; do :; done; echo 'no such column' >&2; exit 1"), exec("touch never")];
    let mut worker = Worker::boot(&order, &[]);
    let report = worker.refused();
    let message = "check exec:while ! test -e said; do :; done; echo 'no such column' >&2; exit 1 exited with status 1";
    assert_eq!((report.stage, report.message.as_str(), report.exit), (Stage::Check, message, None));
    let output = String::from_utf8(report.output).unwrap();
    assert!(output.len() <= 64 << 10 && output.contains("of a very loud app\n"), "{}", output.len());
    let (_, said) = output.rsplit_once("--- check exec:").unwrap();
    assert!(said.ends_with("exit 1 ---\nno such column\n"), "{said}");
    assert!(worker.seen.iter().all(|r| !matches!(r, FromWorker::Booted { .. })));
    let (code, worker) = worker.end();
    assert_eq!(code, Some(0));
    assert!(worker.err().contains("no such column\n"));
    assert!(!release.path().join("never").exists());
    assert_eq!(processes_with("refused-check"), [0; 0]);
}

#[test]
fn how_one_failed_is_said() {
    for (line, message) in [
        ("exit 7", "check exec:exit 7 exited with status 7"),
        ("kill -TERM $$", "check exec:kill -TERM $$ killed by SIGTERM"),
        ("no-such-program", "check exec:no-such-program exited with status 127"),
        (
            "echo {fd:api}",
            "in check exec:echo {fd:api}, {fd:api} stands for a listening socket, and there is none: give --listen, or drop the word",
        ),
    ] {
        let release = Release::empty();
        let mut order = idle(&release, "failed-check", &[]);
        order.checks = vec![exec(line)];
        let mut worker = Worker::boot(&order, &[]);
        let report = worker.refused();
        assert_eq!((report.stage, report.message.as_str()), (Stage::Check, message));
        assert_eq!(worker.end().0, Some(0));
    }
}

#[test]
fn each_has_its_time() {
    let release = Release::empty();
    let mut order = idle(&release, "slow-check", &[]);
    order.check_timeout_ms = 500;
    order.checks = vec![exec("true"), exec("echo waits; setsid sleep 1000; true")];
    let mut worker = Worker::boot(&order, &[]);
    let report = worker.refused();
    assert_eq!(report.message, "check exec:echo waits; setsid sleep 1000; true did not end within 500ms");
    assert_eq!((report.stage, report.output), (Stage::Check, b"waits\n".to_vec()));
    assert!((500..20_000).contains(&report.millis), "{}", report.millis);
    assert_eq!(worker.end().0, Some(0));
    assert_eq!(processes_with("slow-check"), [0; 0]);
}

#[test]
fn an_app_that_dies_meanwhile_is_refused_at_once() {
    let release = Release::empty();
    let mut order = printing(&release, "died-checked", "true");
    order.checks = vec![gated(&release, "true")];
    let mut worker = Worker::boot(&order, &[]);
    worker.until(|r| matches!(r, FromWorker::Stage(Stage::Check)));
    worker.until_printed("asked\n");
    worker.until_printed("up\n");
    kill(Pid::from_raw(worker.app_pid()), Signal::SIGKILL).unwrap();
    let report = worker.refused();
    assert_eq!(report.stage, Stage::Check);
    assert!(report.message.starts_with("killed by SIGKILL during check exec:echo asked; read"), "{}", report.message);
    assert_eq!(report.exit, Some(ExitStatus::Signal(9)));
    let output = String::from_utf8(report.output).unwrap();
    assert!(output.starts_with("up\n--- check exec:") && output.ends_with(" ---\nasked\n"), "{output}");
    assert_eq!(worker.end().0, Some(0));
    assert_eq!(processes_with("died-checked"), [0; 0]);
}

#[test]
fn orders_come_through_meanwhile() {
    for (order, status) in [
        (ToWorker::Drain { timeout_ms: 20_000 }, ExitStatus::Signal(15)),
        (ToWorker::Kill, ExitStatus::Signal(9)),
        (ToWorker::Signal(10), ExitStatus::Signal(10)),
    ] {
        let release = Release::empty();
        let mut spec = idle(&release, "ordered-check", &[]);
        spec.checks = vec![gated(&release, "true")];
        let mut worker = Worker::boot(&spec, &[]);
        worker.until_printed("asked\n");
        worker.order(&order);
        if let ToWorker::Signal(_) = order {
            assert_eq!(worker.refused().exit, Some(status));
        } else {
            assert_eq!(worker.exited().status, status);
        }
        assert_eq!(worker.end().0, Some(0));
        assert_eq!(processes_with("ordered-check"), [0; 0]);
    }
}

#[test]
fn what_a_check_leaves_behind_goes_on_and_goes_with_the_app() {
    let release = Release::empty();
    let mut order = idle(&release, "left-check", &[]);
    nix::unistd::mkfifo(&release.path().join("gate"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    order.checks = vec![exec("{ read -r line < gate; echo late; exec sleep 1000; } & echo now")];
    let mut worker = Worker::boot(&order, &[]);
    worker.booted();
    worker.until_printed("now\n");
    fs::write(release.path().join("gate"), "go\n").unwrap();
    worker.until_printed("late\n");
    assert_eq!(worker.sleeps(), None, "nothing ticks");
    worker.order(&ToWorker::Drain { timeout_ms: 20_000 });
    worker.exited();
    assert_eq!(worker.end().0, Some(0));
    assert_eq!(processes_with("left-check"), [0; 0]);
}
