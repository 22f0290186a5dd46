//! P7, systematically: the master is killed at every step of every kind of course, and the next one starts at once. No
//! request fails, no promise is broken, and in the end what was promised runs and nothing else.
//!
//! The kill comes as soon as a step is seen, so it strikes in that step or a little later; what has to hold holds at any
//! moment.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use proto::control::Stats;
use tests::aftermath::{kill, settled};
use tests::master::{Start, name_of, refused};
use tests::{Ctl, Load, Master, Site, ctl};

/// One course of events, beginning with 41 in every slot; `dir` names 42.
struct Course {
    workers: u32,
    options: &'static [&'static str],
    /// What 42 does; `None`: there is none.
    script: Option<&'static str>,
    /// What is done before, undisturbed.
    before: &'static [&'static [&'static str]],
    commands: &'static [&'static [&'static str]],
    /// Whose answers users may see.
    answers: &'static [&'static str],
    /// By how many more than the slots P3 allows.
    surge: usize,
    /// How many fewer P2 allows.
    unavailable: usize,
    /// The app of slot 0 ends by itself. P2 is not asked then.
    crashes: bool,
}

const COURSE: Course = Course {
    workers: 2,
    options: &[],
    script: None,
    before: &[],
    commands: &[],
    answers: &["41"],
    surge: 1,
    unavailable: 0,
    crashes: false,
};

/// 42 takes the place of 41.
const ROLLOUT: Course = Course { script: Some(""), commands: &[&["phased-restart"]], answers: &["41", "42"], ..COURSE };

/// What is known when everything is over.
struct Outcome {
    /// How many steps of the course were seen when the kill came.
    steps: usize,
    /// What the master that was killed has done, a step an entry.
    trace: Vec<String>,
    /// With what the commands came back that were given before the kill.
    codes: Vec<i32>,
    /// What every slot has in the end.
    release: String,
    stats: Stats,
}

/// Written behind the trace's last step when the course is over.
const OVER: &str = "the course is over";

/// `$LATER`: how many further answers are waited for before the kill, to strike elsewhere.
fn later() -> u64 {
    std::env::var("LATER").ok().and_then(|value| value.parse().ok()).unwrap_or(0)
}

/// Gives the commands in turn; with what they came back.
fn give(socket: &Path, commands: &[&[&str]], killed: &AtomicBool) -> Vec<i32> {
    let mut codes = Vec::new();
    for words in commands {
        if killed.load(Ordering::SeqCst) {
            break;
        }
        let said = Ctl::start(&mut ctl::command(socket, words)).end();
        codes.push(said.code.expect("an exit code"));
    }
    codes
}

/// A master with nothing under way, and how the next one is started.
fn prepared<'a>(site: &'a Site, course: &Course) -> (Master<'a>, Start<'a>) {
    site.release("41", if course.crashes { "slot 0 leave-gate crash 7" } else { "" });
    site.deploy("41");
    let start = site.master().workers(course.workers).options(course.options);
    let master = start.clone().start();
    master.until_state("steady");
    // Who comes next does not crash.
    site.release("41", "");
    if let Some(script) = course.script {
        site.release("42", script);
        site.deploy("42");
    }
    for words in course.before {
        master.ctl(words).expect(0);
    }
    (master, start)
}

/// Kills the master when it has made `count` steps of the course. `None`: there are fewer.
fn disturbed(course: &Course, count: usize) -> Option<Outcome> {
    let site = Site::new();
    let (master, start) = prepared(&site, course);
    let load = Load::start(&master.address());
    load.more(10);
    site.gates().reset_most();
    let (trace, socket, killed) = (master.trace(), site.socket(), AtomicBool::new(false));
    let seen = trace.len();
    let (codes, next) = std::thread::scope(|scope| {
        let given = scope.spawn(|| {
            if course.crashes {
                site.open("crash");
                let booted = |step: &str| step.starts_with("> booted");
                let _ = trace.wait(seen, site.deadline(), booted);
            }
            let codes = give(&socket, course.commands, &killed);
            trace.push(OVER.into());
            codes
        });
        let mut steps = 0;
        let wanted = |step: &str| {
            steps += 1;
            step == OVER || steps == count
        };
        let (_, last) = trace.wait(seen, site.deadline(), wanted).expect("a step");
        if last == OVER {
            return None;
        }
        if later() > 0 {
            load.more(later());
        }
        killed.store(true, Ordering::SeqCst);
        kill(&master);
        let next = start.start();
        Some((given.join().expect("the commands"), next))
    })?;
    let (release, stats) = settled(&next);
    load.more(20);
    let tally = load.finish();
    let trace: Vec<String> = trace.all().into_iter().skip(seen).filter(|step| step != OVER).collect();
    let what = format!("killed at step {count}, {:?}; codes {codes:?}", trace.last());
    for release in tally.releases.keys() {
        assert!(course.answers.contains(&release.as_str()), "{what}: {release} has answered: {tally:?}");
    }
    let (fewest, most) = (site.fewest_serving(course.workers as usize), site.gates().most());
    let slots = course.workers.min(stats.workers) as usize;
    assert!(course.crashes || fewest + course.unavailable >= slots, "P2, {what}: {fewest}\n{:#?}", site.history());
    assert!(
        most <= course.workers.max(stats.workers) as usize + course.surge,
        "P3, {what}: {most}\n{:#?}",
        site.history()
    );
    Some(Outcome { steps: count, trace, codes, release, stats })
}

