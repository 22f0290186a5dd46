//! The pages in `tests/servers`: they are all in the index, their links lead somewhere, the commands in them are those that the
//! tests run, and what they say of this project's options and commands exists.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use tests::binaries::binary;
use tests::pages::{self, blocks};
use tests::servers::{self, Server};

const INDEX: &str = "tests/servers/RECIPES.md";

/// All pages but the index, by name.
fn names() -> Vec<String> {
    let entries = fs::read_dir(pages::path("tests/servers")).expect("the folder");
    let names = entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned());
    let mut names: Vec<String> = names.filter(|name| name.ends_with(".md") && name != "RECIPES.md").collect();
    names.sort();
    assert!(names.len() >= 17, "{names:?}");
    names
}

/// The targets of a page's links.
fn links(text: &str) -> Vec<String> {
    text.split("](").skip(1).filter_map(|rest| rest.split(')').next()).map(str::to_owned).collect()
}

/// The words in backticks of one cell.
fn codes(cell: &str) -> Vec<&str> {
    cell.split('`').skip(1).step_by(2).collect()
}

#[test]
fn every_page_is_in_the_index_and_every_link_leads_somewhere() {
    let index = pages::read(INDEX);
    let known = links(&index);
    for name in names() {
        assert!(known.contains(&name), "{name} is not in the index");
        for link in links(&pages::read(&format!("tests/servers/{name}"))) {
            let file = link.split('#').next().expect("a part");
            assert!(pages::path("tests/servers").join(file).exists(), "{name} links to {link}");
        }
    }
    for link in known {
        assert!(pages::path("tests/servers").join(link.split('#').next().expect("a part")).exists(), "{link}");
    }
}

/// What a server's line in the index has to be: the words that the tests give it, but for those that only serve the tests.
fn line(server: &Server) -> String {
    let quoted = |word: &str| if word.contains(' ') { format!("'{word}'") } else { word.to_owned() };
    let program =
        server.program.rsplit_once('/').filter(|(folder, _)| *folder != ".").map_or(server.program, |(_, name)| name);
    let tests_own = ["--no-control-socket", "--disable-logging", "--no-access-log", "--access-log", "/dev/null"];
    let words = server.args.iter().filter(|word| !tests_own.contains(word)).map(|word| quoted(word));
    let command: Vec<String> = std::iter::once(program.to_owned()).chain(words).collect();
    let options: Vec<String> = server.options.iter().map(|word| quoted(word)).collect();
    let command = command.join(" ");
    if options.is_empty() { format!("| `{command}` |") } else { format!("| `{} -- {command}` |", options.join(" ")) }
}

#[test]
fn the_index_has_the_commands_that_the_tests_run() {
    let index = pages::read(INDEX);
    for server in [
        servers::GUNICORN_SYNC,
        servers::GUNICORN_GTHREAD,
        servers::GUNICORN_ASGI,
        servers::DJANGO,
        servers::UWSGI,
        servers::UVICORN,
        servers::UVICORN_PLAIN,
        servers::HYPERCORN,
        servers::DAPHNE,
        servers::DAPHNE_PLAIN,
        servers::NODE,
        servers::PUMA,
        servers::RAILS,
        servers::UNICORN,
        servers::STARLET,
        servers::STARMAN,
        servers::GO,
        servers::RUST,
    ] {
        let line = line(&server);
        assert!(index.contains(&line), "the index has no {line}");
    }
}

/// Each line of a page's code stands in the file that the tests run.
#[test]
fn code_in_the_pages_is_code_that_runs() {
    let code = |line: &str| {
        let comment = [" #", " //"].iter().filter_map(|mark| line.find(mark)).min();
        line[..comment.unwrap_or(line.len())].trim().to_owned()
    };
    for (page, kind, file) in [
        ("rails.md", "ruby", "tests/servers/rails/good/config/puma.rb"),
        ("go.md", "go", "tests/servers/go/good/main.go"),
        ("rust.md", "rust", "tests/servers/rust/good/main.rs"),
    ] {
        let source: BTreeSet<String> = pages::read(file).lines().map(code).collect();
        let found: Vec<_> =
            blocks(&pages::read(&format!("tests/servers/{page}"))).into_iter().filter(|b| b.kind == [kind]).collect();
        assert!(!found.is_empty(), "{page} has no {kind}");
        for line in found.iter().flat_map(|block| block.text.lines()).map(code).filter(|line| !line.is_empty()) {
            assert!(source.contains(&line), "{file} has no line {line:?}, which {page} shows");
        }
    }
}

/// What `program … --help` says.
fn help(program: &str, words: &[&str]) -> String {
    let output = Command::new(binary(program)).args(words).arg("--help").output().expect("it runs");
    assert!(output.status.success(), "{program} {words:?} --help: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The column of this project's own commands and options in the tables of `moving.md`.
#[test]
fn what_one_moves_to_exists() {
    let master = help("master", &[]);
    let (mut commands, mut options) = (0, 0);
    for row in pages::read("tests/servers/moving.md").lines().filter(|line| line.starts_with("| ")) {
        let cells: Vec<&str> = row.split('|').collect();
        assert!((5..=6).contains(&cells.len()), "{row}");
        for code in codes(cells[2]) {
            let words: Vec<&str> = code.split(' ').collect();
            match words[..] {
                ["ctl", command, ..] => {
                    let help = help("ctl", &[command]);
                    for option in words.iter().filter(|word| word.starts_with("--")) {
                        assert!(help.contains(option), "ctl {command} has no {option}");
                    }
                    commands += 1;
                }
                [option, ..] if option.starts_with("--") => {
                    assert!(master.contains(&format!("{option} ")), "master has no {option}");
                    options += 1;
                }
                _ => {}
            }
        }
    }
    assert!(commands > 20 && options > 15, "{commands} commands, {options} options");
}
