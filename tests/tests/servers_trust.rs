//! Releases that boot and are not to be trusted, with real servers: gunicorn, uvicorn, node, puma, unicorn, php-fpm.
//!
//! Under load, in which every answer's body is looked at: a release that fails its migration or its check answers no
//! request at all; one that needs its time to be healthy gets it; one that dies in the soak is undone. No request fails, the
//! exit code is 3, and the next good release is promoted. What these releases do stands in `tests/servers/*/trust`.

use proto::control::Stats;
use proto::worker::{BootReport, Stage};
use tests::ctl::Output;
use tests::master::{name_of, refused};
use tests::servers::{self, Server, all_on, stopped};
use tests::servers_fcgi::FcgiLoad;
use tests::{Load, Master, Site};

/// A check whose patience is over only when something is wrong: nothing that passes depends on speed.
const PATIENT: &[&str] = &["--check", "http:/health", "--check-timeout", "10m"];
/// A check that gives up.
const IMPATIENT: &[&str] = &["--check", "http:/health", "--check-timeout", "4s"];

/// Release `one` serves, with these options.
fn steady<'a>(site: &'a Site, server: &Server, options: &[&str]) -> Master<'a> {
    for name in ["one", "two"] {
        server.release(site, name, "good");
        migration(site, name, "echo up to date");
    }
    for behaviour in ["sick", "wakes", "hangs", "dies"] {
        server.behaves(site, behaviour);
        migration(site, behaviour, "echo up to date");
    }
    site.deploy("one");
    let master = server.start(site.master().options(options));
    all_on(&master.until_state("steady"), "one");
    master
}

/// What `--before-rollout 'sh migrate'` does in a release.
fn migration(site: &Site, release: &str, script: &str) {
    std::fs::write(site.release_dir(release).join("migrate"), script).expect("a release's file");
}

fn report_of<'a>(stats: &'a Stats, release: &str) -> &'a BootReport {
    let entry = stats.refused.iter().find(|refused| name_of(&refused.release) == release).expect("refused");
    entry.report.as_deref().expect("a report")
}

/// `release` is refused in words, `old` serves as if nothing had been, and all of it is remembered.
#[track_caller]
fn is_refused(master: &Master<'_>, said: &Output, release: &str, old: &str, stage: Stage, words: &[&str]) {
    let first = said.stderr.lines().next().unwrap_or_default();
    assert!(first.starts_with("error: unable to boot with new codebase, using old one ("), "{}", said.stderr);
    assert!(first.ends_with(&format!("/releases/{old})")), "{}", said.stderr);
    let second = said.stderr.lines().nth(1).unwrap_or_default();
    assert!(second.contains(&format!("/releases/{release}, slot ")), "{}", said.stderr);
    assert!(second.contains(&format!(", stage {stage}: ")), "{}", said.stderr);
    assert_eq!(said.stderr.lines().last(), Some("phased restart failed"));
    for words in words {
        assert!(said.stderr.contains(words), "{words:?} is not in what ctl says:\n{}", said.stderr);
    }
    let stats = master.stats();
    assert_eq!((stats.state.as_str(), stats.rollout.as_ref()), ("steady", None), "{stats:#?}");
    all_on(&stats, old);
    assert_eq!(name_of(&stats.release), old);
    assert_eq!(refused(&stats).last().map(String::as_str), Some(release));
    assert_eq!(report_of(&stats, release).stage, stage);
    let last = stats.last_rollout.expect("a rollout");
    assert_eq!((last.outcome.as_str(), name_of(&last.to).as_str()), ("aborted", release));
}

/// A release is refused before one of its apps has a slot.
#[track_caller]
fn is_refused_unseen(
    master: &Master<'_>,
    load: &Load,
    release: &str,
    stage: Stage,
    words: &[&str],
    meet: impl FnOnce(),
) {
    let before = master.app_pids();
    master.site().deploy(release);
    let ctl = master.ctl_start(&["phased-restart"]);
    meet();
    let said = ctl.end().expect(3);
    is_refused(master, &said, release, "one", stage, words);
    assert_eq!(master.app_pids(), before, "an app was lost to {release}");
    load.more(20);
    assert_eq!(load.tally().releases.keys().collect::<Vec<_>>(), ["one"], "who answers users");
}

