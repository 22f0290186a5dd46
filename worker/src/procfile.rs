//! One line of a release's Procfile, made fit for `/bin/sh -c`.
//!
//! Leading assignments go to the environment; the rest is exec'd, so that the app itself, not a shell, is the first
//! process and gets the stop signal. A line that needs the shell to stay (`&&`, `;`, `|`, `&`) is refused.

use proto::worker::Bytes;

/// What a Procfile line says.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Line {
    /// Leading assignments whose values are plain text.
    pub(crate) plain: Vec<(Bytes, Bytes)>,
    /// Leading assignments, from the first on that only the shell can evaluate (`A=$HOME/x`): name and source text.
    pub(crate) evaluated: Vec<(String, String)>,
    /// The command and its arguments, as the shell reads them.
    pub(crate) rest: String,
    /// The command, when it is plain text and can be looked up before the shell does.
    pub(crate) command: Option<String>,
}

/// Why a Procfile line cannot be run; a person reads it behind the Procfile's path and the line's name.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// There is no such line; these names exist.
    NoSuchLine(Vec<String>),
    /// There is nothing behind the name (or behind its assignments).
    Empty,
    /// It is more than one command, joined by this.
    Compound(&'static str),
    /// A quote is not closed.
    Unclosed,
}

/// Finds `NAME: command` in a Procfile's text; gives the command.
///
/// # Errors
/// [`Refusal::NoSuchLine`].
pub(crate) fn find<'t>(text: &'t str, name: &str) -> Result<&'t str, Refusal> {
    let entries = text.lines().filter_map(|l| {
        let (key, rest) = l.trim_start_matches('\u{feff}').split_once(':')?;
        let key = key.trim();
        let valid = !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
        valid.then_some((key, rest.trim()))
    });
    match entries.clone().find(|(key, _)| *key == name) {
        Some((_, command)) => Ok(command),
        None => Err(Refusal::NoSuchLine(entries.map(|(key, _)| key.to_string()).collect())),
    }
}

impl Line {
    /// What `/bin/sh -c` is to run. Assignments of `overridden` names are left to the environment.
    pub(crate) fn script(&self, overridden: impl Fn(&str) -> bool) -> String {
        let mut script = String::new();
        for (name, value) in self.evaluated.iter().filter(|(name, _)| !overridden(name)) {
            // Not `export A=$B`: some shells split that into words.
            script += &format!("{name}={value}; export {name}; ");
        }
        script + "exec " + &self.rest
    }
}

/// Takes a line's command apart.
///
/// # Errors
/// [`Refusal`], for what cannot be exec'd.
pub(crate) fn take_apart(command: &str) -> Result<Line, Refusal> {
    let mut line = Line::default();
    let mut rest = command;
    loop {
        let word = first_word(rest)?;
        let Some((name, value)) = assignment(word) else { break };
        match plain_text(value) {
            Some(value) if line.evaluated.is_empty() => line.plain.push((name.into(), value.into_bytes())),
            _ => line.evaluated.push((name.into(), value.into())),
        }
        rest = rest[word.len()..].trim_start();
    }
    // The line's own `exec` says what we do anyway, and cannot be exec'd.
    if let Some(("exec", after)) = rest.split_once(char::is_whitespace) {
        rest = after.trim_start();
    }
    if let Some(operator) = compound(rest)? {
        return Err(Refusal::Compound(operator));
    }
    let word = first_word(rest)?;
    if word.is_empty() {
        return Err(Refusal::Empty);
    }
    if let Some(keyword) = KEYWORDS.into_iter().find(|k| *k == word) {
        return Err(Refusal::Compound(keyword));
    }
    line.command = plain_text(word).filter(|w| !w.contains(['<', '>', '*', '?', '[', '#']));
    line.rest = rest.to_string();
    Ok(line)
}

/// What begins a compound command (POSIX shell, reserved words), and `cd`, which only makes sense before another one.
const KEYWORDS: [&str; 8] = ["if", "for", "while", "until", "case", "{", "!", "cd"];

/// Where the reader of shell text stands.
#[derive(Default)]
struct Quoting {
    single: bool,
    double: bool,
    backtick: bool,
    /// Open `$(` and `${`.
    open: Vec<char>,
}

impl Quoting {
    fn is_bare(&self) -> bool {
        !self.single && !self.double && !self.backtick && self.open.is_empty()
    }

    /// Takes the character at the front in; says how many bytes it and what belongs to it take.
    fn step(&mut self, rest: &str) -> usize {
        let Some(c) = rest.chars().next() else { return 0 };
        let next = rest[c.len_utf8()..].chars().next();
        match c {
            _ if self.single => self.single = c != '\'',
            '\\' => return 1 + next.map_or(0, char::len_utf8),
            '\'' if !self.double => self.single = true,
            '"' => self.double = !self.double,
            '`' => self.backtick = !self.backtick,
            '$' if matches!(next, Some('(' | '{')) => {
                self.open.push(if next == Some('(') { ')' } else { '}' });
                return 2;
            }
            '(' if !self.open.is_empty() => self.open.push(')'),
            _ if self.open.last() == Some(&c) => drop(self.open.pop()),
            _ => {}
        }
        c.len_utf8()
    }
}

/// The text up to the first blank outside quotes.
fn first_word(text: &str) -> Result<&str, Refusal> {
    let mut quoting = Quoting::default();
    let mut at = 0;
    while let Some(c) = text[at..].chars().next() {
        if quoting.is_bare() && c.is_whitespace() {
            return Ok(&text[..at]);
        }
        at += quoting.step(&text[at..]);
    }
    if quoting.is_bare() { Ok(text) } else { Err(Refusal::Unclosed) }
}

