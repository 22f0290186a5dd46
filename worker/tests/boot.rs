//! Boots that succeed and boots that fail, of the real worker with real processes.

mod common;

use std::collections::BTreeMap;

use common::{Release, Worker, has, is_alive, listener, processes_with, spec};
use proto::worker::{Command, Evidence, ExitStatus, FromWorker, Ready, Stage, ToWorker};

const ACCEPT: &str = "
import os, socket, sys
s = socket.socket(fileno=3)
print('up', flush=True)
while True:
    c, _ = s.accept()
    c.recv(1000)
    c.sendall(b'hello\\n')
    c.close()
";

#[test]
fn by_hand_it_explains_itself() {
    let worker = env!("CARGO_BIN_EXE_worker");
    let run = |args: &[&str]| std::process::Command::new(worker).args(args).output().unwrap();
    let plain = run(&[]);
    assert_eq!(plain.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&plain.stderr).contains("worker is started by master"));
    assert_eq!(run(&["--nonsense"]).status.code(), Some(2));
    let version = run(&["--version"]);
    assert_eq!(version.status.code(), Some(0));
    assert_eq!(version.stdout, format!("worker {}\n", env!("CARGO_PKG_VERSION")).into_bytes());
    assert!(String::from_utf8_lossy(&run(&["--help"]).stdout).contains("master --help"));
}

#[test]
fn a_good_app_boots_serves_and_drains() {
    let (release, socket) = (Release::empty().file("app.py", 0o644, ACCEPT), listener());
    let mut worker = Worker::boot(&spec(&release, &["python3", "app.py"], &[&socket]), &[&socket]);
    assert_eq!(worker.booted(), Evidence::Accepting);
    assert_eq!(worker.stages(), [Stage::Directory, Stage::Exec, Stage::Ready]);
    worker.until_printed("up\n");
    worker.order(&ToWorker::Drain { timeout_ms: 5000 });
    assert_eq!(worker.exited().status, ExitStatus::Signal(15));
    let (code, worker) = worker.end();
    assert_eq!(code, Some(0));
    assert!(!is_alive(worker.app_pid()));
    assert!(matches!(worker.seen.last(), Some(FromWorker::Exited(_))));
}

#[test]
fn a_broken_app_is_refused_with_its_own_words() {
    let (release, socket) = (Release::empty().file("app.py", 0o644, "import flask_login_\n"), listener());
    let mut worker = Worker::boot(&spec(&release, &["python3", "app.py"], &[&socket]), &[&socket]);
    let report = worker.refused();
    assert_eq!((report.stage, report.message.as_str()), (Stage::Ready, "exited with status 1"));
    assert_eq!(report.exit, Some(ExitStatus::Code(1)));
    assert_eq!((report.slot.0, report.incarnation.0, report.phase.0), (2, 11, 7));
    assert!(String::from_utf8_lossy(&report.output).contains("No module named 'flask_login_'"));
    let (code, worker) = worker.end();
    assert_eq!(code, Some(0));
    assert!(!worker.seen.iter().any(|r| matches!(r, FromWorker::Exited(_))));
    assert!(worker.err().contains("No module named 'flask_login_'"));
}

#[test]
fn how_it_ended_is_said() {
    for (script, message) in [
        ("kill -SEGV $$", "killed by SIGSEGV"),
        ("exit 3", "exited with status 3"),
        ("exit 0", "exited with status 0 before it was ready; an app is to run in the foreground"),
        (
            "sleep 1000 & exit 0",
            "exited with status 0 and left processes in the background; run the app in the foreground",
        ),
        ("printf 'no newline'; exit 4", "exited with status 4"),
    ] {
        let socket = listener();
        let release = Release::empty();
        let mut worker = Worker::boot(&spec(&release, &["sh", "-c", script], &[&socket]), &[&socket]);
        let report = worker.refused();
        assert_eq!((report.stage, report.message.as_str()), (Stage::Ready, message));
        if script.contains("newline") {
            assert_eq!(report.output, b"no newline\n");
        }
        assert_eq!(worker.end().0, Some(0));
    }
}

