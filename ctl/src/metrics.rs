//! `ctl metrics`: what a site's master and its apps are doing, as numbers under the names that README lists.
//!
//! A series that can be there is there from the start, with 0, so that its first increase is seen. The labels have few values;
//! only release paths come and go, and of those only the ones in use are told.

use std::collections::{BTreeMap, BTreeSet};

use proto::control::{Reply, Request, Stats, WorkerStatus};
use proto::metrics::{BOOT_BOUNDS_MS, Counters, Histogram};

use crate::client::{ANSWER, Client, Heard};
use crate::exit::Failure;
use crate::locate::Found;
use crate::metrics_text::{Family, Kind, Sample, Value};
use crate::releases;
use crate::usage::{Processes, Usage};
use crate::wait::Until;

const STATES: [&str; 8] = ["booting", "steady", "rolling", "soaking", "held", "rolling_back", "degraded", "stopping"];
const WORKER_STATES: [&str; 4] = ["booting", "ready", "draining", "backoff"];
const OUTCOMES: [&str; 5] = ["promoted", "held", "aborted", "degraded", "passed"];
/// The kinds of rollouts with the outcomes that they can have, as places in [`OUTCOMES`].
const KINDS: [(&str, &[usize]); 4] =
    [("phased-restart", &[0, 1, 2, 3]), ("rollback", &[0, 2, 3]), ("restart", &[0, 2, 3]), ("rehearsal", &[4, 2])];
const REASONS: [&str; 5] = ["crash", "boot-failed", "watchdog", "max-memory", "max-age"];

/// What a master and its apps were doing at one moment.
#[derive(Debug)]
pub(crate) struct Seen {
    /// What the master says.
    pub(crate) stats: Stats,
    /// What it has counted.
    pub(crate) counters: Counters,
    /// What the apps take, by slot.
    pub(crate) slots: BTreeMap<u32, Taken>,
}

/// What a slot takes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Taken {
    /// Bytes, of every app in the slot: while one replaces another, both hold memory.
    pub(crate) memory: u64,
    /// Of one app only: which worker's, and CPU seconds. The sum of two would fall when the first ends, and what falls counts as
    /// begun anew: all that the second has used would count twice.
    pub(crate) cpu: Option<(u64, f64)>,
}

/// Asks a master, and looks at the apps' processes.
///
/// # Errors
/// Why the master does not answer, with the code for it.
pub(crate) fn ask(found: Found) -> Result<Seen, Failure> {
    let until = Until::within(ANSWER);
    let mut client = Client::greet(found, Some(&Request::Metrics), false, &until)?;
    let reply = match client.hear(&until)? {
        Heard::Reply(reply) => *reply,
        Heard::Late | Heard::Interrupted | Heard::Unread => return Err(client.hangs()),
        Heard::Gone => return Err(client.gone()),
    };
    match reply {
        Reply::Metrics { stats, counters } => {
            // The pids of a master in a container are those of other processes here.
            let here = client.pid() == Some(stats.pid);
            let processes = if here { Processes::look() } else { Processes::default() };
            let slots = slots(&stats, |pid| processes.usage(pid));
            Ok(Seen { stats: *stats, counters: *counters, slots })
        }
        Reply::Error { code, message, report } => Err(client.refused(code, message, report)),
        _ => Err(client.nonsense("a reply to something else")),
    }
}

/// What each slot takes. Of two apps in a slot it is the ready one's CPU that is told, else the later one's: the next one's from
/// its beginning on, when it takes over.
fn slots(stats: &Stats, usage: impl Fn(u32) -> Option<Usage>) -> BTreeMap<u32, Taken> {
    let mut slots: BTreeMap<u32, (bool, Taken)> = BTreeMap::new();
    for worker in &stats.worker_status {
        let (Some(pid), Some(incarnation)) = (worker.app_pid, worker.incarnation) else { continue };
        let Some(usage) = usage(pid) else { continue };
        let slot = slots.entry(worker.index.0).or_insert((false, Taken { memory: 0, cpu: None }));
        slot.1.memory += usage.bytes;
        let ready = is_ready(worker);
        // They come in the order of their incarnations.
        if ready || !slot.0 {
            (slot.0, slot.1.cpu) = (ready, Some((incarnation.0, usage.cpu.as_secs_f64())));
        }
    }
    slots.into_iter().map(|(index, (_, taken))| (index, taken)).collect()
}

