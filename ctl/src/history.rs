//! `ctl history`: the rollouts that have ended, from the file in which the master writes them.

use std::ffi::OsStr;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use proto::control::Stats;
use serde::Serialize;
use serde_json::Value;

use crate::exit::Failure;
use crate::render::{inline, kind};

/// The master's name for it.
const FILE: &str = "history.jsonl";

/// The latest `count` of them, the latest last.
///
/// # Errors
/// When nothing is remembered, or the file cannot be read; that there is none yet is no error.
pub(crate) fn read(stats: &Stats, count: usize) -> Result<Vec<Value>, Failure> {
    let Some(folder) = &stats.state_dir else {
        let why = stats.state_trouble.as_deref().map_or_else(String::new, |trouble| format!(" ({trouble})"));
        return Err(Failure::other(format!("nothing is remembered{why}; see the master's --state")));
    };
    let path = Path::new(OsStr::from_bytes(folder)).join(FILE);
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == ErrorKind::NotFound => Vec::new(),
        Err(e) => return Err(Failure::other(format!("cannot read {}: {e}", path.display()))),
    };
    // A power cut may have left half a line.
    let whole = |line: &[u8]| serde_json::from_slice(line).ok().filter(Value::is_object);
    let all: Vec<Value> = bytes.split(|b| *b == b'\n').filter_map(whole).collect();
    let skip = all.len().saturating_sub(count);
    Ok(all.into_iter().skip(skip).collect())
}

/// One a line: when, what, how it ended, the release, how long it took, and why where there is a report.
pub(crate) fn table(rollouts: &[Value]) -> String {
    if rollouts.is_empty() {
        return "no rollout so far\n".into();
    }
    let text = |rollout: &Value, key: &str| inline(rollout[key].as_str().unwrap_or("?"));
    let mut out = String::new();
    for rollout in rollouts {
        // To the second: 2026-01-31T12:00:00Z.
        let at = text(rollout, "ended_at");
        let at = at.split_once('.').map_or(at.clone(), |(seconds, _)| format!("{seconds}Z"));
        let (what, id) = (kind(&text(rollout, "kind")), rollout["id"].as_u64().unwrap_or_default());
        let (outcome, to) = (text(rollout, "outcome"), text(rollout, "to"));
        let took = rollout["seconds"].as_f64().unwrap_or_default();
        out.push_str(&format!("{at}  {what} {id}  {outcome:<8}  {to}  {took:.2}s"));
        let report = &rollout["report"];
        if report.is_object() {
            let (stage, message) = (text(report, "stage"), text(report, "message"));
            out.push_str(&format!("  slot {}, stage {stage}: {message}", report["slot"]));
        }
        out.push('\n');
    }
    out
}

/// As JSON: each as `last_rollout` has it.
#[derive(Serialize)]
pub(crate) struct Document<'a> {
    ok: bool,
    rollouts: &'a [Value],
}

impl<'a> Document<'a> {
    /// Of these.
    pub(crate) fn new(rollouts: &'a [Value]) -> Self {
        Self { ok: true, rollouts }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_in_the_file_cannot_drive_a_terminal() {
        let line = r#"{"id":3,"kind":"phased-restart","to":"/r/\u001b[2J42","outcome":"aborted","ended_at":
            "2026-01-31T12:00:00.123Z","seconds":1.5,"report":{"slot":0,"stage":"ready","message":"one\ntwo"}}"#;
        let shown = table(&[serde_json::from_str(line).unwrap(), serde_json::json!({})]);
        assert_eq!(
            shown,
            "2026-01-31T12:00:00Z  phased restart 3  aborted   /r/42  1.50s  slot 0, stage ready: one two\n\
             ?  ? 0  ?         ?  0.00s\n"
        );
    }
}
