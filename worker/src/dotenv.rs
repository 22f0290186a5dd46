//! `--env-file`: variables in dotenv syntax, read anew for every boot.
//!
//! Not by the crate `dotenvy`: that fills in `$NAME` from its own process's environment, which here is not the app's, and its
//! errors show the line's text, which may be a secret, and not the line's number. The syntax is the same:
//!
//! ```text
//! # a comment
//! export A=plain text   # as after a shell's `export`
//! B='as it is: $A'
//! C="filled in: ${A}, $B, \$, \n; it may go on
//! in the next line"
//! ```

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::fd::BorrowedFd;

use nix::libc;
use proto::worker::{BootSpec, Bytes};

use crate::env::{self, Env};
use crate::expand::expand;
use crate::sys;

/// An environment holds less than this (`ARG_MAX` is 2 MiB).
const MOST: u64 = 1 << 20;

/// A file that cannot be used.
#[derive(Debug)]
pub(crate) struct Trouble {
    /// It does not exist.
    pub(crate) is_missing: bool,
    /// A sentence with the file, the line and the way out.
    pub(crate) message: String,
}

/// Adds the variables of `--env-file`, if there is one, to an environment that has everything but `--env`. What the worker
/// itself tells the app (`LISTEN_FDS`, `PHASED_SOCKET`) stays as it is.
///
/// # Errors
/// [`Trouble`], and nothing has been added.
pub(crate) fn add(env: &mut Env, spec: &BootSpec, dir: BorrowedFd<'_>) -> Result<(), Trouble> {
    let Some(path) = &spec.env_file else { return Ok(()) };
    let shown = match path.first() {
        Some(b'/') => String::from_utf8_lossy(path).into_owned(),
        _ => String::from_utf8_lossy(&[&spec.release, &b"/"[..], path].concat()).into_owned(),
    };
    let text = read(path, dir).map_err(|e| match e.kind() {
        ErrorKind::NotFound => Trouble {
            is_missing: true,
            message: format!("the --env-file {shown} does not exist; deploy it with the release, or drop --env-file"),
        },
        _ => Trouble {
            is_missing: false,
            message: format!("cannot read the --env-file {shown}: {e}; check what it is and who may read it"),
        },
    })?;
    let given = |name: &str| {
        let (_, value) = spec.env.iter().rev().find(|(key, _)| key == name.as_bytes())?;
        expand(value, spec).ok()
    };
    // As the app will see them: `--env` wins over the file, the file over what was inherited.
    let outer = |name: &str, so_far: &[(String, Bytes)]| {
        let of_file = || so_far.iter().rev().find(|(key, _)| key == name).map(|(_, value)| value.clone());
        let own = env.get(name).filter(|_| env::is_own(name.as_bytes())).map(<[u8]>::to_vec);
        given(name).or(own).or_else(of_file).or_else(|| env.get(name).map(<[u8]>::to_vec))
    };
    let read = parse(&text, &outer).map_err(|(line, why)| Trouble {
        is_missing: false,
        message: format!("the --env-file {shown}, line {line}: {why}"),
    })?;
    for (key, value) in read.into_iter().filter(|(key, _)| !env::is_own(key.as_bytes())) {
        env.set(key, value);
    }
    Ok(())
}

fn read(path: &[u8], dir: BorrowedFd<'_>) -> std::io::Result<String> {
    let path = std::ffi::CString::new(path)?;
    // Not to wait for a writer, should it be a FIFO.
    let file = File::from(sys::open_at(dir, &path, libc::O_RDONLY | libc::O_NONBLOCK)?);
    if !file.metadata()?.is_file() {
        return Err(std::io::Error::other("it is not a file"));
    }
    let mut text = Vec::new();
    file.take(MOST + 1).read_to_end(&mut text)?;
    if text.len() as u64 > MOST {
        return Err(std::io::Error::other("it is larger than 1 MiB"));
    }
    String::from_utf8(text).map_err(|e| {
        let line = e.as_bytes()[..e.utf8_error().valid_up_to()].iter().filter(|b| **b == b'\n').count() + 1;
        std::io::Error::other(format!("its line {line} is not UTF-8"))
    })
}

/// The value of a variable, by its name and what the file has said so far.
type Lookup<'a> = dyn Fn(&str, &[(String, Bytes)]) -> Option<Bytes> + 'a;

