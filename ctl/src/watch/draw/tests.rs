use std::time::Duration;

use proto::control::{Confirm, Refused};
use proto::worker::{BootReport, ExitStatus, Stage};
use proto::{Incarnation, Phase, Slot};
use ratatui::Terminal;
use ratatui::backend::TestBackend;

use super::*;
use crate::progress::sample::{self, NOW, now, rollout, stats, worker};
use crate::usage::Usage;
use crate::watch::model::Act;

/// The screen as text, without what is blank at the lines' ends. Nothing on it may drive a terminal.
fn drawn(model: &mut Model, columns: u16, height: u16) -> String {
    let mut terminal = Terminal::new(TestBackend::new(columns, height)).unwrap();
    terminal.draw(|frame| draw(frame, model, now())).unwrap();
    let buffer = terminal.backend().buffer();
    let mut out = String::new();
    for y in 0..height {
        let line: String = (0..columns).map(|x| buffer[(x, y)].symbol()).collect();
        assert!(!line.chars().any(char::is_control), "{line:?}");
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

fn knowing(stats: Stats) -> Model {
    let mut model = Model::default();
    model.learn(stats);
    model
}

/// The same, and what its apps take: 42.0 MiB and half a CPU each.
fn measured(stats: Stats) -> Model {
    let pids: Vec<u32> = stats.worker_status.iter().filter_map(|w| w.app_pid).collect();
    let mut model = knowing(stats);
    for second in [1, 2] {
        let usage = Usage { bytes: 42 << 20, cpu: Duration::from_millis(500 * second), processes: 2 };
        model.measure(Duration::from_secs(second), pids.iter().map(|pid| (*pid, usage)).collect());
    }
    model
}

fn report(output: &str) -> Box<BootReport> {
    Box::new(BootReport {
        slot: Slot(0),
        incarnation: Incarnation(9),
        phase: Phase(1),
        release: sample::path("42"),
        stage: Stage::Ready,
        message: "exited with status 1".into(),
        exit: Some(ExitStatus::Code(1)),
        millis: 830,
        output: output.into(),
        release_gone: false,
    })
}

#[test]
fn a_rollout_in_80_by_24() {
    let mut model = measured(sample::rolling(3));
    model.report = Some(report("Traceback\nModuleNotFoundError: No module named 'flask_login'\n"));
    let wanted = "\
shop  rolling  2/3 workers, 0 old, phase 1, master 999 up 1h00m
release  /app/releases/41
dir      -> /app/releases/42 (the candidate)

SLOT STATE   RELEASE PHASE  PID     UP  BOOT MEM CPU% CRASH LAST EXIT, STATUS
   0 ready   42          1 1203     9s 0.83s 42M 50.0     0
   1 ready   41          0 1005 10m00s 0.83s 42M 50.0     0
   1 booting 42          1 1205     3s     - 42M 50.0     0
   2 ready   41          0 1007 10m00s 0.83s 42M 50.0     0

phased restart 7: 41 -> 42, 12s
[############..........................]  1 of 3
hook > rehearsing > canary > [rolling] > soaking > draining

last failure: 42, slot 0, stage ready: exited with status 1 after 0.83s
| Traceback
| ModuleNotFoundError: No module named 'flask_login'






q quit   r phased-restart   a abort   +/- scale   PgUp/PgDn report
";
    let mut shown = model.stats.take().unwrap();
    shown.booted_workers = 2;
    model.stats = Some(shown);
    assert_eq!(drawn(&mut model, 80, 24), wanted);
    let wide = drawn(&mut model, 200, 50);
    assert!(wide.contains(" CRASH LAST EXIT, STATUS\n") && wide.ends_with("Home back to the top\n"), "{wide}");
}

#[test]
fn going_back_is_said() {
    let workers = vec![worker(0, 101, "draining", "42", 9), worker(0, 103, "booting", "41", 1)];
    let text = drawn(&mut knowing(stats("rolling_back", workers, Some(rollout("rolling_back", 1, 1)))), 80, 24);
    assert!(text.contains("]  1 to put back\n") && text.contains("draining  [rolling back]\n"), "{text}");
    let mut paused = sample::rolling(3);
    paused.rollout.as_mut().unwrap().state = "paused".into();
    let text = drawn(&mut knowing(paused), 80, 24);
    assert!(text.contains("canary > [paused] > soaking"), "{text}");
    assert!(text.starts_with("shop  rolling (paused after 1 of 3 slots, ctl resume goes on)"), "{text}");
}

#[test]
fn a_degraded_master_says_why() {
    let mut waiting = worker(1, 0, "backoff", "41", 5);
    waiting.crashes = 3;
    waiting.last_exit = Some("exited with status 1".into());
    let mut all = stats("degraded", vec![worker(0, 1, "ready", "41", 60), waiting], None);
    all.refused = vec![Refused { release: sample::path("42"), at: NOW - 180_000, report: Some(report("x")) }];
    all.release_gone = true;
    all.state_trouble = Some("cannot write state.json: no space left on device".into());
    let text = drawn(&mut knowing(all), 80, 24);
    for wanted in [
        "shop  degraded  1/2 workers",
        "release  /app/releases/41 (the directory is gone)\n",
        "dir      -> /app/releases/42 (refused 3m00s ago)\n",
        "state    cannot write state.json: no space left on device\n",
        "   1 backoff 41          0    -    5s     -   -    -     3 exited with status 1\n",
        "no rollout yet\n",
    ] {
        assert!(text.contains(wanted), "{wanted} in\n{text}");
    }
}

#[test]
fn what_waits_for_somebody_is_said() {
    let mut all = stats("held", vec![worker(0, 101, "ready", "42", 9)], None);
    all.held = Some(sample::path("42"));
    let text = drawn(&mut knowing(all), 80, 24);
    assert!(text.contains("held     /app/releases/42\n") && text.contains("/app/releases/42 (held)\n"), "{text}");
    let mut all = stats("steady", vec![worker(0, 101, "ready", "42", 9)], None);
    let until = NOW + 250_000;
    all.confirm = Some(Confirm { release: sample::path("42"), back_to: sample::path("41"), until });
    all.dir_target = None;
    let text = drawn(&mut knowing(all), 80, 24);
    assert!(text.contains("confirm  ctl confirm within 4m 10s or it is rolled back to /app/releases/41\n"), "{text}");
    assert!(text.contains("dir      /app/current cannot be resolved\n"), "{text}");
}

#[test]
fn forty_slots_are_scrolled_through() {
    let mut model = knowing(sample::rolling(40));
    model.report = Some(report(&(0..60).map(|n| format!("line {n}\n")).collect::<String>()));
    let text = drawn(&mut model, 80, 24);
    assert!(text.contains("\n   0 ready   42 ") && text.contains("… 0 above, 34 below, of 41 slots\n"), "{text}");
    assert!(text.contains("\n| line 1\n… 0 above, 58 below, of 61 lines\n"), "{text}");
    (model.slots_from, model.report_from) = (20, 30);
    let text = drawn(&mut model, 80, 24);
    assert!(text.contains("\n  19 ready   41 ") && text.contains("… 20 above, 14 below, of 41 slots\n"), "{text}");
    assert!(text.contains("\n| line 29\n"), "{text}");
    (model.slots_from, model.report_from) = (9999, 9999);
    let text = drawn(&mut model, 80, 24);
    assert!(text.contains("\n  39 ready   41 ") && text.contains("… 34 above, 0 below, of 41 slots\n"), "{text}");
    assert!(text.contains("\n| line 59\n… 58 above, 0 below, of 61 lines\n"), "{text}");
    assert_eq!((model.slots_from, model.report_from), (34, 58), "a key back is seen at once");
    let high = drawn(&mut model, 200, 90);
    assert!(high.contains("\n   0 ready   42 ") && high.contains("\n  39 ready   41 "), "{high}");
}

#[test]
fn a_question_an_answer_and_a_master_that_is_away() {
    let mut model = Model::default();
    let last = |model: &mut Model| drawn(model, 80, 24).lines().nth(22).unwrap().to_owned();
    assert!(drawn(&mut model, 80, 24).starts_with("no answer yet\n"));
    model.learn(sample::rolling(3));
    model.meant = Some(sample::path("42"));
    for (act, wanted) in [
        (Act::Up, "one worker more than 3? y/n"),
        (Act::Down, "one worker fewer than 3? y/n"),
        (Act::Abort, "abort the rollout and put back what it replaced? y/n"),
        (Act::Restart, "phased-restart with /app/releases/42? y/n"),
    ] {
        model.about = Some(act);
        assert_eq!(last(&mut model), wanted);
    }
    model.about = None;
    model.said = Some(("scale +1: 4 workers (before: 3)".into(), false));
    assert_eq!(last(&mut model), "scale +1: 4 workers (before: 3)");
    model.lost("/run/shop.sock (no such socket)".into(), now() - Duration::from_secs(3));
    assert_eq!(last(&mut model), "the master is away (3s): /run/shop.sock (no such socket)");
    assert!(drawn(&mut model, 80, 24).contains("   1 booting 42 "), "what it said last is still there");
}

#[test]
fn long_and_hostile_names_are_harmless() {
    let evil = "\x1b[2J\x1b]0;evil\x07\n\t\u{202e}\u{9b}2J\r日本語";
    let mut all = sample::rolling(3);
    (all.name, all.state) = (evil.into(), format!("rolling{evil}"));
    (all.release, all.dir) = (sample::path(&"x".repeat(300)), sample::path(evil));
    all.dir_target = Some(sample::path(&"日本語/".repeat(80)));
    let names = [evil.to_owned(), "x".repeat(300), "日本語".repeat(60)];
    for (worker, name) in all.worker_status.iter_mut().zip(names) {
        worker.release = sample::path(&name);
        worker.last_status = Some(evil.into());
        worker.last_exit = Some(name);
        worker.state = format!("ready{evil}");
    }
    let run = all.rollout.as_mut().unwrap();
    (run.kind, run.state, run.to) = (evil.into(), evil.into(), sample::path(evil));
    let mut model = measured(all);
    model.report = Some(report(&format!("{evil}\n{}\n", "y".repeat(5000))));
    model.said = Some((evil.into(), true));
    for (columns, height) in [(80, 24), (200, 50), (20, 10)] {
        let text = drawn(&mut model, columns, height);
        assert!(!text.contains("evil"), "{text}");
        model.lost(evil.into(), now());
    }
    assert!(drawn(&mut model, 80, 24).contains("xxxxxxxxxxxx… "));
    assert!(drawn(&mut model, 80, 24).contains("release  …xxx"));
}

#[test]
fn no_terminal_is_too_small() {
    let mut model = measured(sample::rolling(12));
    model.report = Some(report("a\nb\nc\n"));
    for about in [None, Some(Act::Restart)] {
        model.about = about;
        for columns in [1, 2, 3, 8, 9, 10, 20, 40, 79, 80, 120] {
            for height in 1..30 {
                drawn(&mut model, columns, height);
            }
        }
    }
    // The keys are never pushed out.
    assert_eq!(drawn(&mut model, 80, 2).lines().count(), 2);
    assert!(drawn(&mut model, 80, 3).ends_with("PgUp/PgDn report\n"));
}

#[test]
fn a_rehearsal_and_the_last_rollout() {
    let mut run = rollout("rehearsing", 0, 0);
    run.kind = "rehearsal".into();
    let workers = vec![worker(0, 1, "ready", "41", 600), worker(0, 9, "booting", "42", 2)];
    let text = drawn(&mut knowing(stats("rolling", workers, Some(run))), 80, 24);
    assert!(text.contains("\nrehearsal 7 of 42, off-traffic, 12s\n") && text.contains("\n   - booting 42 "), "{text}");
    let mut all = stats("steady", vec![worker(0, 1, "ready", "41", 600)], None);
    all.last_rollout = Some(LastRollout {
        id: 6,
        kind: "phased-restart".into(),
        from: sample::path("41"),
        to: sample::path("42"),
        phase: Phase(1),
        outcome: "aborted".into(),
        ended_at: NOW - 61_000,
        millis: 3210,
        report: None,
    });
    let text = drawn(&mut knowing(all), 80, 24);
    assert!(text.contains("\nlast: phased restart 6: 41 -> 42, aborted after 3.21s, 1m01s ago\n"), "{text}");
}

#[test]
fn bytes_are_short() {
    let of = |kib: u64| slots::size(kib << 10);
    for (kib, wanted) in
        [(0, "0K"), (999, "999K"), (2048, "2.0M"), (512 << 10, "512M"), (3 << 20, "3.0G"), (64 << 20, "64G")]
    {
        assert_eq!(of(kib), wanted);
    }
}
