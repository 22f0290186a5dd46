//! `ctl history` and `ctl releases`: what was, and what must not be deleted.

use std::collections::BTreeMap;

use tests::Site;
use tests::master::name_of;

#[test]
fn what_is_in_use_is_told_a_path_a_line() {
    let site = Site::new();
    let master = site.steady("41", "", 1);
    let paths = |names: &[&str]| {
        names.iter().map(|name| site.release_dir(name).display().to_string()).collect::<Vec<_>>().join("\n")
    };
    let in_use = || master.ctl(&["releases", "--in-use"]).expect(0).stdout;
    assert_eq!(in_use(), paths(&["41"]));
    for release in ["42", "43"] {
        site.release(release, "");
        master.roll(release).expect(0);
    }
    site.release("44", "exit 1");
    master.roll("44").expect(3);
    // 43 runs, 44 is what dir names, 42 is what a rollback goes back to.
    assert_eq!(in_use(), paths(&["43", "44", "42"]));
    site.deploy("43");
    site.release("45", "");
    master.ctl(&["phased-restart", "--hold", "--dir", site.release_dir("45").to_str().expect("text")]).expect(0);
    let said = master.ctl(&["--json", "releases"]).expect(0).json();
    let roles: BTreeMap<String, String> = said["releases"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|release| {
            let path = release["release"].as_str().expect("a path");
            let words: Vec<_> =
                release["roles"].as_array().expect("a list").iter().filter_map(|r| r.as_str()).collect();
            (name_of(path.as_bytes()), format!("{} {}", release["in_use"], words.join(" ")))
        })
        .collect();
    let wanted = [
        ("41", "false earlier"),
        ("42", "true previous"),
        ("43", "true known-good dir"),
        ("44", "false refused"),
        ("45", "true held running"),
    ];
    assert_eq!(roles, wanted.map(|(name, roles)| (name.to_string(), roles.to_string())).into());
    let table = master.ctl(&["releases"]).expect(0).stdout;
    assert!(table.ends_with("/44  refused (not in use)"), "{table}");
}

#[test]
fn a_path_that_is_no_line_is_not_told_in_parts() {
    let site = Site::new();
    let master = site.steady("41\n42", "", 1);
    let said = master.ctl(&["releases", "--in-use"]).expect(1);
    assert_eq!(said.stdout, "");
    assert!(said.stderr.contains("41^J42 cannot be told on a line"), "{}", said.stderr);
    assert_eq!(master.ctl(&["--json", "releases", "--in-use"]).expect(0).json()["ok"], true);
}

#[test]
fn the_rollouts_that_were() {
    let site = Site::new();
    let master = site.steady("41", "", 1);
    assert_eq!(master.ctl(&["history"]).expect(0).stdout, "no rollout so far");
    site.release("42", "");
    site.release("43", "exit 7");
    master.roll("42").expect(0);
    let refused = master.ctl(&["--json", "stats"]).expect(0).json()["last_rollout"].clone();
    master.roll("43").expect(3);
    let all = master.ctl(&["--json", "history"]).expect(0).json()["rollouts"].clone();
    assert_eq!((all.as_array().map(Vec::len), &all[0]), (Some(2), &refused));
    let last = master.ctl(&["history", "-n", "1"]).expect(0).stdout;
    assert_eq!(last.lines().count(), 1);
    assert!(last.contains("phased restart 2  aborted ") && last.contains("exited with status 7"), "{last}");
    // Half a line, as a power cut leaves it, hides none of the others.
    let file = site.state().join("history.jsonl");
    let text = std::fs::read_to_string(&file).expect("the file");
    std::fs::write(&file, format!("{}\n{{\"id\":", text.trim_end())).expect("written");
    let said = master.ctl(&["history"]).expect(0).stdout;
    assert!(said.starts_with("1 line that cannot be read left out\n") && said.lines().count() == 3, "{said}");
}
