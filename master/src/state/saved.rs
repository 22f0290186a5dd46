//! The contents of `state.json`.
//!
//! The types are none of the wire's and none of the mind's, so that both may change while a file of today can still be
//! read tomorrow; [`VERSION`] says which form a file has. Releases stand in it by their paths, for the numbers by
//! which the mind knows them are this process's own. People may read it, and nobody has to.

mod report;
mod text;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use proto::control::{LastRollout, UnixMillis};
use proto::worker::BootReport;
use proto::{Phase, Surge};
use rollout::{Code, Kind, Memory, Pending, ReleaseId, RunMemory};
use serde::{Deserialize, Serialize};

use self::report::{SavedReport, SavedRollout};
use self::text::Text;
use crate::release::Releases;

/// The form of the file. A file of another one is set aside.
const VERSION: u64 = 1;

/// What the body remembers beyond the mind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Extra {
    /// When and why the releases of [`Memory::refused`] were refused, as far as it is known.
    pub(crate) refusals: BTreeMap<ReleaseId, Refusal>,
    /// The rollout that ended last.
    pub(crate) last_rollout: Option<LastRollout>,
    /// When [`Memory::pending`] is over.
    pub(crate) confirm_until: Option<UnixMillis>,
}

impl Extra {
    /// The failure that was reported last, as far as it is remembered.
    pub(crate) fn last_report(&self) -> Option<&BootReport> {
        let of_rollout = self.last_rollout.as_ref().and_then(|rollout| rollout.report.as_deref());
        let refused =
            self.refusals.values().max_by_key(|refusal| refusal.at).and_then(|refusal| refusal.report.as_ref());
        of_rollout.or(refused)
    }
}

/// How a release was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// When.
    pub(crate) at: UnixMillis,
    /// Why, where a worker's failure was the reason; the end of its output alone, for there may be many of them.
    pub(crate) report: Option<BootReport>,
}

impl Refusal {
    /// A release is refused now, because of this failure.
    pub(crate) fn new(why: Option<&BootReport>) -> Self {
        Self { at: crate::timers::unix_millis(), report: why.map(report::cut) }
    }
}

