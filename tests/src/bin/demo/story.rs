//! The demo, step by step. Each command is printed as a person would type it in the folder, with what it really printed.

use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;
use proto::control::{Stats, WorkerStatus};
use tests::process;
use tests::show::place::Start;
use tests::show::{Clients, Master, Place};

const WORKERS: u32 = 4;
/// Clients with keep-alive, and as many that make a new connection for each request.
const CLIENTS: usize = 4;
/// What a client waits between an answer and its next request.
const PAUSE: Duration = Duration::from_millis(2);
/// Answers after each step: every client has met what was done.
const ANSWERS: u64 = 400;
/// How long the app takes to boot, in milliseconds: as a small one does.
const BOOT_MS: &str = "150";
/// What the broken release looks for at its boot.
const MISSING: &str = "users.locale";

/// What the sick release says of its health.
const SICK: &str = "no connection to the database";

/// What a terminal shows in a line.
const WIDTH: usize = 80;

/// What happened, for the table at the end.
struct Step {
    what: &'static str,
    took: Duration,
    outcome: String,
}

/// Tells it.
///
/// # Errors
/// When anything is not as promised; a failed request above all.
pub(crate) fn tell() -> Result<()> {
    let place = Place::new("demo-")?;
    for release in ["1", "2", "5"] {
        place.release(release, &[("version", &format!("release {release}")), ("boot_ms", BOOT_MS)])?;
    }
    place.release("4", &[("version", "release 4"), ("boot_ms", BOOT_MS), ("sick", SICK)])?;
    place.release("3", &[("version", "release 3"), ("boot_ms", BOOT_MS), ("needs", MISSING)])?;
    place.deploy("1")?;
    println!("{WORKERS} workers of a small HTTP app; everything is in {}\n", place.root().display());

    let options = ["--name", "demo", "--soak", "1s", "--check", "http:/health", "--check-timeout", "1s"];
    println!("$ master --dir current --workers {WORKERS} --soak 1s --name demo \\");
    println!("    --check http:/health --check-timeout 1s \\\n    --listen tcp://127.0.0.1:0 -- demo app &");
    let options = options.map(String::from).into();
    let master = place.start(&Start { workers: WORKERS, options })?;
    let stats = master.until("steady", |stats| stats.state == "steady")?;
    ensure!(all_on(&stats, "1"), "not every worker has release 1");
    let address = master.address()?;
    let url = address.to_string().replace("tcp://", "http://");
    println!("  serves on {url}");
    println!("\nFrom now on {CLIENTS} clients with keep-alive and {CLIENTS} with new connections ask all the");
    println!("time; none of their requests may fail.");
    let clients = Clients::start(&address, CLIENTS, CLIENTS, PAUSE);
    clients.more(ANSWERS)?;

    let steps = [
        good(&place, &master, &clients, "2", "a good release")?,
        refused(&place, &master, &clients, "3", "a broken release", &format!("missing column {MISSING}"))?,
        killed(&master, &clients)?,
        refused(&place, &master, &clients, "4", "a sick release", SICK)?,
        good(&place, &master, &clients, "5", "the repaired release")?,
    ];

    println!("\n$ ctl stop");
    let tally = clients.finish();
    ctl(&master, &["stop"], 0)?;
    ensure!(master.stop()?, "the master did not end cleanly");
    let left = process::of_site(place.root());
    ensure!(left.is_empty(), "processes are left over:\n{}", process::table(&left));

    println!();
    for step in &steps {
        println!("{:<26} {:>6.2} s   {}", step.what, step.took.as_secs_f64(), step.outcome);
    }
    println!("{:<26} {:>6}", "requests served", tally.answers);
    println!("{:<26} {:>6}", "requests failed", tally.failures.len());
    println!("{:<26} {:>6.1} ms", "slowest request", tally.slowest.as_secs_f64() * 1e3);
    if let Some(failure) = tally.failures.first() {
        bail!("{} requests failed, first {failure}", tally.failures.len());
    }
    Ok(())
}

fn good(place: &Place, master: &Master, clients: &Clients, release: &str, what: &'static str) -> Result<Step> {
    heading(&format!("deploy {what}"));
    let (took, _) = deploy(place, master, release, 0)?;
    ensure!(all_on(&master.stats()?, release), "not every worker has release {release}");
    answered(clients, &[release])?;
    Ok(Step { what, took, outcome: format!("promoted (exit code 0): release {release}") })
}

