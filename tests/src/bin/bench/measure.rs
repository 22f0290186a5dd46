//! One master after another is started, rolled, looked at and shot at; what that took.

use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;
use tests::process;
use tests::show::app::moment;
use tests::show::place::{Start, env_option};
use tests::show::{Master, Place};

use crate::events::Events;
use crate::figures::{Bars, Samples, Table};
use crate::machine;

/// Crashes are timed in this many slots at most (a second crash of a slot would meet its backoff).
const SHOT: u32 = 16;
/// Pairs of `/bin/true` and `ctl stats`.
const PAIRS: usize = 120;
/// The app's own boot times in milliseconds, and the releases that have them.
const BOOTS: [(&str, &str); 2] = [("0", "quick"), ("20", "slow")];

/// What differs by the way of being ready: `notify`, then `auto`.
#[derive(Default)]
struct ByReady {
    start_ms: Samples,
    /// By [`BOOTS`].
    overhead_ms: [Samples; 2],
    exec_ms: Samples,
    ready_ms: Samples,
}

/// Everything about one number of workers.
#[derive(Default)]
pub(crate) struct Figures {
    ready: [ByReady; 2],
    true_ms: Samples,
    stats_ms: Samples,
    stats_ratio: Samples,
    wakeups: Samples,
    master_kib: Samples,
    worker_kib: Samples,
    cpu_s: Samples,
}

/// One master from its start to its end. `settled`: memory, `ctl stats` and an idle span of so many seconds as well.
///
/// # Errors
/// When anything does not work as promised.
pub(crate) fn master(
    place: &Place,
    events: &Events,
    (workers, ready): (u32, &str),
    settled: Option<u64>,
    figures: &mut Figures,
) -> Result<()> {
    releases(place)?;
    place.deploy("quick")?;
    let of_ready = &mut figures.ready[usize::from(ready == "auto")];
    let mut options: Vec<String> = ["--soak", "0s", "--ready", ready].map(String::from).into();
    options.extend(env_option("APP_EVENTS", events.path()));
    let begun = moment();
    let master = place.start(&Start { workers, options })?;
    let ended = master.lines("ready after", workers as usize)?;
    of_ready.start_ms.push(millis(ended.saturating_sub(begun)));
    for (n, (_, release)) in BOOTS.iter().enumerate() {
        place.deploy(release)?;
        events.forget();
        let begun = moment();
        restart(&master, 0)?;
        let took = moment() - begun;
        if n == 0 && ready == "notify" {
            figures.cpu_s.push(machine::cpu(master.pid()).as_secs_f64());
        }
        let own = events.booted(begun, workers as usize)?;
        of_ready.overhead_ms[n].push((millis(took) - millis(own)) / f64::from(workers));
    }
    place.deploy("quick")?;
    restart(&master, 0)?;
    if let Some(idle) = settled {
        settle(&master, idle, figures)?;
    }
    let of_ready = &mut figures.ready[usize::from(ready == "auto")];
    shoot(&master, events, of_ready)?;
    if !master.stop()? {
        bail!("the master did not end cleanly");
    }
    Ok(())
}

/// Two good releases and a broken one.
///
/// # Errors
/// When they cannot be written.
pub(crate) fn releases(place: &Place) -> Result<()> {
    for (millis, release) in BOOTS {
        place.release(release, &[("version", release), ("boot_ms", millis)])?;
    }
    place.release("broken", &[("version", "broken"), ("needs", "users.locale")])
}

