//! `phased-restart`: waiting, streaming, and every way it can end.

use nix::sys::signal::Signal;
use proto::Surge;
use proto::control::{Code, PhasedRestart, Reply, Request};
use proto::worker::ExitStatus;
use serde_json::json;

use crate::fake::{self, Fake, boot_report, last_rollout};

const BEGAN: &str = "phased restart 7 to /app/releases/42";
const REFUSED: &str = "unable to boot with new codebase, using old one (/app/releases/41)";

fn request() -> Request {
    Request::PhasedRestart(PhasedRestart::default())
}

fn accepted() -> Reply {
    Reply::Accepted { message: BEGAN.into(), rollout: Some(7) }
}

fn progress(line: &str) -> Reply {
    Reply::Progress(line.into())
}

fn promoted() -> Reply {
    Reply::Ended {
        code: Code::Done,
        message: "/app/releases/42 serves".into(),
        rollout: last_rollout("promoted", None),
    }
}

fn refused(output: &str) -> Reply {
    let rollout = last_rollout("aborted", Some(boot_report(output)));
    Reply::Ended { code: Code::Aborted, message: REFUSED.into(), rollout }
}

const TRACEBACK: &str = "app.py\", line 3, in <module>\nModuleNotFoundError: No module named 'flask_login'\n";

#[test]
fn progress_is_printed_as_it_comes() {
    let fake = Fake::new();
    let (go, gate) = std::sync::mpsc::channel::<()>();
    let master = fake.script(move |peer| {
        peer.greet();
        assert_eq!(peer.hear(), request());
        peer.say(&accepted());
        peer.say(&progress("slot 0: ready"));
        gate.recv().unwrap();
        peer.say(&promoted());
    });
    let mut ctl = fake.ctl("phased-restart");
    for wanted in [BEGAN, "slot 0: ready"] {
        let line = ctl.line_with_time();
        let (time, event) = line.split_once(' ').unwrap();
        assert!(time.len() == "2026-01-31T12:00:00Z".len() && time.ends_with('Z'), "{line}");
        assert_eq!((event, fake::untimed(&line).as_str()), (&*format!("{wanted}\n"), &*format!("{wanted}\n")));
    }
    go.send(()).unwrap();
    ctl.end().is(0, &format!("{BEGAN}\nslot 0: ready\n/app/releases/42 serves\n"), "");
    master.done();
}

#[test]
fn quiet_prints_nothing_when_all_is_well() {
    let fake = Fake::new();
    let master = fake.answers(request(), vec![accepted(), progress("slot 0: ready"), promoted()]);
    fake.ctl("phased-restart --quiet").end().is(0, "", "");
    master.done();
}

#[test]
fn options_reach_the_master() {
    let fake = Fake::new();
    let wanted = PhasedRestart {
        dir: Some(b"/app/next".to_vec()),
        hold: true,
        surge: Some(Surge::Count(2)),
        max_unavailable: Some(1),
        soak_ms: Some(2500),
        ..Default::default()
    };
    let master = fake.answers(Request::PhasedRestart(wanted), vec![accepted(), promoted()]);
    let words = "phased-restart --dir /app/next --hold --surge 2 --max-unavailable 1 --soak 2500ms --json";
    assert_eq!(fake.ctl(words).end().json()["outcome"], "promoted");
    master.done();

    let fake = Fake::new();
    let wanted = PhasedRestart {
        surge: Some(Surge::Percent(25)),
        no_rehearse: true,
        canary: Some(1),
        canary_soak_ms: Some(30_000),
        confirm_within_ms: Some(600_000),
        ..Default::default()
    };
    let master = fake.answers(Request::PhasedRestart(wanted), vec![accepted(), promoted()]);
    let words = "phased-restart --surge 25% --no-rehearse --canary 1 --canary-soak 30s --confirm-within 10m --json";
    assert_eq!(fake.ctl(words).end().json()["outcome"], "promoted");
    master.done();
}

#[test]
fn a_refused_release_is_reported_in_the_apps_own_words() {
    let fake = Fake::new();
    let master = fake.answers(request(), vec![accepted(), refused(TRACEBACK)]);
    let wanted = "\
error: unable to boot with new codebase, using old one (/app/releases/41)
  /app/releases/42, slot 0, stage ready: exited with status 1 after 0.83s
  | app.py\", line 3, in <module>
  | ModuleNotFoundError: No module named 'flask_login'
phased restart failed
";
    fake.ctl("phased-restart --quiet").end().is(3, "", wanted);
    master.done();
}

