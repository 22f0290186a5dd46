//! What `--json` prints: types of its own, so that the wire may change without the scripts noticing.
//!
//! Keys and their order are fixed: scripts rely on them. Paths and output become lossy text here and nowhere
//! earlier; times become RFC 3339 in UTC with milliseconds.

use std::borrow::Cow;

use proto::control::{self, Fact};
pub(crate) use proto::json::LastRollout;
use proto::json::{Report, text, time};
use proto::worker;
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};

use crate::exit::{Failure, number};
use crate::happening::entry;

/// One JSON document and its newline.
pub(crate) fn line(document: &impl Serialize) -> String {
    let mut text = serde_json::to_string(document).unwrap_or_else(|e| {
        format!(r#"{{"error":{{"code":1,"message":"JSON: {}","report":null}}}}"#, e.classify() as u8)
    });
    text.push('\n');
    text
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
    previous: Vec<Cow<'a, str>>,
    held: Option<Cow<'a, str>>,
    confirm: Option<Confirm<'a>>,
    refused: Vec<Refused<'a>>,
    state_dir: Option<Cow<'a, str>>,
    state_trouble: Option<&'a str>,
}

#[derive(Serialize)]
struct Confirm<'a> {
    release: Cow<'a, str>,
    back_to: Cow<'a, str>,
    until: String,
}

#[derive(Serialize)]
struct Refused<'a> {
    release: Cow<'a, str>,
    at: String,
    report: Option<Report<'a>>,
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
            previous: s.previous.iter().map(|release| text(release)).collect(),
            held: s.held.as_deref().map(text),
            confirm: s.confirm.as_ref().map(Confirm::from),
            refused: s.refused.iter().map(Refused::from).collect(),
            state_dir: s.state_dir.as_deref().map(text),
            state_trouble: s.state_trouble.as_deref(),
        }
    }
}

impl<'a> From<&'a control::Confirm> for Confirm<'a> {
    fn from(c: &'a control::Confirm) -> Self {
        Self { release: text(&c.release), back_to: text(&c.back_to), until: time(c.until) }
    }
}

impl<'a> From<&'a control::Refused> for Refused<'a> {
    fn from(r: &'a control::Refused) -> Self {
        Self { release: text(&r.release), at: time(r.at), report: r.report.as_deref().map(Report::from) }
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

/// `{"ok": true, …}`.
pub(crate) struct Good<'a>(pub(crate) &'a [(String, Fact)]);

impl Serialize for Good<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("ok", &true)?;
        for (key, fact) in self.0 {
            entry(&mut map, key, fact)?;
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

/// `status`, in short; its keys mean what they mean in `stats`.
#[derive(Serialize)]
pub(crate) struct Short<'a> {
    ok: bool,
    state: &'a str,
    workers: u32,
    booted_workers: u32,
    release: Cow<'a, str>,
    phase: u32,
    dir_target: Option<Cow<'a, str>>,
    rollout: Option<Rollout<'a>>,
    held: Option<Cow<'a, str>>,
    confirm: Option<Confirm<'a>>,
    state_trouble: Option<&'a str>,
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
            dir_target: s.dir_target.as_deref().map(text),
            rollout: s.rollout.as_ref().map(Rollout::from),
            held: s.held.as_deref().map(text),
            confirm: s.confirm.as_ref().map(Confirm::from),
            state_trouble: s.state_trouble.as_deref(),
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

/// One line of `events --steps`.
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
