//! Events and actions as text: one line each, for traces, for `testdata`, and for replaying one as the other.

mod actions;
mod memory;

use alloc::format;
use alloc::string::String;
use core::fmt;
use core::str::FromStr;
use core::time::Duration;

use proto::{Incarnation, Slot};

use crate::adopt::{Found, Left};
use crate::event::{Command, CommandId, Event, Options, ReleaseId, ScaleTo, Timer};
use crate::policy::Settings;

struct Time(Duration);

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.subsec_millis() == 0 {
            write!(f, "{}s", self.0.as_secs())
        } else {
            write!(f, "{}ms", self.0.as_millis())
        }
    }
}

fn time(word: &str) -> Result<Duration, String> {
    let (number, unit) = match word.strip_suffix("ms") {
        Some(number) => (number, 1),
        None => (word.strip_suffix('s').unwrap_or(word), 1000),
    };
    let number: u64 = number.parse().map_err(|_| format!("'{word}' is not a time"))?;
    Ok(Duration::from_millis(number * unit))
}

fn number<T: FromStr>(word: &str) -> Result<T, String> {
    word.parse().map_err(|_| format!("'{word}' is not a number"))
}

fn release(word: &str) -> Result<ReleaseId, String> {
    word.strip_prefix('r')
        .ok_or_else(|| format!("'{word}' is not a release (r0, r1 …)"))
        .and_then(number)
        .map(ReleaseId)
}

impl fmt::Display for ReleaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "r{}", self.0)
    }
}

impl fmt::Display for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "workers={} surge={} max-unavailable={} soak={} drain={} boot={}",
            self.workers,
            self.surge,
            self.max_unavailable,
            Time(self.soak),
            Time(self.drain_timeout),
            Time(self.boot_timeout)
        )?;
        // Only what differs from the usual: most sites have none of it.
        let usual = Self::default();
        let flags = [
            ("rehearse", self.rehearse),
            ("before-rollout", self.before_rollout),
            ("on-promote", self.on_promote),
            ("on-failure", self.on_failure),
            ("no-orphans", self.no_orphans),
        ];
        for (word, _) in flags.into_iter().filter(|(_, set)| *set) {
            write!(f, " {word}")?;
        }
        if self.canary > 0 {
            write!(f, " canary={}", self.canary)?;
        }
        let times = [("checks", self.check_time, usual.check_time), ("hooks", self.hook_timeout, usual.hook_timeout)];
        for (word, time, _) in times.into_iter().filter(|(_, time, usual)| time != usual) {
            write!(f, " {word}={}", Time(time))?;
        }
        for (word, time) in
            [("canary-soak", self.canary_soak), ("confirm-within", self.confirm_within), ("max-age", self.max_age)]
        {
            if let Some(time) = time {
                write!(f, " {word}={}", Time(time))?;
            }
        }
        Ok(())
    }
}

impl FromStr for Settings {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut settings = Self::default();
        for word in text.split_whitespace() {
            match word.split_once('=') {
                Some(("workers", n)) => settings.workers = number(n)?,
                Some(("surge", n)) => settings.surge = n.parse()?,
                Some(("max-unavailable", n)) => settings.max_unavailable = number(n)?,
                Some(("soak", d)) => settings.soak = time(d)?,
                Some(("checks", d)) => settings.check_time = time(d)?,
                Some(("hooks", d)) => settings.hook_timeout = time(d)?,
                Some(("canary", n)) => settings.canary = number(n)?,
                Some(("canary-soak", d)) => settings.canary_soak = Some(time(d)?),
                Some(("confirm-within", d)) => settings.confirm_within = Some(time(d)?),
                Some(("max-age", d)) => settings.max_age = Some(time(d)?),
                None if word == "rehearse" => settings.rehearse = true,
                None if word == "before-rollout" => settings.before_rollout = true,
                None if word == "on-promote" => settings.on_promote = true,
                None if word == "on-failure" => settings.on_failure = true,
                None if word == "no-orphans" => settings.no_orphans = true,
                Some(("drain", d)) => settings.drain_timeout = time(d)?,
                Some(("boot", d)) => settings.boot_timeout = time(d)?,
                _ => return Err(format!("'{word}' is not a setting")),
            }
        }
        Ok(settings)
    }
}

impl fmt::Display for Timer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Soak => f.write_str("soak"),
            Self::Backoff(slot) => write!(f, "backoff {slot}"),
            Self::Healthy(slot) => write!(f, "healthy {slot}"),
            Self::BootLate(worker) => write!(f, "boot-late {worker}"),
            Self::Overdue(worker) => write!(f, "overdue {worker}"),
            Self::Canary => f.write_str("canary"),
            Self::Confirm => f.write_str("confirm"),
            Self::Age(worker) => write!(f, "age {worker}"),
        }
    }
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let left = match self.left {
            Left::Serving => "serving",
            Left::Unfit => "unfit",
            Left::Ending => "ending",
            Left::Strays => "strays",
        };
        write!(f, "{}:{}:{}:{left}", self.worker, self.slot, self.code)
    }
}

