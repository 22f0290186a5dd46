//! The fake master, the `ctl` process beside it, and sample messages.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use proto::control::{LastRollout, ListenerStatus, Reply, Request, Rollout, Stats, WorkerStatus};
use proto::worker::{BootReport, Evidence, ExitStatus, Stage};
use proto::{Hello, Inbox, Incarnation, Phase, Slot, frame};
use serde_json::Value;
use tempfile::TempDir;

/// No test may take longer: a `ctl` that still runs then is killed, and its test fails.
const PATIENCE: Duration = Duration::from_secs(60);

/// A folder with a control socket.
pub(crate) struct Fake {
    dir: TempDir,
    path: PathBuf,
}

/// A script under way.
pub(crate) struct Script {
    thread: JoinHandle<()>,
    connections: usize,
    accepted: mpsc::Receiver<()>,
    path: PathBuf,
}

/// What a fake master does with one connection.
pub(crate) type Serve = Box<dyn FnOnce(&mut Peer) + Send>;

/// The fake master's end of one connection.
pub(crate) struct Peer {
    stream: UnixStream,
    inbox: Inbox<Request>,
}

impl Fake {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("shop.sock");
        Self { dir, path }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Serves one connection by `script`.
    pub(crate) fn script(&self, script: impl FnOnce(&mut Peer) + Send + 'static) -> Script {
        self.scripts(vec![Box::new(script)])
    }

    /// Serves one connection after the other, on one socket.
    pub(crate) fn scripts(&self, scripts: Vec<Serve>) -> Script {
        let listener = UnixListener::bind(&self.path).unwrap();
        let connections = scripts.len();
        let (seen, accepted) = mpsc::channel();
        let thread = thread::spawn(move || {
            for script in scripts {
                let (stream, _) = listener.accept().unwrap();
                let _ = seen.send(());
                script(&mut Peer { stream, inbox: Inbox::default() });
            }
        });
        Script { thread, connections, accepted, path: self.path.clone() }
    }

    /// Greets, expects `request`, answers with `replies`.
    pub(crate) fn answers(&self, request: Request, replies: Vec<Reply>) -> Script {
        self.scripts(vec![answering(request, replies)])
    }

    /// `ctl --socket PATH WORDS…`.
    pub(crate) fn ctl(&self, words: &str) -> Running {
        let mut command = ctl();
        command.arg("--socket").arg(&self.path).args(words.split_whitespace());
        Running::start(&mut command)
    }
}

/// Greets, expects `request`, answers with `replies`.
pub(crate) fn answering(request: Request, replies: Vec<Reply>) -> Serve {
    Box::new(move |peer| {
        peer.greet();
        assert_eq!(peer.hear(), request);
        for reply in &replies {
            peer.say(reply);
        }
    })
}

impl Script {
    /// Waits for the script's end, and passes its panic on.
    pub(crate) fn done(self) {
        for _ in self.accepted.try_iter().count()..self.connections {
            // `ctl` never came; the script ends on our end of file instead of waiting for ever.
            drop(UnixStream::connect(&self.path));
        }
        self.join();
    }

    /// Waits for the script's end while `ctl` runs on: this master goes away, and its socket's file as well.
    pub(crate) fn went_away(self) {
        self.accepted.recv_timeout(PATIENCE).expect("ctl never came");
        let path = self.path.clone();
        self.join();
        std::fs::remove_file(path).unwrap();
    }

    fn join(self) {
        if let Err(panic) = self.thread.join() {
            std::panic::resume_unwind(panic);
        }
    }
}

impl Peer {
    /// The next request.
    pub(crate) fn hear(&mut self) -> Request {
        self.hear_or_end().expect("ctl went away")
    }

    /// The next request; `None` when `ctl` has gone away.
    pub(crate) fn hear_or_end(&mut self) -> Option<Request> {
        let mut buffer = [0; 4096];
        loop {
            if let Some(request) = self.inbox.take().unwrap() {
                return Some(request);
            }
            match self.stream.read(&mut buffer) {
                Ok(0) | Err(_) => return None,
                Ok(read) => self.inbox.push(&buffer[..read]),
            }
        }
    }

    pub(crate) fn say(&mut self, reply: &Reply) {
        self.raw(&frame::frame(reply).unwrap());
    }

    /// Bytes that need not be a message.
    pub(crate) fn raw(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    /// Hello both ways.
    pub(crate) fn greet(&mut self) {
        self.greet_as(Hello::ours());
    }

    /// The same, as a master that need not speak this protocol.
    pub(crate) fn greet_as(&mut self, hello: Hello) {
        assert_eq!(self.hear(), Request::Hello(Hello::ours()));
        self.say(&Reply::Hello(hello));
    }
}

/// The binary, with nothing of the caller's environment that leads to a master.
pub(crate) fn ctl() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ctl"));
    for name in ["PHASED_SOCKET", "PHASED_NAME", "RUNTIME_DIRECTORY", "XDG_RUNTIME_DIR"] {
        command.env_remove(name);
    }
    command
}

/// A `ctl` that runs.
pub(crate) struct Running {
    pid: Pid,
    child: Child,
    stdout: Option<BufReader<std::process::ChildStdout>>,
    seen: String,
    _ended: mpsc::Sender<()>,
}

