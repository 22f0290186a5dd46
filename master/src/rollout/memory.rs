//! What must outlive the master: which code is trusted, which was refused, and what is not decided yet.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::time::Duration;

use proto::Surge;

use crate::action::Kind;
use crate::event::ReleaseId;
use crate::slot::Code;

/// Everything that the mind wants to find again after the death of its process.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Memory {
    /// The known-good code. `None`: no release was ever ready in every slot.
    pub known_good: Option<Code>,
    /// Releases that were known-good before, the latest last.
    pub previous: Vec<ReleaseId>,
    /// A finished rollout that is not promoted.
    pub held: Option<Code>,
    /// Releases that were refused and have not been promoted since, the latest last.
    pub refused: Vec<ReleaseId>,
    /// The known-good release waits for a `confirm`; without one the release before it is gone back to.
    pub pending: Option<Pending>,
    /// The rollout that runs.
    pub run: Option<Box<RunMemory>>,
    /// The phase that the next phased restart takes.
    pub next_phase: u32,
    /// The number that the next rollout takes.
    pub next_run: u64,
    /// No worker has had this number, or a higher one.
    pub next_incarnation: u64,
    /// What `dir` named at the start did not boot: the known-good release stands in for it.
    pub fell_back: bool,
    /// How many slots there were to be at the start, and how many a `scale` has made of them.
    pub scaled: Option<(u32, u32)>,
}

/// A promotion that waits for a `confirm`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pending {
    /// What is gone back to.
    pub back: ReleaseId,
    /// How long a `confirm` may take from the promotion on.
    pub within: Duration,
}

/// A rollout that runs, and its options.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RunMemory {
    /// Its number.
    pub id: u64,
    /// What kind it is.
    pub kind: Kind,
    /// The known-good code it began with.
    pub from: Code,
    /// The candidate.
    pub to: Code,
    /// `--hold`.
    pub hold: bool,
    /// `--surge`.
    pub surge: Surge,
    /// `--max-unavailable`.
    pub max_unavailable: u32,
    /// `--soak`.
    pub soak: Duration,
    /// `--canary`.
    pub canary: u32,
    /// `--canary-soak`.
    pub canary_soak: Duration,
    /// `--confirm-within`.
    pub confirm_within: Option<Duration>,
    /// Nobody has asked for it: what it leaves was not confirmed in time.
    pub by_itself: bool,
    /// Where every slot is through, the next master finishes it: it is neither being undone nor paused.
    pub finish: bool,
}
