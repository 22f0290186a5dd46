//! What workers say and how they end, as events for the mind; what they reported, for people.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, BorrowedFd};

use nix::errno::Errno;
use nix::sys::epoll::{EpollEvent, EpollFlags};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, getpgid};
use proto::worker::{BootReport, ExitReport, ExitStatus, FromWorker, Stage};
use proto::{Incarnation, Slot};
use rollout::{Event, Role, WorkerState};

use crate::child::{self, Child};
use crate::leftovers::variable;
use crate::narrate;
use crate::orphans;
use crate::settings::Site;
use crate::shell::Shell;
use crate::timers::unix_millis;
use crate::token::Token;

/// How many reports are kept, the latest ones; a running rollout keeps its own.
const KEPT_REPORTS: usize = 16;

impl Shell {
    /// Waits for every child that has ended; its pipe is read to the end before its end is told.
    pub(crate) fn reap(&mut self) {
        let mut dead = Vec::new();
        loop {
            match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) => dead.push((pid.as_raw(), ExitStatus::Code(code))),
                Ok(WaitStatus::Signaled(pid, signal, _)) => {
                    dead.push((pid.as_raw(), ExitStatus::Signal(signal as i32)))
                }
                Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => break,
                Err(Errno::EINTR) | Ok(_) => {}
                Err(e) => {
                    tracing::error!("waitpid: {e}");
                    break;
                }
            }
        }
        let mut statuses = Vec::new();
        for (pid, status) in dead {
            if self.proof_ended(pid, status) {
                continue;
            }
            // A pid that was waited for may be somebody else's by now.
            if let Some(child) = self.children.values_mut().find(|c| c.pid == Some(pid)) {
                child.pid = None;
                statuses.push((child.id, Some(status)));
            }
        }
        self.bury(statuses);
    }

    /// A worker that is no child of ours has ended; nobody tells us how.
    pub(crate) fn stranger_died(&mut self, id: Incarnation) {
        let Some(child) = self.children.get_mut(&id) else { return };
        child.pid = None;
        if let Some(pidfd) = child.pidfd.take() {
            let _ = self.epoll.delete(&pidfd);
        }
        self.bury(vec![(id, None)]);
    }

    /// Something that such a worker has left behind has ended.
    pub(crate) fn stray_died(&mut self, pid: i32) {
        if let Some(pidfd) = self.strays.remove(&pid) {
            let _ = self.epoll.delete(&pidfd);
        }
        self.bury(Vec::new());
    }

    /// Workers have ended, or something that dead ones have left: what follows from that.
    pub(crate) fn bury(&mut self, statuses: Vec<(Incarnation, Option<ExitStatus>)>) {
        let mut died = Vec::new();
        for (id, status) in statuses {
            self.worker_died(id, status);
            died.push(id);
        }
        if !died.is_empty() {
            let left = self.left_by(&died);
            for id in died {
                if left.contains(&id) {
                    self.feed(Event::Lost(id));
                } else {
                    self.gone(id);
                }
            }
        }
        let workers = child::pids(self.children.values());
        let (site, children) = (&self.site, &self.children);
        for id in self.leftovers.cleared(&workers, |pid| whose(pid, site, children)) {
            self.gone(id);
        }
        self.watch_strays();
    }

    /// Which of these dead workers have left something behind.
    pub(crate) fn left_by(&mut self, died: &[Incarnation]) -> BTreeSet<Incarnation> {
        let workers = child::pids(self.children.values());
        let (site, children) = (&self.site, &self.children);
        self.leftovers.left_by(died, &workers, |pid| whose(pid, site, children))
    }

    /// Children are waited for; the others' ends are told by pidfds.
    pub(crate) fn watch_strays(&mut self) {
        let mut missed = false;
        for pid in self.leftovers.unwatched() {
            match crate::sys::pidfd(pid) {
                Ok(pidfd) => {
                    self.watch(Some(pidfd.as_fd()), EpollFlags::EPOLLIN, Token::Stray(pid));
                    self.strays.insert(pid, pidfd);
                }
                // It has ended meanwhile, which is found out like the others' ends.
                Err(_) => missed = true,
            }
        }
        if missed {
            self.bury(Vec::new());
        }
    }

    fn worker_died(&mut self, id: Incarnation, status: Option<ExitStatus>) {
        self.hear_worker(id);
        // One that was killed, or that runs as another user, cannot have removed it.
        orphans::forget(&self.site.socket, id);
        let Some(child) = self.children.get(&id) else { return };
        let (app_pid, reported, stranger) = (child.app_pid, child.reported, status.is_none());
        let state = self.mind.workers().find(|(worker, _)| *worker == id).map(|(_, w)| w.state);
        let silent = match state {
            Some(WorkerState::Booting) if !reported => Some(self.stage_of(id)),
            Some(WorkerState::Ready) => Some(Stage::Soak),
            _ => None,
        };
        if let Some(stage) = silent {
            let message = match status {
                Some(status) => format!("its worker process {}", narrate::exit(status)),
                None => "its worker process has ended".into(),
            };
            self.note_exit(id, &message);
            self.file_report(self.report(id, stage, message));
        }
        self.leftovers.worker_died(id, app_pid, stranger);
    }

    /// How the last worker of a slot ended; a rehearsal or a hook has none.
    fn note_exit(&mut self, id: Incarnation, how: &str) {
        if let Some(child) = self.children.get(&id).filter(|c| c.role == Role::Serve) {
            self.last_exits.insert(child.slot, how.into());
        }
    }

    pub(crate) fn gone(&mut self, id: Incarnation) {
        // Whoever waits for a rehearsal's end finds no path of it any more.
        if let Some(child) = self.children.get_mut(&id) {
            child.private.clear();
        }
        self.worker_gone(id);
        self.feed(Event::Gone(id));
        self.children.remove(&id);
        self.listen_again();
    }

    /// An app may have asked for a small backlog.
    pub(crate) fn listen_again(&self) {
        for listener in &self.listeners {
            listener.listen_again();
        }
    }

    pub(crate) fn watch(&self, fd: Option<BorrowedFd<'_>>, flags: EpollFlags, token: Token) {
        if let Some(fd) = fd
            && let Err(e) = self.epoll.add(fd, EpollEvent::new(flags, token.pack()))
            && e != Errno::EEXIST
        {
            tracing::error!("epoll: cannot watch {token:?}: {e}");
        }
    }

    /// Sends a worker something, and watches its pipe when that does not fit at once.
    pub(crate) fn tell(&mut self, id: Incarnation, message: &proto::worker::ToWorker) {
        if self.children.get_mut(&id).is_some_and(|child| child.send(message)) {
            let fd = self.children.get(&id).and_then(Child::commands_fd);
            self.watch(fd, EpollFlags::EPOLLOUT, Token::Commands(id));
        }
    }

    pub(crate) fn flush_commands(&mut self, id: Incarnation) {
        let Some(child) = self.children.get_mut(&id) else { return };
        if !child.flush()
            && let Some(fd) = child.commands_fd()
        {
            let _ = self.epoll.delete(fd);
        }
    }

    pub(crate) fn hear_worker(&mut self, id: Incarnation) {
        let Some(child) = self.children.get_mut(&id) else { return };
        let heard = child.hear();
        if heard.ended {
            // It has ended, or has given its master up: such a one is not to serve on, unled.
            child.end();
        }
        for message in heard.messages {
            self.take_message(id, message);
        }
        if let Some(error) = heard.broken {
            tracing::error!("worker {id}: {error}; it is ended");
            if let Some(child) = self.children.get(&id) {
                child.kill();
            }
        }
    }

    pub(crate) fn take_message(&mut self, id: Incarnation, message: FromWorker) {
        let Some(child) = self.children.get_mut(&id) else { return };
        if let FromWorker::Hello(hello) = &message {
            child.greeted = true;
            if let Err(mismatch) = hello.check() {
                self.refuse_worker(id, &mismatch.to_string());
            }
            return;
        }
        if !child.greeted {
            self.refuse_worker(id, "it did not say Hello first");
            return;
        }
        match message {
            FromWorker::Hello(_) => {}
            FromWorker::Stage(stage) => {
                tracing::debug!("worker {id}: stage {stage}");
                child.stage = stage;
            }
            FromWorker::Started { app_pid } => child.app_pid = Some(app_pid),
            FromWorker::Hint(text) => tracing::warn!("slot {}: {text}", child.slot),
            FromWorker::Status(text) => child.status = Some(text),
            FromWorker::Booted { evidence, boot_us } => {
                child.reported = true;
                (child.evidence, child.boot_us) = (Some(evidence), Some(boot_us));
                self.worker_ready(id);
                self.feed(Event::Booted(id));
            }
            FromWorker::BootFailed(report) => {
                child.reported = true;
                let (slot, release_gone) = (child.slot, report.release_gone);
                // A worker speaks for itself alone.
                let report = BootReport { incarnation: id, slot, ..*report };
                self.note_exit(id, &report.message);
                self.file_report(report);
                self.feed(Event::BootFailed { worker: id, release_gone });
                self.listen_again();
            }
            FromWorker::Exited(exited) => self.app_exited(id, *exited),
            FromWorker::HookDone { took_us } => {
                child.reported = true;
                child.boot_us = Some(took_us);
                self.feed(Event::Booted(id));
            }
            FromWorker::Orphan(_) => self.refuse_worker(id, "it says that it has no master"),
            FromWorker::Outgrown { bytes } => {
                child.outgrown = Some(bytes);
                self.feed(Event::Outgrown(id));
            }
        }
    }

    pub(crate) fn app_exited(&mut self, id: Incarnation, exited: ExitReport) {
        let state = self.mind.workers().find(|(worker, _)| *worker == id).map(|(_, w)| w.state);
        let ending = narrate::exit(exited.status);
        let message = exited.reason.as_ref().map_or_else(|| ending.clone(), |reason| format!("{reason}: {ending}"));
        // Somebody ended a booting worker by hand; it has ended its app.
        let (stage, message) = match state {
            Some(WorkerState::Booting) => (self.stage_of(id), format!("its worker was told to end: {message}")),
            _ => (Stage::Soak, message),
        };
        let mut report = self.report(id, stage, message.clone());
        report.exit = Some(exited.status);
        report.millis = exited.millis;
        report.output = exited.output;
        self.note_exit(id, &message);
        if exited.dropped_lines > 0 {
            tracing::warn!("slot {}: {} lines of output lost while it drained", report.slot, exited.dropped_lines);
        }
        if let Some(child) = self.children.get_mut(&id) {
            child.reported = true;
            child.silent = exited.reason.is_some();
        }
        if matches!(state, Some(WorkerState::Booting | WorkerState::Ready)) {
            self.file_report(report);
        }
        self.feed(Event::Exited(id));
        self.listen_again();
    }

    pub(crate) fn refuse_worker(&mut self, id: Incarnation, why: &str) {
        let message = format!("the worker cannot be used: {why}");
        self.file_report(self.report(id, Stage::Spawn, message));
        if let Some(child) = self.children.get_mut(&id) {
            child.reported = true;
            child.kill();
        }
    }

    pub(crate) fn stage_of(&self, id: Incarnation) -> Stage {
        self.children.get(&id).map_or(Stage::Spawn, |c| c.stage)
    }

    /// A report in the master's own words, where the worker could not give one.
    pub(crate) fn report(&self, id: Incarnation, stage: Stage, message: String) -> BootReport {
        let child = self.children.get(&id);
        BootReport {
            slot: child.map_or(Slot(0), |c| c.slot),
            incarnation: id,
            phase: child.map_or(proto::Phase(0), |c| c.phase),
            release: child.map_or_else(Vec::new, |c| self.releases.bytes(c.release)),
            stage,
            message,
            exit: None,
            millis: child.map_or(0, |c| unix_millis().saturating_sub(c.started_at)),
            output: Vec::new(),
            release_gone: false,
        }
    }

    /// Keeps a report for whoever asks.
    pub(crate) fn file_report(&mut self, report: BootReport) {
        self.worker_failed(&report);
        self.last_report = Some(report.clone());
        self.reports.push_back(report);
        if self.reports.len() > KEPT_REPORTS {
            self.reports.pop_front();
        }
    }

    pub(crate) fn report_of(&self, id: Incarnation) -> Option<&BootReport> {
        self.reports.iter().rev().find(|report| report.incarnation == id)
    }
}

/// Which incarnation a process belongs to: its token tells, or, where that was erased, its process group.
fn whose(pid: i32, site: &Site, children: &BTreeMap<Incarnation, Child>) -> Option<Incarnation> {
    let token = variable(pid, "PHASED_TOKEN").and_then(|token| site.incarnation(&token));
    let group = || getpgid(Some(Pid::from_raw(pid))).ok().map(Pid::as_raw);
    token.or_else(|| {
        let group = group()?;
        children.values().find(|c| c.app_pid == Some(group)).map(|c| c.id)
    })
}
