//! How an app ends, and that nothing of it is left.

mod common;

use std::time::{Duration, Instant};

use common::{Release, Worker, has, processes_with, shell, spec, until_ended};
use proto::worker::{BootSpec, ExitStatus, FromWorker, Ready, ToWorker};

fn booted(order: &BootSpec) -> Worker {
    let mut worker = Worker::boot(order, &[]);
    worker.booted();
    worker
}

#[test]
fn a_crash_is_told_with_the_last_words() {
    let release = Release::empty();
    let mut worker = booted(&shell(
        &release,
        "crash",
        "trap 'echo last words >&2; exit 7' USR1; echo up; while :; do sleep 1000 & wait $!; done",
    ));
    worker.until_printed("up\n");
    worker.order(&ToWorker::Signal(10));
    let report = worker.exited();
    assert_eq!(report.status, ExitStatus::Code(7));
    assert!(report.output.ends_with(b"last words\n"), "{:?}", String::from_utf8_lossy(&report.output));
    assert_eq!(report.dropped_lines, 0);
    assert_eq!(worker.end().0, Some(0));
    // The sleep that it left in the background went with it.
    assert_eq!(processes_with("crash"), [0; 0]);
}

#[test]
fn a_killed_app_is_told_at_once() {
    let release = Release::empty();
    let mut worker = booted(&shell(&release, "killed", "exec sleep 1000"));
    let begun = Instant::now();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(worker.app_pid()), nix::sys::signal::Signal::SIGKILL).unwrap();
    assert_eq!(worker.exited().status, ExitStatus::Signal(9));
    assert!(begun.elapsed() < Duration::from_millis(500), "{:?}", begun.elapsed());
    assert_eq!(worker.end().0, Some(0));
}

#[test]
fn daemonised_processes_go_too() {
    let release = Release::empty();
    let script = "setsid sh -c 'trap \"\" TERM; sleep 1000 & echo up; wait; sleep 1000' & exec sleep 1000";
    let mut worker = booted(&shell(&release, "daemonised", script));
    worker.until_printed("up\n");
    worker.order(&ToWorker::Drain { timeout_ms: 300 });
    let begun = Instant::now();
    assert_eq!(worker.exited().status, ExitStatus::Signal(15));
    let (code, _) = worker.end();
    assert_eq!(code, Some(0));
    assert_eq!(processes_with("daemonised"), [0; 0]);
    assert!(begun.elapsed() >= Duration::from_millis(250), "it had the rest of the time");
}

#[test]
fn what_the_first_process_leaves_gets_the_stop_signal() {
    let release = Release::empty();
    // A signal that comes just before a shell's `wait` would be heard after it only, and what is being forked just then hears none.
    let script =
        "sh -c 'trap \"echo child stopped; exit\" TERM; echo up; while :; do sleep 0.05; done' & exec sleep 1000";
    let mut worker = booted(&shell(&release, "left", script));
    worker.until_printed("up\n");
    worker.order(&ToWorker::Drain { timeout_ms: 20_000 });
    let (code, worker) = worker.end();
    assert_eq!(code, Some(0));
    assert!(worker.printed().contains("child stopped\n"), "{}", worker.printed());
    assert_eq!(processes_with("left"), [0; 0]);
}

#[test]
fn a_deaf_app_is_killed_at_the_deadline_which_can_only_come_nearer() {
    let release = Release::empty();
    let mut worker = booted(&shell(&release, "deaf", "trap '' TERM; echo up; while :; do sleep 1000; done"));
    worker.until_printed("up\n");
    let begun = Instant::now();
    worker.order(&ToWorker::Drain { timeout_ms: 50_000 });
    worker.order(&ToWorker::Drain { timeout_ms: 200 });
    worker.order(&ToWorker::Drain { timeout_ms: 40_000 });
    assert_eq!(worker.exited().status, ExitStatus::Signal(9));
    assert!((200..10_000).contains(&begun.elapsed().as_millis()), "{:?}", begun.elapsed());
    assert_eq!(worker.end().0, Some(0));
    assert_eq!(processes_with("deaf"), [0; 0]);
}

#[test]
fn a_drain_while_it_boots_is_no_boot_failure() {
    let release = Release::empty();
    let mut order = shell(&release, "booting", "echo up; exec sleep 1000");
    order.ready = Ready::Notify;
    let mut worker = Worker::boot(&order, &[]);
    worker.until_printed("up\n");
    worker.order(&ToWorker::Drain { timeout_ms: 5000 });
    assert_eq!(worker.exited().status, ExitStatus::Signal(15));
    let (code, worker) = worker.end();
    assert_eq!(code, Some(0));
    assert!(!worker.seen.iter().any(|r| matches!(r, FromWorker::BootFailed(_) | FromWorker::Booted { .. })));
}

