//! The command line of `master`: every option, and what goes together. Each long option is a key of `--config`'s file,
//! too; where a value came from is in [`Origins`].

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, bail};
use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::{CommandFactory, Parser, ValueHint};
use nix::sys::signal::Signal;
use proto::Surge;
use proto::worker::{Check, Ready};
use rollout::MAX_WORKERS;

use crate::address::Address;
use crate::limit::Limit;
use crate::sources::{self, Origins, Wrong};
use crate::user::{self, Account, NamedGroup, Umask};
use crate::value::{self, ReadyHow};

pub(crate) use crate::value::{millis, name as parse_name};

const BOOT: &str = "Boot and stop";
const USER: &str = "User";
const CHECKS: &str = "Checks";
const ROLLOUT: &str = "Rollout";
const HOOKS: &str = "Hooks (lines for sh, run in the release)";
const LIVENESS: &str = "Liveness";
const PLACES: &str = "Places and log";

const HELP: &str = include_str!("help.txt");

/// Changes the code under a running application without dropping a request, and refuses code that does not boot.
#[derive(Debug, Parser)]
#[command(
    name = "master",
    version,
    // What comes before the options in error messages and in the man page.
    override_usage = "master --dir DIR [options] [-- COMMAND [ARG]...]",
    // All of it on one screen; what the options say below is for the man page.
    override_help = HELP
)]
pub(crate) struct Cli {
    /// The app's directory, usually a symlink to a release
    #[arg(long, value_hint = ValueHint::DirPath, value_name = "DIR")]
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
    #[arg(long, value_name = "K=V", value_parser = value::env)]
    pub(crate) env: Vec<(OsString, OsString)>,

    /// Variables for the app, one K=V a line; relative to the release, read at every boot; --env wins
    #[arg(long, value_hint = ValueHint::FilePath, value_name = "FILE")]
    pub(crate) env_file: Option<PathBuf>,

    /// These options as TOML: `workers = 4`, `listen = ["tcp://…"]`; the command line and the environment win over it
    #[arg(long, value_hint = ValueHint::FilePath, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,

    /// Print every setting and where it came from, and start nothing; exit code 2 when something is wrong
    #[arg(long)]
    pub(crate) check_config: bool,

    /// Show that this program could take the place of the one that runs, and start nothing; `ctl upgrade` asks it that
    #[arg(long)]
    pub(crate) check_upgrade: bool,

    /// What counts as ready: auto, accepting, notify, alive:D
    #[arg(long, value_name = "HOW", default_value = "auto", value_parser = ReadyHow::parse, help_heading = BOOT)]
    pub(crate) ready: ReadyHow,

    /// How long a boot may take
    #[arg(long, value_name = "D", default_value = "60s", value_parser = value::duration, help_heading = BOOT)]
    pub(crate) boot_timeout: Duration,

    /// The signal that asks the app to finish
    #[arg(long, value_name = "SIG", default_value = "TERM", value_parser = value::signal, help_heading = BOOT)]
    pub(crate) stop_signal: Signal,

    /// How long it may take to finish before it is killed
    #[arg(long, value_name = "D", default_value = "30s", value_parser = value::duration, help_heading = BOOT)]
    pub(crate) drain_timeout: Duration,

    /// How long a worker goes on serving when the master is gone and no other one comes; 0: it ends at once
    #[arg(long, value_name = "D", default_value = "60s", value_parser = value::duration, help_heading = BOOT)]
    pub(crate) orphan_timeout: Duration,

    /// As whom workers and apps run, with all groups of that user; the master stays root
    #[arg(long, value_name = "NAME|UID", value_parser = Account::parse, help_heading = USER)]
    pub(crate) user: Option<Account>,

    /// With this group instead of the user's own
    #[arg(long, value_name = "NAME|GID", value_parser = NamedGroup::parse, help_heading = USER)]
    pub(crate) group: Option<NamedGroup>,

    /// Which permissions new files of the app do not get, in octal [default: as of the master]
    #[arg(long, value_name = "MODE", value_parser = Umask::parse, help_heading = USER)]
    pub(crate) umask: Option<Umask>,

    /// What a worker and its app may use, as prlimit(1) calls it; repeatable [default: as the master was started]
    #[arg(long, value_name = "NAME=SOFT[:HARD]", value_parser = Limit::parse, help_heading = USER)]
    pub(crate) limit: Vec<Limit>,

    /// What a release has to pass before it serves anybody: http:/PATH (2xx), http://HOST/PATH (HOST is only the Host header)
    /// or exec:COMMAND (exit status 0); repeatable
    #[arg(long, value_name = "CHECK", value_parser = value::check, help_heading = CHECKS)]
    pub(crate) check: Vec<Check>,

