use ratatui::text::Line;

use super::*;
use crate::progress::sample::{self, now, rollout, stats, worker};

/// The block as text. Nothing in it may be wider or higher than was asked for, or drive a terminal.
fn drawn(stats: Stats, columns: usize, height: usize) -> String {
    let mut block = Block::default();
    block.learn(stats, now());
    text(&block.lines(now(), columns, height), columns, height)
}

fn text(lines: &[Line<'_>], columns: usize, height: usize) -> String {
    assert!(lines.len() <= height, "{} lines of {height}", lines.len());
    let mut out = String::new();
    for line in lines {
        let line = line.to_string();
        assert!(width(&line) <= columns, "{} columns of {columns}: {line}", width(&line));
        assert!(!line.chars().any(char::is_control), "{line:?}");
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

#[test]
fn a_rollout_is_a_line_a_slot_and_a_bar() {
    let wanted = "\
slot 0  ready     42    0.83s  accepting
slot 1  booting   42       3s             41 ready
slot 2  ready     41    0.83s  accepting
[#########...................]  1 of 3, 2 left, rolling, 12s
";
    for (columns, height) in [(79, 23), (199, 49)] {
        assert_eq!(drawn(sample::rolling(3), columns, height), wanted);
    }
}

#[test]
fn going_back_says_what_is_to_be_put_back() {
    let workers = vec![worker(0, 101, "draining", "42", 9), worker(0, 103, "booting", "41", 1), {
        let mut failed = worker(1, 2, "ready", "41", 600);
        failed.evidence = None;
        failed
    }];
    let wanted = "\
slot 0  booting   41       1s             42 draining 0s
slot 1  ready     41    0.83s
[##############..............]  1 to put back, rolling back, 12s
";
    assert_eq!(drawn(stats("rolling_back", workers, Some(rollout("rolling_back", 1, 2))), 79, 23), wanted);
}

#[test]
fn a_rehearsal_has_no_slot_and_no_bar() {
    let mut run = rollout("rehearsing", 0, 0);
    run.kind = "rehearsal".into();
    let workers = vec![worker(0, 1, "ready", "41", 600), worker(0, 9, "booting", "42", 2)];
    let wanted = "\
rehearsal  booting   42       2s
slot 0     ready     41    0.83s  accepting
rehearsal of 42, 12s
";
    assert_eq!(drawn(stats("rolling", workers, Some(run)), 79, 23), wanted);
}

#[test]
fn what_waits_for_somebody_is_said() {
    let mut paused = sample::rolling(2);
    paused.rollout.as_mut().unwrap().state = "paused".into();
    let text = drawn(paused, 79, 23);
    assert!(text.ends_with("1 of 2, 1 left, paused, 12s, ctl resume goes on, ctl abort undoes it\n"), "{text}");
}

#[test]
fn of_many_slots_those_under_way_come_first() {
    let mut all = sample::rolling(40);
    let crashed = all.worker_status.iter_mut().find(|w| w.index.0 == 39).unwrap();
    *crashed = worker(39, 0, "backoff", "41", 5);
    let text = drawn(all.clone(), 79, 23);
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines.len(), 23);
    assert!(lines[0].starts_with("slot 1   booting"), "{text}");
    assert!(lines[1].starts_with("slot 39  backoff   41       5s"), "{text}");
    assert!(lines[2].starts_with("slot 0   ready"), "{text}");
    assert_eq!(lines[21], "and 19 more slots");
    assert!(lines[22].ends_with("1 of 40, 39 left, rolling, 12s"), "{text}");
    let high = drawn(all, 199, 49);
    assert_eq!(high.lines().count(), 41);
    assert!(high.starts_with("slot 0   ready"), "in order, where there is room: {high}");
}

#[test]
fn no_terminal_is_too_small() {
    for columns in 0..90 {
        for height in 0..8 {
            drawn(sample::rolling(5), columns, height);
        }
    }
}

#[test]
fn long_and_hostile_names_are_harmless() {
    let mut all = sample::rolling(3);
    for (slot, release) in ["x".repeat(300), "日本語".repeat(60), "\x1b[2J\x1b]0;evil\x07\n\t\u{202e}\u{9b}2J\r".into()]
        .into_iter()
        .enumerate()
    {
        for worker in all.worker_status.iter_mut().filter(|w| w.index.0 == slot as u32) {
            worker.release = sample::path(&release);
            worker.state = format!("{}\x1b[31m\n", worker.state);
        }
    }
    for (columns, height) in [(79, 23), (199, 49), (20, 5)] {
        let text = drawn(all.clone(), columns, height);
        assert!(!text.contains("evil"), "{text}");
    }
    assert!(drawn(all, 79, 23).contains("xxxxxxxxx…  "));
}

#[test]
fn a_drain_is_timed_from_when_it_was_seen() {
    let later = now() + Duration::from_secs(4);
    let mut block = Block::default();
    let at = |state: &str| stats("rolling", vec![worker(0, 1, state, "41", 600)], Some(rollout("rolling", 0, 1)));
    block.learn(at("ready"), now());
    block.learn(at("draining"), now());
    block.learn(at("draining"), later);
    let text = text(&block.lines(later, 79, 23), 79, 23);
    assert!(text.starts_with("slot 0  draining  41       4s"), "{text}");
}

#[test]
fn the_end_is_not_drawn() {
    let mut block = Block::default();
    assert_eq!(block.lines(now(), 79, 23), Vec::<Line<'_>>::new());
    block.learn(sample::rolling(2), now());
    let before = block.lines(now(), 79, 23);
    block.learn(stats("steady", vec![worker(0, 101, "ready", "42", 9)], None), now());
    assert_eq!(block.lines(now(), 79, 23), before);
}

#[test]
fn only_what_the_block_says_itself_is_left_out() {
    let block = Block::default();
    assert!(block.shows("slot 3: /app/releases/42 ready after 0.83s (accepting), 1 of 4"));
    for line in [
        "all workers ready; soaking for 5s",
        "slot 1: /app/releases/42 died: exited with status 7 after 1.00s",
        "trying /app/releases/42 all the same, which was refused before",
        "aborting (slot 0 failed): 1 worker is put back",
    ] {
        assert!(!block.shows(line), "{line}");
    }
}
