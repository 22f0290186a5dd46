//! Some lines at the terminal's end that are drawn again in place.
//!
//! The cursor is never hidden and no mode stays switched: whatever ends this process, the terminal is as usable as before.

use std::io::{self, Write};

use ratatui::backend::IntoCrossterm;
use ratatui::crossterm::style::{Attribute, Print, ResetColor, SetAttribute, SetForegroundColor};
use ratatui::crossterm::terminal::{
    self, BeginSynchronizedUpdate, Clear, ClearType, DisableLineWrap, EnableLineWrap, EndSynchronizedUpdate,
};
use ratatui::crossterm::{QueueableCommand, cursor};
use ratatui::style::Modifier;
use ratatui::text::{Line, Span};

/// What is on the terminal now.
pub(super) struct Screen {
    colours: bool,
    /// The widths of the lines that were drawn last, in columns.
    drawn: Vec<usize>,
}

impl Screen {
    /// Nothing is drawn yet.
    pub(super) fn new(colours: bool) -> Self {
        Self { colours, drawn: Vec::new() }
    }

    /// Columns and lines; where nobody knows, those of the oldest terminals.
    pub(super) fn size() -> (u16, u16) {
        match terminal::size() {
            Ok((width, height)) if width > 1 && height > 1 => (width, height),
            _ => (80, 24),
        }
    }

    /// Replaces what was drawn before by text that stays and by these lines.
    pub(super) fn draw(&mut self, above: &str, lines: &[Line<'_>]) {
        let mut out = Vec::new();
        // Into memory, where nothing fails.
        let _ = self.queue(&mut out, above, lines);
        self.drawn = lines.iter().map(Line::width).collect();
        let mut stdout = io::stdout().lock();
        // A terminal that has gone away must not end the wait.
        let _ = stdout.write_all(&out).and_then(|()| stdout.flush());
    }

    fn queue(&self, out: &mut Vec<u8>, above: &str, lines: &[Line<'_>]) -> io::Result<()> {
        out.queue(BeginSynchronizedUpdate)?;
        // A terminal that has become narrower has broken them, each into so many.
        let width = usize::from(Self::size().0);
        let rows: usize = self.drawn.iter().map(|columns| columns.div_ceil(width).max(1)).sum();
        if rows > 0 {
            out.queue(cursor::MoveToPreviousLine(u16::try_from(rows).unwrap_or(u16::MAX)))?;
        }
        out.queue(Clear(ClearType::FromCursorDown))?;
        out.queue(Print(above.replace('\n', "\r\n")))?;
        // A character that the terminal takes for wider than it is counted costs the line's end and no line more.
        out.queue(DisableLineWrap)?;
        for line in lines {
            for span in &line.spans {
                self.span(out, span)?;
            }
            out.queue(Print("\r\n"))?;
        }
        out.queue(EnableLineWrap)?;
        out.queue(EndSynchronizedUpdate)?;
        Ok(())
    }

    fn span(&self, out: &mut Vec<u8>, span: &Span<'_>) -> io::Result<()> {
        let style = span.style;
        let plain = style.fg.is_none() && style.add_modifier.is_empty();
        if !self.colours || plain {
            out.queue(Print(&span.content))?;
            return Ok(());
        }
        if let Some(colour) = style.fg {
            out.queue(SetForegroundColor(colour.into_crossterm()))?;
        }
        for (modifier, attribute) in [(Modifier::BOLD, Attribute::Bold), (Modifier::DIM, Attribute::Dim)] {
            if style.add_modifier.contains(modifier) {
                out.queue(SetAttribute(attribute))?;
            }
        }
        out.queue(Print(&span.content))?.queue(SetAttribute(Attribute::Reset))?.queue(ResetColor)?;
        Ok(())
    }
}
