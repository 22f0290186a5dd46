//! A master as small as can be: it starts one real worker, orders, and reads what the worker reports.

// Each test file is a program of its own and takes what it needs of this.
#![allow(dead_code, unreachable_pub)]

pub mod heir;
pub mod sys;

use std::collections::BTreeMap;
use std::fs;
use std::io::{PipeReader, Read, Write, pipe};
use std::net::TcpListener;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use proto::worker::{
    BootReport, BootSpec, Command as AppCommand, Evidence, ExitReport, FromWorker, HookCommand, HookSpec, Listener,
    Ready, Stage, Task, ToWorker,
};
use proto::{Hello, Inbox, Incarnation, Phase, Slot};
use tempfile::TempDir;

/// After this a test has failed.
const DEADLINE: Duration = Duration::from_secs(60);

/// A release directory.
pub struct Release(TempDir);

impl Release {
    pub fn empty() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub fn file(self, name: &str, mode: u32, text: &str) -> Self {
        let path = self.0.path().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        self
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }
}

/// An order to boot `words` in `release`, ready when it accepts on `listeners`.
pub fn spec(release: &Release, words: &[&str], listeners: &[&TcpListener]) -> Box<BootSpec> {
    Box::new(BootSpec {
        name: "app".into(),
        slot: Slot(2),
        incarnation: Incarnation(11),
        phase: Phase(7),
        release: release.path().as_os_str().as_encoded_bytes().to_vec(),
        command: AppCommand::Words(words.iter().map(|w| w.as_bytes().to_vec()).collect()),
        env: Vec::new(),
        listeners: listeners
            .iter()
            .enumerate()
            .map(|(i, l)| Listener { name: format!("l{i}"), address: l.local_addr().unwrap().to_string() })
            .collect(),
        backlog: 1024,
        ready: if listeners.is_empty() { Ready::Notify } else { Ready::Accepting },
        boot_timeout_ms: 30_000,
        stop_signal: 15,
        drain_timeout_ms: 10_000,
        control_socket: b"/run/phased/app.sock".to_vec(),
        token: "t0k3n".into(),
        site: "site".into(),
        orphan_socket: Vec::new(),
        orphan_timeout_ms: 0,
        log_prefix: false,
        task: Task::Serve,
        env_file: None,
        before_boot: None,
        checks: Vec::new(),
        check_timeout_ms: 5000,
        watchdog_ms: None,
        max_memory: None,
        user: None,
        umask: None,
    })
}

/// An app that lives until it is ended, ready as soon as it runs.
pub fn idle(release: &Release, token: &str, listeners: &[&TcpListener]) -> Box<BootSpec> {
    let mut order = spec(release, &["sleep", "1000"], listeners);
    order.ready = Ready::Alive(1);
    order.token = token.into();
    order
}

/// A shell script that is an app: ready when it has lived for a millisecond.
pub fn shell(release: &Release, token: &str, script: &str) -> Box<BootSpec> {
    let mut order = spec(release, &["sh", "-c", script], &[]);
    order.ready = Ready::Alive(1);
    order.token = token.into();
    order
}

/// Has the worker serve on without a master for a minute, and gives its own socket's path.
pub fn home(order: &mut BootSpec, release: &Release) -> PathBuf {
    let folder = release.path().join("sockets");
    fs::create_dir_all(&folder).unwrap();
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o700)).unwrap();
    let path = folder.join("11");
    order.orphan_socket = path.as_os_str().as_encoded_bytes().to_vec();
    order.orphan_timeout_ms = 60_000;
    path
}

/// A FIFO named `gate` in the release: whoever reads from it waits until somebody writes.
pub fn gate(release: &Release) -> PathBuf {
    let path = release.path().join("gate");
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
    path
}

/// An order to run a hook.
pub fn hook(release: &Release, command: HookCommand, input: &[u8]) -> Box<BootSpec> {
    let mut order = spec(release, &["no-such-app"], &[]);
    let name = "--before-rollout".into();
    order.task = Task::Hook(Box::new(HookSpec { name, command, input: input.to_vec(), timeout_ms: 30_000 }));
    order
}

