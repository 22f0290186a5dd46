//! Random and mutated frames, thrown at the real sockets: whoever is hit closes that connection, and nobody else notices.
//!
//! What is thrown is read with the protocol's own inbox before: a mutant that is by chance an order which has to be obeyed is
//! not thrown. Behind what is broken comes an order that would end everything, if anybody went on reading.

use std::fs;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use proto::control::{PhasedRestart, Request, Scale};
use proto::frame::frame;
use proto::worker::{FromWorker, Orphan, Stage, ToWorker};
use proto::{CodecError, Hello, Inbox, Incarnation, Phase, Slot};
use serde_json::json;
use tests::master::all_on;
use tests::{Load, Master, Site, process};

/// Marsaglia's xorshift64: the same in every run.
struct Random(u64);

impl Random {
    /// From this seed, or from `$FUZZ_SEED`; a test that fails shows it.
    fn from(seed: u64) -> Self {
        let seed = std::env::var("FUZZ_SEED").map_or(seed, |text| text.parse().expect("FUZZ_SEED is a number"));
        println!("FUZZ_SEED={seed}");
        Self(seed)
    }

    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % end as u64) as usize
    }

    fn bytes(&mut self, most: usize) -> Vec<u8> {
        (0..=self.below(most)).map(|_| self.below(256) as u8).collect()
    }

    /// Damages bytes in one way or another.
    fn mutate(&mut self, bytes: &mut Vec<u8>) {
        let at = self.below(bytes.len());
        match self.below(6) {
            0 => bytes[at] ^= 1 << self.below(8),
            1 => bytes[at] = self.below(16) as u8,
            2 => bytes.truncate(at + 1),
            3 => drop(bytes.splice(at..at, self.bytes(8))),
            // The length, and a length inside the body.
            4 if bytes.len() > 4 => bytes[..4].copy_from_slice(&(self.below(1 << 21) as u32).to_le_bytes()),
            _ => drop(bytes.splice(at.., [253, 255, 255, 255, 255, 0, 0, 0, 0])),
        }
    }

    /// Writes in pieces.
    fn throw(&mut self, to: &mut UnixStream, bytes: &[u8]) {
        let (first, second) = bytes.split_at(self.below(bytes.len() + 1));
        // The other side may have closed before all is written.
        let _ = to.write_all(first).and_then(|()| to.write_all(second));
    }
}

/// What is understood of these bytes, and why no more is.
macro_rules! understood {
    ($type:ty, $bytes:expr) => {{
        let mut inbox = Inbox::<$type>::default();
        inbox.push($bytes);
        let mut messages = Vec::new();
        let error: Option<CodecError> = loop {
            match inbox.take() {
                Ok(Some(message)) => messages.push(message),
                Ok(None) => break None,
                Err(error) => break Some(error),
            }
        };
        (messages, error)
    }};
}

/// Reads what the other side still says, until it closes.
fn until_closed(stream: &mut UnixStream) {
    stream.set_read_timeout(Some(Duration::from_secs(30))).expect("a timeout");
    match stream.read_to_end(&mut Vec::new()) {
        Err(error) if error.kind() != std::io::ErrorKind::ConnectionReset => panic!("it does not close: {error}"),
        _ => {}
    }
}

fn requests() -> Vec<Request> {
    vec![
        Request::Ping,
        Request::Stats,
        Request::PhasedRestart(PhasedRestart { dir: Some(b"/none".to_vec()), ..PhasedRestart::default() }),
        Request::ReloadDir(Some(b"/none".to_vec())),
        Request::Scale(Scale::Down(1)),
        Request::Restart(Slot(900)),
        Request::Rehearse(Some(b"/none".to_vec())),
        Request::Await { rollout: 70_000 },
        Request::Hello(Hello { protocol: 999, build: "9.9.9".into() }),
    ]
}

/// Changes nothing.
fn is_harmless(request: &Request) -> bool {
    use Request::{Abort, Await, Confirm, Events, Happenings, Hello, Metrics, Pause, Ping, Report, Resume, Stats};
    matches!(
        request,
        Hello(_)
            | Ping
            | Stats
            | Report
            | Events
            | Happenings { .. }
            | Metrics
            | Pause
            | Resume
            | Confirm
            | Abort
            | Await { .. }
    )
}

