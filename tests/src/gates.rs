//! Where the apps of a site meet its test: who is alive, and who waits at which gate.
//!
//! Every fixture process holds a connection as long as it lives, so that its end is seen however it comes, and makes a
//! further one for each gate at which it waits (`src/bin/fixture/presence.rs`).

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::Instant;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// A fixture process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct App {
    /// Its pid.
    pub pid: i32,
    /// Its slot, as it was told.
    pub slot: String,
    /// Its phase, as it was told.
    pub phase: String,
    /// The release that it found itself in.
    pub release: String,
}

impl App {
    fn parse(words: &mut std::str::SplitWhitespace<'_>) -> Option<Self> {
        let pid = words.next()?.parse().ok()?;
        let mut word = || words.next().map(str::to_owned);
        Some(Self { pid, slot: word()?, phase: word()?, release: word()? })
    }
}

/// One line of `apps.log`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// `start`, `rehearsal`, `serving`, `term`, `exit` or `hook:NAME`.
    pub what: String,
    /// Who wrote it.
    pub app: App,
}

/// All of `apps.log`, in order.
#[must_use]
pub fn history(root: &Path) -> Vec<Entry> {
    let text = std::fs::read_to_string(root.join("apps.log")).unwrap_or_default();
    text.lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            Some(Entry { what: words.next()?.to_owned(), app: App::parse(&mut words)? })
        })
        .collect()
}

/// Somebody at a gate. Dropping it leaves them there.
#[derive(Debug)]
pub struct Waiting {
    /// Who.
    pub app: App,
    stream: Arc<UnixStream>,
}

impl Waiting {
    /// Lets this one pass.
    pub fn open(self) {
        let _ = (&*self.stream).write_all(b"x");
    }
}

/// The test's side of all connections.
#[derive(Debug)]
pub struct Gates {
    shared: Arc<Shared>,
    end: UnixStream,
    thread: Option<thread::JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    alive: Vec<App>,
    /// The most that lived at the same time since the last reset.
    most: usize,
    waiting: Vec<(String, App, Arc<UnixStream>)>,
    open: BTreeSet<String>,
}

impl Gates {
    /// Listens at `gates.sock` in the site's folder.
    ///
    /// # Panics
    /// When it cannot.
    #[must_use]
    pub fn listen(root: &Path) -> Self {
        let listener = UnixListener::bind(root.join("gates.sock")).expect("gates.sock");
        let (end, ended) = UnixStream::pair().expect("a pair of sockets");
        let shared = Arc::new(Shared::default());
        let served = Arc::clone(&shared);
        let thread = thread::spawn(move || served.run(&listener, &ended));
        Self { shared, end, thread: Some(thread) }
    }

    /// Waits until somebody stands at the gate `name`, and takes them.
    ///
    /// # Errors
    /// When nobody comes before the deadline.
    pub fn arrival(&self, name: &str, deadline: Instant) -> Result<Waiting, String> {
        let mut found: Option<Waiting> = None;
        self.shared.wait(deadline, |state| {
            let at = state.waiting.iter().position(|(gate, ..)| gate == name)?;
            let (_, app, stream) = state.waiting.remove(at);
            found = Some(Waiting { app, stream });
            Some(())
        })?;
        found.ok_or_else(|| format!("nobody at the gate {name}"))
    }

    /// Who stands at the gate `name` now, without taking them.
    #[must_use]
    pub fn at(&self, name: &str) -> Vec<App> {
        let state = self.shared.lock();
        state.waiting.iter().filter(|(gate, ..)| gate == name).map(|(_, app, _)| app.clone()).collect()
    }

    /// Lets everybody pass who stands at the gate or comes later.
    pub fn open(&self, name: &str) {
        let mut state = self.shared.lock();
        state.open.insert(name.to_owned());
        state.waiting.retain(|(gate, _, stream)| {
            let pass = gate == name;
            if pass {
                let _ = (&**stream).write_all(b"x");
            }
            !pass
        });
    }

    /// From now on the gate holds those who come.
    pub fn close(&self, name: &str) {
        self.shared.lock().open.remove(name);
    }

    /// The apps that live now.
    #[must_use]
    pub fn alive(&self) -> Vec<App> {
        self.shared.lock().alive.clone()
    }

