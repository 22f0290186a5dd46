//! What must outlive the master, kept in its state folder: `state.json` (what the mind remembers, see
//! [`rollout::Memory`], and what the body knows beyond it), `history.jsonl` (one line a rollout) and `lock`.
//!
//! `main` opens it before anything else is touched; whoever performs the mind's actions saves and appends. Nothing
//! here can keep the app from being served: a folder that nobody asked for and that cannot be had is gone without, a
//! file that cannot be used is set aside, and what cannot be written is said in the log and in stats, once, until it
//! can be written again. The one error is a folder that was asked for and cannot be made or belongs to another master.
//!
//! A power cut at any moment leaves the old `state.json` or the new one, whole: it is written beside, brought to the
//! disk, renamed, and the rename is brought to the disk too, before [`State::save`] returns.

mod folder;
mod history;
mod saved;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use nix::fcntl::OFlag;
use nix::sys::signal::{SigSet, Signal};
use proto::control::LastRollout;

use crate::lock::{Lock, NotTaken};

pub(crate) use self::saved::{Extra, Refusal, Saved};

/// The file with everything that is remembered.
const FILE: &str = "state.json";
/// Where a file goes that cannot be used.
const ASIDE: &str = "state.json.aside";
/// The file with what tells this state from others.
const ID: &str = "id";
/// More than this is no state of ours, in bytes.
const LARGEST: u64 = 64 << 20;

/// The state folder, as long as this process has it.
#[derive(Debug)]
pub(crate) struct State {
    /// What `--dir` names: the state of another one is not ours.
    dir: PathBuf,
    folder: Option<PathBuf>,
    lock: Option<Lock>,
    troubles: Troubles,
}

/// What does not work, in words for people.
#[derive(Debug, Default)]
struct Troubles {
    /// Found when it was opened; it stays.
    opening: Vec<String>,
    saving: Option<String>,
    appending: Option<String>,
    /// All of them together.
    shown: Option<String>,
}

impl State {
    /// Takes the state folder, `--state` (`asked`), else `$STATE_DIRECTORY`, else `name` in the XDG state folder, for the
    /// master of `dir`, and reads what an earlier master has left there. `None`: nothing, a first start.
    ///
    /// # Errors
    /// When a folder that was asked for cannot be made, or when another living master uses it, naming that one. For the
    /// folder that nobody asked for, only a living master of the same `dir` is an error.
    pub(crate) fn open(asked: Option<&Path>, name: &str, dir: &Path) -> Result<(Self, Option<Saved>)> {
        // A write beyond RLIMIT_FSIZE is to be an error like a full disk, not the end (signal(7), SIGXFSZ).
        let mut too_large = SigSet::empty();
        too_large.add(Signal::SIGXFSZ);
        too_large.thread_block().context("cannot block SIGXFSZ")?;
        let mut state = Self { dir: dir.to_owned(), folder: None, lock: None, troubles: Troubles::default() };
        let wanted = folder::choose(asked, name)?;
        let path = wanted.path;
        if let Err(error) = folder::make(&path) {
            if wanted.asked {
                return Err(error);
            }
            state.trouble_at_start(format!("{error:#}; nothing is remembered (see --state)"));
            return Ok((state, None));
        }
        match Lock::take(&path.join("lock"), dir) {
            Ok(lock) => state.lock = Some(lock),
            Err(NotTaken::Held(holder)) => {
                let other = holder.dir.as_deref().filter(|other| *other != dir);
                match other {
                    // Two sites whose parents have the same name: no reason to keep one from serving.
                    Some(other) if !wanted.asked => {
                        state.trouble_at_start(format!(
                            "{holder} of {} uses the state folder {}; nothing is remembered (give --state / --name)",
                            other.display(),
                            path.display()
                        ));
                        return Ok((state, None));
                    }
                    _ => bail!("{holder} uses the state folder {}; stop it, or give --state / --name", path.display()),
                }
            }
            Err(NotTaken::Failed(error)) => {
                state.trouble_at_start(format!("cannot lock the state folder {}: {error}", path.display()));
            }
        }
        let saved = match read(&path.join(FILE), dir) {
            Ok(None) if path.join(history::FILE).exists() => {
                let file = path.join(FILE);
                let text = format!("{} is missing, and so is what was good and what was refused", file.display());
                state.trouble_at_start(text);
                None
            }
            Ok(saved) => saved,
            Err(why) => {
                let told = set_aside(&path, &why);
                state.trouble_at_start(told);
                None
            }
        };
        state.folder = Some(path);
        Ok((state, saved))
    }

