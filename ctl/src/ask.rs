//! What each command asks of the master, and how its end is recognised.
//!
//! Nothing is decided here: a command becomes one request, and the master's last reply is the answer.

use std::time::{Duration, Instant};

use proto::Happening;
use proto::control::{Code, Fact, LastRollout, Reply, Request, Stats};
use proto::worker::BootReport;

use crate::cli::Command;
use crate::client::{ANSWER, Client, Heard};
use crate::exit::Failure;
use crate::locate::Found;
use crate::search::{Next, Search};
use crate::upgrade;
use crate::wait::{Interrupts, Until};

/// What the master says before its last word.
#[derive(Clone, Copy)]
pub(crate) enum Told<'a> {
    /// A line for people.
    Line(&'a str),
    /// Something happened.
    Happened(&'a Happening),
}

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
    /// The stream of events is over, at the reader's wish or with the master's end.
    Over,
}

/// How long the next master is waited for when the one that was asked has gone.
pub(crate) struct Patience {
    /// In a rollout.
    rollout: Duration,
    /// In an upgrade.
    upgrade: Duration,
}

/// A master that is started again by its service manager needs some seconds; one that replaces itself and has many workers
/// to take back may need more.
pub(crate) const PATIENCE: Patience = Patience { rollout: Duration::from_secs(15), upgrade: Duration::from_secs(30) };

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
    /// A master of another protocol understands it, too.
    any: bool,
    /// What it means that the master goes away.
    gone: Gone,
}

/// What it means that the master goes away.
#[derive(Clone, Copy)]
enum Gone {
    /// Nobody knows what came of it.
    Lost,
    /// The next one knows the rollout.
    Rollout,
    /// The next one is what was asked for.
    Upgrade,
    /// The next one is followed.
    Follow {
        /// Behind this number it began.
        after: Option<u64>,
    },
    /// There is nothing more to be heard.
    Over,
}

fn waiting(command: &Command) -> Waiting {
    let quick = Waiting {
        reads: false,
        leave: false,
        timeout: None,
        goes_on: None,
        accepts: false,
        streams: false,
        any: false,
        gone: Gone::Lost,
    };
    let long = |what| Waiting { goes_on: Some(what), ..quick };
    let rollout = Waiting { gone: Gone::Rollout, ..long("the rollout goes on") };
    match command {
        Command::PhasedRestart(options) => {
            Waiting { leave: options.no_wait, timeout: options.timeout, accepts: true, ..rollout }
        }
        Command::Rehearse { .. } => Waiting { accepts: true, ..long("the rehearsal goes on") },
        Command::Rollback | Command::Restart { .. } => rollout,
        Command::Abort => long("the rollback goes on"),
        Command::Pause => long("the pause stays asked for (ctl resume takes it back)"),
        Command::Upgrade => Waiting { any: true, gone: Gone::Upgrade, ..long("the upgrade goes on") },
        Command::Detach => long("the master goes on ending, and the workers stay"),
        Command::Stop => Waiting { any: true, ..long("the master goes on stopping") },
        Command::Halt => long("the master goes on stopping"),
        Command::Scale { .. } => long("the scaling goes on"),
        // They ask in their own way (`metrics`).
        Command::Metrics { .. } | Command::Exporter { .. } => Waiting { reads: true, ..quick },
        Command::Stats
        | Command::Status
        | Command::Report
        | Command::History { .. }
        | Command::Releases { .. }
        | Command::Completions { .. } => Waiting { reads: true, ..quick },
        Command::Events { follow, steps, after } => {
            let gone = match (follow, steps) {
                (true, _) => Gone::Follow { after: *after },
                (false, true) => Gone::Over,
                (false, false) => Gone::Lost,
            };
            Waiting { streams: true, gone, ..quick }
        }
        // (It does not come here.)
        Command::Watch { .. } => Waiting { reads: true, ..quick },
        Command::ReloadDir { .. } | Command::Resume | Command::Confirm | Command::Signal { .. } => quick,
    }
}

/// How far events were followed.
#[derive(Clone, Copy, Default)]
struct Followed {
    /// The last one; at first the one behind which to begin.
    number: Option<u64>,
    /// The master has said that it ends.
    ended: bool,
    /// And that no other follows.
    over: bool,
}

impl Followed {
    /// What the next master is asked for. Behind a last word of the one before nothing of that one's can be missing.
    fn next(self) -> Option<u64> {
        if self.ended { Some(0) } else { self.number.or(Some(0)) }
    }

    fn take(&mut self, happening: &Happening) {
        let how = happening.facts.iter().find(|(key, _)| key == "how").map(|(_, how)| how);
        let ends = |word: &str| how == Some(&Fact::Text(word.into()));
        self.number = Some(happening.number);
        self.ended = happening.kind == "master-ended";
        self.over = self.ended && (ends("stopped") || ends("nothing-boots"));
    }
}

