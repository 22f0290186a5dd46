//! What `master`, `worker` and `ctl` say to each other.
//!
//! Types, a codec and a frame: this crate opens no file descriptor and reads no clock, so that each
//! program can drive it from its own loop. Every connection begins with a [`Hello`] from both sides;
//! after that each message travels as one frame, `[length u32 LE][body]`, 1 MiB at most.
//!
//! Enum variants are append-only: a variant keeps its place for ever (`tests/golden.rs` holds the bytes).
//! Paths and output are bytes here; they become lossy text in JSON only, which has types of its own (in `json`, where
//! master and ctl write the same, else in `ctl`).

#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(feature = "json")]
extern crate std;

pub mod codec;
pub mod control;
pub mod frame;
pub mod happening;
pub mod ids;
#[cfg(feature = "json")]
pub mod json;
pub mod metrics;
pub mod surge;
pub mod version;
pub mod worker;

pub use codec::CodecError;
pub use frame::{Inbox, Outbox};
pub use happening::Happening;
pub use ids::{Incarnation, Phase, Slot};
pub use surge::Surge;
pub use version::{Hello, PROTOCOL};
