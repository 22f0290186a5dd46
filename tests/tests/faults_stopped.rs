//! Somebody stands still (SIGSTOP) where something is expected of them, or is woken all the time for nothing: a worker in a
//! boot, in a drain and while its master dies, an app in its drain, the master under a storm of signals.
//!
//! (A wall clock that jumps is no test of its own: nobody but the machine can turn it. What depends on it is what is left of
//! a window to confirm, see below.)

use std::fs;

use nix::sys::signal::Signal;
use tests::aftermath::{kill, settled};
use tests::master::{all_on, app_pid, name_of, ready};
use tests::{Load, Master, Site, http, process};

fn worker(master: &Master<'_>, slot: u32) -> i32 {
    master.slot(slot).pop().and_then(|worker| worker.pid).expect("a worker") as i32
}

#[test]
fn a_worker_in_its_boot() {
    let site = Site::new();
    site.release("41", "");
    site.deploy("41");
    let master = site.master().workers(2).options(&["--boot-timeout", "500ms"]).start();
    master.until_state("steady");
    let load = Load::start(&master.address());
    site.release("42", "slot 0 gate boot");
    site.deploy("42");
    let rolling = master.ctl_start(&["phased-restart"]);
    let booting = site.arrival("boot");
    let stopped = worker(&master, 0);
    process::signal(stopped, Signal::SIGSTOP);
    let seen = master.trace().len();
    // It cannot say that its time is over; the master knows it by itself.
    master.until_step(seen, "the boot is late", |step| step.starts_with("> fired boot-late"));
    rolling.end().expect(3);
    site.until_ended(stopped);
    site.until_ended(booting.app.pid);
    assert_eq!(settled(&master).0, "41");
    load.more(20);
    assert_eq!(load.finish().releases.get("42"), None);
}

#[test]
fn a_worker_that_goes_on_with_its_boot() {
    let site = Site::new();
    let master = site.steady("41", "", 2);
    let load = Load::start(&master.address());
    site.release("42", "slot 0 gate boot");
    site.deploy("42");
    let rolling = master.ctl_start(&["phased-restart"]);
    let booting = site.arrival("boot");
    let stopped = worker(&master, 0);
    process::signal(stopped, Signal::SIGSTOP);
    booting.open();
    load.more(50);
    process::signal(stopped, Signal::SIGCONT);
    rolling.end().expect(0);
    assert_eq!(settled(&master).0, "42");
    load.until("42");
    load.finish();
}

#[test]
fn a_worker_in_its_drain() {
    let site = Site::new();
    site.release("41", "");
    site.deploy("41");
    let master = site.master().workers(2).options(&["--drain-timeout", "300ms"]).start();
    master.until_state("steady");
    site.release("42", "");
    let stopped = worker(&master, 0);
    process::signal(stopped, Signal::SIGSTOP);
    let seen = master.trace().len();
    // It does not hear that it is to end: it is ended, and so is its app, which has not heard it either and may lose what it holds.
    master.roll("42").expect(0);
    master.until_step(seen, "it is overdue", |step| step.starts_with("> fired overdue"));
    site.until_ended(stopped);
    assert_eq!(settled(&master).0, "42");
    let load = Load::start(&master.address());
    load.more(20);
    load.finish();
}

#[test]
fn a_worker_that_goes_on_with_its_drain() {
    let site = Site::new();
    let master = site.steady("41", "", 2);
    let load = Load::start(&master.address());
    site.release("42", "");
    site.deploy("42");
    let stopped = worker(&master, 0);
    process::signal(stopped, Signal::SIGSTOP);
    let seen = master.trace().len();
    let rolling = master.ctl_start(&["phased-restart"]);
    master.until_step(seen, "it is to end", |step| step.contains("\n< drain"));
    load.more(20);
    process::signal(stopped, Signal::SIGCONT);
    rolling.end().expect(0);
    assert_eq!(settled(&master).0, "42");
    load.finish();
}

#[test]
fn a_worker_while_its_master_dies() {
    let site = Site::new();
    let master = site.steady("41", "", 2);
    let address = master.address();
    let load = Load::start(&address);
    load.more(10);
    let stopped = worker(&master, 0);
    let (app, other) = (master.app_pids()[0], master.app_pids()[1]);
    // A request that this worker's app has in its hands.
    let clients: Vec<_> = (0..2)
        .map(|_| {
            let address = address.clone();
            std::thread::spawn(move || http::get(&address, "/gate/answer"))
        })
        .collect();
    let asked = [site.arrival("answer"), site.arrival("answer")];
    kill(&master);
    process::signal(stopped, Signal::SIGSTOP);
    // It is replaced, told to end, and killed when it does not; its app finishes what it has.
    let next = site.master().workers(2).options(&["--drain-timeout", "1s"]).start();
    next.until_log("does not answer, and is replaced");
    next.until("its slot is filled", |stats| {
        ready(stats).len() == 2
            && stats.worker_status.iter().filter(|w| w.booted).filter_map(app_pid).all(|pid| pid != app)
    });
    asked.into_iter().for_each(tests::Waiting::open);
    for client in clients {
        assert_eq!(client.join().expect("a client").expect("an answer"), "release=41 gate=answer\n");
    }
    site.until_ended(stopped);
    site.until_ended(app);
    assert_eq!(settled(&next).0, "41");
    assert!(next.app_pids().contains(&other), "the other one was adopted");
    load.more(20);
    load.finish();
}

