//! The control socket's own protocol, for what `ctl` does not show and for clients that misbehave.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use proto::control::{Reply, Request, Stats};
use proto::{Hello, Inbox, Outbox};

use crate::lines::Lines;

/// A connection to a master that has been greeted.
#[derive(Debug)]
pub struct Control {
    stream: UnixStream,
    inbox: Inbox<Reply>,
}

impl Control {
    /// Connects and says Hello.
    ///
    /// # Errors
    /// When nobody listens there or the master speaks something else.
    pub fn open(socket: &Path) -> Result<Self> {
        let stream = UnixStream::connect(socket).with_context(|| format!("connecting to {}", socket.display()))?;
        // A master that does not answer must not hang its test: a test's whole time.
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        let mut control = Self { stream, inbox: Inbox::default() };
        control.send(&Request::Hello(Hello::ours()))?;
        match control.receive()? {
            Some(Reply::Hello(hello)) => hello.check()?,
            other => bail!("the master did not say Hello but {other:?}"),
        }
        Ok(control)
    }

    /// Sends one request.
    ///
    /// # Errors
    /// When the master is gone.
    pub fn send(&mut self, request: &Request) -> Result<()> {
        let mut outbox = Outbox::default();
        outbox.push(request)?;
        Ok(self.stream.write_all(outbox.pending())?)
    }

    /// The next reply, `None` at the end of the connection.
    ///
    /// # Errors
    /// When what comes is no reply.
    pub fn receive(&mut self) -> Result<Option<Reply>> {
        loop {
            if let Some(reply) = self.inbox.take()? {
                return Ok(Some(reply));
            }
            let mut chunk = [0; 16 << 10];
            match self.stream.read(&mut chunk) {
                Ok(0) => return Ok(None),
                Ok(read) => self.inbox.push(&chunk[..read]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// The stream itself.
    #[must_use]
    pub fn stream(&self) -> &UnixStream {
        &self.stream
    }
}

/// Asks for stats.
///
/// # Errors
/// When the master does not answer them.
pub fn stats(socket: &Path) -> Result<Stats> {
    let mut control = Control::open(socket)?;
    control.send(&Request::Stats)?;
    match control.receive()? {
        Some(Reply::Stats(stats)) => Ok(*stats),
        other => bail!("asked for stats, got {other:?}"),
    }
}

/// Subscribes to the event trace: one entry a step of the mind, until the master ends. Every step that begins after the
/// return of this function is in it.
///
/// # Errors
/// When the master does not answer.
pub fn trace(socket: &Path) -> Result<Arc<Lines>> {
    let mut stream = UnixStream::connect(socket).with_context(|| format!("connecting to {}", socket.display()))?;
    // Both in one write: the master has read the subscription when it answers the greeting.
    let mut outbox = Outbox::default();
    outbox.push(&Request::Hello(Hello::ours()))?;
    outbox.push(&Request::Events)?;
    stream.write_all(outbox.pending())?;
    let mut control = Control { stream, inbox: Inbox::default() };
    match control.receive()? {
        Some(Reply::Hello(hello)) => hello.check()?,
        other => bail!("the master did not say Hello but {other:?}"),
    }
    let lines = Arc::new(Lines::default());
    let filled = Arc::clone(&lines);
    thread::spawn(move || {
        loop {
            match control.receive() {
                Ok(Some(Reply::Event(block))) => filled.push(block),
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => break,
            }
        }
        filled.close();
    });
    Ok(lines)
}
