//! The mind: the rollout state machine. Events in, actions out; no clock, no I/O, no randomness.
//!
//! Everything that is policy lives here: which worker is spawned from which release, when a worker is drained,
//! when a rollout is over and how. The body (the `master` binary) turns what happens into [`Event`]s, hands them
//! to [`Rollout::step`] one at a time, and performs the [`Action`]s; what an action brings about comes back as a
//! later event. It never panics on an event that does not fit: news of a worker it does not know is stale.
//!
//! What must hold in every state is written down in [`invariant`]; the tests search every reachable state for it.

#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod action;
mod adopt;
mod canon;
mod command;
mod event;
pub mod invariant;
mod memory;
mod news;
mod plan;
mod policy;
mod recycle;
mod run;
mod scout;
mod slot;
mod start;
pub mod text;
mod trust;
mod view;

pub use action::{Action, Answer, Cold, Ended, Exit, Kind, Note, Outcome, Reason};
pub use adopt::{Found, Left};
pub use canon::Forget;
pub use event::{Command, CommandId, Event, Options, ReleaseId, ScaleTo, Timer};
pub use memory::{Memory, Pending, RunMemory};
pub use policy::{BOOT_GRACE, END_TIMEOUT, HEALTHY_AFTER, MAX_WORKERS, OVERDUE_GRACE, Settings};
pub use proto::{Incarnation, Phase, Slot, Surge};
pub use run::{Run, RunStage};
pub use slot::{Code, Role, Worker, WorkerState};
pub use start::Unstartable;
pub use view::{SlotView, State};

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use slot::SlotState;
use start::Starting;

/// The rollout state machine of one master.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rollout {
    settings: Settings,
    slots: Vec<SlotState>,
    workers: BTreeMap<Incarnation, Worker>,
    /// Which workers sit in each slot: what makes a look at one slot cheap among hundreds.
    seats: Vec<Vec<Incarnation>>,
    /// Those without a seat: rehearsals and hooks.
    aside: Vec<Incarnation>,
    mode: Mode,
    known_good: Code,
    /// Whether the known-good release was ever ready in every slot (false only during and after a poor first start).
    confirmed: bool,
    /// Releases that were known-good before, the latest last.
    previous: Vec<ReleaseId>,
    held: Option<Code>,
    /// Releases that were refused, the latest last.
    refused: Vec<ReleaseId>,
    /// The known-good release is gone back from unless it is confirmed.
    pending: Option<Pending>,
    /// Nobody has confirmed it in time.
    unconfirmed: bool,
    /// What `dir` named at the start did not boot: the known-good release stands in for it.
    fell_back: bool,
    scaling: Vec<Scaling>,
    next_incarnation: u64,
    next_phase: u32,
    next_run: u64,
}

/// What the machine is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Mode {
    /// The first attempt of every slot at the start.
    Starting(Starting),
    /// No rollout runs.
    Idle,
    /// A rollout runs.
    Running(Run),
    /// Everything is being ended; who asked is answered when it is over.
    Stopping { exit: Exit, waiting: Vec<CommandId> },
}

/// A `scale` that somebody waits for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Scaling {
    command: CommandId,
    from: u32,
    to: u32,
    failed: Option<Incarnation>,
}

impl Rollout {
    /// Takes in one event and appends what is to be done, in order.
    pub fn step(&mut self, event: Event, out: &mut Vec<Action>) {
        let (degraded, mark, begins) = (self.is_degraded(), self.mark(), out.len());
        // What a start has made of an earlier memory is new as well.
        let opens = matches!(event, Event::Start | Event::Adopt { .. });
        let starts = opens && self.starting().is_some() && self.workers.is_empty();
        match event {
            Event::Start => self.announce_start(out),
            Event::Adopt { found, confirm_left } => self.adopt(found, confirm_left, out),
            Event::Booted(worker) => self.booted(worker, out),
            Event::BootFailed { worker, release_gone } => self.boot_failed(worker, release_gone, out),
            Event::Exited(worker) => self.exited(worker, out),
            Event::Lost(worker) => self.lost(worker, out),
            Event::Gone(worker) => self.gone(worker, out),
            Event::Fired(timer) => self.fired(timer, out),
            Event::Resolved { slot, release } => self.resolved(slot, release, out),
            Event::Outgrown(worker) => self.outgrown(worker, out),
            Event::ListenerLost => self.listener_lost(out),
            Event::Command { id, command } => self.command(id, command, out),
        }
        self.plan(out);
        match (degraded, self.is_degraded()) {
            (false, true) => out.push(Action::Note(Note::Degraded)),
            (true, false) if self.mode == Mode::Idle => out.push(Action::Note(Note::Recovered)),
            _ => {}
        }
        if starts || self.mark() != mark {
            self.remember(begins, out);
        }
    }
}
