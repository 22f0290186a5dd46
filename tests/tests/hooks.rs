//! Hooks: when they run, what they get, and what they can do.

use std::fs;

use nix::sys::signal::Signal;
use proto::control::Stats;
use serde_json::Value;
use tests::binaries::hook;
use tests::master::{all_on, app_pid, doing};
use tests::{Master, Site, process};

/// Two workers on 41, well, with these options; its hooks pass.
fn steady<'a>(site: &'a Site, options: &[&str]) -> Master<'a> {
    site.release("41", "");
    site.deploy("41");
    let master = site.master().workers(2).options(options).start();
    master.until_state("steady");
    master
}

/// What happened to a release, in order: `hook:NAME`, `start` (of a rehearsal: `rehearsal`).
fn order(site: &Site, release: &str) -> Vec<String> {
    let mut order: Vec<String> = Vec::new();
    for entry in site.history().into_iter().filter(|entry| entry.app.release == release) {
        match entry.what.as_str() {
            "rehearsal" => *order.last_mut().expect("it has started") = "rehearsal".into(),
            "start" => order.push("start".into()),
            what if what.starts_with("hook:") => order.push(what.into()),
            _ => {}
        }
    }
    order
}

/// A helper's environment: the candidate's, without the sockets and without a way to speak for the app.
fn is_a_helpers(record: &Value, site: &Site, release: &str) {
    let folder = site.release_dir(release).to_str().expect("a path").to_owned();
    for (name, wanted) in
        [("PWD", folder.as_str()), ("RELEASE_DIR", &folder), ("GEMFILE", &format!("{folder}/Gemfile"))]
    {
        assert_eq!(record["env"][name], wanted, "{name}");
    }
    assert_eq!((&record["cwd"], &record["release"]), (&Value::from(folder), &Value::from(release)));
    assert_ne!(record["env"]["PHASED_SOCKET"], Value::Null);
    for name in [
        "LISTEN_FDS",
        "LISTEN_PID",
        "LISTEN_FDNAMES",
        "SERVER_STARTER_PORT",
        "EINHORN_FD_COUNT",
        "EINHORN_FD_0",
        "FPM_SOCKETS",
        "NOTIFY_SOCKET",
        "WATCHDOG_USEC",
    ] {
        assert_eq!(record["env"][name], Value::Null, "{name}");
    }
    let fds = record["fds"].as_object().expect("descriptors");
    assert!(fds.keys().all(|fd| ["0", "1", "2"].contains(&fd.as_str())), "{fds:#?}");
    assert!(fds.values().all(|target| !target.as_str().expect("a target").starts_with("socket:")), "{fds:#?}");
}

#[test]
fn the_order_and_what_they_get() {
    let site = Site::new();
    let (migrate, assets, check) = (hook("migrate"), hook("assets"), format!("exec:{}", hook("check")));
    let migrate = format!("{migrate} {{release}} {{phase}} {{{{release}}");
    let environment = "GEMFILE={release}/Gemfile";
    let options = ["--before-rollout", &migrate, "--before-boot", &assets, "--check", &check, "--env", environment];
    let master = steady(&site, &options);
    let all = ["hook:migrate", "hook:assets", "rehearsal", "hook:check"];
    let slot = ["hook:assets", "start", "hook:check"];
    let first = order(&site, "41");
    assert_eq!(first[..4], all, "{first:#?}");
    assert_eq!(first.len(), 4 + 2 * 3, "{first:#?}");
    site.release("42", "");
    master.roll("42").expect(0);
    assert_eq!(order(&site, "42"), [&all[..], &slot, &slot].concat());
    for name in ["migrate", "assets", "check"] {
        let records = site.records(name);
        let of_42: Vec<&Value> = records.iter().filter(|record| record["release"] == "42").collect();
        assert_eq!(of_42.len(), if name == "migrate" { 1 } else { 3 }, "{name}");
        for record in of_42 {
            is_a_helpers(record, &site, "42");
            assert_eq!((&record["phase"], &record["stdin"]), (&Value::from("1"), &Value::from("")));
        }
    }
    let args = site.records("migrate")[1]["args"].clone();
    let folder = site.release_dir("42").to_str().expect("a path").to_owned();
    assert_eq!(args.as_array().expect("arguments")[3..], [folder.as_str(), "1", "{release}"].map(Value::from));
    let all = process::of_site(site.root());
    assert_eq!(all.len(), 5, "something is left:\n{}", process::table(&all));
}

