//! A release that was refused is remembered, with its report; a person may try it again, a polling deployer does not.

use proto::control::Stats;
use serde_json::Value;
use tests::master::{all_on, name_of, refused};
use tests::{Master, Site};

const BROKEN: &str = "eprint ModuleNotFoundError: No module named 'flask_login'\nexit 1";

#[test]
fn it_is_shown_with_its_report() {
    let site = Site::new();
    let master = site.steady("41", "", 2);
    assert_eq!(master.ctl(&["--json", "stats"]).expect(0).json()["refused"], Value::Array(Vec::new()));
    site.release("42", BROKEN);
    master.roll("42").expect(3);
    let stats = master.ctl(&["--json", "stats"]).expect(0).json();
    let [entry] = &stats["refused"].as_array().expect("a list")[..] else { panic!("{stats:#}") };
    let folder = site.release_dir("42").to_str().expect("a path").to_owned();
    assert_eq!(entry["release"], Value::from(folder.as_str()));
    assert_eq!((&entry["report"]["stage"], &entry["report"]["exit_status"]), (&Value::from("ready"), &Value::from(1)));
    assert!(entry["report"]["output"].as_str().expect("text").contains("flask_login"), "{entry:#}");
    assert!(entry["at"].as_str().expect("a time").ends_with('Z'), "{entry:#}");
    // For people, too.
    let table = master.ctl(&["stats"]).expect(0).stdout;
    assert!(table.contains("refused") && table.contains(&folder) && table.contains("stage ready"), "{table}");
    let line = master.ctl(&["status"]).expect(0).stdout;
    assert!(line.contains("refused"), "{line}");
}

#[test]
fn a_person_is_told_up_front_and_it_is_tried_all_the_same() {
    let site = Site::new();
    let master = site.steady("41", "", 2);
    site.release("42", BROKEN);
    let first = master.roll("42").expect(3);
    assert!(!first.stdout.contains("refused before"), "{}", first.stdout);
    site.release("42", "gate boot\nexit 2");
    let ctl = master.ctl_start(&["phased-restart"]);
    let booting = site.arrival("boot");
    // Before it has any new result.
    let told = ctl.stdout.wait(0, site.deadline(), |line| line.contains("was refused before"));
    let (_, line) = told.expect("a line");
    assert!(line.contains("stage ready: exited with status 1"), "the old report: {line}");
    booting.open();
    ctl.end().expect(3);
    assert_eq!((site.boots("42"), refused(&master.stats())), (2, vec!["42".into()]), "once, with the newer report");
    let report = master.stats().refused[0].report.clone().expect("a report");
    assert_eq!(report.message, "exited with status 2");
    // Mended, it is promoted and not refused any more.
    site.release("42", "");
    master.ctl(&["phased-restart"]).expect(0);
    assert!(all_on(&master.stats(), "42") && refused(&master.stats()).is_empty());
    let after = master.ctl(&["phased-restart"]).expect(0);
    assert!(!after.stdout.contains("refused before"), "{}", after.stdout);
}

#[test]
fn a_deployer_that_polls_is_refused_at_once() {
    let site = Site::new();
    let master = site.steady("41", "", 2);
    // Nothing new.
    let said = master.ctl(&["phased-restart", "--if-new"]).expect(0);
    assert!(said.stdout.contains("nothing new"), "{}", said.stdout);
    assert_eq!((site.boots("41"), master.stats().last_rollout), (2, None));
    assert_eq!(master.ctl(&["--json", "phased-restart", "--if-new"]).expect(0).json()["ok"], true);
    // Something new.
    site.release("42", BROKEN);
    site.deploy("42");
    master.ctl(&["phased-restart", "--if-new"]).expect(3);
    let before = master.stats();
    for _ in 0..3 {
        let said = master.ctl(&["phased-restart", "--if-new"]).expect(3);
        assert!(said.stderr.contains("was refused before"), "{}", said.stderr);
        assert!(said.stderr.contains("stage ready: exited with status 1"), "{}", said.stderr);
        assert!(said.stderr.contains("| ModuleNotFoundError"), "{}", said.stderr);
    }
    let json = master.ctl(&["--json", "phased-restart", "--if-new"]).expect(3).json();
    assert_eq!((&json["error"]["code"], &json["error"]["report"]["stage"]), (&Value::from(3), &Value::from("ready")));
    let after = master.stats();
    assert_eq!((site.boots("42"), &after.last_rollout, after.phase), (1, &before.last_rollout, before.phase));
    // The next one is tried.
    site.release("43", "");
    site.deploy("43");
    master.ctl(&["phased-restart", "--if-new"]).expect(0);
    assert!(all_on(&master.stats(), "43"));
    master.ctl(&["phased-restart", "--if-new"]).expect(0);
    assert_eq!(site.boots("43"), 2);
    // 42 still is refused; a release that was good once, and is not any more, is new again.
    site.deploy("42");
    master.ctl(&["phased-restart", "--if-new"]).expect(3);
    site.deploy("41");
    master.ctl(&["phased-restart", "--if-new"]).expect(0);
    assert!(all_on(&master.stats(), "41"));
}

