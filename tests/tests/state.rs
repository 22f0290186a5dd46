//! What outlives a master: its state folder, who may use it, and what is not lost when it cannot be used.

use std::fs;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use nix::sys::signal::Signal;
use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, connect, listen as queue, socket};
use proto::control::Stats;
use serde_json::Value;
use tests::master::{all_on, name_of};
use tests::{Load, Master, Output, Site, Start, process};

const BROKEN: &str = "eprint broken\nexit 1";

fn state_file(site: &Site) -> Value {
    serde_json::from_slice(&fs::read(site.state().join("state.json")).expect("a state")).expect("JSON")
}

fn history(site: &Site) -> Vec<Value> {
    let text = fs::read_to_string(site.state().join("history.jsonl")).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect()
}

fn trouble(stats: &Stats) -> &str {
    stats.state_trouble.as_deref().unwrap_or_default()
}

/// What `run` says that is not to come up because of `first`.
#[track_caller]
fn refused_because_of(first: &Master<'_>, start: Start<'_>, what: &Path) -> Output {
    let said = start.run().expect(1);
    let named = format!("another master (pid {})", first.pid());
    assert!(said.stderr.contains(&named), "{named}: {}", said.stderr);
    assert!(said.stderr.contains(what.to_str().unwrap()), "{}", said.stderr);
    said
}

#[test]
fn known_good_code_and_its_history_are_written_down() {
    let site = Site::new();
    let master = site.steady("41", "", 2);
    let file = state_file(&site);
    assert_eq!(file["version"], 1);
    assert_eq!(file["dir"], site.current().to_str().unwrap());
    assert_eq!(file["known_good"]["release"], site.release_dir("41").to_str().unwrap());
    assert_eq!((master.stats().state_dir, trouble(&master.stats())), (Some(site.state().to_str().unwrap().into()), ""));
    site.release("42", "");
    master.roll("42").expect(0);
    site.release("43", BROKEN);
    let json = master.ctl(&["--json", "phased-restart", "--dir", site.release_dir("43").to_str().unwrap()]).expect(3);
    let file = state_file(&site);
    assert_eq!(file["known_good"]["release"], site.release_dir("42").to_str().unwrap());
    assert_eq!(file["previous"][0], site.release_dir("41").to_str().unwrap());
    assert_eq!(file["refused"][0]["release"], site.release_dir("43").to_str().unwrap());
    assert_eq!(file["rollout"], Value::Null);
    let lines = history(&site);
    assert_eq!(lines.len(), 2);
    assert_eq!((&lines[0]["outcome"], &lines[1]["outcome"]), (&"promoted".into(), &"aborted".into()));
    assert_eq!(lines[1], json.json(), "the line is what `--json` printed");
}

#[test]
fn one_state_folder_has_one_master() {
    let site = Site::new();
    let first = site.steady("41", "", 1);
    let before = fs::read(site.state().join("state.json")).expect("a state");
    let second = || site.master().workers(1).socket(site.root().join("run/second.sock"));
    let said = refused_because_of(&first, second(), &site.state());
    assert!(said.stderr.contains("--state") && said.stderr.contains("--name"), "the ways out: {}", said.stderr);
    // Also for the master of another dir: somebody asked for this folder.
    let other = site.root().join("other");
    symlink(site.release_dir("41"), &other).expect("a symlink");
    refused_because_of(&first, second().dir(other), &site.state());
    let asked_by_env = second().state(None).env("STATE_DIRECTORY", &format!("{}:/x", site.state().display()));
    refused_because_of(&first, asked_by_env, &site.state());
    assert_eq!(fs::read(site.state().join("state.json")).expect("a state"), before, "nothing was touched");
    assert!(!site.root().join("run/second.sock").exists());
    // No worker and no app holds the lock: it goes with the master.
    let held = |pid| process::descriptors(pid).into_values().any(|what| what.ends_with("/lock"));
    assert!(held(first.pid()));
    let family = process::descendants(first.pid());
    assert_eq!(family.len(), 2, "{}", process::table(&family));
    assert!(family.iter().all(|process| !held(process.pid)));
    first.signal(Signal::SIGKILL);
    site.until_ended(first.pid());
    // The worker of the first one, whose socket lies elsewhere, is replaced and ends.
    let second = second().start();
    second.until("the second one serves alone", |stats| all_on(stats, "41") && stats.state == "steady");
}

