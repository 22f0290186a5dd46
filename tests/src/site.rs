//! One test's world: a folder with releases and with everything that a master writes.

use std::fs;
use std::os::unix::fs::{DirBuilderExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::gates::{self, App, Entry, Gates, Waiting};
use crate::lines::Lines;
use crate::master::Start;
use crate::process;

/// How long a test may take in all.
const DEADLINE: Duration = Duration::from_secs(60);

/// One test's world. Its end kills every process of it.
#[derive(Debug)]
pub struct Site {
    scene: Arc<Scene>,
    gates: Gates,
    _watchdog: mpsc::Sender<()>,
}

/// What a site's parts share.
#[derive(Debug)]
pub(crate) struct Scene {
    folder: TempDir,
    pub(crate) deadline: Instant,
    logs: Mutex<Vec<(String, Arc<Lines>)>>,
    shown: AtomicBool,
    links: AtomicU32,
}

impl Site {
    /// An empty site. Its deadline begins now.
    ///
    /// # Panics
    /// When there is no room for it.
    #[must_use]
    #[allow(clippy::new_without_default)]
    pub fn new() -> Self {
        Self::within(DEADLINE)
    }

    /// The same with another deadline, for a test that has to run programs that take their time.
    ///
    /// # Panics
    /// When there is no room for it.
    #[must_use]
    pub fn within(deadline: Duration) -> Self {
        // Building them, where nobody has, takes none of the test's time.
        let _ = crate::binaries::folder();
        let folder = tempfile::Builder::new().prefix("ph-").tempdir().expect("a folder");
        // Other users reach into it in tests of permission; what has to be private is so by its own mode.
        fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("a mode");
        for name in ["releases", "state"] {
            fs::create_dir(folder.path().join(name)).expect("a folder");
        }
        fs::DirBuilder::new().mode(0o700).create(folder.path().join("run")).expect("a folder");
        let scene = Arc::new(Scene {
            folder,
            deadline: Instant::now() + deadline,
            logs: Mutex::new(Vec::new()),
            shown: AtomicBool::new(false),
            links: AtomicU32::new(0),
        });
        let gates = Gates::listen(scene.root());
        let (watchdog, ended) = mpsc::channel::<()>();
        let watched = Arc::clone(&scene);
        // A test that hangs in a `ctl` or in an HTTP request does not look at its deadline: this ends what it waits for.
        thread::spawn(move || {
            let grace = Duration::from_secs(5);
            let left = watched.deadline.saturating_duration_since(Instant::now()) + grace;
            if ended.recv_timeout(left) == Err(mpsc::RecvTimeoutError::Timeout) {
                watched.show("the test hangs");
                process::kill_site(watched.root());
            }
        });
        Self { scene, gates, _watchdog: watchdog }
    }

    /// The site's folder.
    #[must_use]
    pub fn root(&self) -> &Path {
        self.scene.root()
    }

    /// When the test has to be through.
    #[must_use]
    pub fn deadline(&self) -> Instant {
        self.scene.deadline
    }

    /// The symlink that `--dir` names.
    #[must_use]
    pub fn current(&self) -> PathBuf {
        self.root().join("current")
    }

    /// The folder of a release.
    #[must_use]
    pub fn release_dir(&self, name: &str) -> PathBuf {
        self.root().join("releases").join(name)
    }

    /// The control socket's path.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.root().join("run/site.sock")
    }

    /// The state folder that [`Self::master`] is given.
    #[must_use]
    pub fn state(&self) -> PathBuf {
        self.root().join("state")
    }

    /// Makes (or rewrites) a release whose app does what `script` says.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn release(&self, name: &str, script: &str) -> PathBuf {
        let folder = self.release_dir(name);
        fs::create_dir_all(&folder).expect("a release");
        let root = self.root().to_str().expect("a readable path");
        for (file, text) in [("RELEASE", name), ("site", root), ("script", script)] {
            fs::write(folder.join(file), text).expect("a release's file");
        }
        folder
    }

    /// Lets `current` name a release, atomically, as a deploy tool does.
    pub fn deploy(&self, name: &str) {
        self.point(&self.release_dir(name));
    }

    /// Lets `current` name anything.
    ///
    /// # Panics
    /// When the symlink cannot be made.
    pub fn point(&self, target: &Path) {
        let link = self.root().join(format!("current.{}", self.scene.links.fetch_add(1, Ordering::Relaxed)));
        symlink(target, &link).expect("a symlink");
        fs::rename(&link, self.current()).expect("a renamed symlink");
    }

    /// A master to be started in this site: two workers, no soak, a TCP listener, the fixture as the app.
    #[must_use]
    pub fn master(&self) -> Start<'_> {
        Start::new(self)
    }

    /// Makes release `name` with `script`, deploys it and starts a master with `workers` slots; returns once it is
    /// steady.
    #[must_use]
    pub fn steady(&self, name: &str, script: &str, workers: u32) -> crate::Master<'_> {
        self.release(name, script);
        self.deploy(name);
        let master = self.master().workers(workers).start();
        master.until_state("steady");
        master
    }

    /// Waits until an app stands at a gate.
    ///
    /// # Panics
    /// At the deadline.
    pub fn arrival(&self, gate: &str) -> Waiting {
        self.gates
            .arrival(gate, self.deadline())
            .unwrap_or_else(|seen| panic!("nobody came to the gate {gate}\n{seen}"))
    }

    /// Opens a gate for all, now and later.
    pub fn open(&self, gate: &str) {
        self.gates.open(gate);
    }

    /// The gates, and who is alive.
    #[must_use]
    pub fn gates(&self) -> &Gates {
        &self.gates
    }

    /// The apps that live now.
    #[must_use]
    pub fn alive(&self) -> Vec<App> {
        self.gates.alive()
    }

    /// Waits until the living apps are as `wanted` says.
    ///
    /// # Panics
    /// At the deadline.
    pub fn until_alive(&self, wanted: impl FnMut(&[App]) -> bool) -> Vec<App> {
        self.gates.until(self.deadline(), wanted).unwrap_or_else(|seen| panic!("the apps are not as wanted\n{seen}"))
    }

    /// What the apps did, in order.
    #[must_use]
    pub fn history(&self) -> Vec<Entry> {
        gates::history(self.root())
    }

    /// How often the app of a release was started.
    #[must_use]
    pub fn boots(&self, release: &str) -> usize {
        self.history().iter().filter(|entry| entry.what == "start" && entry.app.release == release).count()
    }

    /// How often a release was rehearsed.
    #[must_use]
    pub fn rehearsals(&self, release: &str) -> usize {
        self.history().iter().filter(|entry| entry.what == "rehearsal" && entry.app.release == release).count()
    }

    /// How often a hook (a check) ran in a release.
    #[must_use]
    pub fn hooks(&self, hook: &str, release: &str) -> usize {
        let what = format!("hook:{hook}");
        self.history().iter().filter(|entry| entry.what == what && entry.app.release == release).count()
    }

    /// What `fixture hook NAME` does in a release, beyond recording what it was given.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn hook_script(&self, release: &str, hook: &str, script: &str) {
        fs::write(self.release_dir(release).join(format!("hook-{hook}")), script).expect("a release's file");
    }

    /// What processes recorded under a name (`src/bin/fixture/record.rs`), in order.
    ///
    /// # Panics
    /// When something else stands there.
    #[must_use]
    pub fn records(&self, name: &str) -> Vec<serde_json::Value> {
        let text = fs::read_to_string(self.root().join("records.jsonl")).unwrap_or_default();
        let all = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).expect("a record"));
        all.filter(|record| record["name"] == name).collect()
    }

    /// What the apps of a release with `access-log` did on one address: `accepted` or the path of a request, in order.
    #[must_use]
    pub fn accesses(&self, release: &str, address: &str) -> Vec<String> {
        let text = fs::read_to_string(self.root().join("access.log")).unwrap_or_default();
        let of = |line: &str| {
            let mut words = line.split_whitespace();
            let (by, _, on, what) = (words.next()?, words.next()?, words.next()?, words.next()?);
            (by == release && on == address).then(|| what.to_owned())
        };
        text.lines().filter_map(of).collect()
    }

    /// The fewest apps that served at the same time, from the moment when `at_first` served for the first time: an app
    /// serves from `serving` until `term`; one that is rehearsed does not. It counts what the apps saw, so crashes must not
    /// be among what happened.
    #[must_use]
    pub fn fewest_serving(&self, at_first: usize) -> usize {
        let (mut serving, mut fewest, mut begun) = (0_usize, usize::MAX, false);
        let history = self.history();
        let rehearsed: Vec<i32> =
            history.iter().filter(|entry| entry.what == "rehearsal").map(|entry| entry.app.pid).collect();
        for entry in history.iter().filter(|entry| !rehearsed.contains(&entry.app.pid)) {
            match entry.what.as_str() {
                "serving" => serving += 1,
                "term" => serving = serving.saturating_sub(1),
                _ => {}
            }
            begun |= serving >= at_first;
            if begun {
                fewest = fewest.min(serving);
            }
        }
        fewest
    }

    /// Waits until a process has ended.
    ///
    /// # Panics
    /// At the deadline.
    pub fn until_ended(&self, pid: i32) {
        assert!(process::wait_end(pid, self.deadline()), "process {pid} does not end: {:?}", process::look(pid));
    }

    pub(crate) fn scene(&self) -> &Arc<Scene> {
        &self.scene
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        if thread::panicking() {
            self.scene.show("the test failed");
        }
        process::kill_site(self.scene.root());
    }
}

impl Scene {
    pub(crate) fn root(&self) -> &Path {
        self.folder.path()
    }

    /// Keeps a log for a failing test to show.
    pub(crate) fn keep(&self, name: &str, lines: &Arc<Lines>) {
        self.logs.lock().expect("no panics under this lock").push((name.to_owned(), Arc::clone(lines)));
    }

    /// Shows everything that helps to understand a failure, once.
    pub(crate) fn show(&self, why: &str) {
        if self.shown.swap(true, Ordering::Relaxed) {
            return;
        }
        eprintln!("\n======== {why}: {}", self.root().display());
        eprintln!("-------- processes\n{}", process::table(&process::of_site(self.root())));
        for log in ["apps.log", "access.log", "records.jsonl"] {
            eprintln!("-------- {log}\n{}", fs::read_to_string(self.root().join(log)).unwrap_or_default());
        }
        for (name, lines) in self.logs.lock().expect("no panics under this lock").iter() {
            let all = lines.all();
            let skipped = all.len().saturating_sub(400);
            eprintln!("-------- {name} ({} entries, {skipped} not shown)\n{}", all.len(), all[skipped..].join("\n"));
        }
        eprintln!("========");
    }
}
