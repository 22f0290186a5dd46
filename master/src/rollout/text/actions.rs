//! What the mind says, as text.

use alloc::string::{String, ToString};
use core::fmt;
use core::time::Duration;

use super::Time;
use crate::action::{Action, Answer, Cold, Ended, Exit, Kind, Note, Outcome, Reason};
use crate::slot::Role;

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::PhasedRestart => "phased-restart",
            Self::Rollback => "rollback",
            Self::Restart => "restart",
            Self::Rehearsal => "rehearsal",
        })
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Promoted => "promoted",
            Self::Held => "held",
            Self::Aborted => "aborted",
            Self::Degraded => "degraded",
        })
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Serve => "serve",
            Self::Rehearse => "rehearsal",
            Self::BeforeRollout => "before-rollout",
            Self::OnPromote => "on-promote",
            Self::OnFailure => "on-failure",
        })
    }
}

impl fmt::Display for Cold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(release) => write!(f, "refused={release}"),
            Self::Dangling => f.write_str("dangling"),
            Self::Gone(release) => write!(f, "gone={release}"),
            Self::Unconfirmed(release) => write!(f, "unconfirmed={release}"),
            Self::NothingBefore => f.write_str("nothing-before"),
        }
    }
}

fn or_none<T: fmt::Display>(value: Option<T>) -> String {
    value.map_or_else(|| String::from("nobody"), |v| v.to_string())
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} failed={}", self.id, self.outcome, or_none(self.failed))?;
        if let Some(held) = self.mixed_with {
            write!(f, " mixed-with={held}")?;
        }
        if self.stopped {
            f.write_str(" stopped")?;
        }
        Ok(())
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BusyRollout { id, kind, to } => write!(f, "busy {kind} {id} {to}"),
            Self::BusyStarting => f.write_str("busy starting"),
            Self::Stopping => f.write_str("stopping"),
            Self::NoBudget => f.write_str("no-budget"),
            Self::HoldAndConfirm => f.write_str("hold-and-confirm"),
            Self::RefusedBefore(release) => write!(f, "refused-before {release}"),
            Self::NothingToPause => f.write_str("nothing-to-pause"),
            Self::TooLateToPause => f.write_str("too-late-to-pause"),
            Self::NotPaused => f.write_str("not-paused"),
            Self::PauseOver => f.write_str("pause-over"),
            Self::NothingToConfirm => f.write_str("nothing-to-confirm"),
            Self::NothingToAbort => f.write_str("nothing-to-abort"),
            Self::NotRunning(run) => write!(f, "not-running {run}"),
            Self::BusyHook => f.write_str("busy hook"),
            Self::NoOrphans => f.write_str("no-orphans"),
            Self::AlreadyPromoted => f.write_str("already-promoted"),
            Self::NothingBefore => f.write_str("nothing-before"),
            Self::TargetGone(release) => write!(f, "target-gone {release}"),
            Self::HeldOther { held, named } => write!(f, "held-other held={held} named={named}"),
            Self::NoSuchSlot { workers } => write!(f, "no-such-slot of {workers}"),
            Self::WorkersOutOfRange { wanted } => write!(f, "workers-out-of-range {wanted}"),
            Self::TooFewReady { ready, needed } => write!(f, "too-few-ready {ready} of {needed}"),
            Self::ScaleFailed { failed } => write!(f, "scale-failed {failed}"),
        }
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Accepted { id } => write!(f, "accepted {id}"),
            Self::RolloutEnded(ended) => write!(f, "ended {ended}"),
            Self::Aborted(ended) => write!(f, "aborted {ended}"),
            Self::Rehearsed(ended) => write!(f, "rehearsed {ended}"),
            Self::Paused { step, of } => write!(f, "paused {step}/{of}"),
            Self::Resumed => f.write_str("resumed"),
            Self::Confirmed(release) => write!(f, "confirmed {release}"),
            Self::NothingNew(release) => write!(f, "nothing-new {release}"),
            Self::Pinned { old, new } => write!(f, "pinned {old} {new}"),
            Self::Scaled { from, to } => write!(f, "scaled {from} {to}"),
            Self::Stopped => f.write_str("stopped"),
            Self::Detached => f.write_str("detached"),
            Self::Upgrading => f.write_str("upgrading"),
            Self::Refused(reason) => write!(f, "refused {reason}"),
        }
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let when = |retry: &Option<Duration>| retry.map_or_else(|| String::from("never"), |d| Time(d).to_string());
        match self {
            Self::ZeroReady => f.write_str("zero-ready"),
            Self::ExtraInstance => f.write_str("extra-instance"),
            Self::RefusedBefore(release) => write!(f, "refused-before {release}"),
            Self::Scouting { worker, role } => write!(f, "scouting {worker} {role}"),
            Self::Scouted { worker, role } => write!(f, "scouted {worker} {role}"),
            Self::HookFailed { worker, role } => write!(f, "hook-failed {worker} {role}"),
            Self::CanarySoaking { slots, soak } => write!(f, "canary-soaking {slots} {}", Time(*soak)),
            Self::Paused => f.write_str("paused"),
            Self::Resumed => f.write_str("resumed"),
            Self::Confirming { release, within } => write!(f, "confirming {release} within={}", Time(*within)),
            Self::NotConfirmed(release) => write!(f, "not-confirmed {release}"),
            Self::Unconfirmed(release) => write!(f, "unconfirmed {release}"),
            Self::Recycling { worker } => write!(f, "recycling {worker}"),
            Self::RecycleLater { worker, after } => write!(f, "recycle-later {worker} after={}", Time(*after)),
            Self::RecycleFailed { worker, retry } => write!(f, "recycle-failed {worker} retry={}", Time(*retry)),
            Self::ColdStart { release, why } => write!(f, "cold-start {release} {why}"),
            Self::Trial(release) => write!(f, "trial {release}"),
            Self::TrialFailed { release, failed, instead } => {
                write!(f, "trial-failed {release} failed={failed} instead={instead}")
            }
            Self::SlotReady { worker, step, of } => write!(f, "slot-ready {worker} {step}/{of}"),
            Self::Ready { worker } => write!(f, "ready {worker}"),
            Self::Soaking(soak) => write!(f, "soaking {}", Time(*soak)),
            Self::Promoted(release) => write!(f, "promoted {release}"),
            Self::Held(release) => write!(f, "held {release}"),
            Self::RollingBack { failed, put_back } => {
                write!(f, "rolling-back failed={} put-back={put_back}", or_none(*failed))
            }
            Self::BootFailed { worker, retry } => write!(f, "boot-failed {worker} retry={}", when(retry)),
            Self::Crashed { worker, retry } => write!(f, "crashed {worker} retry={}", when(retry)),
            Self::Fallback { slot, release } => write!(f, "fallback {slot} {release}"),
            Self::NoFallback { slot, release } => write!(f, "no-fallback {slot} {}", or_none(*release)),
            Self::Degraded => f.write_str("degraded"),
            Self::Recovered => f.write_str("recovered"),
            Self::RenewingListeners => f.write_str("renewing-listeners"),
            Self::Adopted { serving, ending } => write!(f, "adopted {serving}+{ending}"),
            Self::Interrupted { to, put_back } => write!(f, "interrupted {to} put-back={put_back}"),
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Remember(memory) => write!(f, "remember {memory}"),
            Self::Spawn { worker, slot, phase, release, role: Role::Serve } => {
                write!(f, "spawn {worker} slot={slot} phase={phase} {release}")
            }
            Self::Spawn { worker, phase, release, role, .. } => {
                write!(f, "spawn {worker} {role} phase={phase} {release}")
            }
            Self::Drain { worker, timeout } => write!(f, "drain {worker} {}", Time(*timeout)),
            Self::Kill(worker) => write!(f, "kill {worker}"),
            Self::EndLeftovers(worker) => write!(f, "end-leftovers {worker}"),
            Self::Arm(timer, after) => write!(f, "arm {timer} {}", Time(*after)),
            Self::Disarm(timer) => write!(f, "disarm {timer}"),
            Self::ResolveDir(slot) => write!(f, "resolve-dir {slot}"),
            Self::Began { id, kind, from, to, phase } => write!(f, "began {kind} {id} {from} to {to} phase={phase}"),
            Self::Ended(ended) => write!(f, "ended {ended}"),
            Self::Rehearsed(ended) => write!(f, "rehearsed {ended}"),
            Self::Reply { command, answer } => write!(f, "reply {} {answer}", command.0),
            Self::Note(note) => write!(f, "note {note}"),
            Self::Exit(Exit::Stopped) => f.write_str("exit stopped"),
            Self::Exit(Exit::NothingBoots) => f.write_str("exit nothing-boots"),
            Self::Exit(Exit::Detached) => f.write_str("exit detached"),
            Self::Exit(Exit::Upgraded) => f.write_str("exit upgraded"),
        }
    }
}
