//! The man page and the completions of `master`, from the definitions that parse its command line.
//!
//! This is a test, and so is its counterpart in `ctl`: what writes them is a dependency of tests alone, and cannot find its way
//! into a program whose memory counts. `scripts/pages DIR` runs it with [`FOLDER`] set, and then it leaves the files there.

use std::fs;
use std::path::Path;

use clap_complete::Shell;
use clap_mangen::Man;

use crate::cli::Cli;

/// Names the folder for the files.
const FOLDER: &str = "PHASED_PAGES";

/// What no definition says: signals, files, examples.
const REST: &str = include_str!("page.man");

/// The name in packages and in `man`; `master` alone is postfix's, too.
const NAME: &str = "phased-master";

fn page() -> String {
    // The help text stands in the way of nothing here, and the name in the synopsis is what is typed.
    let man = Man::new(Cli::options().display_name(NAME).bin_name("master").disable_help_flag(true))
        .title(NAME.to_uppercase())
        .section("8")
        .date("")
        .source(format!("phased {}", env!("CARGO_PKG_VERSION")))
        .manual("phased");
    let mut page = Vec::new();
    man.render_title(&mut page).unwrap();
    man.render_name_section(&mut page).unwrap();
    man.render_synopsis_section(&mut page).unwrap();
    let (description, rest) = REST.split_once(".\\\" options\n").expect("the place of the options");
    page.extend_from_slice(description.as_bytes());
    man.render_options_section(&mut page).unwrap();
    page.extend_from_slice(rest.as_bytes());
    ascii(&String::from_utf8(page).unwrap())
}

/// troff reads Latin-1: what is not ASCII gets a name.
fn ascii(page: &str) -> String {
    let named = |c: char| if c.is_ascii() { c.to_string() } else { format!("\\[u{:04X}]", u32::from(c)) };
    page.chars().map(named).collect()
}

#[test]
fn every_option_stands_in_the_page() {
    let page = page();
    for option in Cli::options().get_arguments().filter_map(clap::Arg::get_long).filter(|o| *o != "help") {
        let heading = format!("\\-\\-{}\\fR", option.replace('-', "\\-"));
        assert!(page.contains(&heading), "--{option}: no {heading}");
    }
}

#[test]
fn written() {
    let files = [
        (format!("{NAME}.8"), page().into_bytes()),
        (format!("bash/{NAME}"), completion(Shell::Bash)),
        (format!("zsh/_{NAME}"), completion(Shell::Zsh)),
        (format!("fish/{NAME}.fish"), completion(Shell::Fish)),
    ];
    for (name, text) in files {
        assert!(text.windows(NAME.len()).any(|part| part == NAME.as_bytes() || part == NAME.to_uppercase().as_bytes()));
        let Some(folder) = std::env::var_os(FOLDER) else { continue };
        let path = Path::new(&folder).join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
}

fn completion(shell: Shell) -> Vec<u8> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::options(), NAME, &mut script);
    script
}
