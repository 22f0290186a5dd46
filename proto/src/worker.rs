//! What travels on the two pipes between the master and one worker.
//!
//! The worker's standard input carries [`ToWorker`], its fd 3 carries [`FromWorker`]; listening sockets
//! follow from fd 4 on, in the order of [`BootSpec::listeners`]. Both sides say `Hello` first.
//!
//! When the master is gone, the next one connects to the worker's own socket ([`BootSpec::orphan_socket`]), and both
//! directions travel on that connection. The worker speaks first: `Hello` and [`FromWorker::Orphan`], the first byte of
//! which brings the listening sockets along (SCM_RIGHTS). [`ToWorker::Adopt`], behind the master's `Hello`, makes the
//! connection what the pipes were; whoever closes it before leaves the worker as it was.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use serde::{Deserialize, Serialize};

use crate::ids::{Incarnation, Phase, Slot};
use crate::version::Hello;

/// The fd on which a worker writes its reports.
pub const REPORT_FD: i32 = 3;
/// The first listening socket's fd in a worker.
pub const FIRST_LISTENER_FD: i32 = 4;
/// The most of an app's output that a report carries, in bytes (64 KiB).
pub const TAIL_BYTES: usize = 64 << 10;

/// A path, an argument or output: bytes on the wire, lossy text only where people read it.
pub type Bytes = Vec<u8>;

/// Master to worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToWorker {
    /// Said first.
    Hello(Hello),
    /// Boot this app. Sent once.
    Boot(Box<BootSpec>),
    /// Send the stop signal to the app, KILL after the time is over, then end.
    Drain {
        /// How long the app may take, in milliseconds.
        timeout_ms: u64,
    },
    /// SIGKILL to everything of the app, then end.
    Kill,
    /// Send a signal to the app's first process.
    Signal(i32),
    /// I am the master from now on. Said on a connection to the worker's own socket, behind `Hello`.
    Adopt,
}

/// Worker to master.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromWorker {
    /// Said first.
    Hello(Hello),
    /// The boot has come to this stage.
    Stage(Stage),
    /// The app's first process exists; it is told before that process execs.
    Started {
        /// The app's first process, also its process group.
        app_pid: i32,
    },
    /// Something that a person should read in the log while the app boots.
    Hint(String),
    /// The app is ready.
    Booted {
        /// How that was seen.
        evidence: Evidence,
        /// From the order to boot until ready, in microseconds.
        boot_us: u64,
    },
    /// The app did not boot. The worker ends what is left of it and then itself.
    BootFailed(Box<BootReport>),
    /// `STATUS=` of the app, for stats.
    Status(String),
    /// The app's first process ended after it had been ready. The worker ends what is left, then itself.
    Exited(Box<ExitReport>),
    /// The hook exited with status 0. The worker ends what is left of it and then itself.
    HookDone {
        /// How long it took, in microseconds.
        took_us: u64,
    },
    /// The app holds more memory than it should. Told once, until [`BootSpec::max_memory`] was kept again.
    Outgrown {
        /// What its processes hold together, in bytes.
        bytes: u64,
    },
    /// Who I am, to a new master: said behind `Hello` on a connection to the worker's own socket.
    Orphan(Box<Orphan>),
}

/// A worker that has lost its master, as the next one finds it.
///
/// Together with [`Hello`] its bytes never change, so that a master of any build can take a worker of any other into
/// account: one whose protocol it does not speak is replaced, and then ended by signals.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Orphan {
    /// [`BootSpec::site`].
    pub site: String,
    /// The seat.
    pub slot: Slot,
    /// This worker.
    pub incarnation: Incarnation,
    /// The release's phase.
    pub phase: Phase,
    /// The release: a real path.
    pub release: Bytes,
    /// The app is ready; otherwise it is being ended.
    pub serves: bool,
    /// The app's first process.
    pub app_pid: Option<i32>,
    /// When the order to boot came, in milliseconds since 1970.
    pub started_at: u64,
    /// From then until ready, in microseconds.
    pub boot_us: Option<u64>,
    /// How that was seen.
    pub evidence: Option<Evidence>,
    /// `STATUS=` of the app.
    pub status: Option<String>,
    /// The sockets that come along, in this order.
    pub listeners: Vec<Listener>,
}