#[test]
fn before_rollout_runs_once_a_rollout_and_for_nothing_else() {
    let site = Site::new();
    let mut master = steady(&site, &["--before-rollout", &hook("migrate")]);
    let count = |release: &str| site.hooks("migrate", release);
    assert_eq!(count("41"), 1, "at the first start");
    // A respawn, a slot's restart, one slot more.
    let victim = master.app_pids()[0];
    process::signal(victim, Signal::SIGKILL);
    master.until("respawned", |stats| all_on(stats, "41") && app_pid(&stats.worker_status[0]) != Some(victim));
    master.ctl(&["restart", "1"]).expect(0);
    master.ctl(&["scale", "+1"]).expect(0);
    assert_eq!(count("41"), 1);
    // A rehearsal by hand.
    site.release("42", "slot 2 exit 1");
    site.deploy("42");
    master.ctl(&["rehearse"]).expect(0);
    assert_eq!((count("41"), count("42")), (1, 0));
    // A refused rollout: once for the candidate, never for what is put back.
    master.ctl(&["phased-restart"]).expect(3);
    assert_eq!((count("41"), count("42")), (1, 1));
    // A good one, and the way back.
    site.release("43", "");
    master.roll("43").expect(0);
    master.ctl(&["rollback"]).expect(0);
    assert!(all_on(&master.stats(), "41"));
    assert_eq!((count("41"), count("43")), (1, 1));
    // A restart of what runs already is a rollout.
    master.roll("41").expect(0);
    assert_eq!(count("41"), 2);
    // A reboot with known-good code is none.
    master.ctl(&["stop"]).expect(0);
    assert!(master.end().success());
    drop(master);
    let master = site.master().workers(2).options(&["--before-rollout", &hook("migrate")]).start();
    master.until_state("steady");
    assert_eq!(count("41"), 2);
}

#[test]
fn an_abort_ends_a_hook_that_hangs() {
    let site = Site::new();
    let master = steady(&site, &["--before-rollout", &hook("migrate")]);
    let old = master.app_pids();
    site.release("42", "");
    site.hook_script("42", "migrate", "children 1\ngate migrating");
    site.deploy("42");
    let ctl = master.ctl_start(&["phased-restart"]);
    let migrating = site.arrival("migrating");
    let stats = master.stats();
    assert_eq!((stats.state.as_str(), doing(&stats), stats.booted_workers), ("rolling", "hook", 2));
    assert!(stats.worker_status.iter().all(|worker| worker.booted), "a hook is no worker: {stats:#?}");
    master.ctl(&["abort"]).expect(0);
    let said = ctl.end().expect(3);
    assert!(said.stderr.contains("aborted, using old code"), "{}", said.stderr);
    site.until_ended(migrating.app.pid);
    assert_eq!((master.app_pids(), site.boots("42")), (old, 0));
    let all = process::of_site(site.root());
    assert_eq!(all.len(), 5, "something is left:\n{}", process::table(&all));
    // And one that is killed is a failure.
    let ctl = master.ctl_start(&["phased-restart"]);
    process::signal(site.arrival("migrating").app.pid, Signal::SIGKILL);
    let said = ctl.end().expect(3);
    // As sh says it of its child.
    assert!(said.stderr.contains("stage hook: --before-rollout exited with status 137"), "{}", said.stderr);
    assert!(all_on(&master.stats(), "41"));
}

