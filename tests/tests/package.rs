//! The Debian package that `scripts/deb` makes: what is in it, and its life on a system with a real systemd. And
//! `cargo install`.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::OnceLock;

use tests::binaries::{self, binary};
use tests::lines::Lines;
use tests::{Ctl, Output, Site, process};

/// The project's root.
fn project(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

/// The package with the binaries under test.
fn package() -> &'static Path {
    static PACKAGE: OnceLock<(tempfile::TempDir, PathBuf)> = OnceLock::new();
    let (_, file) = PACKAGE.get_or_init(|| {
        let folder = tempfile::tempdir().expect("a folder");
        let mut command = Command::new(project("scripts/deb"));
        let said = Ctl::start(command.arg("--bin").arg(binaries::folder()).arg(folder.path())).end().expect(0);
        let file = PathBuf::from(said.stdout.trim_end());
        (folder, file)
    });
    file
}

fn dpkg_deb(option: &str) -> String {
    Ctl::start(Command::new("dpkg-deb").arg(option).arg(package())).end().expect(0).stdout
}

#[test]
fn a_package_holds_what_belongs_to_it() {
    let info = dpkg_deb("--info");
    for field in ["Package: phased", "Depends: libc6", "Maintainer: ", "Section: httpd", "Description: "] {
        assert!(info.contains(&format!(" {field}")), "{field} in {info}");
    }
    let contents = dpkg_deb("--contents");
    let mut files = BTreeSet::new();
    for line in contents.lines() {
        // MODE OWNER SIZE DATE TIME PATH [-> TARGET]
        let words: Vec<_> = line.split_whitespace().collect();
        assert_eq!(words[1], "0/0", "{line}");
        assert!(words[5].starts_with("./usr/"), "outside /usr there is only what a person writes: {line}");
        let modes = ["-rw-r--r--", "-rwxr-xr-x", "drwxr-xr-x", "lrwxrwxrwx"];
        assert!(modes.contains(&words[0]), "{line}");
        assert_eq!(
            words[0] == "-rwxr-xr-x",
            words[5].starts_with("./usr/lib/phased/") && words[0].starts_with('-'),
            "{line}"
        );
        files.insert(words[5].trim_start_matches('.'));
    }
    for file in [
        "/usr/lib/phased/master",
        "/usr/lib/phased/worker",
        "/usr/lib/phased/ctl",
        "/usr/bin/phased-master",
        "/usr/bin/phased-ctl",
        "/usr/share/man/man1/phased-ctl.1.gz",
        "/usr/share/man/man8/phased-master.8.gz",
        "/usr/share/man/man8/phased-worker.8.gz",
        "/usr/share/bash-completion/completions/phased-ctl",
        "/usr/share/bash-completion/completions/phased-master",
        "/usr/share/zsh/vendor-completions/_phased-ctl",
        "/usr/share/zsh/vendor-completions/_phased-master",
        "/usr/share/fish/vendor_completions.d/phased-ctl.fish",
        "/usr/share/fish/vendor_completions.d/phased-master.fish",
        "/usr/lib/systemd/system/phased@.service",
        "/usr/lib/systemd/system/phased@.socket",
        "/usr/lib/tmpfiles.d/phased.conf",
        "/usr/share/doc/phased/README.md",
        "/usr/share/doc/phased/CHANGELOG.md",
        "/usr/share/doc/phased/copyright",
        "/usr/share/doc/phased/examples/shop.toml",
    ] {
        assert!(files.contains(file), "{file} is not in\n{contents}");
    }
    for script in ["postinst", "prerm", "postrm"] {
        Ctl::start(Command::new("sh").arg("-n").arg(project("scripts/debian").join(script))).end().expect(0);
    }
}

/// The example is one that a master takes, but for the paths and the user of the machine that it is written for.
#[test]
fn the_example_is_understood() {
    let site = Site::new();
    site.release("41", "");
    site.deploy("41");
    let example = fs::read_to_string(project("scripts/debian/shop.toml")).expect("the example");
    let example = example.replace("/srv/shop/current", site.current().to_str().expect("text"));
    let example: String =
        example.lines().filter(|line| !line.starts_with("user =")).map(|l| format!("{l}\n")).collect();
    let file = site.root().join("shop.toml");
    fs::write(&file, example).expect("a file");
    let mut command = Command::new(binary("master"));
    command.arg("--check-config").arg("--config").arg(&file).arg("--state").arg(site.state());
    Ctl::start(&mut command).end().expect(0);
}

