//! A small HTTP server for the demo and the bench: one thread, poll(2), keep-alive, graceful on TERM.
//!
//! Its release directory says what it does: `version` is in each answer, `boot_ms` (where there is one) is how long a
//! boot takes, `needs` (where there is one) is what the app looks for at boot and does not find: it panics. `sick` (where
//! there is one) is what it says at /health, with status 500.
//! `$APP_EVENTS` (where set) is the path of a datagram socket that is told `boot` (the first thing that the app does) and
//! `ready`, each with the pid and the time ([`moment`]).

use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::{Duration, Instant};
use std::{env, fs, process, thread};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::SignalFd;
use nix::time::{ClockId, clock_gettime};

use crate::sys;

/// How long a connection that was accepted before TERM may take to send the request whose answer it is owed.
const OWED: Duration = Duration::from_secs(2);
/// Connections taken at a time, so that one instance does not take all of a burst.
const BURST: usize = 4;

/// Now, on the clock that all processes share and nobody sets (`CLOCK_MONOTONIC`).
#[must_use]
pub fn moment() -> Duration {
    clock_gettime(ClockId::CLOCK_MONOTONIC).map(Duration::from).unwrap_or_default()
}

struct Connection {
    stream: TcpStream,
    request: Vec<u8>,
    answered: bool,
}

/// Serves the listening socket that is fd 3, until TERM.
///
/// # Errors
/// When there is no such socket, or the release directory has no version.
///
/// # Panics
/// When the release needs what is not there; that ends the process with status 101.
pub fn run() -> io::Result<()> {
    let events = env::var_os("APP_EVENTS");
    let tell = |what: &str| {
        let Some(path) = &events else { return };
        let text = format!("{what} {} {}", process::id(), moment().as_nanos());
        let _ = UnixDatagram::unbound().and_then(|socket| socket.send_to(text.as_bytes(), path));
    };
    tell("boot");
    // The release profile would abort; an app of the world exits.
    std::panic::set_hook(Box::new(|info| {
        eprintln!("thread 'main' {info}");
        process::exit(101);
    }));
    let version = fs::read_to_string("version")?.trim().to_owned();
    if let Some(millis) = fs::read_to_string("boot_ms").ok().and_then(|text| text.trim().parse().ok()) {
        // The demo's app plays one that takes its time to load. Nobody relies on how long: the master waits until it is ready.
        thread::sleep(Duration::from_millis(millis));
    }
    if let Ok(needs) = fs::read_to_string("needs") {
        panic!("missing column {}", needs.trim());
    }
    let sick = fs::read_to_string("sick").ok().map(|why| format!("{}\n", why.trim()));
    let words = Words { body: format!("{version}\n"), sick };
    let mut set = SigSet::empty();
    set.add(Signal::SIGTERM);
    set.thread_block()?;
    let term = SignalFd::new(&set)?;
    let listener = sys::inherited(3).ok_or_else(|| io::Error::other("no listening socket is fd 3"))?;
    let listener = TcpListener::from(listener);
    listener.set_nonblocking(true)?;
    tell("ready");
    say_ready();
    serve(&listener, &term, &words)
}

/// What it answers.
struct Words {
    body: String,
    sick: Option<String>,
}

impl Words {
    /// Status and body for the request with this head, in lower case.
    fn answer(&self, head: &str) -> (&'static str, &str) {
        match &self.sick {
            Some(why) if head.starts_with("get /health ") => ("500 Internal Server Error", why),
            _ => ("200 OK", &self.body),
        }
    }
}

/// READY=1 on the socket that sd_notify(3) names.
fn say_ready() {
    let Ok(name) = env::var("NOTIFY_SOCKET") else { return };
    let address = match name.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(&name),
    };
    let _ = address.and_then(|to| UnixDatagram::unbound()?.send_to_addr(b"READY=1", &to));
}

fn serve(listener: &TcpListener, term: &SignalFd, words: &Words) -> io::Result<()> {
    let mut connections: Vec<Connection> = Vec::new();
    let mut end: Option<Instant> = None;
    loop {
        if let Some(end) = end {
            // Idle ones are closed; those that never got an answer are owed one.
            connections.retain(|connection| !connection.answered || !connection.request.is_empty());
            if connections.is_empty() || Instant::now() >= end {
                return Ok(());
            }
        }
        let mut fds: Vec<PollFd<'_>> =
            connections.iter().map(|c| PollFd::new(c.stream.as_fd(), PollFlags::POLLIN)).collect();
        if end.is_none() {
            fds.push(PollFd::new(listener.as_fd(), PollFlags::POLLIN));
            fds.push(PollFd::new(term.as_fd(), PollFlags::POLLIN));
        }
        let left = end.map(|end| end.saturating_duration_since(Instant::now()));
        let timeout = left.map_or(PollTimeout::NONE, |left| PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX));
        match poll(&mut fds, timeout) {
            Ok(_) | Err(nix::Error::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        let ready: Vec<bool> = fds.iter().map(|fd| fd.revents().is_some_and(|events| !events.is_empty())).collect();
        let count = connections.len();
        let stop = end.is_none() && ready[count + 1];
        if stop {
            end = Some(Instant::now() + OWED);
        }
        let mut at = 0;
        connections.retain_mut(|connection| {
            at += 1;
            !ready[at - 1] || connection.turn(words, end.is_some()).unwrap_or(false)
        });
        if !stop && ready.get(count).is_some_and(|ready| *ready) {
            for _ in 0..BURST {
                // EAGAIN: a sibling was quicker. EINVAL: somebody shut the socket down; it may come back.
                let Ok((stream, _)) = listener.accept() else { break };
                stream.set_nonblocking(true)?;
                stream.set_nodelay(true)?;
                let mut connection = Connection { stream, request: Vec::new(), answered: false };
                if connection.turn(words, false).unwrap_or(false) {
                    connections.push(connection);
                }
            }
        }
    }
}

impl Connection {
    /// Reads what is there and answers what is whole; `false` when the connection is to be closed.
    fn turn(&mut self, words: &Words, stopping: bool) -> io::Result<bool> {
        let mut chunk = [0; 2048];
        match self.stream.read(&mut chunk) {
            Ok(0) => return Ok(false),
            Ok(read) => self.request.extend_from_slice(&chunk[..read]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
        while let Some(at) = self.request.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&self.request[..at]).to_ascii_lowercase();
            let close = stopping || head.contains("\r\nconnection: close");
            let last = if close { "Connection: close\r\n" } else { "" };
            let (status, body) = words.answer(&head);
            let length = body.len();
            let answer = format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\n{last}\r\n{body}");
            self.stream.write_all(answer.as_bytes())?;
            self.request.drain(..at + 4);
            self.answered = true;
            if close {
                return Ok(false);
            }
        }
        Ok(true)
    }
}