#[test]
fn a_name_that_two_sites_have_is_no_reason_not_to_serve() {
    let (one, two) = (Site::new(), Site::new());
    let state = one.root().join("xdg");
    let start = |site: &Site| {
        site.release("41", "");
        site.deploy("41");
    };
    start(&one);
    start(&two);
    let env = state.to_str().unwrap();
    let first = one.master().workers(1).name("app").state(None).env("XDG_STATE_HOME", env).start();
    first.until_state("steady");
    let folder = state.join("phased/app");
    assert_eq!(first.stats().state_dir, Some(folder.to_str().unwrap().into()));
    // The same dir in the same folder is the same site.
    let again = one.master().name("app").state(None).env("XDG_STATE_HOME", env);
    refused_because_of(&first, again.socket(one.root().join("run/again.sock")), &folder);
    // Another one goes on without, and says so.
    let second = two.master().workers(1).name("app").state(None).env("XDG_STATE_HOME", env).start();
    let stats = second.until_state("steady");
    assert_eq!(stats.state_dir, None);
    for word in [format!("(pid {})", first.pid()), folder.display().to_string(), one.current().display().to_string()] {
        assert!(trouble(&stats).contains(&word), "{word}: {}", trouble(&stats));
    }
    second.until_log("nothing is remembered");
    two.release("42", "");
    second.roll("42").expect(0);
    let file: Value = serde_json::from_slice(&fs::read(folder.join("state.json")).expect("a state")).expect("JSON");
    assert_eq!(file["dir"], one.current().to_str().unwrap(), "and leaves the other's alone");
}

#[test]
fn one_control_socket_has_one_master() {
    let site = Site::new();
    let mut first = site.steady("41", "", 1);
    let elsewhere = site.root().join("elsewhere");
    let second = || site.master().workers(1).state(Some(elsewhere.clone()));
    let said = refused_because_of(&first, second(), &site.socket());
    assert!(said.stderr.contains("--socket") && said.stderr.contains("--name"), "the ways out: {}", said.stderr);
    // A master that hangs, with as many connections waiting as there is room for, keeps its place and is named.
    first.signal(Signal::SIGSTOP);
    refused_because_of(&first, second(), &site.socket());
    first.signal(Signal::SIGCONT);
    assert!(all_on(&first.stats(), "41"));
    // The file stays, and hinders nobody.
    first.ctl(&["stop"]).expect(0);
    first.end();
    assert!(site.root().join("run/site.sock.lock").exists());
    second().start().until_state("steady");
}

#[test]
fn a_stop_that_is_answered_has_let_go_of_everything() {
    let site = Site::new();
    // The end of one of them is the end of the site: all stay until then.
    let mut masters = vec![site.steady("41", "", 1)];
    for last in 0..10 {
        masters[last].ctl(&["stop"]).expect(0);
        masters.push(site.master().workers(1).start());
        masters[last + 1].until_state("steady");
    }
}

#[test]
fn two_masters_that_start_at_the_same_time_do_not_both_pass() {
    for shared in [true, false] {
        let site = Site::new();
        site.release("41", "");
        site.deploy("41");
        let starts: Vec<_> = (0..4)
            .map(|n| {
                let state = if shared { site.state() } else { site.root().join(format!("state-{n}")) };
                site.master().workers(1).state(Some(state))
            })
            .collect();
        std::thread::scope(|scope| {
            let (ended, ends) = std::sync::mpsc::channel();
            for start in starts {
                let ended = ended.clone();
                scope.spawn(move || ended.send(start.run()).expect("somebody listens"));
            }
            // The others end by themselves; whoever came up stays until it is told to stop.
            for said in ends.iter().take(3) {
                assert!(said.code == Some(1) && said.stderr.contains("another master (pid "), "{said:#?}");
            }
            let stop = || tests::Ctl::start(&mut tests::ctl::command(&site.socket(), &["stop"])).end().code;
            while stop() != Some(0) {}
            let said = ends.recv().expect("the fourth one's end");
            assert_eq!(said.code, Some(0), "{said:#?}");
        });
    }
}

