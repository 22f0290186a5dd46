//! The soak, for a bounded number of actions and then for a minute, each from a fixed seed: not one request fails, and nothing is left over.

use std::process::{Command, Stdio};

use nix::sys::signal::Signal;
use tests::binaries::binary;
use tests::process;

/// What the sum says in the row of this name.
fn row<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(name)).map(str::trim)
}

/// Runs the soak; its sum, in which nothing has failed.
fn soak(arguments: &[&str]) -> String {
    let mut command = Command::new(binary("soak"));
    let output = command.args(arguments).stdin(Stdio::null()).output().expect("the soak runs");
    let (text, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{text}\n{errors}");
    assert_eq!(row(&text, "failures"), Some("0"), "{text}");
    assert_eq!(row(&text, "processes left over"), Some("0"), "{text}");
    text.into_owned()
}

#[test]
fn nothing_fails_whatever_happens() {
    let text = soak(&["--actions", "120", "4"]);
    let number = |name: &str| row(&text, name).and_then(|count| count.parse::<u64>().ok()).unwrap_or(0);
    assert!(number("requests") > 1000, "{text}");
    // The seed leads to each of these.
    for name in [
        "good releases promoted",
        "refused: did not boot",
        "refused: failed its check",
        "refused: died in the soak",
        "held, and trusted",
        "held, and rolled back",
        "aborted",
        "paused, and resumed",
        "rolled back",
        "scaled",
        "kill -9: app",
        "kill -9: worker",
        "kill -9: ctl",
        "kill -9: master in a rollout",
        "upgrades by USR2",
        "upgrades by ctl",
        "detached",
    ] {
        assert!(number(&format!("  {name}")) > 0, "{name}:\n{text}");
    }
    // How many actions a minute has is the machine's affair.
    let _ = soak(&["1", "5"]);
}

#[test]
fn ctrl_c_leaves_nothing() {
    let mut command = Command::new(binary("soak"));
    let mut soak =
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the soak");
    let mut text = String::new();
    // The first line is out when there is nothing yet, and the second when there is everything.
    let mut stdout = std::io::BufReader::new(soak.stdout.take().expect("a pipe"));
    for _ in 0..2 {
        assert_ne!(std::io::BufRead::read_line(&mut stdout, &mut text).expect("text"), 0, "{text}");
    }
    process::signal(soak.id() as i32, Signal::SIGINT);
    let output = soak.wait_with_output().expect("its end");
    assert_eq!(output.status.code(), Some(130), "{text}");
    let root: std::path::PathBuf = row(&text, "in ").expect("a folder").into();
    assert!(!root.exists(), "{} is left over", root.display());
    assert_eq!(process::of_site(&root), []);
}
