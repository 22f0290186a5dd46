//! A fleet of three hosts, deployed to by the real ansible-core with `scripts/fleet`, under load.

use std::fs;
use std::path::Path;
use std::process::Command;

use tests::fleet::{Fleet, HOSTS, Play, current, releases, serves};
use tests::{Load, Master, Site};

/// An app that boots.
const GOOD: &str = "exec \"$FIXTURE\"\n";
/// One that does not, on any host.
const BROKEN: &str =
    "echo 'app.py, line 3, in <module>' >&2\necho \"ModuleNotFoundError: No module named 'flask_login'\" >&2\nexit 1\n";
/// One that needs what not every host has.
const PICKY: &str =
    "[ -e \"$TEST_SITE/shared/schema-42\" ] || { echo 'schema 42 is not here' >&2; exit 1; }\nexec \"$FIXTURE\"\n";

/// Release 41 serves on the first hosts.
fn serving_at(fleet: &Fleet, hosts: usize) -> Vec<Master<'_>> {
    let built = fleet.source("41", GOOD);
    let start = |site| {
        let to = Site::release_dir(site, "41");
        assert!(Command::new("cp").arg("-a").arg(&built).arg(to).status().expect("cp runs").success());
        site.point(Path::new("releases/41"));
        fleet.start(site)
    };
    fleet.sites()[..hosts].iter().map(start).collect()
}

/// Release 41 serves on every host, and clients ask each of them.
fn serving(fleet: &Fleet) -> (Vec<Master<'_>>, Vec<Load>) {
    let masters = serving_at(fleet, HOSTS.len());
    let load: Vec<_> = masters.iter().map(|master| Load::light(&master.address())).collect();
    load.iter().for_each(|load| load.until("41"));
    (masters, load)
}

/// Gives a folder the age of so many days.
fn aged(folder: &Path, days: u32) {
    let touched = Command::new("touch").arg("-d").arg(format!("{days} days ago")).arg(folder).status();
    assert!(touched.expect("touch runs").success());
}

/// A host that a play did not come to: nothing was uploaded, and its master heard nothing.
#[track_caller]
fn untouched(fleet: &Fleet, host: usize, master: &Master<'_>, apps: &[i32]) {
    let site = &fleet.sites()[host];
    assert_eq!((current(site).as_str(), releases(site)), ("releases/41", vec!["41".to_owned()]));
    serves(master, "41");
    assert_eq!((master.app_pids().as_slice(), master.stats().phase.0), (apps, 0));
    assert!(master.stats().refused.is_empty());
}

#[test]
fn a_good_release_goes_to_every_host_and_the_second_time_to_none() {
    let fleet = Fleet::new();
    let said = fleet.check_syntax().expect(0);
    assert!(!said.stderr.contains("WARNING"), "{}", said.stderr);
    let (masters, load) = serving(&fleet);
    let source = fleet.source("42", GOOD);
    let play = fleet.play(&source, &[]).expect(0);
    for ((host, master), load) in HOSTS.iter().zip(&masters).zip(&load) {
        serves(master, "42");
        load.until("42");
        let site = master.site();
        assert_eq!((current(site).as_str(), releases(site)), ("releases/42", vec!["41".into(), "42".into()]));
        assert_eq!(play.count(host, "failed"), Some(0), "{}", play.said.stdout);
        // It arrived as it was.
        assert_eq!(fs::read_link(site.release_dir("42").join("link")).expect("a symlink"), Path::new("start"));
        let mode = fs::metadata(site.release_dir("42").join("start")).expect("a file").permissions();
        assert_eq!(std::os::unix::fs::PermissionsExt::mode(&mode) & 0o777, 0o754);
    }
    let apps: Vec<_> = masters.iter().map(Master::app_pids).collect();
    let again = fleet.play(&source, &[]).expect(0);
    for ((host, master), apps) in HOSTS.iter().zip(&masters).zip(&apps) {
        assert_eq!(again.count(host, "changed"), Some(0), "{}", again.said.stdout);
        assert_eq!(&master.app_pids(), apps, "something was restarted");
    }
    load.into_iter().for_each(|load| drop(load.finish()));
}

