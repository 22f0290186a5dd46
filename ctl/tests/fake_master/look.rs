//! `stats`, `status`, `report`, `events`: what only reads.

use proto::control::{Confirm, Refused, Reply, Request, Stats};
use proto::worker::ExitStatus;
use serde_json::{Value, json};

use crate::fake::{Fake, NOON, boot_report, last_rollout, rollout, stats, worker};

pub(crate) fn shown(words: &str, stats: Box<Stats>) -> crate::fake::Ran {
    let fake = Fake::new();
    let master = fake.answers(Request::Stats, vec![Reply::Stats(stats)]);
    let ran = fake.ctl(words).end();
    master.done();
    ran
}

#[test]
fn stats_as_json_has_exactly_these_keys_in_this_order() {
    let mut s = stats();
    s.worker_status[1].last_status = Some("42 requests".into());
    s.worker_status[1].last_exit = Some("exited with status 1".into());
    s.rollout = Some(rollout());
    s.last_rollout = Some(*last_rollout("promoted", None));
    s.held = Some(b"/app/releases/43".to_vec());
    let (release, back_to) = (s.release.clone(), b"/app/releases/41".to_vec());
    s.confirm = Some(Confirm { release, back_to, until: NOON + 250_000 });
    s.refused = vec![
        Refused { release: b"/app/releases/40".to_vec(), at: NOON, report: None },
        Refused { release: b"/app/releases/43".to_vec(), at: NOON + 7, report: Some(boot_report("x\n")) },
    ];
    s.state_dir = Some(b"/var/lib/shop".to_vec());
    s.state_trouble = Some("cannot write".into());
    let wanted = concat!(
        r#"{"name":"shop","version":"0.1.0","pid":99,"started_at":"2026-11-22T12:00:00.000Z","state":"steady","#,
        r#""dir":"/app/current","dir_target":"/app/releases/42","release":"/app/releases/42","release_gone":false,"#,
        r#""phase":3,"workers":2,"booted_workers":2,"old_workers":0,"#,
        r#""worker_status":["#,
        r#"{"index":0,"pid":100,"app_pid":200,"incarnation":1,"phase":3,"release":"/app/releases/42","#,
        r#""state":"ready","booted":true,"started_at":"2026-11-22T12:00:00.000Z","boot_seconds":0.123456,"#,
        r#""evidence":"accepting","crashes":0,"last_checkin":"2026-11-22T12:00:00.001Z","last_status":null,"#,
        r#""last_exit":null},"#,
        r#"{"index":1,"pid":101,"app_pid":201,"incarnation":2,"phase":3,"release":"/app/releases/42","#,
        r#""state":"ready","booted":true,"started_at":"2026-11-22T12:00:00.000Z","boot_seconds":0.123456,"#,
        r#""evidence":"accepting","crashes":0,"last_checkin":"2026-11-22T12:00:00.001Z","#,
        r#""last_status":{"text":"42 requests"},"last_exit":"exited with status 1"}],"#,
        r#""listeners":[{"name":"http","address":"tcp://127.0.0.1:8080"}],"#,
        r#""rollout":{"id":8,"kind":"phased-restart","from":"/app/releases/41","to":"/app/releases/42","phase":4,"#,
        r#""step":1,"of":2,"state":"rolling","started_at":"2026-11-22T12:00:00.000Z"},"#,
        r#""last_rollout":{"id":7,"kind":"phased-restart","from":"/app/releases/41","to":"/app/releases/42","#,
        r#""phase":3,"outcome":"promoted","ended_at":"2026-11-22T12:00:00.005Z","seconds":1.25,"report":null},"#,
        r#""previous":[],"held":"/app/releases/43","confirm":{"release":"/app/releases/42","back_to":"/app/releases/41","#,
        r#""until":"2026-11-22T12:04:10.000Z"},"#,
        r#""refused":[{"release":"/app/releases/40","at":"2026-11-22T12:00:00.000Z","report":null},"#,
        r#"{"release":"/app/releases/43","at":"2026-11-22T12:00:00.007Z","report":{"slot":0,"incarnation":5,"#,
        r#""phase":3,"release":"/app/releases/42","stage":"ready","message":"exited with status 1","#,
        r#""exit_status":1,"signal":null,"seconds":0.834,"output":"x\n"}}],"#,
        r#""state_dir":"/var/lib/shop","state_trouble":"cannot write"}"#,
        "\n"
    );
    shown("stats --json", s).is(0, wanted, "");
}

#[test]
fn stats_as_json_has_null_where_there_is_nothing() {
    let mut s = stats();
    s.dir_target = None;
    let w = &mut s.worker_status[0];
    (w.pid, w.app_pid, w.incarnation, w.boot_us, w.evidence, w.last_checkin) = (None, None, None, None, None, None);
    (w.state, w.booted) = ("backoff".into(), false);
    let json = shown("stats --json", s).json();
    let object = json.as_object().unwrap();
    for key in ["dir_target", "rollout", "last_rollout", "held", "confirm", "state_dir", "state_trouble"] {
        assert_eq!(object.get(key), Some(&Value::Null), "{key}");
    }
    assert_eq!(json["refused"], json!([]));
    for key in ["pid", "app_pid", "incarnation", "boot_seconds", "evidence", "last_checkin"] {
        assert_eq!(json["worker_status"][0][key], Value::Null, "{key}");
    }
}

