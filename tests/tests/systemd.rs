//! A site under a real systemd: Debian's, booted in namespaces of its own by `scripts/systemd-box`, with the unit files of
//! `scripts/systemd`. Where no systemd can be booted, every test here fails and says why.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, OnceLock};

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use tests::binaries::binary;
use tests::lines::Lines;
use tests::{Address, Ctl, Load, Output, Site, http, process};

/// The project's root.
fn project(path: &str) -> String {
    format!("{}/../{path}", env!("CARGO_MANIFEST_DIR"))
}

/// A site, once there is a systemd to boot: fetching it takes none of the test's time. Without root there is none.
fn site() -> Option<Site> {
    static INSTALLED: OnceLock<Output> = OnceLock::new();
    if !nix::unistd::geteuid().is_root() {
        eprintln!("NOT TESTED: only root can boot a systemd of its own");
        assert!(std::env::var_os("CI").is_none(), "CI has to be able to");
        return None;
    }
    let said = INSTALLED.get_or_init(|| Ctl::start(&mut Command::new(project("scripts/managers"))).end());
    assert_eq!(said.code, Some(0), "systemd is not installed: {}", said.stderr);
    Some(Site::new())
}

/// A systemd that runs. Its end ends everything in it.
struct Systemd<'a> {
    site: &'a Site,
    script: Child,
    /// Closed, it ends the box.
    leash: Option<ChildStdin>,
    /// systemd itself, as this machine sees it.
    pid: i32,
}

impl<'a> Systemd<'a> {
    /// Boots it. Units are copied from `scripts/systemd`; `drop_ins` are what a person would say with `systemctl edit`,
    /// as unit and text. The site's folder is at its place in the box.
    fn boot(site: &'a Site, drop_ins: &[(&str, &str)]) -> Self {
        let (units, etc) = (site.root().join("units"), site.root().join("etc"));
        for folder in [&units, &etc] {
            fs::create_dir(folder).expect("a folder");
        }
        for unit in ["phased@.service", "phased@.socket"] {
            fs::copy(project(&format!("scripts/systemd/{unit}")), units.join(unit)).expect("a copy");
        }
        for (unit, text) in drop_ins {
            let folder = units.join(format!("{unit}.d"));
            fs::create_dir_all(&folder).expect("a folder");
            fs::write(folder.join("override.conf"), text).expect("a file");
        }
        let mut command = Command::new(project("scripts/systemd-box"));
        let mut bind = |what: &str| {
            command.arg("--bind").arg(what);
        };
        bind(&site.root().display().to_string());
        bind(&format!("{}:/etc/systemd/system", units.display()));
        bind(&format!("{}:/etc/phased", etc.display()));
        for name in ["master", "worker", "ctl", "fixture"] {
            bind(&format!("{}:/usr/local/bin/{name}", binary(name).display()));
        }
        let mut script =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("sh");
        let said = Lines::read(script.stdout.take().expect("a pipe"));
        let errors = Lines::read(script.stderr.take().expect("a pipe"));
        let booted = said.wait(0, site.deadline(), |line| line.starts_with("booted "));
        let Ok((_, line)) = booted else {
            let _ = errors.wait_closed(site.deadline());
            panic!("no systemd can be booted here: {}", errors.text());
        };
        let pid = line.trim_start_matches("booted ").parse().expect("a pid");
        let leash = script.stdin.take();
        Self { site, script, leash, pid }
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.pid.to_string(), "--all", "--"]).args(words);
        command.env_clear().env("PATH", "/usr/local/bin:/usr/bin:/bin");
        command
    }

    /// Runs a program beside systemd to its end.
    fn run(&self, words: &[&str]) -> Output {
        Ctl::start(&mut self.command(words)).end()
    }

    /// Runs `systemctl` and demands that it succeeds.
    #[track_caller]
    fn systemctl(&self, words: &[&str]) -> String {
        self.run(&[&["systemctl"], words].concat()).expect(0).stdout.trim().to_owned()
    }

    /// A property of a unit.
    #[track_caller]
    fn show(&self, unit: &str, property: &str) -> String {
        self.systemctl(&["show", "--value", "--property", property, unit])
    }

    /// What the journal has of a unit, and what systemd says about it.
    fn journal(&self, unit: &str) -> String {
        self.run(&["journalctl", "--sync"]).expect(0);
        self.run(&["journalctl", "--output=cat", "--no-pager", "--unit", unit]).stdout
    }

    /// The same from now on, as it comes.
    fn follow(&self, unit: &str) -> Follow {
        let words = ["journalctl", "--output=cat", "--no-pager", "--follow", "--lines=all", "--unit", unit];
        let mut child = self.command(&words).stdout(Stdio::piped()).spawn().expect("nsenter");
        Follow { lines: Lines::read(child.stdout.take().expect("a pipe")), child }
    }

    /// The pids of the apps that serve.
    fn apps(&self) -> Vec<i32> {
        let mut pids: Vec<_> = self.site.alive().iter().map(|app| app.pid).collect();
        pids.sort_unstable();
        pids
    }

    /// Ends `ctl` for the site `web` with this.
    #[track_caller]
    fn ctl(&self, words: &[&str], code: i32) -> Output {
        self.run(&[&["ctl", "--socket", "/run/phased/web/web.sock"], words].concat()).expect(code)
    }

    /// Kills the master of `web`, and waits until systemd has started the next one.
    fn kill_master(&self, signal: &str) {
        let follow = self.follow(WEB);
        let before = self.journal(WEB).lines().count();
        self.systemctl(&["kill", "--kill-whom=main", "--signal", signal, WEB]);
        follow.until(self.site, before, "Started ");
    }

    /// Masters, workers and apps that live in here.
    fn left(&self) -> Vec<process::Process> {
        let mut all = process::descendants(self.pid);
        all.retain(|process| ["bin/master", "worker", "fixture"].iter().any(|word| process.command.contains(word)));
        all
    }

    /// `/etc/phased/NAME.toml` for a site of two workers, and its listening socket.
    fn configure(&self, name: &str, more: &str) -> Address {
        let socket = self.site.root().join(format!("{name}.http"));
        let listen = format!("listen = [\"unix://{}\"]\n", socket.display());
        self.write(name, &format!("{listen}{more}"));
        Address::Unix(socket)
    }

    fn write(&self, name: &str, more: &str) {
        let site = self.site.current().display().to_string();
        let more = if more.contains("soak") { more.to_owned() } else { format!("soak = \"0s\"\n{more}") };
        let text = format!("dir = \"{site}\"\nworkers = 2\ncommand = [\"/usr/local/bin/fixture\"]\n{more}");
        fs::write(self.site.root().join("etc").join(format!("{name}.toml")), text).expect("a file");
    }
}

