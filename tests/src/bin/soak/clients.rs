//! Clients that keep asking, and know which of their connections an app held that was killed by SIGKILL.
//!
//! A failure is what [`tests::load`] calls one, and an answer that no release of this soak gives. Before an app is killed it is
//! stopped, and the clients' ends of its connections are looked up: what breaks on one of these is counted apart, and
//! nothing else is.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use tests::http::{Address, Answer, Broken, ask};
use tests::process;

use crate::sys;

/// Behind each answer: a kept connection is idle then, and the machine is left to what is tried.
const REST: Duration = Duration::from_millis(1);
/// An answer that is later is a failure.
const PATIENCE: Duration = Duration::from_secs(30);

/// Clients at work; dropping them ends them.
#[derive(Debug, Default)]
pub(crate) struct Clients {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    stopped: Mutex<()>,
    rest: Condvar,
    tally: Mutex<Tally>,
    more: Condvar,
    /// The clients' ports of the connections that killed apps held.
    doomed: Mutex<BTreeSet<u16>>,
    /// The number of the last release.
    releases: AtomicU64,
}

/// What the clients got so far.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    /// Good answers.
    pub(crate) answers: u64,
    /// Requests that a killed app held.
    pub(crate) held: u64,
    /// Kept connections that had been closed while they were idle; the request was asked again.
    pub(crate) again: u64,
    /// The longest time from connecting to the good answer.
    pub(crate) slowest: Duration,
    /// The same since the last [`Clients::forget`].
    recently: Duration,
    /// Everything else.
    pub(crate) failures: Vec<String>,
}

impl Clients {
    /// `kept` clients with keep-alive and as many that make a new connection for each request.
    pub(crate) fn start(address: SocketAddr, kept: usize) -> Self {
        let shared = Arc::<Shared>::default();
        let client = |keep: bool| {
            let shared = Arc::clone(&shared);
            thread::spawn(move || shared.run(address, keep))
        };
        let threads = (0..kept).flat_map(|_| [client(true), client(false)]).collect();
        Self { shared, threads }
    }

    /// Releases up to this number may answer.
    pub(crate) fn expect(&self, releases: u64) {
        self.shared.releases.store(releases, Ordering::SeqCst);
    }

