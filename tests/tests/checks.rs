//! A release that fails its boot, its hook or its check never answers one user's request.

use proto::control::Stats;
use proto::worker::{BootReport, Stage};
use tests::binaries::hook;
use tests::master::{all_on, name_of, refused};
use tests::{Load, Master, Site, process};

/// What is wrong with a release, and what is said of it.
struct Bad<'a> {
    options: &'a [&'a str],
    /// Of the app; it keeps an access log anyway.
    script: &'a str,
    /// The name of a hook or a check, and its script.
    hook: Option<(&'a str, &'a str)>,
    stage: Stage,
    /// What stands on stderr, the app's own words among them.
    words: &'a [&'a str],
}

const HTTP: &[&str] = &["--check", "http:/health", "--check-timeout", "300ms"];

/// Three workers on 41, well, with these options; the hooks and checks of 41 pass.
fn steady<'a>(site: &'a Site, options: &[&str]) -> Master<'a> {
    site.release("41", "");
    site.deploy("41");
    let master = site.master().workers(3).options(options).start();
    master.until_state("steady");
    master
}

fn report_of<'a>(stats: &'a Stats, release: &str) -> &'a BootReport {
    let entry = stats.refused.iter().find(|refused| name_of(&refused.release) == release).expect("refused");
    entry.report.as_deref().expect("a report")
}

/// Nothing of it lives, nobody saw it, and everything is as it was.
fn is_refused_unseen(bad: &Bad<'_>) -> Site {
    let site = Site::new();
    let master = steady(&site, bad.options);
    let public = master.address();
    let old = master.app_pids();
    let load = Load::start(&public);
    load.more(20);
    site.gates().reset_most();
    site.release("42", &format!("access-log\n{}", bad.script));
    if let Some((name, script)) = bad.hook {
        site.hook_script("42", name, script);
    }
    let said = master.roll("42").expect(3);
    for words in bad.words {
        assert!(said.stderr.contains(words), "{words:?} is not in\n{}", said.stderr);
    }
    assert!(said.stderr.starts_with("error: unable to boot with new codebase, using old one"), "{}", said.stderr);
    assert!(said.stderr.contains(&format!("stage {}: ", bad.stage)), "{}", said.stderr);
    load.more(20);
    let tally = load.finish();
    assert_eq!(tally.releases.keys().collect::<Vec<_>>(), ["41"], "whoever answers users");
    assert_eq!(site.accesses("42", &public.to_string()), [""; 0], "on the public socket");
    let stats = master.stats();
    assert_eq!(master.app_pids(), old);
    assert!(all_on(&stats, "41"), "{stats:#?}");
    assert_eq!((stats.state.as_str(), stats.phase.0, stats.old_workers), ("steady", 0, 0));
    assert_eq!((name_of(&stats.release).as_str(), stats.rollout.as_ref()), ("41", None));
    let last = stats.last_rollout.clone().expect("a rollout");
    assert_eq!((last.outcome.as_str(), name_of(&last.to).as_str()), ("aborted", "42"));
    assert_eq!(last.report.expect("a report").stage, bad.stage);
    assert_eq!(refused(&stats), ["42"]);
    assert_eq!(report_of(&stats, "42").stage, bad.stage);
    assert!(site.gates().most() <= 4, "P3: {} lived at once", site.gates().most());
    assert!(site.fewest_serving(3) >= 3, "P2: {:#?}", site.history());
    let all = process::of_site(site.root());
    assert_eq!(all.len(), 7, "something is left:\n{}", process::table(&all));
    drop(master);
    site
}

#[test]
fn one_that_boots_and_answers_500() {
    let site = is_refused_unseen(&Bad {
        options: HTTP,
        script: "health 500 no database",
        hook: None,
        stage: Stage::Check,
        words: &["slot 0, stage check: check http:/health: HTTP/1.1 500 Internal Server Error", "| no database"],
    });
    assert_eq!((site.boots("42"), site.rehearsals("42")), (1, 1));
    let asked = std::fs::read_to_string(site.root().join("access.log")).expect("a log");
    assert!(asked.contains("/health"), "it was asked, on its own socket: {asked}");
}

#[test]
fn one_that_is_never_told_to_answer_200() {
    is_refused_unseen(&Bad {
        options: HTTP,
        script: "health-until told 503 still waking up",
        hook: None,
        stage: Stage::Check,
        words: &["HTTP/1.1 503 Service Unavailable", "| still waking up"],
    });
}

#[test]
fn one_that_hangs_in_the_check() {
    is_refused_unseen(&Bad {
        options: HTTP,
        script: "health-hangs",
        hook: None,
        stage: Stage::Check,
        words: &["check http:/health: no answer within 300ms"],
    });
}