#[test]
fn only_the_last_lines_are_shown_and_the_rest_is_counted() {
    let output: String = (1..=25).map(|i| format!("line {i}\n")).collect();
    let fake = Fake::new();
    let master = fake.answers(request(), vec![accepted(), refused(&output)]);
    let ran = fake.ctl("phased-restart").end();
    let quoted: Vec<&str> = ran.err.lines().filter_map(|l| l.strip_prefix("  | ")).collect();
    assert_eq!(quoted.len(), 21, "{ran:?}");
    assert_eq!(quoted[0], "… (5 lines more: ctl report, until another boot fails)");
    assert_eq!((quoted[1], quoted[20]), ("line 6", "line 25"));
    master.done();
}

#[test]
fn an_app_cannot_drive_the_terminal() {
    let fake = Fake::new();
    let output = "\u{1b}[31mred\u{1b}[0m \u{1b}]0;title\u{7}bell\u{7}\ttab\r\n\u{9b}2Jcleared\n";
    let master = fake.answers(request(), vec![accepted(), refused(output)]);
    let ran = fake.ctl("phased-restart").end();
    assert!(ran.err.contains("  | red bell^G\ttab\n  | cleared\n"), "{ran:?}");
    assert!(!ran.err.contains(['\u{1b}', '\u{7}', '\u{9b}', '\r']), "{ran:?}");
    master.done();
}

#[test]
fn a_rollout_without_a_report_still_says_that_it_failed() {
    let fake = Fake::new();
    let ended =
        Reply::Ended { code: Code::Failed, message: "master stopped".into(), rollout: last_rollout("aborted", None) };
    let master = fake.answers(request(), vec![accepted(), ended]);
    fake.ctl("phased-restart --quiet").end().is(1, "", "error: master stopped\nphased restart failed\n");
    master.done();
}

#[test]
fn degraded_is_4() {
    let fake = Fake::new();
    let ended = Reply::Ended {
        code: Code::Degraded,
        message: "degraded".into(),
        rollout: last_rollout("degraded", Some(boot_report(""))),
    };
    let master = fake.answers(request(), vec![accepted(), ended]);
    let ran = fake.ctl("phased-restart --json").end();
    assert_eq!((ran.code, &ran.json()["outcome"]), (Some(4), &json!("degraded")));
    master.done();
}

#[test]
fn json_is_the_rollout_whatever_its_end() {
    let fake = Fake::new();
    let master = fake.answers(request(), vec![accepted(), progress("slot 0: ready"), refused(TRACEBACK)]);
    let ran = fake.ctl("--json phased-restart").end();
    assert_eq!((ran.code, ran.err.as_str()), (Some(3), ""));
    let wanted = concat!(
        r#"{"id":7,"kind":"phased-restart","from":"/app/releases/41","to":"/app/releases/42","phase":3,"#,
        r#""outcome":"aborted","ended_at":"2026-11-22T12:00:00.005Z","seconds":1.25,"#,
        r#""report":{"slot":0,"incarnation":5,"phase":3,"release":"/app/releases/42","stage":"ready","#,
        r#""message":"exited with status 1","exit_status":1,"signal":null,"seconds":0.834,"#,
        r#""output":"app.py\", line 3, in <module>\nModuleNotFoundError: No module named 'flask_login'\n"}}"#,
        "\n"
    );
    assert_eq!(ran.out, wanted);
    master.done();
}

#[test]
fn json_of_a_killed_app_names_the_signal() {
    let fake = Fake::new();
    let mut report = boot_report("");
    report.exit = Some(ExitStatus::Signal(9));
    let rollout = last_rollout("aborted", Some(report));
    let ended = Reply::Ended { code: Code::Aborted, message: REFUSED.into(), rollout };
    let master = fake.answers(request(), vec![accepted(), ended]);
    let json = fake.ctl("--json phased-restart").end().json();
    assert_eq!((&json["report"]["exit_status"], &json["report"]["signal"]), (&json!(null), &json!(9)));
    master.done();
}