/// Releases that boot, and whose health is 500, or no answer at all.
fn checks(server: &Server) {
    let site = Site::new();
    let master = steady(&site, server, IMPATIENT);
    let load = Load::start(&master.address());
    load.until("one");
    let sick = ["slot 0, stage check: check http:/health: HTTP/1.1 500 Internal Server Error", "| no database"];
    is_refused_unseen(&master, &load, "sick", Stage::Check, &sick, || {});
    let hangs = ["slot 0, stage check: check http:/health: no answer within 4s"];
    is_refused_unseen(&master, &load, "hangs", Stage::Check, &hangs, || {
        let hanging = site.arrival("hang");
        let _ = master.until("the check has failed", |stats| {
            stats.rollout.is_none() || stats.worker_status.iter().any(|worker| worker.state == "draining")
        });
        // It has been asked to stop, and finishes what it holds.
        hanging.open();
    });
    let _ = master.roll("two").expect(0);
    all_on(&master.until_state("steady"), "two");
    load.until("two");
    let tally = load.finish();
    assert_eq!(tally.releases.keys().collect::<Vec<_>>(), ["one", "two"], "{tally:?}");
    assert_eq!(refused(&master.stats()), ["sick", "hangs"]);
    stopped(master);
}

/// Releases whose migration fails, that become healthy late, and that pass their check and die in the soak.
fn steps(server: &Server) {
    let site = Site::new();
    let master = steady(&site, server, &[PATIENT, &["--before-rollout", "sh migrate"]].concat());
    let load = Load::start(&master.address());
    load.until("one");

    server.release(&site, "stuck", "good");
    migration(&site, "stuck", "echo adding users; echo 'ERROR: relation \"users\" exists' >&2; exit 5");
    let words = ["stage hook: ", "exited with status 5", "| adding users", "| ERROR: relation \"users\" exists"];
    is_refused_unseen(&master, &load, "stuck", Stage::Hook, &words, || {});

    site.deploy("wakes");
    let ctl = master.ctl_start(&["phased-restart"]);
    let _ = master.until_stdout("health: still waking up");
    let stats = master.until_doing("rehearsing");
    assert_eq!((stats.state.as_str(), stats.booted_workers, stats.old_workers), ("rolling", 2, 2), "{stats:#?}");
    load.more(50);
    assert_eq!(load.tally().releases.keys().collect::<Vec<_>>(), ["one"], "who answers users");
    site.open("awake");
    let _ = ctl.end().expect(0);
    all_on(&master.until_state("steady"), "wakes");
    load.until("wakes");

    site.deploy("dies");
    let ctl = master.ctl_start(&["phased-restart", "--soak", "10m"]);
    let stats = master.until_state("soaking");
    assert_eq!((name_of(&stats.release).as_str(), stats.old_workers), ("wakes", 0), "{stats:#?}");
    load.until("dies");
    site.arrival("die").open();
    let said = ctl.end().expect(3);
    is_refused(&master, &said, "dies", "wakes", Stage::Soak, &["slot 1, stage soak: "]);
    load.more(20);

    let _ = master.roll("two").expect(0);
    all_on(&master.until_state("steady"), "two");
    load.until("two");
    let tally = load.finish();
    assert_eq!(tally.releases.keys().collect::<Vec<_>>(), ["dies", "one", "two", "wakes"], "{tally:?}");
    assert_eq!(refused(&master.stats()), ["stuck", "dies"]);
    stopped(master);
}

#[test]
fn gunicorn_checks() {
    checks(&servers::GUNICORN_SYNC);
}

#[test]
fn gunicorn_steps() {
    steps(&servers::GUNICORN_SYNC);
}

#[test]
fn uvicorn_checks() {
    checks(&servers::UVICORN);
}

#[test]
fn uvicorn_steps() {
    steps(&servers::UVICORN);
}

#[test]
fn node_checks() {
    checks(&servers::NODE);
}

#[test]
fn node_steps() {
    steps(&servers::NODE);
}

#[test]
fn puma_checks() {
    checks(&servers::PUMA);
}

#[test]
fn puma_steps() {
    steps(&servers::PUMA);
}

#[test]
fn unicorn_checks() {
    checks(&servers::UNICORN);
}

/// php-fpm speaks no HTTP: what asks it is a command.
#[test]
fn php_fpm_with_an_exec_check() {
    let server = servers::PHP_FPM;
    let site = Site::new();
    for name in ["one", "two", "sick"] {
        server.release(&site, name, "good");
    }
    server.release(&site, "sick", "trust");
    site.deploy("one");
    let check = format!("exec:{} check.php {{addr}}", servers::folder().join("bin/php").display());
    let master = server.start(site.master().options(&["--check", &check]));
    all_on(&master.until_state("steady"), "one");
    let before = master.app_pids();
    let load = FcgiLoad::start(&master.address(), &site.current().join("index.php"), 4);
    let said = master.roll("sick").expect(3);
    let words = ["slot 0, stage check: check exec:", "exited with status 1", "| Status: 500", "| no database"];
    is_refused(&master, &said, "sick", "one", Stage::Check, &words);
    assert_eq!(master.app_pids(), before);
    let _ = master.roll("two").expect(0);
    all_on(&master.until_state("steady"), "two");
    assert!(!load.finish().contains("sick"));
    stopped(master);
}
