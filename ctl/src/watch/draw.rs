//! The watch's screen: from what is known to lines that fit, from the top: how the master stands, its slots, the rollout, the
//! last report, and what keys do.
//!
//! Pure. Nothing that an app or a path says reaches a cell before it was made harmless.

mod slots;

use std::time::SystemTime;

use proto::control::{LastRollout, Rollout, Stats};
use ratatui::Frame;
use ratatui::text::{Line, Span};

use super::model::Model;
use crate::notes;
use crate::progress::cells::{BAD, BOLD, FAINT, GOOD, MOVING, bar, cut, cut_line, cut_start, look, name, width};
use crate::render::{age, ending, inline, kind, seconds, text};

/// What keys do, the most important first.
const KEYS: [&str; 7] =
    ["q quit", "r phased-restart", "a abort", "+/- scale", "PgUp/PgDn report", "Up/Down slots", "Home back to the top"];

/// The widest bar, in columns.
const BAR: usize = 40;

/// Draws all of it. What is scrolled beyond its end is scrolled back to it.
pub(super) fn draw(frame: &mut Frame<'_>, model: &mut Model, now: SystemTime) {
    let area = frame.area();
    let mut scrolled = (model.slots_from, model.report_from);
    let lines = screen(model, now, usize::from(area.width), usize::from(area.height), &mut scrolled);
    (model.slots_from, model.report_from) = scrolled;
    for (y, line) in lines.into_iter().enumerate() {
        frame.buffer_mut().set_line(area.x, area.y + y as u16, &line, area.width);
    }
}

/// The lines, no more than fit.
fn screen(
    model: &Model,
    now: SystemTime,
    columns: usize,
    height: usize,
    (slots_from, report_from): &mut (usize, usize),
) -> Vec<Line<'static>> {
    let foot = foot(model, now, columns);
    let mut lines = Vec::new();
    match &model.stats {
        None => lines.push(Line::raw("no answer yet")),
        Some(stats) => {
            lines.extend(head(stats, now, columns));
            let steps = steps(stats, now, columns);
            let report = report(model, columns);
            let slots = slots::table(model, stats, now, columns);
            // The names of the columns, and a line before each part.
            let room = height.saturating_sub(lines.len() + steps.len() + foot.len() + 4);
            let (slots_room, report_room) = share(room, slots.rows.len(), report.len());
            lines.push(Line::default());
            lines.push(slots.names);
            lines.extend(part(slots.rows, slots_from, slots_room, "slot"));
            lines.push(Line::default());
            lines.extend(steps);
            if report_room > 0 {
                lines.push(Line::default());
                lines.extend(part(report, report_from, report_room, "line"));
            }
        }
    }
    // What keys do is never pushed out.
    lines.truncate(height.saturating_sub(foot.len()));
    lines.resize(height.saturating_sub(foot.len()), Line::default());
    lines.extend(foot);
    lines.truncate(height);
    lines.into_iter().map(|line| cut_line(line, columns)).collect()
}

/// How many lines each of two parts gets: what both want if there is room, else the second one a third at least.
fn share(room: usize, first: usize, second: usize) -> (usize, usize) {
    let second_least = second.min(room / 3);
    let first_room = first.min(room - second_least);
    (first_room, second.min(room - first_room))
}

/// `room` of these lines from `from` on, or, where there are not so many, the last ones; a line says how many more there are.
fn part(mut lines: Vec<Line<'static>>, from: &mut usize, room: usize, what: &str) -> Vec<Line<'static>> {
    let total = lines.len();
    if total <= room || room == 0 {
        *from = 0;
        lines.truncate(room);
        return lines;
    }
    let shown = room - 1;
    *from = (*from).min(total - shown);
    let below = total - *from - shown;
    let mut out: Vec<_> = lines.drain(*from..*from + shown).collect();
    let s = if total == 1 { "" } else { "s" };
    out.push(Line::styled(format!("… {from} above, {below} below, of {total} {what}{s}"), FAINT));
    out
}

/// A line with a word before it.
fn noted(word: &str, rest: impl Into<Span<'static>>) -> Line<'static> {
    Line::from(vec![Span::styled(format!("{word:<9}"), FAINT), rest.into()])
}

/// How the master stands.
fn head(s: &Stats, now: SystemTime, columns: usize) -> Vec<Line<'static>> {
    let state = inline(&s.state);
    let mut first = Line::from(vec![
        Span::styled(cut(&s.name, columns / 3), BOLD),
        Span::raw("  "),
        Span::styled(state.clone(), look(&s.state)),
    ]);
    if let Some(detail) = notes::detail(s) {
        first.push_span(Span::raw(format!(" ({})", inline(&detail))));
    }
    first.push_span(Span::raw(format!(
        "  {}/{} workers, {} old, phase {}, master {} up {}",
        s.booted_workers,
        s.workers,
        s.old_workers,
        s.phase,
        s.pid,
        age(s.started_at, now)
    )));
    let rest = columns.saturating_sub(9);
    let path = |bytes: &[u8]| cut_start(&text(bytes), rest);
    let mut lines = vec![first];
    if s.release_gone {
        let gone = " (the directory is gone)";
        let release = cut_start(&text(&s.release), rest.saturating_sub(gone.len()));
        lines.push(noted("release", Span::styled(format!("{release}{gone}"), BAD)));
    } else {
        lines.push(noted("release", path(&s.release)));
    }
    lines.push(dir(s, now, rest));
    if let Some(held) = &s.held {
        lines.push(noted("held", Span::styled(path(held), MOVING)));
    }
    if let Some(confirm) = &s.confirm {
        let words = format!("ctl confirm {}", inline(&notes::confirm(confirm, now)));
        lines.push(noted("confirm", Span::styled(cut(&words, rest), MOVING)));
    }
    if let Some(trouble) = &s.state_trouble {
        lines.push(noted("state", Span::styled(cut(trouble, rest), BAD)));
    }
    lines
}

/// What `dir` names, and what is known about that.
fn dir(s: &Stats, now: SystemTime, rest: usize) -> Line<'static> {
    let Some(target) = &s.dir_target else {
        return noted("dir", Span::styled(cut(&format!("{} cannot be resolved", text(&s.dir)), rest), BAD));
    };
    let Some(drift) = notes::drift(s) else {
        return noted("dir", Span::styled(cut_start(&format!("{} -> the release", text(&s.dir)), rest), GOOD));
    };
    let (words, style) = match (drift.known, drift.refused) {
        (Some(known), _) => (known.to_owned(), MOVING),
        (None, Some(refused)) => (notes::refused(refused, now), BAD),
        (None, None) => ("not deployed".into(), MOVING),
    };
    let words = format!(" ({words})");
    let to = cut_start(&text(target), rest.saturating_sub(width(&words) + 3));
    let mut line = noted("dir", format!("-> {to}"));
    line.push_span(Span::styled(words, style));
    line
}

