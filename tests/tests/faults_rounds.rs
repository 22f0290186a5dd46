//! The master is killed and started again, and replaced in place, many times in a row under load: no request fails, no
//! worker is lost, and it takes ever the same. `$ROUNDS` (10) and `$WORKERS` (4) try other numbers; the figures are printed.

use std::fmt;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use tests::aftermath::{kill, settled};
use tests::{Load, Site, process};

fn number(name: &str, usual: u32) -> u32 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(usual)
}

/// What a master uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Use {
    fds: usize,
    kib: u64,
}

impl Use {
    fn of(pid: i32) -> Self {
        let status = process::status(pid);
        let kib = status.get("VmRSS").and_then(|text| text.split_whitespace().next()?.parse().ok());
        Self { fds: process::descriptors(pid).len(), kib: kib.expect("VmRSS") }
    }
}

impl fmt::Display for Use {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} fds, VmRSS {} KiB", self.fds, self.kib)
    }
}

/// Least, median, most.
fn spread(mut times: Vec<Duration>) -> String {
    times.sort_unstable();
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    let (least, most) = (times[0], times[times.len() - 1]);
    format!("{:.1} / {:.1} / {:.1} ms", ms(least), ms(times[times.len() / 2]), ms(most))
}

#[test]
fn killed_and_started_again() {
    let (rounds, workers) = (number("ROUNDS", 10), number("WORKERS", 4));
    let site = Site::new();
    let mut master = site.steady("41", "", workers);
    let apps = master.app_pids();
    let load = Load::start(&master.address());
    load.more(20);
    let (mut times, mut uses) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        kill(&master);
        let begun = Instant::now();
        let next = site.master().workers(workers).start();
        // Its control socket is answered behind the adoption.
        times.push(begun.elapsed());
        next.until_log("adopted");
        load.more(20);
        uses.push(Use::of(next.pid()));
        // The end of the last one would be the end of everything.
        std::mem::forget(std::mem::replace(&mut master, next));
    }
    let tally = load.finish();
    println!("{rounds} times killed and started again, {workers} workers: {} requests, 0 failed", tally.answers);
    println!("from its start to its answer (behind the adoption): {}", spread(times));
    println!("the master: {} after the first, {} after the last", uses[0], uses[uses.len() - 1]);
    assert_eq!(settled(&master).0, "41");
    assert_eq!(master.app_pids(), apps);
    assert_eq!(site.boots("41"), workers as usize);
}

#[test]
fn replaced_in_place() {
    let (rounds, workers) = (number("ROUNDS", 10), number("WORKERS", 4));
    let site = Site::new();
    let master = site.steady("41", "", workers);
    let apps = master.app_pids();
    let load = Load::start(&master.address());
    load.more(20);
    let (mut times, mut uses) = (Vec::new(), Vec::new());
    let before = Use::of(master.pid());
    let mut seen = 0;
    for _ in 0..rounds {
        let begun = Instant::now();
        master.signal(Signal::SIGUSR2);
        let adopted = master.stderr.wait(seen, site.deadline(), |line| line.contains("adopted"));
        seen = adopted.expect("it adopts").0 + 1;
        times.push(begun.elapsed());
        load.more(20);
        let _ = master.stats();
        uses.push(Use::of(master.pid()));
    }
    let tally = load.finish();
    println!("{rounds} times replaced in place, {workers} workers: {} requests, 0 failed", tally.answers);
    println!("from the signal to the word that it has adopted: {}", spread(times));
    println!("the master: {before} at first, {} after one, {} after the last", uses[0], uses[uses.len() - 1]);
    let stats = master.stats();
    assert_eq!(stats.worker_status.len(), workers as usize);
    tests::aftermath::nothing_else(&site, master.pid(), &stats);
    assert_eq!(master.app_pids(), apps);
    assert_eq!(site.boots("41"), workers as usize);
    // A client that has just gone may not have been noticed yet; one fd a round would be.
    let (first, last) = (uses[0].fds, uses[uses.len() - 1].fds);
    assert!(last <= first + 2, "fds are left open: {first} after one, {last} after {rounds}");
}
