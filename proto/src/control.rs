//! What travels on the control socket, between `ctl` and the master.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use crate::happening::Happening;
use crate::ids::{Incarnation, Phase, Slot};
use crate::metrics::Counters;
use crate::surge::Surge;
use crate::version::Hello;
use crate::worker::{BootReport, Bytes, Evidence};

/// Exit codes of `ctl`, also the `code` of errors under `--json`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[repr(u8)]
pub enum Code {
    /// Done.
    Done = 0,
    /// Any failure that has no code of its own.
    Failed = 1,
    /// Wrong usage.
    Usage = 2,
    /// Aborted; the old code serves everywhere.
    Aborted = 3,
    /// Aborted and degraded.
    Degraded = 4,
    /// Another rollout runs.
    Busy = 5,
    /// `--timeout` passed; the rollout goes on.
    TimedOut = 6,
    /// No master.
    NoMaster = 7,
    /// Not permitted.
    NotPermitted = 8,
    /// Protocol version mismatch.
    Version = 9,
    /// The master went away while `ctl` waited; the outcome is unknown.
    Lost = 10,
}

/// `ctl` to master. One request a connection, after `Hello`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// Said first.
    Hello(Hello),
    /// Are you there? Answered with [`Reply::Pong`].
    Ping,
    /// Drain every app and end. Answered when the last one is gone.
    Stop,
    /// Kill every app and end.
    Halt,
    /// Answered with [`Reply::Stats`]; changes nothing.
    Stats,
    /// Answered with [`Reply::Accepted`], progress, and at the end [`Reply::Ended`].
    PhasedRestart(PhasedRestart),
    /// Pin the release for every later spawn. `None`: what `dir` names now.
    ReloadDir(Option<Bytes>),
    /// End the running rollout and put back what it replaced.
    Abort,
    /// Go back: from a held release to the known-good one, else to the release promoted before it.
    Rollback,
    /// Change the number of slots.
    Scale(Scale),
    /// Replace one slot's worker with a new one of the known-good release.
    Restart(Slot),
    /// Send a signal to every app's first process.
    Signal(i32),
    /// The last boot failure, whole. Answered with [`Reply::Report`].
    Report,
    /// Every step of the rollout state machine from now on, as [`Reply::Event`].
    Events,
    /// Boot and check a release off-traffic, and touch nothing else. `None`: what `dir` names now.
    Rehearse(Option<Bytes>),
    /// The running rollout finishes the slots under way and takes on no other.
    Pause,
    /// It goes on.
    Resume,
    /// The promoted release is good: it is not rolled back when the time given by `confirm_within_ms` is over.
    Confirm,
    /// Replace the master itself by the program that lies at its path now; the workers stay. Refused when that program does not
    /// prove itself, else the connection ends, and the next master answers. With [`Request::Hello`], [`Request::Ping`] and
    /// [`Request::Stop`] it keeps its bytes for ever and is heard whatever protocol the `Hello` names, as are
    /// [`Reply::Hello`], [`Reply::Pong`], [`Reply::Done`] and [`Reply::Error`]: a new `ctl` can replace an old master.
    Upgrade,
    /// The master ends and leaves its workers to the next one.
    Detach,
    /// Wait for the end of this rollout, which may be over: answered as the request that began it.
    Await {
        /// The rollout's number.
        rollout: u64,
    },
    /// What happened lately, each as [`Reply::Happened`], and then [`Reply::Done`]; or, to `follow`, what happens from then on.
    Happenings {
        /// Only what has a higher number. `None`: all that is still kept.
        after: Option<u64>,
        /// Do not end.
        follow: bool,
    },
    /// Answered with [`Reply::Metrics`]; changes nothing.
    Metrics,
}

