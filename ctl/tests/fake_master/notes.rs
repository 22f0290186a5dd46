//! What `stats` and `status` say beside the figures: what a rollout is about, what waits for somebody, what was refused.

use proto::Incarnation;
use proto::control::{Confirm, Refused, Stats};
use proto::worker::Stage;

use crate::fake::{NOON, boot_report, rollout, stats, worker};
use crate::look::{shown, without_ages};

/// Beyond every clock: it is no time ago.
const NOW: u64 = u64::MAX;

fn refused(release: &str, at: u64, reported: bool) -> Refused {
    Refused { release: release.into(), at, report: reported.then(|| boot_report("x\n")) }
}

/// The lines above the table that begin with `label`, with those that belong to them.
fn lines(s: Box<Stats>, label: &str) -> Vec<String> {
    let text = without_ages(&shown("stats", s));
    let block = text.lines().take_while(|l| !l.is_empty()).skip_while(|l| !l.starts_with(label));
    let belongs = |(i, line): &(usize, &str)| *i == 0 || line.starts_with("  ");
    block.enumerate().take_while(belongs).map(|(_, line)| line.into()).collect()
}

/// The line of `status`.
fn line(s: Box<Stats>) -> String {
    let ran = shown("status", s);
    assert_eq!((ran.out.lines().count(), ran.err.as_str()), (1, ""), "{ran:?}");
    ran.out.trim_end().into()
}

const STEADY: &str = "shop: steady, 2/2 workers on /app/releases/42 (phase 3)";

#[test]
fn a_pending_confirm_is_said_with_the_time_left() {
    let mut s = stats();
    let (release, back_to) = (s.release.clone(), b"/app/releases/41".to_vec());
    s.confirm = Some(Confirm { release, back_to, until: 0 });
    let rest = "within 0s or it is rolled back to /app/releases/41";
    assert_eq!(line(s.clone()), format!("{STEADY}; confirm {rest}"));
    let ran = shown("stats", s);
    assert!(ran.out.contains(&format!("\nconfirm  /app/releases/42 {rest} (ctl confirm)\n")), "{ran:?}");
}

#[test]
fn what_dir_names_is_said_when_it_is_something_else() {
    let mut s = stats();
    s.dir_target = Some(b"/app/releases/43".to_vec());
    assert_eq!(line(s.clone()), format!("{STEADY}; dir names /app/releases/43"));
    assert_eq!(lines(s.clone(), "dir"), ["dir      /app/current -> /app/releases/43 (not the release)"]);
    s.dir_target = None;
    assert_eq!(line(s.clone()), format!("{STEADY}; dir cannot be resolved"));
    s.release_gone = true;
    let gone = "; the directory /app/releases/42 is gone; dir cannot be resolved";
    assert_eq!(line(s), format!("{STEADY}{gone}"));
}

#[test]
fn a_refused_release_that_dir_names_is_said_with_its_reason() {
    let mut s = stats();
    s.dir_target = Some(b"/app/releases/43".to_vec());
    s.refused = vec![
        refused("/app/releases/39", NOON, true),
        refused("/app/releases/43", NOW, true),
        refused("/app/releases/40", NOON, false),
    ];
    let why = "stage ready: exited with status 1 after 0.83s";
    assert_eq!(line(s.clone()), format!("{STEADY}; dir names /app/releases/43, refused 0s ago ({why})"));
    s.refused[1].at = NOON;
    let wanted = ["dir      /app/current -> /app/releases/43 (refused AGE ago)".into(), format!("         {why}")];
    assert_eq!(lines(s.clone(), "dir"), wanted);
    assert_eq!(lines(s.clone(), "refused"), ["refused  /app/releases/40, /app/releases/39"]);

    let report = s.refused[1].report.as_mut().unwrap();
    (report.stage, report.exit) = (Stage::Check, None);
    report.message = "GET /health was answered with 500:\n\u{1b}[31mno\ttable".into();
    let why = "stage check: GET /health was answered with 500: no table (after 0.83s)";
    assert_eq!(lines(s.clone(), "dir")[1], format!("         {why}"));
    assert!(line(s).ends_with(&format!("({why})")));
}

#[test]
fn a_release_that_was_refused_for_no_failure_says_so() {
    let mut s = stats();
    s.dir_target = Some(b"/app/releases/43".to_vec());
    s.refused = vec![refused("/app/releases/43", NOW, false)];
    let why = "no boot failure: it was rolled back, interrupted or never confirmed";
    assert_eq!(line(s.clone()), format!("{STEADY}; dir names /app/releases/43, refused 0s ago ({why})"));
    assert_eq!(lines(s, "dir")[1], format!("         {why}"));
}

