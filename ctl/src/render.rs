//! What a person reads: the answers of the master as text.

use std::fmt::Write;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use proto::control::{LastRollout, Rollout, Stats, UnixMillis, WorkerStatus};
use proto::worker::BootReport;

use crate::clean::clean;
use crate::exit::Failure;

/// How many of the app's last lines a failure shows; `ctl report` has them all.
const LINES: usize = 20;

/// How many frames of a backtrace it shows.
const FRAMES: usize = 5;

/// How much of one such line it shows, in characters.
const WIDTH: usize = 2000;

fn text(bytes: &[u8]) -> String {
    clean(&String::from_utf8_lossy(bytes))
}

/// A message of the master's as one or more lines.
pub(crate) fn line(message: &str) -> String {
    if message.is_empty() {
        return String::new();
    }
    let mut out = clean(message.trim_end_matches('\n'));
    out.push('\n');
    out
}

/// A failed command, for stderr.
pub(crate) fn failure(failure: &Failure) -> String {
    let mut out = format!("error: {}", line(&failure.message));
    if let Some(report) = &failure.report {
        excerpt(&mut out, report);
    }
    out
}

/// A rollout that did not succeed, for stderr, in the form that the README shows.
pub(crate) fn failed_rollout(message: &str, rollout: &LastRollout) -> String {
    let mut out = format!("error: {}", line(message));
    if let Some(report) = &rollout.report {
        excerpt(&mut out, report);
    }
    let _ = writeln!(out, "{} failed", kind(&rollout.kind));
    out
}

/// `phased-restart` as people say it.
fn kind(kind: &str) -> String {
    clean(kind).replace('-', " ")
}

/// Where the boot failed, and the app's last lines.
fn excerpt(out: &mut String, report: &BootReport) {
    headline(out, "  ", report);
    let output = text(&report.output);
    let lines = without_deep_frames(output.trim_end());
    let cut = lines.len().saturating_sub(LINES);
    if cut > 0 {
        let s = if cut == 1 { "" } else { "s" };
        let _ = writeln!(out, "  | … ({cut} line{s} more: ctl report)");
    }
    for line in &lines[cut..] {
        match line.char_indices().nth(WIDTH) {
            Some((end, _)) => quoted(out, &format!("{} … (cut: ctl report)", &line[..end])),
            None => quoted(out, line),
        }
    }
}

/// The lines of an app's output; of each backtrace that comes *after* its error (Ruby's, Node's, Java's) the nearest frames
/// alone, as the error itself would be cut off otherwise.
fn without_deep_frames(output: &str) -> Vec<&str> {
    let is_frame = |line: &str| {
        let text = line.trim_start();
        text.len() < line.len() && (text.starts_with("from ") || text.starts_with("at "))
    };
    let mut frames = 0;
    let mut lines = Vec::new();
    for line in output.lines() {
        frames = if is_frame(line) { frames + 1 } else { 0 };
        match frames {
            0..=FRAMES => lines.push(line),
            // Its indentation is that of the frames.
            n if n == FRAMES + 1 => lines.push("\t… (deeper frames: ctl report)"),
            _ => {}
        }
    }
    lines
}

fn quoted(out: &mut String, line: &str) {
    let _ = writeln!(out, "  {}", format!("| {line}").trim_end());
}

fn headline(out: &mut String, indent: &str, r: &BootReport) {
    let (release, message, took) = (text(&r.release), clean(&r.message), seconds(r.millis));
    // "exited with status 1 after 0.83s"; a sentence that is no end of a process stands for itself.
    let took = if r.exit.is_some() { format!(" after {took}") } else { format!(" (after {took})") };
    let _ = writeln!(out, "{indent}{release}, slot {}, stage {}: {message}{took}", r.slot, r.stage);
}

fn seconds(millis: u64) -> String {
    format!("{:.2}s", millis as f64 / 1e3)
}

/// `report`: the last boot failure, whole.
pub(crate) fn report(report: Option<&BootReport>) -> String {
    let Some(report) = report else { return "no boot failure so far\n".into() };
    let mut out = String::new();
    headline(&mut out, "", report);
    let output = text(&report.output);
    let output = output.trim_end();
    if !output.is_empty() {
        out.push('\n');
        out.push_str(output);
        out.push('\n');
    }
    out
}

