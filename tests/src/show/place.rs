//! A temporary folder with releases, and the real master and `ctl` at work in it.

use std::ffi::OsString;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::{DirBuilderExt, symlink};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{SigSet, Signal};
use proto::control::{Reply, Request, Stats};
use proto::{Hello, Inbox, Outbox};
use tempfile::TempDir;

use crate::http::Address;
use crate::show::app::moment;
use crate::{control, process};

/// The longest that anything here is waited for.
const PATIENCE: Duration = Duration::from_secs(120);
/// A signal ends this program.
static ENDING: AtomicBool = AtomicBool::new(false);

/// A temporary folder; it and all processes of its master go away with it.
#[derive(Debug)]
pub struct Place {
    folder: TempDir,
}

/// How a master is started. What is not said is the master's own default.
#[derive(Clone, Debug, Default)]
pub struct Start {
    /// Slots.
    pub workers: u32,
    /// Further options, `--soak` for one.
    pub options: Vec<String>,
}

/// A master at work; dropping it ends everything that it has started.
#[derive(Debug)]
pub struct Master {
    child: Child,
    root: PathBuf,
    socket: PathBuf,
    log: Receiver<(Duration, String)>,
}

/// Does not return when a signal ends this program: errors are then no more than its consequence.
pub fn unless_ending() {
    while ENDING.load(Ordering::SeqCst) {
        thread::park();
    }
}

/// A program that is built beside this one.
///
/// # Errors
/// When this one cannot tell where it is.
pub fn binary(name: &str) -> Result<PathBuf> {
    let path = std::env::current_exe().context("where is this program?")?.with_file_name(name);
    if !path.exists() {
        bail!("{} is not built: cargo build --bins (with --release, where this program is a release)", path.display());
    }
    Ok(path)
}

impl Place {
    /// A new folder. A Ctrl-C, TERM or HUP from now on ends what was started in it, removes it and exits with 128 + signal; so it
    /// is to be called before any thread is started.
    ///
    /// # Errors
    /// When there is no room.
    pub fn new(prefix: &str) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix(prefix).tempdir().context("a temporary folder")?;
        for name in ["releases", "state"] {
            fs::create_dir(folder.path().join(name))?;
        }
        fs::DirBuilder::new().mode(0o700).create(folder.path().join("run"))?;
        let root = folder.path().to_owned();
        let mut set = SigSet::empty();
        [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP].into_iter().for_each(|signal| set.add(signal));
        set.thread_block().context("blocking signals")?;
        thread::spawn(move || {
            if let Ok(signal) = set.wait() {
                ENDING.store(true, Ordering::SeqCst);
                process::kill_site(&root);
                let _ = fs::remove_dir_all(&root);
                eprintln!("\nended by {signal}; everything that was started is gone");
                std::process::exit(128 + signal as i32);
            }
        });
        Ok(Self { folder })
    }

    /// The folder.
    #[must_use]
    pub fn root(&self) -> &Path {
        self.folder.path()
    }

    /// A release with these files.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn release(&self, name: &str, files: &[(&str, &str)]) -> Result<()> {
        let folder = self.root().join("releases").join(name);
        fs::create_dir_all(&folder)?;
        for (file, text) in files {
            fs::write(folder.join(file), text)?;
        }
        Ok(())
    }

    /// Lets `current` name a release, atomically.
    ///
    /// # Errors
    /// When the symlink cannot be made.
    pub fn deploy(&self, name: &str) -> Result<()> {
        let link = self.root().join("current.new");
        symlink(format!("releases/{name}"), &link)?;
        Ok(fs::rename(link, self.root().join("current"))?)
    }

    /// Starts the master, and waits until its control socket is there, on `current` with this very program's `app` as the app, a port of the kernel's choice, and its
    /// control socket and state in the folder.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(&self, start: &Start) -> Result<Master> {
        let socket = self.root().join("run/master.sock");
        let mut command = Command::new(binary("master")?);
        command.arg("--dir").arg(self.root().join("current")).arg("--socket").arg(&socket);
        command.arg("--state").arg(self.root().join("state")).args(["--listen", "tcp://127.0.0.1:0"]);
        command.arg("--workers").arg(start.workers.to_string()).args(&start.options);
        command.arg("--").arg(std::env::current_exe()?).arg("app");
        for name in ["PHASED_SOCKET", "PHASED_NAME", "PHASED_WORKER", "PHASED_TRACE", "LISTEN_FDS", "LISTEN_PID"] {
            command.env_remove(name);
        }
        // The mark by which everything of this folder is found again; and a group that Ctrl-C does not reach.
        command.env("TEST_SITE", self.root()).process_group(0).current_dir(self.root());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().context("starting the master")?;
        let (lines, log) = mpsc::channel();
        if let Some(stderr) = child.stderr.take() {
            thread::spawn(move || {
                for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                    if lines.send((moment(), line)).is_err() {
                        break;
                    }
                }
            });
        }
        let master = Master { child, root: self.root().to_owned(), socket, log };
        master.lines("control socket", 1)?;
        Ok(master)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        process::kill_site(self.root());
    }
}

