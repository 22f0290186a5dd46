//! Performs the mind's actions: an exhaustive match, without a question why.

use std::os::fd::AsFd;

use nix::sys::epoll::EpollFlags;
use proto::control::{Code, LastRollout, Reply};
use proto::worker::{BootReport, BootSpec, Stage, ToWorker};
use proto::{Hello, Incarnation, Phase, Slot};
use rollout::{Action, Answer, CommandId, Ended, Event, Kind, Note, ReleaseId};

use crate::child::Child;
use crate::cli::millis;
use crate::listener::BACKLOG;
use crate::narrate::{self, Line, Subject};
use crate::release;
use crate::shell::{Deadline, Running, Shell};
use crate::timers::{now, unix_millis};
use crate::token::Token;

impl Shell {
    pub(crate) fn perform(&mut self, action: Action) {
        match action {
            Action::Spawn { worker, slot, phase, release } => self.spawn(worker, slot, phase, release),
            Action::Drain { worker, timeout } => self.tell(worker, &ToWorker::Drain { timeout_ms: millis(timeout) }),
            Action::Kill(worker) => {
                if !self.children.get(&worker).is_some_and(Child::kill) {
                    self.leftovers.kill(worker);
                }
            }
            Action::EndLeftovers(worker) => self.leftovers.stop(worker, self.site.stop_signal),
            Action::Arm(timer, after) => {
                if let rollout::Timer::Backoff(slot) = timer {
                    self.backoff_since.insert(slot, unix_millis());
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
            Action::Reply { command, answer } => self.answer(command, &answer),
            Action::Note(note) => self.note(&note),
            Action::Exit(exit) => self.exit = Some(exit),
        }
    }

    fn spawn(&mut self, id: Incarnation, slot: Slot, phase: Phase, release: ReleaseId) {
        let fds: Vec<_> = self.listeners.iter().map(|l| l.fd.as_fd()).collect();
        match Child::spawn(&self.exe, &fds, &self.site.name, (id, slot, phase, release)) {
            Ok(child) => {
                self.watch(child.reports_fd(), EpollFlags::EPOLLIN, Token::Reports(id));
                self.children.insert(id, child);
                let spec = self.boot_spec(id, slot, phase, release);
                self.tell(id, &ToWorker::Hello(Hello::ours()));
                self.tell(id, &ToWorker::Boot(Box::new(spec)));
            }
            Err(errno) => {
                self.file_report(BootReport {
                    slot,
                    incarnation: id,
                    phase,
                    release: self.releases.bytes(release),
                    stage: Stage::Spawn,
                    message: format!("cannot make a worker process: {errno} (see `ulimit -u`, `ulimit -n`)"),
                    exit: None,
                    millis: 0,
                    output: Vec::new(),
                    release_gone: false,
                });
                self.queue.push_back(Event::BootFailed { worker: id, release_gone: false });
                self.queue.push_back(Event::Gone(id));
            }
        }
    }

    fn boot_spec(&self, id: Incarnation, slot: Slot, phase: Phase, release: ReleaseId) -> BootSpec {
        let site = &self.site;
        BootSpec {
            name: site.name.clone(),
            slot,
            incarnation: id,
            phase,
            release: self.releases.bytes(release),
            command: site.command.clone(),
            env: site.env.clone(),
            listeners: self
                .listeners
                .iter()
                .map(|l| proto::worker::Listener { name: l.name.clone(), address: l.plain_address() })
                .collect(),
            backlog: BACKLOG,
            ready: site.ready,
            boot_timeout_ms: millis(site.settings.boot_timeout),
            stop_signal: site.stop_signal as i32,
            drain_timeout_ms: millis(site.settings.drain_timeout),
            control_socket: site.socket_bytes(),
            token: site.token(id),
            log_prefix: site.log_prefix,
        }
    }

    fn began(&mut self, id: u64, kind: Kind, from: ReleaseId, to: ReleaseId, phase: Phase) {
        tracing::info!("{kind} {id} from {} to {} (phase {phase})", self.releases.shown(from), self.releases.shown(to));
        let report = None;
        self.running = Some(Running { id, kind, from, to, phase, started_at: unix_millis(), began: now(), report });
    }

    fn ended(&mut self, ended: &Ended) {
        let Some(running) = self.running.take() else { return };
        let took = now() - running.began;
        let report = running.report.or_else(|| ended.failed.and_then(|id| self.report_of(id).cloned()));
        self.last_rollout = Some(LastRollout {
            id: running.id,
            kind: running.kind.to_string(),
            from: self.releases.bytes(running.from),
            to: self.releases.bytes(running.to),
            phase: running.phase,
            outcome: ended.outcome.to_string(),
            ended_at: unix_millis(),
            millis: millis(took),
            report: report.map(Box::new),
        });
        let (from, to) = (self.releases.shown(running.from), self.releases.shown(running.to));
        let (code, mut message) = narrate::ended(ended, running.kind, &from, &to, &self.releases);
        if code == Code::Done {
            message.push_str(&format!(" ({:.2}s)", took.as_secs_f64()));
        }
        let line = format!("{} {}: {message}", running.kind, running.id);
        if code == Code::Done { Line::Info(line) } else { Line::Error(line) }.log();
        self.ended_as = Some((code, message));
    }

    fn answer(&mut self, command: CommandId, answer: &Answer) {
        let (reply, last) = match answer {
            Answer::Accepted { id } => {
                let what = self.running.as_ref().map_or_else(String::new, |r| {
                    format!("{} {id}: {} (phase {})", r.kind, self.releases.shown(r.to), r.phase)
                });
                (Reply::Accepted { message: what, rollout: Some(*id) }, false)
            }
            Answer::RolloutEnded(_) => match (&self.ended_as, &self.last_rollout) {
                (Some((code, message)), Some(rollout)) => {
                    (Reply::Ended { code: *code, message: message.clone(), rollout: Box::new(rollout.clone()) }, true)
                }
                _ => return,
            },
            other => match narrate::answer(other, &self.releases) {
                Some(mut reply) => {
                    if let Reply::Error { report, .. } = &mut reply
                        && let Answer::Refused(rollout::Reason::ScaleFailed { failed }) = other
                    {
                        *report = self.report_of(*failed).cloned().map(Box::new);
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

    fn note(&mut self, note: &Note) {
        if let Note::RollingBack { failed: Some(id), .. } = note {
            let report = self.report_of(*id).cloned();
            if let Some(running) = &mut self.running {
                running.report = report;
            }
        }
        let line = narrate::note(note, &self.releases, |id| self.subject(id));
        line.log();
        if matches!(note, Note::Promoted(_) | Note::Held(_)) {
            // The last reply says so too.
            return;
        }
        for id in self.waiting.clone() {
            if self.control.has_asked(id) && !self.control.subscribers().contains(&id) {
                self.control.reply(id, &Reply::Progress(line.text().to_string()), false);
            }
        }
    }

    fn subject(&self, id: Incarnation) -> Subject {
        let child = self.children.get(&id);
        let report = self.report_of(id);
        let (failure, ending) = Subject::endings(report);
        Subject {
            slot: child.map(|c| c.slot.0).or(report.map(|r| r.slot.0)).unwrap_or_default(),
            release: match (child, report) {
                (Some(child), _) => self.releases.shown(child.release),
                (None, Some(report)) => String::from_utf8_lossy(&report.release).into_owned(),
                (None, None) => String::new(),
            },
            seconds: child.and_then(|c| c.boot_us).map_or(0.0, |us| us as f64 / 1e6),
            evidence: child.and_then(|c| c.evidence).map_or_else(String::new, |e| e.to_string()),
            failure,
            ending,
        }
    }
}
