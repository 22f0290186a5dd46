//! Takes the command line, the environment and the file of `--config` together: the first of them that says something
//! about an option wins, and the last word is the default's.
//!
//! What the others say is put before the command line's own words, so that one parser reads everything.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{ArgMatches, FromArgMatches};
use rollout::MAX_WORKERS;

use crate::cli::Cli;
use crate::config;

/// The environment, as `std::env::var_os` tells it.
pub(crate) type Env<'a> = &'a dyn Fn(&str) -> Option<OsString>;

/// What the environment says about options: their ids, and the variables. A service manager sets the last two for this
/// service alone; `$XDG_RUNTIME_DIR` and the like are a session's, and only a part of the default.
const VARIABLES: [(&str, &str); 3] =
    [("workers", "WEB_CONCURRENCY"), ("state", "STATE_DIRECTORY"), ("socket", "RUNTIME_DIRECTORY")];

/// Where a setting came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    CommandLine,
    Environment(&'static str),
    File { file: String, line: usize },
    Default,
}

impl Origin {
    /// For a sentence about an option that need not be on the command line: ` ($WEB_CONCURRENCY)`, or nothing.
    pub(crate) fn aside(&self) -> String {
        match self {
            Self::CommandLine | Self::Default => String::new(),
            elsewhere => format!(" ({elsewhere})"),
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CommandLine => f.write_str("command line"),
            Self::Environment(key) => write!(f, "${key}"),
            Self::File { file, line } => write!(f, "{file} line {line}"),
            Self::Default => f.write_str("default"),
        }
    }
}

/// Where every setting came from, and its words.
#[derive(Debug)]
pub(crate) struct Origins {
    elsewhere: BTreeMap<String, Origin>,
    /// What the file says and the environment overrules. Nobody sees that in the file.
    overruled: BTreeMap<String, Origin>,
    matches: ArgMatches,
}

impl Origins {
    /// Where an option came from; `id` is its name with underscores.
    pub(crate) fn of(&self, id: &str) -> Origin {
        match self.elsewhere.get(id) {
            Some(origin) => origin.clone(),
            None if self.matches.value_source(id) == Some(ValueSource::CommandLine) => Origin::CommandLine,
            None => Origin::Default,
        }
    }

    /// The same for people, and where else something was said in vain.
    pub(crate) fn shown(&self, id: &str) -> String {
        let overruled = self.overruled.get(id).map(|origin| format!(", not {origin}"));
        format!("{}{}", self.of(id), overruled.unwrap_or_default())
    }

    /// Its words as they were given, or the default's.
    pub(crate) fn words(&self, id: &str) -> Vec<&OsStr> {
        self.matches.get_raw(id).into_iter().flatten().collect()
    }
}

/// Why there is nothing to start with.
#[derive(Debug)]
pub(crate) enum Wrong {
    /// The command line's fault, or no error at all: `--help`.
    Usage(Box<clap::Error>),
    /// Sentences, each for a line of its own.
    Said(Vec<String>),
}

impl Wrong {
    pub(crate) fn usage(error: impl fmt::Display) -> Self {
        Cli::options().error(ErrorKind::ValueValidation, error).into()
    }

    /// Tells the person and ends the process.
    pub(crate) fn exit(&self) -> ! {
        match self {
            Self::Usage(error) => error.exit(),
            Self::Said(_) => eprint!("{self}"),
        }
        std::process::exit(2)
    }
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(error) => error.fmt(f),
            Self::Said(sentences) => sentences.iter().try_for_each(|sentence| writeln!(f, "error: {sentence}")),
        }
    }
}

impl From<clap::Error> for Wrong {
    fn from(error: clap::Error) -> Self {
        Self::Usage(Box::new(error))
    }
}

