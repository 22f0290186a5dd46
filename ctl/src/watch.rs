//! `watch`: the master on a whole screen, drawn anew once in a while and whenever something is typed.
//!
//! Keys, signals and answers come from threads of their own into one queue, so that nothing waits for anything else. A
//! master that does not answer is said to be away, and asked again at the next turn. Leaving ends nothing but the view: a
//! rollout that was begun here goes on.

mod draw;
mod model;

use std::collections::BTreeMap;
use std::io::{self, IsTerminal};
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use proto::control::{Code, Reply, Request, Stats};
use ratatui::crossterm::event::{self, Event, KeyEvent};

use self::model::{Act, Model, Then};
use crate::client::{Client, Heard};
use crate::exit::Failure;
use crate::locate::{self, Found};
use crate::progress::is_drawn_on;
use crate::usage::Processes;
use crate::wait::{Interrupts, Until};

/// How long the master may take to say how it stands.
const ANSWER: Duration = Duration::from_secs(1);

/// What comes from the threads.
enum News {
    Key(KeyEvent),
    /// The terminal has another size.
    Size,
    /// This process is to end, or nothing can be typed any more.
    Over,
    /// What the master said to an act, and whether that is bad news.
    Said(String, bool),
}

/// Whether there is a screen to draw on, and somebody to look at it.
///
/// # Errors
/// Code 2 when there is not.
pub(crate) fn possible(json: bool) -> Result<(), Failure> {
    let refused = |why: &str| Err(Failure::new(Code::Usage, why));
    if json {
        return refused("watch draws on a terminal and has no JSON: use `ctl stats --json` or `ctl events --json`");
    }
    if !is_drawn_on() || !io::stdin().is_terminal() {
        return refused(
            "watch needs a terminal that can be drawn on, for its input and its output; elsewhere use `ctl stats` or `ctl events`",
        );
    }
    Ok(())
}

/// Shows the master until the person has seen enough.
///
/// # Errors
/// Code 1 when the terminal cannot be used.
pub(crate) fn run(found: Found, interval: Duration) -> Result<(), Failure> {
    let socket = found.path.clone();
    // Before any thread: they inherit that these signals wait to be read.
    let interrupts = Interrupts::catch();
    // Also has the terminal put back before a panic is told.
    let mut terminal = ratatui::try_init().map_err(|e| Failure::other(format!("the terminal cannot be used: {e}")))?;
    let (news, heard) = channel();
    let listening = listen(&news, interrupts);
    let mut watch = Watch { socket: &socket, found: Some(found), news, model: Model::default(), began: Instant::now() };
    let ended = listening.and_then(|()| watch.show(&mut terminal, interval, &heard));
    ratatui::restore();
    ended.map_err(|e| Failure::other(format!("using the terminal: {e}")))
}

/// Has keys and signals told.
fn listen(news: &Sender<News>, interrupts: Option<Interrupts>) -> io::Result<()> {
    let keys = news.clone();
    thread::Builder::new().spawn(move || {
        loop {
            let said = match event::read() {
                Ok(Event::Key(key)) => News::Key(key),
                Ok(Event::Resize(..)) => News::Size,
                Ok(_) => continue,
                Err(_) => News::Over,
            };
            let is_over = matches!(said, News::Over);
            if keys.send(said).is_err() || is_over {
                return;
            }
        }
    })?;
    let Some(interrupts) = interrupts else { return Ok(()) };
    let news = news.clone();
    thread::Builder::new().spawn(move || {
        let _ = Until { interrupts: Some(&interrupts), ..Until::default() }.wait(None);
        let _ = news.send(News::Over);
    })?;
    Ok(())
}

struct Watch<'a> {
    socket: &'a Path,
    /// The connection that is there already.
    found: Option<Found>,
    news: Sender<News>,
    model: Model,
    began: Instant,
}

