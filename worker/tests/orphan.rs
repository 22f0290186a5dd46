//! A worker whose master is gone: when it serves on, for how long, and how the next master finds it. What comes after that is in
//! `adopt.rs`.

mod common;

use std::fs;
use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use common::heir::Heir;
use common::{Release, Worker, gate, has, home, hook_line, idle, is_alive, listener, processes_with, shell, spec};
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::getsockopt;
use nix::sys::socket::sockopt::AcceptConn;
use nix::unistd::Pid;
use proto::worker::{BootSpec, Check, Evidence, ExitStatus, FromWorker, Listener, Ready, Task};
use proto::{Incarnation, Phase, Slot};

/// A worker that has lost its master right after the boot.
fn left(order: &BootSpec, listeners: &[&TcpListener]) -> Worker {
    let mut worker = Worker::boot(order, listeners);
    worker.booted();
    worker.leave();
    worker
}

fn unix_millis() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis().try_into().unwrap()
}

/// How long it sleeps, once it has seen that its master is gone.
fn sleeps(worker: &Worker) -> Duration {
    loop {
        if let Some(time) = worker.sleeps() {
            return time;
        }
    }
}

#[test]
fn it_serves_on_and_tells_the_next_master_everything() {
    if !has("python3") {
        return;
    }
    let app = "
import os, socket
n = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
n.connect('\\0' + os.environ['NOTIFY_SOCKET'][1:])
n.send(b'STATUS=warm\\nREADY=1')
l = socket.socket(fileno=4)
while True:
    c, _ = l.accept()
    n.send(b'STATUS=asked')
    c.sendall(b'%d' % os.getpid())
    c.close()
";
    let release = Release::empty().file("app.py", 0o644, app);
    let (one, two) = (listener(), listener());
    let mut order = spec(&release, &["python3", "app.py"], &[&one, &two]);
    (order.ready, order.token, order.site) = (Ready::Notify, "serves-on".into(), "this one".into());
    let path = home(&mut order, &release);
    let before = unix_millis();
    let mut worker = Worker::boot(&order, &[&one, &two]);
    worker.booted();
    let app_pid = worker.app_pid();
    worker.leave();
    let ask = |listener: &TcpListener| {
        let mut answer = String::new();
        TcpStream::connect(listener.local_addr().unwrap()).unwrap().read_to_string(&mut answer).unwrap();
        answer
    };
    let (mut heir, mut orphan) = Heir::met(&path);
    assert_eq!(ask(&two), app_pid.to_string());
    let boot_us = orphan.boot_us.take();
    let booted = worker.seen.iter().find_map(|r| match r {
        FromWorker::Booted { boot_us, .. } => Some(*boot_us),
        _ => None,
    });
    assert_eq!(boot_us, booted);
    assert!((before..=unix_millis()).contains(&orphan.started_at), "{}", orphan.started_at);
    let address = |listener: &TcpListener| listener.local_addr().unwrap().to_string();
    let expected = proto::worker::Orphan {
        site: "this one".into(),
        slot: Slot(2),
        incarnation: Incarnation(11),
        phase: Phase(7),
        release: order.release.clone(),
        serves: true,
        app_pid: Some(app_pid),
        started_at: orphan.started_at,
        boot_us: None,
        evidence: Some(Evidence::Notify),
        status: Some("warm".into()),
        listeners: vec![
            Listener { name: "l0".into(), address: address(&one) },
            Listener { name: "l1".into(), address: address(&two) },
        ],
    };
    assert_eq!(orphan, expected);
    let sockets: Vec<TcpListener> = heir.sockets.drain(..).map(TcpListener::from).collect();
    assert_eq!(sockets.iter().map(address).collect::<Vec<_>>(), [address(&one), address(&two)]);
    assert!(sockets.iter().all(|socket| getsockopt(socket, AcceptConn).unwrap()));
    // What it says while nobody hears it is known to whoever comes.
    drop(heir);
    assert_eq!(ask(&two), app_pid.to_string());
    let (_, orphan) = Heir::met(&path);
    assert_eq!((orphan.status.as_deref(), orphan.app_pid), (Some("asked"), Some(app_pid)));
    // The first of them nobody accepts on, but whoever has got it here.
    let _client = TcpStream::connect(one.local_addr().unwrap()).unwrap();
    sockets[0].accept().unwrap();
}

