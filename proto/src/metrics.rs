//! What is counted, for `ctl metrics`.

use alloc::string::String;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

/// The boundaries of [`Histogram`], in milliseconds: from an app that is there at once to one that takes minutes.
pub const BOOT_BOUNDS_MS: [u64; 12] = [50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 20_000, 40_000, 60_000, 120_000];

/// What a master has counted since it started.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// Rollouts that ended, by kind and outcome.
    pub rollouts: Vec<(String, String, u64)>,
    /// Workers that were replaced for no rollout's sake, by reason: `crash`, `boot-failed`, `watchdog`, `max-memory`, `max-age`.
    pub restarts: Vec<(String, u64)>,
    /// How long the apps took from their spawn until they were ready.
    pub boots: Histogram,
}

/// How often something took how long.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Histogram {
    /// For each of [`BOOT_BOUNDS_MS`] how many took so long or less and longer than the boundary before; one more for the rest.
    pub counts: Vec<u64>,
    /// The sum of all, in microseconds.
    pub sum_us: u64,
}

impl Histogram {
    /// Counts one, in microseconds.
    pub fn observe(&mut self, took_us: u64) {
        self.counts.resize(BOOT_BOUNDS_MS.len() + 1, 0);
        let at = BOOT_BOUNDS_MS.iter().position(|bound| took_us <= bound * 1_000).unwrap_or(BOOT_BOUNDS_MS.len());
        self.counts[at] += 1;
        self.sum_us = self.sum_us.saturating_add(took_us);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_boundary_belongs_to_what_is_below_it() {
        let mut boots = Histogram::default();
        for took in [0, 50_000, 50_001, 120_000_000, 120_000_001, u64::MAX] {
            boots.observe(took);
        }
        assert_eq!(boots.counts, [2, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2]);
        assert_eq!(boots.sum_us, u64::MAX);
    }
}
