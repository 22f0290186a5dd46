//! The start: which release the slots begin with, and what becomes of one that was never tried.
//!
//! Without a memory it is what `dir` names, and when no slot boots it the master ends. With one, a reboot at night comes
//! up on known-good code: what was refused, held or never confirmed is not tried again, and what is new begins on one
//! slot and gives way to the known-good release when it fails.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use proto::{Incarnation, Phase, Slot};

use crate::action::{Action, Cold, Exit, Kind, Note};
use crate::event::ReleaseId;
use crate::memory::Memory;
use crate::policy::Settings;
use crate::scout::Scout;
use crate::slot::{Code, SlotState, WorkerState};
use crate::{Mode, Rollout};

/// A start that is not over.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Starting {
    /// What the slots begin with.
    pub(crate) to: Code,
    /// It was never tried, and there is a known-good release to fall back on.
    pub(crate) trial: bool,
    /// It begins on the first slot alone.
    pub(crate) one: bool,
    /// What is to be found out before.
    pub(crate) scout: Scout,
    /// Why this one, for people.
    pub(crate) notes: Vec<Note>,
    /// What it was made of, until it is known whether there is something to adopt.
    pub(crate) memory: Option<Box<Memory>>,
}

impl Starting {
    /// Of every slot at once, with nothing to be found out before.
    fn plain(to: Code) -> Self {
        Self { to, trial: false, one: false, scout: Scout::default(), notes: Vec::new(), memory: None }
    }
}

/// Why there is nothing to start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unstartable {
    /// `dir` does not resolve, and no known-good release is left.
    NothingNamed,
    /// `dir` names a release that was refused, and no known-good release is left.
    OnlyRefused(ReleaseId),
}

impl Rollout {
    /// A machine that is to start `release` in every slot. Nothing happens before [`crate::Event::Start`].
    #[must_use]
    pub fn new(settings: Settings, release: ReleaseId) -> Self {
        Self::begin_with(settings, Code { release, phase: Phase(0) })
    }

    /// A machine that begins where another one ended: `dir` is what the directory names now, `gone` are those of the
    /// remembered releases whose directories do not exist any more.
    ///
    /// # Errors
    /// When nothing is left that may be started.
    pub fn restore(
        settings: Settings,
        memory: Memory,
        dir: Option<ReleaseId>,
        gone: &[ReleaseId],
    ) -> Result<Self, Unstartable> {
        let kept = Box::new(memory.clone());
        // (A fallback ends with its machine: what `dir` names is judged anew.)
        let Memory {
            known_good,
            mut previous,
            held,
            refused,
            pending,
            run,
            next_phase,
            next_run,
            next_incarnation,
            fell_back: _,
            scaled: _,
        } = memory;
        let mut notes = Vec::new();
        let mut refusals = refused;
        let mut refuse = |release| {
            refusals.retain(|r| *r != release);
            refusals.push(release);
        };
        let mut next_phase = next_phase.max(1);
        // Neither a hold nor a window to confirm outlives the machine, and what was under way was never confirmed.
        if let Some(run) = run.filter(|r| r.kind == Kind::PhasedRestart)
            && Some(run.to.release) != known_good.map(|k| k.release)
        {
            refuse(run.to.release);
        }
        if let Some(held) = held {
            refuse(held.release);
        }
        let mut good = known_good;
        let unconfirmed = good.filter(|_| pending.is_some());
        if let Some(unconfirmed) = unconfirmed {
            refuse(unconfirmed.release);
            notes.push(Cold::Unconfirmed(unconfirmed.release));
            good = None;
        }
        if let Some(lost) = good.filter(|g| gone.contains(&g.release)) {
            notes.push(Cold::Gone(lost.release));
            good = None;
        }
        while good.is_none()
            && let Some(release) = previous.pop()
        {
            if !gone.contains(&release) && !refusals.contains(&release) {
                good = Some(Code { release, phase: Phase(next_phase) });
                next_phase += 1;
            }
        }
        if good.is_none()
            && let Some(unconfirmed) = unconfirmed.filter(|u| !gone.contains(&u.release))
        {
            // There is nothing to go back to: it stays, as it does when a rollback fails.
            notes.clear();
            notes.push(Cold::NothingBefore);
            good = Some(unconfirmed);
        }
        if let Some(good) = good {
            refusals.retain(|r| *r != good.release);
        }
        let (to, trial) = match (good, dir) {
            (None, None) => return Err(Unstartable::NothingNamed),
            (None, Some(dir)) if refusals.contains(&dir) => return Err(Unstartable::OnlyRefused(dir)),
            (Some(good), None) => {
                notes.push(Cold::Dangling);
                (good, false)
            }
            (Some(good), Some(dir)) if dir == good.release => (good, false),
            (Some(good), Some(dir)) if refusals.contains(&dir) => {
                if !notes.contains(&Cold::Unconfirmed(dir)) {
                    notes.push(Cold::Refused(dir));
                }
                (good, false)
            }
            (good, Some(release)) => {
                // Without a known-good release this is the first start, whose phase is 0.
                let first = known_good.is_none() && next_phase == 1;
                let phase = Phase(if first { 0 } else { next_phase });
                next_phase += u32::from(!first);
                (Code { release, phase }, good.is_some())
            }
        };
        let mut machine = Self::begin_with(settings, to);
        machine.confirmed = good.is_some();
        machine.known_good = good.unwrap_or(to);
        machine.previous = previous;
        machine.refused = refusals;
        machine.next_phase = next_phase;
        machine.next_run = next_run.max(1);
        machine.take_numbers_below(next_incarnation);
        if let Mode::Starting(start) = &mut machine.mode {
            start.memory = Some(kept);
            start.trial = trial;
            start.one = trial;
            if good.is_some() && !trial {
                // It has been through all that.
                start.scout = Scout::default();
            }
            let release = good.map_or(to.release, |g| g.release);
            start.notes = notes.into_iter().map(|why| Note::ColdStart { release, why }).collect();
            if trial {
                start.notes.push(Note::Trial(to.release));
            }
        }
        Ok(machine)
    }

