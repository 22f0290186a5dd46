//! What each command asks of the master, and how its end is recognised.
//!
//! Nothing is decided here: a command becomes one request, and the master's last reply is the answer.

use std::time::{Duration, Instant};

use proto::control::{Code, Fact, LastRollout, Reply, Request, Stats};
use proto::worker::BootReport;

use crate::cli::Command;
use crate::client::{ANSWER, Client, Heard, Interrupts, Until};
use crate::exit::Failure;
use crate::locate::Found;

/// The master's last word.
pub(crate) enum Answer {
    /// A rollout ended, well or badly.
    Ended {
        /// What `ctl` exits with.
        code: Code,
        /// How it ended, one line.
        message: String,
        /// The rollout.
        rollout: Box<LastRollout>,
    },
    /// A rollout began and nobody waits for it.
    Began {
        /// What began.
        message: String,
        /// Its number.
        rollout: Option<u64>,
    },
    /// The command is done.
    Done {
        /// For people.
        message: String,
        /// For `--json`.
        facts: Vec<(String, Fact)>,
    },
    /// To `stats` and `status`.
    Stats(Box<Stats>),
    /// To `report`.
    Report(Option<Box<BootReport>>),
    /// The stream of events is over.
    Over,
}

/// How a command waits.
struct Waiting {
    /// It only reads: the answer is due at once.
    reads: bool,
    /// Leave after the master has accepted.
    leave: bool,
    /// Leave this long after the master has accepted.
    timeout: Option<Duration>,
    /// What goes on when the person no longer waits; `None`: Ctrl-C simply ends the command.
    goes_on: Option<&'static str>,
    /// The master says when it has begun: what is interrupted before that may never begin.
    accepts: bool,
    /// It lasts until somebody ends it.
    streams: bool,
}

fn waiting(command: &Command) -> Waiting {
    let quick = Waiting { reads: false, leave: false, timeout: None, goes_on: None, accepts: false, streams: false };
    let long = |what| Waiting { goes_on: Some(what), ..quick };
    match command {
        Command::PhasedRestart(options) => {
            let (leave, timeout) = (options.no_wait, options.timeout);
            Waiting { leave, timeout, accepts: true, ..long("the rollout goes on") }
        }
        Command::Rehearse { .. } => Waiting { accepts: true, ..long("the rehearsal goes on") },
        Command::Rollback | Command::Restart { .. } => long("the rollout goes on"),
        Command::Abort => long("the rollback goes on"),
        Command::Pause => long("the pause stays asked for (ctl resume takes it back)"),
        Command::Stop | Command::Halt => long("the master goes on stopping"),
        Command::Scale { .. } => long("the scaling goes on"),
        Command::Stats | Command::Status | Command::Report => Waiting { reads: true, ..quick },
        Command::Events => Waiting { streams: true, ..quick },
        Command::ReloadDir { .. } | Command::Resume | Command::Confirm | Command::Signal { .. } => quick,
    }
}

/// Asks, and hears the master out. `show` gets every line that comes before the last reply.
///
/// # Errors
/// Whatever ends the command other than the master's last word, with the code for it.
pub(crate) fn ask(
    found: Found,
    command: &Command,
    request: &Request,
    show: &mut dyn FnMut(&str),
) -> Result<Answer, Failure> {
    let how = waiting(command);
    let mut client = Client::greet(found, how.reads.then_some(request))?;
    let mut until = Until { unread: how.streams, ..Until::default() };
    if how.goes_on.is_some() {
        until.interrupts = Interrupts::catch();
    }
    if !how.reads {
        client.send(request)?;
    }
    // Until the master has accepted, a timeout may say nothing about what goes on: it gets its time to answer.
    let sent = Instant::now();
    if how.reads {
        until.deadline = Some(sent + ANSWER);
    } else if let Some(timeout) = how.timeout {
        until.deadline = sent.checked_add(timeout.max(ANSWER));
    }
    let mut accepted = false;
    loop {
        let reply = match client.hear(&until)? {
            Heard::Reply(reply) => *reply,
            Heard::Gone if how.streams => return Ok(Answer::Over),
            Heard::Unread => return Ok(Answer::Over),
            Heard::Gone => return Err(client.gone()),
            Heard::Late if how.reads => return Err(client.hangs()),
            Heard::Late if accepted => {
                let waited = humantime::format_duration(how.timeout.unwrap_or_default());
                return Err(Failure::new(
                    Code::TimedOut,
                    format!("not done after {waited}; {}: see `ctl status`", how.goes_on.unwrap_or_default()),
                ));
            }
            Heard::Late => {
                return Err(Failure::new(Code::Lost, "the master did not accept the request in time; outcome unknown"));
            }
            Heard::Interrupted if accepted || !how.accepts => {
                return Err(Failure::new(
                    Code::TimedOut,
                    format!("interrupted; {}: see `ctl status`", how.goes_on.unwrap_or_default()),
                ));
            }
            Heard::Interrupted => {
                return Err(Failure::new(Code::Lost, "interrupted before the master accepted; outcome unknown"));
            }
        };
        match reply {
            Reply::Accepted { message, rollout } => {
                if how.leave {
                    return Ok(Answer::Began { message, rollout });
                }
                accepted = true;
                if let Some(timeout) = how.timeout {
                    until.deadline = sent.checked_add(timeout);
                }
                if !message.is_empty() && !how.streams {
                    show(&message);
                }
            }
            Reply::Progress(line) | Reply::Event(line) => show(&line),
            Reply::Done { message, facts } => return Ok(Answer::Done { message, facts }),
            Reply::Ended { code, message, rollout } => return Ok(Answer::Ended { code, message, rollout }),
            Reply::Error { code, message, report } => return Err(Failure { code, message, report }),
            Reply::Stats(stats) => return Ok(Answer::Stats(stats)),
            Reply::Report(report) => return Ok(Answer::Report(report)),
            Reply::Hello(_) | Reply::Pong => return Err(client.nonsense("a reply to something else")),
        }
    }
}
