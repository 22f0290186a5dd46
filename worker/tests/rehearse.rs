//! Rehearsals, and the HTTP checks of them. The test holds the listener, too, and answers in the app's place.

mod common;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use common::{Release, Worker, environment, has, idle, listener, processes_with};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use proto::worker::{BootReport, BootSpec, Check, Command, ExitStatus, FromWorker, Ready, Stage, Task, ToWorker};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok\n";

fn http(path: &str) -> Check {
    Check::Http { host: "localhost".into(), path: path.into() }
}

fn rehearsal(release: &Release, socket: &TcpListener) -> Box<BootSpec> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let token = format!("rehearsal-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    let mut order = idle(release, &token, &[socket]);
    order.task = Task::Rehearse;
    order.checks = vec![http("/health")];
    order.check_timeout_ms = 30_000;
    order
}

/// Answers one request after the other, and gives what was asked.
fn answer(socket: &TcpListener, answers: &[&str]) -> JoinHandle<Vec<String>> {
    let (socket, answers) = (socket.try_clone().unwrap(), answers.iter().map(|a| a.to_string()).collect::<Vec<_>>());
    std::thread::spawn(move || {
        answers
            .iter()
            .map(|answer| {
                let (mut client, _) = socket.accept().unwrap();
                let asked = read_request(&mut client);
                // One that passes on the head may be gone before the end.
                let _ = client.write_all(answer.as_bytes());
                asked
            })
            .collect()
    })
}

fn read_request(client: &mut TcpStream) -> String {
    let mut asked = Vec::new();
    let mut buffer = [0; 1000];
    while !asked.ends_with(b"\r\n\r\n") {
        let length = client.read(&mut buffer).unwrap();
        assert!(length > 0, "{asked:?}");
        asked.extend_from_slice(&buffer[..length]);
    }
    String::from_utf8(asked).unwrap()
}

fn refused(order: &BootSpec, socket: &TcpListener) -> BootReport {
    let mut worker = Worker::boot(order, &[socket]);
    let report = worker.refused();
    assert_eq!((report.stage, worker.end().0), (Stage::Check, Some(0)), "{}", report.message);
    assert_eq!(processes_with(&order.token), [0; 0]);
    report
}

#[test]
fn what_it_asks_and_that_it_ends_when_told() {
    let (release, socket) = (Release::empty(), listener());
    let mut order = rehearsal(&release, &socket);
    order.checks.push(Check::Http { host: "shop.example".into(), path: "/ready?deep=1".into() });
    order.checks.push(Check::Exec(b"test \"$PHASED_REHEARSAL\" = 1 && echo checked".to_vec()));
    let asked = answer(&socket, &[OK, "HTTP/1.0 204 No Content\r\n\r\n"]);
    let mut worker = Worker::boot(&order, &[&socket]);
    worker.booted();
    assert_eq!(worker.stages(), [Stage::Directory, Stage::Exec, Stage::Ready, Stage::Check]);
    assert_eq!(worker.sleeps(), None, "nothing ticks");
    let request = |path: &str, host: &str| {
        format!(
            "GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: phased-check\r\nAccept: */*\r\nConnection: close\r\n\r\n"
        )
    };
    let wanted = [request("/health", "localhost"), request("/ready?deep=1", "shop.example")];
    assert_eq!(asked.join().unwrap(), wanted);
    worker.order(&ToWorker::Drain { timeout_ms: 20_000 });
    assert_eq!(worker.exited().status, ExitStatus::Signal(15));
    let (code, worker) = worker.end();
    assert_eq!((code, worker.out().as_str()), (Some(0), "checked\n"));
    assert_eq!(processes_with(&order.token), [0; 0]);
}

#[test]
fn only_a_rehearsal_is_told_that_it_is_one() {
    let release = Release::empty();
    let mut order = idle(&release, "told", &[]);
    order.command = Command::Words(["sh", "-c", "env -0; echo; echo end; exec sleep 1000"].map(|w| w.into()).into());
    for (task, told) in [(Task::Serve, None), (Task::Rehearse, Some("1"))] {
        order.task = task;
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_worker"));
        let mut worker = Worker::start_as(command.env("PHASED_REHEARSAL", "old").env("PHASED_NAME", "outer"), &[]);
        worker.order(&ToWorker::Boot(order.clone()));
        worker.booted();
        worker.until_printed("\nend\n");
        let got = environment(&worker.out());
        assert_eq!(got.get("PHASED_REHEARSAL").map(String::as_str), told);
        assert!(!got.contains_key("PHASED_NAME"));
    }
}

