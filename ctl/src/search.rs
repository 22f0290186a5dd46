//! Looks for the next master at the path of one that has gone.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use proto::control::{Code, Request};

use crate::client::{ANSWER, Client};
use crate::locate;
use crate::wait::{Until, Woken};

/// The pause behind the first try.
const FIRST: Duration = Duration::from_millis(10);

/// The longest one.
const LAST: Duration = Duration::from_millis(200);

/// What becomes of the workers when no master comes, and what is to be done.
const WAY_OUT: &str = "the workers serve on for the master's --orphan-timeout (60s unless it was told otherwise) and then \
                       end: start the master again as it was started, by its service manager or its command line, and \
                       it takes them back";

/// The time in which the next master has to come.
pub(crate) struct Search {
    path: PathBuf,
    patience: Duration,
    over: Instant,
    /// Before the next try; `None`: there was none yet.
    pause: Option<Duration>,
    /// Why the last try came to nothing.
    why: String,
    /// There is one, and it will not do.
    refused: bool,
}

/// What came of it.
pub(crate) enum Next {
    /// A greeted connection, with the request sent along.
    Master(Client),
    /// None came in time: see [`Search::why`].
    Nobody,
    /// The caller's own deadline passed.
    Late,
    /// The person pressed Ctrl-C, this process is to end, or nobody reads what it prints any more.
    Interrupted,
}

impl Search {
    /// From now on for as long as `patience`.
    pub(crate) fn new(path: &Path, patience: Duration) -> Self {
        let now = Instant::now();
        let over = now.checked_add(patience).unwrap_or(now);
        Self { path: path.to_owned(), patience, over, pause: None, why: String::new(), refused: false }
    }

    /// The next master that takes a connection and greets; it is tried at once, and then after growing pauses.
    /// `request` changes nothing, for it is sent along. `any`: one of another protocol will do.
    pub(crate) fn next(&mut self, request: &Request, any: bool, until: &Until<'_>) -> Next {
        loop {
            if let Some(pause) = self.pause {
                let now = Instant::now();
                match until.by(self.over.min(now + pause)).wait(None) {
                    Ok(Woken::Interrupted | Woken::Unread) => return Next::Interrupted,
                    Ok(_) if until.is_over() => return Next::Late,
                    Ok(_) if now >= self.over => return Next::Nobody,
                    Ok(_) => {}
                    Err(e) => {
                        self.failed(format!("waiting for {}: {}", self.path.display(), e.desc()));
                        return Next::Nobody;
                    }
                }
            }
            self.pause = Some(self.pause.map_or(FIRST, |p| LAST.min(p * 2)));
            let greeted = locate::again(&self.path)
                .map(|found| Client::greet(found, Some(request), any, &until.by(Instant::now() + ANSWER)));
            match greeted {
                Ok(Ok(client)) => return Next::Master(client),
                Ok(Err(failure)) => {
                    self.refused = matches!(failure.code, Code::Version | Code::NotPermitted);
                    self.failed(failure.message);
                    if self.refused {
                        return Next::Nobody;
                    }
                }
                Err(why) => self.failed(why),
            }
        }
    }

    /// A try came to nothing, possibly behind the greeting.
    pub(crate) fn failed(&mut self, why: String) {
        self.why = why;
    }

    /// Why nobody was found, and the way out.
    pub(crate) fn why(&self) -> String {
        if self.refused {
            return format!("the next one cannot be asked: {}", self.why);
        }
        format!("no other answered within {}: {}\n{WAY_OUT}", humantime::format_duration(self.patience), self.why)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixListener;

    use proto::control::Reply;
    use proto::{Hello, frame};

    use super::*;

    const AGES: Duration = Duration::from_secs(3600);

    fn found(search: &mut Search, any: bool, until: &Until<'_>) -> Next {
        search.next(&Request::Stats, any, until)
    }

    /// A master that says `reply` to the next connection, and waits for its end.
    fn says_once(path: &Path, reply: Reply) -> std::thread::JoinHandle<()> {
        let listener = UnixListener::bind(path).unwrap();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.write_all(&frame::frame(&reply).unwrap()).unwrap();
            let _ = stream.read_to_end(&mut Vec::new());
        })
    }

    #[test]
    fn nobody_comes_in_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("shop.sock");
        for (patience, shown) in [(Duration::ZERO, "0s"), (Duration::from_millis(30), "30ms")] {
            let mut search = Search::new(&path, patience);
            let began = Instant::now();
            assert!(matches!(found(&mut search, false, &Until::default()), Next::Nobody));
            assert!(began.elapsed() >= patience);
            let said = format!("no other answered within {shown}: {} (no such socket)\n", path.display());
            assert!(search.why().starts_with(&said), "{}", search.why());
            assert!(search.why().contains("--orphan-timeout"), "{}", search.why());
        }
        drop(UnixListener::bind(&path).unwrap());
        let mut search = Search::new(&path, Duration::ZERO);
        assert!(matches!(found(&mut search, false, &Until::default()), Next::Nobody));
        assert!(search.why().contains("(nobody listens on it)"), "{}", search.why());
    }

    #[test]
    fn the_callers_own_deadline_comes_first() {
        let dir = tempfile::tempdir().unwrap();
        let mut search = Search::new(&dir.path().join("shop.sock"), AGES);
        assert!(matches!(found(&mut search, false, &Until::within(Duration::ZERO)), Next::Late));
    }

    #[test]
    fn a_master_that_ends_before_it_greets_is_not_the_last() {
        let dir = tempfile::tempdir().unwrap();
        let (path, aside) = (dir.path().join("shop.sock"), dir.path().join("aside.sock"));
        let listener = UnixListener::bind(&path).unwrap();
        let next = says_once(&aside, Reply::Hello(Hello::ours()));
        let from = aside.clone();
        let to = path.clone();
        let first = std::thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            std::fs::rename(from, to).unwrap();
            drop(stream);
        });
        let mut search = Search::new(&path, AGES);
        assert!(matches!(found(&mut search, false, &Until::default()), Next::Master(_)));
        first.join().unwrap();
        next.join().unwrap();
    }

    #[test]
    fn one_that_will_not_do_is_not_waited_out() {
        let refusal = Reply::Error { code: Code::NotPermitted, message: "not you".into(), report: None };
        let other = Reply::Hello(Hello { protocol: 99, build: "9.9.9".into() });
        for (reply, any, said) in [(refusal, true, "not you"), (other, false, "9.9.9")] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("shop.sock");
            let master = says_once(&path, reply);
            let mut search = Search::new(&path, AGES);
            assert!(matches!(found(&mut search, any, &Until::default()), Next::Nobody));
            let why = search.why();
            assert!(why.starts_with("the next one cannot be asked: ") && why.contains(said), "{why}");
            master.join().unwrap();
        }
    }
}
