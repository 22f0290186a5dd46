//! A worker that is to be another user: what it keeps of its master's rights, and what its app is.

mod common;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use common::heir::Heir;
use common::{Release, Worker, hook_line, idle, is_alive, listener, shell, spec, until_ended};
use proto::worker::{BootSpec, Evidence, ExitStatus, Stage, Task, ToWorker, User};

/// A user that nobody has to know, in two groups more.
const UID: u32 = 64_321;
const GID: u32 = 64_322;

fn is_root() -> bool {
    let is_root = nix::unistd::geteuid().is_root();
    if !is_root {
        eprintln!("NOT TESTED: only root can become another user");
        assert!(std::env::var_os("CI").is_none(), "CI has to be able to");
    }
    is_root
}

fn user() -> User {
    User { uid: UID, gid: GID, groups: vec![GID, 64_330, 64_331], name: "somebody".into(), home: b"/home/s".to_vec() }
}

/// An order to be that user, in a release that the user may enter.
fn theirs(mut order: Box<BootSpec>, release: &Release) -> Box<BootSpec> {
    fs::set_permissions(release.path(), fs::Permissions::from_mode(0o755)).unwrap();
    order.user = Some(user());
    order
}

/// A line of /proc/PID/status, its words joined by one space.
fn status(pid: i32, line: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let of = text.lines().find_map(|l| l.strip_prefix(line)?.strip_prefix(':')).unwrap_or_else(|| panic!("no {line}"));
    of.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn is_theirs(pid: i32) {
    assert_eq!(status(pid, "Uid"), "64321 64321 64321 64321");
    assert_eq!(status(pid, "Gid"), "64322 64322 64322 64322");
    assert_eq!(status(pid, "Groups"), "64322 64330 64331");
    assert_eq!(status(pid, "NoNewPrivs"), "1");
    for capabilities in ["CapPrm", "CapEff", "CapAmb"] {
        assert_eq!(status(pid, capabilities), "0000000000000000", "{capabilities}");
    }
}

#[test]
fn worker_and_app_are_the_user_and_nothing_more() {
    if !is_root() {
        return;
    }
    let release = Release::empty();
    let mut order = theirs(shell(&release, "t-user", "echo $HOME $USER $LOGNAME; umask; exec sleep 1000"), &release);
    order.umask = Some(0o27);
    let mut worker = Worker::boot(&order, &[]);
    worker.booted();
    is_theirs(worker.child.id() as i32);
    is_theirs(worker.app_pid());
    assert_eq!(status(worker.app_pid(), "Umask"), "0027");
    worker.until_printed("/home/s somebody somebody\n0027\n");
    // An app of the same user can neither trace its worker nor take its descriptors.
    assert_eq!(fs::metadata(format!("/proc/{}/environ", worker.child.id())).unwrap().uid(), 0);
    worker.order(&ToWorker::Drain { timeout_ms: 10_000 });
    assert_eq!(worker.exited().status, ExitStatus::Signal(15));
    assert_eq!(worker.end().0, Some(0));
}

#[test]
fn what_is_given_wins_over_what_the_user_brings() {
    if !is_root() {
        return;
    }
    let release = Release::empty();
    let mut order = theirs(hook_line(&release, "echo $HOME $USER"), &release);
    order.env = vec![(b"HOME".to_vec(), b"/elsewhere".to_vec())];
    let mut worker = Worker::boot(&order, &[]);
    worker.hook_done();
    worker.until_printed("/elsewhere somebody\n");
}

#[test]
fn its_readiness_is_seen() {
    if !is_root() || !common::has("python3") {
        return;
    }
    let release = Release::empty();
    let socket = listener();
    let app = "import socket\nl = socket.socket(fileno=3)\nwhile True: l.accept()";
    let mut worker = Worker::boot(&theirs(spec(&release, &["python3", "-c", app], &[&socket]), &release), &[&socket]);
    assert_eq!(worker.booted(), Evidence::Accepting);
    worker.order(&ToWorker::Kill);
    assert_eq!(worker.exited().status, ExitStatus::Signal(9));
}

#[test]
fn only_what_the_user_may_read_is_run() {
    if !is_root() {
        return;
    }
    let release = Release::empty();
    let order = theirs(idle(&release, "t-closed", &[]), &release);
    fs::set_permissions(release.path(), fs::Permissions::from_mode(0o700)).unwrap();
    let report = Worker::boot(&order, &[]).refused();
    assert_eq!(report.stage, Stage::Directory);
    assert!(report.message.contains("may not be entered by this user"), "{}", report.message);
    let release = Release::empty().file(".env", 0o600, "A=1\n");
    let mut order = theirs(idle(&release, "t-env", &[]), &release);
    order.env_file = Some(b".env".to_vec());
    let report = Worker::boot(&order, &[]).refused();
    assert_eq!(report.stage, Stage::Exec);
    assert!(report.message.contains("ermission denied"), "{}", report.message);
}

#[test]
fn its_own_socket_is_its_masters() {
    if !is_root() {
        return;
    }
    let release = Release::empty();
    let mut order = theirs(idle(&release, "t-door", &[]), &release);
    let path = common::home(&mut order, &release);
    let mut worker = Worker::boot(&order, &[]);
    worker.booted();
    let made = fs::metadata(&path).unwrap();
    assert_eq!((made.uid(), made.mode() & 0o777), (0, 0o600), "the app's user has no business there");
    worker.leave();
    let (mut heir, orphan) = Heir::adopted(&path);
    assert!(orphan.serves);
    heir.order(&ToWorker::Drain { timeout_ms: 10_000 });
    assert_eq!(worker.end().0, Some(0));
    assert!(!is_alive(orphan.app_pid.unwrap()));
}

#[test]
fn the_app_hears_of_its_killed_worker() {
    if !is_root() {
        return;
    }
    let release = Release::empty();
    let mut worker = Worker::boot(&theirs(idle(&release, "t-death", &[]), &release), &[]);
    worker.booted();
    let app = worker.app_pid();
    worker.child.kill().unwrap();
    worker.child.wait().unwrap();
    until_ended(app);
}

#[test]
fn one_that_cannot_be_becomes_a_failed_boot() {
    let release = Release::empty().file("ran", 0o666, "");
    fs::set_permissions(release.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let mut order = hook_line(&release, "echo yes > ran");
    order.user = Some(user());
    // Root without the right to change its groups is as helpless as anybody.
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_worker"));
    if nix::unistd::geteuid().is_root() {
        if !common::has("setpriv") {
            return;
        }
        command = std::process::Command::new("setpriv");
        command.args(["--bounding-set", "-setgid", env!("CARGO_BIN_EXE_worker")]);
    }
    let mut worker = Worker::start_as(&mut command, &[]);
    worker.order(&ToWorker::Boot(order));
    let report = worker.refused();
    assert_eq!(report.stage, Stage::Spawn);
    let said =
        "cannot become the user somebody (uid 64321, gid 64322): setgroups: Operation not permitted; the master has";
    assert!(report.message.starts_with(said), "{}", report.message);
    worker.end();
    assert_eq!(fs::read_to_string(release.path().join("ran")).unwrap(), "");
}

#[test]
fn a_rehearsal_and_a_check_are_the_user_too() {
    if !is_root() {
        return;
    }
    let release = Release::empty();
    let mut order = theirs(idle(&release, "t-check", &[]), &release);
    order.task = Task::Rehearse;
    order.checks = vec![proto::worker::Check::Exec(b"test $(id -u) = 64321".to_vec())];
    order.before_boot = Some(b"test $(id -g) = 64322".to_vec());
    let mut worker = Worker::boot(&order, &[]);
    worker.booted();
    assert_eq!(worker.stages(), [Stage::Directory, Stage::Hook, Stage::Exec, Stage::Ready, Stage::Check]);
}
