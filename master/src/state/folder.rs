//! Which folder the state is kept in.

use std::ffi::{OsStr, OsString};
use std::fs::DirBuilder;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// A folder, and whether somebody asked for it.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) path: PathBuf,
    pub(super) asked: bool,
}

/// `--state`, else `$STATE_DIRECTORY`, else `phased/NAME` in the XDG state folder (for one without a home, /var/lib).
///
/// # Errors
/// When the working directory is needed and gone.
pub(super) fn choose(asked: Option<&Path>, name: &str) -> Result<Wanted> {
    let (path, asked) = if let Some(dir) = asked {
        (dir.to_owned(), true)
    } else if let Some(dirs) = set("STATE_DIRECTORY") {
        // systemd joins several with colons (systemd.exec(5)).
        let first = dirs.as_bytes().split(|b| *b == b':').next().unwrap_or_default();
        (PathBuf::from(OsStr::from_bytes(first)), true)
    } else {
        let base = match (set("XDG_STATE_HOME"), set("HOME")) {
            (Some(dir), _) => PathBuf::from(dir),
            (None, Some(home)) => PathBuf::from(home).join(".local/state"),
            (None, None) => PathBuf::from("/var/lib"),
        };
        (base.join("phased").join(name), false)
    };
    let path = std::path::absolute(&path).with_context(|| format!("the state folder {}", path.display()))?;
    Ok(Wanted { path, asked })
}

/// Makes it, for nobody else's eyes: reports hold what apps print.
///
/// # Errors
/// Names it.
pub(super) fn make(folder: &Path) -> Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .with_context(|| format!("cannot make the state folder {}", folder.display()))
}

fn set(key: &str) -> Option<OsString> {
    std::env::var_os(key).filter(|value| !value.is_empty())
}
