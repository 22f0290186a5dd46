//! What a person sees who runs `worker` by hand: it takes its orders from the master, as messages on a pipe.

use std::ffi::OsString;

const HELP: &str = "\
worker boots one app from a release directory, watches it, and reports to the
master.

It is started by `master`, which speaks to it over pipes; there is nothing to
run by hand.

Usage: worker --version | --help

See `master --help` for running an app, and `ctl --help` for deploying it.
";

/// How a run by hand ends.
pub(crate) struct Answer {
    /// For standard output.
    pub(crate) out: String,
    /// For standard error.
    pub(crate) err: String,
    /// The exit code.
    pub(crate) code: i32,
}

/// The answer to a person, or `None` when the master started us. The master's own argument says which app and slot this
/// is, for `ps`, and means nothing else.
pub(crate) fn answer(args: &[OsString], has_pipes: bool) -> Option<Answer> {
    let said = |out: String| Some(Answer { out, err: String::new(), code: 0 });
    match args.first().and_then(|a| a.to_str()) {
        Some("--version" | "-V") => said(format!("worker {}\n", env!("CARGO_PKG_VERSION"))),
        Some("--help" | "-h") => said(HELP.into()),
        _ if has_pipes => None,
        _ => Some(Answer {
            out: String::new(),
            err: "error: worker is started by master and takes its orders from it; run `master --help`\n".into(),
            code: 2,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_hand_and_by_the_master() {
        let args = |a: &[&str]| a.iter().map(OsString::from).collect::<Vec<_>>();
        assert_eq!(answer(&args(&[]), false).unwrap().code, 2);
        assert_eq!(answer(&args(&["--nonsense"]), false).unwrap().code, 2);
        assert!(answer(&args(&["--version"]), true).unwrap().out.starts_with("worker "));
        assert!(answer(&args(&["app slot 2"]), true).is_none());
    }
}
