//! What the apps take: the memory and CPU time of a process and everything below it, as `/proc` shows them.
//!
//! Memory is the sum of the proportional set sizes (a page that the processes share counts once), as far as this user may read
//! them; of a process whose it may not, the resident set size. Processes that have left their parent (daemons) are not below
//! it any more, and are not counted.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use nix::unistd::{SysconfVar, sysconf};

/// What an app takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    /// Memory in bytes.
    pub(crate) bytes: u64,
    /// CPU time since its start, user and system, with that of the children it has waited for.
    pub(crate) cpu: Duration,
    /// How many processes it is.
    pub(crate) processes: u32,
}

/// All processes of one moment.
#[derive(Debug, Default)]
pub(crate) struct Processes {
    all: BTreeMap<u32, Process>,
    children: BTreeMap<u32, Vec<u32>>,
}

/// What `/proc/PID/stat` says of one of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Process {
    parent: u32,
    /// In clock ticks.
    cpu: u64,
    /// The resident set, in pages.
    resident: u64,
}

impl Processes {
    /// Looks at all there are; those of which nothing can be read are left out.
    pub(crate) fn look() -> Self {
        let mut processes = Self::default();
        for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            let stat = fs::read(entry.path().join("stat")).unwrap_or_default();
            if let Some(process) = parse(&stat) {
                processes.add(pid, process);
            }
        }
        processes
    }

    fn add(&mut self, pid: u32, process: Process) {
        self.all.insert(pid, process);
        self.children.entry(process.parent).or_default().push(pid);
    }

    /// What this process and all below it take; `None`: it is not there.
    pub(crate) fn usage(&self, pid: u32) -> Option<Usage> {
        let mut total = Usage::default();
        let mut ticks = 0;
        for pid in self.family(pid)? {
            let process = self.all.get(&pid)?;
            ticks += process.cpu;
            total.bytes += proportional(pid).unwrap_or(process.resident * unit(SysconfVar::PAGE_SIZE, 4096));
            total.processes += 1;
        }
        let hertz = unit(SysconfVar::CLK_TCK, 100);
        total.cpu =
            Duration::from_secs(ticks / hertz) + Duration::from_secs(1).mul_f64((ticks % hertz) as f64 / hertz as f64);
        Some(total)
    }

    /// The process itself and all below it. Each stands there once, whatever was read.
    fn family(&self, pid: u32) -> Option<Vec<u32>> {
        self.all.get(&pid)?;
        let mut family = vec![pid];
        let mut next = 0;
        while let Some(parent) = family.get(next) {
            let children = self.children.get(parent).into_iter().flatten();
            let new: Vec<u32> = children.copied().filter(|child| !family.contains(child)).collect();
            family.extend(new);
            next += 1;
        }
        Some(family)
    }
}

/// A setting of the system that does not change; `usual` where it cannot be had.
fn unit(name: SysconfVar, usual: u64) -> u64 {
    sysconf(name).ok().flatten().and_then(|value| u64::try_from(value).ok()).filter(|value| *value > 0).unwrap_or(usual)
}

/// A process's part of the memory that it holds, in bytes, with what of it is swapped out; `None`: it may not be read.
fn proportional(pid: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    let kilobytes = |key: &str| {
        let rest = text.lines().find_map(|line| line.strip_prefix(key))?;
        rest.trim().strip_suffix("kB")?.trim_end().parse::<u64>().ok()
    };
    Some((kilobytes("Pss:")? + kilobytes("SwapPss:").unwrap_or(0)) * 1024)
}

/// Reads `/proc/PID/stat` (proc_pid_stat(5)).
fn parse(stat: &[u8]) -> Option<Process> {
    let text = String::from_utf8_lossy(stat);
    // The name is in parentheses and may hold anything; what follows begins with field 3.
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    let number = |field: usize| fields.get(field - 3)?.parse::<i64>().ok();
    let positive = |field: usize| number(field).map(|n| u64::try_from(n).unwrap_or(0));
    let times: Option<Vec<u64>> = (14..=17).map(positive).collect();
    Some(Process { parent: u32::try_from(number(4)?).ok()?, cpu: times?.iter().sum(), resident: positive(24)? })
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn a_name_can_be_anything() {
        let rest = "S 77 1 1 0 -1 4194560 9 8 7 6 10 20 3 4 20 0 1 0 12345 4096000 250 18446744073709551615";
        let wanted = Process { parent: 77, cpu: 37, resident: 250 };
        for name in ["app", "a) R 1 (b", "two words", "\u{1b}[2J"] {
            assert_eq!(parse(format!("42 ({name}) {rest}\n").as_bytes()), Some(wanted), "{name}");
        }
        for bad in ["", "42", "42 (app", "42 (app) S", "42 (app) S x 1 1"] {
            assert_eq!(parse(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn a_family_is_a_process_and_all_below_it() {
        let mut processes = Processes::default();
        for (pid, parent) in [(1, 0), (10, 1), (11, 10), (12, 11), (20, 1), (0, 0)] {
            processes.add(pid, Process { parent, cpu: 0, resident: 0 });
        }
        assert_eq!(processes.family(10), Some(vec![10, 11, 12]));
        assert_eq!(processes.family(20), Some(vec![20]));
        assert_eq!(processes.family(99), None);
        assert_eq!(processes.family(0).map(|all| all.len()), Some(6), "no loop is for ever");
    }

    #[test]
    fn a_real_tree_is_added_up() {
        // A shell that waits for a child, which waits for us.
        let mut shell =
            Command::new("sh").args(["-c", "cat; :"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (mut to, mut from) = (shell.stdin.take().unwrap(), shell.stdout.take().unwrap());
        std::io::Write::write_all(&mut to, b"x").unwrap();
        from.read_exact(&mut [0]).unwrap();
        let usage = Processes::look().usage(shell.id()).unwrap();
        assert_eq!(usage.processes, 2);
        assert!(usage.bytes > 50_000 && usage.bytes < 1 << 30, "{usage:?}");
        let own = Processes::look().usage(std::process::id()).unwrap();
        assert!(own.processes >= 3 && own.bytes > usage.bytes, "{own:?}");
        drop(to);
        shell.wait().unwrap();
        assert_eq!(Processes::look().usage(shell.id()), None);
    }
}
