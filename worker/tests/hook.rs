//! Hooks instead of an app.

mod common;

use std::fs;
use std::time::{Duration, Instant};

use common::{Release, Worker, environment, hook, hook_line, processes_with};
use proto::worker::{ExitStatus, FromWorker, HookCommand, Stage, Task, ToWorker};

#[test]
fn it_runs_with_its_input_and_is_told_before_it_does() {
    let release = Release::empty();
    let line = "cat > input; env -0 > environment; test -e go || echo none; echo {slot} {{slot} >&2";
    let mut order = hook(&release, HookCommand::Shell(line.into()), b"{\"outcome\": \"promoted\"}");
    order.token = "hook-input".into();
    order.env = vec![(b"GIVEN".to_vec(), b"{phase}".to_vec())];
    let mut worker = Worker::boot(&order, &[]);
    worker.hook_done();
    let (code, worker) = worker.end();
    assert_eq!(code, Some(0));
    assert_eq!(worker.stages(), [Stage::Directory, Stage::Hook]);
    let at = |wanted: fn(&FromWorker) -> bool| worker.seen.iter().position(wanted).unwrap();
    assert!(at(|r| matches!(r, FromWorker::Started { .. })) < at(|r| matches!(r, FromWorker::HookDone { .. })));
    assert!(!worker.seen.iter().any(|r| matches!(r, FromWorker::Exited(_) | FromWorker::Booted { .. })));
    assert_eq!(fs::read(release.path().join("input")).unwrap(), b"{\"outcome\": \"promoted\"}");
    let environment = environment(&fs::read_to_string(release.path().join("environment")).unwrap());
    assert_eq!((environment["GIVEN"].as_str(), environment["PHASED_TOKEN"].as_str()), ("7", "hook-input"));
    assert!(!environment.contains_key("NOTIFY_SOCKET") && !environment.contains_key("PHASED_REHEARSAL"));
    assert_eq!((worker.out(), worker.err()), ("none\n".into(), "2 {slot}\n".into()));
}

#[test]
fn large_input_is_read_or_not() {
    let release = Release::empty();
    let input = vec![b'x'; 256 << 10];
    for line in ["true", "exec <&-", "test $(wc -c) = 262144", "head -c 1 > /dev/null"] {
        let mut worker = Worker::boot(&hook(&release, HookCommand::Shell(line.into()), &input), &[]);
        worker.hook_done();
        assert_eq!(worker.end().0, Some(0), "{line}");
    }
    // Without input there is nothing to read.
    let mut worker = Worker::boot(&hook_line(&release, "test -z \"$(cat)\""), &[]);
    worker.hook_done();
}

#[test]
fn one_that_fails_is_reported_with_its_output() {
    let release = Release::empty();
    let mut worker = Worker::boot(&hook_line(&release, "echo migrating; echo 'no column' >&2; exit 4"), &[]);
    let report = worker.refused();
    assert_eq!((report.stage, report.message.as_str()), (Stage::Hook, "--before-rollout exited with status 4"));
    assert_eq!((report.exit, report.output), (Some(ExitStatus::Code(4)), b"migrating\nno column\n".to_vec()));
    let (code, worker) = worker.end();
    assert_eq!((code, worker.printed().as_str()), (Some(0), "migrating\nno column\n"));
    let mut order = hook_line(&release, "exit 1");
    order.release.extend_from_slice(b"/gone");
    let report = Worker::boot(&order, &[]).refused();
    assert_eq!((report.stage, report.release_gone), (Stage::Directory, true));
}

#[test]
fn a_procfile_s_line_may_be_missing_and_may_be_several_commands() {
    let run = |procfile: Option<&str>| {
        let release = Release::empty();
        let release = match procfile {
            Some(text) => release.file("Procfile", 0o644, text),
            None => release,
        };
        let order = hook(&release, HookCommand::Procfile("release".into()), b"");
        let mut worker = Worker::boot(&order, &[]);
        worker.hook_done();
        let (code, worker) = worker.end();
        assert_eq!(code, Some(0));
        let started = worker.seen.iter().any(|r| matches!(r, FromWorker::Started { .. }));
        (started, worker.out())
    };
    assert_eq!(run(None), (false, String::new()));
    assert_eq!(run(Some("web: app\n")), (false, String::new()));
    assert_eq!(
        run(Some("web: app\nrelease: A=1 B=$PWD sh -c 'echo $A' && echo two; echo {slot}\n")),
        (true, "1\ntwo\n2\n".into())
    );
}

