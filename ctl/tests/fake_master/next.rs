//! A rollout whose master goes away: the next one knows how it ended.

use nix::sys::signal::Signal;
use proto::control::{Code, PhasedRestart, Reply, Request};
use proto::{Hello, Slot};
use serde_json::json;

use crate::fake::{Fake, Script, answering, boot_report, last_rollout};

const BEGAN: &str = "phased restart 7 to /app/releases/42";
const WENT: &str = "the master went away; waiting for the next one";

fn accepted() -> Reply {
    Reply::Accepted { message: BEGAN.into(), rollout: Some(7) }
}

fn progress(line: &str) -> Reply {
    Reply::Progress(line.into())
}

fn restart() -> Request {
    Request::PhasedRestart(PhasedRestart::default())
}

const AWAIT: Request = Request::Await { rollout: 7 };

fn promoted() -> Reply {
    Reply::Ended {
        code: Code::Done,
        message: "promoted /app/releases/42".into(),
        rollout: last_rollout("promoted", None),
    }
}

fn refused() -> Reply {
    let rollout = last_rollout("aborted", Some(boot_report("no flask\n")));
    Reply::Ended { code: Code::Aborted, message: "using old one (/app/releases/41)".into(), rollout }
}

/// A master that begins a rollout and goes away in it.
fn begins(fake: &Fake) -> Script {
    fake.answers(restart(), vec![accepted(), progress("slot 0: ready")])
}

#[test]
fn the_next_master_says_how_it_ended() {
    for (words, request) in
        [("phased-restart", restart()), ("rollback", Request::Rollback), ("restart 1", Request::Restart(Slot(1)))]
    {
        let fake = Fake::new();
        let master = fake.answers(request, vec![accepted(), progress("slot 0: ready")]);
        let mut ctl = fake.ctl(words);
        for line in [BEGAN, "slot 0: ready", WENT] {
            assert_eq!(ctl.line(), format!("{line}\n"));
        }
        master.went_away();
        // What was said already is not said again.
        let master = fake.answers(AWAIT, vec![accepted(), progress("slot 1: ready"), promoted()]);
        let out = format!("{BEGAN}\nslot 0: ready\n{WENT}\nslot 1: ready\npromoted /app/releases/42\n");
        ctl.end().is(0, &out, "");
        master.done();
    }
}

#[test]
fn a_rollout_that_the_next_master_undid_is_3_in_the_apps_own_words() {
    let fake = Fake::new();
    let master = begins(&fake);
    let ctl = fake.ctl("phased-restart --quiet");
    master.went_away();
    let master = fake.answers(AWAIT, vec![refused()]);
    let wanted = "\
error: using old one (/app/releases/41)
  /app/releases/42, slot 0, stage ready: exited with status 1 after 0.83s
  | no flask
phased restart failed
";
    ctl.end().is(3, "", wanted);
    master.done();

    let fake = Fake::new();
    let master = begins(&fake);
    let ctl = fake.ctl("phased-restart --json");
    master.went_away();
    let master = fake.answers(AWAIT, vec![accepted(), progress("slot 0: old one ready"), refused()]);
    let ran = ctl.end();
    assert_eq!((ran.code, &ran.json()["outcome"]), (Some(3), &json!("aborted")));
    master.done();
}

#[test]
fn masters_may_go_away_one_after_the_other() {
    let fake = Fake::new();
    let master = fake.scripts(vec![
        answering(restart(), vec![accepted()]),
        // These say nothing about the rollout: still the same wait.
        Box::new(|_| ()),
        answering(AWAIT, vec![]),
        answering(AWAIT, vec![progress("slot 0: old one ready")]),
        answering(AWAIT, vec![promoted()]),
    ]);
    let out = format!("{BEGAN}\n{WENT}\nslot 0: old one ready\n{WENT}\npromoted /app/releases/42\n");
    fake.ctl("phased-restart").end().is(0, &out, "");
    master.done();
}

#[test]
fn a_next_master_that_does_not_know_it_is_10() {
    let fake = Fake::new();
    let master = begins(&fake);
    let ctl = fake.ctl("phased-restart --quiet");
    master.went_away();
    let error = Reply::Error { code: Code::Failed, message: "rollout 7 does not run".into(), report: None };
    let master = fake.answers(AWAIT, vec![error]);
    let wanted = format!(
        "error: the master went away while waiting; outcome unknown ({BEGAN})\nthe next one says: rollout 7 does not \
         run\nsee `ctl status` for what serves\n"
    );
    ctl.end().is(10, "", &wanted);
    master.done();
}