#[test]
fn without_a_master_the_app_is_drained() {
    let release = Release::empty();
    let script = "trap 'echo stopped; exit' TERM; echo up; while :; do sleep 1000 & wait $!; done";
    let mut worker = booted(&shell(&release, "orphaned", script));
    worker.until_printed("up\n");
    worker.hang_up();
    let (code, worker) = worker.end();
    assert_eq!(code, Some(0));
    assert!(worker.printed().ends_with("stopped\n"));
    assert_eq!(processes_with("orphaned"), [0; 0]);
}

#[test]
fn a_term_to_the_worker_is_a_drain() {
    let release = Release::empty();
    let mut worker = booted(&shell(&release, "termed", "exec sleep 1000"));
    let pid = nix::unistd::Pid::from_raw(worker.child.id().cast_signed());
    for ignored in ["SIGHUP", "SIGUSR1", "SIGQUIT", "SIGTSTP", "SIGTERM"] {
        nix::sys::signal::kill(pid, ignored.parse::<nix::sys::signal::Signal>().unwrap()).unwrap();
    }
    assert_eq!(worker.exited().status, ExitStatus::Signal(15));
    assert_eq!(worker.end().0, Some(0));
}

#[test]
fn a_killed_worker_s_app_gets_the_stop_signal() {
    let release = Release::empty();
    let mut worker = booted(&shell(&release, "widowed", "exec sleep 1000"));
    let app = worker.app_pid();
    worker.child.kill().unwrap();
    worker.child.wait().unwrap();
    until_ended(app);
}

#[test]
fn a_storm_of_forks_ends() {
    if !has("python3") {
        return;
    }
    let app = "
import os, signal, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print('up', flush=True)
for i in range(4000):
    # The child goes on, the parent ends: it is always another process.
    if os.fork(): os._exit(0)
    os.setsid()
signal.pause()
";
    let release = Release::empty().file("app.py", 0o644, app);
    let mut order = spec(&release, &["sh", "-c", "python3 app.py; exec sleep 1000"], &[]);
    order.ready = Ready::Alive(1);
    order.token = "storm".into();
    let mut worker = booted(&order);
    worker.until_printed("up\n");
    worker.order(&ToWorker::Kill);
    assert_eq!(worker.exited().status, ExitStatus::Signal(9));
    assert_eq!(worker.end().0, Some(0));
    assert_eq!(processes_with("storm"), [0; 0]);
}

#[test]
fn output_is_passed_on_line_by_line_and_prefixed_where_asked() {
    let release = Release::empty();
    let mut order = shell(&release, "output", "echo one; printf three; echo two >&2; exec sleep 1000");
    order.log_prefix = true;
    let mut worker = booted(&order);
    worker.until_printed("two\n");
    worker.order(&ToWorker::Drain { timeout_ms: 5000 });
    let report = worker.exited();
    assert_eq!(String::from_utf8_lossy(&report.output).lines().count(), 3);
    let (_, worker) = worker.end();
    assert_eq!(worker.out(), "[slot 2 phase 7] one\n[slot 2 phase 7] three\n");
    assert_eq!(worker.err(), "[slot 2 phase 7] two\n");
}

#[test]
fn a_flood_is_passed_whole_and_the_tail_is_the_last_of_it() {
    let release = Release::empty();
    let script = "i=0; while [ $i -lt 20000 ]; do echo \"line $i of many that go by\"; i=$((i+1)); done; echo end; exec sleep 1000";
    let mut worker = booted(&shell(&release, "flood", script));
    worker.until_printed("end\n");
    worker.order(&ToWorker::Drain { timeout_ms: 5000 });
    let report = worker.exited();
    assert!(report.output.len() <= 65536 && report.output.len() > 65000, "{}", report.output.len());
    assert!(report.output.starts_with(b"line ") && report.output.ends_with(b"end\n"));
    let (_, worker) = worker.end();
    assert_eq!(worker.out().lines().count(), 20001);
}

#[test]
fn a_master_that_reads_no_reports_any_more_is_gone() {
    let release = Release::empty();
    let mut worker = booted(&shell(&release, "unread", "exec sleep 1000"));
    worker.stop_reading();
    assert_eq!(worker.child.wait().unwrap().code(), Some(0));
    assert_eq!(processes_with("unread"), [0; 0]);
}