#[test]
fn a_procfile_that_cannot_be_read_is_no_missing_one() {
    let release = Release::empty();
    fs::create_dir(release.path().join("Procfile")).unwrap();
    let mut worker = Worker::boot(&hook(&release, HookCommand::Procfile("release".into()), b""), &[]);
    let report = worker.refused();
    assert_eq!(report.stage, Stage::Hook);
    assert!(report.message.starts_with("cannot read ") && report.message.contains("/Procfile: "), "{}", report.message);
}

#[test]
fn the_web_line_s_variables_are_a_hook_s_too() {
    let release = Release::empty().file("Procfile", 0o644, "web: RAILS_ENV=production LATER=$X app\n");
    let mut order = hook_line(&release, "echo $RAILS_ENV $LATER");
    order.command = proto::worker::Command::Procfile("web".into());
    let mut worker = Worker::boot(&order, &[]);
    worker.hook_done();
    assert_eq!(worker.end().1.out(), "production\n");
}

#[test]
fn one_that_takes_too_long_is_ended() {
    let release = Release::empty();
    let mut order = hook_line(&release, "trap 'echo stopped; exit' TERM; echo waits; while :; do sleep 0.05; done");
    order.token = "long-hook".into();
    let Task::Hook(hook) = &mut order.task else { unreachable!() };
    hook.timeout_ms = 300;
    let mut worker = Worker::boot(&order, &[]);
    let report = worker.refused();
    assert_eq!((report.stage, report.message.as_str()), (Stage::Hook, "--before-rollout did not end within 300ms"));
    assert_eq!((report.exit, report.output), (None, b"waits\n".to_vec()));
    assert!((300..30_000).contains(&report.millis), "{}", report.millis);
    let (code, worker) = worker.end();
    assert_eq!((code, worker.out().as_str()), (Some(0), "waits\nstopped\n"));
    assert_eq!(processes_with("long-hook"), [0; 0]);
}

#[test]
fn orders_end_it() {
    for (order, status) in [
        (ToWorker::Drain { timeout_ms: 20_000 }, ExitStatus::Code(0)),
        (ToWorker::Kill, ExitStatus::Signal(9)),
        (ToWorker::Drain { timeout_ms: 1 }, ExitStatus::Signal(9)),
    ] {
        let release = Release::empty();
        // With a millisecond it has no time to hear the stop signal in a loaded machine, or it has: it ignores it then.
        let trap = if order == (ToWorker::Drain { timeout_ms: 1 }) { "trap '' TERM" } else { "trap 'exit 0' TERM" };
        let mut spec = hook_line(&release, &format!("{trap}; echo waits; while :; do sleep 0.05; done"));
        spec.token = "ordered-hook".into();
        let mut worker = Worker::boot(&spec, &[]);
        worker.until_printed("waits\n");
        worker.order(&order);
        assert_eq!(worker.exited().status, status);
        let (code, worker) = worker.end();
        assert_eq!(code, Some(0));
        assert!(!worker.seen.iter().any(|r| matches!(r, FromWorker::HookDone { .. } | FromWorker::BootFailed(_))));
        assert_eq!(processes_with("ordered-hook"), [0; 0]);
    }
}

#[test]
fn nothing_of_it_stays() {
    let release = Release::empty();
    // A signal that comes just before a shell's `wait` would be heard after it only, and what is being forked just then hears none.
    let line = "setsid sh -c 'trap \"echo child stopped; exit\" TERM; echo up; while :; do sleep 0.05; done' & \
                read -r line < ready";
    nix::unistd::mkfifo(&release.path().join("ready"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let mut order = hook_line(&release, line);
    order.token = "hook-left".into();
    let mut worker = Worker::boot(&order, &[]);
    worker.until_printed("up\n");
    fs::write(release.path().join("ready"), "go\n").unwrap();
    let begun = Instant::now();
    worker.hook_done();
    let (code, worker) = worker.end();
    assert_eq!(code, Some(0));
    assert!(worker.out().ends_with("child stopped\n"), "{}", worker.out());
    assert!(begun.elapsed() < Duration::from_secs(4), "it was not killed");
    assert_eq!(processes_with("hook-left"), [0; 0]);
}
