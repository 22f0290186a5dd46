//! P7: the master's death costs no request and no worker; the next master adopts what is alive.

use std::fs;

use nix::sys::signal::Signal;
use tests::master::{Start, all_on, app_pid, name_of, ready, refused};
use tests::{Load, Master, Site, process};

/// Kills a master and waits until it is gone.
fn kill(site: &Site, master: &Master<'_>) {
    master.signal(Signal::SIGKILL);
    site.until_ended(master.pid());
}

/// Apps with children and daemons that are deaf to the stop signal; and how the next master is started.
fn with_daemons(site: &Site, workers: u32) -> (Master<'_>, Start<'_>) {
    site.release("41", "children 2\ndaemon");
    site.deploy("41");
    let start = site.master().workers(workers).options(&["--drain-timeout", "300ms"]);
    let master = start.clone().start();
    master.until_state("steady");
    (master, start)
}

/// Kills a master and starts the next one, with as many workers.
fn next<'a>(site: &'a Site, master: &Master<'_>, workers: u32) -> Master<'a> {
    kill(site, master);
    site.master().workers(workers).start()
}

#[test]
fn the_next_master_adopts_every_worker_and_no_request_is_lost() {
    let site = Site::new();
    let master = site.steady("41", "", 3);
    let (before, address) = (master.stats(), master.address());
    let load = Load::start(&address);
    load.more(50);
    kill(&site, &master);
    // Nobody leads them, and everybody is served.
    load.more(50);
    let next = site.master().workers(3).start();
    load.more(50);
    load.finish();
    let after = next.until_state("steady");
    assert_eq!(next.address().to_string(), address.to_string());
    for (was, is) in before.worker_status.iter().zip(&after.worker_status) {
        assert_eq!((was.pid, was.app_pid, was.incarnation, was.index), (is.pid, is.app_pid, is.incarnation, is.index));
        assert_eq!((was.phase, &was.release, was.started_at / 10_000), (is.phase, &is.release, is.started_at / 10_000));
        assert_eq!((was.boot_us, was.evidence, &was.state), (is.boot_us, is.evidence, &is.state));
    }
    assert_eq!(after.worker_status.len(), 3);
    assert_eq!(site.boots("41"), 3, "nothing was booted");
}

#[test]
fn an_adopted_worker_is_led_like_any_other() {
    let site = Site::new();
    let master = site.steady("41", "", 2);
    let next = next(&site, &master, 2);
    next.until_state("steady");
    // A crash is seen, and known-good code comes back whatever `current` names.
    site.release("42", "exit 1");
    site.deploy("42");
    let crashed = next.app_pids()[0];
    process::signal(crashed, Signal::SIGKILL);
    let stats = next.until("somebody else serves", |stats| {
        stats.booted_workers == 2 && stats.worker_status.iter().filter_map(app_pid).all(|pid| pid != crashed)
    });
    assert!(all_on(&stats, "41"), "{stats:#?}");
    assert!(stats.worker_status[0].last_exit.as_deref().is_some_and(|how| how.contains("SIGKILL")), "{stats:#?}");
    // Rollouts are refused and promoted, and a stop leaves nothing.
    next.ctl(&["phased-restart"]).expect(3);
    site.release("43", "");
    next.roll("43").expect(0);
    next.ctl(&["scale", "3"]).expect(0);
    next.ctl(&["stop"]).expect(0);
    site.until_alive(<[_]>::is_empty);
    assert_eq!(fs::read_dir(site.root().join("run/site.sock.d")).map_or(0, Iterator::count), 0);
}

#[test]
fn what_an_adopted_worker_leaves_behind_is_ended() {
    let site = Site::new();
    let (master, start) = with_daemons(&site, 1);
    kill(&site, &master);
    let next = start.start();
    let worker = next.until_state("steady").worker_status[0].pid.expect("a pid") as i32;
    let of_app: Vec<i32> = process::descendants(worker).iter().map(|process| process.pid).collect();
    process::signal(worker, Signal::SIGKILL);
    for pid in of_app {
        site.until_ended(pid);
    }
    let stats = next.until("the slot is filled", |stats| {
        stats.worker_status.len() == 1 && stats.worker_status.iter().all(|w| w.pid != Some(worker as u32))
    });
    assert!(all_on(&stats, "41"), "{stats:#?}");
}

