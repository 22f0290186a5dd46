//! Processes as `/proc` shows them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::Instant;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::sys;

/// One process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Its pid.
    pub pid: i32,
    /// Its parent's.
    pub parent: i32,
    /// `R`, `S`, `Z`, …
    pub state: char,
    /// Its command line, or its name in brackets.
    pub command: String,
}

/// One process, if it exists.
#[must_use]
pub fn look(pid: i32) -> Option<Process> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name is in parentheses and may hold anything.
    let (name, rest) = stat.split_once('(')?.1.rsplit_once(')')?;
    let mut words = rest.split_whitespace();
    let state = words.next()?.chars().next()?;
    let parent = words.next()?.parse().ok()?;
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let line = String::from_utf8_lossy(&line).replace('\0', " ").trim().to_owned();
    let command = if line.is_empty() { format!("[{name}]") } else { line };
    Some(Process { pid, parent, state, command })
}

/// Every process.
#[must_use]
pub fn all() -> Vec<Process> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| look(entry.file_name().to_str()?.parse().ok()?)).collect()
}

/// Everything below `pid`, without itself, zombies included.
#[must_use]
pub fn descendants(pid: i32) -> Vec<Process> {
    let all = all();
    let mut family = BTreeSet::from([pid]);
    loop {
        let before = family.len();
        family.extend(
            all.iter()
                .filter(|process| family.contains(&process.parent))
                .map(|process| process.pid)
                .collect::<Vec<_>>(),
        );
        if family.len() == before {
            break;
        }
    }
    all.into_iter().filter(|process| process.pid != pid && family.contains(&process.pid)).collect()
}

/// Zombies below `pid`.
#[must_use]
pub fn zombies(pid: i32) -> Vec<Process> {
    descendants(pid).into_iter().filter(|process| process.state == 'Z').collect()
}

/// Living processes of a site: its folder stands in their environment, in their command line or is where they are.
#[must_use]
pub fn of_site(root: &Path) -> Vec<Process> {
    let text = root.to_str().expect("a readable path").as_bytes();
    let holds = |bytes: &[u8]| bytes.windows(text.len()).any(|window| window == text);
    let own = std::process::id() as i32;
    let belongs = |process: &Process| {
        process.pid != own
            && process.state != 'Z'
            && (fs::read(format!("/proc/{}/environ", process.pid)).is_ok_and(|bytes| holds(&bytes))
                || fs::read(format!("/proc/{}/cmdline", process.pid)).is_ok_and(|bytes| holds(&bytes))
                || fs::read_link(format!("/proc/{}/cwd", process.pid)).is_ok_and(|cwd| cwd.starts_with(root)))
    };
    all().into_iter().filter(belongs).collect()
}

/// The environment with which a process was started.
#[must_use]
pub fn environment(pid: i32) -> BTreeMap<String, String> {
    let bytes = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes).into_owned();
    text.split('\0').filter_map(|pair| pair.split_once('=')).map(|(k, v)| (k.to_owned(), v.to_owned())).collect()
}

/// The open descriptors of a process and what they are.
#[must_use]
pub fn descriptors(pid: i32) -> BTreeMap<i32, String> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| {
            let target = fs::read_link(entry.path()).ok()?.display().to_string();
            Some((entry.file_name().to_str()?.parse().ok()?, target))
        })
        .collect()
}

/// The fields of `/proc/PID/status`.
#[must_use]
pub fn status(pid: i32) -> BTreeMap<String, String> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    text.lines().filter_map(|line| line.split_once(':')).map(|(k, v)| (k.to_owned(), v.trim().to_owned())).collect()
}

/// Waits until a process has ended (it may still be a zombie); `false` when the deadline passes first.
#[must_use]
pub fn wait_end(pid: i32, deadline: Instant) -> bool {
    let Ok(fd) = sys::pidfd(pid) else { return true };
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(fd.as_fd(), PollFlags::POLLIN)], timeout) {
            Ok(0) => return false,
            Err(nix::Error::EINTR) => {}
            _ => return true,
        }
    }
}

/// Sends a signal; a process that is gone does not mind.
pub fn signal(pid: i32, signal: Signal) {
    let _ = kill(Pid::from_raw(pid), signal);
}

/// Kills every process of a site, until there is none.
pub fn kill_site(root: &Path) {
    loop {
        let left = of_site(root);
        if left.is_empty() {
            return;
        }
        for process in &left {
            signal(process.pid, Signal::SIGKILL);
        }
        for process in &left {
            let _ = wait_end(process.pid, Instant::now() + std::time::Duration::from_secs(10));
        }
    }
}

/// Processes as a table, for a person.
#[must_use]
pub fn table(processes: &[Process]) -> String {
    let mut text = String::new();
    for process in processes {
        let _ = writeln!(text, "{:>7} {:>7} {} {}", process.pid, process.parent, process.state, process.command);
    }
    text
}