impl FromStr for Found {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("'{text}' is not WORKER:SLOT:RELEASE@PHASE:WHAT-IS-LEFT");
        let words: alloc::vec::Vec<&str> = text.split(':').collect();
        let [worker, slot, code, left] = words[..] else { return Err(wrong()) };
        let left = match left {
            "serving" => Left::Serving,
            "unfit" => Left::Unfit,
            "ending" => Left::Ending,
            "strays" => Left::Strays,
            _ => return Err(wrong()),
        };
        Ok(Self { worker: Incarnation(number(worker)?), slot: Slot(number(slot)?), code: code.parse()?, left })
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Start => f.write_str("start"),
            Self::Adopt { found, confirm_left } => {
                f.write_str("adopt")?;
                if let Some(left) = confirm_left {
                    write!(f, " confirm-left={}", Time(*left))?;
                }
                found.iter().try_for_each(|found| write!(f, " {found}"))
            }
            Self::Booted(worker) => write!(f, "booted {worker}"),
            Self::BootFailed { worker, release_gone } => {
                write!(f, "boot-failed {worker}{}", if *release_gone { " gone" } else { "" })
            }
            Self::Exited(worker) => write!(f, "exited {worker}"),
            Self::Lost(worker) => write!(f, "lost {worker}"),
            Self::Gone(worker) => write!(f, "gone {worker}"),
            Self::Fired(timer) => write!(f, "fired {timer}"),
            Self::Resolved { slot, release: Some(release) } => write!(f, "resolved {slot} {release}"),
            Self::Resolved { slot, release: None } => write!(f, "resolved {slot} nothing"),
            Self::Outgrown(worker) => write!(f, "outgrown {worker}"),
            Self::ListenerLost => f.write_str("listener-lost"),
            Self::Command { id, command } => write!(f, "command {} {command}", id.0),
        }
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PhasedRestart { release, options } => write!(f, "phased-restart {release}{options}"),
            Self::Rehearse { release } => write!(f, "rehearse {release}"),
            Self::Pause => f.write_str("pause"),
            Self::Resume => f.write_str("resume"),
            Self::Confirm => f.write_str("confirm"),
            Self::ReloadDir { release, explicit } => {
                write!(f, "reload-dir {release}{}", if *explicit { " explicit" } else { "" })
            }
            Self::Abort => f.write_str("abort"),
            Self::Rollback { gone } => write!(f, "rollback{}", if *gone { " gone" } else { "" }),
            Self::Scale(ScaleTo::Exactly(n)) => write!(f, "scale {n}"),
            Self::Scale(ScaleTo::Up(n)) => write!(f, "scale +{n}"),
            Self::Scale(ScaleTo::Down(n)) => write!(f, "scale -{n}"),
            Self::Restart(slot) => write!(f, "restart {slot}"),
            Self::Await { run } => write!(f, "await {run}"),
            Self::Detach => f.write_str("detach"),
            Self::Leave => f.write_str("leave"),
            Self::Upgrade => f.write_str("upgrade"),
            Self::Stop => f.write_str("stop"),
            Self::Interrupt => f.write_str("interrupt"),
            Self::Halt => f.write_str("halt"),
        }
    }
}

impl fmt::Display for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { hold, no_rehearse, if_new, surge, max_unavailable, soak, canary, canary_soak, confirm_within } =
            self;
        for (word, set) in [("hold", hold), ("no-rehearse", no_rehearse), ("if-new", if_new)] {
            if *set {
                write!(f, " {word}")?;
            }
        }
        if let Some(n) = surge {
            write!(f, " surge={n}")?;
        }
        for (word, number) in [("max-unavailable", max_unavailable), ("canary", canary)] {
            if let Some(n) = number {
                write!(f, " {word}={n}")?;
            }
        }
        for (word, time) in [("soak", soak), ("canary-soak", canary_soak), ("confirm-within", confirm_within)] {
            if let Some(d) = time {
                write!(f, " {word}={}", Time(*d))?;
            }
        }
        Ok(())
    }
}

