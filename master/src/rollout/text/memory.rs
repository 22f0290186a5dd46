//! What the mind remembers, as text: `known-good=r0@3 held=r2@5 previous=r4 refused=r1 next=6/4/101`:
//! at the end the next phase, the next rollout's number, and the next worker's (where that is not 1).

use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use core::fmt;
use core::str::FromStr;
use core::time::Duration;

use proto::{Phase, Surge};

use super::{Time, number, release, time};
use crate::action::Kind;
use crate::memory::{Memory, Pending, RunMemory};
use crate::slot::Code;

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.release, self.phase)
    }
}

impl FromStr for Code {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, phase) = text.split_once('@').ok_or_else(|| format!("'{text}' is not RELEASE@PHASE"))?;
        Ok(Self { release: release(name)?, phase: Phase(number(phase)?) })
    }
}

/// A rollout with the options that are not written.
fn usual(id: u64, kind: Kind, from: Code, to: Code) -> RunMemory {
    let soak = Duration::from_secs(5);
    RunMemory {
        id,
        kind,
        from,
        to,
        hold: false,
        surge: Surge::Count(1),
        max_unavailable: 0,
        soak,
        canary: 0,
        canary_soak: soak,
        confirm_within: None,
        by_itself: false,
        finish: true,
    }
}

/// A rollout's options that the next master goes by, where they are not the usual ones.
fn options(run: &RunMemory, known_good: Option<Code>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let usual = usual(run.id, run.kind, known_good.unwrap_or(run.to), run.to);
    for (word, is) in [("hold", run.hold), ("by-itself", run.by_itself), ("undo", !run.finish)] {
        if is {
            write!(f, ",{word}")?;
        }
    }
    if run.from != usual.from {
        write!(f, ",from={}", run.from)?;
    }
    if run.surge != usual.surge {
        write!(f, ",surge={}", run.surge)?;
    }
    if run.max_unavailable != usual.max_unavailable {
        write!(f, ",max-unavailable={}", run.max_unavailable)?;
    }
    if run.soak != usual.soak {
        write!(f, ",soak={}", Time(run.soak))?;
    }
    run.confirm_within.map_or(Ok(()), |time| write!(f, ",confirm-within={}", Time(time)))
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(code) = self.known_good {
            write!(f, "known-good={code} ")?;
        }
        if let Some(code) = self.held {
            write!(f, "held={code} ")?;
        }
        if let Some(run) = &self.run {
            write!(f, "{}={}@{}", run.kind, run.id, run.to)?;
            options(run, self.known_good, f)?;
            f.write_str(" ")?;
        }
        if let Some(Pending { back, within }) = self.pending {
            write!(f, "pending={back}@{} ", Time(within))?;
        }
        for (word, releases) in [("previous", &self.previous), ("refused", &self.refused)] {
            for release in releases {
                write!(f, "{word}={release} ")?;
            }
        }
        if let Some((setting, slots)) = self.scaled {
            write!(f, "scaled={setting}/{slots} ")?;
        }
        if self.fell_back {
            f.write_str("degraded=fell-back ")?;
        }
        write!(f, "next={}/{}", self.next_phase, self.next_run)?;
        match self.next_incarnation {
            0 | 1 => Ok(()),
            number => write!(f, "/{number}"),
        }
    }
}

impl FromStr for Memory {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut memory = Self { next_phase: 1, next_run: 1, next_incarnation: 1, ..Self::default() };
        for word in text.split_whitespace() {
            let wrong = || format!("'{word}' is nothing that is remembered");
            let (key, value) = word.split_once('=').ok_or_else(wrong)?;
            match key {
                "known-good" => memory.known_good = Some(value.parse()?),
                "held" => memory.held = Some(value.parse()?),
                "previous" => memory.previous.push(release(value)?),
                "refused" => memory.refused.push(release(value)?),
                "pending" => {
                    let (back, within) = value.split_once('@').ok_or_else(wrong)?;
                    memory.pending = Some(Pending { back: release(back)?, within: time(within)? });
                }
                "degraded" => memory.fell_back = value == "fell-back",
                "scaled" => {
                    let (setting, slots) = value.split_once('/').ok_or_else(wrong)?;
                    memory.scaled = Some((number(setting)?, number(slots)?));
                }
                "next" => {
                    let (phase, run) = value.split_once('/').ok_or_else(wrong)?;
                    let (run, worker) = run.split_once('/').unwrap_or((run, "1"));
                    (memory.next_phase, memory.next_run) = (number(phase)?, number(run)?);
                    memory.next_incarnation = number(worker)?;
                }
                kind => {
                    let kinds = [Kind::PhasedRestart, Kind::Rollback, Kind::Restart];
                    let kind = kinds.into_iter().find(|k| format!("{k}") == kind).ok_or_else(wrong)?;
                    let (id, to) = value.split_once('@').ok_or_else(wrong)?;
                    let mut words = to.split(',');
                    let to = words.next().ok_or_else(wrong)?.parse()?;
                    let mut run = usual(number(id)?, kind, memory.known_good.unwrap_or(to), to);
                    for word in words {
                        match word.split_once('=') {
                            None if word == "hold" => run.hold = true,
                            None if word == "by-itself" => run.by_itself = true,
                            None if word == "undo" => run.finish = false,
                            Some(("from", code)) => run.from = code.parse()?,
                            Some(("surge", n)) => run.surge = n.parse()?,
                            Some(("max-unavailable", n)) => run.max_unavailable = number(n)?,
                            Some(("soak", d)) => run.soak = time(d)?,
                            Some(("confirm-within", d)) => run.confirm_within = Some(time(d)?),
                            _ => return Err(format!("'{word}' is nothing of a rollout")),
                        }
                    }
                    memory.run = Some(Box::new(run));
                }
            }
        }
        Ok(memory)
    }
}
