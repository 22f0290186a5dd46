//! The thread that draws a rollout's block, and the one that hears when it has to look anew.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime};

use proto::control::{Reply, Request, Stats};

use super::block::Block;
use super::screen::Screen;
use crate::client::{Client, Heard};
use crate::locate;
use crate::render;
use crate::wait::Until;

/// The running seconds are drawn so often, from what is known.
const TICK: Duration = Duration::from_secs(1);

/// News that come closer together than this are drawn, and asked about, once.
const PAUSE: Duration = Duration::from_millis(50);

/// How long stats may take; after that the block shows what was known before.
const ANSWER: Duration = Duration::from_secs(1);

/// What the thread is told.
enum News {
    /// A line of the master's.
    Line(String),
    /// Something happened in the master.
    Step,
    /// Nobody tells of that any more.
    Deaf,
    /// The command is over.
    Over,
}

/// Starts drawing with the first line.
pub(super) struct Painter {
    socket: PathBuf,
    colours: bool,
    thread: Option<(Sender<News>, JoinHandle<()>)>,
}

impl Painter {
    pub(super) fn new(socket: &Path, colours: bool) -> Self {
        Self { socket: socket.to_owned(), colours, thread: None }
    }

    /// Shows a line of the master's; `false`: there is no thread to be had for it.
    pub(super) fn line(&mut self, line: &str) -> bool {
        if self.thread.is_none() {
            let (news, heard) = channel();
            let (socket, colours, own) = (self.socket.clone(), self.colours, news.clone());
            let thread = thread::Builder::new().spawn(move || paint(&socket, colours, &own, &heard));
            self.thread = thread.ok().map(|thread| (news, thread));
        }
        self.thread.as_ref().is_some_and(|(news, _)| news.send(News::Line(line.to_owned())).is_ok())
    }

    /// Takes the block away.
    pub(super) fn end(self) {
        if let Some((news, thread)) = self.thread {
            let _ = news.send(News::Over);
            let _ = thread.join();
        }
    }
}

/// Draws until it is over.
fn paint(socket: &Path, colours: bool, own: &Sender<News>, heard: &Receiver<News>) {
    let mut screen = Screen::new(colours);
    let mut block = Block::default();
    let (mut hears, mut is_news) = (false, false);
    // The lines that stay, above the block.
    let mut above = String::new();
    let mut drawn: Option<Instant> = None;
    loop {
        let now = Instant::now();
        let due = match drawn {
            Some(at) => at + if is_news { PAUSE } else { TICK },
            // The line with which it begins stands above all.
            None => now + if is_news { Duration::ZERO } else { TICK },
        };
        match heard.recv_timeout(due.saturating_duration_since(now)) {
            Ok(News::Line(line)) => {
                is_news = true;
                if !block.shows(&line) {
                    above.push_str(&render::line(&line));
                }
                continue;
            }
            Ok(News::Step) => {
                is_news = true;
                continue;
            }
            Ok(News::Deaf) => {
                (hears, is_news) = (false, true);
                continue;
            }
            Ok(News::Over) | Err(RecvTimeoutError::Disconnected) => {
                screen.draw(&above, &[]);
                return;
            }
            Err(RecvTimeoutError::Timeout) => {}
        }
        // Before the stats, so that nothing falls between the two. (A master that has gone away is looked for, too.)
        if !hears {
            hears = listen(socket, own);
            is_news |= hears;
        }
        if is_news && let Some(stats) = stats(socket) {
            block.learn(stats, SystemTime::now());
        }
        let (width, height) = Screen::size();
        // A column stays free, and a line: the cursor is there.
        let lines = block.lines(SystemTime::now(), usize::from(width - 1), usize::from(height - 1));
        screen.draw(&std::mem::take(&mut above), &lines);
        (drawn, is_news) = (Some(Instant::now()), false);
    }
}

/// Has every step of the master told from now on, in a thread that ends with the connection; `false`: there is none.
fn listen(socket: &Path, news: &Sender<News>) -> bool {
    let Some(mut client) = ask(socket, &Request::Events) else { return false };
    let news = news.clone();
    let heard = thread::Builder::new().spawn(move || {
        while let Ok(Heard::Reply(_)) = client.hear(&Until::default()) {
            if news.send(News::Step).is_err() {
                return;
            }
        }
        let _ = news.send(News::Deaf);
    });
    heard.is_ok()
}

fn stats(socket: &Path) -> Option<Stats> {
    match ask(socket, &Request::Stats)?.hear(&Until::within(ANSWER)) {
        Ok(Heard::Reply(reply)) => match *reply {
            Reply::Stats(stats) => Some(*stats),
            _ => None,
        },
        _ => None,
    }
}

fn ask(socket: &Path, request: &Request) -> Option<Client> {
    let found = locate::again(socket).ok()?;
    Client::greet(found, Some(request), false, &Until::within(ANSWER)).ok()
}
