//! P8: nothing polls while idle.
//!
//! A clock would be needed to count wake-ups. Instead: master and worker are in a wait without a timeout, and no timer is
//! armed, so that nothing but an event can wake them.

use std::fs;

use nix::sys::signal::Signal;
use tests::master::all_on;
use tests::{Master, Site, process};

/// How the threads of a process wait: the system call and its arguments.
fn waits(pid: i32) -> Vec<String> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("a process").flatten();
    tasks.map(|task| fs::read_to_string(task.path().join("syscall")).expect("a task").trim().to_owned()).collect()
}

/// What of a waiting thread has a timeout. The numbers are those of `asm/unistd.h`.
fn timeout(call: &str) -> Option<String> {
    let words: Vec<&str> = call.split_whitespace().collect();
    let argument = |at: usize| words.get(at).copied().unwrap_or("?");
    let forever = |text: &str| text == "0xffffffff" || text == "0xffffffffffffffff";
    #[cfg(target_arch = "x86_64")]
    let (poll, epoll_wait, ppoll, epoll_pwait, epoll_pwait2, endless) =
        ("7", "232", "271", "281", "441", &["0", "20", "47", "61", "45", "202", "247"][..]);
    #[cfg(target_arch = "aarch64")]
    let (poll, epoll_wait, ppoll, epoll_pwait, epoll_pwait2, endless) =
        ("none", "none", "73", "22", "441", &["63", "98", "95", "260", "207", "212"][..]);
    let number = argument(0);
    let fine = if number == poll {
        forever(argument(3))
    } else if number == epoll_wait || number == epoll_pwait {
        forever(argument(4))
    } else if number == ppoll {
        argument(3) == "0x0"
    } else if number == epoll_pwait2 {
        argument(4) == "0x0"
    } else {
        endless.contains(&number)
    };
    (!fine).then(|| call.to_owned())
}

/// Timers that would go off.
fn armed(pid: i32) -> Vec<String> {
    let infos = fs::read_dir(format!("/proc/{pid}/fdinfo")).expect("a process").flatten();
    let text = infos.map(|info| fs::read_to_string(info.path()).unwrap_or_default());
    text.flat_map(|text| {
        text.lines().filter(|line| line.starts_with("it_value:")).map(str::to_owned).collect::<Vec<_>>()
    })
    .filter(|line| line != "it_value: (0, 0)")
    .collect()
}

/// The same, once every thread waits: it may just have finished with our last request.
fn settled(pid: i32) -> Vec<String> {
    let mut calls = waits(pid);
    for _ in 0..100_000 {
        if !calls.iter().any(|call| call == "running") {
            break;
        }
        std::thread::yield_now();
        calls = waits(pid);
    }
    calls
}

fn assert_idle(master: &Master<'_>) {
    let mut pids = vec![master.pid()];
    pids.extend(master.stats().worker_status.iter().filter_map(|worker| worker.pid.map(|pid| pid as i32)));
    for pid in pids {
        let name = process::look(pid).expect("a process").command;
        let calls = settled(pid);
        let timeouts: Vec<_> = calls.iter().filter_map(|call| timeout(call)).collect();
        assert!(timeouts.is_empty(), "{name} would wake up by itself: {timeouts:?}");
        let timers = armed(pid);
        assert!(timers.is_empty(), "{name} has armed timers: {timers:?}");
        let switches = |pid: i32| process::status(pid)["voluntary_ctxt_switches"].clone();
        let before = switches(pid);
        let _ = tests::http::get(&master.address(), "/");
        if pid != master.pid() {
            assert_eq!(before, switches(pid), "{name} takes part in a request");
        }
    }
}

#[test]
fn nothing_ticks_when_steady() {
    let site = Site::new();
    let master = site.steady("41", "", 2);
    assert_idle(&master);
    site.release("42", "");
    master.roll("42").expect(0);
    assert_idle(&master);
    site.release("43", "exit 1");
    master.roll("43").expect(3);
    assert_idle(&master);
}

#[test]
fn nothing_ticks_when_held_or_listened_to() {
    let site = Site::new();
    let master = site.steady("41", "", 2);
    site.release("42", "");
    site.deploy("42");
    master.ctl(&["phased-restart", "--hold"]).expect(0);
    // One that only listens: the subscription to the trace, which every master of the harness has, and a second one.
    let trace = tests::control::trace(&site.socket()).expect("a client");
    assert_idle(&master);
    assert!(trace.is_empty(), "and nothing happens: {}", trace.text());
}

