//! Shows what the programs are for, to somebody who has nothing but this repository and Rust: a good release is deployed,
//! a broken one is refused, a worker is killed, all under load and without a failed request.
//!
//! `scripts/demo` builds and runs it. It needs no port, no privilege and no other program; all that it makes is in a
//! temporary folder that goes away with it, also on Ctrl-C. It fails when anything is not as promised.

mod story;

use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words[..] {
        // The app that is deployed is this program, too.
        ["app"] => tests::show::app::run().map_or(ExitCode::FAILURE, |()| ExitCode::SUCCESS),
        [] => match story::tell() {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                tests::show::place::unless_ending();
                eprintln!("\ndemo: not as promised: {error:#}");
                ExitCode::FAILURE
            }
        },
        _ => {
            eprintln!("usage: scripts/demo");
            ExitCode::from(2)
        }
    }
}
