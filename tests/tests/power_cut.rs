//! P5 across a power cut: everything is killed at every write to the state, in every kind of rollout, and the next start
//! comes up on known-good code or on what was promoted, and never on what was refused or not confirmed.
//!
//! A write has two ends: the new file appears, and it takes the old one's place. The kill comes as soon as either is
//! seen. When exactly it strikes is not ours to say, and need not be: what has to hold holds at any moment, and is told
//! by what the disk says then.

use std::fs;
use std::os::fd::AsFd;
use std::process::Command;
use std::time::Instant;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use serde_json::Value;
use tests::master::{all_on, name_of};
use tests::{Ctl, Master, Site, ctl, process, sys};

/// One course of events, beginning with 41 as the known-good release and `dir` naming 42.
struct Course {
    script: &'static str,
    commands: &'static [&'static [&'static str]],
    /// Whether the master may ever be found with 42 as its known-good release.
    promotes: bool,
}

/// Writes to the state, as they are seen from outside.
struct Writes {
    inotify: Inotify,
    seen: usize,
}

impl Writes {
    fn watch(site: &Site) -> Self {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK).expect("inotify");
        let (come, go) = (AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO, AddWatchFlags::IN_MOVED_FROM);
        let rest = AddWatchFlags::IN_DELETE | AddWatchFlags::IN_MODIFY;
        inotify.add_watch(&site.state(), come | go | rest).expect("a watch");
        Self { inotify, seen: 0 }
    }

    /// Takes in what has happened so far. Nothing may be done to the file but to put a whole one in its place: a moment in
    /// which there is none, or a part of one, is too short to be met by a cut, and long enough for a power cut.
    fn look(&mut self) {
        for event in self.inotify.read_events().unwrap_or_default() {
            let name = event.name.unwrap_or_default();
            let put = name == "state.json";
            assert!(!put || event.mask == AddWatchFlags::IN_MOVED_TO, "state.json: {:?}", event.mask);
            self.seen += usize::from(put || name == "state.json.new" && event.mask == AddWatchFlags::IN_CREATE);
        }
    }

    /// Waits until `count` ends of writes were seen since the watch began; `false` when the process ends before.
    fn until(&mut self, site: &Site, count: usize, pid: i32) -> bool {
        let end = sys::pidfd(pid);
        loop {
            let ended = {
                let left = site.deadline().saturating_duration_since(Instant::now());
                assert!(!left.is_zero(), "neither a write nor the end of the command");
                let mut fds = vec![PollFd::new(self.inotify.as_fd(), PollFlags::POLLIN)];
                fds.extend(end.as_ref().ok().map(|end| PollFd::new(end.as_fd(), PollFlags::POLLIN)));
                // A process that is gone already has no descriptor.
                let wait = if end.is_ok() {
                    PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
                } else {
                    PollTimeout::ZERO
                };
                let _ = poll(&mut fds, wait);
                fds.get(1).is_none_or(|fd| fd.revents().is_some_and(|events| !events.is_empty()))
            };
            self.look();
            if self.seen >= count || ended {
                return self.seen >= count;
            }
        }
    }
}

/// What the disk says at the cut.
fn on_disk(site: &Site) -> Value {
    serde_json::from_slice(&fs::read(site.state().join("state.json")).expect("there is always a state"))
        .expect("and it is always whole")
}

fn names(value: &Value, release: &str) -> bool {
    match value {
        Value::String(text) => name_of(text.as_bytes()) == release,
        Value::Array(values) => values.iter().any(|value| names(value, release)),
        Value::Object(map) => map.values().any(|value| names(value, release)),
        _ => false,
    }
}

fn command(site: &Site, words: &[&str]) -> Command {
    ctl::command(&site.socket(), words)
}

/// Cuts the power at the `count`th end of a write. `false`: there were fewer.
fn cut(site: &Site, master: Master<'_>, writes: &mut Writes, commands: &[&[&str]], count: usize) -> bool {
    for words in commands {
        let ctl = Ctl::start(&mut command(site, words));
        if writes.until(site, count, ctl.pid()) {
            pull(site, master, count);
            let _ = ctl.end();
            return true;
        }
        let _ = ctl.end();
    }
    false
}

/// The power goes. The master is stopped first, for a look at the disk and at what runs in the same moment.
fn pull(site: &Site, master: Master<'_>, count: usize) {
    let pid = Pid::from_raw(master.pid());
    process::signal(master.pid(), Signal::SIGSTOP);
    assert_eq!(waitpid(pid, Some(WaitPidFlag::WUNTRACED)), Ok(WaitStatus::Stopped(pid, Signal::SIGSTOP)));
    let disk = on_disk(site);
    let workers = process::descendants(master.pid()).iter().filter(|process| process.parent == master.pid()).count();
    // What a user could meet is written down before it exists.
    assert!(
        workers <= 2 || mentions(&disk),
        "cut {count}: {workers} workers, and the disk does not know why: {disk:#}"
    );
    // Its end kills everything of the site.
    drop(master);
}

/// Whether the disk says anything about 42.
fn mentions(disk: &Value) -> bool {
    ["known_good", "previous", "rollout", "held", "refused"].iter().any(|key| names(&disk[*key], "42"))
}

