//! The mind as readable text: every file of `src/rollout/testdata` is a conversation with it.
//!
//! `settings …` opens a conversation on release r0; `# row: …` names the row of the contract's table of transitions
//! that it is about. Then come the lines
//!
//! - `> EVENT`: what the mind hears, as [`rollout::text`] writes it;
//! - `< ACTION`: exactly what it wants done because of that, in order;
//! - `= …`: what it shows of itself at this point;
//! - `steady`: short for a start in which every slot boots at once, its actions not shown.
//!
//! `UPDATE=1 cargo test -p master --test scripts` writes the `<` and `=` lines anew. What it writes is what the mind
//! does, not what it should do: read it against the contract before committing it.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use rollout::{Event, Incarnation, ReleaseId, Rollout, Settings, invariant};

/// The table of transitions that two people would write differently: its first column.
const ROWS: [&str; 21] = [
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
        invariant::check(&before, &event, &actions, &self.mind)?;
        Ok(actions.iter().map(ToString::to_string).collect())
    }

    fn shown(&self) -> String {
        let mind = &self.mind;
        let mut text =
            format!("{} phase={} good=r{}", mind.state().as_str(), mind.phase(), mind.known_good().release.0);
        if let Some(held) = mind.held() {
            write!(text, " held=r{}", held.release.0).expect("text");
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
                .filter(|(_, w)| w.slot == slot.slot)
                .map(|(id, w)| format!("{id}-{}-{:?}", w.code.release, w.state).to_lowercase())
                .collect();
            if slot.backoff {
                workers.push(String::from("backoff"));
            }
            text.push_str(&workers.join("+"));
        }
        text
    }
}

/// The script as it is when the mind writes the `<` and `=` lines itself.
fn played(script: &str) -> Result<String, String> {
    let mut talk: Option<Talk> = None;
    let mut text = String::new();
    for (number, line) in script.lines().enumerate() {
        let at = |why: String| format!("line {}: {line}: {why}", number + 1);
        if line.starts_with('<') {
            continue;
        }
        if let Some(settings) = line.strip_prefix("settings ") {
            let settings: Settings = settings.parse().map_err(at)?;
            talk = Some(Talk { mind: Rollout::new(settings, ReleaseId(0)) });
        }
        if line.starts_with('=') {
            let talk = talk.as_ref().ok_or_else(|| at(String::from("no settings yet")))?;
            writeln!(text, "= {}", talk.shown()).expect("text");
            continue;
        }
        writeln!(text, "{line}").expect("text");
        if line == "steady" {
            let talk = talk.as_mut().ok_or_else(|| at(String::from("no settings yet")))?;
            talk.hear(Event::Start).map_err(at)?;
            for worker in 1..=talk.mind.slots().count() as u64 {
                talk.hear(Event::Booted(Incarnation(worker))).map_err(at)?;
            }
        } else if let Some(event) = line.strip_prefix("> ") {
            let talk = talk.as_mut().ok_or_else(|| at(String::from("no settings yet")))?;
            let event: Event = event.parse().map_err(at)?;
            for action in talk.hear(event).map_err(at)? {
                writeln!(text, "< {action}").expect("text");
            }
        } else if !(line.is_empty() || line.starts_with('#') || line.starts_with("settings ")) {
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
