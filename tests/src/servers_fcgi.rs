//! The smallest FastCGI client, for php-fpm.

use std::collections::BTreeSet;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use crate::http::Address;

const BEGIN_REQUEST: u8 = 1;
const END_REQUEST: u8 = 3;
const PARAMS: u8 = 4;
const STDIN: u8 = 5;
const STDOUT: u8 = 6;
const STDERR: u8 = 7;

fn record(kind: u8, content: &[u8]) -> Vec<u8> {
    let length = u16::try_from(content.len()).expect("a short record").to_be_bytes();
    [&[1, kind, 0, 1, length[0], length[1], 0, 0][..], content].concat()
}

fn param(name: &str, value: &str) -> Vec<u8> {
    let length = |text: &str| (u32::try_from(text.len()).expect("a short text") | 1 << 31).to_be_bytes();
    [&length(name)[..], &length(value), name.as_bytes(), value.as_bytes()].concat()
}

/// Runs `script` on a connection of its own; the body of a good answer.
///
/// # Errors
/// When the connection is refused or reset, the answer is cut short, or PHP reports an error.
pub fn get(address: &Address, script: &Path) -> io::Result<String> {
    let mut stream = address.connect()?;
    let script = script.to_str().expect("a readable path");
    let params = [
        param("REQUEST_METHOD", "GET"),
        param("SCRIPT_FILENAME", script),
        param("SCRIPT_NAME", "/index.php"),
        param("REQUEST_URI", "/"),
        param("QUERY_STRING", ""),
        param("SERVER_PROTOCOL", "HTTP/1.1"),
    ];
    let begin = record(BEGIN_REQUEST, &[0, 1, 0, 0, 0, 0, 0, 0]);
    let request = [begin, record(PARAMS, &params.concat()), record(PARAMS, b""), record(STDIN, b"")].concat();
    stream.write_all(&request)?;
    let mut answer = Vec::new();
    loop {
        let mut head = [0; 8];
        stream.read_exact(&mut head)?;
        let mut content = vec![0; usize::from(u16::from_be_bytes([head[4], head[5]])) + usize::from(head[6])];
        stream.read_exact(&mut content)?;
        content.truncate(content.len() - usize::from(head[6]));
        match head[1] {
            STDOUT => answer.append(&mut content),
            STDERR => return Err(io::Error::other(String::from_utf8_lossy(&content).into_owned())),
            END_REQUEST => break,
            _ => {}
        }
    }
    let answer = String::from_utf8_lossy(&answer).into_owned();
    match answer.split_once("\r\n\r\n") {
        Some((fields, body)) if !fields.contains("Status:") => Ok(body.to_owned()),
        _ => Err(io::Error::other(answer)),
    }
}

/// Clients that ask without a pause, each request on a connection of its own, as nginx does.
#[derive(Debug)]
pub struct FcgiLoad {
    stop: Arc<AtomicBool>,
    /// Each returns the releases that answered it, and its failures.
    clients: Vec<JoinHandle<(BTreeSet<String>, Vec<String>)>>,
}

impl FcgiLoad {
    /// `count` clients for `script`, a path through the symlink.
    #[must_use]
    pub fn start(address: &Address, script: &Path, count: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let client = || {
            let stop = Arc::clone(&stop);
            let (address, script) = (address.clone(), script.to_owned());
            thread::spawn(move || {
                let (mut releases, mut failures) = (BTreeSet::new(), Vec::new());
                while !stop.load(Ordering::Relaxed) && failures.is_empty() {
                    match get(&address, &script) {
                        Ok(body) => match body.strip_prefix("release=").and_then(|rest| rest.split(' ').next()) {
                            Some(release) => _ = releases.insert(release.to_owned()),
                            None => failures.push(body),
                        },
                        Err(error) => failures.push(error.to_string()),
                    }
                }
                (releases, failures)
            })
        };
        let clients = (0..count).map(|_| client()).collect();
        Self { stop, clients }
    }

    /// Ends the clients and demands that nothing failed; the releases that answered.
    ///
    /// # Panics
    /// When something failed, or nobody answered.
    pub fn finish(self) -> BTreeSet<String> {
        self.stop.store(true, Ordering::Relaxed);
        let (mut releases, mut failures) = (BTreeSet::new(), Vec::new());
        for client in self.clients {
            let (seen, failed) = client.join().expect("a client");
            releases.extend(seen);
            failures.extend(failed);
        }
        assert!(failures.is_empty(), "{} requests failed: {failures:#?}", failures.len());
        assert!(!releases.is_empty(), "the clients had nothing to do");
        releases
    }
}
