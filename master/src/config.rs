//! The file of `--config`: TOML whose keys are the long options.
//!
//! What is read here are the same words that would stand on the command line, each tried with its option's own parser, so
//! that nothing is said twice about what an option takes. Every mistake in the file is told, with its line.

use std::any::TypeId;
use std::path::Path;
use std::time::Duration;

use clap::error::{ContextKind, ContextValue};
use clap::{Arg, ArgAction, Command};
use nix::sys::signal::Signal;
use proto::Surge;
use toml::de::{DeTable, DeValue};

/// One key of the file.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// The option's id, which is its name with underscores.
    pub(crate) id: String,
    /// Counted from 1.
    pub(crate) line: usize,
    /// As they would stand on the command line: `--workers=4`, and COMMAND's as they are.
    pub(crate) words: Vec<String>,
}

/// What a key's value is in TOML.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Flag,
    Number,
    Text,
    /// A string, or a number of something.
    Either,
    List,
    /// A list of `K=V`, or a table.
    Table,
    Command,
}

/// The options that only a command line has.
const NO_KEYS: [&str; 4] = ["config", "check_config", "help", "version"];

/// Reads the file.
///
/// # Errors
/// A sentence for each mistake, in the order of the lines.
pub(crate) fn read(path: &Path, options: &Command) -> Result<Vec<Entry>, Vec<String>> {
    let file = path.display().to_string();
    let bytes = std::fs::read(path).map_err(|error| vec![format!("cannot read the configuration {file}: {error}")])?;
    let text = String::from_utf8(bytes).map_err(|_| vec![format!("{file} is not UTF-8 text, as TOML has to be")])?;
    Reader { file: &file, text: &text, options }.read()
}

struct Reader<'a> {
    file: &'a str,
    text: &'a str,
    options: &'a Command,
}

/// A word for the command line, and the line of the file where it stands.
type Word = (String, usize);