    /// How long each check may take, from ready on
    #[arg(long, value_name = "D", default_value = "5s", value_parser = value::some_timeout, help_heading = CHECKS)]
    pub(crate) check_timeout: Duration,

    /// Go without the rehearsal that any --check brings; http checks are asked in rehearsals only
    #[arg(long, help_heading = CHECKS)]
    pub(crate) no_rehearse: bool,

    /// Extra app instances while workers are replaced: a number, or a share of the workers (25%)
    #[arg(long, value_name = "N|P%", default_value = "1", help_heading = ROLLOUT)]
    pub(crate) surge: Surge,

    /// How many slots may be without a ready worker meanwhile
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=i64::from(MAX_WORKERS)), help_heading = ROLLOUT)]
    pub(crate) max_unavailable: u32,

    /// Replace so many workers first, and watch them for a while
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=i64::from(MAX_WORKERS)), help_heading = ROLLOUT)]
    pub(crate) canary: u32,

    /// How long to watch them [default: as --soak]
    #[arg(long, value_name = "D", value_parser = value::duration, help_heading = ROLLOUT)]
    pub(crate) canary_soak: Option<Duration>,

    /// Quiet time after the last worker is ready, before a release is promoted
    #[arg(long, value_name = "D", default_value = "5s", value_parser = value::duration, help_heading = ROLLOUT)]
    pub(crate) soak: Duration,

    /// Roll back by itself unless `ctl confirm` comes within this time after the promotion
    #[arg(long, value_name = "D", value_parser = value::some_time, help_heading = ROLLOUT)]
    pub(crate) confirm_within: Option<Duration>,

    /// Once a rollout, before anything else of the new release runs (migrations); a failure refuses the release
    #[arg(long, value_name = "CMD", value_parser = OsStringValueParser::new().try_map(value::line), help_heading = HOOKS)]
    pub(crate) before_rollout: Option<OsString>,

    /// The same, with the `release:` line of the release's Procfile, if it has one
    #[arg(long, help_heading = HOOKS)]
    pub(crate) release_phase: bool,

    /// Before every app, in its environment and within the boot timeout; a failure is a failed boot
    #[arg(long, value_name = "CMD", value_parser = OsStringValueParser::new().try_map(value::line), help_heading = HOOKS)]
    pub(crate) before_boot: Option<OsString>,

    /// After a promotion, with the rollout's JSON on stdin; changes nothing
    #[arg(long, value_name = "CMD", value_parser = OsStringValueParser::new().try_map(value::line), help_heading = HOOKS)]
    pub(crate) on_promote: Option<OsString>,

    /// After a rollout that failed, with its JSON on stdin; changes nothing
    #[arg(long, value_name = "CMD", value_parser = OsStringValueParser::new().try_map(value::line), help_heading = HOOKS)]
    pub(crate) on_failure: Option<OsString>,

    /// How long each of them may take (--before-boot: the boot timeout)
    #[arg(long, value_name = "D", default_value = "5m", value_parser = value::some_timeout, help_heading = HOOKS)]
    pub(crate) hook_timeout: Duration,

    /// Replace an app that does not say WATCHDOG=1 at least this often (it is told by WATCHDOG_USEC)
    #[arg(long, value_name = "D", value_parser = value::some_time, help_heading = LIVENESS)]
    pub(crate) watchdog: Option<Duration>,

    /// Replace an app whose processes together hold more memory: 512M, 1.5G, or bytes
    #[arg(long, value_name = "SIZE", value_parser = value::size, help_heading = LIVENESS)]
    pub(crate) max_memory: Option<u64>,

    /// Replace an app that is older than this
    #[arg(long, value_name = "D", value_parser = value::some_time, help_heading = LIVENESS)]
    pub(crate) max_age: Option<Duration>,

    /// Names the control socket, the state and the log lines [default: the name of DIR's parent, or of DIR at the root]
    #[arg(long, value_name = "NAME", value_parser = value::name, help_heading = PLACES)]
    pub(crate) name: Option<String>,

    /// The control socket [default: NAME.sock in the runtime directory]
    #[arg(long, value_hint = ValueHint::AnyPath, value_name = "PATH", help_heading = PLACES)]
    pub(crate) socket: Option<PathBuf>,

    /// What outlives the master: the known-good release, refused ones, the history [default: $STATE_DIRECTORY, else
    /// NAME in the XDG state folder]
    #[arg(long, value_hint = ValueHint::DirPath, value_name = "DIR", help_heading = PLACES)]
    pub(crate) state: Option<PathBuf>,

    /// Write a newline to this open file descriptor when the first start is over, and close it (s6)
    #[arg(long, value_name = "FD", value_parser = clap::value_parser!(i32).range(3..), help_heading = PLACES)]
    pub(crate) notify_fd: Option<i32>,

    /// The log on stderr: text or json
    #[arg(long, value_name = "FORMAT", default_value = "text", value_parser = ["text", "json"], help_heading = PLACES)]
    pub(crate) log_format: String,

    /// Put slot and phase before each line that the app prints
    #[arg(long, help_heading = PLACES)]
    pub(crate) log_prefix: bool,
}

