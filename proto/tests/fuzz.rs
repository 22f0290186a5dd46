//! Every direction under random damage: streams of random messages, whole or mutated, in random pieces.
//!
//! `random.rs` reads random bodies; here whole streams are read as a connection is. Each round has a seed of its own, which is
//! printed when the round fails. `$FUZZ_ROUNDS` rounds are run in each direction (the default takes a few seconds), from
//! `$FUZZ_SEED` on.

#[path = "forged/sys.rs"]
mod sys;

#[path = "fuzz/messages.rs"]
mod messages;

use std::fmt::Debug;
use std::sync::Mutex;

use messages::{Arbitrary, Random};
use proto::control::{Reply, Request};
use proto::frame::{MAX_BODY, frame};
use proto::worker::{FromWorker, ToWorker};
use proto::{CodecError, Inbox};
use serde::Serialize;
use serde::de::DeserializeOwned;

#[global_allocator]
static HEAP: sys::Counting = sys::Counting::new();
/// The heap is everybody's, and it is watched by one test at a time.
static ALONE: Mutex<()> = Mutex::new(());

/// A direction.
trait Message: Arbitrary + Serialize + DeserializeOwned + PartialEq + Debug {}
impl<T: Arbitrary + Serialize + DeserializeOwned + PartialEq + Debug> Message for T {}

/// Says which round it was that failed.
struct Round(&'static str, u64);

impl Drop for Round {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}: FUZZ_SEED={} FUZZ_ROUNDS=1 shows it again", self.0, self.1);
        }
    }
}

fn asked(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text}")))
}

fn rounds<T>(by_default: u64, round: fn(&mut Random)) {
    let first = asked("FUZZ_SEED", 1);
    for seed in first..first + asked("FUZZ_ROUNDS", by_default) {
        let _round = Round(std::any::type_name::<T>(), seed);
        round(&mut Random::new(seed));
    }
}

/// In every direction.
macro_rules! every_direction {
    ($test:ident, $by_default:literal, $round:ident) => {
        #[test]
        fn $test() {
            let _alone = ALONE.lock().unwrap_or_else(|e| e.into_inner());
            rounds::<ToWorker>($by_default, $round::<ToWorker>);
            rounds::<FromWorker>($by_default, $round::<FromWorker>);
            rounds::<Request>($by_default, $round::<Request>);
            rounds::<Reply>($by_default, $round::<Reply>);
        }
    };
}

/// Reads a stream to its end or to its first error, in pieces of at most `most` bytes.
fn read<T: Message>(random: &mut Random, bytes: &[u8], most: usize) -> (Vec<T>, Option<CodecError>, Inbox<T>) {
    let mut inbox = Inbox::default();
    let mut heard = Vec::new();
    let mut rest = bytes;
    while !rest.is_empty() {
        let (piece, behind) = rest.split_at(1 + random.below(most.min(rest.len())));
        rest = behind;
        inbox.push(piece);
        loop {
            match inbox.take() {
                Ok(Some(message)) => heard.push(message),
                Ok(None) => break,
                Err(error) => return (heard, Some(error), inbox),
            }
        }
    }
    (heard, None, inbox)
}

fn stream<T: Message>(random: &mut Random, most: usize) -> (Vec<T>, Vec<Vec<u8>>) {
    let messages: Vec<T> = (0..=random.below(most)).map(|_| T::arbitrary(random)).collect();
    let frames = messages.iter().map(|message| frame(message).expect("within the limit")).collect();
    (messages, frames)
}

fn pieces(random: &mut Random) -> usize {
    [1, 2, 5, 64, 4096, usize::MAX][random.below(6)]
}

fn whole<T: Message>(random: &mut Random) {
    let (said, frames) = stream::<T>(random, 6);
    let most = pieces(random);
    let (heard, error, mut inbox) = read::<T>(random, &frames.concat(), most);
    assert_eq!((heard, error), (said, None));
    assert_eq!(inbox.take(), Ok(None));
}

every_direction!(whole_streams_are_heard_in_any_pieces, 400, whole);

