//! Boots one app from a release directory, watches it, and reports how that goes.
//!
//! A worker is started by the master, for one incarnation of one slot. It takes [`proto::worker::ToWorker`] on fd 0, says
//! [`proto::worker::FromWorker`] on fd 3, and holds the listening sockets from fd 4 on. It knows nothing of other slots and
//! decides nothing about its own. When its master is gone, it keeps its app for the next one, who finds it on a socket of its own. When
//! it ends, nothing of its app is left.

/// Says something on the master's stderr; not with `eprintln!`, which panics when nobody reads that any more.
macro_rules! complain {
    ($($what:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stderr(), "worker: {}", format_args!($($what)*));
    }};
}

mod answer;
mod app;
mod begin;
mod boot;
mod check;
mod cli;
mod command;
mod door;
mod dotenv;
mod ending;
mod env;
mod expand;
mod hook;
mod http;
mod lead;
mod look;
mod master;
mod memory;
mod net;
mod notify;
mod orphan;
mod output;
mod procfile;
mod procfs;
mod ready;
mod relay;
mod report;
mod run;
mod sys;
mod syscall;
mod tail;
#[cfg(test)]
mod testing;
mod user;
mod watchdog;

use std::ffi::OsString;
use std::io::Write;
use std::process::exit;

use nix::unistd::{Pid, setpgid};
use proto::worker::REPORT_FD;

fn main() {
    let args: Vec<OsString> = std::env::args_os().skip(1).collect();
    if let Some(answer) = cli::answer(&args, sys::is_pipe(0) && sys::is_pipe(REPORT_FD)) {
        // A reader that is gone cannot be told.
        let _ = std::io::stdout().write_all(answer.out.as_bytes());
        let _ = std::io::stderr().write_all(answer.err.as_bytes());
        exit(answer.code);
    }
    let (Some(orders), Some(reports)) = (sys::take_inherited(0), sys::take_inherited(REPORT_FD)) else { exit(2) };
    // Spawned through an fd, it would be named after that.
    let _ = nix::sys::prctl::set_name(c"worker");
    // Ctrl-C at the master's terminal is for the master alone.
    let _ = setpgid(Pid::from_raw(0), Pid::from_raw(0));
    if let Err(e) = nix::sys::prctl::set_child_subreaper(true) {
        // Daemonised processes would escape; everything else works.
        complain!("cannot become a subreaper: {e}");
    }
    match lead::Lead::new(orders, reports) {
        Ok(lead) => lead.work(),
        Err(e) => {
            complain!("cannot receive signals: {e}");
            exit(1);
        }
    }
}