#[test]
fn one_that_has_no_such_page() {
    is_refused_unseen(&Bad {
        options: HTTP,
        script: "health 404 no such page",
        hook: None,
        stage: Stage::Check,
        words: &["check http:/health: HTTP/1.1 404 Not Found", "| no such page"],
    });
}

#[test]
fn one_whose_migration_fails() {
    let site = is_refused_unseen(&Bad {
        options: &["--before-rollout", &hook("migrate")],
        script: "",
        hook: Some(("migrate", "print adding a column\neprint column exists\nexit 5")),
        stage: Stage::Hook,
        words: &["stage hook: ", "exited with status 5", "| adding a column", "| column exists"],
    });
    assert_eq!((site.boots("42"), site.hooks("migrate", "42")), (0, 1));
}

#[test]
fn one_whose_exec_check_fails() {
    let site = is_refused_unseen(&Bad {
        options: &["--check", &format!("exec:{}", hook("check"))],
        script: "",
        hook: Some(("check", "eprint the cache is cold\nexit 4")),
        stage: Stage::Check,
        words: &["exited with status 4", "| the cache is cold"],
    });
    assert_eq!((site.boots("42"), site.rehearsals("42"), site.hooks("check", "42")), (1, 1, 1));
}

#[test]
fn one_whose_exec_check_hangs() {
    is_refused_unseen(&Bad {
        options: &["--check", &format!("exec:{}", hook("check")), "--check-timeout", "300ms"],
        script: "",
        hook: Some(("check", "eprint looking\nwait-forever")),
        stage: Stage::Check,
        words: &["300ms", "| looking"],
    });
}

#[test]
fn one_whose_before_boot_fails() {
    let site = is_refused_unseen(&Bad {
        options: &["--before-boot", &hook("assets")],
        script: "",
        hook: Some(("assets", "eprint no manifest\nexit 6")),
        stage: Stage::Hook,
        words: &["stage hook: ", "exited with status 6", "| no manifest"],
    });
    assert_eq!((site.boots("42"), site.hooks("assets", "42")), (0, 1));
}

#[test]
fn one_that_does_not_boot_in_its_rehearsal() {
    let site = is_refused_unseen(&Bad {
        options: HTTP,
        script: "eprint ModuleNotFoundError: No module named 'flask_login'\nexit 1",
        hook: None,
        stage: Stage::Ready,
        words: &["stage ready: exited with status 1", "| ModuleNotFoundError"],
    });
    assert_eq!((site.boots("42"), site.rehearsals("42")), (1, 1), "no slot tries what did not boot in the rehearsal");
}

#[test]
fn a_check_waits_until_the_release_is_healthy() {
    let site = Site::new();
    let master = steady(&site, &["--check", "http:/health", "--check-timeout", "10m"]);
    let public = master.address();
    let load = Load::start(&public);
    site.release("42", "access-log\nrehearsal health-until told 503 still waking up");
    site.deploy("42");
    let ctl = master.ctl_start(&["phased-restart"]);
    let told = site.arrival("told");
    // It is asked, and nobody else sees it.
    let stats = master.until_doing("rehearsing");
    assert_eq!((stats.state.as_str(), stats.booted_workers, stats.old_workers), ("rolling", 3, 3));
    load.more(50);
    assert_eq!(load.tally().releases.keys().collect::<Vec<_>>(), ["41"]);
    assert_eq!(site.accesses("42", &public.to_string()), [""; 0]);
    told.open();
    ctl.end().expect(0);
    load.until("42");
    load.finish();
    let stats = master.stats();
    assert!(all_on(&stats, "42"), "{stats:#?}");
    assert_eq!((site.rehearsals("42"), site.boots("42")), (1, 4));
    assert_eq!(refused(&stats), [""; 0]);
    assert!(site.gates().most() <= 4, "P3: {} lived at once", site.gates().most());
    assert!(site.fewest_serving(3) >= 3, "P2: {:#?}", site.history());
}

#[test]
fn what_passes_its_check_and_dies_in_the_soak_is_undone() {
    let site = Site::new();
    let master = steady(&site, &["--check", "http:/health"]);
    let load = Load::start(&master.address());
    site.gates().reset_most();
    // It finishes what it holds, so that its death costs nobody anything.
    site.release("42", "slot 1 live leave-gate leave 7");
    site.deploy("42");
    let ctl = master.ctl_start(&["phased-restart", "--soak", "10m"]);
    master.until_state("soaking");
    load.until("42");
    site.arrival("leave").open();
    let said = ctl.end().expect(3);
    assert!(said.stderr.contains("slot 1, stage soak: exited with status 7"), "{}", said.stderr);
    load.more(20);
    load.finish();
    let stats = master.stats();
    assert!(all_on(&stats, "41") && stats.state == "steady", "{stats:#?}");
    assert_eq!((refused(&stats), report_of(&stats, "42").stage), (vec!["42".into()], Stage::Soak));
    assert!(site.gates().most() <= 4, "P3: {} lived at once", site.gates().most());
}

