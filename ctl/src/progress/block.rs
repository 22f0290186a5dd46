//! What stands in a rollout's block: a line a slot, and a bar.
//!
//! Pure: from the master's stats and the time to lines that fit. The slots where something goes on come first when there is
//! no room for all.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use proto::Incarnation;
use proto::control::{Rollout, Stats, WorkerStatus};
use ratatui::style::Style;
use ratatui::text::{Line, Span};

use super::cells::{self, BOLD, FAINT, bar, cut, cut_line, fill, look, name, width};
use crate::notes;
use crate::render::{age, kind, seconds};

/// The widest bar, in columns.
const BAR: usize = 30;

/// What is known of a rollout.
#[derive(Default)]
pub(super) struct Block {
    stats: Option<Stats>,
    /// Since when the workers that drain do so, as far as anybody here knows.
    draining: BTreeMap<Incarnation, SystemTime>,
}

/// One line of the block.
struct Row<'a> {
    /// `None`: off-traffic.
    slot: Option<u32>,
    worker: &'a WorkerStatus,
    others: Vec<&'a WorkerStatus>,
}

impl Row<'_> {
    fn seat(&self) -> String {
        self.slot.map_or_else(|| "rehearsal".into(), |slot| format!("slot {slot}"))
    }

    /// Something goes on in it.
    fn is_active(&self) -> bool {
        self.worker.state != "ready" || !self.others.is_empty()
    }
}

impl Block {
    /// Whether the block itself says what this line of the master's says.
    pub(super) fn shows(&self, line: &str) -> bool {
        line.starts_with("slot ") && line.contains(" ready after ")
    }

    /// The master says how it stands. A rollout that is over stays as it was: its end is told in other words.
    pub(super) fn learn(&mut self, stats: Stats, now: SystemTime) {
        if stats.rollout.is_none() && self.stats.is_some() {
            return;
        }
        let drains = |w: &WorkerStatus| (w.state == "draining").then_some(w.incarnation).flatten();
        let before = std::mem::take(&mut self.draining);
        let still = stats.worker_status.iter().filter_map(drains);
        self.draining = still.map(|id| (id, before.get(&id).copied().unwrap_or(now))).collect();
        self.stats = Some(stats);
    }

    /// At most `height` lines of at most `columns`.
    pub(super) fn lines(&self, now: SystemTime, columns: usize, height: usize) -> Vec<Line<'static>> {
        let Some(stats) = &self.stats else { return Vec::new() };
        let rows = rows(stats);
        let foot = stats.rollout.as_ref().map(|run| foot(run, now, columns));
        let room = height.saturating_sub(foot.iter().len());
        let (rows, more) = fitting(rows, room);
        let seat_width = rows.iter().map(|row| row.seat().len()).max().unwrap_or(0);
        let widest = rows.iter().map(|r| width(&name(&r.worker.release))).max().unwrap_or(0);
        let release_width = widest.min((columns / 3).max(8));
        let mut lines: Vec<_> = rows.iter().map(|row| self.row(row, seat_width, release_width, now)).collect();
        if more > 0 && room > 0 {
            let s = if more == 1 { "" } else { "s" };
            lines.push(Line::styled(format!("and {more} more slot{s}"), FAINT));
        }
        lines.extend(foot);
        lines.truncate(height);
        lines.into_iter().map(|line| cut_line(line, columns)).collect()
    }

    fn row(&self, row: &Row<'_>, seat_width: usize, release_width: usize, now: SystemTime) -> Line<'static> {
        let worker = row.worker;
        let seat = fill(&row.seat(), seat_width);
        let evidence = worker.evidence.map_or_else(String::new, |e| e.to_string());
        let mut line = Line::from(vec![
            Span::raw(format!("{seat}  ")),
            Span::styled(fill(&worker.state, 8), look(&worker.state)),
            Span::raw(format!("  {}  {:>7}  ", fill(&name(&worker.release), release_width), self.time(worker, now))),
            Span::styled(fill(&evidence, 9), FAINT),
        ]);
        for other in &row.others {
            let (state, release) = (cut(&other.state, 8), cut(&name(&other.release), release_width));
            let time = if other.state == "ready" { String::new() } else { format!(" {}", self.time(other, now)) };
            line.push_span(Span::styled(format!("  {release} {state}{time}"), FAINT));
        }
        line
    }

    /// How long a worker took to boot, or how long it has been as it is.
    fn time(&self, worker: &WorkerStatus, now: SystemTime) -> String {
        match (worker.state.as_str(), worker.boot_us) {
            ("ready", Some(us)) => seconds(us / 1000),
            ("draining", _) => {
                let since = worker.incarnation.and_then(|id| self.draining.get(&id)).copied().unwrap_or(now);
                age(since.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_millis() as u64, now)
            }
            _ => age(worker.started_at, now),
        }
    }
}