impl Drop for Systemd<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let journal = self.run(&["journalctl", "--no-pager", "--output=short-monotonic"]);
            eprintln!("-------- the journal\n{}", journal.stdout);
        }
        drop(self.leash.take());
        let _ = self.script.wait();
    }
}

/// A journal that is read while it grows.
struct Follow {
    child: Child,
    lines: Arc<Lines>,
}

impl Follow {
    /// Waits for a line at or behind `from`; the position behind it.
    #[track_caller]
    fn until(&self, site: &Site, from: usize, text: &str) -> usize {
        match self.lines.wait(from, site.deadline(), |line| line.contains(text)) {
            Ok((at, _)) => at + 1,
            Err(vain) => panic!("waiting for {text:?} in the journal: {vain:?}\n{}", self.lines.text()),
        }
    }
}

impl Drop for Follow {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Holds back each start of a unit, until it is let.
struct Door(File);

impl Door {
    /// The door, and what makes a unit stop at it.
    fn new(site: &Site) -> (Self, String) {
        let path = site.root().join("door");
        mkfifo(&path, Mode::S_IRWXU).expect("a fifo");
        // Open for both directions: nobody waits for the other side.
        let file = OpenOptions::new().read(true).write(true).open(&path).expect("the fifo");
        (Self(file), format!("[Service]\nExecStartPre=/bin/sh -c 'read -r go <{}'\n", path.display()))
    }

