//! The real master, killed and started again as often as one likes, and the real `ctl`.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use std::{fs, thread};

use anyhow::{Context, Result, bail, ensure};
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::unistd::pipe2;
use proto::control::{Request, Stats};
use tests::control::{self, Control};
use tests::show::place::binary;
use tests::{process, sys};

/// The longest that anything is waited for.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);
/// Traces of so many masters are kept: the last ones.
const TRACES: u32 = 4;
/// The number of the descriptor on which a master says that its start is over.
const NOTIFY: i32 = 3;

/// The folder that masters are started in, one after the other.
#[derive(Debug)]
pub(crate) struct Lead {
    root: PathBuf,
    options: Vec<String>,
    master: Option<Child>,
    masters: u32,
    ctls: u32,
}

/// A `ctl` that runs.
#[derive(Debug)]
pub(crate) struct Ctl {
    child: Child,
    said: PathBuf,
    words: String,
}

/// How a `ctl` ended.
#[derive(Debug)]
pub(crate) struct Said {
    /// Its exit code; `None` when a signal ended it.
    pub(crate) code: Option<i32>,
    /// What it printed, on either way.
    pub(crate) text: String,
}

impl Lead {
    /// In this folder, with these options.
    pub(crate) fn new(root: &Path, options: &[&str]) -> Self {
        let options = options.iter().map(|&option| option.to_owned()).collect();
        Self { root: root.to_owned(), options, master: None, masters: 0, ctls: 0 }
    }

    /// The control socket.
    pub(crate) fn socket(&self) -> PathBuf {
        self.root.join("run/soak.sock")
    }

    /// Starts a master and waits until its start is over.
    ///
    /// # Errors
    /// When it ends before, or after two minutes.
    pub(crate) fn start(&mut self) -> Result<()> {
        ensure!(self.master.is_none(), "there is a master already");
        self.masters += 1;
        let trace = |nth: u32| self.root.join(format!("trace-{nth}"));
        let _ = fs::remove_file(trace(self.masters.saturating_sub(TRACES)));
        let log = OpenOptions::new().create(true).append(true).open(self.root.join("log"))?;
        let (ready, theirs) = pipe2(OFlag::O_CLOEXEC)?;
        let mut command = Command::new(binary("master")?);
        command.arg("--dir").arg(self.root.join("current")).arg("--socket").arg(self.socket());
        command.arg("--state").arg(self.root.join("state")).args(["--listen", "tcp://127.0.0.1:0"]);
        command.args(["--notify-fd", &NOTIFY.to_string()]).args(&self.options);
        command.arg("--").arg(std::env::current_exe()?).arg("app");
        for name in ["PHASED_SOCKET", "PHASED_NAME", "PHASED_WORKER", "LISTEN_FDS", "LISTEN_PID", "NOTIFY_SOCKET"] {
            command.env_remove(name);
        }
        // The mark by which everything of this folder is found again.
        command.env("TEST_SITE", &self.root).env("PHASED_TRACE", trace(self.masters)).current_dir(&self.root);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        sys::hand_over(&mut command, theirs, NOTIFY);
        let child = command.spawn().context("starting the master")?;
        // With it our own end of what is only the master's goes.
        drop(command);
        let pid = child.id() as i32;
        self.master = Some(child);
        ensure!(said_newline(&ready)?, "the master (process {pid}) is not through with its start");
        Ok(())
    }

    /// The master's pid; 0 where there is none.
    pub(crate) fn pid(&self) -> i32 {
        self.master.as_ref().map_or(0, |child| child.id() as i32)
    }

    /// Kills the master by SIGKILL.
    ///
    /// # Errors
    /// When it does not end.
    pub(crate) fn kill(&mut self) -> Result<()> {
        process::signal(self.pid(), Signal::SIGKILL);
        self.ended().map(drop)
    }

    /// Waits for the master's end; whether it was a clean one.
    ///
    /// # Errors
    /// When it does not end.
    pub(crate) fn ended(&mut self) -> Result<bool> {
        let Some(mut child) = self.master.take() else { bail!("there is no master") };
        ensure!(process::wait_end(child.id() as i32, Instant::now() + PATIENCE), "the master does not end");
        Ok(child.wait()?.success())
    }

    /// Its stats now.
    ///
    /// # Errors
    /// When it does not answer.
    pub(crate) fn stats(&self) -> Result<Stats> {
        control::stats(&self.socket())
    }

