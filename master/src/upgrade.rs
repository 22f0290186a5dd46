//! Another program takes this process's place: the one that lies at the path now from which this one was started, with the
//! same arguments. It first proves itself in a child (`--check-upgrade`); then the mind is asked whether this is the time,
//! and the new one is executed in the same process. The workers notice nothing but that their master is gone and another
//! one comes; sockets and the control socket stay open on the way.

use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, execve};
use proto::control::{Code, Reply};
use proto::worker::ExitStatus;
use rollout::{Command as Order, CommandId, Event};

use crate::address::{Address, Place};
use crate::child::c_string;
use crate::listener::Listener;
use crate::settings::Site;
use crate::shell::{Deadline, Shell};
use crate::{child, narrate, sys};

/// How long the new program may take to prove itself.
const PROOF: Duration = Duration::from_secs(30);
/// The most of what it says then, in bytes.
const SAID: u64 = 8 << 10;
/// Names the descriptor of the control socket to the next program.
const CONTROL: &str = "PHASED_CONTROL_FD";
/// What tells this site's workers from others'.
const MARK: &str = "PHASED_MARK";
/// For a proof: the control socket that is in force, the state folder, and the addresses that are held.
const IN_FORCE: [&str; 3] = ["PHASED_OLD_SOCKET", "PHASED_OLD_STATE", "PHASED_OLD_LISTEN"];
/// Names those of the listening sockets: `NAME=FD NAME=FD`.
const SOCKETS: &str = "PHASED_SOCKET_FDS";

/// Whether a variable is for this program alone.
pub(crate) fn is_ours(name: &OsStr) -> bool {
    [CONTROL, SOCKETS, MARK].iter().chain(&IN_FORCE).any(|ours| name == *ours)
}

/// How this process was started.
#[derive(Clone, Debug)]
pub(crate) struct Program {
    path: PathBuf,
    args: Vec<OsString>,
}

/// A new program that is to prove itself.
#[derive(Debug)]
pub(crate) struct Proof {
    /// Who asked.
    client: u64,
    pid: i32,
    said: File,
    /// It took too long.
    overdue: bool,
}

/// What the last program has left open for this one.
#[derive(Debug, Default)]
pub(crate) struct Heirlooms {
    pub(crate) control: Option<OwnedFd>,
    pub(crate) sockets: Vec<(String, OwnedFd)>,
    pub(crate) mark: Option<String>,
}

impl Program {
    /// This one. Its path is not resolved: what is behind it later is what is wanted then.
    pub(crate) fn of_this_process() -> Self {
        let mut words = std::env::args_os();
        let name = words.next().unwrap_or_default();
        let found = if name.as_bytes().contains(&b'/') {
            std::path::absolute(&name).ok()
        } else {
            let folders = std::env::var_os("PATH").unwrap_or_default();
            let places: Vec<_> = std::env::split_paths(&folders).map(|folder| folder.join(&name)).collect();
            places.into_iter().find(|place| place.is_file()).and_then(|place| std::path::absolute(place).ok())
        };
        let path = found.or_else(|| std::env::current_exe().ok()).unwrap_or_else(|| name.into());
        Self { path, args: words.collect() }
    }

    fn prove(&self, in_force: [OsString; 3]) -> Result<(i32, File)> {
        let said = File::from(memfd_create(c"proof", MFdFlags::MFD_CLOEXEC).context("memfd_create")?);
        let child = Command::new(&self.path)
            .arg("--check-upgrade")
            .args(&self.args)
            .envs(IN_FORCE.into_iter().zip(in_force))
            .stdin(Stdio::null())
            .stdout(said.try_clone()?)
            .stderr(said.try_clone()?)
            .spawn()
            .with_context(|| format!("cannot execute {}", self.path.display()))?;
        Ok((child.id() as i32, said))
    }

    /// Executes it in this process. Does not return, unless not even the program that runs now can be executed again.
    pub(crate) fn replace(&self, control: Option<&OwnedFd>, mark: &str, listeners: Vec<Listener>) -> anyhow::Error {
        let (inherited, bound): (Vec<_>, Vec<_>) = listeners.into_iter().partition(Listener::is_inherited);
        let names: Vec<_> = inherited.iter().map(|l| l.name.clone()).collect();
        let mut environment: Vec<(OsString, OsString)> = std::env::vars_os()
            .filter(|(name, _)| !is_ours(name) && !name.as_bytes().starts_with(b"LISTEN_"))
            .collect();
        let mut set = |name: &str, value: String| environment.push((name.into(), value.into()));
        if !inherited.is_empty() {
            set("LISTEN_PID", std::process::id().to_string());
            set("LISTEN_FDS", inherited.len().to_string());
            set("LISTEN_FDNAMES", names.join(":"));
        }
        if let Some(control) = control {
            set(CONTROL, control.as_raw_fd().to_string());
        }
        set(MARK, mark.to_owned());
        let fds: Vec<String> = bound.iter().map(|l| format!("{}={}", l.name, l.fd.as_raw_fd())).collect();
        set(SOCKETS, fds.join(" "));
        let kept = bound.iter().map(|l| l.fd.as_fd()).chain(control.map(AsFd::as_fd));
        for fd in kept {
            let _ = fcntl(fd, FcntlArg::F_SETFD(FdFlag::empty()));
        }
        for (listener, number) in inherited.iter().zip(crate::FIRST_INHERITED..) {
            sys::place(listener.fd.as_fd(), number);
        }
        // From here on nothing of them is to be cleaned up.
        inherited.into_iter().chain(bound).for_each(Listener::forget);
        let words = [self.path.clone().into_os_string()].into_iter().chain(self.args.iter().cloned());
        let words: Vec<CString> = words.map(c_string).collect();
        let environment: Vec<CString> = environment
            .into_iter()
            .map(|(mut name, value)| {
                name.push("=");
                name.push(value);
                c_string(name)
            })
            .collect();
        let Err(error) = execve(&c_string(self.path.clone().into_os_string()), &words, &environment);
        tracing::error!("cannot execute {}: {error}; going on with the program that runs", self.path.display());
        let Err(error) = execve(c"/proc/self/exe", &words, &environment);
        anyhow::anyhow!("cannot execute this program again: {error}")
    }
}

