//! Readiness seen from outside, for every way in which a server waits for connections.

mod common;

use std::io::Write;
use std::net::{TcpListener, TcpStream};

use common::{Release, Worker, has, listener, spec};
use proto::worker::{Evidence, FromWorker, ToWorker};

/// Boots a Python app and gives its worker; `None` where there is no Python.
fn python(app: &str, socket: &TcpListener) -> Option<Worker> {
    program("python3", app, socket)
}

fn program(interpreter: &str, app: &str, socket: &TcpListener) -> Option<Worker> {
    if !has(interpreter) {
        return None;
    }
    let release = Release::empty().file("app", 0o644, app);
    let mut order = spec(&release, &[interpreter, "app"], &[socket]);
    order.boot_timeout_ms = 20_000;
    let mut worker = Worker::boot(&order, &[socket]);
    // The script has been read before anything can be ready or fail.
    worker.until(|r| matches!(r, FromWorker::Booted { .. } | FromWorker::BootFailed(_)));
    Some(worker)
}

fn assert_accepting(worker: Option<Worker>) {
    let Some(mut worker) = worker else { return };
    match worker.seen.last() {
        Some(FromWorker::Booted { evidence, .. }) => assert_eq!(*evidence, Evidence::Accepting),
        other => panic!("{other:#?}\n{}", worker.printed()),
    }
    worker.order(&ToWorker::Kill);
    worker.exited();
    assert_eq!(worker.end().0, Some(0));
}

const WAITS: &str = "
import select, socket, threading, time
s = socket.socket(fileno=3)
";

#[test]
fn accept() {
    assert_accepting(python(&format!("{WAITS}s.accept()"), &listener()));
}

#[test]
fn accept_in_perl() {
    let app = "open(my $s, '+<&=', 3) or die; $0 = 'renamed'; accept(my $c, $s); sleep 1000;";
    assert_accepting(program("perl", app, &listener()));
}

#[test]
fn select() {
    assert_accepting(python(&format!("{WAITS}select.select([s], [], [])"), &listener()));
}

#[test]
fn select_with_a_timeout_among_others() {
    let app = format!("{WAITS}p = socket.socketpair()\nwhile True: select.select([p[0], s], [s], [s], 0.05)");
    assert_accepting(python(&app, &listener()));
}

#[test]
fn poll() {
    let app = format!("{WAITS}p = select.poll()\np.register(0, 0)\np.register(s, select.POLLIN)\np.poll()");
    assert_accepting(python(&app, &listener()));
}

#[test]
fn epoll() {
    let app = format!("{WAITS}p = select.epoll()\np.register(s, select.EPOLLIN)\np.poll()");
    assert_accepting(python(&app, &listener()));
}

#[test]
fn epoll_after_the_number_was_closed() {
    let app = format!(
        "{WAITS}import os\np = select.epoll()\nd = os.dup(3)\np.register(d, select.EPOLLIN)\nos.close(d)\n\
         os.dup2(0, d)\np.poll()"
    );
    assert_accepting(python(&app, &listener()));
}

#[test]
fn in_another_thread() {
    let app = format!("{WAITS}threading.Thread(target=s.accept).start()\ntime.sleep(1000)");
    assert_accepting(python(&app, &listener()));
}

#[test]
fn in_a_child() {
    let app = format!("{WAITS}import os\nif os.fork() == 0: s.accept()\ns.close()\nos.wait()");
    assert_accepting(python(&app, &listener()));
}

#[test]
fn in_a_daemonised_grandchild() {
    let app = format!(
        "{WAITS}import os\nif os.fork() == 0:\n os.setsid()\n if os.fork() == 0: s.accept()\n os._exit(0)\n\
         os.wait()\ntime.sleep(1000)"
    );
    assert_accepting(python(&app, &listener()));
}

#[test]
fn a_server_that_is_never_caught_waiting_shows_its_connections() {
    // It accepts one connection, and computes from then on.
    let socket = listener();
    let mut client = TcpStream::connect(socket.local_addr().unwrap()).unwrap();
    client.write_all(b"hello").unwrap();
    let app = "import socket\ns = socket.socket(fileno=3)\nc, _ = s.accept()\nwhile True: pass";
    let Some(worker) = python(app, &socket) else { return };
    drop(client);
    assert_accepting(Some(worker));
}

