//! Stats to draw, for tests.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use proto::control::{ListenerStatus, Rollout, Stats, UnixMillis, WorkerStatus};
use proto::worker::Evidence;
use proto::{Incarnation, Phase, Slot};

/// The moment at which the samples are looked at.
pub(crate) const NOW: UnixMillis = 1_700_000_000_000;

/// The same as a time.
pub(crate) fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(NOW)
}

/// A path of this release.
pub(crate) fn path(release: &str) -> Vec<u8> {
    format!("/app/releases/{release}").into_bytes()
}

/// A worker that began so many seconds ago.
pub(crate) fn worker(slot: u32, incarnation: u64, state: &str, release: &str, ago: u64) -> WorkerStatus {
    let is_up = matches!(state, "ready" | "draining");
    let pid = (state != "backoff").then_some(1000 + incarnation as u32 * 2);
    WorkerStatus {
        index: Slot(slot),
        pid,
        app_pid: pid.map(|pid| pid + 1),
        incarnation: pid.map(|_| Incarnation(incarnation)),
        phase: Phase(u32::from(release != "41")),
        release: path(release),
        state: state.into(),
        booted: state == "ready",
        started_at: NOW - ago * 1000,
        boot_us: is_up.then_some(830_000),
        evidence: is_up.then_some(Evidence::Accepting),
        crashes: 0,
        last_checkin: None,
        last_status: None,
        last_exit: None,
    }
}

/// A rollout from 41 to 42 that began twelve seconds ago.
pub(crate) fn rollout(state: &str, step: u32, of: u32) -> Rollout {
    Rollout {
        id: 7,
        kind: "phased-restart".into(),
        from: path("41"),
        to: path("42"),
        phase: Phase(1),
        step,
        of,
        state: state.into(),
        started_at: NOW - 12_000,
    }
}

/// A master with these workers. Which slots are booted follows from them.
pub(crate) fn stats(state: &str, worker_status: Vec<WorkerStatus>, rollout: Option<Rollout>) -> Stats {
    let workers = worker_status.iter().map(|w| w.index.0 + 1).max().unwrap_or(0);
    let booted = worker_status.iter().filter(|w| w.booted).count() as u32;
    Stats {
        name: "shop".into(),
        version: "0.1.0".into(),
        pid: 999,
        started_at: NOW - 3_600_000,
        state: state.into(),
        dir: b"/app/current".to_vec(),
        dir_target: Some(path("42")),
        release: path("41"),
        release_gone: false,
        previous: Vec::new(),
        phase: Phase(u32::from(rollout.is_some())),
        workers,
        booted_workers: booted.min(workers),
        old_workers: 0,
        worker_status,
        listeners: vec![ListenerStatus { name: "http".into(), address: "tcp://127.0.0.1:8080".into() }],
        rollout,
        last_rollout: None,
        held: None,
        confirm: None,
        refused: Vec::new(),
        state_dir: Some(b"/var/lib/phased/shop".to_vec()),
        state_trouble: None,
    }
}

/// In the midst of it: slot 0 is through, slot 1 is under way, and the others wait.
pub(crate) fn rolling(slots: u32) -> Stats {
    let mut all = vec![worker(0, 101, "ready", "42", 9), worker(1, 2, "ready", "41", 600)];
    all.push(worker(1, 102, "booting", "42", 3));
    all.extend((2..slots).map(|slot| worker(slot, u64::from(slot) + 1, "ready", "41", 600)));
    stats("rolling", all, Some(rollout("rolling", 1, slots)))
}