#[test]
fn an_answer_that_is_not_good_yet_is_asked_for_again() {
    let (release, socket) = (Release::empty(), listener());
    let asked =
        answer(&socket, &["HTTP/1.1 503 Service Unavailable\r\n\r\nwarming up", "", "HTTP/1.1 500 No\r\n\r\n", OK]);
    let mut worker = Worker::boot(&rehearsal(&release, &socket), &[&socket]);
    worker.booted();
    assert_eq!(asked.join().unwrap().len(), 4);
}

#[test]
fn a_bad_answer_is_reported_with_its_body() {
    let (release, socket) = (Release::empty(), listener());
    let mut order = rehearsal(&release, &socket);
    order.check_timeout_ms = 1500;
    order.command = Command::Words(["sh", "-c", "echo up; exec sleep 1000"].map(|w| w.into()).into());
    order.checks = vec![http("/health")];
    let server = socket.try_clone().unwrap();
    // As often as it is asked: until the listener has been taken away from under it.
    let serving = std::thread::spawn(move || {
        while let Ok((mut client, _)) = server.accept() {
            let mut asked = [0; 1000];
            if client.read(&mut asked).unwrap_or(0) == 0 {
                return;
            }
            let body = format!("NoMethodError: undefined method\n{}", "x".repeat(5000));
            let _ =
                client.write_all(format!("HTTP/1.1 500 Internal Server Error\r\nServer: x\r\n\r\n{body}").as_bytes());
        }
    });
    let report = refused(&order, &socket);
    assert_eq!(report.message, "check http:/health: HTTP/1.1 500 Internal Server Error");
    let output = String::from_utf8(report.output).unwrap();
    let (app, body) = output.split_once("--- check http:/health ---\n").unwrap();
    assert!((app == "up\n" || app.is_empty()) && body.starts_with("NoMethodError: undefined method\nxxx"), "{output}");
    assert_eq!(body.len(), 1024);
    assert!((1500..20_000).contains(&report.millis), "{}", report.millis);
    drop(TcpStream::connect(socket.local_addr().unwrap()).unwrap());
    serving.join().unwrap();
}

#[test]
fn one_that_never_answers_is_reported_after_the_time() {
    let (release, socket) = (Release::empty(), listener());
    let mut order = rehearsal(&release, &socket);
    order.check_timeout_ms = 400;
    // Nobody accepts: the kernel alone takes the connection.
    let report = refused(&order, &socket);
    assert_eq!(report.message, "check http:/health: no answer within 400ms");
    assert!((400..20_000).contains(&report.millis), "{}", report.millis);
    assert_eq!(report.exit, None);
    // One that accepts and begins to answer, and hangs then.
    let socket = listener();
    let mut order = rehearsal(&release, &socket);
    order.check_timeout_ms = 1500;
    let server = socket.try_clone().unwrap();
    let held = std::thread::spawn(move || {
        let mut clients = Vec::new();
        while clients.len() < 2 {
            let (mut client, _) = server.accept().unwrap();
            read_request(&mut client);
            client.write_all(b"HTTP/1.1 200 OK\r\nServer: x").unwrap();
            clients.push(client);
        }
        clients
    });
    let report = refused(&order, &socket);
    assert_eq!(report.message, "check http:/health: no answer within 1500ms");
    assert!(report.output.ends_with(b"HTTP/1.1 200 OK\r\nServer: x"), "{:?}", String::from_utf8_lossy(&report.output));
    held.join().unwrap();
}

#[test]
fn a_try_that_hangs_has_a_second_one_beside_it() {
    let (release, socket) = (Release::empty(), listener());
    let mut order = rehearsal(&release, &socket);
    order.check_timeout_ms = 4000;
    let server = socket.try_clone().unwrap();
    let serving = std::thread::spawn(move || {
        let hung = server.accept().unwrap();
        let (mut second, _) = server.accept().unwrap();
        read_request(&mut second);
        second.write_all(OK.as_bytes()).unwrap();
        drop(hung);
    });
    let begun = Instant::now();
    let mut worker = Worker::boot(&order, &[&socket]);
    worker.booted();
    assert!(begun.elapsed() >= Duration::from_millis(2000));
    serving.join().unwrap();
}

