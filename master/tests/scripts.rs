//! The mind as readable text: every file of `src/rollout/testdata` is a conversation with it.
//!
//! `settings …` opens a conversation on release r0; `# row: …` names the row of the contract's table of transitions
//! that it is about. `memory …`, `dir RELEASE` and `gone RELEASE`, as in a trace's head, open it where another one
//! ended (without `dir` it dangles). Then come the lines
//!
//! - `> EVENT`: what the mind hears, as [`rollout::text`] writes it;
//! - `< ACTION`: exactly what it wants done because of that, in order;
//! - `= …`: what it shows of itself at this point;
//! - `steady`: short for a start in which everything boots at once, its actions not shown;
//! - `cut …`: the memory that a power cut here would leave to the next master.
//!
//! `UPDATE=1 cargo test -p master --test scripts` writes the `<` and `=` lines anew. What it writes is what the mind
//! does, not what it should do: read it against the contract before committing it.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use rollout::{Event, Memory, ReleaseId, Role, Rollout, Settings, State, Unstartable, WorkerState, invariant};

/// The table of transitions that two people would write differently: its first column.
const ROWS: [&str; 32] = [
    "a rollout ends",
    "busy during a rollout or first start",
    "stop during a rollout",
    "abort while soaking, while rolling back, with nothing running",
    "rollback",
    "candidate = known-good",
    "a rollout begun while held is aborted",
    "reload-dir while held, dir names another release than the held one",
    "reload-dir when steady, new release",
    "scale down",
    "restart SLOT",
    "old worker crashes while its candidate boots",
    "slot already in backoff, or its old worker crashes, with surge 0",
    "slot already in backoff when rolling back",
    "a put-back worker crashes",
    "degraded",
    "phased-restart from degraded",
    "a worker that was never ready is to end",
    "surge > workers, surge 0 alone, workers 1 with surge 0",
    "first start",
    "a release rolled back from, or never confirmed",
    // What came later, and is as easily written differently.
    "rehearsal",
    "hooks",
    "canary",
    "pause",
    "confirm-within",
    "if-new, refused before",
    "cold start",
    "recycle",
    "adoption",
    "adoption of a rollout",
    "adoption of what is held, or waits for a confirm",
];

fn testdata() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src/rollout/testdata")
}

fn scripts() -> Vec<(String, String)> {
    let mut scripts: Vec<_> = fs::read_dir(testdata())
        .expect("src/rollout/testdata")
        .map(|entry| entry.expect("a directory entry").path())
        .filter(|path| path.extension().is_some_and(|e| e == "txt"))
        .map(|path| {
            let name = path.file_name().expect("a file name").to_string_lossy().into_owned();
            (name, fs::read_to_string(&path).expect("a readable script"))
        })
        .collect();
    scripts.sort();
    scripts
}

/// What a conversation begins with.
#[derive(Default)]
struct Opening {
    settings: Settings,
    memory: Option<Memory>,
    dir: Option<ReleaseId>,
    gone: Vec<ReleaseId>,
}

