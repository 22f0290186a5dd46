//! Performs the mind's actions: an exhaustive match, without a question why.

use proto::control::{Code, LastRollout, Reply};
use proto::worker::{BootReport, ToWorker};
use proto::{Incarnation, Phase};
use rollout::{Action, Answer, CommandId, Ended, Event, Kind, Note, Outcome, Reason, ReleaseId, Role, Timer};

use crate::child::{Child, Seat};
use crate::cli::millis;
use crate::narrate::{self, Line, Subject};
use crate::release;
use crate::shell::{Deadline, Running, Shell};
use crate::state::Refusal;
use crate::timers::{now, unix_millis};

impl Shell {
    pub(crate) fn perform(&mut self, action: Action) {
        match action {
            Action::Remember(memory) => self.remember(&memory),
            Action::Spawn { worker, slot, phase, release, role } => {
                self.spawn(Seat { id: worker, slot, phase, release, role });
            }
            Action::Drain { worker, timeout } => {
                self.worker_drains(worker);
                self.tell(worker, &ToWorker::Drain { timeout_ms: millis(timeout) });
            }
            Action::Kill(worker) => {
                if !self.children.get(&worker).is_some_and(Child::kill) {
                    self.leftovers.kill(worker);
                }
            }
            Action::EndLeftovers(worker) => self.leftovers.stop(worker, self.site.stop_signal),
            Action::Arm(timer, after) => {
                match timer {
                    Timer::Backoff(slot) => {
                        self.backoff_since.insert(slot, unix_millis());
                    }
                    Timer::Confirm => self.extra.confirm_until = Some(unix_millis().saturating_add(millis(after))),
                    _ => {}
                }
                self.timers.arm(Deadline::Mind(timer), after);
            }
            Action::Disarm(timer) => self.timers.disarm(Deadline::Mind(timer)),
            Action::ResolveDir(slot) => {
                let release = release::resolve(&self.site.dir).ok().map(|path| self.releases.id(&path));
                self.queue.push_back(Event::Resolved { slot, release });
            }
            Action::Began { id, kind, from, to, phase } => self.began(id, kind, from, to, phase),
            Action::Ended(ended) => self.ended(&ended),
            Action::Rehearsed(ended) => self.rehearsed(&ended),
            Action::Reply { command, answer } => self.answer(command, &answer),
            Action::Note(note) => self.note(&note),
            Action::Exit(exit) => self.exit = Some(exit),
        }
    }

    fn began(&mut self, id: u64, kind: Kind, from: ReleaseId, to: ReleaseId, phase: Phase) {
        tracing::info!("{kind} {id} from {} to {} (phase {phase})", self.releases.shown(from), self.releases.shown(to));
        let report = None;
        self.running = Some(Running { id, kind, from, to, phase, started_at: unix_millis(), began: now(), report });
        self.rollout_began();
    }

    fn ended(&mut self, ended: &Ended) {
        let Some(running) = self.running.take() else { return };
        let took = now() - running.began;
        let report = running.report.or_else(|| ended.failed.and_then(|id| self.report_of(id).cloned()));
        let rollout = LastRollout {
            id: running.id,
            kind: running.kind.to_string(),
            from: self.releases.bytes(running.from),
            to: self.releases.bytes(running.to),
            phase: running.phase,
            outcome: ended.outcome.to_string(),
            ended_at: unix_millis(),
            millis: millis(took),
            report: report.map(Box::new),
        };
        self.state.append(&rollout);
        // Should it be refused now, then because of this, and not of what is known of an earlier time.
        let why = ended.failed.and(rollout.report.as_deref());
        if self.mind.is_refused(running.to) {
            self.extra.refusals.insert(running.to, Refusal::new(why));
        }
        self.extra.last_rollout = Some(rollout.clone());
        let (from, to) = (self.releases.shown(running.from), self.releases.shown(running.to));
        let (code, mut message) = narrate::ended(ended, running.kind, &from, &to, &self.releases);
        if code == Code::Done {
            message.push_str(&format!(" ({:.2}s)", took.as_secs_f64()));
        }
        if let Some(pending) = self.mind.pending().filter(|_| ended.outcome == Outcome::Promoted) {
            message.push_str(&narrate::pending(pending, &self.releases));
        }
        self.rollout_ended(&rollout, code as u8, &message);
        self.conclude(running.kind, running.id, code, message);
    }

    fn rehearsed(&mut self, ended: &Ended) {
        let Some(running) = self.running.take() else { return };
        let (code, message) = narrate::rehearsed(ended, &self.releases.shown(running.to), now() - running.began);
        self.rehearsal_ended(&running, code as u8, &message);
        self.conclude(running.kind, running.id, code, message);
    }

    fn conclude(&mut self, kind: Kind, id: u64, code: Code, message: String) {
        let line = format!("{kind} {id}: {message}");
        if code == Code::Done { Line::Info(line) } else { Line::Error(line) }.log();
        self.ended_as = Some((code, message));
    }

