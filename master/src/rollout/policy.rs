//! The numbers of the policy: budgets, delays, limits.

use core::time::Duration;

use crate::Mode;
use crate::Rollout;

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
/// How many earlier releases are remembered for `rollback`.
pub(crate) const REMEMBERED: usize = 32;

const FIRST_DELAY: Duration = Duration::from_millis(500);
const LONGEST_DELAY: Duration = Duration::from_secs(30);

/// The master's own settings; a rollout can bring its own surge, max-unavailable and soak.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Settings {
    /// How many slots at the start.
    pub workers: u32,
    /// Extra app instances.
    pub surge: u32,
    /// How many slots may be without a ready worker.
    pub max_unavailable: u32,
    /// Quiet time before promotion.
    pub soak: Duration,
    /// How long a draining app may take.
    pub drain_timeout: Duration,
    /// How long a boot may take.
    pub boot_timeout: Duration,
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
            Mode::Running(run) => (run.surge, run.max_unavailable),
            _ => (self.settings.surge, self.settings.max_unavailable),
        };
        Budget { surge: surge.min(workers), max_unavailable: max_unavailable.min(workers) }
    }

    /// How many app instances may live at once (P3).
    pub(crate) fn capacity(&self) -> u32 {
        self.slots.len() as u32 + self.budget().surge
    }

    /// How many slots have to be ready (P2).
    pub(crate) fn needed(&self) -> u32 {
        self.slots.len() as u32 - self.budget().max_unavailable
    }
}
