//! When an app counts as ready, and what is said while it is not.
//!
//! A [`Watch`] lives while the app boots. It says when it next wants to look, and what a look led to; the worker acts on
//! that. Nothing here waits.

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use proto::worker::{BootSpec, Evidence, Ready};

use crate::ending::FAR;
use crate::look::{Looker, Seen};
use crate::net::Address;
use crate::sys;

/// The time between two looks, at least. It grows to 2 % of the time booted so far.
const INTERVAL: Duration = Duration::from_millis(10);
/// Most apps are scripts that need longer than this to do anything.
const FIRST_LOOK: Duration = Duration::from_millis(3);
/// The time until the next look is at least this many times the CPU time that the last one took: a busy machine is to boot apps,
/// not to watch them.
const SHARE: u32 = 25;
/// The same for the kernel's tables of all connections.
const TABLE_SHARE: u32 = 100;
/// When it is time to say what the app does instead.
const HINT: Duration = Duration::from_secs(5);
/// How long the first process may be out of sight until that is a failure: a program that changes its user shows itself soon.
const OUT_OF_SIGHT: Duration = Duration::from_millis(250);
/// The same for those below it, which may be helpers of other users (sudo, ping) that the app waits for.
const HELPER_OUT_OF_SIGHT: Duration = Duration::from_secs(2);
/// The same for a process that waits in an io_uring, which may also be for a file.
const IN_RING: Duration = Duration::from_secs(1);
/// The way out of everything that cannot be seen.
const WAY_OUT: &str = "use --ready notify or --ready alive:5s";

/// What a look led to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Not yet.
    Wait,
    /// The app is ready.
    Ready(Evidence),
    /// Not yet, and a person should hear why.
    Hint(String),
    /// It never will be, and why.
    Failed(String),
}

/// Watches one app from its exec until it is ready or has failed.
pub(crate) struct Watch {
    how: Ready,
    /// When the order to boot came.
    since: Instant,
    /// When the app was executed.
    executed: Instant,
    deadline: Instant,
    next: Instant,
    next_table: Instant,
    hinted: bool,
    looker: Looker,
    denied: Trouble,
    ring: Trouble,
}

/// Something that must last to be a trouble: which process, and since when.
#[derive(Default)]
struct Trouble(Option<(i32, Instant)>);

impl Trouble {
    fn lasts(&mut self, pid: Option<i32>, now: Instant) -> Option<(i32, Duration)> {
        self.0 = match (self.0, pid) {
            (Some((old, since)), Some(pid)) if old == pid => Some((pid, since)),
            (_, pid) => pid.map(|pid| (pid, now)),
        };
        self.0.map(|(pid, since)| (pid, now - since))
    }
}

impl Watch {
    /// Begins to watch an app that has just been executed.
    pub(crate) fn new(spec: &BootSpec, listeners: &[OwnedFd], since: Instant, now: Instant) -> Self {
        let deadline = since + Duration::from_millis(spec.boot_timeout_ms).min(FAR);
        Self {
            how: spec.ready,
            since,
            executed: now,
            deadline,
            next: match spec.ready {
                Ready::Accepting => now + FIRST_LOOK,
                Ready::Alive(ms) | Ready::NotifyOrAlive(ms) => now + Duration::from_millis(ms).min(FAR),
                // Nothing to look for; its message comes.
                Ready::Notify => deadline,
            },
            next_table: now,
            hinted: false,
            looker: Looker::new(listeners),
            denied: Trouble::default(),
            ring: Trouble::default(),
        }
    }

    /// When [`Self::look`] is to be called next.
    pub(crate) fn next(&self) -> Instant {
        self.next.min(self.deadline)
    }

    /// `READY=1` has come: evidence where it was asked for.
    pub(crate) fn notified(&self) -> Verdict {
        match self.how {
            Ready::Notify | Ready::NotifyOrAlive(_) => Verdict::Ready(Evidence::Notify),
            Ready::Accepting | Ready::Alive(_) => Verdict::Wait,
        }
    }

