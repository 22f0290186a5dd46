//! Random and damaged bytes: reading them gives a message or an error, and never a panic.

use std::fmt::Debug;

use proto::codec::{decode, encode};
use proto::control::{Fact, PhasedRestart, Reply, Request};
use proto::frame::frame;
use proto::worker::{BootReport, ExitStatus, FromWorker, Stage, ToWorker};
use proto::{Hello, Inbox, Incarnation, Phase, Slot};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Marsaglia's xorshift64: the same bytes in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    /// Bytes that are small more often than not, as variants and lengths are.
    fn byte(&mut self) -> u8 {
        let byte = self.next() as u8;
        if self.below(3) == 0 { byte } else { byte % 16 }
    }

    fn bytes(&mut self, most: usize) -> Vec<u8> {
        let length = self.below(most + 1);
        (0..length).map(|_| self.byte()).collect()
    }
}

/// A message that was read is one that can be said again.
fn read<T: Serialize + DeserializeOwned + PartialEq + Debug>(body: &[u8]) -> bool {
    let Ok(message) = decode::<T>(body) else { return false };
    let again = encode(&message).unwrap();
    assert_eq!(decode::<T>(&again).unwrap(), message);
    true
}

fn read_as_everything(body: &[u8]) -> usize {
    let read = [read::<ToWorker>(body), read::<FromWorker>(body), read::<Request>(body), read::<Reply>(body)];
    read.into_iter().filter(|r| *r).count()
}

#[test]
fn random_bodies() {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let read: usize = (0..40_000).map(|_| read_as_everything(&random.bytes(24))).sum();
    assert!(read > 500, "only {read} of the random bodies were messages: this tests too little");
}

#[test]
fn random_streams_in_random_pieces() {
    let mut random = Random(42);
    for _ in 0..2_000 {
        let mut inbox = Inbox::<Request>::default();
        // Until the first error, as a connection is read.
        'connection: for _ in 0..50 {
            let mut piece = random.bytes(20);
            if random.below(2) == 0 {
                let length = random.below(4) as u32;
                piece.splice(0..0, length.to_le_bytes());
            }
            inbox.push(&piece);
            loop {
                match inbox.take() {
                    Ok(Some(_)) => {}
                    Ok(None) => break,
                    Err(_) => break 'connection,
                }
            }
        }
    }
}

#[test]
fn damaged_messages() {
    let report = BootReport {
        slot: Slot(1),
        incarnation: Incarnation(2),
        phase: Phase(3),
        release: b"/app/releases/42".to_vec(),
        stage: Stage::Ready,
        message: "exited with status 1".into(),
        exit: Some(ExitStatus::Code(1)),
        millis: 834,
        output: b"ModuleNotFoundError\n".to_vec(),
        release_gone: false,
    };
    let whole = [
        encode(&FromWorker::BootFailed(Box::new(report.clone()))).unwrap(),
        encode(&Reply::Report(Some(Box::new(report)))).unwrap(),
        encode(&Reply::Done { message: "ok".into(), facts: vec![("a".into(), Fact::Text("b".into()))] }).unwrap(),
        encode(&Request::PhasedRestart(PhasedRestart { dir: Some(b"/n".to_vec()), ..Default::default() })).unwrap(),
        encode(&Request::Hello(Hello::ours())).unwrap(),
    ];
    let mut random = Random(7);
    for body in &whole {
        for at in 0..body.len() {
            for byte in (0..16).chain(248..=255) {
                let mut damaged = body.clone();
                damaged[at] = byte;
                read_as_everything(&damaged);
            }
            read_as_everything(&body[..at]);
        }
        for _ in 0..4_000 {
            let mut damaged = body.clone();
            for _ in 0..=random.below(6) {
                let at = random.below(damaged.len());
                damaged[at] = random.byte();
            }
            read_as_everything(&damaged);
        }
    }
}

#[test]
fn a_damaged_frame_never_swallows_more_than_its_length_says() {
    let mut random = Random(99);
    for _ in 0..5_000 {
        let body: Vec<u8> = (0..=random.below(40)).map(|_| random.byte()).collect();
        let mut inbox = Inbox::<Request>::default();
        inbox.push(&(body.len() as u32).to_le_bytes());
        inbox.push(&body);
        inbox.push(&frame(&Request::Ping).unwrap());
        // Whatever the first frame was, the second is read behind it.
        let _ = inbox.take();
        assert_eq!(inbox.take(), Ok(Some(Request::Ping)), "behind {body:?}");
    }
}
