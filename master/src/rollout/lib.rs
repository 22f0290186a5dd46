//! The rollout state machine.
#![no_std]
#![forbid(unsafe_code)]