    /// Looks whether the app is ready, when it is time to.
    pub(crate) fn look(&mut self, app: i32, spec: &BootSpec, listeners: &[OwnedFd], now: Instant) -> Verdict {
        if now < self.next() {
            return Verdict::Wait;
        }
        match self.how {
            Ready::Accepting => {}
            Ready::Alive(ms) | Ready::NotifyOrAlive(ms) => {
                let wanted = Duration::from_millis(ms);
                if now - self.executed >= wanted {
                    return Verdict::Ready(Evidence::Alive);
                }
                let timeout = self.deadline - self.since;
                return Verdict::Failed(format!(
                    "lives, but the boot timeout of {timeout:?} is not longer than alive:{wanted:?}; raise --boot-timeout"
                ));
            }
            Ready::Notify => {
                let timeout = self.deadline - self.since;
                return Verdict::Failed(format!(
                    "did not say READY=1 on NOTIFY_SOCKET within {timeout:?}; use --ready accepting or --ready alive:5s \
                     if it never does, or raise --boot-timeout"
                ));
            }
        }
        if listeners.is_empty() {
            return Verdict::Failed(format!("there is no listening socket to wait on; give --listen, or {WAY_OUT}"));
        }
        let before = sys::cpu_time();
        for listener in listeners {
            listen_again(listener, spec.backlog);
        }
        let seen = self.looker.look(app);
        if seen.waiting {
            return Verdict::Ready(Evidence::Accepting);
        }
        if self.looker.serves(&seen) {
            return Verdict::Ready(Evidence::Accepting);
        }
        let cost = sys::cpu_time().saturating_sub(before);
        if self.looker.needs_tables(&seen) && now >= self.next_table {
            let before = sys::cpu_time();
            if self.looker.serves_by_tables(&seen) {
                return Verdict::Ready(Evidence::Accepting);
            }
            // They are as long as the machine is busy.
            self.next_table = now + INTERVAL.max(sys::cpu_time().saturating_sub(before) * TABLE_SHARE);
        }
        if let Some((pid, lasted)) = self.denied.lasts(seen.denied, now)
            && lasted >= if pid == app { OUT_OF_SIGHT } else { HELPER_OUT_OF_SIGHT }
        {
            return Verdict::Failed(format!(
                "cannot observe process {pid} of the app (/proc/{pid} may not be read: no /proc, another user, a program that \
                 forbids it, or Yama); {WAY_OUT}"
            ));
        }
        if let Some((pid, lasted)) = self.ring.lasts(seen.ring, now)
            && lasted >= IN_RING
        {
            return Verdict::Failed(format!(
                "cannot observe process {pid} of the app (it waits in an io_uring, which does not say for what); {WAY_OUT}"
            ));
        }
        if now >= self.deadline {
            let timeout = self.deadline - self.since;
            return Verdict::Failed(format!(
                "not ready within {timeout:?}: {}; {}",
                self.instead(&seen, spec),
                ways_out(spec)
            ));
        }
        let booted = now - self.since;
        self.next = now + INTERVAL.max(booted / 50).max(cost * SHARE);
        if !self.hinted && booted >= HINT {
            self.hinted = true;
            return Verdict::Hint(format!("{}; {}", self.instead(&seen, spec), ways_out(spec)));
        }
        Verdict::Wait
    }

    /// What the app does instead of waiting on the inherited sockets.
    fn instead(&self, seen: &Seen, spec: &BootSpec) -> String {
        let inherited: Vec<&str> = spec.listeners.iter().map(|l| l.address.as_str()).collect();
        let sockets = if inherited.len() == 1 { "socket" } else { "sockets" };
        let inherited = inherited.join(", ");
        let elsewhere: Vec<String> = self.looker.elsewhere(seen).iter().map(Address::to_string).collect();
        if elsewhere.is_empty() {
            format!("no process of the app waits on the inherited {sockets} {inherited} yet")
        } else {
            format!("the app listens on {}, not on the inherited {sockets} {inherited}", elsewhere.join(", "))
        }
    }
}

fn ways_out(spec: &BootSpec) -> String {
    let last = 2 + spec.listeners.len();
    let fds = if last == 3 { "fd 3".into() } else { format!("fds 3 to {last}") };
    format!("make the server use {fds} (LISTEN_FDS), or {WAY_OUT}")
}