    /// The same where [`Self::restore`] finds nothing to start, but workers have outlived the last machine: `release` is what
    /// one of them serves. [`crate::Event::Adopt`] has to be the first event.
    #[must_use]
    pub fn reopen(settings: Settings, memory: Memory, release: ReleaseId) -> Self {
        let mut machine = Self::new(settings, release);
        machine.take_numbers_below(memory.next_incarnation);
        if let Mode::Starting(start) = &mut machine.mode {
            start.memory = Some(Box::new(memory));
        }
        machine
    }

    fn begin_with(settings: Settings, to: Code) -> Self {
        let scout = Scout::new(settings.before_rollout, settings.rehearse);
        Self {
            slots: (0..settings.workers).map(|_| SlotState::default()).collect(),
            settings,
            workers: BTreeMap::new(),
            seats: Vec::new(),
            aside: Vec::new(),
            mode: Mode::Starting(Starting { to, scout, ..Starting::plain(to) }),
            known_good: to,
            confirmed: false,
            previous: Vec::new(),
            held: None,
            refused: Vec::new(),
            pending: None,
            unconfirmed: false,
            fell_back: false,
            scaling: Vec::new(),
            next_incarnation: 1,
            next_phase: 1,
            next_run: 1,
        }
    }

    pub(crate) fn starting(&self) -> Option<&Starting> {
        match &self.mode {
            Mode::Starting(start) => Some(start),
            _ => None,
        }
    }

    pub(crate) fn announce_start(&mut self, out: &mut Vec<Action>) {
        if let Mode::Starting(start) = &mut self.mode {
            start.memory = None;
            out.extend(core::mem::take(&mut start.notes).into_iter().map(Action::Note));
        }
    }

    /// Whether the start lets this slot begin.
    pub(crate) fn may_start(&self, slot: Slot) -> bool {
        let Some(start) = self.starting() else { return true };
        let tried = self.slot(slot).is_some_and(|s| s.first == Some(false));
        !tried && start.scout.is_through() && (!start.one || slot == Slot(0))
    }

    /// Sees how far the start is. True when something changed.
    pub(crate) fn advance_start(&mut self, out: &mut Vec<Action>) -> bool {
        let Some(start) = self.starting() else { return false };
        let (to, trial, one) = (start.to, start.trial, start.one);
        if !start.scout.is_through() {
            return self.scout(to, None, out);
        }
        if one {
            let first = self.slots.first().and_then(|s| s.first);
            if let (Mode::Starting(start), Some(true)) = (&mut self.mode, first) {
                start.one = false;
                return true;
            }
            return false;
        }
        if self.slots.iter().any(|s| s.first.is_none()) {
            return false;
        }
        if self.slots.iter().all(|s| s.first == Some(false)) {
            self.nothing_boots();
            return true;
        }
        self.mode = Mode::Idle;
        if trial {
            self.make_known_good(to, true, out);
            out.push(Action::Note(Note::Promoted(to.release)));
        }
        for slot in self.slot_numbers() {
            if self.slot(slot).is_some_and(|s| s.first == Some(false)) {
                self.retry_later(slot, out);
            }
            if let Some(state) = self.slot_mut(slot) {
                state.first = None;
            }
        }
        true
    }

    pub(crate) fn nothing_boots(&mut self) {
        self.mode = Mode::Stopping { exit: Exit::NothingBoots, waiting: Vec::new() };
    }

    /// Something of the start has failed that every slot depends on: what was to be found out before, or a trial.
    pub(crate) fn start_failed(&mut self, failed: Incarnation, out: &mut Vec<Action>) {
        let Some(start) = self.starting() else { return };
        let (to, good) = (start.to, self.known_good);
        if !start.trial {
            self.nothing_boots();
            return;
        }
        self.refuse(to.release);
        self.fell_back = true;
        out.push(Action::Note(Note::TrialFailed { release: to.release, failed, instead: good.release }));
        self.mode = Mode::Starting(Starting::plain(good));
        let tried: Vec<_> = self.workers.iter().map(|(id, w)| (*id, w.slot, w.state, w.role)).collect();
        for (id, slot, state, role) in tried {
            match state {
                WorkerState::Booting => self.end(id, out),
                // It serves until the known-good release does.
                WorkerState::Ready if !role.is_scout() => {
                    if let Some(state) = self.slot_mut(slot) {
                        state.put_back = true;
                    }
                }
                _ => {}
            }
        }
        for slot in self.slot_numbers() {
            let serves = self.is_ready(slot);
            self.cancel_backoff(slot, out);
            self.reset_crashes(slot, out);
            if let Some(state) = self.slot_mut(slot) {
                state.failing = false;
                state.first = serves.then_some(true);
            }
        }
    }
}
