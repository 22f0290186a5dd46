//! Minutes of everything at once: clients, random deploys (good and broken), kills, upgrades and scalings, and not one
//! request that fails.
//!
//! ```text
//! soak [MINUTES] [SEED]                one minute, and a seed of its own, which is printed
//! soak --actions NUMBER [SEED]         so many actions instead
//! ```
//!
//! `scripts/soak` builds all of it as a release and runs it. What is done, and in which order, follows from the seed alone;
//! how far the one is when the other begins does not, so that a seed leads near what it found and not always there. What was
//! done, the log, the last traces of the state machine and the state are kept when anything is not as it has to be, and with
//! `$SOAK_KEEP` in any case.

mod acts;
mod chance;
mod clients;
mod figures;
mod keep;
mod lead;
mod rollouts;
mod scene;
mod strikes;
mod sys;

use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::scene::Length;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    if words == ["app"] {
        return tests::show::app::run().map_or(ExitCode::FAILURE, |()| ExitCode::SUCCESS);
    }
    let Some((length, seed)) = asked(&words) else {
        eprintln!("usage: scripts/soak [MINUTES] [SEED] | scripts/soak --actions NUMBER [SEED]");
        return ExitCode::from(2);
    };
    match scene::play(length, seed) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            tests::show::place::unless_ending();
            eprintln!("soak: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn asked(words: &[&str]) -> Option<(Length, u64)> {
    let (length, rest) = match words {
        ["--actions", number, rest @ ..] => (Length::Actions(number.parse().ok()?), rest),
        [minutes, rest @ ..] => {
            let minutes: f64 = minutes.parse().ok()?;
            (Length::Time(Duration::try_from_secs_f64(minutes * 60.0).ok()?), rest)
        }
        [] => (Length::Time(Duration::from_secs(60)), &[][..]),
    };
    let seed = match rest {
        [seed] => seed.parse().ok()?,
        [] => SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |since| u64::from(since.subsec_nanos())),
        _ => return None,
    };
    Some((length, seed))
}