/// A phased restart's options. `None`: the master's own setting.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PhasedRestart {
    /// Use this directory instead of `dir`, for this rollout only. Absolute.
    pub dir: Option<Bytes>,
    /// Do not promote the candidate.
    pub hold: bool,
    /// Extra app instances.
    pub surge: Option<Surge>,
    /// How many slots may be without a ready worker.
    pub max_unavailable: Option<u32>,
    /// Quiet time before promotion, in milliseconds.
    pub soak_ms: Option<u64>,
    /// Expose the candidate without a rehearsal.
    pub no_rehearse: bool,
    /// How many slots come first, to be watched for a while; 0: none.
    pub canary: Option<u32>,
    /// For how long, in milliseconds.
    pub canary_soak_ms: Option<u64>,
    /// Roll back by itself unless [`Request::Confirm`] comes within this time after the promotion, in milliseconds.
    pub confirm_within_ms: Option<u64>,
    /// Do nothing when the release runs already, and refuse at once what was refused before.
    pub if_new: bool,
}

/// How many slots are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Scale {
    /// This many.
    To(u32),
    /// This many more.
    Up(u32),
    /// This many fewer.
    Down(u32),
}

/// Master to `ctl`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// Said first.
    Hello(Hello),
    /// To a `Ping`.
    Pong,
    /// The request was understood and is under way; more replies follow.
    Accepted {
        /// What began, for people ("phased restart 3 to /app/releases/42").
        message: String,
        /// The rollout's number, where one began.
        rollout: Option<u64>,
    },
    /// What happens meanwhile, one line.
    Progress(String),
    /// The request is done; the last reply.
    Done {
        /// For people; may be empty.
        message: String,
        /// For `--json`, beside `"ok": true`.
        facts: Vec<(String, Fact)>,
    },
    /// The rollout ended; the last reply.
    Ended {
        /// What `ctl` exits with.
        code: Code,
        /// One line for people ("unable to boot with new codebase, using old one (/app/releases/41)").
        message: String,
        /// The rollout.
        rollout: Box<LastRollout>,
    },
    /// The request failed; the last reply.
    Error {
        /// What `ctl` exits with.
        code: Code,
        /// What, why, and the way out.
        message: String,
        /// The boot failure behind it.
        report: Option<Box<BootReport>>,
    },
    /// To a `Stats`; the last reply.
    Stats(Box<Stats>),
    /// To a `Report`; the last reply.
    Report(Option<Box<BootReport>>),
    /// One step of the rollout state machine: lines of `> event` and `< action`.
    Event(String),
    /// Something happened.
    Happened(Box<Happening>),
    /// To a `Metrics`; the last reply.
    Metrics {
        /// As to a `Stats`.
        stats: Box<Stats>,
        /// What was counted.
        counters: Box<Counters>,
    },
}

/// A value beside `"ok": true`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Fact {
    /// Text.
    Text(String),
    /// A number.
    Number(u64),
    /// Nothing.
    Null,
    /// A time in microseconds; JSON has seconds.
    Micros(u64),
}

/// Milliseconds since 1970-01-01 UTC.
pub type UnixMillis = u64;

/// What `ctl stats` shows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    /// The master's name.
    pub name: String,
    /// The master's package version.
    pub version: String,
    /// The master's pid.
    pub pid: u32,
    /// When the master started.
    pub started_at: UnixMillis,
    /// `booting`, `steady`, `rolling`, `soaking`, `held`, `rolling_back`, `degraded` or `stopping`.
    pub state: String,
    /// What `--dir` names.
    pub dir: Bytes,
    /// What that resolves to now; `None` when it does not.
    pub dir_target: Option<Bytes>,
    /// The known-good release.
    pub release: Bytes,
    /// Whether the known-good directory is still there.
    pub release_gone: bool,
    /// The candidate's phase while rolling or held, else the known-good release's.
    pub phase: Phase,
    /// How many slots.
    pub workers: u32,
    /// Slots with a ready worker.
    pub booted_workers: u32,
    /// Slots whose ready worker has another phase than [`Self::phase`].
    pub old_workers: u32,
    /// Every living worker, plus slots in backoff; sorted by index, then incarnation.
    pub worker_status: Vec<WorkerStatus>,
    /// The listening sockets.
    pub listeners: Vec<ListenerStatus>,
    /// The rollout that runs.
    pub rollout: Option<Rollout>,
    /// The rollout that ended last.
    pub last_rollout: Option<LastRollout>,
    /// The releases that were promoted before the known-good one and not rolled back from, the latest last: what `rollback`
    /// goes back to.
    pub previous: Vec<Bytes>,
    /// The held release.
    pub held: Option<Bytes>,
    /// A promoted release that is rolled back unless it is confirmed in time.
    pub confirm: Option<Confirm>,
    /// Releases that were refused and have not been promoted since, the latest last.
    pub refused: Vec<Refused>,
    /// The folder in which this is remembered; `None`: it is not.
    pub state_dir: Option<Bytes>,
    /// Why it is not remembered, or was not read ("cannot write …: no space left on device").
    pub state_trouble: Option<String>,
}

