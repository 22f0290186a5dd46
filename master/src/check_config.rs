//! `master --check-config`: what a start would be set to, and where each setting came from, in lines that `--config` takes.
//!
//! Everything is read and worked out as a start does it. Nothing is made, bound or started.

use std::ffi::OsStr;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;
use clap::Arg;
use nix::sys::socket::UnixAddr;
use nix::unistd::Group;

use crate::address::Place;
use crate::child::{self, WorkerExe};
use crate::cli::{Cli, inherits_sockets};
use crate::config::{is_key, name, written};
use crate::release;
use crate::settings::Site;
use crate::sources::{Origin, Origins};
use crate::state;

/// Beyond this many characters a setting does not push the others' origins to the right.
const WIDEST: usize = 64;

/// Prints the settings (exit code 0), or what is wrong (2).
pub(crate) fn run(cli: Cli, origins: &Origins) -> ExitCode {
    let (mut problems, sockets) = (Vec::new(), !cli.listen.is_empty() || inherits_sockets());
    for address in &cli.listen {
        problems.extend(address_trouble(&address.place));
    }
    match Site::planned(cli, sockets) {
        Ok(site) => {
            problems.extend(trouble(&site));
            if problems.is_empty() {
                // A reader that has gone away has seen enough.
                let _ = std::io::stdout().write_all(settings(&site, origins).as_bytes());
                return ExitCode::SUCCESS;
            }
        }
        Err(error) => problems.push(format!("{error:#}")),
    }
    for problem in problems {
        eprintln!("error: {problem}");
    }
    ExitCode::from(2)
}

/// What would keep a master of this site from starting, as far as looking tells.
fn trouble(site: &Site) -> Vec<String> {
    let path = |what: &str, path: &Path| {
        UnixAddr::new(path).map(drop).with_context(|| format!("{what} {}: too long a path", path.display()))
    };
    let looks = [
        release::resolve(&site.dir).map(drop),
        path("control socket", &site.socket),
        state::place(site.state.as_deref(), &site.name).map(drop),
        child::raise_limit().and_then(WorkerExe::find).map(drop),
    ];
    looks.into_iter().filter_map(Result::err).map(|error| format!("{error:#}")).collect()
}

fn address_trouble(place: &Place) -> Option<String> {
    let Place::Unix { path, group, .. } = place else { return None };
    if UnixAddr::new(path.as_path()).is_err() {
        return Some(format!("--listen {place}: too long a path"));
    }
    match Group::from_name(group.as_deref()?) {
        Ok(Some(_)) => None,
        Ok(None) => Some(format!("--listen {place}: there is no group '{}'", group.as_deref()?)),
        Err(error) => Some(format!("--listen {place}: cannot look up the group '{}': {error}", group.as_deref()?)),
    }
}

/// A line for each setting.
fn settings(site: &Site, origins: &Origins) -> String {
    let options = Cli::options();
    let keys: Vec<&Arg> = options.get_arguments().filter(|option| is_key(option)).collect();
    let widest = keys.iter().map(|option| name(option).len()).max().unwrap_or(0);
    let line = |option: &&Arg| {
        let id = option.get_id().as_str();
        let words = words(id, site, origins);
        let origin = origins.of(id);
        if words.is_empty() {
            let note = if id == "command" { "default: what --process names in the Procfile" } else { "not set" };
            // An empty list of the file's is an answer, too.
            let note = if origin == Origin::Default { note.to_owned() } else { format!("{origin}: none") };
            return (format!("# {}", name(option)), note);
        }
        let note = match default_of(id).filter(|_| origin == Origin::Default) {
            Some(of) => format!("default: {of}"),
            None => origins.shown(id),
        };
        (format!("{:widest$} = {}", name(option), written(option, &words)), note)
    };
    let mut lines: Vec<(String, String)> = keys.iter().map(line).collect();
    if inherits_sockets() {
        let count = std::env::var("LISTEN_FDS").unwrap_or_default();
        lines.push((format!("# sockets of the service manager: {count}"), "$LISTEN_FDS".into()));
    }
    let width = |text: &str| text.chars().count();
    let column = lines.iter().map(|(setting, _)| width(setting)).filter(|n| *n <= WIDEST).max().unwrap_or(0);
    lines.iter().map(|(setting, note)| format!("{setting:column$}  # {note}\n")).collect()
}

/// A setting's words: as a start would work them out, else as they were given.
fn words(id: &str, site: &Site, origins: &Origins) -> Vec<String> {
    let text = |text: &OsStr| text.to_string_lossy().into_owned();
    let path = |path: &Path| vec![text(path.as_os_str())];
    match id {
        "dir" => path(&site.dir),
        "name" => vec![site.name.clone()],
        "socket" => path(&site.socket),
        "state" => state::place(site.state.as_deref(), &site.name).map(|dir| path(&dir)).unwrap_or_default(),
        "workers" => vec![site.settings.workers.to_string()],
        "canary_soak" if origins.words(id).is_empty() => origins.words("soak").into_iter().map(text).collect(),
        _ => origins.words(id).into_iter().map(text).collect(),
    }
}

/// What a default is made of, where it is not the same for everybody.
fn default_of(id: &str) -> Option<&'static str> {
    match id {
        "name" => Some("from dir"),
        "socket" if std::env::var_os("XDG_RUNTIME_DIR").is_some_and(|dir| !dir.is_empty()) => {
            Some("from name, in $XDG_RUNTIME_DIR")
        }
        "socket" => Some("from name"),
        "state" => Some("from name"),
        "workers" => Some("the CPUs"),
        "canary_soak" => Some("as soak"),
        _ => None,
    }
}
