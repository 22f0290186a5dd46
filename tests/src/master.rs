//! The real `master`, started in a site.

use std::cell::RefCell;
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Instant;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use nix::sys::signal::Signal;
use proto::control::{Stats, WorkerStatus};

use crate::binaries::{binary, folder};
use crate::ctl::{self, Ctl, Output};
use crate::http::{self, Address};
use crate::lines::{Lines, Vain};
use crate::site::Site;
use crate::{control, process, sys};

/// A master that is about to be started.
#[derive(Clone, Debug)]
pub struct Start<'a> {
    site: &'a Site,
    wrap: Vec<OsString>,
    options: Vec<OsString>,
    listen: Vec<OsString>,
    workers: Option<u32>,
    soak: OsString,
    bin: PathBuf,
    stdout: Option<Arc<OwnedFd>>,
    listener: Option<Arc<OwnedFd>>,
    command: Option<Vec<OsString>>,
    env: Vec<(OsString, OsString)>,
    socket: PathBuf,
    name: OsString,
    dir: PathBuf,
    state: Option<PathBuf>,
}

impl<'a> Start<'a> {
    pub(crate) fn new(site: &'a Site) -> Self {
        Self {
            site,
            wrap: Vec::new(),
            options: Vec::new(),
            listen: vec!["tcp://127.0.0.1:0".into()],
            workers: Some(2),
            soak: "0s".into(),
            bin: folder().to_owned(),
            stdout: None,
            listener: None,
            command: Some(vec![binary("fixture").into()]),
            env: Vec::new(),
            socket: site.socket(),
            name: "site".into(),
            dir: site.current(),
            state: Some(site.state()),
        }
    }

    /// This many slots.
    #[must_use]
    pub fn workers(mut self, workers: u32) -> Self {
        self.workers = Some(workers);
        self
    }

    /// As many slots as the master takes by itself.
    #[must_use]
    pub fn default_workers(mut self) -> Self {
        self.workers = None;
        self
    }

    /// The binaries of another folder.
    #[must_use]
    pub fn bin(mut self, folder: &Path) -> Self {
        self.bin = folder.to_owned();
        self
    }

    /// A standard output of the test's own; [`Master::stdout`] stays empty.
    #[must_use]
    pub fn stdout(mut self, to: OwnedFd) -> Self {
        self.stdout = Some(Arc::new(to));
        self
    }

    /// A listening socket handed over by LISTEN_FDS, as a service manager does.
    #[must_use]
    pub fn inherit(mut self, listener: OwnedFd) -> Self {
        self.listener = Some(Arc::new(listener));
        self
    }

    /// This soak.
    #[must_use]
    pub fn soak(mut self, soak: &str) -> Self {
        self.soak = soak.into();
        self
    }

    /// Further options.
    #[must_use]
    pub fn options(mut self, options: &[&str]) -> Self {
        self.options.extend(options.iter().map(OsString::from));
        self
    }

    /// These addresses instead of a TCP port of the kernel's choice.
    #[must_use]
    pub fn listen(mut self, addresses: &[&str]) -> Self {
        self.listen = addresses.iter().map(OsString::from).collect();
        self
    }

    /// Another app.
    #[must_use]
    pub fn command<S: AsRef<OsStr>>(mut self, words: &[S]) -> Self {
        self.command = Some(words.iter().map(|word| word.as_ref().to_owned()).collect());
        self
    }

    /// No COMMAND: the Procfile's.
    #[must_use]
    pub fn procfile(mut self) -> Self {
        self.command = None;
        self
    }

    /// A variable of the master's own environment.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    /// Words before the master's own (`nohup`).
    #[must_use]
    pub fn wrap<S: AsRef<OsStr>>(mut self, words: &[S]) -> Self {
        self.wrap = words.iter().map(|word| word.as_ref().to_owned()).collect();
        self
    }

    /// Another control socket.
    #[must_use]
    pub fn socket(mut self, socket: PathBuf) -> Self {
        self.socket = socket;
        self
    }

    /// Another name.
    #[must_use]
    pub fn name(mut self, name: &str) -> Self {
        self.name = name.into();
        self
    }

    /// Another `dir` than [`Site::current`].
    #[must_use]
    pub fn dir(mut self, dir: PathBuf) -> Self {
        self.dir = dir;
        self
    }

