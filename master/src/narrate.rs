//! The mind's words for people: log lines, progress, answers.

use std::time::Duration;

use proto::control::{Code, Fact, LastRollout, Reply};
use proto::worker::{BootReport, ExitStatus};
use rollout::{Action, Answer, Cold, Ended, Exit, Kind, Note, Outcome, Pending, Reason, ReleaseId, Role};

use crate::release::Releases;
use crate::state::Refusal;

/// A line, and how much it matters.
pub(crate) enum Line {
    Info(String),
    Warn(String),
    Error(String),
}

impl Line {
    pub(crate) fn text(&self) -> &str {
        match self {
            Self::Info(text) | Self::Warn(text) | Self::Error(text) => text,
        }
    }

    /// Says more.
    pub(crate) fn add(&mut self, more: &str) {
        match self {
            Self::Info(text) | Self::Warn(text) | Self::Error(text) => text.push_str(more),
        }
    }

    pub(crate) fn log(&self) {
        match self {
            Self::Info(text) => tracing::info!("{text}"),
            Self::Warn(text) => tracing::warn!("{text}"),
            Self::Error(text) => tracing::error!("{text}"),
        }
    }
}

/// What a note is about, as far as the body knows it.
pub(crate) struct Subject {
    pub(crate) slot: u32,
    /// "slot 3", "rehearsal", "before-rollout".
    pub(crate) seat: String,
    pub(crate) release: String,
    pub(crate) seconds: f64,
    pub(crate) evidence: String,
    /// "its app holds 612 MiB"
    pub(crate) why_recycled: String,
    /// "stage ready: exited with status 1 after 0.83s"
    pub(crate) failure: String,
    /// "killed by SIGKILL after 12.00s"
    pub(crate) ending: String,
}

impl Subject {
    /// How a report ends, in both forms.
    pub(crate) fn endings(report: Option<&BootReport>) -> (String, String) {
        report.map_or_else(|| ("no report".into(), "nobody knows how".into()), |r| (failure(r), ending(r)))
    }
}

