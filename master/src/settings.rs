//! What this master is set to: the command line, with names and places worked out.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;
use nix::unistd::Uid;
use proto::Incarnation;
use proto::worker::{Bytes, Check, Command, HookCommand, Ready, User};
use rollout::Settings;

use crate::cli::{Cli, parse_name};
use crate::limit::Limit;
use crate::release::absolute;
use crate::user;

/// The Procfile line of `--release-phase`, as Heroku calls it.
const RELEASE_PHASE: &str = "release";

/// Everything that does not change while the master runs.
#[derive(Debug)]
pub(crate) struct Site {
    pub(crate) name: String,
    pub(crate) dir: PathBuf,
    pub(crate) socket: PathBuf,
    /// `--state`, absolute; `None` leaves it to the environment and the default.
    pub(crate) state: Option<PathBuf>,
    pub(crate) settings: Settings,
    pub(crate) command: Command,
    pub(crate) env: Vec<(Bytes, Bytes)>,
    /// Relative to the release.
    pub(crate) env_file: Option<Bytes>,
    pub(crate) ready: Ready,
    /// In the order given.
    pub(crate) checks: Vec<Check>,
    /// For each of them.
    pub(crate) check_timeout: Duration,
    pub(crate) before_rollout: Option<HookCommand>,
    pub(crate) before_boot: Option<Bytes>,
    pub(crate) on_promote: Option<Bytes>,
    pub(crate) on_failure: Option<Bytes>,
    /// The app says `WATCHDOG=1` at least this often.
    pub(crate) watchdog: Option<Duration>,
    /// In bytes.
    pub(crate) max_memory: Option<u64>,
    /// As whom workers and apps run; `None`: as the master.
    pub(crate) user: Option<User>,
    /// Of the app.
    pub(crate) umask: Option<u32>,
    /// What each worker and its app may use.
    pub(crate) limits: Vec<Limit>,
    pub(crate) stop_signal: Signal,
    /// How long a worker serves without a master.
    pub(crate) orphan_timeout: Duration,
    pub(crate) log_prefix: bool,
    /// Tells this site's workers from another one's: the state's own, in the next master's process, too.
    pub(crate) mark: String,
}

impl Site {
    /// Works out names and places, and makes the folder of the control socket where that has to be this user's own.
    ///
    /// # Errors
    /// When DIR gives no name, the working directory is needed and gone, the user's groups cannot be had, or that folder is
    /// somebody else's.
    pub(crate) fn new(cli: Cli, listeners: bool) -> Result<Self> {
        let private = cli.socket.is_none().then(runtime_dir).filter(|place| place.private);
        let site = Self::planned(cli, listeners)?;
        if let Some(place) = private {
            make_private(&place.folder)?;
        }
        Ok(site)
    }

    /// The same, and nothing is made.
    ///
    /// # Errors
    /// When DIR gives no name, the working directory is needed and gone, or the user's groups cannot be had.
    pub(crate) fn planned(cli: Cli, listeners: bool) -> Result<Self> {
        let settings = settings(&cli);
        let dir = absolute(&cli.dir)?;
        let name = match cli.name {
            Some(name) => name,
            None => name_of(&dir)?,
        };
        let socket = match cli.socket {
            Some(path) => absolute(&path)?,
            None => runtime_dir().folder.join(format!("{name}.sock")),
        };
        let command = if cli.command.is_empty() {
            Command::Procfile(cli.process)
        } else {
            Command::Words(cli.command.into_iter().map(OsString::into_vec).collect())
        };
        let user = user::resolve(cli.user.as_ref(), cli.group.as_ref())?;
        let release_phase = || cli.release_phase.then(|| HookCommand::Procfile(RELEASE_PHASE.into()));
        Ok(Self {
            name,
            dir,
            socket,
            state: cli.state.as_deref().map(absolute).transpose()?,
            settings,
            command,
            env: cli.env.into_iter().map(|(k, v)| (k.into_vec(), v.into_vec())).collect(),
            env_file: cli.env_file.map(|path| path.into_os_string().into_vec()),
            ready: cli.ready.resolve(listeners),
            checks: cli.check,
            check_timeout: cli.check_timeout,
            before_rollout: cli.before_rollout.map(|l| HookCommand::Shell(l.into_vec())).or_else(release_phase),
            before_boot: cli.before_boot.map(OsString::into_vec),
            on_promote: cli.on_promote.map(OsString::into_vec),
            on_failure: cli.on_failure.map(OsString::into_vec),
            watchdog: cli.watchdog,
            max_memory: cli.max_memory,
            user,
            umask: cli.umask.map(|umask| umask.0),
            limits: cli.limit,
            stop_signal: cli.stop_signal,
            orphan_timeout: cli.orphan_timeout,
            log_prefix: cli.log_prefix,
            mark: String::new(),
        })
    }