    /// Another state folder; `None`: nobody asks for one.
    #[must_use]
    pub fn state(mut self, folder: Option<PathBuf>) -> Self {
        self.state = folder;
        self
    }

    fn spawn(&self) -> (Child, Arc<Lines>, Arc<Lines>) {
        let mut words = self.wrap.clone();
        if self.listener.is_some() {
            // The master's own pid, which nobody knows before it runs.
            words.extend(["sh", "-c", "LISTEN_PID=$$ LISTEN_FDS=1 exec \"$@\"", "sh"].map(OsString::from));
        }
        words.push(self.bin.join("master").into());
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).arg("--dir").arg(&self.dir);
        if let Some(workers) = self.workers {
            command.arg("--workers").arg(workers.to_string());
        }
        command.arg("--soak").arg(&self.soak);
        command.arg("--name").arg(&self.name).arg("--socket").arg(&self.socket);
        if let Some(state) = &self.state {
            command.arg("--state").arg(state);
        }
        command.args(&self.options);
        for address in &self.listen {
            command.arg("--listen").arg(address);
        }
        if let Some(app) = &self.command {
            command.arg("--").args(app);
        }
        for name in ["PHASED_SOCKET", "PHASED_NAME", "PHASED_WORKER", "RUNTIME_DIRECTORY", "STATE_DIRECTORY"] {
            command.env_remove(name);
        }
        command.env("XDG_RUNTIME_DIR", self.site.root().join("run"));
        command.env("XDG_STATE_HOME", self.site.root().join("xdg-state"));
        // The mark by which everything of this site is found again.
        command.env("TEST_SITE", self.site.root()).envs(self.env.iter().map(|(name, value)| (name, value)));
        command.current_dir(self.site.root());
        if let Some(listener) = &self.listener {
            sys::hand_over(&mut command, listener.try_clone().expect("a descriptor"), 3);
        }
        let stdout = match &self.stdout {
            Some(to) => to.try_clone().expect("a descriptor").into(),
            None => Stdio::piped(),
        };
        let mut child = command
            .stdin(Stdio::null())
            .stdout(stdout)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let stdout = child.stdout.take().map_or_else(Arc::default, Lines::read);
        let stderr = Lines::read(child.stderr.take().expect("a pipe"));
        self.site.scene().keep("master's stdout", &stdout);
        self.site.scene().keep("master's stderr", &stderr);
        (child, stdout, stderr)
    }

    /// Starts it and waits until its control socket answers.
    ///
    /// # Panics
    /// When it ends before, or at the deadline.
    #[must_use]
    pub fn start(self) -> Master<'a> {
        let folder = self.socket.parent().expect("a folder").to_owned();
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK).expect("inotify");
        inotify.add_watch(&folder, AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO).expect("a watch");
        let (child, stdout, stderr) = self.spawn();
        let mut master = Master {
            site: self.site,
            pid: child.id() as i32,
            child,
            socket: self.socket,
            stdout,
            stderr,
            trace: RefCell::new(Arc::default()),
        };
        let end = sys::pidfd(master.pid).expect("a pidfd");
        loop {
            match control::trace(&master.socket) {
                Ok(trace) => {
                    master.site.scene().keep("trace", &trace);
                    master.trace = RefCell::new(trace);
                    return master;
                }
                // Between bind() and listen() there is an instant in which nobody answers at the path yet.
                Err(_) if master.socket.exists() && !master.has_ended() && Instant::now() < master.site.deadline() => {
                    std::thread::yield_now();
                    continue;
                }
                Err(_) => {}
            }
            let left = master.site.deadline().saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "the master has no control socket");
            let mut fds =
                [PollFd::new(inotify.as_fd(), PollFlags::POLLIN), PollFd::new(end.as_fd(), PollFlags::POLLIN)];
            let _ = poll(&mut fds, PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX));
            let ended = fds[1].revents().is_some_and(|events| !events.is_empty());
            let _ = inotify.read_events();
            if ended {
                let status = master.child.wait();
                let _ = master.stderr.wait_closed(master.site.deadline());
                panic!("the master ended at its start: {status:?}\n{}", master.stderr.text());
            }
        }
    }

    /// Starts it and kills everything of the site as soon as `moment` returns, which is given its pid and does not wait for
    /// the control socket.
    ///
    /// # Panics
    /// When it cannot be waited for.
    pub fn cut(self, moment: impl FnOnce(i32)) {
        let (mut child, ..) = self.spawn();
        moment(child.id() as i32);
        let _ = child.kill();
        let _ = child.wait();
        process::kill_site(self.site.root());
    }

    /// Starts it where it is expected to end by itself; what it said.
    #[must_use]
    pub fn run(self) -> Output {
        let (mut child, stdout, stderr) = self.spawn();
        let status = child.wait().expect("wait");
        if self.stdout.is_none() {
            let _ = stdout.wait_closed(self.site.deadline());
        }
        let _ = stderr.wait_closed(self.site.deadline());
        Output { code: status.code(), stdout: stdout.text(), stderr: stderr.text() }
    }
}