/// An order to run this line as a hook.
pub fn hook_line(release: &Release, line: &str) -> Box<BootSpec> {
    hook(release, HookCommand::Shell(line.into()), b"")
}

/// A worker, its reports and its output.
pub struct Worker {
    pub child: Child,
    orders: Option<ChildStdin>,
    /// `None`: this master has left.
    reports: Option<PipeReader>,
    inbox: Inbox<FromWorker>,
    stdout: Option<PipeReader>,
    stderr: Option<PipeReader>,
    out: Vec<u8>,
    err: Vec<u8>,
    deadline: Instant,
    /// Every report so far.
    pub seen: Vec<FromWorker>,
}

impl Worker {
    /// Starts a worker that holds these sockets, and greets it.
    pub fn start(listeners: &[&TcpListener]) -> Self {
        Self::start_as(Command::new(env!("CARGO_BIN_EXE_worker")).arg("app slot 2"), listeners)
    }

    /// The same, by this command.
    pub fn start_as(command: &mut Command, listeners: &[&TcpListener]) -> Self {
        let (reports, report) = pipe().unwrap();
        let (stdout, out) = pipe().unwrap();
        let (stderr, err) = pipe().unwrap();
        let mut fds: Vec<OwnedFd> = vec![report.into()];
        fds.extend(listeners.iter().map(|l| l.as_fd().try_clone_to_owned().unwrap()));
        command.stdin(Stdio::piped()).stdout(out).stderr(err);
        sys::pass(command, fds);
        let mut child = command.spawn().unwrap();
        // The copies in the command would keep the pipes open.
        *command = Command::new("true");
        let orders = child.stdin.take();
        let mut worker = Self {
            child,
            orders,
            reports: Some(reports),
            inbox: Inbox::default(),
            stdout: Some(stdout),
            stderr: Some(stderr),
            out: Vec::new(),
            err: Vec::new(),
            deadline: Instant::now() + DEADLINE,
            seen: Vec::new(),
        };
        worker.order(&ToWorker::Hello(Hello::ours()));
        worker.until(|r| matches!(r, FromWorker::Hello(h) if h.check().is_ok()));
        worker
    }

    /// Starts a worker and has it boot.
    pub fn boot(spec: &BootSpec, listeners: &[&TcpListener]) -> Self {
        let mut worker = Self::start(listeners);
        worker.order(&ToWorker::Boot(Box::new(spec.clone())));
        worker
    }

    pub fn order(&mut self, order: &ToWorker) {
        self.raw(&proto::frame::frame(order).unwrap());
    }

    pub fn raw(&mut self, bytes: &[u8]) {
        self.orders.as_mut().unwrap().write_all(bytes).unwrap();
    }

    /// As if the master had ended one end only.
    pub fn hang_up(&mut self) {
        self.orders = None;
    }

    /// Closes the reports' end.
    pub fn stop_reading(&mut self) {
        self.reports = Some(pipe().unwrap().0);
    }

    /// Reads until the worker has closed its reports.
    pub fn until_closed(&mut self) {
        while self.turn() {}
    }

    /// As if the master had died: from here on it is the output alone that is read.
    pub fn leave(&mut self) {
        self.orders = None;
        self.reports = None;
    }

    /// Reads reports until one is as wanted.
    pub fn until(&mut self, wanted: impl Fn(&FromWorker) -> bool) -> FromWorker {
        loop {
            while let Some(report) = self.inbox.take().unwrap() {
                self.seen.push(report.clone());
                if wanted(&report) {
                    return report;
                }
            }
            assert!(self.turn(), "the worker ended; it said {:#?}\n{}", self.seen, self.printed());
        }
    }