/// The first operator outside quotes that makes a line more than one command.
fn compound(text: &str) -> Result<Option<&'static str>, Refusal> {
    let mut quoting = Quoting::default();
    let mut at = 0;
    let mut before = ' ';
    while let Some(c) = text[at..].chars().next() {
        if quoting.is_bare() {
            let rest = &text[at..];
            let operator = match c {
                '#' if before.is_whitespace() => return Ok(None),
                ';' => Some(";"),
                '|' if rest.starts_with("||") => Some("||"),
                // `>|` is a redirection, as are `>&` and `<&`.
                '|' if before != '>' => Some("|"),
                '&' if rest.starts_with("&&") => Some("&&"),
                '&' if !matches!(before, '>' | '<') => Some("&"),
                '(' | ')' => Some("("),
                _ => None,
            };
            if operator.is_some() {
                return Ok(operator);
            }
        }
        let step = quoting.step(&text[at..]);
        at += step;
        before = if step > c.len_utf8() { 'x' } else { c };
    }
    if quoting.is_bare() { Ok(None) } else { Err(Refusal::Unclosed) }
}

/// `NAME=value`.
fn assignment(word: &str) -> Option<(&str, &str)> {
    let (name, value) = word.split_once('=')?;
    let first = name.bytes().next()?;
    let valid = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') && !first.is_ascii_digit();
    valid.then_some((name, value))
}

/// A word without its quotes, when it needs no shell to say what it means.
fn plain_text(word: &str) -> Option<String> {
    let mut out = String::new();
    let mut chars = word.chars();
    let (mut single, mut double) = (false, false);
    if word.starts_with('~') || word.contains(":~") {
        return None;
    }
    while let Some(c) = chars.next() {
        match c {
            '\'' if !double => single = !single,
            '"' if !single => double = !double,
            '\\' if !single => match chars.next()? {
                c if double && !"$`\"\\".contains(c) => out.extend(['\\', c]),
                c => out.push(c),
            },
            '$' | '`' if !single => return None,
            c => out.push(c),
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str, name: &str) -> Result<Line, Refusal> {
        find(text, name).and_then(take_apart)
    }

    fn one(command: &str) -> Result<Line, Refusal> {
        line(&format!("# comment\nrelease: rake\nweb:  {command}\r\n"), "web")
    }

    #[test]
    fn a_plain_line() {
        let l = one("bundle exec puma -C 'config/a b.rb'").unwrap();
        assert_eq!(l.script(|_| false), "exec bundle exec puma -C 'config/a b.rb'");
        assert_eq!(l.command.as_deref(), Some("bundle"));
        assert_eq!(one("exec puma").unwrap().script(|_| false), "exec puma");
    }

    #[test]
    fn assignments_go_to_the_environment() {
        let l = one(r#"A=b  C="d e" D='$x;' E= puma -p $PORT X=y"#).unwrap();
        let plain: Vec<_> = l.plain.iter().map(|(k, v)| [k.as_slice(), v].join(&b'=')).collect();
        assert_eq!(plain, [b"A=b".to_vec(), b"C=d e".to_vec(), b"D=$x;".to_vec(), b"E=".to_vec()]);
        assert_eq!(l.script(|_| false), "exec puma -p $PORT X=y");
    }

    #[test]
    fn what_only_the_shell_can_evaluate_is_left_to_it() {
        let l = one("A=1 B=$A/x C=2 PATH=bin:$PATH server").unwrap();
        assert_eq!(l.plain.len(), 1);
        assert_eq!(l.script(|name| name == "C"), "B=$A/x; export B; PATH=bin:$PATH; export PATH; exec server");
    }

    #[test]
    fn compound_lines_are_refused() {
        for (command, operator) in [
            ("migrate && puma", "&&"),
            ("a; b", ";"),
            ("a | tee log", "|"),
            ("a || b", "||"),
            ("a & b", "&"),
            ("(a)", "("),
            ("cd sub", "cd"),
            ("A=b cd sub && x", "&&"),
            ("if true", "if"),
        ] {
            assert_eq!(one(command), Err(Refusal::Compound(operator)), "{command}");
        }
    }

    #[test]
    fn quoted_operators_and_redirections_are_not_compound() {
        for command in [
            "sh -c 'a && b; c | d'",
            "app \"a;b\" 2>&1",
            "app -p $(cat port | head -1)",
            "app ${X:-a;b} >|log",
            r"app a\;b\&",
            "app # a; b",
            "app `cat x | y`",
            "app --url=http://h/?a#b",
        ] {
            assert!(one(command).is_ok(), "{command}: {:?}", one(command));
        }
    }

    #[test]
    fn what_is_missing_is_said() {
        assert_eq!(line("web: a\nworker: b\n", "api"), Err(Refusal::NoSuchLine(vec!["web".into(), "worker".into()])));
        assert_eq!(one(""), Err(Refusal::Empty));
        assert_eq!(one("A=b"), Err(Refusal::Empty));
        assert_eq!(one("app 'x"), Err(Refusal::Unclosed));
    }

    #[test]
    fn the_command_is_known_where_it_is_plain() {
        assert_eq!(one("'bin/my app' x").unwrap().command.as_deref(), Some("bin/my app"));
        assert_eq!(one("$APP x").unwrap().command, None);
    }
}
