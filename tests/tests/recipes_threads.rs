//! Workers × threads: how `--workers`, WEB_CONCURRENCY and a server's own threads relate, with an application in the manner of
//! Rails (puma) and a Django project (gunicorn), as `tests/servers/rails.md` and `django.md` say.

use std::collections::BTreeMap;
use std::thread;

use proto::worker::Stage;
use tests::servers::{self, Server, all_on, stopped};
use tests::{Load, Master, Site, http};

/// The threads that each instance is told to have.
const THREADS: usize = 3;

/// More requests than all threads of all slots, which all stand at a gate: how many stood there together in one process at most.
fn most_inside(site: &Site, master: &Master<'_>) -> usize {
    let address = master.address();
    let clients: Vec<_> = (0..4 * THREADS)
        .map(|_| {
            let address = address.clone();
            thread::spawn(move || http::get(&address, "/meet").expect("an answer"))
        })
        .collect();
    let mut waiting = Vec::new();
    let mut by_process: BTreeMap<i32, usize> = BTreeMap::new();
    // Of two processes, one has at least half of the requests, and so all its threads in use.
    while by_process.values().all(|count| *count < THREADS) {
        let arrival = site.arrival("meet");
        *by_process.entry(arrival.app.pid).or_default() += 1;
        waiting.push(arrival);
    }
    site.open("meet");
    for one in waiting {
        one.open();
    }
    let inside = |body: String| body.trim().strip_prefix("inside=").and_then(|count| count.parse().ok());
    clients.into_iter().map(|client| inside(client.join().expect("a client")).expect("a count")).max().expect("answers")
}

/// WEB_CONCURRENCY is the number of slots, and reaches no app; each app is one process with so many threads.
fn steady<'a>(site: &'a Site, server: &Server, options: &[&str], variable: (&str, &str)) -> Master<'a> {
    for name in ["one", "two"] {
        server.release(site, name, "good");
    }
    site.deploy("one");
    let master = site.master().default_workers().env("WEB_CONCURRENCY", "2").env(variable.0, variable.1);
    let master = server.start(master.options(options));
    let stats = master.until_state("steady");
    assert_eq!(stats.workers, 2);
    all_on(&stats, "one");
    let page = master.get("/concurrency");
    assert!(["WEB_CONCURRENCY=nil\n", "WEB_CONCURRENCY=None\n"].contains(&page.as_str()), "{page}");
    assert_eq!(most_inside(site, &master), THREADS);
    master
}

#[test]
fn an_application_in_the_manner_of_rails() {
    let site = Site::new();
    let server = servers::RAILS;
    server.release(&site, "broken", "broken");
    let master = steady(&site, &server, &[], ("RAILS_MAX_THREADS", "3"));
    let load = Load::start(&master.address());
    load.until("one");
    let _ = master.roll("two").expect(0);
    load.until("two");
    let said = master.roll("broken").expect(3);
    assert!(said.stderr.contains(server.error), "{}", said.stderr);
    all_on(&master.stats(), "two");
    load.more(20);
    let tally = load.finish();
    assert_eq!(tally.releases.keys().collect::<Vec<_>>(), ["one", "two"], "{tally:?}");
    stopped(master);
}

#[test]
fn a_django_project() {
    let site = Site::new();
    let server = servers::DJANGO;
    for name in ["broken", "unmigrated"] {
        server.release(&site, name, "good");
        server.release(&site, name, name);
    }
    let python = servers::folder().join("venv/bin/python");
    let migrate = format!("'{}' manage.py migrate --no-input", python.display());
    let options = ["--before-rollout", &migrate, "--check", "http://shop.example/health"];
    let database = site.root().join("db.sqlite3");
    let master = steady(&site, &server, &options, ("DATABASE", database.to_str().expect("a readable path")));
    let load = Load::start(&master.address());
    load.until("one");
    let _ = master.roll("two").expect(0);
    load.until("two");
    let apps = master.app_pids();
    for (release, stage, words) in [
        ("broken", Stage::Hook, "django.db.utils.OperationalError: no such table: shop_items"),
        ("unmigrated", Stage::Check, "django.db.utils.OperationalError: no such table: shop_goods"),
    ] {
        let said = master.roll(release).expect(3);
        assert!(said.stderr.contains(&format!("stage {stage}")), "{}", said.stderr);
        assert!(said.stderr.contains(words), "{}", said.stderr);
        all_on(&master.stats(), "two");
    }
    assert_eq!(master.app_pids(), apps, "an app was lost");
    load.more(20);
    let tally = load.finish();
    assert_eq!(tally.releases.keys().collect::<Vec<_>>(), ["one", "two"], "{tally:?}");
    stopped(master);
}