    /// Waits until the stats are as `wanted` says: looks now, and again after each step of the mind.
    ///
    /// # Errors
    /// When the master ends, or when nothing happens any more.
    pub(crate) fn until(&self, what: &str, mut wanted: impl FnMut(&Stats) -> bool) -> Result<Stats> {
        let mut steps = self.steps()?;
        let end = Instant::now() + PATIENCE;
        loop {
            let stats = self.stats()?;
            if wanted(&stats) {
                return Ok(stats);
            }
            let step = steps.receive();
            if !matches!(step, Ok(Some(_))) || Instant::now() > end {
                bail!("waiting until {what} ({step:?}); last seen: {stats:#?}");
            }
        }
    }

    /// Every step of the mind from now on.
    ///
    /// # Errors
    /// When the master does not answer.
    pub(crate) fn steps(&self) -> Result<Control> {
        let mut steps = Control::open(&self.socket())?;
        steps.send(&Request::Events)?;
        Ok(steps)
    }

    /// Waits until a master answers at the control socket.
    ///
    /// # Errors
    /// When none does.
    pub(crate) fn answers(&self) -> Result<Stats> {
        let end = Instant::now() + PATIENCE;
        loop {
            match self.stats() {
                Ok(stats) => return Ok(stats),
                Err(error) if Instant::now() > end => return Err(error.context("no master answers")),
                Err(_) => thread::yield_now(),
            }
        }
    }

    /// Starts a `ctl` and lets it wait.
    ///
    /// # Errors
    /// When it cannot be started.
    pub(crate) fn ctl_start(&mut self, args: &[&str]) -> Result<Ctl> {
        self.ctls += 1;
        let said = self.root.join(format!("ctl-{}", self.ctls));
        let file = File::create(&said)?;
        let mut command = Command::new(binary("ctl")?);
        command.env("PHASED_SOCKET", self.socket()).env_remove("PHASED_NAME").args(args);
        command.env("TEST_SITE", &self.root).stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        let child = command.spawn().context("starting ctl")?;
        Ok(Ctl { child, said, words: args.join(" ") })
    }

    /// Runs `ctl` to its end.
    ///
    /// # Errors
    /// When it does not end, or ends with another code than these.
    pub(crate) fn ctl(&mut self, args: &[&str], codes: &[i32]) -> Result<i32> {
        self.ctl_start(args)?.expect(codes)
    }
}

impl Drop for Lead {
    fn drop(&mut self) {
        if let Some(child) = &mut self.master {
            let _ = child.kill();
            let _ = child.wait();
        }
        process::kill_site(&self.root);
    }
}

impl Ctl {
    /// Kills it by SIGKILL, if it has not ended yet.
    ///
    /// # Errors
    /// When it cannot be waited for.
    pub(crate) fn kill(mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(fs::remove_file(&self.said)?)
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// When it does not end.
    pub(crate) fn end(mut self) -> Result<Said> {
        let ended = process::wait_end(self.child.id() as i32, Instant::now() + PATIENCE);
        let text = fs::read_to_string(&self.said).unwrap_or_default();
        ensure!(ended, "ctl {} does not end; it has said: {text}", self.words);
        let code = self.child.wait()?.code();
        let _ = fs::remove_file(&self.said);
        Ok(Said { code, text })
    }

    /// Waits for its end, which is to be one of these codes; which one it was.
    ///
    /// # Errors
    /// When it does not end, or otherwise.
    pub(crate) fn expect(self, codes: &[i32]) -> Result<i32> {
        let words = self.words.clone();
        let said = self.end()?;
        match said.code {
            Some(code) if codes.contains(&code) => Ok(code),
            code => bail!("ctl {words}: exit code {code:?}, expected one of {codes:?}\n{}", said.text),
        }
    }
}

/// Waits for a newline; `false`: the other end was closed instead, or two minutes have passed.
fn said_newline(from: &OwnedFd) -> Result<bool> {
    let end = Instant::now() + PATIENCE;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(from.as_fd(), PollFlags::POLLIN)], timeout) {
            Ok(0) => return Ok(false),
            Err(nix::Error::EINTR) => continue,
            other => other?,
        };
        let mut byte = [0];
        match nix::unistd::read(from, &mut byte).map_err(io::Error::from) {
            Ok(read) => return Ok(read == 1),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
}
