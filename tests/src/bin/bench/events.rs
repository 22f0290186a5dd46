//! What the apps say about themselves: when they were executed and when they were ready.

use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// One app's word.
#[derive(Clone, Debug)]
struct Event {
    ready: bool,
    pid: i32,
    at: Duration,
}

/// Everything that was said since it was last forgotten.
#[derive(Clone, Debug)]
pub(crate) struct Events {
    path: PathBuf,
    shared: Arc<(Mutex<Vec<Event>>, Condvar)>,
}

impl Events {
    /// Listens in `folder`.
    ///
    /// # Errors
    /// When the socket cannot be made.
    pub(crate) fn listen(folder: &Path) -> Result<Self> {
        let path = folder.join("events.sock");
        let socket = UnixDatagram::bind(&path)?;
        let shared: Arc<(Mutex<Vec<Event>>, Condvar)> = Arc::default();
        let filled = Arc::clone(&shared);
        thread::spawn(move || {
            let mut buffer = [0; 128];
            while let Ok(read) = socket.recv(&mut buffer) {
                let text = String::from_utf8_lossy(&buffer[..read]).into_owned();
                let words: Vec<&str> = text.split(' ').collect();
                let [what, pid, nanos] = words[..] else { continue };
                let (Ok(pid), Ok(nanos)) = (pid.parse(), nanos.parse()) else { continue };
                let at = Duration::from_nanos(nanos);
                let event = Event { ready: what == "ready", pid, at };
                filled.0.lock().unwrap_or_else(PoisonError::into_inner).push(event);
                filled.1.notify_all();
            }
        });
        Ok(Self { path, shared })
    }

    /// Where the apps are to speak.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Forgets everything so far; what is on its way may still come.
    pub(crate) fn forget(&self) {
        self.shared.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Waits for the first app that was executed after `since`; when that was.
    ///
    /// # Errors
    /// When none is, for half a minute.
    pub(crate) fn executed(&self, since: Duration) -> Result<Duration> {
        self.until(|events| events.iter().find(|event| !event.ready && event.at > since).map(|event| event.at))
    }

    /// Waits until `count` apps that were executed after `since` were ready; the sum of their own boot times.
    ///
    /// # Errors
    /// When they are not, for half a minute.
    pub(crate) fn booted(&self, since: Duration, count: usize) -> Result<Duration> {
        self.until(|events| {
            let begun =
                |ready: &Event| events.iter().find(|event| !event.ready && event.pid == ready.pid && event.at > since);
            let ready = events.iter().filter(|event| event.ready);
            let own: Vec<Duration> = ready.filter_map(|ready| ready.at.checked_sub(begun(ready)?.at)).collect();
            (own.len() >= count).then(|| own.iter().sum())
        })
    }

    fn until<T>(&self, found: impl Fn(&[Event]) -> Option<T>) -> Result<T> {
        let end = Instant::now() + Duration::from_secs(30);
        let mut events = self.shared.0.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(found) = found(&events) {
                return Ok(found);
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                bail!("the apps do not say what was expected: {events:?}");
            }
            events = self.shared.1.wait_timeout(events, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}
