//! P6: a command returns when its work is done, and tells the truth about how.

use nix::sys::signal::Signal;
use serde_json::Value;
use tests::master::{all_on, name_of};
use tests::{Ctl, Site, ctl, process};

const BROKEN: &str = "print last words\neprint ModuleNotFoundError: No module named 'flask_login'\nexit 1";

/// `0.83s` and the like become `Ns`.
fn without_times(text: &str) -> String {
    let mut words: Vec<String> = Vec::new();
    for line in text.lines() {
        let line = line.split(' ').map(|word| {
            let number = word.strip_suffix('s').is_some_and(|n| n.parse::<f64>().is_ok());
            if number { "Ns".to_owned() } else { word.to_owned() }
        });
        words.push(line.collect::<Vec<_>>().join(" "));
    }
    words.join("\n")
}

fn keys(value: &Value) -> Vec<&str> {
    value.as_object().expect("an object").keys().map(String::as_str).collect()
}

#[test]
fn a_refused_release_is_told_in_the_apps_own_words() {
    let site = Site::new();
    let master = site.steady("41", "", 2);
    site.release("42", BROKEN);
    let said = master.roll("42").expect(3);
    let (old, new) = (site.release_dir("41"), site.release_dir("42"));
    let (old, new) = (old.display(), new.display());
    // Two pipes have no common order: the report has both lines.
    let (head, rest) = said.stderr.split_once("\n  | ").expect("the app's words");
    assert_eq!(
        without_times(head),
        format!(
            "error: unable to boot with new codebase, using old one ({old})\n  \
             {new}, slot 0, stage ready: exited with status 1 after Ns"
        )
    );
    assert!(rest.contains("ModuleNotFoundError: No module named 'flask_login'") && rest.contains("last words"));
    assert_eq!(said.stderr.lines().last(), Some("phased restart failed"));
    assert!(said.stdout.contains(&format!("{new}")), "what happens is streamed: {}", said.stdout);
    // The log of the master has it, too.
    master.until_log("flask_login");
}

#[test]
fn json_is_one_document_on_every_path() {
    let site = Site::new();
    let master = site.steady("41", "", 2);
    let last = ["id", "kind", "from", "to", "phase", "outcome", "ended_at", "seconds", "report"];

    site.release("42", BROKEN);
    site.deploy("42");
    let refused = master.ctl(&["--json", "phased-restart"]).expect(3).json();
    assert_eq!(keys(&refused), last);
    assert_eq!((&refused["outcome"], &refused["kind"]), (&"aborted".into(), &"phased-restart".into()));
    let report = &refused["report"];
    assert_eq!((&report["stage"], &report["exit_status"]), (&"ready".into(), &1.into()), "{report:#}");
    assert!(report["output"].as_str().is_some_and(|output| output.contains("flask_login")), "{report:#}");
    assert!(report["seconds"].is_number(), "{report:#}");

    site.release("43", "");
    site.deploy("43");
    // Global options stand before or after the command.
    let promoted = master.ctl(&["phased-restart", "--json"]).expect(0).json();
    assert_eq!(keys(&promoted), last);
    assert_eq!((&promoted["outcome"], &promoted["report"]), (&"promoted".into(), &Value::Null));
    assert_eq!(promoted["to"], site.release_dir("43").to_str().unwrap());

    for (args, code) in [
        (&["abort"][..], 1),
        (&["restart", "9"], 1),
        (&["scale", "0"], 1),
        (&["reload-dir", "/nowhere"], 1),
        (&["nonsense"], 2),
        (&["phased-restart", "--surge", "0"], 2),
    ] {
        let error = master.ctl(&[&["--json"], args].concat()).expect(code).json();
        assert_eq!(keys(&error), ["error"], "{args:?}");
        assert_eq!(keys(&error["error"]), ["code", "message", "report"], "{args:?}");
        assert_eq!(error["error"]["code"], code, "{args:?}");
    }
    for args in [&["reload-dir"][..], &["scale", "2"], &["signal", "WINCH"], &["report"], &["status"]] {
        let good = master.ctl(&[&["--json"], args].concat()).expect(0).json();
        assert_eq!(good["ok"], true, "{args:?} {good:#}");
    }
    for args in [&["restart", "0"][..], &["rollback"]] {
        let ended = master.ctl(&[&["--json"], args].concat()).expect(0).json();
        assert_eq!(keys(&ended), last, "{args:?}");
        assert_eq!(ended["kind"], args[0], "{ended:#}");
    }
    let nobody = Ctl::start(&mut ctl::command(&site.root().join("run/none.sock"), &["--json", "stats"])).end();
    assert_eq!(nobody.expect(7).json()["error"]["code"], 7);
}