    /// Lets one start through.
    fn open(&mut self) {
        self.0.write_all(b"go\n").expect("room in a fifo");
    }
}

const WEB: &str = "phased@web.service";
const BROKEN: &str = "eprint ModuleNotFoundError: No module named 'flask_login'\nexit 1";

#[test]
fn the_unit_files_are_understood_and_hardened() {
    let Some(site) = site() else { return };
    let systemd = Systemd::boot(&site, &[("phased@typo.service", "[Service]\nKillMod=process\n")]);
    let verify = |unit: &str| systemd.run(&["systemd-analyze", "verify", "--man=no", unit]);
    for unit in [WEB, "phased@web.socket"] {
        let said = verify(unit).expect(0);
        assert_eq!((said.stdout.as_str(), said.stderr.as_str()), ("", ""), "{unit}");
    }
    let said = verify("phased@typo.service");
    assert!(said.stderr.contains("KillMod"), "it would not notice: {said:?}");
    // In tenths: what systemd itself calls `OK` begins at 4.9.
    systemd.run(&["systemd-analyze", "security", "--no-pager", "--threshold=40", WEB]).expect(0);
}

#[test]
fn start_reload_and_stop() {
    let Some(site) = site() else { return };
    let systemd = Systemd::boot(&site, &[]);
    // A rehearsal on private sockets and an HTTP check, so that all of that is seen to work under the hardening.
    let address = systemd.configure("web", "check = [\"http:/health\"]\n");
    site.release("41", "");
    site.deploy("41");
    systemd.systemctl(&["start", WEB]);
    assert_eq!(systemd.show(WEB, "ActiveState"), "active");
    let status = format!("steady, 2/2 workers on {}", site.release_dir("41").display());
    assert_eq!(systemd.show(WEB, "StatusText"), status);
    assert!(systemd.systemctl(&["status", "--no-pager", WEB]).contains(&status));

    let load = Load::start(&address);
    load.until("41");
    site.release("42", "live gate boot");
    site.deploy("42");
    systemd.systemctl(&["reload", "--no-block", WEB]);
    let waiting = site.arrival("boot");
    assert_eq!(systemd.show(WEB, "ActiveState"), "reloading");
    assert!(
        systemd.show(WEB, "StatusText").starts_with("rolling, 2/2 workers to "),
        "{}",
        systemd.show(WEB, "StatusText")
    );
    site.open("boot");
    waiting.open();
    load.until("42");
    // It joins the job that runs: what it returns is the end of that.
    systemd.systemctl(&["reload", WEB]);
    assert_eq!(systemd.show(WEB, "StatusText"), status.replace("41", "42"));

    site.release("43", BROKEN);
    site.deploy("43");
    let said = systemd.run(&["systemctl", "reload", WEB]);
    assert_eq!(said.code, Some(1), "{said:?}");
    let journal = systemd.journal(WEB);
    for word in ["flask_login", "unable to boot with new codebase, using old one", "Reload failed"] {
        assert!(journal.contains(word), "{word:?} in {journal}");
    }
    let shown = systemd.systemctl(&["status", "--no-pager", "--lines=20", WEB]);
    assert!(shown.contains("flask_login") && shown.contains("Active: active"), "{shown}");
    assert_eq!(systemd.show(WEB, "StatusText"), status.replace("41", "42"));
    load.more(20);
    let tally = load.finish();
    assert!(!tally.releases.contains_key("43"), "{tally:?}");

    systemd.systemctl(&["stop", WEB]);
    assert_eq!((systemd.show(WEB, "ActiveState"), systemd.show(WEB, "Result")), ("inactive".into(), "success".into()));
    assert_eq!(systemd.left(), []);
    systemd.run(&["test", "!", "-e", "/run/phased/web"]).expect(0);
    systemd.run(&["test", "-s", "/var/lib/phased/web/state.json"]).expect(0);
    assert_eq!(systemd.show(WEB, "NRestarts"), "0");
}

#[test]
fn stop_waits_for_what_apps_have_begun() {
    let Some(site) = site() else { return };
    let systemd = Systemd::boot(&site, &[]);
    systemd.configure("web", "");
    site.release("41", "drain-gate drain");
    site.deploy("41");
    systemd.systemctl(&["start", WEB]);
    let mut stop = Ctl::start(&mut systemd.command(&["systemctl", "stop", WEB]));
    let (one, two) = (site.arrival("drain"), site.arrival("drain"));
    assert_eq!(systemd.show(WEB, "ActiveState"), "deactivating");
    assert!(systemd.show(WEB, "StatusText").starts_with("stopping"), "{}", systemd.show(WEB, "StatusText"));
    one.open();
    site.until_alive(|apps| apps.len() == 1);
    assert!(stop.waits());
    two.open();
    stop.end().expect(0);
    assert_eq!(systemd.left(), []);
}

#[test]
fn a_first_start_that_fails_is_tried_again() {
    let Some(site) = site() else { return };
    let systemd = Systemd::boot(&site, &[]);
    systemd.configure("web", "");
    // Both of the first start; then it boots, as with a database that is there at last.
    site.release("41", "starts 2 eprint no database\nstarts 2 exit 1");
    site.deploy("41");
    let said = systemd.run(&["systemctl", "start", WEB]);
    assert_eq!(said.code, Some(1), "{said:?}");
    let follow = systemd.follow(WEB);
    let at = follow.until(&site, 0, "no database");
    let at = follow.until(&site, at, "status=3");
    let at = follow.until(&site, at, "restart counter is at 1");
    follow.until(&site, at, "Started ");
    assert_eq!((systemd.show(WEB, "ActiveState"), systemd.show(WEB, "NRestarts")), ("active".into(), "1".into()));

    // What does not mend itself is not tried again.
    systemd.write("typo", "worker = 3\n");
    let said = systemd.run(&["systemctl", "start", "phased@typo"]);
    assert_eq!(said.code, Some(1), "{said:?}");
    let shown = [systemd.show("phased@typo", "ActiveState"), systemd.show("phased@typo", "ExecMainStatus")];
    assert_eq!(shown, ["failed", "2"]);
    assert!(systemd.journal("phased@typo").contains("workers"), "{}", systemd.journal("phased@typo"));
}

#[test]
fn the_watchdog_restarts_a_master_that_is_silent() {
    let Some(site) = site() else { return };
    let systemd = Systemd::boot(&site, &[("phased@web.service", "[Service]\nWatchdogSec=4s\n")]);
    let address = systemd.configure("web", "soak = \"5s\"\n");
    site.release("41", "");
    site.release("42", "");
    site.deploy("41");
    systemd.systemctl(&["start", WEB]);
    let fed = || systemd.show(WEB, "WatchdogTimestampMonotonic").parse::<u64>().expect("a number");
    let before = fed();
    // Its soak takes longer than the watchdog waits.
    site.deploy("42");
    systemd.systemctl(&["reload", WEB]);
    assert!(fed() > before, "never fed");
    assert_eq!(systemd.show(WEB, "NRestarts"), "0");

    let apps = systemd.apps();
    let load = Load::start(&address);
    load.until("42");
    systemd.kill_master("STOP");
    assert!(systemd.journal(WEB).contains("Watchdog timeout"), "{}", systemd.journal(WEB));
    assert_eq!(systemd.show(WEB, "NRestarts"), "1");
    load.more(20);
    load.finish();
    assert_eq!(systemd.apps(), apps);
}

#[test]
fn masters_come_and_go_and_the_apps_stay() {
    let Some(site) = site() else { return };
    let systemd = Systemd::boot(&site, &[]);
    let address = systemd.configure("web", "");
    site.release("41", "");
    site.deploy("41");
    systemd.systemctl(&["start", WEB]);
    let apps = systemd.apps();
    assert_eq!(apps.len(), 2);
    let load = Load::start(&address);
    load.more(20);
    let stays = |what: &str, restarts: &str| {
        load.more(20);
        assert_eq!((systemd.apps(), systemd.show(WEB, "ActiveState")), (apps.clone(), "active".into()), "{what}");
        assert_eq!(systemd.show(WEB, "NRestarts"), restarts, "{what}");
        systemd.show(WEB, "MainPID")
    };
    let first = stays("started", "0");
    systemd.systemctl(&["restart", WEB]);
    let second = stays("systemctl restart", "0");
    assert_ne!(first, second);
    systemd.kill_master("KILL");
    let third = stays("killed", "1");
    assert_ne!(second, third);
    systemd.ctl(&["upgrade"], 0);
    assert_eq!(stays("ctl upgrade", "1"), third);
    let follow = systemd.follow(WEB);
    let before = systemd.journal(WEB).lines().count();
    systemd.systemctl(&["kill", "--kill-whom=main", "--signal=USR2", WEB]);
    follow.until(&site, before, "adopted 2 workers");
    assert_eq!(stays("USR2", "1"), third);

    // A restart in a rollout leaves it undone.
    site.release("42", "slot 1 gate boot");
    site.deploy("42");
    systemd.systemctl(&["reload", "--no-block", WEB]);
    site.arrival("boot");
    systemd.systemctl(&["restart", WEB]);
    systemd.systemctl(&["is-active", WEB]);
    site.until_alive(|apps| apps.len() == 2 && apps.iter().all(|app| app.release == "41"));
    load.more(20);
    load.finish();
    systemd.systemctl(&["stop", WEB]);
    assert_eq!(systemd.left(), []);
    systemd.run(&["test", "!", "-e", "/run/phased/web"]).expect(0);
}

#[test]
fn a_soak_that_was_adopted_is_a_site_that_is_up() {
    let Some(site) = site() else { return };
    let systemd = Systemd::boot(&site, &[]);
    systemd.configure("web", "soak = \"1h\"\n");
    site.release("41", "");
    site.release("42", "");
    site.deploy("41");
    systemd.systemctl(&["start", WEB]);
    site.deploy("42");
    systemd.systemctl(&["reload", "--no-block", WEB]);
    let follow = systemd.follow(WEB);
    follow.until(&site, 0, "soaking for 1h");
    // It returns at once, and not when the soak is over, or the start's time.
    systemd.kill_master("KILL");
    assert_eq!(systemd.show(WEB, "ActiveState"), "reloading");
    systemd.ctl(&["abort"], 0);
    assert_eq!(systemd.show(WEB, "ActiveState"), "active");
    site.until_alive(|apps| apps.len() == 2 && apps.iter().all(|app| app.release == "41"));
}

#[test]
fn clients_wait_when_everybody_is_killed() {
    let Some(site) = site() else { return };
    let (mut door, waits) = Door::new(&site);
    let systemd = Systemd::boot(&site, &[("phased@web.service", &waits)]);
    let path = site.root().join("web.http");
    let address = Address::Unix(path.clone());
    systemd.write("web", &format!("listen = [\"unix://{}\", \"web=tcp://127.0.0.1:8080\"]\n", path.display()));
    site.release("41", "");
    site.deploy("41");
    door.open();
    systemd.systemctl(&["start", WEB]);
    assert_eq!(systemd.show(WEB, "NFileDescriptorStore"), "2");
    for round in ["41", "42"] {
        let follow = systemd.follow(WEB);
        let before = systemd.journal(WEB).lines().count();
        let everybody = systemd.left();
        systemd.systemctl(&["kill", "--signal=KILL", WEB]);
        for process in &everybody {
            site.until_ended(process.pid);
        }
        site.until_alive(<[_]>::is_empty);
        follow.until(&site, before, "Starting ");
        // Nobody is there, and nobody is refused.
        let waiting: Vec<_> = (0..20).map(|_| address.connect().expect("no refusal")).collect();
        let get = "exec 3<>/dev/tcp/127.0.0.1/8080 && echo connected && \
                   printf 'GET / HTTP/1.1\\r\\nHost: site\\r\\nConnection: close\\r\\n\\r\\n' >&3 && cat <&3";
        let tcp = Ctl::start(&mut systemd.command(&["bash", "-c", get]));
        tcp.stdout.wait(0, site.deadline(), |line| line == "connected").expect("no refusal");
        door.open();
        for mut stream in waiting {
            let answer = http::ask(&mut *stream, "/", true).expect("an answer");
            assert!(answer.status == 200 && answer.body.contains(&format!("release={round}")), "{answer:?}");
        }
        assert!(tcp.end().expect(0).stdout.contains(&format!("release={round}")));
        // It waits for the start that runs.
        systemd.systemctl(&["start", WEB]);
        assert_eq!(systemd.show(WEB, "NFileDescriptorStore"), "2");
        let load = Load::start(&address);
        site.release("42", "");
        site.deploy("42");
        systemd.systemctl(&["reload", WEB]);
        load.until("42");
        load.finish();
    }
    // Another address, and one that is not wanted any more: what was kept for them is given up.
    systemd.write("web", "listen = [\"web=tcp://127.0.0.2:8080\"]\n");
    systemd.systemctl(&["kill", "--signal=KILL", WEB]);
    door.open();
    let follow = systemd.follow(WEB);
    follow.until(&site, 0, "listening on tcp://127.0.0.2:8080");
    systemd.systemctl(&["start", WEB]);
    assert_eq!(systemd.show(WEB, "NFileDescriptorStore"), "1");
    systemd.run(&["bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/8080"]).expect(1);
    systemd.systemctl(&["stop", WEB]);
    assert_eq!(systemd.show(WEB, "NFileDescriptorStore"), "0");
    systemd.run(&["bash", "-c", "exec 3<>/dev/tcp/127.0.0.2/8080"]).expect(1);
}

#[test]
fn a_stop_between_two_masters_leaves_the_apps_for_a_while() {
    let Some(site) = site() else { return };
    let systemd = Systemd::boot(&site, &[("phased@web.service", "[Service]\nRestartSec=1h\n")]);
    let address = systemd.configure("web", "");
    site.release("41", "");
    site.deploy("41");
    systemd.systemctl(&["start", WEB]);
    let apps = systemd.apps();
    let stop_in_the_pause = || {
        let follow = systemd.follow(WEB);
        let before = systemd.journal(WEB).lines().count();
        systemd.systemctl(&["kill", "--kill-whom=main", "--signal=KILL", WEB]);
        follow.until(&site, before, "Failed with result 'signal'");
        systemd.systemctl(&["stop", WEB]);
        assert_eq!(systemd.show(WEB, "ActiveState"), "inactive");
        assert_eq!(systemd.apps(), apps);
    };
    let load = Load::start(&address);
    stop_in_the_pause();
    // A start within --orphan-timeout takes them back.
    systemd.systemctl(&["start", WEB]);
    load.more(20);
    load.finish();
    assert_eq!(systemd.apps(), apps);
    // And this, as the unit says, ends them at once.
    stop_in_the_pause();
    systemd.systemctl(&["kill", WEB]);
    site.until_alive(<[_]>::is_empty);
    systemd.systemctl(&["start", WEB]);
    assert!(http::get(&address, "/").expect("an answer").contains("release=41"));
}

#[test]
fn a_socket_of_systemd_starts_the_site() {
    let Some(site) = site() else { return };
    let path = site.root().join("web.http");
    let listen = format!("[Socket]\nListenStream=\nListenStream={}\n", path.display());
    let systemd = Systemd::boot(&site, &[("phased@web.socket", &listen)]);
    systemd.write("web", "");
    let address = Address::Unix(path.clone());
    site.release("41", "record boot");
    site.deploy("41");
    systemd.systemctl(&["start", "phased@web.socket"]);
    assert_eq!((systemd.show(WEB, "ActiveState"), site.boots("41")), ("inactive".into(), 0));
    assert!(http::get(&address, "/").expect("an answer").contains("release=41"));
    // The answer may come before the second worker is ready; start waits for that.
    systemd.systemctl(&["start", WEB]);
    assert_eq!(systemd.show(WEB, "ActiveState"), "active");
    let stats = systemd.run(&["ctl", "--socket", "/run/phased/web/web.sock", "--json", "stats"]).expect(0).json();
    let listener = &stats["listeners"][0];
    assert_eq!((listener["name"].as_str(), stats["listeners"].as_array().map(Vec::len)), (Some("http"), Some(1)));
    assert_eq!(listener["address"], format!("unix://{}", path.display()));

    let load = Load::start(&address);
    site.release("42", "");
    site.deploy("42");
    systemd.systemctl(&["reload", WEB]);
    load.until("42");
    load.finish();
    // The socket outlives the site, and the next request starts it again.
    systemd.systemctl(&["stop", WEB]);
    assert_eq!(systemd.left(), []);
    assert!(http::get(&address, "/").expect("an answer").contains("release=42"));
    systemd.systemctl(&["stop", "phased@web.socket", WEB]);
    assert_eq!(systemd.left(), []);
    assert!(!path.exists(), "{} is left over", path.display());
}

#[test]
fn sites_do_not_touch_each_other() {
    let Some(site) = site() else { return };
    let systemd = Systemd::boot(&site, &[]);
    systemd.configure("web", "");
    let api = systemd.configure("api", "");
    site.release("41", "");
    site.deploy("41");
    systemd.systemctl(&["start", WEB, "phased@api"]);
    systemd.systemctl(&["stop", WEB]);
    // The other one's control socket is there still, and so is all the rest.
    systemd.systemctl(&["reload", "phased@api"]);
    assert!(http::get(&api, "/").expect("an answer").contains("release=41"));
    assert_eq!(site.alive().len(), 2);
}
