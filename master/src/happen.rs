//! What becomes a happening, and which facts it has. README lists the kinds.

use proto::control::{Fact, LastRollout};
use proto::worker::{BootReport, ExitStatus};
use proto::{Incarnation, Slot};
use rollout::{Kind, Note, ReleaseId, Role};

use crate::child::Seat;
use crate::cli::millis;
use crate::narrate::Line;
use crate::record::ENOUGH;
use crate::release::Releases;
use crate::shell::{Running, Shell};
use crate::timers::now;

/// What is compared before and after a step.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    state: &'static str,
    known_good: Option<(ReleaseId, u32)>,
    /// Number, detail, step, of.
    rollout: Option<(u64, &'static str, u32, u32)>,
}

/// A list of facts in the making.
struct Facts(Vec<(String, Fact)>);

impl Facts {
    fn new() -> Self {
        Self(Vec::new())
    }

    fn fact(mut self, key: &str, fact: Fact) -> Self {
        self.0.push((key.into(), fact));
        self
    }

    fn text(self, key: &str, text: impl Into<String>) -> Self {
        self.fact(key, Fact::Text(text.into()))
    }

    fn number(self, key: &str, number: impl Into<u64>) -> Self {
        self.fact(key, Fact::Number(number.into()))
    }

    fn maybe(self, key: &str, number: Option<u64>) -> Self {
        self.fact(key, number.map_or(Fact::Null, Fact::Number))
    }

    fn role(self, role: Role) -> Self {
        self.text("role", if role == Role::Serve { "serve".into() } else { role.to_string() })
    }

    fn worker(self, slot: u32, worker: Incarnation, phase: u32, release: String) -> Self {
        self.number("slot", slot).number("incarnation", worker.0).number("phase", phase).text("release", release)
    }
}

/// `slot 3`, or what it is that has no slot.
fn place(role: Role, slot: Slot) -> String {
    if role == Role::Serve { format!("slot {slot}") } else { role.to_string() }
}