#[test]
fn an_exec_check_is_asked_of_every_worker() {
    let check = format!("exec:{}", hook("check"));
    let site = Site::new();
    let master = steady(&site, &["--check", &check]);
    assert_eq!((site.hooks("check", "41"), site.rehearsals("41"), site.boots("41")), (4, 1, 4));
    let old = master.app_pids();
    let load = Load::start(&master.address());
    site.release("42", "");
    site.hook_script("42", "check", "slot 1 eprint not in this slot\nslot 1 exit 4");
    let said = master.roll("42").expect(3);
    assert!(said.stderr.contains("slot 1, stage check: "), "{}", said.stderr);
    assert!(said.stderr.contains("| not in this slot"), "{}", said.stderr);
    load.finish();
    let new = master.app_pids();
    assert!(all_on(&master.stats(), "41"));
    assert_eq!((&new[1..], new[0] == old[0]), (&old[1..], false), "the first one was put back");
    // The put-back worker was checked, too; a rehearsal was not repeated.
    assert_eq!((site.hooks("check", "41"), site.rehearsals("41")), (5, 1));
}

#[test]
fn without_a_rehearsal_exec_checks_still_count() {
    let check = format!("exec:{}", hook("check"));
    let site = Site::new();
    let master = steady(&site, &["--check", &check, "--check", "http:/health", "--no-rehearse"]);
    assert_eq!((site.hooks("check", "41"), site.rehearsals("41")), (3, 0));
    site.release("42", "health 500 nobody asks");
    site.hook_script("42", "check", "exit 4");
    let said = master.roll("42").expect(3);
    assert!(said.stderr.contains("slot 0, stage check: "), "{}", said.stderr);
    site.hook_script("42", "check", "");
    master.roll("42").expect(0);
    assert_eq!(site.rehearsals("42"), 0);
    assert!(all_on(&master.stats(), "42"));
}

#[test]
fn one_rollout_without_a_rehearsal() {
    let site = Site::new();
    let master = steady(&site, HTTP);
    site.release("42", "health 500 nobody asks");
    site.deploy("42");
    master.ctl(&["phased-restart", "--no-rehearse"]).expect(0);
    assert_eq!(site.rehearsals("42"), 0);
    assert!(all_on(&master.stats(), "42"));
    // The next one is rehearsed again.
    master.ctl(&["phased-restart"]).expect(3);
    assert_eq!(site.rehearsals("42"), 1);
    assert!(all_on(&master.stats(), "42"));
}

#[test]
fn several_checks_have_to_pass_all() {
    let site = Site::new();
    let check = format!("exec:{}", hook("check"));
    let master = steady(&site, &["--check", "http:/health", "--check", &check, "--check-timeout", "500ms"]);
    site.release("42", "");
    site.hook_script("42", "check", "exit 4");
    master.roll("42").expect(3);
    site.hook_script("42", "check", "");
    site.release("42", "health 500 no database");
    master.roll("42").expect(3);
    site.release("42", "");
    master.roll("42").expect(0);
    assert!(all_on(&master.stats(), "42"));
}

#[test]
fn a_first_start_that_fails_its_check_exposes_nothing() {
    let site = Site::new();
    site.release("41", "access-log\nhealth 500 no database");
    site.deploy("41");
    let public = format!("unix://{}/public.sock", site.root().display());
    let said = site.master().workers(2).options(HTTP).listen(&[&public]).run().expect(3);
    for words in ["stage check: check http:/health: HTTP/1.1 500 Internal Server Error", "no database"] {
        assert!(said.stderr.contains(words), "{words:?} is not in\n{}", said.stderr);
    }
    assert_eq!((site.boots("41"), site.rehearsals("41")), (1, 1));
    assert_eq!(site.accesses("41", &public), [""; 0]);
    assert!(process::of_site(site.root()).is_empty());
}

#[test]
fn a_first_start_is_rehearsed_and_then_serves() {
    let site = Site::new();
    site.release("41", "rehearsal gate rehearsed");
    site.deploy("41");
    let master = site.master().workers(2).options(HTTP).start();
    let rehearsed = site.arrival("rehearsed");
    let stats = master.stats();
    assert_eq!((stats.state.as_str(), stats.booted_workers, site.boots("41")), ("booting", 0, 1));
    rehearsed.open();
    let stats = master.until_state("steady");
    assert!(all_on(&stats, "41"));
    assert_eq!((site.rehearsals("41"), site.boots("41")), (1, 3));
}

