//! Real clients that keep asking while a test does its worst, and that demand zero failures.
//!
//! A refused or reset connection, a short answer, a status other than 200 and an answer that does not come are failures.
//! One thing is not: a server may close a keep-alive connection that is idle, and a request that met that close, before
//! any byte of an answer on a *reused* connection, is asked again once on a new connection (RFC 9112, section 9.3.1).

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::http::{Address, Broken, ask};

/// Clients at work.
#[derive(Debug)]
pub struct Load {
    shared: Arc<Shared>,
    clients: Vec<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    stop: Mutex<bool>,
    stopped: Condvar,
    rest: Duration,
    tally: Mutex<Tally>,
    more: Condvar,
}

/// What the clients met.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Good answers.
    pub answers: u64,
    /// Good answers by the release that gave them.
    pub releases: BTreeMap<String, u64>,
    /// Everything else.
    pub failures: Vec<String>,
}

impl Load {
    /// Two clients with keep-alive and two with a new connection for each request. Each rests a little between two
    /// requests: its kept connection is idle then, and the machine is left to the test.
    #[must_use]
    pub fn start(address: &Address) -> Self {
        Self::with(address, 2, 2, Duration::from_millis(1))
    }

    /// The same, but they rest so long that what else runs on the machine hardly notices them: for a test in which other
    /// programs have much to do.
    #[must_use]
    pub fn light(address: &Address) -> Self {
        Self::with(address, 2, 2, Duration::from_millis(50))
    }

    /// `kept` clients with keep-alive and `fresh` ones with a new connection for each request, as fast as they can.
    #[must_use]
    pub fn full_speed(address: &Address, kept: usize, fresh: usize) -> Self {
        Self::with(address, kept, fresh, Duration::ZERO)
    }

    fn with(address: &Address, kept: usize, fresh: usize, rest: Duration) -> Self {
        let shared = Arc::new(Shared { rest, ..Shared::default() });
        let client = |keep: bool| {
            let (shared, address) = (Arc::clone(&shared), address.clone());
            thread::spawn(move || shared.run(&address, keep))
        };
        let clients = (0..kept).map(|_| client(true)).chain((0..fresh).map(|_| client(false))).collect();
        Self { shared, clients }
    }

    /// Waits for `count` more good answers: whatever the test did before has met the clients.
    ///
    /// # Panics
    /// When they do not come, or when there are failures.
    pub fn more(&self, count: u64) {
        let deadline = Instant::now() + Duration::from_secs(30);
        let mut tally = self.shared.tally.lock().expect("no panics under this lock");
        let wanted = tally.answers + count;
        while tally.answers < wanted {
            assert!(tally.failures.is_empty(), "{} requests failed: {:#?}", tally.failures.len(), tally.failures);
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "the clients get no answers any more: {tally:?}");
            tally = self.shared.more.wait_timeout(tally, left).expect("no panics under this lock").0;
        }
    }

    /// Waits until `release` has answered.
    ///
    /// # Panics
    /// When it does not, or when there are failures.
    pub fn until(&self, release: &str) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while !self.tally().releases.contains_key(release) {
            assert!(Instant::now() < deadline, "{release} never answers: {:?}", self.tally());
            self.more(1);
        }
    }

    /// What the clients met so far.
    #[must_use]
    pub fn tally(&self) -> Tally {
        self.shared.tally.lock().expect("no panics under this lock").clone()
    }

    /// Ends the clients and demands that nothing failed and something was answered.
    ///
    /// # Panics
    /// Otherwise.
    pub fn finish(mut self) -> Tally {
        self.end();
        let tally = self.tally();
        assert!(tally.failures.is_empty(), "{} requests failed: {:#?}", tally.failures.len(), tally.failures);
        assert!(tally.answers > 0, "the clients had nothing to do");
        tally
    }

    fn end(&mut self) {
        *self.shared.stop.lock().expect("no panics under this lock") = true;
        self.shared.stopped.notify_all();
        for client in self.clients.drain(..) {
            let _ = client.join();
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.end();
    }
}

impl Shared {
    fn run(&self, address: &Address, keep: bool) {
        let mut connection = None;
        while !self.rested_and_stopped() {
            let (mut stream, reused) = match connection.take() {
                Some(stream) => (stream, true),
                None => match address.connect() {
                    Ok(stream) => (stream, false),
                    Err(error) => {
                        self.failed(format!("connecting to {address}: {error}"));
                        return;
                    }
                },
            };
            match ask(&mut *stream, "/", !keep) {
                Ok(answer) if answer.status == 200 => {
                    if keep && !answer.close {
                        connection = Some(stream);
                    }
                    self.answered(&answer.body);
                }
                Ok(answer) => return self.failed(format!("{} {}", answer.status, answer.body)),
                // The next round asks again, on a new connection, and has no second chance.
                Err(Broken::BeforeAnswer(_)) if reused => {}
                Err(broken) => {
                    let kind = if keep { "keep-alive" } else { "new connection" };
                    let again = if reused { ", reused" } else { "" };
                    return self.failed(format!("{kind}{again}: {broken}"));
                }
            }
        }
    }

    /// Rests; true when the test wants no more.
    fn rested_and_stopped(&self) -> bool {
        let stop = self.stop.lock().expect("no panics under this lock");
        *self.stopped.wait_timeout_while(stop, self.rest, |stop| !*stop).expect("no panics under this lock").0
    }

    fn answered(&self, body: &str) {
        let release = body.strip_prefix("release=").and_then(|rest| rest.split(' ').next()).unwrap_or(body);
        let mut tally = self.tally.lock().expect("no panics under this lock");
        tally.answers += 1;
        *tally.releases.entry(release.to_owned()).or_default() += 1;
        drop(tally);
        self.more.notify_all();
    }

    fn failed(&self, failure: String) {
        self.tally.lock().expect("no panics under this lock").failures.push(failure);
        self.more.notify_all();
    }
}
