//! The next master of a worker: what makes it one, and that it is one then.

mod common;

use std::fs;
use std::path::Path;

use common::heir::Heir;
use common::{Release, Worker, gate, home, idle, is_alive, processes_with, shell};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use proto::Hello;
use proto::frame::frame;
use proto::worker::{BootSpec, ExitStatus, FromWorker, ToWorker};

/// A worker that has lost its master right after the boot.
fn left(order: &BootSpec) -> Worker {
    let mut worker = Worker::boot(order, &[]);
    worker.booted();
    worker.leave();
    worker
}

/// How many fds a worker has when it sleeps.
fn fds(worker: &Worker) -> usize {
    worker.sleeps();
    fs::read_dir(format!("/proc/{}/fd", worker.child.id())).unwrap().count()
}

fn bytes(orders: &[ToWorker]) -> Vec<u8> {
    orders.iter().flat_map(|order| frame(order).unwrap()).collect()
}

#[test]
fn orders_and_reports_travel_on_the_connection() {
    let release = Release::empty();
    let mut order = shell(&release, "adopted", "echo up; exec sleep 1000");
    let path = home(&mut order, &release);
    let mut worker = Worker::boot(&order, &[]);
    worker.booted();
    worker.until_printed("up\n");
    worker.leave();
    let (mut heir, _) = Heir::adopted(&path);
    while worker.sleeps().is_some() {}
    heir.order(&ToWorker::Signal(10));
    let report = heir.exited();
    assert_eq!((report.status, report.output, report.reason), (ExitStatus::Signal(10), b"up\n".to_vec(), None));
    heir.ended();
    assert!(!path.exists());
    assert_eq!(worker.end().0, Some(0));
    assert_eq!(processes_with("adopted"), [0; 0]);
}

#[test]
fn all_at_once_is_understood() {
    let release = Release::empty();
    let mut order = idle(&release, "at-once", &[]);
    let path = home(&mut order, &release);
    let worker = left(&order);
    let mut heir = Heir::connect(&path);
    heir.raw(&bytes(&[ToWorker::Hello(Hello::ours()), ToWorker::Adopt, ToWorker::Kill]));
    heir.meet();
    assert_eq!(heir.exited().status, ExitStatus::Signal(9));
    heir.ended();
    assert_eq!(worker.end().0, Some(0));
}

#[test]
fn one_byte_after_the_other_is_understood() {
    let release = Release::empty();
    let mut order = idle(&release, "by-byte", &[]);
    let path = home(&mut order, &release);
    let worker = left(&order);
    let (mut heir, _) = Heir::met(&path);
    for byte in bytes(&[ToWorker::Hello(Hello::ours()), ToWorker::Adopt, ToWorker::Kill]) {
        // It has read what came before when it sleeps again.
        worker.sleeps();
        heir.raw(&[byte]);
    }
    assert_eq!(heir.exited().status, ExitStatus::Signal(9));
    assert_eq!(worker.end().0, Some(0));
}

#[test]
fn one_master_after_the_other() {
    let release = Release::empty();
    let mut order = idle(&release, "one-by-one", &[]);
    let path = home(&mut order, &release);
    let worker = left(&order);
    let mut counts = Vec::new();
    for _ in 0..3 {
        let (heir, orphan) = Heir::adopted(&path);
        assert_eq!((orphan.serves, orphan.app_pid), (true, Some(worker.app_pid())));
        while worker.sleeps().is_some() {}
        counts.push(fds(&worker));
        drop(heir);
        while worker.sleeps().is_none() {}
        counts.push(fds(&worker));
    }
    // A visit leaves nothing.
    drop(Heir::met(&path));
    while worker.sleeps().is_none() {}
    counts.push(fds(&worker));
    let orphan = counts[1];
    assert_eq!(counts, [orphan + 1, orphan, orphan + 1, orphan, orphan + 1, orphan, orphan]);
    // The last one ends it; one that came meanwhile is not heard before.
    let (mut last, _) = Heir::adopted(&path);
    let mut late = Heir::connect(&path);
    while worker.sleeps().is_some() {}
    assert!(late.hears_nothing());
    last.order(&ToWorker::Drain { timeout_ms: 20_000 });
    assert_eq!(last.exited().status, ExitStatus::Signal(15));
    last.ended();
    late.ended();
    assert_eq!(late.seen, []);
    assert!(!path.exists());
    assert_eq!(worker.end().0, Some(0));
}