#[test]
fn stats_has_the_keys_of_the_contract() {
    let site = Site::new();
    let master = site.steady("41", "notify STATUS=at work", 2);
    let wanted = [
        "name",
        "version",
        "pid",
        "started_at",
        "state",
        "dir",
        "dir_target",
        "release",
        "phase",
        "workers",
        "booted_workers",
        "old_workers",
        "worker_status",
        "listeners",
        "rollout",
        "last_rollout",
    ];
    let workers = [
        "index",
        "pid",
        "app_pid",
        "incarnation",
        "phase",
        "release",
        "state",
        "booted",
        "started_at",
        "boot_seconds",
        "evidence",
        "crashes",
        "last_checkin",
        "last_status",
        "last_exit",
    ];
    let stats = master.ctl(&["--json", "stats"]).expect(0).json();
    for key in wanted {
        assert!(stats.get(key).is_some(), "{key} in {stats:#}");
    }
    for worker in stats["worker_status"].as_array().expect("an array") {
        for key in workers {
            assert!(worker.get(key).is_some(), "{key} in {worker:#}");
        }
        assert_eq!((&worker["booted"], &worker["evidence"]), (&true.into(), &"accepting".into()));
        assert!(
            worker["boot_seconds"].is_number() && worker["started_at"].as_str().is_some_and(|at| at.ends_with('Z'))
        );
        assert_eq!(worker["last_status"]["text"], "at work");
    }
    assert_eq!((&stats["state"], &stats["workers"], &stats["phase"]), (&"steady".into(), &2.into(), &0.into()));
    assert_eq!(stats["pid"], master.pid());
    assert_eq!(stats["dir"], site.current().to_str().unwrap());
    assert_eq!(stats["dir_target"], site.release_dir("41").to_str().unwrap());
    assert_eq!((&stats["rollout"], &stats["last_rollout"]), (&Value::Null, &Value::Null));
    assert!(stats["listeners"][0]["address"].as_str().is_some_and(|address| address.starts_with("tcp://127.0.0.1:")));
}

#[test]
fn stats_keeps_pumas_meaning_while_rolling() {
    let site = Site::new();
    let master = site.steady("41", "", 3);
    site.release("42", "gate boot");
    site.deploy("42");
    let ctl = master.ctl_start(&["phased-restart"]);
    site.arrival("boot").open();
    let second = site.arrival("boot");
    let stats = master.ctl(&["--json", "stats"]).expect(0).json();
    assert_eq!((&stats["state"], &stats["phase"]), (&"rolling".into(), &1.into()));
    assert_eq!((&stats["booted_workers"], &stats["old_workers"]), (&3.into(), &2.into()), "{stats:#}");
    let rollout = &stats["rollout"];
    assert_eq!(keys(rollout), ["id", "kind", "from", "to", "phase", "step", "of", "state", "started_at"]);
    assert_eq!((&rollout["step"], &rollout["of"], &rollout["state"]), (&1.into(), &3.into(), &"rolling".into()));
    let order: Vec<_> = stats["worker_status"]
        .as_array()
        .expect("an array")
        .iter()
        .map(|worker| (worker["index"].as_u64(), worker["incarnation"].as_u64()))
        .collect();
    assert!(order.is_sorted(), "{order:?}");
    assert_eq!(order.len(), 4, "an index stands twice while its slot is being replaced");
    master.ctl(&["status"]).expect(5);
    second.open();
    site.open("boot");
    ctl.end().expect(0);
    master.ctl(&["status"]).expect(0);
}

#[test]
fn not_waiting_and_waiting_for_a_while() {
    let site = Site::new();
    let master = site.steady("41", "", 1);
    site.release("42", "gate boot");
    site.deploy("42");
    master.ctl(&["phased-restart", "--no-wait"]).expect(0);
    let waiting = site.arrival("boot");
    assert_eq!(master.stats().state, "rolling");
    waiting.open();
    master.until("promoted", |stats| stats.state == "steady" && name_of(&stats.release) == "42");

    let said = master.ctl(&["phased-restart", "--timeout", "100ms"]).expect(6);
    assert!(said.stderr.contains("goes on"), "{}", said.stderr);
    assert_eq!(master.stats().state, "rolling");
    site.open("boot");
    master.until_state("steady");
}

#[test]
fn interrupting_ctl_leaves_the_rollout_running() {
    let site = Site::new();
    let master = site.steady("41", "", 1);
    site.release("42", "gate boot");
    site.deploy("42");
    let ctl = master.ctl_start(&["phased-restart"]);
    let waiting = site.arrival("boot");
    // The master has accepted, so ctl has been told or is about to be.
    ctl.stdout.wait(0, site.deadline(), |_| true).expect("a line about what begins");
    process::signal(ctl.pid(), Signal::SIGINT);
    let said = ctl.end();
    assert_ne!(said.code, Some(0));
    assert!(said.stderr.contains("goes on"), "{}", said.stderr);
    waiting.open();
    master.until("promoted", |stats| stats.state == "steady" && name_of(&stats.release) == "42");
}

