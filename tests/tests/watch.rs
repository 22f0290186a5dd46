//! `ctl watch` in a real terminal.

use nix::sys::signal::Signal;
use tests::master::{all_on, ready};
use tests::{Site, Terminal, process};

/// The line that begins with this word.
fn line<'a>(screen: &'a str, word: &str) -> &'a str {
    screen.lines().find(|line| line.starts_with(word)).unwrap_or_else(|| panic!("no line {word:?}:\n{screen}"))
}

/// How many rows of the table have this state and release.
fn rows(screen: &str, state: &str, release: &str) -> usize {
    let is_one = |line: &&str| {
        let mut words = line.split_whitespace().skip(1);
        words.next() == Some(state) && words.next() == Some(release)
    };
    screen.lines().filter(is_one).count()
}

/// Everything that a person can do, on a screen of this size.
fn a_session(columns: u16, height: u16) {
    let site = Site::new();
    let master = site.steady("41", "", 2);
    let terminal = Terminal::open(&site, columns, height);
    terminal.types("ctl watch --interval 100ms; echo ended with $?");
    // The first look has no CPU time to compare with.
    let screen = terminal.until("two slots and their CPU time", |screen| {
        rows(screen, "ready", "41") == 2 && screen.lines().filter(|line| line.contains(" 0.0 ")).count() == 2
    });
    assert!(screen.starts_with("site  steady  2/2 workers, 0 old, phase 0, master "), "{screen}");
    assert!(line(&screen, "release").ends_with("/releases/41") && line(&screen, "dir").ends_with("-> the release"));
    assert!(screen.trim_end().lines().last().is_some_and(|line| line.starts_with("q quit   r phased-restart")));
    assert_eq!(screen.lines().count(), usize::from(height), "{screen}");
    let pid = master.app_pids()[0].to_string();
    let row = screen.lines().find(|line| line.contains(&pid)).unwrap_or_else(|| panic!("{pid} in {screen}"));
    let memory = row.split_whitespace().find(|word| word.ends_with(['K', 'M']));
    assert!(memory.is_some_and(|size| size != "0K"), "{row}");

    // One worker more, after a no and a yes.
    terminal.press("+");
    terminal.until_shows("one worker more than 2? y/n");
    terminal.press("n");
    terminal.until("no question", |screen| !screen.contains("y/n"));
    terminal.press("+");
    terminal.until_shows("one worker more than 2? y/n");
    terminal.press("y");
    let screen = terminal.until_shows("scale +1: 3 workers (before: 2)");
    assert!(screen.contains("site  steady  3/3 workers"), "{screen}");
    terminal.until("three slots", |screen| rows(screen, "ready", "41") == 3);
    assert_eq!(ready(&master.stats()).len(), 3);

    // A rollout, seen from its beginning, and its abort.
    site.release("42", "slot 1 gate boot");
    site.deploy("42");
    terminal.until("the drift", |screen| line(screen, "dir").ends_with("/releases/42 (not deployed)"));
    terminal.press("r");
    terminal.until_shows("/releases/42? y/n");
    terminal.press("y");
    let _waiting = site.arrival("boot");
    let screen = terminal.until("slot 1 under way", |screen| {
        rows(screen, "booting", "42") == 1 && rows(screen, "ready", "42") == 1 && screen.contains("]  1 of 3")
    });
    assert!(screen.contains("[rolling]") && screen.contains("phased restart 1: 41 -> 42, "), "{screen}");
    assert!(line(&screen, "dir").ends_with("(the candidate)"), "{screen}");
    terminal.press("a");
    terminal.until_shows("abort the rollout and put back what it replaced? y/n");
    terminal.press("y");
    terminal.until("all on 41", |screen| {
        rows(screen, "ready", "41") == 3 && screen.contains("last: phased restart 1: 41 -> 42, aborted after ")
    });
    assert!(all_on(&master.stats(), "41"));

    // One that does not boot: its own words.
    site.release("43", "print \x1b[31mno module named flask\nexit 7");
    site.deploy("43");
    terminal.until("the drift", |screen| line(screen, "dir").contains("/releases/43 (not deployed)"));
    terminal.press("r");
    terminal.until_shows("/releases/43? y/n");
    terminal.press("y");
    terminal.until_shows("phased-restart: unable to boot with new codebase, using old one (");
    let screen = terminal.until_shows("| no module named flask");
    assert!(line(&screen, "last failure: 43, slot 0, stage ").contains("exited with status 7 after "), "{screen}");
    assert!(line(&screen, "dir").contains("/releases/43 (refused "), "{screen}");

    terminal.press("q");
    let screen = terminal.until_shows("ended with 0");
    assert!(screen.starts_with("$ ctl watch --interval 100ms; echo ended with $?\nended with 0\n"), "{screen}");
    assert!(terminal.is_clean());
    assert!(terminal.printed().contains("38;5;"), "in colours");
}

