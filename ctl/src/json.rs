//! What `--json` prints: types of its own, so that the wire may change without the scripts noticing.
//!
//! Keys and their order are fixed: scripts rely on them. Paths and output become lossy text here and nowhere
//! earlier; times become RFC 3339 in UTC with milliseconds.

use std::borrow::Cow;
use std::time::{Duration, UNIX_EPOCH};

use proto::control::{self, Fact, UnixMillis};
use proto::worker::{self, ExitStatus};
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};

use crate::exit::{Failure, number};

/// One JSON document and its newline.
pub(crate) fn line(document: &impl Serialize) -> String {
    let mut text = serde_json::to_string(document).unwrap_or_else(|e| {
        format!(r#"{{"error":{{"code":1,"message":"JSON: {}","report":null}}}}"#, e.classify() as u8)
    });
    text.push('\n');
    text
}

fn text(bytes: &[u8]) -> Cow<'_, str> {
    String::from_utf8_lossy(bytes)
}

/// A moment as RFC 3339. One beyond the year 9999 (a broken clock) is shown as that year's end.
fn time(at: UnixMillis) -> String {
    const LAST: UnixMillis = 253_402_300_799_999;
    humantime::format_rfc3339_millis(UNIX_EPOCH + Duration::from_millis(at.min(LAST))).to_string()
}

fn seconds(millis: u64) -> f64 {
    millis as f64 / 1e3
}

/// `stats --json`.
#[derive(Serialize)]
pub(crate) struct Stats<'a> {
    name: &'a str,
    version: &'a str,
    pid: u32,
    started_at: String,
    state: &'a str,
    dir: Cow<'a, str>,
    dir_target: Option<Cow<'a, str>>,
    release: Cow<'a, str>,
    release_gone: bool,
    phase: u32,
    workers: u32,
    booted_workers: u32,
    old_workers: u32,
    worker_status: Vec<Worker<'a>>,
    listeners: Vec<Listener<'a>>,
    rollout: Option<Rollout<'a>>,
    last_rollout: Option<LastRollout<'a>>,
}

#[derive(Serialize)]
struct Worker<'a> {
    index: u32,
    pid: Option<u32>,
    app_pid: Option<u32>,
    incarnation: Option<u64>,
    phase: u32,
    release: Cow<'a, str>,
    state: &'a str,
    booted: bool,
    started_at: String,
    boot_seconds: Option<f64>,
    evidence: Option<String>,
    crashes: u32,
    last_checkin: Option<String>,
    last_status: Option<Status<'a>>,
    last_exit: Option<&'a str>,
}

#[derive(Serialize)]
struct Status<'a> {
    text: &'a str,
}

#[derive(Serialize)]
struct Listener<'a> {
    name: &'a str,
    address: &'a str,
}

#[derive(Serialize)]
struct Rollout<'a> {
    id: u64,
    kind: &'a str,
    from: Cow<'a, str>,
    to: Cow<'a, str>,
    phase: u32,
    step: u32,
    of: u32,
    state: &'a str,
    started_at: String,
}

/// A rollout that ended.
#[derive(Serialize)]
pub(crate) struct LastRollout<'a> {
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
#[derive(Serialize)]
pub(crate) struct Report<'a> {
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

impl<'a> From<&'a control::Stats> for Stats<'a> {
    fn from(s: &'a control::Stats) -> Self {
        Self {
            name: &s.name,
            version: &s.version,
            pid: s.pid,
            started_at: time(s.started_at),
            state: &s.state,
            dir: text(&s.dir),
            dir_target: s.dir_target.as_deref().map(text),
            release: text(&s.release),
            release_gone: s.release_gone,
            phase: s.phase.0,
            workers: s.workers,
            booted_workers: s.booted_workers,
            old_workers: s.old_workers,
            worker_status: s.worker_status.iter().map(Worker::from).collect(),
            listeners: s.listeners.iter().map(|l| Listener { name: &l.name, address: &l.address }).collect(),
            rollout: s.rollout.as_ref().map(Rollout::from),
            last_rollout: s.last_rollout.as_ref().map(LastRollout::from),
        }
    }
}

