//! What the app gets: descriptors, environment, signals, directory. And what it does not get.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;

use tests::binaries::binary;
use tests::{Site, process};

fn variables(text: &str) -> BTreeMap<&str, &str> {
    text.lines().filter_map(|line| line.split_once('=')).collect()
}

#[test]
fn the_descriptors_of_the_app_are_these_and_no_others() {
    let site = Site::new();
    let master = site.steady("41", "quiet", 2);
    let apps = master.app_pids();
    for pid in &apps {
        let fds = process::descriptors(*pid);
        // The fixture's own: its epoll, and the pipe by which its signal handler wakes it.
        let own = |what: &str| what.starts_with("pipe:") || what == "anon_inode:[eventpoll]";
        let given: Vec<_> = fds.iter().filter(|(fd, what)| !(**fd > 3 && own(what))).collect();
        assert_eq!(given.iter().map(|(fd, _)| **fd).collect::<Vec<_>>(), [0, 1, 2, 3], "{fds:#?}");
        assert_eq!(fds[&0], "/dev/null");
        assert!(fds[&3].starts_with("socket:["));
    }
    // As the app itself saw them at its start.
    let fds = master.get("/fds");
    assert_eq!(
        fds.lines().map(|line| line.split(' ').next().unwrap()).collect::<Vec<_>>(),
        ["0", "1", "2", "3"],
        "{fds}"
    );
    // Also after a rollout, a refused one and a crash, and with a control connection open meanwhile.
    site.release("42", "quiet");
    master.roll("42").expect(0);
    site.release("43", "exit 1");
    master.roll("43").expect(3);
    process::signal(master.app_pids()[0], nix::sys::signal::Signal::SIGKILL);
    master.until("respawned", |stats| stats.worker_status.iter().any(|w| w.crashes == 1 && w.state == "ready"));
    for _ in 0..4 {
        let fds = master.get("/fds");
        assert_eq!(fds.lines().count(), 4, "{fds}");
    }
}

#[test]
fn the_environment_of_the_app() {
    let site = Site::new();
    site.release("41", "");
    site.deploy("41");
    let master = site
        .master()
        .workers(1)
        .listen(&["web=tcp://127.0.0.1:0", "admin=tcp://127.0.0.1:0"])
        .options(&["--env", "GREETING=in {release}, {slot}/{phase} on {addr:admin} fd {fd:admin}"])
        .options(&["--env", "UNTOUCHED={{release} ${HOME} {} {\"a\": 1}", "--env", "INHERITED=replaced"])
        .env("INHERITED", "by the master")
        .env("KEPT", "kept")
        .env("LISTEN_FDS_START", "7")
        .env("NOTIFY_SOCKET", "/nowhere/notify")
        .env("WATCHDOG_USEC", "1000")
        .env("WATCHDOG_PID", "1")
        .env("JOURNAL_STREAM", "8:1")
        .env("WEB_CONCURRENCY", "9")
        .env("PWD", "/nowhere")
        .start();
    master.until_state("steady");
    let text = master.get("/env");
    let env = variables(&text);
    let release = site.release_dir("41");
    let release = release.to_str().unwrap();
    let stats = master.stats();
    assert_eq!(stats.listeners.iter().map(|listener| listener.name.as_str()).collect::<Vec<_>>(), ["web", "admin"]);
    let plain = |at: usize| stats.listeners[at].address.strip_prefix("tcp://").expect("TCP").to_owned();
    let app = master.app_pids()[0];
    for (name, wanted) in [
        ("PWD", release.to_owned()),
        ("RELEASE_DIR", release.to_owned()),
        ("WORKER_INDEX", "0".into()),
        ("WORKER_PHASE", "0".into()),
        ("PHASED_SOCKET", site.socket().to_str().unwrap().to_owned()),
        ("LISTEN_FDS", "2".into()),
        ("LISTEN_PID", app.to_string()),
        ("LISTEN_FDNAMES", "web:admin".into()),
        ("SERVER_STARTER_PORT", format!("{}=3;{}=4", plain(0), plain(1))),
        ("EINHORN_FD_COUNT", "2".into()),
        ("EINHORN_FD_0", "3".into()),
        ("EINHORN_FD_1", "4".into()),
        ("GREETING", format!("in {release}, 0/0 on {} fd 4", plain(1))),
        ("UNTOUCHED", "{release} ${HOME} {} {\"a\": 1}".into()),
        ("INHERITED", "replaced".into()),
        ("KEPT", "kept".into()),
    ] {
        assert_eq!(env.get(name), Some(&wanted.as_str()), "{name} in\n{text}");
    }
    assert!(env.contains_key("FPM_SOCKETS"), "{text}");
    for name in ["WATCHDOG_USEC", "WATCHDOG_PID", "JOURNAL_STREAM", "WEB_CONCURRENCY", "LISTEN_FDS_START"] {
        assert!(!env.contains_key(name), "{name} in\n{text}");
    }
    assert_ne!(env.get("NOTIFY_SOCKET"), Some(&"/nowhere/notify"), "{text}");
    assert!(env.contains_key("NOTIFY_SOCKET"), "one of its own: {text}");
    // No variable twice: which of the two a program reads is anybody's guess.
    assert_eq!(text.lines().filter(|line| !line.is_empty()).count(), env.len(), "{text}");
}