/// Damages bytes; the first of them that may differ.
fn damage(random: &mut Random, bytes: &mut Vec<u8>, other: &[u8]) -> usize {
    let at = random.below(bytes.len());
    match random.below(7) {
        // Bits.
        0 => {
            bytes[at] ^= 1 << random.below(8);
            at
        }
        // A byte that is small, as variants and lengths are, or one of those that announce a number.
        1 => {
            bytes[at] = if random.below(2) == 0 { random.below(16) as u8 } else { 250 + random.below(6) as u8 };
            at
        }
        // The end is cut off.
        2 => {
            bytes.truncate(at);
            at
        }
        // Something is missing.
        3 => {
            let end = bytes.len().min(at + 1 + random.below(8));
            bytes.drain(at..end);
            at
        }
        // Something has come in.
        4 => {
            let more = random.bytes(8);
            bytes.splice(at..at, more);
            at
        }
        // Something stands there twice.
        5 => {
            let end = bytes.len().min(at + 1 + random.below(32));
            let again = bytes[at..end].to_vec();
            bytes.splice(at..at, again);
            at
        }
        // It goes on as another message does.
        _ => {
            bytes.truncate(at);
            bytes.extend_from_slice(&other[random.below(other.len())..]);
            at
        }
    }
}

/// Changes the length that a frame claims.
fn claim(random: &mut Random, bytes: &mut [u8]) {
    let length = u32::from_le_bytes(bytes[..4].try_into().expect("four bytes"));
    let claim = match random.below(6) {
        0 => 0,
        1 => length.wrapping_sub(1 + random.below(4) as u32),
        2 => length + 1 + random.below(4) as u32,
        3 => MAX_BODY as u32 + random.below(3) as u32,
        4 => u32::MAX - random.below(3) as u32,
        _ => random.below(300) as u32,
    };
    bytes[..4].copy_from_slice(&claim.to_le_bytes());
}

fn mutated<T: Message>(random: &mut Random) {
    let (said, mut frames) = stream::<T>(random, 4);
    let other = frame(&T::arbitrary(random)).expect("within the limit");
    // One frame is damaged; those before it are not.
    let hurt = random.below(frames.len());
    if random.below(4) == 0 {
        claim(random, &mut frames[hurt]);
    } else {
        for _ in 0..=random.below(3) {
            if !frames[hurt].is_empty() {
                damage(random, &mut frames[hurt], &other);
            }
        }
    }
    let bytes = frames.concat();
    let mut read_all = None;
    let largest = HEAP.largest(|| read_all = Some(read::<T>(random, &bytes, usize::MAX)));
    // What a length inside a body claims is bounded by the codec's limit; the bytes that are there are few.
    assert!(largest <= MAX_BODY * 4, "{largest} bytes were asked for at once by {bytes:?}");
    let (heard, error, mut inbox) = read_all.expect("read");
    assert_eq!(heard[..hurt.min(heard.len())], said[..hurt.min(heard.len())]);
    assert!(heard.len() >= hurt, "undamaged messages are lost: {error:?}, {bytes:?}");
    for message in &heard {
        let again = frame(message).expect("what was read can be said");
        let mut inbox = Inbox::<T>::default();
        inbox.push(&again);
        assert_eq!(inbox.take().expect("understood").as_ref(), Some(message));
    }
    // The pieces make no difference.
    let most = pieces(random);
    let (in_pieces, same, _) = read::<T>(random, &bytes, most);
    assert_eq!((&in_pieces, &same), (&heard, &error));
    // A length that is wrong leaves nothing to go on from: whatever comes behind it, the inbox stays shut.
    if let Some(CodecError::Length(_)) = &error {
        for _ in 0..3 {
            inbox.push(&other);
            assert_eq!(inbox.take().err(), error);
        }
    }
}

every_direction!(mutants_are_refused_or_read_and_nothing_else, 4000, mutated);

fn noise<T: Message>(random: &mut Random) {
    let bytes = random.bytes(400);
    let most = pieces(random);
    let mut heard = 0;
    let largest = HEAP.largest(|| heard = read::<T>(random, &bytes, most).0.len());
    assert!(largest <= MAX_BODY * 4, "{largest} bytes were asked for at once by {bytes:?}");
    assert!(heard <= bytes.len() / 5, "a message takes five bytes at least");
}

every_direction!(noise_is_no_harm, 1500, noise);

/// What a frame's header claims is not made room for before it is there.
#[test]
fn a_claim_of_a_long_body_costs_nothing() {
    let _alone = ALONE.lock().unwrap_or_else(|e| e.into_inner());
    let mut inbox = Inbox::<Request>::default();
    let largest = HEAP.largest(|| {
        inbox.push(&(MAX_BODY as u32).to_le_bytes());
        inbox.push(&[5; 100]);
        assert_eq!(inbox.take(), Ok(None));
    });
    assert!(largest < 4096, "{largest} bytes");
}
