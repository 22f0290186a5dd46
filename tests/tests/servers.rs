//! The promises of a phased restart, kept with real servers: gunicorn, uvicorn, hypercorn, daphne, uWSGI, node, puma,
//! unicorn, Starlet, Starman, php-fpm, and servers in Go and Rust.
//!
//! Each of them serves on the inherited socket and is seen to be ready by that alone (evidence `accepting`). A good
//! release takes over under load, a broken one is refused under load, a killed app comes back with known-good code
//! while `current` names the broken release, and nothing is left at the end. How each of them has to be started stands in
//! `tests/servers/RECIPES.md`, and is what these tests do.

use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Instant;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use proto::control::{Stats, WorkerStatus};
use tests::servers::{self, Server, all_on, stopped};
use tests::servers_fcgi::{self, FcgiLoad};
use tests::{Load, Master, Site, process};

/// A release `one` of a server that serves in two slots.
fn steady<'a>(site: &'a Site, server: &Server) -> Master<'a> {
    for name in ["one", "two", "three"] {
        server.release(site, name, "good");
    }
    server.release(site, "broken", "broken");
    site.deploy("one");
    let master = server.start(site.master().options(&["--ready", "auto"]));
    all_on(&master.until_state("steady"), "one");
    master
}

/// A release that does not boot is refused, its own words are in the caller's terminal, and no app was exchanged.
#[track_caller]
fn refused(master: &Master<'_>, server: &Server) {
    let before = master.app_pids();
    let output = master.roll("broken").expect(3);
    for words in ["unable to boot with new codebase, using old one", "releases/broken", "stage ready", server.error] {
        assert!(output.stderr.contains(words), "{words:?} is not in what ctl says:\n{}", output.stderr);
    }
    let stats = master.until_state("steady");
    all_on(&stats, "two");
    assert_eq!(master.app_pids(), before, "an app was lost to a release that does not boot");
}

/// What a slot consists of is killed, whole or in part: nothing of it stays, and the slot comes back with known-good code,
/// although `current` names a release that does not boot.
#[track_caller]
fn respawned_with_known_good(master: &Master<'_>, victim: fn(&WorkerStatus) -> Option<u32>) {
    let before = master.stats();
    assert!(before.dir_target.as_deref().is_some_and(|dir| dir.ends_with(b"/broken")), "{before:#?}");
    let old = before.worker_status[0].clone();
    let worker = old.pid.expect("a worker") as i32;
    let family: Vec<i32> = process::descendants(worker).iter().map(|process| process.pid).collect();
    process::signal(victim(&old).expect("a victim") as i32, Signal::SIGKILL);
    let after = master.until("the slot is filled again", |stats| {
        stats.booted_workers == 2 && stats.worker_status.iter().all(|worker| worker.incarnation != old.incarnation)
    });
    all_on(&after, "two");
    master.site().until_ended(worker);
    for pid in family {
        master.site().until_ended(pid);
    }
}

/// What is demanded of every HTTP server.
fn serves(server: &Server) {
    let site = Site::new();
    let master = steady(&site, server);
    let address = master.address();

    let load = Load::start(&address);
    load.until("one");
    let _ = master.roll("two").expect(0);
    all_on(&master.stats(), "two");
    load.until("two");
    refused(&master, server);
    // The app of a worker that is killed is asked to stop, and finishes what it has.
    respawned_with_known_good(&master, |slot| slot.pid);
    load.more(20);
    let tally = load.finish();
    assert_eq!(tally.releases.keys().collect::<Vec<_>>(), ["one", "two"], "{tally:?}");

    // No load meanwhile: what a killed app held is its own loss.
    respawned_with_known_good(&master, |slot| slot.app_pid);
    assert!(master.get("/").starts_with("release=two "));

    // The next attempt is free to succeed.
    let load = Load::start(&address);
    let _ = master.roll("three").expect(0);
    all_on(&master.stats(), "three");
    load.until("three");
    let tally = load.finish();
    assert!(!tally.releases.contains_key("broken"), "{tally:?}");
    stopped(master);
}

#[test]
fn gunicorn_sync() {
    serves(&servers::GUNICORN_SYNC);
}

#[test]
fn gunicorn_gthread() {
    serves(&servers::GUNICORN_GTHREAD);
}

#[test]
fn gunicorn_asgi() {
    serves(&servers::GUNICORN_ASGI);
}

#[test]
fn uvicorn() {
    serves(&servers::UVICORN);
}

#[test]
fn hypercorn() {
    serves(&servers::HYPERCORN);
}

#[test]
fn daphne() {
    serves(&servers::DAPHNE);
}

#[test]
fn uwsgi() {
    serves(&servers::UWSGI);
}

#[test]
fn node() {
    serves(&servers::NODE);
}

#[test]
fn puma() {
    serves(&servers::PUMA);
}

#[test]
fn unicorn() {
    serves(&servers::UNICORN);
}

#[test]
fn starlet() {
    serves(&servers::STARLET);
}

#[test]
fn go() {
    serves(&servers::GO);
}

#[test]
fn rust() {
    serves(&servers::RUST);
}

/// What is demanded of a server that loses requests by itself when it stops, so that it is not put under load.
fn serves_without_load(server: &Server) {
    let site = Site::new();
    let master = steady(&site, server);
    let _ = master.roll("two").expect(0);
    all_on(&master.stats(), "two");
    refused(&master, server);
    respawned_with_known_good(&master, |slot| slot.app_pid);
    assert!(master.get("/").starts_with("release=two "));
    stopped(master);
}

