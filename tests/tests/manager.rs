//! What a service manager is told, on sockets and pipes that play its side.

use std::io::Read;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::time::Instant;

use tests::Site;

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
