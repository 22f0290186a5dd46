//! `ctl history`: the rollouts that have ended, from the file in which the master writes them.

use std::ffi::OsStr;
use std::fs::OpenOptions;
use std::io::{self, ErrorKind, Read, Seek, SeekFrom};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use proto::control::Stats;
use serde::Serialize;
use serde_json::Value;

use crate::exit::Failure;
use crate::render::{inline, kind};

/// The master's name for it.
const FILE: &str = "history.jsonl";
/// How much of its end is read, in bytes; the master keeps it shorter.
const MOST: u64 = 4 << 20;

/// Rollouts that were, and lines that are none.
#[derive(Debug, Default)]
pub(crate) struct History {
    /// The latest last.
    pub(crate) rollouts: Vec<Value>,
    /// What cannot be read as one.
    pub(crate) unreadable: usize,
}

/// The latest `count` of them, the latest last.
///
/// # Errors
/// When nothing is remembered, or the file cannot be read; that there is none yet is no error.
pub(crate) fn read(stats: &Stats, count: usize) -> Result<History, Failure> {
    let Some(folder) = &stats.state_dir else {
        let why = stats.state_trouble.as_deref().map_or_else(String::new, |trouble| format!(" ({trouble})"));
        return Err(Failure::other(format!("nothing is remembered{why}; see the master's --state")));
    };
    let path = Path::new(OsStr::from_bytes(folder)).join(FILE);
    let bytes = match tail(&path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == ErrorKind::NotFound => Vec::new(),
        Err(e) => return Err(Failure::other(format!("cannot read {}: {e}", path.display()))),
    };
    let mut history = History::default();
    for line in bytes.split(|b| *b == b'\n').filter(|line| !line.is_empty()) {
        // A power cut may have left half a line.
        match serde_json::from_slice(line).ok().filter(|value: &Value| value["id"].is_u64()) {
            Some(rollout) => history.rollouts.push(rollout),
            None => history.unreadable += 1,
        }
    }
    let skip = history.rollouts.len().saturating_sub(count);
    history.rollouts.drain(..skip);
    Ok(history)
}

/// The whole lines of the file's end; nothing else that may lie there is waited for.
fn tail(path: &Path) -> io::Result<Vec<u8>> {
    let mut file = OpenOptions::new().read(true).custom_flags(nix::fcntl::OFlag::O_NONBLOCK.bits()).open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    let skipped = metadata.len().saturating_sub(MOST);
    file.seek(SeekFrom::Start(skipped))?;
    let mut bytes = Vec::new();
    file.take(MOST).read_to_end(&mut bytes)?;
    if skipped > 0 {
        let end = bytes.iter().position(|b| *b == b'\n').map_or(bytes.len(), |end| end + 1);
        bytes.drain(..end);
    }
    Ok(bytes)
}

/// One a line: when, what, how it ended, the release, how long it took, and why where there is a report.
pub(crate) fn table(history: &History) -> String {
    let (rollouts, unreadable) = (&history.rollouts, history.unreadable);
    let mut out = match unreadable {
        0 if rollouts.is_empty() => "no rollout so far\n".into(),
        0 => String::new(),
        n => format!("{n} line{} that cannot be read left out\n", if n == 1 { "" } else { "s" }),
    };
    let text = |rollout: &Value, key: &str| inline(rollout[key].as_str().unwrap_or("?"));
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
    unreadable: usize,
}

impl<'a> Document<'a> {
    /// Of these.
    pub(crate) fn new(history: &'a History) -> Self {
        Self { ok: true, rollouts: &history.rollouts, unreadable: history.unreadable }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_in_the_file_cannot_drive_a_terminal() {
        let line = r#"{"id":3,"kind":"phased-restart","to":"/r/\u001b[2J42","outcome":"aborted","ended_at":
            "2026-01-31T12:00:00.123Z","seconds":1.5,"report":{"slot":0,"stage":"ready","message":"one\ntwo"}}"#;
        let rollouts = vec![serde_json::from_str(line).unwrap(), serde_json::json!({})];
        let shown = table(&History { rollouts, unreadable: 1 });
        assert_eq!(
            shown,
            "1 line that cannot be read left out\n\
             2026-01-31T12:00:00Z  phased restart 3  aborted   /r/42  1.50s  slot 0, stage ready: one two\n\
             ?  ? 0  ?         ?  0.00s\n"
        );
    }
}
