//! `rehearse`, `pause`, `resume`, `confirm` and `phased-restart --if-new`: waiting, and every way they can end.

use nix::sys::signal::Signal;
use proto::control::{Code, Fact, PhasedRestart, Reply, Request};
use proto::worker::Stage;
use serde_json::json;

use crate::fake::{Fake, Script, boot_report, last_rollout};

const REHEARSING: &str = "rehearsal 8 of /app/releases/42";
const UNCHANGED: &str = "the rehearsal failed; nothing was changed";

fn accepted() -> Reply {
    Reply::Accepted { message: REHEARSING.into(), rollout: Some(8) }
}

fn progress(line: &str) -> Reply {
    Reply::Progress(line.into())
}

fn done(message: &str, facts: &[(&str, Fact)]) -> Reply {
    Reply::Done { message: message.into(), facts: facts.iter().map(|(k, v)| ((*k).into(), v.clone())).collect() }
}

fn passed() -> Reply {
    let facts = [("release", Fact::Text("/app/releases/42".into())), ("seconds", Fact::Number(2))];
    done("/app/releases/42 passed", &facts)
}

/// Its check was answered with 500.
fn failed() -> Reply {
    let mut report = boot_report("HTTP/1.1 500 Internal Server Error\n\nno such table: users\n");
    (report.stage, report.exit) = (Stage::Check, None);
    report.message = "GET /health was answered with 500".into();
    Reply::Error { code: Code::Aborted, message: UNCHANGED.into(), report: Some(report) }
}

/// Hears `request`, says `replies`, and then nothing until `ctl` has gone.
fn stays(fake: &Fake, request: Request, replies: Vec<Reply>) -> Script {
    fake.script(move |peer| {
        peer.greet();
        assert_eq!(peer.hear(), request);
        for reply in &replies {
            peer.say(reply);
        }
        assert_eq!(peer.hear_or_end(), None);
    })
}

#[test]
fn a_rehearsal_that_passes_is_0() {
    for (words, out) in [
        ("rehearse", format!("{REHEARSING}\nready after 0.83s\n/app/releases/42 passed\n")),
        ("rehearse --quiet", String::new()),
        ("rehearse --json", "{\"ok\":true,\"release\":\"/app/releases/42\",\"seconds\":2}\n".into()),
    ] {
        let fake = Fake::new();
        let replies = vec![accepted(), progress("ready after 0.83s"), passed()];
        let master = fake.answers(Request::Rehearse(None), replies);
        fake.ctl(words).end().is(0, &out, "");
        master.done();
    }
}

#[test]
fn a_rehearsal_is_waited_for() {
    let fake = Fake::new();
    let (go, gate) = std::sync::mpsc::channel::<()>();
    let master = fake.script(move |peer| {
        peer.greet();
        assert_eq!(peer.hear(), Request::Rehearse(None));
        peer.say(&accepted());
        peer.say(&progress("ready after 0.83s"));
        gate.recv().unwrap();
        peer.say(&passed());
    });
    let mut ctl = fake.ctl("rehearse");
    assert_eq!(ctl.line(), format!("{REHEARSING}\n"));
    assert_eq!(ctl.line(), "ready after 0.83s\n");
    go.send(()).unwrap();
    assert_eq!(ctl.end().code, Some(0));
    master.done();
}

#[test]
fn a_rehearsal_that_fails_is_3_in_the_apps_own_words() {
    let fake = Fake::new();
    let master = fake.answers(Request::Rehearse(None), vec![accepted(), failed()]);
    let wanted = "\
error: the rehearsal failed; nothing was changed
  /app/releases/42, slot 0, stage check: GET /health was answered with 500 (after 0.83s)
  | HTTP/1.1 500 Internal Server Error
  |
  | no such table: users
";
    fake.ctl("rehearse --quiet").end().is(3, "", wanted);
    master.done();

    let fake = Fake::new();
    let master = fake.answers(Request::Rehearse(None), vec![accepted(), failed()]);
    let ran = fake.ctl("rehearse --json").end();
    assert_eq!((ran.code, ran.err.as_str()), (Some(3), ""));
    let error = &ran.json()["error"];
    assert_eq!((&error["code"], &error["message"]), (&json!(3), &json!(UNCHANGED)));
    assert_eq!((&error["report"]["stage"], &error["report"]["exit_status"]), (&json!("check"), &json!(null)));
    master.done();
}

