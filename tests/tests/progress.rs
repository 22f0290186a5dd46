//! What a person sees while a rollout is waited for: a block on a terminal, lines with their time elsewhere.

use nix::sys::signal::Signal;
use tests::master::all_on;
use tests::{Site, Terminal};

/// The lines of a screen up to the last one that is not empty.
fn lines(screen: &str) -> Vec<&str> {
    screen.trim_end().lines().collect()
}

#[test]
fn a_good_release_on_a_terminal() {
    let site = Site::new();
    let master = site.steady("41", "", 2);
    site.release("42", "gate boot");
    site.deploy("42");
    let terminal = Terminal::open(&site, 80, 24);
    terminal.types("ctl phased-restart; echo ended with $?");
    let first = site.arrival("boot");
    let screen = terminal.until_shows("slot 0  booting   42");
    let shown = lines(&screen);
    assert_eq!(shown.len(), 5, "{screen}");
    assert!(shown[1].starts_with("phased-restart 1: /") && shown[1].ends_with("/releases/42 (phase 1)"), "{screen}");
    assert!(shown[2].ends_with("41 ready"), "{screen}");
    assert!(shown[3].starts_with("slot 1  ready     41  ") && shown[3].ends_with("s  accepting"), "{screen}");
    assert!(shown[4].starts_with("[....") && shown[4].contains("]  0 of 2, 2 left, rolling, "), "{screen}");
    // Nobody says anything, and the seconds go on.
    let seconds = |screen: &str| lines(screen).last().and_then(|line| line.rsplit(' ').next().map(str::to_owned));
    let before = seconds(&screen);
    terminal.until("another second", |screen| seconds(screen) != before);
    first.open();
    let second = site.arrival("boot");
    // The old worker's end is no line of the master's: the block shows it all the same.
    let screen = terminal.until("slot 0 alone on 42", |screen| {
        let is_through = |line: &&str| line.starts_with("slot 0  ready     42  ") && line.ends_with("s  accepting");
        lines(screen).get(2).is_some_and(is_through) && screen.contains("slot 1  booting   42")
    });
    assert!(screen.contains("##") && screen.contains("1 of 2, 1 left, rolling, "), "{screen}");
    second.open();
    let screen = terminal.until_shows("ended with 0");
    let shown = lines(&screen);
    assert_eq!(shown.len(), 5, "the block has gone: {screen}");
    assert!(shown[1].starts_with("phased-restart 1: "), "{screen}");
    assert!(shown[2].starts_with("promoted /") && shown[2].contains("/releases/42 ("), "{screen}");
    assert_eq!((shown[3], shown[4]), ("ended with 0", "$"));
    assert!(terminal.is_clean());
    assert!(all_on(&master.stats(), "42"));
    assert!(terminal.printed().contains("\x1b[38;5;"), "in colours: {:?}", terminal.printed());
}

#[test]
fn a_refused_release_on_a_terminal_without_colours() {
    let site = Site::new();
    let master = site.steady("41", "", 3);
    site.release(
        "42",
        "slot 0 gate boot\nslot 1 gate boot\nslot 1 print \x1b[31mNo module named flask_login\nslot 1 exit 1",
    );
    site.deploy("42");
    let terminal = Terminal::open_with(&site, 80, 24, &[("NO_COLOR", "1")]);
    terminal.types("ctl phased-restart; echo ended with $?");
    site.arrival("boot").open();
    let second = site.arrival("boot");
    terminal.until("slot 1 under way", |screen| {
        screen.contains("slot 1  booting   42") && screen.contains("1 of 3, 2 left")
    });
    second.open();
    let screen = terminal.until_shows("ended with 3");
    let all = screen.replace('\n', " ");
    let wanted =
        ["aborting (slot 1 failed): 1 worker is put back", "error: unable to boot with new codebase, using old one ("];
    for text in wanted
        .into_iter()
        .chain(["slot 1, stage ", "| No module named flask_login phased restart failed ended with 3 $"])
    {
        assert!(all.contains(text), "{text} in {screen}");
    }
    assert!(!screen.contains("slot 0  ") && !screen.contains(" left, "), "the block has gone: {screen}");
    assert!(terminal.is_clean());
    assert!(all_on(&master.stats(), "41"));
    let printed = terminal.printed();
    assert!(!printed.contains("\x1b[3"), "no colours: {printed:?}");
    // The error itself is what it is in a pipe.
    let piped = master.ctl(&["phased-restart", "--if-new"]).expect(3);
    assert!(piped.stderr.contains("No module named flask_login"), "{}", piped.stderr);
}