    /// Waits for `count` more answers, so that clients have met whatever was done before.
    ///
    /// # Errors
    /// When a request has failed, or when answers do not come.
    pub(crate) fn more(&self, count: u64) -> Result<()> {
        let end = Instant::now() + PATIENCE;
        let mut tally = locked(&self.shared.tally);
        let wanted = tally.answers + count;
        loop {
            if let Some(failure) = tally.failures.first() {
                bail!("{} requests failed, first {failure}", tally.failures.len());
            }
            if tally.answers >= wanted {
                return Ok(());
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                bail!("the clients get no answers any more");
            }
            tally = self.shared.more.wait_timeout(tally, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Kills an app by SIGKILL. What it holds is counted apart until [`Self::forget`].
    ///
    /// # Errors
    /// When it does not stop.
    pub(crate) fn kill(&self, app: i32) -> Result<()> {
        process::signal(app, nix::sys::signal::Signal::SIGSTOP);
        let end = Instant::now() + PATIENCE;
        // It takes on nothing more from here on; it may have gone by itself.
        while process::look(app).is_some_and(|process| !matches!(process.state, 'T' | 'Z')) {
            if Instant::now() > end {
                bail!("process {app} cannot be stopped");
            }
            thread::yield_now();
        }
        locked(&self.shared.doomed).extend(peers(app));
        process::signal(app, nix::sys::signal::Signal::SIGKILL);
        Ok(())
    }

    /// The clients have met what was done. The longest time that an answer has taken since this was said before.
    pub(crate) fn forget(&self) -> Duration {
        locked(&self.shared.doomed).clear();
        std::mem::take(&mut locked(&self.shared.tally).recently)
    }

    /// What they got so far.
    pub(crate) fn tally(&self) -> Tally {
        locked(&self.shared.tally).clone()
    }

    /// Ends them; what they got.
    pub(crate) fn finish(mut self) -> Tally {
        self.end();
        self.tally()
    }

    fn end(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.shared.rest.notify_all();
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        self.end();
    }
}

/// The peers' ports of the connections that a process holds.
fn peers(pid: i32) -> Vec<u16> {
    let sockets: Vec<_> =
        process::descriptors(pid).into_iter().filter(|(_, what)| what.starts_with("socket:")).collect();
    let Ok(pidfd) = tests::sys::pidfd(pid) else { return Vec::new() };
    let mut ports = Vec::new();
    for (number, _) in &sockets {
        match sys::of_process(&pidfd, *number) {
            // A listener has no peer.
            Ok(socket) => ports.extend(socket.peer_addr().map(|peer| peer.port())),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return peers_in_table(pid, &sockets),
            Err(_) => {}
        }
    }
    ports
}

/// The same as the kernel's table has it, which takes long to read when many connections have just ended.
fn peers_in_table(pid: i32, sockets: &[(i32, String)]) -> Vec<u16> {
    let table = fs::read_to_string(format!("/proc/{pid}/net/tcp")).unwrap_or_default();
    let peer = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (peer, socket) = (words.get(2)?, format!("socket:[{}]", words.get(9)?));
        let held = sockets.iter().any(|(_, what)| *what == socket);
        held.then(|| u16::from_str_radix(peer.split(':').nth(1)?, 16).ok())?
    };
    table.lines().filter_map(peer).filter(|port| *port != 0).collect()
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    fn run(&self, address: SocketAddr, keep: bool) {
        let mut kept: Option<TcpStream> = None;
        while !self.stop.load(Ordering::SeqCst) {
            let begun = Instant::now();
            let outcome = match kept.take() {
                // A server may close an idle connection; the request that meets this has a second chance, on a new one.
                Some(mut stream) => match ask(&mut stream, "/", !keep) {
                    Ok(answer) => Ok((answer, stream)),
                    Err(Broken::BeforeAnswer(_)) => {
                        locked(&self.tally).again += 1;
                        self.fresh(address, keep)
                    }
                    Err(broken) => Err(self.told(&stream, &broken)),
                },
                None => self.fresh(address, keep),
            };
            let outcome = outcome.and_then(|(answer, stream)| match self.wrong(&answer) {
                Some(wrong) => Err(Some(wrong)),
                None => Ok((answer, stream)),
            });
            let mut tally = locked(&self.tally);
            match outcome {
                Ok((answer, stream)) => {
                    tally.answers += 1;
                    tally.recently = tally.recently.max(begun.elapsed());
                    tally.slowest = tally.slowest.max(begun.elapsed());
                    kept = (keep && !answer.close).then_some(stream);
                }
                Err(None) => tally.held += 1,
                Err(Some(failure)) => {
                    let kind = if keep { "keep-alive" } else { "new connection" };
                    tally.failures.push(format!("({kind}, after {} ms): {failure}", begun.elapsed().as_millis()));
                }
            }
            drop(tally);
            self.more.notify_all();
            let rest = locked(&self.stopped);
            drop(self.rest.wait_timeout(rest, REST));
        }
    }

    fn fresh(&self, address: SocketAddr, keep: bool) -> Result<(Answer, TcpStream), Option<String>> {
        let connected = || -> io::Result<TcpStream> {
            let stream = TcpStream::connect(address)?;
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.set_write_timeout(Some(PATIENCE))?;
            Ok(stream)
        };
        let mut stream = connected().map_err(|error| Some(format!("connecting: {error}")))?;
        match ask(&mut stream, "/", !keep) {
            Ok(answer) => Ok((answer, stream)),
            Err(broken) => Err(self.told(&stream, &broken)),
        }
    }

    /// What is to be said about a broken connection; `None`: a killed app held it.
    fn told(&self, stream: &TcpStream, broken: &Broken) -> Option<String> {
        let port = stream.local_addr().map_or(0, |address| address.port());
        (!locked(&self.doomed).contains(&port)).then(|| broken.to_string())
    }

    /// What is wrong with an answer.
    fn wrong(&self, answer: &Answer) -> Option<String> {
        let number = answer.body.strip_prefix("good-").and_then(|rest| rest.strip_suffix('\n')?.parse::<u64>().ok());
        let known = number.is_some_and(|number| number <= self.releases.load(Ordering::SeqCst));
        (answer.status != 200 || !known).then(|| format!("status {}: {:?}", answer.status, answer.body))
    }
}

/// The socket address of a TCP listener.
///
/// # Errors
/// When it is none.
pub(crate) fn tcp(address: &str) -> Result<SocketAddr> {
    match address.parse()? {
        Address::Tcp(address) => Ok(address),
        Address::Unix(path) => bail!("{} is no TCP listener", path.display()),
    }
}
