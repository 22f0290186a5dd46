//! `master`: owns the listening sockets and N slots, and rolls releases out.
//!
//! This binary is the body; what it does and when is decided in the library beside it (`rollout`, the mind). It never
//! runs app code and never changes its directory: a dangling symlink must not be able to kill it.

mod address;
mod adoption;
mod check_config;
mod child;
mod cli;
mod clients;
mod config;
mod control;
mod counters;
mod happen;
mod holder;
mod leftovers;
mod limit;
mod listener;
mod lock;
mod log;
mod manager;
mod narrate;
mod orphans;
#[cfg(test)]
mod pages;
mod perform;
mod recall;
mod record;
mod release;
mod request;
mod settings;
mod shell;
mod signals;
mod sockets;
mod sources;
mod spawn;
mod state;
mod stats;
mod sys;
mod timers;
mod token;
mod upgrade;
mod user;
mod value;
mod workers;

use std::io::Write;
use std::os::fd::OwnedFd;
use std::process::ExitCode;

use anyhow::{Context, Result};
use proto::worker::BootReport;
use rollout::Exit;

use crate::adoption::Estate;
use crate::child::WorkerExe;
use crate::cli::Cli;
use crate::control::Control;
use crate::listener::Listener;
use crate::manager::Manager;
use crate::recall::Recalled;
use crate::settings::Site;
use crate::shell::Shell;
use crate::state::State;
use crate::upgrade::Heirlooms;

fn main() -> ExitCode {
    sys::default_sigchld();
    // Before anything else opens an fd: sockets that a service manager passed, or the program before this one.
    let passed = passed_sockets();
    let heirlooms = Heirlooms::take();
    let (cli, origins) = Cli::from_args();
    if cli.check_config {
        return check_config::run(cli, &origins);
    }
    if cli.check_upgrade {
        return prove(cli);
    }
    // The program before this one has used and closed it. Before the log opens an fd of its own, which may take its number.
    let notify_fd = cli.notify_fd.filter(|_| heirlooms.control.is_none());
    let ready_fd = notify_fd.map(|fd| take_over(fd, passed.len()).and_then(child::move_up)).transpose();
    log::init(cli.log_format == "json");
    match ready_fd.and_then(|ready_fd| start(cli, passed, heirlooms, ready_fd)) {
        Ok(code) => code,
        Err(error) => {
            tracing::error!("cannot start: {error:#}");
            ExitCode::from(1)
        }
    }
}

/// Shows that this program can do what the one that runs does (`--check-upgrade`).
fn prove(cli: Cli) -> ExitCode {
    let addresses = cli.listen.clone();
    let state = cli.state.clone();
    let proved = Site::planned(cli, true).and_then(|site| {
        upgrade::fits_in(&site, state.as_deref(), &addresses)?;
        WorkerExe::find(child::raise_limit()?)
    });
    match proved {
        Ok(_) => {
            println!("master {}, protocol {}", env!("CARGO_PKG_VERSION"), proto::PROTOCOL);
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(1)
        }
    }
}

