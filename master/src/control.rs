//! The control socket: who may speak, how long they may take, and what is still to be said to whom.
//!
//! The socket is authority: only root and the master's own user are heard, told by the kernel (SO_PEERCRED). Every
//! length is bounded by the frame, every peer has a deadline until its request is there, and one that does not read
//! its answers is closed.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{getsockopt, sockopt};
use nix::sys::stat::{Mode, umask};
use nix::unistd::Uid;
use proto::control::{Code, Reply, Request};
use proto::version::Mismatch;
use proto::{Hello, Inbox, Outbox};

use crate::listener::clear_stale;
use crate::lock::{Lock, NotTaken};
use crate::timers;

/// How long a client may take until its request is there.
pub(crate) const REQUEST_DEADLINE: Duration = Duration::from_secs(5);
/// How long clients may take, all together, to read what is said last.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// How many clients at once; one more is closed at once.
const MAX_CLIENTS: usize = 480;
/// How much may wait for a client that does not read, in bytes.
const MAX_PENDING: usize = 4 << 20;

/// What a client listens to, for as long as it likes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum To {
    /// Each step of the mind.
    Steps,
    /// What happens.
    Happenings,
}

/// One connection.
#[derive(Debug)]
struct Client {
    stream: UnixStream,
    inbox: Inbox<Request>,
    outbox: Outbox<Reply>,
    greeted: bool,
    /// It speaks another protocol: only what keeps its bytes for ever is heard.
    foreign: Option<Mismatch>,
    asked: bool,
    /// Close it when everything is written.
    closing: bool,
    /// It stays, and listens.
    subscribed: Option<To>,
}

impl Client {
    /// Tells one of another protocol that it is not understood, and closes it.
    fn refuse(&mut self) {
        if let Some(mismatch) = self.foreign.take() {
            let message = mismatch.to_string();
            let _ = self.outbox.push(&Reply::Error { code: Code::Version, message, report: None });
            self.closing = true;
        }
    }
}

/// What a client's fd gave.
pub(crate) enum Heard {
    /// Nothing complete yet.
    Nothing,
    /// Its request.
    Request(Request),
    /// It is to be forgotten.
    Closed,
}

/// The control socket and its clients.
#[derive(Debug)]
pub(crate) struct Control {
    listener: UnixListener,
    path: PathBuf,
    /// From before the look whether somebody listens until after the path is removed.
    lock: Option<Lock>,
    /// Device and inode of the socket that we made there, until it is removed.
    inode: Option<(u64, u64)>,
    clients: BTreeMap<u64, Client>,
    next: u64,
    /// Kept open so that a connection can be taken and closed when no fd is left.
    spare: Option<fs::File>,
}

