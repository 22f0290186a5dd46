//! `ctl metrics` and `ctl exporter`, as the real promtool, node_exporter and Prometheus read them (`scripts/prometheus`), and the
//! alert rules and the dashboard of `scripts/monitoring`.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;
use tests::http::{self, Address};
use tests::lines::Lines;
use tests::master::app_pid;
use tests::{Ctl, Site, ctl, process};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the project")
}

/// One of the programs that `scripts/prometheus` installs.
fn program(name: &str) -> PathBuf {
    static FOLDER: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| {
        let output = Command::new(root().join("scripts/prometheus")).output().map_err(|error| error.to_string())?;
        if !output.status.success() {
            return Err(format!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr)));
        }
        Ok(PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()))
    });
    match folder {
        Ok(folder) => folder.join(name),
        Err(error) => panic!("Prometheus is not installed, and scripts/prometheus cannot do it: {error}"),
    }
}

/// promtool's exit code and all that it says.
fn promtool(args: &[&str], input: &str) -> (Option<i32>, String) {
    let mut child = Command::new(program("promtool"))
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool");
    // It may end before it has read all: then its exit code says why.
    let _ = child.stdin.take().expect("a pipe").write_all(input.as_bytes());
    let output = child.wait_with_output().expect("promtool");
    (output.status.code(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
}

/// Waits for a line with this in it; what stands behind it, up to the next space.
#[track_caller]
fn word_behind(lines: &Lines, text: &str, site: &Site) -> String {
    let found = lines.wait(0, site.deadline(), |line| line.contains(text));
    let (_, line) = found.unwrap_or_else(|vain| panic!("no line with {text:?}: {vain:?}\n{}", lines.text()));
    let rest = line.split_once(text).map(|(_, rest)| rest).unwrap_or_default();
    rest.split_whitespace().next().unwrap_or_default().to_owned()
}

/// An exporter of the site's master, on a port of the kernel's choice, and its address.
fn exporter(site: &Site) -> (Ctl, SocketAddr) {
    let exporter = Ctl::start(&mut ctl::command(&site.socket(), &["exporter", "--listen", "127.0.0.1:0"]));
    let url = word_behind(&exporter.stdout, "serving http://", site);
    let address = url.strip_suffix("/metrics").expect("a URL").parse().expect("an address");
    (exporter, address)
}

/// Ends it as a service manager does.
#[track_caller]
fn ends(exporter: Ctl) -> tests::Output {
    process::signal(exporter.pid(), Signal::SIGTERM);
    exporter.end().expect(0)
}

/// Status and body of a page.
#[track_caller]
fn page(address: SocketAddr, path: &str) -> (u16, String) {
    let mut stream = Address::Tcp(address).connect().expect("a connection");
    let answer = http::ask(&mut *stream, path, false).unwrap_or_else(|broken| panic!("GET {path}: {broken}"));
    assert!(answer.close, "a connection is one request");
    (answer.status, answer.body)
}

/// The names of all that is declared.
fn declared(text: &str) -> BTreeSet<String> {
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE phased_"));
    types.filter_map(|rest| Some(format!("phased_{}", rest.split(' ').next()?))).collect()
}

/// The names in the README's table.
fn documented() -> BTreeSet<String> {
    let readme = fs::read_to_string(root().join("README.md")).expect("README.md");
    let rows = readme.lines().filter_map(|line| line.strip_prefix("| `phased_"));
    rows.map(|row| format!("phased_{}", row.split(['{', '`']).next().unwrap_or_default())).collect()
}

#[test]
fn what_promtool_and_node_exporter_read() {
    let (node_exporter, folder) = (program("prometheus-node-exporter"), "textfile");
    let site = Site::new();
    // A path that no text format takes as it is.
    let master = site.steady("4\"1\\", "", 2);
    site.release("42", "");
    site.deploy("42");
    master.ctl(&["phased-restart", "--confirm-within", "1h"]).expect(0);
    let text = master.ctl(&["metrics"]).expect(0).stdout + "\n";
    assert!(text.ends_with("\n# EOF\n"), "{text}");
    assert_eq!(promtool(&["check", "metrics"], &text), (Some(0), String::new()), "{text}");
    let samples: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    assert!(samples.iter().all(|line| line.contains("{site=\"site\"")), "{text}");
    assert!(text.contains("/releases/4\\\"1\\\\\",role=\"previous\"} 1\n"), "{text}");
    assert_eq!(declared(&text), documented(), "README.md's table against what there is");

    fs::create_dir(site.root().join(folder)).expect("a folder");
    fs::write(site.root().join(folder).join("site.prom"), &text).expect("a file");
    let mut command = Command::new(node_exporter);
    command.args(["--collector.disable-defaults", "--collector.textfile", "--web.listen-address=127.0.0.1:0"]);
    command.arg(format!("--collector.textfile.directory={}", site.root().join(folder).display()));
    let node = Ctl::start(&mut command);
    let address = word_behind(&node.stderr, "msg=\"Listening on\" address=", &site);
    let mut stream = TcpStream::connect(&address).expect("node_exporter");
    stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").expect("a request");
    let mut page = String::new();
    stream.read_to_string(&mut page).expect("a page");
    assert!(page.contains("\nnode_textfile_scrape_error 0\n"), "{page}\n{}", node.stderr.text());
    let types = |text: &str| -> BTreeSet<String> {
        text.lines().filter(|line| line.starts_with("# TYPE phased_")).map(str::to_owned).collect()
    };
    assert_eq!(types(&page), types(&text));
    let told = page.lines().filter(|line| line.starts_with("phased_")).count();
    assert_eq!(told, samples.len(), "{page}");

    let json = master.ctl(&["metrics", "--json"]).expect(0).json();
    let names: BTreeSet<String> =
        json["metrics"].as_array().into_iter().flatten().filter_map(|m| Some(m["name"].as_str()?.into())).collect();
    assert_eq!((&json["ok"], names), (&Value::Bool(true), declared(&text)));
    master.ctl(&["stop"]).expect(0);
    assert_eq!(master.ctl(&["metrics"]).expect(7).stdout, "", "so that no half of a file is written");
}

/// What stands between Prometheus and the exporter, and sees when a scrape begins (`begun`) and that it is through (`whole`).
struct Scrapes {
    address: SocketAddr,
    log: Arc<Lines>,
}

impl Scrapes {
    fn of(exporter: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let log = Arc::new(Lines::default());
        let told = Arc::clone(&log);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                told.push("begun".into());
                if relay(stream, exporter).is_ok() {
                    told.push("whole".into());
                }
            }
        });
        Self { address, log }
    }
}