/// Everything a worker needs to boot its app.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootSpec {
    /// The master's name, for the app's log prefix.
    pub name: String,
    /// The seat.
    pub slot: Slot,
    /// This worker.
    pub incarnation: Incarnation,
    /// The release's phase.
    pub phase: Phase,
    /// The release: a real path.
    pub release: Bytes,
    /// What to run.
    pub command: Command,
    /// `--env K=V`, not yet expanded, in the order given.
    pub env: Vec<(Bytes, Bytes)>,
    /// The inherited sockets, in fd order.
    pub listeners: Vec<Listener>,
    /// The backlog to `listen` with again, whatever an app asked for.
    pub backlog: u32,
    /// What counts as ready.
    pub ready: Ready,
    /// How long the boot may take, in milliseconds.
    pub boot_timeout_ms: u64,
    /// The signal that asks the app to finish.
    pub stop_signal: i32,
    /// How long that may take when the app is ended without a `Drain`, in milliseconds.
    pub drain_timeout_ms: u64,
    /// The control socket, for the app's own `ctl`.
    pub control_socket: Bytes,
    /// Marks every process of this incarnation, in its environment.
    pub token: String,
    /// Tells this site's workers from another one's that has the same control socket at another time.
    pub site: String,
    /// The worker's own socket, where the next master finds it; made before the app is. Empty: there is none.
    pub orphan_socket: Bytes,
    /// How long the app goes on being served when the master is gone and no other comes, in milliseconds; 0: not at all.
    pub orphan_timeout_ms: u64,
    /// Whether each line of output says slot and phase.
    pub log_prefix: bool,
    /// What the worker is for.
    pub task: Task,
    /// `--env-file`, relative to the release; read at every boot. `--env` wins over it.
    pub env_file: Option<Bytes>,
    /// `--before-boot`: run by sh in the app's environment before the app, within the boot timeout.
    pub before_boot: Option<Bytes>,
    /// `--check`, in the order given. [`Check::Http`] is asked in a rehearsal only.
    pub checks: Vec<Check>,
    /// How long each check may take from ready on, in milliseconds.
    pub check_timeout_ms: u64,
    /// The app has to say `WATCHDOG=1` this often, in milliseconds, once it is ready.
    pub watchdog_ms: Option<u64>,
    /// [`FromWorker::Outgrown`] is told when the app's processes together hold more than this, in bytes.
    pub max_memory: Option<u64>,
    /// As whom the worker goes on once it has what needs its master's rights, and as whom everything of the release runs.
    pub user: Option<User>,
    /// `--umask`.
    pub umask: Option<u32>,
}

/// A user, looked up by the master.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// The user's number.
    pub uid: u32,
    /// The group's number.
    pub gid: u32,
    /// All groups, the one above among them.
    pub groups: Vec<u32>,
    /// The name, for messages and the environment.
    pub name: String,
    /// The home directory, for the environment.
    pub home: Bytes,
}

/// What a worker is for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Task {
    /// To boot an app that serves.
    Serve,
    /// To boot an app on private listeners, with `PHASED_REHEARSAL=1`, to check it, and to end it when told.
    Rehearse,
    /// To run a hook instead of an app; answered with [`FromWorker::HookDone`] or a report of stage `hook`.
    Hook(Box<HookSpec>),
}

/// One run of a hook, in the release and in the app's environment, without the listening sockets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HookSpec {
    /// What people call it: `--before-rollout`, `release:`, `--on-promote`, `--on-failure`.
    pub name: String,
    /// What is run.
    pub command: HookCommand,
    /// What it reads on stdin.
    pub input: Bytes,
    /// How long it may take, in milliseconds; then it gets the stop signal, and KILL after five seconds.
    pub timeout_ms: u64,
}