#[test]
fn many_refused_releases_are_counted() {
    let mut s = stats();
    s.refused = (1..=7).map(|n| refused(&format!("/r/{n}"), NOON, false)).collect();
    assert_eq!(line(s.clone()), STEADY);
    assert_eq!(lines(s, "refused"), ["refused  /r/7, /r/6, /r/5, /r/4, /r/3 and 2 more"]);
}

#[test]
fn a_held_release_is_named() {
    let mut s = stats();
    (s.state, s.held, s.dir_target) =
        ("held".into(), Some(b"/app/releases/43".to_vec()), Some(b"/app/releases/43".to_vec()));
    s.worker_status = vec![worker(0, "/app/releases/43", 4), worker(1, "/app/releases/43", 4)];
    let wanted = "shop: held, 2/2 workers on /app/releases/43 (phase 4); respawns use /app/releases/42";
    assert_eq!(line(s.clone()), wanted);
    let wanted = ["held     /app/releases/43 (ctl reload-dir promotes it, ctl rollback ends it)"];
    assert_eq!(lines(s.clone(), "held"), wanted);
    assert_eq!(lines(s, "dir"), ["dir      /app/current -> /app/releases/43 (held)"]);
}

#[test]
fn what_a_rollout_is_about_is_said() {
    for (state, detail, words) in [
        ("rolling", "rolling", ""),
        ("rolling", "hook", " (hook)"),
        ("rolling", "rehearsing", " (rehearsing)"),
        ("rolling", "canary", " (canary)"),
        ("rolling", "draining", " (draining)"),
        ("rolling", "paused", " (paused after 1 of 2 slots, ctl resume goes on)"),
        ("soaking", "soaking", ""),
        ("rolling_back", "rolling_back", ""),
    ] {
        let mut s = stats();
        (s.state, s.dir_target) = (state.into(), Some(b"/app/releases/43".to_vec()));
        let mut run = rollout();
        (run.state, run.from, run.to) = (detail.into(), b"/app/releases/42".to_vec(), b"/app/releases/43".to_vec());
        s.rollout = Some(run);
        assert_eq!(line(s.clone()), format!("shop: {state}{words}, 2/2 workers on /app/releases/42 (phase 3)"));
        let hint = if detail == "paused" { " (ctl resume goes on, ctl abort undoes it)" } else { "" };
        let wanted = format!(
            "rollout  phased restart 8, {detail}: /app/releases/42 -> /app/releases/43 (phase 4), 1 of 2 slots, for \
             AGE{hint}"
        );
        assert_eq!(lines(s.clone(), "rollout"), [wanted]);
        assert_eq!(lines(s.clone(), "dir"), ["dir      /app/current -> /app/releases/43 (the candidate)"]);
        s.refused = vec![refused("/app/releases/43", NOON, true)];
        let again = "dir      /app/current -> /app/releases/43 (the candidate; refused AGE ago)";
        assert_eq!(lines(s, "dir")[0], again);
    }
}