#[test]
fn paths_that_are_not_text_become_lossy_text() {
    let mut s = stats();
    s.release = b"/app/\xff".to_vec();
    assert_eq!(shown("stats --json", s.clone()).json()["release"], "/app/\u{fffd}");
    assert!(shown("stats", s).out.contains("release  /app/\u{fffd}\n"));
}

#[test]
fn a_clock_that_is_far_off_breaks_nothing() {
    let mut s = stats();
    s.started_at = u64::MAX;
    assert_eq!(shown("stats --json", s.clone()).json()["started_at"], "9999-12-31T23:59:59.999Z");
    assert!(shown("stats", s).out.contains(" up 0s\n"));
}

#[test]
fn stats_is_a_table_with_a_row_for_every_worker() {
    let mut s = stats();
    s.dir_target = Some(b"/app/releases/43".to_vec());
    let mut backoff = worker(10, "/app/releases/41", 2);
    (backoff.pid, backoff.app_pid, backoff.incarnation, backoff.boot_us) = (None, None, None, None);
    (backoff.state, backoff.booted, backoff.crashes) = ("backoff".into(), false, 12);
    backoff.last_exit = Some("killed by SIGKILL".into());
    s.worker_status.push(backoff);
    s.worker_status[0].last_status = Some("42 requests".into());
    s.rollout = Some(rollout());
    s.last_rollout = Some(*last_rollout("aborted", Some(boot_report("x\n"))));
    let shown = without_ages(&shown("stats", s));
    let wanted = "\
shop: steady, 2/2 workers booted, 0 old, phase 3
release  /app/releases/42
dir      /app/current -> /app/releases/43 (not the release)
listen   http=tcp://127.0.0.1:8080
master   pid 99, version 0.1.0, up AGE
rollout  phased restart 8, rolling: /app/releases/41 -> /app/releases/42 (phase 4), 1 of 2 slots, for AGE
last     phased restart 7, aborted: /app/releases/41 -> /app/releases/42 (phase 3), took 1.25s, ended AGE ago
         /app/releases/42, slot 0, stage ready: exited with status 1 after 0.83s

SLOT PID APP PHASE STATE UP BOOT CRASHES RELEASE STATUS
0 100 200 3 ready AGE 0.12s 0 42 42 requests
1 101 201 3 ready AGE 0.12s 0 42
10 - - 2 backoff AGE - 12 41 last: killed by SIGKILL
";
    assert_eq!(shown, wanted);
}

/// The text with every age of a start at [`NOON`] replaced, and the table's padding squeezed.
pub(crate) fn without_ages(ran: &crate::fake::Ran) -> String {
    assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""));
    let up = ran.out.split(" up ").nth(1).unwrap().lines().next().unwrap().to_owned();
    let mut out = String::new();
    let mut table = false;
    for line in ran.out.lines() {
        table |= line.starts_with("SLOT");
        let line = line.replace(&up, "AGE");
        out.push_str(&if table { line.split_whitespace().collect::<Vec<_>>().join(" ") } else { line });
        out.push('\n');
    }
    out
}

#[test]
fn columns_are_aligned() {
    let mut s = stats();
    s.worker_status[1].pid = Some(1_234_567);
    s.worker_status[1].release = "/app/releases/größer".into();
    let ran = shown("stats", s);
    let table: Vec<&str> = ran.out.lines().skip_while(|l| !l.starts_with("SLOT")).collect();
    let column = |line: &str, word: &str| line[..line.find(word).unwrap()].chars().count();
    assert_eq!(table.len(), 3, "{ran:?}");
    assert_eq!(column(table[0], "STATE"), column(table[1], "ready"), "{ran:?}");
    assert_eq!(column(table[0], "RELEASE"), column(table[2], "größer"), "{ran:?}");
    assert_eq!(column(table[1], "100") + 3, column(table[2], "1234567") + 7, "{ran:?}");
}

#[test]
fn a_release_that_is_gone_and_a_dir_that_dangles_are_said() {
    let mut s = stats();
    s.release_gone = true;
    s.dir_target = None;
    let ran = shown("stats", s);
    assert!(ran.out.contains("release  /app/releases/42 (the directory is gone)\n"), "{ran:?}");
    assert!(ran.out.contains("dir      /app/current (cannot be resolved)\n"), "{ran:?}");
}

