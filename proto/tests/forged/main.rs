//! Lengths inside a body are claims: a forged one must not make the reader allocate what it says.

mod sys;

use proto::codec::decode;
use proto::control::{Reply, Request};
use proto::frame::MAX_BODY;
use proto::worker::{FromWorker, ToWorker};
use serde::de::DeserializeOwned;

#[global_allocator]
static HEAP: sys::Counting = sys::Counting::new();

/// bincode's number format: 253 announces eight bytes.
fn number(n: u64) -> Vec<u8> {
    [&[253][..], &n.to_le_bytes()].concat()
}

/// How many bytes at once, at most, reading `body` asked of the heap.
fn largest<T: DeserializeOwned>(body: &[u8]) -> usize {
    HEAP.largest(|| assert!(decode::<T>(body).is_err(), "{body:?} was read"))
}

#[test]
fn a_forged_length_allocates_no_more_than_the_limit() {
    // Every claim is longer than the bytes that follow it; the last three are beyond any limit.
    let limit = MAX_BODY as u64 * 4;
    for claim in [300, 1 << 16, 1 << 20, limit - 1, limit, limit + 1, u64::from(u32::MAX), u64::MAX / 2, u64::MAX] {
        let text = |prefix: &[u8]| [prefix, &number(claim), b"abc"].concat();
        let sizes = [
            // A text, bytes, a list of pairs, a list of lists.
            largest::<Request>(&text(&[0, 1])),
            largest::<Request>(&text(&[6, 1])),
            largest::<Reply>(&text(&[3])),
            largest::<Reply>(&text(&[4, 0])),
            largest::<FromWorker>(&text(&[3])),
            largest::<ToWorker>(&text(&[1, 0, 0, 0, 0, 0, 0])),
        ];
        for size in sizes {
            assert!(size <= MAX_BODY * 4, "{size} bytes were asked for at a claim of {claim}");
            assert!(claim <= limit || size <= MAX_BODY, "{size} bytes were asked for at a claim of {claim}");
        }
    }
}
