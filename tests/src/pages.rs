//! The project's pages, and the shell in them: what a text shows is what a test runs.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use crate::{Site, binaries, servers};

/// A fenced block of a page: the words behind the fence, and what stands in it.
#[derive(Clone, Debug)]
pub struct Block {
    /// The words behind the fence.
    pub kind: Vec<String>,
    /// What stands in it.
    pub text: String,
}

/// The path of a page, from the project's root.
#[must_use]
pub fn path(page: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(page)
}

/// The text of a page.
///
/// # Panics
/// When there is none.
#[must_use]
pub fn read(page: &str) -> String {
    fs::read_to_string(path(page)).unwrap_or_else(|error| panic!("{page}: {error}"))
}

/// The fenced blocks of a text, in order.
#[must_use]
pub fn blocks(text: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut open: Option<Block> = None;
    for line in text.lines() {
        match (line.strip_prefix("```"), &mut open) {
            (Some(_), Some(_)) => blocks.extend(open.take()),
            (Some(kind), None) => {
                let kind = kind.split_whitespace().map(String::from).collect();
                open = Some(Block { kind, text: String::new() });
            }
            (None, Some(block)) => {
                block.text.push_str(line);
                block.text.push('\n');
            }
            (None, None) => {}
        }
    }
    blocks
}

/// The text of the one block of a page that has these words behind its fence.
///
/// # Panics
/// When there is none, or more than one.
#[must_use]
pub fn find(page: &str, kind: &str) -> String {
    let words: Vec<&str> = kind.split_whitespace().collect();
    let found: Vec<Block> = blocks(&read(page)).into_iter().filter(|block| block.kind == words).collect();
    match &found[..] {
        [block] => block.text.clone(),
        _ => panic!("{page} has {} blocks ```{kind}", found.len()),
    }
}

/// A shell in the site's folder, with this project's programs and the real servers in its PATH, and with the site's master as
/// the one that `ctl` speaks to.
#[must_use]
pub fn shell(site: &Site, shell: &[&str]) -> Command {
    let own = std::env::var("PATH").unwrap_or_default();
    let path = [
        site.root().join("bin"),
        binaries::folder().to_owned(),
        servers::folder().join("bin"),
        servers::folder().join("venv/bin"),
    ];
    let path = path.map(|folder| folder.display().to_string()).join(":");
    let mut command = Command::new(shell[0]);
    command.args(&shell[1..]).current_dir(site.root()).stdin(Stdio::null());
    command.env("PATH", format!("{path}:{own}")).env("PHASED_SOCKET", site.socket()).env("TEST_SITE", site.root());
    for name in ["PHASED_NAME", "RUNTIME_DIRECTORY", "STATE_DIRECTORY", "WEB_CONCURRENCY"] {
        command.env_remove(name);
    }
    command
}

/// Runs it to its end, which has to be this one; what it printed.
///
/// # Panics
/// When it ends otherwise.
#[track_caller]
pub fn run(mut command: Command, code: i32) -> String {
    let Output { status, stdout, stderr } = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let text = format!("{}{}", String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    assert_eq!(status.code(), Some(code), "{command:?}\n{text}");
    text
}
