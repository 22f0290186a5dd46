//! How a worker is made: its process, its sockets, and the order that it gets.

use std::os::fd::AsFd;
use std::os::unix::ffi::OsStringExt;

use anyhow::Context;
use nix::sys::epoll::EpollFlags;
use proto::Hello;
use proto::worker::{BootReport, BootSpec, Bytes, HookCommand, HookSpec, Stage, Task, ToWorker};
use rollout::{Event, Memory, Role};

use crate::child::{Child, Seat};
use crate::cli::millis;
use crate::listener::{self, BACKLOG, Listener};
use crate::orphans;
use crate::shell::Shell;
use crate::state::{Refusal, Saved};
use crate::token::Token;

impl Shell {
    pub(crate) fn spawn(&mut self, seat: Seat) {
        match self.try_spawn(seat) {
            Ok(child) => {
                self.watch(child.reports_fd(), EpollFlags::EPOLLIN, Token::Reports(seat.id));
                let spec = self.boot_spec(seat, &child.private);
                self.children.insert(seat.id, child);
                self.worker_spawned(seat);
                self.tell(seat.id, &ToWorker::Hello(Hello::ours()));
                self.tell(seat.id, &ToWorker::Boot(Box::new(spec)));
            }
            Err(error) => {
                self.file_report(BootReport {
                    slot: seat.slot,
                    incarnation: seat.id,
                    phase: seat.phase,
                    release: self.releases.bytes(seat.release),
                    stage: Stage::Spawn,
                    message: format!("{error:#}"),
                    exit: None,
                    millis: 0,
                    output: Vec::new(),
                    release_gone: false,
                });
                self.queue.push_back(Event::BootFailed { worker: seat.id, release_gone: false });
                self.queue.push_back(Event::Gone(seat.id));
            }
        }
    }

    fn try_spawn(&self, seat: Seat) -> anyhow::Result<Child> {
        let private = match seat.role {
            Role::Rehearse => {
                let spare = |n| listener::beside(&self.site.socket, &format!("{n}.r"));
                let listeners = self.listeners.iter().enumerate();
                let owner = self.site.user.as_ref();
                listeners.map(|(n, listener)| listener.private(&spare(n), owner)).collect::<Result<Vec<_>, _>>()
            }
            _ => Ok(Vec::new()),
        };
        let private = private.context("cannot make a private socket for the rehearsal")?;
        let shared = if seat.role == Role::Rehearse { &private } else { &self.listeners };
        let fds: Vec<_> = shared.iter().map(|l| l.fd.as_fd()).collect();
        let mut child = Child::spawn(&self.exe, &fds, &self.site.name, seat)
            .map_err(|e| anyhow::anyhow!("cannot make a worker process: {e} (see `ulimit -u`, `ulimit -n`)"))?;
        child.private = private;
        for limit in &self.site.limits {
            // Dropped, it hears nothing more, and ends.
            child.limit(limit).with_context(|| format!("cannot set --limit {}", limit.name))?;
        }
        Ok(child)
    }

    fn boot_spec(&self, seat: Seat, private: &[Listener]) -> BootSpec {
        let site = &self.site;
        let listeners = if seat.role == Role::Rehearse { private } else { &self.listeners };
        BootSpec {
            name: site.name.clone(),
            slot: seat.slot,
            incarnation: seat.id,
            phase: seat.phase,
            release: self.releases.bytes(seat.release),
            command: site.command.clone(),
            env: site.env.clone(),
            listeners: listeners
                .iter()
                .map(|l| proto::worker::Listener { name: l.name.clone(), address: l.plain_address() })
                .collect(),
            backlog: BACKLOG,
            ready: site.ready,
            boot_timeout_ms: millis(site.settings.boot_timeout),
            stop_signal: site.stop_signal as i32,
            drain_timeout_ms: millis(site.settings.drain_timeout),
            control_socket: site.socket_bytes(),
            token: site.token(seat.id),
            site: site.mark.clone(),
            orphan_socket: orphans::place(&site.socket, seat.id).into_os_string().into_vec(),
            orphan_timeout_ms: millis(site.orphan_timeout),
            log_prefix: site.log_prefix,
            task: self.task(seat.role),
            env_file: site.env_file.clone(),
            before_boot: site.before_boot.clone(),
            checks: site.checks.clone(),
            check_timeout_ms: millis(site.check_timeout),
            watchdog_ms: site.watchdog.map(millis),
            max_memory: site.max_memory,
            user: site.user.clone(),
            umask: site.umask,
        }
    }

    fn task(&self, role: Role) -> Task {
        let site = &self.site;
        let shell = |line: &Option<Bytes>| HookCommand::Shell(line.clone().unwrap_or_default());
        let (name, command, input) = match role {
            Role::Serve => return Task::Serve,
            Role::Rehearse => return Task::Rehearse,
            Role::BeforeRollout => match &site.before_rollout {
                Some(HookCommand::Procfile(line)) => {
                    (format!("{line}:"), HookCommand::Procfile(line.clone()), Vec::new())
                }
                Some(HookCommand::Shell(line)) => {
                    ("--before-rollout".into(), HookCommand::Shell(line.clone()), Vec::new())
                }
                None => ("--before-rollout".into(), shell(&None), Vec::new()),
            },
            Role::OnPromote => ("--on-promote".into(), shell(&site.on_promote), self.rollout_json()),
            Role::OnFailure => ("--on-failure".into(), shell(&site.on_failure), self.rollout_json()),
        };
        Task::Hook(Box::new(HookSpec { name, command, input, timeout_ms: millis(site.settings.hook_timeout) }))
    }

    /// The rollout that has just ended, as `ctl --json` prints it.
    fn rollout_json(&self) -> Bytes {
        let rollout = self.extra.last_rollout.as_ref().map(proto::json::LastRollout::from);
        let mut json = serde_json::to_vec(&rollout).unwrap_or_default();
        json.push(b'\n');
        json
    }

    pub(crate) fn remember(&mut self, memory: &Memory) {
        self.extra.refusals.retain(|release, _| memory.refused.contains(release));
        for release in &memory.refused {
            // One that has a failure behind it has been noted with that.
            self.extra.refusals.entry(*release).or_insert_with(|| Refusal::new(None));
        }
        if memory.pending.is_none() {
            self.extra.confirm_until = None;
        }
        self.state.save(&Saved::new(memory, &self.releases, &self.extra));
    }
}
