//! Finding the master, greeting it, and everything that can go wrong there.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;

use nix::unistd::geteuid;
use proto::control::{Code, Reply, Request};
use proto::{Hello, PROTOCOL};
use serde_json::json;

use crate::fake::{Fake, Running, ctl, stats};

fn steady(fake: &Fake) -> crate::fake::Script {
    fake.answers(Request::Stats, vec![Reply::Stats(stats())])
}

#[test]
fn options_stand_before_and_after_the_command() {
    for words in ["--json --quiet status", "status --json --quiet", "--quiet status --json"] {
        let fake = Fake::new();
        let master = steady(&fake);
        assert_eq!(fake.ctl(words).end().json()["ok"], true, "{words}");
        master.done();
    }
    let fake = Fake::new();
    let master = steady(&fake);
    let ran = Running::start(ctl().arg("status").arg("--socket").arg(fake.path())).end();
    assert_eq!(ran.code, Some(0), "{ran:?}");
    master.done();
}

#[test]
fn the_environment_names_the_socket_and_options_win() {
    let fake = Fake::new();
    let wrong = fake.dir().join("wrong.sock");
    for (set, socket, name) in [
        (vec![("PHASED_SOCKET", fake.path().to_owned())], None, None),
        (vec![("PHASED_SOCKET", wrong.clone())], Some(fake.path()), None),
        (vec![("PHASED_SOCKET", fake.path().to_owned()), ("PHASED_NAME", "wrong".into())], None, None),
        (vec![("RUNTIME_DIRECTORY", fake.dir().to_owned()), ("PHASED_NAME", "shop".into())], None, None),
        (vec![("RUNTIME_DIRECTORY", fake.dir().to_owned()), ("PHASED_SOCKET", wrong.clone())], None, Some("shop")),
        (vec![("RUNTIME_DIRECTORY", fake.dir().to_owned()), ("PHASED_NAME", "wrong".into())], None, Some("shop")),
        (vec![], Some(fake.path()), Some("wrong")),
        // Set but empty is as good as unset.
        (vec![("PHASED_SOCKET", "".into()), ("PHASED_NAME", "".into())], Some(fake.path()), None),
    ] {
        let master = steady(&fake);
        let mut command = ctl();
        command.arg("status").envs(set.iter().cloned());
        if let Some(socket) = socket {
            command.arg("--socket").arg(socket);
        }
        if let Some(name) = name {
            command.args(["--name", name]);
        }
        let ran = Running::start(&mut command).end();
        assert_eq!(ran.code, Some(0), "{set:?} {socket:?} {name:?}: {ran:?}");
        master.done();
        std::fs::remove_file(fake.path()).unwrap();
    }
}

#[test]
fn a_name_is_looked_for_in_every_place() {
    let other = tempfile::tempdir().unwrap();
    let fake = Fake::new();
    let private = fake.dir().join(format!("phased-{}", geteuid()));
    std::fs::create_dir(&private).unwrap();
    std::fs::set_permissions(&private, Permissions::from_mode(0o700)).unwrap();
    let phased = fake.dir().join("phased");
    std::fs::create_dir(&phased).unwrap();
    let two = format!("{}:{}", other.path().display(), fake.dir().display());
    // Where its socket is, and what leads there.
    for (dir, variable, value) in [
        (fake.dir(), "RUNTIME_DIRECTORY", two.as_str()),
        (phased.as_path(), "XDG_RUNTIME_DIR", fake.dir().to_str().unwrap()),
        (private.as_path(), "TMPDIR", fake.dir().to_str().unwrap()),
    ] {
        // A name of its own: other masters may live in /run/phased of the machine that runs the test.
        let name = "fake-master-of-the-tests-of-ctl";
        let master = steady(&fake);
        let path = dir.join(format!("{name}.sock"));
        std::fs::rename(fake.path(), &path).unwrap();
        let mut command = ctl();
        command.args(["status", "--name", name]).env_remove("TMPDIR").env(variable, value);
        let ran = Running::start(&mut command).end();
        assert_eq!(ran.code, Some(0), "{variable}: {ran:?}");
        std::fs::rename(&path, fake.path()).unwrap();
        master.done();
        std::fs::remove_file(fake.path()).unwrap();
    }
}