#[test]
fn the_control_socket() {
    let site = Site::new();
    let master = site.steady("41", "", 2);
    let (pids, open) = (master.app_pids(), process::descriptors(master.pid()).len());
    let load = Load::start(&master.address());
    let hello = frame(&Request::Hello(Hello::ours())).expect("a frame");
    let halt = frame(&Request::Halt).expect("a frame");
    let mut random = Random::from(0x9e37_79b9);
    let (mut thrown, mut broken) = (0, 0);
    while thrown < 600 {
        let mut bytes = frame(&requests()[random.below(requests().len())]).expect("a frame");
        match random.below(4) {
            0 => bytes = random.bytes(200),
            _ => (0..=random.below(3)).for_each(|_| random.mutate(&mut bytes)),
        }
        let greeted = random.below(5) > 0;
        let bytes = [if greeted { &hello[..] } else { &[] }, &bytes, &halt].concat();
        let (heard, error) = understood!(Request, &bytes);
        if !heard.iter().all(is_harmless) {
            continue;
        }
        thrown += 1;
        let mut client = UnixStream::connect(site.socket()).expect("a connection");
        random.throw(&mut client, &bytes);
        // Behind its request a client is not listened to. Of those that are merely not through, some are left and some leave.
        if error.is_some() && heard.iter().all(|request| matches!(request, Request::Hello(_))) {
            broken += 1;
            until_closed(&mut client);
        } else if random.below(2) == 0 {
            let _ = client.shutdown(Shutdown::Write);
        }
        if thrown % 100 == 0 {
            load.more(5);
            master.ctl(&["status"]).expect(0);
        }
    }
    assert!(broken > 100, "only {broken} of {thrown} were broken: this tests too little");
    assert_eq!(master.app_pids(), pids);
    until_as_few(&site, &master, open);
    site.release("42", "");
    master.roll("42").expect(0);
    load.more(10);
    load.finish();
}

/// Waits until the master has no more open than before: it has forgotten all who have left.
fn until_as_few(site: &Site, master: &Master<'_>, before: usize) {
    loop {
        // A client of our own, whom it hears behind all the others.
        let _ = master.stats();
        let open = process::descriptors(master.pid());
        if open.len() <= before {
            return;
        }
        assert!(Instant::now() < site.deadline(), "{before} descriptors before, now {open:#?}");
    }
}

/// The sockets of the workers, in the order of their numbers.
fn doors(site: &Site) -> Vec<PathBuf> {
    let folder = site.root().join("run/site.sock.d");
    let mut all: Vec<PathBuf> =
        fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("one").path()).collect();
    all.sort();
    all
}

/// Kills the master. Its workers stay.
fn orphan(site: &Site, master: &Master<'_>) {
    master.signal(Signal::SIGKILL);
    site.until_ended(master.pid());
}

#[test]
fn a_workers_own_socket() {
    let site = Site::new();
    let master = site.steady("41", "", 2);
    let (pids, load) = (master.app_pids(), Load::start(&master.address()));
    orphan(&site, &master);
    let doors = doors(&site);
    assert_eq!(doors.len(), 2);
    let say = |message: &ToWorker| frame(message).expect("a frame");
    let hello = say(&ToWorker::Hello(Hello::ours()));
    let others = [
        say(&ToWorker::Adopt),
        say(&ToWorker::Kill),
        say(&ToWorker::Signal(9)),
        say(&ToWorker::Drain { timeout_ms: 0 }),
        say(&ToWorker::Hello(Hello { protocol: 999, build: "9.9.9".into() })),
    ];
    let mut random = Random::from(0x7f4a_7c15);
    let (mut thrown, mut adopted) = (0, 0);
    while thrown < 400 {
        let mut bytes = others[random.below(others.len())].clone();
        match random.below(4) {
            0 => bytes = random.bytes(100),
            1 => {}
            _ => (0..=random.below(3)).for_each(|_| random.mutate(&mut bytes)),
        }
        let start = match random.below(4) {
            0 => Vec::new(),
            1 => [&hello[..], &others[0]].concat(),
            _ => hello.clone(),
        };
        let bytes = [&start[..], &bytes, &others[1]].concat();
        // A master that has adopted it is obeyed; anybody else is not, and neither is what comes behind something broken.
        let (heard, error) = understood!(ToWorker, &bytes);
        let is_hello = |m: &ToWorker| matches!(m, ToWorker::Hello(hello) if hello.check().is_ok());
        let greeting = heard.iter().take_while(|m| is_hello(m)).count();
        let adopts = greeting > 0 && heard.get(greeting) == Some(&ToWorker::Adopt);
        if adopts && heard.len() > greeting + 1 {
            continue;
        }
        thrown += 1;
        adopted += usize::from(adopts);
        let mut visitor = UnixStream::connect(&doors[random.below(2)]).expect("a connection");
        if random.below(8) == 0 {
            // Gone before it is greeted.
            let _ = visitor.shutdown(Shutdown::Both);
        }
        random.throw(&mut visitor, &bytes);
        if error.is_some() || heard.len() > greeting {
            until_closed_or_adopted(&mut visitor, adopts && error.is_none());
        }
        if thrown % 100 == 0 {
            load.more(5);
        }
    }
    assert!(adopted > 10, "only {adopted} of {thrown} adopted a worker");
    load.more(20);
    let next = site.master().workers(2).start();
    let stats = next.until_state("steady");
    assert!(all_on(&stats, "41"), "{stats:#?}");
    assert_eq!((next.app_pids(), site.boots("41")), (pids, 2));
    load.more(20);
    load.finish();
}

