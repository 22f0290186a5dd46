//! Whatever a client of the control socket does, nobody else notices.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::{Duration, Instant};

use proto::control::{Reply, Request};
use proto::{Hello, Outbox};
use tests::control::Control;
use tests::{Load, Master, Site, process};

/// What the master still says, until it closes.
fn rest(stream: &mut UnixStream) -> Vec<u8> {
    stream.set_read_timeout(Some(Duration::from_secs(30))).expect("a timeout");
    let mut bytes = Vec::new();
    match stream.read_to_end(&mut bytes) {
        Ok(_) => {}
        // Closed with something of ours unread.
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {}
        Err(error) => panic!("the master does not close the connection: {error}"),
    }
    bytes
}

fn raw(site: &Site) -> UnixStream {
    UnixStream::connect(site.socket()).expect("a connection")
}

fn all_is_well(master: &Master<'_>, pids: &[i32]) {
    master.ctl(&["status"]).expect(0);
    assert_eq!(master.app_pids(), pids);
}

#[test]
fn garbage_oversized_and_half_frames_close_that_client_alone() {
    let site = Site::new();
    let master = site.steady("41", "", 1);
    let pids = master.app_pids();
    let load = Load::start(&master.address());
    let hello = proto::frame::frame(&Request::Hello(Hello::ours())).expect("a frame");
    let huge = [&u32::MAX.to_le_bytes()[..], b"x"].concat();
    let too_long = [&((1_u32 << 20) + 1).to_le_bytes()[..], b"x"].concat();
    let unknown = [&hello[..], &[1, 0, 0, 0, 250]].concat();
    let trailing = [&hello[..], &[3, 0, 0, 0, 1, 7, 7]].concat();
    let empty = [&hello[..], &[0, 0, 0, 0]].concat();
    let forged = [&hello[..], &[4, 0, 0, 0, 5, 1, 252, 255]].concat();
    let http = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec();
    for bytes in [http, vec![0; 4096], vec![0xff; 70_000], huge, too_long, unknown, trailing, empty, forged] {
        let mut client = raw(&site);
        // The master may close before all is written.
        let _ = client.write_all(&bytes);
        let _ = rest(&mut client);
    }
    // Half a frame, and then nothing more.
    for half in [&hello[..2], &hello[..hello.len() - 1], &[][..]] {
        let mut client = raw(&site);
        client.write_all(half).expect("written");
        client.shutdown(Shutdown::Write).expect("shut down");
        let _ = rest(&mut client);
    }
    // A request before Hello.
    let mut client = raw(&site);
    client.write_all(&proto::frame::frame(&Request::Stop).expect("a frame")).expect("written");
    let _ = rest(&mut client);
    // A client that was there all the time, the trace's, still hears everything.
    let seen = master.trace().len();
    master.ctl(&["abort"]).expect(1);
    master.until_step(seen, "the abort", |step| step.contains(" abort"));
    all_is_well(&master, &pids);
    load.more(10);
    load.finish();
}

#[test]
fn another_protocol_is_told_both_versions_and_can_still_stop_and_upgrade() {
    let site = Site::new();
    let master = site.steady("41", "", 1);
    let pids = master.app_pids();
    let frame = |request: &Request| proto::frame::frame(request).expect("a frame");
    let other = frame(&Request::Hello(Hello { protocol: 999, build: "9.9.9".into() }));
    // Whatever it asks in a language of its own, or nothing.
    for asked in [frame(&Request::Stats), vec![1, 0, 0, 0, 250], Vec::new()] {
        let mut client = raw(&site);
        client.write_all(&other).and_then(|()| client.write_all(&asked)).expect("written");
        let said = String::from_utf8_lossy(&rest(&mut client)).into_owned();
        assert!(said.contains("999") && said.contains("9.9.9") && said.contains("protocol"), "{said:?}");
    }
    all_is_well(&master, &pids);
    // What keeps its bytes for ever is heard.
    let mut client = raw(&site);
    client.write_all(&other).and_then(|()| client.write_all(&frame(&Request::Ping))).expect("written");
    assert!(rest(&mut client).ends_with(&proto::frame::frame(&Reply::Pong).expect("a frame")));
    let mut client = raw(&site);
    client.write_all(&other).and_then(|()| client.write_all(&frame(&Request::Upgrade))).expect("written");
    assert!(String::from_utf8_lossy(&rest(&mut client)).contains("takes over"));
    let stats = tests::control::stats(&site.socket()).expect("the next program answers");
    assert_eq!(stats.pid as i32, master.pid());
    let mut client = raw(&site);
    client.write_all(&other).and_then(|()| client.write_all(&frame(&Request::Stop))).expect("written");
    assert!(String::from_utf8_lossy(&rest(&mut client)).contains("master stopped"));
}

