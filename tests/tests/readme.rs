//! README.md's examples do what it says. Each fenced block of the kind `sh` is run, in order, in one folder:
//! `sh` has to exit with 0, `sh exits=N` with N, `sh master` runs in the background until it is stopped.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use tests::pages::{self, Block};
use tests::{binaries, servers};

fn blocks() -> Vec<Block> {
    pages::blocks(&pages::read("README.md"))
}

fn find(kind: &[&str]) -> Block {
    let found = blocks().into_iter().find(|b| b.kind == kind);
    found.unwrap_or_else(|| panic!("README.md has no block ```{}", kind.join(" ")))
}

/// A port of the kernel's choice: tests run side by side.
fn any_port(text: &str) -> String {
    text.replace("tcp://127.0.0.1:8080", "tcp://127.0.0.1:0")
}

/// A folder in which a newcomer types.
struct Terminal {
    folder: tempfile::TempDir,
}

impl Terminal {
    fn open() -> Self {
        Self { folder: tempfile::tempdir().expect("a folder") }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn shell(&self, text: &str) -> Command {
        let text = any_port(text);
        let own = std::env::var("PATH").unwrap_or_default();
        let path = format!("{}:{}:{own}", binaries::folder().display(), servers::folder().join("bin").display());
        let mut command = Command::new("sh");
        command.args(["-c", &text]).current_dir(self.path()).env("PATH", path).stdin(Stdio::null());
        for name in ["PHASED_SOCKET", "PHASED_NAME", "RUNTIME_DIRECTORY", "STATE_DIRECTORY", "WEB_CONCURRENCY"] {
            command.env_remove(name);
        }
        command.env("XDG_RUNTIME_DIR", self.path()).env("XDG_STATE_HOME", self.path().join("state"));
        command
    }

    /// Types a block and waits for its end.
    fn run(&self, block: &Block) -> (Option<i32>, String) {
        let output = self.shell(&block.text).output().expect("sh");
        let text = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8_lossy(&text).into_owned())
    }

    /// Types a line, which has to end like this; what it prints.
    #[track_caller]
    fn types(&self, text: &str, code: i32) -> String {
        let (ended, printed) = self.run(&Block { kind: Vec::new(), text: text.into() });
        assert_eq!(ended, Some(code), "{text}\n{printed}");
        printed
    }

    /// Types a block into another terminal, and waits until so many workers are ready.
    fn start(&self, block: &Block, workers: usize) -> Background {
        // `exec`, so that what is ended in the end is the master.
        let mut child = self.shell(&format!("exec {}", block.text)).stderr(Stdio::piped()).spawn().expect("sh");
        let log = BufReader::new(child.stderr.take().expect("a pipe"));
        let (mut seen, mut ready) = (String::new(), 0);
        let mut lines = log.lines();
        while ready < workers {
            let line = lines.next().and_then(Result::ok);
            let line = line.unwrap_or_else(|| panic!("it ended before {workers} workers were ready:\n{seen}"));
            // (A rehearsal is not a slot.)
            ready += usize::from(line.contains(" slot ") && line.contains("ready after"));
            seen.push_str(&line);
            seen.push('\n');
        }
        // Read on, lest it wait for us.
        std::thread::spawn(move || lines.for_each(drop));
        Background(child)
    }
}

/// A master that a block has started; ended with the test, whatever happens.
struct Background(Child);

impl Background {
    fn end(mut self) {
        let status = self.0.wait().expect("wait");
        assert!(status.success(), "the master ended with {status}");
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        if let Ok(None) = self.0.try_wait() {
            let pid = nix::unistd::Pid::from_raw(self.0.id() as i32);
            let _ = nix::sys::signal::kill(pid, nix::sys::signal::SIGTERM);
            let _ = self.0.wait();
        }
    }
}

#[test]
fn five_minutes_with_gunicorn() {
    let terminal = Terminal::open();
    let mut master = None;
    let mut ran = 0;
    for block in blocks() {
        match block.kind.iter().map(String::as_str).collect::<Vec<_>>()[..] {
            ["sh", "master"] => master = Some(terminal.start(&block, 2)),
            ["sh"] => {
                let (code, text) = terminal.run(&block);
                assert_eq!(code, Some(0), "{}\n{text}", block.text);
                if block.text.contains("ctl status") {
                    assert!(text.contains("app: steady, 2/2 workers"), "{text}");
                    assert!(text.contains("releases/2 (phase 1)"), "{text}");
                }
            }
            ["sh", "exits=3"] => {
                let (code, text) = terminal.run(&block);
                assert_eq!(code, Some(3), "{}\n{text}", block.text);
                assert!(text.contains("unable to boot with new codebase, using old one"), "{text}");
                assert!(text.contains("No module named 'flask_login'"), "{text}");
            }
            _ => continue,
        }
        ran += 1;
    }
    assert!(ran >= 5, "README.md has fewer examples than it had: {ran}");
    master.expect("a block that starts the master").end();
}

