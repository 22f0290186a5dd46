//! The command line, and the request that each command becomes.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueHint};
use nix::sys::signal::Signal;
use proto::control::{self, Request, Scale};
use proto::{Slot, Surge};

use crate::completions::{self, Shell};
use crate::exit::Failure;
use crate::exporter::LISTEN;

/// Where the options that every command has stand in its help.
const EVERY: &str = "Options of every command";

const HELP: &str = include_str!("help.txt");

/// What was typed.
#[derive(Debug, Parser)]
#[command(name = "ctl", version, override_help = HELP, arg_required_else_help = true)]
pub(crate) struct Cli {
    /// The master's control socket [env: PHASED_SOCKET]
    #[arg(long, global = true, value_name = "PATH", value_hint = ValueHint::AnyPath, help_heading = EVERY)]
    pub(crate) socket: Option<PathBuf>,
    /// The master of this name [env: PHASED_NAME]
    #[arg(long, global = true, value_name = "NAME", value_parser = name, help_heading = EVERY)]
    pub(crate) name: Option<String>,
    /// Print exactly one JSON document on stdout (events: one a line)
    #[arg(long, global = true, help_heading = EVERY)]
    pub(crate) json: bool,
    /// Print errors and what was asked for only
    #[arg(long, global = true, help_heading = EVERY)]
    pub(crate) quiet: bool,
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Bring what the master's --dir names now into every slot, and wait for the end
    ///
    /// Slot by slot, a new worker is booted beside the old one; only when it is ready is the old one let go. Code
    /// that does not boot is refused: what it had replaced is put back, its own error is printed, and the exit
    /// code is 3. What is not said here is as the master was told at its start.
    PhasedRestart(PhasedRestart),
    /// Boot and check a release off-traffic, and touch nothing else
    ///
    /// One worker of what the master's --dir (or DIR) names now is booted on private listeners, gets the master's
    /// --check, and is ended. No user's request reaches it. Exit code 0: it passed; 3: it would be refused, and why.
    Rehearse {
        /// Another directory than the master's --dir
        #[arg(add = completions::release_dirs())]
        dir: Option<PathBuf>,
    },
    /// Let the running rollout finish the slots under way and take on no other
    ///
    /// Returns when they are through; `ctl resume` lets it go on, `ctl abort` undoes it. Meanwhile a new worker that
    /// dies still fails the rollout, and nothing is promoted.
    Pause,
    /// Let a paused rollout go on
    Resume,
    /// Keep the release that was promoted with --confirm-within
    ///
    /// Without it, the master rolls back by itself when the time is over.
    Confirm,
    /// End the running rollout and put back what it replaced
    Abort,
    /// Go back: from a held release to the known-good one, else to the release before this one
    Rollback,
    /// Trust what --dir (or DIR) names now, for every later spawn; restarts nothing
    #[command(alias = "reload-worker-directory")]
    ReloadDir {
        /// Another directory than the master's --dir
        #[arg(add = completions::release_dirs())]
        dir: Option<PathBuf>,
    },
    /// Print one line; exit code 0 steady or held, 4 degraded, 5 in motion, 7 no master
    Status,
    /// Print everything, as a table
    Stats,
    /// Show everything on the whole screen, drawn anew each second, with keys to act
    ///
    /// The slots with the memory and CPU time of their apps, the rollout's steps, the last boot failure. Keys scale, abort
    /// and begin a phased restart, each after a yes; leaving (q) ends nothing but the view.
    Watch {
        /// Between two looks (300ms, 5s, 2m), 100ms at least
        #[arg(long, value_name = "D", default_value = "1s", value_parser = interval)]
        interval: Duration,
    },
    /// Print the last boot failure, whole
    Report,
    /// Print what happened lately; with --json one document a line
    ///
    /// A master keeps its last 512 events. Each has a number, and whoever goes on after the last number that it has seen
    /// misses nothing, or is told that it does. README lists the types; ignore those that you do not know.
    Events {
        /// Print what happens from now on, until Ctrl-C; a master that takes this one's place is followed, too
        #[arg(long)]
        follow: bool,
        /// Begin behind the event of this number; 0: with all that is kept
        #[arg(long, value_name = "NUMBER")]
        after: Option<u64>,
        /// For bug reports: each step of the master's rollout state machine from now on instead
        #[arg(long, conflicts_with_all = ["follow", "after"])]
        steps: bool,
    },
    /// Print the rollouts that have ended, the latest last
    History {
        /// No more than so many
        #[arg(short = 'n', long, value_name = "N", default_value_t = 20)]
        lines: usize,
    },
    /// Print the releases that the master knows, and what for
    ///
    /// In use is what runs, what a crashed worker comes back with, what --dir names now, and what `ctl rollback` would go
    /// back to next.
    Releases {
        /// Print only those in use, one path a line: what a script that prunes must not delete
        #[arg(long)]
        in_use: bool,
    },
    /// Print what Prometheus collects, as text
    ///
    /// In the format of Prometheus, for node_exporter's textfile collector, with the `# EOF` of OpenMetrics; README lists the
    /// names.
    Metrics {
        /// In the format of OpenMetrics, by the letter
        #[arg(long)]
        openmetrics: bool,
    },
    /// Serve the same over HTTP at /metrics, and at /healthz whether it is well with the site
    ///
    /// Each scrape asks the master. While none answers, phased_up is 0 and /healthz says 503. TERM or Ctrl-C ends it.
    Exporter {
        /// The address to listen on, with port 0 for one of the kernel's choice
        #[arg(long, value_name = "IP:PORT", default_value_t = LISTEN)]
        listen: SocketAddr,
    },
    /// Change the number of workers
    Scale {
        /// This many, or so many more or fewer
        #[arg(value_name = "N|+N|-N", value_parser = scale, allow_hyphen_values = true)]
        to: Scale,
    },
    /// Replace one slot's worker
    Restart {
        /// The slot, from 0
        slot: u32,
    },
    /// Send a signal to every app
    Signal {
        /// Its name (HUP, SIGHUP) or number
        #[arg(value_name = "SIG", value_parser = signal, add = completions::signals())]
        signal: i32,
    },
    /// Replace the master by the program that now lies at its path; the workers stay
    ///
    /// The new program, started with the master's own arguments, first proves that it can take over; if it cannot,
    /// nothing happened and its words are printed. Then it replaces the master under the same pid, no request is
    /// lost, and this command says which version answers. A master of another protocol is asked as well.
    Upgrade,
    /// End the master and leave the workers to the next one
    ///
    /// They serve on and are taken back by the next master that is started in the same way. If none comes within the
    /// master's --orphan-timeout, they let their requests finish and end.
    Detach,
    /// Let every app finish, then end the master
    ///
    /// A master of another protocol is asked as well.
    Stop,
    /// Kill every app and end the master
    Halt,
    /// Print the completion of ctl's commands and options for a shell
    ///
    /// bash: `source <(ctl completions bash)` in ~/.bashrc. zsh: `source <(ctl completions zsh)` in ~/.zshrc, after compinit.
    /// fish: `ctl completions fish | source` in config.fish. Releases are completed from what lies beside the master's own.
    Completions {
        /// bash, zsh or fish
        #[arg(value_enum, hide_possible_values = true)]
        shell: Shell,
    },
}

