//! Makes what an app printed harmless for a terminal, and readable.
//!
//! A release that does not boot is untrusted text: an escape sequence in it could retitle, recolour or
//! reprogram the terminal of whoever deploys it. Escape sequences go, other control characters become
//! visible, tabs and line ends stay.

/// `text` without anything that could drive a terminal.
pub(crate) fn clean(text: &str) -> String {
    // Nearly all of it is plain, and `stats` of many workers has much of it.
    if text.bytes().all(|b| matches!(b, b' '..=b'~' | b'\n' | b'\t')) {
        return text.into();
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            '\n' | '\t' => out.push(c),
            // A line end as Windows writes it.
            '\r' if rest.peek() == Some(&'\n') => {}
            '\x1b' => skip_sequence(&mut rest),
            '\u{9b}' => skip_csi(&mut rest),
            '\u{90}' | '\u{98}' | '\u{9d}' | '\u{9e}' | '\u{9f}' => skip_string(&mut rest),
            '\x7f' => out.push_str("^?"),
            '\0'..='\x1f' => {
                out.push('^');
                out.push(char::from(c as u8 + 0x40));
            }
            '\u{80}'..='\u{9f}' => out.push(char::REPLACEMENT_CHARACTER),
            // They reorder what follows on the line, the terminal's own words included.
            '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {
                out.push(char::REPLACEMENT_CHARACTER);
            }
            _ => out.push(c),
        }
    }
    out
}

type Rest<'a> = std::iter::Peekable<std::str::Chars<'a>>;

/// What follows ESC (ECMA-48 §5): a control sequence, a control string, or intermediates and a final byte.
fn skip_sequence(rest: &mut Rest<'_>) {
    match rest.peek() {
        Some('[') => {
            rest.next();
            skip_csi(rest);
        }
        Some(']' | 'P' | 'X' | '^' | '_') => {
            rest.next();
            skip_string(rest);
        }
        _ => {
            while rest.next_if(|c| matches!(c, ' '..='/')).is_some() {}
            rest.next_if(|c| matches!(c, '0'..='~'));
        }
    }
}

fn skip_csi(rest: &mut Rest<'_>) {
    while rest.next_if(|c| matches!(c, ' '..='?')).is_some() {}
    rest.next_if(|c| matches!(c, '@'..='~'));
}

/// A control string ends with BEL or ST; an unterminated one at the line's end, so that it hides no other line.
fn skip_string(rest: &mut Rest<'_>) {
    while let Some(c) = rest.next_if(|c| *c != '\n') {
        match c {
            '\x07' | '\u{9c}' => return,
            '\x1b' => {
                rest.next_if_eq(&'\\');
                return;
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::clean;

    #[test]
    fn plain_text_stays() {
        let text = "  File \"app.py\", line 3\n\tModuleNotFoundError: café ✓\n";
        assert_eq!(clean(text), text);
    }

    #[test]
    fn escape_sequences_go() {
        for (given, wanted) in [
            ("\x1b[31mred\x1b[0m", "red"),
            ("\x1b[38;5;1mred\x1b[m!", "red!"),
            ("\x1b]0;evil\x07title", "title"),
            ("\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "link"),
            ("\x1bP1$r0m\x1b\\after", "after"),
            ("\x1b(Bcharset", "charset"),
            ("\x1bcreset", "reset"),
            ("\u{9b}2Jc1", "c1"),
            ("\u{9d}0;evil\u{9c}c1", "c1"),
            ("\x1b]0;never closed\nnext line", "\nnext line"),
            ("at the end \x1b", "at the end "),
            ("at the end \x1b[", "at the end "),
        ] {
            assert_eq!(clean(given), wanted, "{given:?}");
        }
    }

    #[test]
    fn other_controls_become_visible() {
        assert_eq!(clean("bell\x07 back\x08 del\x7f nul\0"), "bell^G back^H del^? nul^@");
        assert_eq!(clean("10%\r20%\r\ndone"), "10%^M20%\ndone");
        assert_eq!(clean("\u{202e}evil\u{85}"), "\u{fffd}evil\u{fffd}");
    }

    #[test]
    fn nothing_that_drives_a_terminal_is_left() {
        for c in (0..0xa0).filter_map(char::from_u32) {
            let cleaned = clean(&format!("{c}x{c}{c}\x1b{c}[{c}m"));
            assert!(cleaned.chars().all(|c| c == '\n' || c == '\t' || !c.is_control()), "{c:?} gave {cleaned:?}");
        }
    }
}