/// `status`: one line.
pub(crate) fn status(s: &Stats) -> String {
    // Which releases serve, by how many of the slots.
    let mut serving: Vec<(&[u8], u32, u32)> = Vec::new();
    for w in s.worker_status.iter().filter(|w| w.booted && w.state == "ready") {
        match serving.iter_mut().find(|(release, phase, _)| *release == w.release && *phase == w.phase.0) {
            Some((_, _, count)) => *count += 1,
            None => serving.push((&w.release, w.phase.0, 1)),
        }
    }
    let on = match serving.as_slice() {
        [] => format!("{} (phase {})", text(&s.release), s.phase),
        [(release, phase, _)] => format!("{} (phase {phase})", text(release)),
        several => several
            .iter()
            .map(|(release, phase, count)| format!("{} (phase {phase}) ×{count}", text(release)))
            .collect::<Vec<_>>()
            .join(" and "),
    };
    let (name, state) = (clean(&s.name), clean(&s.state));
    let good = match serving.as_slice() {
        [(release, _, _)] if *release != s.release && s.rollout.is_none() => {
            format!("; respawns use {}", text(&s.release))
        }
        _ => String::new(),
    };
    format!("{name}: {state}, {}/{} workers on {on}{good}\n", s.booted_workers, s.workers)
}

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
    let drift = match &s.dir_target {
        None => " (cannot be resolved)".into(),
        Some(target) if *target == s.release => String::new(),
        Some(target) => format!(" -> {} (not the release)", text(target)),
    };
    let _ = writeln!(out, "dir      {}{drift}", text(&s.dir));
    for listener in &s.listeners {
        let _ = writeln!(out, "listen   {}={}", clean(&listener.name), clean(&listener.address));
    }
    let _ = writeln!(out, "master   pid {}, version {}, up {}", s.pid, clean(&s.version), age(s.started_at, now));
    if let Some(r) = &s.rollout {
        rollout(&mut out, r, now);
    }
    if let Some(r) = &s.last_rollout {
        last_rollout(&mut out, r, now);
    }
    out.push('\n');
    workers(&mut out, &s.worker_status, now);
    out
}

fn rollout(out: &mut String, r: &Rollout, now: SystemTime) {
    let _ = writeln!(
        out,
        "rollout  {} {}, {}: {} -> {} (phase {}), {} of {} slots, for {}",
        kind(&r.kind),
        r.id,
        clean(&r.state),
        text(&r.from),
        text(&r.to),
        r.phase,
        r.step,
        r.of,
        age(r.started_at, now)
    );
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
fn workers(out: &mut String, all: &[WorkerStatus], now: SystemTime) {
    const NAMES: [&str; 10] = ["SLOT", "PID", "APP", "PHASE", "STATE", "UP", "BOOT", "CRASHES", "RELEASE", "STATUS"];
    const TO_THE_RIGHT: [bool; 10] = [true, true, true, true, false, true, true, true, false, false];
    let mut rows = vec![NAMES.map(String::from)];
    rows.extend(all.iter().map(|w| row(w, now)));
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

fn row(w: &WorkerStatus, now: SystemTime) -> [String; 10] {
    let or_dash = |pid: Option<u32>| pid.map_or_else(|| "-".into(), |p| p.to_string());
    let release = text(w.release.rsplit(|b| *b == b'/').next().unwrap_or_default());
    let status = w.last_status.as_deref().map(clean);
    let exit = w.last_exit.as_deref().map(|e| format!("last: {}", clean(e)));
    [
        w.index.to_string(),
        or_dash(w.pid),
        or_dash(w.app_pid),
        w.phase.to_string(),
        clean(&w.state),
        age(w.started_at, now),
        w.boot_us.map_or_else(|| "-".into(), |us| seconds(us / 1000)),
        w.crashes.to_string(),
        release,
        [status, exit].into_iter().flatten().collect::<Vec<_>>().join("; ").replace(['\n', '\t'], " "),
    ]
}

/// How long ago, in at most two units.
fn age(at: UnixMillis, now: SystemTime) -> String {
    let at = UNIX_EPOCH + Duration::from_millis(at.min(i64::MAX as u64 / 1000));
    let s = now.duration_since(at).unwrap_or_default().as_secs();
    let (minutes, hours, days) = (s / 60 % 60, s / 3600 % 24, s / 86_400);
    match s {
        0..60 => format!("{s}s"),
        60..3600 => format!("{minutes}m{:02}s", s % 60),
        3600..86_400 => format!("{hours}h{minutes:02}m"),
        _ => format!("{days}d{hours:02}h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_before_its_backtrace_is_not_pushed_out() {
        let mut output = String::from("config.ru:1:in `require': cannot load such file -- gem_x (LoadError)\n");
        for n in 0..40 {
            output.push_str(&format!("\tfrom config.ru:{n}:in `deep'\n"));
        }
        output.push_str("bye\n");
        let lines = without_deep_frames(&output);
        assert_eq!(lines.len(), 1 + FRAMES + 1 + 1);
        assert!(lines[0].ends_with("(LoadError)"));
        assert_eq!(lines[lines.len() - 1], "bye");
    }
}
