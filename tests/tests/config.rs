//! `--config FILE` and `--check-config`: what wins, what is refused, and that looking touches nothing.

use std::collections::BTreeMap;
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};

use tests::binaries::binary;
use tests::{Output, Site, process};

/// A site with a release and a configuration file in it.
fn site(config: &str) -> Site {
    let site = Site::new();
    site.release("41", "");
    site.deploy("41");
    write(&site, config);
    site
}

fn write(site: &Site, config: &str) {
    fs::write(site.root().join("site.toml"), config).expect("a file");
}

/// A master that is told nothing but these words, in the site's folder. It has to end by itself.
fn run(site: &Site, env: &[(&str, &str)], args: &[&str]) -> Output {
    let mut command = Command::new(binary("master"));
    for name in ["WEB_CONCURRENCY", "RUNTIME_DIRECTORY", "STATE_DIRECTORY", "XDG_STATE_HOME", "LISTEN_FDS"] {
        command.env_remove(name);
    }
    command.env("XDG_RUNTIME_DIR", site.root().join("run")).env("HOME", site.root().join("home"));
    command.env("TEST_SITE", site.root()).envs(env.iter().copied()).current_dir(site.root());
    let output = command.args(args).stdin(Stdio::null()).output().expect("a master");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    Output { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

/// The settings as they were printed: each with its value and where that came from.
fn settings(printed: &str) -> BTreeMap<String, (String, String)> {
    let line = |line: &str| {
        let (setting, origin) = line.rsplit_once("  # ").unwrap_or_else(|| panic!("no origin: {line}"));
        let (key, value) = setting.split_once('=').unwrap_or((setting, ""));
        (key.trim().to_owned(), (value.trim().to_owned(), origin.to_owned()))
    };
    printed.lines().map(line).collect()
}

/// Every path below a folder.
fn paths(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder").flatten() {
        found.push(entry.path().display().to_string());
        if entry.file_type().expect("a type").is_dir() {
            found.extend(paths(&entry.path()));
        }
    }
    found.sort();
    found
}

const ALL: &str = r#"
dir = "current"
workers = 2
listen = ["web=tcp://127.0.0.1:0"]
env = { GREETING = "hello", OTHER = "1" }
surge = "50%"
soak = "0s"
check = ["exec:true"]
socket = "run/site.sock"
state = "kept"
log-prefix = true
"#;

#[test]
fn every_setting_is_printed_with_where_it_came_from() {
    let site = site(&format!("{ALL}command = ['from', 'file']\n"));
    let args = ["--config", "site.toml", "--check-config", "--surge", "3", "--env", "A=\"b\"", "--", "from", "me"];
    let said = run(&site, &[("WEB_CONCURRENCY", "5")], &args).expect(0);
    assert_eq!(said.stderr, "");
    let settings = settings(&said.stdout);
    let is = |key: &str, value: &str, origin: &str| {
        assert_eq!(settings[key], (value.to_owned(), origin.to_owned()), "{key}:\n{}", said.stdout);
    };
    is("workers", "5", "$WEB_CONCURRENCY, not site.toml line 3");
    is("surge", "3", "command line");
    is("env", r#"["A=\"b\""]"#, "command line");
    is("command", r#"["from", "me"]"#, "command line");
    is("listen", r#"["web=tcp://127.0.0.1:0"]"#, "site.toml line 4");
    is("soak", r#""0s""#, "site.toml line 7");
    is("canary-soak", r#""0s""#, "default: as soak");
    is("log-prefix", "true", "site.toml line 11");
    is("boot-timeout", r#""60s""#, "default");
    // Worked out, not only repeated.
    let root = site.root().display();
    is("dir", &format!("\"{root}/current\""), "site.toml line 2");
    is("socket", &format!("\"{root}/run/site.sock\""), "site.toml line 9");
    is("state", &format!("\"{root}/kept\""), "site.toml line 10");
    is("name", &format!("{:?}", site.root().file_name().expect("a name")), "default: from dir");
    assert_eq!(settings["# watchdog"].1, "not set");
    // One column of origins.
    let columns: Vec<usize> = said.stdout.lines().map(|line| line.rfind("  # ").expect("an origin")).collect();
    assert!(columns.iter().filter(|column| **column != columns[0]).count() <= 3, "{}", said.stdout);
}

#[test]
fn what_is_printed_is_a_configuration_itself() {
    let site = site(&format!("{ALL}command = ['sh', '-c', \"echo \\\"$1\\\" \\\\ \\t\"]\n"));
    let first = run(&site, &[], &["--config", "site.toml", "--check-config"]).expect(0);
    write(&site, &first.stdout);
    let second = run(&site, &[], &["--config", "site.toml", "--check-config"]).expect(0);
    let values = |output: &Output| -> Vec<_> {
        settings(&output.stdout).into_iter().map(|(key, (value, _))| (key, value)).collect()
    };
    assert_eq!(values(&first), values(&second));
    assert!(second.stdout.contains("workers         = 2") && second.stdout.contains("site.toml line 4"));
}

#[test]
fn checking_touches_nothing() {
    // Taken already: a master that bound it would fail.
    let holder = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = holder.local_addr().expect("an address").port();
    let site = site("");
    let config = format!(
        "dir = 'current'\nlisten = ['tcp://127.0.0.1:{port}', 'unix://{}/run/app.sock']\n\
         before-rollout = 'touch touched'\nbefore-boot = 'touch touched'\ncheck = ['exec:touch touched']\n\
         command = ['touch', 'touched']\nstate = 'state/deep'\nsocket = 'run/deep/site.sock'\n",
        site.root().display()
    );
    write(&site, &config);
    fs::create_dir(site.root().join("tmp")).expect("a folder");
    let before = paths(site.root());
    let tmp = site.root().join("tmp");
    let env = [("TMPDIR", tmp.to_str().expect("a path")), ("XDG_RUNTIME_DIR", "")];
    run(&site, &env, &["--config", "site.toml", "--check-config"]).expect(0);
    // Without a word about places, too.
    run(&site, &env, &["--dir", "current", "--check-config"]).expect(0);
    assert_eq!(paths(site.root()), before);
    assert_eq!(site.boots("41"), 0);
}

#[test]
fn checking_disturbs_no_living_master() {
    let site = site("dir = 'current'\nsocket = 'run/site.sock'\nstate = 'state'\nname = 'site'\n");
    let master = site.master().workers(1).start();
    master.until_state("steady");
    run(&site, &[], &["--config", "site.toml", "--check-config"]).expect(0);
    master.ctl(&["status"]).expect(0);
    assert_eq!(site.boots("41"), 1);
}

#[test]
fn problems_are_told_on_stderr_with_exit_code_2() {
    let site = site("");
    symlink("nowhere", site.root().join("dangling")).expect("a symlink");
    for (config, words) in [
        ("dir = 'current'\n\nworker = 4", vec!["unknown key 'worker' in site.toml line 3: did you mean 'workers'?"]),
        ("dir = 'current'\nworkers = 'four'", vec!["'workers' in site.toml line 2", "a number", "\"four\""]),
        ("dir = 'current'\nsoak = 5", vec!["'soak' in site.toml line 2", "time unit", "5s"]),
        (
            "dir = 'current'\ncommand = 'gunicorn app:app'",
            vec!["'command' in site.toml line 2", "[\"gunicorn\", \"app:app\"]"],
        ),
        ("config = 'x'", vec!["'config' in site.toml line 1", "command line alone"]),
        ("dir = 'current'\nsurge = 0", vec!["--surge 0 (site.toml line 2) needs --max-unavailable"]),
        ("dir = 'current'\ncheck = ['http:/health']", vec!["(site.toml line 2)", "--listen"]),
        ("dir = 'current'\nrelease-phase = true\nbefore-rollout = 'x'", vec!["line 2", "line 3", "--before-rollout"]),
        ("dir = 'current'\nworkers = 1\nworkers = 2", vec!["site.toml line 3 is not TOML", "duplicate key"]),
        ("workers = 1", vec!["--dir"]),
        // All of them at once.
        ("sock = 'x'\nsoak = 1\nlog-format = 'xml'", vec!["line 1", "line 2", "line 3", "text or json"]),
    ] {
        write(&site, config);
        // A start refuses it in the same way.
        for args in [&["--config", "site.toml", "--check-config"][..], &["--config", "site.toml"]] {
            let said = run(&site, &[], args).expect(2);
            assert_eq!(said.stdout, "", "{config}");
            for word in &words {
                assert!(said.stderr.contains(word), "{config}: {word} in {}", said.stderr);
            }
        }
    }
    // What a start cannot find, is found by looking.
    for (config, word) in [
        ("dir = 'dangling'", "dangling (a symlink to nowhere)"),
        ("dir = 'site.toml'", "site.toml is not a directory"),
        ("dir = 'current'\nlisten = ['unix:///run/x?group=no-such-group']", "no group 'no-such-group'"),
        (&format!("dir = 'current'\nsocket = '{}'", "x".repeat(120)), "too long"),
    ] {
        write(&site, config);
        let said = run(&site, &[], &["--config", "site.toml", "--check-config"]).expect(2);
        assert!(said.stderr.starts_with("error: ") && said.stderr.contains(word), "{config}: {}", said.stderr);
        assert_eq!(said.stdout, "", "{config}");
    }
    assert_eq!(site.boots("41"), 0);
}

#[test]
fn a_number_is_a_number_in_the_file_too() {
    let site = site("dir = 'current'\nnotify-fd = 3\n");
    // Nothing is open there, and nobody looks.
    let said = run(&site, &[], &["--config", "site.toml", "--check-config"]).expect(0);
    assert_eq!(settings(&said.stdout)["notify-fd"], ("3".into(), "site.toml line 2".into()), "{}", said.stdout);
    assert_eq!(said.stderr, "");
    // The command line's wins, and what is printed is a configuration again.
    let said = run(&site, &[], &["--config", "site.toml", "--check-config", "--notify-fd", "9"]).expect(0);
    assert_eq!(settings(&said.stdout)["notify-fd"], ("9".into(), "command line".into()), "{}", said.stdout);
    write(&site, &said.stdout);
    let said = run(&site, &[], &["--config", "site.toml", "--check-config"]).expect(0);
    assert_eq!(settings(&said.stdout)["notify-fd"].0, "9", "{}", said.stdout);
    for (wrong, word) in [
        ("2", "not in 3.."),
        ("-1", "not in 3.."),
        ("3000000000", "not in 3.."),
        ("'three'", "a number"),
        ("true", "a number"),
    ] {
        write(&site, &format!("dir = 'current'\nnotify-fd = {wrong}\n"));
        let said = run(&site, &[], &["--config", "site.toml", "--check-config"]).expect(2);
        for word in ["notify-fd", "site.toml line 2", word] {
            assert!(said.stderr.contains(word), "{wrong}: {word} in {}", said.stderr);
        }
    }
}

#[test]
fn a_file_that_cannot_be_read_is_a_usage_error_that_names_it() {
    let site = site("");
    fs::write(site.root().join("latin"), b"name = '\xe9'\n").expect("a file");
    for (file, word) in
        [("none.toml", "No such file"), ("releases", "directory"), ("latin", "UTF-8"), ("releases/41/RELEASE", "TOML")]
    {
        let said = run(&site, &[], &["--config", file, "--dir", "current"]).expect(2);
        assert!(said.stderr.contains(file) && said.stderr.contains(word), "{}", said.stderr);
    }
}

#[test]
fn what_cannot_go_together_is_a_usage_error() {
    let site = site("");
    for (args, word) in [
        (&["--check", "http:/health"][..], "--listen"),
        (&["--release-phase", "--before-rollout", "true"], "--before-rollout"),
        (&["--confirm-within", "0"], "--confirm-within"),
        (&["--watchdog", "0"], "--watchdog"),
        (&["--max-memory", "512"], "512M"),
        (&["--surge", "0%"], "--max-unavailable"),
        (&["--surge", "101%"], "100%"),
        (&["--check", "https://x/"], "http:/PATH"),
        (&["--before-boot", ""], "--before-boot"),
    ] {
        let said = run(&site, &[], &[&["--dir", "current"], args].concat()).expect(2);
        assert!(said.stderr.contains(word), "{args:?}: {}", said.stderr);
    }
    assert_eq!(site.boots("41"), 0);
}

#[test]
fn a_master_starts_from_a_file_alone() {
    let site = site(&format!("{ALL}command = [{:?}]\n", binary("fixture")));
    // The harness's own words are left out: only the program's is kept.
    let alone = ["sh", "-c", "exec \"$1\" --config site.toml", "sh"];
    let master = site.master().wrap(&alone).start();
    master.until_state("steady");
    let stats = master.stats();
    assert_eq!((stats.workers, stats.dir.as_slice()), (2, site.current().as_os_str().as_encoded_bytes()));
    assert_eq!(stats.listeners[0].name, "web");
    assert!(master.get("/env").contains("\nGREETING=hello\n"));
    assert!(site.root().join("kept").is_dir(), "relative paths are the master's own");
    assert!(!site.release_dir("41").join("kept").exists());
    site.release("42", "");
    master.roll("42").expect(0);
}

#[test]
fn a_running_master_goes_by_the_same_order() {
    let site = site("workers = 1\nstate = 'kept'\nenv = { A = '1', B = '2' }\n");
    let config = ["--config", "site.toml"];
    let master = site.master().default_workers().options(&config).start();
    assert_eq!(master.until_state("steady").workers, 1, "the file's, before the CPUs");
    let env = master.get("/env");
    assert!(env.contains("\nA=1\n") && env.contains("\nB=2\n"), "{env}");
    assert!(!site.root().join("kept").exists(), "the command line's --state, before the file's");
    drop(master);

    let options = [&config[..], &["--env", "C=3"]].concat();
    let master = site.master().default_workers().env("WEB_CONCURRENCY", "2").options(&options).start();
    assert_eq!(master.until_state("steady").workers, 2, "the environment's, before the file's");
    let env = master.get("/env");
    assert!(env.contains("\nC=3\n") && !env.contains("\nA=1\n"), "a list replaces a list: {env}");
    drop(master);

    let master = site.master().workers(3).env("WEB_CONCURRENCY", "2").options(&config).start();
    assert_eq!(master.until_state("steady").workers, 3, "the command line's, before all");
}

#[test]
fn an_env_file_is_the_apps_and_says_nothing_in_our_name() {
    let site = Site::new();
    let env_file = |release: &str, text: &str| {
        site.release(release, "");
        fs::write(site.release_dir(release).join(".env"), text).expect("a file");
    };
    let ours =
        "PHASED_SOCKET=x\nPHASED_TOKEN=x\nWORKER_INDEX=9\nNOTIFY_SOCKET=/x\nPWD=/x\nRELEASE_DIR=/x\nLISTEN_FDS=7\n";
    env_file("41", &format!("GREETING='hello, world'\nPHASED_FOO=mine\nINHERITED=by the file\n{ours}"));
    site.deploy("41");
    let master = site.master().workers(1).options(&["--env-file", ".env"]).env("INHERITED", "by the master").start();
    master.until_state("steady");
    let text = master.get("/env");
    let env: BTreeMap<_, _> = text.lines().filter_map(|line| line.split_once('=')).collect();
    let folder = site.release_dir("41");
    let folder = folder.to_str().expect("a path");
    for (name, wanted) in [
        ("GREETING", "hello, world"),
        ("INHERITED", "by the file"),
        ("PHASED_FOO", "mine"),
        ("PHASED_SOCKET", site.socket().to_str().expect("a path")),
        ("WORKER_INDEX", "0"),
        ("PWD", folder),
        ("RELEASE_DIR", folder),
        ("LISTEN_FDS", "1"),
    ] {
        assert_eq!(env.get(name), Some(&wanted), "{name} in\n{text}");
    }
    assert!(!["/x", "x"].contains(&env["NOTIFY_SOCKET"]) && env["PHASED_TOKEN"] != "x", "{text}");
    // What goes by those goes on: the next release serves, by a file of its own, and nothing is left of this one.
    env_file("42", &format!("GREETING=hi\n{ours}"));
    master.roll("42").expect(0);
    let text = master.get("/env");
    assert!(text.contains("\nGREETING=hi\n") && text.contains("\nINHERITED=by the master\n"), "{text}");
    assert_eq!(process::of_site(site.root()).len(), 3, "{}", process::table(&process::of_site(site.root())));
}

#[test]
fn a_service_managers_folders_win_over_the_file() {
    let site = site("dir = 'current'\nstate = 'kept'\nsocket = 'elsewhere.sock'\nname = 'shop'\n");
    let env = [("STATE_DIRECTORY", "/var/lib/shop:/var/lib/other"), ("RUNTIME_DIRECTORY", "/run/shop")];
    let said = run(&site, &env, &["--config", "site.toml", "--check-config"]).expect(0);
    let told = settings(&said.stdout);
    let is = |key: &str, value: &str, origin: &str| {
        assert_eq!(told[key], (value.to_owned(), origin.to_owned()), "{}", said.stdout);
    };
    is("state", "\"/var/lib/shop\"", "$STATE_DIRECTORY, not site.toml line 2");
    is("socket", "\"/run/shop/shop.sock\"", "$RUNTIME_DIRECTORY, not site.toml line 3");
    // A session's folder is only where the default is.
    let said = run(&site, &[], &["--config", "site.toml", "--check-config"]).expect(0);
    assert_eq!(settings(&said.stdout)["socket"].1, "site.toml line 3");
    let said = run(&site, &[], &["--dir", "current", "--check-config"]).expect(0);
    assert_eq!(settings(&said.stdout)["socket"].1, "default: from name, in $XDG_RUNTIME_DIR");
}