/// One who is the master now is not sent away.
fn until_closed_or_adopted(stream: &mut UnixStream, adopts: bool) {
    if !adopts {
        until_closed(stream);
    }
}

/// A worker that lies: it is started by [`workers_that_lie`] as a process of its own, because a master may well kill it.
#[test]
fn a_worker_that_lies() {
    let Some(path) = std::env::var_os("LYING_WORKER").map(PathBuf::from) else { return };
    let says = fs::read(path.with_extension("says")).expect("what it says");
    let door = UnixListener::bind(fs::read_to_string(path.with_extension("at")).expect("where")).expect("a socket");
    println!("listens");
    let (mut stream, _) = door.accept().expect("a master");
    let _ = stream.write_all(&says);
    // It stays until it is killed, or the master has done with it, or it is to end.
    let mut heard = Vec::new();
    let mut chunk = [0; 4096];
    while let Ok(read @ 1..) = stream.read(&mut chunk) {
        heard.extend_from_slice(&chunk[..read]);
        let (orders, _) = understood!(ToWorker, &heard);
        if orders.iter().any(|order| matches!(order, ToWorker::Drain { .. } | ToWorker::Kill)) {
            return;
        }
    }
}

fn lies(site: &Site, name: usize, says: &[u8]) -> Child {
    let path = site.root().join(format!("liar-{name}"));
    let at = site.root().join(format!("run/site.sock.d/{name}"));
    fs::write(path.with_extension("says"), says).expect("a file");
    fs::write(path.with_extension("at"), at.to_str().expect("a path")).expect("a file");
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command.args(["--exact", "a_worker_that_lies", "--nocapture"]).env("LYING_WORKER", &path);
    command.env("TEST_SITE", site.root()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().expect("a process");
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().expect("a pipe")));
    assert!(lines.any(|line| line.is_ok_and(|line| line.contains("listens"))), "it does not listen");
    child
}

/// What a worker says to a new master.
fn greeting(door: &PathBuf) -> Vec<FromWorker> {
    let mut stream = UnixStream::connect(door).expect("a connection");
    let mut bytes = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        let (heard, error) = understood!(FromWorker, &bytes);
        assert_eq!(error, None);
        if heard.iter().any(|message| matches!(message, FromWorker::Orphan(_))) {
            return heard;
        }
        let read = stream.read(&mut chunk).expect("a greeting");
        assert_ne!(read, 0, "it has hung up");
        bytes.extend_from_slice(&chunk[..read]);
    }
}

/// Something of a true worker's facts is not true. The app's pid is nobody's: whoever leads a worker may kill its app.
fn lie(random: &mut Random, facts: &Orphan) -> Orphan {
    let incarnation = Incarnation(1000 + random.below(1000) as u64);
    let mut facts = Orphan { app_pid: None, incarnation, ..facts.clone() };
    match random.below(8) {
        0 => facts.slot = Slot([0, 2, 70_000, u32::MAX][random.below(4)]),
        // Nobody else's: it would be taken for that one.
        1 => facts.incarnation = Incarnation([0, 1 << 40, u64::MAX][random.below(3)]),
        2 => facts.phase = Phase(u32::MAX),
        3 => facts.release = random.bytes(40),
        4 => facts.listeners.clear(),
        5 => (facts.started_at, facts.boot_us) = (u64::MAX, Some(u64::MAX)),
        6 => facts.status = Some("x".repeat(900_000)),
        _ => facts.site = "another".into(),
    }
    facts
}

