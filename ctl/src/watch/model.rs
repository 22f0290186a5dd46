//! What the watch knows, and what a key does to it. Pure: nothing is asked or drawn here.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use proto::control::{PhasedRestart, Request, Scale, Stats};
use proto::worker::BootReport;
use proto::worker::Bytes;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use crate::render::text;
use crate::usage::Usage;

/// How many lines a page is.
const PAGE: usize = 10;

/// All that is shown.
#[derive(Default)]
pub(crate) struct Model {
    /// What the master said last.
    pub(crate) stats: Option<Stats>,
    /// The master does not answer: since when, and why.
    pub(crate) away: Option<(SystemTime, String)>,
    /// What each app takes, by the pid of its first process.
    pub(crate) loads: BTreeMap<u32, Load>,
    /// The last boot failure.
    pub(crate) report: Option<Box<BootReport>>,
    /// What is about to be asked of the master, if the person says yes.
    pub(crate) about: Option<Act>,
    /// Which release a phased restart was asked about.
    pub(crate) meant: Option<Bytes>,
    /// What the master said to what was asked last; and whether that is bad news.
    pub(crate) said: Option<(String, bool)>,
    /// The first slot and the first line of the report that are shown, as far as there are so many.
    pub(crate) slots_from: usize,
    pub(crate) report_from: usize,
    looked: Option<(Duration, BTreeMap<u32, Usage>)>,
}

/// What an app takes now.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Load {
    /// Memory.
    pub(crate) bytes: u64,
    /// Of one CPU, since the last look; `None`: there was none before.
    pub(crate) percent: Option<f64>,
}

/// What a key can ask of the master.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Act {
    /// `+`
    Up,
    /// `-`
    Down,
    /// `a`
    Abort,
    /// `r`
    Restart,
}

/// What a key leads to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Then {
    /// A look at what has changed.
    Draw,
    /// The end.
    Quit,
    /// A request.
    Ask(Act, Request),
}

impl Act {
    /// What it is called.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Up => "scale +1",
            Self::Down => "scale -1",
            Self::Abort => "abort",
            Self::Restart => "phased-restart",
        }
    }

    /// `shown`: the release that the question named. What is agreed to is that one, whatever `dir` names by then.
    fn request(self, shown: Option<Bytes>) -> Request {
        match self {
            Self::Up => Request::Scale(Scale::Up(1)),
            Self::Down => Request::Scale(Scale::Down(1)),
            Self::Abort => Request::Abort,
            Self::Restart => Request::PhasedRestart(PhasedRestart { dir: shown, ..PhasedRestart::default() }),
        }
    }
}

impl Model {
    /// The master answered.
    pub(crate) fn learn(&mut self, stats: Stats) {
        self.stats = Some(stats);
        self.away = None;
    }

    /// The master did not answer.
    pub(crate) fn lost(&mut self, why: String, now: SystemTime) {
        let since = self.away.take().map_or(now, |(since, _)| since);
        self.away = Some((since, why));
    }

    /// What the apps have taken, at a moment of a clock that does not jump.
    pub(crate) fn measure(&mut self, at: Duration, usages: BTreeMap<u32, Usage>) {
        let before = self.looked.take();
        let load = |(pid, usage): (&u32, &Usage)| {
            let percent = before.as_ref().and_then(|(then, usages)| {
                let (took, spent) = (at.checked_sub(*then)?, usage.cpu.checked_sub(usages.get(pid)?.cpu)?);
                (!took.is_zero()).then(|| spent.as_secs_f64() * 100.0 / took.as_secs_f64())
            });
            (*pid, Load { bytes: usage.bytes, percent })
        };
        self.loads = usages.iter().map(load).collect();
        self.looked = Some((at, usages));
    }

    /// The question that stands before an act.
    pub(crate) fn question(&self, act: Act) -> String {
        let workers = self.stats.as_ref().map_or(0, |s| s.workers);
        let what = match act {
            Act::Up => format!("one worker more than {workers}"),
            Act::Down => format!("one worker fewer than {workers}"),
            Act::Abort => "abort the rollout and put back what it replaced".into(),
            Act::Restart => {
                let target = self.meant.as_deref();
                format!("phased-restart with {}", target.map_or_else(|| "what dir names".into(), text))
            }
        };
        format!("{what}?")
    }