/// A note as a line.
pub(crate) fn note(note: &Note, releases: &Releases, about: impl Fn(proto::Incarnation) -> Subject) -> Line {
    let shown = |r: &ReleaseId| releases.shown(*r);
    match note {
        Note::ZeroReady => Line::Warn(
            "one worker and surge 0: zero workers are ready until the new one is; connections wait meanwhile".into(),
        ),
        Note::ExtraInstance => Line::Warn(
            "surge 0: the rehearsal is one instance more than --workers, until it is over (--no-rehearse goes without)"
                .into(),
        ),
        Note::RefusedBefore(release) => {
            Line::Warn(format!("trying {} all the same, which was refused before", shown(release)))
        }
        Note::Scouting { worker, role } => Line::Info(match role {
            Role::Rehearse => format!("rehearsing {} off-traffic", about(*worker).release),
            other => format!("running {other} in {}", about(*worker).release),
        }),
        Note::Scouted { worker, role } => {
            let s = about(*worker);
            Line::Info(match role {
                Role::Rehearse => {
                    format!("rehearsal passed: {} ready after {:.2}s ({})", s.release, s.seconds, s.evidence)
                }
                other => format!("{other} done after {:.2}s", s.seconds),
            })
        }
        Note::HookFailed { worker, role } => {
            Line::Error(format!("the {role} hook failed, which changes nothing: {}", about(*worker).failure))
        }
        Note::CanarySoaking { slots, soak } => {
            let s = if *slots == 1 { "" } else { "s" };
            Line::Info(format!("{slots} canary slot{s} through; watching for {}", seconds(*soak)))
        }
        Note::Paused => Line::Info("paused; `ctl resume` goes on, `ctl abort` goes back".into()),
        Note::Resumed => Line::Info("resumed".into()),
        Note::Confirming { release, within } => Line::Warn(format!(
            "{} is rolled back unless `ctl confirm` comes within {}",
            shown(release),
            seconds(*within)
        )),
        Note::NotConfirmed(release) => Line::Error(format!(
            "{} was never confirmed, and is replaced: no confirm is waited for any more",
            shown(release)
        )),
        Note::Unconfirmed(release) => Line::Error(format!("nobody confirmed {} in time: rolling back", shown(release))),
        Note::Recycling { worker } => {
            let s = about(*worker);
            Line::Info(format!("slot {}: replacing its worker: {}", s.slot, s.why_recycled))
        }
        Note::RecycleLater { worker, after } => {
            let s = about(*worker);
            Line::Warn(format!(
                "slot {}: {}, as the one before it did; it is replaced in {} (does the app fit into --max-memory?)",
                s.slot,
                s.why_recycled,
                seconds(*after)
            ))
        }
        Note::RecycleFailed { worker, retry } => {
            let s = about(*worker);
            Line::Error(format!(
                "slot {}: the old worker stays, for the one that was to replace it did not boot, {}; next try in {}",
                s.slot,
                s.failure,
                seconds(*retry)
            ))
        }
        Note::ColdStart { release, why } => Line::Error(match why {
            Cold::Refused(dir) => {
                format!(
                    "starting the known-good release {}: {} was refused or never confirmed",
                    shown(release),
                    shown(dir)
                )
            }
            Cold::Dangling => format!("starting the known-good release {}: dir names none", shown(release)),
            Cold::Gone(lost) => {
                format!("starting {}: the directory of the known-good release {} is gone", shown(release), shown(lost))
            }
            Cold::NothingBefore => {
                format!("starting {}, which was never confirmed: nothing that was good before is left", shown(release))
            }
            Cold::Unconfirmed(dir) => {
                format!("going back to {}: {} was promoted and never confirmed", shown(release), shown(dir))
            }
        }),
        Note::Trial(release) => Line::Info(format!(
            "dir names {}, which is not the known-good release: it begins on one slot alone",
            shown(release)
        )),
        Note::TrialFailed { release, instead, .. } => Line::Error(format!(
            "unable to boot with new codebase ({}): starting the known-good release {} (ctl report)",
            shown(release),
            shown(instead)
        )),
        Note::SlotReady { worker, step, of } => {
            let s = about(*worker);
            Line::Info(format!(
                "slot {}: {} ready after {:.2}s ({}), {step} of {of}",
                s.slot, s.release, s.seconds, s.evidence
            ))
        }
        Note::Ready { worker } => {
            let s = about(*worker);
            Line::Info(format!("slot {}: {} ready after {:.2}s ({})", s.slot, s.release, s.seconds, s.evidence))
        }
        Note::Soaking(soak) => Line::Info(format!("all workers ready; soaking for {}", seconds(*soak))),
        Note::Promoted(release) => Line::Info(format!("promoted {}", shown(release))),
        Note::Held(release) => Line::Info(format!("holding {}: not promoted until `ctl reload-dir`", shown(release))),
        Note::RollingBack { failed, put_back } => {
            let why = match failed {
                Some(worker) => format!("{} failed", about(*worker).seat),
                None => "asked to".into(),
            };
            let what = match put_back {
                0 => "no worker has to be put back".into(),
                1 => "1 worker is put back".into(),
                n => format!("{n} workers are put back"),
            };
            Line::Warn(format!("aborting ({why}): {what}"))
        }
        Note::BootFailed { worker, retry } => {
            let s = about(*worker);
            let then = retry.map_or_else(String::new, |d| format!("; next try in {}", seconds(d)));
            let failed = if s.seat.starts_with("slot") { "did not boot" } else { "failed" };
            Line::Error(format!("{}: {} {failed}, {}{then}", s.seat, s.release, s.failure))
        }
        Note::Crashed { worker, retry } => {
            let s = about(*worker);
            let then = match retry {
                None => String::new(),
                Some(Duration::ZERO) => "; respawning".into(),
                Some(delay) => format!("; respawning in {}", seconds(*delay)),
            };
            Line::Error(format!("slot {}: {} died: {}{then}", s.slot, s.release, s.ending))
        }
        Note::Fallback { slot, release } => Line::Error(format!(
            "slot {slot}: the known-good release directory is gone; trying {} instead",
            shown(release)
        )),
        Note::NoFallback { slot, release: Some(release) } => Line::Error(format!(
            "slot {slot}: the known-good release directory is gone, and {} cannot stand in for it (it was refused, or \
             is the one that is gone); deploy a release that boots",
            shown(release)
        )),
        Note::NoFallback { slot, release: None } => Line::Error(format!(
            "slot {slot}: the known-good release directory is gone and dir does not resolve; deploy a release"
        )),
        Note::Degraded => Line::Error("degraded: not every slot serves what it should (ctl status, ctl report)".into()),
        Note::Recovered => Line::Info("recovered: every slot is served again".into()),
        Note::RenewingListeners => {
            Line::Error("an app shut a Unix listening socket down: bound anew, all workers are replaced".into())
        }
        Note::Adopted { serving, ending } => {
            let rest = if *ending > 0 { format!("; {ending} more are ending") } else { String::new() };
            let s = if *serving == 1 { "" } else { "s" };
            Line::Info(format!("adopted {serving} worker{s} of an earlier master{rest}"))
        }
        Note::Interrupted { to, put_back } => Line::Error(format!(
            "the last master ended in a rollout of {}: undone, {put_back} workers have to be put back",
            shown(to)
        )),
    }
}

