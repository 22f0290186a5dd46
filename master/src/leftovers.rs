//! What a worker leaves behind when it is killed: found among the master's own children.
//!
//! A worker is the subreaper of its app, so that nothing of the app is left when the worker ends by itself. When it
//! is killed, everything below it falls to the next subreaper: the master. Its children that are not workers are
//! therefore left-overs of a dead worker. The token in their environment tells of which, or their process group; where
//! neither does (Perl's `$0=` erases the one, setsid the other) they belong to whoever died last.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, Uid};
use proto::Incarnation;

/// The processes that dead workers have left behind.
#[derive(Debug, Default)]
pub(crate) struct Leftovers {
    /// Which dead worker a child of ours belonged to; `None`: a stranger that was here before.
    owners: BTreeMap<i32, Option<Incarnation>>,
    dead: BTreeMap<Incarnation, Dead>,
}

/// A dead worker of which something is left.
#[derive(Debug)]
struct Dead {
    app_pid: Option<i32>,
    /// The stop signal, once it was ordered.
    stop: Option<Signal>,
    told: BTreeSet<i32>,
}

impl Leftovers {
    /// Notes who among our children is not a worker's left-over (a container's strangers, an earlier exec's children).
    pub(crate) fn note_strangers(&mut self) {
        for pid in children_of_self() {
            self.owners.entry(pid).or_insert(None);
        }
    }

    /// A worker process has died. Several may die at once: all are told before anybody looks whose left-overs are whose.
    pub(crate) fn worker_died(&mut self, worker: Incarnation, app_pid: Option<i32>) {
        self.dead.insert(worker, Dead { app_pid, stop: None, told: BTreeSet::new() });
    }

    /// Which of the workers that have just died have left something behind.
    pub(crate) fn left_by(
        &mut self,
        died: &[Incarnation],
        workers: &BTreeSet<i32>,
        whose: impl Fn(i32) -> Option<Incarnation>,
    ) -> BTreeSet<Incarnation> {
        self.look(workers, whose);
        let left: BTreeSet<_> = died.iter().copied().filter(|id| self.remains(*id)).collect();
        for id in died.iter().filter(|id| !left.contains(id)) {
            self.dead.remove(id);
        }
        left
    }

    /// After children have died: which dead workers have nothing left any more.
    pub(crate) fn cleared(
        &mut self,
        workers: &BTreeSet<i32>,
        whose: impl Fn(i32) -> Option<Incarnation>,
    ) -> Vec<Incarnation> {
        if self.dead.is_empty() {
            return Vec::new();
        }
        self.look(workers, whose);
        let over: Vec<_> = self.dead.keys().copied().filter(|id| !self.remains(*id)).collect();
        for id in &over {
            self.dead.remove(id);
        }
        let waiting: Vec<_> = self.dead.iter().filter_map(|(id, d)| d.stop.map(|s| (*id, s))).collect();
        for (id, stop) in waiting {
            self.signal(id, stop);
        }
        over
    }

    fn remains(&self, worker: Incarnation) -> bool {
        self.owners.values().any(|owner| *owner == Some(worker))
    }

    /// Sees which children we have now, and whose they are: also of workers whose death is not known yet.
    fn look(&mut self, workers: &BTreeSet<i32>, whose: impl Fn(i32) -> Option<Incarnation>) {
        let now: BTreeSet<i32> = children_of_self().into_iter().filter(|pid| !workers.contains(pid)).collect();
        self.owners.retain(|pid, _| now.contains(pid));
        for pid in now {
            if !self.owners.contains_key(&pid) {
                let owner = whose(pid).or_else(|| self.dead.keys().next_back().copied());
                self.owners.insert(pid, owner);
            }
        }
    }

    /// The stop signal for what is left: the app's first process has had it from the kernel when its worker died
    /// (a parent-death signal, lost where the process changed its user); the others get it when that one is gone.
    pub(crate) fn stop(&mut self, worker: Incarnation, signal: Signal) {
        if let Some(dead) = self.dead.get_mut(&worker) {
            dead.stop = Some(signal);
        }
        self.signal(worker, signal);
    }

    fn signal(&mut self, worker: Incarnation, signal: Signal) {
        let owned: Vec<i32> =
            self.owners.iter().filter(|(_, owner)| **owner == Some(worker)).map(|(pid, _)| *pid).collect();
        let Some(dead) = self.dead.get_mut(&worker) else { return };
        if let Some(app) = dead.app_pid.filter(|app| owned.contains(app)) {
            if uid_of(app).is_some_and(|uid| uid != Uid::effective().as_raw()) && dead.told.insert(app) {
                let _ = kill(Pid::from_raw(app), signal);
            }
            return;
        }
        for pid in owned.iter().copied().chain(descendants(&owned)) {
            if dead.told.insert(pid) {
                let _ = kill(Pid::from_raw(pid), signal);
            }
        }
    }

    /// SIGKILL for everything that is left of a dead worker.
    pub(crate) fn kill(&mut self, worker: Incarnation) {
        if let Some(dead) = self.dead.get_mut(&worker) {
            dead.stop = Some(Signal::SIGKILL);
            dead.told.clear();
            dead.app_pid = None;
        }
        self.signal(worker, Signal::SIGKILL);
    }
}

/// The value of a variable in a process's environment, as it was when the process was executed.
pub(crate) fn variable(pid: i32, name: &str) -> Option<String> {
    let environment = fs::read(format!("/proc/{pid}/environ")).ok()?;
    let mut entries = environment.split(|b| *b == 0);
    let value = entries.find_map(|e| e.strip_prefix(name.as_bytes())?.strip_prefix(b"="))?;
    String::from_utf8(value.to_vec()).ok()
}

fn uid_of(pid: i32) -> Option<u32> {
    use std::os::unix::fs::MetadataExt;
    fs::metadata(format!("/proc/{pid}")).ok().map(|m| m.uid())
}

fn children_of_self() -> Vec<i32> {
    children(std::process::id() as i32)
}

/// The children of every thread of a process; from `children` where the kernel has it, else from every `stat`.
fn children(pid: i32) -> Vec<i32> {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    let mut found = Vec::new();
    for task in tasks.flatten() {
        match fs::read_to_string(task.path().join("children")) {
            Ok(text) => found.extend(text.split_whitespace().filter_map(|p| p.parse::<i32>().ok())),
            Err(_) => return children_from_stat(pid),
        }
    }
    found
}

fn children_from_stat(parent: i32) -> Vec<i32> {
    let Ok(processes) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = processes.flatten().filter_map(|p| p.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // The name in parentheses may hold anything; the parent's pid is the second word behind it.
        let behind = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        behind.split_whitespace().nth(1).and_then(|p| p.parse::<i32>().ok()) == Some(parent)
    })
    .collect()
}

fn descendants(of: &[i32]) -> Vec<i32> {
    let mut found = Vec::new();
    let mut next: Vec<i32> = of.to_vec();
    while let Some(pid) = next.pop() {
        let below = children(pid);
        found.extend(&below);
        next.extend(below);
    }
    found
}
