//! `history.jsonl`: one line a rollout, the same JSON as `last_rollout`, the latest last.
//!
//! It is for people and their scripts; the master never reads it but to keep it short.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use anyhow::Result;
use nix::fcntl::OFlag;
use proto::control::LastRollout;
use proto::json;

/// Its name.
pub(super) const FILE: &str = "history.jsonl";
/// When it has grown beyond this, the older half goes, in bytes.
const BOUND: u64 = 1 << 20;

/// Adds a line and brings it to the disk.
///
/// # Errors
/// The system's; then the file is as it was before.
pub(super) fn append(folder: &Path, rollout: &LastRollout) -> Result<()> {
    let mut line = serde_json::to_vec(&json::LastRollout::from(rollout))?;
    line.push(b'\n');
    let mut file = OpenOptions::new()
        .read(true)
        .append(true)
        .create(true)
        .mode(0o600)
        .custom_flags((OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits())
        .open(folder.join(FILE))?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::other("it is not a regular file").into());
    }
    let before = metadata.len();
    let mut last = [b'\n'];
    if before > 0 {
        file.read_exact_at(&mut last, before - 1)?;
    }
    let mut bytes = Vec::with_capacity(line.len() + 1);
    if last != [b'\n'] {
        // A power cut has left half a line: it is not to take this one with it.
        bytes.push(b'\n');
    }
    bytes.extend_from_slice(&line);
    if let Err(error) = file.write_all(&bytes).and_then(|()| file.sync_all()) {
        let _ = file.set_len(before);
        return Err(error.into());
    }
    if before == 0 {
        super::sync_folder(folder)?;
    }
    let length = before + bytes.len() as u64;
    if length > BOUND {
        let mut tail = vec![0; (BOUND / 2) as usize];
        file.read_exact_at(&mut tail, length - BOUND / 2)?;
        super::replace(folder, FILE, whole_lines(&tail).unwrap_or(&line))?;
    }
    Ok(())
}

/// The tail without the line that it begins in the middle of. `None`: no whole one is in it.
fn whole_lines(tail: &[u8]) -> Option<&[u8]> {
    let end = tail.iter().position(|b| *b == b'\n')?;
    Some(&tail[end + 1..]).filter(|lines| !lines.is_empty())
}
