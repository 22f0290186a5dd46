//! Events and actions as text: one line each, for traces, for `testdata`, and for replaying one as the other.

use alloc::format;
use alloc::string::{String, ToString};
use core::fmt;
use core::str::FromStr;
use core::time::Duration;

use proto::{Incarnation, Slot};

use crate::action::{Action, Answer, Ended, Exit, Kind, Note, Outcome, Reason};
use crate::event::{Command, CommandId, Event, ReleaseId, ScaleTo, Timer};
use crate::policy::Settings;

struct Time(Duration);

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.subsec_millis() == 0 {
            write!(f, "{}s", self.0.as_secs())
        } else {
            write!(f, "{}ms", self.0.as_millis())
        }
    }
}

fn time(word: &str) -> Result<Duration, String> {
    let (number, unit) = match word.strip_suffix("ms") {
        Some(number) => (number, 1),
        None => (word.strip_suffix('s').unwrap_or(word), 1000),
    };
    let number: u64 = number.parse().map_err(|_| format!("'{word}' is not a time"))?;
    Ok(Duration::from_millis(number * unit))
}

fn number<T: FromStr>(word: &str) -> Result<T, String> {
    word.parse().map_err(|_| format!("'{word}' is not a number"))
}

fn release(word: &str) -> Result<ReleaseId, String> {
    word.strip_prefix('r')
        .ok_or_else(|| format!("'{word}' is not a release (r0, r1 …)"))
        .and_then(number)
        .map(ReleaseId)
}

impl fmt::Display for ReleaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "r{}", self.0)
    }
}

impl fmt::Display for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "workers={} surge={} max-unavailable={} soak={} drain={} boot={}",
            self.workers,
            self.surge,
            self.max_unavailable,
            Time(self.soak),
            Time(self.drain_timeout),
            Time(self.boot_timeout)
        )
    }
}

impl FromStr for Settings {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut settings = Self {
            workers: 1,
            surge: 1,
            max_unavailable: 0,
            soak: Duration::from_secs(5),
            drain_timeout: Duration::from_secs(30),
            boot_timeout: Duration::from_secs(60),
        };
        for word in text.split_whitespace() {
            match word.split_once('=') {
                Some(("workers", n)) => settings.workers = number(n)?,
                Some(("surge", n)) => settings.surge = number(n)?,
                Some(("max-unavailable", n)) => settings.max_unavailable = number(n)?,
                Some(("soak", d)) => settings.soak = time(d)?,
                Some(("drain", d)) => settings.drain_timeout = time(d)?,
                Some(("boot", d)) => settings.boot_timeout = time(d)?,
                _ => return Err(format!("'{word}' is not a setting")),
            }
        }
        Ok(settings)
    }
}

impl fmt::Display for Timer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Soak => f.write_str("soak"),
            Self::Backoff(slot) => write!(f, "backoff {slot}"),
            Self::Healthy(slot) => write!(f, "healthy {slot}"),
            Self::BootLate(worker) => write!(f, "boot-late {worker}"),
            Self::Overdue(worker) => write!(f, "overdue {worker}"),
        }
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Start => f.write_str("start"),
            Self::Booted(worker) => write!(f, "booted {worker}"),
            Self::BootFailed { worker, release_gone } => {
                write!(f, "boot-failed {worker}{}", if *release_gone { " gone" } else { "" })
            }
            Self::Exited(worker) => write!(f, "exited {worker}"),
            Self::Lost(worker) => write!(f, "lost {worker}"),
            Self::Gone(worker) => write!(f, "gone {worker}"),
            Self::Fired(timer) => write!(f, "fired {timer}"),
            Self::Resolved { slot, release: Some(release) } => write!(f, "resolved {slot} {release}"),
            Self::Resolved { slot, release: None } => write!(f, "resolved {slot} nothing"),
            Self::ListenerLost => f.write_str("listener-lost"),
            Self::Command { id, command } => write!(f, "command {} {command}", id.0),
        }
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PhasedRestart { release, hold, surge, max_unavailable, soak } => {
                write!(f, "phased-restart {release}")?;
                if *hold {
                    f.write_str(" hold")?;
                }
                if let Some(n) = surge {
                    write!(f, " surge={n}")?;
                }
                if let Some(n) = max_unavailable {
                    write!(f, " max-unavailable={n}")?;
                }
                if let Some(d) = soak {
                    write!(f, " soak={}", Time(*d))?;
                }
                Ok(())
            }
            Self::ReloadDir { release, explicit } => {
                write!(f, "reload-dir {release}{}", if *explicit { " explicit" } else { "" })
            }
            Self::Abort => f.write_str("abort"),
            Self::Rollback { gone } => write!(f, "rollback{}", if *gone { " gone" } else { "" }),
            Self::Scale(ScaleTo::Exactly(n)) => write!(f, "scale {n}"),
            Self::Scale(ScaleTo::Up(n)) => write!(f, "scale +{n}"),
            Self::Scale(ScaleTo::Down(n)) => write!(f, "scale -{n}"),
            Self::Restart(slot) => write!(f, "restart {slot}"),
            Self::Stop => f.write_str("stop"),
            Self::Halt => f.write_str("halt"),
        }
    }
}