fn relay(mut from: TcpStream, exporter: SocketAddr) -> io::Result<u64> {
    from.set_read_timeout(Some(Duration::from_secs(30)))?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        from.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    let mut to = TcpStream::connect(exporter)?;
    to.set_read_timeout(Some(Duration::from_secs(30)))?;
    to.write_all(&head)?;
    io::copy(&mut to, &mut from)
}

/// A Prometheus that scrapes one exporter.
struct Prometheus<'a> {
    site: &'a Site,
    url: String,
    scrapes: Scrapes,
    _server: Ctl,
}

impl<'a> Prometheus<'a> {
    fn start(site: &'a Site, exporter: SocketAddr) -> Self {
        let scrapes = Scrapes::of(exporter);
        let config = site.root().join("prometheus.yml");
        let text = format!(
            "global: {{scrape_interval: 500ms, scrape_timeout: 500ms, evaluation_interval: 1s}}\n\
             scrape_configs: [{{job_name: phased, static_configs: [{{targets: [\"{}\"]}}]}}]\n\
             rule_files: [\"{}\"]\n",
            scrapes.address,
            root().join("scripts/monitoring/alerts.yml").display()
        );
        fs::write(&config, text).expect("a file");
        let mut command = Command::new(program("prometheus"));
        command.arg("--web.listen-address=127.0.0.1:0").arg(format!("--config.file={}", config.display()));
        command.arg(format!("--storage.tsdb.path={}", site.root().join("prometheus").display()));
        let server = Ctl::start(&mut command);
        let address = word_behind(&server.stderr, "msg=\"Listening on\" address=", site);
        word_behind(&server.stderr, "Server is ready to receive web requests", site);
        Self { site, url: format!("http://{address}"), scrapes, _server: server }
    }

    /// The values of an expression, one a series.
    #[track_caller]
    fn query(&self, expression: &str) -> Vec<String> {
        let (code, said) = promtool(&["query", "instant", &self.url, expression], "");
        assert_eq!(code, Some(0), "{expression}: {said}");
        let value = |line: &str| Some(line.split_once(" => ")?.1.split_once(" @")?.0.to_owned());
        said.lines().filter_map(value).collect()
    }

    /// Waits until the expression has one series of this value: looks now, and again after each scrape.
    #[track_caller]
    fn until(&self, expression: &str, wanted: &str) {
        loop {
            let log = &self.scrapes.log;
            let seen = log.len();
            let values = self.query(expression);
            if values == [wanted] {
                return;
            }
            // What one scrape has brought is stored when the next one begins.
            let through = log.wait(seen, self.site.deadline(), |entry| entry == "whole");
            let next = through.and_then(|(at, _)| log.wait(at + 1, self.site.deadline(), |entry| entry == "begun"));
            if let Err(vain) = next {
                panic!("waiting until {expression} is {wanted}: {vain:?}; last seen: {values:?}");
            }
        }
    }

