//! The command line of `master`: what was asked for, checked as far as that needs no file.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, bail};
use clap::Parser;
use nix::sys::signal::Signal;
use proto::worker::Ready;
use rollout::MAX_WORKERS;

use crate::address::Address;

/// Changes the code under a running application without dropping a request, and refuses code that does not boot.
#[derive(Debug, Parser)]
#[command(
    name = "master",
    version,
    max_term_width = 110,
    override_usage = "master --dir DIR [options] [-- COMMAND [ARG]...]",
    after_help = "Signals: TERM, INT stop · QUIT halt · USR1 phased restart · TTIN, TTOU one worker more, fewer.\n\
                  Exit codes: 0 stopped · 1 failure · 2 usage · 3 no worker could boot at first start.\n\
                  Example: master --dir /app/current --listen tcp://127.0.0.1:8080 --workers 4 -- gunicorn -w 1 app:app"
)]
pub(crate) struct Cli {
    /// The app's directory, usually a symlink to a release
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: PathBuf,

    /// What to run in the release, without a shell [default: the `web:` line of DIR's Procfile]
    #[arg(last = true, value_name = "COMMAND")]
    pub(crate) command: Vec<OsString>,

    /// Which Procfile line, where no COMMAND is given
    #[arg(long, value_name = "NAME", default_value = "web")]
    pub(crate) process: String,

    /// How many slots [default: $WEB_CONCURRENCY, else the number of CPUs]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_WORKERS)))]
    pub(crate) workers: Option<u32>,

    /// [NAME=]tcp://HOST:PORT or [NAME=]unix:///PATH[?mode=0660&group=NAME]; repeatable
    #[arg(long, value_name = "ADDR", value_parser = Address::parse)]
    pub(crate) listen: Vec<Address>,

    /// A variable for the app; {release}, {slot}, {phase}, {fd}, {addr} expand; repeatable
    #[arg(long, value_name = "K=V", value_parser = parse_env)]
    pub(crate) env: Vec<(OsString, OsString)>,

    /// What counts as ready: auto, accepting, notify, alive:DURATION
    #[arg(long, value_name = "HOW", default_value = "auto", value_parser = ReadyHow::parse)]
    pub(crate) ready: ReadyHow,

    /// How long a boot may take
    #[arg(long, value_name = "D", default_value = "60s", value_parser = parse_duration)]
    pub(crate) boot_timeout: Duration,

    /// Extra app instances while workers are replaced
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(0..=i64::from(MAX_WORKERS)))]
    pub(crate) surge: u32,

    /// How many slots may be without a ready worker meanwhile
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=i64::from(MAX_WORKERS)))]
    pub(crate) max_unavailable: u32,

    /// Quiet time after the last worker is ready, before a release is promoted
    #[arg(long, value_name = "D", default_value = "5s", value_parser = parse_duration)]
    pub(crate) soak: Duration,

    /// The signal that asks the app to finish
    #[arg(long, value_name = "SIG", default_value = "TERM", value_parser = parse_signal)]
    pub(crate) stop_signal: Signal,

    /// How long it may take to finish before it is killed
    #[arg(long, value_name = "D", default_value = "30s", value_parser = parse_duration)]
    pub(crate) drain_timeout: Duration,

    /// Names the control socket, the state and the log lines [default: the name of DIR's parent, or of DIR at the root]
    #[arg(long, value_name = "NAME", value_parser = parse_name)]
    pub(crate) name: Option<String>,

    /// The control socket [default: NAME.sock in the runtime directory]
    #[arg(long, value_name = "PATH")]
    pub(crate) socket: Option<PathBuf>,

    /// A folder for state, made at start; nothing is read from it yet [default: $STATE_DIRECTORY, else XDG state/NAME]
    #[arg(long, value_name = "DIR")]
    pub(crate) state: Option<PathBuf>,

    /// The log on stderr: text or json
    #[arg(long, value_name = "FORMAT", default_value = "text", value_parser = ["text", "json"])]
    pub(crate) log_format: String,

    /// Put slot and phase before each line that the app prints
    #[arg(long)]
    pub(crate) log_prefix: bool,
}

/// `--ready`, before it is known whether there are listeners.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReadyHow {
    Auto,
    Explicit(Ready),
}

/// How long an app without listeners has to live when nothing was said about readiness.
const ALIVE_BY_DEFAULT: Duration = Duration::from_secs(2);

impl ReadyHow {
    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "accepting" => Ok(Self::Explicit(Ready::Accepting)),
            "notify" => Ok(Self::Explicit(Ready::Notify)),
            _ => match text.strip_prefix("alive:").map(parse_duration) {
                Some(Ok(time)) => Ok(Self::Explicit(Ready::Alive(millis(time)))),
                Some(Err(e)) => Err(e),
                None => Err("auto, accepting, notify or alive:DURATION (alive:5s)".into()),
            },
        }
    }

    /// What the workers look for.
    pub(crate) fn resolve(self, listeners: bool) -> Ready {
        match self {
            Self::Explicit(ready) => ready,
            Self::Auto if listeners => Ready::Accepting,
            Self::Auto => Ready::NotifyOrAlive(millis(ALIVE_BY_DEFAULT)),
        }
    }
}