    fn answer(&mut self, command: CommandId, answer: &Answer) {
        if let Answer::Scaled { to, .. } = answer {
            // A slot that comes back is a new one.
            self.last_exits.retain(|slot, _| slot.0 < *to);
            self.backoff_since.retain(|slot, _| slot.0 < *to);
        }
        if let Answer::Pinned { old, new } = answer {
            tracing::info!("reload-dir: {} (before: {})", self.releases.shown(*new), self.releases.shown(*old));
        }
        let (reply, last) = match answer {
            Answer::Accepted { id } => {
                let what = self.running.as_ref().map_or_else(String::new, |r| {
                    format!("{} {id}: {} (phase {})", r.kind, self.releases.shown(r.to), r.phase)
                });
                (Reply::Accepted { message: what, rollout: Some(*id) }, false)
            }
            Answer::Rehearsed(ended) => {
                let Some((code, message)) = self.ended_as.clone() else { return };
                let reply = match code {
                    Code::Done => Reply::Done { message, facts: Vec::new() },
                    _ => {
                        let report = ended.failed.and_then(|id| self.report_of(id).cloned()).map(Box::new);
                        Reply::Error { code, message, report }
                    }
                };
                (reply, true)
            }
            Answer::RolloutEnded(_) => match (&self.ended_as, &self.extra.last_rollout) {
                (Some((code, message)), Some(rollout)) => {
                    (Reply::Ended { code: *code, message: message.clone(), rollout: Box::new(rollout.clone()) }, true)
                }
                _ => return,
            },
            other => match narrate::answer(other, &self.releases) {
                Some(mut reply) => {
                    if let (Reply::Error { report, .. }, Answer::Refused(reason)) = (&mut reply, other) {
                        *report = self.report_behind(reason).cloned().map(Box::new);
                    }
                    (reply, true)
                }
                None => return,
            },
        };
        if !self.is_own(command) || !matches!(reply, Reply::Error { .. }) {
            self.waiting.insert(command.0);
            self.control.reply(command.0, &reply, last);
            if last {
                self.timers.arm(Deadline::Client(command.0), crate::control::REQUEST_DEADLINE);
            }
        } else if let Reply::Error { message, .. } = reply {
            tracing::error!("{message}");
        }
    }

    /// The failure that a refusal is about.
    fn report_behind(&self, reason: &Reason) -> Option<&BootReport> {
        match reason {
            Reason::ScaleFailed { failed } => self.report_of(*failed),
            Reason::RefusedBefore(release) => self.extra.refusals.get(release)?.report.as_ref(),
            _ => None,
        }
    }

    fn note(&mut self, note: &Note) {
        if let Note::RollingBack { failed: Some(id), .. } = note {
            let report = self.report_of(*id).cloned();
            if let Some(running) = &mut self.running {
                running.report = report;
            }
        }
        if let Note::TrialFailed { release, failed, .. } = note {
            let refusal = Refusal::new(self.report_of(*failed));
            self.extra.refusals.insert(*release, refusal);
        }
        let mut line = narrate::note(note, &self.releases, |id| self.subject(id));
        if let Note::RefusedBefore(release) = note
            && let Some(refusal) = self.extra.refusals.get(release)
        {
            line.add(&narrate::refusal_before(refusal));
        }
        line.log();
        self.noted(note, &line);
        if matches!(note, Note::Promoted(_) | Note::Held(_)) {
            // The last reply says so too.
            return;
        }
        for id in self.waiting.clone() {
            // Who follows hears of it as of everything else.
            let follows = self.control.subscribers().contains(&id) || self.record.is_followed_by(id);
            if self.control.has_asked(id) && !follows {
                self.control.reply(id, &Reply::Progress(line.text().to_string()), false);
            }
        }
    }

    fn subject(&self, id: Incarnation) -> Subject {
        let child = self.children.get(&id);
        let report = self.report_of(id);
        let (failure, ending) = Subject::endings(report);
        let slot = child.map(|c| c.slot.0).or(report.map(|r| r.slot.0)).unwrap_or_default();
        Subject {
            slot,
            seat: match child.map(|c| c.role) {
                None | Some(Role::Serve) => format!("slot {slot}"),
                Some(role) => role.to_string(),
            },
            release: match (child, report) {
                (Some(child), _) => self.releases.shown(child.release),
                (None, Some(report)) => String::from_utf8_lossy(&report.release).into_owned(),
                (None, None) => String::new(),
            },
            why_recycled: match child.and_then(|c| c.outgrown) {
                Some(bytes) => format!("its app holds {} MiB", bytes >> 20),
                None => "it has served for its time".into(),
            },
            seconds: child.and_then(|c| c.boot_us).map_or(0.0, |us| us as f64 / 1e6),
            evidence: child.and_then(|c| c.evidence).map_or_else(String::new, |e| e.to_string()),
            failure,
            ending,
        }
    }
}