impl Cli {
    /// Takes the process's arguments, its environment and the file of `--config` together. Usage errors, `--help` and
    /// `--version` end the process here.
    pub(crate) fn from_args() -> (Self, Origins) {
        let gathered = sources::gather(std::env::args_os().collect(), &|key| std::env::var_os(key));
        let checked = gathered.and_then(|(cli, origins)| match cli.check(&origins) {
            Ok(()) => Ok((cli, origins)),
            Err(error) => Err(Wrong::usage(error)),
        });
        checked.unwrap_or_else(|wrong| wrong.exit())
    }

    /// Checks what goes together.
    pub(crate) fn check(&self, origins: &Origins) -> Result<()> {
        // Where an option stands that is not on the command line.
        let at = |id| origins.of(id).aside();
        if self.surge.is_zero() && self.max_unavailable == 0 {
            bail!(
                "--surge {}{} needs --max-unavailable 1 or more: with neither, no worker could ever be replaced",
                self.surge,
                at("surge")
            );
        }
        for (n, address) in self.listen.iter().enumerate() {
            if let Some(name) = &address.name
                && self.listen[..n].iter().any(|a| a.name.as_ref() == Some(name))
            {
                bail!("--listen{}: two sockets are named '{name}'", at("listen"));
            }
        }
        if self.group.is_some() && self.user.is_none() {
            bail!("--group{} needs --user: a group alone takes no rights away", at("group"));
        }
        if let Err(error) = user::resolve(self.user.as_ref(), self.group.as_ref()) {
            bail!("--user{}: {error:#}", at("user"));
        }
        if let Some(error) = self.limit.iter().find_map(|limit| limit.check().err()) {
            bail!("--limit{} {error}", at("limit"));
        }
        let sockets = !self.listen.is_empty() || inherits_sockets();
        if self.ready == ReadyHow::Explicit(Ready::Accepting) && !sockets {
            bail!(
                "--ready accepting{} needs a socket to accept on: add --listen, or use --ready notify or alive:5s",
                at("ready")
            );
        }
        if !sockets && self.check.iter().any(|check| matches!(check, Check::Http { .. })) {
            bail!("--check http:…{} needs a socket to ask on: add --listen, or use --check exec:COMMAND", at("check"));
        }
        if self.release_phase && self.before_rollout.is_some() {
            bail!(
                "--release-phase{} and --before-rollout{} cannot go together: both say what runs before a rollout",
                at("release_phase"),
                at("before_rollout")
            );
        }
        Ok(())
    }

    /// The options as clap knows them.
    pub(crate) fn options() -> clap::Command {
        Self::command()
    }
}

/// Whether a service manager has passed sockets to this process (`sd_listen_fds(3)`).
pub(crate) fn inherits_sockets() -> bool {
    std::env::var("LISTEN_PID").is_ok_and(|pid| pid == std::process::id().to_string())
        && std::env::var("LISTEN_FDS").is_ok_and(|n| n.parse::<u32>().is_ok_and(|n| n > 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clap_is_content() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_option_stands_in_the_help_with_its_default() {
        for option in Cli::command().get_arguments() {
            let Some(long) = option.get_long() else { continue };
            let words = |line: &&str| line.split([' ', ',']).any(|word| word == format!("--{long}"));
            let line = HELP.lines().find(words).unwrap_or_else(|| panic!("--{long} is not there"));
            for default in option.get_default_values() {
                let default = default.to_string_lossy();
                let shown = line.split(['[', ']', ',', ' ']).any(|word| word == default);
                assert!(shown, "--{long}: {default} is not in '{line}'");
            }
        }
    }

    #[test]
    fn the_help_fits_a_screen() {
        assert!(HELP.lines().count() <= 50, "{}", HELP.lines().count());
        for line in HELP.lines() {
            assert!(line.chars().count() <= 80, "{line}");
        }
    }
}
