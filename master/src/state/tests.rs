use super::*;

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use proto::worker::{BootReport, ExitStatus, Stage};
use proto::{Incarnation, Phase, Slot, Surge};
use rollout::{Code, Kind, Memory, Pending, RunMemory};

use crate::release::Releases;

const DIR: &str = "/app/current";

fn open(folder: &Path) -> (State, Option<Saved>) {
    State::open(Some(folder), "app", Path::new(DIR)).unwrap()
}

fn report(release: &[u8], message: &str, output: &[u8]) -> BootReport {
    BootReport {
        slot: Slot(3),
        incarnation: Incarnation(u64::MAX),
        phase: Phase(7),
        release: release.to_vec(),
        stage: Stage::Check,
        message: message.into(),
        exit: Some(ExitStatus::Signal(9)),
        millis: 830,
        output: output.to_vec(),
        release_gone: true,
    }
}

fn rollout(id: u64, report: Option<BootReport>) -> LastRollout {
    LastRollout {
        id,
        kind: "phased-restart".into(),
        from: b"/app/releases/41".to_vec(),
        to: b"/app/releases/4\xff2".to_vec(),
        phase: Phase(7),
        outcome: "aborted".into(),
        ended_at: 1_700_000_000_123,
        millis: 4711,
        report: report.map(Box::new),
    }
}

/// Everything that there is, with paths that are no text, in a process whose releases have numbers of their own.
fn all(releases: &mut Releases) -> (Memory, Extra) {
    let mut id = |name: &[u8]| releases.id(Path::new(OsStr::from_bytes(name)));
    id(b"/something/else");
    let (old, good, bad, worse) =
        (id(b"/app/releases/40"), id(b"/app/releases/41"), id(b"/app/releases/4\xff2"), id(b"/app/\xc3\xa4\n\"\\"));
    let code = |release, phase| Code { release, phase: Phase(phase) };
    let memory = Memory {
        known_good: Some(code(good, 6)),
        previous: vec![old, bad],
        held: Some(code(worse, 7)),
        refused: vec![worse, bad],
        pending: Some(Pending { back: old, within: Duration::from_nanos(1_500_000_001) }),
        run: Some(Box::new(RunMemory {
            id: 9,
            kind: Kind::PhasedRestart,
            from: code(good, 6),
            to: code(bad, 8),
            hold: true,
            surge: Surge::Percent(25),
            max_unavailable: 2,
            soak: Duration::from_millis(300),
            canary: 1,
            canary_soak: Duration::MAX,
            confirm_within: Some(Duration::ZERO),
            by_itself: true,
            finish: true,
        })),
        next_phase: 9,
        next_run: u64::MAX,
        next_incarnation: u64::MAX,
        fell_back: true,
        scaled: Some((4, 6)),
    };
    let refusal = Refusal { at: 17, report: Some(report(b"/app/releases/4\xff2", "answered 500", b"out\xffput\n\0")) };
    let extra = Extra {
        refusals: [(bad, refusal)].into(),
        last_rollout: Some(rollout(8, Some(report(b"/r", "died", &[b'x'; 65_536])))),
        confirm_until: Some(u64::MAX),
    };
    (memory, extra)
}

#[test]
fn everything_comes_back() {
    let folder = tempfile::tempdir().unwrap();
    let mut releases = Releases::default();
    let (memory, extra) = all(&mut releases);
    let saved = Saved::new(&memory, &releases, &extra);
    let (mut state, before) = open(folder.path());
    assert_eq!(before, None);
    state.save(&saved);
    assert_eq!((state.trouble(), state.folder()), (None, Some(folder.path())));
    drop(state);
    let (state, found) = open(folder.path());
    assert_eq!((found.as_ref(), state.trouble()), (Some(&saved), None));
    // In a process that has met the releases in another order.
    let mut others = Releases::default();
    let (_, there) = found.unwrap().memory(&mut others);
    assert_eq!(there.last_rollout, extra.last_rollout);
    assert_eq!((there.refusals.len(), there.confirm_until), (1, Some(u64::MAX)));
    let (again, there) = saved.memory(&mut releases);
    assert_eq!((again, there), (memory, extra));
}

#[test]
fn nothing_comes_back_as_nothing() {
    let saved = Saved::new(&Memory::default(), &Releases::default(), &Extra::default());
    let found = Saved::from_file(&saved.to_file(Path::new(DIR)).unwrap(), Path::new(DIR)).unwrap();
    assert_eq!(found.memory(&mut Releases::default()), (Memory::default(), Extra::default()));
}