#[test]
fn a_hook_that_takes_too_long_is_ended() {
    let site = Site::new();
    let master = steady(&site, &["--before-rollout", &hook("migrate"), "--hook-timeout", "400ms"]);
    site.release("42", "");
    site.hook_script("42", "migrate", "eprint waiting for a lock\nwait-forever");
    let said = master.roll("42").expect(3);
    assert!(said.stderr.contains("stage hook: --before-rollout did not end within 400ms"), "{}", said.stderr);
    assert!(said.stderr.contains("| waiting for a lock"), "{}", said.stderr);
    let all = process::of_site(site.root());
    assert_eq!(all.len(), 5, "something is left:\n{}", process::table(&all));
}

#[test]
fn what_a_hook_prints_is_the_masters_output() {
    let site = Site::new();
    let master = steady(&site, &["--before-rollout", &hook("migrate"), "--before-boot", &hook("assets")]);
    site.release("42", "");
    site.hook_script("42", "migrate", "print adding a column\neprint slowly");
    site.hook_script("42", "assets", "print compiling");
    master.roll("42").expect(0);
    master.until_stdout("adding a column");
    master.until_stdout("compiling");
    master.until_log("slowly");
}

#[test]
fn the_release_phase_of_a_procfile() {
    let site = Site::new();
    let procfile =
        |release: &str, text: &str| fs::write(site.release_dir(release).join("Procfile"), text).expect("a file");
    let web = format!("web: '{}'\n", tests::binaries::binary("fixture").display());
    site.release("41", "");
    procfile("41", &web);
    site.deploy("41");
    // No such line: nothing to run.
    let master = site.master().workers(1).procfile().options(&["--release-phase"]).start();
    master.until_state("steady");
    site.release("42", "");
    procfile("42", &format!("{web}release: KIND=big {} now\n", hook("migrate")));
    master.roll("42").expect(0);
    let records = site.records("migrate");
    assert_eq!(records.len(), 1, "{records:#?}");
    assert_eq!((&records[0]["release"], &records[0]["env"]["KIND"]), (&Value::from("42"), &Value::from("big")));
    site.release("43", "");
    procfile("43", &format!("{web}release: {}\n", hook("migrate")));
    site.hook_script("43", "migrate", "eprint no such table\nexit 3");
    let said = master.roll("43").expect(3);
    assert!(said.stderr.contains("stage hook: ") && said.stderr.contains("| no such table"), "{}", said.stderr);
    assert_eq!((site.boots("43"), all_on(&master.stats(), "42")), (0, true));
    // A COMMAND of one's own and the Procfile's release line go together; without the option it does not run.
    drop(master);
    site.release("44", "");
    procfile("44", &format!("release: {}\n", hook("migrate")));
    site.deploy("44");
    let state = Some(site.root().join("other-state"));
    let master = site.master().workers(1).state(state.clone()).start();
    master.until_state("steady");
    assert_eq!(site.hooks("migrate", "44"), 0);
    drop(master);
    let state = Some(site.root().join("third-state"));
    let master = site.master().workers(1).state(state).options(&["--release-phase"]).start();
    master.until_state("steady");
    assert_eq!(site.hooks("migrate", "44"), 1);
}

#[test]
fn before_boot_runs_before_every_app() {
    let site = Site::new();
    let master = steady(&site, &["--before-boot", &hook("assets")]);
    assert_eq!((site.hooks("assets", "41"), site.boots("41")), (2, 2));
    let victim = master.app_pids()[0];
    process::signal(victim, Signal::SIGKILL);
    master.until("respawned", |stats| all_on(stats, "41") && app_pid(&stats.worker_status[0]) != Some(victim));
    assert_eq!(site.hooks("assets", "41"), 3);
    // One slot's fails: what was replaced is put back, each with its hook.
    site.release("42", "");
    site.hook_script("42", "assets", "slot 1 eprint no manifest\nslot 1 exit 6");
    let said = master.roll("42").expect(3);
    assert!(said.stderr.contains("slot 1, stage hook: --before-boot exited with status 6"), "{}", said.stderr);
    assert_eq!((site.hooks("assets", "41"), site.hooks("assets", "42"), site.boots("42")), (4, 2, 1));
    assert!(all_on(&master.stats(), "41"));
}

