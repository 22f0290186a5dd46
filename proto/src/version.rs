//! The first message on every connection: which protocol a peer speaks.

use alloc::string::String;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The protocol that this build speaks. Raised whenever old peers would misread a message.
pub const PROTOCOL: u32 = 4;

/// Said first by both sides; its bytes never change, so that any two builds can at least tell each other apart.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The protocol that the peer speaks.
    pub protocol: u32,
    /// The peer's package version, for people.
    pub build: String,
}

/// A peer that speaks another protocol.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "protocol version mismatch: this side speaks {ours} (build {our_build}), the other {theirs} (build {their_build}); \
     use the binaries of one installation"
)]
pub struct Mismatch {
    /// What this side speaks.
    pub ours: u32,
    /// This side's package version.
    pub our_build: String,
    /// What the peer speaks.
    pub theirs: u32,
    /// The peer's package version.
    pub their_build: String,
}

impl Hello {
    /// This build's own greeting.
    #[must_use]
    pub fn ours() -> Self {
        Self { protocol: PROTOCOL, build: String::from(env!("CARGO_PKG_VERSION")) }
    }

    /// Accepts a peer of the same protocol.
    ///
    /// # Errors
    /// [`Mismatch`], naming both versions, when the peer speaks another one.
    pub fn check(&self) -> Result<(), Mismatch> {
        if self.protocol == PROTOCOL {
            return Ok(());
        }
        let ours = Self::ours();
        Err(Mismatch {
            ours: ours.protocol,
            our_build: ours.build,
            theirs: self.protocol,
            their_build: self.build.clone(),
        })
    }
}
