//! Completions for shells: the script that a shell loads once (`ctl completions SHELL`), and the answers that it then asks
//! `ctl` for at each Tab.
//!
//! The script knows nothing by itself: it calls `ctl` with [`VARIABLE`] set, and the answer is made from the same definitions
//! that parse the command line. So a release directory is completed from what lies beside the release that the running
//! master has, and a `ctl` that is upgraded needs no new script. A Tab is never worth an error: where no master answers, the
//! directories on the disk are offered.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{CommandFactory, ValueEnum};
use clap_complete::CompleteEnv;
use clap_complete::engine::{ArgValueCompleter, CompletionCandidate, PathCompleter, ValueCompleter as _};
use clap_complete::env::{Bash, EnvCompleter, Fish, Zsh};
use nix::sys::signal::Signal;
use proto::control::{Reply, Request, Stats};

use crate::cli::{Cli, Command};
use crate::client::{Client, Heard};
use crate::exit::Failure;
use crate::locate::{self, Target};
use crate::releases;
use crate::wait::Until;

/// Set to the shell's name, it makes of `ctl` the one that answers at a Tab.
const VARIABLE: &str = "PHASED_COMPLETE";

/// How long a Tab may wait for a master that hangs.
const PATIENCE: Duration = Duration::from_millis(500);

/// A shell that can be helped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Shell {
    /// GNU bash.
    Bash,
    /// zsh.
    Zsh,
    /// fish.
    Fish,
}

/// Answers a shell at a Tab. False: no shell asks, and this is a command as any other.
pub(crate) fn answered(args: &[OsString]) -> bool {
    // The scripts put what was typed behind `--`. The variable alone, in the environment of a deploy script, must not make a
    // command into nothing. And beside what a person has typed, an error of ours would only be noise.
    locate::set(VARIABLE).is_some()
        && args.get(1).is_some_and(|word| word == "--")
        && CompleteEnv::with_factory(Cli::command)
            .var(VARIABLE)
            .try_complete(args.to_vec(), env::current_dir().ok().as_deref())
            .unwrap_or(true)
}

/// The script for a shell, for the name by which `ctl` was called: a package or a link may have given it another one.
///
/// # Errors
/// A name that is no text, or none at all.
pub(crate) fn script(shell: Shell, called: &OsStr) -> Result<String, Failure> {
    let nameless = || Failure::other(format!("'{}' is no name that a shell can complete", called.display()));
    let name = Path::new(called).file_name().and_then(OsStr::to_str).ok_or_else(nameless)?;
    let completer: &dyn EnvCompleter = match shell {
        Shell::Bash => &Bash,
        Shell::Zsh => &Zsh,
        Shell::Fish => &Fish,
    };
    let mut script = Vec::new();
    completer
        .write_registration(VARIABLE, name, name, name, &mut script)
        .map_err(|e| Failure::other(format!("the script for {name} cannot be written: {e}")))?;
    let mut script = String::from_utf8_lossy(&script).trim_start().to_owned();
    if shell == Shell::Zsh {
        // From a folder of $fpath the file runs at the first Tab: it is what completes then, beside saying who will.
        let function = format!("_clap_dynamic_completer_{}", name.replace('-', "_"));
        script.push_str(&format!("[[ $funcstack[1] == _{name} ]] && {function} || true\n"));
    }
    Ok(script)
}

/// For a release directory: those beside the master's own, with what they are for.
pub(crate) fn release_dirs() -> ArgValueCompleter {
    ArgValueCompleter::new(|typed: &OsStr| {
        let stats = stats();
        let known = stats.as_ref().map(beside).unwrap_or_default();
        let fitting = known.into_iter().filter(|(path, _)| path.as_os_str().as_bytes().starts_with(typed.as_bytes()));
        let folder = stats.as_ref().and_then(folder);
        let told = typed.is_empty() || folder.is_some_and(|f| Path::new(typed).starts_with(f));
        let mut candidates: Vec<CompletionCandidate> = fitting
            .filter(|_| told)
            .map(|(path, role)| CompletionCandidate::new(path).help(role.map(Into::into)))
            .collect();
        if candidates.is_empty() {
            candidates = PathCompleter::dir().complete(typed);
            candidates.retain(|candidate| is_plain(candidate.get_value()));
        }
        candidates
    })
}

