//! What a control client asks for, as events for the mind, or answered at once where nothing changes.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use proto::control::{Code, Fact, PhasedRestart, Reply, Request, Scale};
use proto::worker::ToWorker;
use rollout::{Command, CommandId, Event, Options, ScaleTo};

use crate::shell::{Deadline, Shell};
use crate::{narrate, release};

impl Shell {
    pub(crate) fn request(&mut self, id: u64, request: Request) {
        let command = match request {
            // A second Hello is swallowed before it gets here.
            Request::Hello(_) => return,
            Request::Ping => return self.reply_last(id, &Reply::Pong),
            Request::Stats => {
                let stats = Reply::Stats(Box::new(self.stats()));
                return self.reply_last(id, &stats);
            }
            Request::Report => {
                let report = Reply::Report(self.last_report.clone().map(Box::new));
                return self.reply_last(id, &report);
            }
            Request::Metrics => {
                let metrics = Reply::Metrics { stats: Box::new(self.stats()), counters: Box::new(self.counters.all()) };
                return self.reply_last(id, &metrics);
            }
            // The answer is given as the client takes it.
            Request::Happenings { after, follow } => {
                if follow {
                    self.control.follows(id);
                }
                self.waiting.insert(id);
                return self.record.follow(id, after, follow);
            }
            Request::Events => return self.control.subscribe(id),
            Request::Signal(number) => return self.signal_apps(id, number),
            Request::Stop => Ok(Command::Stop),
            Request::Halt => Ok(Command::Halt),
            Request::Abort => Ok(Command::Abort),
            Request::Rollback => {
                let gone = self.mind.rollback_target().is_some_and(|r| self.releases.is_gone(r));
                Ok(Command::Rollback { gone })
            }
            Request::Scale(Scale::To(n)) => Ok(Command::Scale(ScaleTo::Exactly(n))),
            Request::Scale(Scale::Up(n)) => Ok(Command::Scale(ScaleTo::Up(n))),
            Request::Scale(Scale::Down(n)) => Ok(Command::Scale(ScaleTo::Down(n))),
            Request::Restart(slot) => Ok(Command::Restart(slot)),
            Request::ReloadDir(dir) => self
                .resolve(dir.as_deref())
                .map(|path| Command::ReloadDir { release: self.releases.id(&path), explicit: dir.is_some() }),
            Request::PhasedRestart(options) => self.phased_restart(options),
            Request::Rehearse(dir) => {
                self.resolve(dir.as_deref()).map(|path| Command::Rehearse { release: self.releases.id(&path) })
            }
            Request::Pause => Ok(Command::Pause),
            Request::Resume => Ok(Command::Resume),
            Request::Confirm => Ok(Command::Confirm),
            Request::Upgrade => {
                self.waiting.insert(id);
                return self.begin_upgrade(id);
            }
            Request::Detach => Ok(Command::Detach),
            Request::Await { rollout } => match self.end_of(rollout) {
                Some(end) => return self.reply_last(id, &end),
                None => Ok(Command::Await { run: rollout }),
            },
        };
        match command {
            Ok(command) => {
                self.waiting.insert(id);
                self.feed(Event::Command { id: CommandId(id), command });
            }
            Err(error) => {
                let message = format!("{error:#}; nothing changed");
                self.reply_last(id, &Reply::Error { code: Code::Failed, message, report: None });
            }
        }
    }

    fn phased_restart(&mut self, options: PhasedRestart) -> anyhow::Result<Command> {
        let path = self.resolve(options.dir.as_deref())?;
        let time = |millis: Option<u64>| millis.map(Duration::from_millis);
        let to = Options {
            hold: options.hold,
            no_rehearse: options.no_rehearse,
            if_new: options.if_new,
            surge: options.surge,
            max_unavailable: options.max_unavailable,
            soak: time(options.soak_ms),
            canary: options.canary,
            canary_soak: time(options.canary_soak_ms),
            confirm_within: time(options.confirm_within_ms),
        };
        Ok(Command::PhasedRestart { release: self.releases.id(&path), options: to })
    }

    fn resolve(&self, dir: Option<&[u8]>) -> anyhow::Result<PathBuf> {
        match dir {
            None => release::resolve(&self.site.dir),
            Some(bytes) => {
                let path = Path::new(OsStr::from_bytes(bytes));
                anyhow::ensure!(path.is_absolute(), "{} is not an absolute path", path.display());
                release::resolve(path)
            }
        }
    }

    /// The answer to who waits for the end of a rollout that is over.
    fn end_of(&self, id: u64) -> Option<Reply> {
        let rollout = self.extra.last_rollout.as_ref().filter(|rollout| rollout.id == id)?;
        let (code, message) = narrate::ended_before(rollout);
        Some(Reply::Ended { code, message, rollout: Box::new(rollout.clone()) })
    }

    fn signal_apps(&mut self, id: u64, number: i32) {
        let Ok(signal) = nix::sys::signal::Signal::try_from(number) else {
            let message = format!("{number} is not a signal");
            return self.reply_last(id, &Reply::Error { code: Code::Failed, message, report: None });
        };
        let apps = self.children.values().filter(|c| c.app_pid.is_some() && c.is_app());
        let apps: Vec<_> = apps.map(|c| c.id).collect();
        for worker in &apps {
            self.tell(*worker, &ToWorker::Signal(number));
        }
        let s = if apps.len() == 1 { "" } else { "s" };
        let message = format!("{signal} sent to {} app{s}", apps.len());
        self.reply_last(id, &Reply::Done { message, facts: vec![("apps".into(), Fact::Number(apps.len() as u64))] });
    }

    fn reply_last(&mut self, id: u64, reply: &Reply) {
        self.reply(id, reply, true);
    }

    /// Queues a reply; behind the last one the client has a while to read it.
    pub(crate) fn reply(&mut self, id: u64, reply: &Reply, last: bool) {
        if self.control.client_fd(id).is_none() {
            return;
        }
        self.control.reply(id, reply, last);
        self.waiting.insert(id);
        if last {
            self.timers.arm(Deadline::Client(id), crate::control::REQUEST_DEADLINE);
        }
    }
}
