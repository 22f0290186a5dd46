//! `--watchdog`: an app that falls silent is ended, with the reason.

mod common;

use std::time::{Duration, Instant};

use common::{Release, Worker, has, idle, processes_with, spec};
use proto::worker::{Command, ExitReport, ExitStatus, FromWorker, Task, ToWorker};

fn ended(mut worker: Worker, token: &str) -> (ExitReport, Worker) {
    let report = worker.exited();
    let (code, worker) = worker.end();
    assert_eq!(code, Some(0));
    assert_eq!(processes_with(token), [0; 0]);
    (report, worker)
}

#[test]
fn a_silent_app_is_aborted_and_why_is_said() {
    for task in [Task::Serve, Task::Rehearse] {
        let release = Release::empty();
        let mut order = idle(&release, "silent", &[]);
        order.command = Command::Words(["sh", "-c", "sleep 1000 & exec sleep 1000"].map(|w| w.into()).into());
        (order.task, order.watchdog_ms) = (task, Some(300));
        let mut worker = Worker::boot(&order, &[]);
        worker.booted();
        let begun = Instant::now();
        let (report, _) = ended(worker, "silent");
        assert_eq!(report.status, ExitStatus::Signal(6));
        assert_eq!(report.reason.as_deref(), Some("it said no WATCHDOG=1 for 300ms"));
        // Booted may have been read a little late.
        assert!(begun.elapsed() >= Duration::from_millis(100), "{:?}", begun.elapsed());
    }
}

#[test]
fn one_that_catches_the_abort_is_killed_after_five_seconds() {
    let release = Release::empty();
    let mut order = idle(&release, "caught", &[]);
    let script = "trap 'echo caught' ABRT; trap '' TERM; while :; do sleep 1000 & wait $!; done";
    order.command = Command::Words(["sh", "-c", script].map(|w| w.into()).into());
    // Long enough for the trap to be set.
    order.watchdog_ms = Some(2000);
    let mut worker = Worker::boot(&order, &[]);
    worker.until_printed("caught\n");
    let begun = Instant::now();
    let (report, _) = ended(worker, "caught");
    assert_eq!((report.status, report.reason.is_some()), (ExitStatus::Signal(9), true));
    assert!(begun.elapsed() >= Duration::from_millis(4500), "{:?}", begun.elapsed());
}

#[test]
fn one_that_speaks_lives_until_it_falls_silent() {
    if !has("python3") {
        return;
    }
    let app = "
import os, socket, time
assert os.environ['WATCHDOG_USEC'] == '1500000' and 'WATCHDOG_PID' not in os.environ
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
s.connect('\\0' + os.environ['NOTIFY_SOCKET'][1:])
s.send(b'READY=1')
for i in range(22):
    time.sleep(0.1)
    s.send(b'WATCHDOG=1\\nSTATUS=%d' % i)
time.sleep(1000)
";
    let release = Release::empty().file("app.py", 0o644, app);
    let mut order = spec(&release, &["python3", "app.py"], &[]);
    (order.watchdog_ms, order.token) = (Some(1500), "speaks".into());
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_worker"));
    let mut worker = Worker::start_as(command.env("WATCHDOG_PID", "1").env("WATCHDOG_USEC", "1"), &[]);
    worker.order(&ToWorker::Boot(order));
    worker.booted();
    let begun = Instant::now();
    worker.until(|r| matches!(r, FromWorker::Status(s) if s == "21"));
    let spoke = begun.elapsed();
    assert!(spoke > Duration::from_millis(1600), "longer than the watchdog's time: {spoke:?}");
    let (report, worker) = ended(worker, "speaks");
    assert_eq!(report.reason.as_deref(), Some("it said no WATCHDOG=1 for 1500ms"));
    assert!(begun.elapsed() - spoke > Duration::from_millis(1000));
    assert_eq!(worker.printed(), "");
}

#[test]
fn counting_begins_when_it_is_ready() {
    if !has("python3") {
        return;
    }
    let app = "
import os, socket, time
time.sleep(0.6)
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
s.connect('\\0' + os.environ['NOTIFY_SOCKET'][1:])
s.send(b'READY=1')
time.sleep(1000)
";
    let release = Release::empty().file("app.py", 0o644, app);
    let mut order = spec(&release, &["python3", "app.py"], &[]);
    (order.watchdog_ms, order.token) = (Some(200), "counting".into());
    let mut worker = Worker::boot(&order, &[]);
    worker.booted();
    assert_eq!(ended(worker, "counting").0.status, ExitStatus::Signal(6));
}

#[test]
fn an_app_that_is_being_ended_may_be_silent() {
    let release = Release::empty();
    let mut order = idle(&release, "silent-end", &[]);
    let script = "trap 'sleep 0.5; echo done; exit 0' TERM; echo up; while :; do sleep 1000 & wait $!; done";
    order.command = Command::Words(["sh", "-c", script].map(|w| w.into()).into());
    order.watchdog_ms = Some(3000);
    let mut worker = Worker::boot(&order, &[]);
    worker.booted();
    worker.until_printed("up\n");
    assert!(worker.sleeps().is_some_and(|time| time <= Duration::from_millis(3000)));
    worker.order(&ToWorker::Drain { timeout_ms: 30_000 });
    let (report, worker) = ended(worker, "silent-end");
    assert_eq!((report.status, report.reason), (ExitStatus::Code(0), None));
    assert!(worker.out().ends_with("done\n"));
}

#[test]
fn without_it_nothing_ticks() {
    let release = Release::empty();
    let mut worker = Worker::boot(&idle(&release, "no-watchdog", &[]), &[]);
    worker.booted();
    assert_eq!(worker.sleeps(), None);
}