#[test]
fn and_with_puma() {
    let terminal = Terminal::open();
    let release = terminal.path().join("app/releases/1");
    fs::create_dir_all(release.join("config")).expect("a release");
    fs::write(release.join("config/puma.rb"), find(&["ruby"]).text).expect("config/puma.rb");
    let rack = "run ->(env) { [200, { 'content-type' => 'text/plain' }, [\"hello\\n\"]] }\n";
    fs::write(release.join("config.ru"), rack).expect("config.ru");
    std::os::unix::fs::symlink("releases/1", terminal.path().join("app/current")).expect("current");
    let master = terminal.start(&find(&["sh", "puma"]), 2);
    let stop = Block { kind: Vec::new(), text: "ctl stop".into() };
    assert_eq!(terminal.run(&stop).0, Some(0));
    master.end();
}

/// The example's application, in a folder, and its master with these further options.
fn five_minutes_with(options: &str) -> (Terminal, Background) {
    let terminal = Terminal::open();
    let setup = find(&["sh"]);
    assert_eq!(terminal.run(&setup).0, Some(0), "{}", setup.text);
    let mut master = find(&["sh", "master"]);
    let more = master.text.replace(" -- ", &format!(" {options} -- "));
    assert_ne!(more, master.text, "there is no place for {options}");
    master.text = more;
    let master = terminal.start(&master, 2);
    (terminal, master)
}

#[test]
fn checks() {
    let (terminal, master) = five_minutes_with("--check http:/health");
    let (code, text) = terminal.run(&find(&["sh", "check"]));
    assert_eq!(code, Some(3), "{text}");
    assert!(text.contains("unable to boot with new codebase, using old one"), "{text}");
    assert!(text.contains("stage check: check http:/health: HTTP/1.1 500 Internal Server Error"), "{text}");
    assert!(text.contains("  | no database\n"), "{text}");
    assert!(terminal.types("ctl status", 0).contains("releases/1 (phase 0)"));
    assert!(terminal.types("ctl rehearse app/releases/2", 3).contains("no database"));
    let _ = terminal.types("ctl rehearse app/releases/1", 0);
    // A deployer that polls.
    let _ = terminal.types("ctl phased-restart --if-new", 3);
    let _ = terminal.types("ln -sfn releases/1 app/current && ctl phased-restart --if-new", 0);
    let _ = terminal.types("ctl stop", 0);
    master.end();
}

#[test]
fn the_master_itself() {
    let (terminal, master) = five_minutes_with("");
    let apps = || {
        let stats = terminal.types("ctl stats --json", 0);
        let stats: serde_json::Value = serde_json::from_str(&stats).expect("JSON");
        let workers = stats["worker_status"].as_array().expect("workers").clone();
        workers.into_iter().map(|worker| worker["app_pid"].as_i64().expect("a pid")).collect::<Vec<_>>()
    };
    let before = apps();
    let (code, text) = terminal.run(&find(&["sh", "upgrade"]));
    assert_eq!(code, Some(0), "{text}");
    assert_eq!(apps(), before);
    let _ = terminal.types("ctl stop", 0);
    master.end();
}

#[test]
fn steps_and_second_thoughts() {
    let (terminal, master) = five_minutes_with("--check http:/health");
    let steps = find(&["sh", "steps"]);
    let mut text = String::new();
    // The verdict of the smoke test, and what is said then of a confirm.
    for (verdict, pending) in [(1, true), (0, false)] {
        let deploy =
            "cp -r app/releases/1 app/releases/next$$; ln -sfn releases/next$$ app/current; chmod +x smoke-test";
        let _ = terminal.types(&format!("echo 'exit {verdict}' > smoke-test; {deploy}"), 0);
        let (ended, printed) = terminal.run(&steps);
        assert_eq!(ended, Some(verdict), "{printed}");
        text = terminal.types("ctl --json stats", 0);
        assert!(text.contains("\"state\":\"steady\"") || text.contains("\"state\": \"steady\""), "{text}");
        assert_eq!(terminal.types("ctl stats", 0).contains("confirm"), pending, "{text}");
    }
    assert!(text.contains("releases/next"), "{text}");
    let _ = terminal.types("ctl confirm", 1);
    let _ = terminal.types("ctl stop", 0);
    master.end();
}