impl Control {
    /// Binds the control socket of the master of `dir`, mode 0600, in a folder that is made with mode 0700 where it is
    /// missing. A lock beside it (`PATH.lock`) keeps two masters that start in the same instant from both finding
    /// nobody there. `open` is the same socket, where the program before this one has left it open.
    ///
    /// # Errors
    /// Names the path, and the pid of a living master that holds it.
    pub(crate) fn bind(path: &Path, dir: &Path, open: Option<OwnedFd>) -> Result<Self> {
        if let Some(folder) = path.parent() {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(folder)
                .with_context(|| format!("cannot make {} for the control socket", folder.display()))?;
        }
        let lock = Some(lock(path, dir)?);
        let ours = |socket: &UnixListener| socket.local_addr().is_ok_and(|at| at.as_pathname() == Some(path));
        let listener = match open.map(UnixListener::from).filter(ours).filter(|_| path.exists()) {
            Some(listener) => listener,
            None => make(path)?,
        };
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).context("cannot set the control socket's mode")?;
        // std asks for a backlog of 128; deploy tools may come in hundreds.
        nix::sys::socket::listen(&listener, nix::sys::socket::Backlog::MAXALLOWABLE)?;
        listener.set_nonblocking(true)?;
        let inode = inode_of(path);
        Ok(Self { listener, path: path.to_owned(), lock, inode, clients: BTreeMap::new(), next: 1, spare: spare() })
    }

    /// Another fd of the socket, which stays open when this one is closed: for the program that takes this one's place, so
    /// that nobody finds it closed meanwhile.
    ///
    /// # Errors
    /// When no fd is left.
    pub(crate) fn keep(&self) -> Result<OwnedFd> {
        self.listener.as_fd().try_clone_to_owned().context("cannot keep the control socket open")
    }

    /// The next program takes over: clients are told what is still to be said, and the path stays.
    pub(crate) fn hand_over(&mut self) {
        self.inode = None;
        self.finish();
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }

    pub(crate) fn client_fd(&self, id: u64) -> Option<BorrowedFd<'_>> {
        self.clients.get(&id).map(|c| c.stream.as_fd())
    }

    /// Takes the next connection, if there is one; `Err(())` asks to be called again.
    pub(crate) fn accept(&mut self) -> Option<Result<u64, ()>> {
        let stream = match self.listener.accept() {
            Ok((stream, _)) => stream,
            Err(e) if e.kind() == io::ErrorKind::Interrupted || e.kind() == io::ErrorKind::ConnectionAborted => {
                return Some(Err(()));
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return None,
            Err(e) => return self.shed(&e),
        };
        if stream.set_nonblocking(true).is_err() || self.clients.len() >= MAX_CLIENTS {
            return Some(Err(()));
        }
        let id = self.next;
        self.next += 1;
        let mut client = Client {
            inbox: Inbox::default(),
            outbox: Outbox::default(),
            greeted: false,
            foreign: None,
            asked: false,
            closing: false,
            subscribed: None,
            stream,
        };
        let _ = client.outbox.push(&Reply::Hello(Hello::ours()));
        if !permitted(&client.stream) {
            let message = "not permitted: only root and the master's own user may command it".into();
            let _ = client.outbox.push(&Reply::Error { code: Code::NotPermitted, message, report: None });
            client.closing = true;
        }
        self.clients.insert(id, client);
        Some(Ok(id))
    }

    /// No fd is left: take the connection with the spare one and close it, so that nobody waits and the loop does not spin.
    fn shed(&mut self, error: &io::Error) -> Option<Result<u64, ()>> {
        tracing::warn!("control socket: {error}");
        self.spare = None;
        let taken = self.listener.accept().is_ok();
        self.spare = spare();
        taken.then_some(Err(()))
    }

    /// Reads what a client has sent.
    pub(crate) fn hear(&mut self, id: u64) -> Heard {
        let Some(client) = self.clients.get_mut(&id) else { return Heard::Closed };
        let mut buffer = [0; 4096];
        loop {
            match client.stream.read(&mut buffer) {
                Ok(0) => return Heard::Closed,
                // After its request a client has nothing to say; one that talks on must not keep us from the others.
                Ok(_) if client.asked || client.closing => return Heard::Nothing,
                Ok(n) => {
                    client.inbox.push(&buffer[..n]);
                    match take(client) {
                        Ok(Some(request)) => return Heard::Request(request),
                        Ok(None) => {}
                        Err(message) => {
                            tracing::warn!("control client closed: {message}");
                            return Heard::Closed;
                        }
                    }
                    if client.closing {
                        return Heard::Nothing;
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Heard::Nothing,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return Heard::Closed,
            }
        }
    }

    /// Queues a reply; `last` closes the connection behind it.
    pub(crate) fn reply(&mut self, id: u64, reply: &Reply, last: bool) {
        let Some(client) = self.clients.get_mut(&id) else { return };
        if client.closing {
            return;
        }
        if client.outbox.push(reply).is_err() {
            let message = "the answer is larger than the protocol allows";
            tracing::error!("control socket: {message}");
            if last {
                let message = message.into();
                let _ = client.outbox.push(&Reply::Error { code: Code::Failed, message, report: None });
            }
        }
        client.closing |= last;
    }

    /// Writes what a client takes. `None`: it is to be forgotten; else whether something is left.
    pub(crate) fn flush(&mut self, id: u64) -> Option<bool> {
        let client = self.clients.get_mut(&id)?;
        while !client.outbox.is_empty() {
            match client.stream.write(client.outbox.pending()) {
                Ok(n) => client.outbox.written(n),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    return (client.outbox.pending().len() <= MAX_PENDING).then_some(true);
                }
                Err(_) => return None,
            }
        }
        (!client.closing).then_some(false)
    }

    /// The time of a client is over: one of another protocol, which may have had nothing to say, hears that.
    pub(crate) fn late(&mut self, id: u64) {
        if let Some(client) = self.clients.get_mut(&id).filter(|client| !client.asked) {
            client.refuse();
            let _ = self.flush(id);
        }
    }

    /// Forgets a client.
    pub(crate) fn forget(&mut self, id: u64) {
        self.clients.remove(&id);
    }

    /// Whether a client's request has arrived.
    pub(crate) fn has_asked(&self, id: u64) -> bool {
        self.clients.get(&id).is_some_and(|c| c.asked)
    }

    /// A client wants every step from now on.
    pub(crate) fn subscribe(&mut self, id: u64) {
        if let Some(client) = self.clients.get_mut(&id) {
            client.subscribed = Some(To::Steps);
        }
    }

    /// A client wants whatever happens from now on.
    pub(crate) fn follows(&mut self, id: u64) {
        if let Some(client) = self.clients.get_mut(&id) {
            client.subscribed = Some(To::Happenings);
        }
    }

    /// How much is still to be said to a client, in bytes. `None`: there is no such client, or nothing more is to follow.
    pub(crate) fn pending(&self, id: u64) -> Option<usize> {
        self.clients.get(&id).filter(|client| !client.closing).map(|client| client.outbox.pending().len())
    }

    /// Who wants every step.
    pub(crate) fn subscribers(&self) -> Vec<u64> {
        self.clients.iter().filter(|(_, c)| c.subscribed == Some(To::Steps)).map(|(id, _)| *id).collect()
    }

    /// Removes the path, once, and only while it is ours: another master may have taken it over since.
    fn unlink(&mut self) {
        let Some(inode) = self.inode.take() else { return };
        if inode_of(&self.path) == Some(inode) {
            let _ = fs::remove_file(&self.path);
        }
    }

    /// Before the process ends: what is still to be said is said, for a second at most. Whoever hears that the master has
    /// stopped finds the path free.
    pub(crate) fn finish(&mut self) {
        self.unlink();
        self.lock = None;
        // Whoever only listens has been told what it takes at once, and is not waited for.
        self.clients.retain(|_, client| client.subscribed.is_none());
        let deadline = timers::now() + LAST_WORDS;
        loop {
            for id in self.clients.keys().copied().collect::<Vec<_>>() {
                if self.flush(id) != Some(true) {
                    self.clients.remove(&id);
                }
            }
            let left = deadline.saturating_duration_since(timers::now());
            if self.clients.is_empty() || left.is_zero() {
                break;
            }
            let mut fds: Vec<_> =
                self.clients.values().map(|c| PollFd::new(c.stream.as_fd(), PollFlags::POLLOUT)).collect();
            let _ = poll(&mut fds, PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO));
        }
        self.clients.clear();
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.unlink();
    }
}

