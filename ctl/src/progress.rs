//! What a person sees while a rollout is waited for.
//!
//! On a terminal that is a block which is drawn again in place: a line a slot and a bar (`block` says what stands in it,
//! `screen` puts it there). It is drawn by a thread of its own, so that nothing it does delays the answer or Ctrl-C, and goes
//! away before the command's last word is printed. Elsewhere, and where `TERM` is `dumb`, an event is one line with its time.
//!
//! The master is not polled: its stats are asked for when it has said something, or when its trace says that something
//! happened; the seconds between are counted here.

mod block;
pub(crate) mod cells;
mod painter;
#[cfg(test)]
pub(crate) mod sample;
mod screen;

use std::io::{self, IsTerminal};
use std::path::Path;
use std::time::SystemTime;

use crate::cli::Command;
use crate::render;

use painter::Painter;

/// Shows the lines of one command.
pub(crate) struct Progress(How);

enum How {
    /// As they come.
    Plain,
    /// One a line, with the time.
    Stamped,
    /// In a block.
    Live(Painter),
}

impl Progress {
    /// For this command, whose lines somebody wants to see. `socket`: the master's.
    pub(crate) fn new(command: &Command, socket: &Path) -> Self {
        Self(match command {
            Command::PhasedRestart(_) | Command::Rehearse { .. } | Command::Rollback | Command::Restart { .. } => {
                if is_drawn_on() {
                    How::Live(Painter::new(socket, wants_colours()))
                } else {
                    How::Stamped
                }
            }
            _ => How::Plain,
        })
    }

    /// A line of the master's came: what is to be printed now.
    pub(crate) fn text(&mut self, line: &str) -> String {
        match &mut self.0 {
            How::Plain => render::line(line),
            How::Stamped => stamped(line, SystemTime::now()),
            How::Live(painter) => {
                if painter.line(line) {
                    String::new()
                } else {
                    stamped(line, SystemTime::now())
                }
            }
        }
    }

    /// It is over: the terminal is as it was, but for the lines that stay.
    pub(crate) fn end(self) {
        if let How::Live(painter) = self.0 {
            painter.end();
        }
    }
}

/// Whether standard output can be drawn on.
pub(crate) fn is_drawn_on() -> bool {
    let able = std::env::var_os("TERM").is_some_and(|term| !term.is_empty() && term != "dumb");
    able && io::stdout().is_terminal()
}

/// Whether a terminal gets colours (<https://no-color.org>: any value that is not empty forbids them).
pub(crate) fn wants_colours() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// One event: its time, and what happened; one line, whatever is in it.
fn stamped(line: &str, now: SystemTime) -> String {
    if line.is_empty() {
        return String::new();
    }
    let parts: Vec<_> = line.lines().map(str::trim).collect();
    format!("{} {}\n", humantime::format_rfc3339_seconds(now), render::inline(&parts.join(" ")))
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    #[test]
    fn an_event_is_a_line_with_its_time() {
        let now = UNIX_EPOCH + Duration::from_millis(1_700_000_000_999);
        assert_eq!(stamped("all workers ready", now), "2023-11-14T22:13:20Z all workers ready\n");
        assert_eq!(stamped("two\n  lines\x1b[2J\n", now), "2023-11-14T22:13:20Z two lines\n");
        assert_eq!(stamped("", now), "");
    }
}