#[test]
fn a_refused_releases_report_is_cut() {
    let mut releases = Releases::default();
    let release = releases.id(Path::new("/r"));
    let memory = Memory { refused: vec![release], ..Memory::default() };
    let lines: Vec<u8> = (0..9000).flat_map(|n| format!("line {n}\n").into_bytes()).collect();
    let long = report(b"/r", &"\u{e4}".repeat(2000), &lines);
    let refusal = Refusal::new(Some(&long));
    let extra = Extra { refusals: [(release, refusal)].into(), ..Extra::default() };
    let (_, extra) = Saved::new(&memory, &releases, &extra).memory(&mut releases);
    let report = extra.refusals[&release].report.clone().unwrap();
    assert_eq!(report.message, "\u{e4}".repeat(1024));
    assert!(report.output.len() > 4000 && report.output.len() <= 4096);
    assert!(report.output.starts_with(b"line ") && report.output.ends_with(b"line 8999\n"));
}

#[test]
fn a_file_that_cannot_be_used_is_set_aside_and_reported() {
    let good = Saved::new(&Memory::default(), &Releases::default(), &Extra::default());
    let whole = good.to_file(Path::new(DIR)).unwrap();
    let other = good.to_file(Path::new("/other/current")).unwrap();
    let text = String::from_utf8(whole.clone()).unwrap();
    let newer = text.replace("\"version\": 1", "\"version\": 2").into_bytes();
    let relative = text.replace("\"previous\": []", "\"previous\": [\"releases/1\"]").into_bytes();
    let kinds: [(&[u8], &str); 9] = [
        (b"", "empty"),
        (b"\0\0\0\0", "line 1"),
        (b"{}", "version"),
        (b"{\"version\": 1}", "dir"),
        (b"{\"version\": 1, \"dir\": \"/app/current\", \"previous\": 7}", "sequence"),
        (&whole[..whole.len() / 2], "cut off"),
        (&newer, "version 2"),
        (&other, "/other/current"),
        (&relative, "absolute"),
    ];
    for (bytes, why) in kinds {
        let folder = tempfile::tempdir().unwrap();
        let (file, aside) = (folder.path().join("state.json"), folder.path().join("state.json.aside"));
        fs::write(&file, bytes).unwrap();
        fs::write(&aside, "an older one").unwrap();
        let (mut state, found) = open(folder.path());
        assert_eq!(found, None, "{why}");
        let trouble = state.trouble().unwrap().to_owned();
        let said = format!("{} was not used (", file.display());
        assert!(trouble.starts_with(&said) && trouble.contains(why), "{why}: {trouble}");
        assert!(trouble.ends_with("; it is now state.json.aside"), "{trouble}");
        assert!(!file.exists());
        assert_eq!(fs::read(&aside).unwrap(), bytes);
        // It stays said, and the next one is a first start without trouble.
        state.save(&good);
        assert_eq!(state.trouble(), Some(trouble.as_str()));
        drop(state);
        let (state, found) = open(folder.path());
        assert_eq!((found.as_ref(), state.trouble()), (Some(&good), None));
    }
}

#[test]
fn every_cut_of_a_file_is_noticed() {
    let mut releases = Releases::default();
    let (memory, mut extra) = all(&mut releases);
    extra.last_rollout = None;
    let whole = Saved::new(&memory, &releases, &extra).to_file(Path::new(DIR)).unwrap();
    // The last two bytes are the closing brace and the end of its line.
    for end in 0..whole.len() - 1 {
        assert!(Saved::from_file(&whole[..end], Path::new(DIR)).is_err(), "cut at {end} of {}", whole.len());
    }
}

#[test]
fn strange_files_are_set_aside_too() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("state.json");
    nix::unistd::mkfifo(&file, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let (state, found) = open(folder.path());
    assert!(found.is_none() && state.trouble().unwrap().contains("regular"));
    drop(state);
    fs::remove_file(folder.path().join("state.json.aside")).unwrap();
    fs::create_dir(&file).unwrap();
    let (state, _) = open(folder.path());
    assert!(state.trouble().unwrap().contains("aside"));
    drop(state);
    // A link to elsewhere is not followed.
    std::os::unix::fs::symlink("/etc/passwd", &file).unwrap();
    fs::remove_dir(folder.path().join("state.json.aside")).unwrap();
    let (state, _) = open(folder.path());
    assert!(state.trouble().is_some() && !file.exists());
    assert!(Path::new("/etc/passwd").exists());
}