/// What a hook runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum HookCommand {
    /// This line, by sh; its words may hold `{release}` and the like.
    Shell(Bytes),
    /// This process of the release's Procfile, if it has one.
    Procfile(String),
}

/// What has to pass before an app that is ready counts as booted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Check {
    /// A GET on the first private listener is answered with 2xx. Only a rehearsal can know who answers.
    Http {
        /// The `Host` header.
        host: String,
        /// The path and the query, from the slash on.
        path: String,
    },
    /// This line, run by sh in the app's environment, exits with status 0.
    Exec(Bytes),
}

/// What an app's command line is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// COMMAND [ARG]..., run without a shell; its words may hold `{release}` and the like.
    Words(Vec<Bytes>),
    /// This process of the release's Procfile.
    Procfile(String),
}

/// One inherited listening socket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listener {
    /// Its name in `LISTEN_FDNAMES`, `{fd:NAME}` and `{addr:NAME}`.
    pub name: String,
    /// `127.0.0.1:8080`, `[::1]:8080` or the Unix socket's path: what servers call it.
    pub address: String,
}

/// What counts as evidence that an app is ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ready {
    /// Some process of the app waits on an inherited socket.
    Accepting,
    /// The app says `READY=1`.
    Notify,
    /// The app lives for this long, in milliseconds.
    Alive(u64),
    /// The app says `READY=1` or lives for this long, in milliseconds: whichever comes first.
    NotifyOrAlive(u64),
}

/// How a worker saw that its app is ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Evidence {
    /// A process of the app waits on an inherited socket (or serves a connection of it).
    Accepting,
    /// The app said `READY=1`.
    Notify,
    /// The app lived for the asked time.
    Alive,
}

impl fmt::Display for Evidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Accepting => "accepting",
            Self::Notify => "notify",
            Self::Alive => "alive",
        })
    }
}

/// How far a boot has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Stage {
    /// The worker process is being made.
    Spawn,
    /// The release directory is being entered.
    Directory,
    /// A hook runs.
    Hook,
    /// The command is looked up and executed.
    Exec,
    /// The app runs and is not ready yet.
    Ready,
    /// The app is ready and is being checked.
    Check,
    /// The app serves and the rollout is not over yet.
    Soak,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Spawn => "spawn",
            Self::Directory => "directory",
            Self::Hook => "hook",
            Self::Exec => "exec",
            Self::Ready => "ready",
            Self::Check => "check",
            Self::Soak => "soak",
        })
    }
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExitStatus {
    /// `exit(n)`.
    Code(i32),
    /// Killed by this signal.
    Signal(i32),
}

/// Why an app did not boot, with its own words.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootReport {
    /// The seat.
    pub slot: Slot,
    /// The worker.
    pub incarnation: Incarnation,
    /// The release's phase.
    pub phase: Phase,
    /// The release: a real path.
    pub release: Bytes,
    /// Where the boot ended.
    pub stage: Stage,
    /// What happened and the way out, without the stage and the time ("exited with status 1").
    pub message: String,
    /// How the app's first process ended, when it did.
    pub exit: Option<ExitStatus>,
    /// From the order to boot until the failure, in milliseconds.
    pub millis: u64,
    /// The last [`TAIL_BYTES`] of what the app printed, stdout and stderr, cut at a line's start.
    pub output: Bytes,
    /// The release directory does not exist any more.
    pub release_gone: bool,
}

/// How a ready app ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitReport {
    /// How its first process ended.
    pub status: ExitStatus,
    /// From the order to boot until now, in milliseconds.
    pub millis: u64,
    /// The last [`TAIL_BYTES`] of what the app printed, cut at a line's start.
    pub output: Bytes,
    /// Output lines that were dropped because nobody read the master's output.
    pub dropped_lines: u64,
    /// Why the worker ended it itself ("it said no WATCHDOG=1 for 10s").
    pub reason: Option<String>,
}