#[test]
fn configuration() {
    let terminal = Terminal::open();
    let setup = find(&["sh"]);
    assert_eq!(terminal.run(&setup).0, Some(0), "{}", setup.text);
    fs::write(terminal.path().join("phased.toml"), any_port(&find(&["toml"]).text)).expect("phased.toml");
    let (code, text) = terminal.run(&find(&["sh", "config"]));
    assert_eq!(code, Some(0), "{text}");
    for words in ["http:/health", "gunicorn", "phased.toml"] {
        assert!(text.contains(words), "{words} is not in\n{text}");
    }
    let start = |options: &str| Block { kind: Vec::new(), text: format!("master --config phased.toml {options}") };
    let master = terminal.start(&start(""), 2);
    let _ = terminal.types("ctl stop", 0);
    master.end();
    // The command line wins, also where the file says what to run.
    let master = terminal.start(&start("--workers 1"), 1);
    assert!(terminal.types("ctl status", 0).contains("1/1 workers"));
    let _ = terminal.types("ctl stop", 0);
    master.end();
}

#[test]
fn hold_look_and_trust() {
    let terminal = Terminal::open();
    let setup = find(&["sh"]);
    assert_eq!(terminal.run(&setup).0, Some(0), "{}", setup.text);
    let master = terminal.start(&find(&["sh", "master"]), 2);
    let shell = |text: &str| terminal.run(&Block { kind: Vec::new(), text: text.into() });
    let smoke = |release: u8, status: u8| {
        format!("ln -sfn releases/{release} app/current; echo 'exit {status}' > smoke-test; chmod +x smoke-test")
    };
    assert_eq!(shell("mkdir app/releases/3; echo 'import no_such' > app/releases/3/app.py").0, Some(0));
    let hold = find(&["sh", "hold"]);
    // Release, verdict of the smoke test, exit code of the block, what serves in the end.
    for (release, verdict, code, serves) in [(2, 1, 1, 1), (2, 0, 0, 2), (3, 0, 3, 2)] {
        assert_eq!(shell(&smoke(release, verdict)).0, Some(0));
        let (ended, text) = terminal.run(&hold);
        assert_eq!(ended, Some(code), "{text}");
        let (_, text) = shell("ctl status");
        assert!(text.contains("steady") && text.contains(&format!("releases/{serves} ")), "{text}");
    }
    assert_eq!(shell("ctl stop").0, Some(0));
    master.end();
}

#[test]
fn pruning_spares_what_is_in_use() {
    let terminal = Terminal::open();
    let setup = find(&["sh"]);
    assert_eq!(terminal.run(&setup).0, Some(0), "{}", setup.text);
    let prune = find(&["sh", "prune"]);
    terminal.types("for n in 3 4 5 6 7; do cp -r app/releases/2 app/releases/$n; done", 0);
    terminal.types("mkdir app/shared && ln -s ../shared app/releases/shared && touch app/shared/file", 0);
    let (ended, text) = terminal.run(&prune);
    assert_eq!(ended, Some(7), "without a master nothing is known, and nothing deleted: {text}");
    assert_eq!(terminal.types("ls app/releases | wc -l", 0).trim(), "8");
    // The release is a folder in the folder.
    terminal.types("mkdir app/releases/2/dist && mv app/releases/2/app.py app/releases/2/dist", 0);
    let master = terminal.start(&find(&["sh", "master"]), 2);
    terminal.types("ln -sfn releases/2/dist app/current && ctl phased-restart", 0);
    // 1 and 2 are the oldest, and in use.
    terminal.types("touch -d 2001-01-01 app/releases/[12]; touch -d 2002-01-01 app/releases/[34]", 0);
    let (ended, text) = terminal.run(&prune);
    assert_eq!(ended, Some(0), "{text}");
    let left = terminal.types("ls app/releases app/shared", 0);
    assert_eq!(
        left.split_whitespace().collect::<Vec<_>>(),
        ["app/releases:", "1", "2", "5", "6", "7", "shared", "app/shared:", "file"]
    );
    terminal.types("ctl stop", 0);
    master.end();
}
