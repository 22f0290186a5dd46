//! Kills, upgrades, scalings: what happens to a site beside its releases.

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use proto::control::{Stats, WorkerStatus};
use tests::process;

use crate::scene::Scene;

/// A slot that has crashed so often is spared: it would be brought back later and later.
const SPARED: u32 = 2;
/// Slots, at most.
const MOST: u32 = 6;

impl Scene {
    /// A ready worker of a slot that has not crashed too often.
    fn victim(&mut self, stats: &Stats) -> Option<WorkerStatus> {
        let may = |worker: &&WorkerStatus| worker.booted && worker.crashes < SPARED;
        let all: Vec<_> = stats.worker_status.iter().filter(may).cloned().collect();
        self.chance.one_of(&all).cloned()
    }

    /// Kills an app, or its worker, by SIGKILL, and waits until both are gone.
    fn kill(&mut self, worker: &WorkerStatus, app_itself: bool) -> Result<()> {
        let (pid, app) = (worker.pid.context("a pid")? as i32, worker.app_pid.context("an app's pid")? as i32);
        let name = if app_itself { "app" } else { "worker" };
        self.acts.tell(&format!("kill -9: {name}"));
        self.acts.note(&format!("slot {}, worker {pid}, app {app}", worker.index));
        if app_itself {
            self.clients.kill(app)?;
        } else {
            process::signal(pid, Signal::SIGKILL);
        }
        let end = std::time::Instant::now() + crate::lead::PATIENCE;
        ensure!(process::wait_end(app, end) && process::wait_end(pid, end), "{name} of {worker:?} does not end");
        Ok(())
    }

    fn kill_one(&mut self, app_itself: bool) -> Result<()> {
        let stats = self.lead.stats()?;
        match self.victim(&stats) {
            Some(worker) => self.kill(&worker, app_itself),
            None => self.restart(),
        }
    }

    pub(crate) fn kill_app(&mut self) -> Result<()> {
        self.kill_one(true)
    }

    pub(crate) fn kill_worker(&mut self) -> Result<()> {
        self.kill_one(false)
    }

    /// Starts the next master.
    fn next(&mut self) -> Result<()> {
        self.acts.tell("masters that adopted");
        self.lead.start()
    }

    pub(crate) fn kill_master(&mut self) -> Result<()> {
        self.lead.kill()?;
        self.acts.tell("kill -9: master");
        let answers = u64::from(self.chance.below(30));
        self.clients.more(answers)?;
        self.next()
    }

    /// The master, and somebody before the next one comes.
    pub(crate) fn kill_without_master(&mut self) -> Result<()> {
        let stats = self.lead.stats()?;
        self.lead.kill()?;
        self.acts.tell("kill -9: master");
        // The last one would take the listening socket with it.
        if let Some(worker) = self.victim(&stats).filter(|_| self.workers > 1) {
            let app_itself = self.chance.once_in(2);
            self.kill(&worker, app_itself)?;
        }
        self.next()
    }

    /// An app or a worker, old or new, while a release comes.
    pub(crate) fn kill_in_rollout(&mut self) -> Result<()> {
        let name = self.deploy("good", &[("boot_ms", "20")])?;
        let (ctl, _) = self.start_rollout(&[])?;
        let stats = self.lead.stats()?;
        if let Some(worker) = self.victim(&stats).filter(|worker| worker.app_pid.is_some()) {
            let app_itself = self.chance.once_in(2);
            self.kill(&worker, app_itself)?;
        }
        let code = ctl.expect(&[0, 3])?;
        let promoted = self.learn(name)?;
        ensure!(
            promoted == (code == 0),
            "exit code {code}, and the release was {}promoted",
            if promoted { "" } else { "not " }
        );
        self.acts.tell(if promoted { "a kill in a rollout: promoted" } else { "a kill in a rollout: refused" });
        Ok(())
    }

    pub(crate) fn kill_ctl(&mut self) -> Result<()> {
        let name = self.deploy("good", &[])?;
        let (ctl, _) = self.start_rollout(&[])?;
        ctl.kill()?;
        self.acts.tell("kill -9: ctl");
        // Nobody waits for it, and it goes on.
        ensure!(self.learn(name)?, "the rollout whose ctl was killed was not promoted");
        Ok(())
    }

    pub(crate) fn kill_master_in_rollout(&mut self) -> Result<()> {
        let boots = !self.chance.once_in(4);
        let millis = self.chance.below(40).to_string();
        let files = [("boot_ms", millis.as_str()), ("needs", "nothing")];
        let name = if boots { self.deploy("good", &files[..1])? } else { self.deploy("needs", &files)? };
        let (ctl, _) = self.start_rollout(&[])?;
        self.lead.kill()?;
        self.acts.tell("kill -9: master in a rollout");
        self.next()?;
        let said = ctl.end()?;
        let promoted = self.learn(name)?;
        ensure!(boots || !promoted, "a release that does not boot was promoted");
        let codes = if promoted { [0, 10] } else { [3, 10] };
        let right = said.code.is_some_and(|code| codes.contains(&code));
        ensure!(right, "ctl: exit code {:?}, promoted: {promoted}\n{}", said.code, said.text);
        self.acts.tell(&format!("ctl whose master was killed: {}", said.code.unwrap_or(-1)));
        Ok(())
    }

    pub(crate) fn usr2(&mut self) -> Result<()> {
        let mut old = self.lead.steps()?;
        let pid = self.lead.pid();
        process::signal(pid, Signal::SIGUSR2);
        // Its clients are told the end by the end of the connection.
        while old.receive()?.is_some() {}
        let stats = self.lead.answers()?;
        ensure!(stats.pid as i32 == pid, "process {} answers instead of {pid}", stats.pid);
        self.acts.tell("upgrades by USR2");
        Ok(())
    }

    pub(crate) fn upgrade(&mut self) -> Result<()> {
        self.lead.ctl(&["upgrade"], &[0])?;
        ensure!(self.lead.stats()?.pid as i32 == self.lead.pid(), "another process answers");
        self.acts.tell("upgrades by ctl");
        Ok(())
    }

    pub(crate) fn detach(&mut self) -> Result<()> {
        self.lead.ctl(&["detach"], &[0])?;
        ensure!(self.lead.ended()?, "the master that was detached has failed");
        self.acts.tell("detached");
        self.clients.more(20)?;
        self.next()
    }

    /// This many slots.
    pub(crate) fn scale(&mut self, workers: u32) -> Result<()> {
        self.lead.ctl(&["scale", &workers.to_string()], &[0])?;
        self.workers = workers;
        Ok(())
    }

    pub(crate) fn scale_somehow(&mut self) -> Result<()> {
        let workers = 1 + self.chance.below(MOST);
        self.acts.tell("scaled");
        self.acts.note(&format!("from {} to {workers}", self.workers));
        self.scale(workers)
    }

    pub(crate) fn restart(&mut self) -> Result<()> {
        let slot = self.chance.below(self.workers).to_string();
        self.lead.ctl(&["restart", &slot], &[0])?;
        self.acts.tell("slots restarted");
        Ok(())
    }
}
