//! Random messages of every direction, each variant as likely as any other.

use proto::control::{
    Code, Confirm, Fact, LastRollout, ListenerStatus, PhasedRestart, Refused, Reply, Request, Rollout, Scale, Stats,
    WorkerStatus,
};
use proto::metrics::{Counters, Histogram};
use proto::worker::{
    BootReport, BootSpec, Check, Command, Evidence, ExitReport, ExitStatus, FromWorker, HookCommand, HookSpec,
    Listener, Orphan, Ready, Stage, Task, ToWorker, User,
};
use proto::{Happening, Hello, Incarnation, Phase, Slot, Surge};

/// Steele, Lea and Flood's splitmix64: the same from the same seed, also for seeds that are neighbours.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `end`, which is not 0.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    pub(crate) fn bytes(&mut self, most: usize) -> Vec<u8> {
        (0..self.below(most + 1)).map(|_| self.next() as u8).collect()
    }

    fn one_of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())]
    }

    fn several<T: Arbitrary>(&mut self, most: usize) -> Vec<T> {
        (0..self.below(most + 1)).map(|_| T::arbitrary(self)).collect()
    }
}

/// Anything of a type.
pub(crate) trait Arbitrary: Sized {
    fn arbitrary(random: &mut Random) -> Self;
}

/// Numbers at the edges of the codec's five lengths, and all others.
impl Arbitrary for u64 {
    fn arbitrary(random: &mut Random) -> Self {
        let edges = [0, 1, 250, 251, 65_535, 65_536, u64::from(u32::MAX), u64::from(u32::MAX) + 1, u64::MAX];
        if random.below(2) == 0 { random.one_of(&edges) } else { random.next() >> random.below(64) }
    }
}

impl Arbitrary for u32 {
    fn arbitrary(random: &mut Random) -> Self {
        u64::arbitrary(random) as u32
    }
}

impl Arbitrary for i32 {
    fn arbitrary(random: &mut Random) -> Self {
        u64::arbitrary(random) as i32
    }
}

impl Arbitrary for bool {
    fn arbitrary(random: &mut Random) -> Self {
        random.below(2) == 0
    }
}

impl Arbitrary for String {
    fn arbitrary(random: &mut Random) -> Self {
        let length = random.one_of(&[0, 1, 7, 40, 251, 300]);
        (0..length).map(|_| random.one_of(&['a', '/', ' ', '\n', '\0', 'ß', '€', '🦀'])).collect()
    }
}

/// Paths and output.
impl Arbitrary for Vec<u8> {
    fn arbitrary(random: &mut Random) -> Self {
        let most = random.one_of(&[0, 3, 30, 300]);
        random.bytes(most)
    }
}

impl Arbitrary for Vec<Vec<u8>> {
    fn arbitrary(random: &mut Random) -> Self {
        random.several(4)
    }
}

impl<A: Arbitrary, B: Arbitrary> Arbitrary for (A, B) {
    fn arbitrary(random: &mut Random) -> Self {
        (A::arbitrary(random), B::arbitrary(random))
    }
}

impl<A: Arbitrary, B: Arbitrary, C: Arbitrary> Arbitrary for (A, B, C) {
    fn arbitrary(random: &mut Random) -> Self {
        (A::arbitrary(random), B::arbitrary(random), C::arbitrary(random))
    }
}

impl<T: Arbitrary> Arbitrary for Option<T> {
    fn arbitrary(random: &mut Random) -> Self {
        (random.below(2) == 0).then(|| T::arbitrary(random))
    }
}

impl<T: Arbitrary> Arbitrary for Box<T> {
    fn arbitrary(random: &mut Random) -> Self {
        Self::new(T::arbitrary(random))
    }
}

/// A structure of arbitrary parts.
macro_rules! structures {
    ($($type:ident { $($field:ident),+ $(,)? })+) => {
        $(impl Arbitrary for $type {
            fn arbitrary(random: &mut Random) -> Self {
                Self { $($field: Arbitrary::arbitrary(random)),+ }
            }
        })+
    };
}

/// One of these, whose parts are arbitrary. The compiler's exhaustive match says when a variant is missing.
macro_rules! variants {
    ($($type:ident { $($variant:ident $(($($part:ident),+))? $({ $($field:ident),+ })?),+ $(,)? })+) => {
        $(impl Arbitrary for $type {
            #[allow(unused_variables)]
            fn arbitrary(random: &mut Random) -> Self {
                fn _every_variant(it: &$type) {
                    match it {
                        $($type::$variant $(($($part),+))? $({ $($field),+ })? => (),)+
                    }
                }
                let all: &[fn(&mut Random) -> $type] = &[
                    $(|random| {
                        $($(let $part = Arbitrary::arbitrary(random);)+)?
                        $($(let $field = Arbitrary::arbitrary(random);)+)?
                        $type::$variant $(($($part),+))? $({ $($field),+ })?
                    },)+
                ];
                random.one_of(all)(random)
            }
        })+
    };
}