/// Reads everything. What goes together is not checked here.
///
/// # Errors
/// The command line's own mistakes first, then all of the file's, then what only the whole can show.
pub(crate) fn gather(mut args: Vec<OsString>, env: Env<'_>) -> Result<(Cli, Origins), Wrong> {
    // Alone at first, where nothing is required yet: the rest may be in the file.
    let lenient = Cli::options().mut_args(|arg| arg.required(false));
    let given = lenient.clone().try_get_matches_from(&args)?;
    let on_command_line = |id: &str| given.value_source(id) == Some(ValueSource::CommandLine);
    let file = given.get_one::<PathBuf>("config");
    let entries = match file {
        Some(file) => config::read(file, &lenient).map_err(Wrong::Said)?,
        None => Vec::new(),
    };

    let (mut elsewhere, mut overruled) = (BTreeMap::new(), BTreeMap::new());
    let (mut words, mut command) = (Vec::new(), Vec::new());
    for (id, key) in VARIABLES {
        let Some(value) = env(key).filter(|value| !on_command_line(id) && !value.is_empty()) else { continue };
        if id == "workers" {
            let Some(workers) = web_concurrency(&value.to_string_lossy()).map_err(Wrong::usage)? else { continue };
            words.push(format!("--workers={workers}").into());
        }
        elsewhere.insert(id.to_owned(), Origin::Environment(key));
    }
    for entry in entries {
        let file = file.map(|file| file.display().to_string()).unwrap_or_default();
        let origin = Origin::File { file, line: entry.line };
        if on_command_line(&entry.id) {
            continue;
        }
        if elsewhere.contains_key(&entry.id) {
            overruled.insert(entry.id, origin);
            continue;
        }
        let given = if entry.id == "command" { &mut command } else { &mut words };
        given.extend(entry.words.into_iter().map(OsString::from));
        elsewhere.insert(entry.id, origin);
    }

    if !command.is_empty() {
        // `master --config FILE --`: an empty COMMAND is none.
        if args.last().is_some_and(|word| word == "--") {
            args.pop();
        }
        args.push("--".into());
        args.append(&mut command);
    }
    let own = args.len().min(1);
    args.splice(own..own, words);
    let matches = Cli::options().try_get_matches_from(&args)?;
    let cli = Cli::from_arg_matches(&matches)?;
    Ok((cli, Origins { elsewhere, overruled, matches }))
}