/// A Debian that runs, with a package of ours in reach.
struct Debian {
    script: Child,
    leash: Option<ChildStdin>,
    pid: i32,
}

impl Debian {
    fn boot(site: &Site) -> Self {
        let mut command = Command::new(project("scripts/systemd-box"));
        for bind in [
            site.root().display().to_string(),
            format!("{}:/usr/local/bin/fixture", binary("fixture").display()),
            format!("{}:/phased.deb", package().display()),
        ] {
            command.arg("--bind").arg(bind);
        }
        let mut script =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("sh");
        let said = Lines::read(script.stdout.take().expect("a pipe"));
        let errors = Lines::read(script.stderr.take().expect("a pipe"));
        let Ok((_, line)) = said.wait(0, site.deadline(), |line| line.starts_with("booted ")) else {
            let _ = errors.wait_closed(site.deadline());
            panic!("no systemd can be booted here: {}", errors.text());
        };
        let pid = line.trim_start_matches("booted ").parse().expect("a pid");
        let leash = script.stdin.take();
        Self { script, leash, pid }
    }

    /// Runs a line in it.
    #[track_caller]
    fn run(&self, line: &str, code: i32) -> Output {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.pid.to_string(), "--all", "--", "sh", "-c", line]);
        command.env_clear().env("PATH", "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        let said = Ctl::start(&mut command).end();
        assert_eq!(said.code, Some(code), "{line}\n{}\n{}", said.stdout, said.stderr);
        said
    }

    /// A path in it, from here.
    fn path(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{path}", self.pid))
    }

    /// Every file where a package may leave some; what dpkg itself and systemd write is not ours.
    fn files(&self) -> BTreeSet<PathBuf> {
        let mut found = BTreeSet::new();
        let mut folders: Vec<_> = ["/etc", "/usr", "/var", "/run", "/tmp"].map(|folder| self.path(folder)).into();
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
                let kind = entry.file_type().expect("a type");
                let name = entry.path().display().to_string();
                if ["/var/lib/dpkg", "/var/log", "/run/systemd", "/run/log", "/usr/local"]
                    .iter()
                    .any(|own| name.ends_with(own))
                {
                    continue;
                }
                if kind.is_dir() {
                    folders.push(entry.path());
                }
                found.insert(entry.path());
            }
        }
        found
    }

    fn ours(&self) -> Vec<process::Process> {
        let mut all = process::descendants(self.pid);
        all.retain(|process| ["phased", "worker", "fixture"].iter().any(|word| process.command.contains(word)));
        all
    }
}

impl Drop for Debian {
    fn drop(&mut self) {
        drop(self.leash.take());
        let _ = self.script.wait();
    }
}

