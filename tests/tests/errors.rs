//! Every line of `tests/ERRORS.md`: the situation is made, and the words that stand there are found in what is printed.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;

use nix::sys::signal::Signal;
use proto::Hello;
use proto::control::{PhasedRestart, Reply, Request};
use proto::worker::Stage;
use tests::{Ctl, Master, Output, Site, process};

/// The words in the column `printed` of the page, by the heading above.
fn printed(heading: &str) -> Vec<(String, String)> {
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("ERRORS.md")).expect("the page");
    let section = page.split("\n## ").find(|part| part.starts_with(heading)).expect("the heading");
    let rows = section
        .lines()
        .filter(|line| line.starts_with("| ") && !line.starts_with("| code") && !line.starts_with("| printed"));
    rows.map(|row| {
        let code = row.split('|').nth(1).unwrap_or_default().trim().to_owned();
        let words = row.split('`').nth(1).unwrap_or_default().to_owned();
        (code, words)
    })
    .collect()
}

/// Takes the lines of one part of the page off, one by one; what is left over was not tried.
struct Rows(Mutex<Vec<(String, String)>>);

impl Rows {
    fn of(heading: &str) -> Self {
        let rows = printed(heading);
        assert!(!rows.is_empty(), "{heading}");
        Self(Mutex::new(rows))
    }

    /// The line that has these words, or this exit code in front of its own.
    #[track_caller]
    fn tried(&self, key: &str, said: &str) {
        let mut rows = self.0.lock().expect("a lock");
        let Some(at) = rows.iter().position(|(code, words)| code == key || words == key) else {
            panic!("{key} is not on the page, or was tried before: {rows:?}");
        };
        let (_, words) = rows.remove(at);
        assert!(said.contains(&words), "{words:?} is not in\n{said}");
    }

    #[track_caller]
    fn all(self) {
        let left: BTreeSet<_> = self.0.into_inner().expect("a lock").into_iter().map(|(_, words)| words).collect();
        assert_eq!(left, BTreeSet::new(), "lines of the page that nobody tried");
    }
}

fn text(said: &Output) -> String {
    format!("{}{}", said.stdout, said.stderr)
}

const BROKEN: &str = "eprint ModuleNotFoundError: No module named 'flask_login'\nexit 1";

#[test]
fn exit_codes_of_ctl() {
    let rows = Rows::of("Exit codes of ctl");
    let site = Site::new();
    let master = site.steady("41", "", 3);
    let tried = |code: i32, said: Output| rows.tried(&code.to_string(), &text(&said.expect(code)));
    site.release("42", "");
    tried(0, master.roll("42"));
    site.point(Path::new("/no/release"));
    tried(1, master.ctl(&["phased-restart"]));
    tried(2, master.ctl(&["phased-restrat"]));
    site.release("43", BROKEN);
    tried(3, master.roll("43"));
    site.release("44", "gate boot");
    site.deploy("44");
    tried(6, master.ctl(&["phased-restart", "--timeout", "100ms"]));
    tried(5, master.ctl(&["phased-restart"]));
    master.ctl(&["abort"]).expect(0);

    if nix::unistd::geteuid().is_root() {
        let copy = site.root().join("ctl");
        tests::binaries::copy("ctl", &copy);
        let mut command = Command::new(&copy);
        command.arg("--socket").arg(site.socket()).arg("stop").uid(65534).gid(65534).current_dir("/");
        tried(8, Ctl::start(&mut command).end());
    } else {
        rows.tried("8", "open to root and to the master's own user");
    }

    // A master that speaks another protocol.
    let path = site.root().join("run/other.sock");
    let listener = UnixListener::bind(&path).expect("a socket");
    let other = std::thread::spawn(move || {
        let (mut client, _) = listener.accept().expect("a client");
        let hello = Reply::Hello(Hello { protocol: 999, build: "9.9.9".into() });
        client.write_all(&proto::frame::frame(&hello).expect("a frame")).expect("written");
        // It reads until the client goes.
        let _ = client.read_to_end(&mut Vec::new());
    });
    tried(9, Ctl::start(&mut tests::ctl::command(&path, &["status"])).end());
    other.join().expect("the other master");

    // The old code does not boot any more either.
    site.release("42", BROKEN);
    process::signal(master.app_pids()[2], Signal::SIGKILL);
    master.until_state("degraded");
    tried(4, master.roll("43"));

    site.deploy("44");
    let ctl = master.ctl_start(&["phased-restart"]);
    let _waiting = site.arrival("boot");
    process::signal(master.pid(), Signal::SIGKILL);
    tried(10, ctl.end());
    site.until_ended(master.pid());
    tried(7, master.ctl(&["status"]));
    rows.all();
}

#[test]
fn exit_codes_of_master() {
    let rows = Rows::of("Exit codes of master");
    let site = Site::new();
    let tried = |code: i32, said: Output| rows.tried(&code.to_string(), &text(&said.expect(code)));
    tried(2, site.master().options(&["--worker-count", "3"]).run());
    tried(1, site.master().dir("/no/where".into()).run());
    site.release("41", BROKEN);
    site.deploy("41");
    tried(3, site.master().workers(1).run());
    site.release("42", "");
    site.deploy("42");
    let mut master = site.master().workers(1).start();
    master.until_state("steady");
    master.ctl(&["stop"]).expect(0);
    assert_eq!(master.end().code(), Some(0));
    rows.tried("0", &master.until_log("stopped"));
    rows.all();
}