impl Watch<'_> {
    fn show(
        &mut self,
        terminal: &mut ratatui::DefaultTerminal,
        interval: Duration,
        heard: &Receiver<News>,
    ) -> io::Result<()> {
        loop {
            self.look();
            let next = Instant::now() + interval;
            loop {
                terminal.draw(|frame| draw::draw(frame, &mut self.model, SystemTime::now()))?;
                match heard.recv_timeout(next.saturating_duration_since(Instant::now())) {
                    Ok(News::Key(key)) => match self.model.key(key) {
                        Then::Draw => {}
                        Then::Quit => return Ok(()),
                        Then::Ask(act, request) => self.act(act, request),
                    },
                    Ok(News::Size) => {}
                    Ok(News::Said(said, bad)) => {
                        self.model.said = Some((said, bad));
                        // What it is about has just changed.
                        self.look();
                    }
                    Ok(News::Over) | Err(RecvTimeoutError::Disconnected) => return Ok(()),
                    Err(RecvTimeoutError::Timeout) => break,
                }
            }
        }
    }

    /// Asks the master how it stands, and the kernel what its apps take.
    fn look(&mut self) {
        let found = self.found.take().map_or_else(|| locate::again(self.socket), Ok);
        let before = self.model.stats.as_ref().map(failures);
        match stats(found) {
            Ok((stats, is_near)) => {
                if before != Some(failures(&stats)) {
                    self.report();
                }
                let apps = stats.worker_status.iter().filter_map(|w| w.app_pid).filter(|_| is_near);
                let processes = Processes::look();
                let usages: BTreeMap<_, _> = apps.filter_map(|pid| Some((pid, processes.usage(pid)?))).collect();
                self.model.measure(self.began.elapsed(), usages);
                self.model.learn(stats);
            }
            Err(why) => self.model.lost(why, SystemTime::now()),
        }
    }

    /// Asks for the last boot failure.
    fn report(&mut self) {
        let reply = locate::again(self.socket).and_then(|found| ask(found, &Request::Report));
        if let Ok((Reply::Report(report), _)) = reply {
            self.model.report = report;
        }
    }

    /// Asks for what the person has said yes to, and has every word of the answer told.
    fn act(&mut self, act: Act, request: Request) {
        let (socket, news) = (self.socket.to_owned(), self.news.clone());
        let asking = thread::Builder::new().spawn(move || {
            let told = |said: &str, bad| news.send(News::Said(format!("{}: {said}", act.name()), bad)).is_ok();
            if let Err(why) = follow(&socket, &request, &told) {
                told(&why, true);
            }
        });
        if let Err(e) = asking {
            self.model.said = Some((format!("{}: not asked: {e}", act.name()), true));
        }
    }
}

/// Hears a request out. `told` gets each word, the last one included, and whether it is bad news; `false`: nobody is there any
/// more, and what goes on goes on.
fn follow(socket: &Path, request: &Request, told: &dyn Fn(&str, bool) -> bool) -> Result<(), String> {
    let mut client = Client::greet(locate::again(socket)?, None, false, &Until::within(ANSWER)).map_err(said)?;
    client.send(request).map_err(said)?;
    loop {
        let heard = client.hear(&Until::default()).map_err(said)?;
        let Heard::Reply(reply) = heard else { return Err(said(client.gone())) };
        let (word, bad, is_last) = match *reply {
            Reply::Accepted { message, .. } | Reply::Progress(message) => (message, false, false),
            Reply::Done { message, .. } => (message, false, true),
            Reply::Ended { code, message, .. } => (message, code != Code::Done, true),
            Reply::Error { message, .. } => (message, true, true),
            _ => return Err(client.nonsense("a reply to something else").message),
        };
        if !told(&word, bad) || is_last {
            return Ok(());
        }
    }
}

fn said(failure: Failure) -> String {
    failure.message
}

/// What changes when an app has failed to boot, or may have.
fn failures(stats: &Stats) -> (Option<u64>, u32, Vec<Option<String>>) {
    let exits = stats.worker_status.iter().map(|w| w.last_exit.clone()).collect();
    (stats.last_rollout.as_ref().map(|r| r.id), stats.worker_status.iter().map(|w| w.crashes).sum(), exits)
}

/// How the master stands, and whether its pids are those that this process sees, too (they are not from outside a container).
fn stats(found: Result<Found, String>) -> Result<(Stats, bool), String> {
    match ask(found?, &Request::Stats)? {
        (Reply::Stats(stats), pid) => {
            let is_near = pid == Some(stats.pid);
            Ok((*stats, is_near))
        }
        (Reply::Error { message, .. }, _) => Err(message),
        _ => Err("it answers something else".into()),
    }
}

/// The answer to a request that changes nothing, and the pid of whoever gave it.
fn ask(found: Found, request: &Request) -> Result<(Reply, Option<u32>), String> {
    let until = Until::within(ANSWER);
    let mut client = Client::greet(found, Some(request), false, &until).map_err(said)?;
    match client.hear(&until).map_err(said)? {
        Heard::Reply(reply) => Ok((*reply, client.pid())),
        Heard::Gone => Err(client.gone().message),
        Heard::Late | Heard::Interrupted | Heard::Unread => Err("it does not answer".into()),
    }
}