/// Disturbs a course at every step; how many there are.
fn everywhere(course: &Course, check: impl Fn(&Outcome)) -> usize {
    for count in 1.. {
        let Some(outcome) = disturbed(course, count) else { return count - 1 };
        check(&outcome);
    }
    unreachable!("a course ends")
}

impl Outcome {
    /// Whether the master that was killed did this before.
    fn did(&self, action: &str) -> bool {
        self.trace.iter().any(|step| step.lines().any(|line| line.starts_with(action)))
    }

    /// The known-good release runs.
    fn is_good(&self) {
        assert_eq!(name_of(&self.stats.release), self.release, "{self}");
        assert_eq!(self.stats.state, "steady", "{self}");
    }

    /// 42 was finished, or undone and refused; and whoever waited has heard that.
    fn done_or_undone(&self) {
        self.is_good();
        let (outcome, code) = match self.release.as_str() {
            "42" => ("promoted", 0),
            _ => ("aborted", 3),
        };
        if let Some(last) = &self.stats.last_rollout {
            assert_eq!(last.outcome, outcome, "{self}");
            assert_eq!(refused(&self.stats), if code == 0 { Vec::new() } else { vec!["42".to_owned()] }, "{self}");
        }
        let (first, others) = self.codes.split_first().expect("a command");
        // Nobody can tell before the master has begun it.
        assert!([code, 10].contains(first), "{self}");
        // A further command may have met the dead master: there is none, or nothing was asked.
        assert!(others.iter().all(|said| [0, 1, 7, 10].contains(said)), "{self}");
        assert!(self.release == "42" || !self.did("< note promoted"), "{self}");
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (steps, trace) = (self.steps, self.trace.join("\n"));
        write!(
            f,
            "killed at step {steps}; codes {:?}; in the end {}; {:#?}\n{trace}",
            self.codes, self.release, self.stats
        )
    }
}

#[test]
fn in_a_good_rollout() {
    let steps = everywhere(&Course { workers: 3, ..ROLLOUT }, Outcome::done_or_undone);
    assert!(steps >= 7, "{steps} steps: the command, and two for each slot");
}

#[test]
fn in_a_good_rollout_that_takes_two_at_a_time() {
    let course = Course { workers: 3, options: &["--surge", "2"], surge: 2, ..ROLLOUT };
    let steps = everywhere(&course, Outcome::done_or_undone);
    assert!(steps >= 7, "{steps} steps");
}

#[test]
fn in_a_good_rollout_without_surge() {
    let options = &["--surge", "0", "--max-unavailable", "1"];
    let steps =
        everywhere(&Course { workers: 3, options, surge: 0, unavailable: 1, ..ROLLOUT }, Outcome::done_or_undone);
    assert!(steps >= 7, "{steps} steps");
}

#[test]
fn in_one_that_does_not_boot() {
    let course = Course { script: Some("exit 1"), answers: &["41"], ..ROLLOUT };
    let steps = everywhere(&course, |outcome| {
        outcome.done_or_undone();
        assert_eq!(outcome.release, "41", "{outcome}");
    });
    assert!(steps >= 3, "{steps} steps: the command, the failure, its end");
}

#[test]
fn in_one_that_fails_its_check() {
    let course = Course {
        options: &["--check", "http:/health", "--check-timeout", "50ms"],
        script: Some("health 500 no database"),
        answers: &["41"],
        ..ROLLOUT
    };
    let steps = everywhere(&course, |outcome| {
        outcome.done_or_undone();
        assert_eq!(outcome.release, "41", "{outcome}");
    });
    assert!(steps >= 3, "{steps} steps: the command, the failure, its end");
}

#[test]
fn in_one_whose_last_slot_does_not_boot() {
    let course = Course { workers: 3, script: Some("slot 2 exit 1"), ..ROLLOUT };
    let steps = everywhere(&course, |outcome| {
        outcome.done_or_undone();
        assert_eq!(outcome.release, "41", "{outcome}");
    });
    assert!(steps >= 12, "{steps} steps: two slots, the failure, and two slots put back");
}

