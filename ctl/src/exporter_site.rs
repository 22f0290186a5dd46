//! What the exporter knows of its site: it asks the master anew for every scrape, and goes on when there is none.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;

use crate::exit::Failure;
use crate::locate::{self, Target};
use crate::metrics::{self, Seen, Taken};
use crate::metrics_text::{self, Dialect};
use crate::render;

/// The site and its master, where there is one.
pub(crate) struct Site {
    socket: Option<PathBuf>,
    name: Option<String>,
    /// What the master called itself.
    called: Option<String>,
    cpu: Cpu,
    /// Whether it answered; `None`: it was not asked yet.
    answered: Option<bool>,
}

/// The CPU time by slot, as told last, and whose: the processes of an app are not looked at all at one instant, and a sum that
/// falls by a hair would count as begun anew.
#[derive(Default)]
struct Cpu(BTreeMap<u32, (u64, f64)>);

impl Cpu {
    /// No worker's time falls.
    fn correct(&mut self, slots: &mut BTreeMap<u32, Taken>, workers: u32) {
        self.0.retain(|slot, _| *slot < workers);
        for (slot, taken) in slots {
            if let Some((worker, seconds)) = &mut taken.cpu {
                let told = self.0.get(slot).filter(|(told, _)| told == worker);
                *seconds = told.map_or(*seconds, |(_, told)| told.max(*seconds));
                self.0.insert(*slot, (*worker, *seconds));
            }
        }
    }
}

/// An answer, or why there is none.
pub(crate) struct Look {
    site: String,
    seen: Result<Seen, String>,
}

impl Site {
    /// The site of the master that commands with these options would ask.
    pub(crate) fn new(socket: Option<PathBuf>, name: Option<String>) -> Self {
        Self { socket, name, called: None, cpu: Cpu::default(), answered: None }
    }

    /// Asks. Takes no longer than connecting and one answer may.
    pub(crate) fn look(&mut self) -> Arc<Look> {
        let seen = self.ask();
        self.tell(seen.as_ref().err());
        let site = self.label();
        Arc::new(Look { site, seen: seen.map_err(|failure| failure.message) })
    }

    fn ask(&mut self) -> Result<Seen, Failure> {
        let target = match (&self.socket, &self.name) {
            (Some(path), _) => Target::Socket(path),
            (None, Some(name)) => Target::Name(name),
            (None, None) => Target::Only,
        };
        let found = locate::connect(&target)?;
        let path = found.path.clone();
        let mut seen = metrics::ask(found)?;
        // Of the only master's site it stays the exporter: another one that is alone some day is another site.
        if self.name.is_none() {
            self.socket = Some(path);
        }
        self.called = Some(seen.stats.name.clone());
        self.cpu.correct(&mut seen.slots, seen.stats.workers);
        Ok(seen)
    }

    /// What the series are labelled with; empty, which to Prometheus is no label, as long as nobody has said it.
    fn label(&self) -> String {
        let stem = || Some(self.socket.as_ref()?.file_stem()?.to_string_lossy().into_owned());
        self.called.clone().or_else(|| self.name.clone()).or_else(stem).unwrap_or_default()
    }

    /// Says on stderr when a master is away and when one is back.
    fn tell(&mut self, failure: Option<&Failure>) {
        let before = self.answered.replace(failure.is_none());
        let text = match failure {
            Some(failure) if before != Some(false) => render::failure(failure),
            None if before == Some(false) => "the master answers again\n".into(),
            _ => return,
        };
        let _ = io::stderr().lock().write_all(text.as_bytes());
    }
}

impl Look {
    /// For `/metrics`.
    pub(crate) fn text(&self, dialect: Dialect) -> String {
        let families = self.seen.as_ref().map_or_else(|_| metrics::away(), metrics::families);
        metrics_text::text(&families, &self.site, dialect)
    }

    /// For `/healthz`: a line, and whether it is well with the site.
    pub(crate) fn health(&self) -> (bool, String) {
        match &self.seen {
            Err(why) => (false, render::line(why)),
            Ok(Seen { stats, .. }) => {
                let well = match stats.state.as_str() {
                    "steady" | "held" | "rolling" | "soaking" | "rolling_back" => stats.booted_workers > 0,
                    _ => false,
                };
                let said = crate::short::status(stats, std::time::SystemTime::now());
                (well, said)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_workers_time_falls_and_the_next_ones_begins_anew() {
        let mut cpu = Cpu::default();
        let mut told = |worker, seconds| {
            let mut slots = BTreeMap::from([(0, Taken { memory: 0, cpu: Some((worker, seconds)) })]);
            cpu.correct(&mut slots, 1);
            slots[&0].cpu
        };
        assert_eq!(told(7, 10.0), Some((7, 10.0)));
        assert_eq!(told(7, 9.5), Some((7, 10.0)));
        assert_eq!(told(7, 10.5), Some((7, 10.5)));
        assert_eq!(told(8, 0.5), Some((8, 0.5)));
        cpu.correct(&mut BTreeMap::new(), 0);
        assert!(cpu.0.is_empty(), "a slot that is no more");
    }

    #[test]
    fn a_site_is_called_as_it_calls_itself() {
        let label = |socket: Option<&str>, name: Option<&str>, called: Option<&str>| {
            let mut site = Site::new(socket.map(PathBuf::from), name.map(str::to_owned));
            site.called = called.map(str::to_owned);
            site.label()
        };
        assert_eq!(label(Some("/run/a.sock"), None, Some("shop")), "shop");
        assert_eq!(label(Some("/run/a.sock"), None, None), "a");
        assert_eq!(label(None, Some("shop"), None), "shop");
        assert_eq!(label(None, None, None), "");
    }
}
