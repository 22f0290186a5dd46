//! Releases that are deployed, held, aborted, paused and rolled back.

use anyhow::{Context, Result, bail, ensure};
use proto::control::Stats;
use tests::master::{name_of, release_name};
use tests::process;

use crate::lead::Ctl;
use crate::scene::Scene;

/// Ways of a phased restart.
const WAYS: [&[&str]; 7] = [
    &[],
    &["--surge", "2"],
    &["--surge", "50%"],
    &["--surge", "0", "--max-unavailable", "1"],
    &["--no-rehearse"],
    &["--canary", "1", "--canary-soak", "50ms"],
    &["--surge", "2", "--max-unavailable", "1", "--canary", "1", "--canary-soak", "20ms"],
];
/// A soak that only something else ends.
const NO_END: [&str; 2] = ["--soak", "1h"];

impl Scene {
    fn way(&mut self) -> &'static [&'static str] {
        let way = self.chance.one_of(&WAYS).copied().unwrap_or_default();
        self.acts.note(&way.join(" "));
        way
    }

    /// A good release that takes a while to boot.
    fn slow(&mut self) -> Result<String> {
        let millis = self.chance.below(60).to_string();
        self.deploy("good", &[("boot_ms", &millis)])
    }

    /// Starts a phased restart, and waits until it has come some way: to its soak at most. Whether it is still under way.
    pub(crate) fn start_rollout(&mut self, options: &[&str]) -> Result<(Ctl, bool)> {
        let before = self.lead.stats()?.last_rollout.map_or(0, |rollout| rollout.id);
        let ctl = self.lead.ctl_start(&[&["phased-restart"], options].concat())?;
        let mut looks = self.chance.below(self.workers * 5);
        self.acts.note(&format!("after {looks} steps"));
        let over = |stats: &Stats| stats.last_rollout.as_ref().is_some_and(|rollout| rollout.id > before);
        let stats = self.lead.until("the rollout is under way", |stats| {
            let enough = looks == 0 && stats.rollout.is_some();
            looks = looks.saturating_sub(u32::from(stats.rollout.is_some()));
            enough || stats.state == "soaking" || over(stats)
        })?;
        Ok((ctl, !over(&stats)))
    }

    pub(crate) fn good_release(&mut self) -> Result<()> {
        let name = self.deploy("good", &[])?;
        let way = [self.way(), if self.chance.once_in(4) { &["--soak", "0s"] } else { &[] }].concat();
        self.lead.ctl(&[&["phased-restart"], &way[..]].concat(), &[0])?;
        self.acts.tell("good releases promoted");
        self.promoted(name);
        Ok(())
    }

    pub(crate) fn does_not_boot(&mut self) -> Result<()> {
        self.deploy("needs", &[("needs", "users.locale")])?;
        let way = self.way();
        self.lead.ctl(&[&["phased-restart"], way].concat(), &[3])?;
        self.acts.tell("refused: did not boot");
        Ok(())
    }

    pub(crate) fn fails_its_check(&mut self) -> Result<()> {
        self.deploy("sick", &[("sick", "no database")])?;
        self.lead.ctl(&["phased-restart"], &[3])?;
        self.acts.tell("refused: failed its check");
        Ok(())
    }

    pub(crate) fn dies_in_the_soak(&mut self) -> Result<()> {
        let name = self.deploy("good", &[])?;
        let ctl = self.lead.ctl_start(&[&["phased-restart"], &NO_END[..]].concat())?;
        let stats = self.lead.until("it soaks", |stats| stats.state == "soaking")?;
        let ready: Vec<_> = stats
            .worker_status
            .iter()
            .filter(|w| w.booted && release_name(w) == name)
            .filter_map(|w| w.app_pid)
            .collect();
        let app = self.chance.one_of(&ready).copied().context("nobody is in the soak")? as i32;
        if self.chance.once_in(2) {
            // It finishes what it has, and ends.
            process::signal(app, nix::sys::signal::Signal::SIGTERM);
        } else {
            self.clients.kill(app)?;
        }
        ctl.expect(&[3])?;
        self.acts.tell("refused: died in the soak");
        Ok(())
    }

    pub(crate) fn hold(&mut self) -> Result<()> {
        let name = self.deploy("good", &[])?;
        let way = self.way();
        self.lead.ctl(&[&["phased-restart", "--hold"], way].concat(), &[0])?;
        self.held = Some(name.clone());
        self.settle()?;
        match self.chance.below(6) {
            0 => self.kill_master()?,
            1 => self.upgrade()?,
            2 => self.kill_app()?,
            3 => self.detach()?,
            _ => {}
        }
        self.settle()?;
        if self.chance.once_in(2) {
            self.lead.ctl(&["rollback"], &[0])?;
            self.held = None;
            self.acts.tell("held, and rolled back");
            return Ok(());
        }
        self.lead.ctl(&["reload-dir"], &[0])?;
        self.held = None;
        self.promoted(name);
        self.acts.tell("held, and trusted");
        // What has crashed meanwhile runs the code before.
        if self.lead.stats()?.worker_status.iter().any(|worker| release_name(worker) != self.good) {
            self.lead.ctl(&["phased-restart"], &[0])?;
        }
        Ok(())
    }

    pub(crate) fn abort(&mut self) -> Result<()> {
        self.slow()?;
        let way = self.way();
        let (ctl, _) = self.start_rollout(&[way, &NO_END].concat())?;
        self.lead.ctl(&["abort"], &[0])?;
        ctl.expect(&[3])?;
        self.acts.tell("aborted");
        Ok(())
    }

    pub(crate) fn pause(&mut self) -> Result<()> {
        let name = self.slow()?;
        let (ctl, under_way) = self.start_rollout(&[])?;
        // It may be over by now.
        let paused = under_way && self.lead.ctl(&["pause"], &[0, 1])? == 0;
        if !paused {
            ctl.expect(&[0])?;
            self.promoted(name);
            return Ok(());
        }
        let is = |stats: &Stats| stats.rollout.as_ref().is_some_and(|rollout| rollout.state == "paused");
        self.lead.until("it is paused", is)?;
        self.clients.more(20)?;
        if self.chance.once_in(3) {
            self.lead.ctl(&["abort"], &[0])?;
            ctl.expect(&[3])?;
            self.acts.tell("paused, and aborted");
            return Ok(());
        }
        self.lead.ctl(&["resume"], &[0])?;
        ctl.expect(&[0])?;
        self.acts.tell("paused, and resumed");
        self.promoted(name);
        Ok(())
    }

    pub(crate) fn rollback(&mut self) -> Result<()> {
        let code = self.lead.ctl(&["rollback"], &[0, 1])?;
        let good = name_of(&self.lead.stats()?.release);
        match (code, self.older.pop()) {
            (0, Some(before)) => {
                ensure!(good == before, "rolled back to {good} instead of {before}");
                self.acts.tell("rolled back");
                self.good = good;
            }
            (1, None) => {}
            (code, before) => bail!("rollback: exit code {code}, the release before is {before:?}"),
        }
        Ok(())
    }

    pub(crate) fn confirm(&mut self) -> Result<()> {
        let name = self.deploy("good", &[])?;
        self.lead.ctl(&["phased-restart", "--confirm-within", "1h"], &[0])?;
        self.promoted(name);
        self.settle()?;
        if self.chance.once_in(2) {
            self.kill_master()?;
            self.settle()?;
        }
        self.lead.ctl(&["confirm"], &[0])?;
        self.acts.tell("confirmed");
        Ok(())
    }
}