/// What is known of an earlier refusal.
pub(crate) fn refusal_before(refusal: &Refusal) -> String {
    let at = proto::json::time(refusal.at);
    match &refusal.report {
        Some(report) => {
            format!(" ({at}: slot {}, {}; what it printed: ctl stats --json)", report.slot, failure(report))
        }
        None => format!(" ({at})"),
    }
}

/// What becomes of a promotion that nobody confirms.
pub(crate) fn pending(pending: Pending, releases: &Releases) -> String {
    let (within, back) = (seconds(pending.within), releases.shown(pending.back));
    format!("; without `ctl confirm` within {within} it is rolled back to {back}")
}

/// How a rehearsal ended.
pub(crate) fn rehearsed(ended: &Ended, release: &str, took: Duration) -> (Code, String) {
    match ended.outcome {
        Outcome::Promoted => (Code::Done, format!("{release} has passed its rehearsal ({:.2}s)", took.as_secs_f64())),
        _ if ended.stopped => (Code::Failed, "master stopped".into()),
        _ if ended.failed.is_none() => (Code::Aborted, "the rehearsal was aborted; nothing was changed".into()),
        _ => (Code::Aborted, format!("{release} failed its rehearsal; nothing was changed")),
    }
}

/// `0.5s`, `2s`, `1m 30s`.
fn seconds(duration: Duration) -> String {
    if duration < Duration::from_secs(60) {
        format!("{}s", duration.as_secs_f64())
    } else {
        humantime::format_duration(duration).to_string()
    }
}

/// A failure in one line.
pub(crate) fn failure(report: &BootReport) -> String {
    format!("stage {}: {}", report.stage, ending(report))
}

/// "exited with status 1 after 0.83s"; a sentence that is no end of a process stands for itself.
fn ending(report: &BootReport) -> String {
    let seconds = report.millis as f64 / 1000.0;
    match report.exit {
        Some(_) => format!("{} after {seconds:.2}s", report.message),
        None => format!("{} (after {seconds:.2}s)", report.message),
    }
}

/// "exited with status 1", "killed by SIGSEGV".
pub(crate) fn exit(status: ExitStatus) -> String {
    match status {
        ExitStatus::Code(code) => format!("exited with status {code}"),
        ExitStatus::Signal(number) => match nix::sys::signal::Signal::try_from(number) {
            Ok(signal) => format!("killed by {signal}"),
            Err(_) => format!("killed by signal {number}"),
        },
    }
}

/// Why a master ends, in a word.
pub(crate) fn exit_word(exit: Exit) -> &'static str {
    match exit {
        Exit::Stopped => "stopped",
        Exit::NothingBoots => "nothing-boots",
        Exit::Detached => "detached",
        Exit::Upgraded => "upgraded",
    }
}

