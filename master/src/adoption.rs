//! What an earlier master has left behind: workers that serve, the listening sockets that they hold, and processes of
//! workers that are dead. All of it is found before anything is bound or spawned, and then handed to the mind at once.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;
use nix::sys::epoll::EpollFlags;
use nix::sys::stat::fstat;
use nix::unistd::Uid;
use proto::worker::ToWorker;
use proto::{Hello, Incarnation, Phase, Slot};
use rollout::{Code, Event, Found, Left, MAX_WORKERS, Role};

use crate::address::Address;
use crate::child::{Child, Seat};
use crate::leftovers::{processes, uid_of, variable, worker_of};
use crate::listener::Listener;
use crate::orphans::{self, Met};
use crate::settings::Site;
use crate::shell::Shell;
use crate::timers::unix_millis;
use crate::token::Token;

/// Everything that was found.
#[derive(Debug, Default)]
pub(crate) struct Estate {
    met: Vec<Met>,
    strays: Vec<Stray>,
    /// Listening sockets that the program before this one has handed down, by name.
    sockets: Vec<(String, OwnedFd)>,
    /// Those that were parked with the service manager, by name.
    parked: Vec<(String, OwnedFd)>,
}

/// What a dead worker has left.
#[derive(Debug)]
struct Stray {
    /// Its worker lives all the same, and cannot be reached: this is its process.
    led_by: Option<i32>,
    id: Incarnation,
    slot: Slot,
    phase: Phase,
    release: PathBuf,
}

impl Estate {
    /// Looks for it. `sockets` were handed down by the program that was here before this one, `parked` were kept by the service
    /// manager.
    ///
    /// # Errors
    /// When the folder of the workers' sockets cannot be used.
    pub(crate) fn find(site: &Site, sockets: Vec<(String, OwnedFd)>, parked: Vec<(String, OwnedFd)>) -> Result<Self> {
        let met = orphans::meet(&site.socket, &site.mark)?;
        let alive: BTreeSet<Incarnation> = met.iter().map(|met| met.facts.incarnation).collect();
        Ok(Self { strays: strays(site, &alive), met, sockets, parked })
    }

    /// A release that somebody serves.
    pub(crate) fn served(&self) -> Option<&Path> {
        let serving = self.met.iter().find(|met| met.facts.serves)?;
        Some(path(&serving.facts.release))
    }

    /// The socket of this `--listen`, where somebody holds one: the last program, the newest worker, the service manager.
    pub(crate) fn listener(&self, address: &Address, index: usize) -> Option<Listener> {
        let name = Listener::name_of(address, index);
        let handed_down = self.sockets.iter().map(|(name, fd)| (name, fd));
        let held = self.met.iter().rev().flat_map(|met| met.facts.listeners.iter().map(|l| &l.name).zip(&met.sockets));
        let parked = self.parked.iter().map(|(name, fd)| (name, fd));
        let all: Vec<_> = handed_down.chain(held).chain(parked).collect();
        let adopt = |fd: &OwnedFd| Listener::adopt(fd.as_fd(), address, index).ok();
        let same_name = || all.iter().filter(|(theirs, _)| **theirs == name).find_map(|(_, fd)| adopt(fd));
        // Called something else, it is still what listens there; any port would do for one of the kernel's choice.
        let renamed = || all.iter().filter(|_| !address.is_any_port()).find_map(|(_, fd)| adopt(fd));
        same_name().or_else(renamed)
    }

    /// Closes what was handed down or parked and is none of those that were adopted; the names.
    pub(crate) fn disown(&mut self, adopted: &[Option<Listener>]) -> Vec<String> {
        let wanted = |name: &str, fd: &OwnedFd| {
            adopted.iter().flatten().any(|listener| listener.name == name && inode(&listener.fd) == inode(fd))
        };
        let all = self.sockets.extract_if(.., |(name, fd)| !wanted(name, fd));
        all.chain(self.parked.extract_if(.., |(name, fd)| !wanted(name, fd))).map(|(name, _)| name).collect()
    }
}