impl Reader<'_> {
    fn read(&self) -> Result<Vec<Entry>, Vec<String>> {
        let table = DeTable::parse(self.text).map_err(|error| {
            let line = error.span().map_or(1, |span| self.line(span.start));
            vec![format!("{} line {line} is not TOML: {}", self.file, error.message())]
        })?;
        let mut keys: Vec<_> = table.get_ref().iter().collect();
        keys.sort_by_key(|(key, _)| key.span().start);
        let (mut entries, mut mistakes) = (Vec::new(), Vec::new());
        for (key, value) in keys {
            let line = self.line(key.span().start);
            match self.entry(key.get_ref(), line, value.get_ref()) {
                Ok(entry) => entries.push(entry),
                Err(mistake) => mistakes.push(mistake),
            }
        }
        if mistakes.is_empty() { Ok(entries) } else { Err(mistakes) }
    }

    fn line(&self, offset: usize) -> usize {
        1 + self.text.bytes().take(offset).filter(|byte| *byte == b'\n').count()
    }

    fn entry(&self, key: &str, line: usize, value: &DeValue<'_>) -> Result<Entry, String> {
        let Some(option) = self.option(key) else { return Err(self.unknown(key, line, value)) };
        let words = self.words(key, option, line, value)?;
        for (word, line) in &words {
            if word.contains('\0') {
                return Err(self.at(key, *line, "has a NUL character, which no word may hold"));
            }
            if kind(option) != Kind::Command {
                self.try_out(key, word, *line)?;
            }
        }
        let words = words.into_iter().map(|(word, _)| word).collect();
        Ok(Entry { id: option.get_id().to_string(), line, words })
    }

    fn option(&self, key: &str) -> Option<&Arg> {
        self.options.get_arguments().filter(|option| is_key(option)).find(|option| name(option) == key)
    }

    fn unknown(&self, key: &str, line: usize, value: &DeValue<'_>) -> String {
        let what = format!("unknown key '{key}' in {} line {line}", self.file);
        let plain = key.trim_start_matches('-').replace('_', "-").to_lowercase();
        if NO_KEYS.contains(&plain.replace('-', "_").as_str()) {
            return format!("{what}: --{plain} is for the command line alone");
        }
        let near = self.options.get_arguments().filter(|option| is_key(option)).map(name);
        let near = near.map(|name| (strsim::jaro_winkler(&plain, name), name)).filter(|(how, _)| *how > 0.8);
        match (near.max_by(|a, b| a.0.total_cmp(&b.0)), value) {
            (Some((_, name)), _) => format!("{what}: did you mean '{name}'?"),
            (None, DeValue::Table(_)) => format!("{what}: the keys are the long options, without sections"),
            (None, _) => format!("{what}: the keys are the long options of master --help"),
        }
    }

    /// The words of one key.
    fn words(&self, key: &str, option: &Arg, line: usize, value: &DeValue<'_>) -> Result<Vec<Word>, String> {
        let kind = kind(option);
        let one = |text: &str| vec![(format!("--{key}={text}"), line)];
        match (kind, value) {
            (Kind::Flag, DeValue::Boolean(true)) => Ok(vec![(format!("--{key}"), line)]),
            (Kind::Flag, DeValue::Boolean(false)) => Ok(Vec::new()),
            (Kind::Number | Kind::Either, DeValue::Integer(number)) => Ok(one(&integer(number))),
            (Kind::Text | Kind::Either | Kind::List | Kind::Table, DeValue::String(text)) => Ok(one(text)),
            (Kind::List | Kind::Table, DeValue::Array(items)) => items
                .iter()
                .map(|item| match item.get_ref() {
                    DeValue::String(text) => Ok((format!("--{key}={text}"), self.line(item.span().start))),
                    other => Err(self.mismatch(key, self.line(item.span().start), "a string", other)),
                })
                .collect(),
            (Kind::Table, DeValue::Table(variables)) => self.variables(key, variables),
            (Kind::Command, DeValue::Array(items)) if !items.is_empty() => items
                .iter()
                .map(|item| match item.get_ref() {
                    DeValue::String(text) => Ok((text.to_string(), self.line(item.span().start))),
                    other => Err(self.mismatch(key, self.line(item.span().start), "a string", other)),
                })
                .collect(),
            (Kind::Command, DeValue::String(text)) => {
                let words: Vec<_> = text.split_whitespace().collect();
                let advice = format!("a list of words is wanted, as no shell splits them: {words:?}");
                Err(self.at(key, line, &advice))
            }
            (_, other) => Err(self.mismatch(key, line, wanted(kind, option), other)),
        }
    }

    /// `env = {K = "V"}`.
    fn variables(&self, key: &str, variables: &DeTable<'_>) -> Result<Vec<Word>, String> {
        let mut variables: Vec<_> = variables.iter().collect();
        variables.sort_by_key(|(name, _)| name.span().start);
        let read = |(name, value): (&toml::Spanned<_>, &toml::Spanned<DeValue<'_>>)| {
            let name: &std::borrow::Cow<'_, str> = name.get_ref();
            let (line, dotted) = (self.line(value.span().start), format!("{key}.{name}"));
            if self.option(name).is_some() {
                let advice = format!(
                    "whatever stands after [{key}] is a variable: the option '{name}' has to stand above it \
                     (a variable of that name is written {key} = [\"{name}=…\"])"
                );
                return Err(self.at(&dotted, line, &advice));
            }
            if name.is_empty() || name.contains('=') {
                return Err(self.at(&dotted, line, "a variable's name is not empty and has no '='"));
            }
            match value.get_ref() {
                DeValue::String(text) => Ok((format!("--{key}={name}={text}"), line)),
                other => Err(self.mismatch(&dotted, line, "a string", other)),
            }
        };
        variables.into_iter().map(read).collect()
    }

    /// Lets the option's own parser look at a word.
    fn try_out(&self, key: &str, word: &str, line: usize) -> Result<(), String> {
        let Err(error) = self.options.clone().try_get_matches_from(["master", word]) else { return Ok(()) };
        let value = word.split_once('=').map_or("", |(_, value)| value);
        let why = match (std::error::Error::source(&error), error.get(ContextKind::ValidValue)) {
            (Some(why), _) => why.to_string(),
            (None, Some(ContextValue::Strings(values))) if !values.is_empty() => values.join(" or "),
            (None, _) => "a value is wanted".into(),
        };
        Err(self.at(key, line, &format!("'{value}' will not do: {why}")))
    }

    fn at(&self, key: &str, line: usize, what: &str) -> String {
        format!("key '{key}' in {} line {line}: {what}", self.file)
    }

    fn mismatch(&self, key: &str, line: usize, wanted: &str, found: &DeValue<'_>) -> String {
        let found = match found {
            DeValue::String(text) => format!("the string {:?}", text.as_ref()),
            DeValue::Integer(number) => format!("the number {}", integer(number)),
            DeValue::Float(number) => format!("the number {}", number.as_str()),
            DeValue::Boolean(word) => format!("{word}"),
            DeValue::Datetime(_) => "a date".into(),
            DeValue::Array(items) if items.is_empty() => "an empty list".into(),
            DeValue::Array(_) => "a list".into(),
            DeValue::Table(_) => "a table".into(),
        };
        self.at(key, line, &format!("{wanted} is wanted, not {found}"))
    }
}

/// Whether the file may name this option.
pub(crate) fn is_key(option: &Arg) -> bool {
    !NO_KEYS.contains(&option.get_id().as_str())
}

