//! From what the master ordered to what execve(2) is given: the words, or the release's Procfile line, looked up in the
//! app's own PATH and in its release.
//!
//! Everything that can be known to fail is found here, before the fork, where the message can still say what was looked
//! for and where. `Err` is always a sentence for a person: the reason and the way out.

use std::ffi::CString;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::os::fd::BorrowedFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use nix::libc;
use nix::unistd::{AccessFlags, faccessat};
use proto::worker::{BootSpec, Bytes, Command};

use crate::env::{self, Env};
use crate::expand::expand;
use crate::procfile::{self, Refusal};
use crate::sys;

/// Where commands without a slash are looked up when the app's environment has no PATH (execvp(3)'s own default).
const DEFAULT_PATH: &[u8] = b"/bin:/usr/bin";

/// What to execute, in the release directory.
#[derive(Debug)]
pub(crate) struct Resolved {
    /// Absolute, or relative to the release.
    pub(crate) path: CString,
    /// `argv[0]` as it was written.
    pub(crate) argv: Vec<CString>,
}

/// Finds the command in the release that `dir` is, and adds Procfile assignments and `--env` to `env`, in this order.
///
/// # Errors
/// A sentence that names what was looked for and the way out.
pub(crate) fn resolve(spec: &BootSpec, dir: BorrowedFd<'_>, env: &mut Env) -> Result<Resolved, String> {
    match &spec.command {
        Command::Words(words) => {
            add_given(env, spec)?;
            let words = words.iter().map(|w| expand(w, spec).map_err(|e| format!("in COMMAND, {e}")));
            let words = words.collect::<Result<Vec<_>, _>>()?;
            let Some(command) = words.first().filter(|w| !w.is_empty()) else {
                return Err("the command is empty; give COMMAND behind `--`, or a Procfile in the release".into());
            };
            let path = look_up(command, spec, dir, env)?;
            Ok(Resolved { path: c_string(path)?, argv: words.into_iter().map(c_string).collect::<Result<_, _>>()? })
        }
        Command::Procfile(name) => {
            let line = read_procfile(name, spec, dir)?;
            for (key, value) in &line.plain {
                env.set(key, value.clone());
            }
            add_given(env, spec)?;
            let given = |name: &str| spec.env.iter().any(|(key, _)| key == name.as_bytes());
            let path_is_known = line.evaluated.iter().all(|(name, _)| name != "PATH" || given(name));
            if let Some(command) = line.command.as_ref().filter(|_| path_is_known) {
                look_up(command.as_bytes(), spec, dir, env).map_err(|e| format!("the Procfile's {name} line: {e}"))?;
            }
            let argv = ["sh".into(), "-c".into(), line.script(given)];
            Ok(Resolved { path: c_string("/bin/sh")?, argv: argv.into_iter().map(c_string).collect::<Result<_, _>>()? })
        }
    }
}

fn add_given(env: &mut Env, spec: &BootSpec) -> Result<(), String> {
    env::add_given(env, spec).map_err(|(key, e)| format!("in --env {key}, {e}"))
}

fn c_string(text: impl Into<Bytes>) -> Result<CString, String> {
    CString::new(text)
        .map_err(|e| format!("the command holds a NUL byte: {:?}", String::from_utf8_lossy(&e.into_vec())))
}

/// The Procfile's path, for people.
fn procfile_path(spec: &BootSpec) -> String {
    format!("{}/Procfile", String::from_utf8_lossy(&spec.release))
}