#[test]
fn a_name_that_nobody_has_lists_the_places() {
    let fake = Fake::new();
    let mut command = ctl();
    command.args(["status", "--name", "nobody-has-this-name"]).env("RUNTIME_DIRECTORY", fake.dir());
    let ran = Running::start(&mut command).end();
    assert_eq!((ran.code, ran.out.as_str()), (Some(7), ""));
    let first = format!("{} (no such socket)", fake.dir().join("nobody-has-this-name.sock").display());
    assert!(ran.err.contains(&first), "{ran:?}");
    assert!(ran.err.contains("/run/phased/nobody-has-this-name.sock"), "{ran:?}");
    assert!(ran.err.contains(&format!("/phased-{}/nobody-has-this-name.sock", geteuid())), "{ran:?}");
}

#[test]
fn a_socket_on_which_nobody_listens_is_no_master() {
    let fake = Fake::new();
    let way_out = "start it, or leave --socket and $PHASED_SOCKET out to have every place searched";
    let words = format!("no master: {} (no such socket); {way_out}", fake.path().display());
    fake.ctl("status").end().is(7, "", &format!("error: {words}\n"));
    drop(UnixListener::bind(fake.path()).unwrap());
    let words = format!("no master: {} (nobody listens on it); {way_out}", fake.path().display());
    fake.ctl("stats").end().is(7, "", &format!("error: {words}\n"));
    let json = fake.ctl("stats --json").end().json();
    assert_eq!(json, json!({"error": {"code": 7, "message": words, "report": null}}));
}

#[test]
fn a_file_that_is_no_socket_is_no_master() {
    let fake = Fake::new();
    std::fs::write(fake.path(), "").unwrap();
    let ran = fake.ctl("status").end();
    assert_eq!(ran.code, Some(7), "{ran:?}");
}

#[test]
fn a_closed_door_is_8() {
    let fake = Fake::new();
    let _listener = UnixListener::bind(fake.path()).unwrap();
    std::fs::set_permissions(fake.path(), Permissions::from_mode(0o600)).unwrap();
    std::fs::set_permissions(fake.dir(), Permissions::from_mode(0o755)).unwrap();
    if !geteuid().is_root() {
        std::fs::set_permissions(fake.path(), Permissions::from_mode(0o000)).unwrap();
    }
    // The binary's own folder may be closed to that user: it gets a copy that is not. Another process makes it,
    // so that no test that forks meanwhile holds it open for writing (ETXTBSY).
    let program = fake.dir().join("ctl");
    let copied = std::process::Command::new("cp").arg(env!("CARGO_BIN_EXE_ctl")).arg(&program).status().unwrap();
    assert!(copied.success());
    let mut command = std::process::Command::new(&program);
    command.arg("status").arg("--socket").arg(fake.path()).current_dir("/");
    if geteuid().is_root() {
        command.uid(65534).gid(65534);
    }
    let ran = Running::start(&mut command).end();
    assert_eq!(ran.code, Some(8), "{ran:?}");
    assert!(ran.err.contains("permission denied"), "{ran:?}");
}

#[test]
fn a_master_that_refuses_this_user_is_8() {
    for words in ["status", "abort"] {
        let fake = Fake::new();
        let master = fake.script(|peer| {
            let message = "uid 65534 may not command this master".into();
            peer.say(&Reply::Error { code: Code::NotPermitted, message, report: None });
        });
        fake.ctl(words).end().is(8, "", "error: uid 65534 may not command this master\n");
        master.done();

        // Greeted all the same, before it was looked at.
        let fake = Fake::new();
        let master = fake.script(|peer| {
            peer.say(&Reply::Hello(Hello::ours()));
            peer.say(&Reply::Error { code: Code::NotPermitted, message: "not you".into(), report: None });
        });
        fake.ctl(words).end().is(8, "", "error: not you\n");
        master.done();
    }
}

#[test]
fn another_protocol_is_9_and_both_versions_are_named() {
    let fake = Fake::new();
    let master = fake.script(|peer| {
        assert_eq!(peer.hear(), Request::Hello(Hello::ours()));
        peer.say(&Reply::Hello(Hello { protocol: PROTOCOL + 7, build: "9.9.9".into() }));
        assert_eq!(peer.hear_or_end(), None);
    });
    let ran = fake.ctl("abort").end();
    assert_eq!((ran.code, ran.out.as_str()), (Some(9), ""));
    for part in [PROTOCOL.to_string(), (PROTOCOL + 7).to_string(), "9.9.9".into(), Hello::ours().build] {
        assert!(ran.err.contains(&part), "{part}: {ran:?}");
    }
    master.done();
}