/// What an option is called in the file, and in what `--check-config` prints.
pub(crate) fn name(option: &Arg) -> &str {
    option.get_long().unwrap_or_else(|| option.get_id().as_str())
}

fn kind(option: &Arg) -> Kind {
    let takes = |id: TypeId| option.get_value_parser().type_id() == id;
    match (option.get_id().as_str(), option.get_action()) {
        ("command", _) => Kind::Command,
        ("env", _) => Kind::Table,
        (_, ArgAction::SetTrue) => Kind::Flag,
        (_, ArgAction::Append) => Kind::List,
        _ if takes(TypeId::of::<u32>()) || takes(TypeId::of::<i32>()) => Kind::Number,
        _ if takes(TypeId::of::<Surge>()) || takes(TypeId::of::<u64>()) => Kind::Either,
        // `--soak 0` and `--stop-signal 15` are good; of any other number the parser says what it lacks.
        _ if takes(TypeId::of::<Duration>()) || takes(TypeId::of::<Signal>()) => Kind::Either,
        _ => Kind::Text,
    }
}

fn wanted(kind: Kind, option: &Arg) -> &'static str {
    let takes = |id: TypeId| option.get_value_parser().type_id() == id;
    match kind {
        Kind::Flag => "true or false",
        Kind::Number => "a number",
        Kind::Text => "a string",
        Kind::Either if takes(TypeId::of::<Surge>()) => "a number or a share (\"25%\")",
        Kind::Either if takes(TypeId::of::<u64>()) => "a size (\"512M\") or a number of bytes",
        Kind::Either if takes(TypeId::of::<Signal>()) => "a signal (\"TERM\")",
        Kind::Either => "a duration (\"5s\")",
        Kind::List => "a list of strings",
        Kind::Table => "a table ({K = \"V\"}) or a list ([\"K=V\"])",
        Kind::Command => "a list of words ([\"gunicorn\", \"app:app\"])",
    }
}

/// An integer in digits, whatever it was written in (`1_000`, `0x10`).
fn integer(number: &toml::de::DeInteger<'_>) -> String {
    i128::from_str_radix(number.as_str(), number.radix()).map_or_else(|_| number.to_string(), |n| n.to_string())
}

