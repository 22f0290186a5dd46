//! `ctl rehearse`: a release is booted and checked where nobody else is, and nothing else is touched.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use nix::sys::signal::Signal;
use serde_json::Value;
use tests::binaries::hook;
use tests::master::{all_on, app_pid, doing, refused, release_name};
use tests::{Master, Site, http, process};

const HTTP: &[&str] = &["--check", "http:/health", "--check-timeout", "300ms"];

/// Two workers on 41, well, with these options.
fn steady<'a>(site: &'a Site, options: &[&str]) -> Master<'a> {
    site.release("41", "");
    site.deploy("41");
    let master = site.master().workers(2).options(options).start();
    master.until_state("steady");
    master
}

/// Everything that a rehearsal must not touch.
fn world(master: &Master<'_>) -> impl PartialEq + std::fmt::Debug + use<> {
    let stats = master.stats();
    let history = fs::read_to_string(master.site().state().join("history.jsonl")).unwrap_or_default();
    let saved = fs::read_to_string(master.site().state().join("state.json")).unwrap_or_default();
    let mut saved: Value = serde_json::from_str(&saved).expect("a JSON document");
    // The number of a rehearsal is not given again.
    assert_ne!(saved["next_rollout"].take(), Value::Null);
    let apps = master.app_pids();
    let rest = (stats.old_workers, stats.last_rollout, stats.refused, stats.held, stats.confirm);
    (stats.state, stats.phase, stats.release, rest, apps, history, saved)
}

#[test]
fn a_release_that_passes() {
    let site = Site::new();
    let master = steady(&site, HTTP);
    let before = world(&master);
    site.release("42", "access-log\nrehearsal gate rehearsed");
    site.deploy("42");
    let ctl = master.ctl_start(&["rehearse"]);
    let rehearsed = site.arrival("rehearsed");
    let stats = master.stats();
    assert_eq!((stats.state.as_str(), doing(&stats)), ("rolling", "rehearsing"));
    assert_eq!(stats.rollout.as_ref().map(|rollout| rollout.kind.as_str()), Some("rehearsal"));
    assert_eq!((stats.booted_workers, stats.phase.0, stats.last_rollout.as_ref()), (2, 0, None));
    master.ctl(&["status"]).expect(5);
    rehearsed.open();
    let said = ctl.end().expect(0);
    assert!(said.stdout.contains("passed its rehearsal"), "{}", said.stdout);
    assert_eq!(world(&master), before);
    assert_eq!((site.boots("42"), site.rehearsals("42")), (1, 1));
    assert_eq!(site.accesses("42", &master.address().to_string()), [""; 0]);
    let all = process::of_site(site.root());
    assert_eq!(all.len(), 5, "something is left:\n{}", process::table(&all));
    // What was rehearsed by hand is rehearsed again before it is exposed.
    site.open("rehearsed");
    master.ctl(&["phased-restart"]).expect(0);
    assert_eq!((site.rehearsals("42"), master.stats().phase.0), (2, 1), "no phase was taken before");
}

#[test]
fn a_release_that_fails() {
    let site = Site::new();
    let master = steady(&site, HTTP);
    let before = world(&master);
    site.release("42", "access-log\nhealth 500 no database");
    // DIR is the caller's, and dir still names 41.
    let mut ctl = tests::ctl::command(&site.socket(), &["rehearse", "releases/42"]);
    let said = tests::Ctl::start(ctl.current_dir(site.root())).end().expect(3);
    for words in ["failed its rehearsal", "stage check: check http:/health: HTTP/1.1 500", "| no database"] {
        assert!(said.stderr.contains(words), "{words:?} is not in\n{}", said.stderr);
    }
    assert_eq!(world(&master), before, "not even refused");
    let report = master.ctl(&["report"]).expect(0);
    assert!(report.stdout.contains("no database"), "{}", report.stdout);
    let said = master.ctl(&["--json", "rehearse", site.release_dir("42").to_str().expect("a path")]).expect(3);
    let json = said.json();
    assert_eq!((&json["error"]["code"], &json["error"]["report"]["stage"]), (&Value::from(3), &Value::from("check")));
    let said = master.ctl(&["--json", "rehearse"]).expect(0);
    assert_eq!(said.json()["ok"], Value::from(true));
    assert_eq!(site.accesses("42", &master.address().to_string()), [""; 0]);
    let all = process::of_site(site.root());
    assert_eq!(all.len(), 5, "something is left:\n{}", process::table(&all));
}