impl Command {
    /// Whether it changes something: then its exit code is about that, and not about what could be printed.
    pub(crate) fn acts(&self) -> bool {
        !matches!(
            self,
            Self::Status
                | Self::Stats
                | Self::Watch { .. }
                | Self::Report
                | Self::Events { .. }
                | Self::History { .. }
                | Self::Releases { .. }
                | Self::Metrics { .. }
                | Self::Exporter { .. }
                | Self::Completions { .. }
        )
    }
}

/// How to restart.
#[derive(Debug, Args)]
pub(crate) struct PhasedRestart {
    /// Use DIR instead of the master's --dir, for this rollout only
    #[arg(long, value_name = "DIR", add = completions::release_dirs())]
    pub(crate) dir: Option<PathBuf>,
    /// Do nothing if the release runs already (exit code 0) or was refused before (exit code 3)
    #[arg(long)]
    pub(crate) if_new: bool,
    /// Return as soon as the master has begun
    #[arg(long, conflicts_with = "timeout")]
    pub(crate) no_wait: bool,
    /// Wait no longer than D (300ms, 5s, 2m); the rollout goes on, exit code 6
    #[arg(long, value_name = "D", value_parser = duration)]
    pub(crate) timeout: Option<Duration>,
    /// Extra workers allowed meanwhile: a number, or a share of the slots
    #[arg(long, value_name = "N|P%", value_parser = surge)]
    pub(crate) surge: Option<Surge>,
    /// Slots that may be without a ready worker meanwhile
    #[arg(long, value_name = "N")]
    pub(crate) max_unavailable: Option<u32>,
    /// Expose the new release without the rehearsal that a master with --check makes first
    #[arg(long)]
    pub(crate) no_rehearse: bool,
    /// Replace N slots first and watch them before any other (0: all alike)
    #[arg(long, value_name = "N")]
    pub(crate) canary: Option<u32>,
    /// For how long they are watched (300ms, 5s, 2m; 0: only until they are ready)
    #[arg(long, value_name = "D", value_parser = duration)]
    pub(crate) canary_soak: Option<Duration>,
    /// Quiet time after the last worker is ready (300ms, 5s, 2m; 0 for none)
    #[arg(long, value_name = "D", value_parser = duration)]
    pub(crate) soak: Option<Duration>,
    /// Do not promote the new release: crashed workers come back with the old one until reload-dir
    #[arg(long)]
    pub(crate) hold: bool,
    /// Roll back by itself unless `ctl confirm` comes within D after the promotion
    #[arg(long, value_name = "D", value_parser = some_duration, conflicts_with = "hold")]
    pub(crate) confirm_within: Option<Duration>,
}

