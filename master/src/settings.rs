//! What this master is set to: the command line, with names and places worked out.

use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;
use nix::unistd::Uid;
use proto::Incarnation;
use proto::worker::{Bytes, Command, Ready};
use rollout::Settings;

use crate::cli::{Cli, parse_name};
use crate::release::absolute;

/// Everything that does not change while the master runs.
#[derive(Debug)]
pub(crate) struct Site {
    pub(crate) name: String,
    pub(crate) dir: PathBuf,
    pub(crate) socket: PathBuf,
    pub(crate) settings: Settings,
    pub(crate) command: Command,
    pub(crate) env: Vec<(Bytes, Bytes)>,
    pub(crate) ready: Ready,
    pub(crate) stop_signal: Signal,
    pub(crate) log_prefix: bool,
    /// Tells this master's workers from another one's.
    mark: String,
}

impl Site {
    /// Works out names and places.
    ///
    /// # Errors
    /// When DIR gives no name, or the working directory is needed and gone.
    pub(crate) fn new(cli: Cli, listeners: bool) -> Result<Self> {
        let dir = absolute(&cli.dir)?;
        let name = match cli.name {
            Some(name) => name,
            None => name_of(&dir)?,
        };
        let socket = match cli.socket {
            Some(path) => absolute(&path)?,
            None => runtime_dir()?.join(format!("{name}.sock")),
        };
        let cpus = || std::thread::available_parallelism().map_or(1, |n| n.get() as u32);
        let command = if cli.command.is_empty() {
            Command::Procfile(cli.process)
        } else {
            Command::Words(cli.command.into_iter().map(OsStringExt::into_vec).collect())
        };
        Ok(Self {
            name,
            dir,
            socket,
            settings: Settings {
                workers: cli.workers.unwrap_or_else(cpus),
                surge: cli.surge,
                max_unavailable: cli.max_unavailable,
                soak: cli.soak,
                drain_timeout: cli.drain_timeout,
                boot_timeout: cli.boot_timeout,
            },
            command,
            env: cli.env.into_iter().map(|(k, v)| (k.into_vec(), v.into_vec())).collect(),
            ready: cli.ready.resolve(listeners),
            stop_signal: cli.stop_signal,
            log_prefix: cli.log_prefix,
            mark: format!("{:x}-{:x}", std::process::id(), crate::timers::unix_millis()),
        })
    }

    /// What every process of an incarnation carries in its environment.
    pub(crate) fn token(&self, id: Incarnation) -> String {
        format!("{}-{id}", self.mark)
    }

    /// The incarnation that a token of this master names.
    pub(crate) fn incarnation(&self, token: &str) -> Option<Incarnation> {
        token.strip_prefix(&self.mark)?.strip_prefix('-')?.parse().ok().map(Incarnation)
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

/// Where control sockets live: `$RUNTIME_DIRECTORY`, else `$XDG_RUNTIME_DIR/phased`, else /run/phased (root), else a
/// folder of the user's own in the temp dir, which nobody else may have made.
fn runtime_dir() -> Result<PathBuf> {
    if let Some(dirs) = set("RUNTIME_DIRECTORY") {
        // systemd joins several with colons (systemd.exec(5)).
        let dirs = dirs.to_string_lossy().into_owned();
        return Ok(PathBuf::from(dirs.split(':').next().unwrap_or_default()));
    }
    if let Some(dir) = set("XDG_RUNTIME_DIR") {
        return Ok(PathBuf::from(dir).join("phased"));
    }
    let uid = Uid::effective();
    if uid.is_root() {
        return Ok(PathBuf::from("/run/phased"));
    }
    let dir = std::env::temp_dir().join(format!("phased-{uid}"));
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&dir)
        .with_context(|| format!("cannot make {}", dir.display()))?;
    let metadata = std::fs::symlink_metadata(&dir)?;
    if !metadata.is_dir() || metadata.uid() != uid.as_raw() || metadata.mode() & 0o077 != 0 {
        bail!("{} is not a private folder of yours: remove it or use --socket", dir.display());
    }
    Ok(dir)
}

/// Makes the state folder: `--state`, else `$STATE_DIRECTORY`, else NAME in the XDG state folder.
///
/// # Errors
/// When a folder that was asked for cannot be made.
pub(crate) fn make_state_dir(asked: Option<&Path>, name: &str) -> Result<()> {
    let make = |dir: &Path| {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .with_context(|| format!("cannot make the state folder {}", dir.display()))
    };
    if let Some(dir) = asked {
        return make(dir);
    }
    if let Some(dirs) = set("STATE_DIRECTORY") {
        let dirs = dirs.to_string_lossy().into_owned();
        return make(Path::new(dirs.split(':').next().unwrap_or_default()));
    }
    let base = match (set("XDG_STATE_HOME"), set("HOME")) {
        (Some(dir), _) => PathBuf::from(dir),
        (None, Some(home)) => PathBuf::from(home).join(".local/state"),
        (None, None) => PathBuf::from("/var/lib"),
    };
    // Nobody asked for this one: a read-only home must not keep the app from starting.
    if let Err(error) = make(&base.join("phased").join(name)) {
        tracing::warn!("{error:#}; going on without (see --state)");
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
