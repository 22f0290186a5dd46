//! How the words of an option's value are read. Each reader says what is wanted when it gets something else.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use nix::sys::signal::Signal;
use proto::worker::{Check, Ready};

/// `--ready`, before it is known whether there are listeners.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReadyHow {
    Auto,
    Explicit(Ready),
}

/// How long an app without listeners has to live when nothing was said about readiness.
const ALIVE_BY_DEFAULT: Duration = Duration::from_secs(2);

impl ReadyHow {
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "accepting" => Ok(Self::Explicit(Ready::Accepting)),
            "notify" => Ok(Self::Explicit(Ready::Notify)),
            _ => match text.strip_prefix("alive:").map(duration) {
                Some(Ok(time)) => Ok(Self::Explicit(Ready::Alive(millis(time)))),
                Some(Err(e)) => Err(e),
                None => Err("auto, accepting, notify or alive:DURATION (alive:5s)".into()),
            },
        }
    }

    /// What the workers look for.
    pub(crate) fn resolve(self, listeners: bool) -> Ready {
        match self {
            Self::Explicit(ready) => ready,
            Self::Auto if listeners => Ready::Accepting,
            Self::Auto => Ready::NotifyOrAlive(millis(ALIVE_BY_DEFAULT)),
        }
    }
}

/// Milliseconds of a duration, as the protocol carries them.
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// `300ms`, `5s`, `2m`, `0`: at most a year.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let duration = humantime::parse_duration(text).map_err(|e| format!("{e} (300ms, 5s, 2m)"))?;
    // A year is no timeout; beyond it deadlines could overflow.
    if duration > Duration::from_secs(365 * 24 * 3600) {
        return Err("at most a year".into());
    }
    Ok(duration)
}

/// A duration that is one: where 0 would mean that nothing can ever be in time. The protocol counts milliseconds.
pub(crate) fn some_time(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        time if millis(time) == 0 => Err("at least 1ms (to go without, leave the option out)".into()),
        time => Ok(time),
    }
}

/// As [`some_time`], for an option that always has a value.
pub(crate) fn some_timeout(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        time if millis(time) == 0 => Err("at least 1ms: within no time at all, everything would fail".into()),
        time => Ok(time),
    }
}

/// Less than this is a forgotten unit.
const SMALLEST_SIZE: u64 = 1 << 20;

/// Bytes: `512M`, `1.5G`, `300000000`. The units are binary, as in systemd's `MemoryMax=`.
pub(crate) fn size(text: &str) -> Result<u64, String> {
    let wrong = || String::from("a size is wanted: 512M, 1.5G, or a number of bytes");
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let shift = match unit.to_ascii_uppercase().as_str() {
        "" | "B" => 0,
        "K" | "KB" | "KIB" => 10,
        "M" | "MB" | "MIB" => 20,
        "G" | "GB" | "GIB" => 30,
        "T" | "TB" | "TIB" => 40,
        _ => return Err(wrong()),
    };
    let unit = 1_u64 << shift;
    let bytes = match number.parse::<u64>() {
        Ok(whole) => whole.checked_mul(unit),
        // Half a byte is no size.
        Err(_) if shift == 0 => None,
        Err(_) => number.parse::<f64>().ok().map(|n| n * unit as f64).filter(|n| *n < 2_f64.powi(63)).map(|n| n as u64),
    };
    match bytes.ok_or_else(wrong)? {
        bytes if bytes < SMALLEST_SIZE => Err(format!("{bytes} bytes hold no app: was {number}M meant?")),
        bytes => Ok(bytes),
    }
}

/// A signal that an app can finish on: `TERM`, `SIGTERM`, `term`, `15`.
pub(crate) fn signal(text: &str) -> Result<Signal, String> {
    let upper = text.to_ascii_uppercase();
    let long = if upper.starts_with("SIG") { upper } else { format!("SIG{upper}") };
    let by_number = || text.parse::<i32>().ok().and_then(|n| Signal::try_from(n).ok());
    let signal = long.parse::<Signal>().ok().or_else(by_number);
    match signal {
        Some(Signal::SIGKILL | Signal::SIGSTOP) => Err("no app can finish on that signal".into()),
        Some(signal) => Ok(signal),
        None => Err("not a signal (TERM, QUIT, INT, USR1 …)".into()),
    }
}

/// `K=V`.
pub(crate) fn env(text: &str) -> Result<(OsString, OsString), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.into(), value.into())),
        _ => Err("K=V, with a name before the '='".into()),
    }
}

/// A name becomes part of file names.
pub(crate) fn name(text: &str) -> Result<String, String> {
    let good = |c: char| c.is_alphanumeric() || "._-@+".contains(c);
    if text.is_empty() || text.len() > 64 || text.starts_with('.') || !text.chars().all(good) {
        return Err("a name has 1 to 64 letters, digits or ._-@+ and does not begin with a dot".into());
    }
    Ok(text.into())
}