/// What the master has accepted.
struct Begun {
    message: String,
    rollout: Option<u64>,
}

/// Asks, and hears the master out; and the next one, where the first has gone and that one knows the answer. `show` gets
/// whatever comes before the last reply.
///
/// # Errors
/// Whatever ends the command other than the master's last word, with the code for it.
pub(crate) fn ask(
    found: Found,
    command: &Command,
    request: &Request,
    patience: &Patience,
    show: &mut dyn FnMut(Told<'_>),
) -> Result<Answer, Failure> {
    let how = waiting(command);
    let mut client = Client::greet(found, how.reads.then_some(request), how.any, &Until::within(ANSWER))?;
    let interrupts = how.goes_on.and_then(|_| Interrupts::catch());
    let mut until = Until { unread: how.streams, interrupts: interrupts.as_ref(), deadline: None };
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
    let mut followed = match how.gone {
        Gone::Follow { after } => Some(Followed { number: after, ..Followed::default() }),
        _ => None,
    };
    let mut begun: Option<Begun> = None;
    // There while the master that accepted has gone and the next one has not said anything yet.
    let mut search: Option<Search> = None;
    loop {
        let reply = match client.hear(&until)? {
            Heard::Reply(reply) => *reply,
            Heard::Gone if followed.is_some_and(|followed| followed.over) => return Ok(Answer::Over),
            Heard::Unread => return Ok(Answer::Over),
            Heard::Gone => match (how.gone, &begun) {
                (Gone::Over, _) => return Ok(Answer::Over),
                // One of another protocol may have said so in words that cannot be read.
                (Gone::Upgrade, accepted) if accepted.is_some() || client.other().is_some() => {
                    let doubted = client.other().filter(|_| accepted.is_none());
                    return upgrade::followed(client.path(), doubted, patience.upgrade, &until)
                        .map_err(|failure| failure.unwrap_or_else(|| how.interrupted(true)));
                }
                (Gone::Follow { .. }, _) => {
                    let search = search.get_or_insert_with(|| Search::new(client.path(), patience.rollout));
                    search.failed(client.gone().message);
                    let after = followed.and_then(Followed::next);
                    client = match search.next(&Request::Happenings { after, follow: true }, false, &until) {
                        Next::Master(client) => client,
                        Next::Interrupted => return Ok(Answer::Over),
                        Next::Nobody | Next::Late => {
                            let message = format!("the master went away\n{}", search.why());
                            return Err(Failure::new(Code::NoMaster, message));
                        }
                    };
                    continue;
                }
                (Gone::Rollout, Some(begun @ Begun { rollout: Some(id), .. })) => {
                    let search = match &mut search {
                        Some(search) => {
                            search.failed(client.gone().message);
                            search
                        }
                        none => {
                            show(Told::Line("the master went away; waiting for the next one"));
                            none.insert(Search::new(client.path(), patience.rollout))
                        }
                    };
                    client = match search.next(&Request::Await { rollout: *id }, false, &until) {
                        Next::Master(client) => client,
                        Next::Nobody => return Err(lost(begun, &search.why(), None)),
                        Next::Late => return Err(how.late(true)),
                        Next::Interrupted => return Err(how.interrupted(true)),
                    };
                    continue;
                }
                _ => return Err(client.gone()),
            },
            Heard::Late if how.reads => return Err(client.hangs()),
            Heard::Late if begun.is_some() => return Err(how.late(search.is_some())),
            Heard::Late => {
                return Err(Failure::new(Code::Lost, "the master did not accept the request in time; outcome unknown"));
            }
            Heard::Interrupted if begun.is_some() || !how.accepts => return Err(how.interrupted(search.is_some())),
            Heard::Interrupted => {
                return Err(Failure::new(Code::Lost, "interrupted before the master accepted; outcome unknown"));
            }
        };
        let is_next = search.take().is_some();
        match reply {
            Reply::Accepted { message, rollout } => {
                if how.leave {
                    return Ok(Answer::Began { message, rollout });
                }
                if let Some(timeout) = how.timeout {
                    until.deadline = sent.checked_add(timeout);
                }
                // The next master says the same once more.
                let said = begun.as_ref().is_some_and(|b| b.message == message);
                if !message.is_empty() && !how.streams && !said {
                    show(Told::Line(&message));
                }
                let rollout = rollout.or_else(|| begun.and_then(|b| b.rollout));
                begun = Some(Begun { message, rollout });
            }
            Reply::Progress(line) | Reply::Event(line) => show(Told::Line(&line)),
            Reply::Happened(happening) => {
                if let Some(followed) = &mut followed {
                    followed.take(&happening);
                }
                show(Told::Happened(&happening));
            }
            Reply::Done { message, facts } => return Ok(Answer::Done { message, facts }),
            Reply::Ended { code, message, rollout } => return Ok(Answer::Ended { code, message, rollout }),
            Reply::Error { code, message, report } => {
                return Err(match begun {
                    Some(begun) if is_next => {
                        lost(&begun, &format!("the next one says: {message}\nsee `ctl status` for what serves"), report)
                    }
                    _ => client.refused(code, message, report),
                });
            }
            Reply::Stats(stats) => return Ok(Answer::Stats(stats)),
            Reply::Metrics { .. } => return Err(client.nonsense("a reply to something else")),
            Reply::Report(report) => return Ok(Answer::Report(report)),
            Reply::Hello(_) | Reply::Pong => return Err(client.nonsense("a reply to something else")),
        }
    }
}

impl Waiting {
    /// `--timeout` passed. `away`: while the next master was waited for.
    fn late(&self, away: bool) -> Failure {
        let waited = humantime::format_duration(self.timeout.unwrap_or_default());
        self.left(&format!("not done after {waited}"), away)
    }

    /// The person no longer waits.
    fn interrupted(&self, away: bool) -> Failure {
        self.left("interrupted", away)
    }

    fn left(&self, why: &str, away: bool) -> Failure {
        let what = if away {
            "the master went away, and the next one has not answered yet"
        } else {
            self.goes_on.unwrap_or_default()
        };
        Failure::new(Code::TimedOut, format!("{why}; {what}: see `ctl status`"))
    }
}

/// Nobody can say how a rollout ended.
fn lost(begun: &Begun, why: &str, report: Option<Box<BootReport>>) -> Failure {
    let message = format!("the master went away while waiting; outcome unknown ({})\n{why}", begun.message);
    Failure { code: Code::Lost, message, report }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;
    use std::io::Write;
    use std::net::Shutdown;
    use std::os::unix::net::UnixStream;

    use proto::{Hello, frame};

    use super::*;
    use crate::cli;

    /// What comes of a command whose master accepts and goes away, and no other comes within no time at all.
    fn left_alone(words: &str, message: &str, rollout: Option<u64>) -> (Failure, Vec<String>) {
        let dir = tempfile::tempdir().unwrap();
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        for reply in [Reply::Hello(Hello::ours()), Reply::Accepted { message: message.into(), rollout }] {
            theirs.write_all(&frame::frame(&reply).unwrap()).unwrap();
        }
        theirs.shutdown(Shutdown::Write).unwrap();
        let args: Vec<OsString> = ["ctl"].into_iter().chain(words.split(' ')).map(OsString::from).collect();
        let command = cli::parse(&args).unwrap().command;
        let request = cli::request(&command).unwrap();
        let none = Patience { rollout: Duration::ZERO, upgrade: Duration::ZERO };
        let found = Found { stream: ours, path: dir.path().join("shop.sock") };
        let mut shown = Vec::new();
        let mut show = |told: Told<'_>| {
            if let Told::Line(line) = told {
                shown.push(line.to_owned());
            }
        };
        let answer = ask(found, &command, &request, &none, &mut show);
        (answer.err().unwrap(), shown)
    }

    #[test]
    fn a_rollout_whose_master_never_comes_back_is_10() {
        for words in ["phased-restart", "phased-restart --timeout 1h", "rollback", "restart 0"] {
            let (failure, shown) = left_alone(words, "phased restart 7 to /r/42", Some(7));
            assert_eq!(failure.code, Code::Lost, "{words}");
            let wanted = "the master went away while waiting; outcome unknown (phased restart 7 to /r/42)\n\
                          no other answered within 0s: /";
            assert!(failure.message.starts_with(wanted), "{}", failure.message);
            assert!(
                failure.message.contains("/shop.sock (no such socket)\nthe workers serve on"),
                "{}",
                failure.message
            );
            assert_eq!(shown, ["phased restart 7 to /r/42", "the master went away; waiting for the next one"]);
        }
    }

    #[test]
    fn an_upgrade_that_no_master_comes_of_is_10() {
        let (failure, shown) = left_alone("upgrade", "the new program takes over", None);
        assert_eq!(failure.code, Code::Lost);
        let wanted = "the master went away to be replaced\nno other answered within 0s: /";
        assert!(failure.message.starts_with(wanted), "{}", failure.message);
        assert!(failure.message.contains("--orphan-timeout") && failure.message.contains("start the master again"));
        assert_eq!(shown, ["the new program takes over"]);
    }

    #[test]
    fn what_no_other_master_knows_is_not_waited_for() {
        for words in ["rehearse", "abort", "scale 2"] {
            let (failure, shown) = left_alone(words, "it begins", Some(7));
            assert_eq!((failure.code, shown.len()), (Code::Lost, 1), "{words}");
            assert!(failure.message.starts_with("the master went away while waiting; outcome unknown (its socket"));
        }
    }
}