/// What the end of a rollout is called in one line.
pub(crate) fn ended(ended: &Ended, kind: Kind, from: &str, to: &str, releases: &Releases) -> (Code, String) {
    if ended.stopped && matches!(ended.outcome, Outcome::Aborted) {
        return (Code::Failed, "master stopped".into());
    }
    match (ended.outcome, kind) {
        (_, Kind::Rehearsal) => rehearsed(ended, to, Duration::ZERO),
        (Outcome::Promoted, Kind::Restart) => (Code::Done, "restarted".into()),
        (Outcome::Promoted, Kind::Rollback) => (Code::Done, format!("rolled back to {to}")),
        (Outcome::Promoted, Kind::PhasedRestart) => (Code::Done, format!("promoted {to}")),
        (Outcome::Held, _) => {
            (Code::Done, format!("holding {to}: `ctl reload-dir` promotes it, `ctl rollback` goes back to {from}"))
        }
        (Outcome::Aborted, Kind::Restart) => (
            Code::Aborted,
            match ended.failed {
                Some(_) => format!("the new worker did not boot, the old one stays ({from})"),
                None => format!("restart aborted, the old worker stays ({from})"),
            },
        ),
        (Outcome::Aborted, _) => {
            let what = match ended.failed {
                Some(_) => format!("unable to boot with new codebase, using old one ({from})"),
                None => format!("aborted, using old code ({from})"),
            };
            match ended.mixed_with {
                Some(held) => {
                    let held = releases.shown(held);
                    (Code::Aborted, format!("{what}; slots that were not replaced keep the held release {held}"))
                }
                None => (Code::Aborted, what),
            }
        }
        (Outcome::Degraded, Kind::Restart) => (
            Code::Degraded,
            format!(
                "the slot has no worker: the new one did not boot; retries go on with {from} (ctl stats, ctl report)"
            ),
        ),
        (Outcome::Degraded, _) => (
            Code::Degraded,
            match ended.failed {
                Some(_) => format!(
                    "unable to boot with new codebase, and the old one ({from}) does not serve every slot any more; \
                     what serves keeps serving, retries go on (ctl stats, ctl report)"
                ),
                None => format!(
                    "the old code ({from}) does not serve every slot; what serves keeps serving, retries go on \
                     (ctl stats, ctl report)"
                ),
            },
        ),
    }
}

/// How a rollout has ended, to somebody who asks later: the master has been another one since.
pub(crate) fn ended_before(rollout: &LastRollout) -> (Code, String) {
    let (from, to) = (String::from_utf8_lossy(&rollout.from), String::from_utf8_lossy(&rollout.to));
    match rollout.outcome.as_str() {
        "promoted" => (Code::Done, format!("promoted {to}")),
        "held" => (Code::Done, format!("held: {to} serves, and {from} stays known-good")),
        "degraded" => (Code::Degraded, format!("{to} was undone, and {from} does not serve every slot (ctl stats)")),
        _ => (Code::Aborted, format!("unable to boot with new codebase, using old one ({from})")),
    }
}

/// A refused command.
pub(crate) fn refusal(reason: &Reason, releases: &Releases) -> (Code, String) {
    let shown = |r: &ReleaseId| releases.shown(*r);
    match reason {
        Reason::BusyRollout { id, kind, to } => {
            (Code::Busy, format!("busy: {kind} {id} to {} runs (ctl stats shows it, ctl abort ends it)", shown(to)))
        }
        Reason::BusyStarting => (Code::Busy, "busy: the first start is not over".into()),
        Reason::Stopping => (Code::Failed, "the master is stopping".into()),
        Reason::NoBudget => (
            Code::Usage,
            "--surge 0 needs --max-unavailable 1 or more: with neither, no worker could ever be replaced".into(),
        ),
        Reason::HoldAndConfirm => (
            Code::Usage,
            "--hold and --confirm-within exclude each other: what is held is not promoted until reload-dir".into(),
        ),
        Reason::RefusedBefore(release) => (
            Code::Aborted,
            format!("{} was refused before; deploy another release, or try it again without --if-new", shown(release)),
        ),
        Reason::NothingToPause => (Code::Failed, "nothing to pause: no rollout runs".into()),
        Reason::TooLateToPause => (
            Code::Failed,
            "nothing to pause: the rollout is decided, and only what is replaced ends (ctl stats)".into(),
        ),
        Reason::NotPaused => (Code::Failed, "nothing to resume: no rollout is paused".into()),
        Reason::PauseOver => (Code::Failed, "not paused: the rollout goes on, or is being undone (ctl stats)".into()),
        Reason::NothingToConfirm => (Code::Failed, "nothing to confirm: no promotion waits for it".into()),
        Reason::NothingToAbort => {
            (Code::Failed, "nothing to abort: no rollout runs (use rollback to go back to an earlier release)".into())
        }
        Reason::NotRunning(run) => (Code::Failed, format!("rollout {run} does not run (ctl stats)")),
        Reason::BusyHook => {
            (Code::Busy, "busy: a hook of the last rollout still runs, and would end with this master".into())
        }
        Reason::NoOrphans => (
            Code::Failed,
            "--orphan-timeout is 0: the workers would end with this master; use `ctl stop`, or restart it".into(),
        ),
        Reason::AlreadyPromoted => {
            (Code::Failed, "nothing to abort: the release is in force and only old workers drain (use rollback)".into())
        }
        Reason::NothingBefore => {
            (Code::Failed, "nothing to roll back to: no release was promoted before this one".into())
        }
        Reason::TargetGone(release) => {
            (Code::Failed, format!("cannot roll back: the directory {} is gone", shown(release)))
        }
        Reason::HeldOther { held, named } => (
            Code::Failed,
            format!(
                "dir names {}, but {} is held; give the directory that you mean: ctl reload-dir DIR",
                shown(named),
                shown(held)
            ),
        ),
        Reason::NoSuchSlot { workers } => {
            (Code::Failed, format!("there is no such slot: slots are 0 to {}", workers.saturating_sub(1)))
        }
        Reason::WorkersOutOfRange { wanted } => {
            (Code::Failed, format!("cannot scale to {wanted} workers: 1 to {} are possible", rollout::MAX_WORKERS))
        }
        Reason::TooFewReady { ready, needed } => (
            Code::Failed,
            format!("cannot scale down: {ready} workers would be ready, {needed} are needed; wait or mend them first"),
        ),
        Reason::ScaleFailed { .. } => {
            (Code::Degraded, "a new worker does not boot; retries go on (ctl stats, ctl report)".into())
        }
    }
}

