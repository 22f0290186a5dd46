//! `--watchdog`: an app that is ready has to say `WATCHDOG=1` again and again (sd_notify(3)), or it is taken for dead.

use std::time::{Duration, Instant};

use crate::ending::FAR;
use crate::report::span;

/// Counts from when the app is ready on.
#[derive(Debug)]
pub(crate) struct Watchdog {
    every: Duration,
    deadline: Instant,
}

impl Watchdog {
    /// Begins to count.
    pub(crate) fn new(every_ms: u64, now: Instant) -> Self {
        let every = Duration::from_millis(every_ms).min(FAR);
        Self { every, deadline: now + every }
    }

    /// The app lives.
    pub(crate) fn heard(&mut self, now: Instant) {
        self.deadline = now + self.every;
    }

    /// When the app will have been silent for too long.
    pub(crate) fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Why the app is ended then.
    pub(crate) fn reason(&self) -> String {
        format!("it said no WATCHDOG=1 for {}", span(self.every))
    }
}