/// `$WEB_CONCURRENCY`, where it says something.
fn web_concurrency(value: &str) -> Result<Option<u32>> {
    match value.trim() {
        "" => Ok(None),
        trimmed => match trimmed.parse() {
            Ok(n) if (1..=MAX_WORKERS).contains(&n) => Ok(Some(n)),
            _ => bail!("$WEB_CONCURRENCY is '{value}': a number from 1 to {MAX_WORKERS} (or use --workers)"),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn parse(line: &str, env: &[(&str, &str)]) -> Result<(Cli, Origins), String> {
        let args = line.split(' ').map(OsString::from).collect();
        let env = |key: &str| env.iter().find(|(k, _)| *k == key).map(|(_, v)| OsString::from(v));
        gather(args, &env)
            .and_then(|(cli, origins)| match cli.check(&origins) {
                Ok(()) => Ok((cli, origins)),
                Err(error) => Err(Wrong::usage(error)),
            })
            .map_err(|wrong| wrong.to_string())
    }

    fn wrong(line: &str) -> String {
        parse(line, &[]).map(|(cli, _)| format!("{cli:?}")).expect_err(line)
    }

    fn file(text: &str) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().expect("a file");
        file.write_all(text.as_bytes()).expect("written");
        file
    }

    #[test]
    fn an_empty_variable_says_nothing() {
        let workers = |value| parse("master --dir x", &[("WEB_CONCURRENCY", value)]).map(|(cli, _)| cli.workers);
        assert_eq!(workers(""), Ok(None));
        assert_eq!(workers(" "), Ok(None));
        assert_eq!(workers("3"), Ok(Some(3)));
        assert!(workers("abc").unwrap_err().contains("WEB_CONCURRENCY is 'abc'"));
        assert!(workers("0").is_err());
    }

    #[test]
    fn the_first_that_says_something_wins() {
        let file = file("dir = \"x\"\nworkers = 2\nsoak = \"1s\"\nlog-prefix = true\n");
        let path = file.path().display().to_string();
        let line = |rest: &str| format!("master --config {path}{rest}");
        let in_file = |line| Origin::File { file: path.clone(), line };

        let (cli, origins) = parse(&line(""), &[]).unwrap();
        assert_eq!((cli.workers, cli.log_prefix, cli.surge.to_string().as_str()), (Some(2), true, "1"));
        assert_eq!([origins.of("workers"), origins.of("log_prefix")], [in_file(2), in_file(4)]);
        assert_eq!([origins.of("surge"), origins.of("name")], [Origin::Default, Origin::Default]);

        let env = [("WEB_CONCURRENCY", "3"), ("STATE_DIRECTORY", "/s")];
        let (cli, origins) = parse(&line(""), &env).unwrap();
        assert_eq!((cli.workers, origins.of("workers")), (Some(3), Origin::Environment("WEB_CONCURRENCY")));
        assert_eq!((cli.state.clone(), origins.of("state")), (None, Origin::Environment("STATE_DIRECTORY")));

        let (cli, origins) = parse(&line(" --workers 4 --state y"), &env).unwrap();
        assert_eq!((cli.workers, origins.of("workers")), (Some(4), Origin::CommandLine));
        assert_eq!((cli.state.clone(), origins.of("state")), (Some("y".into()), Origin::CommandLine));
        assert_eq!(origins.of("soak"), in_file(3));
    }

    #[test]
    fn a_list_on_the_command_line_replaces_the_files() {
        let file =
            file("dir = 'x'\nenv = {A = '1', B = '2'}\ncheck = ['exec:a', 'exec:b']\ncommand = ['-run', '--me']\n");
        let line = format!("master --config {} --env C=3", file.path().display());
        let (cli, _) = parse(&line, &[]).unwrap();
        assert_eq!(cli.env, [("C".into(), "3".into())]);
        assert_eq!(cli.check.len(), 2);
        assert_eq!(cli.command, ["-run", "--me"]);
        let (cli, origins) = parse(&format!("{line} -- other"), &[]).unwrap();
        assert_eq!((cli.command, origins.of("command")), (vec!["other".into()], Origin::CommandLine));
        assert_eq!(parse(&format!("{line} --"), &[]).unwrap().0.command, ["-run", "--me"]);
    }

    #[test]
    fn dir_is_wanted_from_somewhere() {
        assert!(wrong("master").contains("--dir"));
        let file = file("workers = 1");
        assert!(wrong(&format!("master --config {}", file.path().display())).contains("--dir"));
    }

    #[test]
    fn what_cannot_go_together_is_refused() {
        for (line, word) in [
            ("--surge 0", "--surge 0 needs --max-unavailable"),
            ("--surge 0%", "--surge 0% needs --max-unavailable"),
            ("--ready accepting", "add --listen"),
            ("--check http:/health", "add --listen"),
            ("--release-phase --before-rollout true", "--before-rollout"),
            ("--confirm-within 0", "at least 1ms"),
            ("--watchdog 0", "at least 1ms"),
            ("--max-age 0s", "at least 1ms"),
            ("--check-timeout 0", "at least 1ms"),
            ("--hook-timeout 0", "at least 1ms"),
            ("--max-memory 512", "512M"),
            ("--surge 101%", "100%"),
            ("--surge many", "25%"),
            ("--check /health", "http:/PATH"),
            ("--before-boot=", "command is wanted"),
            ("--workers 0", "0 is not in 1..=4096"),
            ("--listen a=tcp://127.0.0.1:1 --listen a=tcp://127.0.0.1:2", "named 'a'"),
        ] {
            let said = wrong(&format!("master --dir x {line}"));
            assert!(said.contains(word), "{line}: {said}");
        }
        for line in [
            "--canary-soak 1s",
            "--surge 0% --max-unavailable 1",
            "--check exec:true",
            "--check http:/up --listen tcp://127.0.0.1:1",
            "--canary-soak 0",
            "--max-memory 512M --max-age 1d --watchdog 10s --confirm-within 10m",
        ] {
            parse(&format!("master --dir x {line}"), &[]).unwrap_or_else(|said| panic!("{line}: {said}"));
        }
    }

    #[test]
    fn an_error_says_where_its_parts_stand() {
        let file = file("dir = 'x'\nsurge = 0\nbefore-rollout = 'true'\n");
        let path = file.path().display();
        assert!(wrong(&format!("master --config {path}")).contains(&format!("--surge 0 ({path} line 2) needs")));
        let said = wrong(&format!("master --config {path} --surge 1 --release-phase"));
        assert!(said.contains(&format!("--release-phase and --before-rollout ({path} line 3)")), "{said}");
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::options().debug_assert();
    }
}
