//! Real servers, and the small applications in `tests/servers` that they run.
//!
//! The servers are installed by `scripts/servers`, once for each run of a test binary; where one cannot be had, every
//! test that needs it fails and says why.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use proto::control::Stats;
use proto::worker::Evidence;

use crate::master::{Master, Start, release_name};
use crate::process;
use crate::site::Site;

/// The project's root.
fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the project")
}

/// The folder with everything that `scripts/servers` installs: `bin/NAME`, and `venv` for Python's.
///
/// # Panics
/// When the installation fails, with what it said.
#[must_use]
pub fn folder() -> &'static Path {
    static FOLDER: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| {
        let script = root().join("scripts/servers");
        let output = Command::new(&script).output().map_err(|error| format!("{}: {error}", script.display()))?;
        if !output.status.success() {
            return Err(format!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr)));
        }
        let bin = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
        bin.parent().map(Path::to_owned).ok_or_else(|| format!("it printed {}", bin.display()))
    });
    match folder {
        Ok(folder) => folder,
        Err(error) => panic!("the real servers are not installed, and scripts/servers cannot do it: {error}"),
    }
}

/// A server, how it is started on the inherited socket, and what becomes of it when a release is broken.
#[derive(Clone, Copy, Debug)]
pub struct Server {
    /// The application's folder in `tests/servers`: `good` and `broken` lie in it.
    pub app: &'static str,
    /// The program, below [`folder`]; `./NAME`: in the release.
    pub program: &'static str,
    /// Its arguments; `{user}` in them and in the options is this test's own user.
    pub args: &'static [&'static str],
    /// Further options of the master.
    pub options: &'static [&'static str],
    /// What the broken release says of itself.
    pub error: &'static str,
    /// What puts the program into a release, where it lies there.
    pub build: Option<fn(&Path)>,
}

/// gunicorn, one request at a time.
pub const GUNICORN_SYNC: Server = Server {
    app: "wsgi",
    program: "bin/gunicorn",
    args: &["-w", "1", "--no-control-socket", "app:app"],
    options: &[],
    error: "ModuleNotFoundError: No module named 'flask_login_of_the_next_release'",
    build: None,
};

/// gunicorn with threads: kept connections, an epoll.
pub const GUNICORN_GTHREAD: Server =
    Server { args: &["-w", "1", "-k", "gthread", "--threads", "4", "--no-control-socket", "app:app"], ..GUNICORN_SYNC };

/// gunicorn as an ASGI server.
pub const GUNICORN_ASGI: Server = Server {
    app: "asgi",
    args: &["-w", "1", "-k", "asgi", "--no-control-socket", "app:app"],
    error: "SyntaxError: expected ':'",
    ..GUNICORN_SYNC
};

/// uvicorn, stopped with care.
pub const UVICORN: Server = Server {
    app: "asgi",
    program: "venv/bin/python",
    args: &["serve_uvicorn.py"],
    options: &[],
    error: "SyntaxError: expected ':'",
    build: None,
};

/// uvicorn as its own program, which drops what it has not read when it stops.
pub const UVICORN_PLAIN: Server =
    Server { program: "bin/uvicorn", args: &["--fd", "3", "--no-access-log", "app:app"], ..UVICORN };

/// hypercorn, stopped with care.
pub const HYPERCORN: Server = Server { args: &["serve_hypercorn.py"], ..UVICORN };

/// daphne, stopped with care.
pub const DAPHNE: Server = Server { args: &["serve_daphne.py"], ..UVICORN };

/// daphne as its own program, with the same fault as uvicorn's.
pub const DAPHNE_PLAIN: Server =
    Server { program: "bin/daphne", args: &["--fd", "3", "--access-log", "/dev/null", "app:app"], ..DAPHNE };