#[test]
fn words_expand_in_the_command() {
    let site = Site::new();
    site.release("41", "");
    site.deploy("41");
    let fixture = binary("fixture");
    let seen = site.root().join("seen");
    let line = format!("echo \"$@\" ${{HOME}} > {}; exec {}", seen.display(), fixture.display());
    let words = ["sh", "-c", &line, "sh", "{release}", "{slot}", "{phase}", "{fd}", "{addr}", "{{slot}", "{}", "{x}"];
    let master = site.master().workers(1).env("HOME", "/home/of-the-app").command(&words).start();
    master.until_state("steady");
    let address = master.stats().listeners[0].address.strip_prefix("tcp://").expect("TCP").to_owned();
    let release = site.release_dir("41");
    assert_eq!(
        fs::read_to_string(seen).expect("the words"),
        format!("{} 0 0 3 {address} {{slot}} {{}} {{x}} /home/of-the-app\n", release.display())
    );
}

#[test]
fn no_signal_is_blocked_or_ignored_whatever_the_masters_own_are() {
    let site = Site::new();
    site.release("41", "");
    site.deploy("41");
    // The fixture's runtime ignores SIGPIPE itself: a shell shows what was handed over, and changes nothing.
    let seen = site.root().join("seen");
    let line =
        format!("grep -E '^Sig(Blk|Ign)' /proc/self/status > {}; exec {}", seen.display(), binary("fixture").display());
    let ignored = ["sh", "-c", "trap '' HUP PIPE USR1 INT QUIT; exec \"$@\"", "sh", "nohup"];
    let master = site.master().workers(1).command(&["sh", "-c", &line]).wrap(&ignored).start();
    master.until_state("steady");
    let text = fs::read_to_string(seen).expect("the signals");
    assert_eq!(
        text.split_whitespace().collect::<Vec<_>>(),
        ["SigBlk:", "0000000000000000", "SigIgn:", "0000000000000000"],
        "{text}"
    );
    drop(master);
    // The shell may have unblocked some by itself; the fixture does not, and its runtime ignores SIGPIPE alone.
    let master = site.master().workers(1).wrap(&ignored).start();
    master.until_state("steady");
    let status = master.get("/status");
    assert!(status.contains("SigBlk:\t0000000000000000\nSigIgn:\t0000000000001000\n"), "{status}");
}

