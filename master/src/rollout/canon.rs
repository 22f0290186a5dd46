//! One name for all states that differ only in how far their counters have run.
//!
//! A search over reachable states needs this: incarnations, phases and rollout numbers only grow, and nothing
//! depends on their size, only on which are equal and which is older.

use alloc::collections::{BTreeMap, BTreeSet};

use proto::{Incarnation, Phase};

use crate::{CommandId, Mode, Rollout};

impl Rollout {
    /// The same state with its counters counted from the smallest, and who waits for it forgotten.
    #[must_use]
    pub fn canonical(&self) -> Self {
        let mut this = self.clone();
        let incarnations: BTreeMap<Incarnation, Incarnation> =
            self.workers.keys().zip(1..).map(|(id, n)| (*id, Incarnation(n))).collect();
        this.workers.clear();
        this.seats.clear();
        for (id, worker) in &self.workers {
            this.seat(incarnations[id], worker.clone());
        }
        let mut phases: BTreeSet<Phase> = self.workers.values().map(|w| w.code.phase).collect();
        phases.insert(self.known_good.phase);
        phases.extend(self.held.map(|c| c.phase));
        if let Some(run) = self.run() {
            phases.extend([run.from.phase, run.to.phase]);
        }
        let phase = |p: Phase| Phase(phases.iter().position(|x| *x == p).unwrap_or(phases.len()) as u32);
        for worker in this.workers.values_mut() {
            worker.code.phase = phase(worker.code.phase);
            worker.run = worker.run.map(|_| 1);
        }
        this.known_good.phase = phase(this.known_good.phase);
        if let Some(held) = &mut this.held {
            held.phase = phase(held.phase);
        }
        if let Mode::Running(run) = &mut this.mode {
            run.id = 1;
            run.from.phase = phase(run.from.phase);
            run.to.phase = phase(run.to.phase);
            run.failed = None;
            run.command = CommandId(0);
            run.aborts.clear();
        }
        if let Mode::Stopping { waiting, .. } = &mut this.mode {
            waiting.clear();
        }
        for scaling in &mut this.scaling {
            scaling.command = CommandId(0);
            scaling.failed = None;
        }
        this.next_incarnation = incarnations.len() as u64 + 1;
        this.next_phase = phases.len() as u32;
        this.next_run = 2;
        this
    }
}