/// Rolling is the state while a rehearsal runs, too: nobody may think that slots are being replaced.
#[test]
fn a_rehearsal_is_none_of_the_slots() {
    let mut s = stats();
    (s.state, s.dir_target) = ("rolling".into(), Some(b"/app/releases/43".to_vec()));
    let mut run = rollout();
    (run.kind, run.state, run.step, run.of) = ("rehearsal".into(), "rehearsing".into(), 0, 0);
    (run.from, run.to) = (b"/app/releases/42".to_vec(), b"/app/releases/43".to_vec());
    s.rollout = Some(run);
    let mut aside = worker(0, "/app/releases/43", 4);
    (aside.pid, aside.app_pid, aside.incarnation) = (Some(300), Some(400), Some(Incarnation(9)));
    (aside.state, aside.booted, aside.boot_us, aside.evidence) = ("booting".into(), false, None, None);
    (aside.last_status, aside.last_exit) = (Some("warming up".into()), Some("killed by SIGKILL".into()));
    s.worker_status.insert(1, aside);
    s.worker_status[0].last_exit = Some("killed by SIGKILL".into());

    let wanted = "shop: rolling (rehearsing /app/releases/43), 2/2 workers on /app/releases/42 (phase 3)";
    assert_eq!(line(s.clone()), wanted);
    assert_eq!(lines(s.clone(), "dir"), ["dir      /app/current -> /app/releases/43 (rehearsed now)"]);
    let wanted = ["rollout  rehearsal 8, rehearsing: /app/releases/43, off-traffic, for AGE"];
    assert_eq!(lines(s.clone(), "rollout"), wanted);
    // A crashed worker's successor has its seat.
    let respawned = s.worker_status.last_mut().unwrap();
    (respawned.state, respawned.booted, respawned.boot_us) = ("booting".into(), false, None);
    let table = |s: Box<Stats>| without_ages(&shown("stats", s)).split("SLOT").nth(1).unwrap().to_owned();
    let wanted = " PID APP PHASE STATE UP BOOT CRASHES RELEASE STATUS
0 100 200 3 ready AGE 0.12s 0 42 last: killed by SIGKILL
- 300 400 4 booting AGE - 0 43 rehearsal, off-traffic; warming up
1 101 201 3 booting AGE - 0 42
";
    assert_eq!(table(s.clone()), wanted);
    s.rollout.as_mut().unwrap().state = "draining".into();
    assert_eq!(table(s.clone()), wanted);

    // The same before a rollout; a master says no more than what it is.
    let run = s.rollout.as_mut().unwrap();
    (run.kind, run.of) = ("phased-restart".into(), 2);
    run.state = "rehearsing".into();
    s.worker_status[1].state = "draining".into();
    assert!(table(s.clone()).contains("\n- 300 400 4 draining AGE - 0 43 rehearsal, off-traffic; warming up\n"));
    s.worker_status[1].last_status = Some("rehearsal".into());
    assert!(table(s.clone()).contains("\n- 300 400 4 draining AGE - 0 43 rehearsal, off-traffic\n"));
    s.worker_status[1].last_status = Some("warming up".into());
    // What the JSON says of it stays what the master said.
    assert_eq!(shown("stats --json", s.clone()).json()["worker_status"][1]["index"], 0);

    // As soon as slots are replaced, a worker of that phase has a seat.
    s.rollout.as_mut().unwrap().state = "rolling".into();
    assert!(table(s.clone()).contains("\n0 300 400 4 draining AGE - 0 43 warming up; last: killed by SIGKILL\n"));
}

#[test]
fn what_is_remembered_and_why_it_is_not_is_said() {
    let said = |dir: Option<&str>, trouble: Option<&str>| {
        let mut s = stats();
        (s.state_dir, s.state_trouble) = (dir.map(Into::into), trouble.map(Into::into));
        (line(s.clone()), lines(s, "state"))
    };
    assert_eq!(said(Some("/var/lib/shop"), None), (STEADY.into(), vec!["state    /var/lib/shop".into()]));
    let full = "cannot write /var/lib/shop/state.json:\nno space left on device\n";
    let flat = "cannot write /var/lib/shop/state.json: no space left on device";
    let trouble = format!("{STEADY}; trouble with the state folder: {flat}");
    let wanted = format!("state    /var/lib/shop (trouble: {flat})");
    assert_eq!(said(Some("/var/lib/shop"), Some(full)), (trouble.clone(), vec![wanted]));
    assert_eq!(said(None, Some(full)), (trouble, vec![format!("state    not kept: {flat}")]));
    assert_eq!(said(None, None), (STEADY.into(), vec![]));
}

#[test]
fn status_as_json_has_what_waits_for_somebody() {
    let mut s = stats();
    (s.dir_target, s.held) = (None, Some(b"/app/releases/43".to_vec()));
    s.confirm = Some(Confirm { release: s.release.clone(), back_to: b"/app/releases/41".to_vec(), until: NOON });
    (s.rollout, s.state_trouble) = (Some(rollout()), Some("cannot write".into()));
    let wanted = concat!(
        r#"{"ok":true,"state":"steady","workers":2,"booted_workers":2,"release":"/app/releases/42","phase":3,"#,
        r#""dir_target":null,"rollout":{"id":8,"kind":"phased-restart","from":"/app/releases/41","#,
        r#""to":"/app/releases/42","phase":4,"step":1,"of":2,"state":"rolling","#,
        r#""started_at":"2026-11-22T12:00:00.000Z"},"held":"/app/releases/43","#,
        r#""confirm":{"release":"/app/releases/42","back_to":"/app/releases/41","#,
        r#""until":"2026-11-22T12:00:00.000Z"},"state_trouble":"cannot write"}"#,
        "\n"
    );
    shown("status --json", s).is(0, wanted, "");
}