#[test]
fn a_hung_owner_of_a_socket_does_not_hang_a_start() {
    let site = Site::new();
    site.release("41", "");
    site.deploy("41");
    // Somebody else's, with a full queue: a connect would wait for ever.
    let address = UnixAddr::new(&site.socket()).expect("an address");
    let stream = |flags| socket(AddressFamily::Unix, SockType::Stream, flags, None).expect("a socket");
    let hung = stream(SockFlag::SOCK_CLOEXEC);
    bind(hung.as_raw_fd(), &address).expect("bound");
    queue(&hung, Backlog::new(0).expect("a backlog")).expect("listening");
    let waits = stream(SockFlag::SOCK_CLOEXEC);
    connect(waits.as_raw_fd(), &address).expect("connected");
    let said = site.master().run().expect(1);
    assert!(said.stderr.contains(&format!("pid {}", std::process::id())), "{}", said.stderr);
    assert!(site.socket().exists());
}

#[test]
fn a_state_that_cannot_be_used_is_set_aside_and_said() {
    let site = Site::new();
    let mut master = site.steady("41", "", 1);
    master.ctl(&["stop"]).expect(0);
    master.end();
    drop(master);
    let (file, aside) = (site.state().join("state.json"), site.state().join("state.json.aside"));
    let whole = fs::read_to_string(&file).expect("a state");
    let foreign = whole.replace(site.current().to_str().unwrap(), "/srv/other/current");
    assert_ne!(whole, foreign);
    let newer = whole.replace("\"version\": 1", "\"version\": 999");
    assert_ne!(whole, newer);
    for (text, why) in
        [(&whole[..whole.len() / 2], "cut off"), (&foreign, "/srv/other/current"), (&newer, "999"), ("", "empty")]
    {
        fs::write(&file, text).expect("written");
        let mut master = site.master().workers(1).start();
        let stats = master.until_state("steady");
        assert!(all_on(&stats, "41"));
        let said = format!("{} was not used (", file.display());
        assert!(trouble(&stats).starts_with(&said) && trouble(&stats).contains(why), "{why}: {}", trouble(&stats));
        assert!(trouble(&stats).ends_with("it is now state.json.aside"), "{}", trouble(&stats));
        master.until_log(&said);
        let json = master.ctl(&["--json", "stats"]).expect(0).json();
        assert_eq!(json["state_trouble"], trouble(&stats));
        assert_eq!(fs::read_to_string(&aside).expect("set aside"), text);
        assert_eq!(state_file(&site)["known_good"]["release"], site.release_dir("41").to_str().unwrap());
        master.ctl(&["stop"]).expect(0);
        master.end();
    }
    // And nothing of that is left to say.
    let master = site.master().workers(1).start();
    assert_eq!(trouble(&master.until_state("steady")), "");
}

#[test]
fn a_folder_that_cannot_be_had_is_gone_without_unless_it_was_asked_for() {
    let site = Site::new();
    site.release("41", "");
    site.deploy("41");
    let file = site.root().join("file");
    fs::write(&file, "").expect("a file");
    let said = site.master().state(Some(file.join("state"))).run().expect(1);
    assert!(said.stderr.contains(file.join("state").to_str().unwrap()), "{}", said.stderr);
    let said = site.master().state(None).env("STATE_DIRECTORY", file.to_str().unwrap()).run().expect(1);
    assert!(said.stderr.contains(file.to_str().unwrap()), "{}", said.stderr);
    let master = site.master().workers(1).state(None).env("XDG_STATE_HOME", file.to_str().unwrap()).start();
    let stats = master.until_state("steady");
    assert_eq!(stats.state_dir, None);
    assert!(trouble(&stats).contains("nothing is remembered"), "{}", trouble(&stats));
    master.until_log("nothing is remembered");
    site.release("42", "");
    master.roll("42").expect(0);
}

