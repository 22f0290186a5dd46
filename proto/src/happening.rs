//! What happens, as an open list of numbered facts: for `ctl events` and whatever follows it.
//!
//! A kind is a word and what belongs to it are keys, so that a master may say more than this build knows: whoever reads
//! ignores the kinds and keys that mean nothing to it.

use alloc::string::String;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use crate::control::{Fact, UnixMillis};

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Happening {
    /// Grows by one from each to the next. A master begins far above every number of the one before it.
    pub number: u64,
    /// When.
    pub at: UnixMillis,
    /// `worker-ready`, `rollout-ended` and so on; README lists them.
    pub kind: String,
    /// What belongs to it, in an order of its own.
    pub facts: Vec<(String, Fact)>,
    /// For people; empty where another one says it in words.
    pub message: String,
}
