//! What `scripts/pages` writes, as people meet it: man pages rendered by groff, and completions in real shells.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use nix::sys::signal::Signal;
use tests::binaries::binary;
use tests::{Ctl, Output, Site};

/// The project's root.
fn project(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

/// Runs a program to its end, and demands that it succeeds and complains about nothing.
#[track_caller]
fn quiet(command: &mut Command) -> String {
    let Output { code, stdout, stderr } = Ctl::start(command).end();
    assert_eq!((code, stderr.as_str()), (Some(0), ""), "{command:?}\n{stdout}");
    stdout
}

/// Everything that `scripts/pages` writes, and programs of the names that it is for.
fn pages() -> &'static Path {
    static FOLDER: OnceLock<tempfile::TempDir> = OnceLock::new();
    FOLDER
        .get_or_init(|| {
            quiet(&mut Command::new(project("scripts/shells")));
            let folder = tempfile::tempdir().expect("a folder");
            quiet(Command::new(project("scripts/pages")).arg(folder.path()));
            let bin = folder.path().join("bin");
            fs::create_dir(&bin).expect("a folder");
            for name in ["master", "ctl"] {
                symlink(binary(name), bin.join(format!("phased-{name}"))).expect("a symlink");
                symlink(binary(name), bin.join(name)).expect("a symlink");
            }
            folder
        })
        .path()
}

/// A shell that finds these programs, and that nobody's own settings reach.
fn shell(words: &[&str]) -> Command {
    let mut command = Command::new(words[0]);
    command.args(&words[1..]).env_clear().current_dir(pages());
    command.env("PATH", format!("{}:/usr/bin:/bin", pages().join("bin").display()));
    command.env("HOME", pages()).env("LC_ALL", "C.UTF-8").env("TERM", "dumb");
    command
}

const MAN: [&str; 3] = ["phased-master.8", "phased-worker.8", "phased-ctl.1"];

#[test]
fn man_pages_render_without_a_warning() {
    for page in MAN {
        let file = pages().join("man").join(page);
        let text = quiet(shell(&["groff", "-Tutf8", "-man", "-ww", "-P-cbou"]).arg(&file));
        let sections: Vec<_> = text.lines().filter(|line| !line.is_empty() && !line.starts_with(' ')).collect();
        for section in ["NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", "EXIT STATUS", "SIGNALS", "ENVIRONMENT", "FILES"]
        {
            assert!(sections.contains(&section), "{page}: no {section} among {sections:?}");
        }
        assert!(sections.contains(&"EXAMPLES") && sections.contains(&"SEE ALSO"), "{page}: {sections:?}");
        assert!(text.contains(&format!("phased {}", env!("CARGO_PKG_VERSION"))), "{page} names no version");
    }
}

/// A program's help is one screen, and names all that its man page does.
#[test]
fn help_is_one_screen() {
    for (name, page) in [("master", MAN[0]), ("worker", MAN[1]), ("ctl", MAN[2])] {
        let mut helps = Vec::new();
        for option in ["-h", "--help"] {
            let help = quiet(Command::new(binary(name)).arg(option).env("COLUMNS", "200"));
            assert!(help.lines().count() <= 50, "{name} {option} has {} lines", help.lines().count());
            let widest = help.lines().max_by_key(|line| line.chars().count()).unwrap_or_default();
            assert!(widest.chars().count() <= 80, "{name} {option}: {widest}");
            helps.push(help);
        }
        assert_eq!(helps[0], helps[1], "{name}");
        let page = fs::read_to_string(pages().join("man").join(page)).expect("a page").replace("\\-", "-");
        let readme = fs::read_to_string(project("README.md")).expect("README.md");
        for word in helps[0].split(|c: char| !c.is_alphanumeric() && c != '-').filter(|word| word.starts_with("--")) {
            if word == "--" || word == "--help" || word == "--version" {
                continue;
            }
            assert!(page.contains(word), "{word} of {name}'s help does not stand in its man page");
            assert!(readme.contains(word), "{word} of {name}'s help does not stand in README.md");
        }
    }
}

#[test]
fn every_command_of_ctl_stands_in_readme_with_its_options() {
    let readme = fs::read_to_string(project("README.md")).expect("README.md");
    let page = fs::read_to_string(pages().join("man/phased-ctl.1")).expect("a page").replace("\\-", "-");
    let (_, rest) = page.split_once(".SH COMMANDS\n").expect("the commands");
    let (commands, _) = rest.split_once("\n.SH ").expect("what comes behind them");
    let mut seen = 0;
    for line in commands.lines() {
        if let Some(command) = line.strip_prefix(".SS ") {
            let name = command.split([' ', '[']).next().unwrap_or_default();
            assert!(readme.contains(&format!("`{name}")) || readme.contains(&format!("ctl {name}")), "{name}");
            seen += 1;
        } else if let Some(option) = line.strip_prefix("\\fB--") {
            let name = option.split('\\').next().unwrap_or_default();
            assert!(readme.contains(&format!("--{name}")), "--{name}");
            seen += 1;
        }
    }
    assert!(seen > 30, "{seen} is not all of them");
}

#[test]
fn completions_are_in_their_shells_syntax() {
    for program in ["master", "ctl"] {
        quiet(shell(&["bash", "-n"]).arg(format!("bash/phased-{program}")));
        quiet(shell(&["zsh", "-f", "-n"]).arg(format!("zsh/_phased-{program}")));
        quiet(shell(&["fish", "--no-config", "-n"]).arg(format!("fish/phased-{program}.fish")));
    }
}