#[test]
fn a_folder_that_vanishes_fails_no_rollout() {
    let site = Site::new();
    let master = site.steady("41", "", 1);
    let away = site.root().join("away");
    fs::rename(site.state(), &away).expect("renamed");
    fs::write(site.state(), "").expect("a file in its place");
    site.release("42", "");
    master.roll("42").expect(0);
    let stats = master.stats();
    assert!(all_on(&stats, "42") && stats.state == "steady", "{stats:#?}");
    for name in ["state.json", "history.jsonl"] {
        let said = format!("cannot write {}: ", site.state().join(name).display());
        assert!(trouble(&stats).contains(&said), "{}", trouble(&stats));
        master.until_log(&said);
    }
    site.release("43", BROKEN);
    master.roll("43").expect(3);
    let said = master.stderr.all().into_iter().filter(|line| line.contains("cannot write")).count();
    assert_eq!(said, 2, "each is said once:\n{}", master.stderr.text());
    fs::remove_file(site.state()).expect("removed");
    fs::rename(&away, site.state()).expect("renamed");
    site.release("44", "");
    master.roll("44").expect(0);
    assert_eq!(trouble(&master.stats()), "");
    master.until_log("is written again");
    assert_eq!(state_file(&site)["known_good"]["release"], site.release_dir("44").to_str().unwrap());
    assert_eq!(history(&site).len(), 1);
}

/// A master that sees a small file system of its own at the state folder.
fn on_a_small_disk(site: &Site) -> Option<Master<'_>> {
    let mount = format!("mount -t tmpfs -o size=64k none {} && exec \"$@\"", site.state().display());
    let unshare: &[&str] = if nix::unistd::geteuid().is_root() { &["unshare", "-m"] } else { &["unshare", "-rm"] };
    let mut can = Command::new(unshare[0]);
    can.args(&unshare[1..]).args(["sh", "-c", &mount, "sh", "true"]);
    if !can.status().is_ok_and(|status| status.success()) {
        return None;
    }
    let wrap: Vec<&str> = unshare.iter().copied().chain(["sh", "-c", &mount, "sh"]).collect();
    Some(site.master().workers(2).wrap(&wrap).start())
}

#[test]
fn a_full_disk_fails_no_rollout() {
    let site = Site::new();
    site.release("41", "");
    site.deploy("41");
    let Some(master) = on_a_small_disk(&site) else {
        eprintln!("NOT TESTED: no file system can be mounted");
        assert!(std::env::var_os("CI").is_none(), "CI has to be able to");
        return;
    };
    master.until_state("steady");
    // Seen with the master's eyes.
    let seen = Path::new(&format!("/proc/{}/root", master.pid())).join(site.state().strip_prefix("/").unwrap());
    let good = || -> Value {
        let file: Value = serde_json::from_slice(&fs::read(seen.join("state.json")).expect("a state")).expect("JSON");
        name_of(file["known_good"]["release"].as_str().expect("a path").as_bytes()).into()
    };
    assert_eq!(good(), "41");
    let mut filler = fs::File::create(seen.join("filler")).expect("a file");
    while filler.write_all(&[b'x'; 512]).is_ok() {}
    let load = Load::start(&master.address());
    load.more(10);
    for (release, script, code) in [("42", "", 0), ("43", BROKEN, 3)] {
        site.release(release, script);
        master.roll(release).expect(code);
        let stats = master.stats();
        assert!(all_on(&stats, "42") && stats.state == "steady", "{stats:#?}");
        assert!(trouble(&stats).contains("No space left"), "{}", trouble(&stats));
    }
    load.more(10);
    load.finish();
    assert_eq!(good(), "41", "the old state is whole");
    drop(filler);
    fs::remove_file(seen.join("filler")).expect("removed");
    master.ctl(&["restart", "0"]).expect(0);
    assert_eq!(trouble(&master.stats()), "");
    assert_eq!(good(), "42");
}

