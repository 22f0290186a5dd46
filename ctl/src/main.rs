//! `ctl`: tells the master what to do, waits until it is done, and says how it ended.
//!
//! It never decides: a command becomes one request on the master's control socket, and the master's last
//! reply becomes text (or, with `--json`, one document) and an exit code. The caller's terminal gets the
//! app's own error, made harmless. A closed standard output changes no exit code: a script that reads one
//! line and stops still learns how the rollout ended.
//!
//! Called by people, deploy scripts and apps (through `$PHASED_SOCKET`).

mod ask;
mod clean;
mod cli;
mod client;
mod completions;
mod exit;
mod exporter;
mod exporter_site;
mod happening;
mod history;
mod json;
mod locate;
mod metrics;
mod metrics_text;
mod notes;
#[cfg(test)]
mod pages;
mod progress;
mod releases;
mod render;
mod search;
mod short;
mod sys;
mod table;
mod upgrade;
mod usage;
mod wait;
mod watch;

use std::env;
use std::ffi::OsString;
use std::io::{self, ErrorKind, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::SystemTime;

use clap::error::ErrorKind as Usage;
use proto::control::{Code, Fact, Stats};

use crate::ask::{Answer, PATIENCE, Told};
use crate::cli::{Cli, Command};
use crate::exit::{Failure, number};
use crate::exporter_site::Site;
use crate::locate::Target;
use crate::metrics_text::Dialect;
use crate::progress::Progress;

/// What is printed at the end, and how `ctl` exits.
struct Said {
    out: String,
    err: String,
    code: Code,
}

impl Said {
    fn out(out: String) -> Self {
        Self { out, err: String::new(), code: Code::Done }
    }
}

fn main() -> ExitCode {
    let args: Vec<OsString> = env::args_os().collect();
    if completions::answered(&args) {
        return ExitCode::SUCCESS;
    }
    let (said, acts) = match cli::parse(&args) {
        Ok(cli) => (run(&cli).unwrap_or_else(|f| failed(&f, cli.json)), cli.command.acts()),
        Err(e) => (misused(&e, args.iter().any(|a| a == "--json")), false),
    };
    let printed = print(&mut io::stdout().lock(), &said.out);
    let _ = print(&mut io::stderr().lock(), &said.err);
    ExitCode::from(match printed {
        Err(e) => {
            let _ = print(&mut io::stderr().lock(), &format!("error: writing to standard output: {e}\n"));
            // What was done is done, also when a full disk under a log cannot take the word of it.
            number(if said.code == Code::Done && !acts { Code::Failed } else { said.code })
        }
        Ok(()) => number(said.code),
    })
}

/// Writes, and takes a reader that has gone away as one that has read enough.
fn print(to: &mut impl Write, text: &str) -> io::Result<()> {
    if text.is_empty() {
        return Ok(());
    }
    match to.write_all(text.as_bytes()).and_then(|()| to.flush()) {
        Err(e) if e.kind() == ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}

fn run(cli: &Cli) -> Result<Said, Failure> {
    if let Command::Watch { .. } = cli.command {
        watch::possible(cli.json)?;
    }
    if let Command::Completions { shell } = cli.command {
        let called = env::args_os().next().unwrap_or_default();
        let script = completions::script(shell, &called)?;
        return Ok(Said::out(if cli.json {
            json::line(&json::Good(&[("script".into(), Fact::Text(script))]))
        } else {
            script
        }));
    }
    let request = cli::request(&cli.command)?;
    let (socket, name) = meant(cli)?;
    if let Command::Exporter { listen } = &cli.command {
        return export(cli, *listen, Site::new(socket, name));
    }
    let target = match (&socket, &name) {
        (Some(path), _) => Target::Socket(path),
        (None, Some(name)) => Target::Name(name),
        (None, None) => Target::Only,
    };
    let found = locate::connect(&target)?;
    if let Command::Watch { interval } = cli.command {
        return watch::run(found, interval).map(|()| Said::out(String::new()));
    }
    if let Command::Metrics { openmetrics } = &cli.command {
        let seen = metrics::ask(found)?;
        let (site, families) = (&seen.stats.name, metrics::families(&seen));
        let dialect = if *openmetrics { Dialect::OpenMetrics } else { Dialect::Prometheus };
        return Ok(Said::out(match cli.json {
            true => json::line(&metrics_text::Document::new(&families, site)),
            false => metrics_text::text(&families, site, dialect),
        }));
    }
    let streams = matches!(cli.command, Command::Events { .. });
    let mut progress = Progress::new(&cli.command, &found.path);
    let mut show = |told: Told<'_>| {
        let text = match (told, streams, cli.json) {
            (Told::Happened(happening), _, true) => json::line(&happening::Document(happening)),
            (Told::Happened(happening), _, false) => happening::text(happening).unwrap_or_default(),
            (Told::Line(line), true, true) => json::line(&json::Event { event: line.trim_end() }),
            (Told::Line(_), false, true) => return,
            (Told::Line(_), false, false) if cli.quiet => return,
            (Told::Line(line), _, false) => progress.text(line),
        };
        // A full disk under a log must not end the wait.
        let _ = print(&mut io::stdout().lock(), &text);
    };
    let answer = ask::ask(found, &cli.command, &request, &PATIENCE, &mut show);
    progress.end();
    let answer = answer?;
    match (&cli.command, &answer) {
        (Command::History { lines }, Answer::Stats(stats)) => {
            let rollouts = history::read(stats, *lines)?;
            let document = || json::line(&history::Document::new(&rollouts));
            return Ok(Said::out(if cli.json { document() } else { history::table(&rollouts) }));
        }
        (Command::Releases { in_use }, Answer::Stats(stats)) => {
            let known = releases::known(stats);
            return Ok(Said::out(match (cli.json, in_use) {
                (true, _) => json::line(&releases::Document::new(&known, *in_use)),
                (false, true) => releases::lines(&known)?,
                (false, false) => releases::table(&known),
            }));
        }
        // The end of what is kept has no words of its own.
        (Command::Events { .. }, Answer::Done { .. }) => return Ok(Said::out(String::new())),
        _ => {}
    }
    Ok(if cli.json { as_json(&cli.command, &answer) } else { as_text(&cli.command, answer, cli.quiet) })
}

/// Serves metrics until this process is told to end.
fn export(cli: &Cli, listen: SocketAddr, site: Site) -> Result<Said, Failure> {
    exporter::run(listen, site, |address| {
        let url = format!("http://{address}/metrics");
        let text = match (cli.json, cli.quiet) {
            (true, _) => json::line(&json::Good(&[("url".into(), Fact::Text(url))])),
            (false, true) => return,
            (false, false) => format!("serving {url}\n"),
        };
        let _ = print(&mut io::stdout().lock(), &text);
    })?;
    Ok(Said::out(String::new()))
}

/// Which socket or name is meant: options before the environment, a socket before a name.
fn meant(cli: &Cli) -> Result<(Option<PathBuf>, Option<String>), Failure> {
    if cli.socket.is_some() || cli.name.is_some() {
        return Ok((cli.socket.clone(), cli.name.clone()));
    }
    if let Some(path) = locate::set("PHASED_SOCKET") {
        return Ok((Some(path.into()), None));
    }
    let Some(name) = locate::set("PHASED_NAME") else { return Ok((None, None)) };
    let name =
        cli::name(&name.to_string_lossy()).map_err(|e| Failure::new(Code::Usage, format!("$PHASED_NAME: {e}")))?;
    Ok((None, Some(name)))
}

fn as_json(command: &Command, answer: &Answer) -> Said {
    let out = match answer {
        Answer::Ended { code, rollout, .. } => {
            return Said { code: *code, ..Said::out(json::line(&json::LastRollout::from(&**rollout))) };
        }
        Answer::Began { rollout, .. } => json::line(&json::Began::new(*rollout)),
        Answer::Done { facts, .. } => json::line(&json::Good(facts)),
        Answer::Stats(stats) if matches!(command, Command::Status) => {
            return Said { code: verdict(stats), ..Said::out(json::line(&json::Short::from(&**stats))) };
        }
        Answer::Stats(stats) => json::line(&json::Stats::from(&**stats)),
        Answer::Report(report) => json::line(&json::LastReport::new(report.as_deref())),
        Answer::Over => String::new(),
    };
    Said::out(out)
}

fn as_text(command: &Command, answer: Answer, quiet: bool) -> Said {
    let unless_quiet = |text: String| if quiet { String::new() } else { text };
    match answer {
        Answer::Ended { code: Code::Done, message, .. } => Said::out(unless_quiet(render::line(&message))),
        Answer::Ended { code, message, rollout } => {
            Said { out: String::new(), err: render::failed_rollout(&message, &rollout), code }
        }
        Answer::Began { message, .. } | Answer::Done { message, .. } => Said::out(unless_quiet(render::line(&message))),
        Answer::Stats(stats) if matches!(command, Command::Status) => {
            Said { code: verdict(&stats), ..Said::out(unless_quiet(short::status(&stats, SystemTime::now()))) }
        }
        Answer::Stats(stats) => Said::out(table::stats(&stats, SystemTime::now())),
        Answer::Report(report) => Said::out(render::report(report.as_deref())),
        Answer::Over => Said::out(String::new()),
    }
}

/// What `status` exits with.
fn verdict(stats: &Stats) -> Code {
    match stats.state.as_str() {
        "steady" | "held" => Code::Done,
        "degraded" => Code::Degraded,
        _ => Code::Busy,
    }
}

fn failed(failure: &Failure, json: bool) -> Said {
    let code = failure.code;
    if json {
        return Said { code, ..Said::out(json::line(&json::Wrong::from(failure))) };
    }
    Said { out: String::new(), err: render::failure(failure), code }
}

/// A usage error, or the help that was asked for.
fn misused(error: &clap::Error, json: bool) -> Said {
    let text = error.to_string();
    match error.kind() {
        Usage::DisplayHelp | Usage::DisplayVersion => Said::out(text),
        _ if json => {
            let message = match error.kind() {
                Usage::DisplayHelpOnMissingArgumentOrSubcommand => "a command is missing; see `ctl --help`",
                _ => text.trim_end().trim_start_matches("error: "),
            };
            failed(&Failure::new(Code::Usage, message), true)
        }
        _ => Said { out: String::new(), err: text, code: Code::Usage },
    }
}