#[test]
fn a_broken_release_ends_at_the_first_host() {
    let fleet = Fleet::new();
    let (masters, load) = serving(&fleet);
    let apps: Vec<_> = masters.iter().map(Master::app_pids).collect();
    let source = fleet.source("42", BROKEN);
    let play = fleet.play(&source, &[]).expect(2);
    play.says("| app.py, line 3, in <module>");
    play.says("| ModuleNotFoundError: No module named 'flask_login'");
    assert!(play.said.stdout.contains("42: refused, the old code serves (exit code 3)"), "{}", play.said.stdout);
    assert_eq!(play.count("one", "failed"), Some(1));
    // Uploaded, and refused; `current` is as before, so that a reboot and the next look are honest.
    assert_eq!((current(&fleet.sites()[0]).as_str(), releases(&fleet.sites()[0]).len()), ("releases/41", 2));
    serves(&masters[0], "41");
    assert_eq!(tests::master::refused(&masters[0].stats()), ["42"]);
    for host in [1, 2] {
        assert_eq!(play.recap.get(HOSTS[host]), None, "{}", play.said.stdout);
        untouched(&fleet, host, &masters[host], &apps[host]);
    }
    // Asked again, the first host remembers, and says the same.
    let tried = || masters[0].stats().last_rollout.expect("a rollout").id;
    let first = tried();
    let again = fleet.play(&source, &[]).expect(2);
    again.says("| ModuleNotFoundError: No module named 'flask_login'");
    assert_eq!((tried(), current(&fleet.sites()[0]).as_str()), (first, "releases/41"));
    // It can be told to try; and where `current` names the refused release itself, it goes back to what serves.
    fleet.sites()[0].point(Path::new("releases/42"));
    let retried = fleet.play(&source, &["-e", "phased_retry=yes"]).expect(2);
    retried.says("| ModuleNotFoundError: No module named 'flask_login'");
    assert_eq!((tried(), current(&fleet.sites()[0]).as_str()), (first + 1, "releases/41"));
    load.into_iter().for_each(|load| assert_eq!(load.finish().releases.into_keys().collect::<Vec<_>>(), ["41"]));
}

#[test]
fn a_host_on_which_it_does_not_boot_ends_it_there() {
    let fleet = Fleet::new();
    let (masters, load) = serving(&fleet);
    let apps: Vec<_> = masters.iter().map(Master::app_pids).collect();
    for host in [0, 2] {
        fs::create_dir(fleet.sites()[host].root().join("shared")).expect("a folder");
        fs::write(fleet.sites()[host].root().join("shared/schema-42"), "").expect("a file");
    }
    let play = fleet.play(&fleet.source("42", PICKY), &[]).expect(2);
    play.says("| schema 42 is not here");
    assert_eq!((play.count("one", "failed"), play.count("two", "failed")), (Some(0), Some(1)));
    assert_eq!(play.recap.get("three"), None, "{}", play.said.stdout);
    serves(&masters[0], "42");
    assert_eq!(current(&fleet.sites()[0]), "releases/42");
    serves(&masters[1], "41");
    assert_eq!(current(&fleet.sites()[1]), "releases/41");
    untouched(&fleet, 2, &masters[2], &apps[2]);
    load[0].until("42");
    let met: Vec<_> = load.into_iter().map(|load| load.finish().releases.into_keys().collect::<Vec<_>>()).collect();
    assert_eq!(met, [vec!["41", "42"], vec!["41"], vec!["41"]]);
}

#[test]
fn old_releases_go_and_what_is_in_use_stays() {
    let fleet = Fleet::new();
    let site = &fleet.sites()[0];
    let masters = serving_at(&fleet, 1);
    // 41 is the oldest, and serves.
    for (name, age) in
        [("41", 9), ("36", 8), ("37", 7), ("38", 6), ("cut-off.partial", 2), ("39", 1), ("young.partial", 0)]
    {
        let folder = site.release_dir(name);
        fs::create_dir_all(&folder).expect("a folder");
        aged(&folder, age);
    }
    let before = releases(site);
    let options = ["--limit", "one", "-e", "phased_keep=2"];
    // Nothing is deleted where nothing is trusted.
    let _ = fleet.play(&fleet.source("40", BROKEN), &options).expect(2);
    let mut with_refused = before.clone();
    with_refused.insert(with_refused.iter().position(|name| name == "41").expect("41"), "40".into());
    assert_eq!(releases(site), with_refused);
    aged(&site.release_dir("40"), 3);
    // What would happen is only said.
    let source = fleet.source("42", GOOD);
    let play = fleet.play(&source, &[&options[..], &["--check"]].concat()).expect(0);
    for (name, goes) in [("36", true), ("37", true), ("38", true), ("39", false), ("40", true), ("41", false)] {
        let changed = format!("changed: [one] => (item={})", site.release_dir(name).display());
        assert_eq!(play.said.stdout.contains(&changed), goes, "{changed}:\n{}", play.said.stdout);
    }
    assert_eq!((releases(site), current(site).as_str()), (with_refused, "releases/41"));
    serves(&masters[0], "41");
    // By hand somebody let it name another one, so that it is the master alone who knows about 41.
    site.point(Path::new("releases/39"));
    let _ = fleet.play(&source, &options).expect(0);
    // The newest two; and 41, to which a rollback would go.
    assert_eq!(releases(site), ["39", "41", "42", "young.partial"]);
    let _ = masters[0].ctl(&["rollback"]).expect(0);
    serves(&masters[0], "41");
}

