//! The bytes of every message, for ever.
//!
//! A variant that is added needs its bytes here: the matches below are exhaustive, and each arm stands at
//! the place that its variant has on the wire. Bytes that change mean that old and new programs misread
//! each other: add a variant at the end instead, or raise `PROTOCOL`.

use std::fmt::Debug;

use proto::codec::{decode, encode};
use proto::control::{
    Code, Confirm, Fact, LastRollout, ListenerStatus, PhasedRestart, Refused, Reply, Request, Rollout, Scale, Stats,
    WorkerStatus,
};
use proto::frame::frame;
use proto::metrics::{Counters, Histogram};
use proto::worker::{
    BootReport, BootSpec, Check, Command, Evidence, ExitReport, ExitStatus, FromWorker, HookCommand, HookSpec,
    Listener, Orphan, Ready, Stage, Task, ToWorker, User,
};
use proto::{Happening, Hello, Inbox, Incarnation, Phase, Slot, Surge};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// One `$pattern => [value => "bytes of its frame", …]` a variant, in the order of the wire.
macro_rules! messages {
    ($test:ident, $type:ty, $check:ident, $($pattern:pat => [$($value:expr => $hex:expr),+ $(,)?])+) => {
        #[test]
        fn $test() {
            // Never called: it does not compile when a variant is missing.
            fn _every_variant_has_its_bytes(message: &$type) {
                match message {
                    $($pattern => (),)+
                }
            }
            let mut wrong = String::new();
            let mut place = 0;
            $(
                $(
                    let value: $type = $value;
                    assert!(matches!(value, $pattern), "{value:?} stands at another variant's place");
                    $check(&value, place, $hex, &mut wrong);
                )+
                place += 1;
            )+
            let _ = place;
            assert!(wrong.is_empty(), "bytes that are not the golden ones:\n{wrong}");
        }
    };
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// A message: its frame has these bytes, begins with its variant's number, and is read back as the same message.
fn framed<T: Serialize + DeserializeOwned + PartialEq + Debug>(value: &T, place: u8, golden: &str, wrong: &mut String) {
    let bytes = frame(value).unwrap();
    assert_eq!(bytes[4], place, "the variant's number of {value:?}");
    compare(value, &bytes, golden, wrong);
    let mut inbox = Inbox::<T>::default();
    inbox.push(&bytes);
    assert_eq!(inbox.take().unwrap().as_ref(), Some(value));
    assert_eq!(inbox.take().unwrap(), None);
}

/// A part of messages: the same, without a frame.
fn part<T: Serialize + DeserializeOwned + PartialEq + Debug>(value: &T, place: u8, golden: &str, wrong: &mut String) {
    let bytes = encode(value).unwrap();
    assert_eq!(bytes[0], place, "the variant's number of {value:?}");
    compare(value, &bytes, golden, wrong);
    assert_eq!(&decode::<T>(&bytes).unwrap(), value);
}

fn compare<T: Debug>(value: &T, bytes: &[u8], golden: &str, wrong: &mut String) {
    let golden: String = golden.split_whitespace().collect();
    if hex(bytes) != golden {
        wrong.push_str(&format!("{value:?}\n  is     {}\n  was    {golden}\n", hex(bytes)));
    }
}

fn hello() -> Hello {
    Hello { protocol: 1, build: "0.1.0".into() }
}

fn boot_spec() -> Box<BootSpec> {
    Box::new(BootSpec {
        name: "shop".into(),
        slot: Slot(1),
        incarnation: Incarnation(2),
        phase: Phase(3),
        release: b"/r".to_vec(),
        command: Command::Words(vec![b"app".to_vec(), b"-x".to_vec()]),
        env: vec![(b"K".to_vec(), b"V".to_vec())],
        listeners: vec![Listener { name: "http".into(), address: "[::1]:80".into() }],
        backlog: 4096,
        ready: Ready::Alive(2000),
        boot_timeout_ms: 60_000,
        stop_signal: 15,
        drain_timeout_ms: 30_000,
        control_socket: b"/s".to_vec(),
        token: "t0".into(),
        site: "i".into(),
        orphan_socket: b"/d/9".to_vec(),
        orphan_timeout_ms: 60_000,
        log_prefix: true,
        task: Task::Rehearse,
        env_file: Some(b".env".to_vec()),
        before_boot: Some(b"b".to_vec()),
        checks: vec![Check::Http { host: "h".into(), path: "/p".into() }, Check::Exec(b"c".to_vec())],
        check_timeout_ms: 5000,
        watchdog_ms: Some(10_000),
        max_memory: Some(1 << 30),
        user: Some(User { uid: 33, gid: 1000, groups: vec![1000, 4], name: "u".into(), home: b"/h".to_vec() }),
        umask: Some(0o27),
    })
}

/// With nothing that can be left out.
fn plain_boot_spec() -> Box<BootSpec> {
    let mut spec = boot_spec();
    (spec.task, spec.env_file, spec.before_boot, spec.checks) = (Task::Serve, None, None, Vec::new());
    (spec.watchdog_ms, spec.max_memory, spec.user, spec.umask) = (None, None, None, None);
    spec
}

fn hook_spec() -> HookSpec {
    HookSpec {
        name: "release:".into(),
        command: HookCommand::Procfile("release".into()),
        input: b"{}".to_vec(),
        timeout_ms: 300_000,
    }
}

fn boot_report() -> Box<BootReport> {
    Box::new(BootReport {
        slot: Slot(1),
        incarnation: Incarnation(2),
        phase: Phase(3),
        release: b"/r".to_vec(),
        stage: Stage::Ready,
        message: "no".into(),
        exit: Some(ExitStatus::Signal(9)),
        millis: 834,
        output: b"\xff\n".to_vec(),
        release_gone: true,
    })
}

fn exit_report() -> Box<ExitReport> {
    Box::new(ExitReport {
        status: ExitStatus::Code(1),
        millis: 251,
        output: b"o\n".to_vec(),
        dropped_lines: 7,
        reason: Some("w".into()),
    })
}

fn plain_exit_report() -> Box<ExitReport> {
    let mut report = exit_report();
    report.reason = None;
    report
}

fn orphan() -> Orphan {
    Orphan {
        site: "i".into(),
        slot: Slot(1),
        incarnation: Incarnation(9),
        phase: Phase(4),
        release: b"/r".to_vec(),
        serves: true,
        app_pid: Some(77),
        started_at: 1,
        boot_us: Some(250),
        evidence: Some(Evidence::Notify),
        status: Some("s".into()),
        listeners: vec![Listener { name: "l".into(), address: "a".into() }],
    }
}

fn last_rollout() -> LastRollout {
    LastRollout {
        id: 7,
        kind: "rollback".into(),
        from: b"/a".to_vec(),
        to: b"/b".to_vec(),
        phase: Phase(4),
        outcome: "held".into(),
        ended_at: 1_795_348_800_000,
        millis: 1250,
        report: Some(boot_report()),
    }
}

fn stats() -> Box<Stats> {
    Box::new(Stats {
        name: "shop".into(),
        version: "0.1.0".into(),
        pid: 99,
        started_at: 1_795_348_800_000,
        state: "steady".into(),
        dir: b"/c".to_vec(),
        dir_target: Some(b"/d".to_vec()),
        release: b"/r".to_vec(),
        release_gone: true,
        phase: Phase(3),
        workers: 6,
        booted_workers: 5,
        old_workers: 4,
        worker_status: vec![WorkerStatus {
            index: Slot(1),
            pid: Some(100),
            app_pid: Some(200),
            incarnation: Some(Incarnation(2)),
            phase: Phase(3),
            release: b"/r".to_vec(),
            state: "ready".into(),
            booted: true,
            started_at: 8,
            boot_us: Some(9),
            evidence: Some(Evidence::Notify),
            crashes: 10,
            last_checkin: Some(11),
            last_status: Some("s".into()),
            last_exit: Some("e".into()),
        }],
        listeners: vec![ListenerStatus { name: "http".into(), address: "tcp://h:1".into() }],
        rollout: Some(Rollout {
            id: 12,
            kind: "restart".into(),
            from: b"/a".to_vec(),
            to: b"/b".to_vec(),
            phase: Phase(13),
            step: 14,
            of: 15,
            state: "rolling".into(),
            started_at: 16,
        }),
        last_rollout: Some(last_rollout()),
        previous: vec![b"/p".to_vec()],
        held: Some(b"/h".to_vec()),
        confirm: Some(Confirm { release: b"/r".to_vec(), back_to: b"/a".to_vec(), until: 17 }),
        refused: vec![Refused { release: b"/x".to_vec(), at: 18, report: Some(boot_report()) }],
        state_dir: Some(b"/v".to_vec()),
        state_trouble: Some("t".into()),
    })
}

fn backoff() -> Box<Stats> {
    let mut stats = stats();
    let worker = &mut stats.worker_status[0];
    (worker.pid, worker.app_pid, worker.incarnation, worker.boot_us) = (None, None, None, None);
    (worker.evidence, worker.last_checkin, worker.last_status, worker.last_exit) = (None, None, None, None);
    (stats.dir_target, stats.rollout, stats.last_rollout) = (None, None, None);
    (stats.held, stats.confirm, stats.state_dir, stats.state_trouble) = (None, None, None, None);
    stats.refused[0].report = None;
    stats
}

fn happening() -> Happening {
    Happening {
        number: 7,
        at: 8,
        kind: "note".into(),
        facts: vec![("level".into(), Fact::Text("info".into()))],
        message: "m".into(),
    }
}

fn counters() -> Counters {
    Counters {
        rollouts: vec![("rollback".into(), "promoted".into(), 3)],
        restarts: vec![("crash".into(), 4)],
        boots: Histogram { counts: vec![1, 2], sum_us: 5 },
    }
}

messages! { master_to_worker, ToWorker, framed,
    ToWorker::Hello(_) => [ToWorker::Hello(hello()) => "08000000000105302e312e30"]
    ToWorker::Boot(_) => [
        ToWorker::Boot(boot_spec()) => "\
            7a000000010473686f70010203022f72000203617070022d7801014b0156010468747470085b3a3a315d3a3830fb001002fb\
            d007fb60ea1efb3075022f730274300169042f642f39fb60ea010101042e656e7601016202000168022f70010163fb881301fb102701fc000000400121\
            fbe80302fbe803040175022f680117",
        ToWorker::Boot(plain_boot_spec()) => "\
            53000000010473686f70010203022f72000203617070022d7801014b0156010468747470085b3a3a315d3a3830fb001002fb\
            d007fb60ea1efb3075022f730274300169042f642f39fb60ea0100000000fb881300000000",
    ]
    ToWorker::Drain { timeout_ms: _ } => [ToWorker::Drain { timeout_ms: 30_000 } => "0400000002fb3075"]
    ToWorker::Kill => [ToWorker::Kill => "0100000003"]
    ToWorker::Signal(_) => [ToWorker::Signal(1) => "020000000402"]
    ToWorker::Adopt => [ToWorker::Adopt => "0100000005"]
}

messages! { worker_to_master, FromWorker, framed,
    FromWorker::Hello(_) => [FromWorker::Hello(hello()) => "08000000000105302e312e30"]
    FromWorker::Stage(_) => [FromWorker::Stage(Stage::Exec) => "020000000103"]
    FromWorker::Started { app_pid: _ } => [FromWorker::Started { app_pid: 4711 } => "0400000002fbce24"]
    FromWorker::Hint(_) => [FromWorker::Hint("hm".into()) => "040000000302686d"]
    FromWorker::Booted { evidence: _, boot_us: _ } => [
        FromWorker::Booted { evidence: Evidence::Notify, boot_us: 70_000 } => "070000000401fc70110100",
    ]
    FromWorker::BootFailed(_) => [
        FromWorker::BootFailed(boot_report()) => "1500000005010203022f7204026e6f010112fb420302ff0a01",
    ]
    FromWorker::Status(_) => [FromWorker::Status("ok".into()) => "0400000006026f6b"]
    FromWorker::Exited(_) => [
        FromWorker::Exited(exit_report()) => "0d000000070002fbfb00026f0a07010177",
        FromWorker::Exited(plain_exit_report()) => "0b000000070002fbfb00026f0a0700",
    ]
    FromWorker::HookDone { took_us: _ } => [FromWorker::HookDone { took_us: 250 } => "0200000008fa"]
    FromWorker::Outgrown { bytes: _ } => [FromWorker::Outgrown { bytes: 65_536 } => "0600000009fc00000100"]
    FromWorker::Orphan(_) => [FromWorker::Orphan(Box::new(orphan())) => "190000000a0169010904022f7201019a0101fa010101017301016c0161"]
}

messages! { ctl_to_master, Request, framed,
    Request::Hello(_) => [Request::Hello(hello()) => "08000000000105302e312e30"]
    Request::Ping => [Request::Ping => "0100000001"]
    Request::Stop => [Request::Stop => "0100000002"]
    Request::Halt => [Request::Halt => "0100000003"]
    Request::Stats => [Request::Stats => "0100000004"]
    Request::PhasedRestart(_) => [
        Request::PhasedRestart(PhasedRestart::default()) => "0b0000000500000000000000000000",
        Request::PhasedRestart(PhasedRestart {
            dir: Some(b"/n".to_vec()),
            hold: true,
            surge: Some(Surge::Percent(25)),
            max_unavailable: Some(1),
            soak_ms: Some(5000),
            no_rehearse: true,
            canary: Some(2),
            canary_soak_ms: Some(250),
            confirm_within_ms: Some(251),
            if_new: true,
        }) => "190000000501022f6e01010119010101fb881301010201fa01fbfb0001",
    ]
    Request::ReloadDir(_) => [
        Request::ReloadDir(None) => "020000000600",
        Request::ReloadDir(Some(b"/n".to_vec())) => "050000000601022f6e",
    ]
    Request::Abort => [Request::Abort => "0100000007"]
    Request::Rollback => [Request::Rollback => "0100000008"]
    Request::Scale(_) => [Request::Scale(Scale::Down(1)) => "03000000090201"]
    Request::Restart(_) => [Request::Restart(Slot(3)) => "020000000a03"]
    Request::Signal(_) => [Request::Signal(12) => "020000000b18"]
    Request::Report => [Request::Report => "010000000c"]
    Request::Events => [Request::Events => "010000000d"]
    Request::Rehearse(_) => [
        Request::Rehearse(None) => "020000000e00",
        Request::Rehearse(Some(b"/n".to_vec())) => "050000000e01022f6e",
    ]
    Request::Pause => [Request::Pause => "010000000f"]
    Request::Resume => [Request::Resume => "0100000010"]
    Request::Confirm => [Request::Confirm => "0100000011"]
    Request::Upgrade => [Request::Upgrade => "0100000012"]
    Request::Detach => [Request::Detach => "0100000013"]
    Request::Await { rollout: _ } => [Request::Await { rollout: 7 } => "020000001407"]
    Request::Happenings { after: _, follow: _ } => [
        Request::Happenings { after: Some(7), follow: true } => "0400000015010701",
        Request::Happenings { after: None, follow: false } => "03000000150000",
    ]
    Request::Metrics => [Request::Metrics => "0100000016"]
}

messages! { master_to_ctl, Reply, framed,
    Reply::Hello(_) => [Reply::Hello(hello()) => "08000000000105302e312e30"]
    Reply::Pong => [Reply::Pong => "0100000001"]
    Reply::Accepted { message: _, rollout: _ } => [
        Reply::Accepted { message: "on".into(), rollout: Some(7) } => "0600000002026f6e0107",
        Reply::Accepted { message: String::new(), rollout: None } => "03000000020000",
    ]
    Reply::Progress(_) => [Reply::Progress("up".into()) => "0400000003027570"]
    Reply::Done { message: _, facts: _ } => [
        Reply::Done {
            message: "ok".into(),
            facts: vec![("a".into(), Fact::Text("b".into())), ("n".into(), Fact::Number(3)), ("z".into(), Fact::Null)],
        } => "1100000004026f6b030161000162016e0103017a02",
    ]
    Reply::Ended { code: _, message: _, rollout: _ } => [
        Reply::Ended { code: Code::Aborted, message: "no".into(), rollout: Box::new(last_rollout()) } => "\
            3c0000000503026e6f0708726f6c6c6261636b022f61022f62040468656c64fd00a22003a2010000fbe20401010203022f72\
            04026e6f010112fb420302ff0a01",
    ]
    Reply::Error { code: _, message: _, report: _ } => [
        Reply::Error { code: Code::Busy, message: "no".into(), report: None } => "060000000605026e6f00",
        Reply::Error { code: Code::Failed, message: "no".into(), report: Some(boot_report()) } => "\
            1a0000000601026e6f01010203022f7204026e6f010112fb420302ff0a01",
    ]
    Reply::Stats(_) => [
        Reply::Stats(stats()) => "\
            e2000000070473686f7005302e312e3063fd00a22003a201000006737465616479022f6301022f64022f7201030605040101\
            016401c8010203022f720572656164790108010901010a010b010173010165010468747470097463703a2f2f683a31010c07\
            72657374617274022f61022f620d0e0f07726f6c6c696e6710010708726f6c6c6261636b022f61022f62040468656c64fd00\
            a22003a2010000fbe20401010203022f7204026e6f010112fb420302ff0a0101022f7001022f6801022f72022f611101022f78120101\
            0203022f7204026e6f010112fb420302ff0a0101022f76010174",
        Reply::Stats(backoff()) => "\
            60000000070473686f7005302e312e3063fd00a22003a201000006737465616479022f6300022f7201030605040101000000\
            03022f72057265616479010800000a000000010468747470097463703a2f2f683a31000001022f70000001022f7812000000",
    ]
    Reply::Report(_) => [
        Reply::Report(None) => "020000000800",
        Reply::Report(Some(boot_report())) => "160000000801010203022f7204026e6f010112fb420302ff0a01",
    ]
    Reply::Event(_) => [Reply::Event("> x".into()) => "0500000009033e2078"]
    Reply::Happened(_) => [Reply::Happened(Box::new(happening())) => "170000000a0708046e6f746501056c6576656c0004696e666f016d"]
    Reply::Metrics { stats: _, counters: _ } => [
        Reply::Metrics { stats: backoff(), counters: Box::new(counters()) } => "\
            800000000b0473686f7005302e312e3063fd00a22003a201000006737465616479022f6300022f720103060504010100000003022f72\
            057265616479010800000a000000010468747470097463703a2f2f683a31000001022f70000001022f78120000000108726f6c6c6261\
            636b0870726f6d6f74656403010563726173680402010205",
    ]
}

messages! { codes, Code, part,
    Code::Done => [Code::Done => "00"]
    Code::Failed => [Code::Failed => "01"]
    Code::Usage => [Code::Usage => "02"]
    Code::Aborted => [Code::Aborted => "03"]
    Code::Degraded => [Code::Degraded => "04"]
    Code::Busy => [Code::Busy => "05"]
    Code::TimedOut => [Code::TimedOut => "06"]
    Code::NoMaster => [Code::NoMaster => "07"]
    Code::NotPermitted => [Code::NotPermitted => "08"]
    Code::Version => [Code::Version => "09"]
    Code::Lost => [Code::Lost => "0a"]
}

messages! { scales, Scale, part,
    Scale::To(_) => [Scale::To(4) => "0004"]
    Scale::Up(_) => [Scale::Up(1) => "0101"]
    Scale::Down(_) => [Scale::Down(1) => "0201"]
}

messages! { facts, Fact, part,
    Fact::Text(_) => [Fact::Text("b".into()) => "000162"]
    Fact::Number(_) => [
        Fact::Number(250) => "01fa",
        Fact::Number(251) => "01fbfb00",
        Fact::Number(65_536) => "01fc00000100",
        Fact::Number(u64::MAX) => "01fdffffffffffffffff",
    ]
    Fact::Null => [Fact::Null => "02"]
    Fact::Micros(_) => [Fact::Micros(7) => "0307"]
}

messages! { commands, Command, part,
    Command::Words(_) => [Command::Words(vec![]) => "0000"]
    Command::Procfile(_) => [Command::Procfile("web".into()) => "0103776562"]
}

messages! { tasks, Task, part,
    Task::Serve => [Task::Serve => "00"]
    Task::Rehearse => [Task::Rehearse => "01"]
    Task::Hook(_) => [Task::Hook(Box::new(hook_spec())) => "020872656c656173653a010772656c65617365027b7dfce0930400"]
}

messages! { hook_commands, HookCommand, part,
    HookCommand::Shell(_) => [HookCommand::Shell(b"a;b".to_vec()) => "0003613b62"]
    HookCommand::Procfile(_) => [HookCommand::Procfile("release".into()) => "010772656c65617365"]
}

messages! { checks, Check, part,
    Check::Http { host: _, path: _ } => [Check::Http { host: "h".into(), path: "/p".into() } => "000168022f70"]
    Check::Exec(_) => [Check::Exec(b"c".to_vec()) => "010163"]
}

messages! { surges, Surge, part,
    Surge::Count(_) => [Surge::Count(2) => "0002"]
    Surge::Percent(_) => [Surge::Percent(25) => "0119"]
}

messages! { kinds_of_ready, Ready, part,
    Ready::Accepting => [Ready::Accepting => "00"]
    Ready::Notify => [Ready::Notify => "01"]
    Ready::Alive(_) => [Ready::Alive(5000) => "02fb8813"]
    Ready::NotifyOrAlive(_) => [Ready::NotifyOrAlive(2000) => "03fbd007"]
}

messages! { evidence, Evidence, part,
    Evidence::Accepting => [Evidence::Accepting => "00"]
    Evidence::Notify => [Evidence::Notify => "01"]
    Evidence::Alive => [Evidence::Alive => "02"]
}

messages! { stages, Stage, part,
    Stage::Spawn => [Stage::Spawn => "00"]
    Stage::Directory => [Stage::Directory => "01"]
    Stage::Hook => [Stage::Hook => "02"]
    Stage::Exec => [Stage::Exec => "03"]
    Stage::Ready => [Stage::Ready => "04"]
    Stage::Check => [Stage::Check => "05"]
    Stage::Soak => [Stage::Soak => "06"]
}

messages! { exit_statuses, ExitStatus, part,
    ExitStatus::Code(_) => [ExitStatus::Code(1) => "0002", ExitStatus::Code(-1) => "0001"]
    ExitStatus::Signal(_) => [ExitStatus::Signal(9) => "0112"]
}

/// The numbers that the README promises, and that scripts rely on.
#[test]
fn exit_codes_are_their_numbers() {
    let codes = [
        Code::Done,
        Code::Failed,
        Code::Usage,
        Code::Aborted,
        Code::Degraded,
        Code::Busy,
        Code::TimedOut,
        Code::NoMaster,
        Code::NotPermitted,
        Code::Version,
        Code::Lost,
    ];
    for (number, code) in codes.into_iter().enumerate() {
        assert_eq!(code as usize, number);
    }
}

/// The words that people and JSON see.
#[test]
fn stages_and_evidence_have_designs_names() {
    let stages = [Stage::Spawn, Stage::Directory, Stage::Hook, Stage::Exec, Stage::Ready, Stage::Check, Stage::Soak];
    assert_eq!(stages.map(|s| s.to_string()).join(" "), "spawn directory hook exec ready check soak");
    let evidence = [Evidence::Accepting, Evidence::Notify, Evidence::Alive];
    assert_eq!(evidence.map(|e| e.to_string()).join(" "), "accepting notify alive");
}

/// Whatever else changes, two builds must be able to read each other's greeting.
#[test]
fn every_direction_greets_with_the_same_bytes() {
    let golden = frame(&ToWorker::Hello(hello())).unwrap();
    assert_eq!(frame(&FromWorker::Hello(hello())).unwrap(), golden);
    assert_eq!(frame(&Request::Hello(hello())).unwrap(), golden);
    assert_eq!(frame(&Reply::Hello(hello())).unwrap(), golden);
}
