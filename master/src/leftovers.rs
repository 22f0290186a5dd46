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
    /// Those of [`Self::owners`] that are no children of ours, and whether their ends are watched.
    strangers: BTreeMap<i32, bool>,
    /// As whom the workers run; `None`: as this process.
    user: Option<Uid>,
}

/// A dead worker of which something is left.
#[derive(Debug)]
struct Dead {
    app_pid: Option<i32>,
    /// It was no child of ours: neither is what it has left.
    stranger: bool,
    /// The stop signal, once it was ordered.
    stop: Option<Signal>,
    told: BTreeSet<i32>,
}

impl Leftovers {
    /// Of workers that run as this user; `None`: as this process.
    pub(crate) fn of(user: Option<Uid>) -> Self {
        Self { user, ..Self::default() }
    }

    /// A child of ours that is no worker's left-over either.
    pub(crate) fn spare(&mut self, pid: i32) {
        self.owners.insert(pid, None);
    }

    /// Notes who among our children is not a worker's left-over (a container's strangers, an earlier exec's children);
    /// `ours` tells a process that belongs to some worker of this site.
    pub(crate) fn note_strangers(&mut self, ours: impl Fn(i32) -> bool) {
        for pid in children_of_self().into_iter().filter(|pid| !ours(*pid)) {
            self.owners.entry(pid).or_insert(None);
        }
    }

    /// A worker process has died. Several may die at once: all are told before anybody looks whose left-overs are whose.
    pub(crate) fn worker_died(&mut self, worker: Incarnation, app_pid: Option<i32>, stranger: bool) {
        self.dead.insert(worker, Dead { app_pid, stranger, stop: None, told: BTreeSet::new() });
    }

    /// Processes that are no children of ours and have not been watched yet: their ends have to be watched.
    pub(crate) fn unwatched(&mut self) -> Vec<i32> {
        let new: Vec<i32> = self.strangers.iter().filter(|(_, watched)| !**watched).map(|(pid, _)| *pid).collect();
        self.strangers.values_mut().for_each(|watched| *watched = true);
        new
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
        let mut now: BTreeSet<i32> = children_of_self().into_iter().filter(|pid| !workers.contains(pid)).collect();
        if self.dead.values().any(|dead| dead.stranger) {
            // Whoever adopted them waits for them in its own time.
            let of_dead = |pid: i32| whose(pid).and_then(|id| self.dead.get(&id)).is_some_and(|dead| dead.stranger);
            let left = |pid: &i32| of_dead(*pid) && !has_ended(*pid);
            let others: BTreeSet<i32> = processes()
                .into_iter()
                .filter(|pid| !now.contains(pid) && !workers.contains(pid) && left(pid))
                .collect();
            self.strangers.retain(|pid, _| others.contains(pid));
            for pid in &others {
                self.strangers.entry(*pid).or_insert(false);
            }
            now.extend(others);
        } else {
            self.strangers.clear();
        }
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
        let theirs = self.user.unwrap_or_else(Uid::effective).as_raw();
        let Some(dead) = self.dead.get_mut(&worker) else { return };
        if let Some(app) = dead.app_pid.filter(|app| owned.contains(app)) {
            if uid_of(app).is_some_and(|uid| uid != theirs) && dead.told.insert(app) {
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

/// As whom a process runs.
pub(crate) fn uid_of(pid: i32) -> Option<u32> {
    use std::os::unix::fs::MetadataExt;
    fs::metadata(format!("/proc/{pid}")).ok().map(|m| m.uid())
}

/// The living worker process above a process, if there is one: whoever lost its worker is somebody else's child.
pub(crate) fn worker_of(pid: i32) -> Option<i32> {
    let is_worker =
        |pid: i32| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == "worker");
    let above = std::iter::successors(parent_of(pid), |pid| parent_of(*pid));
    above.take_while(|pid| *pid > 1).find(|pid| is_worker(*pid) && !has_ended(*pid))
}

/// The parent of a process.
pub(crate) fn parent_of(pid: i32) -> Option<i32> {
    stat_word(pid, 1)?.parse().ok()
}

/// Whether a process is gone, or nothing but an exit status that nobody has asked for yet.
pub(crate) fn has_ended(pid: i32) -> bool {
    stat_word(pid, 0).is_none_or(|state| ["Z", "X"].contains(&state.as_str()))
}

/// A word of /proc/PID/stat behind the name, which is in parentheses and may hold anything: state, parent's pid …
fn stat_word(pid: i32, index: usize) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, behind) = stat.rsplit_once(')')?;
    behind.split_whitespace().nth(index).map(String::from)
}

/// Every process that there is.
pub(crate) fn processes() -> Vec<i32> {
    let Ok(processes) = fs::read_dir("/proc") else { return Vec::new() };
    processes.flatten().filter_map(|p| p.file_name().to_str()?.parse::<i32>().ok()).collect()
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
    processes().into_iter().filter(|pid| parent_of(*pid) == Some(parent)).collect()
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