/// How the rollout stands, or how the last one ended.
fn steps(s: &Stats, now: SystemTime, columns: usize) -> Vec<Line<'static>> {
    match (&s.rollout, &s.last_rollout) {
        (Some(run), _) => running(run, now, columns),
        (None, Some(last)) => vec![ended(last, now)],
        (None, None) => vec![Line::styled("no rollout yet", FAINT)],
    }
}

fn running(run: &Rollout, now: SystemTime, columns: usize) -> Vec<Line<'static>> {
    let (from, to) = (name(&run.from), name(&run.to));
    let since = age(run.started_at, now);
    if notes::is_rehearsal(run) {
        return vec![Line::styled(format!("rehearsal {} of {to}, off-traffic, {since}", run.id), BOLD)];
    }
    let mut all = vec![Line::styled(format!("{} {}: {from} -> {to}, {since}", kind(&run.kind), run.id), BOLD)];
    let back = run.state == "rolling_back";
    let count = if back { format!("{} to put back", run.step) } else { format!("{} of {}", run.step, run.of) };
    let room = columns.saturating_sub(width(&count) + 2).min(BAR);
    all.push(Line::from(vec![
        Span::styled(bar(run.step, run.of, room), if back { BAD } else { GOOD }),
        Span::raw(format!("  {count}")),
    ]));
    let mut stages = Line::default();
    let known = ["hook", "rehearsing", "canary", "rolling", "soaking", "draining"];
    for stage in known {
        let is_now = run.state == stage || (stage == "rolling" && run.state == "paused");
        let style = if is_now { look("rolling").patch(BOLD) } else { FAINT };
        let word = if is_now && run.state == "paused" { "paused" } else { stage };
        if !stages.spans.is_empty() {
            stages.push_span(Span::styled(" > ", FAINT));
        }
        stages.push_span(Span::styled(if is_now { format!("[{word}]") } else { word.to_owned() }, style));
    }
    if back {
        stages.push_span(Span::styled("  [rolling back]", BAD));
    } else if !known.contains(&run.state.as_str()) && run.state != "paused" {
        stages.push_span(Span::styled(format!("  [{}]", cut(&run.state, 20)), MOVING));
    }
    all.push(stages);
    all
}

fn ended(last: &LastRollout, now: SystemTime) -> Line<'static> {
    Line::from(vec![
        Span::raw(format!("last: {} {}: {} -> {}, ", kind(&last.kind), last.id, name(&last.from), name(&last.to))),
        Span::styled(inline(&last.outcome), look(&last.outcome)),
        Span::raw(format!(" after {}, {} ago", seconds(last.millis), age(last.ended_at, now))),
    ])
}

/// The last boot failure.
fn report(model: &Model, columns: usize) -> Vec<Line<'static>> {
    let Some(report) = &model.report else {
        return vec![Line::styled("no boot failure so far", FAINT)];
    };
    let headline =
        format!("last failure: {}, slot {}, {}", name(&report.release), report.slot, inline(&ending(report)));
    let mut lines = vec![Line::styled(cut(&headline, columns), BAD)];
    let output = text(&report.output);
    lines.extend(output.trim_end().lines().map(|line| Line::raw(format!("| {}", inline(line)))));
    lines
}

/// What is asked or was answered, and what keys do.
fn foot(model: &Model, now: SystemTime, columns: usize) -> Vec<Line<'static>> {
    let mut keys = String::new();
    for key in KEYS {
        let next = if keys.is_empty() { key.to_owned() } else { format!("   {key}") };
        if width(&keys) + width(&next) <= columns {
            keys.push_str(&next);
        }
    }
    let word = match (&model.about, &model.away, &model.said) {
        (Some(act), ..) => {
            let (question, choice) = (model.question(*act), " y/n");
            let question = cut(&question, columns.saturating_sub(choice.len()));
            Line::from(vec![Span::styled(question, BOLD), Span::styled(choice, BOLD.patch(MOVING))])
        }
        (None, Some((since, why)), _) => {
            let s = now.duration_since(*since).unwrap_or_default().as_secs();
            Line::styled(cut(&format!("the master is away ({s}s): {why}"), columns), BAD)
        }
        (None, None, Some((said, bad))) => Line::styled(cut(said, columns), if *bad { BAD } else { GOOD }),
        (None, None, None) => Line::default(),
    };
    vec![word, Line::styled(keys, FAINT)]
}

#[cfg(test)]
mod tests;