    /// Writes down what is to be found again. It never fails: trouble is kept and said (see [`Self::trouble`]).
    pub(crate) fn save(&mut self, saved: &Saved) {
        let Some(folder) = &self.folder else { return };
        let written = saved
            .to_file(&self.dir)
            .and_then(|bytes| replace(folder, FILE, &bytes))
            .with_context(|| format!("cannot write {}", folder.join(FILE).display()));
        let lost = "the next start of this master will not know of it";
        self.troubles.saving = told(self.troubles.saving.take(), written, &folder.join(FILE), lost);
        self.troubles.show();
    }

    /// Adds a rollout that has ended to the history. It never fails, as [`Self::save`].
    pub(crate) fn append(&mut self, rollout: &LastRollout) {
        let Some(folder) = &self.folder else { return };
        let path = folder.join(history::FILE);
        let written = history::append(folder, rollout).with_context(|| format!("cannot write {}", path.display()));
        let lost = "this rollout is missing there";
        self.troubles.appending = told(self.troubles.appending.take(), written, &path, lost);
        self.troubles.show();
    }

    /// What tells this site's workers from another one's: made once for a folder, and kept in it. Where there is no folder, or
    /// it cannot be written, `dir` has to do.
    pub(crate) fn id(&self, dir: &Path) -> String {
        let made = self.folder.as_deref().and_then(|folder| {
            let path = folder.join(ID);
            let read = || fs::read_to_string(&path).ok().map(|id| id.trim().to_owned()).filter(|id| !id.is_empty());
            read().or_else(|| {
                let fresh = fs::read_to_string("/proc/sys/kernel/random/uuid").ok()?;
                replace(folder, ID, fresh.as_bytes()).ok()?;
                read()
            })
        });
        made.unwrap_or_else(|| dir.display().to_string())
    }

    /// The folder; `None`: nothing is remembered.
    pub(crate) fn folder(&self) -> Option<&Path> {
        self.folder.as_deref()
    }

    /// What does not work, for stats.
    pub(crate) fn trouble(&self) -> Option<&str> {
        self.troubles.shown.as_deref()
    }

    /// Leaves the folder to the next master: nothing is written any more. For the end, before it is told: whoever hears
    /// that the master has stopped may start another one at once.
    pub(crate) fn release(&mut self) {
        self.folder = None;
        self.lock = None;
    }

    fn trouble_at_start(&mut self, text: String) {
        tracing::warn!("{text}");
        self.troubles.opening.push(text);
        self.troubles.show();
    }
}

/// The folder that [`State::open`] would take, for those who only want to know.
///
/// # Errors
/// When the working directory is needed and gone.
pub(crate) fn place(asked: Option<&Path>, name: &str) -> Result<PathBuf> {
    Ok(folder::choose(asked, name)?.path)
}

impl Troubles {
    fn show(&mut self) {
        let all: Vec<&str> =
            self.saving.iter().chain(&self.appending).chain(&self.opening).map(String::as_str).collect();
        self.shown = (!all.is_empty()).then(|| all.join("; "));
    }
}

/// What is wrong now with writing `path`; said when it is news.
fn told(before: Option<String>, written: Result<()>, path: &Path, what: &str) -> Option<String> {
    let now = written.err().map(|error| format!("{error:#}"));
    if now != before {
        match &now {
            Some(text) => tracing::warn!("{text}; {what}"),
            None => tracing::info!("{} is written again", path.display()),
        }
    }
    now
}

/// What an earlier master has left; `None`: there is no file.
fn read(path: &Path, dir: &Path) -> Result<Option<Saved>, String> {
    // Neither a pipe that nobody writes to nor a link to elsewhere.
    let flags = (OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits();
    let file = match OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.to_string()),
    };
    let metadata = file.metadata().map_err(|error| error.to_string())?;
    if !metadata.is_file() {
        return Err("it is not a regular file".into());
    }
    let mut bytes = Vec::new();
    file.take(LARGEST).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    Saved::from_file(&bytes, dir).map(Some)
}

/// Moves a file away that cannot be used; the words for it.
fn set_aside(folder: &Path, why: &str) -> String {
    let (path, aside) = (folder.join(FILE), folder.join(ASIDE));
    let text = format!("{} was not used ({why})", path.display());
    match fs::rename(&path, &aside) {
        Ok(()) => format!("{text}; it is now {ASIDE}"),
        Err(error) => format!("{text}; it cannot be renamed to {ASIDE}: {error}"),
    }
}

/// Puts `bytes` in the place of the file `name`, so that whatever happens either is there, whole.
fn replace(folder: &Path, name: &str, bytes: &[u8]) -> Result<()> {
    let new = folder.join(format!("{name}.new"));
    // What a power cut has left.
    let _ = fs::remove_file(&new);
    let written = (|| {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&new, folder.join(name))
    })();
    if written.is_err() {
        // A part of it would only take the room of the next try.
        let _ = fs::remove_file(&new);
    }
    written?;
    sync_folder(folder)?;
    Ok(())
}

/// Brings a folder's names to the disk.
fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests;
