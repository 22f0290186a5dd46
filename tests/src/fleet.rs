//! Several sites as the hosts of one Ansible inventory, and what `ansible-playbook` makes of them.
//!
//! Each host has a [`Site`] of its own, at the place of a machine, and Ansible reaches it by its `local` connection.
//! ansible-core is installed by `scripts/fleet-tools`; where it cannot be had, every test that needs it fails and says
//! why.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use crate::binaries::binary;
use crate::ctl::{Ctl, Output};
use crate::master::{Master, all_on};
use crate::site::Site;

/// How long a test may take in all: Ansible starts a Python for each task on each host.
const DEADLINE: Duration = Duration::from_secs(300);

/// What the hosts are called, in the order in which they get a release.
pub const HOSTS: [&str; 3] = ["one", "two", "three"];

/// A file of the project.
fn project(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the project").join(path)
}

/// The folder with Ansible's programs.
fn tools() -> &'static Path {
    static FOLDER: OnceLock<Output> = OnceLock::new();
    let said = FOLDER.get_or_init(|| Ctl::start(&mut Command::new(project("scripts/fleet-tools"))).end());
    assert_eq!(
        said.code,
        Some(0),
        "ansible-core is not installed, and scripts/fleet-tools cannot do it: {}",
        said.stderr
    );
    Path::new(said.stdout.trim())
}

/// Three hosts.
#[derive(Debug)]
pub struct Fleet {
    sites: Vec<Site>,
}

/// How a play ended.
#[derive(Clone, Debug)]
pub struct Play {
    /// What `ansible-playbook` exited with, and what it printed.
    pub said: Output,
    /// What its recap counts, by host: `ok`, `changed`, `failed`, … A host that the play did not come to is not in it.
    pub recap: BTreeMap<String, BTreeMap<String, u32>>,
}

impl Fleet {
    /// Three empty sites, as [`Site::new`].
    ///
    /// # Panics
    /// When there is no Ansible to be had, or no room.
    #[must_use]
    #[allow(clippy::new_without_default)]
    pub fn new() -> Self {
        // Installing it, where nobody has, takes none of the tests' time.
        let _ = tools();
        let fleet = Self { sites: HOSTS.iter().map(|_| Site::within(DEADLINE)).collect() };
        // Nothing may become root where Ansible runs: there it would fail. The hosts are left out of that here.
        let mut inventory =
            String::from("all:\n  vars:\n    ansible_become: true\n    ansible_become_exe: /bin/false\n");
        inventory.push_str("fleet:\n  vars:\n    ansible_become: false\n    ansible_connection: local\n");
        let python = tools().join("python");
        let _ = writeln!(inventory, "    ansible_python_interpreter: {}", python.display());
        let _ = writeln!(inventory, "    phased_ctl: {}\n  hosts:", binary("ctl").display());
        for (host, site) in HOSTS.iter().zip(&fleet.sites) {
            let (root, socket) = (site.root().display(), site.socket());
            let _ = writeln!(
                inventory,
                "    {host}:\n      phased_root: {root}\n      phased_socket: {}",
                socket.display()
            );
        }
        fs::write(fleet.own("inventory.yml"), inventory).expect("an inventory");
        fs::write(fleet.own("ansible.cfg"), "").expect("a configuration");
        fleet
    }

    /// A file of the machine that runs Ansible.
    fn own(&self, name: &str) -> PathBuf {
        self.sites[0].root().join(name)
    }

    /// The hosts' sites, in the order in which they get a release.
    #[must_use]
    pub fn sites(&self) -> &[Site] {
        &self.sites
    }