#[test]
fn whoever_is_no_master_leaves_it_as_it_was() {
    let release = Release::empty();
    let mut order = idle(&release, "sent-away", &[]);
    let path = home(&mut order, &release);
    let mut worker = left(&order);
    let hello = || ToWorker::Hello(Hello::ours());
    let other = || ToWorker::Hello(Hello { protocol: Hello::ours().protocol + 1, build: "9.9.9".into() });
    let mut lines = 0;
    for (said, why) in [
        (bytes(&[other()]), "protocol version mismatch"),
        (bytes(&[other(), ToWorker::Adopt]), "protocol version mismatch"),
        (bytes(&[ToWorker::Adopt]), "an order came before Hello"),
        (bytes(&[hello(), ToWorker::Drain { timeout_ms: 1 }]), "an order came before Adopt"),
        (bytes(&[hello(), ToWorker::Kill, ToWorker::Adopt]), "an order came before Adopt"),
        (bytes(&[hello(), ToWorker::Boot(order.clone())]), "an order came before Adopt"),
        (vec![0; 4], "0"),
        (vec![0xff; 64], "4294967295"),
    ] {
        let (mut heir, orphan) = Heir::met(&path);
        assert_eq!((orphan.serves, orphan.app_pid), (true, Some(worker.app_pid())));
        heir.raw(&said);
        heir.ended();
        lines += 1;
        let line = worker.until_complained(lines);
        assert!(line.starts_with("worker: somebody who is not the next master is sent away: "), "{line}");
        assert!(line.contains(why), "{line}");
    }
    // Who just leaves, with a whole Hello, half of one, or none, is not worth a word.
    for said in [bytes(&[hello()]), bytes(&[hello()])[..3].to_vec(), Vec::new()] {
        Heir::met(&path).0.raw(&said);
        Heir::connect(&path).raw(&said);
    }
    assert!(is_alive(worker.app_pid()));
    Heir::adopted(&path).0.order(&ToWorker::Kill);
    let (code, worker) = worker.end();
    assert_eq!((code, worker.err().lines().count()), (Some(0), lines), "{}", worker.err());
}

#[test]
fn a_master_that_is_not_understood_is_one_that_is_gone() {
    let release = Release::empty();
    let mut order = idle(&release, "babble", &[]);
    let path = home(&mut order, &release);
    let mut worker = left(&order);
    for said in [bytes(&[ToWorker::Adopt]), bytes(&[ToWorker::Boot(order.clone())]), vec![0; 4]] {
        let (mut heir, _) = Heir::adopted(&path);
        heir.raw(&said);
        heir.ended();
    }
    worker.until_printed("it is the master already");
    worker.until_printed("a second order to boot");
    assert!(Heir::met(&path).1.serves);
}

#[test]
fn visitors_come_one_by_one() {
    let release = Release::empty();
    let mut order = idle(&release, "queue", &[]);
    let path = home(&mut order, &release);
    let worker = left(&order);
    let (first, _) = Heir::met(&path);
    let mut others = [Heir::connect(&path), Heir::connect(&path)];
    assert_eq!(worker.sleeps(), None);
    assert!(others.iter().all(Heir::hears_nothing));
    drop(first);
    assert!(others[0].meet().serves);
    assert_eq!(worker.sleeps(), None);
    assert!(others[1].hears_nothing());
    others[0].adopt();
    others[0].order(&ToWorker::Drain { timeout_ms: 20_000 });
    others[0].exited();
    others[1].ended();
}

/// The first process of this app leaves one behind that ends when the gate is opened.
fn leaves_one(release: &Release, token: &str) -> Box<BootSpec> {
    shell(release, token, "sh -c 'trap \"\" TERM; echo up; read x < gate' & exec sleep 1000")
}

fn kill_and_see(worker: &Worker) {
    let app = worker.app_pid();
    kill(Pid::from_raw(app), Signal::SIGKILL).unwrap();
    while Path::new(&format!("/proc/{app}")).exists() {
        // As long as the worker lives, which has a deadline.
        worker.sleeps();
    }
    worker.sleeps();
}

#[test]
fn what_happens_before_it_is_adopted_is_told_then() {
    let release = Release::empty();
    let gate = gate(&release);
    let mut order = leaves_one(&release, "meanwhile");
    let path = home(&mut order, &release);
    let mut worker = Worker::boot(&order, &[]);
    worker.booted();
    worker.until_printed("up\n");
    worker.leave();
    let (mut heir, orphan) = Heir::met(&path);
    assert!(orphan.serves);
    kill_and_see(&worker);
    assert!(heir.hears_nothing());
    heir.adopt();
    assert_eq!(heir.exited().status, ExitStatus::Signal(9));
    fs::write(gate, "go\n").unwrap();
    heir.ended();
    assert_eq!(worker.end().0, Some(0));
}

#[test]
fn what_happened_before_anybody_came_is_not() {
    let release = Release::empty();
    let gate = gate(&release);
    let mut order = leaves_one(&release, "before");
    let path = home(&mut order, &release);
    let mut worker = Worker::boot(&order, &[]);
    worker.booted();
    worker.until_printed("up\n");
    worker.leave();
    // Nor is it kept from one visitor to the next.
    let (heir, _) = Heir::met(&path);
    kill_and_see(&worker);
    drop(heir);
    let (mut heir, orphan) = Heir::adopted(&path);
    assert_eq!((orphan.serves, orphan.app_pid), (false, None));
    assert!(orphan.boot_us.is_some() && orphan.evidence.is_some());
    // It can be hurried.
    heir.order(&ToWorker::Kill);
    heir.ended();
    assert_eq!(worker.end().0, Some(0));
    assert_eq!(processes_with("before"), [0; 0]);
    drop(gate);
}

#[test]
fn too_much_memory_is_told_to_each() {
    let release = Release::empty();
    let mut order = idle(&release, "outgrown", &[]);
    let path = home(&mut order, &release);
    order.max_memory = Some(1);
    let mut worker = Worker::boot(&order, &[]);
    worker.until(|r| matches!(r, FromWorker::Outgrown { .. }));
    worker.leave();
    for _ in 0..2 {
        let (mut heir, _) = Heir::adopted(&path);
        heir.until(|r| matches!(r, FromWorker::Outgrown { .. }));
    }
}