/// The JSON that a hook read on stdin.
fn told(record: &Value) -> Value {
    serde_json::from_str(record["stdin"].as_str().expect("text")).expect("a JSON document")
}

#[test]
fn on_promote_and_on_failure_hear_of_every_rollout_once() {
    let site = Site::new();
    let master = steady(
        &site,
        &["--on-promote", &hook("promoted"), "--on-failure", &hook("failed"), "--env", "GEMFILE={release}/Gemfile"],
    );
    let heard = |promoted: usize, failed: usize| {
        master.until("the hooks are through", |_| {
            site.records("promoted").len() >= promoted && site.records("failed").len() >= failed
        });
        assert_eq!((site.records("promoted").len(), site.records("failed").len()), (promoted, failed));
    };
    assert_eq!((site.records("promoted").len(), site.records("failed").len()), (0, 0), "a start is no rollout");
    site.release("42", "");
    site.deploy("42");
    let said = master.ctl(&["--json", "phased-restart"]).expect(0);
    heard(1, 0);
    let record = site.records("promoted")[0].clone();
    assert_eq!(told(&record), said.json(), "as ctl prints it");
    is_a_helpers(&record, &site, "42");
    // Refused: with the report.
    site.release("43", "eprint no flask_login\nexit 1");
    site.deploy("43");
    let said = master.ctl(&["--json", "phased-restart"]).expect(3);
    heard(1, 1);
    let record = site.records("failed")[0].clone();
    assert_eq!(told(&record), said.json(), "as ctl prints it");
    assert_eq!(told(&record)["report"]["output"], "no flask_login\n");
    // In the known-good release: the one that failed may not even be there.
    is_a_helpers(&record, &site, "42");
    // Held is neither; nor are a rehearsal and a slot's restart.
    site.release("44", "");
    site.deploy("44");
    master.ctl(&["phased-restart", "--hold"]).expect(0);
    master.ctl(&["rehearse"]).expect(0);
    master.ctl(&["restart", "0"]).expect(0);
    heard(1, 1);
    // Back to known-good code on a person's word.
    let said = master.ctl(&["--json", "rollback"]).expect(0);
    heard(2, 1);
    assert_eq!(told(&site.records("promoted")[1]), said.json());
    let all = master.until("they have left", |_| process::of_site(site.root()).len() == 5);
    assert!(all_on(&all, "42"));
}