#[test]
fn a_first_release_is_put_in_place_and_an_untried_one_is_not() {
    let fleet = Fleet::new();
    let site = &fleet.sites()[0];
    fs::remove_dir(site.root().join("releases")).expect("an empty folder");
    let archive = fleet.archive(&fleet.source("41", GOOD));
    let options = ["--limit", "one", "-e", "phased_strip_components=1"];
    let play = fleet.play(&archive, &[&options[..], &["--check"]].concat()).expect(0);
    assert!(!site.root().join("releases").exists() && !site.current().is_symlink(), "{}", play.said.stdout);
    let play = fleet.play(&archive, &options).expect(0);
    assert!(play.said.stdout.contains("no master runs"), "{}", play.said.stdout);
    assert_eq!((releases(site), current(site).as_str()), (vec!["41".to_owned()], "releases/41"));
    let again = fleet.play(&archive, &options).expect(0);
    assert_eq!(again.count("one", "changed"), Some(0), "{}", again.said.stdout);
    let mut master = fleet.start(site);
    serves(&master, "41");
    let _ = master.ctl(&["stop"]).expect(0);
    assert_eq!(master.end().code(), Some(0));
    // Nobody is there who could refuse this one.
    let source = fleet.source("42", BROKEN);
    let play = fleet.play(&source, &["--limit", "one"]).expect(2);
    assert!(play.said.stdout.contains("no master answers that could try the release"), "{}", play.said.stdout);
    assert_eq!((releases(site), current(site).as_str()), (vec!["41".to_owned()], "releases/41"));
    let _ = fleet.play(&source, &["--limit", "one", "-e", "phased_without_master=true"]).expect(0);
    assert_eq!(current(site), "releases/42");
}

#[test]
fn a_host_that_is_not_ready_for_it_is_left_alone() {
    let fleet = Fleet::new();
    let masters = serving_at(&fleet, 2);
    let site = &fleet.sites()[0];
    let source = fleet.source("42", GOOD);
    let untouched = |play: &Play, words: &str| {
        let said = format!("{}{}", play.said.stdout, play.said.stderr);
        assert!(said.contains(words), "{words:?} is not in\n{said}");
        assert_eq!((releases(site), current(site).as_str()), (vec!["41".to_owned()], "releases/41"));
    };
    // Another site's master.
    let other = format!("phased_socket={}", fleet.sites()[1].socket().display());
    let play = fleet.play(&source, &["--limit", "one", "-e", &other, "-e", "phased_without_master=false"]).expect(2);
    untouched(&play, &format!("runs {}, and not {}", fleet.sites()[1].current().display(), site.current().display()));
    serves(&masters[1], "41");
    let play = fleet.play(&source, &["--limit", "one", "-e", "phased_ctl=/nowhere/ctl"]).expect(2);
    untouched(&play, "/nowhere/ctl cannot be run");
    let play = fleet.play(&source, &["--limit", "one", "-e", "phased_release=../42"]).expect(2);
    untouched(&play, "a plain name");
    // A rollout of somebody else's.
    site.release("43", "gate boot");
    fs::write(site.release_dir("43").join("start"), GOOD).expect("a release's file");
    let rollout = masters[0].ctl_start(&["phased-restart", "--dir", site.release_dir("43").to_str().expect("a path")]);
    let waiting = site.arrival("boot");
    let play = fleet.play(&source, &["--limit", "one"]).expect(2);
    assert!(play.said.stdout.contains("the master is rolling"), "{}", play.said.stdout);
    assert_eq!((site.release_dir("42").exists(), current(site).as_str()), (false, "releases/41"));
    site.open("boot");
    waiting.open();
    let _ = rollout.end().expect(0);
}

#[test]
fn a_rollout_that_goes_on_keeps_current_and_options_reach_it() {
    let fleet = Fleet::new();
    let masters = serving_at(&fleet, 1);
    let site = &fleet.sites()[0];
    let source = fleet.source("42", GOOD);
    fs::write(source.join("script"), "gate boot").expect("a release's file");
    fs::write(source.join("site"), site.root().to_str().expect("a path")).expect("a release's file");
    let options = r#"{"phased_restart_options": ["--timeout", "1ms", "--confirm-within", "10m"]}"#;
    let play = fleet.play(&source, &["--limit", "one", "-e", options, "-e", "phased_keep=1"]).expect(2);
    assert!(
        play.said.stdout.contains("42: not ended in time, the rollout goes on (exit code 6)"),
        "{}",
        play.said.stdout
    );
    assert_eq!((current(site).as_str(), releases(site).len()), ("releases/42", 2));
    site.open("boot");
    let _ = masters[0].until("promoted", |stats| stats.rollout.is_none() && stats.confirm.is_some());
    serves(&masters[0], "42");
    // Asked again, it runs already.
    let again = fleet.play(&source, &["--limit", "one"]).expect(0);
    assert_eq!(again.count("one", "changed"), Some(0), "{}", again.said.stdout);
    let _ = masters[0].ctl(&["confirm"]).expect(0);
}