#[test]
fn an_interrupted_rehearsal_goes_on() {
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let fake = Fake::new();
        let master = stays(&fake, Request::Rehearse(None), vec![accepted()]);
        let mut ctl = fake.ctl("rehearse");
        ctl.line();
        ctl.signal(signal);
        let wanted = "error: interrupted; the rehearsal goes on: see `ctl status`\n";
        ctl.end().is(6, &format!("{REHEARSING}\n"), wanted);
        master.done();
    }
}

#[test]
fn a_master_that_dies_while_it_is_waited_for_is_10() {
    for (words, request) in [("rehearse", Request::Rehearse(None)), ("pause", Request::Pause)] {
        for json in [false, true] {
            let fake = Fake::new();
            let master = fake.answers(request.clone(), vec![accepted(), progress("slot 0: booting")]);
            let ran = fake.ctl(&format!("{words}{}", if json { " --json" } else { "" })).end();
            assert_eq!(ran.code, Some(10), "{words}: {ran:?}");
            if json {
                assert_eq!(ran.json()["error"]["code"], 10, "{words}");
            } else {
                assert!(ran.err.starts_with("error: the master went away while waiting"), "{words}: {ran:?}");
            }
            master.done();
        }
    }
}

#[test]
fn a_pause_returns_when_the_slots_under_way_are_through() {
    let fake = Fake::new();
    let (go, gate) = std::sync::mpsc::channel::<()>();
    let master = fake.script(move |peer| {
        peer.greet();
        assert_eq!(peer.hear(), Request::Pause);
        peer.say(&progress("slot 0: ready"));
        gate.recv().unwrap();
        peer.say(&done("paused after 1 of 4 slots", &[]));
    });
    let mut ctl = fake.ctl("pause");
    assert_eq!(ctl.line(), "slot 0: ready\n");
    go.send(()).unwrap();
    ctl.end().is(0, "slot 0: ready\npaused after 1 of 4 slots\n", "");
    master.done();
}

#[test]
fn a_pause_as_json_is_ok() {
    let fake = Fake::new();
    let facts = [("step", Fact::Number(1)), ("of", Fact::Number(4))];
    let master = fake.answers(Request::Pause, vec![done("paused after 1 of 4 slots", &facts)]);
    fake.ctl("pause --json").end().is(0, "{\"ok\":true,\"step\":1,\"of\":4}\n", "");
    master.done();
}

#[test]
fn a_rollout_that_fails_before_it_stands_still_ends_the_pause() {
    let fake = Fake::new();
    let message = "not paused: the rollout is being undone";
    let error = Reply::Error { code: Code::Failed, message: message.into(), report: None };
    let master = fake.answers(Request::Pause, vec![progress("slot 0: did not boot"), error]);
    fake.ctl("pause --quiet").end().is(1, "", &format!("error: {message}\n"));
    master.done();
}

#[test]
fn an_interrupted_pause_stays_asked_for() {
    for json in [false, true] {
        let fake = Fake::new();
        let (heard, hears) = std::sync::mpsc::channel::<()>();
        let master = fake.script(move |peer| {
            peer.greet();
            assert_eq!(peer.hear(), Request::Pause);
            heard.send(()).unwrap();
            assert_eq!(peer.hear_or_end(), None);
        });
        let ctl = fake.ctl(if json { "pause --json" } else { "pause" });
        // It catches signals before it asks.
        hears.recv().unwrap();
        ctl.signal(Signal::SIGINT);
        let ran = ctl.end();
        let message = "interrupted; the pause stays asked for (ctl resume takes it back): see `ctl status`";
        if json {
            assert_eq!(ran.json(), json!({"error": {"code": 6, "message": message, "report": null}}));
            assert_eq!((ran.code, ran.err.as_str()), (Some(6), ""));
        } else {
            ran.is(6, "", &format!("error: {message}\n"));
        }
        master.done();
    }
}

