//! The shell in `tests/servers/deploy.md`: deploying as Capistrano does it, from a workflow file, and pruning.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

use tests::servers::{self, all_on, stopped};
use tests::{Load, Site, pages};

const PAGE: &str = "tests/servers/deploy.md";

/// A block of the page, for the site's folder.
fn snippet(site: &Site, text: &str) -> String {
    text.replace("/app", site.root().to_str().expect("a readable path"))
}

/// Makes a program of a script. Another program writes it: one that is open for writing cannot be started.
fn program(site: &Site, name: &str, script: &str) {
    let path = site.root().join(name);
    fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
    let mut install = Command::new("sh");
    install.args(["-c", "printf %s \"$1\" > \"$0\" && chmod 755 \"$0\""]).arg(&path).arg(script);
    assert!(install.status().expect("sh runs").success());
    assert!(fs::metadata(&path).expect("the program").permissions().mode() & 0o100 != 0);
}

/// A script in the site, which has to end like this; what it printed.
#[track_caller]
fn runs(site: &Site, words: &[&str], variables: &[(&str, &str)], code: i32) -> String {
    let mut command = pages::shell(site, words);
    command.envs(variables.iter().copied());
    pages::run(command, code)
}

/// What `current` names, to the letter.
fn current(site: &Site) -> String {
    fs::read_link(site.current()).expect("current").to_str().expect("a readable path").to_owned()
}

/// The `run:` script of the workflow's last step.
fn workflow() -> String {
    let yaml = pages::find(PAGE, "yaml");
    let (_, script) = yaml.split_once("        run: |\n").expect("a step that runs something");
    script.lines().map(|line| format!("{}\n", line.strip_prefix("          ").expect("a line of the script"))).collect()
}

/// A repository in the site, and its commits: what is in `releases/NAME` becomes one, by its hash.
fn commit(site: &Site, name: &str) -> String {
    let repository = site.root().join("repository");
    let git = "git init -q . && rm -f -- * && cp ../releases/\"$0\"/* . && git add -A && \
               git -c user.name=a -c user.email=a@b.c commit -q --allow-empty -m \"$0\" && git rev-parse HEAD";
    fs::create_dir_all(&repository).expect("a folder");
    let mut command = pages::shell(site, &["sh", "-c", git, name]);
    command.current_dir(&repository);
    pages::run(command, 0).lines().last().expect("a hash").to_owned()
}

#[test]
fn from_a_workflow_file() {
    let site = Site::new();
    let server = servers::GUNICORN_SYNC;
    server.release(&site, "first", "good");
    server.release(&site, "broken", "broken");
    program(&site, "deploy", &snippet(&site, &pages::find(PAGE, "sh deploy")));
    program(&site, "bin/ssh", "#!/bin/sh\nshift\nexec sh -c \"$*\"\n");
    let good = commit(&site, "first");
    let broken = commit(&site, "broken");
    site.deploy("first");
    let master = server.start(site.master());
    all_on(&master.until_state("steady"), "first");
    let load = Load::start(&master.address());
    load.until("first");

    let script = snippet(&site, &workflow());
    let deploy = |hash: &str, code: i32| {
        let home = site.root().join("home");
        let variables = [
            ("HOME", home.to_str().expect("a readable path")),
            ("HOST", "shop@shop.example"),
            ("GITHUB_SHA", hash),
            ("SSH_KEY", "a key"),
            ("SSH_KNOWN_HOST", "a host"),
            ("GIT_DIR", "repository/.git"),
        ];
        runs(&site, &["bash", "-e", "-c", &script], &variables, code)
    };
    let _ = deploy(&good, 0);
    assert_eq!(fs::read_to_string(site.root().join("home/.ssh/id_ed25519")).expect("the key"), "a key\n");
    let deployed = current(&site);
    assert!(deployed.starts_with("releases/2") && deployed.ends_with(&format!("-{good}")), "{deployed}");
    let name = deployed.strip_prefix("releases/").expect("a release");
    all_on(&master.stats(), name);
    load.until(name);

    let apps = master.app_pids();
    let said = deploy(&broken, 3);
    assert!(said.contains("unable to boot with new codebase, using old one") && said.contains(server.error), "{said}");
    assert_eq!(current(&site), deployed, "the symlink is not put back");
    assert_eq!(master.app_pids(), apps);
    load.more(20);
    let tally = load.finish();
    let mut seen: Vec<_> = tally.releases.keys().map(String::as_str).collect();
    seen.sort_unstable();
    assert_eq!(seen, [name, "first"], "{tally:?}");
    stopped(master);
}

/// The symlink is put back when it is known that nothing of the new release stays, and only then.
#[test]
fn every_exit_code() {
    let site = Site::new();
    servers::GUNICORN_SYNC.release(&site, "first", "good");
    program(&site, "deploy", &snippet(&site, &pages::find(PAGE, "sh deploy")));
    program(&site, "bin/ctl", "#!/bin/sh\nexit $CODE\n");
    let deploy = "tar -C releases/first -cf - . | ./deploy \"$CODE\"";
    for (code, back) in [(1, true), (3, true), (4, true), (5, true), (7, true), (6, false), (10, false), (0, false)] {
        site.point(&PathBuf::from("releases/first"));
        let _ = runs(&site, &["sh", "-c", deploy], &[("CODE", &code.to_string())], code);
        let wanted = if back { "releases/first".to_owned() } else { format!("-{code}") };
        assert!(current(&site).ends_with(&wanted), "exit code {code}: {}", current(&site));
    }
    // What cannot be unpacked is not deployed.
    site.point(&PathBuf::from("releases/first"));
    let _ = runs(&site, &["sh", "-c", "echo garbage | ./deploy garbage"], &[("CODE", "0")], 2);
    assert_eq!(current(&site), "releases/first");
}

#[test]
fn pruning_leaves_what_is_in_use() {
    let site = Site::new();
    let server = servers::GUNICORN_SYNC;
    let name = |day: u32| format!("202501{day:02}000000-{day}");
    for day in 1..=9 {
        server.release(&site, &name(day), "good");
    }
    let prune = snippet(&site, &pages::find(PAGE, "sh prune"));
    let pruned = |code: i32| {
        let _ = runs(&site, &["sh", "-c", &prune], &[], code);
        (1..=9).filter(|day| site.release_dir(&name(*day)).join("app.py").exists()).collect::<Vec<u32>>()
    };
    // Nobody there who knows.
    assert_eq!(pruned(7), (1..=9).collect::<Vec<_>>());

    site.deploy(&name(1));
    let master = server.start(site.master());
    all_on(&master.until_state("steady"), &name(1));
    let _ = master.roll(&name(2)).expect(0);
    site.deploy(&name(3));
    let _ = master.ctl(&["phased-restart", "--hold"]).expect(0);
    // The third is held, the second is known-good, and a rollback may want the first.
    assert_eq!(pruned(0), [1, 2, 3, 5, 6, 7, 8, 9]);
    let _ = master.ctl(&["reload-dir"]).expect(0);
    let _ = master.ctl(&["rollback"]).expect(0);
    site.deploy(&name(2));
    all_on(&master.until_state("steady"), &name(2));
    assert_eq!(pruned(0), [1, 2, 5, 6, 7, 8, 9]);
    let _ = master.ctl(&["rollback"]).expect(0);
    all_on(&master.until_state("steady"), &name(1));
    stopped(master);
}