/// A setting as a line of such a file holds it. Flags and numbers are bare, lists are in brackets.
pub(crate) fn written(option: &Arg, words: &[String]) -> String {
    // A JSON string is a TOML string, but for DEL.
    let quoted = |word: &String| serde_json::Value::from(word.as_str()).to_string().replace('\x7f', "\\u007F");
    match (kind(option), words) {
        (Kind::List | Kind::Table | Kind::Command, _) => {
            format!("[{}]", words.iter().map(quoted).collect::<Vec<_>>().join(", "))
        }
        (Kind::Flag | Kind::Number, [word, ..]) => word.clone(),
        (Kind::Either, [word, ..]) if word.parse::<u64>().is_ok() => word.clone(),
        (_, words) => words.first().map(quoted).unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Cli;

    fn read(text: &str) -> Result<Vec<Entry>, Vec<String>> {
        Reader { file: "F", text, options: &Cli::options().mut_args(|arg| arg.required(false)) }.read()
    }

    fn words(text: &str) -> Vec<String> {
        read(text).unwrap_or_else(|said| panic!("{text}: {said:?}")).into_iter().flat_map(|entry| entry.words).collect()
    }

    #[test]
    fn values_become_words() {
        for (text, expected) in [
            ("workers = 4", vec!["--workers=4"]),
            ("workers = 0x10", vec!["--workers=16"]),
            ("surge = \"25%\"\nmax-unavailable = 0", vec!["--surge=25%", "--max-unavailable=0"]),
            ("surge = 2", vec!["--surge=2"]),
            ("soak = '5s'\nboot-timeout = 0", vec!["--soak=5s", "--boot-timeout=0"]),
            ("log-prefix = true\nno-rehearse = false", vec!["--log-prefix"]),
            (
                "listen = ['tcp://127.0.0.1:80', 'b=unix:///b']",
                vec!["--listen=tcp://127.0.0.1:80", "--listen=b=unix:///b"],
            ),
            ("check = 'exec:true'", vec!["--check=exec:true"]),
            ("env = ['B=2', 'A=1=1']", vec!["--env=B=2", "--env=A=1=1"]),
            ("[env]\nB = '2'\nA = '-1'", vec!["--env=B=2", "--env=A=-1"]),
            ("env.X = ''", vec!["--env=X="]),
            ("command = ['gunicorn', '-w', '1']", vec!["gunicorn", "-w", "1"]),
            ("max-memory = 300000000\nstop-signal = 'QUIT'", vec!["--max-memory=300000000", "--stop-signal=QUIT"]),
            ("name = '--x'", vec!["--name=--x"]),
            ("", vec![]),
        ] {
            assert_eq!(words(text), expected, "{text}");
        }
    }

    #[test]
    fn every_mistake_is_told_with_its_place_and_what_is_wanted() {
        for (text, said) in [
            ("\n\nworker = 4", "unknown key 'worker' in F line 3: did you mean 'workers'?"),
            ("max_unavailable = 1", "unknown key 'max_unavailable' in F line 1: did you mean 'max-unavailable'?"),
            ("--dir = 'x'", "unknown key '--dir' in F line 1: did you mean 'dir'?"),
            ("config = 'x'", "unknown key 'config' in F line 1: --config is for the command line alone"),
            (
                "check_config = true",
                "unknown key 'check_config' in F line 1: --check-config is for the command line alone",
            ),
            (
                "[rollout]\nsoak = '1s'",
                "unknown key 'rollout' in F line 1: the keys are the long options, without sections",
            ),
            ("zzz = 1", "unknown key 'zzz' in F line 1: the keys are the long options of master --help"),
            ("workers = 'four'", "key 'workers' in F line 1: a number is wanted, not the string \"four\""),
            ("workers = 1.5", "key 'workers' in F line 1: a number is wanted, not the number 1.5"),
            ("workers = 0", "key 'workers' in F line 1: '0' will not do: 0 is not in 1..=4096"),
            ("workers = 99999999999999999999999", "key 'workers' in F line 1: '99999999999999999999999' will not do: "),
            ("log-prefix = 1", "key 'log-prefix' in F line 1: true or false is wanted, not the number 1"),
            ("log-format = 'xml'", "key 'log-format' in F line 1: 'xml' will not do: text or json"),
            ("soak = 5", "key 'soak' in F line 1: '5' will not do: time unit needed"),
            ("soak = true", "key 'soak' in F line 1: a duration (\"5s\") is wanted, not true"),
            ("dir = ''", "key 'dir' in F line 1: '' will not do: a value is wanted"),
            ("dir = 1979-05-27", "key 'dir' in F line 1: a string is wanted, not a date"),
            ("dir = \"a\\u0000b\"", "key 'dir' in F line 1: has a NUL character"),
            ("listen = [\n 'tcp://127.0.0.1:80',\n 'tcp://x']", "key 'listen' in F line 3: 'tcp://x' will not do: "),
            ("listen = 80", "key 'listen' in F line 1: a list of strings is wanted, not the number 80"),
            ("check = ['exec:true', 1]", "key 'check' in F line 1: a string is wanted, not the number 1"),
            ("[env]\nPORT = 80", "key 'env.PORT' in F line 2: a string is wanted, not the number 80"),
            ("[env]\nA = '1'\nsoak = '5s'", "key 'env.soak' in F line 3: whatever stands after [env] is a variable"),
            ("env = ['=1']", "key 'env' in F line 1: '=1' will not do: K=V"),
            ("env.'A=B' = '1'", "key 'env.A=B' in F line 1: a variable's name"),
            ("command = 'gunicorn app:app'", "as no shell splits them: [\"gunicorn\", \"app:app\"]"),
            ("command = []", "key 'command' in F line 1: a list of words"),
            ("workers = ", "F line 1 is not TOML: "),
            ("workers = 1\n\nworkers = 2", "F line 3 is not TOML: duplicate key"),
        ] {
            let told = read(text).map(|entries| format!("{entries:?}")).expect_err(text);
            assert!(told.len() == 1 && told[0].contains(said), "{text}: {told:?}");
        }
        let told = read("soak = 5\nworker = 1\nsurge = 'x'").expect_err("three mistakes");
        assert_eq!(told.len(), 3, "{told:?}");
    }

    #[test]
    fn every_option_is_a_key_and_what_is_written_is_read_again() {
        let options = Cli::options();
        for (key, word) in [
            ("workers", "4"),
            ("surge", "25%"),
            ("surge", "2"),
            ("soak", "5s"),
            ("log-prefix", "true"),
            ("name", "shop"),
            ("before-boot", "echo \"a\\b\" \t\u{7f}"),
            ("listen", "tcp://127.0.0.1:80"),
            ("env", "A=\"b\""),
            ("command", "--x"),
        ] {
            let option = options.get_arguments().find(|option| name(option) == key).expect(key);
            let text = format!("{key} = {}", written(option, &[word.to_owned()]));
            let read = words(&text).join(" ");
            assert!(read.ends_with(word) || (key, read.as_str()) == ("log-prefix", "--log-prefix"), "{text}: {read}");
        }
    }
}
