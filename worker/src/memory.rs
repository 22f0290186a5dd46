//! `--max-memory`: what an app's processes hold together.
//!
//! That is the sum of their proportional set sizes (Pss, and what of them is swapped out): a page that the processes of one app share,
//! as after a preload and fork, counts once. The resident set sizes (RSS) would count it once a process, and an app of four forks
//! would be recycled again and again for memory that it does not hold. But the kernel walks every page table for a Pss
//! (`smaps_rollup`), while it keeps count of the RSS (`status`). So that the RSS is read first, of which the Pss can only be less: as
//! long as the app keeps the limit by that, nothing more is asked. Where the Pss of a process may not be read (another user's,
//! not dumpable), its RSS counts.

use std::time::{Duration, Instant};

use crate::procfs::{self, Dir};
use crate::sys;

/// Between two looks, at least.
const INTERVAL: Duration = Duration::from_secs(5);
/// A look may come so many times the CPU time of the last one after that, at the earliest: 1 % of a CPU.
const SHARE: u32 = 100;

/// Watches one app from when it serves on.
#[derive(Debug)]
pub(crate) struct Memory {
    /// In bytes.
    most: u64,
    next: Instant,
    /// When the last look has been paid for.
    paid: Instant,
    told: bool,
}

impl Memory {
    /// The first look is due at once.
    pub(crate) fn new(most: u64, now: Instant) -> Self {
        Self { most, next: now, paid: now, told: false }
    }

    /// When [`Self::time`] is to be called.
    pub(crate) fn next(&self) -> Instant {
        self.next
    }

    /// Whoever was told is gone: if it is still too much, it is told again, and soon.
    pub(crate) fn tell_again(&mut self) {
        self.told = false;
        self.heard();
    }

    /// The app said something, so that it may have done something: the next look is not waited for, if the last one is paid for.
    pub(crate) fn heard(&mut self) {
        self.next = self.next.min(self.paid);
    }

    /// Looks, if it is time to. The bytes that are too much, once until the limit is kept again.
    pub(crate) fn time(&mut self, now: Instant) -> Option<u64> {
        if now < self.next {
            return None;
        }
        let before = sys::cpu_time();
        let held = held(self.most);
        let cost = sys::cpu_time().saturating_sub(before);
        self.paid = now + cost * SHARE;
        self.next = self.paid.max(now + INTERVAL);
        self.judge(held)
    }

    fn judge(&mut self, held: u64) -> Option<u64> {
        let too_much = held > self.most;
        let news = too_much && !self.told;
        self.told = too_much;
        news.then_some(held)
    }
}

/// What the app's processes hold, in bytes; exactly only where it is more than `most`.
fn held(most: u64) -> u64 {
    let Ok(pids) = procfs::descendants() else { return 0 };
    let mut text = Vec::new();
    let mut each = |file: &str, keys: [&str; 2]| {
        let sizes: Vec<Option<u64>> = pids.iter().map(|pid| size(*pid, file, keys, &mut text)).collect();
        sizes
    };
    // One that has ended meanwhile holds nothing.
    let resident = each("status", ["VmRSS:", "VmSwap:"]);
    let total = resident.iter().flatten().sum();
    if total <= most {
        return total;
    }
    let proportional = each("smaps_rollup", ["Pss:", "SwapPss:"]);
    proportional.into_iter().zip(resident).filter_map(|(pss, rss)| pss.or(rss)).sum()
}

fn size(pid: i32, file: &str, keys: [&str; 2], text: &mut Vec<u8>) -> Option<u64> {
    Dir::open(&format!("/proc/{pid}")).and_then(|dir| dir.read(file, text)).ok()?;
    parse(text, keys)
}

/// The sum of two lines as `VmRSS:    1234 kB`, of which the second may be missing.
fn parse(text: &[u8], keys: [&str; 2]) -> Option<u64> {
    let line = |key: &str| {
        let rest = text.split(|b| *b == b'\n').find_map(|line| line.strip_prefix(key.as_bytes()))?;
        let kilobytes = std::str::from_utf8(rest).ok()?.trim().strip_suffix("kB")?.trim_end().parse::<u64>().ok()?;
        Some(kilobytes * 1024)
    };
    Some(line(keys[0])? + line(keys[1]).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read() {
        let status =
            b"Name:\tVmRSS: 7 kB\nVmPeak:\t  999 kB\nVmRSS:\t    2056 kB\nRssAnon:\t 5 kB\nVmSwap:\t       4 kB\n";
        assert_eq!(parse(status, ["VmRSS:", "VmSwap:"]), Some(2060 << 10));
        let rollup =
            b"5581-7ffd ---p 00000000 00:00 0 [rollup]\nRss:  2000 kB\nPss:   81 kB\nPss_Dirty: 9 kB\nSwapPss: 1 kB\n";
        assert_eq!(parse(rollup, ["Pss:", "SwapPss:"]), Some(82 << 10));
        assert_eq!(parse(b"Pss: 3 kB\n", ["Pss:", "SwapPss:"]), Some(3 << 10));
        assert_eq!(parse(b"Name:\tkthread\n", ["VmRSS:", "VmSwap:"]), None);
    }

    #[test]
    fn it_is_told_once_until_the_limit_was_kept_again() {
        let mut memory = Memory::new(100, Instant::now());
        let told: Vec<_> = [99, 100, 101, 150, 100, 120].map(|held| memory.judge(held)).into();
        assert_eq!(told, [None, None, Some(101), None, None, Some(120)]);
        memory.tell_again();
        assert_eq!([130, 140].map(|held| memory.judge(held)), [Some(130), None]);
    }

    #[test]
    fn looks_are_apart() {
        let now = Instant::now();
        let mut memory = Memory::new(u64::MAX, now);
        assert_eq!(memory.next(), now);
        assert_eq!(memory.time(now), None);
        assert!(memory.next() >= now + INTERVAL);
        memory.heard();
        assert_eq!(memory.next(), memory.paid);
        assert!(memory.paid > now, "a look costs something");
        assert!(memory.time(memory.paid - Duration::from_nanos(1)).is_none());
        assert_eq!(memory.next(), memory.paid, "it was too early for a look");
    }

    #[test]
    fn this_process_s_children_hold_something() {
        let mut child = std::process::Command::new("cat").stdin(std::process::Stdio::piped()).spawn().unwrap();
        let pid = child.id().cast_signed();
        let mut text = Vec::new();
        let rss = size(pid, "status", ["VmRSS:", "VmSwap:"], &mut text);
        let pss = size(pid, "smaps_rollup", ["Pss:", "SwapPss:"], &mut text);
        assert!(rss > Some(0) && pss > Some(0), "{rss:?} {pss:?}");
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
