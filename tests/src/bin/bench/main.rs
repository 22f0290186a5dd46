//! Measures master, worker and ctl as whole programs, and holds the figures against the bars of the project.
//!
//! ```text
//! bench            4, 32 and 256 workers, the idle span of 30 s, and the load: some minutes
//! bench --quick    4 workers, about 20 s
//! ```
//!
//! `scripts/bench` builds all of it as a release and runs it. Each figure is a median, with the least and the greatest
//! beside it. A bar of time or memory that does not hold is said and fails nothing (machines differ); a failed request
//! or anything left over fails the run.

mod events;
mod figures;
mod load;
mod machine;
mod measure;

use std::process::ExitCode;

use anyhow::{Result, bail};

use crate::figures::{Bars, Table};
use crate::measure::Figures;

/// How much is measured.
struct Plan {
    /// Numbers of workers.
    workers: &'static [u32],
    /// Masters for each of them and each way of being ready.
    masters: fn(u32) -> usize,
    /// Seconds of the idle span.
    idle: u64,
    /// Runs of wrk, for good to good and for good to broken, and the seconds of one.
    wrk: (usize, u64),
    /// Phased restarts in a row.
    restarts: usize,
}

const WHOLE: Plan = Plan {
    workers: &[4, 32, 256],
    masters: |workers| if workers > 32 { 2 } else { 5 },
    idle: 30,
    wrk: (10, 3),
    restarts: 100,
};
const QUICK: Plan = Plan { workers: &[4], masters: |_| 2, idle: 5, wrk: (1, 2), restarts: 15 };

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let done = match words[..] {
        ["app"] => return tests::show::app::run().map_or(ExitCode::FAILURE, |()| ExitCode::SUCCESS),
        [] => bench(&WHOLE),
        ["--quick"] => bench(&QUICK),
        _ => {
            eprintln!("usage: scripts/bench [--quick]");
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tests::show::place::unless_ending();
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn bench(plan: &Plan) -> Result<()> {
    let place = tests::show::Place::new("bench-")?;
    let events = events::Events::listen(place.root())?;
    println!("{}", machine::line());
    println!("medians (least to greatest); app: {} app\n", binary_size("bench")?);
    let mut all = Vec::new();
    for workers in plan.workers {
        let mut figures = Figures::default();
        for ready in ["notify", "auto"] {
            for nth in 0..(plan.masters)(*workers) {
                let settled = (nth == 0 && ready == "notify").then_some(plan.idle);
                measure::master(&place, &events, (*workers, ready), settled, &mut figures)?;
            }
        }
        all.push((*workers, figures));
    }
    let cpu = measure::cpu_of_64(&place)?;
    let mut table = Table::new(plan.workers);
    let mut bars = Bars::default();
    measure::report(&all, &cpu, plan.idle, &mut table, &mut bars);
    print!("{table}");
    println!();
    let mut failed = load::wrk(&place, plan.wrk)?;
    failed |= load::restarts(&place, plan.restarts)?;
    println!("\n{bars}");
    if failed {
        bail!("requests failed or something was left over");
    }
    Ok(())
}

/// The size of a program, for people.
fn binary_size(name: &str) -> Result<String> {
    let size = std::fs::metadata(tests::show::place::binary(name)?)?.len();
    Ok(format!("{name} ({} KiB)", size / 1024))
}