#[test]
fn what_is_held_is_nothing_new() {
    let site = Site::new();
    let master = site.steady("41", "", 1);
    site.release("42", "");
    site.deploy("42");
    master.ctl(&["phased-restart", "--hold"]).expect(0);
    let said = master.ctl(&["phased-restart", "--if-new"]).expect(0);
    assert!(said.stdout.contains("nothing new"), "{}", said.stdout);
    assert_eq!((master.stats().state.as_str(), site.boots("42")), ("held", 1));
}

#[test]
fn what_a_person_undoes_is_refused_without_a_report() {
    let site = Site::new();
    let master = site.steady("41", "", 2);
    site.release("42", "gate boot");
    site.deploy("42");
    let ctl = master.ctl_start(&["phased-restart"]);
    drop(site.arrival("boot"));
    master.ctl(&["abort"]).expect(0);
    ctl.end().expect(3);
    let stats = master.stats();
    assert_eq!((refused(&stats), stats.refused[0].report.as_ref()), (vec!["42".into()], None));
    let said = master.ctl(&["phased-restart", "--if-new"]).expect(3);
    assert!(said.stderr.contains("was refused before"), "{}", said.stderr);
    // A rollback is a verdict, too.
    site.release("43", "");
    master.roll("43").expect(0);
    master.ctl(&["rollback"]).expect(0);
    assert_eq!(
        (refused(&master.stats()), name_of(&master.stats().release)),
        (vec!["42".into(), "43".into()], "41".into())
    );
    master.ctl(&["phased-restart", "--if-new"]).expect(3);
    // And `reload-dir` is the opposite one.
    master.ctl(&["reload-dir"]).expect(0);
    assert_eq!((refused(&master.stats()), name_of(&master.stats().release)), (vec!["42".into()], "43".into()));
}

/// Everything that there is to ask about refused releases, and none of it says this.
fn says_nothing_of(master: &Master<'_>, word: &str) {
    for args in [&["stats"][..], &["--json", "stats"]] {
        let said = master.ctl(args).expect(0).stdout;
        assert!(!said.contains(word), "{word} in ctl {args:?}: {said}");
    }
    // Which code it has is another matter.
    for args in [&["status"][..], &["phased-restart", "--if-new"], &["--json", "phased-restart", "--if-new"]] {
        let said = master.ctl(args);
        assert!(!said.stdout.contains(word) && !said.stderr.contains(word), "{word} in ctl {args:?}: {said:#?}");
    }
}

#[test]
fn the_reason_is_that_of_the_rollout_that_refused_it() {
    let site = Site::new();
    let mut master = site.steady("41", "", 2);
    site.release("42", BROKEN);
    master.roll("42").expect(3);
    let first = master.stats().refused[0].clone();
    assert!(first.report.is_some(), "{first:#?}");
    // Mended, it boots; and a person does not want it after all.
    site.release("42", "gate boot");
    let ctl = master.ctl_start(&["phased-restart"]);
    drop(site.arrival("boot"));
    master.ctl(&["abort"]).expect(0);
    let said = ctl.end().expect(3);
    assert!(said.stdout.contains("flask_login") || said.stdout.contains("status 1"), "known until then: {said:#?}");
    let without = |stats: &Stats| {
        let [entry] = &stats.refused[..] else { panic!("{stats:#?}") };
        let last = stats.last_rollout.as_ref().expect("a rollout");
        assert_eq!((name_of(&entry.release).as_str(), last.outcome.as_str()), ("42", "aborted"));
        assert!(entry.report.is_none() && last.report.is_none(), "{stats:#?}");
        assert!(entry.at >= last.ended_at && entry.at >= first.at, "{stats:#?}");
    };
    without(&master.stats());
    says_nothing_of(&master, "status 1");
    says_nothing_of(&master, "flask_login");
    let table = master.ctl(&["stats"]).expect(0).stdout;
    assert!(table.contains("refused") && table.contains("no boot failure"), "{table}");
    // Nor does the next start.
    master.ctl(&["stop"]).expect(0);
    assert!(master.end().success());
    drop(master);
    let master = site.master().workers(2).start();
    without(&master.until_state("steady"));
    says_nothing_of(&master, "flask_login");
    // A newer failure counts again.
    site.release("42", "eprint no such table\nexit 7");
    master.ctl(&["phased-restart"]).expect(3);
    let report = master.stats().refused[0].report.clone().expect("a report");
    assert!(report.message.contains("status 7") && report.output == b"no such table\n", "{report:#?}");
    says_nothing_of(&master, "flask_login");
}

