//! `upgrade` and `detach`: the master goes away on purpose, and another one comes, or none.

use nix::sys::signal::Signal;
use proto::Hello;
use proto::control::{Code, Fact, Reply, Request, Stats};
use serde_json::json;

use crate::fake::{Fake, Script, answering, stats};

const TAKES_OVER: &str = "the new program takes over";

fn accepted() -> Reply {
    Reply::Accepted { message: TAKES_OVER.into(), rollout: None }
}

/// A master that is replaced.
fn old(fake: &Fake) -> Script {
    fake.answers(Request::Upgrade, vec![accepted()])
}

fn new_stats() -> Box<Stats> {
    let mut stats = stats();
    (stats.version, stats.pid) = ("0.2.0".into(), 99);
    stats
}

/// The one that comes.
fn new(fake: &Fake) -> Script {
    fake.answers(Request::Stats, vec![Reply::Stats(new_stats())])
}

#[test]
fn the_next_master_says_its_version() {
    let line = "upgraded: master 0.2.0 (pid 99), 2 workers\n";
    for (words, out) in [
        ("upgrade", format!("{TAKES_OVER}\n{line}")),
        ("upgrade --quiet", String::new()),
        ("upgrade --json", "{\"ok\":true,\"version\":\"0.2.0\",\"pid\":99,\"workers\":2}\n".into()),
    ] {
        let fake = Fake::new();
        let master = old(&fake);
        let ctl = fake.ctl(words);
        master.went_away();
        let master = new(&fake);
        ctl.end().is(0, &out, "");
        master.done();
    }
}

#[test]
fn one_worker_is_no_plural() {
    let fake = Fake::new();
    let master = old(&fake);
    let ctl = fake.ctl("upgrade");
    master.went_away();
    let mut one = new_stats();
    one.workers = 1;
    let master = fake.answers(Request::Stats, vec![Reply::Stats(one)]);
    ctl.end().is(0, &format!("{TAKES_OVER}\nupgraded: master 0.2.0 (pid 99), 1 worker\n"), "");
    master.done();
}

/// It takes the socket along: a connection from before it listens is served, too.
#[test]
fn a_master_that_keeps_its_socket_answers_as_well() {
    let fake = Fake::new();
    let master = fake.scripts(vec![
        answering(Request::Upgrade, vec![accepted()]),
        answering(Request::Stats, vec![Reply::Stats(new_stats())]),
    ]);
    assert_eq!(fake.ctl("upgrade --json").end().json()["version"], "0.2.0");
    master.done();
}

/// Closed before the greeting, behind it, and answered with an error: none of these is its last word.
#[test]
fn a_next_master_that_is_not_quite_there_is_tried_again() {
    let fake = Fake::new();
    let master = fake.scripts(vec![
        answering(Request::Upgrade, vec![accepted()]),
        Box::new(|_| ()),
        answering(Request::Stats, vec![]),
        answering(Request::Stats, vec![Reply::Error { code: Code::Failed, message: "not yet".into(), report: None }]),
        answering(Request::Stats, vec![Reply::Stats(new_stats())]),
    ]);
    let wanted = format!("{TAKES_OVER}\nupgraded: master 0.2.0 (pid 99), 2 workers\n");
    fake.ctl("upgrade").end().is(0, &wanted, "");
    master.done();
}

#[test]
fn a_program_that_does_not_prove_itself_changes_nothing() {
    let message = "upgrade: /usr/bin/master did not prove itself (exited with status 2); nothing changed\n\
                   error: unknown option --x";
    let fake = Fake::new();
    let error = || Reply::Error { code: Code::Failed, message: message.into(), report: None };
    let master = fake.answers(Request::Upgrade, vec![error()]);
    fake.ctl("upgrade").end().is(1, "", &format!("error: {message}\n"));
    master.done();

    let fake = Fake::new();
    let master = fake.answers(Request::Upgrade, vec![error()]);
    let ran = fake.ctl("upgrade --json").end();
    assert_eq!(ran.json(), json!({"error": {"code": 1, "message": message, "report": null}}));
    master.done();
}

