//! `stats`: what there is to know, as lines and a table.

use std::fmt::Write;
use std::time::SystemTime;

use proto::control::{LastRollout, Rollout, Stats, WorkerStatus};

use crate::clean::clean;
use crate::notes;
use crate::render::{age, headline, inline, kind, seconds, text};

/// `stats`: everything. `now` is for ages.
pub(crate) fn stats(s: &Stats, now: SystemTime) -> String {
    let mut out = String::new();
    let release = text(&s.release);
    let _ = writeln!(
        out,
        "{}: {}, {}/{} workers booted, {} old, phase {}",
        clean(&s.name),
        clean(&s.state),
        s.booted_workers,
        s.workers,
        s.old_workers,
        s.phase
    );
    let gone = if s.release_gone { " (the directory is gone)" } else { "" };
    let _ = writeln!(out, "release  {release}{gone}");
    if let Some(held) = &s.held {
        let _ = writeln!(out, "held     {} (ctl reload-dir promotes it, ctl rollback ends it)", text(held));
    }
    if let Some(confirm) = &s.confirm {
        let (release, within) = (text(&confirm.release), notes::confirm(confirm, now));
        let _ = writeln!(out, "confirm  {release} {within} (ctl confirm)");
    }
    dir(&mut out, s, now);
    for listener in &s.listeners {
        let _ = writeln!(out, "listen   {}={}", clean(&listener.name), clean(&listener.address));
    }
    let _ = writeln!(out, "master   pid {}, version {}, up {}", s.pid, clean(&s.version), age(s.started_at, now));
    state(&mut out, s);
    if let Some(r) = &s.rollout {
        rollout(&mut out, r, now);
    }
    if let Some(r) = &s.last_rollout {
        last_rollout(&mut out, r, now);
    }
    out.push('\n');
    workers(&mut out, s, now);
    out
}

/// What `dir` names, and what is known about that; the other refused releases.
fn dir(out: &mut String, s: &Stats, now: SystemTime) {
    /// How many of them are named.
    const NAMED: usize = 5;
    let dir = text(&s.dir);
    let drift = notes::drift(s);
    match &drift {
        None if s.dir_target.is_none() => {
            let _ = writeln!(out, "dir      {dir} (cannot be resolved)");
        }
        None => {
            let _ = writeln!(out, "dir      {dir}");
        }
        Some(drift) => {
            let refused = drift.refused.map(|r| notes::refused(r, now));
            let known = drift.known.or_else(|| refused.is_none().then_some("not the release")).map(String::from);
            let notes = [known, refused].into_iter().flatten().collect::<Vec<_>>().join("; ");
            let _ = writeln!(out, "dir      {dir} -> {} ({notes})", text(drift.target));
        }
    }
    let named = drift.as_ref().and_then(|d| d.refused);
    if let Some(refused) = named {
        let _ = writeln!(out, "         {}", notes::why(refused));
    }
    let others: Vec<_> = s.refused.iter().rev().filter(|r| named.is_none_or(|n| n.release != r.release)).collect();
    if !others.is_empty() {
        let names: Vec<_> = others.iter().take(NAMED).map(|r| text(&r.release)).collect();
        let more = match others.len().saturating_sub(NAMED) {
            0 => String::new(),
            n => format!(" and {n} more"),
        };
        let _ = writeln!(out, "refused  {}{more}", names.join(", "));
    }
}

/// Where it is remembered what is good and what was refused.
fn state(out: &mut String, s: &Stats) {
    let trouble = s.state_trouble.as_deref().map(inline);
    let _ = match (s.state_dir.as_deref().map(text), trouble) {
        (None, None) => Ok(()),
        (None, Some(trouble)) => writeln!(out, "state    not kept: {trouble}"),
        (Some(dir), None) => writeln!(out, "state    {dir}"),
        (Some(dir), Some(trouble)) => writeln!(out, "state    {dir} (trouble: {trouble})"),
    };
}

fn rollout(out: &mut String, r: &Rollout, now: SystemTime) {
    let (kind, state, since) = (kind(&r.kind), clean(&r.state), age(r.started_at, now));
    let (from, to) = (text(&r.from), text(&r.to));
    let _ = write!(out, "rollout  {kind} {}, {state}: ", r.id);
    let _ = if notes::is_rehearsal(r) {
        writeln!(out, "{to}, off-traffic, for {since}")
    } else {
        let hint = if r.state == "paused" { " (ctl resume goes on, ctl abort undoes it)" } else { "" };
        writeln!(out, "{from} -> {to} (phase {}), {} of {} slots, for {since}{hint}", r.phase, r.step, r.of)
    };
}

fn last_rollout(out: &mut String, r: &LastRollout, now: SystemTime) {
    let (kind, outcome, took) = (kind(&r.kind), clean(&r.outcome), seconds(r.millis));
    let (from, to) = (text(&r.from), text(&r.to));
    let since = age(r.ended_at, now);
    let _ = write!(out, "last     {kind} {}, {outcome}: {from} -> {to} (phase {}), ", r.id, r.phase);
    let _ = writeln!(out, "took {took}, ended {since} ago");
    if let Some(report) = &r.report {
        headline(out, "         ", report);
    }
}

/// A row a worker, columns as wide as they need.
fn workers(out: &mut String, s: &Stats, now: SystemTime) {
    const NAMES: [&str; 10] = ["SLOT", "PID", "APP", "PHASE", "STATE", "UP", "BOOT", "CRASHES", "RELEASE", "STATUS"];
    const TO_THE_RIGHT: [bool; 10] = [true, true, true, true, false, true, true, true, false, false];
    let mut rows = vec![NAMES.map(String::from)];
    rows.extend(s.worker_status.iter().map(|w| row(w, s.rollout.as_ref(), now)));
    let widths: [usize; 10] =
        std::array::from_fn(|i| rows.iter().map(|r| r[i].chars().count()).max().unwrap_or_default());
    for cells in &rows {
        let mut line = String::new();
        for (i, cell) in cells.iter().enumerate() {
            if i > 0 {
                line.push_str("  ");
            }
            let width = widths[i];
            let _ = if TO_THE_RIGHT[i] { write!(line, "{cell:>width$}") } else { write!(line, "{cell:<width$}") };
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
}

fn row(w: &WorkerStatus, run: Option<&Rollout>, now: SystemTime) -> [String; 10] {
    let or_dash = |pid: Option<u32>| pid.map_or_else(|| "-".into(), |p| p.to_string());
    let release = text(w.release.rsplit(|b| *b == b'/').next().unwrap_or_default());
    let aside = run
        .filter(|r| notes::is_scouting(r) && r.phase == w.phase && !w.booted)
        .map(|_| String::from("rehearsal, off-traffic"));
    // The master's own word for it says nothing more.
    let status = w.last_status.as_deref().filter(|s| aside.is_none() || *s != "rehearsal").map(clean);
    // How the last worker of slot 0 ended is no business of one without a seat.
    let exit = w.last_exit.as_deref().filter(|_| aside.is_none()).map(|e| format!("last: {}", clean(e)));
    [
        // It has no seat; its index says nothing.
        if aside.is_some() { "-".into() } else { w.index.to_string() },
        or_dash(w.pid),
        or_dash(w.app_pid),
        w.phase.to_string(),
        clean(&w.state),
        age(w.started_at, now),
        w.boot_us.map_or_else(|| "-".into(), |us| seconds(us / 1000)),
        w.crashes.to_string(),
        release,
        [aside, status, exit].into_iter().flatten().collect::<Vec<_>>().join("; ").replace(['\n', '\t'], " "),
    ]
}