/// What a Tab offers behind these words, the last of which is unfinished.
fn bash(words: &[&str]) -> Vec<String> {
    const TAB: &str = r#"
        source "bash/$1"
        spec=$(complete -p "$1") && spec=${spec##*-F } && function=${spec%% *}
        COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)) COMP_TYPE=9
        "$function" "$1" "${!#}" "${COMP_WORDS[COMP_CWORD - 1]}"
        printf '%s\n' "${COMPREPLY[@]}""#;
    lines(&quiet(shell(&["bash", "--norc", "-c", TAB, "bash"]).args(words)))
}

fn fish(words: &[&str]) -> Vec<String> {
    let file = format!("fish/{}.fish", words[0]);
    let tab = format!("source {file}; complete --do-complete '{}'", words.join(" "));
    let offered = quiet(&mut shell(&["fish", "--no-config", "-c", &tab]));
    lines(&offered).iter().map(|line| line.split('\t').next().unwrap_or_default().to_owned()).collect()
}

/// A zsh at a terminal of its own, whose completion is loaded at the first Tab, as an installed one: what then stands on
/// the line.
fn zsh(words: &[&str]) -> String {
    const TAB: &str = r#"
        zmodload zsh/zpty
        zpty terminal "zsh -f -i"
        zpty -w terminal "PS1=; fpath=($PWD/zsh \$fpath); autoload -Uz compinit; compinit -u -D; stty columns 500
            show() { print -rn -- \"<\$BUFFER>\"; BUFFER=; zle accept-line }; zle -N show; bindkey '^X' show; print ready-\$((1 + 1))"
        zpty -r terminal said '*ready-2*'
        zpty -w -n terminal "$1"$'\t\x18'
        zpty -r terminal said '*<*>*'
        print -r -- "${${said##*<}%%>*}"
        zpty -d terminal"#;
    let line = words.join(" ");
    // A zsh that never shows its line would be waited for without end.
    let mut command = shell(&["timeout", "300", "zsh", "-f", "-c", TAB, "zsh"]);
    quiet(command.arg(&line)).trim_end_matches('\n').to_owned()
}

fn lines(text: &str) -> Vec<String> {
    text.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect()
}

#[test]
fn commands_and_options_are_completed_in_each_shell() {
    for shell in [bash, fish] {
        assert_eq!(shell(&["phased-ctl", "phased-restart", "--can"]), ["--canary", "--canary-soak"]);
        assert_eq!(shell(&["phased-ctl", "re"]).first().map(String::as_str), Some("rehearse"));
        assert_eq!(shell(&["phased-ctl", "signal", "T"]), ["TRAP", "TERM", "TSTP", "TTIN", "TTOU"]);
        assert_eq!(shell(&["phased-master", "--max-u"]), ["--max-unavailable"]);
        assert_eq!(shell(&["phased-master", "--log-format", "j"]), ["json"]);
    }
    assert_eq!(zsh(&["phased-ctl", "rehe"]), "phased-ctl rehearse ");
    assert_eq!(zsh(&["phased-ctl", "stats", "--js"]), "phased-ctl stats --json ");
    assert_eq!(zsh(&["phased-master", "--max-u"]), "phased-master --max-unavailable=");
}

#[test]
fn releases_are_completed_from_beside_the_masters_own() {
    // Made before the site is, whose time is bounded.
    pages();
    let site = Site::new();
    let master = site.steady("41", "", 1);
    let [fresh, own] = ["42", "41"].map(|name| site.release(name, "").display().to_string());
    let socket = site.socket().display().to_string();
    for command in [&["reload-dir", ""][..], &["rehearse", ""], &["phased-restart", "--dir", ""]] {
        let words = [&["phased-ctl", "--socket", &socket][..], command].concat();
        for shell in [bash, fish] {
            let mut offered = shell(&words);
            offered.retain(|word| !word.starts_with("--"));
            assert_eq!(offered, [own.as_str(), &fresh], "{words:?}");
        }
    }
    let typed = fresh.strip_suffix('2').expect("a name");
    assert_eq!(bash(&["phased-ctl", "--socket", &socket, "rehearse", typed]), [own.as_str(), &fresh]);
    let typed = ["phased-ctl", "--socket", &socket, "rehearse", &fresh[..fresh.len() - 1]];
    fs::remove_dir_all(&own).ok();
    assert_eq!(zsh(&typed), format!("phased-ctl --socket {socket} rehearse {fresh} "));
    // Nobody answers: directories, and not a word of complaint.
    let folder = format!("{}/", site.root().join("releases").display());
    let words = ["phased-ctl", "--socket", &socket, "rehearse", &folder];
    master.signal(Signal::SIGSTOP);
    assert_eq!(bash(&words), [format!("{fresh}/")]);
    master.signal(Signal::SIGCONT);
    drop(master);
    assert_eq!(bash(&words), [format!("{fresh}/")]);
}

#[test]
fn a_script_is_for_the_name_that_was_typed() {
    let site = Site::new();
    let said = Ctl::start(tests::ctl::bare().args(["completions", "fish"]).current_dir(site.root())).end().expect(0);
    assert!(said.stdout.contains("--command ctl "), "{}", said.stdout);
    let said = Ctl::start(tests::ctl::bare().args(["--json", "completions", "zsh"])).end().expect(0);
    assert!(
        said.json()["script"].as_str().is_some_and(|script| script.starts_with("#compdef ctl\n")),
        "{}",
        said.stdout
    );
    // What only the scripts are to set does no harm to a command.
    let said =
        Ctl::start(tests::ctl::bare().args(["completions", "fish"]).env("PHASED_COMPLETE", "bash")).end().expect(0);
    assert!(said.stdout.starts_with("complete "), "{}", said.stdout);
    let said = Ctl::start(tests::ctl::bare().args(["completions", "csh"])).end().expect(2);
    assert!(said.stderr.contains("csh") && said.stderr.contains("bash, zsh, fish"), "{}", said.stderr);
}
