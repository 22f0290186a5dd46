//! The real `ctl` against a fake master: a thread on a Unix socket that speaks the protocol and follows a script.
//!
//! Nothing here sleeps: a script blocks until `ctl` has said what it should say, a test until `ctl` has
//! printed what it should print.

mod commands;
mod connection;
mod fake;
mod look;
mod next;
mod notes;
mod other;
mod restart;
mod trust;
mod upgrade;
