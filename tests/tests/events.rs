//! `ctl events`: what happened, in its order, numbered; followed over the death of a master; and readers that are too slow.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use proto::Happening;
use proto::control::{Fact, Reply, Request};
use serde_json::Value;
use tests::aftermath::kill;
use tests::control::Control;
use tests::lines::Lines;
use tests::{Master, Site, process};

/// What stands on lines of JSON.
fn parsed(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
}

fn kept(master: &Master<'_>) -> Vec<Value> {
    parsed(&master.ctl(&["--json", "events"]).expect(0).stdout)
}

fn number(event: &Value) -> u64 {
    event["number"].as_u64().expect("a number")
}

/// Of each that is of one of these types its type and the values of some keys.
fn told(events: &[Value], types: &[(&str, &[&str])]) -> Vec<String> {
    let wanted = |event: &Value| types.iter().find(|(of, _)| event["type"] == *of).map(|(_, keys)| *keys);
    let shown = |value: &Value| match value {
        Value::String(text) => Path::new(text).file_name().map_or(text.clone(), |name| name.display().to_string()),
        other => other.to_string(),
    };
    let line = |event: &Value, keys: &[&str]| {
        let words = keys.iter().map(|key| shown(&event[*key]));
        [shown(&event["type"])].into_iter().chain(words).collect::<Vec<_>>().join(" ")
    };
    events.iter().filter_map(|event| Some(line(event, wanted(event)?))).collect()
}

/// Waits for an event that a follower has printed.
fn until(site: &Site, lines: &Arc<Lines>, wanted: impl Fn(&Value) -> bool) -> Value {
    let seen = lines.wait(0, site.deadline(), |line| wanted(&parsed(line)[0]));
    let (_, line) = seen.unwrap_or_else(|vain| panic!("{vain:?}:\n{}", lines.text()));
    parsed(&line).remove(0)
}

#[test]
fn a_rollout_from_its_beginning_to_its_end() {
    let site = Site::new();
    let master = site.steady("41", "", 1);
    let before = number(kept(&master).last().expect("one"));
    site.release("42", "");
    master.roll("42").expect(0);
    site.release("43", "exit 7");
    master.roll("43").expect(3);
    let all = kept(&master);
    let numbers: Vec<u64> = all.iter().map(number).collect();
    assert!(numbers.windows(2).all(|pair| pair[1] == pair[0] + 1), "{numbers:?}");
    let after = master.ctl(&["--json", "events", "--after", &before.to_string()]).expect(0);
    let after = parsed(&after.stdout);
    assert_eq!(after, all[all.len() - after.len()..], "what comes behind a number");
    assert_eq!(number(&after[0]), before + 1);
    assert_eq!(
        told(
            &after,
            &[
                ("rollout-began", &["id", "kind", "from", "to", "phase"]),
                ("rollout-ended", &["id", "kind", "from", "to", "phase", "outcome", "code"]),
                ("worker-booting", &["slot", "incarnation", "phase", "release", "role"]),
                ("worker-ready", &["slot", "incarnation", "release", "evidence"]),
                ("worker-draining", &["slot", "incarnation", "release"]),
                ("worker-failed", &["slot", "incarnation", "release", "stage", "exit_status", "signal"]),
                ("known-good", &["release", "phase"]),
            ]
        ),
        [
            "rollout-began 1 phased-restart 41 42 1",
            "worker-booting 0 2 1 42 serve",
            "worker-ready 0 2 42 accepting",
            "worker-draining 0 1 41",
            "known-good 42 1",
            "rollout-ended 1 phased-restart 41 42 1 promoted 0",
            "rollout-began 2 phased-restart 42 43 2",
            "worker-booting 0 3 2 43 serve",
            "worker-failed 0 3 43 ready 7 null",
            "rollout-ended 2 phased-restart 42 43 2 aborted 3",
        ],
        "{after:#?}"
    );
    // When it is gone depends on nobody but the app.
    let gone = told(&after, &[("worker-gone", &["slot", "incarnation"])]);
    assert_eq!(gone, ["worker-gone 0 1", "worker-gone 0 3"]);
    let readme = include_str!("../../README.md");
    let types: BTreeSet<&str> = all.iter().map(|event| event["type"].as_str().expect("a type")).collect();
    let missing: Vec<_> = types.into_iter().filter(|of| !readme.contains(&format!("| `{of}` |"))).collect();
    assert!(missing.is_empty(), "README does not tell of {missing:?}");
    let text = master.ctl(&["events"]).expect(0).stdout;
    let promoted = text.lines().find(|line| line.contains(" promoted ")).expect("it was promoted");
    assert!(promoted.starts_with("20") && promoted[..21].ends_with("Z "), "{promoted}");
}