fn procfile_text(dir: BorrowedFd<'_>) -> io::Result<String> {
    let mut text = Vec::new();
    File::from(sys::open_at(dir, c"Procfile", libc::O_RDONLY | libc::O_NONBLOCK)?).read_to_end(&mut text)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// The Procfile's line of this name as a shell can run it, which may be more than one command; `None` when there is none.
///
/// # Errors
/// A sentence that names the file and the way out.
pub(crate) fn procfile_hook(name: &str, spec: &BootSpec, dir: BorrowedFd<'_>) -> Result<Option<Bytes>, String> {
    let path = procfile_path(spec);
    let text = match procfile_text(dir) {
        Ok(text) => text,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(format!("cannot read {path}: {e}; check what it is and who may read it")),
    };
    let Ok(line) = procfile::find(&text, name) else { return Ok(None) };
    fill_in(line.as_bytes(), spec).map(Some).map_err(|e| format!("{path}: in the `{name}:` line, {e}"))
}

/// What `sh -c` is to run for a hook or check, and the environment: the app's, with what its Procfile line assigns as plain text,
/// and `--env`.
///
/// # Errors
/// A sentence that names what is wrong.
pub(crate) fn resolve_line(
    line: Bytes,
    spec: &BootSpec,
    dir: BorrowedFd<'_>,
    env: &mut Env,
) -> Result<Resolved, String> {
    if let Command::Procfile(name) = &spec.command
        // Where that line is wrong, the app's own boot will say so.
        && let Ok(own) = read_procfile(name, spec, dir)
    {
        own.plain.iter().for_each(|(key, value)| env.set(key, value.clone()));
    }
    add_given(env, spec)?;
    let argv = [b"sh".to_vec(), b"-c".to_vec(), line];
    Ok(Resolved { path: c_string("/bin/sh")?, argv: argv.into_iter().map(c_string).collect::<Result<_, _>>()? })
}

fn read_procfile(name: &str, spec: &BootSpec, dir: BorrowedFd<'_>) -> Result<procfile::Line, String> {
    let path = procfile_path(spec);
    let way_out = "give COMMAND behind `--` instead";
    let text = procfile_text(dir).map_err(|e| match e.kind() {
        ErrorKind::NotFound => {
            format!("there is no {path} and no COMMAND was given; add a `{name}:` line, or {way_out}")
        }
        _ => format!("cannot read {path}: {e}; {way_out}"),
    })?;
    let refused = |refusal| match refusal {
        Refusal::NoSuchLine(names) if names.is_empty() => {
            format!("{path} has no `{name}:` line (nor any other); {way_out}")
        }
        Refusal::NoSuchLine(names) => {
            format!("{path} has no `{name}:` line, only {}; use --process, or {way_out}", names.join(", "))
        }
        Refusal::Empty => format!("{path}: the `{name}:` line has no command; {way_out}"),
        Refusal::Unclosed => format!("{path}: a quote of the `{name}:` line is not closed"),
        Refusal::Compound(what) => format!(
            "{path}: the `{name}:` line is more than one command (`{what}`), so that the app would not be the process \
             that gets the stop signal; put the line into a script that ends in `exec`, or {way_out}"
        ),
    };
    let command = procfile::find(&text, name).map_err(refused)?;
    let command = fill_in(command.as_bytes(), spec).map_err(|e| format!("{path}: in the `{name}:` line, {e}"))?;
    procfile::take_apart(&String::from_utf8_lossy(&command)).map_err(refused)
}

/// A shell's line with its words expanded. The shell reads what they stand for, so that it must be plain.
///
/// # Errors
/// A sentence that names the word.
pub(crate) fn fill_in(line: &[u8], spec: &BootSpec) -> Result<Bytes, String> {
    let plain = |value: &[u8]| value.iter().all(|b| b.is_ascii_alphanumeric() || b"/._-:@%+,=[]~".contains(b));
    let addresses = || spec.listeners.iter().all(|l| plain(l.address.as_bytes()));
    for (word, is_plain) in [("{release}", plain(&spec.release)), ("{addr", addresses())] {
        if !is_plain && line.windows(word.len()).any(|w| w == word.as_bytes()) {
            return Err(format!(
                "{}}} stands for a path that the shell would take apart; use \"$RELEASE_DIR\" or a plain path",
                word.trim_end_matches('}')
            ));
        }
    }
    expand(line, spec).map_err(|e| e.to_string())
}

/// The file that `command` names: with a slash, relative to the release; without, in the app's PATH.
fn look_up(command: &[u8], spec: &BootSpec, dir: BorrowedFd<'_>, env: &Env) -> Result<Bytes, String> {
    let release = String::from_utf8_lossy(&spec.release);
    let shown = String::from_utf8_lossy(command);
    if command.contains(&b'/') {
        return match examine(command, dir) {
            Found::Program => Ok(command.to_vec()),
            Found::Nothing if command[0] == b'/' => Err(format!("{shown} does not exist")),
            Found::Nothing => Err(format!("{shown} does not exist in {release}")),
            Found::Unusable(why) if command[0] == b'/' => Err(format!("{shown} {why}")),
            Found::Unusable(why) => Err(format!("{shown} in {release} {why}")),
        };
    }
    let path = env.get("PATH").unwrap_or(DEFAULT_PATH);
    let mut unusable = None;
    for entry in path.split(|b| *b == b':') {
        // An empty entry is the current directory (execvp(3)), here the release.
        let entry = if entry.is_empty() { b"." } else { entry };
        let candidate = [entry, b"/", command].concat();
        match examine(&candidate, dir) {
            Found::Program => return Ok(candidate),
            Found::Unusable(why) if unusable.is_none() => {
                unusable = Some(format!("{} {why}", String::from_utf8_lossy(&candidate)));
            }
            _ => {}
        }
    }
    let path = String::from_utf8_lossy(path);
    Err(match unusable {
        Some(why) => format!("command not found: {shown}; {why} (the app's PATH is {path})"),
        None => {
            let mut text = format!("command not found: {shown} is nowhere in the app's PATH ({path})");
            let here = matches!(examine(command, dir), Found::Program);
            let advice: &dyn std::fmt::Display = if here { &format_args!("./{shown}") } else { &"its path" };
            // Writing to a String cannot fail.
            let _ = write!(text, "; install it, give {advice}, or set --env PATH=…");
            text
        }
    })
}

enum Found {
    /// Can be executed, as far as can be seen.
    Program,
    /// Does not exist.
    Nothing,
    /// Exists, and why it cannot be executed, as what follows its name in a sentence.
    Unusable(String),
}

fn examine(path: &[u8], dir: BorrowedFd<'_>) -> Found {
    let Ok(c_path) = CString::new(path) else { return Found::Nothing };
    let opened = sys::open_at(dir, &c_path, libc::O_PATH).map(File::from);
    let metadata = match opened.and_then(|f| f.metadata()) {
        Ok(metadata) => metadata,
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Found::Nothing,
        Err(e) => return Found::Unusable(format!("cannot be reached: {e}")),
    };
    if !metadata.is_file() {
        let what = if metadata.is_dir() { "a directory" } else { "not a file" };
        return Found::Unusable(format!("is {what}, not a program"));
    }
    if metadata.permissions().mode() & 0o111 == 0 {
        return Found::Unusable(format!("is not executable (mode {:04o}); chmod +x it", metadata.mode() & 0o7777));
    }
    if faccessat(dir, c_path.as_c_str(), AccessFlags::X_OK, nix::fcntl::AtFlags::AT_EACCESS).is_err() {
        let (mode, owner) = (metadata.mode() & 0o7777, metadata.uid());
        let why = format!("may not be executed by this user (mode {mode:04o}, owner {owner}, or a noexec mount)");
        return Found::Unusable(why);
    }
    match interpreter(&c_path, dir) {
        Some(name) if !exists(&name, dir) => {
            let shown = String::from_utf8_lossy(&name);
            let hint = if name.ends_with(b"\r") { " (its lines end with carriage returns; convert it)" } else { "" };
            Found::Unusable(format!("needs the interpreter {:?}, which does not exist{hint}", shown.as_ref()))
        }
        _ => Found::Program,
    }
}

/// The program that a script's `#!` line names.
fn interpreter(path: &CString, dir: BorrowedFd<'_>) -> Option<Bytes> {
    let fd = sys::open_at(dir, path, libc::O_RDONLY | libc::O_NONBLOCK).ok()?;
    // What the kernel reads (BINPRM_BUF_SIZE).
    let mut head = [0; 256];
    let length = File::from(fd).read(&mut head).ok()?;
    let line = head[..length].strip_prefix(b"#!")?.split(|b| *b == b'\n').next()?;
    let name = line.trim_ascii_start();
    let end = name.iter().position(|b| matches!(b, b' ' | b'\t')).unwrap_or(name.len());
    (end > 0).then(|| name[..end].to_vec())
}

fn exists(path: &[u8], dir: BorrowedFd<'_>) -> bool {
    CString::new(path).is_ok_and(|path| sys::open_at(dir, &path, libc::O_PATH).is_ok())
}

/// What an errno of execve(2) means for a file that looked executable.
pub(crate) fn exec_trouble(path: &str, errno: i32) -> String {
    let reason = std::io::Error::from_raw_os_error(errno);
    let meaning = match errno {
        libc::ENOEXEC => "it is neither a program for this machine nor a script with a `#!` line; add one",
        libc::ENOENT => "the loader or interpreter that it names does not exist on this machine",
        libc::E2BIG => "arguments and environment are too large together",
        libc::ETXTBSY => "it is open for writing; deploy by renaming a finished file into place",
        _ => "check the file, its mount options and the limits of this user",
    };
    format!("cannot execute {path}: {reason}; {meaning}")
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::fd::AsFd;

    use super::*;
    use crate::testing::spec;

    struct Release(tempfile::TempDir);

    impl Release {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        fn file(self, name: &str, mode: u32, text: &str) -> Self {
            let path = self.0.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            self
        }

        fn resolve(&self, command: Command, env: &[(&str, &str)]) -> Result<Resolved, String> {
            let mut spec = spec();
            spec.release = self.0.path().as_os_str().as_encoded_bytes().to_vec();
            spec.command = command;
            spec.env = env.iter().map(|(k, v)| (k.as_bytes().to_vec(), v.as_bytes().to_vec())).collect();
            let dir = File::open(self.0.path()).unwrap();
            let inherited = [(b"PATH".to_vec(), b"/usr/bin:/bin".to_vec())];
            let mut built = env::build(inherited, &spec, env::Whose::App(b"0001a"));
            resolve(&spec, dir.as_fd(), &mut built)
        }

        fn words(&self, words: &[&str], env: &[(&str, &str)]) -> Result<Resolved, String> {
            self.resolve(Command::Words(words.iter().map(|w| w.as_bytes().to_vec()).collect()), env)
        }
    }

    #[test]
    fn the_app_s_own_path_is_searched() {
        let release = Release::new().file("bin/app", 0o755, "#!/bin/sh\n");
        let found = release.words(&["app", "{slot}"], &[("PATH", "{release}/bin:/bin")]).unwrap();
        assert!(found.path.to_str().unwrap().ends_with("/bin/app"), "{found:?}");
        assert_eq!(found.argv, [c"app".into(), CString::from(c"2")]);
        let found = release.words(&["app"], &[("PATH", "bin")]).unwrap();
        assert_eq!(found.path.as_c_str(), c"bin/app");
        let found = release.words(&["./bin/app"], &[]).unwrap();
        assert_eq!(found.path.as_c_str(), c"./bin/app");
    }

    #[test]
    fn what_cannot_run_is_named() {
        let release = Release::new()
            .file("plain", 0o644, "x")
            .file("lost", 0o755, "#!/no/such/ruby -w\n")
            .file("dos", 0o755, "#!/bin/sh\r\nexit\r\n")
            .file("app", 0o755, "#!/bin/sh\n");
        let said = |words: &[&str]| release.words(words, &[]).unwrap_err();
        assert!(said(&["no-such-program"]).contains("no-such-program is nowhere in the app's PATH (/usr/bin:/bin)"));
        assert!(said(&["app"]).contains("give ./app"));
        assert!(said(&["bin/none"]).contains("bin/none does not exist in /"));
        assert!(said(&["/no/such"]).contains("/no/such does not exist"));
        assert!(said(&["./plain"]).contains("is not executable (mode 0644); chmod +x it"));
        assert!(said(&["./lost"]).contains("\"/no/such/ruby\", which does not exist"));
        assert!(said(&["./dos"]).contains("carriage returns"));
        assert!(said(&["/etc"]).contains("is a directory"));
        assert!(said(&[]).contains("the command is empty"));
        assert!(said(&["app", "{fd:api}"]).contains("in COMMAND, {fd:api} names no listening socket"));
    }

    #[test]
    fn a_procfile_line_becomes_a_shell_s() {
        let release =
            Release::new().file("Procfile", 0o644, "web: RAILS_ENV=production sh -c 'sleep 1' {slot} {{slot} ${X}\n");
        let found = release.resolve(Command::Procfile("web".into()), &[]).unwrap();
        assert_eq!(found.path.as_c_str(), c"/bin/sh");
        assert_eq!(found.argv[2].as_c_str(), c"exec sh -c 'sleep 1' 2 {slot} ${X}");
        let said = release.resolve(Command::Procfile("api".into()), &[]).unwrap_err();
        assert!(said.contains("has no `api:` line, only web"), "{said}");
    }

    #[test]
    fn procfile_trouble_is_named() {
        let said = |text: &str| {
            let release = Release::new().file("Procfile", 0o644, text);
            release.resolve(Command::Procfile("web".into()), &[]).unwrap_err()
        };
        assert!(said("web: a && b").contains("more than one command (`&&`)"));
        assert!(said("web: no-such-program --port 1").contains("no-such-program is nowhere"));
        let said = Release::new().resolve(Command::Procfile("web".into()), &[]).unwrap_err();
        assert!(said.contains("/Procfile and no COMMAND was given"), "{said}");
    }
}