/// Ends a master in one of the two ways and starts another one in its place.
fn reboot<'a>(site: &'a Site, mut master: Master<'a>, cut: bool) -> Master<'a> {
    if !cut {
        master.ctl(&["stop"]).expect(0);
        master.end();
    }
    // The power goes: nothing of the site is left.
    drop(master);
    assert!(process::of_site(site.root()).is_empty());
    site.master().workers(2).start()
}

/// What serves after the start is over.
fn up(master: &Master<'_>) -> Stats {
    let stats = master.until("it is up", |stats| stats.state != "booting" && stats.booted_workers == stats.workers);
    let served = master.get("/");
    let releases: Vec<String> = stats.worker_status.iter().map(tests::master::release_name).collect();
    assert!(releases.iter().any(|name| served.starts_with(&format!("release={name}"))), "{served}");
    stats
}

const WAYS: [bool; 2] = [false, true];

#[test]
fn a_start_with_the_known_good_release() {
    for cut in WAYS {
        let site = Site::new();
        let master = site.steady("41", "", 2);
        site.release("42", "");
        master.roll("42").expect(0);
        let before = master.stats();
        let master = reboot(&site, master, cut);
        let stats = up(&master);
        assert!(all_on(&stats, "42") && stats.state == "steady", "{stats:#?}");
        assert_eq!((stats.last_rollout, stats.refused), (before.last_rollout, Vec::new()));
        assert_eq!(stats.release, before.release);
        // The release before it is remembered, and so are the numbers.
        master.ctl(&["rollback"]).expect(0);
        let stats = master.stats();
        assert!(all_on(&stats, "41"));
        assert!(stats.phase > before.phase, "a phase is never used again: {} and {}", before.phase, stats.phase);
        assert_eq!(stats.last_rollout.expect("a rollout").id, 2);
        assert_eq!(history(&site).len(), 2);
    }
}

#[test]
fn a_start_with_a_refused_release() {
    for cut in WAYS {
        let site = Site::new();
        let master = site.steady("41", "", 2);
        site.release("42", "slot 1 eprint no such table\nslot 1 exit 7");
        master.roll("42").expect(3);
        let (boots, before) = (site.boots("42"), master.stats());
        let master = reboot(&site, master, cut);
        let stats = up(&master);
        assert!(all_on(&stats, "41") && stats.state == "steady", "{stats:#?}");
        assert_eq!(site.boots("42"), boots, "a reboot at night does not try it again");
        master.until_log(site.release_dir("42").to_str().unwrap());
        assert_eq!(stats.last_rollout, before.last_rollout);
        assert_eq!(stats.refused, before.refused);
        let report = stats.refused[0].report.as_ref().expect("a report");
        assert!(report.message.contains("status 7") && report.output.ends_with(b"no such table\n"), "{report:#?}");
        // A crash does not, either.
        process::signal(master.app_pids()[0], Signal::SIGKILL);
        assert!(all_on(&master.until("respawned", |stats| stats.worker_status[0].crashes == 1 && up_now(stats)), "41"));
        assert_eq!(site.boots("42"), boots);
        // A person may.
        site.release("42", "");
        master.ctl(&["phased-restart"]).expect(0);
        assert_eq!(master.stats().refused, Vec::new());
    }
}

fn up_now(stats: &Stats) -> bool {
    stats.booted_workers == stats.workers
}

#[test]
fn a_start_with_a_held_release() {
    for cut in WAYS {
        let site = Site::new();
        let master = site.steady("41", "", 2);
        site.release("42", "");
        site.deploy("42");
        master.ctl(&["phased-restart", "--hold"]).expect(0);
        let boots = site.boots("42");
        let master = reboot(&site, master, cut);
        let stats = up(&master);
        assert!(all_on(&stats, "41") && stats.state == "steady", "a reboot ends a hold: {stats:#?}");
        assert_eq!((site.boots("42"), stats.held), (boots, None));
        assert_eq!(stats.refused.iter().map(|r| name_of(&r.release)).collect::<Vec<_>>(), ["42"]);
        // It can be trusted all the same, by a person.
        master.ctl(&["reload-dir"]).expect(0);
        assert_eq!(name_of(&master.stats().release), "42");
    }
}

