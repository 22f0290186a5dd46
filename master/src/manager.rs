//! What a service manager is told: systemd by sd_notify(3) on `$NOTIFY_SOCKET`, s6 and others by a newline on a file
//! descriptor (`--notify-fd`).
//!
//! READY=1 when the first start is over, RELOADING=1 while a rollout runs and READY=1 when it has ended, STOPPING=1 from
//! a stop on, and STATUS= in the words of `ctl status`. Where `$WATCHDOG_USEC` asks for it, WATCHDOG=1 twice as often as
//! needed, but only while enough workers are ready: a master that serves nobody is to be restarted. Without it no timer
//! exists. A manager that cannot be told is no reason to stop serving: it is said once.
//!
//! From the first start's end to a stop, systemd also keeps a copy of each listening socket that is ours
//! (`FileDescriptorStoreMax=`): should master and workers die at once, clients wait for the next start instead of being
//! refused. That gets them back among the sockets of `LISTEN_FDS`. Who keeps none does not mind.

use std::ffi::OsStr;
use std::io::{self, IoSlice, Write};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use anyhow::Result;
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use rollout::{Rollout, State};
use sd_notify::NotifyState;

use crate::adoption::inode;
use crate::child;
use crate::listener::Listener;
use crate::release::Releases;

/// What the name of a parked socket begins with. No socket unit's own name does: it has no slash.
const PARKED: &str = "phased/";

/// The service manager, if there is one.
#[derive(Debug, Default)]
pub(crate) struct Manager {
    /// Leads to `$NOTIFY_SOCKET`.
    socket: Option<UnixDatagram>,
    /// The last message could not be sent, which has been said.
    deaf: bool,
    /// Where one newline says that the first start is over.
    ready_fd: Option<OwnedFd>,
    watchdog: Option<Duration>,
    told: Option<(Phase, String)>,
    /// What it keeps: names, and which socket it is.
    parked: Vec<(String, Option<(u64, u64)>)>,
}

/// Sockets with their names.
pub(crate) type Named<A, B> = Vec<(A, B)>;

/// Sorts what a manager has passed: sockets of its own, and those that an earlier master has parked.
///
/// # Errors
/// When no fd is left.
pub(crate) fn sort(passed: Named<OwnedFd, String>) -> Result<(Named<OwnedFd, String>, Named<String, OwnedFd>)> {
    let (parked, own): (Vec<_>, Vec<_>) = passed.into_iter().partition(|(_, name)| name.starts_with(PARKED));
    let unwrap = |(fd, name): (OwnedFd, String)| Ok((name.replacen(PARKED, "", 1), child::move_up(fd)?));
    Ok((own, parked.into_iter().map(unwrap).collect::<Result<_>>()?))
}

/// What it knows of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Starting,
    Running,
    Reloading,
    Stopping,
}

impl Manager {
    /// What this process's environment says of one.
    pub(crate) fn new(ready_fd: Option<OwnedFd>) -> Self {
        let name = std::env::var_os("NOTIFY_SOCKET").filter(|name| !name.is_empty());
        let socket = name.and_then(|name| match open(&name) {
            Ok(socket) => Some(socket),
            Err(error) => {
                tracing::warn!("the service manager cannot be told: $NOTIFY_SOCKET, {}: {error}", name.display());
                None
            }
        });
        let watchdog = sd_notify::watchdog_enabled().filter(|_| socket.is_some());
        Self { socket, deaf: false, ready_fd, watchdog, told: None, parked: Vec::new() }
    }

    /// How often [`Self::feed`] is to be called; `None`: never.
    pub(crate) fn interval(&self) -> Option<Duration> {
        self.watchdog.map(|every| every / 2)
    }

