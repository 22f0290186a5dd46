//! `--env-file`: variables of a release, read anew for every boot.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;

use common::{Release, Worker, environment, hook, hook_line, idle, listener};
use proto::worker::{BootSpec, HookCommand, Ready, Stage, ToWorker};

/// An app that prints its environment.
fn app(release: &Release, file: &str) -> Box<BootSpec> {
    let mut order = common::spec(release, &["sh", "-c", "env -0; echo; echo end; exec sleep 1000"], &[]);
    order.ready = Ready::Alive(1);
    order.env_file = Some(file.into());
    order
}

/// What the app gets from a worker that itself has these variables.
fn boots(order: &BootSpec, inherited: &[(&str, &str)]) -> BTreeMap<String, String> {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_worker"));
    command.envs(inherited.iter().copied());
    let mut worker = Worker::start_as(&mut command, &[]);
    worker.order(&ToWorker::Boot(Box::new(order.clone())));
    worker.booted();
    worker.until_printed("\nend\n");
    environment(&worker.out())
}

fn refused(order: &BootSpec) -> String {
    let mut worker = Worker::boot(order, &[]);
    let report = worker.refused();
    assert_eq!((report.stage, worker.end().0), (Stage::Exec, Some(0)), "{}", report.message);
    report.message
}

#[test]
fn it_wins_over_what_was_inherited_and_env_wins_over_it() {
    let text = "# of the app
INHERITED=file
GIVEN=file
URL=\"http://$HOST_NAME/${GIVEN}/$INHERITED/$RELEASE_DIR/$WORKER_INDEX\"
LATE=$LISTEN_FDS.$NONE.
export QUOTED='a b # c'
WEB_CONCURRENCY=3
LISTEN_FDS=9
PHASED_TOKEN=mine
PHASED_REHEARSAL=1
NOTIFY_SOCKET=/x
PWD=/x
";
    let release = Release::empty().file(".env", 0o644, text);
    let mut order = app(&release, ".env");
    order.env = vec![(b"GIVEN".to_vec(), b"{slot}".to_vec())];
    let inherited = [("INHERITED", "old"), ("HOST_NAME", "h"), ("LISTEN_FDS", "7"), ("WEB_CONCURRENCY", "2")];
    let got = boots(&order, &inherited);
    let real = release.path().canonicalize().unwrap().to_str().unwrap().to_string();
    let get = |key: &str| got.get(key).map(String::as_str);
    assert_eq!(get("INHERITED"), Some("file"));
    assert_eq!(get("GIVEN"), Some("2"));
    assert_eq!(get("URL"), Some(format!("http://h/2/file/{real}/2").as_str()));
    assert_eq!(get("LATE"), Some(".."), "nothing of the worker's own");
    assert_eq!(get("QUOTED"), Some("a b # c"));
    assert_eq!(get("WEB_CONCURRENCY"), Some("3"));
    assert_eq!((get("LISTEN_FDS"), get("PHASED_REHEARSAL")), (None, None));
    assert_eq!((get("PHASED_TOKEN"), get("PWD")), (Some("t0k3n"), Some(real.as_str())));
    assert!(get("NOTIFY_SOCKET").unwrap().starts_with('@'));
}

#[test]
fn it_is_read_at_every_boot_and_may_stand_anywhere() {
    let (release, elsewhere) = (Release::empty(), Release::empty());
    for value in ["one", "two"] {
        fs::write(release.path().join("env"), format!("A={value}\n")).unwrap();
        assert_eq!(boots(&app(&release, "env"), &[])["A"], value);
    }
    fs::write(elsewhere.path().join("env"), "A=three").unwrap();
    assert_eq!(boots(&app(&release, elsewhere.path().join("env").to_str().unwrap()), &[])["A"], "three");
}

#[test]
fn a_procfile_s_own_variables_win_over_it() {
    let procfile = "web: A=procfile sh -c 'env -0; echo; echo end; exec sleep 1000'\n";
    let release = Release::empty().file("env", 0o644, "A=file\nB=file\n").file("Procfile", 0o644, procfile);
    let mut order = app(&release, "env");
    order.command = proto::worker::Command::Procfile("web".into());
    let got = boots(&order, &[]);
    assert_eq!((got["A"].as_str(), got["B"].as_str()), ("procfile", "file"));
}

#[test]
fn what_is_wrong_with_it_is_said_without_its_secrets() {
    let release = Release::empty().file("bad", 0o644, "A=1\n\nS3CRET\n").file("large", 0o644, &"#\n".repeat(600_000));
    fs::write(release.path().join("bytes"), b"A=1\nB=\xff\n").unwrap();
    fs::create_dir(release.path().join("dir")).unwrap();
    let path = String::from_utf8_lossy(&app(&release, "").release).into_owned();
    let said = refused(&app(&release, "none"));
    assert_eq!(
        said,
        format!("the --env-file {path}/none does not exist; deploy it with the release, or drop --env-file")
    );
    let said = refused(&app(&release, "/none"));
    assert!(said.starts_with("the --env-file /none does not exist"), "{said}");
    let said = refused(&app(&release, "bad"));
    assert!(
        said.starts_with(&format!("the --env-file {path}/bad, line 3: there is no `=`; write NAME=value")),
        "{said}"
    );
    assert!(!said.contains("S3CRET"));
    let said = refused(&app(&release, "dir"));
    assert!(said.contains(&format!("cannot read the --env-file {path}/dir: it is not a file")), "{said}");
    assert!(refused(&app(&release, "bytes")).contains("its line 2 is not UTF-8"));
    assert!(refused(&app(&release, "large")).contains("larger than 1 MiB"));
}

#[test]
fn one_that_may_not_be_read_is_named() {
    if nix::unistd::geteuid().is_root() {
        return;
    }
    let release = Release::empty().file("env", 0o000, "A=1\n");
    assert!(refused(&app(&release, "env")).contains("/env: Permission denied"));
}

#[test]
fn before_boot_may_write_it_and_reads_what_was_there() {
    let release = Release::empty();
    let mut order = app(&release, "env");
    order.before_boot = Some(b"echo A=${A}x > env; chmod 600 env".to_vec());
    assert_eq!(boots(&order, &[])["A"], "x");
    assert_eq!(boots(&order, &[])["A"], "xx");
    assert_eq!(fs::metadata(release.path().join("env")).unwrap().permissions().mode() & 0o777, 0o600);
    fs::write(release.path().join("env"), "broken").unwrap();
    assert!(refused(&order).contains("line 1"));
}

#[test]
fn hooks_and_checks_read_it_too() {
    let release = Release::empty().file("env", 0o644, "A=file\n");
    let mut order = hook_line(&release, "test $A = file");
    order.env_file = Some(b"env".to_vec());
    Worker::boot(&order, &[]).hook_done();
    let socket = listener();
    let mut order = idle(&release, "env-check", &[&socket]);
    order.env_file = Some(b"env".to_vec());
    order.checks = vec![proto::worker::Check::Exec(b"test $A = file".to_vec())];
    Worker::boot(&order, &[&socket]).booted();
}

#[test]
fn a_migration_needs_it_and_news_do_not() {
    let release = Release::empty();
    let mut order = hook_line(&release, "true");
    order.env_file = Some(b"none".to_vec());
    assert!(refused(&order).contains("/none does not exist"));
    let mut order = hook(&release, HookCommand::Shell(b"true".to_vec()), b"{}");
    order.env_file = Some(b"none".to_vec());
    Worker::boot(&order, &[]).hook_done();
}
