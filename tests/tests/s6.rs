//! A site under a real s6-supervise, with the run script of `scripts/s6`. `scripts/managers` installs s6; where it cannot,
//! this fails and says why.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use proto::control::Stats;
use tests::binaries::binary;
use tests::master::all_on;
use tests::{Ctl, Load, Site, control, process};

fn project(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

/// The service directory `web` of a site: the shipped one, with binaries and folders of this test's own.
fn service(site: &Site) -> PathBuf {
    let folder = site.root().join("web");
    fs::create_dir(&folder).expect("a folder");
    fs::copy(project("scripts/s6/notification-fd"), folder.join("notification-fd")).expect("a copy");
    let mut script = fs::read_to_string(project("scripts/s6/run")).expect("the run script");
    let places = [
        ("exec /usr/local/bin/master", format!("exec {}", binary("master").display())),
        ("\"/etc/phased/", format!("\"{}/", site.root().display())),
        ("\"/var/lib/phased/", format!("\"{}/", site.state().display())),
    ];
    for (shipped, here) in places {
        assert_eq!(script.matches(shipped).count(), 1, "{shipped:?} in {script}");
        script = script.replace(shipped, &here);
    }
    fs::write(folder.join("run"), script).expect("a file");
    fs::set_permissions(folder.join("run"), fs::Permissions::from_mode(0o755)).expect("a mode");
    let settings = format!(
        "dir = {:?}\nworkers = 2\nsoak = \"0s\"\nsocket = {:?}\nlisten = [\"tcp://127.0.0.1:0\"]\ncommand = [{:?}]\n",
        site.current(),
        site.socket(),
        binary("fixture")
    );
    fs::write(site.root().join("web.toml"), settings).expect("a file");
    folder
}

/// Waits until the stats are as wanted: looks now, and again after each step of the mind.
fn until(site: &Site, what: &str, wanted: impl Fn(&Stats) -> bool) {
    let trace = control::trace(&site.socket()).expect("the trace");
    loop {
        let seen = trace.len();
        let stats = control::stats(&site.socket()).expect("stats");
        if wanted(&stats) {
            return;
        }
        if let Err(vain) = trace.wait(seen, site.deadline(), |_| true) {
            panic!("waiting until {what}: {vain:?}; last seen: {stats:#?}");
        }
    }
}

#[test]
fn s6_knows_when_the_site_is_up_and_brings_it_down() {
    let managers = Command::new(project("scripts/managers")).output().expect("scripts/managers");
    assert!(managers.status.success(), "s6 is not installed: {}", String::from_utf8_lossy(&managers.stderr));
    let site = Site::new();
    let service = service(&site);
    let dir = service.to_str().expect("text");
    let start = |program: &str, words: &[&str]| {
        let mut command = Command::new(program);
        for name in ["LISTEN_FDS", "NOTIFY_SOCKET", "RUNTIME_DIRECTORY", "STATE_DIRECTORY", "PHASED_WORKER"] {
            command.env_remove(name);
        }
        // The mark by which everything of this site is found again.
        Ctl::start(command.args(words).arg(dir).env("TEST_SITE", site.root()))
    };
    let run = |program: &str, words: &[&str]| start(program, words).end().expect(0).stdout;
    let is = |what: &str| run("s6-svstat", &["-o", what]);

    site.release("41", "gate boot");
    site.release("42", "");
    site.deploy("41");
    let mut supervise = start("s6-supervise", &[]);
    // Whoever stands at the gate was started by it.
    let (one, two) = (site.arrival("boot"), site.arrival("boot"));
    let mut up = start("s6-svwait", &["-U", "-t", "60000"]);
    one.open();
    until(&site, "one of two is ready", |stats| stats.booted_workers == 1);
    assert_eq!(is("up,ready"), "true false");
    assert!(up.waits());
    two.open();
    up.end().expect(0);
    assert_eq!(is("up,ready"), "true true");

    // USR1 is the phased restart.
    site.deploy("42");
    run("s6-svc", &["-1"]);
    until(&site, "42 is promoted", |stats| stats.state == "steady" && all_on(stats, "42"));

    // s6 starts the next master after each end that it did not want itself, and that one finds everybody where they were.
    let stats = control::stats(&site.socket()).expect("stats");
    let apps = |stats: &Stats| stats.worker_status.iter().map(|worker| worker.app_pid).collect::<Vec<_>>();
    let (before, address) = (apps(&stats), stats.listeners[0].address.parse().expect("an address"));
    let load = Load::start(&address);
    load.more(20);
    let detach = [binary("ctl").display().to_string(), "--socket".into(), site.socket().display().to_string()];
    for end in ["kill -9", "detach"] {
        let master = is("pid");
        // Each listens first, and returns when the next master is ready.
        if end == "detach" {
            let mut command = Command::new("s6-svlisten1");
            command.args(["-R", "-t", "60000", dir]).args(&detach).arg("detach");
            Ctl::start(command.env("TEST_SITE", site.root())).end().expect(0);
        } else {
            run("s6-svc", &["-wR", "-T", "60000", "-k"]);
        }
        assert_ne!(is("pid"), master, "{end}");
        load.more(20);
        let stats = control::stats(&site.socket()).expect("stats");
        assert_eq!(apps(&stats), before, "{end}");
    }
    load.finish();

    run("s6-svc", &["-wD", "-T", "60000", "-d"]);
    assert_eq!(is("up,exitcode"), "false 0");
    assert!(site.alive().is_empty(), "{:?}", site.alive());
    assert!(supervise.waits());
    run("s6-svc", &["-x"]);
    let said = supervise.end().expect(0);
    assert!(said.stdout.contains("promoted"), "the log goes to standard output: {said:?}");
    let left = process::of_site(site.root());
    assert!(left.is_empty(), "left behind:\n{}", process::table(&left));
}