    /// The most apps that lived at the same time since the last [`Self::reset_most`].
    #[must_use]
    pub fn most(&self) -> usize {
        self.shared.lock().most
    }

    /// Begins to count anew.
    pub fn reset_most(&self) {
        let mut state = self.shared.lock();
        state.most = state.alive.len();
    }

    /// Waits until what lives is as `wanted` says.
    ///
    /// # Errors
    /// What lives, when the deadline passes first.
    pub fn until(&self, deadline: Instant, mut wanted: impl FnMut(&[App]) -> bool) -> Result<Vec<App>, String> {
        let mut seen = Vec::new();
        self.shared.wait(deadline, |state| {
            seen.clone_from(&state.alive);
            wanted(&state.alive).then_some(())
        })?;
        Ok(seen)
    }
}

impl Drop for Gates {
    fn drop(&mut self) {
        let _ = self.end.write_all(b"x");
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// One connection of a fixture.
struct Peer {
    stream: Arc<UnixStream>,
    line: Vec<u8>,
    app: Option<App>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panics under this lock")
    }

    fn wait(&self, deadline: Instant, mut done: impl FnMut(&mut State) -> Option<()>) -> Result<(), String> {
        let mut state = self.lock();
        loop {
            if done(&mut state).is_some() {
                return Ok(());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let waiting: Vec<_> = state.waiting.iter().map(|(gate, app, _)| (gate, app)).collect();
                return Err(format!("alive: {:#?}\nat gates: {waiting:#?}", state.alive));
            }
            state = self.changed.wait_timeout(state, left).expect("no panics under this lock").0;
        }
    }

    fn run(&self, listener: &UnixListener, ended: &UnixStream) {
        let mut peers: Vec<Peer> = Vec::new();
        loop {
            // The listener stands before the connections: a process that is there at this look can only have been
            // started by the end of another if that end is seen at this look, too.
            let mut fds =
                vec![PollFd::new(ended.as_fd(), PollFlags::POLLIN), PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
            fds.extend(peers.iter().map(|peer| PollFd::new(peer.stream.as_fd(), PollFlags::POLLIN)));
            if poll(&mut fds, PollTimeout::NONE).is_err() {
                continue;
            }
            let ready: Vec<bool> = fds.iter().map(|fd| fd.revents().is_some_and(|events| !events.is_empty())).collect();
            drop(fds);
            if ready[0] {
                return;
            }
            let mut ready_peers = ready[2..].iter();
            peers.retain_mut(|peer| !ready_peers.next().copied().unwrap_or(false) || self.hear(peer));
            if ready[1]
                && let Ok((stream, _)) = listener.accept()
            {
                peers.push(Peer { stream: Arc::new(stream), line: Vec::new(), app: None });
            }
        }
    }

    /// Reads what a peer says; `false` when it is gone.
    fn hear(&self, peer: &mut Peer) -> bool {
        let mut chunk = [0; 512];
        let read = (&*peer.stream).read(&mut chunk).unwrap_or(0);
        let mut state = self.lock();
        if read == 0 {
            if let Some(app) = &peer.app {
                state.alive.retain(|other| other.pid != app.pid);
            }
            state.waiting.retain(|(_, _, stream)| !Arc::ptr_eq(stream, &peer.stream));
        }
        peer.line.extend_from_slice(&chunk[..read]);
        if let Some(end) = peer.line.iter().position(|byte| *byte == b'\n') {
            let line = String::from_utf8_lossy(&peer.line[..end]).into_owned();
            peer.line.clear();
            let mut words = line.split_whitespace();
            let (kind, gate) = (words.next().unwrap_or(""), words.next().unwrap_or("").to_owned());
            match (kind, App::parse(&mut words)) {
                ("app", Some(app)) => {
                    state.alive.push(app.clone());
                    state.most = state.most.max(state.alive.len());
                    peer.app = Some(app);
                }
                ("gate", Some(_)) if state.open.contains(&gate) => {
                    let _ = (&*peer.stream).write_all(b"x");
                }
                ("gate", Some(app)) => state.waiting.push((gate, app, Arc::clone(&peer.stream))),
                _ => {}
            }
        }
        drop(state);
        self.changed.notify_all();
        read > 0
    }
}