#[test]
fn a_client_that_never_says_hello_is_closed_after_5_seconds() {
    let site = Site::new();
    let master = site.steady("41", "", 1);
    let pids = master.app_pids();
    let begun = Instant::now();
    let mut silent = raw(&site);
    let mut drip = raw(&site);
    drip.write_all(&[9]).expect("written");
    let _ = rest(&mut silent);
    let _ = rest(&mut drip);
    let took = begun.elapsed();
    assert!(took >= Duration::from_secs(4) && took < Duration::from_secs(10), "{took:?}");
    all_is_well(&master, &pids);
}

#[test]
fn a_client_that_never_reads_does_not_grow_the_master_or_stop_it() {
    let site = Site::new();
    let master = site.steady("41", "", 1);
    // It asks for the event trace and does not read it.
    let mut deaf = Control::open(&site.socket()).expect("a client");
    deaf.send(&Request::Events).expect("sent");
    // And this one asks for stats ten thousand times, as far as it is let.
    let mut greedy = raw(&site);
    let mut outbox = Outbox::default();
    outbox.push(&Request::Hello(Hello::ours())).expect("a frame");
    for _ in 0..10_000 {
        outbox.push(&Request::Stats).expect("a frame");
    }
    greedy.set_nonblocking(true).expect("nonblocking");
    let _ = greedy.write(outbox.pending());
    for _ in 0..3 {
        master.ctl(&["restart", "0"]).expect(0);
    }
    let resident = process::status(master.pid())["VmRSS"].trim_end_matches(" kB").trim().parse::<u64>().expect("kB");
    assert!(resident < 32 << 10, "the master has grown to {resident} kB");
    all_is_well(&master, &master.app_pids());
}

#[test]
fn at_least_256_clients_at_once() {
    let site = Site::new();
    let master = site.steady("41", "", 1);
    let mut clients: Vec<_> = (0..256).map(|_| Control::open(&site.socket()).expect("a client")).collect();
    for client in &mut clients {
        client.send(&Request::Stats).expect("sent");
    }
    for client in &mut clients {
        assert!(matches!(client.receive().expect("a reply"), Some(Reply::Stats(_))));
    }
    site.release("42", "");
    master.roll("42").expect(0);
}

#[test]
fn a_client_that_leaves_takes_nothing_with_it() {
    let site = Site::new();
    let master = site.steady("41", "", 1);
    site.release("42", "gate boot");
    site.deploy("42");
    let mut client = Control::open(&site.socket()).expect("a client");
    client.send(&Request::PhasedRestart(proto::control::PhasedRestart::default())).expect("sent");
    let waiting = site.arrival("boot");
    drop(client);
    waiting.open();
    master.until("promoted", |stats| stats.state == "steady" && stats.phase.0 == 1);
}

#[test]
fn the_socket_is_private() {
    let site = Site::new();
    site.release("41", "");
    site.deploy("41");
    // A folder that the master makes itself.
    let socket = site.root().join("run/made/site.sock");
    std::fs::create_dir(socket.parent().unwrap()).expect("a folder");
    let master = site.master().workers(1).socket(socket.clone()).start();
    let metadata = socket.metadata().expect("a socket");
    assert!(metadata.file_type().is_socket());
    assert_eq!(metadata.mode() & 0o777, 0o600);
    assert_eq!(master.stats().name, "site");
}

#[test]
fn another_users_app_cannot_reach_the_listener_of_ctl() {
    // The control socket is not among what an app is handed: it has the path alone.
    let site = Site::new();
    let master = site.steady("41", "quiet", 1);
    let control = process::descriptors(master.pid());
    let app = process::descriptors(master.app_pids()[0]);
    let shared: Vec<_> =
        app.values().filter(|what| what.starts_with("socket:") && control.values().any(|c| c == *what)).collect();
    assert_eq!(shared.len(), 1, "the one listening socket: {shared:?}");
}

#[test]
fn ctl_of_another_user_is_refused_by_peer_credentials() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("NOT TESTED: only root can become another user");
        assert!(std::env::var_os("CI").is_none(), "CI has to be able to");
        return;
    }
    let site = Site::new();
    let master = site.steady("41", "", 1);
    let copy = site.root().join("ctl");
    tests::binaries::copy("ctl", &copy);
    let as_nobody = |args: &[&str]| {
        let mut command = Command::new(&copy);
        command.arg("--socket").arg(site.socket()).args(args).uid(65534).gid(65534).current_dir("/");
        tests::Ctl::start(&mut command).end()
    };
    // The folder's own mode keeps others out.
    as_nobody(&["stats"]).expect(8);
    // With every mode open, the peer's credentials do.
    std::fs::set_permissions(site.root().join("run"), PermissionsExt::from_mode(0o777)).expect("a mode");
    std::fs::set_permissions(site.socket(), PermissionsExt::from_mode(0o666)).expect("a mode");
    for args in [&["stats"][..], &["status"], &["phased-restart"], &["stop"], &["events"]] {
        let said = as_nobody(args).expect(8);
        assert!(said.stderr.contains("permi"), "{}", said.stderr);
    }
    assert_eq!(as_nobody(&["--json", "stats"]).expect(8).json()["error"]["code"], 8);
    assert_eq!(master.stats().state, "steady");
}
