//! What is kept of a soak that was not as it has to be.

use std::fs;
use std::path::{Path, PathBuf};

/// Copies the log, the traces and the state of a folder that is about to go away; where they are then.
pub(crate) fn keep(root: &Path, seed: u64, deeds: &[String]) -> std::io::Result<PathBuf> {
    let kept = std::env::temp_dir().join(format!("soak-{seed}"));
    let _ = fs::remove_dir_all(&kept);
    fs::create_dir_all(kept.join("state"))?;
    fs::write(kept.join("actions"), deeds.join("\n"))?;
    for folder in ["", "state"] {
        for entry in fs::read_dir(root.join(folder))?.flatten() {
            if entry.file_type()?.is_file() {
                fs::copy(entry.path(), kept.join(folder).join(entry.file_name()))?;
            }
        }
    }
    Ok(kept)
}

/// The last lines of a file.
pub(crate) fn tail(file: &Path, lines: usize) -> String {
    let text = String::from_utf8_lossy(&fs::read(file).unwrap_or_default()).into_owned();
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}