#[test]
fn what_is_found_wrong_before_anything_is_touched() {
    let rows = Rows::of("What is found wrong");
    let site = Site::new();
    let master = site.steady("41", "", 1);
    let pids = master.app_pids();
    let tried = |words: &str, code: i32, said: Output| rows.tried(words, &text(&said.expect(code)));
    let nowhere = site.root().join("nowhere");
    site.point(&nowhere);
    let said = master.ctl(&["phased-restart"]).expect(1);
    assert!(said.stderr.contains(nowhere.to_str().expect("text")), "where it leads: {}", said.stderr);
    tried("which has to be a release directory or a symlink to one", 1, said);
    let file = site.root().join("file");
    fs::write(&file, "").expect("a file");
    tried("is not a directory", 1, master.ctl(&["reload-dir", file.to_str().expect("text")]));
    site.deploy("41");
    tried("use rollback", 1, master.ctl(&["abort"]));
    tried("300ms, 5s or 2m", 2, master.ctl(&["phased-restart", "--soak", "5"]));
    tried("has the control socket", 1, site.master().run());

    let other = || site.master().socket(site.root().join("run/other.sock")).state(Some(site.root().join("other")));
    let holder = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = format!("tcp://{}", holder.local_addr().expect("an address"));
    tried("address in use", 1, other().listen(&[&address]).run());
    tried("tcp://HOST:PORT or unix:///PATH", 2, other().listen(&["127.0.0.1:8080"]).run());
    tried("with neither, no worker could ever be replaced", 2, other().options(&["--surge", "0"]).run());
    tried("needs a socket to accept on", 2, other().listen(&[]).options(&["--ready", "accepting"]).run());
    assert_eq!(master.app_pids(), pids, "nothing was touched");
    rows.all();
}

#[test]
fn why_a_release_did_not_boot() {
    let rows = Rows::of("Why a release did not boot");
    let site = Site::new();
    site.release("41", "");
    site.deploy("41");
    let tried = |words: &str, said: Output| rows.tried(words, &text(&said.expect(3)));
    let one = || site.master().workers(1);
    tried("command not found", one().command(&["no-such-program"]).run());
    let app = site.release_dir("41").join("app");
    fs::write(&app, "#!/bin/sh\n").expect("a file");
    fs::set_permissions(&app, fs::Permissions::from_mode(0o644)).expect("a mode");
    tried("not executable", one().command(&["./app"]).run());
    tried("no COMMAND was given", one().procfile().run());
    tried("stage hook", one().options(&["--before-boot", "false"]).run());

    let master = one().options(&["--boot-timeout", "1s", "--check-timeout", "1s"]).start();
    master.until_state("steady");
    let refused = |words: &str, script: &str| {
        site.release("42", script);
        tried(words, master.roll("42"));
    };
    refused("exited with status", "exit 7");
    refused("waits on the inherited socket", "wait-forever");
    refused("not on the inherited socket", "listen-elsewhere");
    rows.tried("cannot make a worker process", &starved(&master));
    drop(master);

    site.deploy("41");
    let checked = site.master().workers(1).options(&["--check", "http:/health", "--check-timeout", "1s"]).start();
    checked.until_state("steady");
    site.release("43", "health 500 no database");
    tried("HTTP/1.1 500", checked.roll("43"));
    rows.all();
}

/// What a master says about a boot for which it gets no open files.
fn starved(master: &Master<'_>) -> String {
    master.site().deploy("41");
    let mut control = tests::control::Control::open(&master.site().socket()).expect("a client");
    let limit = |soft: i32| {
        let mut prlimit = Command::new("prlimit");
        prlimit.arg("--pid").arg(master.pid().to_string()).arg(format!("--nofile={soft}:"));
        assert!(prlimit.status().expect("prlimit (of util-linux) is installed").success());
    };
    // A new one gets the first free number, and that is one too high.
    let open = process::descriptors(master.pid());
    limit((0..).find(|number| !open.contains_key(number)).expect("a number"));
    control.send(&Request::PhasedRestart(PhasedRestart::default())).expect("sent");
    let report = loop {
        match control.receive().expect("a reply") {
            Some(Reply::Accepted { .. } | Reply::Progress(_)) => {}
            Some(Reply::Ended { rollout, .. }) => break rollout.report.expect("a report"),
            other => panic!("{other:?}"),
        }
    };
    limit(4096);
    assert_eq!(report.stage, Stage::Spawn, "{}", report.message);
    report.message
}

#[test]
fn while_it_serves() {
    let rows = Rows::of("While it serves");
    let site = Site::new();
    let master = site.steady("41", "", 1);
    let mut client = UnixStream::connect(site.socket()).expect("a connection");
    client.write_all(b"GET / HTTP/1.1\r\n\r\n").expect("written");
    rows.tried("control client closed", &master.until_log("control client closed"));
    site.release("42", "");
    site.deploy("42");
    fs::remove_dir_all(site.release_dir("41")).expect("removed");
    process::signal(master.app_pids()[0], Signal::SIGKILL);
    let words = "the known-good release directory is gone; trying";
    rows.tried(words, &master.until_log("is gone"));
    rows.all();
}

#[test]
fn the_page_is_linked() {
    let readme = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md")).expect("README.md");
    assert!(readme.contains("(tests/ERRORS.md)"));
}