#[test]
fn a_confirm_says_what_it_confirmed() {
    for (words, out) in [
        ("confirm", "/app/releases/42 stays\n"),
        ("confirm --json", "{\"ok\":true,\"release\":\"/app/releases/42\"}\n"),
    ] {
        let fake = Fake::new();
        let facts = [("release", Fact::Text("/app/releases/42".into()))];
        let master = fake.answers(Request::Confirm, vec![done("/app/releases/42 stays", &facts)]);
        fake.ctl(words).end().is(0, out, "");
        master.done();
    }
}

fn if_new() -> Request {
    Request::PhasedRestart(PhasedRestart { if_new: true, ..Default::default() })
}

#[test]
fn nothing_new_is_done_at_once() {
    let nothing = || done("nothing new: /app/releases/42 runs", &[("release", Fact::Text("/app/releases/42".into()))]);
    for (words, out) in [
        ("phased-restart --if-new", "nothing new: /app/releases/42 runs\n"),
        ("phased-restart --if-new --no-wait", "nothing new: /app/releases/42 runs\n"),
        ("phased-restart --if-new --quiet", ""),
        ("phased-restart --if-new --json", "{\"ok\":true,\"release\":\"/app/releases/42\"}\n"),
    ] {
        let fake = Fake::new();
        let master = fake.answers(if_new(), vec![nothing()]);
        fake.ctl(words).end().is(0, out, "");
        master.done();
    }
}

#[test]
fn something_new_is_a_rollout() {
    let fake = Fake::new();
    let ended = Reply::Ended {
        code: Code::Done,
        message: "promoted /app/releases/42".into(),
        rollout: last_rollout("promoted", None),
    };
    let master = fake.answers(if_new(), vec![accepted(), ended]);
    assert_eq!(fake.ctl("phased-restart --if-new --json").end().json()["outcome"], "promoted");
    master.done();
}

#[test]
fn what_was_refused_before_is_3_with_the_old_report() {
    let message = "/app/releases/42 was refused before; without --if-new it is tried again";
    let refused = || Reply::Error {
        code: Code::Aborted,
        message: message.into(),
        report: Some(boot_report("ModuleNotFoundError: No module named 'flask_login'\n")),
    };
    let wanted = format!(
        "\
error: {message}
  /app/releases/42, slot 0, stage ready: exited with status 1 after 0.83s
  | ModuleNotFoundError: No module named 'flask_login'
"
    );
    for words in ["phased-restart --if-new", "phased-restart --if-new --no-wait"] {
        let fake = Fake::new();
        let master = fake.answers(if_new(), vec![refused()]);
        fake.ctl(words).end().is(3, "", &wanted);
        master.done();
    }
    let fake = Fake::new();
    let master = fake.answers(if_new(), vec![refused()]);
    let ran = fake.ctl("phased-restart --if-new --json").end();
    let error = &ran.json()["error"];
    assert_eq!((ran.code, &error["code"], &error["message"]), (Some(3), &json!(3), &json!(message)));
    assert_eq!(error["report"]["exit_status"], 1);
    master.done();
}

#[test]
fn a_person_is_told_up_front_that_it_was_refused_and_it_is_tried() {
    let fake = Fake::new();
    let told = "/app/releases/42 was refused before:\n  stage ready: exited with status 1 after 0.83s";
    let ended = Reply::Ended {
        code: Code::Done,
        message: "promoted /app/releases/42".into(),
        rollout: last_rollout("promoted", None),
    };
    let request = Request::PhasedRestart(PhasedRestart::default());
    let master = fake.answers(request, vec![accepted(), progress(told), ended]);
    // One line an event, as a log wants it.
    let told = told.replace("\n ", "");
    fake.ctl("phased-restart").end().is(0, &format!("{REHEARSING}\n{told}\npromoted /app/releases/42\n"), "");
    master.done();
}