#[test]
fn one_that_does_not_boot_and_a_dir_that_is_not_there() {
    let site = Site::new();
    // No check at all: what boots has passed.
    let master = steady(&site, &[]);
    let before = world(&master);
    master.ctl(&["rehearse"]).expect(0);
    site.release("42", "eprint no flask_login\nexit 1");
    site.deploy("42");
    let said = master.ctl(&["rehearse"]).expect(3);
    assert!(said.stderr.contains("stage ready: exited with status 1"), "{}", said.stderr);
    assert!(said.stderr.contains("| no flask_login"), "{}", said.stderr);
    site.point(&site.root().join("releases/none"));
    let said = master.ctl(&["rehearse"]).expect(1);
    assert!(said.stderr.contains("nothing changed"), "{}", said.stderr);
    assert_eq!(world(&master), before);
}

#[test]
fn one_that_is_killed() {
    for whole_worker in [false, true] {
        let site = Site::new();
        let master = steady(&site, &[]);
        let before = world(&master);
        site.release("42", "children 1\ngate boot");
        site.deploy("42");
        let ctl = master.ctl_start(&["rehearse"]);
        let booting = site.arrival("boot");
        let stats = master.stats();
        let row = stats.worker_status.iter().find(|worker| release_name(worker) == "42").expect("a row");
        assert_eq!(app_pid(row), Some(booting.app.pid));
        let victim = if whole_worker { row.pid.expect("a pid") as i32 } else { booting.app.pid };
        process::signal(victim, Signal::SIGKILL);
        ctl.end().expect(3);
        assert_eq!(world(&master), before);
        let all = process::of_site(site.root());
        assert_eq!(all.len(), 5, "something is left:\n{}", process::table(&all));
    }
}

#[test]
fn an_abort_and_a_stop_end_it() {
    let site = Site::new();
    let mut master = steady(&site, HTTP);
    let before = world(&master);
    site.release("42", "gate boot");
    site.deploy("42");
    let ctl = master.ctl_start(&["rehearse"]);
    drop(site.arrival("boot"));
    // It is no rollout that could be paused.
    master.ctl(&["pause"]).expect(1);
    master.ctl(&["abort"]).expect(0);
    let said = ctl.end().expect(3);
    assert!(said.stderr.contains("aborted; nothing was changed"), "{}", said.stderr);
    assert_eq!(world(&master), before);
    master.ctl(&["abort"]).expect(1);
    let ctl = master.ctl_start(&["rehearse"]);
    drop(site.arrival("boot"));
    master.ctl(&["stop"]).expect(0);
    let said = ctl.end().expect(1);
    assert!(said.stderr.contains("master stopped"), "{}", said.stderr);
    assert!(master.end().success());
    assert!(process::of_site(site.root()).is_empty());
}

#[test]
fn it_is_busy_and_makes_busy() {
    let site = Site::new();
    let master = steady(&site, &[]);
    site.release("42", "gate boot");
    site.deploy("42");
    let ctl = master.ctl_start(&["rehearse"]);
    let first = site.arrival("boot");
    for args in
        [&["rehearse"][..], &["phased-restart"], &["rollback"], &["reload-dir"], &["restart", "0"], &["scale", "+1"]]
    {
        let said = master.ctl(args).expect(5);
        assert!(said.stderr.contains("rehearsal"), "names what runs: {}", said.stderr);
    }
    first.open();
    ctl.end().expect(0);
    let ctl = master.ctl_start(&["phased-restart"]);
    let second = site.arrival("boot");
    master.ctl(&["rehearse"]).expect(5);
    second.open();
    site.open("boot");
    ctl.end().expect(0);
    assert!(all_on(&master.stats(), "42"));
}

#[test]
fn an_old_worker_that_crashes_meanwhile_comes_back() {
    let site = Site::new();
    let master = steady(&site, &[]);
    site.gates().reset_most();
    site.release("42", "gate boot");
    site.deploy("42");
    let ctl = master.ctl_start(&["rehearse"]);
    let booting = site.arrival("boot");
    let victim = master.app_pids()[1];
    process::signal(victim, Signal::SIGKILL);
    master.until("it is back", |stats| {
        stats.worker_status.iter().any(|worker| worker.index.0 == 1 && worker.booted && app_pid(worker) != Some(victim))
    });
    assert_eq!(doing(&master.stats()), "rehearsing");
    booting.open();
    ctl.end().expect(0);
    assert!(all_on(&master.stats(), "41"));
    assert!(site.gates().most() <= 3, "P3: {} lived at once", site.gates().most());
}