fn is_ready(worker: &WorkerStatus) -> bool {
    worker.state == "ready"
}

/// Of a master that does not answer.
pub(crate) fn away() -> Vec<Family> {
    vec![up(0)]
}

fn up(value: u64) -> Family {
    gauge("phased_up", "Whether the master answers.").with(Value::Whole(value))
}

/// All there is.
pub(crate) fn families(seen: &Seen) -> Vec<Family> {
    let Seen { stats, counters, slots } = seen;
    let mut all = vec![up(1)];
    all.extend(master(stats));
    all.extend(workers(stats));
    all.push(rollouts(counters));
    all.push(restarts(counters));
    all.push(boots(&counters.boots));
    all.extend(last_rollout(stats));
    all.extend(releases(stats));
    all.extend(apps(slots));
    all
}

fn gauge(name: &'static str, help: &'static str) -> Family {
    Family::new(name, Kind::Gauge, None, help)
}

fn seconds(name: &'static str, help: &'static str, value: f64) -> Family {
    Family::new(name, Kind::Gauge, Some("seconds"), help).with(Value::Real(value))
}

/// A time as Prometheus has it.
fn moment(unix_millis: u64) -> f64 {
    unix_millis as f64 / 1e3
}

fn master(stats: &Stats) -> Vec<Family> {
    let mut info = gauge("phased_master_info", "The master's version.");
    info.add(&[("version", &stats.version)], Value::Whole(1));
    let mut state = gauge("phased_state", "1 for the state that the site is in, as in ctl status, 0 for the others.");
    for word in STATES {
        state.add(&[("state", word)], Value::Whole((stats.state == word).into()));
    }
    let trouble = "1 where the master cannot write, or could not read, what it has to remember (ctl stats says why).";
    vec![
        info,
        seconds(
            "phased_master_start_time_seconds",
            "When the master started, since when it counts; a Unix time.",
            moment(stats.started_at),
        ),
        gauge("phased_state_trouble", trouble).with(Value::Whole(stats.state_trouble.is_some().into())),
        state,
    ]
}

fn workers(stats: &Stats) -> Vec<Family> {
    let mut workers = gauge("phased_workers", "Workers by state; a slot stands twice while its worker is replaced.");
    for word in WORKER_STATES {
        let count = stats.worker_status.iter().filter(|worker| worker.state == word).count();
        workers.add(&[("state", word)], Value::Whole(count as u64));
    }
    let whole = |count: u32| Value::Whole(count.into());
    vec![
        workers,
        gauge("phased_workers_wanted", "Slots.").with(whole(stats.workers)),
        gauge("phased_workers_ready", "Slots with a ready worker.").with(whole(stats.booted_workers)),
        gauge("phased_workers_old", "Slots whose ready worker runs another release than the current phase's.")
            .with(whole(stats.old_workers)),
    ]
}

fn rollouts(counters: &Counters) -> Family {
    let mut counts: BTreeMap<(&str, &str), u64> = BTreeMap::new();
    for (kind, outcomes) in KINDS {
        counts.extend(outcomes.iter().map(|outcome| ((kind, OUTCOMES[*outcome]), 0)));
    }
    for (kind, outcome, count) in &counters.rollouts {
        *counts.entry((kind, outcome)).or_default() += count;
    }
    let mut family = Family::new("phased_rollouts", Kind::Counter, None, "Rollouts that have ended.");
    for ((kind, outcome), count) in counts {
        family.add(&[("kind", kind), ("outcome", outcome)], Value::Whole(count));
    }
    family
}

fn restarts(counters: &Counters) -> Family {
    let mut counts: BTreeMap<&str, u64> = REASONS.into_iter().map(|reason| (reason, 0)).collect();
    for (reason, count) in &counters.restarts {
        *counts.entry(reason).or_default() += count;
    }
    let help = "Workers that were replaced for no rollout's sake, and boots of known-good code that failed.";
    let mut family = Family::new("phased_worker_restarts", Kind::Counter, None, help);
    for (reason, count) in counts {
        family.add(&[("reason", reason)], Value::Whole(count));
    }
    family
}

