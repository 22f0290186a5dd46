//! Phased restarts under load: nothing may fail, nothing may be left over.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tests::http::Address;
use tests::process;
use tests::show::place::Start;
use tests::show::{Clients, Master, Place};

use crate::{machine, measure};

const WORKERS: u32 = 4;

fn start(place: &Place) -> Result<(Master, Address)> {
    measure::releases(place)?;
    place.deploy("slow")?;
    let options = ["--soak", "0s"].map(String::from).into();
    let master = place.start(&Start { workers: WORKERS, options })?;
    master.until("steady", |stats| stats.state == "steady")?;
    let address = master.address()?;
    Ok((master, address))
}

/// Good to good and good to broken, each so many times, under wrk at full speed with 16 clients that make a new connection
/// for each request. Whether anything failed.
///
/// # Errors
/// When anything else does not work as promised.
pub(crate) fn wrk(place: &Place, (runs, seconds): (usize, u64)) -> Result<bool> {
    if Command::new("wrk").arg("-v").stdout(Stdio::null()).stderr(Stdio::null()).status().is_err() {
        println!("wrk is not installed here: no phased restarts under wrk");
        return Ok(false);
    }
    let (master, address) = start(place)?;
    let url = address.to_string().replace("tcp://", "http://");
    let duration = format!("-d{seconds}s");
    let mut failed = false;
    for (name, releases, code) in [("good", ["quick", "slow"], 0), ("broken", ["broken", "broken"], 3)] {
        let (mut requests, mut errors) = (0, Vec::new());
        for run in 0..runs {
            place.deploy(releases[run % 2])?;
            let mut wrk = Command::new("wrk");
            wrk.args(["-t2", "-c16", &duration, "-H", "Connection: close", &url]).stdout(Stdio::piped());
            let mut wrk = wrk.spawn()?;
            // wrk says nothing while it runs and has no event to wait for: time alone tells that its load is there, a quarter of
            // its span. A restart that misses the load is said below.
            let begun = Instant::now();
            std::thread::sleep(Duration::from_secs(seconds) / 4);
            measure::restart(&master, code)?;
            if begun.elapsed() > Duration::from_secs(seconds) {
                println!("  the restart took longer than wrk: {:.2} s", begun.elapsed().as_secs_f64());
            }
            let mut text = String::new();
            std::io::Read::read_to_string(&mut wrk.stdout.take().context("a pipe")?, &mut text)?;
            wrk.wait()?;
            requests +=
                text.lines().find_map(|line| line.split_once(" requests in")?.0.trim().parse().ok()).unwrap_or(0);
            errors.extend(
                text.lines().filter(|line| line.contains("errors") || line.contains("Non-2xx")).map(str::to_owned),
            );
        }
        println!(
            "{:<52} {requests} requests, {} failed",
            format!("{runs} times good to {name} under wrk"),
            errors.len()
        );
        errors.iter().for_each(|error| println!("  {}", error.trim()));
        failed |= !errors.is_empty() || requests == 0;
    }
    master.stop()?;
    Ok(failed)
}

/// So many phased restarts in a row, every fifth one broken, under load; whether a request failed or anything is left over.
///
/// # Errors
/// When anything else does not work as promised.
pub(crate) fn restarts(place: &Place, count: usize) -> Result<bool> {
    let (master, address) = start(place)?;
    // Connections of ours that are closed, closed by the master too.
    machine::until_asleep(master.pid());
    let fds = machine::descriptors(master.pid());
    let clients = Clients::start(&address, 2, 2, Duration::ZERO);
    let begun = Instant::now();
    let mut good = ["quick", "slow"].into_iter().cycle();
    for n in 1..=count {
        let broken = n % 5 == 0;
        place.deploy(if broken { "broken" } else { good.next().unwrap_or("quick") })?;
        measure::restart(&master, if broken { 3 } else { 0 })?;
    }
    let took = begun.elapsed().as_secs_f64();
    let tally = clients.finish();
    // The end of the last refused candidate's processes is not waited for by ctl.
    master.until("nothing else lives", |stats| stats.worker_status.len() == WORKERS as usize)?;
    machine::until_asleep(master.pid());
    let lives = process::descendants(master.pid());
    let fds_after = machine::descriptors(master.pid());
    let name = format!("{count} restarts in a row, every fifth broken ({took:.1} s)");
    println!("{name:<52} {} requests, {} failed", tally.answers, tally.failures.len());
    tally.failures.iter().take(5).for_each(|failure| println!("  {failure}"));
    let left = lives.len() != 2 * WORKERS as usize;
    println!("{:<52} {} processes, fds {fds} before, {fds_after} after", "  left of them", lives.len());
    if left {
        print!("{}", process::table(&lives));
    }
    if !tally.texts.keys().all(|text| text == "quick" || text == "slow") {
        bail!("unexpected answers: {:?}", tally.texts);
    }
    master.stop()?;
    Ok(!tally.failures.is_empty() || left || fds_after != fds)
}