impl Shell {
    /// Takes everything over; the event that the mind opens with.
    pub(crate) fn take_over(&mut self, estate: Estate) -> Event {
        let mut found = Vec::new();
        for met in estate.met {
            let left = match (met.facts.serves, fits(&met, &self.listeners)) {
                (false, _) => Left::Ending,
                (true, true) => Left::Serving,
                (true, false) => Left::Unfit,
            };
            let code = Code { release: self.releases.id(path(&met.facts.release)), phase: met.facts.phase };
            let (id, slot) = (met.facts.incarnation, met.facts.slot);
            match self.adopt(met, Seat { id, slot, phase: code.phase, release: code.release, role: Role::Serve }) {
                Ok(()) => found.push(Found { worker: id, slot, code, left }),
                Err(error) => tracing::error!("worker {id} cannot be adopted: {error}"),
            }
        }
        let (led, strays): (Vec<_>, Vec<_>) = estate.strays.into_iter().partition(|stray| stray.led_by.is_some());
        for Stray { led_by, id, slot, phase, release } in led {
            let code = Code { release: self.releases.id(&release), phase };
            let seat = Seat { id, slot, phase, release: code.release, role: Role::Serve };
            match Child::unreachable(led_by.unwrap_or_default(), seat) {
                Ok(child) => {
                    tracing::warn!("slot {slot}: worker {id} does not answer, and is replaced");
                    self.watch(child.pidfd.as_ref().map(AsFd::as_fd), EpollFlags::EPOLLIN, Token::Death(id));
                    self.children.insert(id, child);
                    found.push(Found { worker: id, slot, code, left: Left::Unfit });
                }
                // It has ended meanwhile; what is left of it is found with its death or not at all.
                Err(error) => tracing::warn!("worker {id}: {error}"),
            }
        }
        for stray in &strays {
            self.leftovers.worker_died(stray.id, None, true);
        }
        let ids: Vec<_> = strays.iter().map(|stray| stray.id).collect();
        let left = self.left_by(&ids);
        for stray in strays.into_iter().filter(|stray| left.contains(&stray.id)) {
            let code = Code { release: self.releases.id(&stray.release), phase: stray.phase };
            tracing::warn!("worker {} is dead, and processes of its app live on: they are ended", stray.id);
            found.push(Found { worker: stray.id, slot: stray.slot, code, left: Left::Strays });
        }
        self.watch_strays();
        if found.is_empty() {
            return Event::Start;
        }
        let until = self.extra.confirm_until.map(|until| until.saturating_sub(unix_millis()));
        Event::Adopt { found, confirm_left: until.map(Duration::from_millis) }
    }

    fn adopt(&mut self, met: Met, seat: Seat) -> std::io::Result<()> {
        let understands = met.understands;
        let child = Child::adopt(met, seat)?;
        self.watch(child.reports_fd(), EpollFlags::EPOLLIN, Token::Reports(seat.id));
        self.watch(child.pidfd.as_ref().map(AsFd::as_fd), EpollFlags::EPOLLIN, Token::Death(seat.id));
        self.children.insert(seat.id, child);
        if understands {
            self.tell(seat.id, &ToWorker::Hello(Hello::ours()));
            self.tell(seat.id, &ToWorker::Adopt);
        }
        Ok(())
    }
}

/// Whether a worker can be led, and serves on exactly the sockets that are wanted now.
fn fits(met: &Met, listeners: &[Listener]) -> bool {
    let names = met.facts.listeners.iter().map(|l| &l.name);
    met.understands
        && names.eq(listeners.iter().map(|l| &l.name))
        && met.sockets.iter().map(inode).eq(listeners.iter().map(|l| inode(&l.fd)))
}

/// What tells a socket from all others.
pub(crate) fn inode(fd: &OwnedFd) -> Option<(u64, u64)> {
    fstat(fd).map(|stat| (stat.st_dev, stat.st_ino)).ok()
}

/// Processes that carry a token of this site, and whose worker has not answered.
fn strays(site: &Site, alive: &BTreeSet<Incarnation>) -> Vec<Stray> {
    let mut found: Vec<Stray> = Vec::new();
    let ours = std::process::id() as i32;
    // Whoever else may carry the token has made it up.
    let user = site.user.as_ref().map(|user| user.uid);
    let may = |pid: i32| uid_of(pid).is_some_and(|uid| uid == Uid::effective().as_raw() || Some(uid) == user);
    for pid in processes().into_iter().filter(|pid| *pid != ours && may(*pid)) {
        let Some(id) = variable(pid, "PHASED_TOKEN").and_then(|token| site.incarnation(&token)) else { continue };
        if alive.contains(&id) || found.iter().any(|stray| stray.id == id) {
            continue;
        }
        let number = |name: &str| variable(pid, name).and_then(|value| value.parse::<u32>().ok()).unwrap_or_default();
        found.push(Stray {
            led_by: worker_of(pid),
            id,
            slot: Slot(number("WORKER_INDEX").min(MAX_WORKERS - 1)),
            phase: Phase(number("WORKER_PHASE")),
            release: variable(pid, "RELEASE_DIR").map(OsString::from).unwrap_or_default().into(),
        });
    }
    found
}

fn path(bytes: &[u8]) -> &Path {
    Path::new(std::ffi::OsStr::from_bytes(bytes))
}