#[test]
fn each_way_of_losing_the_master_is_one() {
    let release = Release::empty();
    let dead: [fn(&mut Worker); 2] = [Worker::leave, Worker::stop_reading];
    let alive: [fn(&mut Worker); 2] = [Worker::hang_up, |worker| worker.raw(&[0, 0, 0, 0])];
    let lose = dead.map(|lose| (lose, false)).into_iter().chain(alive.map(|lose| (lose, true)));
    for (lose, is_alive_itself) in lose {
        let mut order = idle(&release, "lost", &[]);
        let path = home(&mut order, &release);
        let mut worker = Worker::boot(&order, &[]);
        worker.booted();
        lose(&mut worker);
        let (_, orphan) = Heir::met(&path);
        assert_eq!((orphan.serves, orphan.app_pid, orphan.listeners), (true, Some(worker.app_pid()), vec![]));
        if is_alive_itself {
            // It sees that it is the master no more.
            worker.until_closed();
        }
        assert!(is_alive(worker.app_pid()));
        kill(Pid::from_raw(worker.app_pid()), Signal::SIGKILL).unwrap();
        assert_eq!(worker.end().0, Some(0));
    }
}

#[test]
fn the_socket_is_for_this_user_and_goes_with_the_worker() {
    let release = Release::empty();
    let mut order = shell(&release, "own-socket", "umask; exec sleep 1000");
    let path = home(&mut order, &release);
    // Left by a worker that was killed.
    fs::write(&path, "stale").unwrap();
    let mut worker = Worker::boot(&order, &[]);
    worker.booted();
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let own = status.lines().find_map(|line| line.strip_prefix("Umask:\t")).unwrap();
    worker.until_printed(&format!("{own}\n"));
    let file = fs::metadata(&path).unwrap();
    assert_eq!((file.file_type().is_socket(), file.permissions().mode() & 0o777), (true, 0o600));
    worker.order(&proto::worker::ToWorker::Drain { timeout_ms: 10_000 });
    let (code, worker) = worker.end();
    assert_eq!((code, worker.err().as_str()), (Some(0), ""));
    assert!(!path.exists());
    // Another one's is not removed.
    let mut worker = Worker::boot(&order, &[]);
    worker.booted();
    fs::remove_file(&path).unwrap();
    fs::write(&path, "another's").unwrap();
    worker.leave();
    kill(Pid::from_raw(worker.app_pid()), Signal::SIGKILL).unwrap();
    assert_eq!(worker.end().0, Some(0));
    assert_eq!(fs::read_to_string(&path).unwrap(), "another's");
}

#[test]
fn the_app_has_nothing_of_it() {
    let (release, socket) = (Release::empty(), listener());
    let mut order = idle(&release, "no-leak", &[&socket]);
    home(&mut order, &release);
    order.before_boot = Some(b"ls -l /proc/self/fd | grep -c socket: || :".to_vec());
    let mut worker = Worker::boot(&order, &[&socket]);
    worker.booted();
    worker.until_printed("0\n");
    // It may still open files of its own while it starts, but no sockets.
    let fds = fs::read_dir(format!("/proc/{}/fd", worker.app_pid())).unwrap().map(|fd| fd.unwrap().path());
    let is_socket =
        |fd: &PathBuf| fs::read_link(fd).is_ok_and(|target| target.as_os_str().as_bytes().starts_with(b"socket:"));
    let sockets: Vec<_> = fds.filter(is_socket).map(|fd| fd.file_name().unwrap().to_owned()).collect();
    assert_eq!(sockets, ["3"], "the listener");
}

#[test]
fn a_long_path_will_do() {
    let release = Release::empty();
    let folder = release.path().join("a".repeat(100)).join("b".repeat(100));
    fs::create_dir_all(&folder).unwrap();
    let mut order = idle(&release, "long-path", &[]);
    home(&mut order, &release);
    let path = folder.join("11");
    order.orphan_socket = path.as_os_str().as_encoded_bytes().to_vec();
    let worker = left(&order, &[]);
    assert!(Heir::met(&path).1.serves);
    assert_eq!(worker.err(), "");
}