#[test]
fn a_follower_hears_of_the_next_master_too() {
    let site = Site::new();
    let start = || site.master().workers(1);
    site.release("41", "");
    site.deploy("41");
    let first = start().start();
    first.until_state("steady");
    let follower = first.ctl_start(&["--json", "events", "--follow"]);
    site.release("42", "");
    until_follows(&first, &follower.stdout);
    kill(&first);
    let next = start().start();
    let started = until(&site, &follower.stdout, |event| event["type"] == "master-started");
    assert_eq!(started["pid"].as_u64(), Some(next.pid() as u64));
    next.until_state("steady");
    next.roll("42").expect(0);
    until(&site, &follower.stdout, |event| event["type"] == "rollout-ended" && event["outcome"] == "promoted");
    next.ctl(&["upgrade"]).expect(0);
    until(&site, &follower.stdout, |event| event["type"] == "master-ended" && event["how"] == "upgraded");
    let again = |event: &Value| event["type"] == "master-started" && number(event) > number(&started);
    until(&site, &follower.stdout, again);
    next.ctl(&["stop"]).expect(0);
    let said = follower.end().expect(0);
    let events = parsed(&said.stdout);
    assert_eq!(told(&events[events.len() - 1..], &[("master-ended", &["how"])]), ["master-ended stopped"]);
    let numbers: Vec<u64> = events.iter().map(number).collect();
    assert!(numbers.windows(2).all(|pair| pair[0] < pair[1]), "{numbers:?}");
    // The first master was killed, and may have had more to say; the others have said their last word.
    assert_eq!(events.iter().filter(|event| event["type"] == "missed").count(), 1, "{events:#?}");
}

#[test]
fn a_follower_that_had_nothing_to_hear_yet_hears_all_of_the_next_master() {
    let site = Site::new();
    let start = || site.master().workers(1);
    site.release("41", "");
    site.deploy("41");
    let first = start().start();
    first.until_state("steady");
    let last = number(kept(&first).last().expect("one"));
    let clients = || process::descriptors(first.pid()).values().filter(|what| what.starts_with("socket:")).count();
    let before = clients();
    let follower = first.ctl_start(&["--json", "events", "--follow", "--after", &last.to_string()]);
    while clients() == before {
        std::thread::yield_now();
    }
    kill(&first);
    let next = start().start();
    next.until_state("steady");
    until(&site, &follower.stdout, |event| event["type"] == "state" && event["to"] == "steady");
    next.ctl(&["stop"]).expect(0);
    let events = parsed(&follower.end().expect(0).stdout);
    assert_eq!(
        told(&events[..2], &[("missed", &["count"]), ("master-started", &["name"])]),
        ["missed null", "master-started site"]
    );
}

#[test]
fn a_follower_that_does_not_read_keeps_nobody_from_ending() {
    let site = Site::new();
    let mut master = site.steady("41", "", 1);
    let mut deaf = Control::open(&site.socket()).expect("a connection");
    deaf.send(&Request::Happenings { after: Some(0), follow: true }).expect("sent");
    // As much as it takes without being read, and more.
    let names = ["a", "b"].map(|letter| letter.repeat(240));
    for name in &names {
        site.release(name, "");
    }
    for turn in 0..500 {
        let dir = site.release_dir(&names[turn % 2]).into_os_string().into_encoded_bytes();
        let mut control = Control::open(&site.socket()).expect("a connection");
        control.send(&Request::ReloadDir(Some(dir))).expect("sent");
        assert!(matches!(control.receive(), Ok(Some(Reply::Done { .. }))));
    }
    let said = master.ctl(&["stop"]).expect(0);
    assert_eq!(said.stdout, "master stopped");
    assert_eq!(master.end().code(), Some(0));
    // It was not waited for: what it had not been given is not there.
    let mut last = None;
    while let Ok(Some(Reply::Happened(happening))) = deaf.receive() {
        last = Some(happening.kind);
    }
    assert!(last.is_some_and(|kind| kind != "master-ended"));
}

