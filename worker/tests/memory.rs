//! `--max-memory`: an app that holds too much is told of, once.

mod common;

use std::time::Duration;

use common::{Release, Worker, has, idle, spec};
use proto::worker::{BootSpec, FromWorker, Task, ToWorker};

const MIB: u64 = 1 << 20;

/// A Python app that holds `held` MiB when it is ready.
fn app(release: &Release, script: &str) -> Box<BootSpec> {
    let head = "
import mmap, os, signal, socket, time
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
s.connect('\\0' + os.environ['NOTIFY_SOCKET'][1:])
def hold(mib):
    m = mmap.mmap(-1, mib << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    for i in range(mib): m.write(bytes(1 << 20))
    return m
";
    std::fs::write(release.path().join("app.py"), format!("{head}{script}")).unwrap();
    spec(release, &["python3", "app.py"], &[])
}

fn told(worker: &Worker) -> Vec<u64> {
    let bytes = |r: &FromWorker| if let FromWorker::Outgrown { bytes } = r { Some(*bytes) } else { None };
    worker.seen.iter().filter_map(bytes).collect()
}

#[test]
fn too_much_is_told_once_until_it_was_less() {
    if !has("python3") {
        return;
    }
    let release = Release::empty();
    let script = "
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1, signal.SIGUSR2])
m = hold(96)
s.send(b'READY=1')
n = 0
while True:
    # Each message is a moment at which the worker may look.
    if signal.sigtimedwait([signal.SIGUSR1], 0.01):
        m.close() if not m.closed else None
        state = b'small'
    elif signal.sigtimedwait([signal.SIGUSR2], 0.01):
        m = hold(96)
        state = b'large'
    else:
        state = b'same'
    n += 1
    s.send(b'STATUS=%d %s' % (n, state))
";
    let mut order = app(&release, script);
    order.max_memory = Some(64 * MIB);
    let mut worker = Worker::boot(&order, &[]);
    worker.booted();
    let status = |worker: &mut Worker, wanted: &'static str| {
        worker.until(|r| matches!(r, FromWorker::Status(s) if s.ends_with(wanted)))
    };
    let looks = |worker: &mut Worker| (0..60).for_each(|_| drop(status(worker, "same")));
    worker.until(|r| matches!(r, FromWorker::Outgrown { .. }));
    looks(&mut worker);
    assert_eq!(told(&worker).len(), 1, "{:?}", told(&worker));
    assert!(told(&worker)[0] > 96 * MIB && told(&worker)[0] < 200 * MIB, "{:?}", told(&worker));
    worker.order(&ToWorker::Signal(10));
    status(&mut worker, "small");
    looks(&mut worker);
    worker.order(&ToWorker::Signal(12));
    status(&mut worker, "large");
    worker.until(|r| matches!(r, FromWorker::Outgrown { .. }));
    assert_eq!(told(&worker).len(), 2);
    worker.order(&ToWorker::Kill);
    worker.exited();
}

#[test]
fn processes_count_together_and_what_they_share_counts_once() {
    if !has("python3") {
        return;
    }
    // Ready when every child has begun, which says so through a pipe.
    let forks = |first: u32, each: u32| {
        format!(
            "
m = hold({first})
r, w = os.pipe()
for i in range(4):
    if os.fork() == 0:
        n = hold({each})
        os.write(w, b'x')
        signal.pause()
for i in range(4): os.read(r, 1)
s.send(b'READY=1')
signal.pause()
"
        )
    };
    let release = Release::empty();
    let mut order = app(&release, &forks(80, 1));
    // Four forks of 80 MiB that nobody writes to: 400 by RSS, and not much over 100 in truth.
    order.max_memory = Some(200 * MIB);
    let mut worker = Worker::boot(&order, &[]);
    worker.booted();
    assert!(worker.sleeps().is_some_and(|time| time > Duration::from_secs(1)), "it has looked");
    worker.order(&ToWorker::Kill);
    worker.exited();
    assert_eq!(told(&worker), [0; 0]);
    // Each alone is small.
    let mut order = app(&release, &forks(1, 40));
    order.max_memory = Some(100 * MIB);
    let mut worker = Worker::boot(&order, &[]);
    worker.booted();
    worker.until(|r| matches!(r, FromWorker::Outgrown { .. }));
    assert!(told(&worker)[0] > 160 * MIB && told(&worker)[0] < 300 * MIB, "{:?}", told(&worker));
}

#[test]
fn it_is_looked_at_seldom_and_only_while_it_serves() {
    let release = Release::empty();
    let mut order = idle(&release, "measured", &[]);
    order.max_memory = Some(1 << 40);
    let mut worker = Worker::boot(&order, &[]);
    worker.booted();
    while worker.sleeps().is_none_or(|time| time < Duration::from_secs(4)) {}
    order.task = Task::Rehearse;
    let mut worker = Worker::boot(&order, &[]);
    worker.booted();
    assert_eq!(worker.sleeps(), None);
}
