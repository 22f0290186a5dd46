//! Clients that keep asking, and count what they get. A failure is what [`crate::load`] calls one.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::http::{Address, Broken, ask};

/// Clients at work; dropping them ends them.
#[derive(Debug)]
pub struct Clients {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    tally: Mutex<Tally>,
    more: Condvar,
}

/// What the clients got so far.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Good answers.
    pub answers: u64,
    /// Good answers by their text.
    pub texts: BTreeMap<String, u64>,
    /// The longest time from the request (where it needed a connection: from connecting) to its good answer.
    pub slowest: Duration,
    /// Everything else.
    pub failures: Vec<String>,
}

impl Clients {
    /// `kept` clients with keep-alive and as many that make a new connection for each request. Each pauses for `pause`
    /// behind an answer.
    #[must_use]
    pub fn start(address: &Address, kept: usize, fresh: usize, pause: Duration) -> Self {
        let shared = Arc::new(Shared::default());
        let client = |keep: bool| {
            let (shared, address) = (Arc::clone(&shared), address.clone());
            thread::spawn(move || shared.run(&address, keep, pause))
        };
        let threads = (0..kept).map(|_| client(true)).chain((0..fresh).map(|_| client(false))).collect();
        Self { shared, threads }
    }

    /// Waits for `count` more answers, so that clients have met whatever was done before.
    ///
    /// # Errors
    /// When a request has failed, or when answers do not come.
    pub fn more(&self, count: u64) -> Result<Tally> {
        let patience = Instant::now() + Duration::from_secs(30);
        let mut tally = self.shared.tally();
        let wanted = tally.answers + count;
        loop {
            if let Some(failure) = tally.failures.first() {
                bail!("{} requests failed, first {failure}", tally.failures.len());
            }
            if tally.answers >= wanted {
                return Ok(tally.clone());
            }
            let left = patience.saturating_duration_since(Instant::now());
            if left.is_zero() {
                bail!("the clients get no answers any more");
            }
            tally = self.shared.more.wait_timeout(tally, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// What they got so far.
    #[must_use]
    pub fn tally(&self) -> Tally {
        self.shared.tally().clone()
    }

    /// Ends them; what they got.
    #[must_use]
    pub fn finish(mut self) -> Tally {
        self.end();
        self.tally()
    }

    fn end(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
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

impl Shared {
    fn tally(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self, address: &Address, keep: bool, pause: Duration) {
        let mut connection: Option<Box<dyn crate::http::Stream>> = None;
        while !self.stop.load(Ordering::Relaxed) {
            let begun = Instant::now();
            let mut outcome = match connection.take() {
                // A server may close an idle connection; the request that meets this has a second chance, on a new one.
                Some(mut stream) => match ask(&mut *stream, "/", !keep) {
                    Err(Broken::BeforeAnswer(_)) => fresh(address, keep),
                    other => other.map(|answer| (answer, stream)).map_err(|broken| broken.to_string()),
                },
                None => fresh(address, keep),
            };
            if let Ok((answer, _)) = &outcome
                && answer.status != 200
            {
                outcome = Err(format!("status {}", answer.status));
            }
            let mut tally = self.tally();
            match outcome {
                Ok((answer, stream)) => {
                    tally.answers += 1;
                    tally.slowest = tally.slowest.max(begun.elapsed());
                    let text = answer.body.trim();
                    match tally.texts.get_mut(text) {
                        Some(count) => *count += 1,
                        None => drop(tally.texts.insert(text.to_owned(), 1)),
                    }
                    connection = (keep && !answer.close).then_some(stream);
                }
                Err(failure) => {
                    let kind = if keep { "keep-alive" } else { "new connection" };
                    tally.failures.push(format!("({kind}): {failure}"));
                }
            }
            drop(tally);
            self.more.notify_all();
            // The demo's clients play visitors, who pause between two pages, so that the load leaves the machine to what is shown.
            // Nothing is waited for: every answer was counted above.
            thread::sleep(pause);
        }
    }
}

type Got = (crate::http::Answer, Box<dyn crate::http::Stream>);

fn fresh(address: &Address, keep: bool) -> Result<Got, String> {
    let mut stream = address.connect().map_err(|error| format!("connecting: {error}"))?;
    ask(&mut *stream, "/", !keep).map(|answer| (answer, stream)).map_err(|broken| broken.to_string())
}