#[test]
fn without_a_socket_it_ends() {
    let release = Release::empty();
    for path in [release.path().join("missing/11"), "relative".into(), "/".into(), release.path().into()] {
        let mut order = idle(&release, "no-socket", &[]);
        home(&mut order, &release);
        order.orphan_socket = path.as_os_str().as_encoded_bytes().to_vec();
        let (code, worker) = left(&order, &[]).end();
        assert_eq!(code, Some(0));
        let err = worker.err();
        assert!(err.starts_with(&format!("worker: slot 2: cannot make the socket {}: ", path.display())), "{err}");
        assert!(err.ends_with("; this worker cannot be adopted\n") && err.lines().count() == 1, "{err}");
    }
    let mut order = idle(&release, "no-socket", &[]);
    order.orphan_timeout_ms = 60_000;
    let (code, worker) = left(&order, &[]).end();
    assert_eq!((code, worker.err().as_str()), (Some(0), ""));
    assert_eq!(processes_with("no-socket"), [0; 0]);
}

#[test]
fn what_does_not_serve_ends() {
    let release = Release::empty();
    let script = "echo up; exec sleep 1000";
    let app = |ready, task| {
        let mut order = shell(&release, "ends", script);
        (order.ready, order.task) = (ready, task);
        let path = home(&mut order, &release);
        (order, path)
    };
    let no_time = || {
        let (mut order, path) = app(Ready::Alive(1), Task::Serve);
        order.orphan_timeout_ms = 0;
        (order, path)
    };
    let checked = || {
        let (mut order, path) = app(Ready::Alive(1), Task::Serve);
        order.command = proto::worker::Command::Words(["sleep", "1000"].map(|w| w.into()).into());
        order.checks = vec![Check::Exec(script.into())];
        (order, path)
    };
    let hooked = || {
        let (mut order, path) = app(Ready::Alive(1), Task::Serve);
        order.before_boot = Some(script.into());
        (order, path)
    };
    let hook = || {
        let mut order = hook_line(&release, script);
        let path = home(&mut order, &release);
        (order, path)
    };
    for ((order, path), is_made) in [
        (app(Ready::Notify, Task::Serve), true),
        (no_time(), true),
        (checked(), true),
        (hooked(), true),
        (app(Ready::Alive(1), Task::Rehearse), false),
        (hook(), false),
    ] {
        let mut worker = Worker::boot(&order, &[]);
        worker.until_printed("up\n");
        if order.orphan_timeout_ms == 0 || order.task == Task::Rehearse {
            worker.booted();
        }
        assert_eq!(path.exists(), is_made, "{order:#?}");
        worker.leave();
        assert_eq!(worker.end().0, Some(0), "{order:#?}");
        assert!(!path.exists());
    }
    assert_eq!(processes_with("ends"), [0; 0]);
}

#[test]
fn one_that_is_ended_can_be_found_until_then() {
    let release = Release::empty();
    let gate = gate(&release);
    let mut order = shell(&release, "ending", "trap '' TERM; echo up; read x < gate; exit 3");
    order.ready = Ready::Notify;
    let path = home(&mut order, &release);
    let mut worker = Worker::boot(&order, &[]);
    worker.until_printed("up\n");
    worker.until(|r| matches!(r, FromWorker::Started { .. }));
    worker.leave();
    let (mut heir, orphan) = Heir::adopted(&path);
    assert_eq!((orphan.serves, orphan.app_pid), (false, Some(worker.app_pid())));
    assert_eq!((orphan.boot_us, orphan.evidence, orphan.status), (None, None, None));
    fs::write(&gate, "go\n").unwrap();
    assert_eq!(heir.exited().status, ExitStatus::Code(3));
    heir.ended();
    assert!(!path.exists(), "whoever sees the end finds nothing any more");
    assert_eq!(worker.end().0, Some(0));
    assert_eq!(processes_with("ending"), [0; 0]);
}

#[test]
fn nobody_comes() {
    let release = Release::empty();
    let mut order = idle(&release, "nobody", &[]);
    let path = home(&mut order, &release);
    order.orphan_timeout_ms = 50;
    let (code, worker) = left(&order, &[]).end();
    assert_eq!(code, Some(0));
    let said = "worker: slot 2: the master is gone and no other came within 50ms; the app is ended\n";
    assert_eq!(worker.err(), said);
    assert!(!path.exists());
    assert_eq!(processes_with("nobody"), [0; 0]);
}

#[test]
fn nothing_ticks_but_that_time() {
    let release = Release::empty();
    let mut order = idle(&release, "patient", &[]);
    let path = home(&mut order, &release);
    let worker = left(&order, &[]);
    let whole = Duration::from_secs(50)..=Duration::from_secs(60);
    assert!(whole.contains(&sleeps(&worker)));
    // A visitor may stay.
    let (heir, _) = Heir::met(&path);
    assert_eq!(worker.sleeps(), None);
    drop(heir);
    assert!(whole.contains(&sleeps(&worker)), "it begins anew");
    let (_heir, orphan) = Heir::adopted(&path);
    assert!(orphan.serves);
    while worker.sleeps().is_some() {}
}