#[test]
fn what_nobody_confirms_is_a_failure_to_them() {
    let site = Site::new();
    let options =
        ["--on-promote", &hook("promoted"), "--on-failure", &hook("failed"), "--env", "GEMFILE={release}/Gemfile"];
    let master = steady(&site, &options);
    site.release("42", "");
    site.deploy("42");
    let seen = master.trace().len();
    let said = master.ctl(&["--json", "phased-restart", "--confirm-within", "300ms"]).expect(0);
    master.until_step(seen, "nobody confirms", |step| step.starts_with("> fired confirm"));
    let through = |stats: &Stats| {
        let last = stats.last_rollout.as_ref();
        stats.rollout.is_none() && last.is_some_and(|last| last.kind == "rollback") && all_on(stats, "41")
    };
    master.until("it is rolled back, and the hooks are through", |stats| {
        through(stats) && site.records("failed").len() == 1 && process::of_site(site.root()).len() == 5
    });
    // Promoted it was: that was heard, once, and of the way back only the other one hears.
    let (promoted, failed) = (site.records("promoted"), site.records("failed"));
    assert_eq!((promoted.len(), failed.len()), (1, 1), "{promoted:#?}");
    assert_eq!(told(&promoted[0]), said.json());
    is_a_helpers(&promoted[0], &site, "42");
    is_a_helpers(&failed[0], &site, "41");
    let rollback = told(&failed[0]);
    let folder = |release: &str| Value::from(site.release_dir(release).to_str().expect("a path"));
    assert_eq!(
        (&rollback["kind"], &rollback["from"], &rollback["to"]),
        (&"rollback".into(), &folder("42"), &folder("41"))
    );
    assert_eq!(rollback, master.ctl(&["--json", "stats"]).expect(0).json()["last_rollout"]);
    // A rollback on a person's word is none.
    master.ctl(&["phased-restart", "--confirm-within", "10m"]).expect(0);
    master.ctl(&["rollback"]).expect(0);
    master.until("the hooks are through", |_| {
        site.records("promoted").len() == 3 && process::of_site(site.root()).len() == 5
    });
    assert_eq!(site.records("failed").len(), 1);
}

#[test]
fn what_they_do_changes_nothing() {
    let site = Site::new();
    let options = ["--on-promote", &hook("promoted"), "--on-failure", &hook("failed"), "--hook-timeout", "400ms"];
    let master = steady(&site, &options);
    site.release("42", "");
    site.hook_script("42", "promoted", "eprint no chat today\nexit 9");
    master.roll("42").expect(0);
    let line = master.until_log("on-promote");
    assert!(line.contains("changes nothing") || line.contains("exited with status 9"), "{line}");
    let stats = master.stats();
    assert!(all_on(&stats, "42") && stats.state == "steady", "{stats:#?}");
    assert_eq!(stats.last_rollout.as_ref().map(|last| last.outcome.as_str()), Some("promoted"));
    assert!(stats.refused.is_empty());
    // One that hangs keeps nobody waiting, is ended in time, and leaves nothing.
    site.hook_script("42", "failed", "ignore-term\ndeaf-children 1\neprint hanging\nwait-forever");
    site.release("43", "exit 1");
    master.roll("43").expect(3);
    assert_eq!(master.stats().state, "steady");
    master.until_log("hanging");
    site.release("44", "");
    master.roll("44").expect(0);
    assert!(all_on(&master.stats(), "44"));
    master.until_log("--on-failure did not end within 400ms");
    master.until("it has left", |_| process::of_site(site.root()).len() == 5);
}

#[test]
fn a_stop_ends_a_hook_that_hangs() {
    let site = Site::new();
    let mut master = steady(&site, &["--on-failure", &hook("failed"), "--before-rollout", &hook("migrate")]);
    site.hook_script("41", "failed", "gate never");
    site.release("42", "exit 1");
    master.roll("42").expect(3);
    drop(site.arrival("never"));
    site.hook_script("42", "migrate", "gate never");
    let ctl = master.ctl_start(&["phased-restart"]);
    drop(site.arrival("never"));
    master.ctl(&["stop"]).expect(0);
    let said = ctl.end().expect(1);
    assert!(said.stderr.contains("master stopped"), "{}", said.stderr);
    assert!(master.end().success());
    assert!(process::of_site(site.root()).is_empty());
}

#[test]
fn a_hook_that_cannot_be_run() {
    let site = Site::new();
    let master = steady(&site, &["--before-rollout", "if test -e bad; then no-such-command; fi"]);
    site.release("42", "");
    fs::write(site.release_dir("42").join("bad"), "").expect("a file");
    let said = master.roll("42").expect(3);
    assert!(said.stderr.contains("stage hook: --before-rollout exited with status 127"), "{}", said.stderr);
    assert!(said.stderr.contains("no-such-command"), "{}", said.stderr);
    assert!(all_on(&master.stats(), "41"));
}