/// A line for sh: anything but nothing.
pub(crate) fn line(text: OsString) -> Result<OsString, String> {
    if is_blank(&text) {
        return Err("a command is wanted (to go without, leave the option out)".into());
    }
    Ok(text)
}

fn is_blank(text: &OsStr) -> bool {
    text.as_bytes().iter().all(u8::is_ascii_whitespace)
}

/// `http:/PATH`, `http://HOST/PATH` or `exec:COMMAND`.
pub(crate) fn check(text: &str) -> Result<Check, String> {
    let wanted = || String::from("http:/PATH, http://HOST/PATH or exec:COMMAND (http:/health)");
    if let Some(line) = text.strip_prefix("exec:") {
        return if is_blank(line.as_ref()) { Err(wanted()) } else { Ok(Check::Exec(line.into())) };
    }
    if text.starts_with("https:") {
        return Err("the release is asked before any proxy, in plain HTTP: http:/PATH".into());
    }
    let rest = text.strip_prefix("http:").filter(|rest| rest.starts_with('/')).ok_or_else(wanted)?;
    let (host, path) = match rest.strip_prefix("//") {
        Some(rest) => rest.split_once('/').map_or((rest, ""), |(host, path)| (host, path)),
        None => ("localhost", &rest[1..]),
    };
    // What stands in a request line and in a header must not be able to end it (RFC 9112 §3, §5).
    let plain = |text: &str| text.bytes().all(|b| b.is_ascii_graphic() && b != b'#');
    if !plain(path) {
        return Err("a path has neither spaces, '#' nor other than ASCII letters (%20 stands for a space)".into());
    }
    if host.is_empty() || !plain(host) || host.contains(['@', '?']) {
        return Err(format!("'{host}' is no host (it only stands in the Host header): {}", wanted()));
    }
    Ok(Check::Http { host: host.into(), path: format!("/{path}") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readiness_is_parsed() {
        assert_eq!(ReadyHow::parse("alive:300ms"), Ok(ReadyHow::Explicit(Ready::Alive(300))));
        assert!(ReadyHow::parse("alive").is_err());
        assert!(ReadyHow::parse("alive:soon").is_err());
        assert_eq!(ReadyHow::Auto.resolve(true), Ready::Accepting);
        assert_eq!(ReadyHow::Auto.resolve(false), Ready::NotifyOrAlive(2000));
    }

    #[test]
    fn signals_have_many_spellings() {
        for text in ["TERM", "SIGTERM", "term", "15"] {
            assert_eq!(signal(text), Ok(Signal::SIGTERM), "{text}");
        }
        assert!(signal("KILL").is_err());
        assert!(signal("NONE").is_err());
    }

    #[test]
    fn names_become_file_names() {
        assert!(name("shop-2").is_ok());
        for bad in ["", "..", "a/b", ".x", "a b"] {
            assert!(name(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes_have_binary_units() {
        for (text, bytes) in
            [("512M", 512 << 20), ("1.5G", 3 << 29), ("300000000", 300_000_000), ("2gib", 2 << 30), ("1024K", 1 << 20)]
        {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for bad in ["", "M", "1.5", "-1G", "+1G", "1 G", "1.5.5G", "1e9", "99999999T", "9999999999.0T", "1X", "."] {
            assert!(size(bad).is_err(), "{bad}");
        }
        assert!(size("512").unwrap_err().contains("512M"), "the forgotten unit is named");
    }

    #[test]
    fn no_time_at_all_is_refused_where_it_makes_no_sense() {
        assert_eq!(some_time("1ms"), Ok(Duration::from_millis(1)));
        for zero in ["0", "0s", "900us"] {
            assert!(duration(zero).is_ok() && some_time(zero).is_err() && some_timeout(zero).is_err(), "{zero}");
        }
        assert!(some_time("5").is_err());
    }

    #[test]
    fn checks_are_read() {
        let http = |host: &str, path: &str| Ok(Check::Http { host: host.into(), path: path.into() });
        assert_eq!(check("http:/health"), http("localhost", "/health"));
        assert_eq!(check("http:/"), http("localhost", "/"));
        assert_eq!(check("http://shop.example:8080/up?deep=1"), http("shop.example:8080", "/up?deep=1"));
        assert_eq!(check("http://shop.example"), http("shop.example", "/"));
        assert_eq!(check("exec:bin/check --port {addr}"), Ok(Check::Exec(b"bin/check --port {addr}".into())));
        for bad in [
            "/health",
            "http:health",
            "http:",
            "http:///x",
            "https://x/",
            "exec:",
            "exec: ",
            "http:/a b",
            "http:/a\r\nX: y",
            "http://a b/",
            "http://me@x/",
            "tcp:1",
        ] {
            assert!(check(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_line_says_something() {
        assert!(line("true".into()).is_ok());
        assert!(line("".into()).is_err() && line(" ".into()).is_err());
    }
}
