//! Deadlines. The only place that reads the clock.
//!
//! No timer fd: the loop sleeps until the earliest deadline, and without one for ever (P8).

use std::collections::{BTreeMap, BTreeSet};
use std::hash::Hash;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A moment of the monotonic clock.
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// Milliseconds since 1970-01-01 UTC.
pub(crate) fn unix_millis() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
}

/// Leaves the processor to others for so long: before there is a loop that could wait for something.
pub(crate) fn rest(time: Duration) {
    let _ = nix::poll::poll(&mut [], nix::poll::PollTimeout::try_from(time).unwrap_or(nix::poll::PollTimeout::ZERO));
}

/// Timers by name; arming one again moves it.
#[derive(Debug)]
pub(crate) struct Timers<K> {
    deadlines: BTreeSet<(Instant, K)>,
    armed: BTreeMap<K, Instant>,
}

impl<K: Copy + Ord + Hash> Timers<K> {
    pub(crate) fn new() -> Self {
        Self { deadlines: BTreeSet::new(), armed: BTreeMap::new() }
    }

    pub(crate) fn arm(&mut self, key: K, after: Duration) {
        self.disarm(key);
        let at = now() + after;
        self.deadlines.insert((at, key));
        self.armed.insert(key, at);
    }

    pub(crate) fn disarm(&mut self, key: K) {
        if let Some(at) = self.armed.remove(&key) {
            self.deadlines.remove(&(at, key));
        }
    }

    /// How long the loop may sleep; `None`: for ever.
    pub(crate) fn sleep(&self) -> Option<Duration> {
        let (at, _) = self.deadlines.first()?;
        Some(at.saturating_duration_since(now()))
    }

    /// The next timer that has run out, which is then no longer armed.
    pub(crate) fn expired(&mut self) -> Option<K> {
        let (at, key) = *self.deadlines.first()?;
        if at > now() {
            return None;
        }
        self.disarm(key);
        Some(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timer_is_armed_once_and_moves() {
        let mut timers = Timers::new();
        assert_eq!(timers.sleep(), None);
        timers.arm("a", Duration::from_secs(100));
        timers.arm("a", Duration::ZERO);
        assert_eq!(timers.expired(), Some("a"));
        assert_eq!(timers.expired(), None);
        timers.arm("b", Duration::from_secs(100));
        assert_eq!(timers.expired(), None);
        timers.disarm("b");
        assert_eq!(timers.sleep(), None);
    }
}