/// uWSGI, which takes the inherited socket by itself.
pub const UWSGI: Server = Server {
    program: "bin/uwsgi",
    args: &[
        "--master",
        "--need-app",
        "--ignore-sigpipe",
        "--protocol",
        "http",
        "--add-header",
        "Connection: close",
        "--hook-master-start",
        "unix_signal:15 gracefully_kill_them_all",
        "--disable-logging",
        "--module",
        "app:app",
    ],
    ..GUNICORN_SYNC
};

/// node's own HTTP server.
pub const NODE: Server = Server {
    app: "node",
    program: "bin/node",
    args: &["server.js"],
    options: &[],
    error: "Cannot find module 'package-of-the-next-release'",
    build: None,
};

/// puma, without its queue.
pub const PUMA: Server = Server {
    app: "rack",
    program: "bin/puma",
    args: &["-C", "puma.rb"],
    options: &[],
    error: "cannot load such file -- gem_of_the_next_release",
    build: None,
};

/// puma as a Rails application has it: `config/puma.rb`, threads by RAILS_MAX_THREADS.
pub const RAILS: Server = Server { app: "rails", args: &["-C", "config/puma.rb"], ..PUMA };

/// Django in gunicorn's threads.
pub const DJANGO: Server = Server {
    app: "django",
    args: &["-w", "1", "-k", "gthread", "--threads", "3", "--no-control-socket", "shop.wsgi:application"],
    ..GUNICORN_SYNC
};

/// unicorn, which loads the application in its first process.
pub const UNICORN: Server =
    Server { program: "bin/unicorn", args: &["-c", "unicorn.rb"], options: &["--stop-signal", "QUIT"], ..PUMA };

/// Starlet, which is given the inherited socket by Server::Starter's variable.
pub const STARLET: Server = Server {
    app: "psgi",
    program: "bin/plackup",
    args: &["-s", "Starlet", "-E", "production", "--max-workers", "4", "app.psgi"],
    options: &[],
    error: "Can't locate Module/Of/The/Next/Release.pm in @INC",
    build: None,
};

/// Starman, the same way. Both of its stops lose requests.
pub const STARMAN: Server = Server {
    program: "bin/starman",
    args: &["--workers", "4", "--preload-app", "-E", "production", "app.psgi"],
    ..STARLET
};

/// A server in Go.
pub const GO: Server = Server {
    app: "go",
    program: "./server",
    args: &[],
    options: &[],
    error: "open greeting.txt: no such file or directory",
    build: Some(build_go),
};

/// A server in Rust, made with axum and listenfd (`tests/servers/rust/good/main.rs`).
pub const RUST: Server =
    Server { app: "rust", error: "Error: \"greeting.txt: No such file or directory", build: Some(build_rust), ..GO };

/// php-fpm, which compiles the application while it boots.
pub const PHP_FPM: Server = Server {
    app: "php",
    program: "bin/php-fpm",
    args: &[
        "--nodaemonize",
        "--force-stderr",
        "--allow-to-run-as-root",
        "--fpm-config",
        "fpm.conf",
        "-d",
        "opcache.preload={release}/preload.php",
        "-d",
        "opcache.preload_user={user}",
    ],
    options: &["--stop-signal", "QUIT", "--env", "FPM_SOCKETS=/none/inherited.sock={fd}", "--env", "FPM_USER={user}"],
    error: "PHP Parse error:  syntax error",
    build: None,
};

/// Copies a folder, into one that may be there.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder");
    for entry in fs::read_dir(from).unwrap_or_else(|error| panic!("{}: {error}", from.display())) {
        let entry = entry.expect("an entry");
        let to = to.join(entry.file_name());
        if entry.file_type().expect("a type").is_dir() {
            copy(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).expect("a copy");
        }
    }
}

/// Puts a program there. Another program copies it, see [`crate::binaries::copy`].
fn install(program: &Path, release: &Path) {
    let copied = Command::new("cp").arg(program).arg(release.join("server")).status().expect("cp runs");
    assert!(copied.success(), "{} cannot be copied", program.display());
}