#[test]
fn a_first_start_whose_migration_fails_exposes_nothing() {
    let site = Site::new();
    site.release("41", "access-log");
    site.hook_script("41", "migrate", "eprint no database\nexit 5");
    site.deploy("41");
    let said = site.master().workers(2).options(&["--before-rollout", &hook("migrate")]).run().expect(3);
    for words in ["stage hook: --before-rollout exited with status 5", "no database"] {
        assert!(said.stderr.contains(words), "{words:?} is not in\n{}", said.stderr);
    }
    assert_eq!(site.boots("41"), 0);
    assert!(process::of_site(site.root()).is_empty());
}

#[test]
fn a_reboot_with_an_untried_release_that_fails_its_check_serves_known_good_code() {
    let site = Site::new();
    let mut master = steady(&site, HTTP);
    master.ctl(&["stop"]).expect(0);
    assert!(master.end().success());
    drop(master);
    // Deployed while nobody ran.
    site.release("42", "access-log\nhealth 500 no database");
    site.deploy("42");
    let public = format!("unix://{}/public.sock", site.root().display());
    let master = site.master().workers(3).options(HTTP).listen(&[&public]).start();
    let stats = master.until("known-good code serves", |stats| all_on(stats, "41"));
    assert_eq!(
        (stats.state.as_str(), name_of(&stats.release), refused(&stats)),
        ("degraded", "41".into(), vec!["42".into()])
    );
    assert_eq!((site.boots("42"), site.rehearsals("42")), (1, 1));
    assert_eq!(site.accesses("42", &public), [""; 0]);
    let said = master.ctl(&["report"]).expect(0);
    assert!(said.stdout.contains("HTTP/1.1 500") && said.stdout.contains("no database"), "{}", said.stdout);
    // Mended and restarted, it is as ever.
    site.release("42", "");
    master.ctl(&["phased-restart"]).expect(0);
    let stats = master.stats();
    assert!(all_on(&stats, "42") && stats.state == "steady", "{stats:#?}");
}

#[test]
fn one_that_dies_in_the_check() {
    for whole_worker in [false, true] {
        let site = Site::new();
        let master = steady(&site, &["--check", "http:/health", "--check-timeout", "10m"]);
        let old = master.app_pids();
        let load = Load::start(&master.address());
        site.release("42", "health-hangs\nrecord app\ndie-gate die 7");
        site.deploy("42");
        let ctl = master.ctl_start(&["phased-restart"]);
        let dying = site.arrival("die");
        if whole_worker {
            let stats = master.stats();
            let row = stats.worker_status.iter().find(|worker| name_of(&worker.release) == "42").expect("a row");
            process::signal(row.pid.expect("a pid") as i32, nix::sys::signal::Signal::SIGKILL);
            ctl.end().expect(3);
        } else {
            dying.open();
            let said = ctl.end().expect(3);
            assert!(said.stderr.contains("exited with status 7"), "{}", said.stderr);
        }
        load.more(20);
        assert_eq!(load.finish().releases.keys().collect::<Vec<_>>(), ["41"]);
        assert_eq!((master.app_pids(), site.boots("42")), (old, 1));
        let all = process::of_site(site.root());
        assert_eq!(all.len(), 7, "something is left:\n{}", process::table(&all));
    }
}

#[test]
fn on_a_unix_socket_and_by_another_name() {
    let site = Site::new();
    site.release("41", "");
    site.deploy("41");
    let public = format!("unix://{}/public.sock", site.root().display());
    let options = ["--check", "http://shop.example/health?deep=1", "--check-timeout", "300ms"];
    let master = site.master().workers(2).listen(&[&public]).options(&options).start();
    master.until_state("steady");
    let load = Load::start(&master.address());
    site.release("42", "access-log\nhealth 500 no database");
    let said = master.roll("42").expect(3);
    assert!(said.stderr.contains("check http://shop.example/health?deep=1: HTTP/1.1 500"), "{}", said.stderr);
    load.more(20);
    assert_eq!(load.finish().releases.keys().collect::<Vec<_>>(), ["41"]);
    assert_eq!(site.accesses("42", &public), [""; 0]);
    let asked = std::fs::read_to_string(site.root().join("access.log")).expect("a log");
    assert!(asked.contains(".sock") && asked.contains("/health?deep=1 shop.example"), "{asked}");
}