fn boots(boots: &Histogram) -> Family {
    let help = "How long the apps took from their spawn until they were ready.";
    let mut family = Family::new("phased_boot_seconds", Kind::Histogram, Some("seconds"), help);
    let mut count = 0;
    let mut bucket = |le: String, value| {
        family.samples.push(Sample { suffix: "_bucket", labels: vec![("le", le)], value: Value::Whole(value) });
    };
    for (at, bound) in BOOT_BOUNDS_MS.iter().enumerate() {
        count += boots.counts.get(at).copied().unwrap_or(0);
        // With a point always: it is one series, in whichever dialect it is read.
        bucket(format!("{:?}", *bound as f64 / 1e3), count);
    }
    count += boots.counts.get(BOOT_BOUNDS_MS.len()).copied().unwrap_or(0);
    bucket("+Inf".into(), count);
    let sum = Value::Real(boots.sum_us as f64 / 1e6);
    for (suffix, value) in [("_sum", sum), ("_count", Value::Whole(count))] {
        family.samples.push(Sample { suffix, labels: Vec::new(), value });
    }
    family
}

/// Nothing before the first one has ended.
fn last_rollout(stats: &Stats) -> Vec<Family> {
    let confirm = stats.confirm.as_ref().map(|confirm| {
        let help = "When the promoted release is rolled back unless it is confirmed; a Unix time.";
        seconds("phased_confirm_deadline_timestamp_seconds", help, moment(confirm.until))
    });
    let last = stats.last_rollout.as_ref().map(|last| {
        let mut outcome = gauge("phased_last_rollout_outcome", "1 for how the last rollout ended, 0 for the others.");
        for word in OUTCOMES.into_iter().filter(|word| *word != "passed") {
            let labels = [("kind", last.kind.as_str()), ("outcome", word)];
            outcome.add(&labels, Value::Whole((last.outcome == word).into()));
        }
        let help = "When the last rollout ended; a Unix time.";
        [
            seconds("phased_last_rollout_timestamp_seconds", help, moment(last.ended_at)),
            seconds("phased_last_rollout_duration_seconds", "How long it took.", moment(last.millis)),
            outcome,
        ]
    });
    last.into_iter().flatten().chain(confirm).collect()
}

fn releases(stats: &Stats) -> Vec<Family> {
    let help = "The releases in use and what for, as in ctl releases.";
    let mut info = gauge("phased_release_info", help);
    // Two paths that are no text may look the same.
    let mut told = BTreeSet::new();
    for release in releases::known(stats).iter().filter(|release| release.in_use) {
        let path = proto::json::text(&release.release);
        for role in &release.roles {
            if role != "refused" && told.insert((path.clone().into_owned(), role.clone())) {
                info.add(&[("release", &path), ("role", role)], Value::Whole(1));
            }
        }
    }
    let refused = stats.refused.iter().any(|refused| Some(&refused.release) == stats.dir_target.as_ref());
    let whole = |is: bool| Value::Whole(is.into());
    vec![
        info,
        gauge("phased_drift", "1 where what --dir names now is not what every ready worker runs.")
            .with(whole(drifts(stats))),
        gauge("phased_dir_refused", "1 where --dir names a release that was refused.").with(whole(refused)),
        gauge("phased_release_gone", "1 where the known-good release's directory is gone.")
            .with(whole(stats.release_gone)),
    ]
}

/// Whether `dir` names something else than what serves; while nothing does, than the known-good release.
fn drifts(stats: &Stats) -> bool {
    let Some(target) = &stats.dir_target else { return true };
    let mut ready = stats.worker_status.iter().filter(|worker| is_ready(worker)).peekable();
    match ready.peek() {
        None => *target != stats.release,
        Some(_) => ready.any(|worker| worker.release != *target),
    }
}