impl Cli {
    /// Parses the process's arguments; usage errors, `--help` and `--version` end the process here.
    pub(crate) fn from_args() -> Self {
        let mut cli = Self::parse();
        if let Err(error) = cli.check() {
            use clap::CommandFactory;
            Self::command().error(clap::error::ErrorKind::ValueValidation, error).exit();
        }
        cli
    }

    /// Works out what clap cannot, and checks what goes together.
    fn check(&mut self) -> Result<()> {
        if self.workers.is_none() {
            self.workers = web_concurrency(std::env::var("WEB_CONCURRENCY").ok())?;
        }
        if self.surge == 0 && self.max_unavailable == 0 {
            bail!("--surge 0 needs --max-unavailable 1 or more: with neither, no worker could ever be replaced");
        }
        for (n, address) in self.listen.iter().enumerate() {
            if let Some(name) = &address.name
                && self.listen[..n].iter().any(|a| a.name.as_ref() == Some(name))
            {
                bail!("--listen: two sockets are named '{name}'");
            }
        }
        if self.ready == ReadyHow::Explicit(Ready::Accepting) && self.listen.is_empty() && !inherits_sockets() {
            bail!("--ready accepting needs a socket to accept on: add --listen, or use --ready notify or alive:5s");
        }
        Ok(())
    }
}

/// `$WEB_CONCURRENCY`, where it says something.
fn web_concurrency(value: Option<String>) -> Result<Option<u32>> {
    let Some(value) = value.filter(|v| !v.trim().is_empty()) else { return Ok(None) };
    match value.trim().parse() {
        Ok(n) if (1..=MAX_WORKERS).contains(&n) => Ok(Some(n)),
        _ => bail!("$WEB_CONCURRENCY is '{value}': a number from 1 to {MAX_WORKERS} (or use --workers)"),
    }
}

/// Whether a service manager has passed sockets to this process (`sd_listen_fds(3)`).
pub(crate) fn inherits_sockets() -> bool {
    std::env::var("LISTEN_PID").is_ok_and(|pid| pid == std::process::id().to_string())
        && std::env::var("LISTEN_FDS").is_ok_and(|n| n.parse::<u32>().is_ok_and(|n| n > 0))
}

/// Milliseconds of a duration, as the protocol carries them.
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn parse_duration(text: &str) -> Result<Duration, String> {
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let duration = humantime::parse_duration(text).map_err(|e| format!("{e} (300ms, 5s, 2m)"))?;
    // A year is no timeout; beyond it deadlines could overflow.
    if duration > Duration::from_secs(365 * 24 * 3600) {
        return Err("at most a year".into());
    }
    Ok(duration)
}

fn parse_signal(text: &str) -> Result<Signal, String> {
    let upper = text.to_ascii_uppercase();
    let long = if upper.starts_with("SIG") { upper } else { format!("SIG{upper}") };
    let by_number = || text.parse::<i32>().ok().and_then(|n| Signal::try_from(n).ok());
    let signal = long.parse::<Signal>().ok().or_else(by_number);
    match signal {
        Some(Signal::SIGKILL | Signal::SIGSTOP) => Err("no app can finish on that signal".into()),
        Some(signal) => Ok(signal),
        None => Err("not a signal (TERM, QUIT, INT, USR1 …)".into()),
    }
}

fn parse_env(text: &str) -> Result<(OsString, OsString), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.into(), value.into())),
        _ => Err("K=V, with a name before the '='".into()),
    }
}

/// A name becomes part of file names.
pub(crate) fn parse_name(text: &str) -> Result<String, String> {
    let good = |c: char| c.is_alphanumeric() || "._-@+".contains(c);
    if text.is_empty() || text.len() > 64 || text.starts_with('.') || !text.chars().all(good) {
        return Err("a name has 1 to 64 letters, digits or ._-@+ and does not begin with a dot".into());
    }
    Ok(text.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn readiness_is_parsed() {
        assert_eq!(ReadyHow::parse("alive:300ms"), Ok(ReadyHow::Explicit(Ready::Alive(300))));
        assert!(ReadyHow::parse("alive").is_err());
        assert!(ReadyHow::parse("alive:soon").is_err());
        assert_eq!(ReadyHow::Auto.resolve(true), Ready::Accepting);
        assert_eq!(ReadyHow::Auto.resolve(false), Ready::NotifyOrAlive(2000));
    }

    #[test]
    fn signals_have_many_spellings() {
        for text in ["TERM", "SIGTERM", "term", "15"] {
            assert_eq!(parse_signal(text), Ok(Signal::SIGTERM), "{text}");
        }
        assert!(parse_signal("KILL").is_err());
        assert!(parse_signal("NONE").is_err());
    }

    #[test]
    fn an_empty_variable_says_nothing() {
        let parse = |text: &str| web_concurrency(Some(text.into()));
        assert_eq!(parse("").unwrap(), None);
        assert_eq!(parse("3").unwrap(), Some(3));
        assert!(parse("abc").unwrap_err().to_string().contains("WEB_CONCURRENCY is 'abc'"));
        assert!(parse("0").is_err());
    }

    #[test]
    fn names_become_file_names() {
        assert!(parse_name("shop-2").is_ok());
        for bad in ["", "..", "a/b", ".x", "a b"] {
            assert!(parse_name(bad).is_err(), "{bad}");
        }
    }
}
