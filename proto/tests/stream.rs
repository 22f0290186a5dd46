//! Frames on a stream: whole, in pieces, and wrong.

use proto::codec::{decode, encode};
use proto::control::{PhasedRestart, Reply, Request};
use proto::frame::{MAX_BODY, frame};
use proto::worker::ToWorker;
use proto::{CodecError, Hello, Inbox, Outbox, PROTOCOL, Slot};

fn requests() -> Vec<Request> {
    vec![
        Request::Hello(Hello::ours()),
        Request::Restart(Slot(300)),
        Request::ReloadDir(Some(vec![b'x'; 300])),
        Request::Stats,
    ]
}

fn bytes() -> Vec<u8> {
    requests().iter().flat_map(|r| frame(r).unwrap()).collect()
}

fn all(inbox: &mut Inbox<Request>) -> Vec<Request> {
    std::iter::from_fn(|| inbox.take().unwrap()).collect()
}

fn taken(bytes: &[u8]) -> Result<Option<Request>, CodecError> {
    let mut inbox = Inbox::default();
    inbox.push(bytes);
    inbox.take()
}

/// A frame around any body.
fn around(body: &[u8]) -> Vec<u8> {
    [&(body.len() as u32).to_le_bytes()[..], body].concat()
}

#[test]
fn a_frame_is_its_length_and_its_body() {
    let body = encode(&Request::Stats).unwrap();
    assert_eq!(frame(&Request::Stats).unwrap(), around(&body));
}

#[test]
fn many_at_once() {
    let mut inbox = Inbox::default();
    inbox.push(&bytes());
    assert_eq!(all(&mut inbox), requests());
}

#[test]
fn byte_by_byte() {
    let mut inbox = Inbox::default();
    let mut heard = Vec::new();
    for byte in bytes() {
        inbox.push(&[byte]);
        heard.extend(all(&mut inbox));
    }
    assert_eq!(heard, requests());
}

#[test]
fn cut_anywhere() {
    let bytes = bytes();
    for cut in 0..=bytes.len() {
        let mut inbox = Inbox::default();
        inbox.push(&bytes[..cut]);
        let mut heard = all(&mut inbox);
        inbox.push(&bytes[cut..]);
        heard.extend(all(&mut inbox));
        assert_eq!(heard, requests(), "cut at {cut}");
    }
}

#[test]
fn part_of_a_frame_is_no_message_and_no_error() {
    let bytes = frame(&Request::Restart(Slot(300))).unwrap();
    for end in 0..bytes.len() {
        assert_eq!(taken(&bytes[..end]), Ok(None), "{end} of {} bytes", bytes.len());
    }
}

#[test]
fn a_length_of_zero_is_refused() {
    assert_eq!(taken(&[0, 0, 0, 0]), Err(CodecError::Length(0)));
}

#[test]
fn a_length_over_the_limit_is_refused_before_its_body_comes() {
    for length in [MAX_BODY as u32 + 1, u32::MAX] {
        assert_eq!(taken(&length.to_le_bytes()), Err(CodecError::Length(u64::from(length))));
    }
    assert_eq!(taken(&(MAX_BODY as u32).to_le_bytes()), Ok(None));
}

#[test]
fn the_largest_body_passes_and_one_byte_more_does_not() {
    // The variant's number and the text's length, in five bytes, stand before the text.
    let most = MAX_BODY - 6;
    let largest = Reply::Progress("x".repeat(most));
    let mut inbox = Inbox::default();
    inbox.push(&frame(&largest).unwrap());
    assert_eq!(inbox.take(), Ok(Some(largest)));

    let larger = Reply::Progress("x".repeat(most + 1));
    let refused = CodecError::Length(MAX_BODY as u64 + 1);
    assert_eq!(frame(&larger), Err(refused.clone()));
    let mut outbox = Outbox::default();
    outbox.push(&Reply::Pong).unwrap();
    let before = outbox.pending().to_vec();
    assert_eq!(outbox.push(&larger), Err(refused));
    assert_eq!(outbox.pending(), before, "a refused message leaves nothing behind");
}

#[test]
fn a_truncated_body_is_refused() {
    let body = encode(&Request::ReloadDir(Some(vec![7; 20]))).unwrap();
    for end in 1..body.len() {
        assert!(matches!(taken(&around(&body[..end])), Err(CodecError::Body(_))), "{end} of {} bytes", body.len());
    }
}

#[test]
fn an_unknown_variant_is_refused() {
    for body in [&[21][..], &[250], &[251, 0, 1], &[252, 255, 255, 255, 255]] {
        assert!(matches!(taken(&around(body)), Err(CodecError::Body(_))), "{body:?}");
    }
}

#[test]
fn stray_bytes_behind_a_message_are_refused() {
    let mut body = encode(&Request::Stats).unwrap();
    body.extend_from_slice(&[0, 0]);
    assert_eq!(taken(&around(&body)), Err(CodecError::Trailing(2)));
}

#[test]
fn text_that_is_not_utf_8_is_refused() {
    // `Hello { protocol: 1, build: "\xff" }`.
    assert!(matches!(taken(&around(&[0, 1, 1, 0xff])), Err(CodecError::Body(_))));
}

#[test]
fn a_byte_that_is_no_bool_and_no_option_is_refused() {
    // `PhasedRestart { dir: 2?, … }` and `PhasedRestart { dir: None, hold: 2?, … }`.
    for wrong in [1, 2] {
        let mut body = encode(&Request::PhasedRestart(PhasedRestart::default())).unwrap();
        body[wrong] = 2;
        assert!(matches!(taken(&around(&body)), Err(CodecError::Body(_))), "{body:?}");
    }
}

#[test]
fn the_other_direction_does_not_pass_for_this_one() {
    let boot = frame(&ToWorker::Drain { timeout_ms: u64::MAX }).unwrap();
    assert!(taken(&boot).is_err());
}

#[test]
fn after_the_greeting_other_messages_are_expected() {
    let greeting = frame(&ToWorker::Hello(Hello::ours())).unwrap();
    let mut inbox = Inbox::<Request>::default();
    inbox.push(&greeting);
    inbox.push(&frame(&Reply::Pong).unwrap());
    assert_eq!(inbox.take(), Ok(Some(Request::Hello(Hello::ours()))));
    let mut inbox = inbox.expect::<Reply>();
    assert_eq!(inbox.take(), Ok(Some(Reply::Pong)));
}

#[test]
fn an_outbox_is_written_in_any_steps() {
    let mut outbox = Outbox::default();
    assert!(outbox.is_empty());
    for request in requests() {
        outbox.push(&request).unwrap();
    }
    let mut written = Vec::new();
    let mut step = 0;
    while !outbox.is_empty() {
        step += 1;
        let some = outbox.pending()[..step.min(outbox.pending().len())].to_vec();
        outbox.written(some.len());
        written.extend(some);
    }
    assert_eq!(outbox.pending(), b"");
    assert_eq!(written, bytes());
}

#[test]
fn a_mismatch_names_both_versions() {
    let other = Hello { protocol: PROTOCOL + 41, build: "7.8.9".into() };
    let words = other.check().unwrap_err().to_string();
    for part in [PROTOCOL.to_string(), (PROTOCOL + 41).to_string(), Hello::ours().build, "7.8.9".into()] {
        assert!(words.contains(&part), "{part} in {words}");
    }
    assert_eq!(Hello { protocol: PROTOCOL, build: "7.8.9".into() }.check(), Ok(()));
}

#[test]
fn an_empty_body_is_no_message() {
    assert!(decode::<Request>(&[]).is_err());
}