fn apps(slots: &BTreeMap<u32, Taken>) -> Vec<Family> {
    let help = "What the processes of a slot's apps hold, as for --max-memory; of both while one replaces the other.";
    let mut memory = Family::new("phased_app_memory_bytes", Kind::Gauge, Some("bytes"), help);
    let help = "CPU time, user and system, of the app that serves in the slot; begins anew with each app.";
    let mut cpu = Family::new("phased_app_cpu_seconds", Kind::Counter, Some("seconds"), help);
    for (slot, taken) in slots {
        let slot = slot.to_string();
        memory.add(&[("slot", &slot)], Value::Whole(taken.memory));
        if let Some((_, seconds)) = taken.cpu {
            cpu.add(&[("slot", &slot)], Value::Real(seconds));
        }
    }
    vec![memory, cpu]
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proto::control::{LastRollout, Refused, Rollout};
    use proto::{Incarnation, Phase, Slot};

    use super::*;
    use crate::metrics_text::{Dialect, text};

    fn worker(index: u32, incarnation: u64, state: &str, release: &str) -> WorkerStatus {
        WorkerStatus {
            index: Slot(index),
            pid: Some(1000 + incarnation as u32),
            app_pid: Some(incarnation as u32),
            incarnation: Some(Incarnation(incarnation)),
            phase: Phase(0),
            release: release.into(),
            state: state.into(),
            booted: state == "ready",
            started_at: 0,
            boot_us: None,
            evidence: None,
            crashes: 0,
            last_checkin: None,
            last_status: None,
            last_exit: None,
        }
    }

    fn stats(workers: Vec<WorkerStatus>) -> Stats {
        Stats {
            name: "shop".into(),
            version: "1.2.3".into(),
            pid: 7,
            started_at: 1_500,
            state: "steady".into(),
            dir: "/app/current".into(),
            dir_target: Some("/r/41".into()),
            release: "/r/41".into(),
            release_gone: false,
            phase: Phase(0),
            workers: 2,
            booted_workers: 2,
            old_workers: 0,
            worker_status: workers,
            listeners: Vec::new(),
            rollout: None,
            last_rollout: None,
            previous: Vec::new(),
            held: None,
            confirm: None,
            refused: Vec::new(),
            state_dir: None,
            state_trouble: None,
        }
    }

    fn lines(stats: Stats, counters: Counters) -> Vec<String> {
        let seen = Seen { stats, counters, slots: BTreeMap::new() };
        text(&families(&seen), "shop", Dialect::Prometheus)
            .lines()
            .map(|line| line.replace("site=\"shop\",", ""))
            .collect()
    }

    fn has(lines: &[String], wanted: &str) {
        assert!(lines.iter().any(|line| line == wanted), "{wanted} in {lines:#?}");
    }

    #[test]
    fn what_can_be_counted_is_there_with_0() {
        let lines = lines(stats(Vec::new()), Counters::default());
        has(&lines, r#"phased_rollouts_total{kind="phased-restart",outcome="held"} 0"#);
        has(&lines, r#"phased_rollouts_total{kind="rehearsal",outcome="aborted"} 0"#);
        has(&lines, r#"phased_worker_restarts_total{reason="watchdog"} 0"#);
        has(&lines, r#"phased_boot_seconds_bucket{le="+Inf"} 0"#);
        has(&lines, r#"phased_boot_seconds_count{site="shop"} 0"#);
        has(&lines, r#"phased_master_start_time_seconds{site="shop"} 1.5"#);
        assert!(!lines.iter().any(|line| line.contains("last_rollout")), "{lines:#?}");
    }

    #[test]
    fn what_was_counted_is_told_whatever_its_name_is() {
        let mut counters = Counters {
            rollouts: vec![("restart".into(), "aborted".into(), 2), ("of-later".into(), "odd".into(), 1)],
            restarts: vec![("crash".into(), 3), ("of-later".into(), 4)],
            ..Counters::default()
        };
        for took in [40_000, 1_000_000, 1_000_001, 900_000_000] {
            counters.boots.observe(took);
        }
        let lines = lines(stats(Vec::new()), counters);
        has(&lines, r#"phased_rollouts_total{kind="restart",outcome="aborted"} 2"#);
        has(&lines, r#"phased_rollouts_total{kind="of-later",outcome="odd"} 1"#);
        has(&lines, r#"phased_worker_restarts_total{reason="crash"} 3"#);
        has(&lines, r#"phased_worker_restarts_total{reason="of-later"} 4"#);
        let bucket = |le: &str, count: u64| has(&lines, &format!("phased_boot_seconds_bucket{{le=\"{le}\"}} {count}"));
        bucket("0.05", 1);
        bucket("0.5", 1);
        bucket("1.0", 2);
        bucket("2.5", 3);
        bucket("120.0", 3);
        bucket("+Inf", 4);
        has(&lines, r#"phased_boot_seconds_sum{site="shop"} 902.040001"#);
    }

    #[test]
    fn no_two_series_are_the_same() {
        let odd = |byte: u8| [b"/r/".as_slice(), &[byte]].concat();
        let mut stats = stats(Vec::new());
        stats.worker_status = vec![worker(0, 1, "ready", ""), worker(1, 2, "ready", "")];
        stats.worker_status[0].release = odd(0xff);
        stats.worker_status[1].release = odd(0xfe);
        let lines = lines(stats, Counters::default());
        let told: Vec<&String> = lines.iter().filter(|line| line.contains("role=\"running\"")).collect();
        assert_eq!(told, ["phased_release_info{release=\"/r/\u{fffd}\",role=\"running\"} 1"]);
    }

    #[test]
    fn drift_is_what_dir_names_against_what_runs() {
        let ready = |a: &str, b: &str| vec![worker(0, 1, "ready", a), worker(1, 2, "ready", b)];
        let names =
            |target: Option<&str>, workers| drifts(&Stats { dir_target: target.map(Into::into), ..stats(workers) });
        assert!(!names(Some("/r/42"), ready("/r/42", "/r/42")), "a held release is no drift");
        assert!(names(Some("/r/42"), ready("/r/41", "/r/42")));
        assert!(names(None, ready("/r/41", "/r/41")), "it names nothing");
        let mut leaving = ready("/r/42", "/r/42");
        leaving.push(worker(1, 3, "draining", "/r/41"));
        assert!(!names(Some("/r/42"), leaving));
        assert!(names(Some("/r/42"), Vec::new()) && !names(Some("/r/41"), Vec::new()));
    }

    #[test]
    fn a_refused_release_that_dir_names() {
        let mut stats = stats(vec![worker(0, 1, "ready", "/r/41")]);
        stats.dir_target = Some("/r/42".into());
        stats.refused.push(Refused { release: "/r/42".into(), at: 0, report: None });
        stats.last_rollout = Some(LastRollout {
            id: 1,
            kind: "phased-restart".into(),
            from: "/r/41".into(),
            to: "/r/42".into(),
            phase: Phase(1),
            outcome: "aborted".into(),
            ended_at: 1_795_390_141_909,
            millis: 2_500,
            report: None,
        });
        stats.rollout = Some(Rollout {
            id: 2,
            kind: "phased-restart".into(),
            from: "/r/41".into(),
            to: "/r/43".into(),
            phase: Phase(2),
            step: 0,
            of: 2,
            state: "rolling".into(),
            started_at: 0,
        });
        let lines = lines(stats, Counters::default());
        has(&lines, r#"phased_dir_refused{site="shop"} 1"#);
        has(&lines, r#"phased_drift{site="shop"} 1"#);
        has(&lines, r#"phased_release_info{release="/r/42",role="dir"} 1"#);
        has(&lines, r#"phased_release_info{release="/r/43",role="candidate"} 1"#);
        has(&lines, r#"phased_last_rollout_timestamp_seconds{site="shop"} 1795390141.909"#);
        has(&lines, r#"phased_last_rollout_duration_seconds{site="shop"} 2.5"#);
        has(&lines, r#"phased_last_rollout_outcome{kind="phased-restart",outcome="aborted"} 1"#);
        has(&lines, r#"phased_last_rollout_outcome{kind="phased-restart",outcome="promoted"} 0"#);
    }

    #[test]
    fn a_slot_that_stands_twice_holds_both_and_counts_one() {
        // So many bytes and seconds as the app's pid.
        let usage = |pid: u32| {
            let known = Usage { bytes: pid.into(), cpu: Duration::from_secs(pid.into()), processes: 1 };
            (pid != 99).then_some(known)
        };
        let taken = |workers| slots(&stats(workers), usage);
        let of = |memory, cpu| Taken { memory, cpu };
        let replaced = taken(vec![worker(0, 10, "ready", ""), worker(0, 20, "booting", ""), worker(1, 5, "ready", "")]);
        assert_eq!(replaced, [(0, of(30, Some((10, 10.0)))), (1, of(5, Some((5, 5.0))))].into());
        let through = taken(vec![worker(0, 10, "draining", ""), worker(0, 20, "ready", "")]);
        assert_eq!(through, [(0, of(30, Some((20, 20.0))))].into());
        let first =
            taken(vec![worker(0, 10, "draining", ""), worker(0, 20, "booting", ""), worker(1, 99, "ready", "")]);
        assert_eq!(
            first,
            [(0, of(30, Some((20, 20.0))))].into(),
            "none is ready: the later one; one that has gone is not told"
        );
        let mut waits = worker(0, 1, "backoff", "");
        (waits.app_pid, waits.incarnation) = (None, None);
        assert_eq!(taken(vec![waits]), BTreeMap::new());
    }
}
