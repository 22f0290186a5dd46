//! What the app prints goes on, and where it goes must not be able to hold anybody up.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::signal::Signal;
use tests::Site;
use tests::master::{all_on, app_pid};

/// Both ends of a pipe that is used for the master's standard output.
fn pipe() -> (OwnedFd, OwnedFd) {
    nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).expect("a pipe")
}

/// More than any pipe or socket on the way holds.
const MUCH: &str = "print-lines 200000";

#[test]
fn output_that_nobody_reads_stops_neither_the_master_nor_a_rollout() {
    let site = Site::new();
    site.release("41", "");
    site.deploy("41");
    let (_unread, sink) = pipe();
    let mine = sink.try_clone().expect("a descriptor");
    let master = site.master().workers(1).options(&["--drain-timeout", "20s"]).stdout(sink).start();
    master.until_state("steady");
    // The app is slowed down while it serves, in a thread of its own; the rest of it answers.
    let address = master.address();
    let flood = std::thread::spawn(move || tests::http::get(&address, "/flood"));
    assert!(master.get("/").starts_with("release=41"));
    master.ctl(&["status"]).expect(0);
    // While it drains its lines are dropped: it ends long before the drain timeout.
    site.release("42", "");
    master.roll("42").expect(0);
    assert!(flood.join().expect("a client").is_ok(), "its request is answered");
    let took = master.stats().last_rollout.expect("a rollout").millis;
    assert!(took < 15_000, "{took} ms");
    assert!(all_on(&master.stats(), "42"));
    // The pipe is shared with others, and so is its O_NONBLOCK: nobody has set it.
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", mine.as_raw_fd())).expect("fdinfo");
    let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).expect("flags").trim().to_owned();
    let flags = i32::from_str_radix(&flags, 8).expect("octal");
    assert_eq!(flags & nix::libc::O_NONBLOCK, 0, "{info}");
}

#[test]
fn a_candidate_that_waits_for_a_reader_costs_nothing() {
    let site = Site::new();
    site.release("41", "");
    site.deploy("41");
    let (_unread, sink) = pipe();
    let master = site.master().workers(1).options(&["--boot-timeout", "1s"]).stdout(sink).start();
    master.until_state("steady");
    let old = master.app_pids();
    site.release("42", MUCH);
    let said = master.roll("42").expect(3);
    assert!(said.stderr.contains("stage ready") && said.stderr.contains("| line 0"), "{}", said.stderr);
    assert_eq!(master.app_pids(), old);
    assert!(master.get("/").starts_with("release=41"));
}

#[test]
fn a_dead_sink_is_dropped() {
    let site = Site::new();
    site.release("41", "print hello");
    site.deploy("41");
    let (reader, sink) = pipe();
    let mut lines = BufReader::new(fs::File::from(reader)).lines();
    let master = site.master().workers(1).stdout(sink).start();
    master.until_state("steady");
    assert_eq!(lines.next().expect("a line").expect("text"), "hello");
    drop(lines);
    for _ in 0..3 {
        assert_eq!(master.get("/print/again"), "printed\n");
    }
    site.release("42", "print hello");
    master.roll("42").expect(0);
    assert!(all_on(&master.stats(), "42"));
}

#[test]
fn a_grandchild_that_holds_the_output_open_does_not_delay_the_news_of_a_death() {
    let site = Site::new();
    let master = site.steady("41", "", 1);
    // The daemon keeps stdout and stderr; it is ended with the app, and the report does not wait for the pipe's end.
    site.release("42", "daemon\nprint last words\nexit 5");
    let said = master.roll("42").expect(3);
    assert!(said.stderr.contains("last words") && said.stderr.contains("status 5"), "{}", said.stderr);
}

#[test]
fn lines_are_whole_and_prefixed_when_asked_for() {
    let site = Site::new();
    site.release("41", "print-lines 3000");
    site.deploy("41");
    let master = site.master().workers(4).start();
    master.until_state("steady");
    let mut left = 4 * 3000;
    master
        .stdout
        .wait(0, site.deadline(), |line| {
            assert!(line.len() == 63 && line.starts_with("line 0") && line.ends_with('x'), "{line:?}");
            left -= 1;
            left == 0
        })
        .expect("every line");
}

#[test]
fn the_log_as_json_is_json() {
    let site = Site::new();
    site.release("41", "");
    site.deploy("41");
    let master = site.master().workers(1).options(&["--log-format", "json"]).start();
    master.until_state("steady");
    site.release("42", "exit 1");
    master.roll("42").expect(3);
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(app_pid(&master.slot(0)[0]).expect("a pid")), Signal::SIGKILL)
        .expect("killed");
    master.until("respawned", |stats| all_on(stats, "41") && stats.worker_status[0].crashes == 1);
    let log = master.stderr.all();
    assert!(log.len() > 3);
    for line in log {
        let value: serde_json::Value = serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line}"));
        assert!(value.is_object(), "{line}");
    }
}