#[test]
fn what_dead_workers_have_left_without_a_master_is_ended() {
    let site = Site::new();
    let (master, start) = with_daemons(&site, 2);
    let worker = master.stats().worker_status[0].pid.expect("a pid") as i32;
    let of_app: Vec<i32> = process::descendants(worker).iter().map(|process| process.pid).collect();
    kill(&site, &master);
    process::signal(worker, Signal::SIGKILL);
    let next = start.start();
    for pid in of_app {
        site.until_ended(pid);
    }
    let stats = next.until_state("steady");
    assert!(all_on(&stats, "41") && stats.booted_workers == 2, "{stats:#?}");
}

#[test]
fn a_rollout_that_was_under_way_is_undone() {
    let site = Site::new();
    let master = site.steady("41", "", 3);
    let load = Load::start(&master.address());
    site.release("42", "slot 1 gate boot");
    site.deploy("42");
    let waiting = master.ctl_start(&["phased-restart"]);
    site.arrival("boot");
    let next = next(&site, &master, 3);
    let stats = next.until_state("steady");
    load.more(50);
    load.finish();
    assert!(all_on(&stats, "41"), "{stats:#?}");
    assert_eq!(refused(&stats), ["42"]);
    let last = stats.last_rollout.expect("a rollout");
    assert_eq!((last.id, last.outcome.as_str(), name_of(&last.to).as_str()), (1, "aborted", "42"));
    assert!(site.fewest_serving(3) >= 3, "P2: {:#?}", site.history());
    drop(waiting);
}

#[test]
fn a_rollout_of_which_the_soak_was_left_is_finished() {
    let site = Site::new();
    site.release("41", "");
    site.deploy("41");
    let master = site.master().workers(2).soak("1h").start();
    master.until_state("steady");
    site.release("42", "");
    site.deploy("42");
    let _waiting = master.ctl_start(&["phased-restart"]);
    master.until_state("soaking");
    master.until("the old ones are gone", |stats| stats.worker_status.len() == 2);
    kill(&site, &master);
    // The rollout brings its own soak; nobody waits an hour here.
    let next = site.master().workers(2).soak("1h").start();
    let stats = next.until_state("soaking");
    assert!(all_on(&stats, "42"), "{stats:#?}");
    assert_eq!(name_of(&stats.release), "41");
    // And a candidate that dies in it is refused.
    process::signal(next.app_pids()[0], Signal::SIGKILL);
    let stats = next.until("it is undone", |stats| stats.last_rollout.is_some() && stats.rollout.is_none());
    assert!(all_on(&stats, "41"), "{stats:#?}");
    assert_eq!(stats.last_rollout.expect("a rollout").outcome, "aborted");
}

#[test]
fn what_was_held_is_held() {
    let site = Site::new();
    let master = site.steady("41", "", 2);
    site.release("42", "");
    site.deploy("42");
    master.ctl(&["phased-restart", "--hold"]).expect(0);
    let next = next(&site, &master, 2);
    let stats = next.until_state("held");
    assert!(all_on(&stats, "42"), "{stats:#?}");
    assert_eq!(name_of(&stats.release), "41");
    next.ctl(&["reload-dir"]).expect(0);
    assert_eq!(name_of(&next.until_state("steady").release), "42");
}

#[test]
fn detached_is_left_to_the_next_one() {
    let site = Site::new();
    let mut master = site.steady("41", "", 2);
    let (address, apps) = (master.address(), master.app_pids());
    let load = Load::start(&address);
    load.more(20);
    master.ctl(&["detach"]).expect(0);
    assert!(master.end().success());
    load.more(20);
    let next = site.master().workers(2).start();
    next.until_state("steady");
    load.more(20);
    load.finish();
    assert_eq!(next.app_pids(), apps);
    // In a rollout nobody may leave.
    site.release("42", "gate boot");
    site.deploy("42");
    let _waiting = next.ctl_start(&["phased-restart"]);
    site.arrival("boot");
    next.ctl(&["detach"]).expect(5);
    site.open("boot");
}

#[test]
fn nobody_outlives_a_master_that_wants_no_orphans() {
    let site = Site::new();
    site.release("41", "");
    site.deploy("41");
    let master = site.master().workers(2).options(&["--orphan-timeout", "0s"]).start();
    master.until_state("steady");
    let said = master.ctl(&["detach"]).expect(1);
    assert!(said.stderr.contains("--orphan-timeout"), "{}", said.stderr);
    kill(&site, &master);
    site.until_alive(<[_]>::is_empty);
}