#[test]
fn what_waits_for_something_else_is_not_ready() {
    if !has("python3") {
        return;
    }
    let waits = [
        "o = socket.create_server(('127.0.0.1', 0)); o.accept()",
        "p = socket.socketpair(); select.select([p[0]], [s], [])",
        "p = select.poll(); p.register(s, select.POLLOUT); p.poll()",
        "p = select.epoll(); p.register(socket.create_server(('127.0.0.1', 0)), 1); p.poll()",
        "c = socket.create_connection(s.getsockname()); c.recv(1)",
    ];
    for wait in waits {
        let socket = listener();
        let release = Release::empty().file("app", 0o644, &format!("{WAITS}print('up', flush=True)\n{wait}"));
        let mut worker = Worker::boot(&spec(&release, &["python3", "app"], &[&socket]), &[&socket]);
        worker.until(|r| matches!(r, FromWorker::Started { .. }));
        worker.until_printed("up\n");
        let waits = || {
            let syscall = std::fs::read_to_string(format!("/proc/{}/syscall", worker.app_pid()));
            !syscall.unwrap_or_default().starts_with("running")
        };
        while !waits() {
            std::thread::yield_now();
        }
        for _ in 0..3 {
            worker.until_looked(&socket);
        }
        worker.order(&ToWorker::Kill);
        worker.exited();
        let ready = |r: &FromWorker| matches!(r, FromWorker::Booted { .. } | FromWorker::BootFailed(_));
        assert!(!worker.seen.iter().any(ready), "{wait}: {:#?}", worker.seen);
    }
}

#[test]
fn a_process_that_cannot_be_looked_at_fails_soon() {
    if !has("python3") || !has("setpriv") {
        return;
    }
    // The app forbids it, and the worker is no root that may all the same.
    let app = "import ctypes, time\nctypes.CDLL(None).prctl(4, 0, 0, 0, 0)\ntime.sleep(1000)";
    let (release, socket) = (Release::empty().file("app", 0o644, app), listener());
    let mut command = std::process::Command::new("setpriv");
    command.args(["--bounding-set=-sys_ptrace", env!("CARGO_BIN_EXE_worker"), "slot 2"]);
    if !nix::unistd::geteuid().is_root() {
        // Only root can give that up, and only root has it.
        command = std::process::Command::new(env!("CARGO_BIN_EXE_worker"));
    }
    let mut worker = Worker::start_as(&mut command, &[&socket]);
    worker.order(&ToWorker::Boot(spec(&release, &["python3", "app"], &[&socket])));
    let report = worker.refused();
    assert!(report.message.starts_with("cannot observe process"), "{}", report.message);
    assert!(report.message.ends_with("use --ready notify or --ready alive:5s"), "{}", report.message);
    assert!(report.millis < 20_000, "{}", report.millis);
    assert_eq!(worker.end().0, Some(0));
}

#[test]
fn a_ring_that_says_nothing_fails_soon() {
    // io_uring_setup and io_uring_enter, which waits for a completion that never comes.
    let app = "
import ctypes, sys
libc = ctypes.CDLL(None)
ring = libc.syscall(425, 8, (ctypes.c_uint8 * 120)())
if ring < 0: sys.exit('no io_uring here')
libc.syscall(426, ring, 0, 1, 1, None, 0)
";
    let Some(worker) = python(app, &listener()) else { return };
    let Some(FromWorker::BootFailed(report)) = worker.seen.last() else { panic!("{:#?}", worker.seen) };
    if report.output.starts_with(b"no io_uring here") {
        return;
    }
    assert!(report.message.contains("it waits in an io_uring"), "{}", report.message);
    assert!(report.message.ends_with("use --ready notify or --ready alive:5s"), "{}", report.message);
}

#[test]
fn the_backlog_is_put_back() {
    if !has("python3") {
        return;
    }
    let socket = listener();
    let app = "
import socket, time
s = socket.socket(fileno=3)
s.listen(5)
print('up', flush=True)
time.sleep(1000)
";
    let release = Release::empty().file("app", 0o644, app);
    let mut worker = Worker::boot(&spec(&release, &["python3", "app"], &[&socket]), &[&socket]);
    worker.until_printed("up\n");
    worker.until_looked(&socket);
    assert_eq!(common::sys::backlog(&socket), 1024);
    // An app that has said so at its end harms nobody either.
    common::sys::listen(&socket, 5);
    worker.order(&ToWorker::Kill);
    worker.exited();
    assert_eq!(common::sys::backlog(&socket), 1024);
}