#[test]
fn in_one_that_soaks() {
    let course = Course { commands: &[&["phased-restart", "--soak", "100ms"]], ..ROLLOUT };
    let steps = everywhere(&course, |outcome| {
        outcome.done_or_undone();
        // Every slot was through, and nothing of the old release was left to drain.
        assert!(!outcome.did("< arm soak") || outcome.release == "42", "{outcome}");
    });
    assert!(steps >= 8, "{steps} steps: the command, three for each slot, the end of the soak");
}

#[test]
fn in_one_that_has_to_pass_everything() {
    let course = Course {
        options: &[
            "--check",
            "http:/health",
            "--before-rollout",
            "true",
            "--on-promote",
            "true",
            "--on-failure",
            "true",
        ],
        commands: &[
            &["phased-restart", "--canary", "1", "--canary-soak", "50ms", "--confirm-within", "10m"],
            &["confirm"],
        ],
        ..ROLLOUT
    };
    let steps = everywhere(&course, |outcome| {
        outcome.done_or_undone();
        assert!(outcome.stats.confirm.is_none() || outcome.release == "42", "{outcome}");
    });
    assert!(steps >= 10, "{steps} steps");
}

/// 42 is held, or the known-good release runs.
fn held_or_good(outcome: &Outcome) {
    if outcome.stats.state == "held" {
        assert_eq!((outcome.release.as_str(), name_of(&outcome.stats.release).as_str()), ("42", "41"), "{outcome}");
    } else {
        outcome.is_good();
    }
}

#[test]
fn in_one_that_is_held() {
    let course = Course { commands: &[&["phased-restart", "--hold"], &["reload-dir"]], ..ROLLOUT };
    let steps = everywhere(&course, |outcome| {
        held_or_good(outcome);
        match outcome.codes.as_slice() {
            [3] => assert_eq!(outcome.release, "41", "{outcome}"),
            [0] => assert_eq!(outcome.stats.state, "held", "{outcome}"),
            [0, 0] => {
                assert_eq!((outcome.stats.state.as_str(), outcome.release.as_str()), ("steady", "42"), "{outcome}")
            }
            codes => assert!(matches!(codes, [10] | [0, 1 | 7 | 10]), "{outcome}"),
        }
    });
    assert!(steps >= 8, "{steps} steps");
}

#[test]
fn on_the_way_back_from_what_was_held() {
    let course = Course { before: &[&["phased-restart", "--hold"]], commands: &[&["rollback"]], ..ROLLOUT };
    let steps = everywhere(&course, |outcome| {
        held_or_good(outcome);
        assert!([&[0][..], &[10]].contains(&outcome.codes.as_slice()), "{outcome}");
        // A way back that has begun is gone to its end.
        assert!(!outcome.did("< began") || outcome.release == "41", "{outcome}");
    });
    assert!(steps >= 6, "{steps} steps");
}

#[test]
fn in_a_rollback() {
    let course = Course { before: &[&["phased-restart"]], commands: &[&["rollback"]], ..ROLLOUT };
    let steps = everywhere(&course, |outcome| {
        outcome.is_good();
        match outcome.codes.as_slice() {
            [0] => assert_eq!(outcome.release, "41", "{outcome}"),
            [3] => assert_eq!(outcome.release, "42", "{outcome}"),
            codes => assert_eq!(codes, [10], "{outcome}"),
        }
    });
    assert!(steps >= 6, "{steps} steps");
}

#[test]
fn in_a_restart_of_one_slot() {
    let steps = everywhere(&Course { commands: &[&["restart", "1"]], ..COURSE }, |outcome| {
        outcome.is_good();
        assert!([0, 3, 10].contains(&outcome.codes[0]), "{outcome}");
    });
    assert!(steps >= 4, "{steps} steps: the command, the new one is ready, the old one ends and is gone");
}

#[test]
fn while_it_scales_up() {
    let steps = everywhere(&Course { commands: &[&["scale", "4"]], ..COURSE }, |outcome| {
        outcome.is_good();
        assert_eq!(outcome.stats.workers, 4, "it was remembered with the command: {outcome}");
        assert!([0, 10].contains(&outcome.codes[0]), "{outcome}");
    });
    assert!(steps >= 3, "{steps} steps: the command, and one for each slot");
}

#[test]
fn while_it_scales_down() {
    let steps = everywhere(&Course { workers: 3, commands: &[&["scale", "1"]], ..COURSE }, |outcome| {
        outcome.is_good();
        assert_eq!(outcome.stats.workers, 1, "it was remembered with the command: {outcome}");
        assert!([0, 10].contains(&outcome.codes[0]), "{outcome}");
    });
    assert!(steps >= 5, "{steps} steps: the command, and two for each slot");
}

#[test]
fn while_a_crashed_app_comes_back() {
    let steps = everywhere(&Course { crashes: true, ..COURSE }, Outcome::is_good);
    assert!(steps >= 3, "{steps} steps: its end, its worker's, and the next one is ready");
}
