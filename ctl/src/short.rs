//! `status`: one line.

use std::fmt::Write;
use std::time::SystemTime;

use proto::control::Stats;

use crate::clean::clean;
use crate::notes;
use crate::render::{inline, text};

/// The line. `now` is for ages.
pub(crate) fn status(s: &Stats, now: SystemTime) -> String {
    // Which releases serve, by how many of the slots.
    let mut serving: Vec<(&[u8], u32, u32)> = Vec::new();
    for w in s.worker_status.iter().filter(|w| w.booted && w.state == "ready") {
        match serving.iter_mut().find(|(release, phase, _)| *release == w.release && *phase == w.phase.0) {
            Some((_, _, count)) => *count += 1,
            None => serving.push((&w.release, w.phase.0, 1)),
        }
    }
    let on = match serving.as_slice() {
        [] => format!("{} (phase {})", text(&s.release), s.phase),
        [(release, phase, _)] => format!("{} (phase {phase})", text(release)),
        several => several
            .iter()
            .map(|(release, phase, count)| format!("{} (phase {phase}) ×{count}", text(release)))
            .collect::<Vec<_>>()
            .join(" and "),
    };
    let (name, state) = (clean(&s.name), clean(&s.state));
    let good = match serving.as_slice() {
        [(release, _, _)] if *release != s.release && s.rollout.is_none() => {
            format!("; respawns use {}", text(&s.release))
        }
        _ => String::new(),
    };
    let detail = notes::detail(s).map_or_else(String::new, |d| format!(" ({d})"));
    let mut line = format!("{name}: {state}{detail}, {}/{} workers on {on}{good}", s.booted_workers, s.workers);
    asides(&mut line, s, now);
    line.push('\n');
    line
}

/// What somebody may have to do something about.
fn asides(line: &mut String, s: &Stats, now: SystemTime) {
    if s.release_gone {
        let _ = write!(line, "; the directory {} is gone", text(&s.release));
    }
    if let Some(confirm) = &s.confirm {
        let _ = write!(line, "; confirm {}", notes::confirm(confirm, now));
    }
    if s.dir_target.is_none() {
        line.push_str("; dir cannot be resolved");
    }
    if let Some(drift) = notes::drift(s).filter(|d| d.known.is_none()) {
        let _ = write!(line, "; dir names {}", text(drift.target));
        if let Some(refused) = drift.refused {
            let _ = write!(line, ", {} ({})", notes::refused(refused, now), notes::why(refused));
        }
    }
    if let Some(trouble) = &s.state_trouble {
        let _ = write!(line, "; trouble with the state folder: {}", inline(trouble));
    }
}
