//! Workers and `ctl` are killed at every step of a rollout: it ends well or is undone, and no request fails. (At random
//! moments of random courses: `replay.rs`. What a killed worker leaves behind: `leftovers.rs`. The master: `faults.rs`.)

use nix::sys::signal::Signal;
use tests::aftermath::settled;
use tests::master::{name_of, refused};
use tests::{Ctl, Load, Master, Site, ctl, process};

/// Written behind the trace's last step when the rollout is over.
const OVER: &str = "the rollout is over";

/// Who is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Victim {
    /// The worker that was spawned first, or last.
    Oldest,
    Newest,
    Ctl,
}

/// Kills somebody at the step `count` of a rollout from 41 to 42. `None`: there are fewer.
fn disturbed(victim: Victim, count: usize) -> Option<()> {
    let site = Site::new();
    let master = site.steady("41", "", 2);
    let load = Load::start(&master.address());
    load.more(10);
    site.release("42", "");
    site.deploy("42");
    site.gates().reset_most();
    let trace = master.trace();
    let seen = trace.len();
    let waiting = Ctl::start(&mut ctl::command(&site.socket(), &["phased-restart"]));
    let pid = waiting.pid();
    let code = std::thread::scope(|scope| {
        let over = scope.spawn(|| {
            let said = waiting.end();
            trace.push(OVER.into());
            said.code
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
        let killed = kill(&master, victim, pid);
        let code = over.join().expect("ctl");
        // What follows from the death of a worker begins when the master has seen it.
        master.until("its death is seen", |stats| stats.worker_status.iter().all(|w| w.pid != Some(killed as u32)));
        Some(code)
    })?;
    let (release, stats) = settled(&master);
    load.more(20);
    load.finish();
    let what = format!("{victim:?} killed at step {count}: {code:?}, {release}\n{}", trace.text());
    match (victim, code) {
        // It has ended just before.
        (Victim::Ctl, Some(code)) => assert_eq!((code, release.as_str()), (0, "42"), "{what}"),
        (Victim::Ctl, None) | (_, Some(0)) => assert_eq!(release, "42", "{what}"),
        (_, code) => {
            assert_eq!((code, release.as_str()), (Some(3), "41"), "{what}");
            assert_eq!(refused(&stats), ["42"], "{what}");
        }
    }
    assert_eq!((name_of(&stats.release), stats.state.as_str()), (release, "steady"), "{what}");
    let most = site.gates().most();
    assert!(most <= 3, "P3, {what}: {most}");
    Some(())
}

fn kill(master: &Master<'_>, victim: Victim, ctl: i32) -> i32 {
    let mut workers = master.stats().worker_status;
    workers.sort_by_key(|worker| worker.incarnation);
    let worker = if victim == Victim::Oldest { workers.first() } else { workers.last() };
    let worker = worker.and_then(|worker| worker.pid).map(|pid| pid as i32);
    let pid = if victim == Victim::Ctl { Some(ctl) } else { worker };
    let pid = pid.expect("somebody");
    process::signal(pid, Signal::SIGKILL);
    pid
}

fn everywhere(victim: Victim) {
    for count in 1.. {
        if disturbed(victim, count).is_none() {
            assert!(count > 5, "{count} steps: the command, and two for each slot");
            return;
        }
    }
}

#[test]
fn an_old_worker() {
    everywhere(Victim::Oldest);
}

#[test]
fn a_new_worker() {
    everywhere(Victim::Newest);
}

#[test]
fn ctl_itself() {
    everywhere(Victim::Ctl);
}