fn refused(
    place: &Place,
    master: &Master,
    clients: &Clients,
    release: &str,
    what: &'static str,
    words: &str,
) -> Result<Step> {
    heading(&format!("deploy {what}"));
    let before = apps(&master.stats()?);
    let (took, said) = deploy(place, master, release, 3)?;
    ensure!(said.contains(words), "ctl does not show what the app said");
    println!("\n$ ctl status");
    ctl(master, &["status"], 0)?;
    let stats = master.stats()?;
    ensure!(all_on(&stats, "2"), "not every worker has release 2");
    ensure!(apps(&stats) == before, "{what} has cost a good worker");
    answered(clients, &["2"])?;
    Ok(Step { what, took, outcome: "refused (exit code 3): release 2 goes on".into() })
}

fn killed(master: &Master, clients: &Clients) -> Result<Step> {
    heading("kill a worker, while current still names the broken release");
    let stats = master.stats()?;
    let slot = |stats: &Stats| stats.worker_status.iter().find(|worker| worker.index.0 == 2).cloned();
    let old = slot(&stats).context("slot 2")?;
    let (worker, app) = (old.pid.context("its pid")? as i32, old.app_pid.context("its app")? as i32);
    println!("$ kill -9 {worker}          # the worker of slot 2, whose app is {app}");
    let begun = Instant::now();
    process::signal(worker, Signal::SIGKILL);
    let is_new = |new: &WorkerStatus| new.incarnation != old.incarnation && new.booted;
    master.until("slot 2 is ready again", |stats| {
        stats.worker_status.iter().any(|worker| worker.index.0 == 2 && is_new(worker))
    })?;
    let took = begun.elapsed();
    let stats = master.until("the old app is gone", |stats| stats.worker_status.len() == WORKERS as usize)?;
    ensure!(all_on(&stats, "2"), "not every worker has release 2");
    ensure!(process::look(app).is_none_or(|app| app.state == 'Z'), "the killed worker's app is left over");
    let new = slot(&stats).context("slot 2")?;
    println!("  slot 2: its app has finished its requests and ended; worker {} is ready", new.pid.unwrap_or(0));
    println!("  with release 2, {:.2} s after the kill", took.as_secs_f64());
    answered(clients, &["2"])?;
    Ok(Step { what: "a killed worker", took, outcome: "respawned with release 2".into() })
}

fn heading(text: &str) {
    println!("\n---- {text}");
}

fn deploy(place: &Place, master: &Master, release: &str, code: i32) -> Result<(Duration, String)> {
    println!("$ ln -sfn releases/{release} current && ctl phased-restart; echo $?");
    place.deploy(release)?;
    let begun = Instant::now();
    let said = ctl(master, &["phased-restart"], code)?;
    let took = begun.elapsed();
    println!("  {code}");
    Ok((took, said))
}

/// Runs ctl to its end, and prints what it says as it comes; all of that.
fn ctl(master: &Master, args: &[&str], code: i32) -> Result<String> {
    let (reader, writer) = std::io::pipe()?;
    let mut command = master.ctl(args)?;
    let mut child = command.stdout(writer.try_clone()?).stderr(Stdio::from(writer)).spawn()?;
    // It holds the pipe's other end as long as it lives.
    drop(command);
    let mut said = String::new();
    for line in BufReader::new(reader).lines() {
        let line = line?;
        show(&line);
        said.push_str(&line);
        said.push('\n');
    }
    let status = child.wait()?;
    ensure!(status.code() == Some(code), "ctl {args:?} ended with {status} instead of {code}:\n{said}");
    Ok(said)
}

/// A line of output, indented; what is wider than a terminal goes on below, further in.
fn show(line: &str) {
    let mut shown = format!("  {}", &line[..line.len() - line.trim_start().len()]);
    let more = format!("{shown}    ");
    for (n, word) in line.split_whitespace().enumerate() {
        if n > 0 && shown.chars().count() + 1 + word.chars().count() > WIDTH {
            println!("{shown}");
            shown.clone_from(&more);
        } else if n > 0 {
            shown.push(' ');
        }
        shown.push_str(word);
    }
    println!("{shown}");
}

/// Every client has met the new state of things, and only these releases answer.
fn answered(clients: &Clients, releases: &[&str]) -> Result<()> {
    let before = clients.more(ANSWERS)?;
    let after = clients.more(ANSWERS)?;
    for (text, count) in &after.texts {
        let expected = releases.iter().any(|release| text == &format!("release {release}"));
        ensure!(expected || before.texts.get(text) == Some(count), "{text:?} still answers");
    }
    Ok(())
}

fn all_on(stats: &Stats, release: &str) -> bool {
    let on =
        |worker: &WorkerStatus| worker.booted && worker.release.ends_with(format!("releases/{release}").as_bytes());
    stats.worker_status.len() == WORKERS as usize && stats.worker_status.iter().all(on)
}

fn apps(stats: &Stats) -> Vec<Option<u32>> {
    stats.worker_status.iter().map(|worker| worker.app_pid).collect()
}
