//! `scripts/demo`, as far as it is not a build: it ends well, its table is true, and Ctrl-C leaves nothing.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use nix::sys::signal::Signal;
use tests::binaries::binary;
use tests::process;

#[test]
fn it_shows_what_it_promises() {
    let output = Command::new(binary("demo")).stdin(Stdio::null()).output().expect("the demo runs");
    let (text, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{text}\n{errors}");
    assert!(errors.is_empty(), "{errors}");
    for line in text.lines() {
        assert!(line.chars().count() <= 80, "too wide: {line}");
    }
    let row = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    assert_eq!(row("requests failed"), Some("0"), "{text}");
    let served: u64 = row("requests served").and_then(|count| count.parse().ok()).expect("a count");
    assert!(served > 1000, "{text}");
    for (name, outcome) in [
        ("a good release", "promoted (exit code 0): release 2"),
        ("a broken release", "refused (exit code 3): release 2 goes on"),
        ("a killed worker", "respawned with release 2"),
        ("a sick release", "refused (exit code 3): release 2 goes on"),
        ("the repaired release", "promoted (exit code 0): release 5"),
    ] {
        assert!(row(name).is_some_and(|row| row.ends_with(outcome)), "{name}: {text}");
    }
    assert!(text.contains("  | missing column users.locale"), "{text}");
    // Wrapped to the width of a terminal, wherever the folder's name lets a line end.
    let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(words.contains("stage check: check http:/health: HTTP/1.1 500"), "{text}");
    let root = folder(&text);
    assert!(!root.exists(), "{} is left over", root.display());
    assert_eq!(process::of_site(&root), []);
}

#[test]
fn ctrl_c_leaves_nothing() {
    let mut command = Command::new(binary("demo"));
    let mut demo =
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the demo");
    let mut text = String::new();
    let mut stdout = BufReader::new(demo.stdout.take().expect("a pipe"));
    // In the middle of the first phased restart.
    while !text.contains(" ready after ") {
        assert_ne!(stdout.read_line(&mut text).expect("text"), 0, "{text}");
    }
    process::signal(demo.id() as i32, Signal::SIGINT);
    let output = demo.wait_with_output().expect("its end");
    assert_eq!(output.status.code(), Some(130), "{text}");
    let root = folder(&text);
    assert!(!root.exists(), "{} is left over", root.display());
    assert_eq!(process::of_site(&root), []);
}

fn folder(text: &str) -> PathBuf {
    let line = text.lines().next().expect("a first line");
    line.split(' ').next_back().expect("a path").into()
}
