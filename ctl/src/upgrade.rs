//! The end of an upgrade: the master has gone to make place for the next one, and that one says who it is.

use std::path::Path;
use std::time::{Duration, Instant};

use proto::control::{Code, Fact, Reply, Request};
use proto::version::Mismatch;

use crate::ask::Answer;
use crate::client::{ANSWER, Client, Heard};
use crate::exit::Failure;
use crate::search::{Next, Search};
use crate::wait::Until;

/// Finds the next master and asks it which one it is. `doubted`: what the last one spoke, where nothing but the end of its
/// connection tells of the upgrade; the next one has to be another then.
///
/// # Errors
/// Code 10 when none answers in time; `None` when the person no longer waits.
pub(crate) fn followed(
    path: &Path,
    doubted: Option<&Mismatch>,
    patience: Duration,
    until: &Until<'_>,
) -> Result<Answer, Option<Failure>> {
    let mut search = Search::new(path, patience);
    loop {
        let mut client = match search.next(&Request::Stats, true, until) {
            Next::Master(client) => client,
            Next::Interrupted | Next::Late => return Err(None),
            Next::Nobody => {
                let message = format!("the master went away to be replaced\n{}", search.why());
                return Err(Some(Failure::new(Code::Lost, message)));
            }
        };
        if let Some(other) = client.other() {
            if doubted == Some(other) {
                let message = format!(
                    "the master closed the connection, and one of the same version answers (build {}): outcome unknown; \
                     its log says more",
                    other.their_build
                );
                return Err(Some(Failure::new(Code::Lost, message)));
            }
            // An older ctl has begun it: the next master's figures are beyond it, its greeting is not.
            let (theirs, ours) = (other.theirs, other.ours);
            let rest = format!("; it speaks protocol {theirs} and this ctl {ours}: use the ctl of its installation");
            return Ok(answer(&other.their_build, client.pid(), None, &rest));
        }
        match asked(&mut client, until) {
            Ok(Some(answer)) => return Ok(answer),
            Ok(None) => return Err(None),
            Err(why) => search.failed(why),
        }
    }
}

/// What it says to a `Stats`; `None` when the person no longer waits.
fn asked(client: &mut Client, until: &Until<'_>) -> Result<Option<Answer>, String> {
    match client.hear(&until.by(Instant::now() + ANSWER)) {
        Ok(Heard::Reply(reply)) => match *reply {
            Reply::Stats(stats) => Ok(Some(answer(&stats.version, Some(stats.pid), Some(stats.workers), ""))),
            Reply::Error { message, .. } => Err(message),
            _ => Err(client.nonsense("a reply to something else").message),
        },
        Ok(Heard::Interrupted) => Ok(None),
        Ok(Heard::Gone) => Err(client.gone().message),
        Ok(Heard::Late | Heard::Unread) => Err(client.hangs().message),
        Err(failure) => Err(failure.message),
    }
}

fn answer(version: &str, pid: Option<u32>, workers: Option<u32>, rest: &str) -> Answer {
    let pid_shown = pid.map_or_else(String::new, |pid| format!(" (pid {pid})"));
    let workers_shown = match workers {
        None => String::new(),
        Some(1) => ", 1 worker".into(),
        Some(n) => format!(", {n} workers"),
    };
    let message = format!("upgraded: master {version}{pid_shown}{workers_shown}{rest}");
    let number = |n: Option<u32>| n.map_or(Fact::Null, |n| Fact::Number(n.into()));
    let facts = vec![
        ("version".into(), Fact::Text(version.into())),
        ("pid".into(), number(pid)),
        ("workers".into(), number(workers)),
    ];
    Answer::Done { message, facts }
}
