//! What a person reads: the answers of the master as text. The figures of `stats` and `status` stand in `table` and
//! `short`.

use std::fmt::Write;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use proto::control::{LastRollout, UnixMillis};
use proto::worker::BootReport;

use crate::clean::clean;
use crate::exit::Failure;

/// How many of the app's last lines a failure shows; `ctl report` has them all.
const LINES: usize = 20;

/// How many frames of a backtrace it shows.
const FRAMES: usize = 5;

/// How much of one such line it shows, in characters.
const WIDTH: usize = 2000;

/// A path as text.
pub(crate) fn text(bytes: &[u8]) -> String {
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
pub(crate) fn kind(kind: &str) -> String {
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
        let _ = writeln!(out, "  | … ({cut} line{s} more: ctl report, until another boot fails)");
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

/// Which release failed where, in which stage, and how.
pub(crate) fn headline(out: &mut String, indent: &str, r: &BootReport) {
    let _ = writeln!(out, "{indent}{}, slot {}, {}", text(&r.release), r.slot, ending(r));
}

/// "stage ready: exited with status 1 after 0.83s"; a sentence that is no end of a process stands for itself.
pub(crate) fn ending(r: &BootReport) -> String {
    let (message, took) = (clean(&r.message), seconds(r.millis));
    let took = if r.exit.is_some() { format!(" after {took}") } else { format!(" (after {took})") };
    format!("stage {}: {message}{took}", r.stage)
}

/// Milliseconds as seconds.
pub(crate) fn seconds(millis: u64) -> String {
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

/// How long ago, in at most two units.
pub(crate) fn age(at: UnixMillis, now: SystemTime) -> String {
    let s = now.duration_since(moment(at)).unwrap_or_default().as_secs();
    let (minutes, hours, days) = (s / 60 % 60, s / 3600 % 24, s / 86_400);
    match s {
        0..60 => format!("{s}s"),
        60..3600 => format!("{minutes}m{:02}s", s % 60),
        3600..86_400 => format!("{hours}h{minutes:02}m"),
        _ => format!("{days}d{hours:02}h"),
    }
}

/// How much time is left until then, as people type it: `4m 10s`.
pub(crate) fn left(until: UnixMillis, now: SystemTime) -> String {
    let left = moment(until).duration_since(now).unwrap_or_default();
    // Rounded up: it says 0s only when the time is over.
    humantime::format_duration(Duration::from_secs(left.as_millis().div_ceil(1000) as u64)).to_string()
}

/// One beyond all clocks is cut.
fn moment(at: UnixMillis) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(at.min(i64::MAX as u64 / 1000))
}

/// A message as part of a line.
pub(crate) fn inline(message: &str) -> String {
    clean(message.trim_end()).replace(['\n', '\t'], " ")
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

    #[test]
    fn the_time_left_is_rounded_up() {
        let at = |millis| UNIX_EPOCH + Duration::from_millis(millis);
        for (until, now, wanted) in [
            (250_000, 0, "4m 10s"),
            (250_000, 1, "4m 10s"),
            (250_000, 1_000, "4m 9s"),
            (250_000, 249_999, "1s"),
            (250_000, 250_000, "0s"),
            (250_000, 999_000, "0s"),
        ] {
            assert_eq!(left(until, at(now)), wanted, "{until} {now}");
        }
        // No clock is too far off.
        assert!(!left(u64::MAX, UNIX_EPOCH).is_empty());
    }
}
