//! Where the binaries under test are. Built once, into the target directory and profile of the running test, so that
//! `cargo test -p tests` works in a fresh clone. `$PHASED_BIN` names a folder of ready ones instead.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The folder that holds `master`, `worker`, `ctl` and `fixture`.
///
/// # Panics
/// When they cannot be built.
pub fn folder() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| match std::env::var_os("PHASED_BIN") {
        Some(folder) => folder.into(),
        None => build(),
    })
}

/// One of the binaries.
#[must_use]
pub fn binary(name: &str) -> PathBuf {
    folder().join(name)
}

/// The line that runs the fixture as a hook (or a check) of this name: what it does then stands in the release
/// ([`crate::Site::hook_script`]).
#[must_use]
pub fn hook(name: &str) -> String {
    format!("'{}' hook {name}", binary("fixture").display())
}

/// Copies one of the binaries. Another program does it: while this one held the copy open for writing, a process that another
/// test forks meanwhile would hold it, too, and a program that is open for writing cannot be started.
///
/// # Panics
/// When it cannot be copied.
pub fn copy(name: &str, to: &Path) {
    let copied = Command::new("cp").arg(binary(name)).arg(to).status().expect("cp runs");
    assert!(copied.success(), "{name} cannot be copied to {}", to.display());
}

fn build() -> PathBuf {
    // TARGET/PROFILE/deps/TEST
    let test = std::env::current_exe().expect("the test's own path");
    let profile = test.ancestors().nth(2).expect("a profile folder");
    let target = profile.parent().expect("a target folder");
    let name = match profile.file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => "dev",
        Some(name) => name,
    };
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let built = Command::new(cargo)
        .args(["build", "--quiet", "-p", "master", "-p", "worker", "-p", "ctl", "-p", "tests", "--bins"])
        .arg("--profile")
        .arg(name)
        .arg("--target-dir")
        .arg(target)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .status()
        .expect("cargo runs");
    assert!(built.success(), "the binaries under test do not build");
    profile.to_owned()
}
