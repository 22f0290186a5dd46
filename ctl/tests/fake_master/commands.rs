//! The other commands: what they ask, what they print, what they exit with.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::process::Stdio;

use nix::sys::signal::Signal;
use proto::Slot;
use proto::control::{Code, Fact, Reply, Request, Scale};
use serde_json::json;

use crate::fake::{Fake, Running, ctl, last_rollout};

fn done(message: &str, facts: &[(&str, Fact)]) -> Reply {
    Reply::Done { message: message.into(), facts: facts.iter().map(|(k, v)| ((*k).into(), v.clone())).collect() }
}

#[test]
fn every_command_asks_its_request() {
    for (words, request) in [
        ("abort", Request::Abort),
        ("rollback", Request::Rollback),
        ("scale 4", Request::Scale(Scale::To(4))),
        ("scale +1", Request::Scale(Scale::Up(1))),
        ("scale -1", Request::Scale(Scale::Down(1))),
        ("restart 3", Request::Restart(Slot(3))),
        ("signal hup", Request::Signal(1)),
        ("signal SIGUSR2", Request::Signal(12)),
        ("signal 40", Request::Signal(40)),
        ("reload-dir", Request::ReloadDir(None)),
        ("reload-dir /app/next", Request::ReloadDir(Some(b"/app/next".to_vec()))),
        ("reload-worker-directory", Request::ReloadDir(None)),
        ("rehearse", Request::Rehearse(None)),
        ("rehearse /app/next", Request::Rehearse(Some(b"/app/next".to_vec()))),
        ("pause", Request::Pause),
        ("resume", Request::Resume),
        ("confirm", Request::Confirm),
        ("upgrade", Request::Upgrade),
        ("detach", Request::Detach),
        ("stop", Request::Stop),
        ("halt", Request::Halt),
    ] {
        let fake = Fake::new();
        let master = fake.answers(request, vec![done("it is done", &[])]);
        fake.ctl(words).end().is(0, "it is done\n", "");
        master.done();
    }
}

#[test]
fn facts_stand_beside_ok() {
    let fake = Fake::new();
    let facts = [("old", Fact::Text("/app/releases/41".into())), ("phase", Fact::Number(4)), ("drift", Fact::Null)];
    let master = fake.answers(Request::ReloadDir(None), vec![done("/app/releases/41 -> …", &facts)]);
    let wanted = "{\"ok\":true,\"old\":\"/app/releases/41\",\"phase\":4,\"drift\":null}\n";
    fake.ctl("reload-dir --json").end().is(0, wanted, "");
    master.done();
}

#[test]
fn nothing_to_say_is_no_empty_line() {
    let fake = Fake::new();
    let master = fake.answers(Request::Abort, vec![done("", &[])]);
    fake.ctl("abort").end().is(0, "", "");
    master.done();
}

#[test]
fn refusals_carry_their_code() {
    for (words, request, code) in [
        ("abort", Request::Abort, Code::Failed),
        ("rollback", Request::Rollback, Code::Busy),
        ("scale -1", Request::Scale(Scale::Down(1)), Code::Failed),
        ("restart 9", Request::Restart(Slot(9)), Code::Failed),
        ("rehearse", Request::Rehearse(None), Code::Busy),
        ("pause", Request::Pause, Code::Failed),
        ("resume", Request::Resume, Code::Failed),
        ("confirm", Request::Confirm, Code::Failed),
        ("upgrade", Request::Upgrade, Code::Busy),
        ("detach", Request::Detach, Code::Busy),
    ] {
        let fake = Fake::new();
        let error = Reply::Error { code, message: "no: because".into(), report: None };
        let master = fake.answers(request, vec![error]);
        fake.ctl(words).end().is(code as i32, "", "error: no: because\n");
        master.done();
    }
}

#[test]
fn a_rollback_ends_like_a_rollout() {
    let fake = Fake::new();
    let mut rollout = last_rollout("promoted", None);
    rollout.kind = "rollback".into();
    let ended = Reply::Ended { code: Code::Done, message: "back on /app/releases/41".into(), rollout };
    let accepted = Reply::Accepted { message: "rollback 7".into(), rollout: Some(7) };
    let master = fake.answers(Request::Rollback, vec![accepted.clone(), ended.clone()]);
    fake.ctl("rollback").end().is(0, "rollback 7\nback on /app/releases/41\n", "");
    master.done();

    let fake = Fake::new();
    let master = fake.answers(Request::Rollback, vec![accepted, ended]);
    assert_eq!(fake.ctl("rollback --json").end().json()["kind"], "rollback");
    master.done();
}