    /// Tells what has changed, if anything has.
    pub(crate) fn tell(&mut self, mind: &Rollout, releases: &Releases, listeners: &[Listener]) {
        if self.socket.is_none() && self.ready_fd.is_none() {
            return;
        }
        let now = (phase(mind.state()), status(mind, releases));
        let before = self.told.as_ref().map_or(Phase::Starting, |(phase, _)| *phase);
        if self.told.as_ref() == Some(&now) {
            return;
        }
        let mut words = vec![NotifyState::Status(&now.1)];
        if now.0 != before {
            match now.0 {
                Phase::Starting => {}
                Phase::Running => words.push(NotifyState::Ready),
                Phase::Reloading => {
                    // A rollout that was adopted may take longer than any start should, and its site serves.
                    if before == Phase::Starting {
                        self.send(&[NotifyState::Ready]);
                    }
                    words.push(NotifyState::Reloading);
                    words.extend(NotifyState::monotonic_usec_now());
                }
                Phase::Stopping => words.push(NotifyState::Stopping),
            }
        }
        let ours = listeners.iter().filter(|listener| !listener.is_inherited());
        match now.0 {
            // Before it is told that we are ready: from then on they are safe.
            Phase::Running => ours.for_each(|listener| self.park(listener)),
            // A stop is to leave nothing, and nobody is to wait for what does not come.
            Phase::Stopping if before != Phase::Stopping => self.unpark(ours.map(|listener| &listener.name)),
            _ => {}
        }
        self.send(&words);
        let up = matches!(now.0, Phase::Running | Phase::Reloading);
        if up && let Some(fd) = self.ready_fd.take() {
            // Closed behind it, as s6 wants it.
            let _ = std::fs::File::from(fd).write_all(b"\n");
        }
        self.told = Some(now);
    }

    /// Has it keep a socket, unless it does so already.
    fn park(&mut self, listener: &Listener) {
        let wanted = (listener.name.clone(), inode(&listener.fd));
        if self.socket.is_none() || self.parked.contains(&wanted) {
            return;
        }
        if self.parked.iter().any(|(name, _)| *name == wanted.0) {
            self.unpark([&wanted.0]);
        }
        let name = format!("FDNAME={PARKED}{}", wanted.0);
        // An app may shut the socket down, and we mend it: the manager is not to throw it away for that.
        let words = ["FDSTORE=1", &name, "FDPOLL=0"].map(NotifyState::Custom);
        if self.send_with(&words, &[listener.fd.as_raw_fd()]) {
            self.parked.push(wanted);
        }
    }

    /// Has it close what it keeps under these names, if it does.
    pub(crate) fn unpark<'a>(&mut self, names: impl IntoIterator<Item = &'a String>) {
        for name in names {
            self.parked.retain(|(parked, _)| parked != name);
            let name = format!("FDNAME={PARKED}{name}");
            self.send(&["FDSTOREREMOVE=1", &name].map(NotifyState::Custom));
        }
    }

    /// The watchdog's food, while enough workers are ready.
    pub(crate) fn feed(&mut self, mind: &Rollout) {
        if mind.is_serving() {
            self.send(&[NotifyState::Watchdog]);
        }
    }

    fn send(&mut self, words: &[NotifyState<'_>]) {
        self.send_with(words, &[]);
    }

    /// Sends words and fds in one message. True when it was taken.
    fn send_with(&mut self, words: &[NotifyState<'_>], fds: &[RawFd]) -> bool {
        let Some(socket) = &self.socket else { return false };
        let text: String = words.iter().map(|word| format!("{word}\n")).collect();
        let (text, rights) = ([IoSlice::new(text.as_bytes())], [ControlMessage::ScmRights(fds)]);
        let rights = if fds.is_empty() { &[] } else { &rights[..] };
        let sent = sendmsg::<()>(socket.as_raw_fd(), &text, rights, MsgFlags::MSG_NOSIGNAL, None);
        let deaf = sent.is_err();
        if let Err(error) = sent
            && !self.deaf
        {
            tracing::warn!("the service manager cannot be told: {} ($NOTIFY_SOCKET)", io::Error::from(error));
        }
        self.deaf = deaf;
        !deaf
    }
}

/// A socket that never waits: a manager that does not read must not keep the master from its work.
fn open(name: &OsStr) -> io::Result<UnixDatagram> {
    let address = match name.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(name)?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    socket.connect_addr(&address)?;
    Ok(socket)
}

fn phase(state: State) -> Phase {
    match state {
        State::Booting => Phase::Starting,
        State::Steady | State::Held | State::Degraded => Phase::Running,
        State::Rolling | State::Soaking | State::RollingBack => Phase::Reloading,
        State::Stopping => Phase::Stopping,
    }
}

/// "steady, 4/4 workers on /app/releases/41".
fn status(mind: &Rollout, releases: &Releases) -> String {
    let (ready, all) = (mind.booted_workers(), mind.slots().count());
    let release = match (mind.running(), mind.held()) {
        (Some(run), _) => format!("to {}", releases.shown(run.to.release)),
        (None, Some(held)) => format!("on {}, held", releases.shown(held.release)),
        (None, None) => format!("on {}", releases.shown(mind.known_good().release)),
    };
    format!("{}, {ready}/{all} workers {release}", mind.detail().unwrap_or(mind.state().as_str()))
}