#[test]
fn a_body_without_an_end_passes_on_its_head() {
    let (release, socket) = (Release::empty(), listener());
    let server = socket.try_clone().unwrap();
    let serving = std::thread::spawn(move || {
        let (mut client, _) = server.accept().unwrap();
        read_request(&mut client);
        client.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").unwrap();
        // Until the worker has closed it.
        while client
            .write_all(b"400\r\n")
            .and_then(|()| client.write_all(&[b'x'; 1024]))
            .and_then(|()| client.write_all(b"\r\n"))
            .is_ok()
        {}
    });
    let mut worker = Worker::boot(&rehearsal(&release, &socket), &[&socket]);
    worker.booted();
    serving.join().unwrap();
}

#[test]
fn a_unix_socket_is_asked_at_its_path() {
    use std::os::unix::net::UnixListener;
    let release = Release::empty();
    let path = release.path().join("app.sock");
    let unix = UnixListener::bind(&path).unwrap();
    // What passes fds has TCP listeners.
    let as_tcp = TcpListener::from(std::os::fd::OwnedFd::from(unix.try_clone().unwrap()));
    let mut order = rehearsal(&release, &listener());
    order.listeners[0].address = path.to_str().unwrap().into();
    order.command = Command::Words(["sh", "-c", "echo {addr}; exec sleep 1000"].map(|w| w.into()).into());
    let serving = std::thread::spawn(move || {
        let (mut client, _) = unix.accept().unwrap();
        let mut asked = [0; 1000];
        assert!(client.read(&mut asked).unwrap() > 0);
        client.write_all(OK.as_bytes()).unwrap();
    });
    let mut worker = Worker::boot(&order, &[&as_tcp]);
    worker.booted();
    serving.join().unwrap();
    worker.until_printed(path.to_str().unwrap());
}

#[test]
fn without_a_listener_there_is_nothing_to_ask() {
    let release = Release::empty();
    let mut order = idle(&release, "nothing-to-ask", &[]);
    order.task = Task::Rehearse;
    order.checks = vec![http("/")];
    let report = refused(&order, &listener());
    assert_eq!(report.message, "check http:/: there is no listening socket to ask; give --listen");
}

#[test]
fn an_app_that_dies_while_it_is_asked_is_refused_at_once() {
    let (release, socket) = (Release::empty(), listener());
    let mut order = rehearsal(&release, &socket);
    order.checks = vec![Check::Http { host: "shop".into(), path: "/h".into() }];
    let mut worker = Worker::boot(&order, &[&socket]);
    let (mut client, _) = socket.accept().unwrap();
    read_request(&mut client);
    worker.until(|r| matches!(r, FromWorker::Stage(Stage::Check)));
    kill(Pid::from_raw(worker.app_pid()), Signal::SIGSEGV).unwrap();
    let report = worker.refused();
    assert_eq!((report.stage, report.message.as_str()), (Stage::Check, "killed by SIGSEGV during check http://shop/h"));
    assert_eq!((report.exit, worker.end().0), (Some(ExitStatus::Signal(11)), Some(0)));
}

#[test]
fn a_real_server_is_asked() {
    if !has("python3") {
        return;
    }
    let app = "
import http.server, os, socket, sys
class Health(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    asked = 0
    def do_GET(self):
        Health.asked += 1
        good = Health.asked > 2 and self.path == '/health'
        body = b'fine' if good else b'not yet'
        self.send_response(200 if good else 503)
        self.send_header('Content-Length', str(len(body)))
        self.end_headers()
        self.wfile.write(body)
server = http.server.HTTPServer(('', 0), Health, bind_and_activate=False)
server.socket = socket.socket(fileno=3)
server.serve_forever()
";
    let (release, socket) = (Release::empty().file("app.py", 0o644, app), listener());
    let mut order = rehearsal(&release, &socket);
    order.command = Command::Words(["python3", "app.py"].map(|w| w.into()).into());
    order.ready = Ready::Accepting;
    let mut worker = Worker::boot(&order, &[&socket]);
    worker.booted();
    worker.until_printed("\"GET /health HTTP/1.1\" 200");
    worker.order(&ToWorker::Kill);
    worker.end();
    order.checks = vec![http("/other")];
    order.check_timeout_ms = 1500;
    let report = refused(&order, &socket);
    assert_eq!(report.message, "check http:/other: HTTP/1.1 503 Service Unavailable");
    assert!(
        report.output.ends_with(b"\n--- check http:/other ---\nnot yet"),
        "{}",
        String::from_utf8_lossy(&report.output)
    );
}
