//! How `ctl` ends: its exit codes and the failure that carries one.
//!
//! Every module that can fail returns a [`Failure`]; `main` alone turns it into text or JSON and exits.

use proto::control::Code;
use proto::worker::BootReport;

/// Why a command did not do what was asked, with the exit code that says so.
#[derive(Debug)]
pub(crate) struct Failure {
    /// What `ctl` exits with, also `error.code` under `--json`.
    pub(crate) code: Code,
    /// What, why, and the way out.
    pub(crate) message: String,
    /// The boot failure behind it.
    pub(crate) report: Option<Box<BootReport>>,
}

impl Failure {
    /// A failure with its code and text, and no boot report.
    pub(crate) fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), report: None }
    }

    /// A failure that has no code of its own.
    pub(crate) fn other(message: impl Into<String>) -> Self {
        Self::new(Code::Failed, message)
    }
}

/// The number that goes to the caller.
pub(crate) fn number(code: Code) -> u8 {
    code as u8
}