#[test]
fn status_is_one_line_and_an_exit_code() {
    for (state, code) in [
        ("steady", 0),
        ("held", 0),
        ("degraded", 4),
        ("booting", 5),
        ("rolling", 5),
        ("soaking", 5),
        ("rolling_back", 5),
        ("stopping", 5),
    ] {
        let mut s = stats();
        s.state = state.into();
        let line = format!("shop: {state}, 2/2 workers on /app/releases/42 (phase 3)\n");
        shown("status", s.clone()).is(code, &line, "");
        shown("status --quiet", s.clone()).is(code, "", "");
        let ran = shown("status --json", s);
        let wanted = format!(
            concat!(
                r#"{{"ok":true,"state":"{}","workers":2,"booted_workers":2,"release":"/app/releases/42","phase":3,"#,
                r#""dir_target":"/app/releases/42","rollout":null,"held":null,"confirm":null,"state_trouble":null}}"#,
            ),
            state
        );
        ran.is(code, &format!("{wanted}\n"), "");
    }
}

#[test]
fn status_tells_mixed_releases_apart() {
    let mut s = stats();
    s.state = "rolling".into();
    s.worker_status =
        vec![worker(0, "/app/releases/43", 4), worker(1, "/app/releases/42", 3), worker(2, "/app/releases/42", 3)];
    let mut booting = worker(1, "/app/releases/43", 4);
    (booting.state, booting.booted) = ("booting".into(), false);
    s.worker_status.insert(2, booting);
    let line = "shop: rolling, 2/2 workers on /app/releases/43 (phase 4) ×1 and /app/releases/42 (phase 3) ×2\n";
    shown("status", s.clone()).is(5, line, "");
    s.worker_status.clear();
    s.booted_workers = 0;
    shown("status", s).is(5, "shop: rolling, 0/2 workers on /app/releases/42 (phase 3)\n", "");
}

#[test]
fn report_is_whole() {
    let output: String = (1..=300).map(|i| format!("line {i}\n")).collect();
    let reply = Reply::Report(Some(boot_report(&output)));
    let fake = Fake::new();
    let master = fake.answers(Request::Report, vec![reply.clone()]);
    let head = "/app/releases/42, slot 0, stage ready: exited with status 1 after 0.83s\n\n";
    fake.ctl("report").end().is(0, &format!("{head}{output}"), "");
    master.done();

    let fake = Fake::new();
    let master = fake.answers(Request::Report, vec![reply]);
    let json = fake.ctl("report --json").end().json();
    assert_eq!((&json["ok"], &json["report"]["output"]), (&json!(true), &json!(output)));
    master.done();
}

#[test]
fn no_report_is_said() {
    let fake = Fake::new();
    let master = fake.answers(Request::Report, vec![Reply::Report(None)]);
    fake.ctl("report").end().is(0, "no boot failure so far\n", "");
    master.done();

    let fake = Fake::new();
    let master = fake.answers(Request::Report, vec![Reply::Report(None)]);
    fake.ctl("report --json").end().is(0, "{\"ok\":true,\"report\":null}\n", "");
    master.done();
}

#[test]
fn a_report_without_an_exit_has_neither_status_nor_signal() {
    for (exit, status, signal) in [
        (None, json!(null), json!(null)),
        (Some(ExitStatus::Code(0)), json!(0), json!(null)),
        (Some(ExitStatus::Signal(15)), json!(null), json!(15)),
    ] {
        let mut report = boot_report("");
        report.exit = exit;
        let fake = Fake::new();
        let master = fake.answers(Request::Report, vec![Reply::Report(Some(report))]);
        let json = fake.ctl("report --json").end().json();
        assert_eq!((&json["report"]["exit_status"], &json["report"]["signal"]), (&status, &signal));
        master.done();
    }
}

#[test]
fn events_stream_until_the_master_ends() {
    for (words, out) in [
        ("events --steps", "> spawned 0\n< arm boot 0\n"),
        ("events --steps --json", "{\"event\":\"> spawned 0\"}\n{\"event\":\"< arm boot 0\"}\n"),
        ("events --steps --quiet", "> spawned 0\n< arm boot 0\n"),
    ] {
        let fake = Fake::new();
        let events = vec![Reply::Event("> spawned 0".into()), Reply::Event("< arm boot 0".into())];
        let master = fake.answers(Request::Events, events);
        fake.ctl(words).end().is(0, out, "");
        master.done();
    }
}

#[test]
fn events_end_when_nobody_reads_them() {
    let fake = Fake::new();
    let master = fake.script(|peer| {
        peer.greet();
        assert_eq!(peer.hear(), Request::Events);
        peer.say(&Reply::Event("> spawned 0".into()));
        assert_eq!(peer.hear_or_end(), None);
    });
    let mut ctl = fake.ctl("events --steps");
    assert_eq!(ctl.line(), "> spawned 0\n");
    ctl.stop_reading();
    let ran = ctl.end();
    assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""));
    master.done();
}

#[test]
fn noon_is_noon() {
    let mut s = stats();
    s.started_at = NOON;
    assert_eq!(shown("stats --json", s).json()["started_at"], "2026-11-22T12:00:00.000Z");
}