#[test]
fn the_directory_is_the_real_path_and_the_command_is_looked_up_in_the_apps_path() {
    let site = Site::new();
    site.release("41", "");
    let bin = site.release_dir("41").join("bin");
    fs::create_dir(&bin).expect("a folder");
    symlink(binary("fixture"), bin.join("the-app")).expect("a symlink");
    // A symlink to a symlink: resolved to the end, once.
    let stage = site.root().join("stage");
    symlink(site.release_dir("41"), &stage).expect("a symlink");
    site.point(&stage);
    let path = "PATH={release}/bin:/usr/bin:/bin";
    let master = site.master().workers(1).options(&["--env", path]).command(&["the-app"]).start();
    master.until_state("steady");
    assert_eq!(master.get("/cwd"), site.release_dir("41").to_str().unwrap());
    let stats = master.stats();
    assert_eq!(stats.release, site.release_dir("41").to_str().unwrap().as_bytes());
    assert_eq!(stats.dir, site.current().to_str().unwrap().as_bytes());
    // A relative word is the release's own, of every release anew.
    drop(master);
    let master = site.master().workers(1).command(&["./bin/the-app"]).start();
    master.until_state("steady");
    site.release("42", "");
    let said = master.roll("42").expect(3);
    assert!(said.stderr.contains("stage exec") && said.stderr.contains("./bin/the-app"), "{}", said.stderr);
}

#[test]
fn a_procfile_names_the_command() {
    let site = Site::new();
    site.release("41", "");
    let fixture = binary("fixture");
    let procfile = |release: &str, line: &str| {
        fs::write(site.release_dir(release).join("Procfile"), format!("# apps\nother: false\nweb: {line}\n")).unwrap();
    };
    procfile("41", &format!("GREETING='hello, world' {}", fixture.display()));
    site.deploy("41");
    let master = site.master().workers(1).procfile().start();
    master.until_state("steady");
    let env = master.get("/env");
    assert_eq!(variables(&env).get("GREETING"), Some(&"hello, world"), "{env}");
    // sh has been replaced by the app.
    assert_eq!(process::descendants(master.pid()).len(), 2);
    for line in ["true && exec app", "app | tee log", "app; app"] {
        site.release("42", "");
        procfile("42", line);
        let said = master.roll("42").expect(3);
        assert!(said.stderr.contains("stage exec") && said.stderr.contains("Procfile"), "{}", said.stderr);
    }
}

#[test]
fn the_app_can_call_ctl_and_tell_its_status() {
    let site = Site::new();
    let master = site.steady("41", "", 1);
    let env = master.get("/env");
    let socket = variables(&env)["PHASED_SOCKET"];
    let mut ctl = tests::ctl::bare();
    ctl.env("PHASED_SOCKET", socket).arg("status");
    tests::Ctl::start(&mut ctl).end().expect(0);
    assert_eq!(master.get("/notify/STATUS=cleaning%20up"), "notified\n");
    assert!(master.stats().worker_status[0].last_status.is_some() || status_comes(&master), "STATUS= is shown");
}

/// The datagram and the report of it have two processes to pass; each look at the stats gives them a turn.
fn status_comes(master: &tests::Master<'_>) -> bool {
    let end = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while std::time::Instant::now() < end {
        if master.stats().worker_status[0].last_status.is_some() {
            return true;
        }
        std::thread::yield_now();
    }
    false
}

#[test]
fn what_the_app_prints_goes_on() {
    let site = Site::new();
    let master = site.steady("41", "print to stdout\neprint to stderr", 1);
    master.until_stdout("to stdout");
    master.until_log("to stderr");
    assert!(master.stdout.all().contains(&"to stdout".to_owned()), "unchanged");
    assert!(master.stderr.all().contains(&"to stderr".to_owned()), "unchanged");
    drop(master);
    let master = site.master().workers(1).options(&["--log-prefix"]).start();
    let line = master.until_stdout("to stdout");
    assert!(line.len() > "to stdout".len() && line.contains('0'), "slot and phase: {line}");
}