#[test]
fn busy_and_unresolvable_are_errors_of_their_own() {
    for (code, message) in [
        (Code::Busy, "phased restart 6 to /app/releases/41 runs"),
        (Code::Failed, "/app/current: no such directory; nothing changed"),
    ] {
        let error = || Reply::Error { code, message: message.into(), report: None };
        let fake = Fake::new();
        let master = fake.answers(request(), vec![error()]);
        fake.ctl("phased-restart").end().is(code as i32, "", &format!("error: {message}\n"));
        master.done();

        let fake = Fake::new();
        let master = fake.answers(request(), vec![error()]);
        let ran = fake.ctl("phased-restart --json").end();
        assert_eq!(ran.json(), json!({"error": {"code": code as i32, "message": message, "report": null}}));
        assert_eq!((ran.code, ran.err.as_str()), (Some(code as i32), ""));
        master.done();
    }
}

#[test]
fn no_wait_returns_when_it_has_begun() {
    for (words, out) in [
        ("phased-restart --no-wait", format!("{BEGAN}\n")),
        ("phased-restart --no-wait --quiet", String::new()),
        ("phased-restart --no-wait --json", "{\"ok\":true,\"rollout\":7}\n".into()),
    ] {
        let fake = Fake::new();
        let master = fake.script(|peer| {
            peer.greet();
            assert_eq!(peer.hear(), request());
            peer.say(&accepted());
            assert_eq!(peer.hear_or_end(), None);
        });
        fake.ctl(words).end().is(0, &out, "");
        master.done();
    }
}

/// Accepts, says one line, and then nothing until `ctl` has gone.
fn begins(fake: &Fake) -> crate::fake::Script {
    fake.script(|peer| {
        peer.greet();
        assert_eq!(peer.hear(), request());
        peer.say(&accepted());
        peer.say(&progress("slot 0: booting"));
        assert_eq!(peer.hear_or_end(), None);
    })
}

#[test]
fn a_timeout_leaves_the_rollout_running() {
    let fake = Fake::new();
    let master = begins(&fake);
    let ran = fake.ctl("phased-restart --timeout 30ms --quiet").end();
    ran.is(6, "", "error: not done after 30ms; the rollout goes on: see `ctl status`\n");
    master.done();

    // It does not even wait for a first line.
    let fake = Fake::new();
    let master = fake.script(|peer| {
        peer.greet();
        assert_eq!(peer.hear(), request());
        peer.say(&accepted());
        assert_eq!(peer.hear_or_end(), None);
    });
    let ran = fake.ctl("phased-restart --timeout 0 --json").end();
    assert_eq!((ran.code, &ran.json()["error"]["code"]), (Some(6), &json!(6)));
    master.done();
}

#[test]
fn an_interrupt_leaves_the_rollout_running() {
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let fake = Fake::new();
        let master = begins(&fake);
        let mut ctl = fake.ctl("phased-restart");
        ctl.line();
        ctl.line();
        ctl.signal(signal);
        let ran = ctl.end();
        assert_eq!(ran.err, "error: interrupted; the rollout goes on: see `ctl status`\n");
        assert_eq!(ran.code, Some(6), "{ran:?}");
        master.done();
    }
}

#[test]
fn a_reader_that_goes_away_changes_no_exit_code() {
    let fake = Fake::new();
    let (go, gate) = std::sync::mpsc::channel::<()>();
    let master = fake.script(move |peer| {
        peer.greet();
        peer.hear();
        peer.say(&accepted());
        gate.recv().unwrap();
        for _ in 0..100 {
            peer.say(&progress("slot 0: ready"));
        }
        peer.say(&refused(TRACEBACK));
    });
    let mut ctl = fake.ctl("phased-restart");
    ctl.line();
    ctl.stop_reading();
    go.send(()).unwrap();
    let ran = ctl.end();
    assert_eq!(ran.code, Some(3), "{ran:?}");
    assert!(ran.err.ends_with("phased restart failed\n"), "{ran:?}");
    master.done();
}

#[test]
fn other_rollouts_say_their_own_name() {
    for (words, request, kind, last) in [
        ("rollback", Request::Rollback, "rollback", "rollback failed\n"),
        ("restart 1", Request::Restart(proto::Slot(1)), "restart", "restart failed\n"),
    ] {
        let fake = Fake::new();
        let mut rollout = last_rollout("aborted", None);
        rollout.kind = kind.into();
        let ended = Reply::Ended { code: Code::Aborted, message: "no".into(), rollout };
        let master = fake.answers(request, vec![accepted(), ended]);
        fake.ctl(&format!("{words} --quiet")).end().is(3, "", &format!("error: no\n{last}"));
        master.done();
    }
}