#[test]
fn the_second_master_is_told_the_first_ones_pid() {
    let folder = tempfile::tempdir().unwrap();
    let (mut first, _) = open(folder.path());
    let refused = format!("{:#}", State::open(Some(folder.path()), "app", Path::new(DIR)).unwrap_err());
    assert!(refused.contains(&format!("another master (pid {})", std::process::id())), "{refused}");
    assert!(refused.contains(&folder.path().display().to_string()), "{refused}");
    assert!(refused.contains("--state") && refused.contains("--name"), "{refused}");
    // Whoever asked for the folder gets it or an error, also for another dir.
    assert!(State::open(Some(folder.path()), "app", Path::new("/other/current")).is_err());
    first.release();
    open(folder.path());
}

#[test]
fn trouble_with_writing_is_said_until_it_is_over() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state");
    let saved = Saved::new(&Memory::default(), &Releases::default(), &Extra::default());
    let (mut state, _) = open(&path);
    // The folder is replaced by a file.
    fs::remove_dir_all(&path).unwrap();
    fs::write(&path, "").unwrap();
    state.save(&saved);
    let trouble = state.trouble().unwrap().to_owned();
    assert!(trouble.starts_with(&format!("cannot write {}/state.json: ", path.display())), "{trouble}");
    state.append(&rollout(1, None));
    assert!(state.trouble().unwrap().contains("history.jsonl"), "{:?}", state.trouble());
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    state.save(&saved);
    assert!(!state.trouble().unwrap().contains("state.json"), "{:?}", state.trouble());
    state.append(&rollout(2, None));
    assert_eq!(state.trouble(), None);
    let mut names: Vec<_> = fs::read_dir(&path).unwrap().map(|e| e.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["history.jsonl", "state.json"], "nothing is left over");
}

#[test]
fn what_a_power_cut_left_does_not_hinder() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("state.json.new"), "{\"vers").unwrap();
    let saved = Saved::new(&Memory::default(), &Releases::default(), &Extra::default());
    let (mut state, found) = open(folder.path());
    assert_eq!(found, None);
    state.save(&saved);
    assert_eq!(state.trouble(), None);
    drop(state);
    assert_eq!(open(folder.path()).1, Some(saved));
}

#[test]
fn nobody_else_may_read_it() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("made/here");
    let (mut state, _) = open(&path);
    state.save(&Saved::new(&Memory::default(), &Releases::default(), &Extra::default()));
    state.append(&rollout(1, None));
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o700);
    for name in ["state.json", "history.jsonl", "lock"] {
        assert_eq!(path.join(name).metadata().unwrap().permissions().mode() & 0o777, 0o600, "{name}");
    }
}

fn lines(folder: &Path) -> Vec<serde_json::Value> {
    let text = fs::read_to_string(folder.join("history.jsonl")).unwrap();
    assert!(text.ends_with('\n'));
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn the_history_has_a_line_a_rollout_and_keeps_its_newer_half() {
    let folder = tempfile::tempdir().unwrap();
    let (mut state, _) = open(folder.path());
    state.append(&rollout(1, None));
    let first = &lines(folder.path())[0];
    assert_eq!((&first["id"], &first["outcome"]), (&1.into(), &"aborted".into()));
    assert_eq!(first["to"], "/app/releases/4\u{fffd}2");
    assert_eq!(first["ended_at"], "2023-11-14T22:13:20.123Z");
    for id in 2..=40 {
        state.append(&rollout(id, Some(report(b"/r", "died", &[b'x'; 60_000]))));
    }
    assert_eq!(state.trouble(), None);
    let lines = lines(folder.path());
    let ids: Vec<u64> = lines.iter().map(|line| line["id"].as_u64().unwrap()).collect();
    assert_eq!(ids.last(), Some(&40));
    assert!(ids.windows(2).all(|pair| pair[0] + 1 == pair[1]), "{ids:?}");
    assert!(ids[0] > 20 && ids.len() >= 8, "{ids:?}");
    assert!(fs::metadata(folder.path().join("history.jsonl")).unwrap().len() <= 1 << 20);
    assert!(!folder.path().join("history.jsonl.new").exists());
}

#[test]
fn half_a_line_of_the_history_takes_no_other_with_it() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("history.jsonl"), "{\"id\": 1}\n{\"id\": 2, \"ki").unwrap();
    let (mut state, _) = open(folder.path());
    state.append(&rollout(3, None));
    let text = fs::read_to_string(folder.path().join("history.jsonl")).unwrap();
    assert!(text.starts_with("{\"id\": 1}\n{\"id\": 2, \"ki\n{\"id\":3,"), "{text}");
    // One line that is longer than everything that may stay is the only one that stays.
    fs::write(folder.path().join("history.jsonl"), vec![b'x'; 3 << 20]).unwrap();
    state.append(&rollout(4, None));
    assert_eq!(lines(folder.path())[0]["id"], 4);
}