impl Opening {
    /// Takes a line in, if it is one of an opening.
    fn hear(&mut self, line: &str) -> Result<bool, String> {
        match line.split_once(' ') {
            Some(("memory", memory)) => self.memory = Some(memory.parse()?),
            Some(("dir", name)) => self.dir = Some(release(name)?),
            Some(("gone", name)) => self.gone.push(release(name)?),
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn mind(self) -> Result<Rollout, Unstartable> {
        match self.memory {
            Some(memory) => Rollout::restore(self.settings, memory, self.dir, &self.gone),
            None => Ok(Rollout::new(self.settings, ReleaseId(0))),
        }
    }
}

fn release(name: &str) -> Result<ReleaseId, String> {
    let number = name.strip_prefix('r').and_then(|n| n.parse().ok());
    number.map(ReleaseId).ok_or_else(|| format!("'{name}' is not a release (r0, r1 …)"))
}

/// One conversation.
struct Talk {
    mind: Rollout,
}

impl Talk {
    /// Hears one event, checks the promises, and returns what is to be done.
    fn hear(&mut self, event: Event) -> Result<Vec<String>, String> {
        let before = self.mind.clone();
        let mut actions = Vec::new();
        self.mind.step(event.clone(), &mut actions);
        let done: Vec<String> = actions.iter().map(ToString::to_string).collect();
        invariant::check(&before, &event, &actions, &self.mind)
            .and_then(|()| invariant::check_cut(&self.mind))
            .map_err(|why| format!("{why}\n{}", done.join("\n")))?;
        Ok(done)
    }

    /// Everything of a start goes well.
    fn come_up(&mut self) -> Result<(), String> {
        self.hear(Event::Start)?;
        while self.mind.state() == State::Booting {
            let next = self.mind.workers().find_map(|(id, w)| match w.state {
                WorkerState::Booting => Some(Event::Booted(id)),
                WorkerState::Draining => Some(Event::Gone(id)),
                WorkerState::Ready => None,
            });
            self.hear(next.ok_or("nothing moves")?)?;
        }
        Ok(())
    }

    fn shown(&self) -> String {
        let mind = &self.mind;
        let mut text = mind.state().as_str().to_owned();
        if let Some(detail) = mind.detail().filter(|d| *d != text) {
            write!(text, "/{detail}").expect("text");
        }
        write!(text, " phase={} good={}", mind.phase(), mind.known_good().release).expect("text");
        if let Some(held) = mind.held() {
            write!(text, " held={}", held.release).expect("text");
        }
        if let Some(pending) = mind.pending() {
            write!(text, " back={}", pending.back).expect("text");
        }
        let refused: Vec<_> = (0..9).map(ReleaseId).filter(|r| mind.is_refused(*r)).map(|r| r.to_string()).collect();
        if !refused.is_empty() {
            write!(text, " refused={}", refused.join(",")).expect("text");
        }
        write!(text, " booted={} old={} |", mind.booted_workers(), mind.old_workers()).expect("text");
        for slot in mind.slots() {
            write!(text, " {}:", slot.slot).expect("text");
            let mut workers: Vec<_> = mind
                .workers()
                .filter(|(_, w)| w.slot == slot.slot && w.role == Role::Serve)
                .map(|(id, w)| format!("{id}-{}-{:?}", w.code.release, w.state).to_lowercase())
                .collect();
            if slot.backoff {
                workers.push(String::from("backoff"));
            }
            text.push_str(&workers.join("+"));
        }
        for (id, worker) in mind.workers().filter(|(_, w)| w.role != Role::Serve) {
            let word = format!(" {}:{id}-{}-{:?}", worker.role, worker.code.release, worker.state);
            text.push_str(&word.to_lowercase());
        }
        text
    }
}

/// The script as it is when the mind writes the `<` and `=` lines itself.
fn played(script: &str) -> Result<String, String> {
    let mut opening: Option<Opening> = None;
    let mut talk: Option<Talk> = None;
    let mut text = String::new();
    for (number, line) in script.lines().enumerate() {
        let at = |why: String| format!("line {}: {line}: {why}", number + 1);
        if line.starts_with('<') {
            continue;
        }
        if line.is_empty() || line.starts_with('#') {
            writeln!(text, "{line}").expect("text");
            continue;
        }
        if let Some(settings) = line.strip_prefix("settings ") {
            let settings = settings.parse().map_err(at)?;
            (opening, talk) = (Some(Opening { settings, ..Opening::default() }), None);
            writeln!(text, "{line}").expect("text");
            continue;
        }
        if let Some(opening) = &mut opening
            && opening.hear(line).map_err(at)?
        {
            writeln!(text, "{line}").expect("text");
            continue;
        }
        if let Some(opening) = opening.take() {
            match opening.mind() {
                Ok(mind) => talk = Some(Talk { mind }),
                Err(why) => {
                    writeln!(text, "{line}\n< {why:?}").expect("text");
                    continue;
                }
            }
        }
        let talk = talk.as_mut().ok_or_else(|| at(String::from("nobody hears it")))?;
        if line.starts_with('=') {
            writeln!(text, "= {}", talk.shown()).expect("text");
        } else if line == "cut" || line.starts_with("cut ") {
            writeln!(text, "cut {}", talk.mind.memory()).expect("text");
        } else if line == "steady" {
            writeln!(text, "{line}").expect("text");
            talk.come_up().map_err(at)?;
        } else if let Some(event) = line.strip_prefix("> ") {
            writeln!(text, "{line}").expect("text");
            let event: Event = event.parse().map_err(at)?;
            for action in talk.hear(event).map_err(at)? {
                writeln!(text, "< {action}").expect("text");
            }
        } else {
            return Err(at(String::from("not a script's line")));
        }
    }
    Ok(text)
}

#[test]
fn the_mind_says_what_the_scripts_say() {
    let update = std::env::var_os("UPDATE").is_some_and(|v| !v.is_empty());
    let mut wrong = Vec::new();
    for (name, script) in scripts() {
        let played = match played(&script) {
            Ok(played) => played,
            Err(why) => {
                wrong.push(format!("{name}: {why}"));
                continue;
            }
        };
        if played == script {
            continue;
        }
        if update {
            fs::write(testdata().join(&name), played).expect("a writable script");
            continue;
        }
        let line = played.lines().zip(script.lines()).take_while(|(a, b)| a == b).count();
        let says = |text: &str| text.lines().nth(line).unwrap_or("(its end)").to_owned();
        wrong.push(format!(
            "{name}: line {}: the script says\n  {}\nthe mind\n  {}",
            line + 1,
            says(&script),
            says(&played)
        ));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_row_of_the_table_has_a_script() {
    let named: BTreeSet<String> = scripts()
        .iter()
        .flat_map(|(_, script)| {
            script.lines().filter_map(|l| l.strip_prefix("# row: ")).map(str::to_owned).collect::<Vec<_>>()
        })
        .collect();
    for row in ROWS {
        assert!(named.contains(row), "no script of src/rollout/testdata says '# row: {row}'");
    }
    for name in &named {
        assert!(ROWS.contains(&name.as_str()), "'# row: {name}' is no row of the table");
    }
}

#[test]
fn events_read_back_as_they_were_written() {
    for (name, script) in scripts() {
        for line in script.lines().filter_map(|l| l.strip_prefix("> ")) {
            let event: Event = line.parse().unwrap_or_else(|why| panic!("{name}: {line}: {why}"));
            assert_eq!(event.to_string(), line, "{name}");
        }
    }
}
