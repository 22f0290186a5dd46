//! What the mind shows of itself: the figures behind `stats`. Looking changes nothing.

use proto::{Incarnation, Phase, Slot};

use crate::action::{Kind, Outcome};
use crate::event::ReleaseId;
use crate::memory::Pending;
use crate::run::{Run, RunStage};
use crate::slot::{Code, Role, Worker, WorkerState};
use crate::{Mode, Rollout};

/// The state word of `stats` and `status`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum State {
    /// The first start is not over.
    Booting,
    /// Every slot is served by the known-good release (or is just being respawned after one crash).
    Steady,
    /// A rollout runs.
    Rolling,
    /// Its quiet time runs.
    Soaking,
    /// A finished rollout is not promoted.
    Held,
    /// A rollout is being undone.
    RollingBack,
    /// A slot cannot be filled, or what serves is not what should.
    Degraded,
    /// The master is ending.
    Stopping,
}

impl State {
    /// The word itself.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Booting => "booting",
            Self::Steady => "steady",
            Self::Rolling => "rolling",
            Self::Soaking => "soaking",
            Self::Held => "held",
            Self::RollingBack => "rolling_back",
            Self::Degraded => "degraded",
            Self::Stopping => "stopping",
        }
    }
}

/// A slot, as `stats` shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotView {
    /// Its number.
    pub slot: Slot,
    /// Crashes and failed boots since it was last healthy for a while.
    pub crashes: u32,
    /// No spawn before a delay is over.
    pub backoff: bool,
    /// Its crashes are forgotten when it stays healthy until a timer fires.
    pub healing: bool,
    /// Its known-good directory is gone, and it waits to hear what `dir` names.
    pub resolving: bool,
}

impl Rollout {
    /// The state word.
    #[must_use]
    pub fn state(&self) -> State {
        match &self.mode {
            Mode::Starting(_) => State::Booting,
            Mode::Stopping { .. } => State::Stopping,
            Mode::Running(run) => match run.stage {
                _ if run.paused => State::Rolling,
                RunStage::Scouting | RunStage::Rolling | RunStage::Canary | RunStage::Draining(_) => State::Rolling,
                RunStage::Soaking => State::Soaking,
                RunStage::RollingBack(_) | RunStage::GivingUp => State::RollingBack,
            },
            Mode::Idle if self.is_degraded() => State::Degraded,
            Mode::Idle if self.held.is_some() => State::Held,
            Mode::Idle => State::Steady,
        }
    }

    /// The known-good code.
    #[must_use]
    pub fn known_good(&self) -> Code {
        self.known_good
    }

    /// The held code.
    #[must_use]
    pub fn held(&self) -> Option<Code> {
        self.held
    }

    /// Whether a release was refused and not been promoted since.
    #[must_use]
    pub fn is_refused(&self, release: ReleaseId) -> bool {
        self.refused.contains(&release)
    }

    /// The rollout that runs.
    #[must_use]
    pub fn running(&self) -> Option<&Run> {
        self.run()
    }

    /// What the running rollout is about, in one word: the detail behind [`State`].
    #[must_use]
    pub fn detail(&self) -> Option<&'static str> {
        let run = self.run()?;
        Some(match run.stage {
            _ if run.paused => "paused",
            RunStage::Scouting if self.aside().any(|w| w.role == Role::BeforeRollout) => "hook",
            RunStage::Scouting => "rehearsing",
            RunStage::Rolling => "rolling",
            RunStage::Canary => "canary",
            RunStage::Soaking => "soaking",
            RunStage::Draining(_) => "draining",
            RunStage::RollingBack(_) | RunStage::GivingUp => "rolling_back",
        })
    }

    /// The promotion that waits for a confirm.
    #[must_use]
    pub fn pending(&self) -> Option<Pending> {
        self.pending
    }

    /// Whether a slot's worker is being replaced because of its age or its size.
    #[must_use]
    pub fn recycles(&self, slot: Slot) -> bool {
        self.slot(slot).is_some_and(|s| s.recycling)
    }

    /// Whether the known-good release stands in for what `dir` named at the start, which did not boot.
    #[must_use]
    pub fn fell_back(&self) -> bool {
        self.fell_back
    }

    /// Slots that the running rollout is through with, and how many it is about.
    #[must_use]
    pub fn progress(&self) -> (u32, u32) {
        let of = match self.run() {
            Some(run) if run.kind == Kind::Rehearsal => 0,
            Some(run) if run.only.is_some() => 1,
            _ => self.slots.len() as u32,
        };
        match self.run() {
            // Decided: what is replaced only ends, and what replaced it is no candidate any more.
            Some(run) if matches!(run.stage, RunStage::Draining(Outcome::Promoted | Outcome::Held)) => (of, of),
            _ => (self.steps_done().min(of), of),
        }
    }

    /// The candidate's phase while rolling or held, else the known-good release's.
    #[must_use]
    pub fn phase(&self) -> Phase {
        let run = self.run().filter(|r| r.kind != Kind::Rehearsal);
        run.map(|r| r.to).or(self.held).unwrap_or(self.known_good).phase
    }

    /// Slots with a ready worker.
    #[must_use]
    pub fn booted_workers(&self) -> u32 {
        self.ready_slots()
    }

    /// Whether as many slots have a ready worker as always should (P2).
    #[must_use]
    pub fn is_serving(&self) -> bool {
        self.ready_slots() >= self.needed()
    }

    /// Slots whose ready worker has another phase than [`Self::phase`].
    #[must_use]
    pub fn old_workers(&self) -> u32 {
        let phase = self.phase();
        let new = |s: Slot| self.living(s).any(|(_, w)| w.state == WorkerState::Ready && w.code.phase == phase);
        self.slot_numbers().filter(|s| self.is_ready(*s) && !new(*s)).count() as u32
    }

    /// Every slot.
    pub fn slots(&self) -> impl Iterator<Item = SlotView> {
        self.slots.iter().zip(0u32..).map(|(s, n)| SlotView {
            slot: Slot(n),
            crashes: s.crashes,
            backoff: s.backoff,
            healing: s.healing,
            resolving: s.resolving,
        })
    }

    /// Every worker of which something is left.
    pub fn workers(&self) -> impl Iterator<Item = (Incarnation, &Worker)> {
        self.workers.iter().map(|(id, w)| (*id, w))
    }
}
