//! A harness over the real binaries, and what the tests of this package share.
//!
//! A test makes a [`Site`] (a folder with releases, a `current` symlink, and everything that a master writes), starts a
//! [`Master`] in it, and speaks to that with the real `ctl` or with the control socket's own protocol. The app is the
//! `fixture` binary, scripted by its release (`src/bin/fixture/script.rs`), and waits at *gates* that the test opens.
//!
//! No test sleeps, and none polls a clock: it waits for the master's event trace, for a line of a log, for a process's
//! end or at a gate, always under the one deadline of its site. What is over the deadline panics; a test that panics
//! shows the trace, the logs and the processes of its site, and nothing of the site outlives its test.

pub mod aftermath;
pub mod binaries;
pub mod control;
pub mod ctl;
pub mod fleet;
pub mod gates;
pub mod http;
pub mod lines;
pub mod load;
pub mod master;
pub mod pages;
pub mod process;
pub mod servers;
pub mod servers_fcgi;
pub mod show;
pub mod site;
pub mod sys;
pub mod terminal;

pub use ctl::{Ctl, Output};
pub use gates::{App, Waiting};
pub use http::Address;
pub use load::Load;
pub use master::{Master, Start};
pub use site::Site;
pub use terminal::Terminal;