#[test]
fn a_release_that_is_gone_or_no_directory() {
    let release = Release::empty().file("file", 0o644, "");
    let mut order = spec(&release, &["true"], &[]);
    order.release.extend_from_slice(b"/none");
    let mut worker = Worker::boot(&order, &[]);
    let report = worker.refused();
    assert_eq!((report.stage, report.release_gone), (Stage::Directory, true));
    assert!(report.message.contains("/none does not exist any more"), "{}", report.message);
    assert_eq!(worker.end().0, Some(0));
    let mut order = spec(&release, &["true"], &[]);
    order.release.extend_from_slice(b"/file");
    let report = Worker::boot(&order, &[]).refused();
    assert_eq!((report.stage, report.release_gone), (Stage::Directory, false));
    assert!(report.message.contains("/file is not a directory"), "{}", report.message);
}

#[test]
fn what_cannot_be_executed() {
    let release = Release::empty().file("plain", 0o755, "just text\n").file("lost", 0o755, "#!/no/such\n").file(
        "Procfile",
        0o644,
        "web: a && b\nworker: no-such-program\n",
    );
    let refused = |command: Command| {
        let mut order = spec(&release, &[], &[]);
        order.command = command;
        let mut worker = Worker::boot(&order, &[]);
        let report = worker.refused();
        assert_eq!(report.stage, Stage::Exec, "{}", report.message);
        assert_eq!(worker.end().0, Some(0));
        report.message
    };
    let words = |w: &str| refused(Command::Words(vec![w.as_bytes().to_vec()]));
    assert!(words("no-such-program").contains("command not found: no-such-program"));
    assert!(words("./none").contains("./none does not exist in "));
    assert!(words("./lost").contains("needs the interpreter \"/no/such\""));
    let text = words("./plain");
    assert!(text.contains("cannot execute ./plain") && text.contains("`#!` line"), "{text}");
    assert!(words("./{fd:web}").contains("{fd:web} stands for a listening socket, and there is none"));
    assert!(refused(Command::Procfile("web".into())).contains("more than one command (`&&`)"));
    assert!(refused(Command::Procfile("worker".into())).contains("command not found: no-such-program"));
    assert!(refused(Command::Procfile("api".into())).contains("has no `api:` line, only web, worker"));
}

#[test]
fn a_procfile_line_is_the_first_process() {
    if !has("python3") {
        return;
    }
    let app = "
import os, signal, sys
signal.signal(signal.SIGUSR1, lambda *a: sys.exit(5))
print(os.environ['A'], os.getpid(), sys.argv[1], flush=True)
signal.pause()
";
    let procfile = "release: true\nweb: A='b c' exec python3 app.py $WORKER_INDEX\n";
    let release = Release::empty().file("app.py", 0o644, app).file("Procfile", 0o644, procfile);
    let mut order = spec(&release, &[], &[]);
    order.command = Command::Procfile("web".into());
    order.ready = Ready::Alive(1);
    let mut worker = Worker::boot(&order, &[]);
    worker.booted();
    let printed = format!("b c {} 2\n", worker.app_pid());
    worker.until_printed(&printed);
    worker.order(&ToWorker::Signal(10));
    assert_eq!(worker.exited().status, ExitStatus::Code(5));
    assert_eq!(worker.end().1.out(), printed);
}

