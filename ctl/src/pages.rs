//! The man page of `ctl` and its completions, from the definitions that parse its command line.
//!
//! This is a test: what writes the page is a dependency of tests alone. `scripts/pages DIR` runs it with [`FOLDER`] set, and
//! then it leaves the files there.

use std::ffi::OsStr;
use std::fs;
use std::path::Path;

use clap::CommandFactory;
use clap::ValueEnum;
use clap_mangen::Man;

use crate::cli::Cli;
use crate::completions::{self, Shell};

/// Names the folder for the files.
const FOLDER: &str = "PHASED_PAGES";

/// What no definition says: exit codes, files, examples.
const REST: &str = include_str!("page.man");

/// The name in packages and in `man`.
const NAME: &str = "phased-ctl";

const USAGE: &str = "ctl [--socket PATH | --name NAME] [--json] [--quiet] COMMAND";

/// All commands on one page, each with its options: they are short, and who looks for one finds its neighbours.
fn page() -> String {
    let ctl = Cli::command().display_name(NAME).bin_name("ctl").override_usage(USAGE).disable_help_flag(true);
    let about = "tells a phased master what to do, waits until it is done, and says how it ended";
    let man = Man::new(ctl.disable_help_subcommand(true).about(about))
        .title(NAME.to_uppercase())
        .section("1")
        .date("")
        .source(format!("phased {}", env!("CARGO_PKG_VERSION")))
        .manual("phased");
    let mut page = Vec::new();
    man.render_title(&mut page).unwrap();
    man.render_name_section(&mut page).unwrap();
    man.render_synopsis_section(&mut page).unwrap();
    let (description, rest) = REST.split_once(".\\\" commands\n").expect("the place of the commands");
    page.extend_from_slice(description.as_bytes());
    man.render_options_section(&mut page).unwrap();
    page.extend_from_slice(b".SH COMMANDS\n");
    for command in Cli::command().get_subcommands() {
        page.extend_from_slice(section(command.clone()).as_bytes());
    }
    page.extend_from_slice(rest.as_bytes());
    ascii(&String::from_utf8(page).unwrap())
}

/// troff reads Latin-1: what is not ASCII gets a name.
fn ascii(page: &str) -> String {
    let named = |c: char| if c.is_ascii() { c.to_string() } else { format!("\\[u{:04X}]", u32::from(c)) };
    page.chars().map(named).collect()
}

/// One command: its line, what it does, its options.
fn section(command: clap::Command) -> String {
    let mut command = command.disable_help_flag(true).bin_name("");
    let usage = command.render_usage().to_string();
    let usage = usage.trim_start_matches("Usage:").trim();
    let name = command.get_name().to_owned();
    let usage = format!("{name} {}", usage.strip_prefix(&name).unwrap_or(usage).trim());
    let mut section = format!(".SS {}\n", escaped(usage.trim()));
    let aliases: Vec<_> = command.get_all_aliases().map(|alias| format!("Also: {}.", escaped(alias))).collect();
    let mut written = Vec::new();
    let man = Man::new(command);
    man.render_description_section(&mut written).unwrap();
    man.render_options_section(&mut written).unwrap();
    // The headings of a page of its own.
    for line in String::from_utf8(written).unwrap().lines().filter(|line| !line.starts_with(".SH")) {
        section.push_str(line);
        section.push('\n');
    }
    for alias in aliases {
        section.push_str(&format!(".PP\n{alias}\n"));
    }
    section
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\e").replace('-', "\\-")
}

#[test]
fn every_command_and_option_stands_in_the_page() {
    let page = page();
    let option = |arg: &clap::Arg| {
        let Some(long) = arg.get_long() else { return };
        let heading = format!("\\-\\-{}\\fR", escaped(long));
        assert!(page.contains(&heading), "--{long}: no {heading}");
    };
    Cli::command().get_arguments().for_each(option);
    for command in Cli::command().get_subcommands() {
        let heading = format!(".SS {}", escaped(command.get_name()));
        assert!(page.lines().any(|line| line.split(' ').take(2).eq(heading.split(' '))), "no {heading}");
        command.get_arguments().for_each(option);
    }
}

#[test]
fn written() {
    let script = |shell| completions::script(shell, OsStr::new(NAME)).unwrap();
    let mut files = vec![(format!("{NAME}.1"), page())];
    for shell in Shell::value_variants() {
        let file = match shell {
            Shell::Bash => format!("bash/{NAME}"),
            Shell::Zsh => format!("zsh/_{NAME}"),
            Shell::Fish => format!("fish/{NAME}.fish"),
        };
        files.push((file, script(*shell)));
    }
    for (name, text) in files {
        assert!(text.to_lowercase().contains(NAME), "{name}");
        let Some(folder) = std::env::var_os(FOLDER) else { continue };
        let path = Path::new(&folder).join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
}