/// After a cut: a start, and what it has to come to.
fn comes_up(site: &Site, course: &Course, count: usize) {
    assert!(process::of_site(site.root()).is_empty());
    let disk = on_disk(site);
    let good = name_of(disk["known_good"]["release"].as_str().expect("a release").as_bytes());
    let trusted = good == "42" && disk["confirm"].is_null();
    let known = names(&disk["rollout"], "42") || names(&disk["held"], "42") || names(&disk["refused"], "42");
    let before = site.history();
    assert!(good == "41" || course.promotes, "cut {count}: {disk:#}");
    // Before the first word about it was on the disk, 42 is a release that was never tried: it may serve once it boots.
    let never_tried = !known && good == "41";
    let expected = if trusted || (never_tried && course.script.is_empty()) { "42" } else { "41" };
    let master = site.master().workers(2).start();
    master.until(&format!("{expected} serves after cut {count}, for the disk said {disk:#}"), |stats| {
        all_on(stats, expected) && ["steady", "degraded"].contains(&stats.state.as_str())
    });
    assert!(master.get("/").starts_with(&format!("release={expected}")));
    if expected == "41" && !never_tried {
        let after = site.history().split_off(before.len());
        assert!(after.iter().all(|entry| entry.app.release == "41"), "cut {count}: {disk:#}\n{after:#?}");
    }
}

/// Cuts the power everywhere in a course; how many ends of writes there were.
fn everywhere(course: &Course) -> usize {
    for count in 1.. {
        let site = Site::new();
        let master = site.steady("41", "", 2);
        site.release("42", course.script);
        site.deploy("42");
        let mut writes = Writes::watch(&site);
        if !cut(&site, master, &mut writes, course.commands, count) {
            return count - 1;
        }
        comes_up(&site, course, count);
    }
    unreachable!("a course ends")
}

#[test]
fn in_a_good_rollout() {
    let course = Course { script: "", commands: &[&["phased-restart"]], promotes: true };
    assert!(everywhere(&course) >= 6, "its begin, the promotion and its end are written");
}

#[test]
fn in_a_broken_rollout() {
    let course = Course { script: "slot 1 exit 1", commands: &[&["phased-restart"]], promotes: false };
    assert!(everywhere(&course) >= 4, "its begin and its end");
}

#[test]
fn in_a_held_rollout() {
    let course = Course { script: "", commands: &[&["phased-restart", "--hold"], &["rollback"]], promotes: false };
    assert!(everywhere(&course) >= 10, "its begin, the hold, its end, and both of the rollback");
}

#[test]
fn in_a_held_rollout_that_is_trusted() {
    let course = Course { script: "", commands: &[&["phased-restart", "--hold"], &["reload-dir"]], promotes: true };
    assert!(everywhere(&course) >= 8, "its begin, the hold, its end, and the person's word");
}

#[test]
fn while_a_confirm_is_waited_for() {
    let course = Course {
        script: "",
        commands: &[&["phased-restart", "--confirm-within", "10m"], &["confirm"]],
        promotes: true,
    };
    assert!(everywhere(&course) >= 8, "its begin, the promotion, its end, and the confirm");
}

#[test]
fn in_an_aborted_rollout_and_a_rollback() {
    let course = Course {
        script: "",
        commands: &[&["phased-restart"], &["rollback"], &["phased-restart", "--soak", "10m", "--no-wait"], &["abort"]],
        promotes: true,
    };
    assert!(everywhere(&course) >= 16, "three of each promotion, two of the one that is aborted");
}

/// Cuts the power at every end of a write in a start, of which `prepare` leaves a site without a living process, and
/// lets `check` see what comes of it; how many there were.
fn everywhere_in_a_start(prepare: impl Fn(&Site), check: impl Fn(&Site, usize)) -> usize {
    // How many there are is told by a start that nothing disturbs.
    let site = Site::new();
    prepare(&site);
    let mut writes = Writes::watch(&site);
    let master = site.master().workers(2).start();
    master.until("the end of the start", |stats| ["steady", "degraded"].contains(&stats.state.as_str()));
    writes.look();
    drop(master);
    for count in 1..=writes.seen {
        let site = Site::new();
        prepare(&site);
        let mut writes = Writes::watch(&site);
        site.master().workers(2).cut(|pid| {
            assert!(writes.until(&site, count, pid), "the start ended at write {} of {count}", writes.seen);
        });
        check(&site, count);
    }
    writes.seen
}

#[test]
fn in_a_start_after_a_cut() {
    let course = Course { script: "slot 1 gate never", commands: &[], promotes: false };
    let prepare = |site: &Site| {
        let master = site.steady("41", "", 2);
        site.release("42", course.script);
        site.deploy("42");
        let ctl = Ctl::start(&mut command(site, &["phased-restart"]));
        let waits = site.arrival("never");
        drop(master);
        drop(waits);
        let _ = ctl.end();
        assert!(names(&on_disk(site)["rollout"], "42"), "it was under way");
    };
    let writes = everywhere_in_a_start(prepare, |site, count| comes_up(site, &course, count));
    assert!(writes >= 2, "that 42 is refused is written");
}

#[test]
fn in_a_start_that_tries_a_release() {
    for (script, promotes) in [("", true), ("exit 1", false)] {
        let course = Course { script, commands: &[], promotes };
        let prepare = |site: &Site| {
            drop(site.steady("41", "", 2));
            site.release("42", script);
            site.deploy("42");
        };
        let writes = everywhere_in_a_start(prepare, |site, count| comes_up(site, &course, count));
        assert!(writes >= 4, "its begin and what came of it are written");
    }
}

#[test]
fn in_the_very_first_start() {
    let prepare = |site: &Site| {
        site.release("41", "");
        site.deploy("41");
    };
    let writes = everywhere_in_a_start(prepare, |site, count| {
        let master = site.master().workers(2).start();
        let stats = master.until_state("steady");
        assert!(all_on(&stats, "41"), "cut {count}: {stats:#?}");
        assert_eq!(stats.state_trouble, None, "cut {count}");
        assert_eq!(name_of(on_disk(site)["known_good"]["release"].as_str().expect("a release").as_bytes()), "41");
    });
    assert!(writes >= 4, "the known-good release is written");
}