/// It drops connections that it has accepted and not read.
#[test]
fn uvicorn_as_its_own_program() {
    serves_without_load(&servers::UVICORN_PLAIN);
}

/// The same.
#[test]
fn daphne_as_its_own_program() {
    serves_without_load(&servers::DAPHNE_PLAIN);
}

/// Its quick stop cuts answers off, its graceful one drops what it has accepted and not read.
#[test]
fn starman() {
    serves_without_load(&servers::STARMAN);
}

fn php_fpm_on(listen: &dyn Fn(&Site) -> String) {
    let server = servers::PHP_FPM;
    let site = Site::new();
    for name in ["one", "two"] {
        server.release(&site, name, "good");
    }
    server.release(&site, "broken", "broken");
    site.deploy("one");
    let listen = listen(&site);
    let master = server.start(site.master().listen(&[&listen]));
    all_on(&master.until_state("steady"), "one");
    let address = master.address();
    // As a web server has it: through the symlink, which names the broken release for a while.
    let script = site.current().join("index.php");
    let get = || servers_fcgi::get(&address, &script).expect("an answer");
    assert!(get().starts_with("release=one "), "{}", get());

    let load = FcgiLoad::start(&address, &script, 4);
    let _ = master.roll("two").expect(0);
    all_on(&master.stats(), "two");
    refused(&master, &server);
    respawned_with_known_good(&master, |slot| slot.pid);
    assert!(!load.finish().contains("broken"));
    respawned_with_known_good(&master, |slot| slot.app_pid);
    assert!(get().starts_with("release=two "), "{}", get());
    stopped(master);
}

#[test]
fn php_fpm() {
    php_fpm_on(&|_| "tcp://127.0.0.1:0".to_owned());
}

/// php-fpm unlinks the path that it knows, which is not the socket's.
#[test]
fn php_fpm_on_a_unix_socket() {
    php_fpm_on(&|site| format!("unix://{}", site.root().join("run/php.sock").display()));
}

/// A WSGI application that stands still in its import until the test lets it go on; then it raises if told to.
const GATED: &str = "\
import os, socket
release = os.path.basename(os.environ['RELEASE_DIR'])
gate = socket.socket(socket.AF_UNIX)
gate.connect('../gate.sock')
if gate.recv(16) == b'raise':
    raise RuntimeError('the import failed, long after READY=1')
def app(environ, start_response):
    body = f'release={release} pid={os.getpid()}'.encode()
    start_response('200 OK', [('Content-Length', str(len(body)))])
    return [body]
";

/// Waits until an application stands at the gate.
fn arrival(site: &Site, gate: &UnixListener) -> UnixStream {
    let left = site.deadline().saturating_duration_since(Instant::now());
    let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
    let came = poll(&mut [PollFd::new(gate.as_fd(), PollFlags::POLLIN)], timeout);
    assert_eq!(came, Ok(1), "no application came to the gate");
    gate.accept().expect("an application").0
}

/// gunicorn says READY=1 when its first process has started, before a worker of it loads the application: that is not
/// believed, so that no worker is given up for it.
#[test]
fn gunicorn_that_says_ready_before_it_loads_the_application() {
    let server = Server { args: &["-w", "1", "app:app"], ..servers::GUNICORN_SYNC };
    let site = Site::new();
    server.release(&site, "one", "good");
    for name in ["fails", "loads"] {
        let folder = server.release(&site, name, "good");
        std::fs::write(folder.join("app.py"), GATED).expect("an app");
    }
    let gate = UnixListener::bind(site.root().join("releases/gate.sock")).expect("the gate");
    site.deploy("one");
    // A control socket in the home folder is among the defaults of gunicorn.
    let home = site.root().join("home");
    std::fs::create_dir(&home).expect("a folder");
    let home = home.to_str().expect("a readable path");
    let master = site.master().env("HOME", home).command(&server.command()).start();
    all_on(&master.until_state("steady"), "one");
    let old = master.app_pids();

    let load = Load::start(&master.address());
    site.deploy("fails");
    let ctl = master.ctl_start(&["phased-restart"]);
    let mut import = arrival(&site, &gate);
    // `STATUS=` is in the same message as `READY=1`, was sent before the import began, and shows that it has been read. It is
    // no step of the mind that one could wait for.
    let candidate = |stats: &Stats| {
        let booting: Vec<_> = stats.worker_status.iter().filter(|worker| worker.state == "booting").cloned().collect();
        assert_eq!((booting.len(), stats.booted_workers), (1, 2), "{stats:#?}");
        booting[0].clone()
    };
    while candidate(&master.stats()).last_status.is_none() {
        assert!(Instant::now() < site.deadline(), "READY=1 does not come");
        load.more(1);
    }
    load.more(50);
    let _ = candidate(&master.stats());
    import.write_all(b"raise").expect("the gate");
    let output = ctl.end().expect(3);
    assert!(output.stderr.contains("RuntimeError: the import failed, long after READY=1"), "{}", output.stderr);
    assert_eq!(master.app_pids(), old);

    site.deploy("loads");
    let ctl = master.ctl_start(&["phased-restart"]);
    for _ in 0..2 {
        arrival(&site, &gate).write_all(b"go on").expect("the gate");
    }
    let _ = ctl.end().expect(0);
    all_on(&master.stats(), "loads");
    load.until("loads");
    load.finish();
    stopped(master);
}