/// A phased restart that has to end with `code`.
///
/// # Errors
/// When it ends otherwise.
pub(crate) fn restart(master: &Master, code: i32) -> Result<()> {
    let output = master.ctl(&["phased-restart"])?.output()?;
    if output.status.code() != Some(code) {
        bail!(
            "a phased restart ended with {:?} instead of {code}:\n{}{}",
            output.status.code(),
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(())
}

fn settle(master: &Master, idle: u64, figures: &mut Figures) -> Result<()> {
    let mut pids = vec![master.pid()];
    pids.extend(master.stats()?.worker_status.iter().filter_map(|worker| Some(worker.pid? as i32)));
    pids.iter().for_each(|pid| machine::until_asleep(*pid));
    let count = || -> u64 { pids.iter().map(|pid| machine::switches(*pid)).sum() };
    let before = count();
    // Not a wait for anything: wake-ups within this span are the figure, so the span has to pass.
    thread::sleep(Duration::from_secs(idle));
    figures.wakeups.push((count() - before) as f64);
    figures.master_kib.push(machine::pss(pids[0]).context("smaps_rollup of the master")?);
    for pid in &pids[1..] {
        figures.worker_kib.push(machine::pss(*pid).context("smaps_rollup of a worker")?);
    }
    let timed = |mut command: Command| -> Result<f64> {
        let begun = Instant::now();
        let status = command.stdin(Stdio::null()).stdout(Stdio::null()).status()?;
        if !status.success() {
            bail!("{command:?}: {status}");
        }
        Ok(millis(begun.elapsed()))
    };
    for _ in 0..PAIRS {
        let (nothing, stats) = (timed(Command::new("/bin/true"))?, timed(master.ctl(&["stats"])?)?);
        figures.true_ms.push(nothing);
        figures.stats_ms.push(stats);
        figures.stats_ratio.push(stats / nothing);
    }
    Ok(())
}

fn shoot(master: &Master, events: &Events, figures: &mut ByReady) -> Result<()> {
    let stats = master.stats()?;
    for worker in stats.worker_status.iter().take(SHOT as usize) {
        let app = worker.app_pid.context("an app's pid")? as i32;
        events.forget();
        master.forget_lines();
        let begun = moment();
        process::signal(app, Signal::SIGKILL);
        let executed = events.executed(begun)?;
        let ready = master.lines("ready after", 1)?;
        figures.exec_ms.push(millis(executed.saturating_sub(begun)));
        figures.ready_ms.push(millis(ready.saturating_sub(begun)));
    }
    Ok(())
}

/// The master's CPU time for the start and one phased restart of 64 workers, in seconds.
///
/// # Errors
/// When anything does not work as promised.
pub(crate) fn cpu_of_64(place: &Place) -> Result<Samples> {
    let mut seconds = Samples::default();
    for _ in 0..3 {
        releases(place)?;
        place.deploy("quick")?;
        let options = ["--soak", "0s", "--ready", "notify"].map(String::from).into();
        let master = place.start(&Start { workers: 64, options })?;
        master.lines("ready after", 64)?;
        restart(&master, 0)?;
        seconds.push(machine::cpu(master.pid()).as_secs_f64());
        master.stop()?;
    }
    Ok(seconds)
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// Puts everything into the table, and what has a bar before it.
pub(crate) fn report(all: &[(u32, Figures)], cpu: &Samples, idle: u64, table: &mut Table, bars: &mut Bars) {
    type Pick = fn(&Figures) -> &Samples;
    let overhead: [(&str, Pick); 4] = [
        ("  notify, boot 0", |f| &f.ready[0].overhead_ms[0]),
        ("  notify, boot 20 ms", |f| &f.ready[0].overhead_ms[1]),
        ("  auto, boot 0", |f| &f.ready[1].overhead_ms[0]),
        ("  auto, boot 20 ms", |f| &f.ready[1].overhead_ms[1]),
    ];
    let pick = |pick: Pick| -> Vec<&Samples> { all.iter().map(|(_, figures)| pick(figures)).collect() };
    table.row("start to all ready, ms", &[]);
    table.row("  notify", &pick(|f| &f.ready[0].start_ms));
    table.row("  auto", &pick(|f| &f.ready[1].start_ms));
    table.row("roll beyond the app's own boot, ms a worker", &[]);
    for (name, of) in overhead {
        table.row(name, &pick(of));
    }
    table.row("kill -9 to exec, ms", &[]);
    table.row("  notify", &pick(|f| &f.ready[0].exec_ms));
    table.row("  auto", &pick(|f| &f.ready[1].exec_ms));
    table.row("kill -9 to ready, ms", &[]);
    table.row("  notify", &pick(|f| &f.ready[0].ready_ms));
    table.row("  auto", &pick(|f| &f.ready[1].ready_ms));
    table.row("ctl stats, ms", &pick(|f| &f.stats_ms));
    table.row("  /bin/true, ms", &pick(|f| &f.true_ms));
    table.row("  ratio", &pick(|f| &f.stats_ratio));
    table.row(&format!("wake-ups in {idle} s"), &pick(|f| &f.wakeups));
    table.row("Pss of master, KiB", &pick(|f| &f.master_kib));
    table.row("Pss of a worker, KiB", &pick(|f| &f.worker_kib));
    table.row("master CPU, s", &pick(|f| &f.cpu_s));
    bars.hold(&format!("wake-ups of master and workers in {idle} s"), pick(|f| &f.wakeups), 0.0);
    bars.hold("Pss of the master, KiB", pick(|f| &f.master_kib), 3072.0);
    bars.hold("Pss of a worker, KiB", pick(|f| &f.worker_kib), 614.0);
    bars.hold("ctl stats, times /bin/true", pick(|f| &f.stats_ratio), 2.0);
    bars.hold("kill -9 to the respawned app's exec, ms (notify)", pick(|f| &f.ready[0].exec_ms), 5.0);
    bars.hold("kill -9 to the respawned app's exec, ms (auto)", pick(|f| &f.ready[1].exec_ms), 5.0);
    for (n, (name, of)) in overhead.into_iter().enumerate() {
        bars.hold(&format!("roll, ms a worker:{name}"), pick(of), if n < 2 { 10.0 } else { 25.0 });
    }
    bars.hold("master CPU, start and roll of 64 (notify), s", [cpu], 0.15);
}