    #[track_caller]
    fn is(&self, expression: &str, wanted: &str) {
        assert_eq!(self.query(expression), [wanted], "{expression}");
    }
}

#[test]
fn a_site_that_prometheus_scrapes() {
    program("prometheus");
    let site = Site::new();
    let master = site.steady("41", "", 2);
    let (exporter, address) = exporter(&site);
    let prometheus = Prometheus::start(&site, address);
    let rollouts = |outcome: &str| format!("phased_rollouts_total{{kind=\"phased-restart\",outcome=\"{outcome}\"}}");
    prometheus.until(&rollouts("promoted"), "0");
    prometheus.is("phased_up + on (instance) up", "2");
    prometheus.is("phased_workers_ready == phased_workers_wanted", "2");
    prometheus.is("count(phased_app_memory_bytes > 10000) + count(phased_app_cpu_seconds_total)", "4");

    site.release("42", "die-gate die 7");
    master.roll("42").expect(0);
    prometheus.until(&rollouts("promoted"), "1");
    let known_good = format!(
        "phased_release_info{{site=\"site\",role=\"known-good\",release=\"{}\"}}",
        site.release_dir("42").canonicalize().expect("a path").display()
    );
    prometheus.is(
        &format!("{known_good} + on (site) phased_boot_seconds_bucket{{le=\"+Inf\"}} + on (site) phased_drift"),
        "5",
    );

    site.release("43", "exit 1");
    master.roll("43").expect(3);
    prometheus.until(&rollouts("aborted"), "1");
    // The first increase is seen, since there was a 0 before.
    prometheus.is(&format!("increase({}[5m]) > bool 0", rollouts("aborted")), "1");
    prometheus.is("phased_drift + phased_dir_refused", "2");
    // That release is no worker that was replaced.
    prometheus.is("sum(phased_worker_restarts_total)", "0");
    let lately = "time() - phased_last_rollout_timestamp_seconds < 3600";
    prometheus.is(&format!("phased_last_rollout_outcome{{outcome=\"aborted\"}} == 1 and on (site) {lately}"), "1");
    prometheus.until("ALERTS{alertname=\"PhasedRolloutFailed\",outcome=\"aborted\"}", "1");

    let old = master.stats().worker_status.iter().filter_map(app_pid).collect::<Vec<_>>();
    site.arrival("die").open();
    master.until("the crashed app is replaced", |stats| {
        stats.booted_workers == 2 && stats.worker_status.iter().filter_map(app_pid).collect::<Vec<_>>() != old
    });
    prometheus.until("phased_worker_restarts_total{reason=\"crash\"}", "1");
    prometheus.is("phased_rollouts_total{kind=\"phased-restart\",outcome=\"promoted\"}", "1");

    master.ctl(&["stop"]).expect(0);
    prometheus.until("phased_up{site=\"site\"}", "0");
    prometheus.is("absent(phased_workers_ready)", "1");
    assert_eq!(page(address, "/healthz").0, 503);
    site.deploy("42");
    let _next = site.master().start();
    prometheus.until("phased_up{site=\"site\"}", "1");
    let said = ends(exporter).stderr;
    let (away, back) = (said.find("error: no master: "), said.find("the master answers again"));
    assert!(away.is_some() && back > away && said.matches("error: ").count() == 1, "{said}");
}

#[test]
fn health_is_the_masters_state() {
    let site = Site::new();
    let (exporter, address) = exporter(&site);
    let (status, said) = page(address, "/healthz");
    assert!(status == 503 && said.starts_with("no master: "), "{status} {said}");
    let (status, text) = page(address, "/metrics");
    assert_eq!((status, declared(&text)), (200, ["phased_up".to_owned()].into()), "{text}");
    site.release("41", "gate boot");
    site.deploy("41");
    let master = site.master().start();
    let first = site.arrival("boot");
    let (status, said) = page(address, "/healthz");
    assert!(status == 503 && said.starts_with("site: booting"), "{status} {said}");
    first.open();
    site.open("boot");
    master.until_state("steady");
    let (status, said) = page(address, "/healthz");
    assert!(status == 200 && said.starts_with("site: steady, 2/2 workers on "), "{status} {said}");
    // A rollout is no illness.
    site.release("42", "gate late");
    site.deploy("42");
    let rollout = master.ctl_start(&["phased-restart"]);
    let second = site.arrival("late");
    assert_eq!(page(address, "/healthz").0, 200);
    assert!(page(address, "/metrics").1.contains("\nphased_state{site=\"site\",state=\"rolling\"} 1\n"));
    second.open();
    site.open("late");
    rollout.end().expect(0);
    assert_eq!((page(address, "/").0, page(address, "/metrics/x").0), (404, 404));
    let said = master.ctl(&["exporter", "--listen", &address.to_string()]).expect(1).stderr;
    assert!(said.starts_with(&format!("error: cannot listen on {address}: ")), "{said}");
    ends(exporter);
}

