//! A real terminal with a shell in it: tmux, which a test types into and whose screen it reads.
//!
//! Nothing polls: every byte that the shell's programs print goes through a pipe to the test, too, which looks at the screen
//! again when some have come. tmux has drawn them by then: it hands them on and draws them in one turn.

use std::fs::File;
use std::io::Read;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::{Arc, OnceLock};
use std::thread;

use nix::sys::stat::Mode;

use crate::binaries::folder;
use crate::lines::{Lines, Vain};
use crate::site::Site;

/// The program.
fn tmux() -> &'static str {
    static TMUX: OnceLock<String> = OnceLock::new();
    TMUX.get_or_init(|| {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../scripts/terminal");
        let output = Command::new(script).output().unwrap_or_else(|error| panic!("{script}: {error}"));
        assert!(output.status.success(), "there is no tmux: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    })
}

/// A terminal. Its end ends everything in it.
#[derive(Debug)]
pub struct Terminal<'a> {
    site: &'a Site,
    socket: PathBuf,
    /// What was printed, in the pieces in which it came.
    printed: Arc<Lines>,
}

impl<'a> Terminal<'a> {
    /// A shell in a terminal of so many columns and lines, in the site's folder, with `ctl` in its PATH and the site's master
    /// as the one that is meant. Its prompt is `$ `.
    ///
    /// # Panics
    /// When there is none to be had.
    #[must_use]
    pub fn open(site: &'a Site, columns: u16, lines: u16) -> Self {
        Self::open_with(site, columns, lines, &[])
    }

    /// The same, with further variables.
    ///
    /// # Panics
    /// When there is none to be had.
    #[must_use]
    pub fn open_with(site: &'a Site, columns: u16, lines: u16, env: &[(&str, &str)]) -> Self {
        let name = format!("terminal-{columns}x{lines}");
        let socket = site.root().join(format!("{name}.sock"));
        let pipe = site.root().join(format!("{name}.fifo"));
        nix::unistd::mkfifo(&pipe, Mode::S_IRUSR | Mode::S_IWUSR).expect("a FIFO");
        let terminal = Self { site, socket, printed: Arc::default() };
        let own = std::env::var("PATH").unwrap_or_default();
        let mut command = terminal.command();
        for name in ["PHASED_NAME", "RUNTIME_DIRECTORY", "STATE_DIRECTORY", "NO_COLOR", "TMUX", "ENV"] {
            command.env_remove(name);
        }
        command.env("PATH", format!("{}:{own}", folder().display()));
        command.env("PHASED_SOCKET", site.socket()).env("LC_ALL", "C.UTF-8");
        // The mark by which everything of this site is found again.
        command.env("TEST_SITE", site.root()).envs(env.iter().copied()).current_dir(site.root());
        let (columns, lines) = (columns.to_string(), lines.to_string());
        command.args([
            "-u",
            "-f",
            "/dev/null",
            "new-session",
            "-d",
            "-x",
            &columns,
            "-y",
            &lines,
            "exec env PS1='$ ' sh",
        ]);
        command.args([";", "set-option", "-g", "status", "off", ";", "resize-window", "-x", &columns, "-y", &lines]);
        run(&mut command);
        terminal.tmux(&["pipe-pane", &format!("exec cat > '{}'", pipe.display())]);
        let filled = Arc::clone(&terminal.printed);
        thread::spawn(move || {
            let mut chunk = [0; 4096];
            if let Ok(mut file) = File::open(&pipe) {
                while let Ok(read @ 1..) = file.read(&mut chunk) {
                    filled.push(String::from_utf8_lossy(&chunk[..read]).into_owned());
                }
            }
            filled.close();
        });
        terminal.until("a prompt", |screen| screen.contains('$'));
        terminal
    }

    /// Types a line into it.
    pub fn types(&self, line: &str) {
        self.tmux(&["send-keys", "-l", "--", line]);
        self.press("Enter");
    }

    /// Presses a key, by tmux's name for it (`C-c`, `Enter`, `Down`, `q`).
    pub fn press(&self, key: &str) {
        self.tmux(&["send-keys", "--", key]);
    }

    /// Makes it another size.
    pub fn resize(&self, columns: u16, lines: u16) {
        self.tmux(&["resize-window", "-x", &columns.to_string(), "-y", &lines.to_string()]);
    }

    /// What is on the screen now, a line a line, without what is blank at the lines' ends.
    #[must_use]
    pub fn screen(&self) -> String {
        self.tmux(&["capture-pane", "-p"])
    }

    /// The same with what stands above the screen, and with colours as escape sequences.
    #[must_use]
    pub fn all_with_colours(&self) -> String {
        self.tmux(&["capture-pane", "-p", "-e", "-S", "-"])
    }

    /// Whether the terminal is as a program finds it: the cursor is to be seen, and the screen is the usual one.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.tmux(&["display-message", "-p", "#{cursor_flag} #{alternate_on}"]).trim() == "1 0"
    }

    /// All that was printed into it, as it came.
    #[must_use]
    pub fn printed(&self) -> String {
        self.printed.all().concat()
    }

    /// Waits until the screen is as `wanted` says.
    ///
    /// # Panics
    /// At the deadline.
    #[track_caller]
    pub fn until(&self, what: &str, mut wanted: impl FnMut(&str) -> bool) -> String {
        loop {
            let seen = self.printed.len();
            let screen = self.screen();
            if wanted(&screen) {
                return screen;
            }
            match self.printed.wait(seen, self.site.deadline(), |_| true) {
                Ok(_) => {}
                Err(vain @ (Vain::Closed | Vain::TimedOut)) => {
                    panic!("waiting for {what}: {vain:?}; the screen:\n{screen}")
                }
            }
        }
    }

    /// Waits until this text is on the screen.
    ///
    /// # Panics
    /// At the deadline.
    #[track_caller]
    pub fn until_shows(&self, text: &str) -> String {
        self.until(text, |screen| screen.contains(text))
    }

    fn tmux(&self, words: &[&str]) -> String {
        String::from_utf8_lossy(&run(self.command().args(words)).stdout).into_owned()
    }

    fn command(&self) -> Command {
        let mut command = Command::new(tmux());
        command.arg("-S").arg(&self.socket);
        command
    }
}

impl Drop for Terminal<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!(
                "-------- the terminal's screen\n{}",
                String::from_utf8_lossy(
                    &self.command().args(["capture-pane", "-p"]).output().map(|o| o.stdout).unwrap_or_default()
                )
            );
        }
        let _ = self.command().arg("kill-server").output();
    }
}

#[track_caller]
fn run(command: &mut Command) -> Output {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}
