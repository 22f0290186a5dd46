//! What happened lately, each thing with a number, for `ctl events`; and who follows it.
//!
//! The last [`KEPT`] happenings are kept. A follower has a place in them and is given more when it has taken what it was
//! given: one that is slow costs nothing, and hears what it has missed when that is no longer kept.

use std::collections::{BTreeMap, VecDeque};

use proto::Happening;
use proto::control::{Fact, Reply};

use crate::timers::unix_millis;

/// How many happenings are kept.
const KEPT: usize = 512;
/// A follower to whom so much is still to be said is given no more for now, in bytes.
pub(crate) const ENOUGH: usize = 64 << 10;

/// The latest happenings and their followers.
#[derive(Debug)]
pub(crate) struct Record {
    kept: VecDeque<Happening>,
    /// The number of the first that this process has made.
    first: u64,
    /// The number of the next one.
    next: u64,
    followers: BTreeMap<u64, Follower>,
}

/// How far a client is.
#[derive(Debug)]
struct Follower {
    /// The number of what it gets next.
    at: u64,
    /// It is done when it has what comes before this.
    until: Option<u64>,
}

impl Record {
    /// Nothing has happened yet. Numbers begin at the microsecond of the clock, which is beyond all that the master before
    /// this one can have given: whoever goes on after one of those misses nothing of this one's.
    pub(crate) fn new() -> Self {
        let first = unix_millis().saturating_mul(1000).max(1);
        Self { kept: VecDeque::new(), first, next: first, followers: BTreeMap::new() }
    }

    /// Something has happened.
    pub(crate) fn add(&mut self, kind: &str, facts: Vec<(String, Fact)>, message: String) {
        if self.kept.len() == KEPT {
            self.kept.pop_front();
        }
        self.kept.push_back(Happening { number: self.next, at: unix_millis(), kind: kind.into(), facts, message });
        self.next += 1;
    }

    /// A client wants what has a higher number than `after`; `None`: what comes from now on. Unless it follows, that is over
    /// with what is there now.
    pub(crate) fn follow(&mut self, client: u64, after: Option<u64>, follow: bool) {
        let at = after.map_or(self.next, |after| after.saturating_add(1));
        self.followers.insert(client, Follower { at, until: (!follow).then_some(self.next) });
    }

    pub(crate) fn forget(&mut self, client: u64) {
        self.followers.remove(&client);
    }

    pub(crate) fn is_followed_by(&self, client: u64) -> bool {
        self.followers.contains_key(&client)
    }

    /// What a client is to be told next, and whether that is the last word. `None`: nothing now.
    pub(crate) fn next_for(&mut self, client: u64) -> Option<(Reply, bool)> {
        let follower = self.followers.get_mut(&client)?;
        let oldest = self.next - self.kept.len() as u64;
        // 1 is what comes after 0: everything that there is. A number of the future is of a clock that was put back.
        if follower.at < oldest || follower.at > self.next {
            let from = follower.at;
            follower.at = oldest;
            if from != 1 {
                return Some((Reply::Happened(Box::new(missed(from, oldest, self.first))), false));
            }
        }
        if follower.until.is_some_and(|until| follower.at >= until) {
            self.followers.remove(&client);
            return Some((Reply::Done { message: String::new(), facts: Vec::new() }, true));
        }
        let happening = self.kept.get((follower.at - oldest) as usize)?;
        follower.at += 1;
        Some((Reply::Happened(Box::new(happening.clone())), false))
    }
}

/// Says that what has these numbers is no longer kept. Its own number is the last one that is missing, so that whoever goes
/// on after it misses nothing more.
fn missed(from: u64, oldest: u64, first: u64) -> Happening {
    let (count, message) = if (first..oldest).contains(&from) {
        let count = oldest - from;
        (Fact::Number(count), format!("{count} events are no longer kept"))
    } else {
        (Fact::Null, "events of an earlier master are no longer kept".into())
    };
    let facts = vec![("count".into(), count)];
    Happening { number: oldest - 1, at: unix_millis(), kind: "missed".into(), facts, message }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(record: &mut Record, client: u64) -> Vec<String> {
        let mut told = Vec::new();
        while let Some((reply, last)) = record.next_for(client) {
            told.push(match reply {
                Reply::Happened(it) if it.kind == "missed" => format!("missed {:?}", it.facts[0].1),
                Reply::Happened(it) => it.message.clone(),
                other => format!("{other:?}"),
            });
            assert_eq!(last, told.last().is_some_and(|text| text.starts_with("Done")));
        }
        told
    }

    fn with(count: usize) -> Record {
        let mut record = Record::new();
        for n in 0..count {
            record.add("note", Vec::new(), n.to_string());
        }
        record
    }

    #[test]
    fn everything_that_is_kept_and_no_more() {
        let mut record = with(2);
        record.follow(7, Some(0), false);
        record.add("note", Vec::new(), "later".into());
        assert_eq!(told(&mut record, 7), ["0", "1", "Done { message: \"\", facts: [] }"]);
        assert!(!record.is_followed_by(7));
    }

    #[test]
    fn what_comes_from_now_on() {
        let mut record = with(2);
        record.follow(7, None, true);
        assert!(told(&mut record, 7).is_empty());
        record.add("note", Vec::new(), "later".into());
        assert_eq!(told(&mut record, 7), ["later"]);
        assert!(record.is_followed_by(7));
    }

    #[test]
    fn whoever_goes_on_after_a_number_misses_nothing() {
        let mut record = with(3);
        let first = record.first;
        record.follow(7, Some(first), true);
        assert_eq!(told(&mut record, 7), ["1", "2"]);
        record.follow(8, Some(first + 2), true);
        assert!(told(&mut record, 8).is_empty());
    }

    #[test]
    fn what_is_no_longer_kept_is_said() {
        let mut record = with(1);
        record.follow(7, None, true);
        for n in 1..=KEPT + 3 {
            record.add("note", Vec::new(), n.to_string());
        }
        let told = told(&mut record, 7);
        assert_eq!(told[..2], ["missed Number(3)".to_string(), "4".into()]);
        assert_eq!(told.len(), KEPT + 1);
    }

    #[test]
    fn numbers_of_another_master_are_behind_or_beyond() {
        for after in [5, u64::MAX - 1, u64::MAX] {
            let mut record = with(1);
            record.follow(7, Some(after), true);
            assert_eq!(told(&mut record, 7), ["missed Null", "0"], "{after}");
        }
    }
}