#[test]
fn an_interrupted_end_goes_on() {
    for (words, request, goes_on) in [
        ("stop", Request::Stop, "the master goes on stopping"),
        ("detach", Request::Detach, "the master goes on ending, and the workers stay"),
    ] {
        let fake = Fake::new();
        let master = fake.script(move |peer| {
            peer.greet();
            assert_eq!(peer.hear(), request);
            peer.say(&Reply::Progress("2 apps left".into()));
            assert_eq!(peer.hear_or_end(), None);
        });
        let mut ctl = fake.ctl(words);
        ctl.line();
        ctl.signal(Signal::SIGINT);
        ctl.end().is(6, "2 apps left\n", &format!("error: interrupted; {goes_on}: see `ctl status`\n"));
        master.done();
    }
}

#[test]
fn a_relative_directory_is_one_of_the_callers() {
    let fake = Fake::new();
    // The kernel's own name of the folder: a temp dir may be reached through a symlink.
    let cwd = fake.dir().canonicalize().unwrap();
    std::os::unix::fs::symlink("nowhere", cwd.join("current")).unwrap();
    for (word, wanted) in [(".", cwd.clone()), ("current", cwd.join("current")), ("../x", cwd.join("../x"))] {
        let wanted = wanted.as_os_str().as_bytes().to_vec();
        for (name, request) in
            [("reload-dir", Request::ReloadDir(Some(wanted.clone()))), ("rehearse", Request::Rehearse(Some(wanted)))]
        {
            let master = fake.answers(request, vec![done("", &[])]);
            let mut command = ctl();
            command.arg("--socket").arg(fake.path()).args([name, word]).current_dir(&cwd);
            Running::start(&mut command).end().is(0, "", "");
            master.done();
            std::fs::remove_file(fake.path()).unwrap();
        }
    }
}

#[test]
fn a_directory_need_not_be_text() {
    let fake = Fake::new();
    let master = fake.answers(Request::ReloadDir(Some(b"/app/\xff".to_vec())), vec![done("", &[])]);
    let mut command = ctl();
    command.arg("reload-dir").arg(OsStr::from_bytes(b"/app/\xff")).arg("--socket").arg(fake.path());
    Running::start(&mut command).end().is(0, "", "");
    master.done();
}

#[test]
fn wrong_usage_is_2_and_json_under_json() {
    for words in [
        "",
        "bogus",
        "phased-restart --soak 5",
        "phased-restart --surge x",
        "phased-restart extra",
        "phased-restart --surge 101%",
        "phased-restart --hold --confirm-within 5m",
        "phased-restart --confirm-within 0",
        "phased-restart --canary 10%",
        "rehearse one two",
        "pause extra",
        "resume extra",
        "confirm extra",
        "upgrade extra",
        "detach extra",
        "scale",
        "scale x",
        "restart",
        "restart -1",
        "signal NOPE",
        "--name a/b status",
        "--bogus status",
    ] {
        let ran = Running::start(ctl().args(words.split_whitespace())).end();
        assert_eq!((ran.code, ran.out.as_str()), (Some(2), ""), "{words}");
        assert!(!ran.err.is_empty(), "{words}");
        for args in [format!("--json {words}"), format!("{words} --json")] {
            let ran = Running::start(ctl().args(args.split_whitespace())).end();
            let json = ran.json();
            assert_eq!((&json["error"]["code"], &json["error"]["report"]), (&json!(2), &json!(null)), "{args}");
            assert!(!json["error"]["message"].as_str().unwrap().is_empty(), "{args}");
            assert_eq!((ran.code, ran.err.as_str()), (Some(2), ""), "{args}");
        }
    }
}

#[test]
fn help_and_version_are_plain() {
    for words in ["--help", "-h", "help", "--json --help"] {
        let ran = Running::start(ctl().args(words.split_whitespace())).end();
        assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""), "{words}");
        assert!(ran.out.contains("phased-restart") && ran.out.contains("Exit codes"), "{words}");
    }
    let ran = Running::start(ctl().arg("--version")).end();
    ran.is(0, &format!("ctl {}\n", env!("CARGO_PKG_VERSION")), "");
}

/// A ctl that prints onto a full disk.
fn onto_a_full_disk(fake: &Fake, word: &str) -> (Option<i32>, String) {
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let mut command = ctl();
    command.arg("--socket").arg(fake.path()).arg(word).stdin(Stdio::null()).stdout(full);
    let output = command.output().unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn a_full_disk_does_not_undo_what_was_done() {
    let fake = Fake::new();
    let master = fake.answers(Request::Abort, vec![done("it is done", &[])]);
    let (code, said) = onto_a_full_disk(&fake, "abort");
    assert_eq!(code, Some(0));
    assert!(said.contains("writing to standard output"), "{said}");
    master.done();
}

#[test]
fn what_was_asked_for_and_cannot_be_printed_is_an_error() {
    let fake = Fake::new();
    let master = fake.answers(Request::Report, vec![Reply::Report(None)]);
    let (code, said) = onto_a_full_disk(&fake, "report");
    assert_eq!(code, Some(1));
    assert!(said.contains("writing to standard output"), "{said}");
    master.done();
}