#[test]
fn no_greeting_is_an_error() {
    for words in ["status", "abort"] {
        let fake = Fake::new();
        let master = fake.script(|_| ());
        let ran = fake.ctl(words).end();
        assert_eq!(ran.code, Some(1), "{ran:?}");
        assert!(ran.err.contains("closed the connection"), "{ran:?}");
        master.done();
    }
}

/// Side by side, because each waits for the five seconds that a master has to answer.
#[test]
fn a_master_that_hangs_is_an_error() {
    // Nothing accepts: the backlog takes the connection, as with a stopped master.
    let stopped = ["status", "abort", "phased-restart --timeout 10ms"].map(|words| {
        let fake = Fake::new();
        let listener = UnixListener::bind(fake.path()).unwrap();
        let ctl = fake.ctl(words);
        (fake, listener, ctl)
    });
    // Never greeted, `ctl` goes away, and nothing that acts was asked.
    let silent = Fake::new();
    let never_greets = silent.script(|peer| {
        assert_eq!(peer.hear(), Request::Hello(Hello::ours()));
        assert_eq!(peer.hear_or_end(), None);
    });
    let unasked = silent.ctl("stop");
    // Behind its greeting: what only reads is answered at once; of what acts nobody knows.
    let greeted = [("stats", 1), ("phased-restart --timeout 10ms", 10)].map(|(words, code)| {
        let fake = Fake::new();
        let master = fake.script(|peer| {
            peer.greet();
            peer.hear();
            assert_eq!(peer.hear_or_end(), None);
        });
        let ctl = fake.ctl(words);
        (fake, code, master, ctl)
    });
    for (_fake, _listener, ctl) in stopped {
        let ran = ctl.end();
        assert_eq!(ran.code, Some(1), "{ran:?}");
        assert!(ran.err.contains("did not answer within 5 seconds"), "{ran:?}");
    }
    assert_eq!(unasked.end().code, Some(1));
    never_greets.done();
    for (_fake, code, master, ctl) in greeted {
        let ran = ctl.end();
        assert_eq!(ran.code, Some(code), "{ran:?}");
        master.done();
    }
}

#[test]
fn a_master_that_goes_away_after_the_request_is_10() {
    for words in [
        "stats",
        "abort",
        "scale 2",
        "stop",
        "detach",
        // A master that is replaced says so first.
        "upgrade",
        "rehearse",
        "pause",
        "resume",
        "confirm",
        // Not accepted yet: no rollout that the next master could know.
        "phased-restart",
        "rollback",
        "restart 0",
    ] {
        let fake = Fake::new();
        let master = fake.script(|peer| {
            peer.greet();
            peer.hear();
        });
        let ran = fake.ctl(words).end();
        assert_eq!(ran.code, Some(10), "{words}: {ran:?}");
        assert!(ran.err.contains("the master went away while waiting; outcome unknown"), "{ran:?}");
        master.done();
    }
}

#[test]
fn nonsense_is_an_error_and_no_panic() {
    for bytes in [
        &[0, 0, 0, 0][..],
        &[255, 255, 255, 255],
        &[1, 0, 0, 0, 99],
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        &[2, 0, 0, 0, 1, 1],
    ] {
        let fake = Fake::new();
        let master = fake.script(move |peer| {
            peer.greet();
            peer.hear();
            peer.raw(bytes);
            assert_eq!(peer.hear_or_end(), None);
        });
        let ran = fake.ctl("stats --json").end();
        assert_eq!((ran.code, &ran.json()["error"]["code"]), (Some(1), &json!(1)), "{bytes:?}");
        assert_eq!(ran.err, "");
        master.done();
    }
}

#[test]
fn a_reply_that_comes_in_pieces_is_put_together() {
    let fake = Fake::new();
    let master = fake.script(|peer| {
        peer.greet();
        peer.hear();
        for byte in proto::frame::frame(&Reply::Stats(stats())).unwrap() {
            peer.raw(&[byte]);
        }
    });
    assert_eq!(fake.ctl("status").end().code, Some(0));
    master.done();
}

#[test]
fn a_name_in_the_environment_is_checked_too() {
    let ran = Running::start(ctl().arg("status").env("PHASED_NAME", "../x")).end();
    assert_eq!(ran.code, Some(2), "{ran:?}");
    assert!(ran.err.contains("$PHASED_NAME"), "{ran:?}");
}
