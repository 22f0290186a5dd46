//! The real `ctl`.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use serde_json::Value;

use crate::binaries::binary;
use crate::lines::Lines;

/// How a `ctl` ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// Its exit code, `None` when a signal ended it.
    pub code: Option<i32>,
    /// What it printed.
    pub stdout: String,
    /// What it printed as errors.
    pub stderr: String,
}

impl Output {
    /// Demands an exit code.
    ///
    /// # Panics
    /// When it was another one.
    #[track_caller]
    pub fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "stdout:\n{}\nstderr:\n{}", self.stdout, self.stderr);
        self
    }

    /// Its standard output as the one JSON document that it has to be.
    ///
    /// # Panics
    /// When it is something else.
    #[track_caller]
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("not one JSON document ({error}):\n{}\n{}", self.stdout, self.stderr))
    }
}

/// A `ctl` that runs.
#[derive(Debug)]
pub struct Ctl {
    child: Child,
    /// What it prints.
    pub stdout: Arc<Lines>,
    /// What it prints as errors.
    pub stderr: Arc<Lines>,
}

impl Ctl {
    /// Starts `command`, usually made by [`command`].
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn start(command: &mut Command) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let stdout = Lines::read(child.stdout.take().expect("a pipe"));
        let stderr = Lines::read(child.stderr.take().expect("a pipe"));
        Self { child, stdout, stderr }
    }

    /// Its pid.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    /// Whether it still waits.
    ///
    /// # Panics
    /// When it cannot be asked.
    #[must_use]
    pub fn waits(&mut self) -> bool {
        self.child.try_wait().expect("wait").is_none()
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// When it cannot be waited for.
    #[must_use]
    pub fn end(mut self) -> Output {
        let status = self.child.wait().expect("wait");
        let far = std::time::Instant::now() + std::time::Duration::from_secs(10);
        let _ = self.stdout.wait_closed(far);
        let _ = self.stderr.wait_closed(far);
        Output { code: status.code(), stdout: self.stdout.text(), stderr: self.stderr.text() }
    }
}

/// A `ctl` that speaks to the master at `socket`.
#[must_use]
pub fn command(socket: &Path, args: &[&str]) -> Command {
    let mut command = bare();
    command.arg("--socket").arg(socket).args(args);
    command
}

/// A `ctl` that is not told where its master is.
#[must_use]
pub fn bare() -> Command {
    let mut command = Command::new(binary("ctl"));
    for name in ["PHASED_SOCKET", "PHASED_NAME", "RUNTIME_DIRECTORY", "XDG_RUNTIME_DIR"] {
        command.env_remove(name);
    }
    command
}
