//! What is read from `/proc`: the machine, and the cost of single processes.

use std::fs;
use std::time::Duration;

/// The machine in a line.
pub(crate) fn line() -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cpu = read("/proc/cpuinfo");
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": ")).map(|(_, name)| name);
    let memory = field(&read("/proc/meminfo"), "MemTotal").unwrap_or(0) / (1 << 20);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let kernel = read("/proc/sys/kernel/osrelease");
    let load = read("/proc/loadavg");
    format!(
        "{cores} cores, {}, {memory} GiB\nLinux {}, load before {}",
        model.unwrap_or(std::env::consts::ARCH),
        kernel.trim(),
        load.split(' ').next().unwrap_or("?")
    )
}

fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    line.split_whitespace().next()?.parse().ok()
}

/// The proportional set size of a process in KiB.
pub(crate) fn pss(pid: i32) -> Option<f64> {
    field(&fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?, "Pss").map(|kib| kib as f64)
}

/// How often a process's threads were taken off a CPU, of their own accord or not: each time it had been awake.
pub(crate) fn switches(pid: i32) -> u64 {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let status = tasks.map(|task| fs::read_to_string(task.path().join("status")).unwrap_or_default());
    let count = |text: String| {
        field(&text, "voluntary_ctxt_switches").unwrap_or(0) + field(&text, "nonvoluntary_ctxt_switches").unwrap_or(0)
    };
    status.map(count).sum()
}

/// Waits until every thread of a process sleeps: it may just have finished with what it was asked.
pub(crate) fn until_asleep(pid: i32) {
    let asleep = |text: String| text.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with('S'));
    loop {
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
        if tasks.map(|task| fs::read_to_string(task.path().join("stat")).unwrap_or_default()).all(asleep) {
            return;
        }
        std::thread::yield_now();
    }
}

/// The CPU time that a process's living threads have used, user and system.
pub(crate) fn cpu(pid: i32) -> Duration {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let spent = tasks.filter_map(|task| {
        let text = fs::read_to_string(task.path().join("schedstat")).ok()?;
        text.split(' ').next()?.parse::<u64>().ok()
    });
    Duration::from_nanos(spent.sum())
}

/// How many descriptors a process has open.
pub(crate) fn descriptors(pid: i32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count)
}