#[test]
fn nothing_ticks_with_checks_and_hooks() {
    let site = Site::new();
    let (hook, check) = (tests::binaries::hook("hook"), format!("exec:{}", tests::binaries::hook("check")));
    let options = ["--check", "http:/health", "--check", &check, "--before-rollout", &hook, "--before-boot", &hook];
    let others = ["--on-promote", &hook, "--on-failure", &hook, "--canary", "1", "--canary-soak", "1ms"];
    site.release("41", "");
    site.deploy("41");
    let master = site.master().workers(2).options(&options).options(&others).start();
    master.until_state("steady");
    assert_idle(&master);
    for (release, code) in [("42", 0), ("43", 3)] {
        site.release(release, if code == 0 { "" } else { "live slot 1 exit 1" });
        master.roll(release).expect(code);
        // What runs afterwards is over.
        master.until("the hook has left", |_| process::of_site(site.root()).len() == 5);
        assert_idle(&master);
    }
    master.ctl(&["rehearse"]).expect(0);
    assert_idle(&master);
}

// Of ppoll(2), which is what there is elsewhere, only a pointer would be seen.
#[cfg(target_arch = "x86_64")]
#[test]
fn a_worker_without_a_master_waits_for_the_next_one_and_for_its_deadline_alone() {
    let site = Site::new();
    site.release("41", "");
    site.deploy("41");
    let master = site.master().workers(2).options(&["--orphan-timeout", "1h"]).start();
    let stats = master.until_state("steady");
    let address = master.address();
    tests::aftermath::kill(&master);
    for worker in stats.worker_status {
        let pid = worker.pid.expect("a pid") as i32;
        // The pipe from its master is closed by now, or about to be.
        while process::descriptors(pid).contains_key(&0) {
            std::thread::yield_now();
        }
        let calls = settled(pid);
        let timeouts: Vec<_> = calls.iter().filter_map(|call| timeout(call)).collect();
        // One wait until the deadline: poll(2)'s third argument, in milliseconds.
        let [wait] = &timeouts[..] else { panic!("{calls:?}") };
        let argument = wait.split_whitespace().nth(3).expect("a timeout");
        let millis = u64::from_str_radix(argument.trim_start_matches("0x"), 16);
        assert!(millis.is_ok_and(|millis| (3_000_000..=3_600_000).contains(&millis)), "{wait}");
        let switches = || process::status(pid)["voluntary_ctxt_switches"].clone();
        let before = switches();
        let _ = tests::http::get(&address, "/");
        assert_eq!(before, switches(), "it takes part in a request");
        assert_eq!(armed(pid), [""; 0]);
    }
}

#[test]
fn a_largest_age_is_a_timer_a_worker_in_the_master_alone() {
    let site = Site::new();
    site.release("41", "");
    site.deploy("41");
    let master = site.master().workers(2).options(&["--max-age", "10m"]).start();
    master.until_state("steady");
    for worker in master.stats().worker_status {
        let pid = worker.pid.expect("a pid") as i32;
        let calls = settled(pid);
        assert!(calls.iter().all(|call| timeout(call).is_none()), "{calls:?}");
        assert_eq!(armed(pid), [""; 0]);
    }
}

#[test]
fn a_crash_leaves_one_timer_that_goes_off_once() {
    // After a minute of health the crash is forgotten: that needs a timer, once, and nothing periodic.
    let site = Site::new();
    let master = site.steady("41", "", 1);
    process::signal(master.app_pids()[0], Signal::SIGKILL);
    master.until("respawned", |stats| all_on(stats, "41") && stats.worker_status[0].crashes == 1);
    let intervals = fs::read_dir(format!("/proc/{}/fdinfo", master.pid())).expect("a process").flatten();
    for info in intervals {
        let text = fs::read_to_string(info.path()).unwrap_or_default();
        assert!(!text.contains("it_interval") || text.contains("it_interval: (0, 0)"), "{text}");
    }
    let worker = master.slot(0)[0].pid.expect("a pid") as i32;
    let calls = settled(worker);
    assert!(calls.iter().all(|call| timeout(call).is_none()), "{calls:?}");
}