    /// What every process of an incarnation carries in its environment.
    pub(crate) fn token(&self, id: Incarnation) -> String {
        format!("{}-{id}", self.mark)
    }

    /// The incarnation that a token of this master names.
    pub(crate) fn incarnation(&self, token: &str) -> Option<Incarnation> {
        let number = token.strip_prefix(&self.mark)?.strip_prefix('-')?.parse().ok();
        // Nobody has ever counted so far.
        number.filter(|number| *number < crate::orphans::FAR).map(Incarnation)
    }

    pub(crate) fn socket_bytes(&self) -> Vec<u8> {
        self.socket.as_os_str().as_bytes().to_vec()
    }
}

/// The name of DIR's parent (`/app/current` is `app`), or of DIR at the root.
fn name_of(dir: &Path) -> Result<String> {
    let parent = dir.parent().and_then(Path::file_name);
    let name = parent.or_else(|| dir.file_name()).unwrap_or_default().to_string_lossy();
    match parse_name(&name) {
        Ok(name) => Ok(name),
        Err(why) => bail!("{} does not give a name ({why}): use --name", dir.display()),
    }
}

/// The numbers that the mind decides by.
fn settings(cli: &Cli) -> Settings {
    let cpus = || std::thread::available_parallelism().map_or(1, |n| n.get() as u32);
    Settings {
        workers: cli.workers.unwrap_or_else(cpus),
        surge: cli.surge,
        max_unavailable: cli.max_unavailable,
        soak: cli.soak,
        drain_timeout: cli.drain_timeout,
        boot_timeout: cli.boot_timeout,
        check_time: cli.check_timeout.saturating_mul(cli.check.len() as u32),
        hook_timeout: cli.hook_timeout,
        rehearse: !cli.check.is_empty() && !cli.no_rehearse,
        before_rollout: cli.release_phase || cli.before_rollout.is_some(),
        on_promote: cli.on_promote.is_some(),
        on_failure: cli.on_failure.is_some(),
        canary: cli.canary,
        canary_soak: cli.canary_soak,
        confirm_within: cli.confirm_within,
        max_age: cli.max_age,
        no_orphans: cli.orphan_timeout.is_zero(),
    }
}

/// Where control sockets live.
struct RuntimeDir {
    folder: PathBuf,
    /// In the temp dir, where anybody may have made it before.
    private: bool,
}

/// `$RUNTIME_DIRECTORY`, else `$XDG_RUNTIME_DIR/phased`, else /run/phased (root), else a folder of the user's own in the
/// temp dir.
fn runtime_dir() -> RuntimeDir {
    let shared = |folder| RuntimeDir { folder, private: false };
    if let Some(dirs) = set("RUNTIME_DIRECTORY") {
        // systemd joins several with colons (systemd.exec(5)).
        let dirs = dirs.to_string_lossy().into_owned();
        return shared(PathBuf::from(dirs.split(':').next().unwrap_or_default()));
    }
    if let Some(dir) = set("XDG_RUNTIME_DIR") {
        return shared(PathBuf::from(dir).join("phased"));
    }
    let uid = Uid::effective();
    if uid.is_root() {
        return shared(PathBuf::from("/run/phased"));
    }
    RuntimeDir { folder: std::env::temp_dir().join(format!("phased-{uid}")), private: true }
}

/// Makes a folder that nobody else may have made.
fn make_private(dir: &Path) -> Result<()> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .with_context(|| format!("cannot make {}", dir.display()))?;
    let metadata = std::fs::symlink_metadata(dir)?;
    if !metadata.is_dir() || metadata.uid() != Uid::effective().as_raw() || metadata.mode() & 0o077 != 0 {
        bail!("{} is not a private folder of yours: remove it or use --socket", dir.display());
    }
    Ok(())
}

fn set(key: &str) -> Option<std::ffi::OsString> {
    std::env::var_os(key).filter(|v| !v.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_comes_from_the_parent() {
        assert_eq!(name_of(Path::new("/app/current")).unwrap(), "app");
        assert_eq!(name_of(Path::new("/srv/shop/current")).unwrap(), "shop");
        assert_eq!(name_of(Path::new("/app")).unwrap(), "app");
        assert!(name_of(Path::new("/")).is_err());
    }
}