#[test]
fn workers_of_another_number_of_slots() {
    let site = Site::new();
    let master = site.steady("41", "", 3);
    let load = Load::start(&master.address());
    load.more(20);
    let fewer = next(&site, &master, 2);
    let stats = fewer.until("the third one is gone", |stats| stats.worker_status.len() == 2);
    assert_eq!(ready(&stats), [(0, "41".into()), (1, "41".into())]);
    let more = next(&site, &fewer, 4);
    let stats = more.until("all are ready", |stats| stats.booted_workers == 4);
    assert!(all_on(&stats, "41"), "{stats:#?}");
    // What a scale has made of the number stays for the next master that is asked for as many as this one.
    more.ctl(&["scale", "2"]).expect(0);
    let again = next(&site, &more, 4);
    assert_eq!(again.until_state("steady").workers, 2);
    load.more(20);
    load.finish();
}

#[test]
fn a_unix_socket_is_kept_at_its_path() {
    let site = Site::new();
    site.release("41", "");
    site.deploy("41");
    let path = site.root().join("app.sock");
    let address = format!("unix://{}", path.display());
    let start = || site.master().workers(2).listen(&[&address]).start();
    let master = start();
    master.until_state("steady");
    let load = Load::start(&master.address());
    load.more(20);
    kill(&site, &master);
    load.more(20);
    load.finish();
    // Somebody has taken the path away meanwhile.
    fs::remove_file(&path).expect("there");
    let next = start();
    assert!(path.exists());
    let load = Load::start(&next.address());
    load.more(20);
    load.finish();
    assert_eq!(site.boots("41"), 2);
}

#[test]
fn other_addresses_are_served_by_other_workers() {
    let site = Site::new();
    site.release("41", "");
    site.deploy("41");
    let listen = |name: &str| format!("unix://{}/{name}.sock", site.root().display());
    let master = site.master().workers(2).listen(&[&listen("one")]).start();
    master.until_state("steady");
    let old = master.app_pids();
    kill(&site, &master);
    let next = site.master().workers(2).listen(&[&listen("two")]).start();
    let stats = next.until("others serve", |stats| {
        all_on(stats, "41") && stats.worker_status.iter().filter_map(app_pid).all(|pid| !old.contains(&pid))
    });
    assert_eq!(stats.state, "steady", "{stats:#?}");
    assert!(site.fewest_serving(2) >= 2, "P2: {:#?}", site.history());
    assert!(next.get("/").contains("41"));
}

#[test]
fn an_upgrade_takes_sockets_by_their_address_and_not_by_their_place() {
    let site = Site::new();
    site.release("41", "");
    site.deploy("41");
    let one = format!("unix://{}/one.sock", site.root().display());
    let config = site.root().join("phased.toml");
    let listen = |addresses: &[&str]| fs::write(&config, format!("listen = {addresses:?}\n")).expect("written");
    listen(&[&one]);
    let options = ["--config", config.to_str().expect("a path")];
    let master = site.master().workers(2).listen(&[]).options(&options).start();
    master.until_state("steady");
    let load = Load::start(&one.parse().expect("an address"));
    load.more(20);
    // What was the first one is the second one now.
    listen(&["tcp://127.0.0.1:0", &one]);
    master.ctl(&["upgrade"]).expect(0);
    let stats = tests::control::stats(&site.socket()).expect("stats");
    let addresses: Vec<&str> = stats.listeners.iter().map(|listener| listener.address.as_str()).collect();
    assert!(addresses[0].starts_with("tcp://127.0.0.1:") && addresses[1] == one, "{addresses:?}");
    assert!(tests::http::get(&addresses[0].parse().expect("an address"), "/").expect("an answer").contains("41"));
    load.more(20);
    load.finish();
}

#[test]
fn an_upgrade_that_could_not_work_is_refused_and_nothing_happens() {
    let site = Site::new();
    site.release("41", "");
    site.deploy("41");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let taken = format!("tcp://{}", taken.local_addr().expect("an address"));
    let config = site.root().join("phased.toml");
    // The command line would win over the file.
    let options = ["--config", config.to_str().expect("a path")];
    fs::write(&config, "listen = ['tcp://127.0.0.1:0']").expect("written");
    let master = site.master().workers(1).listen(&[]).options(&options).start();
    master.until_state("steady");
    let apps = master.app_pids();
    for (text, said) in [("soak = 'many'".to_owned(), "soak"), (format!("listen = ['{taken}']"), "address in use")] {
        fs::write(&config, text).expect("written");
        let output = master.ctl(&["upgrade"]).expect(1);
        assert!(output.stderr.contains(said), "{said}: {}", output.stderr);
        assert_eq!((master.app_pids(), master.stats().pid as i32), (apps.clone(), master.pid()));
    }
}
