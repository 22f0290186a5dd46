//! `ctl releases`: which release directories a site knows, and what for. A script that prunes old ones asks for those in use.

use std::collections::BTreeMap;

use proto::control::Stats;
use proto::worker::Bytes;
use serde::Serialize;

use crate::exit::Failure;
use crate::render::text;

/// A release and what it is for, the most important thing first.
#[derive(Debug, Serialize)]
pub(crate) struct Release {
    #[serde(serialize_with = "lossy")]
    pub(crate) release: Bytes,
    /// It must not be deleted.
    pub(crate) in_use: bool,
    pub(crate) roles: Vec<String>,
}

fn lossy<S: serde::Serializer>(bytes: &Bytes, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&proto::json::text(bytes))
}

/// Every release that the master knows of: in the order of their first roles, then by name. In use is what runs, what respawns
/// use, what `dir` names, and what a rollback would go back to.
pub(crate) fn known(s: &Stats) -> Vec<Release> {
    let mut all: Vec<Release> = Vec::new();
    let mut add = |release: &Bytes, role: &str, in_use: bool| match all.iter_mut().find(|r| r.release == *release) {
        Some(known) => {
            known.in_use |= in_use;
            if !known.roles.iter().any(|r| r == role) {
                known.roles.push(role.into());
            }
        }
        None => all.push(Release { release: release.clone(), in_use, roles: vec![role.into()] }),
    };
    add(&s.release, "known-good", true);
    if let Some(held) = &s.held {
        add(held, "held", true);
    }
    if let Some(rollout) = &s.rollout {
        add(&rollout.to, "candidate", true);
        add(&rollout.from, "rolls-back-to", true);
    }
    if let Some(dir) = &s.dir_target {
        add(dir, "dir", true);
    }
    if let Some(confirm) = &s.confirm {
        add(&confirm.back_to, "rolls-back-to", true);
    }
    let mut serves: BTreeMap<&Bytes, ()> = BTreeMap::new();
    // Also of a worker that was killed: its app may still drain.
    for worker in &s.worker_status {
        serves.insert(&worker.release, ());
    }
    for release in serves.into_keys() {
        add(release, "running", true);
    }
    let mut previous = s.previous.iter().rev();
    if let Some(next) = previous.next() {
        add(next, "previous", true);
    }
    for earlier in previous {
        add(earlier, "earlier", false);
    }
    for refused in s.refused.iter().rev() {
        add(&refused.release, "refused", false);
    }
    all
}

/// What a directory is for, if the master knows it.
pub(crate) fn role(all: &[Release], dir: &[u8]) -> Option<String> {
    all.iter().find(|release| *release.release == *dir).map(|release| release.roles.join(", "))
}

/// One a line, for people.
pub(crate) fn table(all: &[Release]) -> String {
    let mut out = String::new();
    for release in all {
        let unused = if release.in_use { "" } else { " (not in use)" };
        out.push_str(&format!("{}  {}{unused}\n", text(&release.release), release.roles.join(", ")));
    }
    out
}

/// One path a line and nothing else, of those in use, for scripts.
///
/// # Errors
/// When one of them is no text, or has a line end or the like in it: a script would take it for another one, and delete it.
pub(crate) fn lines(all: &[Release]) -> Result<String, Failure> {
    let mut out = String::new();
    for release in all.iter().filter(|release| release.in_use) {
        match std::str::from_utf8(&release.release) {
            Ok(path) if !path.chars().any(char::is_control) => {
                out.push_str(path);
                out.push('\n');
            }
            _ => {
                let path = text(&release.release).replace('\n', "^J");
                let message = format!("{path} cannot be told on a line: nothing is printed, lest it be deleted");
                return Err(Failure::other(message));
            }
        }
    }
    Ok(out)
}

/// As JSON.
#[derive(Serialize)]
pub(crate) struct Document<'a> {
    ok: bool,
    releases: Vec<&'a Release>,
}

impl<'a> Document<'a> {
    /// Those in use, or all of them.
    pub(crate) fn new(all: &'a [Release], in_use: bool) -> Self {
        Self { ok: true, releases: all.iter().filter(|release| release.in_use || !in_use).collect() }
    }
}