/// What a record says that does not have to be different in each process.
fn environment(record: &Value) -> BTreeSet<String> {
    let own = ["LISTEN_PID", "NOTIFY_SOCKET", "PHASED_TOKEN", "WORKER_INDEX", "PHASED_REHEARSAL"];
    let variables = record["env"].as_object().expect("variables");
    variables.keys().filter(|name| !own.contains(&name.as_str())).cloned().collect()
}

#[test]
fn it_gets_what_every_app_gets_on_addresses_of_its_own() {
    let site = Site::new();
    site.release("41", "record app");
    site.deploy("41");
    let folder = site.root().join("sockets");
    fs::create_dir(&folder).expect("a folder");
    let admin = format!("admin=unix://{}?mode=0666", folder.join("admin.sock").display());
    let check = format!("exec:{} {{addr}} {{addr:admin}} {{release}}", hook("check"));
    let options =
        ["--env", "ADDR={addr:web}", "--env", "ADMIN={addr:admin}", "--env", "FD={fd:admin}", "--check", &check];
    let listen = ["web=tcp://127.0.0.1:0", "six=tcp://[::1]:0", &admin];
    let master = site.master().workers(1).listen(&listen).options(&options).start();
    master.until_state("steady");
    let public: Vec<String> = master.stats().listeners.iter().map(|listener| listener.address.clone()).collect();
    let plain = |address: &Value| {
        let address = address.as_str().expect("an address");
        address.trim_start_matches("tcp://").trim_start_matches("unix://").to_owned()
    };
    let check_that = |rehearsed: &Value, live: &Value, checks: &[Value]| {
        assert_eq!((&rehearsed["rehearsal"], &live["rehearsal"]), (&Value::from(true), &Value::from(false)));
        assert_eq!(environment(rehearsed), environment(live));
        assert_eq!(rehearsed["env"]["PHASED_REHEARSAL"], "1");
        assert_eq!(live["env"]["PHASED_REHEARSAL"], Value::Null);
        for name in [
            "LISTEN_FDS",
            "LISTEN_FDNAMES",
            "FD",
            "PWD",
            "RELEASE_DIR",
            "EINHORN_FD_COUNT",
            "EINHORN_FD_0",
            "PHASED_SOCKET",
            "TEST_SITE",
        ] {
            assert_eq!(rehearsed["env"][name], live["env"][name], "{name}");
            assert_ne!(live["env"][name], Value::Null, "{name}");
        }
        assert_eq!(rehearsed["env"]["LISTEN_FDNAMES"], "web:six:admin");
        let fds =
            |record: &Value| record["fds"].as_object().expect("descriptors").keys().cloned().collect::<BTreeSet<_>>();
        assert_eq!(fds(rehearsed), fds(live));
        assert_eq!(rehearsed["cwd"], live["cwd"]);
        // The sockets: of the same kinds, and private.
        let (own, shared) =
            (rehearsed["listeners"].as_array().expect("sockets"), live["listeners"].as_array().expect("sockets"));
        assert_eq!(
            shared.iter().map(|address| address.as_str().expect("an address")).collect::<Vec<_>>(),
            public.iter().map(|address| address.split('?').next().unwrap_or(address)).collect::<Vec<_>>()
        );
        for ((own, shared), kind) in own.iter().zip(shared).zip(["tcp://127.0.0.1:", "tcp://[::1]:", "unix:///"]) {
            assert_ne!(own, shared);
            assert!(own.as_str().expect("an address").starts_with(kind), "{own}");
        }
        for (record, listeners) in [(rehearsed, own), (live, shared)] {
            assert_eq!(record["env"]["ADDR"], plain(&listeners[0]));
            assert_eq!(record["env"]["ADMIN"], plain(&listeners[2]));
            for listener in listeners {
                let ports = record["env"]["SERVER_STARTER_PORT"].as_str().expect("ports");
                assert!(ports.contains(&plain(listener)), "{ports}");
            }
        }
        // The check is told where.
        for (check, record, listeners) in [(&checks[0], rehearsed, own), (&checks[1], live, shared)] {
            let told = check["args"].as_array().expect("arguments");
            let wanted =
                [plain(&listeners[0]), plain(&listeners[2]), record["cwd"].as_str().expect("a path").to_owned()];
            assert_eq!(told[3..].iter().map(|word| word.as_str().expect("a word")).collect::<Vec<_>>(), wanted);
            assert_eq!(check["rehearsal"], record["rehearsal"]);
            assert_eq!(
                (&check["env"]["RELEASE_DIR"], &check["env"]["ADDR"]),
                (&record["env"]["RELEASE_DIR"], &record["env"]["ADDR"])
            );
        }
        // And nothing of it is left.
        let private = plain(&own[2]);
        assert!(!Path::new(&private).exists(), "{private}");
    };
    // The first start's own rehearsal, and one by hand.
    let (apps, checks) = (site.records("app"), site.records("check"));
    assert_eq!((apps.len(), checks.len()), (2, 2), "{apps:#?}");
    check_that(&apps[0], &apps[1], &checks);
    master.ctl(&["rehearse"]).expect(0);
    let (apps, checks) = (site.records("app"), site.records("check"));
    assert_eq!((apps.len(), checks.len()), (3, 3), "{apps:#?}");
    check_that(&apps[2], &apps[1], &[checks[2].clone(), checks[1].clone()]);
    // The shared socket, and the link from which its path is put back.
    assert_eq!(fs::read_dir(&folder).expect("a folder").count(), 2);
    assert_eq!(http::get(&master.address(), "/cwd").expect("a page"), site.release_dir("41").to_str().expect("a path"));
}

