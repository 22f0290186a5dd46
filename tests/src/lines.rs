//! Text that grows while a test runs: a log, the event trace.

use std::io::{BufRead, BufReader, Read};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::Instant;

/// Entries in their order of arrival, and whether more can come.
#[derive(Debug, Default)]
pub struct Lines {
    inner: Mutex<Inner>,
    grown: Condvar,
}

#[derive(Debug, Default)]
struct Inner {
    entries: Vec<String>,
    closed: bool,
}

/// Why a wait was in vain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vain {
    /// Nothing more will come.
    Closed,
    /// The deadline passed.
    TimedOut,
}

impl Lines {
    /// Collects the lines of `source` in a thread, until its end.
    pub fn read(source: impl Read + Send + 'static) -> Arc<Self> {
        let lines = Arc::new(Self::default());
        let filled = Arc::clone(&lines);
        thread::spawn(move || {
            let mut source = BufReader::new(source);
            let mut line = Vec::new();
            while matches!(source.read_until(b'\n', &mut line), Ok(read) if read > 0) {
                filled.push(String::from_utf8_lossy(&line).trim_end_matches('\n').to_owned());
                line.clear();
            }
            filled.close();
        });
        lines
    }

    /// Appends one entry.
    pub fn push(&self, entry: String) {
        self.lock().entries.push(entry);
        self.grown.notify_all();
    }

    /// No more entries will come.
    pub fn close(&self) {
        self.lock().closed = true;
        self.grown.notify_all();
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.lock().entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All entries so far.
    pub fn all(&self) -> Vec<String> {
        self.lock().entries.clone()
    }

    /// All entries so far, as one text.
    pub fn text(&self) -> String {
        self.all().join("\n")
    }

    /// Waits for an entry at or behind position `from` that `wanted` accepts; its position and text.
    ///
    /// # Errors
    /// [`Vain`] when there will be none, or not in time.
    pub fn wait(
        &self,
        from: usize,
        deadline: Instant,
        mut wanted: impl FnMut(&str) -> bool,
    ) -> Result<(usize, String), Vain> {
        let mut inner = self.lock();
        let mut next = from;
        loop {
            while let Some(entry) = inner.entries.get(next) {
                if wanted(entry) {
                    return Ok((next, entry.clone()));
                }
                next += 1;
            }
            if inner.closed {
                return Err(Vain::Closed);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Vain::TimedOut);
            }
            inner = self.grown.wait_timeout(inner, left).expect("no panics under this lock").0;
        }
    }

    /// Waits until nothing more will come.
    ///
    /// # Errors
    /// [`Vain::TimedOut`].
    pub fn wait_closed(&self, deadline: Instant) -> Result<(), Vain> {
        match self.wait(usize::MAX, deadline, |_| false) {
            Err(Vain::TimedOut) => Err(Vain::TimedOut),
            _ => Ok(()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("no panics under this lock")
    }
}
