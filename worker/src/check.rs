//! Checks: what an app that is ready has to pass before it counts as booted, one after the other.
//!
//! `exec:` lines are run beside every app. An HTTP check is asked in a rehearsal only, where nobody else listens.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::poll::PollFlags;
use proto::worker::{BootSpec, Bytes, Check, Evidence, ExitStatus, Stage, Task};

use crate::boot::{self, Failure, Line, Spawned, errno};
use crate::command;
use crate::ending::later;
use crate::http::Http;
use crate::relay::Relay;
use crate::report::{ended, span};

/// One check under way, and those behind it.
pub(crate) struct Checking {
    /// How the app was seen to be ready.
    pub(crate) evidence: Evidence,
    todo: VecDeque<Check>,
    name: String,
    deadline: Instant,
    within: String,
    asked: Asked,
}

enum Asked {
    Exec(Exec),
    Http(Http),
}

/// A line that runs.
struct Exec {
    pid: i32,
    program: String,
    /// Where its errno arrives when it cannot be executed.
    trouble: OwnedFd,
    relay: Relay,
}

/// How a check stands.
pub(crate) enum Verdict {
    /// It is not over.
    Wait,
    /// It passed.
    Passed,
    /// It did not, and what it said to that.
    Failed(Failure, Bytes),
}

/// The checks of this boot.
pub(crate) fn todo(spec: &BootSpec) -> VecDeque<Check> {
    let is_asked = |check: &&Check| matches!(check, Check::Exec(_)) || matches!(spec.task, Task::Rehearse);
    spec.checks.iter().filter(is_asked).cloned().collect()
}

/// What people call it.
fn name(check: &Check) -> String {
    let name = match check {
        Check::Http { host, path } if host == "localhost" => format!("check http:{path}"),
        Check::Http { host, path } => format!("check http://{host}{path}"),
        Check::Exec(line) => format!("check exec:{}", String::from_utf8_lossy(line)),
    };
    name.chars().filter(|c| !c.is_control()).take(200).collect()
}

impl Checking {
    /// Begins with the first of the checks; `None` when there is none left.
    ///
    /// # Errors
    /// A [`Failure`] of stage `check`, or what [`boot::line`] gives.
    pub(crate) fn begin(
        mut todo: VecDeque<Check>,
        evidence: Evidence,
        spec: &BootSpec,
        dir: BorrowedFd<'_>,
        listeners: &[OwnedFd],
    ) -> Result<Option<Self>, Failure> {
        let Some(check) = todo.pop_front() else { return Ok(None) };
        let name = name(&check);
        let failure = |message: String| Failure::new(Stage::Check, message);
        let timeout = Duration::from_millis(spec.check_timeout_ms);
        let asked = match check {
            Check::Exec(line) => {
                let line = command::fill_in(&line, spec).map_err(|e| failure(format!("in {name}, {e}")))?;
                let spawned = boot::line(spec, dir, Line::Check, line, None)?;
                spawned.start();
                let Spawned { pid, program, trouble, output, .. } = spawned;
                Asked::Exec(Exec { pid, program, trouble, relay: Relay::new(output, spec) })
            }
            Check::Http { host, path } => {
                let listener = listeners.first().map(AsFd::as_fd);
                let http = Http::new(&host, &path, listener, timeout, Instant::now());
                Asked::Http(http.map_err(|e| failure(format!("{name}: {e}")))?)
            }
        };
        Ok(Some(Self { evidence, todo, name, deadline: later(timeout), within: span(timeout), asked }))
    }

    /// What people call the check under way.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// What to poll for the answer to an HTTP check.
    pub(crate) fn polled(&self) -> impl Iterator<Item = (BorrowedFd<'_>, PollFlags)> {
        let http = if let Asked::Http(http) = &self.asked { Some(http) } else { None };
        http.into_iter().flat_map(|http| http.polled())
    }

    /// What a line prints, and where that goes.
    pub(crate) fn relay(&self) -> Option<&Relay> {
        if let Asked::Exec(exec) = &self.asked { Some(&exec.relay) } else { None }
    }

    /// The same.
    pub(crate) fn relay_mut(&mut self) -> Option<&mut Relay> {
        if let Asked::Exec(exec) = &mut self.asked { Some(&mut exec.relay) } else { None }
    }

    /// When [`Self::turn`] is to be called.
    pub(crate) fn next(&self) -> Instant {
        match &self.asked {
            Asked::Exec(_) => self.deadline,
            Asked::Http(http) => http.next().map_or(self.deadline, |next| next.min(self.deadline)),
        }
    }

    /// Something was answered, or time has passed.
    pub(crate) fn turn(&mut self, now: Instant) -> Verdict {
        if let Asked::Http(http) = &mut self.asked
            && http.turn(now)
        {
            return Verdict::Passed;
        }
        if now < self.deadline {
            return Verdict::Wait;
        }
        match &mut self.asked {
            // It ends with the app.
            Asked::Exec(_) => self.failed(format!(" did not end within {}", self.within)),
            Asked::Http(http) => {
                let message = format!(": {}", http.verdict(&self.within).message);
                self.failed(message)
            }
        }
    }

    /// A process has ended.
    pub(crate) fn ended(&mut self, pid: i32, status: ExitStatus) -> Verdict {
        let Asked::Exec(exec) = &self.asked else { return Verdict::Wait };
        if exec.pid != pid {
            return Verdict::Wait;
        }
        match (errno(&exec.trouble), status) {
            (Some(errno), _) => self.failed(format!(": {}", command::exec_trouble(&exec.program, errno))),
            (None, ExitStatus::Code(0)) => Verdict::Passed,
            (None, status) => self.failed(format!(" {}", ended(status))),
        }
    }

    fn failed(&mut self, how: String) -> Verdict {
        let failure = Failure::new(Stage::Check, format!("{}{how}", self.name));
        Verdict::Failed(failure, self.said())
    }

    /// What it has said so far.
    pub(crate) fn said(&mut self) -> Bytes {
        match &mut self.asked {
            Asked::Exec(exec) => {
                exec.relay.drain();
                exec.relay.tail()
            }
            Asked::Http(http) => http.verdict(&self.within).body,
        }
    }

    /// What is left to check, and what a line still prints.
    pub(crate) fn into_rest(self) -> (VecDeque<Check>, Option<Relay>) {
        let relay = if let Asked::Exec(exec) = self.asked { Some(exec.relay) } else { None };
        (self.todo, relay)
    }
}
