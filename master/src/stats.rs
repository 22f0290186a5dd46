//! The figures behind `ctl stats`. Reading them changes nothing.

use std::os::unix::ffi::OsStrExt;

use proto::control::{Confirm, ListenerStatus, Refused, Rollout, Stats, WorkerStatus};
use rollout::{Role, WorkerState};

use crate::shell::Shell;
use crate::timers::unix_millis;

impl Shell {
    pub(crate) fn stats(&self) -> Stats {
        let mind = &self.mind;
        let good = mind.known_good();
        Stats {
            name: self.site.name.clone(),
            version: env!("CARGO_PKG_VERSION").into(),
            pid: std::process::id(),
            started_at: self.started_at,
            state: mind.state().as_str().into(),
            dir: self.site.dir.as_os_str().as_bytes().to_vec(),
            dir_target: std::fs::canonicalize(&self.site.dir).ok().map(|p| p.as_os_str().as_bytes().to_vec()),
            release: self.releases.bytes(good.release),
            release_gone: self.releases.is_gone(good.release),
            phase: mind.phase(),
            workers: mind.slots().count() as u32,
            booted_workers: mind.booted_workers(),
            old_workers: mind.old_workers(),
            worker_status: self.worker_status(),
            listeners: self
                .listeners
                .iter()
                .map(|l| ListenerStatus { name: l.name.clone(), address: l.address() })
                .collect(),
            rollout: self.rollout_status(),
            last_rollout: self.extra.last_rollout.clone(),
            previous: mind.memory().previous.iter().map(|release| self.releases.bytes(*release)).collect(),
            held: mind.held().map(|held| self.releases.bytes(held.release)),
            confirm: mind.pending().map(|pending| Confirm {
                release: self.releases.bytes(good.release),
                back_to: self.releases.bytes(pending.back),
                until: self.extra.confirm_until.unwrap_or_default(),
            }),
            refused: self.refused(),
            state_dir: self.state.folder().map(|path| path.as_os_str().as_bytes().to_vec()),
            state_trouble: self.state.trouble().map(String::from),
        }
    }

    fn refused(&self) -> Vec<Refused> {
        let known = self.extra.refusals.iter();
        let mut all: Vec<_> = known
            .map(|(release, refusal)| Refused {
                release: self.releases.bytes(*release),
                at: refusal.at,
                report: refusal.report.clone().map(Box::new),
            })
            .collect();
        all.sort_by_key(|refused| refused.at);
        all
    }

    fn worker_status(&self) -> Vec<WorkerStatus> {
        let slots: std::collections::BTreeMap<_, _> = self.mind.slots().map(|s| (s.slot, s)).collect();
        let now = unix_millis();
        let mut all = Vec::new();
        for (id, worker) in self.mind.workers() {
            let Some(child) = self.children.get(&id).filter(|child| child.is_app()) else { continue };
            let seated = worker.role == Role::Serve;
            let state = match worker.state {
                WorkerState::Booting => "booting",
                WorkerState::Ready => "ready",
                WorkerState::Draining => "draining",
            };
            all.push(WorkerStatus {
                index: worker.slot,
                pid: child.pid.map(|p| p as u32),
                app_pid: child.app_pid.map(|p| p as u32),
                incarnation: Some(id),
                phase: worker.code.phase,
                release: self.releases.bytes(worker.code.release),
                state: state.into(),
                booted: worker.state == WorkerState::Ready,
                started_at: child.started_at,
                boot_us: child.boot_us,
                evidence: child.evidence,
                // A rehearsal has no seat: nothing of slot 0 is its own.
                crashes: slots.get(&worker.slot).filter(|_| seated).map_or(0, |s| s.crashes),
                last_checkin: child.reports_fd().map(|_| now),
                last_status: if seated { child.status.clone() } else { Some("rehearsal".into()) },
                last_exit: self.last_exits.get(&worker.slot).filter(|_| seated).cloned(),
            });
        }
        let good = self.mind.known_good();
        for slot in slots.values().filter(|s| s.backoff) {
            all.push(WorkerStatus {
                index: slot.slot,
                pid: None,
                app_pid: None,
                incarnation: None,
                phase: good.phase,
                release: self.releases.bytes(good.release),
                state: "backoff".into(),
                booted: false,
                started_at: self.backoff_since.get(&slot.slot).copied().unwrap_or(now),
                boot_us: None,
                evidence: None,
                crashes: slot.crashes,
                last_checkin: None,
                last_status: None,
                last_exit: self.last_exits.get(&slot.slot).cloned(),
            });
        }
        all.sort_by_key(|w| (w.index, w.incarnation));
        all
    }

    fn rollout_status(&self) -> Option<Rollout> {
        let (state, running) = (self.mind.detail()?, self.running.as_ref()?);
        let (step, of) = self.mind.progress();
        Some(Rollout {
            id: running.id,
            kind: running.kind.to_string(),
            from: self.releases.bytes(running.from),
            to: self.releases.bytes(running.to),
            phase: running.phase,
            step,
            of,
            state: state.into(),
            started_at: running.started_at,
        })
    }
}