/// Numbers that name things.
macro_rules! numbers {
    ($($type:ident)+) => {
        $(impl Arbitrary for $type {
            fn arbitrary(random: &mut Random) -> Self {
                Self(Arbitrary::arbitrary(random))
            }
        })+
    };
}

/// Lists.
macro_rules! lists {
    ($($type:ty),+) => {
        $(impl Arbitrary for Vec<$type> {
            fn arbitrary(random: &mut Random) -> Self {
                random.several(4)
            }
        })+
    };
}

numbers! { Slot Incarnation Phase }
lists! { u32, u64, (String, u64), (String, String, u64), (Vec<u8>, Vec<u8>), (String, Fact), Listener, Check, WorkerStatus, ListenerStatus, Refused }

structures! {
    Hello { protocol, build }
    BootSpec {
        name, slot, incarnation, phase, release, command, env, listeners, backlog, ready, boot_timeout_ms, stop_signal,
        drain_timeout_ms, control_socket, token, site, orphan_socket, orphan_timeout_ms, log_prefix, task, env_file,
        before_boot, checks, check_timeout_ms, watchdog_ms, max_memory, user, umask,
    }
    User { uid, gid, groups, name, home }
    HookSpec { name, command, input, timeout_ms }
    Listener { name, address }
    BootReport { slot, incarnation, phase, release, stage, message, exit, millis, output, release_gone }
    ExitReport { status, millis, output, dropped_lines, reason }
    Orphan {
        site, slot, incarnation, phase, release, serves, app_pid, started_at, boot_us, evidence, status, listeners,
    }
    PhasedRestart {
        dir, hold, surge, max_unavailable, soak_ms, no_rehearse, canary, canary_soak_ms, confirm_within_ms, if_new,
    }
    Stats {
        name, version, pid, started_at, state, dir, dir_target, release, release_gone, phase, workers, booted_workers,
        old_workers, worker_status, listeners, rollout, last_rollout, previous, held, confirm, refused, state_dir,
        state_trouble,
    }
    Happening { number, at, kind, facts, message }
    Counters { rollouts, restarts, boots }
    Histogram { counts, sum_us }
    Confirm { release, back_to, until }
    Refused { release, at, report }
    WorkerStatus {
        index, pid, app_pid, incarnation, phase, release, state, booted, started_at, boot_us, evidence, crashes,
        last_checkin, last_status, last_exit,
    }
    ListenerStatus { name, address }
    Rollout { id, kind, from, to, phase, step, of, state, started_at }
    LastRollout { id, kind, from, to, phase, outcome, ended_at, millis, report }
}

variants! {
    ToWorker { Hello(a), Boot(a), Drain { timeout_ms }, Kill, Signal(a), Adopt }
    FromWorker {
        Hello(a), Stage(a), Started { app_pid }, Hint(a), Booted { evidence, boot_us }, BootFailed(a), Status(a),
        Exited(a), HookDone { took_us }, Outgrown { bytes }, Orphan(a),
    }
    Request {
        Hello(a), Ping, Stop, Halt, Stats, PhasedRestart(a), ReloadDir(a), Abort, Rollback, Scale(a), Restart(a),
        Signal(a), Report, Events, Rehearse(a), Pause, Resume, Confirm, Upgrade, Detach, Await { rollout },
        Happenings { after, follow }, Metrics,
    }
    Reply {
        Hello(a), Pong, Accepted { message, rollout }, Progress(a), Done { message, facts },
        Ended { code, message, rollout }, Error { code, message, report }, Stats(a), Report(a), Event(a),
        Happened(a), Metrics { stats, counters },
    }
    Code {
        Done, Failed, Usage, Aborted, Degraded, Busy, TimedOut, NoMaster, NotPermitted, Version, Lost,
    }
    Fact { Text(a), Number(a), Null, Micros(a) }
    Scale { To(a), Up(a), Down(a) }
    Surge { Count(a), Percent(a) }
    Task { Serve, Rehearse, Hook(a) }
    HookCommand { Shell(a), Procfile(a) }
    Check { Http { host, path }, Exec(a) }
    Command { Words(a), Procfile(a) }
    Ready { Accepting, Notify, Alive(a), NotifyOrAlive(a) }
    Evidence { Accepting, Notify, Alive }
    Stage { Spawn, Directory, Hook, Exec, Ready, Check, Soak }
    ExitStatus { Code(a), Signal(a) }
}