impl Master {
    /// Its pid.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    /// Its stats now.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn stats(&self) -> Result<Stats> {
        control::stats(&self.socket)
    }

    /// Its first listener's address.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn address(&self) -> Result<Address> {
        self.stats()?.listeners.first().context("no listener")?.address.parse()
    }

    /// Waits until its stats are as `wanted` says: looks now, and again after each step that the master takes.
    ///
    /// # Errors
    /// When the master ends, or after two minutes.
    pub fn until(&self, what: &str, mut wanted: impl FnMut(&Stats) -> bool) -> Result<Stats> {
        let mut steps = Steps::subscribe(&self.socket)?;
        loop {
            let stats = self.stats()?;
            if wanted(&stats) {
                return Ok(stats);
            }
            steps.next().with_context(|| format!("waiting until {what}; the state is {}", stats.state))?;
        }
    }

    /// Waits for `count` lines of its log that hold `text`; the [`moment`] when the last of them was read.
    ///
    /// # Errors
    /// When the master ends, or after two minutes.
    pub fn lines(&self, text: &str, count: usize) -> Result<Duration> {
        let end = Instant::now() + PATIENCE;
        let mut last = moment();
        for n in 0..count {
            loop {
                let left = end.saturating_duration_since(Instant::now());
                let Ok((at, line)) = self.log.recv_timeout(left) else {
                    bail!("the master has said {text:?} only {n} times, {count} were expected");
                };
                if line.contains(text) {
                    last = at;
                    break;
                }
            }
        }
        Ok(last)
    }

    /// Forgets the log so far.
    pub fn forget_lines(&self) {
        while self.log.try_recv().is_ok() {}
    }

    /// A `ctl` that speaks to it.
    ///
    /// # Errors
    /// When it is not built.
    pub fn ctl(&self, args: &[&str]) -> Result<Command> {
        let mut command = Command::new(binary("ctl")?);
        command.env("PHASED_SOCKET", &self.socket).env_remove("PHASED_NAME").args(args).stdin(Stdio::null());
        Ok(command)
    }

    /// Stops it; whether it ended cleanly.
    ///
    /// # Errors
    /// When it cannot be waited for.
    pub fn stop(mut self) -> Result<bool> {
        process::signal(self.pid(), Signal::SIGTERM);
        if !process::wait_end(self.pid(), Instant::now() + PATIENCE) {
            bail!("the master does not stop");
        }
        Ok(self.child.wait()?.success())
    }
}

impl Drop for Master {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        process::kill_site(&self.root);
    }
}

/// What the master does, step by step; it is told no longer than this lives.
struct Steps {
    stream: UnixStream,
    inbox: Inbox<Reply>,
}

impl Steps {
    /// Every step that begins after this returns is told.
    fn subscribe(socket: &Path) -> Result<Self> {
        let mut stream = UnixStream::connect(socket).with_context(|| format!("connecting to {}", socket.display()))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        // Both in one write: the master has read the subscription when it answers the greeting.
        let mut outbox = Outbox::default();
        outbox.push(&Request::Hello(Hello::ours()))?;
        outbox.push(&Request::Events)?;
        stream.write_all(outbox.pending())?;
        let mut steps = Self { stream, inbox: Inbox::default() };
        steps.next()?;
        Ok(steps)
    }

    /// Waits for the master to say something.
    fn next(&mut self) -> Result<Reply> {
        loop {
            if let Some(reply) = self.inbox.take()? {
                return Ok(reply);
            }
            let mut chunk = [0; 16 << 10];
            match self.stream.read(&mut chunk).context("nothing happens")? {
                0 => bail!("the master has gone away"),
                read => self.inbox.push(&chunk[..read]),
            }
        }
    }
}

/// The environment of an app, as an option of the master.
#[must_use]
pub fn env_option(name: &str, value: &Path) -> [String; 2] {
    let mut pair = OsString::from(name);
    pair.push("=");
    pair.push(value);
    ["--env".into(), pair.to_string_lossy().into_owned()]
}
