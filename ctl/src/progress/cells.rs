//! Text for a terminal's cells: how wide it is, where it is cut, and how a worker's state looks.

use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use crate::render::{inline, text};

/// What goes on as it should.
pub(crate) const GOOD: Style = Style::new().fg(Color::Green);

/// What is under way.
pub(crate) const MOVING: Style = Style::new().fg(Color::Yellow);

/// What is wrong.
pub(crate) const BAD: Style = Style::new().fg(Color::Red);

/// What matters less.
pub(crate) const FAINT: Style = Style::new().add_modifier(Modifier::DIM);

/// What matters more.
pub(crate) const BOLD: Style = Style::new().add_modifier(Modifier::BOLD);

/// How a worker's or a master's state looks.
pub(crate) fn look(state: &str) -> Style {
    match state {
        "ready" | "steady" | "promoted" => GOOD,
        "booting" | "rolling" | "soaking" | "held" | "stopping" => MOVING,
        "backoff" | "degraded" | "rolling_back" | "aborted" => BAD,
        "draining" => FAINT,
        _ => Style::new(),
    }
}

/// Columns.
pub(crate) fn width(text: &str) -> usize {
    text.width()
}

/// Text in one line, cut where it is wider than `columns`.
pub(crate) fn cut(text: &str, columns: usize) -> String {
    shortened(&inline(text), columns)
}

fn shortened(text: &str, columns: usize) -> String {
    if text.width() <= columns {
        return text.into();
    }
    let mut out = String::new();
    let mut left = columns.saturating_sub(1);
    for c in text.chars() {
        let wide = c.width().unwrap_or(0);
        if wide > left {
            break;
        }
        left -= wide;
        out.push(c);
    }
    if columns > 0 {
        out.push('…');
    }
    out
}

/// The same, cut at its beginning: of a path, the end tells more.
pub(crate) fn cut_start(text: &str, columns: usize) -> String {
    let text = inline(text);
    if text.width() <= columns {
        return text;
    }
    let mut left = columns.saturating_sub(1);
    let mut from = text.len();
    for (at, c) in text.char_indices().rev() {
        let wide = c.width().unwrap_or(0);
        if wide > left {
            break;
        }
        left -= wide;
        from = at;
    }
    if columns > 0 { format!("…{}", &text[from..]) } else { String::new() }
}

/// Text, cut or filled up to so many columns.
pub(crate) fn fill(text: &str, columns: usize) -> String {
    let mut out = cut(text, columns);
    out.extend(std::iter::repeat_n(' ', columns.saturating_sub(out.width())));
    out
}

/// A release by the last part of its path.
pub(crate) fn name(release: &[u8]) -> String {
    let last = release.rsplit(|b| *b == b'/').find(|part| !part.is_empty()).unwrap_or(release);
    inline(&text(last))
}

/// The line of harmless text, cut to so many columns.
pub(crate) fn cut_line(line: Line<'static>, columns: usize) -> Line<'static> {
    let mut left = columns;
    let mut spans = Vec::new();
    for span in line.spans {
        if left == 0 {
            break;
        }
        let content = shortened(&span.content, left);
        left -= content.width().min(left);
        spans.push(Span::styled(content, span.style));
    }
    Line::from(spans)
}

/// A bar of `columns`, of which `done` in `of` parts are filled.
pub(crate) fn bar(done: u32, of: u32, columns: usize) -> String {
    let inside = columns.saturating_sub(2);
    let filled = if of == 0 { 0 } else { inside * (done.min(of) as usize) / (of as usize) };
    format!("[{}{}]", "#".repeat(filled), ".".repeat(inside - filled))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_cut_by_columns() {
        for (text, columns, wanted, from_start) in [
            ("release", 7, "release", "release"),
            ("release", 6, "relea…", "…lease"),
            ("release", 1, "…", "…"),
            ("release", 0, "", ""),
            ("日本語版", 8, "日本語版", "日本語版"),
            ("日本語版", 6, "日本…", "…語版"),
            ("a\tb\nc", 5, "a b c", "a b c"),
            ("\x1b[2Jab\x07", 4, "ab^G", "ab^G"),
        ] {
            assert_eq!(
                (cut(text, columns).as_str(), cut_start(text, columns).as_str()),
                (wanted, from_start),
                "{text:?}"
            );
        }
        assert_eq!(fill("日", 4), "日  ");
        assert_eq!(fill("long", 3), "lo…");
    }

    #[test]
    fn a_bar_is_as_wide_as_it_says() {
        assert_eq!(bar(1, 4, 10), "[##......]");
        assert_eq!(bar(4, 4, 10), "[########]");
        assert_eq!(bar(9, 4, 10), "[########]");
        assert_eq!(bar(0, 0, 4), "[..]");
        assert_eq!(bar(1, 2, 0), "[]");
    }

    #[test]
    fn a_release_is_known_by_the_end_of_its_path() {
        assert_eq!(name(b"/app/releases/42"), "42");
        assert_eq!(name(b"/app/releases/42/"), "42");
        assert_eq!(name(b"/"), "/");
        assert_eq!(name(b"/app/\x1b]0;evil\x07x\xff"), "x\u{fffd}");
    }
}
