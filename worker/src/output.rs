//! What the processes of one worker print: that of the first process, and that of what ran before or beside it and may have left
//! something that goes on printing.

use std::os::fd::BorrowedFd;

use nix::poll::PollFlags;
use proto::worker::Bytes;

use crate::relay::Relay;

/// How long the last lines wait for a full sink, in milliseconds.
const LAST_LINES: u8 = 100;

/// The relays of one worker.
pub(crate) struct Output {
    first: Relay,
    aside: Vec<Relay>,
}

impl Output {
    /// Of a worker's first process.
    pub(crate) fn new(first: Relay) -> Self {
        Self { first, aside: Vec::new() }
    }

    /// Another process is the first one from now on.
    pub(crate) fn replace(&mut self, first: Relay) {
        let before = std::mem::replace(&mut self.first, first);
        self.set_aside(before);
    }

    /// What printed here has ended. Its last line is passed on, and whatever it left may go on.
    pub(crate) fn set_aside(&mut self, mut relay: Relay) {
        relay.finish(0);
        if !relay.is_over() {
            self.aside.push(relay);
        }
    }

    /// What to poll.
    pub(crate) fn polled(&self) -> impl Iterator<Item = (BorrowedFd<'_>, PollFlags)> {
        std::iter::once(&self.first).chain(&self.aside).flat_map(Relay::polled)
    }

    /// Moves what can be moved without waiting.
    pub(crate) fn turn(&mut self) {
        self.first.turn();
        self.aside.iter_mut().for_each(Relay::turn);
        self.aside.retain(|relay| !relay.is_over());
    }

    /// From now on lines that a full sink does not take are dropped and counted.
    pub(crate) fn end(&mut self) {
        self.first.end();
        self.aside.iter_mut().for_each(Relay::end);
    }

    /// The last of what the first process, and what it started, has printed so far.
    pub(crate) fn tail(&mut self) -> Bytes {
        self.first.drain();
        self.first.tail()
    }

    /// How many lines of the first process were dropped.
    pub(crate) fn dropped(&self) -> u64 {
        self.first.dropped()
    }

    /// The last lines, when all is over.
    pub(crate) fn finish(&mut self) {
        self.first.finish(LAST_LINES);
        self.aside.iter_mut().for_each(|relay| relay.finish(LAST_LINES));
    }
}
