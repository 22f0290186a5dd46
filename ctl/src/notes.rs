//! What a person should know beside the figures, for `status` and `stats` alike: what `dir` names other than what serves,
//! and what waits for somebody.

use std::time::SystemTime;

use proto::control::{Confirm, Refused, Rollout, Stats};

use crate::clean::clean;
use crate::render::{age, ending, inline, left, text};

/// `dir` names something else than the known-good release.
pub(crate) struct Drift<'a> {
    /// What.
    pub(crate) target: &'a [u8],
    /// Where it is met already.
    pub(crate) known: Option<&'static str>,
    /// That it was refused.
    pub(crate) refused: Option<&'a Refused>,
}

/// What `dir` names, if that can be resolved and is not the known-good release.
pub(crate) fn drift(s: &Stats) -> Option<Drift<'_>> {
    let target = s.dir_target.as_deref().filter(|target| *target != s.release)?;
    let known = match &s.rollout {
        Some(r) if r.to == target => Some(if is_rehearsal(r) { "rehearsed now" } else { "the candidate" }),
        _ if s.held.as_deref() == Some(target) => Some("held"),
        _ => None,
    };
    let refused = s.refused.iter().find(|r| r.release == target);
    Some(Drift { target, known, refused })
}

/// Why a release was refused, in one line.
pub(crate) fn why(refused: &Refused) -> String {
    let none = || "no boot failure: it was rolled back, interrupted or never confirmed".into();
    refused.report.as_deref().map_or_else(none, |report| inline(&ending(report)))
}

/// Since when it is refused.
pub(crate) fn refused(refused: &Refused, now: SystemTime) -> String {
    format!("refused {} ago", age(refused.at, now))
}

/// What happens unless somebody confirms.
pub(crate) fn confirm(confirm: &Confirm, now: SystemTime) -> String {
    format!("within {} or it is rolled back to {}", left(confirm.until, now), text(&confirm.back_to))
}

/// Whether nothing is rolled out.
pub(crate) fn is_rehearsal(r: &Rollout) -> bool {
    r.kind == "rehearsal"
}

/// Whether the rollout finds out about its candidate and has touched no slot yet: then no worker of the candidate's phase
/// has a seat.
pub(crate) fn is_scouting(r: &Rollout) -> bool {
    is_rehearsal(r) || matches!(r.state.as_str(), "hook" | "rehearsing")
}

/// How the running rollout stands, where the state does not say it already.
pub(crate) fn detail(s: &Stats) -> Option<String> {
    let r = s.rollout.as_ref()?;
    match r.state.as_str() {
        _ if is_rehearsal(r) => Some(format!("rehearsing {}", text(&r.to))),
        "paused" => Some(format!("paused after {} of {} slots, ctl resume goes on", r.step, r.of)),
        word if word == s.state => None,
        word => Some(clean(word)),
    }
}