/// Reads the command line.
///
/// # Errors
/// clap's: usage errors, and the texts of `--help` and `--version`.
pub(crate) fn parse(args: &[OsString]) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(args)
}

/// The request that a command becomes.
///
/// # Errors
/// Code 1 when the current directory, in which a relative DIR stands, is gone.
pub(crate) fn request(command: &Command) -> Result<Request, Failure> {
    Ok(match command {
        Command::PhasedRestart(options) => Request::PhasedRestart(control::PhasedRestart {
            dir: options.dir.as_deref().map(absolute).transpose()?,
            hold: options.hold,
            surge: options.surge,
            max_unavailable: options.max_unavailable,
            soak_ms: options.soak.map(millis),
            no_rehearse: options.no_rehearse,
            canary: options.canary,
            canary_soak_ms: options.canary_soak.map(millis),
            confirm_within_ms: options.confirm_within.map(millis),
            if_new: options.if_new,
        }),
        Command::Rehearse { dir } => Request::Rehearse(dir.as_deref().map(absolute).transpose()?),
        Command::Pause => Request::Pause,
        Command::Resume => Request::Resume,
        Command::Confirm => Request::Confirm,
        Command::Abort => Request::Abort,
        Command::Rollback => Request::Rollback,
        Command::ReloadDir { dir } => Request::ReloadDir(dir.as_deref().map(absolute).transpose()?),
        Command::Status | Command::Stats | Command::History { .. } | Command::Releases { .. } => Request::Stats,
        Command::Watch { .. } => Request::Stats,
        // What it prints depends on no master.
        Command::Completions { .. } => Request::Stats,
        Command::Report => Request::Report,
        Command::Metrics { .. } | Command::Exporter { .. } => Request::Metrics,
        Command::Events { steps: true, .. } => Request::Events,
        Command::Events { follow, after, .. } => {
            Request::Happenings { after: after.or((!follow).then_some(0)), follow: *follow }
        }
        Command::Scale { to } => Request::Scale(*to),
        Command::Restart { slot } => Request::Restart(Slot(*slot)),
        Command::Signal { signal } => Request::Signal(*signal),
        Command::Upgrade => Request::Upgrade,
        Command::Detach => Request::Detach,
        Command::Stop => Request::Stop,
        Command::Halt => Request::Halt,
    })
}

fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|e| format!("{e}; write it as 300ms, 5s or 2m"))
}

/// A time in which something is to happen: with none at all it never could.
fn some_duration(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        Duration::ZERO => Err("nothing could be confirmed in no time; leave the option out, or give more".into()),
        time => Ok(time),
    }
}

/// Between two looks of `watch`.
fn interval(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        time if time < Duration::from_millis(100) => Err("100ms at least: nobody sees more".into()),
        time if time > Duration::from_secs(86_400) => Err("a day at most".into()),
        time => Ok(time),
    }
}

/// Rounded up: a time that was asked for is never dropped.
fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}

fn surge(text: &str) -> Result<Surge, String> {
    text.parse()
}

/// A name is a file's name: the socket is NAME.sock.
pub(crate) fn name(text: &str) -> Result<String, String> {
    if text.is_empty() || text.contains('/') {
        return Err("a name is neither empty nor a path; for a path use --socket".into());
    }
    Ok(text.into())
}

