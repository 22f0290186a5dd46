//! What is measured, and the sum that is printed at the end.

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::{Context, Result};
use tests::process;

use crate::acts::Acts;
use crate::clients::Tally;
use crate::lead::Lead;

/// Memory of the master may grow by so much: what it remembers of releases and rollouts is bounded.
const GROWTH: u64 = 8 << 10;
/// Looks at the descriptors, until the last client is gone from them.
const LOOKS: usize = 50;

/// Descriptors and memory.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    /// The master's open descriptors.
    master_fds: usize,
    /// The most that a worker has open.
    worker_fds: usize,
    /// The master's memory, in KiB.
    master_kib: u64,
    /// The most that a worker has, in KiB.
    worker_kib: u64,
}

/// Looks at the master and at its workers. Clients of the control socket that have just left are waited for, as far as there
/// are more descriptors than at the `start`.
///
/// # Errors
/// When the master does not answer.
pub(crate) fn sample(lead: &Lead, start: Option<&Sample>) -> Result<Sample> {
    let mut fewest = usize::MAX;
    let mut workers = Vec::new();
    for _ in 0..LOOKS {
        let stats = lead.stats()?;
        workers = stats.worker_status.iter().filter_map(|worker| worker.pid).map(|pid| pid as i32).collect();
        fewest = fewest.min(process::descriptors(lead.pid()).len());
        if start.is_some_and(|start| fewest <= start.master_fds) {
            break;
        }
    }
    let worker_fds = workers.iter().map(|pid| process::descriptors(*pid).len()).max().unwrap_or(0);
    let kib = |pid: i32| -> Result<u64> {
        let status = process::status(pid);
        let resident = status.get("VmRSS").and_then(|text| text.split(' ').next());
        resident.and_then(|number| number.parse().ok()).with_context(|| format!("process {pid} has no memory"))
    };
    let worker_kib = workers.iter().map(|pid| kib(*pid)).collect::<Result<Vec<_>>>()?.into_iter().max().unwrap_or(0);
    Ok(Sample { master_fds: fewest, worker_fds, master_kib: kib(lead.pid())?, worker_kib })
}

/// Everything that is told at the end.
pub(crate) struct Sum {
    /// From what it followed.
    pub(crate) seed: u64,
    /// How long it took.
    pub(crate) took: Duration,
    /// What the clients got.
    pub(crate) tally: Tally,
    /// Before the first action.
    pub(crate) at_start: Sample,
    /// Behind the last one, with as many workers.
    pub(crate) at_end: Sample,
    /// Processes when everything was stopped.
    pub(crate) left: usize,
    /// Sockets of workers then.
    pub(crate) sockets: usize,
}

impl Sum {
    fn grown(&self) -> bool {
        let (start, end) = (&self.at_start, &self.at_end);
        end.master_fds > start.master_fds
            || end.worker_fds > start.worker_fds
            || end.master_kib > start.master_kib + GROWTH
    }

    /// Whether all of it is as it has to be.
    pub(crate) fn is_well(&self) -> bool {
        self.tally.failures.is_empty() && self.left == 0 && self.sockets == 0 && !self.grown()
    }

    /// As a table for people.
    pub(crate) fn table(&self, acts: &Acts) -> String {
        let mut text = String::new();
        let mut row = |name: &str, value: String| {
            let _ = writeln!(text, "{name:<34}{value}");
        };
        row("seconds", format!("{:.0}", self.took.as_secs_f64()));
        row("requests", self.tally.answers.to_string());
        row("failures", self.tally.failures.len().to_string());
        row("held by apps that got SIGKILL", self.tally.held.to_string());
        row("asked again (idle one was closed)", self.tally.again.to_string());
        row("slowest answer, ms", self.tally.slowest.as_millis().to_string());
        row("actions", acts.count().to_string());
        for (kind, count) in acts.kinds() {
            row(&format!("  {kind}"), count.to_string());
        }
        let (start, end) = (&self.at_start, &self.at_end);
        row("", "start  end".into());
        row("descriptors of the master", format!("{:<6} {}", start.master_fds, end.master_fds));
        row("descriptors of a worker, at most", format!("{:<6} {}", start.worker_fds, end.worker_fds));
        row("memory of the master, KiB", format!("{:<6} {}", start.master_kib, end.master_kib));
        row("memory of a worker, at most, KiB", format!("{:<6} {}", start.worker_kib, end.worker_kib));
        row("processes left over", self.left.to_string());
        row("sockets of workers left over", self.sockets.to_string());
        for slow in acts.all_slow() {
            row("slow", slow.clone());
        }
        for failure in self.tally.failures.iter().take(20) {
            row("failure", failure.clone());
        }
        let verdict = if self.is_well() { "as it has to be" } else { "NOT as it has to be" };
        let _ = writeln!(text, "seed {}: {verdict}", self.seed);
        text
    }
}