#[test]
fn a_package_is_installed_used_upgraded_removed_and_purged() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("NOT TESTED: only root can boot a systemd of its own");
        assert!(std::env::var_os("CI").is_none(), "CI has to be able to");
        return;
    }
    Ctl::start(&mut Command::new(project("scripts/managers"))).end().expect(0);
    package();
    let site = Site::new();
    let debian = Debian::boot(&site);
    // The folder is made without dpkg's own memory of it.
    debian.run("mkdir -p /var/lib/dpkg/info /var/lib/dpkg/updates && : >/var/lib/dpkg/status", 0);
    let before = debian.files();
    let dpkg = "dpkg --force-depends --force-bad-path";
    debian.run(&format!("{dpkg} --install /phased.deb"), 0);
    assert_eq!(debian.run("phased-ctl --version", 0).stdout, format!("ctl {}", env!("CARGO_PKG_VERSION")));
    assert_eq!(debian.run("stat -c %a:%U /run/phased", 0).stdout, "755:root");
    let verified = debian.run("systemd-analyze verify --man=no phased@web.service phased@web.socket", 0);
    assert_eq!((verified.stdout.as_str(), verified.stderr.as_str()), ("", ""));

    site.release("41", "");
    site.deploy("41");
    let config = format!(
        "dir = \"{}\"\nworkers = 2\nsoak = \"0s\"\nlisten = [\"unix://{}\"]\ncommand = [\"/usr/local/bin/fixture\"]\n",
        site.current().display(),
        site.root().join("http").display()
    );
    fs::write(debian.path("/etc/phased/web.toml"), config).expect("a file");
    debian.run("systemctl enable --now phased@web", 0);
    let said = debian.run("phased-ctl status", 0);
    assert!(said.stdout.contains("steady, 2/2"), "{said:?}");
    site.release("42", "");
    site.deploy("42");
    debian.run("systemctl reload phased@web", 0);
    site.release("43", "eprint ModuleNotFoundError: No module named 'flask_login'\nexit 1");
    site.deploy("43");
    let said = debian.run("phased-ctl --name web phased-restart", 3);
    assert!(said.stderr.contains("flask_login"), "{said:?}");
    assert!(site.alive().iter().all(|app| app.release == "42"));

    // Another version of the package under a living site: nothing happens to it, until it is asked to.
    let pids = |site: &Site| site.alive().iter().map(|app| app.pid).collect::<BTreeSet<_>>();
    let apps = pids(&site);
    let master = debian.run("systemctl show --value --property MainPID phased@web", 0).stdout;
    debian.run(&format!("{dpkg} --install /phased.deb"), 0);
    assert_eq!(debian.run("systemctl show --value --property MainPID phased@web", 0).stdout, master);
    debian.run("phased-ctl upgrade", 0);
    let said = debian.run("phased-ctl status", 0);
    assert!(said.stdout.contains("steady, 2/2"), "{said:?}");
    assert_eq!(pids(&site), apps);

    debian.run(&format!("{dpkg} --remove phased"), 0);
    assert_eq!(debian.ours(), []);
    debian.run("test ! -e /usr/bin/phased-ctl", 0);
    // What a site knows survives until it is purged.
    debian.run("test -s /var/lib/phased/web/state.json", 0);
    debian.run(&format!("{dpkg} --purge phased"), 0);
    // A person wrote it, and the folder had to stay with it.
    debian.run("rm /etc/phased/web.toml && rmdir /etc/phased", 0);
    let mut left = debian.files();
    left.retain(|path| !before.contains(path));
    // The test's own site lies in there, and `systemctl enable` has made a folder, which is empty again.
    let own = debian.path(site.root().to_str().expect("text"));
    left.retain(|path| !path.starts_with(&own) && !path.ends_with("multi-user.target.wants"));
    assert_eq!(left, BTreeSet::new());
}

#[test]
fn each_program_is_installed_by_cargo() {
    let root = tempfile::tempdir().expect("a folder");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    // TARGET/PROFILE/deps/TEST. A folder of its own in there: the programs under test are not to be replaced meanwhile.
    let test = std::env::current_exe().expect("the test's own path");
    let target = test.ancestors().nth(3).expect("a target folder").join("install");
    for name in ["master", "worker", "ctl"] {
        let mut command = Command::new(&cargo);
        command
            .args(["install", "--quiet", "--debug", "--locked", "--no-track", "--path", name, "--root"])
            .arg(root.path());
        // As it is said here it is quicker built, and it is the same program.
        command.args(["--config", "profile.dev.package.master.opt-level=0", "--config", "profile.dev.debug=false"]);
        command.arg("--target-dir").arg(&target);
        Ctl::start(command.current_dir(project(""))).end().expect(0);
    }
    let bin = root.path().join("bin");
    let mut installed: Vec<_> =
        fs::read_dir(&bin).expect("a folder").map(|file| file.expect("a file").file_name()).collect();
    installed.sort();
    assert_eq!(installed, ["ctl", "master", "worker"]);
    // Its time begins here: building takes none of it.
    let site = Site::new();
    site.release("41", "");
    site.deploy("41");
    let master = site.master().bin(&bin).workers(1).start();
    master.until_state("steady");
    let said =
        Ctl::start(Command::new(bin.join("ctl")).arg("--socket").arg(site.socket()).arg("status")).end().expect(0);
    assert!(said.stdout.contains("steady"), "{said:?}");
}