/// Everything that is remembered, free of this process's own numbers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Saved {
    known_good: Option<SavedCode>,
    previous: Vec<Text>,
    held: Option<SavedCode>,
    confirm: Option<SavedConfirm>,
    rollout: Option<SavedRun>,
    next_phase: u32,
    next_rollout: u64,
    /// Not in the files of earlier masters, like the next one.
    #[serde(default)]
    next_incarnation: u64,
    #[serde(default)]
    fell_back: bool,
    /// How many workers were asked for, and how many a `scale` has made of them.
    scaled: Option<(u32, u32)>,
    refused: Vec<SavedRefusal>,
    last_rollout: Option<SavedRollout>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct SavedCode {
    release: Text,
    phase: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct SavedConfirm {
    back_to: Text,
    within: Duration,
    until: Option<UnixMillis>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct SavedRefusal {
    release: Text,
    at: Option<UnixMillis>,
    report: Option<SavedReport>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct SavedRun {
    id: u64,
    kind: SavedKind,
    from: SavedCode,
    to: SavedCode,
    hold: bool,
    surge: SavedSurge,
    max_unavailable: u32,
    soak: Duration,
    canary: u32,
    canary_soak: Duration,
    confirm_within: Option<Duration>,
    #[serde(default)]
    by_itself: bool,
    #[serde(default)]
    finish: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum SavedKind {
    PhasedRestart,
    Rollback,
    Restart,
    Rehearsal,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum SavedSurge {
    Count(u32),
    Percent(u32),
}

/// The file as it is written.
#[derive(Serialize)]
struct File<'a> {
    version: u64,
    dir: Text,
    #[serde(flatten)]
    saved: &'a Saved,
}

/// What tells whether the rest is for us.
#[derive(Deserialize)]
struct Version {
    version: u64,
}

#[derive(Deserialize)]
struct Dir {
    dir: Text,
}

impl Saved {
    /// What the mind (`memory`) and the body (`extra`) want to find again.
    pub(crate) fn new(memory: &Memory, releases: &Releases, extra: &Extra) -> Self {
        let path = |id: ReleaseId| Text(releases.bytes(id));
        let code = |code: Code| SavedCode { release: path(code.release), phase: code.phase.0 };
        // Whole, so that nothing new is forgotten here.
        let Memory {
            known_good,
            previous,
            held,
            refused,
            pending,
            run,
            next_phase,
            next_run,
            next_incarnation,
            fell_back,
            scaled,
        } = memory;
        Self {
            known_good: known_good.map(code),
            previous: previous.iter().copied().map(path).collect(),
            held: held.map(code),
            confirm: pending.map(|Pending { back, within }| SavedConfirm {
                back_to: path(back),
                within,
                until: extra.confirm_until,
            }),
            rollout: run.as_deref().map(|run| SavedRun {
                id: run.id,
                kind: run.kind.into(),
                from: code(run.from),
                to: code(run.to),
                hold: run.hold,
                surge: run.surge.into(),
                max_unavailable: run.max_unavailable,
                soak: run.soak,
                canary: run.canary,
                canary_soak: run.canary_soak,
                confirm_within: run.confirm_within,
                by_itself: run.by_itself,
                finish: run.finish,
            }),
            next_phase: *next_phase,
            next_rollout: *next_run,
            next_incarnation: *next_incarnation,
            fell_back: *fell_back,
            scaled: *scaled,
            refused: refused
                .iter()
                .map(|id| {
                    let refusal = extra.refusals.get(id);
                    let report = refusal.and_then(|refusal| refusal.report.as_ref());
                    SavedRefusal {
                        release: path(*id),
                        at: refusal.map(|refusal| refusal.at),
                        report: report.map(Into::into),
                    }
                })
                .collect(),
            last_rollout: extra.last_rollout.as_ref().map(Into::into),
        }
    }

    /// The same for this process: every release gets a number.
    pub(crate) fn memory(&self, releases: &mut Releases) -> (Memory, Extra) {
        let mut id = |text: &Text| releases.id(text.path());
        let mut extra = Extra {
            refusals: BTreeMap::new(),
            last_rollout: self.last_rollout.as_ref().map(Into::into),
            confirm_until: self.confirm.as_ref().and_then(|confirm| confirm.until),
        };
        let mut refused = Vec::new();
        for refusal in &self.refused {
            let release = id(&refusal.release);
            refused.push(release);
            if let Some(at) = refusal.at {
                let report = refusal.report.as_ref().map(Into::into);
                extra.refusals.insert(release, Refusal { at, report });
            }
        }
        let mut code = |code: &SavedCode| Code { release: id(&code.release), phase: Phase(code.phase) };
        let memory = Memory {
            known_good: self.known_good.as_ref().map(&mut code),
            held: self.held.as_ref().map(&mut code),
            run: self.rollout.as_ref().map(|run| {
                Box::new(RunMemory {
                    id: run.id,
                    kind: run.kind.into(),
                    from: code(&run.from),
                    to: code(&run.to),
                    hold: run.hold,
                    surge: run.surge.into(),
                    max_unavailable: run.max_unavailable,
                    soak: run.soak,
                    canary: run.canary,
                    canary_soak: run.canary_soak,
                    confirm_within: run.confirm_within,
                    by_itself: run.by_itself,
                    finish: run.finish,
                })
            }),
            previous: self.previous.iter().map(&mut id).collect(),
            pending: self
                .confirm
                .as_ref()
                .map(|confirm| Pending { back: id(&confirm.back_to), within: confirm.within }),
            refused,
            next_phase: self.next_phase,
            next_run: self.next_rollout,
            next_incarnation: self.next_incarnation,
            fell_back: self.fell_back,
            scaled: self.scaled,
        };
        (memory, extra)
    }

    /// The file's bytes, for the master of `dir`.
    ///
    /// # Errors
    /// None that are known; serde's own.
    pub(super) fn to_file(&self, dir: &Path) -> Result<Vec<u8>> {
        let mut bytes = serde_json::to_vec_pretty(&File { version: VERSION, dir: Text::from(dir), saved: self })?;
        bytes.push(b'\n');
        Ok(bytes)
    }

    /// Reads a file back, for the master of `dir`.
    ///
    /// # Errors
    /// Why it cannot be used.
    pub(super) fn from_file(bytes: &[u8], dir: &Path) -> Result<Self, String> {
        if bytes.is_empty() {
            return Err("it is empty".into());
        }
        let wrong = |error: serde_json::Error| match error.is_eof() {
            true => format!("it is cut off: {error}"),
            false => error.to_string(),
        };
        let Version { version } = serde_json::from_slice(bytes).map_err(wrong)?;
        if version != VERSION {
            return Err(format!("it has version {version}, and this master knows version {VERSION}"));
        }
        let Dir { dir: theirs } = serde_json::from_slice(bytes).map_err(wrong)?;
        if theirs.path() != dir {
            return Err(format!("it is the state of {}, not of {}", theirs.path().display(), dir.display()));
        }
        let saved: Self = serde_json::from_slice(bytes).map_err(wrong)?;
        if let Some(release) = saved.releases().find(|release| !release.path().is_absolute()) {
            return Err(format!("the release '{}' in it is no absolute path", release.path().display()));
        }
        Ok(saved)
    }

    fn releases(&self) -> impl Iterator<Item = &Text> {
        let codes = self.known_good.iter().chain(&self.held).chain(self.rollout.iter().flat_map(|r| [&r.from, &r.to]));
        let refused = self.refused.iter().map(|refusal| &refusal.release);
        let back = self.confirm.iter().map(|confirm| &confirm.back_to);
        codes.map(|code| &code.release).chain(&self.previous).chain(refused).chain(back)
    }
}

impl From<Kind> for SavedKind {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::PhasedRestart => Self::PhasedRestart,
            Kind::Rollback => Self::Rollback,
            Kind::Restart => Self::Restart,
            Kind::Rehearsal => Self::Rehearsal,
        }
    }
}

impl From<SavedKind> for Kind {
    fn from(kind: SavedKind) -> Self {
        match kind {
            SavedKind::PhasedRestart => Self::PhasedRestart,
            SavedKind::Rollback => Self::Rollback,
            SavedKind::Restart => Self::Restart,
            SavedKind::Rehearsal => Self::Rehearsal,
        }
    }
}

impl From<Surge> for SavedSurge {
    fn from(surge: Surge) -> Self {
        match surge {
            Surge::Count(n) => Self::Count(n),
            Surge::Percent(share) => Self::Percent(share),
        }
    }
}

impl From<SavedSurge> for Surge {
    fn from(surge: SavedSurge) -> Self {
        match surge {
            SavedSurge::Count(n) => Self::Count(n),
            SavedSurge::Percent(share) => Self::Percent(share),
        }
    }
}
