//! A master of another protocol: it is heard out where its bytes are sure to be the same, and nowhere else.

use proto::control::{Code, Reply, Request};
use proto::{Hello, PROTOCOL};
use serde_json::json;

use crate::fake::{Fake, Peer, Script, stats};

fn hello() -> Hello {
    Hello { protocol: PROTOCOL - 1, build: "0.0.9".into() }
}

/// Greets, expects `request`, and goes on.
fn other(fake: &Fake, request: Request, then: impl FnOnce(&mut Peer) + Send + 'static) -> Script {
    fake.script(move |peer| {
        peer.greet_as(hello());
        assert_eq!(peer.hear(), request);
        then(peer);
    })
}

fn done(message: &str) -> Reply {
    Reply::Done { message: message.into(), facts: Vec::new() }
}

fn error(code: Code, message: &str) -> Reply {
    Reply::Error { code, message: message.into(), report: None }
}

/// Frames that no `Reply` of ours is: an unknown variant, a known one of other content, one with more in it.
const STRANGE: [&[u8]; 3] = [&[2, 0, 0, 0, 99, 1], &[2, 0, 0, 0, 2, 200], &[3, 0, 0, 0, 1, 7, 7]];

fn mismatch() -> String {
    let build = Hello::ours().build;
    format!(
        "protocol version mismatch: this side speaks {PROTOCOL} (build {build}), the other {} (build 0.0.9); use the \
         binaries of one installation",
        PROTOCOL - 1
    )
}

#[test]
fn it_can_be_stopped() {
    let fake = Fake::new();
    let master = other(&fake, Request::Stop, |peer| {
        peer.say(&Reply::Progress("2 apps left".into()));
        STRANGE.iter().for_each(|bytes| peer.raw(bytes));
        // Nothing of this can be meant.
        peer.say(&Reply::Stats(stats()));
        peer.say(&Reply::Pong);
        peer.say(&done("master stopped"));
    });
    fake.ctl("stop").end().is(0, "2 apps left\nmaster stopped\n", "");
    master.done();
}

#[test]
fn its_refusals_are_its_own() {
    for (words, request) in [("stop", Request::Stop), ("upgrade", Request::Upgrade)] {
        let fake = Fake::new();
        let master = other(&fake, request, |peer| peer.say(&error(Code::Busy, "busy: wait")));
        fake.ctl(words).end().is(5, "", "error: busy: wait\n");
        master.done();
    }
}

#[test]
fn it_can_be_upgraded_to_this_protocol() {
    for strange in [false, true] {
        let fake = Fake::new();
        let master = other(&fake, Request::Upgrade, move |peer| {
            if strange {
                STRANGE.iter().for_each(|bytes| peer.raw(bytes));
                // Nor can frames be told apart from here on.
                peer.raw(&[255; 64]);
            }
        });
        let ctl = fake.ctl("upgrade");
        master.went_away();
        let master = fake.answers(Request::Stats, vec![Reply::Stats(stats())]);
        ctl.end().is(0, "upgraded: master 0.1.0 (pid 99), 2 workers\n", "");
        master.done();
    }
}

/// Nothing tells the next one from the last one: it may be the last one.
#[test]
fn an_upgrade_that_changed_nothing_is_not_believed() {
    let fake = Fake::new();
    let master = other(&fake, Request::Upgrade, |_| ());
    let ctl = fake.ctl("upgrade");
    master.went_away();
    let master = fake.script(|peer| peer.greet_as(hello()));
    let ran = ctl.end();
    assert_eq!(ran.code, Some(10), "{ran:?}");
    assert!(ran.err.contains("one of the same version answers (build 0.0.9): outcome unknown"), "{ran:?}");
    master.done();

    // It said so itself.
    let fake = Fake::new();
    let master = other(&fake, Request::Upgrade, |peer| {
        peer.say(&Reply::Accepted { message: "it takes over".into(), rollout: None });
    });
    let ctl = fake.ctl("upgrade --json");
    master.went_away();
    let master = fake.script(|peer| peer.greet_as(hello()));
    assert_eq!(ctl.end().json()["version"], "0.0.9");
    master.done();
}

/// As masters do that do not know what is asked: they turn the greeting down.
#[test]
fn one_that_is_too_old_to_be_asked_is_9() {
    for (words, heard) in [("stop", true), ("upgrade", true), ("stop", false), ("upgrade", false)] {
        let fake = Fake::new();
        let master = fake.script(move |peer| {
            peer.greet_as(hello());
            if heard {
                peer.hear();
            }
            peer.say(&error(Code::Version, "from its own side"));
        });
        let wanted = format!("{}; this master takes no orders from a ctl of another protocol", mismatch());
        fake.ctl(words).end().is(9, "", &format!("error: {wanted}\n"));
        master.done();
    }
}

#[test]
fn what_cannot_be_understood_is_9() {
    let fake = Fake::new();
    let master = other(&fake, Request::Stop, |peer| STRANGE.iter().for_each(|bytes| peer.raw(bytes)));
    let ran = fake.ctl("stop --json").end();
    let message = format!(
        "{}; the master was asked and went away, and what it said before was not understood: outcome unknown",
        mismatch()
    );
    assert_eq!(ran.json(), json!({"error": {"code": 9, "message": message, "report": null}}));
    assert_eq!(ran.code, Some(9));
    master.done();

    // It said nothing at all.
    let fake = Fake::new();
    let master = other(&fake, Request::Stop, |_| ());
    assert_eq!(fake.ctl("stop").end().code, Some(10));
    master.done();
}

#[test]
fn everything_else_is_not_asked() {
    for words in ["status", "detach", "halt", "abort", "phased-restart", "events"] {
        let fake = Fake::new();
        let master = fake.script(|peer| {
            peer.greet_as(hello());
            assert!(matches!(peer.hear_or_end(), None | Some(Request::Stats)));
        });
        fake.ctl(words).end().is(9, "", &format!("error: {}\n", mismatch()));
        master.done();
    }
}