/// Every assignment in order; a wrong one's line, from 1 on, and why, without the line's text.
fn parse(text: &str, lookup: &Lookup<'_>) -> Result<Vec<(String, Bytes)>, (usize, &'static str)> {
    let mut found = Vec::new();
    let text = text.trim_start_matches('\u{feff}').replace("\r\n", "\n");
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let at = text[..text.len() - rest.len()].matches('\n').count() + 1;
        let entry = rest.trim_start_matches([' ', '\t']);
        if entry.is_empty() || entry.starts_with(['#', '\n']) {
            rest = entry.split_once('\n').map_or("", |(_, rest)| rest);
            continue;
        }
        let (key, value) = key(entry).map_err(|why| (at, why))?;
        let mut reader = Reader { rest: value, value: Bytes::new(), kept: 0, found: &found, lookup };
        reader.read().map_err(|why| (at, why))?;
        rest = reader.rest;
        let value = reader.value;
        found.push((key.to_string(), value));
    }
    Ok(found)
}

/// `export NAME =`: the name, and what is behind the sign and its blanks.
fn key(entry: &str) -> Result<(&str, &str), &'static str> {
    let line = entry.split('\n').next().unwrap_or_default();
    let no_sign = "there is no `=`; write NAME=value, or `#` before a comment";
    let (left, _) = line.split_once('=').ok_or(no_sign)?;
    let value = entry[left.len() + 1..].trim_start_matches([' ', '\t']);
    let name = left.strip_prefix("export").filter(|n| n.starts_with([' ', '\t'])).unwrap_or(left).trim();
    let is_first = |c: char| c.is_ascii_alphabetic() || c == '_';
    if !name.starts_with(is_first) || !name.chars().all(|c| is_in_name(c) || c == '.') {
        return Err("what is before `=` is no variable's name; use letters, digits and `_`");
    }
    Ok((name, value))
}

fn is_in_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

/// Reads one value, to the end of its last line.
struct Reader<'t, 'l> {
    rest: &'t str,
    value: Bytes,
    /// Blanks at the value's end, from here on, are not part of it.
    kept: usize,
    found: &'l [(String, Bytes)],
    lookup: &'l Lookup<'l>,
}

