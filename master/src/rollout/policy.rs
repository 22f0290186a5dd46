//! The numbers of the policy: budgets, delays, limits.

use core::time::Duration;

use proto::Surge;

use crate::Mode;
use crate::Rollout;
use crate::run::RunStage;
use crate::slot::Role;

/// The most slots a master has.
pub const MAX_WORKERS: u32 = 4096;
/// How long a worker that was never ready may take to end.
pub const END_TIMEOUT: Duration = Duration::from_secs(5);
/// What a worker gets beyond a drain's timeout before it is killed itself.
pub const OVERDUE_GRACE: Duration = Duration::from_secs(2);
/// What a worker gets beyond the boot timeout to report it, before it is killed itself.
pub const BOOT_GRACE: Duration = Duration::from_secs(5);
/// After this long without a crash a slot's crashes are forgotten.
pub const HEALTHY_AFTER: Duration = Duration::from_secs(60);
/// How many earlier releases are remembered for `rollback`, and how many refused ones.
pub(crate) const REMEMBERED: usize = 32;
/// How many numbers of workers are written down as taken at a time: not every spawn is a write.
pub(crate) const NUMBERS_AT_A_TIME: u64 = 100;
/// No worker gets a number as large as this: who has one has made it up.
pub(crate) const LARGEST_NUMBER: u64 = 1 << 62;
/// When a worker is tried to be replaced again after its replacement did not boot.
pub(crate) const RECYCLE_AGAIN: Duration = Duration::from_secs(60);

const FIRST_DELAY: Duration = Duration::from_millis(500);
const LONGEST_DELAY: Duration = Duration::from_secs(30);

/// The master's own settings; a rollout can bring its own surge, max-unavailable and soak.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Settings {
    /// How many slots at the start.
    pub workers: u32,
    /// Extra app instances.
    pub surge: Surge,
    /// How many slots may be without a ready worker.
    pub max_unavailable: u32,
    /// Quiet time before promotion.
    pub soak: Duration,
    /// How long a draining app may take.
    pub drain_timeout: Duration,
    /// How long a boot may take.
    pub boot_timeout: Duration,
    /// How long all checks together may take after that.
    pub check_time: Duration,
    /// How long a hook may take that is not a part of a boot.
    pub hook_timeout: Duration,
    /// Whether a release is rehearsed before it is exposed: there is a check, and nobody wants to go without.
    pub rehearse: bool,
    /// Whether there is a hook to run before a rollout.
    pub before_rollout: bool,
    /// Whether there is one to run after a promotion.
    pub on_promote: bool,
    /// Whether there is one to run after a rollout that failed.
    pub on_failure: bool,
    /// How many slots of a rollout come first, to be watched for a while; 0: none.
    pub canary: u32,
    /// For how long; `None`: as long as the rollout's soak.
    pub canary_soak: Option<Duration>,
    /// A promotion is undone unless it is confirmed within this time.
    pub confirm_within: Option<Duration>,
    /// A worker of this age is replaced.
    pub max_age: Option<Duration>,
    /// No worker outlives its master.
    pub no_orphans: bool,
}

impl Default for Settings {
    /// The master's defaults, with one slot.
    fn default() -> Self {
        Self {
            workers: 1,
            surge: Surge::Count(1),
            max_unavailable: 0,
            soak: Duration::from_secs(5),
            drain_timeout: Duration::from_secs(30),
            boot_timeout: Duration::from_secs(60),
            check_time: Duration::ZERO,
            hook_timeout: Duration::from_secs(300),
            rehearse: false,
            before_rollout: false,
            on_promote: false,
            on_failure: false,
            canary: 0,
            canary_soak: None,
            confirm_within: None,
            max_age: None,
            no_orphans: false,
        }
    }
}

/// How far a replacement may go: surge first, and only with surge 0 stop first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Budget {
    pub(crate) surge: u32,
    pub(crate) max_unavailable: u32,
}

impl Budget {
    /// How many slots are under way at once.
    pub(crate) fn width(self) -> u32 {
        if self.surge > 0 { self.surge } else { self.max_unavailable.max(1) }
    }
}

/// The delay before a slot is tried again after its `crashes`th failure in a row: at once, 0.5 s, 1 s, 2 s … 30 s.
pub(crate) fn delay_after(crashes: u32) -> Duration {
    match crashes {
        0 | 1 => Duration::ZERO,
        n => FIRST_DELAY.saturating_mul(1 << (n - 2).min(10)).min(LONGEST_DELAY),
    }
}

/// The same after a failed boot, which is never tried again at once.
pub(crate) fn delay_after_failed_boot(crashes: u32) -> Duration {
    delay_after(crashes).max(FIRST_DELAY)
}

impl Rollout {
    /// The budget in force: the rollout's own while one runs.
    pub(crate) fn budget(&self) -> Budget {
        let workers = self.slots.len() as u32;
        let (surge, max_unavailable) = match &self.mode {
            // Nothing is to be unavailable because of a rollout that may never come to touch anything.
            Mode::Running(run) if run.stage == RunStage::Scouting => {
                (run.surge, run.max_unavailable.min(self.settings.max_unavailable))
            }
            Mode::Running(run) => (run.surge, run.max_unavailable),
            _ => (self.settings.surge, self.settings.max_unavailable),
        };
        Budget { surge: surge.of(workers), max_unavailable: max_unavailable.min(workers) }
    }

    /// How many app instances may live at once (P3).
    pub(crate) fn capacity(&self) -> u32 {
        let surge = self.budget().surge;
        // The announced exception: without a surge a rehearsal has no place to take.
        let extra = surge == 0 && self.aside().any(|w| w.role == Role::Rehearse);
        self.slots.len() as u32 + surge + u32::from(extra)
    }

    /// How many slots have to be ready (P2).
    pub(crate) fn needed(&self) -> u32 {
        self.slots.len() as u32 - self.budget().max_unavailable
    }
}
