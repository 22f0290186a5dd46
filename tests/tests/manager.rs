//! What a service manager is told, on sockets and pipes that play its side.

use std::io::{ErrorKind, Read};
use std::net::TcpListener;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::time::Instant;

use nix::sys::signal::Signal;
use tests::master::all_on;
use tests::{Master, Site, process};

/// A service manager's socket.
struct Manager(UnixDatagram);

impl Manager {
    fn listen(site: &Site) -> (Self, String) {
        let path = site.root().join("notify");
        let socket = UnixDatagram::bind(&path).expect("a socket");
        let left = site.deadline().saturating_duration_since(Instant::now());
        socket.set_read_timeout(Some(left)).expect("a timeout");
        (Self(socket), path.to_str().expect("text").to_owned())
    }

    /// Leaves no room for a further word, whoever says it: not only what one sender may have under way is used up.
    fn fill(&self) {
        let address = self.0.local_addr().expect("an address");
        loop {
            let sender = UnixDatagram::unbound().expect("a socket");
            sender.set_nonblocking(true).expect("a flag");
            sender.connect_addr(&address).expect("connected");
            let full = (0..).map(|n| (n, sender.send(b"x"))).find_map(|(n, sent)| Some((n, sent.err()?)));
            let (sent, error) = full.expect("an end");
            assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}");
            if sent == 0 {
                return;
            }
        }
    }

    /// Reads everything that waits.
    fn drain(&self) {
        self.0.set_nonblocking(true).expect("a flag");
        while self.0.recv(&mut [0; 4096]).is_ok() {}
        self.0.set_nonblocking(false).expect("a flag");
    }

    /// What is said, up to and with this.
    fn until(&self, wanted: &str) -> Vec<String> {
        let mut said = Vec::new();
        let mut buffer = [0; 4096];
        loop {
            let length = self.0.recv(&mut buffer).unwrap_or_else(|e| panic!("{wanted} is not said ({e}): {said:#?}"));
            said.push(String::from_utf8_lossy(&buffer[..length]).into_owned());
            if said.last().is_some_and(|said| said.contains(wanted)) {
                return said;
            }
        }
    }
}

#[test]
fn systemd_hears_of_every_change() {
    let site = Site::new();
    let (manager, path) = Manager::listen(&site);
    site.release("41", "");
    site.release("42", "");
    site.deploy("41");
    let mut master = site.master().workers(2).env("NOTIFY_SOCKET", &path).start();
    let said = manager.until("READY=1");
    let (parked, said): (Vec<_>, Vec<_>) = said.into_iter().partition(|said| said.starts_with("FDSTORE=1\n"));
    assert_eq!(parked, ["FDSTORE=1\nFDNAME=phased/listen0\nFDPOLL=0\n"], "before it is told that we are ready");
    assert!(said.iter().all(|said| said.contains("STATUS=")), "{said:?}");
    assert!(said[0].contains("STATUS=booting, 0/2 workers"), "{said:?}");
    assert!(said.last().is_some_and(|said| said.contains("STATUS=steady, 2/2 workers on ")), "{said:?}");
    master.roll("42").expect(0);
    let said = manager.until("READY=1");
    let reloading: Vec<_> = said.iter().filter(|said| said.contains("RELOADING=1")).collect();
    assert!(matches!(reloading[..], [one] if one.contains("MONOTONIC_USEC=")), "once: {said:?}");
    // The app has a notify socket of its own, or none of this would be the master's words.
    master.ctl(&["stop"]).expect(0);
    let said = manager.until("STOPPING=1");
    assert!(said.contains(&"FDSTOREREMOVE=1\nFDNAME=phased/listen0\n".to_owned()), "{said:?}");
    assert!(!said.iter().any(|said| said.contains("READY=1")), "{said:?}");
    assert!(master.end().success());
}

#[test]
fn the_watchdog_is_fed_while_enough_are_ready() {
    let site = Site::new();
    let (manager, path) = Manager::listen(&site);
    site.release("41", "slot 1 starts 2 exit 1");
    site.deploy("41");
    // One of two slots does not boot at once, and one of two workers is not enough.
    let _master = site.master().workers(2).env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "20000").start();
    let said = manager.until("STATUS=steady");
    assert!(said.iter().any(|said| said.contains("STATUS=degraded")), "{said:?}");
    assert!(!said.iter().any(|said| said.contains("WATCHDOG=1")), "{said:?}");
    manager.until("WATCHDOG=1");
    manager.until("WATCHDOG=1");
}

#[test]
fn s6_reads_a_newline_and_the_end() {
    let site = Site::new();
    site.release("41", "");
    site.deploy("41");
    let (mut reader, writer) = std::io::pipe().expect("a pipe");
    let writer = OwnedFd::from(writer);
    // The shell gives it the number that s6 would.
    let give = format!("exec 7<>/proc/{}/fd/{}; exec \"$@\"", std::process::id(), writer.as_raw_fd());
    let master = site.master().workers(1).options(&["--notify-fd", "7"]).wrap(&["sh", "-c", &give, "sh"]).start();
    drop(writer);
    let mut said = String::new();
    reader.read_to_string(&mut said).expect("the end: no worker and no app holds the pipe");
    assert_eq!(said, "\n");
    master.until_state("steady");
}

/// How often the log says that nobody can be told.
fn warnings(master: &Master<'_>) -> usize {
    master.stderr.all().iter().filter(|line| line.contains("the service manager cannot be told")).count()
}

