//! The limit of open files: the master takes what it may, the app gets what the master was started with.

use std::fs;

use tests::Site;

/// The soft limit of open files of a process.
fn files(pid: i32) -> String {
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).expect("limits");
    let line = limits.lines().find(|line| line.starts_with("Max open files")).expect("a line");
    line.split_whitespace().nth(3).expect("a number").to_owned()
}

#[test]
fn the_master_raises_its_own_and_the_app_gets_the_given_one() {
    let site = Site::new();
    site.release("41", "");
    site.deploy("41");
    let master =
        site.master().workers(1).wrap(&["sh", "-c", "ulimit -Sn 300; ulimit -Hn 4096; exec \"$@\"", "sh"]).start();
    master.until_state("steady");
    assert_eq!(files(master.pid()), "4096");
    let app = master.app_pids()[0];
    assert_eq!(files(app), "300");
}
