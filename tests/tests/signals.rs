//! The master's signals.

use nix::sys::signal::Signal;
use tests::master::{all_on, name_of};
use tests::{Load, Site, process};

#[test]
fn term_and_int_stop_gracefully() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let site = Site::new();
        let mut master = site.steady("41", "", 2);
        let address = master.address();
        let client = std::thread::spawn(move || tests::http::get(&address, "/gate/answer"));
        let asked = site.arrival("answer");
        master.signal(signal);
        // The other app ends first: the master has begun.
        site.until_alive(|alive| alive.len() == 1);
        asked.open();
        assert_eq!(client.join().expect("a client").expect("an answer"), "release=41 gate=answer\n");
        assert_eq!(master.end().code(), Some(0));
        assert!(process::of_site(site.root()).is_empty());
        assert!(!site.socket().exists());
    }
}

#[test]
fn quit_halts() {
    let site = Site::new();
    let mut master = site.steady("41", "ignore-term", 2);
    master.signal(Signal::SIGQUIT);
    master.end();
    assert!(process::of_site(site.root()).is_empty());
}

#[test]
fn usr1_is_a_phased_restart() {
    let site = Site::new();
    let master = site.steady("41", "", 2);
    let load = Load::start(&master.address());
    site.release("42", "");
    site.deploy("42");
    master.signal(Signal::SIGUSR1);
    master.until("promoted", |stats| stats.state == "steady" && name_of(&stats.release) == "42");
    assert!(all_on(&master.stats(), "42"));
    site.release("43", "eprint broken\nexit 1");
    site.deploy("43");
    master.signal(Signal::SIGUSR1);
    master.until("refused", |stats| stats.last_rollout.as_ref().is_some_and(|last| last.outcome == "aborted"));
    assert!(all_on(&master.stats(), "42"));
    load.more(10);
    load.finish();
}

#[test]
fn ttin_and_ttou_change_the_number_of_workers() {
    let site = Site::new();
    let master = site.steady("41", "", 1);
    master.signal(Signal::SIGTTIN);
    master.until("two", |stats| stats.workers == 2 && all_on(stats, "41"));
    master.signal(Signal::SIGTTOU);
    master.until("one", |stats| stats.workers == 1 && stats.worker_status.len() == 1);
}

#[test]
fn hup_is_logged_and_ignored() {
    let site = Site::new();
    let master = site.steady("41", "", 1);
    site.release("42", "");
    site.deploy("42");
    let pids = master.app_pids();
    master.signal(Signal::SIGHUP);
    master.until_log("HUP");
    assert_eq!((master.app_pids(), master.stats().state), (pids, "steady".into()));
}

#[test]
fn the_stop_signal_can_be_another_one() {
    let site = Site::new();
    site.release("41", "ignore-term");
    site.deploy("41");
    let mut master = site.master().workers(1).options(&["--stop-signal", "USR2"]).start();
    master.until_state("steady");
    let app = master.app_pids()[0];
    master.ctl(&["stop"]).expect(0);
    assert_eq!(master.end().code(), Some(0));
    assert!(process::look(app).is_none());
}