#[test]
fn what_the_app_gets() {
    let (first, second) = (listener(), listener());
    let script = "#!/bin/sh
env -0
printf 'cwd=%s\\0stdin=%s\\0pid=%s\\0' \"$(pwd -P)\" \"$(readlink /proc/$$/fd/0)\" $$
while read -r line; do case $line in Sig*) printf '%s\\0' \"$line\";; esac; done < /proc/$$/status
printf '\\nall\\n'
exec sleep 1000
";
    let release = Release::empty().file("app", 0o755, script);
    let mut order = spec(&release, &["./app"], &[&first, &second]);
    order.env = vec![(b"GEMFILE".to_vec(), b"{release}/Gemfile {slot} {phase} {fd:l1} {addr} ${X} {}".to_vec())];
    order.ready = Ready::Alive(1);
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_worker"));
    command.env("LISTEN_FDS", "7").env("WEB_CONCURRENCY", "9").env("OLDPWD", "/").env("NOTIFY_SOCKET", "/run/x");
    command.env("WATCHDOG_USEC", "1").env("KEPT", "yes").arg("slot 2");
    let mut worker = Worker::start_as(&mut command, &[&first, &second]);
    worker.order(&ToWorker::Boot(order.clone()));
    worker.booted();
    worker.until_printed("\nall\n");
    let printed = worker.out();
    let all: BTreeMap<&str, &str> =
        printed.split('\0').filter_map(|l| l.split_once('=').or_else(|| l.split_once(":\t"))).collect();
    let release = release.path().canonicalize().unwrap();
    let release = release.to_str().unwrap();
    let (one, two) = (first.local_addr().unwrap(), second.local_addr().unwrap());
    for (key, value) in [
        ("LISTEN_FDS", "2".to_string()),
        ("LISTEN_PID", all["pid"].to_string()),
        ("LISTEN_FDNAMES", "l0:l1".into()),
        ("SERVER_STARTER_PORT", format!("{one}=3;{two}=4")),
        ("EINHORN_FD_COUNT", "2".into()),
        ("EINHORN_FD_0", "3".into()),
        ("EINHORN_FD_1", "4".into()),
        ("FPM_SOCKETS", format!("{one}=3,{two}=4")),
        ("WORKER_INDEX", "2".into()),
        ("WORKER_PHASE", "7".into()),
        ("RELEASE_DIR", release.into()),
        ("PWD", release.into()),
        ("cwd", release.into()),
        ("PHASED_SOCKET", "/run/phased/app.sock".into()),
        ("PHASED_TOKEN", "t0k3n".into()),
        ("KEPT", "yes".into()),
        ("GEMFILE", format!("{release}/Gemfile 2 7 4 {one} ${{X}} {{}}")),
        ("stdin", "/dev/null".into()),
        ("SigBlk", "0000000000000000".into()),
        ("SigIgn", "0000000000000000".into()),
    ] {
        assert_eq!(all.get(key).copied(), Some(value.as_str()), "{key}: {all:#?}");
    }
    for key in ["WEB_CONCURRENCY", "OLDPWD", "WATCHDOG_USEC"] {
        assert!(!all.contains_key(key), "{key}");
    }
    assert!(all["NOTIFY_SOCKET"].starts_with('@'));
    // The shell holds its script until it executes the last command, which opens its libraries before it rests.
    let fds = || {
        let names = std::fs::read_dir(format!("/proc/{}/fd", worker.app_pid())).unwrap();
        names.map(|n| n.unwrap().file_name().into_string().unwrap()).collect::<std::collections::BTreeSet<_>>()
    };
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    while !fds().into_iter().eq(["0", "1", "2", "3", "4"]) {
        assert!(std::time::Instant::now() < deadline, "{:?}", fds());
        std::thread::yield_now();
    }
    worker.order(&ToWorker::Kill);
    worker.exited();
}

#[test]
fn started_is_told_before_the_exec() {
    let release = Release::empty();
    let mut worker = Worker::boot(&spec(&release, &["./none-such"], &[]), &[]);
    worker.refused();
    assert!(!worker.seen.iter().any(|r| matches!(r, FromWorker::Started { .. })), "nothing was started");
    let release = Release::empty().file("app", 0o755, "no program");
    let mut worker = Worker::boot(&spec(&release, &["./app"], &[]), &[]);
    worker.refused();
    worker.app_pid();
}

#[test]
fn notify_and_status() {
    if !has("python3") {
        return;
    }
    let app = "
import os, socket, time
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
s.connect('\\0' + os.environ['NOTIFY_SOCKET'][1:])
s.send(b'STATUS=loading')
s.send(b'STATUS=loading')
s.send(b'STATUS=warming\\nX=y')
s.send(b'READY=1\\nSTATUS=up')
time.sleep(1000)
";
    let release = Release::empty().file("app.py", 0o644, app);
    for ready in [Ready::Notify, Ready::NotifyOrAlive(60_000)] {
        let mut order = spec(&release, &["python3", "app.py"], &[]);
        order.ready = ready;
        let mut worker = Worker::boot(&order, &[]);
        assert_eq!(worker.booted(), Evidence::Notify);
        let status = |r: &FromWorker| if let FromWorker::Status(s) = r { Some(s.clone()) } else { None };
        let told: Vec<_> = worker.seen.iter().filter_map(status).collect();
        assert_eq!(told, ["loading", "warming", "up"]);
        worker.order(&ToWorker::Kill);
        assert_eq!(worker.exited().status, ExitStatus::Signal(9));
    }
}