#[test]
fn a_rehearsal_that_fails_is_no_refusal_and_no_reason_for_one() {
    let site = Site::new();
    let master = site.steady("41", "", 1);
    site.release("42", BROKEN);
    site.deploy("42");
    master.ctl(&["rehearse"]).expect(3);
    assert_eq!(refused(&master.stats()), Vec::<String>::new());
    master.ctl(&["phased-restart"]).expect(3);
    let before = master.stats().refused;
    site.release("42", "exit 5");
    master.ctl(&["rehearse"]).expect(3);
    assert_eq!(master.stats().refused, before);
}

#[test]
fn many_of_them_with_much_to_say() {
    const MANY: usize = 20;
    let site = Site::new();
    let mut master = site.steady("41", "", 1);
    let names: Vec<String> = (0..MANY).map(|n| format!("broken-{n}")).collect();
    for name in &names {
        site.release(name, &format!("print-lines 1024\nprint the last words of {name}\nexit 1"));
        master.roll(name).expect(3);
    }
    // All of it together would be more than one answer takes.
    let answers = |master: &Master<'_>| {
        let stats = master.stats();
        assert_eq!(refused(&stats), names);
        for (entry, name) in stats.refused.iter().zip(&names) {
            let report = entry.report.as_ref().expect("a report");
            assert!((4000..=4096).contains(&report.output.len()), "{name}: {}", report.output.len());
            let last = format!("the last words of {name}\n");
            assert!(report.output.ends_with(last.as_bytes()) && report.output.starts_with(b"line "), "{report:#?}");
            assert!(all_on(&stats, "41"));
        }
        let json = master.ctl(&["--json", "stats"]).expect(0).json();
        let list = json["refused"].as_array().expect("a list");
        for (entry, name) in list.iter().zip(&names) {
            assert_eq!(entry["release"], site.release_dir(name).to_str().expect("a path"));
            let output = entry["report"]["output"].as_str().expect("text");
            assert!(output.len() <= 4096 && output.contains(&format!("the last words of {name}\n")), "{output}");
        }
        assert_eq!(list.len(), MANY);
        let table = master.ctl(&["stats"]).expect(0).stdout;
        let others = format!("refused  {}, ", site.release_dir(&names[MANY - 2]).display());
        assert!(table.contains(&others) && table.contains(&format!(" and {} more\n", MANY - 1 - 5)), "{table}");
        assert!(table.len() < 4096, "{table}");
        let line = master.ctl(&["status"]).expect(0).stdout;
        assert!(line.contains("refused") && line.lines().count() == 1, "{line}");
    };
    answers(&master);
    master.ctl(&["stop"]).expect(0);
    assert!(master.end().success());
    drop(master);
    let master = site.master().workers(1).start();
    master.until_state("steady");
    answers(&master);
    for name in &names {
        assert_eq!(site.boots(name), 1);
    }
}

#[test]
fn it_outlives_the_master() {
    let site = Site::new();
    let mut master = site.steady("41", "", 2);
    site.release("42", BROKEN);
    master.roll("42").expect(3);
    master.ctl(&["stop"]).expect(0);
    assert!(master.end().success());
    drop(master);
    let master = site.master().workers(2).start();
    let stats = master.until_state("steady");
    assert!(all_on(&stats, "41"), "{stats:#?}");
    assert_eq!((refused(&stats), site.boots("42")), (vec!["42".into()], 1));
    let line = master.until_log("was refused");
    assert!(line.contains("42") && line.contains("41"), "{line}");
    let said = master.ctl(&["phased-restart", "--if-new"]).expect(3);
    assert!(said.stderr.contains("| ModuleNotFoundError"), "{}", said.stderr);
    assert_eq!(site.boots("42"), 1);
    let said = master.ctl(&["phased-restart"]).expect(3);
    assert!(said.stdout.contains("was refused before"), "{}", said.stdout);
    assert_eq!(site.boots("42"), 2);
}

#[test]
fn what_was_refused_and_is_held_now_is_not_refused() {
    let site = Site::new();
    let master = site.steady("41", "", 2);
    site.release("42", "eprint boom\nexit 1");
    master.roll("42").expect(3);
    site.release("42", "");
    master.ctl(&["phased-restart", "--hold"]).expect(0);
    let table = master.ctl(&["stats"]).expect(0).stdout;
    assert!(refused(&master.stats()).is_empty(), "{:#?}", master.stats().refused);
    assert!(!table.contains("refused"), "{table}");
    // It is what serves.
    master.ctl(&["phased-restart", "--if-new"]).expect(0);
}

#[test]
fn what_is_pinned_and_does_not_serve_does_not_run_already() {
    let site = Site::new();
    let master = site.steady("41", "", 2);
    site.release("42", "");
    site.deploy("42");
    master.ctl(&["reload-dir"]).expect(0);
    master.ctl(&["phased-restart", "--if-new"]).expect(0);
    assert!(tests::master::all_on(&master.stats(), "42"), "{:#?}", master.stats());
    assert_eq!(site.boots("42"), 2);
    master.ctl(&["phased-restart", "--if-new"]).expect(0);
    assert_eq!(site.boots("42"), 2);
}