/// Compiles `main.go` of a site's first release, and gives the same program to all of them.
fn build_go(release: &Path) {
    let built = release.ancestors().nth(2).expect("the site's folder").join("built");
    if !built.exists() {
        let go = folder().join("bin/go");
        let mut command = Command::new(&go);
        command.args(["build", "-o"]).arg(&built).arg("main.go").current_dir(release);
        // What was compiled before is kept beside the servers; nothing is looked for anywhere else.
        command.env("GOCACHE", folder().join("go")).env("GOPROXY", "off").env("GOFLAGS", "");
        let output = command.output().unwrap_or_else(|error| panic!("{}: {error}", go.display()));
        assert!(output.status.success(), "go build: {}", String::from_utf8_lossy(&output.stderr));
    }
    install(&built, release);
}

/// The program lies beside the running test (`TARGET/PROFILE/deps/TEST`): cargo builds it with that.
fn build_rust(release: &Path) {
    let test = std::env::current_exe().expect("the test's own path");
    install(&test.ancestors().nth(2).expect("a profile folder").join("rust-server"), release);
}

/// php-fpm as root asks for a user's name; any other user can only give its own.
fn with_user(text: &str) -> String {
    let user = nix::unistd::User::from_uid(nix::unistd::geteuid()).ok().flatten();
    text.replace("{user}", user.as_ref().map_or("nobody", |user| &user.name))
}

impl Server {
    /// The words of the master's COMMAND.
    #[must_use]
    pub fn command(&self) -> Vec<OsString> {
        let words = self.args.iter().map(|arg| with_user(arg).into());
        if self.program.starts_with("./") {
            return std::iter::once(self.program.into()).chain(words).collect();
        }
        let program = folder().join(self.program);
        assert!(program.exists(), "scripts/servers did not install {}", program.display());
        std::iter::once(program.into()).chain(words).collect()
    }

    /// Its options of the master.
    #[must_use]
    pub fn options(&self) -> Vec<String> {
        self.options.iter().map(|option| with_user(option)).collect()
    }

    /// Makes release `name` out of the application's files of `kind`: `good` or `broken`.
    ///
    /// # Panics
    /// When they cannot be copied.
    pub fn release(&self, site: &Site, name: &str, kind: &str) -> PathBuf {
        let from = root().join("tests/servers").join(self.app).join(kind);
        let to = site.release_dir(name);
        copy(&from, &to);
        if let Some(build) = self.build {
            build(&to);
        }
        to
    }

    /// Makes a release of the same name out of the good one, that boots and then behaves like this: `sick`, `wakes`, `hangs`
    /// or `dies`, as `tests/servers/APP/trust` says.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn behaves(&self, site: &Site, behaviour: &str) {
        self.release(site, behaviour, "good");
        let folder = self.release(site, behaviour, "trust");
        fs::write(folder.join("behaviour"), behaviour).expect("a release's file");
    }

    /// Starts a master of it.
    #[must_use]
    pub fn start<'a>(&self, master: Start<'a>) -> Master<'a> {
        let options = self.options();
        let options: Vec<&str> = options.iter().map(String::as_str).collect();
        master.options(&options).command(&self.command()).start()
    }
}

/// Every slot is ready on `release`, and was seen to wait at the inherited socket.
///
/// # Panics
/// When not.
#[track_caller]
pub fn all_on(stats: &Stats, release: &str) {
    assert_eq!((stats.booted_workers, stats.old_workers), (2, 0), "{stats:#?}");
    for worker in &stats.worker_status {
        assert_eq!((release_name(worker).as_str(), worker.state.as_str()), (release, "ready"), "{stats:#?}");
        assert_eq!(worker.evidence, Some(Evidence::Accepting), "{stats:#?}");
    }
}

/// The master ends well, and nothing of its apps is left.
///
/// # Panics
/// When not.
#[track_caller]
pub fn stopped(mut master: Master<'_>) {
    let _ = master.ctl(&["stop"]).expect(0);
    assert_eq!(master.end().code(), Some(0));
    let left = process::of_site(master.site().root());
    assert!(left.is_empty(), "left behind:\n{}", process::table(&left));
}