/// Lets things happen until a follower has heard of one.
fn until_follows(master: &Master<'_>, lines: &Arc<Lines>) {
    while lines.is_empty() {
        master.ctl(&["scale", "+1"]).expect(0);
        master.ctl(&["scale", "-1"]).expect(0);
    }
}

#[test]
fn a_follower_whose_master_stays_away_is_told_so() {
    let site = Site::new();
    let master = site.steady("41", "", 1);
    let follower = master.ctl_start(&["events", "--follow"]);
    until_follows(&master, &follower.stdout);
    // Another one that will not do, so that nobody has to wait for nothing.
    kill(&master);
    let said = {
        std::fs::remove_file(site.socket()).expect("the socket of a dead master");
        let other = std::os::unix::net::UnixListener::bind(site.socket()).expect("a listener");
        let (mut stream, _) = other.accept().expect("the follower");
        let hello = Reply::Hello(proto::Hello { protocol: proto::PROTOCOL + 1, build: "9.9.9".into() });
        std::io::Write::write_all(&mut stream, &proto::frame::frame(&hello).expect("a frame")).expect("written");
        follower.end()
    };
    let said = said.expect(7);
    assert!(said.stderr.contains("the master went away") && said.stderr.contains("9.9.9"), "{}", said.stderr);
}

/// Everything that a master has to say to a client until something is there.
fn heard(control: &mut Control, last: impl Fn(&Happening) -> bool) -> Vec<Happening> {
    let mut all = Vec::new();
    loop {
        match control.receive().expect("an answer") {
            Some(Reply::Happened(happening)) => all.push(*happening),
            other => panic!("not a happening: {other:?}"),
        }
        if last(&all[all.len() - 1]) {
            return all;
        }
    }
}

#[test]
fn whoever_is_too_slow_is_told_how_much_was_missed() {
    let site = Site::new();
    // Long names fill what lies between the two sooner.
    let names = ["a", "b"].map(|letter| letter.repeat(240));
    let master = site.steady("41", "", 1);
    for name in &names {
        site.release(name, "");
    }
    let mut deaf = Control::open(&site.socket()).expect("a connection");
    deaf.send(&Request::Happenings { after: Some(0), follow: true }).expect("sent");
    for turn in 0..1200 {
        let dir = site.release_dir(&names[turn % 2]).into_os_string().into_encoded_bytes();
        let mut control = Control::open(&site.socket()).expect("a connection");
        control.send(&Request::ReloadDir(Some(dir))).expect("sent");
        assert!(matches!(control.receive(), Ok(Some(Reply::Done { .. }))));
    }
    let last = number(kept(&master).last().expect("one"));
    let all = heard(&mut deaf, |happening| happening.number == last);
    assert_eq!(all[0].kind, "master-started");
    let gaps: Vec<usize> = (1..all.len()).filter(|at| all[*at].number != all[at - 1].number + 1).collect();
    let [gap] = gaps[..] else { panic!("{gaps:?}: it was to miss something once") };
    let (before, marker) = (&all[gap - 1], &all[gap]);
    assert_eq!(marker.kind, "missed");
    assert_eq!(marker.facts, [("count".to_string(), Fact::Number(marker.number - before.number))]);
    // And nothing was lost for want of a reader: it follows on.
    let after = master.ctl(&["--json", "events", "--after", &(last - 1).to_string()]).expect(0);
    assert_eq!(parsed(&after.stdout).len(), 1);
}
