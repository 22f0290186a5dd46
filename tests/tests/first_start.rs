//! The first start: there is no old code.

use std::fs;

use tests::Site;
use tests::master::{all_on, name_of, ready};

#[test]
fn nothing_boots() {
    let site = Site::new();
    site.release("41", "eprint cannot find my config\nexit 9");
    site.deploy("41");
    let said = site.master().workers(2).run().expect(3);
    for word in ["slot 0", "stage ready", "exited with status 9", "cannot find my config"] {
        assert!(said.stderr.contains(word), "{word} in {}", said.stderr);
    }
    assert!(said.stderr.contains(site.release_dir("41").to_str().unwrap()), "{}", said.stderr);
    assert_eq!(site.boots("41"), 2, "every slot is tried once");
    assert!(!site.socket().exists(), "the control socket is removed");
}

#[test]
fn some_boot() {
    let site = Site::new();
    site.release("41", "slot 1 starts 2 exit 1");
    site.deploy("41");
    let master = site.master().workers(2).start();
    let stats = master.until_state("degraded");
    assert_eq!(ready(&stats), [(0, "41".into())]);
    // Retried under backoff; its first attempt was one of the first two starts of the release.
    let stats = master.until_state("steady");
    assert!(all_on(&stats, "41"));
    assert_eq!(name_of(&stats.release), "41");
}

#[test]
fn dir_is_wrong() {
    let site = Site::new();
    site.point(&site.root().join("releases/none"));
    let said = site.master().run().expect(1);
    assert!(said.stderr.contains(site.current().to_str().unwrap()), "{}", said.stderr);
    fs::write(site.root().join("file"), "").expect("a file");
    site.point(&site.root().join("file"));
    let said = site.master().run().expect(1);
    assert!(said.stderr.to_lowercase().contains("not a directory"), "{}", said.stderr);
}

#[test]
fn usage_errors_are_2() {
    let site = Site::new();
    site.release("41", "");
    site.deploy("41");
    for options in [
        &["--no-such-option"][..],
        &["--surge", "0", "--max-unavailable", "0"],
        &["--ready", "sometimes"],
        &["--boot-timeout", "soon"],
        &["--stop-signal", "NONSENSE"],
        &["--listen", "carrier-pigeon://x"],
    ] {
        let said = site.master().options(options).run();
        assert_eq!(said.code, Some(2), "{options:?}: {}", said.stderr);
    }
}

#[test]
fn the_state_directory_is_created() {
    let site = Site::new();
    let state = site.root().join("state");
    fs::remove_dir(&state).expect("removed");
    let _master = site.steady("41", "", 1);
    assert!(state.is_dir());
}