/// An answer that is the same for everybody, as a reply.
pub(crate) fn answer(answer: &Answer, releases: &Releases) -> Option<Reply> {
    let shown = |r: &ReleaseId| releases.shown(*r);
    let text = |key: &str, release: &ReleaseId| (key.to_string(), Fact::Text(releases.shown(*release)));
    Some(match answer {
        Answer::Pinned { old, new } => Reply::Done {
            message: format!("old: {}\nnew: {}", releases.shown(*old), releases.shown(*new)),
            facts: vec![text("old", old), text("new", new)],
        },
        Answer::Scaled { from, to } => Reply::Done {
            message: format!("{to} workers (before: {from})"),
            facts: vec![("workers".into(), Fact::Number(u64::from(*to)))],
        },
        Answer::Stopped => Reply::Done { message: "master stopped".into(), facts: Vec::new() },
        Answer::Upgrading => Reply::Accepted { message: "the new program takes over".into(), rollout: None },
        Answer::Detached => Reply::Done { message: "detached: the workers serve on".into(), facts: Vec::new() },
        Answer::Aborted(ended) if matches!(ended.outcome, Outcome::Degraded) => Reply::Error {
            code: Code::Degraded,
            message: "aborted, and the old code does not serve every slot; retries go on (ctl stats)".into(),
            report: None,
        },
        Answer::Aborted(ended) if ended.stopped => {
            Reply::Error { code: Code::Failed, message: "master stopped".into(), report: None }
        }
        Answer::Aborted(_) => Reply::Done { message: "aborted; the old code serves".into(), facts: Vec::new() },
        Answer::Refused(reason) => {
            let (code, message) = refusal(reason, releases);
            Reply::Error { code, message, report: None }
        }
        Answer::Paused { step, of } => Reply::Done {
            message: format!("paused: {step} of {of} slots are through; `ctl resume` goes on, `ctl abort` goes back"),
            facts: vec![("step".into(), Fact::Number(u64::from(*step))), ("of".into(), Fact::Number(u64::from(*of)))],
        },
        Answer::Resumed => Reply::Done { message: "resumed".into(), facts: Vec::new() },
        Answer::Confirmed(release) => {
            Reply::Done { message: format!("confirmed {}", shown(release)), facts: vec![text("release", release)] }
        }
        Answer::NothingNew(release) => Reply::Done {
            message: format!("nothing new: {} runs already", shown(release)),
            facts: vec![text("release", release)],
        },
        Answer::Accepted { .. } | Answer::RolloutEnded(_) | Answer::Rehearsed(_) => return None,
    })
}

/// The trace's text of one step.
pub(crate) fn step(event: &rollout::Event, actions: &[Action]) -> String {
    use std::fmt::Write;
    let mut text = format!("> {event}\n");
    for action in actions {
        let _ = writeln!(text, "< {action}");
    }
    text
}