/// A sentence as far as it is one: many of them are kept.
fn cut(text: &str) -> String {
    const MOST: usize = 1000;
    match text.char_indices().nth(MOST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.into(),
    }
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// As in `last_rollout`.
fn about(run: &Running, releases: &Releases) -> Facts {
    Facts::new()
        .number("id", run.id)
        .text("kind", run.kind.to_string())
        .text("from", releases.shown(run.from))
        .text("to", releases.shown(run.to))
        .number("phase", run.phase.0)
}

impl Shell {
    fn happened(&mut self, kind: &str, facts: Facts, message: String) {
        self.record.add(kind, facts.0, message);
    }

    pub(crate) fn master_started(&mut self) {
        let version = env!("CARGO_PKG_VERSION");
        let facts = Facts::new().text("name", self.site.name.clone()).number("pid", std::process::id());
        let message = format!("master {version} (pid {})", std::process::id());
        self.happened("master-started", facts.text("version", version), message);
    }

    /// `how`: `stopped`, `nothing-boots`, `detached` or `upgraded`.
    pub(crate) fn master_ends(&mut self, how: &str) {
        self.happened("master-ended", Facts::new().text("how", how), format!("the master ends ({how})"));
    }

    pub(crate) fn worker_spawned(&mut self, seat: Seat) {
        let release = self.releases.shown(seat.release);
        let message = format!("{}: {release} boots (worker {})", place(seat.role, seat.slot), seat.id);
        let facts = Facts::new().worker(seat.slot.0, seat.id, seat.phase.0, release).role(seat.role);
        self.happened("worker-booting", facts, message);
    }

    pub(crate) fn worker_ready(&mut self, id: Incarnation) {
        let Some(child) = self.children.get(&id) else { return };
        let took = child.boot_us.unwrap_or_default();
        let facts = Facts::new()
            .worker(child.slot.0, id, child.phase.0, self.releases.shown(child.release))
            .role(child.role)
            .maybe("app_pid", child.app_pid.map(|pid| pid as u64))
            .text("evidence", child.evidence.map_or_else(String::new, |evidence| evidence.to_string()))
            .fact("seconds", Fact::Micros(took));
        let serves = child.role == Role::Serve;
        if serves {
            self.counters.booted(took);
        }
        self.happened("worker-ready", facts, String::new());
    }

    pub(crate) fn worker_drains(&mut self, id: Incarnation) {
        let Some(child) = self.children.get(&id) else { return };
        let release = self.releases.shown(child.release);
        let message = format!("{}: {release} drains (worker {id})", place(child.role, child.slot));
        let facts = Facts::new().worker(child.slot.0, id, child.phase.0, release).role(child.role);
        if child.recycled {
            self.counters.restarted(if child.outgrown.is_some() { "max-memory" } else { "max-age" });
        }
        self.happened("worker-draining", facts, message);
    }

    /// Without what it printed, which `ctl report` has.
    pub(crate) fn worker_failed(&mut self, report: &BootReport) {
        let (status, signal) = match report.exit {
            Some(ExitStatus::Code(code)) => (Some(code as u64), None),
            Some(ExitStatus::Signal(signal)) => (None, Some(signal as u64)),
            None => (None, None),
        };
        let facts = Facts::new()
            .worker(report.slot.0, report.incarnation, report.phase.0, lossy(&report.release))
            .role(self.children.get(&report.incarnation).map_or(Role::Serve, |child| child.role))
            .text("stage", report.stage.to_string())
            .text("error", cut(&report.message))
            .maybe("exit_status", status)
            .maybe("signal", signal)
            .fact("seconds", Fact::Micros(report.millis.saturating_mul(1000)));
        self.happened("worker-failed", facts, String::new());
    }

    pub(crate) fn worker_gone(&mut self, id: Incarnation) {
        let Some(child) = self.children.get(&id) else { return };
        let facts = Facts::new().number("slot", child.slot.0).number("incarnation", id.0);
        self.happened("worker-gone", facts, String::new());
    }

    pub(crate) fn rollout_began(&mut self) {
        let Some(run) = &self.running else { return };
        let message = format!("{} {} to {} (phase {})", run.kind, run.id, self.releases.shown(run.to), run.phase);
        let facts = about(run, &self.releases);
        self.happened("rollout-began", facts, message);
    }

    /// `code` is what `ctl` exits with.
    pub(crate) fn rollout_ended(&mut self, rollout: &LastRollout, code: u8, message: &str) {
        self.counters.ended(&rollout.kind, &rollout.outcome);
        let facts = Facts::new()
            .number("id", rollout.id)
            .text("kind", rollout.kind.clone())
            .text("from", lossy(&rollout.from))
            .text("to", lossy(&rollout.to))
            .number("phase", rollout.phase.0)
            .text("outcome", rollout.outcome.clone())
            .number("code", code)
            .fact("seconds", Fact::Micros(rollout.millis.saturating_mul(1000)));
        self.happened("rollout-ended", facts, message.into());
    }

    pub(crate) fn rehearsal_ended(&mut self, run: &Running, code: u8, message: &str) {
        // Nothing is promoted by it.
        let outcome = if code == 0 { "passed" } else { "aborted" };
        self.counters.ended(&Kind::Rehearsal.to_string(), outcome);
        let took = Fact::Micros(millis(now() - run.began).saturating_mul(1000));
        let facts = about(run, &self.releases).text("outcome", outcome).number("code", code).fact("seconds", took);
        self.happened("rollout-ended", facts, message.into());
    }

    pub(crate) fn noted(&mut self, note: &Note, line: &Line) {
        match note {
            Note::Crashed { worker, retry: Some(_) } => {
                let silent = self.children.get(worker).is_some_and(|child| child.silent);
                self.counters.restarted(if silent { "watchdog" } else { "crash" });
            }
            // Tried again. Any other failed boot is the end of a rollout or of a start, and is counted as that.
            Note::BootFailed { retry: Some(_), .. } => self.counters.restarted("boot-failed"),
            // Counted when it goes: the one that was to replace it may not boot.
            Note::Recycling { worker } => {
                if let Some(child) = self.children.get_mut(worker) {
                    child.recycled = true;
                }
            }
            Note::RecycleFailed { worker, .. } => {
                let slot = self.children.get(worker).map(|child| child.slot);
                for old in self.children.values_mut().filter(|child| Some(child.slot) == slot) {
                    old.recycled = false;
                }
                self.counters.restarted("boot-failed");
            }
            _ => {}
        }
        let level = match line {
            Line::Info(_) => "info",
            Line::Warn(_) => "warning",
            Line::Error(_) => "error",
        };
        self.happened("note", Facts::new().text("level", level), cut(line.text()));
    }

    /// After a step of the mind: what is another than before.
    pub(crate) fn compare(&mut self) {
        let good = self.mind.known_good();
        let (step, of) = self.mind.progress();
        let run = self.mind.detail().zip(self.mind.running());
        let now = Seen {
            state: self.mind.state().as_str(),
            known_good: Some((good.release, good.phase.0)),
            rollout: run.map(|(detail, run)| (run.id, detail, step, of)),
        };
        if now == self.seen {
            return;
        }
        let before = std::mem::replace(&mut self.seen, now.clone());
        if let Some((release, phase)) = now.known_good.filter(|good| before.known_good.as_ref() != Some(good)) {
            let release = self.releases.shown(release);
            let facts = Facts::new().text("release", release.clone()).number("phase", phase);
            self.happened("known-good", facts, format!("known-good: {release}"));
        }
        if now.state != before.state {
            let from = Some(before.state).filter(|state| !state.is_empty());
            let from = from.map_or(Fact::Null, |state| Fact::Text(state.into()));
            let facts = Facts::new().fact("from", from).text("to", now.state);
            self.happened("state", facts, format!("state: {}", now.state));
        }
        if let Some((id, detail, step, of)) = now.rollout.filter(|run| before.rollout.as_ref() != Some(run)) {
            let facts = Facts::new().number("id", id).text("state", detail).number("step", step).number("of", of);
            self.happened("rollout-step", facts, String::new());
        }
    }

    /// Whether a client got more to be told.
    pub(crate) fn give_more(&mut self, id: u64) -> bool {
        let mut gave = false;
        while self.control.pending(id).is_some_and(|pending| pending < ENOUGH)
            && let Some((reply, last)) = self.record.next_for(id)
        {
            // As slow as it likes: no deadline.
            self.control.reply(id, &reply, last);
            gave = true;
        }
        gave
    }
}