/// A master that runs. Its end kills everything of the site.
#[derive(Debug)]
pub struct Master<'a> {
    site: &'a Site,
    child: Child,
    pid: i32,
    socket: PathBuf,
    /// What it (and its apps) print on stdout.
    pub stdout: Arc<Lines>,
    /// Its log, and what its apps print on stderr.
    pub stderr: Arc<Lines>,
    trace: RefCell<Arc<Lines>>,
}

impl<'a> Master<'a> {
    /// Its pid (with [`Start::wrap`]: that of the first word's process).
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Its site.
    #[must_use]
    pub fn site(&self) -> &'a Site {
        self.site
    }

    /// What the mind heard and did, an entry a step.
    #[must_use]
    pub fn trace(&self) -> Arc<Lines> {
        Arc::clone(&self.trace.borrow())
    }

    /// Its stats now.
    ///
    /// # Panics
    /// When it does not answer.
    #[must_use]
    #[track_caller]
    pub fn stats(&self) -> Stats {
        control::stats(&self.socket).unwrap_or_else(|error| panic!("stats: {error:#}"))
    }

    /// Waits until the stats are as `wanted` says: looks now, and again after each step of the mind.
    ///
    /// # Panics
    /// At the deadline, or when the master ends.
    #[track_caller]
    pub fn until(&self, what: &str, mut wanted: impl FnMut(&Stats) -> bool) -> Stats {
        loop {
            let trace = self.trace();
            let seen = trace.len();
            let stats = self.stats();
            if wanted(&stats) {
                return stats;
            }
            match trace.wait(seen, self.site.deadline(), |_| true) {
                Ok(_) => {}
                Err(Vain::Closed) => panic!("waiting until {what}: the master closed the trace; last seen: {stats:#?}"),
                Err(Vain::TimedOut) => panic!("waiting until {what}: deadline; last seen: {stats:#?}"),
            }
        }
    }

    /// Waits for a state.
    ///
    /// # Panics
    /// As [`Self::until`].
    #[track_caller]
    pub fn until_state(&self, state: &str) -> Stats {
        self.until(&format!("the state is {state}"), |stats| stats.state == state)
    }

    /// Waits for a step of the mind, from the trace's entry `from` on, that `wanted` accepts.
    ///
    /// # Panics
    /// At the deadline, or when the master ends.
    #[track_caller]
    pub fn until_step(&self, from: usize, what: &str, wanted: impl FnMut(&str) -> bool) -> usize {
        match self.trace().wait(from, self.site.deadline(), wanted) {
            Ok((at, _)) => at,
            Err(vain) => panic!("waiting for a step ({what}): {vain:?}"),
        }
    }

    /// Waits for a line of its stderr that holds `text`.
    ///
    /// # Panics
    /// At the deadline, or when the master ends.
    #[track_caller]
    pub fn until_log(&self, text: &str) -> String {
        match self.stderr.wait(0, self.site.deadline(), |line| line.contains(text)) {
            Ok((_, line)) => line,
            Err(vain) => panic!("waiting for a line of the log with {text:?}: {vain:?}"),
        }
    }

    /// Waits for a line of its stdout that holds `text`.
    ///
    /// # Panics
    /// At the deadline, or when the master ends.
    #[track_caller]
    pub fn until_stdout(&self, text: &str) -> String {
        match self.stdout.wait(0, self.site.deadline(), |line| line.contains(text)) {
            Ok((_, line)) => line,
            Err(vain) => panic!("waiting for a line of output with {text:?}: {vain:?}"),
        }
    }

    /// The first listener's address.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    pub fn address(&self) -> Address {
        self.stats().listeners[0].address.parse().expect("an address")
    }

    /// A page of the app.
    ///
    /// # Panics
    /// When it cannot be had.
    #[must_use]
    #[track_caller]
    pub fn get(&self, path: &str) -> String {
        http::get(&self.address(), path).unwrap_or_else(|error| panic!("{error:#}"))
    }

    /// Waits until the running rollout is about this (`doing`).
    ///
    /// # Panics
    /// As [`Self::until`].
    #[track_caller]
    pub fn until_doing(&self, word: &str) -> Stats {
        self.until(&format!("the rollout is {word}"), |stats| doing(stats) == word)
    }

    /// Runs `ctl` to its end.
    #[must_use]
    pub fn ctl(&self, args: &[&str]) -> Output {
        self.ctl_start(args).end()
    }

    /// Starts `ctl` and lets it wait.
    #[must_use]
    pub fn ctl_start(&self, args: &[&str]) -> Ctl {
        let ctl = Ctl::start(&mut ctl::command(&self.socket, args));
        self.site.scene().keep(&format!("ctl {args:?} stdout"), &ctl.stdout);
        self.site.scene().keep(&format!("ctl {args:?} stderr"), &ctl.stderr);
        ctl
    }

    /// Deploys a release and waits for the phased restart.
    #[must_use]
    pub fn roll(&self, release: &str) -> Output {
        self.site.deploy(release);
        self.ctl(&["phased-restart"])
    }

    /// The living workers of a slot, in the order of their incarnations.
    #[must_use]
    pub fn slot(&self, index: u32) -> Vec<WorkerStatus> {
        self.stats().worker_status.into_iter().filter(|worker| worker.index.0 == index).collect()
    }

    /// The pids of all ready apps, by slot.
    #[must_use]
    pub fn app_pids(&self) -> Vec<i32> {
        self.stats().worker_status.iter().filter(|worker| worker.booted).filter_map(app_pid).collect()
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        process::signal(self.pid, signal);
    }

    /// Whether it has ended.
    ///
    /// # Panics
    /// When it cannot be asked.
    #[must_use]
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("wait").is_some()
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// At the deadline.
    pub fn end(&mut self) -> ExitStatus {
        self.site.until_ended(self.pid);
        self.child.wait().expect("wait")
    }
}

