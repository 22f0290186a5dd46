//! A rollout that ended and a boot report, as `state.json` keeps them.

use proto::control::{LastRollout, UnixMillis};
use proto::worker::{BootReport, ExitStatus, Stage};
use proto::{Incarnation, Phase, Slot};
use serde::{Deserialize, Serialize};

use super::text::Text;

/// The most of a refused release's output that is kept, in bytes: its end.
const OUTPUT: usize = 4 << 10;
/// The same of the message: its beginning.
const MESSAGE: usize = 2 << 10;

/// A [`LastRollout`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SavedRollout {
    id: u64,
    kind: String,
    from: Text,
    to: Text,
    phase: u32,
    outcome: String,
    ended_at: UnixMillis,
    millis: u64,
    report: Option<SavedReport>,
}

/// A [`BootReport`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SavedReport {
    slot: u32,
    incarnation: u64,
    phase: u32,
    release: Text,
    stage: SavedStage,
    message: String,
    exit: Option<SavedExit>,
    millis: u64,
    output: Text,
    release_gone: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum SavedExit {
    Code(i32),
    Signal(i32),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum SavedStage {
    Spawn,
    Directory,
    Hook,
    Exec,
    Ready,
    Check,
    Soak,
}

/// A report without the length of what its app said.
pub(super) fn cut(report: &BootReport) -> BootReport {
    let end = (0..=MESSAGE.min(report.message.len())).rev().find(|at| report.message.is_char_boundary(*at));
    BootReport {
        message: report.message[..end.unwrap_or(0)].into(),
        output: tail(&report.output, OUTPUT).to_vec(),
        release: report.release.clone(),
        ..*report
    }
}

/// The last `most` bytes, from the start of a line on, or at least of a character.
fn tail(output: &[u8], most: usize) -> &[u8] {
    let from = output.len().saturating_sub(most);
    if from == 0 || output[from - 1] == b'\n' {
        return &output[from..];
    }
    let tail = &output[from..];
    match tail.iter().position(|b| *b == b'\n') {
        Some(end) if end + 1 < tail.len() => &tail[end + 1..],
        _ => {
            let inside = tail.iter().take(3).take_while(|b| **b & 0xc0 == 0x80).count();
            &tail[inside..]
        }
    }
}

impl From<&LastRollout> for SavedRollout {
    fn from(rollout: &LastRollout) -> Self {
        let LastRollout { id, kind, from, to, phase, outcome, ended_at, millis, report } = rollout;
        Self {
            id: *id,
            kind: kind.clone(),
            from: Text(from.clone()),
            to: Text(to.clone()),
            phase: phase.0,
            outcome: outcome.clone(),
            ended_at: *ended_at,
            millis: *millis,
            report: report.as_deref().map(Into::into),
        }
    }
}

impl From<&SavedRollout> for LastRollout {
    fn from(saved: &SavedRollout) -> Self {
        let SavedRollout { id, kind, from, to, phase, outcome, ended_at, millis, report } = saved;
        Self {
            id: *id,
            kind: kind.clone(),
            from: from.0.clone(),
            to: to.0.clone(),
            phase: Phase(*phase),
            outcome: outcome.clone(),
            ended_at: *ended_at,
            millis: *millis,
            report: report.as_ref().map(|report| Box::new(report.into())),
        }
    }
}

impl From<&BootReport> for SavedReport {
    fn from(report: &BootReport) -> Self {
        let BootReport { slot, incarnation, phase, release, stage, message, exit, millis, output, release_gone } =
            report;
        Self {
            slot: slot.0,
            incarnation: incarnation.0,
            phase: phase.0,
            release: Text(release.clone()),
            stage: match stage {
                Stage::Spawn => SavedStage::Spawn,
                Stage::Directory => SavedStage::Directory,
                Stage::Hook => SavedStage::Hook,
                Stage::Exec => SavedStage::Exec,
                Stage::Ready => SavedStage::Ready,
                Stage::Check => SavedStage::Check,
                Stage::Soak => SavedStage::Soak,
            },
            message: message.clone(),
            exit: exit.map(|exit| match exit {
                ExitStatus::Code(code) => SavedExit::Code(code),
                ExitStatus::Signal(signal) => SavedExit::Signal(signal),
            }),
            millis: *millis,
            output: Text(output.clone()),
            release_gone: *release_gone,
        }
    }
}

impl From<&SavedReport> for BootReport {
    fn from(saved: &SavedReport) -> Self {
        let SavedReport { slot, incarnation, phase, release, stage, message, exit, millis, output, release_gone } =
            saved;
        Self {
            slot: Slot(*slot),
            incarnation: Incarnation(*incarnation),
            phase: Phase(*phase),
            release: release.0.clone(),
            stage: match stage {
                SavedStage::Spawn => Stage::Spawn,
                SavedStage::Directory => Stage::Directory,
                SavedStage::Hook => Stage::Hook,
                SavedStage::Exec => Stage::Exec,
                SavedStage::Ready => Stage::Ready,
                SavedStage::Check => Stage::Check,
                SavedStage::Soak => Stage::Soak,
            },
            message: message.clone(),
            exit: exit.map(|exit| match exit {
                SavedExit::Code(code) => ExitStatus::Code(code),
                SavedExit::Signal(signal) => ExitStatus::Signal(signal),
            }),
            millis: *millis,
            output: output.0.clone(),
            release_gone: *release_gone,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tail_begins_with_a_line_or_a_character() {
        assert_eq!(tail(b"one\ntwo\n", 100), b"one\ntwo\n");
        assert_eq!(tail(b"one\ntwo\n", 4), b"two\n");
        assert_eq!(tail(b"one\ntwo\n", 6), b"two\n");
        assert_eq!(tail(b"one\ntwo", 2), b"wo");
        assert_eq!(tail("lang\u{e4}\n".as_bytes(), 2), b"\n");
        assert_eq!(tail(b"", 2), b"");
        assert_eq!(tail(&[0x80; 9], 5), &[0x80; 2], "whatever it is, not more than a character is lost");
    }
}