#[test]
fn a_manager_that_does_not_read_holds_nothing_up() {
    let site = Site::new();
    let (manager, path) = Manager::listen(&site);
    manager.fill();
    site.release("41", "");
    site.deploy("41");
    // The watchdog wants a word every ten milliseconds besides.
    let mut master = site.master().workers(2).env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "20000").start();
    assert!(all_on(&master.until_state("steady"), "41"));
    site.release("42", "");
    master.roll("42").expect(0);
    site.release("43", "exit 1");
    master.roll("43").expect(3);
    let victim = master.app_pids()[0];
    process::signal(victim, Signal::SIGKILL);
    let respawned = |stats: &_| all_on(stats, "42") && stats.worker_status[0].crashes == 1;
    master.until("respawned", respawned);
    let line = master.until_log("the service manager cannot be told");
    assert!(line.contains("WARN") && line.contains("$NOTIFY_SOCKET"), "{line}");
    master.ctl(&["status"]).expect(0);
    master.ctl(&["stop"]).expect(0);
    assert!(master.end().success());
    master.stderr.wait_closed(site.deadline()).expect("the end of the log");
    assert_eq!(warnings(&master), 1, "once, however often it is tried:\n{}", master.stderr.text());
}

#[test]
fn a_manager_that_reads_again_is_told_again() {
    let site = Site::new();
    let (manager, path) = Manager::listen(&site);
    manager.fill();
    for release in ["41", "42", "43", "44"] {
        site.release(release, "");
    }
    site.deploy("41");
    let master = site.master().workers(1).env("NOTIFY_SOCKET", &path).start();
    master.until_state("steady");
    master.until_log("the service manager cannot be told");
    manager.drain();
    master.roll("42").expect(0);
    let said = manager.until("READY=1");
    assert!(said[0].contains("RELOADING=1"), "{said:?}");
    assert!(said.last().is_some_and(|said| said.contains("STATUS=steady, 1/1 workers on ")), "{said:?}");
    assert_eq!(warnings(&master), 1, "{}", master.stderr.text());
    // When it fails anew, that is news.
    manager.fill();
    master.roll("43").expect(0);
    master.roll("44").expect(0);
    assert!(all_on(&master.stats(), "44"));
    let second = |line: &str| line.contains("promoted") && line.contains("/44");
    master.stderr.wait(0, site.deadline(), second).expect("the log is read so far");
    assert_eq!(warnings(&master), 2, "{}", master.stderr.text());
}

#[test]
fn a_manager_that_is_not_there_holds_nothing_up() {
    let site = Site::new();
    site.release("41", "");
    site.deploy("41");
    let nobody = site.root().join("nobody");
    let nobody = nobody.to_str().expect("text");
    let master = site.master().workers(1).env("NOTIFY_SOCKET", nobody).env("WATCHDOG_USEC", "20000").start();
    assert!(all_on(&master.until_state("steady"), "41"));
    let line = master.until_log("the service manager cannot be told");
    assert!(line.contains(nobody), "{line}");
    drop(master);
    // One that goes away later.
    let (manager, path) = Manager::listen(&site);
    let master = site.master().workers(1).env("NOTIFY_SOCKET", &path).start();
    manager.until("READY=1");
    drop(manager);
    site.release("42", "");
    master.roll("42").expect(0);
    master.until_log("the service manager cannot be told");
    assert!(all_on(&master.stats(), "42"));
    assert_eq!(warnings(&master), 1, "{}", master.stderr.text());
}

#[test]
fn a_descriptor_that_nobody_has_opened_is_an_error() {
    let site = Site::new();
    site.release("41", "");
    site.deploy("41");
    let said = site.master().options(&["--notify-fd", "177"]).run().expect(1);
    assert!(said.stderr.contains("cannot start: --notify-fd 177 is not open"), "{}", said.stderr);
    // The three that everybody has are in use.
    for taken in ["0", "1", "2", "-1", "x"] {
        let said = site.master().options(&[&format!("--notify-fd={taken}")]).run().expect(2);
        assert!(said.stderr.contains("--notify-fd"), "{}", said.stderr);
    }
    assert_eq!(site.boots("41"), 0);
    assert!(!site.socket().exists(), "nothing was begun");
}

#[test]
fn a_descriptor_that_is_a_socket_to_serve_on_is_an_error() {
    let site = Site::new();
    site.release("41", "");
    site.deploy("41");
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let listener = OwnedFd::from(listener);
    let start = |fd: &str| {
        let listener = listener.try_clone().expect("a descriptor");
        site.master().workers(1).listen(&[]).inherit(listener).options(&["--notify-fd", fd])
    };
    let said = start("3").run().expect(1);
    assert!(said.stderr.contains("cannot start: --notify-fd 3 is one of the sockets of LISTEN_FDS"), "{}", said.stderr);
    assert_eq!(site.boots("41"), 0);
    assert!(!site.socket().exists(), "nothing was begun");
    // The one behind them is none of them.
    let (mut reader, writer) = std::io::pipe().expect("a pipe");
    let writer = OwnedFd::from(writer);
    let give = format!("exec 4<>/proc/{}/fd/{}; exec \"$@\"", std::process::id(), writer.as_raw_fd());
    let master = start("4").wrap(&["sh", "-c", &give, "sh"]).start();
    drop(writer);
    let mut said = String::new();
    reader.read_to_string(&mut said).expect("the end");
    assert_eq!(said, "\n");
    master.until_state("steady");
    assert_eq!(master.stats().listeners[0].address, format!("tcp://{address}"));
}

#[test]
fn a_descriptor_that_only_the_log_has_open_is_not_open() {
    let site = Site::new();
    site.release("41", "");
    site.deploy("41");
    // The log opens a descriptor of its own, which would have this number.
    let said = site.master().workers(1).options(&["--notify-fd", "3"]).run().expect(1);
    assert!(said.stderr.contains("--notify-fd 3 is not open"), "{}", said.stderr);
}
