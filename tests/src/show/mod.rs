//! What the demo and the bench share: a small app, clients, and a folder with a master in it.
//!
//! Unlike the rest of this package nothing here panics over what it meets: both are programs for people, whose release
//! build aborts on a panic and would leave its processes and its folder behind.

pub mod app;
pub mod clients;
pub mod place;

pub use clients::Clients;
pub use place::{Master, Place};