impl Drop for Master<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.site.scene().show("the test failed");
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        process::kill_site(self.site.root());
    }
}

/// The pid of a worker's app.
#[must_use]
pub fn app_pid(worker: &WorkerStatus) -> Option<i32> {
    worker.app_pid.map(|pid| pid as i32)
}

/// The name of a worker's release: the last part of its path.
#[must_use]
pub fn release_name(worker: &WorkerStatus) -> String {
    name_of(&worker.release)
}

/// The last part of a path.
#[must_use]
pub fn name_of(path: &[u8]) -> String {
    let path = String::from_utf8_lossy(path);
    path.rsplit('/').next().unwrap_or_default().to_owned()
}

/// The ready workers as slot and name of the release, by slot.
#[must_use]
pub fn ready(stats: &Stats) -> Vec<(u32, String)> {
    let ready = stats.worker_status.iter().filter(|worker| worker.state == "ready");
    ready.map(|worker| (worker.index.0, release_name(worker))).collect()
}

/// The names of the refused releases, the latest last.
#[must_use]
pub fn refused(stats: &Stats) -> Vec<String> {
    stats.refused.iter().map(|refused| name_of(&refused.release)).collect()
}

/// What the running rollout is about: `hook`, `rehearsing`, `canary`, `paused` …; nothing runs: an empty word.
#[must_use]
pub fn doing(stats: &Stats) -> &str {
    stats.rollout.as_ref().map_or("", |rollout| rollout.state.as_str())
}

/// Whether every slot has one worker, ready and of this release, and nothing else lives.
#[must_use]
pub fn all_on(stats: &Stats, release: &str) -> bool {
    stats.worker_status.len() == stats.workers as usize
        && stats.worker_status.iter().all(|worker| worker.state == "ready" && release_name(worker) == release)
}