#[test]
fn without_notify_time_runs_out() {
    let release = Release::empty();
    let mut order = spec(&release, &["sleep", "1000"], &[]);
    order.boot_timeout_ms = 300;
    let mut worker = Worker::boot(&order, &[]);
    let report = worker.refused();
    assert_eq!(report.stage, Stage::Ready);
    assert!(report.message.starts_with("did not say READY=1 on NOTIFY_SOCKET within 300ms"), "{}", report.message);
    assert!((300..3000).contains(&report.millis), "{}", report.millis);
    assert_eq!(report.exit, None);
    let (code, worker) = worker.end();
    assert_eq!(code, Some(0));
    assert!(!is_alive(worker.app_pid()));
}

#[test]
fn alive_for_the_time() {
    let release = Release::empty();
    for ready in [Ready::Alive(100), Ready::NotifyOrAlive(100)] {
        let mut order = spec(&release, &["sleep", "1000"], &[]);
        order.ready = ready;
        let mut worker = Worker::boot(&order, &[]);
        assert_eq!(worker.booted(), Evidence::Alive);
        let booted = |r: &FromWorker| if let FromWorker::Booted { boot_us, .. } = r { Some(*boot_us) } else { None };
        let took = worker.seen.iter().find_map(booted).unwrap();
        assert!((100_000..2_000_000).contains(&took), "{took}");
    }
}

#[test]
fn an_app_that_listens_elsewhere_is_named() {
    if !has("python3") {
        return;
    }
    let app = "
import socket, time
s = socket.create_server(('127.0.0.1', 0))
s.accept()
";
    let (release, socket) = (Release::empty().file("app.py", 0o644, app), listener());
    let mut order = spec(&release, &["python3", "app.py"], &[&socket]);
    // As long as the slowest Python takes to come up.
    order.boot_timeout_ms = 5000;
    let mut worker = Worker::boot(&order, &[&socket]);
    let report = worker.refused();
    assert_eq!(report.stage, Stage::Ready);
    let inherited = format!(
        ", not on the inherited socket {}; make the server use fd 3 (LISTEN_FDS)",
        socket.local_addr().unwrap()
    );
    assert!(report.message.starts_with("not ready within 5s: the app listens on 127.0.0.1:"), "{}", report.message);
    assert!(report.message.contains(&inherited), "{}", report.message);
    assert_eq!(worker.end().0, Some(0));
}

#[test]
fn an_app_that_does_not_wait_is_not_ready_however_it_holds_the_socket() {
    let socket = listener();
    let release = Release::empty();
    let mut order = spec(&release, &["sleep", "1000"], &[&socket]);
    order.boot_timeout_ms = 400;
    let report = Worker::boot(&order, &[&socket]).refused();
    assert!(report.message.contains(": no process of the app waits on the inherited socket"), "{}", report.message);
}

#[test]
fn garbage_orders_end_the_worker_and_its_app() {
    let release = Release::empty();
    let mut order = spec(&release, &["sleep", "1000"], &[]);
    order.ready = Ready::Alive(1);
    order.token = "garbage-orders".into();
    let mut worker = Worker::boot(&order, &[]);
    worker.booted();
    worker.raw(&[0xff; 64]);
    let (code, worker) = worker.end();
    assert_eq!(code, Some(0));
    assert!(worker.err().contains("the master's orders are not understood"));
    assert!(processes_with("garbage-orders").is_empty());
}

#[test]
fn another_protocol_is_refused() {
    let mut worker = Worker::start(&[]);
    let mut hello = proto::Hello::ours();
    hello.protocol += 1;
    worker.order(&ToWorker::Hello(hello));
    let (_, worker) = worker.end();
    assert!(worker.err().contains("protocol version mismatch"), "{}", worker.err());
}

#[test]
fn fds_that_run_out_are_a_failure_of_the_spawn() {
    let release = Release::empty();
    // 0 to 3, the signalfd and the release are open when the limit is reached.
    let script = format!("ulimit -n 7; exec '{}' slot 2", env!("CARGO_BIN_EXE_worker"));
    let mut worker = Worker::start_as(std::process::Command::new("sh").args(["-c", &script]), &[]);
    worker.order(&ToWorker::Boot(spec(&release, &["true"], &[])));
    let report = worker.refused();
    assert_eq!(report.stage, Stage::Spawn);
    assert!(report.message.contains("cannot make a pipe: Too many open files"), "{}", report.message);
    assert_eq!(worker.end().0, Some(0));
}

#[test]
fn a_drain_before_there_is_an_app() {
    let mut worker = Worker::start(&[]);
    worker.order(&ToWorker::Drain { timeout_ms: 1 });
    assert_eq!(worker.end().0, Some(0));
}