impl FromStr for Timer {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Ok(match *text.split_whitespace().collect::<alloc::vec::Vec<_>>() {
            ["soak"] => Self::Soak,
            ["backoff", n] => Self::Backoff(Slot(number(n)?)),
            ["healthy", n] => Self::Healthy(Slot(number(n)?)),
            ["boot-late", n] => Self::BootLate(Incarnation(number(n)?)),
            ["overdue", n] => Self::Overdue(Incarnation(number(n)?)),
            _ => return Err(format!("'{text}' is not a timer")),
        })
    }
}

impl FromStr for Command {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let words: alloc::vec::Vec<&str> = text.split_whitespace().collect();
        Ok(match *words {
            ["phased-restart", name, ref options @ ..] => {
                let (mut hold, mut surge, mut max_unavailable, mut soak) = (false, None, None, None);
                for option in options {
                    match option.split_once('=') {
                        None if *option == "hold" => hold = true,
                        Some(("surge", n)) => surge = Some(number(n)?),
                        Some(("max-unavailable", n)) => max_unavailable = Some(number(n)?),
                        Some(("soak", d)) => soak = Some(time(d)?),
                        _ => return Err(format!("'{option}' is not an option")),
                    }
                }
                Self::PhasedRestart { release: release(name)?, hold, surge, max_unavailable, soak }
            }
            ["reload-dir", name] => Self::ReloadDir { release: release(name)?, explicit: false },
            ["reload-dir", name, "explicit"] => Self::ReloadDir { release: release(name)?, explicit: true },
            ["abort"] => Self::Abort,
            ["rollback"] => Self::Rollback { gone: false },
            ["rollback", "gone"] => Self::Rollback { gone: true },
            ["scale", to] => Self::Scale(match (to.strip_prefix('+'), to.strip_prefix('-')) {
                (Some(n), _) => ScaleTo::Up(number(n)?),
                (_, Some(n)) => ScaleTo::Down(number(n)?),
                _ => ScaleTo::Exactly(number(to)?),
            }),
            ["restart", n] => Self::Restart(Slot(number(n)?)),
            ["stop"] => Self::Stop,
            ["halt"] => Self::Halt,
            _ => return Err(format!("'{text}' is not a command")),
        })
    }
}

impl FromStr for Event {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (head, rest) = text.trim().split_once(' ').unwrap_or((text.trim(), ""));
        let worker = |word: &str| number(word).map(Incarnation);
        Ok(match head {
            "start" => Self::Start,
            "booted" => Self::Booted(worker(rest)?),
            "boot-failed" => match rest.strip_suffix(" gone") {
                Some(id) => Self::BootFailed { worker: worker(id)?, release_gone: true },
                None => Self::BootFailed { worker: worker(rest)?, release_gone: false },
            },
            "exited" => Self::Exited(worker(rest)?),
            "lost" => Self::Lost(worker(rest)?),
            "gone" => Self::Gone(worker(rest)?),
            "fired" => Self::Fired(rest.parse()?),
            "resolved" => {
                let (slot, name) = rest.split_once(' ').ok_or("resolved SLOT RELEASE")?;
                let release = if name == "nothing" { None } else { Some(release(name)?) };
                Self::Resolved { slot: Slot(number(slot)?), release }
            }
            "listener-lost" => Self::ListenerLost,
            "command" => {
                let (id, command) = rest.split_once(' ').ok_or("command NUMBER COMMAND")?;
                Self::Command { id: CommandId(number(id)?), command: command.parse()? }
            }
            _ => return Err(format!("'{text}' is not an event")),
        })
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::PhasedRestart => "phased-restart",
            Self::Rollback => "rollback",
            Self::Restart => "restart",
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
            Self::NothingToAbort => f.write_str("nothing-to-abort"),
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
            Self::Pinned { old, new } => write!(f, "pinned {old} {new}"),
            Self::Scaled { from, to } => write!(f, "scaled {from} {to}"),
            Self::Stopped => f.write_str("stopped"),
            Self::Refused(reason) => write!(f, "refused {reason}"),
        }
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let when = |retry: &Option<Duration>| retry.map_or_else(|| String::from("never"), |d| Time(d).to_string());
        match self {
            Self::ZeroReady => f.write_str("zero-ready"),
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
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Spawn { worker, slot, phase, release } => {
                write!(f, "spawn {worker} slot={slot} phase={phase} {release}")
            }
            Self::Drain { worker, timeout } => write!(f, "drain {worker} {}", Time(*timeout)),
            Self::Kill(worker) => write!(f, "kill {worker}"),
            Self::EndLeftovers(worker) => write!(f, "end-leftovers {worker}"),
            Self::Arm(timer, after) => write!(f, "arm {timer} {}", Time(*after)),
            Self::Disarm(timer) => write!(f, "disarm {timer}"),
            Self::ResolveDir(slot) => write!(f, "resolve-dir {slot}"),
            Self::Began { id, kind, from, to, phase } => write!(f, "began {kind} {id} {from} to {to} phase={phase}"),
            Self::Ended(ended) => write!(f, "ended {ended}"),
            Self::Reply { command, answer } => write!(f, "reply {} {answer}", command.0),
            Self::Note(note) => write!(f, "note {note}"),
            Self::Exit(Exit::Stopped) => f.write_str("exit stopped"),
            Self::Exit(Exit::NothingBoots) => f.write_str("exit nothing-boots"),
        }
    }
}