#[test]
fn a_next_master_of_another_protocol_is_10() {
    let fake = Fake::new();
    let master = begins(&fake);
    let ctl = fake.ctl("phased-restart --json");
    master.went_away();
    let master = fake.script(|peer| {
        peer.greet_as(Hello { protocol: 99, build: "9.9.9".into() });
        peer.hear_or_end();
    });
    let ran = ctl.end();
    assert_eq!((ran.code, &ran.json()["error"]["code"]), (Some(10), &json!(10)));
    let message = &ran.json()["error"]["message"];
    let message = message.as_str().unwrap();
    assert!(message.contains(BEGAN) && message.contains("cannot be asked: protocol version mismatch"), "{message}");
    master.done();
}

/// The next master's own end, once it has taken the wait over, is what it was with the first.
#[test]
fn a_next_master_that_is_stopped_says_so() {
    let fake = Fake::new();
    let master = begins(&fake);
    let ctl = fake.ctl("phased-restart --quiet");
    master.went_away();
    let error = Reply::Error { code: Code::Failed, message: "master stopped".into(), report: None };
    let master = fake.answers(AWAIT, vec![accepted(), error]);
    ctl.end().is(1, "", "error: master stopped\n");
    master.done();
}

#[test]
fn a_master_that_is_stopped_on_purpose_is_not_waited_for() {
    let fake = Fake::new();
    let error = Reply::Error { code: Code::Failed, message: "master stopped".into(), report: None };
    let master = fake.answers(restart(), vec![accepted(), error]);
    fake.ctl("phased-restart").end().is(1, &format!("{BEGAN}\n"), "error: master stopped\n");
    master.done();
}

#[test]
fn a_timeout_counts_from_the_beginning() {
    let fake = Fake::new();
    let master = begins(&fake);
    let ran = fake.ctl("phased-restart --timeout 300ms --quiet").end();
    let wanted = "\
error: not done after 300ms; the master went away, and the next one has not answered yet: see `ctl status`
";
    ran.is(6, "", wanted);
    master.done();
}

#[test]
fn while_no_master_comes_it_can_be_interrupted() {
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let fake = Fake::new();
        let master = begins(&fake);
        let mut ctl = fake.ctl("phased-restart");
        while ctl.line() != format!("{WENT}\n") {}
        ctl.signal(signal);
        let wanted =
            "error: interrupted; the master went away, and the next one has not answered yet: see `ctl status`\n";
        ctl.end().is(6, &format!("{BEGAN}\nslot 0: ready\n{WENT}\n"), wanted);
        master.done();
    }
}

/// It has heard the question: there is a master again that goes on with it.
#[test]
fn an_interrupt_leaves_the_rollout_to_the_next_master() {
    let fake = Fake::new();
    let master = begins(&fake);
    let mut ctl = fake.ctl("phased-restart");
    while ctl.line() != format!("{WENT}\n") {}
    master.went_away();
    let master = fake.script(|peer| {
        peer.greet();
        assert_eq!(peer.hear(), AWAIT);
        peer.say(&progress("slot 0: old one booting"));
        assert_eq!(peer.hear_or_end(), None);
    });
    assert_eq!(ctl.line(), "slot 0: old one booting\n");
    ctl.signal(Signal::SIGINT);
    let ran = ctl.end();
    assert_eq!((ran.code, ran.err.as_str()), (Some(6), "error: interrupted; the rollout goes on: see `ctl status`\n"));
    master.done();
}

#[test]
fn without_a_number_there_is_nothing_to_ask_for() {
    let fake = Fake::new();
    let accepted = Reply::Accepted { message: BEGAN.into(), rollout: None };
    let master = fake.answers(restart(), vec![accepted]);
    let ran = fake.ctl("phased-restart").end();
    assert_eq!(ran.code, Some(10), "{ran:?}");
    assert!(ran.err.starts_with("error: the master went away while waiting; outcome unknown"), "{ran:?}");
    master.done();
}
