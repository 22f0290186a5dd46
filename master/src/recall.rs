//! What is found again at a start: the state folder's contents, as a mind that begins where another one ended.

use std::fmt::Write;
use std::path::Path;

use anyhow::{Result, anyhow, bail};
use proto::control::LastRollout;
use rollout::{Kind, Memory, Outcome, ReleaseId, Rollout, Unstartable};

use crate::release::{self, Releases};
use crate::settings::Site;
use crate::state::{Extra, Saved, State};
use crate::timers::unix_millis;

/// Everything that a start goes by.
pub(crate) struct Recalled {
    pub(crate) state: State,
    pub(crate) extra: Extra,
    pub(crate) releases: Releases,
    pub(crate) mind: Rollout,
    /// A rollout that the last master did not bring to its end.
    pub(crate) interrupted: Option<LastRollout>,
    /// What the mind was made of, for the trace.
    pub(crate) origin: String,
}

impl Recalled {
    /// Recalls what the last master knew, looks at what `dir` names now, and makes the mind of it. `served` is what a
    /// worker that has outlived the last master serves.
    ///
    /// # Errors
    /// When nothing is left that may be started, saying why and what to do.
    pub(crate) fn new(site: &Site, state: State, saved: Option<Saved>, served: Option<&Path>) -> Result<Self> {
        let mut releases = Releases::default();
        let named = release::resolve(&site.dir);
        // Numbered first, so that it is r0 wherever nothing is remembered.
        let dir = named.as_deref().ok().map(|path| releases.id(path));
        let (memory, extra) = match &saved {
            Some(saved) => saved.memory(&mut releases),
            None => (Memory::default(), Extra::default()),
        };
        let under_way = memory.run.clone();
        let remembered = memory.known_good.iter().map(|code| code.release).chain(memory.previous.iter().copied());
        let gone: Vec<ReleaseId> = remembered.filter(|r| releases.is_gone(*r)).collect();
        let mut origin = String::new();
        if saved.is_some() {
            let _ = writeln!(origin, "memory {memory}");
            let _ = dir.map(|dir| writeln!(origin, "dir {dir}"));
            let _ = gone.iter().try_for_each(|gone| writeln!(origin, "gone {gone}"));
        }
        let refused = |release: ReleaseId| {
            let why = extra.refusals.get(&release).and_then(|r| r.report.as_ref());
            why.map_or_else(String::new, |report| format!(" ({})", crate::narrate::failure(report)))
        };
        let restored = Rollout::restore(site.settings.clone(), memory.clone(), dir, &gone);
        let mind = match (restored, named) {
            (Err(_), _) if let Some(served) = served => {
                Rollout::reopen(site.settings.clone(), memory, releases.id(served))
            }
            (Ok(mind), Ok(_)) => mind,
            (Ok(mind), Err(error)) => {
                tracing::error!("{error:#}");
                mind
            }
            (Err(Unstartable::NothingNamed), named) => {
                return Err(named.err().unwrap_or_else(|| anyhow!("no release is left to start")));
            }
            (Err(Unstartable::OnlyRefused(release)), _) => bail!(
                "{} was refused{}, and no known-good release is left; point {} to another release, or, to try this one all \
                 the same, remove {}",
                releases.shown(release),
                refused(release),
                site.dir.display(),
                state.folder().unwrap_or(Path::new("the state folder")).join("state.json").display()
            ),
        };
        let interrupted = under_way.filter(|run| run.kind != Kind::Restart).map(|run| LastRollout {
            id: run.id,
            kind: run.kind.to_string(),
            from: releases.bytes(run.from.release),
            to: releases.bytes(run.to.release),
            phase: run.to.phase,
            outcome: Outcome::Aborted.to_string(),
            ended_at: unix_millis(),
            millis: 0,
            report: None,
        });
        Ok(Self { state, extra, releases, mind, interrupted, origin })
    }
}