#[test]
fn workers_that_lie() {
    let site = Site::new();
    let start = site.master().workers(2).options(&["--drain-timeout", "1s"]);
    site.release("41", "");
    site.deploy("41");
    // The end of any of them would be the end of the site.
    let mut masters = vec![start.clone().start()];
    masters[0].until_state("steady");
    let (pids, load) = (masters[0].app_pids(), Load::start(&masters[0].address()));
    let mut random = Random::from(0x1ce4_e5b9);
    for round in 0..4 {
        orphan(&site, &masters[round]);
        let true_ones = greeting(&doors(&site)[0]);
        let Some(FromWorker::Orphan(facts)) = true_ones.last() else { panic!("{true_ones:?}") };
        let hello = frame(&true_ones[0]).expect("a frame");
        let mut liars = Vec::new();
        for nth in 0..6 {
            let mut bytes = match random.below(3) {
                0 => random.bytes(100),
                1 => frame(&FromWorker::Stage(Stage::Ready)).expect("a frame"),
                _ => frame(&FromWorker::Orphan(Box::new(lie(&mut random, facts)))).expect("a frame"),
            };
            let is_lie = bytes.len() > 20 && understood!(FromWorker, &bytes).1.is_none();
            if !is_lie || random.below(3) == 0 {
                // Nothing here may name a process.
                bytes.truncate(1 + random.below(30));
                bytes.extend(random.bytes(20));
                bytes.splice(..0, 2_u32.to_le_bytes());
            }
            liars.push(lies(&site, 90_000 + round * 10 + nth, &[&hello[..], &bytes].concat()));
        }
        masters.push(start.clone().start());
        let master = &masters[round + 1];
        let stats = master.until("only the true ones are left", |stats| {
            stats.state == "steady" && stats.booted_workers == 2 && all_on(stats, "41")
        });
        for mut liar in liars {
            let _ = liar.kill();
            let _ = liar.wait();
        }
        load.more(10);
        assert_eq!(master.app_pids(), pids, "{stats:#?}");
    }
    load.finish();
    assert_eq!(json!(site.boots("41")), json!(2));
}

#[test]
fn a_worker_of_another_protocol_is_replaced_before_it_is_ended() {
    let site = Site::new();
    let master = site.steady("41", "", 2);
    let workers: Vec<i32> = master.stats().worker_status.iter().filter_map(|w| w.pid).map(|pid| pid as i32).collect();
    let (apps, load) = (master.app_pids(), Load::start(&master.address()));
    load.more(10);
    orphan(&site, &master);
    let doors = doors(&site);
    let said = doors.iter().map(greeting).map(|said| said.last().cloned());
    let mut facts = said.flatten().find_map(|said| match said {
        FromWorker::Orphan(facts) if facts.slot == Slot(1) => Some(*facts),
        _ => None,
    });
    let facts = facts.as_mut().expect("the worker of slot 1");
    // In its place one that speaks what nobody here does.
    process::signal(workers[1], Signal::SIGTERM);
    site.until_ended(workers[1]);
    facts.incarnation = Incarnation(90_000);
    let hello = FromWorker::Hello(Hello { protocol: 999, build: "9.9.9".into() });
    let says = [frame(&hello), frame(&FromWorker::Orphan(Box::new(facts.clone())))];
    let says: Vec<u8> = says.into_iter().flat_map(|frame| frame.expect("a frame")).collect();
    let mut foreign = lies(&site, 90_000, &says);
    let next = site.master().workers(2).start();
    next.until_log("999");
    let ended = foreign.wait().expect("its end");
    assert_eq!(ended.signal(), Some(Signal::SIGTERM as i32), "{ended:?}");
    next.until("it is gone", |stats| stats.state == "steady" && all_on(stats, "41"));
    assert!(next.app_pids().contains(&apps[0]) && !next.app_pids().contains(&apps[1]));
    let steps = next.trace().text();
    let (ready, drained) = (steps.find("> booted"), steps.find("< drain 90000"));
    assert!(ready.is_some() && ready < drained, "it was ended before somebody else was ready:\n{steps}");
    load.more(10);
    load.finish();
}