/// A row a slot, in order, behind those of workers without one.
fn rows(stats: &Stats) -> Vec<Row<'_>> {
    let scout = |w: &WorkerStatus| {
        stats.rollout.as_ref().is_some_and(|r| notes::is_scouting(r) && r.phase == w.phase && !w.booted)
    };
    let (scouts, seated): (Vec<_>, Vec<_>) = stats.worker_status.iter().partition(|w| scout(w));
    let mut rows: Vec<Row<'_>> =
        scouts.into_iter().map(|worker| Row { slot: None, worker, others: Vec::new() }).collect();
    let mut slots: BTreeMap<u32, Vec<&WorkerStatus>> = BTreeMap::new();
    for worker in seated {
        slots.entry(worker.index.0).or_default().push(worker);
    }
    for (slot, mut workers) in slots {
        // The newest that is to stay.
        let at = workers.iter().rposition(|w| w.state != "draining").unwrap_or(workers.len() - 1);
        let worker = workers.remove(at);
        rows.push(Row { slot: Some(slot), worker, others: workers });
    }
    rows
}

/// What of it there is room for, those where something goes on first; and how many there is none for.
fn fitting(rows: Vec<Row<'_>>, room: usize) -> (Vec<Row<'_>>, usize) {
    if rows.len() <= room {
        return (rows, 0);
    }
    let (mut shown, still): (Vec<_>, Vec<_>) = rows.into_iter().partition(Row::is_active);
    shown.extend(still);
    // The line that says how many more there are takes room, too.
    let all = shown.len();
    shown.truncate(room.saturating_sub(1));
    let more = all - shown.len();
    (shown, more)
}

/// How far it is, and what is left.
fn foot(run: &Rollout, now: SystemTime, columns: usize) -> Line<'static> {
    let state = if run.state == "rolling_back" { "rolling back".into() } else { cut(&run.state, 12) };
    let left = run.of.saturating_sub(run.step);
    let what = match run.state.as_str() {
        _ if notes::is_rehearsal(run) => format!("{} of {}", kind(&run.kind), name(&run.to)),
        "rolling_back" => format!("{} to put back", run.step),
        _ if left == 0 => format!("{} of {}", run.step, run.of),
        _ => format!("{} of {}, {left} left", run.step, run.of),
    };
    let mut words = vec![what];
    if !notes::is_rehearsal(run) {
        words.push(state);
    }
    words.push(age(run.started_at, now));
    if run.state == "paused" {
        words.push("ctl resume goes on, ctl abort undoes it".into());
    }
    let words = words.join(", ");
    let room = columns.saturating_sub(width(&words) + 2).min(BAR);
    let mut line = Line::default();
    if !notes::is_rehearsal(run) && room >= 6 {
        let style: Style = if run.state == "rolling_back" { cells::BAD } else { cells::GOOD };
        line.push_span(Span::styled(bar(run.step, run.of, room), style));
        line.push_span(Span::raw("  "));
    }
    line.push_span(Span::styled(words, BOLD));
    line
}

#[cfg(test)]
mod tests;
