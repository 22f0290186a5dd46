//! Messages to bytes and back: the only place that names bincode.
//!
//! bincode stays at 2.0.1 (the crate is no longer developed; 3.0.0 is empty). The golden bytes in
//! `tests/golden.rs` are what a successor has to reproduce, in this file alone.

use alloc::string::{String, ToString};
use alloc::vec::Vec;

use bincode::config;
use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;

/// The largest body of a message, in bytes (1 MiB).
pub const MAX_BODY: usize = 1 << 20;

/// Why bytes are not a message. The connection that sent them is closed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum CodecError {
    /// The frame's length is zero or above [`MAX_BODY`] bytes.
    #[error("a frame of {0} bytes (1 to {MAX_BODY} are allowed)")]
    Length(u64),
    /// The body is truncated, has an unknown variant, or is otherwise not the expected message.
    #[error("not a message of this protocol: {0}")]
    Body(String),
    /// Bytes are left after the message.
    #[error("{0} stray bytes behind a message")]
    Trailing(usize),
}

/// Encodes one message's body (without the frame's length).
///
/// # Errors
/// [`CodecError::Length`] when it would not fit a frame.
pub fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, CodecError> {
    let body =
        bincode::serde::encode_to_vec(message, config::standard()).map_err(|e| CodecError::Body(e.to_string()))?;
    if body.is_empty() || body.len() > MAX_BODY {
        return Err(CodecError::Length(body.len() as u64));
    }
    Ok(body)
}

/// Decodes one message's body, all of it.
///
/// # Errors
/// [`CodecError::Body`] or [`CodecError::Trailing`]; never panics, whatever the bytes are.
pub fn decode<T: DeserializeOwned>(body: &[u8]) -> Result<T, CodecError> {
    // The limit bounds what a forged length inside the body can make us allocate.
    let limits = config::standard().with_limit::<{ MAX_BODY * 4 }>();
    let (message, read) =
        bincode::serde::decode_from_slice(body, limits).map_err(|e| CodecError::Body(e.to_string()))?;
    if read != body.len() {
        return Err(CodecError::Trailing(body.len() - read));
    }
    Ok(message)
}