fn start(
    cli: Cli,
    passed: Vec<(OwnedFd, String)>,
    heirlooms: Heirlooms,
    ready_fd: Option<OwnedFd>,
) -> Result<ExitCode> {
    // Nothing is lost that comes meanwhile: a stop is heard as soon as there is something to stop.
    signals::block()?;
    // Adopting many workers takes many fds.
    let files = child::raise_limit()?;
    let (inherited, parked) = manager::sort(passed)?;
    let addresses = cli.listen.clone();
    let state = cli.state.clone();
    let mut site = Site::new(cli, !addresses.is_empty() || !inherited.is_empty())?;
    log::set_name(&site.name);
    let mut manager = Manager::new(ready_fd);
    let (fds, names): (Vec<_>, Vec<_>) = inherited.into_iter().unzip();
    let inherited = child::reserve_fds(fds, addresses.len())?.into_iter().zip(names);
    let exe = WorkerExe::find(files)?;
    let control = Control::bind(&site.socket, &site.dir, heirlooms.control)?;
    let (state, saved) = State::open(state.as_deref(), &site.name, &site.dir)?;
    site.mark = heirlooms.mark.unwrap_or_else(|| state.id(&site.dir));
    let mut estate = Estate::find(&site, heirlooms.sockets, parked)?;
    let recalled = Recalled::new(&site, state, saved, estate.served())?;
    let mut listeners = Vec::new();
    for ((fd, name), number) in inherited.zip(FIRST_INHERITED..) {
        listeners.push(Listener::inherit(fd, number, name)?);
    }
    let adopted: Vec<_> = addresses.iter().enumerate().map(|(n, address)| estate.listener(address, n)).collect();
    // Before anything is bound: what nobody wants any more may be in its way.
    manager.unpark(&estate.disown(&adopted));
    for ((n, address), adopted) in addresses.iter().enumerate().zip(adopted) {
        listeners.push(adopted.map_or_else(|| Listener::bind(address, n), Ok)?);
    }
    for listener in &listeners {
        tracing::info!("listening on {}", listener.address());
    }
    tracing::info!(
        "master {} (pid {}), control socket {}",
        env!("CARGO_PKG_VERSION"),
        std::process::id(),
        site.socket.display()
    );
    let mut shell = Shell::new(site, control, listeners, recalled, manager, estate, exe)?;
    match shell.run()? {
        Exit::Stopped => {
            tracing::info!("stopped");
            Ok(ExitCode::SUCCESS)
        }
        Exit::Upgraded => Err(shell.upgrade()),
        Exit::Detached => {
            tracing::info!("detached: the workers serve on");
            Ok(ExitCode::SUCCESS)
        }
        Exit::NothingBoots => {
            tracing::error!("no worker could boot");
            if let Some(report) = &shell.last_report {
                print_report(report);
            }
            Ok(ExitCode::from(3))
        }
    }
}

/// The fd of `--notify-fd`.
fn take_over(fd: i32, sockets: usize) -> Result<OwnedFd> {
    let among = (FIRST_INHERITED..).take(sockets).any(|socket| socket == fd);
    anyhow::ensure!(!among, "--notify-fd {fd} is one of the sockets of LISTEN_FDS");
    sys::adopt_fds(fd, 1).pop().with_context(|| format!("--notify-fd {fd} is not open"))
}

/// Where inherited sockets begin (`SD_LISTEN_FDS_START` of sd_listen_fds(3)).
const FIRST_INHERITED: i32 = 3;

fn passed_sockets() -> Vec<(OwnedFd, String)> {
    if !cli::inherits_sockets() {
        return Vec::new();
    }
    let count = std::env::var("LISTEN_FDS").ok().and_then(|n| n.parse().ok()).unwrap_or(0);
    let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
    let mut names = names.split(':').filter(|n| !n.is_empty()).map(String::from);
    sys::adopt_fds(FIRST_INHERITED, count)
        .into_iter()
        .zip(0..)
        .map(|(fd, n)| (fd, names.next().unwrap_or_else(|| format!("inherited{n}"))))
        .collect()
}

/// The last lines of what an app printed are enough to see why; `ctl report` is not there to ask any more.
const SHOWN_LINES: usize = 40;

/// The boot failure that ended a first start, with the app's own words.
fn print_report(report: &BootReport) {
    let mut text = format!(
        "error: no worker could boot\n  {}, slot {}, {}\n",
        String::from_utf8_lossy(&report.release),
        report.slot,
        narrate::failure(report)
    );
    let output = String::from_utf8_lossy(&report.output);
    let lines: Vec<&str> = output.lines().collect();
    for line in &lines[lines.len().saturating_sub(SHOWN_LINES)..] {
        text.push_str("  | ");
        text.extend(line.chars().filter(|c| !c.is_control() || *c == '\t'));
        text.push('\n');
    }
    let _ = std::io::stderr().write_all(text.as_bytes());
}
