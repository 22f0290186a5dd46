//! How what runs is ended: until the deadline it has time to finish; then everything is killed, again and again until nothing
//! is left.

use std::time::{Duration, Instant};

use nix::libc;

use crate::app::App;

/// Between two rounds of SIGKILL, for processes that were forked meanwhile; doubled each time, up to [`KILL_GAP_MOST`].
const KILL_GAP: Duration = Duration::from_millis(5);
const KILL_GAP_MOST: Duration = Duration::from_secs(1);
/// Longer than anything runs, and far from what an [`Instant`] cannot hold.
pub(crate) const FAR: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// A time from now on.
pub(crate) fn later(timeout: Duration) -> Instant {
    Instant::now() + timeout.min(FAR)
}

/// An ending under way.
#[derive(Debug)]
pub(crate) struct Ending {
    deadline: Instant,
    /// When the next round of SIGKILL is due, once the deadline is over, and the gap behind it.
    killing: Option<(Instant, Duration)>,
}

impl Ending {
    /// One whose time is over then.
    pub(crate) fn new(deadline: Instant) -> Self {
        Self { deadline, killing: None }
    }

    /// The deadline can only come nearer.
    pub(crate) fn shorten(&mut self, deadline: Instant) {
        self.deadline = deadline.min(self.deadline);
    }

    /// When [`Self::time`] is to be called.
    pub(crate) fn next(&self) -> Instant {
        self.killing.map_or(self.deadline, |(next, _)| next)
    }

    /// Time has passed.
    pub(crate) fn time(&mut self, app: &App, now: Instant) {
        if now < self.next() {
            return;
        }
        let gap = self.killing.map_or(KILL_GAP, |(_, gap)| (gap * 2).min(KILL_GAP_MOST));
        self.killing = Some((now + gap, gap));
        app.signal_all(libc::SIGKILL);
    }
}