/// A promotion that waits for a `confirm`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Confirm {
    /// The promoted release.
    pub release: Bytes,
    /// What it is rolled back to.
    pub back_to: Bytes,
    /// When.
    pub until: UnixMillis,
}

/// A release that was refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// The release.
    pub release: Bytes,
    /// When.
    pub at: UnixMillis,
    /// Why, where a worker's failure was the reason; its output is cut to its last 4 KiB.
    pub report: Option<Box<BootReport>>,
}

/// One worker, or one slot in backoff.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerStatus {
    /// The slot.
    pub index: Slot,
    /// The worker's pid; `None` in backoff.
    pub pid: Option<u32>,
    /// The app's first process.
    pub app_pid: Option<u32>,
    /// Which worker; `None` in backoff.
    pub incarnation: Option<Incarnation>,
    /// The phase of its release.
    pub phase: Phase,
    /// Its release.
    pub release: Bytes,
    /// `booting`, `ready`, `draining` or `backoff`.
    pub state: String,
    /// Whether it is ready.
    pub booted: bool,
    /// When it was spawned (in backoff: when the backoff began).
    pub started_at: UnixMillis,
    /// How long the boot took, in microseconds.
    pub boot_us: Option<u64>,
    /// How readiness was seen.
    pub evidence: Option<Evidence>,
    /// Crashes and failed boots of this slot since it was last healthy for a minute.
    pub crashes: u32,
    /// Now, while the worker's pipe is open: nothing pings.
    pub last_checkin: Option<UnixMillis>,
    /// The app's `STATUS=` text.
    pub last_status: Option<String>,
    /// How this slot's last worker ended ("exited with status 1").
    pub last_exit: Option<String>,
}

/// One listening socket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListenerStatus {
    /// Its name.
    pub name: String,
    /// Its address as `--listen` takes it, with the real port.
    pub address: String,
}

/// A rollout that runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rollout {
    /// Its number.
    pub id: u64,
    /// `phased-restart`, `rollback`, `restart` or `rehearsal`.
    pub kind: String,
    /// The known-good release it began with.
    pub from: Bytes,
    /// The candidate.
    pub to: Bytes,
    /// The candidate's phase.
    pub phase: Phase,
    /// Slots that are through.
    pub step: u32,
    /// Slots in all.
    pub of: u32,
    /// `hook`, `rehearsing`, `rolling`, `canary`, `paused`, `soaking`, `draining`, `rolling_back`.
    pub state: String,
    /// When it began.
    pub started_at: UnixMillis,
}

/// A rollout that ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastRollout {
    /// Its number.
    pub id: u64,
    /// `phased-restart`, `rollback` or `restart`.
    pub kind: String,
    /// The known-good release it began with.
    pub from: Bytes,
    /// The candidate.
    pub to: Bytes,
    /// The candidate's phase.
    pub phase: Phase,
    /// `promoted`, `held`, `aborted` or `degraded`.
    pub outcome: String,
    /// When it ended.
    pub ended_at: UnixMillis,
    /// How long it took, in milliseconds.
    pub millis: u64,
    /// The boot failure that ended it.
    pub report: Option<Box<BootReport>>,
}