#[test]
fn ctrl_c_leaves_the_rollout_and_the_terminal_as_they_should_be() {
    let site = Site::new();
    let master = site.steady("41", "", 1);
    site.release("42", "gate boot");
    site.deploy("42");
    let terminal = Terminal::open(&site, 80, 24);
    terminal.types("ctl phased-restart; echo ended with $?");
    terminal.until_shows("slot 0  booting   42");
    terminal.press("C-c");
    // The shell is interrupted, too, and says nothing of the exit code.
    let screen = terminal.until_shows("interrupted; the rollout goes on: see `ctl status`");
    assert!(!screen.contains("slot 0  "), "the block has gone: {screen}");
    terminal.until("a prompt", |screen| screen.trim_end().ends_with('$'));
    assert!(terminal.is_clean());
    site.open("boot");
    master.until("promoted", |stats| all_on(stats, "42") && stats.rollout.is_none());
}

#[test]
fn the_next_master_is_waited_for_and_drawn() {
    let site = Site::new();
    let mut master = site.steady("41", "", 2);
    site.release("42", "slot 1 gate boot");
    site.deploy("42");
    let terminal = Terminal::open(&site, 80, 24);
    terminal.types("ctl phased-restart; echo ended with $?");
    let _waiting = site.arrival("boot");
    terminal.until("slot 1 under way", |screen| screen.contains("slot 1  booting   42") && screen.contains("1 of 2"));
    master.signal(Signal::SIGKILL);
    master.end();
    let screen = terminal.until_shows("the master went away; waiting for the next one");
    assert!(screen.contains("slot 1  booting   42"), "what was known stays: {screen}");
    let next = site.master().start();
    let screen = terminal.until_shows("ended with 3");
    assert!(screen.contains("error: ") && !screen.contains("slot 1  "), "{screen}");
    assert!(terminal.is_clean());
    next.until("undone", |stats| all_on(stats, "41"));
}

#[test]
fn of_forty_slots_a_small_terminal_shows_those_that_matter() {
    let site = Site::new();
    let master = site.steady("41", "", 40);
    site.release("42", "slot 30 gate boot");
    site.deploy("42");
    let terminal = Terminal::open(&site, 80, 24);
    terminal.types("ctl phased-restart");
    let waiting = site.arrival("boot");
    let screen = terminal.until("slot 30 under way", |screen| {
        screen.contains("slot 30  booting   42") && screen.contains("30 of 40, 10 left, rolling")
    });
    assert!(lines(&screen).iter().any(|line| line.starts_with("and ") && line.ends_with(" more slots")), "{screen}");
    assert!(lines(&screen).len() <= 24 && lines(&screen).iter().all(|line| line.chars().count() < 80), "{screen}");
    // A narrower one breaks what is there; it is drawn anew.
    terminal.resize(60, 15);
    terminal.until("a smaller block", |screen| {
        let shown = lines(screen);
        shown.first().is_some_and(|line| line.starts_with("slot 30  booting")) && shown.len() == 14
    });
    waiting.open();
    let screen = terminal.until_shows("promoted /");
    assert!(!screen.contains("slot "), "{screen}");
    assert!(all_on(&master.stats(), "42"));
}

#[test]
fn a_dumb_terminal_and_a_pipe_get_a_line_an_event_with_its_time() {
    let site = Site::new();
    let master = site.steady("41", "", 2);
    site.release("42", "");
    let terminal = Terminal::open_with(&site, 200, 50, &[]);
    site.deploy("42");
    terminal.types("TERM=dumb ctl phased-restart; echo ended with $?");
    let screen = terminal.until_shows("ended with 0");
    site.release("43", "");
    let piped = master.roll("43").expect(0);
    for (text, release) in [(screen.as_str(), "42"), (piped.stdout.as_str(), "43")] {
        let stamped: Vec<_> = text.lines().filter(|line| line.starts_with("20") && line.contains("Z ")).collect();
        let events: Vec<_> = stamped.iter().map(|line| line.split_once("Z ").expect("a time").1).collect();
        assert!(stamped.iter().all(|line| line.find("Z ") == Some("2026-01-31T12:00:00".len())), "{text}");
        assert!(
            events[0].starts_with("phased-restart ") && events[0].contains(&format!("/{release} (phase ")),
            "{text}"
        );
        assert!(events[1].starts_with("slot 0: ") && events[1].ends_with(", 1 of 2"), "{text}");
        assert!(events[2].starts_with("slot 1: ") && events[2].ends_with(", 2 of 2"), "{text}");
        assert!(
            text.lines().any(|line| line.starts_with("promoted /") && line.contains(&format!("/{release} ("))),
            "{text}"
        );
        assert!(!text.contains('\x1b'), "{text}");
    }
    assert!(!terminal.printed().contains("\x1b[3"), "{}", terminal.printed());
    for quiet in ["--quiet", "--json"] {
        let said = master.ctl(&["phased-restart", quiet]).expect(0);
        assert_eq!(said.stdout.lines().count(), usize::from(quiet == "--json"), "{}", said.stdout);
    }
    // On a terminal, too.
    terminal.types("clear; ctl phased-restart --quiet; echo ended with $?");
    let screen = terminal.until("the end", |screen| screen.starts_with("ended with 0"));
    assert_eq!(lines(&screen).len(), 2, "{screen}");
}
