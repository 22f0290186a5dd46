//! What a service manager is told: systemd by sd_notify(3) on `$NOTIFY_SOCKET`, s6 and others by a newline on a file
//! descriptor (`--notify-fd`).
//!
//! READY=1 when the first start is over, RELOADING=1 while a rollout runs and READY=1 when it has ended, STOPPING=1 from
//! a stop on, and STATUS= in the words of `ctl status`. Where `$WATCHDOG_USEC` asks for it, WATCHDOG=1 twice as often as
//! needed, but only while enough workers are ready: a master that serves nobody is to be restarted. Without it no timer
//! exists. A manager that cannot be told is no reason to stop serving: it is said once.

use std::ffi::OsStr;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use rollout::{Rollout, State};
use sd_notify::NotifyState;

use crate::release::Releases;

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
        Self { socket, deaf: false, ready_fd, watchdog, told: None }
    }

    /// How often [`Self::feed`] is to be called; `None`: never.
    pub(crate) fn interval(&self) -> Option<Duration> {
        self.watchdog.map(|every| every / 2)
    }

    /// Tells what has changed, if anything has.
    pub(crate) fn tell(&mut self, mind: &Rollout, releases: &Releases) {
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
                    words.push(NotifyState::Reloading);
                    words.extend(NotifyState::monotonic_usec_now());
                }
                Phase::Stopping => words.push(NotifyState::Stopping),
            }
        }
        self.send(&words);
        if now.0 == Phase::Running
            && let Some(fd) = self.ready_fd.take()
        {
            // Closed behind it, as s6 wants it.
            let _ = std::fs::File::from(fd).write_all(b"\n");
        }
        self.told = Some(now);
    }

    /// The watchdog's food, while enough workers are ready.
    pub(crate) fn feed(&mut self, mind: &Rollout) {
        if mind.is_serving() {
            self.send(&[NotifyState::Watchdog]);
        }
    }

    fn send(&mut self, words: &[NotifyState<'_>]) {
        let Some(socket) = &self.socket else { return };
        let text: String = words.iter().map(|word| format!("{word}\n")).collect();
        let sent = socket.send(text.as_bytes());
        let deaf = sent.is_err();
        if let Err(error) = sent
            && !self.deaf
        {
            tracing::warn!("the service manager cannot be told: {error} ($NOTIFY_SOCKET)");
        }
        self.deaf = deaf;
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
