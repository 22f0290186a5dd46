//! What has to hold when everything is over, whatever was done to a site before.

use std::collections::BTreeSet;
use std::fs;

use nix::sys::signal::Signal;
use proto::control::Stats;

use crate::master::{app_pid, ready};
use crate::{Master, Site, process};

/// Kills a master and waits for its end. Its workers, and what they serve, stay.
pub fn kill(master: &Master<'_>) {
    master.signal(Signal::SIGKILL);
    master.site().until_ended(master.pid());
}

/// Waits until nothing is under way any more, and demands that every slot has one worker and all of them the same release,
/// that nothing else of the site lives, and that each worker has one socket for the next master. The release, and the stats.
///
/// # Panics
/// Otherwise.
#[track_caller]
pub fn settled(master: &Master<'_>) -> (String, Stats) {
    let stats = master.until("everything is settled", |stats| {
        ["steady", "held"].contains(&stats.state.as_str())
            && stats.rollout.is_none()
            && stats.worker_status.len() == stats.workers as usize
            && ready(stats).len() == stats.workers as usize
            && !hook_runs(master.site())
    });
    let slots: Vec<u32> = stats.worker_status.iter().map(|worker| worker.index.0).collect();
    assert_eq!(slots, (0..stats.workers).collect::<Vec<_>>(), "{stats:#?}");
    let releases: BTreeSet<String> = ready(&stats).into_iter().map(|(_, release)| release).collect();
    assert_eq!(releases.len(), 1, "{stats:#?}");
    nothing_else(master.site(), master.pid(), &stats);
    (releases.into_iter().next().expect("one"), stats)
}

/// Whether a hook runs that comes after a rollout's end.
fn hook_runs(site: &Site) -> bool {
    process::of_site(site.root())
        .iter()
        .any(|process| process.command.starts_with("worker ") && process.command.contains(" on-"))
}

/// Demands that of the site there is nothing but its master, its workers, their apps and their sockets.
///
/// # Panics
/// Otherwise.
#[track_caller]
pub fn nothing_else(site: &Site, master: i32, stats: &Stats) {
    let workers = stats.worker_status.iter().filter_map(|worker| worker.pid.map(|pid| pid as i32));
    let wanted: BTreeSet<i32> = workers.chain(stats.worker_status.iter().filter_map(app_pid)).chain([master]).collect();
    assert_eq!(wanted.len(), 2 * stats.worker_status.len() + 1, "{stats:#?}");
    let there = process::of_site(site.root());
    let strangers: Vec<_> = there.iter().filter(|process| !wanted.contains(&process.pid)).cloned().collect();
    assert!(strangers.is_empty(), "left over:\n{}", process::table(&strangers));
    assert_eq!(there.len(), wanted.len(), "missing:\n{}", process::table(&there));
    let numbers: BTreeSet<String> =
        stats.worker_status.iter().filter_map(|worker| worker.incarnation.map(|id| id.to_string())).collect();
    assert_eq!(sockets(site), numbers, "the workers' own sockets");
}

/// The names in the folder of the workers' own sockets.
#[must_use]
pub fn sockets(site: &Site) -> BTreeSet<String> {
    let folder = fs::read_dir(site.root().join("run/site.sock.d")).into_iter().flatten().flatten();
    folder.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}
