//! Frames, `[length u32 LE][body]`, and the two ends of a connection, typed by what travels on them.
//!
//! Neither end does I/O: a loop feeds an [`Inbox`] what it read and writes out what an [`Outbox`] holds.

use alloc::vec::Vec;
use core::marker::PhantomData;

use serde::Serialize;
use serde::de::DeserializeOwned;

pub use crate::codec::MAX_BODY;
use crate::codec::{self, CodecError};

const HEADER: usize = 4;

/// One message as a frame, ready to be written.
///
/// # Errors
/// [`CodecError::Length`] when its body is over [`MAX_BODY`].
pub fn frame<T: Serialize>(message: &T) -> Result<Vec<u8>, CodecError> {
    let body = codec::encode(message)?;
    let mut out = Vec::with_capacity(HEADER + body.len());
    out.extend_from_slice(&(body.len() as u32).to_le_bytes());
    out.extend_from_slice(&body);
    Ok(out)
}

/// The receiving end of a connection on which messages of type `T` arrive.
#[derive(Debug)]
pub struct Inbox<T> {
    bytes: Vec<u8>,
    messages: PhantomData<fn() -> T>,
}

impl<T> Default for Inbox<T> {
    fn default() -> Self {
        Self { bytes: Vec::new(), messages: PhantomData }
    }
}

impl<T: DeserializeOwned> Inbox<T> {
    /// Takes in what was read.
    pub fn push(&mut self, read: &[u8]) {
        self.bytes.extend_from_slice(read);
    }

    /// The next whole message, `None` until more bytes arrive.
    ///
    /// # Errors
    /// [`CodecError`]: the connection can no longer be understood and is to be closed.
    pub fn take(&mut self) -> Result<Option<T>, CodecError> {
        let Some(body) = self.next_body()? else { return Ok(None) };
        codec::decode(&body).map(Some)
    }

    /// The same connection, from here on carrying messages of another type (after the [`crate::Hello`]s).
    #[must_use]
    pub fn expect<U>(self) -> Inbox<U> {
        Inbox { bytes: self.bytes, messages: PhantomData }
    }

    fn next_body(&mut self) -> Result<Option<Vec<u8>>, CodecError> {
        let Some((header, rest)) = self.bytes.split_first_chunk::<HEADER>() else { return Ok(None) };
        let length = u32::from_le_bytes(*header) as usize;
        if length == 0 || length > MAX_BODY {
            return Err(CodecError::Length(length as u64));
        }
        if rest.len() < length {
            return Ok(None);
        }
        let body = rest[..length].to_vec();
        self.bytes.drain(..HEADER + length);
        if self.bytes.is_empty() {
            // An idle connection holds no memory for the largest message it ever saw.
            self.bytes = Vec::new();
        }
        Ok(Some(body))
    }
}

/// The sending end of a connection on which messages of type `T` leave.
#[derive(Debug)]
pub struct Outbox<T> {
    bytes: Vec<u8>,
    messages: PhantomData<fn(T)>,
}

impl<T> Default for Outbox<T> {
    fn default() -> Self {
        Self { bytes: Vec::new(), messages: PhantomData }
    }
}

impl<T: Serialize> Outbox<T> {
    /// Queues one message.
    ///
    /// # Errors
    /// [`CodecError::Length`] when it is over the frame's limit; nothing is queued then.
    pub fn push(&mut self, message: &T) -> Result<(), CodecError> {
        self.bytes.extend_from_slice(&frame(message)?);
        Ok(())
    }
}

impl<T> Outbox<T> {
    /// What is still to be written.
    #[must_use]
    pub fn pending(&self) -> &[u8] {
        &self.bytes
    }

    /// Forgets the first `written` bytes of [`Self::pending`].
    pub fn written(&mut self, written: usize) {
        self.bytes.drain(..written);
        if self.bytes.is_empty() {
            self.bytes = Vec::new();
        }
    }

    /// Whether nothing waits to be written.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }
}