#[test]
fn its_private_path_goes_when_it_fails_or_is_killed_too() {
    let site = Site::new();
    site.release("41", "");
    site.deploy("41");
    let folder = site.root().join("sockets");
    fs::create_dir(&folder).expect("a folder");
    let listen = format!("unix://{}", folder.join("web.sock").display());
    let master = site.master().workers(1).listen(&[&listen]).options(HTTP).start();
    master.until_state("steady");
    let count = || fs::read_dir(&folder).expect("a folder").count();
    let before = count();
    for script in
        ["health 500 no", "exit 1", "kill-self KILL", "unlink-at-exit", "shutdown-at-exit", "shutdown-listener"]
    {
        site.release("42", script);
        let said = master.ctl(&["rehearse", site.release_dir("42").to_str().expect("a path")]);
        assert!([Some(0), Some(3)].contains(&said.code), "{script}: {said:?}");
        assert_eq!(count(), before, "{script}");
        // The shared one is unharmed.
        assert!(master.get("/").starts_with("release=41"));
    }
    assert!(all_on(&master.stats(), "41"));
}

#[test]
fn without_a_surge_it_is_one_more_and_says_so() {
    let site = Site::new();
    site.release("41", "");
    site.deploy("41");
    let options = ["--surge", "0", "--max-unavailable", "1", "--check", "http:/health"];
    let master = site.master().workers(2).options(&options).start();
    master.until_state("steady");
    assert!(
        !master.stderr.text().contains("one instance more"),
        "nothing serves yet when the first start is rehearsed"
    );
    site.gates().reset_most();
    site.release("42", "rehearsal gate rehearsed");
    site.deploy("42");
    let ctl = master.ctl_start(&["phased-restart"]);
    let rehearsed = site.arrival("rehearsed");
    assert_eq!(master.stats().booted_workers, 2, "nobody was stopped for it");
    rehearsed.open();
    let said = ctl.end().expect(0);
    assert!(said.stdout.contains("one instance more"), "{}\n{}", said.stdout, said.stderr);
    master.until_log("one instance more");
    assert!(site.gates().most() <= 3, "{} lived at once", site.gates().most());
    assert!(site.fewest_serving(2) >= 1, "P2: {:#?}", site.history());
    // By hand, too.
    site.open("rehearsed");
    let said = master.ctl(&["rehearse"]).expect(0);
    assert!(said.stdout.contains("one instance more"), "{}\n{}", said.stdout, said.stderr);
    assert!(all_on(&master.stats(), "42") && refused(&master.stats()).is_empty());
}

#[test]
fn it_takes_a_place_of_the_surge_and_waits_for_one() {
    let site = Site::new();
    site.release("41", "drain-gate drained");
    site.deploy("41");
    let master = site.master().workers(2).start();
    master.until_state("steady");
    site.gates().reset_most();
    // Its app finishes what it has; the slot is filled at once, with the one place that there is.
    let worker = master.slot(1)[0].pid.expect("a pid") as i32;
    process::signal(worker, Signal::SIGKILL);
    let draining = site.arrival("drained");
    master.until("slot 1 is filled", |stats| stats.booted_workers == 2);
    site.release("42", "");
    site.deploy("42");
    let ctl = master.ctl_start(&["rehearse"]);
    let stats = master.until_doing("rehearsing");
    assert!(stats.worker_status.iter().all(|worker| release_name(worker) == "41"), "{stats:#?}");
    draining.open();
    site.open("drained");
    ctl.end().expect(0);
    assert_eq!(site.rehearsals("42"), 1);
    assert!(site.gates().most() <= 3, "P3: {} lived at once", site.gates().most());
}