/// Whether a program with these settings can take the place of the one that asks it to prove itself.
///
/// # Errors
/// What would keep it from it.
pub(crate) fn fits_in(site: &Site, state: Option<&Path>, addresses: &[Address]) -> Result<()> {
    let [socket, folder, held] = IN_FORCE.map(std::env::var_os);
    let restart = "a master that is upgraded keeps it; change it with a restart (ctl stop)";
    if let Some(socket) = socket.filter(|socket| *socket != site.socket) {
        bail!("the control socket is {}, not {}: {restart}", socket.display(), site.socket.display());
    }
    let place = crate::state::place(state, &site.name)?;
    if let Some(folder) = folder.filter(|folder| !folder.is_empty() && *folder != place) {
        bail!("the state folder is {}, not {}: {restart}", folder.display(), place.display());
    }
    let held = held.unwrap_or_default().to_string_lossy().into_owned();
    for address in addresses {
        let is_held = held.split(' ').any(|held| *held == address.place.to_string());
        // What is bound here is free again when this process ends; a Unix socket would be in the way of its master.
        if let (Place::Tcp(_), false) = (&address.place, is_held || held.is_empty()) {
            Listener::bind(address, 0)?;
        }
    }
    Ok(())
}

impl Heirlooms {
    /// Takes what the environment names, once, before anything else opens an fd.
    pub(crate) fn take() -> Self {
        let adopt = |fd: &str| {
            let fd = fd.parse().ok().filter(|fd| *fd > 2)?;
            sys::adopt_fds(fd, 1).pop().and_then(|fd| child::move_up(fd).ok())
        };
        let sockets = std::env::var(SOCKETS).unwrap_or_default();
        let sockets = sockets.split_whitespace().filter_map(|word| word.rsplit_once('='));
        Self {
            control: std::env::var(CONTROL).ok().and_then(|fd| adopt(&fd)),
            sockets: sockets.filter_map(|(name, fd)| Some((name.to_owned(), adopt(fd)?))).collect(),
            mark: std::env::var(MARK).ok(),
        }
    }
}

impl Shell {
    /// Has the new program prove itself; what follows comes with its end.
    pub(crate) fn begin_upgrade(&mut self, client: u64) {
        if self.proof.is_some() {
            return self.upgrade_failed(client, Code::Busy, "busy: another upgrade is under way".into());
        }
        let state = self.state.folder().map_or_else(OsString::new, |folder| folder.into());
        let held: Vec<String> = self.listeners.iter().map(Listener::address).collect();
        let in_force = [self.site.socket.clone().into_os_string(), state, held.join(" ").into()];
        match self.program.prove(in_force) {
            Ok((pid, said)) => {
                self.leftovers.spare(pid);
                tracing::info!("upgrade: {} has to prove itself (pid {pid})", self.program.path.display());
                self.proof = Some(Proof { client, pid, said, overdue: false });
                self.timers.arm(Deadline::Proof, PROOF);
            }
            Err(error) => self.upgrade_failed(client, Code::Failed, format!("upgrade: {error:#}; nothing changed")),
        }
    }

    /// It takes too long.
    pub(crate) fn proof_overdue(&mut self) {
        if let Some(proof) = &mut self.proof {
            proof.overdue = true;
            let _ = kill(Pid::from_raw(proof.pid), Signal::SIGKILL);
        }
    }

    /// A child has ended. True when it was the new program.
    pub(crate) fn proof_ended(&mut self, pid: i32, status: ExitStatus) -> bool {
        let Some(proof) = self.proof.take_if(|proof| proof.pid == pid) else { return false };
        self.timers.disarm(Deadline::Proof);
        if status == ExitStatus::Code(0) {
            self.kept_control = match self.control.keep() {
                Ok(control) => Some(control),
                Err(error) => {
                    self.upgrade_failed(proof.client, Code::Failed, format!("upgrade: {error:#}; nothing changed"));
                    return true;
                }
            };
            // Whether this is the time for it is the mind's decision.
            self.feed(Event::Command { id: CommandId(proof.client), command: Order::Upgrade });
            return true;
        }
        let mut said = Vec::new();
        let mut file = proof.said;
        let _ = file.seek(SeekFrom::Start(0)).and_then(|_| file.take(SAID).read_to_end(&mut said));
        let said = String::from_utf8_lossy(&said);
        let how = if proof.overdue { format!("took longer than {PROOF:?}") } else { narrate::exit(status) };
        let message = format!(
            "upgrade: {} did not prove itself ({how}); nothing changed\n{}",
            self.program.path.display(),
            said.trim_end()
        );
        self.upgrade_failed(proof.client, Code::Failed, message);
        true
    }

    fn upgrade_failed(&mut self, client: u64, code: Code, message: String) {
        if self.is_own(CommandId(client)) {
            tracing::error!("{message}");
        } else {
            self.reply(client, &Reply::Error { code, message, report: None }, true);
            self.flush_clients();
        }
    }
}