/// bash takes what it is offered as it is: a name that would be more than a word there is not offered.
fn is_plain(name: &OsStr) -> bool {
    name.as_bytes().iter().all(|b| b.is_ascii_alphanumeric() || !b.is_ascii() || b"/._+~,@%:=-".contains(b))
}

/// For a signal: the names without SIG.
pub(crate) fn signals() -> ArgValueCompleter {
    ArgValueCompleter::new(|typed: &OsStr| {
        let names = Signal::iterator().map(|signal| signal.as_str().trim_start_matches("SIG"));
        let typed = typed.to_string_lossy().to_uppercase();
        names.filter(|name| name.starts_with(&typed)).map(CompletionCandidate::new).collect()
    })
}

/// The folder that the releases of a master lie in.
fn folder(stats: &Stats) -> Option<PathBuf> {
    Path::new(OsStr::from_bytes(&stats.release)).parent().map(Path::to_owned)
}

/// The directories that lie beside the known-good release, by name, with what a master uses them for.
fn beside(stats: &Stats) -> Vec<(PathBuf, Option<String>)> {
    let known = releases::known(stats);
    let entries = folder(stats).and_then(|folder| fs::read_dir(folder).ok());
    let entries = entries.into_iter().flatten().flatten().filter(|entry| entry.path().is_dir());
    let entries = entries.filter(|entry| is_plain(entry.path().as_os_str()));
    let role = |path: &Path| releases::role(&known, path.as_os_str().as_bytes());
    let mut found: Vec<_> = entries.map(|entry| (entry.path(), role(&entry.path()))).collect();
    found.sort();
    found
}

/// What the master says that the typed words mean, if one answers.
fn stats() -> Option<Stats> {
    let words: Vec<OsString> = env::args_os().collect();
    let name = option(&words, "--name").map(|name| name.to_string_lossy().into_owned());
    let socket = option(&words, "--socket").map(Into::into);
    let cli = Cli { socket, name, json: false, quiet: true, command: Command::Stats };
    let (socket, name) = crate::meant(&cli).ok()?;
    let found = locate::connect(&match (&socket, &name) {
        (Some(path), _) => Target::Socket(path),
        (None, Some(name)) => Target::Name(name),
        (None, None) => Target::Only,
    });
    let until = Until::within(PATIENCE);
    let mut client = Client::greet(found.ok()?, Some(&Request::Stats), false, &until).ok()?;
    match client.hear(&until).ok()? {
        Heard::Reply(reply) => match *reply {
            Reply::Stats(stats) => Some(*stats),
            _ => None,
        },
        _ => None,
    }
}

/// The value of an option in a line that is not finished yet, and which clap would therefore refuse.
fn option(words: &[OsString], name: &str) -> Option<OsString> {
    let equals = format!("{name}=");
    words.iter().enumerate().find_map(|(n, word)| match word.as_bytes().strip_prefix(equals.as_bytes()) {
        Some(value) => Some(OsStr::from_bytes(value).to_owned()),
        None if word == name => words.get(n + 1).cloned(),
        None => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_found_in_a_line_that_is_not_finished() {
        let words: Vec<OsString> =
            ["ctl", "--socket", "/a b", "--name=x", "reload-dir", "--socket"].map(Into::into).into();
        assert_eq!(option(&words, "--socket"), Some("/a b".into()));
        assert_eq!(option(&words, "--name"), Some("x".into()));
        assert_eq!(option(&words[5..], "--socket"), None);
    }

    #[test]
    fn a_script_is_for_the_name_that_was_called() {
        for shell in Shell::value_variants() {
            let script = script(*shell, OsStr::new("/usr/bin/phased-ctl")).unwrap();
            assert!(script.contains("phased-ctl") && script.contains(VARIABLE), "{script}");
            assert!(!script.contains("/usr/bin"), "it is to be found in PATH: {script}");
        }
        assert!(script(Shell::Bash, OsStr::new("")).is_err());
        assert!(script(Shell::Bash, OsStr::from_bytes(b"c\xfftl")).is_err());
    }
}
