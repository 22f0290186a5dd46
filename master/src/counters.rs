//! What is counted for `ctl metrics`, from this master's start on.

use proto::metrics;

/// The counters.
#[derive(Debug, Default)]
pub(crate) struct Counters(metrics::Counters);

impl Counters {
    /// A rollout of this kind ended so.
    pub(crate) fn ended(&mut self, kind: &str, outcome: &str) {
        let rollouts = &mut self.0.rollouts;
        match rollouts.iter_mut().find(|(k, o, _)| k == kind && o == outcome) {
            Some((_, _, count)) => *count += 1,
            None => rollouts.push((kind.into(), outcome.into(), 1)),
        }
    }

    /// A worker is replaced for this reason.
    pub(crate) fn restarted(&mut self, reason: &str) {
        match self.0.restarts.iter_mut().find(|(r, _)| r == reason) {
            Some((_, count)) => *count += 1,
            None => self.0.restarts.push((reason.into(), 1)),
        }
    }

    /// An app was ready after so many microseconds.
    pub(crate) fn booted(&mut self, took_us: u64) {
        self.0.boots.observe(took_us);
    }

    /// All of them.
    pub(crate) fn all(&self) -> metrics::Counters {
        self.0.clone()
    }
}
