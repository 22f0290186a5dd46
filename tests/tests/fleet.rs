//! A fleet of three hosts, deployed to by the real ansible-core with `scripts/fleet`, under load.

use std::fs;
use std::path::Path;
use std::process::Command;

use tests::fleet::{Fleet, HOSTS, current, releases, serves};
use tests::{Load, Master, fleet};

/// An app that boots.
const GOOD: &str = "exec \"$FIXTURE\"\n";
/// One that does not, on any host.
const BROKEN: &str =
    "echo 'app.py, line 3, in <module>' >&2\necho \"ModuleNotFoundError: No module named 'flask_login'\" >&2\nexit 1\n";
/// One that needs what not every host has.
const PICKY: &str =
    "[ -e \"$TEST_SITE/shared/schema-42\" ] || { echo 'schema 42 is not here' >&2; exit 1; }\nexec \"$FIXTURE\"\n";

/// Release 41 serves on every host, and clients ask each of them.
fn serving(fleet: &Fleet) -> (Vec<Master<'_>>, Vec<Load>) {
    let built = fleet.source("41", GOOD);
    for site in fleet.sites() {
        let copied = Command::new("cp").arg("-a").arg(&built).arg(site.release_dir("41")).status().expect("cp runs");
        assert!(copied.success());
        site.point(Path::new("releases/41"));
    }
    let masters: Vec<_> = fleet.sites().iter().map(|site| fleet.start(site)).collect();
    let load: Vec<_> = masters.iter().map(|master| Load::light(&master.address())).collect();
    load.iter().for_each(|load| load.until("41"));
    (masters, load)
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
    let boots = masters[0].stats().phase;
    let again = fleet.play(&source, &[]).expect(2);
    again.says("| ModuleNotFoundError: No module named 'flask_login'");
    assert_eq!((masters[0].stats().phase, current(&fleet.sites()[0]).as_str()), (boots, "releases/41"));
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
    let _ = fleet::HOSTS;
}