impl<'a> From<&'a control::WorkerStatus> for Worker<'a> {
    fn from(w: &'a control::WorkerStatus) -> Self {
        Self {
            index: w.index.0,
            pid: w.pid,
            app_pid: w.app_pid,
            incarnation: w.incarnation.map(|i| i.0),
            phase: w.phase.0,
            release: text(&w.release),
            state: &w.state,
            booted: w.booted,
            started_at: time(w.started_at),
            boot_seconds: w.boot_us.map(|us| us as f64 / 1e6),
            evidence: w.evidence.map(|e| e.to_string()),
            crashes: w.crashes,
            last_checkin: w.last_checkin.map(time),
            last_status: w.last_status.as_deref().map(|text| Status { text }),
            last_exit: w.last_exit.as_deref(),
        }
    }
}

impl<'a> From<&'a control::Rollout> for Rollout<'a> {
    fn from(r: &'a control::Rollout) -> Self {
        Self {
            id: r.id,
            kind: &r.kind,
            from: text(&r.from),
            to: text(&r.to),
            phase: r.phase.0,
            step: r.step,
            of: r.of,
            state: &r.state,
            started_at: time(r.started_at),
        }
    }
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

/// `{"ok": true, …}`.
pub(crate) struct Good<'a>(pub(crate) &'a [(String, Fact)]);

impl Serialize for Good<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("ok", &true)?;
        for (key, fact) in self.0 {
            match fact {
                Fact::Text(text) => map.serialize_entry(key, text)?,
                Fact::Number(number) => map.serialize_entry(key, number)?,
                Fact::Null => map.serialize_entry(key, &())?,
            }
        }
        map.end()
    }
}

/// `--no-wait`: what began.
#[derive(Serialize)]
pub(crate) struct Began {
    ok: bool,
    rollout: Option<u64>,
}

impl Began {
    /// A rollout of this number.
    pub(crate) fn new(rollout: Option<u64>) -> Self {
        Self { ok: true, rollout }
    }
}

/// `status`, in short.
#[derive(Serialize)]
pub(crate) struct Short<'a> {
    ok: bool,
    state: &'a str,
    workers: u32,
    booted_workers: u32,
    release: Cow<'a, str>,
    phase: u32,
}

impl<'a> From<&'a control::Stats> for Short<'a> {
    fn from(s: &'a control::Stats) -> Self {
        Self {
            ok: true,
            state: &s.state,
            workers: s.workers,
            booted_workers: s.booted_workers,
            release: text(&s.release),
            phase: s.phase.0,
        }
    }
}

/// `report`.
#[derive(Serialize)]
pub(crate) struct LastReport<'a> {
    ok: bool,
    report: Option<Report<'a>>,
}

impl<'a> LastReport<'a> {
    /// The last boot failure, if there was one.
    pub(crate) fn new(report: Option<&'a worker::BootReport>) -> Self {
        Self { ok: true, report: report.map(Report::from) }
    }
}

/// One line of `events`.
#[derive(Serialize)]
pub(crate) struct Event<'a> {
    /// A step of the rollout state machine.
    pub(crate) event: &'a str,
}

/// `{"error": …}`.
#[derive(Serialize)]
pub(crate) struct Wrong<'a> {
    error: Inner<'a>,
}

#[derive(Serialize)]
struct Inner<'a> {
    code: u8,
    message: &'a str,
    report: Option<Report<'a>>,
}

impl<'a> From<&'a Failure> for Wrong<'a> {
    fn from(f: &'a Failure) -> Self {
        let report = f.report.as_deref().map(Report::from);
        Self { error: Inner { code: number(f.code), message: &f.message, report } }
    }
}