/// `scale`'s word: `4`, `+1`, `-1`.
fn scale(text: &str) -> Result<Scale, String> {
    let (make, digits): (fn(u32) -> Scale, &str) = match text.as_bytes().first() {
        Some(b'+') => (Scale::Up, &text[1..]),
        Some(b'-') => (Scale::Down, &text[1..]),
        _ => (Scale::To, text),
    };
    // `parse` itself would take a second sign.
    if !digits.starts_with(|c: char| c.is_ascii_digit()) {
        return Err("a number is wanted, or one with + or - before it".into());
    }
    digits.parse().map(make).map_err(|e| e.to_string())
}

/// A signal's name, with or without SIG, in any case; or its number.
fn signal(text: &str) -> Result<i32, String> {
    const LAST: i32 = 64;
    if let Ok(number) = text.parse::<i32>() {
        return if (1..=LAST).contains(&number) {
            Ok(number)
        } else {
            Err(format!("a signal's number is from 1 to {LAST}"))
        };
    }
    let upper = text.to_ascii_uppercase();
    let full = if upper.starts_with("SIG") { upper } else { format!("SIG{upper}") };
    Signal::from_str(&full).map(|s| s as i32).map_err(|_| "no signal of that name; `kill -l` lists them".into())
}

/// A directory as the master can find it: made absolute here, because the master has another current
/// directory, and with its symlinks, because the master resolves them.
fn absolute(dir: &Path) -> Result<Vec<u8>, Failure> {
    let absolute = std::path::absolute(dir).map_err(|e| {
        let reason = format!("'{}' stands in the current directory, which cannot be read: {e}", dir.display());
        Failure::other(format!("{reason}; give an absolute path"))
    })?;
    Ok(absolute.into_os_string().into_vec())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn asked(words: &[&str]) -> Request {
        let args: Vec<OsString> = std::iter::once("ctl").chain(words.iter().copied()).map(OsString::from).collect();
        request(&parse(&args).unwrap().command).unwrap()
    }

    fn usage(words: &[&str]) -> String {
        let args: Vec<OsString> = std::iter::once("ctl").chain(words.iter().copied()).map(OsString::from).collect();
        parse(&args).unwrap_err().to_string()
    }

    #[test]
    fn clap_is_content() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_and_option_stands_in_the_help() {
        let command = Cli::command();
        for sub in command.get_subcommands() {
            for name in std::iter::once(sub.get_name()).chain(sub.get_all_aliases()) {
                assert!(HELP.contains(name), "{name}");
            }
            assert!(sub.get_about().is_some(), "{}", sub.get_name());
        }
        for option in command.get_arguments().filter_map(|a| a.get_long()) {
            assert!(HELP.contains(&format!("--{option}")), "{option}");
        }
    }

    #[test]
    fn the_help_fits_a_screen() {
        assert!(HELP.lines().count() <= 50, "{}", HELP.lines().count());
        for line in HELP.lines() {
            assert!(line.chars().count() <= 80, "{line}");
        }
    }

    #[test]
    fn scale_takes_a_number_or_a_step() {
        assert_eq!(asked(&["scale", "4"]), Request::Scale(Scale::To(4)));
        assert_eq!(asked(&["scale", "+1"]), Request::Scale(Scale::Up(1)));
        assert_eq!(asked(&["scale", "-1"]), Request::Scale(Scale::Down(1)));
        assert_eq!(asked(&["scale", "--json", "-2"]), Request::Scale(Scale::Down(2)));
        assert_eq!(asked(&["scale", "-2", "--json"]), Request::Scale(Scale::Down(2)));
        for bad in ["x", "", "+", "-", "--1", "+-1", "1.5", "4294967296"] {
            usage(&["scale", bad]);
        }
    }

    #[test]
    fn signals_have_names_and_numbers() {
        for word in ["HUP", "SIGHUP", "hup", "sighup", "1"] {
            assert_eq!(asked(&["signal", word]), Request::Signal(1), "{word}");
        }
        assert_eq!(asked(&["signal", "64"]), Request::Signal(64));
        for bad in ["0", "65", "-1", "NOPE", "SIG", ""] {
            usage(&["signal", bad]);
        }
    }

    #[test]
    fn directories_become_absolute_and_keep_their_symlinks() {
        let cwd = std::env::current_dir().unwrap();
        let under = |rest: &str| cwd.join(rest).into_os_string().into_vec();
        assert_eq!(asked(&["reload-dir", "."]), Request::ReloadDir(Some(cwd.clone().into_os_string().into_vec())));
        assert_eq!(asked(&["reload-dir", "a/b"]), Request::ReloadDir(Some(under("a/b"))));
        assert_eq!(asked(&["reload-dir", "./a"]), Request::ReloadDir(Some(under("a"))));
        assert_eq!(asked(&["reload-worker-directory", "../a"]), Request::ReloadDir(Some(under("../a"))));
        assert_eq!(asked(&["reload-dir", "/app/current"]), Request::ReloadDir(Some(b"/app/current".to_vec())));
        assert_eq!(asked(&["reload-dir"]), Request::ReloadDir(None));
        assert_eq!(asked(&["rehearse", "a/b"]), Request::Rehearse(Some(under("a/b"))));
        assert_eq!(asked(&["rehearse"]), Request::Rehearse(None));
        usage(&["reload-dir", ""]);
    }

    #[test]
    fn a_directory_need_not_be_text() {
        let args = [b"ctl".to_vec(), b"reload-dir".to_vec(), b"/app/\xff".to_vec()].map(OsString::from_vec);
        let wanted = Request::ReloadDir(Some(b"/app/\xff".to_vec()));
        assert_eq!(request(&parse(&args).unwrap().command).unwrap(), wanted);
    }

    #[test]
    fn a_phased_restart_carries_its_options() {
        let wanted = control::PhasedRestart {
            dir: Some(b"/app/next".to_vec()),
            hold: true,
            surge: Some(Surge::Count(0)),
            max_unavailable: Some(1),
            soak_ms: Some(300),
            ..Default::default()
        };
        let words = "phased-restart --dir /app/next --hold --surge 0 --max-unavailable 1 --soak 300ms --timeout 2m";
        assert_eq!(asked(&words.split(' ').collect::<Vec<_>>()), Request::PhasedRestart(wanted));
        assert_eq!(asked(&["phased-restart"]), Request::PhasedRestart(control::PhasedRestart::default()));
        for (soak, millis) in [("0", 0), ("0s", 0), ("5s", 5000), ("2m", 120_000), ("1us", 1)] {
            let options = control::PhasedRestart { soak_ms: Some(millis), ..Default::default() };
            assert_eq!(asked(&["phased-restart", "--soak", soak]), Request::PhasedRestart(options), "{soak}");
        }
        assert!(usage(&["phased-restart", "--soak", "5"]).contains("300ms, 5s or 2m"));
        usage(&["phased-restart", "--no-wait", "--timeout", "1s"]);
    }

    #[test]
    fn a_careful_phased_restart_carries_its_options() {
        let wanted = control::PhasedRestart {
            surge: Some(Surge::Percent(25)),
            no_rehearse: true,
            canary: Some(2),
            canary_soak_ms: Some(30_000),
            confirm_within_ms: Some(300_000),
            if_new: true,
            ..Default::default()
        };
        let words =
            "phased-restart --surge 25% --no-rehearse --canary 2 --canary-soak 30s --confirm-within 5m --if-new";
        assert_eq!(asked(&words.split(' ').collect::<Vec<_>>()), Request::PhasedRestart(wanted));
        let none = control::PhasedRestart { canary: Some(0), canary_soak_ms: Some(0), ..Default::default() };
        assert_eq!(asked(&["phased-restart", "--canary", "0", "--canary-soak", "0"]), Request::PhasedRestart(none));
        let least = control::PhasedRestart { confirm_within_ms: Some(1), ..Default::default() };
        assert_eq!(asked(&["phased-restart", "--confirm-within", "1ns"]), Request::PhasedRestart(least));
    }

    #[test]
    fn what_a_phased_restart_cannot_do_is_wrong_usage() {
        for (words, said) in [
            ("--hold --confirm-within 5m", "cannot be used with"),
            ("--confirm-within 0s", "in no time"),
            ("--surge 101%", "at most 100%"),
            ("--surge=-1", "25%"),
            ("--surge 1.5", "25%"),
            ("--canary 10%", "invalid digit"),
            ("--canary-soak 5", "300ms, 5s or 2m"),
        ] {
            let error = usage(&["phased-restart"].into_iter().chain(words.split(' ')).collect::<Vec<_>>());
            assert!(error.contains(said), "{words}: {error}");
        }
    }
}