    /// Reads reports until the app is ready.
    pub fn booted(&mut self) -> Evidence {
        let report = self.until(|r| matches!(r, FromWorker::Booted { .. } | FromWorker::BootFailed(_)));
        match report {
            FromWorker::Booted { evidence, .. } => evidence,
            other => panic!("{other:#?}\n{}", self.printed()),
        }
    }

    /// Reads reports until the boot has failed.
    pub fn refused(&mut self) -> BootReport {
        match self.until(|r| matches!(r, FromWorker::Booted { .. } | FromWorker::BootFailed(_))) {
            FromWorker::BootFailed(report) => *report,
            other => panic!("{other:#?}"),
        }
    }

    /// Reads reports until the app has ended.
    pub fn exited(&mut self) -> ExitReport {
        match self.until(|r| matches!(r, FromWorker::Exited(_))) {
            FromWorker::Exited(report) => *report,
            other => panic!("{other:#?}"),
        }
    }

    /// The app's first process.
    pub fn app_pid(&self) -> i32 {
        let pid = |r: &FromWorker| if let FromWorker::Started { app_pid } = r { Some(*app_pid) } else { None };
        self.seen.iter().find_map(pid).expect("Started comes first")
    }

    /// The stages that were reported.
    pub fn stages(&self) -> Vec<Stage> {
        self.seen.iter().filter_map(|r| if let FromWorker::Stage(s) = r { Some(*s) } else { None }).collect()
    }

    /// Reads reports until the hook is over.
    pub fn hook_done(&mut self) {
        match self.until(|r| matches!(r, FromWorker::HookDone { .. } | FromWorker::BootFailed(_))) {
            FromWorker::HookDone { .. } => {}
            other => panic!("{other:#?}"),
        }
    }

    /// Waits until the worker sleeps; for how long, `None` for ever.
    pub fn sleeps(&self) -> Option<Duration> {
        loop {
            assert!(Instant::now() < self.deadline, "it does not sleep; so far: {:#?}\n{}", self.seen, self.printed());
            let call = fs::read_to_string(format!("/proc/{}/syscall", self.child.id())).unwrap_or_default();
            let words: Vec<&str> = call.split_whitespace().collect();
            let timeout = |word: &str| u64::from_str_radix(word.trim_start_matches("0x"), 16).unwrap() as u32 as i32;
            match words[..] {
                // poll(2) on x86-64: a number of milliseconds, rounded up to a minute at most.
                ["7", _, _, ms, ..] if timeout(ms) < 0 => return None,
                ["7", _, _, ms, ..] if timeout(ms) > 0 => return Some(Duration::from_millis(timeout(ms) as u64)),
                // ppoll(2), on both: a pointer.
                ["73" | "271", _, _, "0x0", ..] => return None,
                ["73" | "271", ..] => return Some(Duration::ZERO),
                _ => std::thread::yield_now(),
            }
        }
    }

    /// Waits until the worker has looked at its app from now on: each look listens again.
    pub fn until_looked(&mut self, socket: &TcpListener) {
        sys::listen(socket, 1);
        while sys::backlog(socket) == 1 {
            assert!(Instant::now() < self.deadline, "no look; so far: {:#?}\n{}", self.seen, self.printed());
            std::thread::yield_now();
        }
    }

    /// Reads output until it holds this.
    pub fn until_printed(&mut self, text: &str) {
        while !self.printed().contains(text) {
            assert!(self.turn(), "the worker ended; it printed {}", self.printed());
        }
    }

    /// Reads output until stderr has so many lines; gives the last of them.
    pub fn until_complained(&mut self, lines: usize) -> String {
        while !(self.err().lines().count() == lines && self.err().ends_with('\n')) {
            assert!(self.turn(), "the worker ended; it printed {}", self.printed());
        }
        self.err().lines().last().unwrap_or_default().into()
    }

    /// Everything that was passed on, stdout first.
    pub fn printed(&self) -> String {
        String::from_utf8_lossy(&[self.out.as_slice(), &self.err].concat()).into_owned()
    }

