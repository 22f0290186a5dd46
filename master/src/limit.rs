//! `--limit`: what a worker and everything below it may use (setrlimit(2)), by the names of prlimit(1) and systemd.

use std::io;

use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit};

use crate::sys;

/// The names, in prlimit(1)'s order.
const NAMES: [(&str, Resource); 16] = [
    ("as", Resource::RLIMIT_AS),
    ("core", Resource::RLIMIT_CORE),
    ("cpu", Resource::RLIMIT_CPU),
    ("data", Resource::RLIMIT_DATA),
    ("fsize", Resource::RLIMIT_FSIZE),
    ("locks", Resource::RLIMIT_LOCKS),
    ("memlock", Resource::RLIMIT_MEMLOCK),
    ("msgqueue", Resource::RLIMIT_MSGQUEUE),
    ("nice", Resource::RLIMIT_NICE),
    ("nofile", Resource::RLIMIT_NOFILE),
    ("nproc", Resource::RLIMIT_NPROC),
    ("rss", Resource::RLIMIT_RSS),
    ("rtprio", Resource::RLIMIT_RTPRIO),
    ("rttime", Resource::RLIMIT_RTTIME),
    ("sigpending", Resource::RLIMIT_SIGPENDING),
    ("stack", Resource::RLIMIT_STACK),
];

/// One limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limit {
    pub(crate) name: &'static str,
    resource: Resource,
    soft: u64,
    hard: u64,
}

impl Limit {
    /// `nofile=65536`, `core=0:unlimited`. Without a second number both limits are the first.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let (name, values) = text.split_once('=').ok_or("NAME=SOFT[:HARD] (nofile=65536, core=0:unlimited)")?;
        let known = NAMES.iter().find(|(known, _)| *known == name);
        let (name, resource) = *known.ok_or_else(|| {
            let names: Vec<_> = NAMES.iter().map(|(name, _)| *name).collect();
            format!("there is no limit '{name}': {}", names.join(", "))
        })?;
        let (soft, hard) = values.split_once(':').unwrap_or((values, values));
        let (soft, hard) = (value(soft)?, value(hard)?);
        if soft > hard {
            return Err("the first number, what counts, may not be above the second, to which it can be raised".into());
        }
        Ok(Self { name, resource, soft, hard })
    }

    /// Whether this process may set it.
    ///
    /// # Errors
    /// The limit that only root could raise.
    pub(crate) fn check(&self) -> Result<(), String> {
        // Without CAP_SYS_RESOURCE nobody goes beyond the hard limit; that root of a container lacks it is found at the spawn.
        match getrlimit(self.resource) {
            Ok((_, most)) if self.hard > most && !nix::unistd::geteuid().is_root() => {
                Err(format!("{}: at most {most} is allowed here, and only root can raise that", self.name))
            }
            _ => Ok(()),
        }
    }

    /// Sets it for a process.
    ///
    /// # Errors
    /// Whatever prlimit(2) says.
    pub(crate) fn set(&self, pid: i32) -> io::Result<()> {
        sys::limit(pid, self.resource, self.soft, self.hard)
    }
}

fn value(text: &str) -> Result<u64, String> {
    match text {
        "unlimited" | "infinity" => Ok(RLIM_INFINITY),
        number => number.parse().map_err(|_| format!("a number or 'unlimited' is wanted, not '{number}'")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_number_or_two() {
        let both = |text| Limit::parse(text).map(|limit| (limit.name, limit.soft, limit.hard));
        assert_eq!(both("nofile=65536"), Ok(("nofile", 65536, 65536)));
        assert_eq!(both("core=0:unlimited"), Ok(("core", 0, RLIM_INFINITY)));
        assert_eq!(both("cpu=infinity"), Ok(("cpu", RLIM_INFINITY, RLIM_INFINITY)));
        for (bad, word) in [
            ("nofile", "NAME=SOFT"),
            ("files=3", "nofile, nproc"),
            ("nofile=", "a number"),
            ("nofile=-1", "a number"),
            ("nofile=4K", "a number"),
            ("nofile=2:1", "may not be above"),
            ("core=unlimited:0", "may not be above"),
        ] {
            let error = Limit::parse(bad).unwrap_err();
            assert!(error.contains(word), "{bad}: {error}");
        }
    }
}