#[test]
fn a_start_with_a_release_that_was_never_tried() {
    for cut in WAYS {
        let site = Site::new();
        let master = site.steady("41", "", 2);
        site.release("42", "gate boot");
        site.deploy("42");
        let master = reboot(&site, master, cut);
        // On one slot first.
        let first = site.arrival("boot");
        assert_eq!(first.app.slot, "0");
        assert_eq!((site.boots("42"), master.stats().state.as_str()), (1, "booting"));
        first.open();
        site.open("boot");
        let stats = up(&master);
        assert!(all_on(&stats, "42") && stats.state == "steady", "{stats:#?}");
        assert_eq!(name_of(&stats.release), "42");
        assert_eq!(state_file(&site)["known_good"]["release"], site.release_dir("42").to_str().unwrap());
        master.ctl(&["rollback"]).expect(0);
        assert!(all_on(&master.stats(), "41"));
    }
}

#[test]
fn a_start_with_a_release_that_was_never_tried_and_does_not_boot() {
    for cut in WAYS {
        let site = Site::new();
        let master = site.steady("41", "", 2);
        site.release("42", BROKEN);
        site.deploy("42");
        let master = reboot(&site, master, cut);
        let stats = up(&master);
        assert!(all_on(&stats, "41") && stats.state == "degraded", "{stats:#?}");
        master.ctl(&["status"]).expect(4);
        assert_eq!(site.boots("42"), 1, "on one slot, once");
        let said = master.ctl(&["report"]).expect(0);
        assert!(said.stdout.contains("broken") && said.stdout.contains("42"), "{}", said.stdout);
        assert_eq!(stats.refused.iter().map(|r| name_of(&r.release)).collect::<Vec<_>>(), ["42"]);
        assert!(stats.refused[0].report.as_ref().is_some_and(|report| report.output == b"broken\n"));
        // The next start knows that it was refused.
        let master = reboot(&site, master, cut);
        let stats = up(&master);
        assert!(all_on(&stats, "41"), "{stats:#?}");
        assert_eq!(site.boots("42"), 1);
        assert!(stats.refused[0].report.as_ref().is_some_and(|report| report.output == b"broken\n"));
    }
}

#[test]
fn a_start_with_a_dir_that_dangles() {
    for cut in WAYS {
        let site = Site::new();
        let master = site.steady("41", "", 2);
        site.point(&site.root().join("releases/none"));
        let master = reboot(&site, master, cut);
        let stats = up(&master);
        assert!(all_on(&stats, "41"), "{stats:#?}");
        assert_eq!(stats.dir_target, None);
        master.until_log(site.current().to_str().unwrap());
        site.release("42", "");
        master.roll("42").expect(0);
    }
}

#[test]
fn a_start_without_the_known_good_directory() {
    for cut in WAYS {
        let site = Site::new();
        let master = site.steady("40", "", 2);
        for release in ["41", "42"] {
            site.release(release, "");
            master.roll(release).expect(0);
        }
        // A never-tried one is there.
        site.release("43", "");
        site.deploy("43");
        fs::remove_dir_all(site.release_dir("42")).expect("removed");
        let master = reboot(&site, master, cut);
        let stats = up(&master);
        assert!(all_on(&stats, "43") && stats.state == "steady", "{stats:#?}");
        // What was good before is better than nothing, and than what was refused.
        site.release("44", BROKEN);
        master.roll("44").expect(3);
        fs::remove_dir_all(site.release_dir("43")).expect("removed");
        let master = reboot(&site, master, cut);
        let stats = up(&master);
        assert!(all_on(&stats, "41"), "{stats:#?}");
        master.until_log(site.release_dir("43").to_str().unwrap());
        // Nothing is left but what was refused: the start fails, and says why and what to do.
        for release in ["40", "41"] {
            fs::remove_dir_all(site.release_dir(release)).expect("removed");
        }
        drop(master);
        let (boots, said) = (site.boots("44"), site.master().run().expect(1));
        for word in [site.release_dir("44").to_str().unwrap(), "refused", "state.json"] {
            assert!(said.stderr.contains(word), "{word}: {}", said.stderr);
        }
        assert_eq!(site.boots("44"), boots);
    }
}