#[test]
fn the_master_goes_away_while_ctl_waits() {
    let site = Site::new();
    let master = site.steady("41", "", 1);
    site.release("42", "gate boot");
    site.deploy("42");
    let ctl = master.ctl_start(&["phased-restart"]);
    let _waiting = site.arrival("boot");
    process::signal(master.pid(), Signal::SIGKILL);
    let said = ctl.end().expect(10);
    assert!(said.stderr.contains("unknown"), "{}", said.stderr);
    site.until_ended(master.pid());
    master.ctl(&["status"]).expect(7);
}

#[test]
fn a_report_is_whole_and_cut_at_a_lines_start() {
    let site = Site::new();
    let master = site.steady("41", "", 1);
    master.ctl(&["report"]).expect(0);
    site.release("42", "print-lines 3000\nexit 4");
    let said = master.roll("42").expect(3);
    assert!(said.stderr.contains("line 0000002999"), "{}", said.stderr);
    let report = master.ctl(&["--json", "report"]).expect(0).json();
    let output = report["report"]["output"].as_str().expect("the output");
    assert!(output.len() <= 64 << 10 && output.len() > 60 << 10, "{} bytes", output.len());
    let (first, last) = (output.lines().next().expect("a line"), output.lines().last().expect("a line"));
    assert!(first.starts_with("line 0") && first.len() == 63, "{first:?}");
    assert!(last.starts_with("line 0000002999 "), "{last:?}");
    assert!(master.ctl(&["report"]).expect(0).stdout.contains("line 0000002000"));
}

#[test]
fn each_way_to_fail_is_named() {
    let site = Site::new();
    site.release("41", "");
    site.deploy("41");
    let master = site.master().workers(1).options(&["--boot-timeout", "1s"]).start();
    master.until_state("steady");
    let fails = |name: &str, script: &str, words: &[&str]| {
        site.release(name, script);
        let said = master.roll(name).expect(3);
        for word in words {
            assert!(said.stderr.contains(word), "{word:?} in {}", said.stderr);
        }
        assert!(all_on(&master.stats(), "41"));
        master.stats().last_rollout.and_then(|last| last.report).expect("a report")
    };
    fails("exits-0", "exit 0", &["stage ready", "exited with status 0"]);
    let killed = fails("killed", "kill-self FPE", &["stage ready", "SIGFPE"]);
    assert_eq!(killed.exit, Some(proto::worker::ExitStatus::Signal(8)));
    fails("abort", "abort", &["stage ready", "SIGABRT"]);
    fails("hangs", "print still thinking\nwait-forever", &["stage ready", "| still thinking"]);
    let elsewhere =
        fails("elsewhere", "listen-elsewhere", &["stage ready", "127.0.0.1:", "--ready notify", "--ready alive"]);
    assert!(elsewhere.message.contains("not on the inherited socket"), "{}", elsewhere.message);
}

#[test]
fn a_rollout_ends_when_nothing_of_it_drains_any_more() {
    let site = Site::new();
    let master = site.steady("41", "drain-gate drain", 1);
    site.release("42", "");
    site.deploy("42");
    let mut ctl = master.ctl_start(&["phased-restart"]);
    let draining = site.arrival("drain");
    let stats = master.until("only the drain is left", |stats| {
        stats.booted_workers == 1
            && stats.old_workers == 0
            && stats.rollout.as_ref().is_some_and(|r| r.state == "draining")
    });
    assert!(stats.worker_status.iter().any(|worker| worker.state == "draining"));
    assert!(ctl.waits(), "the old app has not finished");
    assert_eq!(stats.last_rollout, None);
    draining.open();
    ctl.end().expect(0);
    assert_eq!(master.stats().worker_status.len(), 1);
}

#[test]
fn ctl_finds_its_master_or_says_where_it_looked() {
    let site = Site::new();
    let runtime = site.root().join("run/phased");
    std::fs::create_dir(&runtime).expect("a folder");
    std::fs::set_permissions(&runtime, std::os::unix::fs::PermissionsExt::from_mode(0o700)).expect("a mode");
    let run = |args: &[&str]| {
        let mut command = ctl::bare();
        command.env("RUNTIME_DIRECTORY", &runtime).env("TMPDIR", site.root()).args(args);
        Ctl::start(&mut command).end()
    };
    let none = run(&["status", "--name", "nobody-of-this-name"]);
    // Where a master of root's runs, its folder is closed to others: then there may be one of this name.
    assert!(none.code == Some(7) || (none.code == Some(8) && !nix::unistd::geteuid().is_root()), "{none:?}");
    assert!(none.stderr.contains(runtime.to_str().unwrap()), "{}", none.stderr);
    site.release("41", "");
    site.deploy("41");
    let master = site.master().workers(1).socket(runtime.join("site.sock")).start();
    master.until_state("steady");
    run(&["status", "--name", "site"]).expect(0);
    let shown = run(&["stats", "--name", "site"]).expect(0);
    assert!(shown.stdout.contains("41"), "{}", shown.stdout);
}