    /// A key was pressed.
    pub(crate) fn key(&mut self, key: KeyEvent) -> Then {
        if key.kind == KeyEventKind::Release {
            return Then::Draw;
        }
        let ctrl = key.modifiers.contains(KeyModifiers::CONTROL);
        if ctrl && key.code == KeyCode::Char('c') {
            return Then::Quit;
        }
        if let Some(act) = self.about {
            match key.code {
                KeyCode::Char('y' | 'Y') => {
                    self.about = None;
                    self.said = Some((format!("{}: asked", act.name()), false));
                    return Then::Ask(act, act.request(self.meant.take()));
                }
                KeyCode::Char('n' | 'N' | 'q') | KeyCode::Esc => self.about = None,
                _ => {}
            }
            return Then::Draw;
        }
        match key.code {
            KeyCode::Char('q') | KeyCode::Esc => return Then::Quit,
            KeyCode::Char('+') => self.about = Some(Act::Up),
            KeyCode::Char('-') => self.about = Some(Act::Down),
            KeyCode::Char('a') => self.about = Some(Act::Abort),
            KeyCode::Char('r') if !ctrl => {
                self.about = Some(Act::Restart);
                self.meant = self.stats.as_ref().and_then(|s| s.dir_target.clone());
            }
            KeyCode::Down => self.slots_from += 1,
            KeyCode::Up => self.slots_from = self.slots_from.saturating_sub(1),
            KeyCode::PageDown => self.report_from += PAGE,
            KeyCode::PageUp => self.report_from = self.report_from.saturating_sub(PAGE),
            KeyCode::Home => (self.slots_from, self.report_from) = (0, 0),
            _ => {}
        }
        Then::Draw
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::sample;

    fn press(model: &mut Model, code: KeyCode) -> Then {
        model.key(KeyEvent::new(code, KeyModifiers::NONE))
    }

    #[test]
    fn what_is_agreed_to_is_what_was_asked() {
        let mut model = Model::default();
        let mut stats = sample::rolling(3);
        stats.dir_target = Some(b"/r/1".to_vec());
        model.learn(stats.clone());
        press(&mut model, KeyCode::Char('r'));
        stats.dir_target = Some(b"/r/2".to_vec());
        model.learn(stats);
        assert_eq!(model.question(Act::Restart), "phased-restart with /r/1?");
        let Then::Ask(_, Request::PhasedRestart(asked)) = press(&mut model, KeyCode::Char('y')) else { panic!() };
        assert_eq!(asked.dir, Some(b"/r/1".to_vec()));
    }

    #[test]
    fn nothing_is_asked_without_a_yes() {
        for (key, act, request) in [
            ('+', Act::Up, Request::Scale(Scale::Up(1))),
            ('-', Act::Down, Request::Scale(Scale::Down(1))),
            ('a', Act::Abort, Request::Abort),
            ('r', Act::Restart, Request::PhasedRestart(PhasedRestart::default())),
        ] {
            let mut model = Model::default();
            for no in [KeyCode::Char('n'), KeyCode::Esc, KeyCode::Char('q')] {
                assert_eq!(press(&mut model, KeyCode::Char(key)), Then::Draw);
                assert_eq!(model.about, Some(act));
                assert_eq!(press(&mut model, KeyCode::Char('x')), Then::Draw);
                assert_eq!(press(&mut model, KeyCode::Enter), Then::Draw);
                assert_eq!(model.about, Some(act), "still asked");
                assert_eq!(press(&mut model, no), Then::Draw);
                assert_eq!(model.about, None);
            }
            assert_eq!(press(&mut model, KeyCode::Char('y')), Then::Draw, "a yes to nothing");
            press(&mut model, KeyCode::Char(key));
            assert_eq!(press(&mut model, KeyCode::Char('y')), Then::Ask(act, request));
            assert_eq!(model.about, None);
        }
    }

    #[test]
    fn it_ends_by_q_escape_and_ctrl_c() {
        let mut model = Model::default();
        assert_eq!(press(&mut model, KeyCode::Char('q')), Then::Quit);
        assert_eq!(press(&mut model, KeyCode::Esc), Then::Quit);
        model.about = Some(Act::Abort);
        assert_eq!(model.key(KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL)), Then::Quit);
    }

    #[test]
    fn scrolling_ends_at_the_beginning() {
        let mut model = Model::default();
        press(&mut model, KeyCode::Up);
        press(&mut model, KeyCode::PageUp);
        assert_eq!((model.slots_from, model.report_from), (0, 0));
        press(&mut model, KeyCode::Down);
        press(&mut model, KeyCode::PageDown);
        assert_eq!((model.slots_from, model.report_from), (1, PAGE));
        press(&mut model, KeyCode::Home);
        assert_eq!((model.slots_from, model.report_from), (0, 0));
    }

    #[test]
    fn cpu_is_what_was_spent_between_two_looks() {
        let usage = |millis| Usage { bytes: 5, cpu: Duration::from_millis(millis), processes: 1 };
        let mut model = Model::default();
        model.measure(Duration::from_secs(10), BTreeMap::from([(7, usage(1000))]));
        assert_eq!(model.loads[&7], Load { bytes: 5, percent: None });
        model.measure(Duration::from_secs(12), BTreeMap::from([(7, usage(1500)), (8, usage(1))]));
        assert_eq!(model.loads[&7].percent, Some(25.0));
        assert_eq!(model.loads[&8].percent, None);
        // Another process of the same number.
        model.measure(Duration::from_secs(13), BTreeMap::from([(7, usage(2))]));
        assert_eq!(model.loads[&7].percent, None);
    }

    #[test]
    fn a_master_that_comes_back_is_not_away() {
        let mut model = Model::default();
        model.lost("no such socket".into(), sample::now());
        model.lost("nobody listens".into(), sample::now() + Duration::from_secs(3));
        assert_eq!(model.away, Some((sample::now(), "nobody listens".into())));
        model.learn(sample::rolling(2));
        assert_eq!(model.away, None);
    }
}