/// How a `ctl` ended.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    /// Its standard output, without the times of events.
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Running {
    pub(crate) fn start(command: &mut Command) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let pid = Pid::from_raw(child.id() as i32);
        let stdout = child.stdout.take().map(BufReader::new);
        let (ended, end) = mpsc::channel::<()>();
        thread::spawn(move || {
            if end.recv_timeout(PATIENCE) == Err(mpsc::RecvTimeoutError::Timeout) {
                let _ = kill(pid, Signal::SIGKILL);
            }
        });
        Self { pid, child, stdout, seen: String::new(), _ended: ended }
    }

    /// Waits for the next line of its standard output, without the time of an event.
    pub(crate) fn line(&mut self) -> String {
        untimed(&self.line_with_time())
    }

    /// Waits for the next line of its standard output, as it is.
    pub(crate) fn line_with_time(&mut self) -> String {
        let mut line = String::new();
        self.stdout.as_mut().unwrap().read_line(&mut line).unwrap();
        self.seen.push_str(&line);
        line
    }

    /// Closes the reading end of its standard output.
    pub(crate) fn stop_reading(&mut self) {
        self.stdout = None;
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(self.pid, signal).unwrap();
    }

    /// Waits until it ends.
    pub(crate) fn end(mut self) -> Ran {
        let mut stderr = self.child.stderr.take().unwrap();
        let errors = thread::spawn(move || {
            let mut err = String::new();
            stderr.read_to_string(&mut err).unwrap();
            err
        });
        let mut out = self.seen;
        if let Some(mut stdout) = self.stdout.take() {
            stdout.read_to_string(&mut out).unwrap();
        }
        let status = self.child.wait().unwrap();
        Ran { code: status.code(), out: untimed(&out), err: errors.join().unwrap() }
    }
}

/// Text without the times with which the lines of a rollout begin.
pub(crate) fn untimed(text: &str) -> String {
    let is_time = |word: &str| {
        let shape = word.bytes().map(|b| if b.is_ascii_digit() { b'0' } else { b });
        shape.eq("0000-00-00T00:00:00Z".bytes())
    };
    let line = |line: &str| match line.split_once(' ') {
        Some((time, rest)) if is_time(time) => rest.to_owned(),
        _ => line.to_owned(),
    };
    text.split_inclusive('\n').map(line).collect()
}

impl Ran {
    /// Standard output, as the one JSON document that it has to be.
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        assert!(self.out.ends_with('\n'), "{self:?}");
        serde_json::from_str(&self.out).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    /// Checks code, stdout and stderr at once.
    #[track_caller]
    pub(crate) fn is(&self, code: i32, out: &str, err: &str) {
        assert_eq!(self.out, out, "stdout of {self:?}");
        assert_eq!(self.err, err, "stderr of {self:?}");
        assert_eq!(self.code, Some(code), "{self:?}");
    }
}

/// 2026-11-22 12:00:00 UTC, in milliseconds.
pub(crate) const NOON: u64 = 1_795_348_800_000;

pub(crate) fn boot_report(output: &str) -> Box<BootReport> {
    Box::new(BootReport {
        slot: Slot(0),
        incarnation: Incarnation(5),
        phase: Phase(3),
        release: b"/app/releases/42".to_vec(),
        stage: Stage::Ready,
        message: "exited with status 1".into(),
        exit: Some(ExitStatus::Code(1)),
        millis: 834,
        output: output.as_bytes().to_vec(),
        release_gone: false,
    })
}

pub(crate) fn last_rollout(outcome: &str, report: Option<Box<BootReport>>) -> Box<LastRollout> {
    Box::new(LastRollout {
        id: 7,
        kind: "phased-restart".into(),
        from: b"/app/releases/41".to_vec(),
        to: b"/app/releases/42".to_vec(),
        phase: Phase(3),
        outcome: outcome.into(),
        ended_at: NOON + 5,
        millis: 1250,
        report,
    })
}

pub(crate) fn worker(index: u32, release: &str, phase: u32) -> WorkerStatus {
    WorkerStatus {
        index: Slot(index),
        pid: Some(100 + index),
        app_pid: Some(200 + index),
        incarnation: Some(Incarnation(u64::from(index) + 1)),
        phase: Phase(phase),
        release: release.as_bytes().to_vec(),
        state: "ready".into(),
        booted: true,
        started_at: NOON,
        boot_us: Some(123_456),
        evidence: Some(Evidence::Accepting),
        crashes: 0,
        last_checkin: Some(NOON + 1),
        last_status: None,
        last_exit: None,
    }
}

/// A steady master with two workers.
pub(crate) fn stats() -> Box<Stats> {
    Box::new(Stats {
        name: "shop".into(),
        version: "0.1.0".into(),
        pid: 99,
        started_at: NOON,
        state: "steady".into(),
        dir: b"/app/current".to_vec(),
        dir_target: Some(b"/app/releases/42".to_vec()),
        release: b"/app/releases/42".to_vec(),
        release_gone: false,
        phase: Phase(3),
        workers: 2,
        booted_workers: 2,
        old_workers: 0,
        worker_status: vec![worker(0, "/app/releases/42", 3), worker(1, "/app/releases/42", 3)],
        listeners: vec![ListenerStatus { name: "http".into(), address: "tcp://127.0.0.1:8080".into() }],
        rollout: None,
        last_rollout: None,
        previous: Vec::new(),
        held: None,
        confirm: None,
        refused: Vec::new(),
        state_dir: None,
        state_trouble: None,
    })
}

pub(crate) fn rollout() -> Rollout {
    Rollout {
        id: 8,
        kind: "phased-restart".into(),
        from: b"/app/releases/41".to_vec(),
        to: b"/app/releases/42".to_vec(),
        phase: Phase(4),
        step: 1,
        of: 2,
        state: "rolling".into(),
        started_at: NOON,
    }
}
