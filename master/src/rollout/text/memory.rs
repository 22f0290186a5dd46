//! What the mind remembers, as text: `known-good=r0@3 held=r2@5 previous=r4 refused=r1 next=6/4`.

use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use core::fmt;
use core::str::FromStr;

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

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(code) = self.known_good {
            write!(f, "known-good={code} ")?;
        }
        if let Some(code) = self.held {
            write!(f, "held={code} ")?;
        }
        if let Some(run) = &self.run {
            // Of its options, those that a start goes by.
            write!(f, "{}={}@{} ", run.kind, run.id, run.to)?;
        }
        if let Some(Pending { back, within }) = self.pending {
            write!(f, "pending={back}@{} ", Time(within))?;
        }
        for (word, releases) in [("previous", &self.previous), ("refused", &self.refused)] {
            for release in releases {
                write!(f, "{word}={release} ")?;
            }
        }
        write!(f, "next={}/{}", self.next_phase, self.next_run)
    }
}

impl FromStr for Memory {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut memory = Self { next_phase: 1, next_run: 1, ..Self::default() };
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
                "next" => {
                    let (phase, run) = value.split_once('/').ok_or_else(wrong)?;
                    (memory.next_phase, memory.next_run) = (number(phase)?, number(run)?);
                }
                kind => {
                    let kinds = [Kind::PhasedRestart, Kind::Rollback, Kind::Restart];
                    let kind = kinds.into_iter().find(|k| format!("{k}") == kind).ok_or_else(wrong)?;
                    let (id, to) = value.split_once('@').ok_or_else(wrong)?;
                    let to = to.parse()?;
                    memory.run = Some(Box::new(RunMemory {
                        id: number(id)?,
                        kind,
                        from: memory.known_good.unwrap_or(to),
                        to,
                        hold: false,
                        surge: Surge::Count(1),
                        max_unavailable: 0,
                        soak: time("5s")?,
                        canary: 0,
                        canary_soak: time("5s")?,
                        confirm_within: None,
                    }));
                }
            }
        }
        Ok(memory)
    }
}