#[test]
fn silent_connections_do_not_keep_it_from_serving() {
    let site = Site::new();
    let _master = site.steady("41", "", 1);
    let (exporter, address) = exporter(&site);
    // More than it takes at a time, and half of them begin to say something.
    let silent: Vec<TcpStream> = (0..160)
        .map(|number| {
            let mut stream = TcpStream::connect(address).expect("a connection");
            if number % 2 == 0 {
                stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: ").expect("half a request");
            }
            stream
        })
        .collect();
    assert_eq!(page(address, "/healthz").0, 200);
    for mut stream in silent {
        stream.set_read_timeout(Some(Duration::from_secs(30))).expect("a timeout");
        let mut said = Vec::new();
        match stream.read_to_end(&mut said) {
            Ok(_) => {}
            Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
        }
    }
    assert_eq!(page(address, "/metrics").0, 200);
    ends(exporter);
}

#[test]
fn a_master_that_hangs_is_asked_one_question_at_a_time() {
    const CLIENTS: usize = 8;
    let site = Site::new();
    // It takes connections and never answers.
    let hangs = UnixListener::bind(site.socket()).expect("a socket");
    let (exporter, address) = exporter(&site);
    let clients: Vec<_> = (0..CLIENTS).map(|_| thread::spawn(move || page(address, "/metrics"))).collect();
    for client in clients {
        let (status, text) = client.join().expect("an answer");
        assert!(status == 200 && text.contains("\nphased_up{site=\"site\"} 0\n"), "{status} {text}");
    }
    let said = ends(exporter).stderr;
    assert!(said.contains("did not answer within 5 seconds"), "{said}");
    hangs.set_nonblocking(true).expect("a socket");
    let asked = std::iter::from_fn(|| hangs.accept().ok()).count();
    assert!((1..CLIENTS).contains(&asked), "{asked} questions for {CLIENTS} scrapes at the same time");
}

/// Every `expr` in a dashboard.
fn expressions(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            found.extend(map.get("expr").and_then(Value::as_str).map(str::to_owned));
            map.values().for_each(|value| expressions(value, found));
        }
        Value::Array(all) => all.iter().for_each(|value| expressions(value, found)),
        _ => {}
    }
}

/// The metrics that a text names, by the families' names.
fn named(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').filter(|word| word.starts_with("phased_"));
    let family = |word: &str| {
        let boot = "phased_boot_seconds";
        if word.starts_with(boot) { boot.to_owned() } else { word.to_owned() }
    };
    words.map(family).collect()
}

#[test]
fn alert_rules_and_dashboard() {
    let folder = root().join("scripts/monitoring");
    let path = |file: &str| folder.join(file).display().to_string();
    let (code, said) = promtool(&["check", "rules", "--lint-fatal", &path("alerts.yml")], "");
    assert_eq!(code, Some(0), "{said}");
    let (code, said) = promtool(&["test", "rules", &path("alerts_test.yml")], "");
    assert_eq!(code, Some(0), "{said}");
    let (rules, tried) = (fs::read_to_string(path("alerts.yml")), fs::read_to_string(path("alerts_test.yml")));
    let (rules, tried) = (rules.expect("rules"), tried.expect("their test"));
    for alert in rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")) {
        let fires = format!("alertname: {alert}\n");
        assert!(tried.contains(&fires), "{alert} is never seen to fire");
    }

    let text = fs::read_to_string(path("grafana.json")).expect("a dashboard");
    let mut found = Vec::new();
    expressions(&serde_json::from_str(&text).expect("JSON"), &mut found);
    assert!(found.len() > 10, "{found:#?}");
    let mut checked = String::from("groups: [{name: dashboard, rules: [\n");
    for (number, expression) in found.iter().enumerate() {
        let expression = expression.replace("$__rate_interval", "5m").replace("$site", ".*");
        checked.push_str(&format!("{{record: 'd:{number}', expr: {}}},\n", Value::String(expression)));
    }
    checked.push_str("]}]\n");
    let file = tempfile::NamedTempFile::new().expect("a file");
    fs::write(file.path(), &checked).expect("a file");
    let (code, said) = promtool(&["check", "rules", &file.path().display().to_string()], "");
    assert_eq!(code, Some(0), "{said}\n{checked}");

    let known = documented();
    for (what, text) in [("alerts.yml", &rules), ("alerts_test.yml", &tried), ("grafana.json", &text)] {
        let unknown: Vec<_> = named(text).difference(&known).cloned().collect();
        assert!(unknown.is_empty(), "{what} names what is not there: {unknown:?}");
    }
}