/// listen(2) with the master's backlog, whatever an app asked for: the queue is every instance's.
pub(crate) fn listen_again(listener: &OwnedFd, backlog: u32) {
    // After a shutdown(2) the port may be lost, and listening would take another one: that repair is the master's.
    let bound = match Address::of(listener.as_fd()) {
        Some(Address::Tcp(address)) => address.port() != 0,
        _ => true,
    };
    if bound {
        // A Unix socket that was shut down refuses, and only the master can bind anew.
        let _ = sys::listen(listener.as_fd(), backlog);
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;
    use crate::testing;

    #[test]
    fn trouble_must_last_for_the_same_process() {
        let start = Instant::now();
        let after = |ms| start + Duration::from_millis(ms);
        let mut trouble = Trouble::default();
        assert_eq!(trouble.lasts(Some(7), start), Some((7, Duration::ZERO)));
        assert_eq!(trouble.lasts(Some(7), after(20)), Some((7, Duration::from_millis(20))));
        assert_eq!(trouble.lasts(Some(8), after(30)), Some((8, Duration::ZERO)));
        assert_eq!(trouble.lasts(None, after(40)), None);
        assert_eq!(trouble.lasts(Some(8), after(50)), Some((8, Duration::ZERO)));
    }

    #[test]
    fn ready_one_counts_where_it_was_asked_for() {
        let now = Instant::now();
        let mut spec = testing::spec();
        assert_eq!(Watch::new(&spec, &[], now, now).notified(), Verdict::Wait);
        spec.ready = Ready::Notify;
        assert_eq!(Watch::new(&spec, &[], now, now).notified(), Verdict::Ready(Evidence::Notify));
    }

    #[test]
    fn alive_is_a_time() {
        let now = Instant::now();
        let mut spec = testing::spec();
        spec.ready = Ready::Alive(500);
        let mut watch = Watch::new(&spec, &[], now, now);
        assert_eq!(watch.next(), now + Duration::from_millis(500));
        assert_eq!(watch.look(1, &spec, &[], now + Duration::from_millis(499)), Verdict::Wait);
        let verdict = watch.look(1, &spec, &[], now + Duration::from_millis(500));
        assert_eq!(verdict, Verdict::Ready(Evidence::Alive));
    }

    #[test]
    fn what_the_app_does_instead_is_said_in_time() {
        let begun = Instant::now();
        let mut spec = testing::spec();
        spec.listeners.truncate(1);
        let socket = [TcpListener::bind("127.0.0.1:0").unwrap().into()];
        let mut watch = Watch::new(&spec, &socket, begun, begun);
        // There is no app below this test, so that there is nothing to see.
        let mut now;
        let hint = loop {
            now = watch.next();
            match watch.look(-1, &spec, &socket, now) {
                Verdict::Wait => assert!(now - begun < Duration::from_secs(6)),
                other => break other,
            }
        };
        let Verdict::Hint(text) = hint else { panic!("{hint:?}") };
        assert!(now - begun >= HINT);
        assert!(text.contains("waits on the inherited socket 127.0.0.1:8080 yet; make the server use fd 3"), "{text}");
        let Verdict::Failed(text) = watch.look(-1, &spec, &socket, begun + Duration::from_secs(60)) else { panic!() };
        assert!(
            text.starts_with("not ready within 60s: no process")
                && text.contains("yet; make the server use fd 3 (LISTEN_FDS), or use"),
            "{text}"
        );
    }

    #[test]
    fn the_backlog_is_put_back() {
        let listener = OwnedFd::from(TcpListener::bind("127.0.0.1:0").unwrap());
        sys::listen(listener.as_fd(), 0).unwrap();
        listen_again(&listener, 64);
        let address = TcpListener::from(listener.try_clone().unwrap()).local_addr().unwrap();
        // A backlog of nothing takes one connection (listen(2)).
        let clients: Vec<_> =
            (0..8).map(|_| std::net::TcpStream::connect_timeout(&address, Duration::from_secs(1))).collect();
        assert!(clients.iter().all(Result::is_ok));
    }
}