    /// Makes the folder of a release on the machine that runs Ansible. Its app is started by `start`, a script for `sh`, which
    /// is to end with `exec "$FIXTURE"`.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn source(&self, name: &str, start: &str) -> PathBuf {
        let folder = self.own("build").join(name);
        fs::create_dir_all(&folder).expect("a folder");
        for (file, text) in [("RELEASE", name), ("script", ""), ("start", start)] {
            fs::write(folder.join(file), text).expect("a release's file");
        }
        // What has to arrive as it was.
        fs::set_permissions(folder.join("start"), PermissionsExt::from_mode(0o754)).expect("a mode");
        std::os::unix::fs::symlink("start", folder.join("link")).expect("a symlink");
        folder
    }

    /// Packs a release's folder, as a folder in an archive.
    ///
    /// # Panics
    /// When it cannot be packed.
    #[must_use]
    pub fn archive(&self, source: &Path) -> PathBuf {
        let name = source.file_name().expect("a name");
        let archive = self.own("build").join(name).with_extension("tar.gz");
        let packed = Command::new("tar").arg("-czf").arg(&archive).arg("-C").arg(self.own("build")).arg(name).status();
        assert!(packed.expect("tar runs").success());
        archive
    }

    /// Starts a master on a host, for releases made by [`Self::source`], with `current` as it is.
    pub fn start<'a>(&'a self, site: &'a Site) -> Master<'a> {
        let fixture = binary("fixture");
        let master =
            site.master().env("FIXTURE", fixture.to_str().expect("a readable path")).command(&["sh", "start"]).start();
        master.until_state("steady");
        master
    }

    /// Runs `scripts/fleet/deploy.yml` to its end, for the release in `source`, with further arguments. Ansible is as it is out of
    /// the box, save that nothing of this machine's own settings reaches it.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn play(&self, source: &Path, more: &[&str]) -> Play {
        let mut command = self.ansible("ansible-playbook");
        command.arg("-e").arg(format!("phased_source={}", source.display())).args(more);
        let said = Ctl::start(&mut command).end();
        let recap = recap(&said.stdout);
        Play { said, recap }
    }

    /// One of Ansible's programs on the playbook and the inventory.
    fn ansible(&self, program: &str) -> Command {
        let mut command = Command::new(tools().join(program));
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("ANSIBLE_") {
                command.env_remove(name);
            }
        }
        for name in ["PHASED_SOCKET", "PHASED_NAME", "RUNTIME_DIRECTORY"] {
            command.env_remove(name);
        }
        command.env("ANSIBLE_HOME", self.own("ansible")).env("ANSIBLE_REMOTE_TMP", self.own("ansible/remote"));
        command
            .env("ANSIBLE_CONFIG", self.own("ansible.cfg"))
            .env("HOME", self.own("ansible"))
            .env("LC_ALL", "C.UTF-8");
        // Fewer processes for each task; what a task does is the same.
        command.env("ANSIBLE_PIPELINING", "1").env("ANSIBLE_NOCOLOR", "1");
        command.env("ANSIBLE_BECOME_ALLOW_SAME_USER", "1");
        command.env("TEST_SITE", self.sites[0].root()).current_dir(self.sites[0].root());
        command.arg("-i").arg(self.own("inventory.yml")).arg(project("scripts/fleet/deploy.yml"));
        command
    }

    /// `ansible-playbook --syntax-check`.
    #[must_use]
    pub fn check_syntax(&self) -> Output {
        Ctl::start(self.ansible("ansible-playbook").arg("--syntax-check")).end()
    }
}

impl Play {
    /// Demands an exit code.
    ///
    /// # Panics
    /// When it was another one.
    #[track_caller]
    pub fn expect(self, code: i32) -> Self {
        assert_eq!(self.said.code, Some(code), "{}\n{}", self.said.stdout, self.said.stderr);
        self
    }

    /// A host's count in the recap; `None` when the play did not come to it.
    #[must_use]
    pub fn count(&self, host: &str, what: &str) -> Option<u32> {
        self.recap.get(host).map(|counts| counts.get(what).copied().unwrap_or(0))
    }

    /// Whether Ansible printed this line, apart from what stands around it. With its own way to print, a text of several lines
    /// would be one line, full of `\n`.
    ///
    /// # Panics
    /// When it did not.
    #[track_caller]
    pub fn says(&self, line: &str) {
        let bare = |text: &str| text.trim().trim_end_matches(',').trim_matches('"').to_owned();
        assert!(
            self.said.stdout.lines().any(|printed| bare(printed) == line),
            "{line:?} is no line of:\n{}\n{}",
            self.said.stdout,
            self.said.stderr
        );
    }
}

/// `one : ok=7 changed=0 …` for each host.
fn recap(text: &str) -> BTreeMap<String, BTreeMap<String, u32>> {
    let lines = text.lines().skip_while(|line| !line.starts_with("PLAY RECAP")).skip(1);
    lines
        .filter_map(|line| {
            let (host, counts) = line.split_once(" : ")?;
            let counts = counts.split_whitespace().filter_map(|pair| pair.split_once('='));
            let counts = counts.map(|(what, n)| (what.to_owned(), n.parse().expect("a number"))).collect();
            Some((host.trim().to_owned(), counts))
        })
        .collect()
}

/// What `current` names: the text of the symlink.
///
/// # Panics
/// When it is none.
#[must_use]
pub fn current(site: &Site) -> String {
    fs::read_link(site.current()).expect("a symlink").display().to_string()
}

/// The names in `releases/`, sorted.
///
/// # Panics
/// When they cannot be read.
#[must_use]
pub fn releases(site: &Site) -> Vec<String> {
    let entries = fs::read_dir(site.root().join("releases")).expect("a folder");
    let mut names: Vec<_> =
        entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// A host serves this release, and nothing else goes on there.
///
/// # Panics
/// When not.
#[track_caller]
pub fn serves(master: &Master<'_>, release: &str) {
    let stats = master.stats();
    assert!(stats.state == "steady" && all_on(&stats, release), "{release} does not serve everywhere: {stats:#?}");
    assert_eq!(crate::master::name_of(&stats.release), release);
}