fn make(path: &Path) -> Result<UnixListener> {
    clear_stale(path).with_context(|| format!("control socket {}", path.display()))?;
    let before = umask(Mode::from_bits_truncate(0o177));
    let bound = UnixListener::bind(path);
    umask(before);
    bound.with_context(|| format!("cannot make the control socket {}", path.display()))
}

fn lock(path: &Path, dir: &Path) -> Result<Lock> {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let file = PathBuf::from(name);
    match Lock::take(&file, dir) {
        Ok(lock) => Ok(lock),
        Err(NotTaken::Held(holder)) => {
            bail!("{holder} has the control socket {}; stop it, or give --socket / --name", path.display())
        }
        Err(NotTaken::Failed(error)) => Err(error).with_context(|| {
            format!("cannot lock {} (another user's? remove it if no master of theirs runs)", file.display())
        }),
    }
}

fn inode_of(path: &Path) -> Option<(u64, u64)> {
    fs::symlink_metadata(path).ok().map(|m| (m.dev(), m.ino()))
}

fn spare() -> Option<fs::File> {
    fs::File::open("/dev/null").ok()
}

fn permitted(stream: &UnixStream) -> bool {
    getsockopt(stream, sockopt::PeerCredentials)
        .is_ok_and(|peer| peer.uid() == 0 || peer.uid() == Uid::effective().as_raw())
}

/// The request behind the Hello, once both are there.
fn take(client: &mut Client) -> Result<Option<Request>, String> {
    loop {
        let message = match (client.inbox.take(), &client.foreign) {
            (Ok(None), _) => return Ok(None),
            (Ok(Some(message)), _) => Some(message),
            (Err(_), Some(_)) => None,
            (Err(error), None) => return Err(error.to_string()),
        };
        match (message, &client.foreign) {
            (Some(Request::Hello(hello)), _) => {
                client.foreign = hello.check().err();
                client.greeted = true;
            }
            _ if !client.greeted => return Err("it did not say Hello first".into()),
            (Some(request @ (Request::Ping | Request::Stop | Request::Upgrade)), _) | (Some(request), None) => {
                client.asked = true;
                return Ok(Some(request));
            }
            _ => {
                client.refuse();
                return Ok(None);
            }
        }
    }
}