    /// Passed on to stdout.
    pub fn out(&self) -> String {
        String::from_utf8_lossy(&self.out).into_owned()
    }

    /// Passed on to stderr.
    pub fn err(&self) -> String {
        String::from_utf8_lossy(&self.err).into_owned()
    }

    /// Reads to the end of everything: the worker's exit code, and no reports left unread.
    pub fn end(mut self) -> (Option<i32>, Self) {
        while self.turn() {}
        while let Some(report) = self.inbox.take().unwrap() {
            self.seen.push(report);
        }
        // Only the worker held these: the app prints into the worker's own pipes.
        for (stream, text) in [(self.stdout.take(), &mut self.out), (self.stderr.take(), &mut self.err)] {
            stream.map(|mut s| s.read_to_end(text).unwrap());
        }
        let code = self.child.wait().unwrap().code();
        (code, self)
    }

    /// Reads what there is; false at the end of everything.
    fn turn(&mut self) -> bool {
        let left = self.deadline.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left).unwrap();
        let mut ready = [false; 3];
        {
            let streams = [&self.reports, &self.stdout, &self.stderr];
            let polled = streams.into_iter().flatten().map(|s| PollFd::new(s.as_fd(), PollFlags::POLLIN));
            let mut fds: Vec<PollFd> = polled.collect();
            if fds.is_empty() {
                return false;
            }
            let happened = poll(&mut fds, timeout).unwrap();
            assert!(happened > 0, "nothing came; so far: {:#?}\n{}", self.seen, self.printed());
            let mut fds = fds.iter();
            for (i, stream) in streams.into_iter().enumerate() {
                ready[i] = stream.is_some() && fds.next().is_some_and(|fd| fd.any() == Some(true));
            }
        }
        let mut buffer = [0; 65536];
        if ready[1] {
            match self.stdout.as_mut().unwrap().read(&mut buffer).unwrap() {
                0 => self.stdout = None,
                n => self.out.extend_from_slice(&buffer[..n]),
            }
        }
        if ready[2] {
            match self.stderr.as_mut().unwrap().read(&mut buffer).unwrap() {
                0 => self.stderr = None,
                n => self.err.extend_from_slice(&buffer[..n]),
            }
        }
        if ready[0] {
            match self.reports.as_mut().unwrap().read(&mut buffer).unwrap() {
                0 => return false,
                n => self.inbox.push(&buffer[..n]),
            }
        }
        true
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // A worker without a master drains its app; one that does not is a failure that other tests show.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A listener on a free port.
pub fn listener() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").unwrap()
}

/// What a process's environment was when it began.
pub fn environment(text: &str) -> BTreeMap<String, String> {
    let entries = text.split('\0').filter_map(|entry| entry.trim_start_matches('\n').split_once('='));
    entries.map(|(key, value)| (key.into(), value.into())).collect()
}

/// Whether a process is there and not a zombie.
pub fn is_alive(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')')
        .is_some_and(|(_, rest)| !matches!(rest.trim_start().as_bytes().first(), Some(b'Z' | b'X') | None))
}

/// Waits for the end of a process that is no child of ours.
pub fn until_ended(pid: i32) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while is_alive(pid) {
        assert!(Instant::now() < deadline, "{pid} lives");
        std::thread::yield_now();
    }
}

/// The processes that carry this in their environment.
pub fn processes_with(token: &str) -> Vec<i32> {
    let numbers = fs::read_dir("/proc").unwrap().filter_map(|e| e.ok()?.file_name().to_str()?.parse::<i32>().ok());
    numbers
        .filter(|pid| {
            let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            let wanted = format!("PHASED_TOKEN={token}");
            environment.split(|b| *b == 0).any(|e| e == wanted.as_bytes())
        })
        .filter(|pid| is_alive(*pid))
        .collect()
}

/// Whether a program is on this machine.
pub fn has(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).any(|dir| dir.join(program).is_file());
    if !found {
        eprintln!("skipped: no {program} here");
    }
    found
}