/// The kernel wakes what stands still when its parent dies (with HUP and CONT): it is adopted like the others.
#[test]
fn a_worker_before_its_master_dies() {
    let site = Site::new();
    let master = site.steady("41", "", 2);
    let load = Load::start(&master.address());
    load.more(10);
    let (workers, apps) = ([worker(&master, 0), worker(&master, 1)], master.app_pids());
    process::signal(workers[0], Signal::SIGSTOP);
    kill(&master);
    let next = site.master().workers(2).start();
    assert_eq!(settled(&next).0, "41");
    assert_eq!(([worker(&next, 0), worker(&next, 1)], next.app_pids()), (workers, apps));
    load.more(20);
    load.finish();
}

#[test]
fn an_app_in_its_drain() {
    let site = Site::new();
    site.release("41", "");
    site.deploy("41");
    let master = site.master().workers(2).options(&["--drain-timeout", "200ms"]).start();
    master.until_state("steady");
    let stopped = master.app_pids()[0];
    process::signal(stopped, Signal::SIGSTOP);
    // What it would have to answer is nobody's to answer; so clients come when others can.
    site.release("42", "");
    master.roll("42").expect(0);
    site.until_ended(stopped);
    assert_eq!(settled(&master).0, "42");
    let ended = |what: &str| site.history().iter().any(|entry| entry.what == what && entry.app.pid == stopped);
    assert!(!ended("term") && !ended("exit"), "it was killed: {:#?}", site.history());
}

/// Wakes a process for nothing.
fn storm(pid: i32, rounds: usize) {
    for _ in 0..rounds {
        for signal in [Signal::SIGHUP, Signal::SIGCHLD, Signal::SIGHUP] {
            process::signal(pid, signal);
        }
        // A call that waits ends with EINTR when its process is stopped and goes on.
        process::signal(pid, Signal::SIGSTOP);
        process::signal(pid, Signal::SIGCONT);
    }
}

#[test]
fn a_storm_of_signals() {
    let site = Site::new();
    let master = site.steady("41", "", 2);
    let load = Load::start(&master.address());
    for (release, script, code) in [("42", "", 0), ("43", "slot 1 exit 1", 3), ("44", "", 0)] {
        site.release(release, script);
        site.deploy(release);
        let mut rolling = master.ctl_start(&["phased-restart"]);
        let mut rounds = 0;
        while rolling.waits() || rounds < 20 {
            storm(master.pid(), 20);
            rounds += 1;
        }
        rolling.end().expect(code);
        assert_eq!(settled(&master).0, if code == 0 { release } else { "42" });
    }
    load.more(20);
    load.finish();
}

#[test]
fn a_storm_on_workers_and_while_they_are_adopted() {
    let site = Site::new();
    let master = site.steady("41", "", 3);
    let load = Load::start(&master.address());
    let workers: Vec<i32> = (0..3).map(|slot| worker(&master, slot)).collect();
    kill(&master);
    let over = std::sync::atomic::AtomicBool::new(false);
    let next = std::thread::scope(|scope| {
        // They are stopped and woken by SIGSTOP and SIGCONT alone: HUP ends a worker.
        scope.spawn(|| {
            while !over.load(std::sync::atomic::Ordering::SeqCst) {
                for pid in &workers {
                    process::signal(*pid, Signal::SIGSTOP);
                    process::signal(*pid, Signal::SIGCONT);
                }
            }
        });
        let next = site.master().workers(3).start();
        next.until_state("steady");
        next.ctl(&["restart", "0"]).expect(0);
        over.store(true, std::sync::atomic::Ordering::SeqCst);
        next
    });
    assert_eq!(settled(&next).0, "41");
    assert_eq!((worker(&next, 1), worker(&next, 2)), (workers[1], workers[2]));
    load.more(20);
    load.finish();
}

/// A wall clock that was set back makes no window longer than it was asked for.
#[test]
fn a_clock_that_is_set_back_in_a_window_to_confirm() {
    let site = Site::new();
    let master = site.steady("41", "", 2);
    site.release("42", "");
    site.deploy("42");
    master.ctl(&["phased-restart", "--confirm-within", "1s"]).expect(0);
    kill(&master);
    // What a clock that has lost a day would make of what was written.
    let path = site.state().join("state.json");
    let text = fs::read_to_string(&path).expect("a state");
    let mut state: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let until = state["confirm"]["until"].as_u64().expect("the end of the window");
    state["confirm"]["until"] = (until + 86_400_000).into();
    fs::write(&path, state.to_string()).expect("written");
    let next = site.master().workers(2).start();
    let stats = next.until("nobody has confirmed it", |stats| all_on(stats, "41"));
    assert_eq!(name_of(&settled(&next).1.release), "41", "{stats:#?}");
}