/// It would wait for half a minute: how that ends is tested where it can be told how long (`ask`).
#[test]
fn while_no_master_comes_it_can_be_interrupted() {
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let fake = Fake::new();
        let master = old(&fake);
        let mut ctl = fake.ctl("upgrade");
        ctl.line();
        master.went_away();
        ctl.signal(signal);
        let wanted =
            "error: interrupted; the master went away, and the next one has not answered yet: see `ctl status`\n";
        ctl.end().is(6, &format!("{TAKES_OVER}\n"), wanted);
    }
}

#[test]
fn an_interrupted_upgrade_goes_on() {
    let fake = Fake::new();
    let (heard, hears) = std::sync::mpsc::channel::<()>();
    let master = fake.script(move |peer| {
        peer.greet();
        assert_eq!(peer.hear(), Request::Upgrade);
        heard.send(()).unwrap();
        assert_eq!(peer.hear_or_end(), None);
    });
    let ctl = fake.ctl("upgrade");
    hears.recv().unwrap();
    ctl.signal(Signal::SIGINT);
    ctl.end().is(6, "", "error: interrupted; the upgrade goes on: see `ctl status`\n");
    master.done();
}

/// It belongs to somebody else by now: nothing more can be learned, and waiting would not help.
#[test]
fn a_next_master_that_refuses_this_user_is_10() {
    let fake = Fake::new();
    let master = fake.scripts(vec![
        answering(Request::Upgrade, vec![accepted()]),
        Box::new(|peer| {
            peer.say(&Reply::Error { code: Code::NotPermitted, message: "not you".into(), report: None });
            peer.hear_or_end();
        }),
    ]);
    let wanted = "error: the master went away to be replaced\nthe next one cannot be asked: not you\n";
    fake.ctl("upgrade").end().is(10, &format!("{TAKES_OVER}\n"), wanted);
    master.done();
}

#[test]
fn a_next_master_of_another_protocol_is_an_upgrade_all_the_same() {
    let pid = std::process::id();
    let rest = format!("it speaks protocol 99 and this ctl {}: use the ctl of its installation", proto::PROTOCOL);
    for (words, out) in [
        ("upgrade", format!("{TAKES_OVER}\nupgraded: master 9.9.9 (pid {pid}); {rest}\n")),
        ("upgrade --json", format!("{{\"ok\":true,\"version\":\"9.9.9\",\"pid\":{pid},\"workers\":null}}\n")),
    ] {
        let fake = Fake::new();
        let master = old(&fake);
        let ctl = fake.ctl(words);
        master.went_away();
        let master = fake.script(|peer| peer.greet_as(Hello { protocol: 99, build: "9.9.9".into() }));
        ctl.end().is(0, &out, "");
        master.done();
    }
}

#[test]
fn detach_says_what_the_master_says() {
    let done = || Reply::Done { message: "detached: the workers serve on".into(), facts: Vec::new() };
    for (words, out) in
        [("detach", "detached: the workers serve on\n"), ("detach --quiet", ""), ("detach --json", "{\"ok\":true}\n")]
    {
        let fake = Fake::new();
        let master = fake.answers(Request::Detach, vec![done()]);
        fake.ctl(words).end().is(0, out, "");
        master.done();
    }
}

#[test]
fn a_master_that_has_nothing_to_replace_may_say_so() {
    let fake = Fake::new();
    let done = Reply::Done { message: "nothing to do".into(), facts: vec![("n".into(), Fact::Number(1))] };
    let master = fake.answers(Request::Upgrade, vec![done]);
    fake.ctl("upgrade --json").end().is(0, "{\"ok\":true,\"n\":1}\n", "");
    master.done();
}