#[test]
fn a_session_in_80_by_24() {
    a_session(80, 24);
}

#[test]
fn a_session_in_200_by_50() {
    a_session(200, 50);
}

#[test]
fn a_master_that_goes_away_is_waited_for() {
    let site = Site::new();
    let mut master = site.steady("41", "", 1);
    let terminal = Terminal::open(&site, 80, 24);
    terminal.types("ctl watch --interval 100ms; echo ended with $?");
    terminal.until("a slot", |screen| rows(screen, "ready", "41") == 1);
    master.signal(Signal::SIGKILL);
    master.end();
    let screen = terminal.until_shows("the master is away (");
    assert_eq!(rows(&screen, "ready", "41"), 1, "what it said last: {screen}");
    let next = site.master().workers(1).start();
    let pid = next.stats().pid.to_string();
    let screen = terminal.until("the next one", |screen| screen.contains(&format!("master {pid} up ")));
    assert!(!screen.contains("is away"), "{screen}");
    // Another size, down to one in which there is room for nothing.
    for (columns, height) in [(200, 50), (40, 10), (10, 3), (2, 2), (80, 24)] {
        terminal.resize(columns, height);
    }
    terminal.until("all of it again", |screen| screen.contains("q quit   r phased-restart   a abort   +/- scale"));
    terminal.press("C-c");
    terminal.until_shows("ended with 0");
    assert!(terminal.is_clean());
}

#[test]
fn a_signal_ends_it_and_the_terminal_is_as_before() {
    let site = Site::new();
    let _master = site.steady("41", "", 1);
    let terminal = Terminal::open_with(&site, 80, 24, &[("NO_COLOR", "1")]);
    terminal.types("ctl watch; echo ended with $?");
    terminal.until("a slot", |screen| rows(screen, "ready", "41") == 1);
    assert!(!terminal.is_clean(), "a screen of its own");
    let watch = process::of_site(site.root()).into_iter().find(|process| process.command == "ctl watch");
    process::signal(watch.expect("it runs").pid, Signal::SIGTERM);
    terminal.until_shows("ended with 0");
    assert!(terminal.is_clean());
    let printed = terminal.printed();
    assert!(!printed.contains("38;5;"), "no colours: {printed:?}");
}

#[test]
fn what_is_no_terminal_is_refused() {
    let site = Site::new();
    let master = site.steady("41", "", 1);
    let said = master.ctl(&["watch"]).expect(2);
    assert!(said.stdout.is_empty() && said.stderr.starts_with("error: watch needs a terminal"), "{said:?}");
    let said = master.ctl(&["watch", "--json"]).expect(2);
    assert_eq!(said.json()["error"]["code"], 2);
    let said = master.ctl(&["watch", "--interval", "0s"]).expect(2);
    assert!(said.stderr.contains("100ms"), "{said:?}");
    let terminal = Terminal::open(&site, 80, 24);
    let lines = ["ctl watch >/dev/null", "ctl watch --json", "ctl watch </dev/null", "TERM=dumb ctl watch"];
    for (n, line) in lines.into_iter().enumerate() {
        terminal.types(&format!("({line}); echo {n} ended with $?"));
        terminal.until_shows(&format!("{n} ended with 2"));
    }
}