impl Reader<'_, '_> {
    fn read(&mut self) -> Result<(), &'static str> {
        // Whether a `#` would begin a comment.
        let mut after_blank = true;
        while let Some(c) = self.take() {
            match c {
                '\n' => break,
                '#' if after_blank => {
                    self.rest = self.rest.split_once('\n').map_or("", |(_, rest)| rest);
                    break;
                }
                '\'' => self.single()?,
                '"' => self.double()?,
                '\\' => match self.take() {
                    None | Some('\n') => return Err("a backslash stands at its end; put quotes around a longer value"),
                    Some(c) => self.push(c),
                },
                '$' => self.variable()?,
                ' ' | '\t' => self.value.push(c as u8),
                c => self.push(c),
            }
            after_blank = matches!(c, ' ' | '\t');
            if !after_blank {
                self.kept = self.value.len();
            }
        }
        self.value.truncate(self.kept);
        if self.value.contains(&0) {
            return Err("it holds a NUL byte, which no environment can");
        }
        Ok(())
    }

    fn single(&mut self) -> Result<(), &'static str> {
        let (inner, rest) = self.rest.split_once('\'').ok_or("a single quote is not closed")?;
        self.value.extend_from_slice(inner.as_bytes());
        self.rest = rest;
        Ok(())
    }

    fn double(&mut self) -> Result<(), &'static str> {
        while let Some(c) = self.take() {
            match c {
                '"' => return Ok(()),
                '\\' => match self.take() {
                    Some('n') => self.push('\n'),
                    Some('r') => self.push('\r'),
                    Some('t') => self.push('\t'),
                    Some(c) if "\"\\$`'".contains(c) => self.push(c),
                    Some(c) => {
                        self.push('\\');
                        self.push(c);
                    }
                    None => break,
                },
                '$' => self.variable()?,
                c => self.push(c),
            }
        }
        Err("a double quote is not closed")
    }

    /// What stands behind a `$`.
    fn variable(&mut self) -> Result<(), &'static str> {
        let (braced, name) = match self.rest.strip_prefix('{') {
            Some(inner) => (true, inner),
            None => (false, self.rest),
        };
        let length = name.find(|c| !is_in_name(c)).unwrap_or(name.len());
        let is_name = length > 0 && !name.starts_with(|c: char| c.is_ascii_digit());
        let (name, behind) = name.split_at(length);
        let behind = if braced { behind.strip_prefix('}') } else { Some(behind) };
        match behind.filter(|_| is_name) {
            Some(behind) => {
                self.value.extend((self.lookup)(name, self.found).unwrap_or_default());
                self.rest = behind;
            }
            None if braced => return Err("`${` is not followed by NAME}; put single quotes around a value as it is"),
            None => self.push('$'),
        }
        Ok(())
    }

    fn take(&mut self) -> Option<char> {
        let c = self.rest.chars().next()?;
        self.rest = &self.rest[c.len_utf8()..];
        Some(c)
    }

    fn push(&mut self, c: char) {
        self.value.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<Vec<(String, String)>, (usize, &'static str)> {
        let outer = |name: &str, so_far: &[(String, Bytes)]| {
            let of_file = so_far.iter().rev().find(|(key, _)| key == name).map(|(_, value)| value.clone());
            // A home that is nobody's: what it is called must not matter.
            of_file.or_else(|| (name == "HOME").then(|| b"/home/ada".to_vec()))
        };
        let found = parse(text, &outer)?;
        Ok(found.into_iter().map(|(k, v)| (k, String::from_utf8(v).unwrap())).collect())
    }

    fn value(text: &str) -> String {
        parsed(&format!("A={text}")).unwrap().remove(0).1
    }

    #[test]
    fn values() {
        for (text, meant) in [
            ("", ""),
            ("plain", "plain"),
            ("  two words  ", "two words"),
            ("a # comment", "a"),
            ("# comment", ""),
            ("a#b", "a#b"),
            ("http://h/?a=b&c=d#e", "http://h/?a=b&c=d#e"),
            ("'$HOME # \\n'", "$HOME # \\n"),
            ("\"$HOME/x ${HOME}y\\n\\$z\\w\"", "/home/ada/x /home/aday\n$z\\w"),
            ("$HOME/bin", "/home/ada/bin"),
            ("$NONE.", "."),
            ("$5 a$ b", "$5 a$ b"),
            ("\\$HOME \\#", "$HOME #"),
            ("a'b'\"c\"d", "abcd"),
            ("\"  kept  \"  ", "  kept  "),
            ("'  '", "  "),
            ("\"{\\\"a\\\": 1}\"", "{\"a\": 1}"),
            ("'", "unclosed"),
        ] {
            match meant {
                "unclosed" => assert_eq!(parsed(&format!("A={text}")), Err((1, "a single quote is not closed"))),
                _ => assert_eq!(value(text), meant, "{text}"),
            }
        }
    }

    #[test]
    fn lines() {
        let text =
            "\u{feff}# first\r\n\r\nA=1\r\n  export B = two\r\nC=\"x\r\ny\"\n\tD='a\nb' # c\nexported=3\nE=$A$B\nA=9";
        let found = parsed(text).unwrap();
        let found: Vec<_> = found.iter().map(|(k, v)| format!("{k}={v}")).collect();
        assert_eq!(found, ["A=1", "B=two", "C=x\ny", "D=a\nb", "exported=3", "E=1two", "A=9"]);
        assert_eq!(parsed("A=\nB=2").unwrap()[1].1, "2", "an empty value ends with its line");
    }

    #[test]
    fn a_wrong_line_is_numbered_and_not_shown() {
        for (text, line, why) in [
            ("A=1\n\nsecret\n", 3, "no `=`"),
            ("A='1\n2'\n=x", 3, "no variable's name"),
            ("1A=x", 1, "no variable's name"),
            ("A B=x", 1, "no variable's name"),
            ("X=1\nA=\"secret\nB=2\n", 2, "a double quote is not closed"),
            ("A=${B:-secret}", 1, "`${` is not followed by NAME}"),
            ("A=b\\\nc", 1, "a backslash"),
            ("A=a\0b", 1, "NUL"),
        ] {
            let (at, said) = parsed(text).unwrap_err();
            assert!(at == line && said.contains(why) && !said.contains("secret"), "{text:?}: line {at}: {said}");
        }
    }
}
