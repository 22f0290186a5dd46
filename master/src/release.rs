//! Release directories: resolved once, known to the mind by number.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use nix::unistd::{AccessFlags, eaccess};
use rollout::ReleaseId;

/// Every release that was ever named to this master.
#[derive(Debug, Default)]
pub(crate) struct Releases {
    paths: Vec<PathBuf>,
}

impl Releases {
    /// The number of a release.
    pub(crate) fn id(&mut self, path: &Path) -> ReleaseId {
        let known = self.paths.iter().position(|p| p == path).unwrap_or_else(|| {
            self.paths.push(path.to_owned());
            self.paths.len() - 1
        });
        ReleaseId(known as u32)
    }

    /// The path of a release.
    pub(crate) fn path(&self, id: ReleaseId) -> &Path {
        &self.paths[id.0 as usize]
    }

    /// The path as the protocol carries it.
    pub(crate) fn bytes(&self, id: ReleaseId) -> Vec<u8> {
        self.path(id).as_os_str().as_bytes().to_vec()
    }

    /// The path as people read it.
    pub(crate) fn shown(&self, id: ReleaseId) -> String {
        self.path(id).display().to_string()
    }

    /// Whether the directory is no longer there.
    pub(crate) fn is_gone(&self, id: ReleaseId) -> bool {
        !self.path(id).is_dir()
    }
}

/// Resolves a directory to the release that it names now: a real path that can be entered.
///
/// # Errors
/// Names the path, the reason, and where a symlink leads to.
pub(crate) fn resolve(dir: &Path) -> Result<PathBuf> {
    let shown = || match fs::read_link(dir) {
        Ok(target) => format!("{} (a symlink to {})", dir.display(), target.display()),
        Err(_) => dir.display().to_string(),
    };
    let real = fs::canonicalize(dir).with_context(|| {
        format!("cannot resolve {}, which has to be a release directory or a symlink to one", shown())
    })?;
    if !real.is_dir() {
        bail!("cannot use {}: {} is not a directory", shown(), real.display());
    }
    eaccess(&real, AccessFlags::X_OK).with_context(|| format!("cannot enter {}", real.display()))?;
    Ok(real)
}

/// Makes a path absolute against the working directory, leaving symlinks alone.
pub(crate) fn absolute(path: &Path) -> Result<PathBuf> {
    if path.as_os_str().is_empty() {
        bail!("--dir is empty");
    }
    let joined = std::path::absolute(path).with_context(|| format!("cannot make {} absolute", path.display()))?;
    Ok(joined)
}