fn options(words: &[&str]) -> Result<Options, String> {
    let mut options = Options::default();
    for word in words {
        match word.split_once('=') {
            None if *word == "hold" => options.hold = true,
            None if *word == "no-rehearse" => options.no_rehearse = true,
            None if *word == "if-new" => options.if_new = true,
            Some(("surge", n)) => options.surge = Some(n.parse()?),
            Some(("max-unavailable", n)) => options.max_unavailable = Some(number(n)?),
            Some(("canary", n)) => options.canary = Some(number(n)?),
            Some(("soak", d)) => options.soak = Some(time(d)?),
            Some(("canary-soak", d)) => options.canary_soak = Some(time(d)?),
            Some(("confirm-within", d)) => options.confirm_within = Some(time(d)?),
            _ => return Err(format!("'{word}' is not an option")),
        }
    }
    Ok(options)
}

impl FromStr for Timer {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Ok(match *text.split_whitespace().collect::<alloc::vec::Vec<_>>() {
            ["soak"] => Self::Soak,
            ["backoff", n] => Self::Backoff(Slot(number(n)?)),
            ["healthy", n] => Self::Healthy(Slot(number(n)?)),
            ["boot-late", n] => Self::BootLate(Incarnation(number(n)?)),
            ["overdue", n] => Self::Overdue(Incarnation(number(n)?)),
            ["canary"] => Self::Canary,
            ["confirm"] => Self::Confirm,
            ["age", n] => Self::Age(Incarnation(number(n)?)),
            _ => return Err(format!("'{text}' is not a timer")),
        })
    }
}

impl FromStr for Command {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let words: alloc::vec::Vec<&str> = text.split_whitespace().collect();
        Ok(match *words {
            ["phased-restart", name, ref words @ ..] => {
                Self::PhasedRestart { release: release(name)?, options: options(words)? }
            }
            ["rehearse", name] => Self::Rehearse { release: release(name)? },
            ["pause"] => Self::Pause,
            ["resume"] => Self::Resume,
            ["confirm"] => Self::Confirm,
            ["reload-dir", name] => Self::ReloadDir { release: release(name)?, explicit: false },
            ["reload-dir", name, "explicit"] => Self::ReloadDir { release: release(name)?, explicit: true },
            ["abort"] => Self::Abort,
            ["rollback"] => Self::Rollback { gone: false },
            ["rollback", "gone"] => Self::Rollback { gone: true },
            ["scale", to] => Self::Scale(match (to.strip_prefix('+'), to.strip_prefix('-')) {
                (Some(n), _) => ScaleTo::Up(number(n)?),
                (_, Some(n)) => ScaleTo::Down(number(n)?),
                _ => ScaleTo::Exactly(number(to)?),
            }),
            ["restart", n] => Self::Restart(Slot(number(n)?)),
            ["await", run] => Self::Await { run: number(run)? },
            ["detach"] => Self::Detach,
            ["leave"] => Self::Leave,
            ["upgrade"] => Self::Upgrade,
            ["stop"] => Self::Stop,
            ["interrupt"] => Self::Interrupt,
            ["halt"] => Self::Halt,
            _ => return Err(format!("'{text}' is not a command")),
        })
    }
}

impl FromStr for Event {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (head, rest) = text.trim().split_once(' ').unwrap_or((text.trim(), ""));
        let worker = |word: &str| number(word).map(Incarnation);
        Ok(match head {
            "start" => Self::Start,
            "adopt" => {
                let (mut found, mut confirm_left) = (alloc::vec::Vec::new(), None);
                for word in rest.split_whitespace() {
                    match word.strip_prefix("confirm-left=") {
                        Some(left) => confirm_left = Some(time(left)?),
                        None => found.push(word.parse()?),
                    }
                }
                Self::Adopt { found, confirm_left }
            }
            "booted" => Self::Booted(worker(rest)?),
            "boot-failed" => match rest.strip_suffix(" gone") {
                Some(id) => Self::BootFailed { worker: worker(id)?, release_gone: true },
                None => Self::BootFailed { worker: worker(rest)?, release_gone: false },
            },
            "exited" => Self::Exited(worker(rest)?),
            "lost" => Self::Lost(worker(rest)?),
            "gone" => Self::Gone(worker(rest)?),
            "fired" => Self::Fired(rest.parse()?),
            "resolved" => {
                let (slot, name) = rest.split_once(' ').ok_or("resolved SLOT RELEASE")?;
                let release = if name == "nothing" { None } else { Some(release(name)?) };
                Self::Resolved { slot: Slot(number(slot)?), release }
            }
            "outgrown" => Self::Outgrown(worker(rest)?),
            "listener-lost" => Self::ListenerLost,
            "command" => {
                let (id, command) = rest.split_once(' ').ok_or("command NUMBER COMMAND")?;
                Self::Command { id: CommandId(number(id)?), command: command.parse()? }
            }
            _ => return Err(format!("'{text}' is not an event")),
        })
    }
}
