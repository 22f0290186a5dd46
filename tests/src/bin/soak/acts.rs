//! Which actions there are, how often each comes, and what was done so far.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Result;

use crate::scene::Scene;

type Deed = fn(&mut Scene) -> Result<()>;

/// How often (in comparison), and what.
const DEEDS: [(u32, (&str, Deed)); 21] = [
    (10, ("good release", Scene::good_release)),
    (5, ("does not boot", Scene::does_not_boot)),
    (5, ("fails its check", Scene::fails_its_check)),
    (4, ("dies in the soak", Scene::dies_in_the_soak)),
    (6, ("held", Scene::hold)),
    (5, ("abort", Scene::abort)),
    (5, ("pause", Scene::pause)),
    (4, ("rollback", Scene::rollback)),
    (5, ("confirm", Scene::confirm)),
    (6, ("scale", Scene::scale_somehow)),
    (4, ("restart of a slot", Scene::restart)),
    (6, ("kill -9 of an app", Scene::kill_app)),
    (6, ("kill -9 of a worker", Scene::kill_worker)),
    (4, ("kill -9 in a rollout", Scene::kill_in_rollout)),
    (4, ("kill -9 of ctl", Scene::kill_ctl)),
    (5, ("kill -9 of the master", Scene::kill_master)),
    (6, ("kill -9 of the master in a rollout", Scene::kill_master_in_rollout)),
    (5, ("kill -9 without a master", Scene::kill_without_master)),
    (4, ("USR2", Scene::usr2)),
    (5, ("ctl upgrade", Scene::upgrade)),
    (4, ("ctl detach", Scene::detach)),
];

/// What was done.
#[derive(Debug, Default)]
pub(crate) struct Acts {
    done: Vec<String>,
    kinds: BTreeMap<String, u64>,
    count: u64,
    slow: Vec<String>,
}

impl Acts {
    /// How many there were.
    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    /// How often each was done, and what came of it.
    pub(crate) fn kinds(&self) -> &BTreeMap<String, u64> {
        &self.kinds
    }

    /// The last ones.
    pub(crate) fn last(&self, count: usize) -> &[String] {
        &self.done[self.done.len().saturating_sub(count)..]
    }

    /// All of them.
    pub(crate) fn all(&self) -> &[String] {
        &self.done
    }

    /// A detail of the action under way.
    pub(crate) fn note(&mut self, detail: &str) {
        if let Some(last) = self.done.last_mut() {
            last.push_str("; ");
            last.push_str(detail);
        }
    }

    /// What came of the action under way, for the sum.
    pub(crate) fn tell(&mut self, outcome: &str) {
        self.note(outcome);
        *self.kinds.entry(outcome.to_owned()).or_default() += 1;
    }

    /// An answer took long during the action under way.
    pub(crate) fn slow(&mut self, took: Duration) {
        let text = format!("an answer took {} ms", took.as_millis());
        self.note(&text);
        self.slow.extend(self.done.last().cloned());
    }

    /// The actions during which answers took long.
    pub(crate) fn all_slow(&self) -> &[String] {
        &self.slow
    }

    fn begin(&mut self, name: &str) {
        self.count += 1;
        // As the log has it, but for the day.
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis());
        let (hours, minutes, millis) = (now / 3_600_000 % 24, now / 60_000 % 60, now % 60_000);
        self.done.push(format!(
            "{} at {hours:02}:{minutes:02}:{:02}.{:03}: {name}",
            self.count,
            millis / 1000,
            millis % 1000
        ));
    }
}

impl Scene {
    /// Does something.
    ///
    /// # Errors
    /// When what came of it is not what has to come of it.
    pub(crate) fn act(&mut self) -> Result<()> {
        let (name, deed) = self.chance.weighed(&DEEDS);
        self.acts.begin(name);
        deed(self)
    }
}
