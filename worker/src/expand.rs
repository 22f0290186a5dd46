//! The words that expand in COMMAND, in `--env` values and in the lines of hooks and checks, and no others: `{release}`, `{slot}`, `{phase}`,
//! `{fd}`, `{fd:NAME}`, `{addr}`, `{addr:NAME}`. `{{release}` writes the word itself. Everything else with a brace,
//! `${X}`, `{}` and JSON, passes untouched.

use std::fmt;

use proto::worker::{BootSpec, Bytes};

use crate::env::FIRST_FD;

/// A word that cannot be expanded: it names a listener that does not exist.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Unknown {
    word: String,
    names: Vec<String>,
}

impl fmt::Display for Unknown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { word, names } = self;
        if names.is_empty() {
            return write!(
                f,
                "{word} stands for a listening socket, and there is none: give --listen, or drop the word"
            );
        }
        write!(f, "{word} names no listening socket; there is {}", names.join(", "))?;
        write!(f, " (--listen NAME=ADDR gives a name; {{{word} writes the word itself)")
    }
}

/// `text` with its words expanded for this boot.
///
/// # Errors
/// [`Unknown`] for `{fd…}` and `{addr…}` of a listener that does not exist.
pub(crate) fn expand(text: &[u8], spec: &BootSpec) -> Result<Bytes, Unknown> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some(open) = rest.iter().position(|b| *b == b'{') {
        out.extend_from_slice(&rest[..open]);
        rest = &rest[open..];
        // `${fd}` is the shell's, wherever it will be expanded.
        let foreign = out.last() == Some(&b'$');
        let literal = rest.get(1) == Some(&b'{');
        let word = if foreign { None } else { Word::at(&rest[usize::from(literal)..]) };
        match word {
            Some((_, length)) if literal => {
                out.extend_from_slice(&rest[1..=length]);
                rest = &rest[1 + length..];
            }
            Some((word, length)) => {
                word.write(&rest[..length], spec, &mut out)?;
                rest = &rest[length..];
            }
            None => {
                out.push(b'{');
                rest = &rest[1..];
            }
        }
    }
    out.extend_from_slice(rest);
    Ok(out)
}

enum Word<'a> {
    Release,
    Slot,
    Phase,
    Fd(Option<&'a str>),
    Addr(Option<&'a str>),
}

impl<'a> Word<'a> {
    /// The word that `text` begins with, and its length with both braces.
    fn at(text: &'a [u8]) -> Option<(Self, usize)> {
        let close = text.iter().position(|b| *b == b'}')?;
        let inner = std::str::from_utf8(text.get(1..close)?).ok()?;
        let word = match inner {
            "release" => Self::Release,
            "slot" => Self::Slot,
            "phase" => Self::Phase,
            "fd" => Self::Fd(None),
            "addr" => Self::Addr(None),
            _ => match inner.split_once(':')? {
                ("fd", name) if is_name(name) => Self::Fd(Some(name)),
                ("addr", name) if is_name(name) => Self::Addr(Some(name)),
                _ => return None,
            },
        };
        Some((word, close + 1))
    }

    fn write(&self, word: &[u8], spec: &BootSpec, out: &mut Bytes) -> Result<(), Unknown> {
        match self {
            Self::Release => out.extend_from_slice(&spec.release),
            Self::Slot => out.extend_from_slice(spec.slot.to_string().as_bytes()),
            Self::Phase => out.extend_from_slice(spec.phase.to_string().as_bytes()),
            Self::Fd(name) => {
                let index = listener(*name, word, spec)?;
                out.extend_from_slice((FIRST_FD + index).to_string().as_bytes());
            }
            Self::Addr(name) => {
                let index = listener(*name, word, spec)?;
                out.extend_from_slice(spec.listeners[index].address.as_bytes());
            }
        }
        Ok(())
    }
}

/// What can be a listener's name; anything else (`{fd: 3}`) is somebody's own text.
fn is_name(name: &str) -> bool {
    !name.is_empty() && !name.contains(|c: char| c.is_whitespace() || c.is_control() || "\"'{,".contains(c))
}

fn listener(name: Option<&str>, word: &[u8], spec: &BootSpec) -> Result<usize, Unknown> {
    let found = match name {
        None => (!spec.listeners.is_empty()).then_some(0),
        Some(name) => spec.listeners.iter().position(|l| l.name == name),
    };
    found.ok_or_else(|| Unknown {
        word: String::from_utf8_lossy(word).into_owned(),
        names: spec.listeners.iter().map(|l| l.name.clone()).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::spec;

    fn expanded(text: &str) -> String {
        String::from_utf8(expand(text.as_bytes(), &spec()).unwrap()).unwrap()
    }

    #[test]
    fn every_word() {
        assert_eq!(expanded("{release}/bin"), "/app/releases/42/bin");
        assert_eq!(expanded("s{slot}p{phase}"), "s2p7");
        assert_eq!(expanded("{fd} {fd:web} {fd:admin}"), "3 3 4");
        assert_eq!(expanded("{addr}|{addr:admin}"), "127.0.0.1:8080|/run/admin.sock");
    }

    #[test]
    fn a_doubled_brace_writes_the_word() {
        assert_eq!(expanded("{{release}"), "{release}");
        assert_eq!(expanded("{{fd:nobody}!"), "{fd:nobody}!");
        assert_eq!(expanded("a{{slot}{slot}"), "a{slot}2");
    }

    #[test]
    fn other_braces_pass() {
        for text in
            ["{}", "${X}", "${release}", "{\"fd\": 3}", "{{ jinja }}", "{Release}", "{release", "{", "}", "{fd: 3}"]
        {
            assert_eq!(expanded(text), text);
        }
        assert_eq!(expanded("{\"dir\":\"{release}\",\"n\":{slot}}"), "{\"dir\":\"/app/releases/42\",\"n\":2}");
        assert_eq!(expand(b"\xff{slot}\xfe{\xff}", &spec()).unwrap(), b"\xff2\xfe{\xff}");
    }

    #[test]
    fn an_unknown_name_lists_the_names() {
        let text = expand(b"x{fd:api}", &spec()).unwrap_err().to_string();
        assert!(text.contains("{fd:api} names no listening socket; there is web, admin"), "{text}");
        let mut none = spec();
        none.listeners.clear();
        let text = expand(b"{addr}", &none).unwrap_err().to_string();
        assert!(text.contains("give --listen"), "{text}");
    }
}