#[test]
fn the_time_does_not_run_while_somebody_is_there() {
    let release = Release::empty();
    let mut order = idle(&release, "visited", &[]);
    let path = home(&mut order, &release);
    order.orphan_timeout_ms = 1;
    let mut worker = Worker::boot(&order, &[]);
    worker.booted();
    assert_eq!(worker.sleeps(), None);
    // One that is early waits, and is seen first.
    let mut heir = Heir::connect(&path);
    assert_eq!(worker.sleeps(), None);
    assert!(heir.hears_nothing());
    worker.leave();
    assert!(heir.meet().serves);
    assert_eq!(worker.sleeps(), None);
    assert!(is_alive(worker.app_pid()));
    drop(heir);
    let (code, worker) = worker.end();
    assert_eq!(code, Some(0));
    assert!(worker.err().contains("no other came within 1ms"), "{}", worker.err());
}

#[test]
fn a_term_to_an_orphan_is_a_drain() {
    let release = Release::empty();
    let mut order = idle(&release, "termed-orphan", &[]);
    let path = home(&mut order, &release);
    let worker = left(&order, &[]);
    // It may hold the connection all the time, as a master of another protocol does.
    let (mut heir, _) = Heir::met(&path);
    kill(Pid::from_raw(worker.child.id().cast_signed()), Signal::SIGTERM).unwrap();
    heir.ended();
    let (code, worker) = worker.end();
    assert_eq!((code, worker.err().as_str()), (Some(0), ""));
    assert!(!path.exists());
    assert_eq!(processes_with("termed-orphan"), [0; 0]);
}

#[test]
fn an_app_that_exits_ends_its_orphan() {
    let release = Release::empty();
    let mut order = idle(&release, "exits", &[]);
    let path = home(&mut order, &release);
    let worker = left(&order, &[]);
    assert!(Heir::met(&path).1.serves);
    kill(Pid::from_raw(worker.app_pid()), Signal::SIGKILL).unwrap();
    assert_eq!(worker.end().0, Some(0));
    assert!(!path.exists());
}

#[test]
fn the_watchdog_watches_on() {
    let release = Release::empty();
    let mut order = idle(&release, "watched-orphan", &[]);
    let path = home(&mut order, &release);
    order.watchdog_ms = Some(300);
    let worker = left(&order, &[]);
    let (mut heir, _) = Heir::adopted(&path);
    let report = heir.exited();
    assert_eq!(report.reason.as_deref(), Some("it said no WATCHDOG=1 for 300ms"));
    assert_eq!(worker.end().0, Some(0));
}

#[test]
fn another_user_is_turned_away() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: only root can be another user");
        return;
    }
    let release = Release::empty();
    let mut order = idle(&release, "another-user", &[]);
    let path = home(&mut order, &release);
    let mut worker = left(&order, &[]);
    // Far more than the folder and the socket are made with.
    for (path, mode) in [(release.path(), 0o755), (path.parent().unwrap(), 0o755), (path.as_path(), 0o666)] {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }
    let (own, before) = (path.clone(), sleeps(&worker));
    let said = common::sys::as_user(65534, move || {
        let mut said = Vec::new();
        // It may be closed before or after it is read from.
        let _ = UnixStream::connect(own).unwrap().read_to_end(&mut said);
        said
    });
    assert_eq!(said, b"");
    assert!(sleeps(&worker) <= before, "that was no visit");
    assert!(Heir::met(&path).1.serves);
    // And the worker's own one is let in, which is another one than root here.
    drop(worker);
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_worker"));
    std::os::unix::process::CommandExt::uid(&mut command, 65534);
    fs::set_permissions(path.parent().unwrap(), fs::Permissions::from_mode(0o777)).unwrap();
    worker = Worker::start_as(&mut command, &[]);
    worker.order(&proto::worker::ToWorker::Boot(order));
    worker.booted();
    worker.leave();
    let own = path.clone();
    assert!(common::sys::as_user(65534, move || Heir::met(&own).1.serves));
    assert!(Heir::met(&path).1.serves, "root is let in anywhere");
    let refused = common::sys::as_user(65533, move || UnixStream::connect(path).is_err());
    assert!(refused, "its mode is 0600");
}
