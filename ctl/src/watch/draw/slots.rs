//! The watch's table: a row a worker, and a row a slot that waits for its next one.

use std::time::SystemTime;

use proto::control::{Stats, WorkerStatus};
use ratatui::style::Style;
use ratatui::text::{Line, Span};

use crate::notes;
use crate::progress::cells::{BOLD, FAINT, cut, fill, look, name, width};
use crate::render::{age, inline, seconds};
use crate::watch::model::{Load, Model};

const NAMES: [&str; 11] =
    ["SLOT", "STATE", "RELEASE", "PHASE", "PID", "UP", "BOOT", "MEM", "CPU%", "CRASH", "LAST EXIT, STATUS"];

/// Numbers stand to the right.
const TO_THE_RIGHT: [bool; 11] = [true, false, false, true, true, true, true, true, true, true, false];

/// The table as lines.
pub(super) struct Table {
    /// The names of the columns.
    pub(super) names: Line<'static>,
    /// A line a worker.
    pub(super) rows: Vec<Line<'static>>,
}

/// The table. The last column may be cut by the screen's edge, the others are not.
pub(super) fn table(model: &Model, stats: &Stats, now: SystemTime, columns: usize) -> Table {
    let cells: Vec<_> = stats.worker_status.iter().map(|worker| row(model, stats, worker, now)).collect();
    let mut widths: [usize; 11] =
        std::array::from_fn(|i| cells.iter().map(|row| width(&row[i])).max().unwrap_or(0).max(width(NAMES[i])));
    widths[1] = widths[1].min(9);
    widths[2] = widths[2].min((columns / 6).max(7));
    let line = |row: &[String; 11], style: &dyn Fn(usize) -> Style| {
        let mut line = Line::default();
        for (i, cell) in row.iter().enumerate() {
            let text = match i {
                10 => inline(cell),
                _ if TO_THE_RIGHT[i] => format!("{:>1$}", cell, widths[i]),
                _ => fill(cell, widths[i]),
            };
            line.push_span(Span::styled(text, style(i)));
            line.push_span(Span::raw(if i < 10 { " " } else { "" }));
        }
        line
    };
    let of_worker = |(row, worker): (&[String; 11], &WorkerStatus)| {
        line(row, &|i| if i == 1 { look(&worker.state) } else { Style::new() })
    };
    Table {
        names: line(&NAMES.map(String::from), &|_| FAINT.patch(BOLD)),
        rows: cells.iter().zip(&stats.worker_status).map(of_worker).collect(),
    }
}

fn row(model: &Model, stats: &Stats, w: &WorkerStatus, now: SystemTime) -> [String; 11] {
    let is_aside = stats.rollout.as_ref().is_some_and(|r| notes::is_scouting(r) && r.phase == w.phase && !w.booted);
    let dash = || String::from("-");
    let load = w.app_pid.and_then(|pid| model.loads.get(&pid));
    let exit = w.last_exit.as_deref().filter(|_| !is_aside);
    let words: Vec<_> = [exit, w.last_status.as_deref()].into_iter().flatten().map(inline).collect();
    [
        if is_aside { dash() } else { w.index.to_string() },
        cut(&w.state, 9),
        name(&w.release),
        w.phase.to_string(),
        w.app_pid.or(w.pid).map_or_else(dash, |pid| pid.to_string()),
        age(w.started_at, now),
        w.boot_us.map_or_else(dash, |us| seconds(us / 1000)),
        load.map_or_else(dash, |load| size(load.bytes)),
        load.and_then(|Load { percent, .. }| *percent).map_or_else(dash, |percent| format!("{percent:.1}")),
        w.crashes.to_string(),
        words.join("; "),
    ]
}

/// Bytes in at most five columns, binary units.
pub(super) fn size(bytes: u64) -> String {
    const KIB: f64 = 1024.0;
    let kib = bytes as f64 / KIB;
    match kib {
        ..1000.0 => format!("{kib:.0}K"),
        ..10_000.0 => format!("{:.1}M", kib / KIB),
        ..1_000_000.0 => format!("{:.0}M", kib / KIB),
        ..10_000_000.0 => format!("{:.1}G", kib / KIB / KIB),
        _ => format!("{:.0}G", kib / KIB / KIB),
    }
}
