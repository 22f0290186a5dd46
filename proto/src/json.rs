//! A rollout and its report as JSON: what `ctl --json` prints, a hook reads on stdin, and the history keeps.
//!
//! Keys and their order are fixed: scripts rely on them. Paths and output become lossy text here and nowhere
//! earlier; times become RFC 3339 in UTC with milliseconds. These types are none of the wire's, so that the wire may
//! change without the scripts noticing.

use alloc::borrow::Cow;
use alloc::string::{String, ToString};
use std::time::{Duration, UNIX_EPOCH};

use serde::Serialize;

use crate::control::{self, UnixMillis};
use crate::worker::{self, ExitStatus};

/// Bytes as text, whatever they are.
#[must_use]
pub fn text(bytes: &[u8]) -> Cow<'_, str> {
    String::from_utf8_lossy(bytes)
}

/// A moment as RFC 3339. One beyond the year 9999 (a broken clock) is shown as that year's end.
#[must_use]
pub fn time(at: UnixMillis) -> String {
    const LAST: u64 = 253_402_300_799_999;
    humantime::format_rfc3339_millis(UNIX_EPOCH + Duration::from_millis(at.min(LAST))).to_string()
}

/// Milliseconds as seconds.
#[must_use]
pub fn seconds(millis: u64) -> f64 {
    millis as f64 / 1e3
}

/// A rollout that ended.
#[derive(Debug, Serialize)]
pub struct LastRollout<'a> {
    id: u64,
    kind: &'a str,
    from: Cow<'a, str>,
    to: Cow<'a, str>,
    phase: u32,
    outcome: &'a str,
    ended_at: String,
    seconds: f64,
    report: Option<Report<'a>>,
}

/// Why an app did not boot.
#[derive(Debug, Serialize)]
pub struct Report<'a> {
    slot: u32,
    incarnation: u64,
    phase: u32,
    release: Cow<'a, str>,
    stage: String,
    message: &'a str,
    exit_status: Option<i32>,
    signal: Option<i32>,
    seconds: f64,
    output: Cow<'a, str>,
}

impl<'a> From<&'a control::LastRollout> for LastRollout<'a> {
    fn from(r: &'a control::LastRollout) -> Self {
        Self {
            id: r.id,
            kind: &r.kind,
            from: text(&r.from),
            to: text(&r.to),
            phase: r.phase.0,
            outcome: &r.outcome,
            ended_at: time(r.ended_at),
            seconds: seconds(r.millis),
            report: r.report.as_deref().map(Report::from),
        }
    }
}

impl<'a> From<&'a worker::BootReport> for Report<'a> {
    fn from(r: &'a worker::BootReport) -> Self {
        let (exit_status, signal) = match r.exit {
            Some(ExitStatus::Code(code)) => (Some(code), None),
            Some(ExitStatus::Signal(signal)) => (None, Some(signal)),
            None => (None, None),
        };
        Self {
            slot: r.slot.0,
            incarnation: r.incarnation.0,
            phase: r.phase.0,
            release: text(&r.release),
            stage: r.stage.to_string(),
            message: &r.message,
            exit_status,
            signal,
            seconds: seconds(r.millis),
            output: text(&r.output),
        }
    }
}
