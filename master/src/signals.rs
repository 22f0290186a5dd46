//! What signals to the master mean.

use anyhow::{Context, Result};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rollout::{Command, CommandId, Event, Options, ScaleTo};

use crate::release;
use crate::shell::{OWN_COMMANDS, Shell};

impl Shell {
    pub(crate) fn take_signals(&mut self) {
        while let Ok(Some(info)) = self.signals.read_signal() {
            match Signal::try_from(info.ssi_signo as i32) {
                Ok(Signal::SIGCHLD) => self.reap(),
                Ok(Signal::SIGTERM) => self.own_command(Command::Stop),
                Ok(Signal::SIGINT) => self.own_command(Command::Interrupt),
                Ok(Signal::SIGQUIT) => self.own_command(Command::Halt),
                Ok(Signal::SIGUSR1) => self.restart_by_signal(),
                Ok(Signal::SIGTTIN) => self.own_command(Command::Scale(ScaleTo::Up(1))),
                Ok(Signal::SIGTTOU) => self.own_command(Command::Scale(ScaleTo::Down(1))),
                Ok(Signal::SIGHUP) => {
                    tracing::info!(
                        "HUP ignored: USR1 or `ctl phased-restart` deploys, output goes to stdout and stderr"
                    );
                }
                // What scripts/systemd sends for a restart: the next master is about to start.
                Ok(Signal::SIGPWR) => self.own_command(Command::Leave),
                Ok(Signal::SIGUSR2) => {
                    self.own_commands += 1;
                    self.begin_upgrade(self.own_commands);
                }
                _ => {}
            }
        }
    }

    pub(crate) fn restart_by_signal(&mut self) {
        match release::resolve(&self.site.dir) {
            Ok(path) => {
                let release = self.releases.id(&path);
                self.own_command(Command::PhasedRestart { release, options: Options::default() });
            }
            Err(error) => tracing::error!("USR1: {error:#}; nothing changed"),
        }
    }

    pub(crate) fn is_own(&self, command: CommandId) -> bool {
        command.0 > OWN_COMMANDS
    }

    pub(crate) fn own_command(&mut self, command: Command) {
        self.own_commands += 1;
        self.feed(Event::Command { id: CommandId(self.own_commands), command });
    }
}

/// The fd on which signals arrive.
///
/// # Errors
/// When the kernel refuses one.
pub(crate) fn open() -> Result<SignalFd> {
    SignalFd::with_flags(&block()?, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK).context("cannot make a signalfd")
}

/// Keeps them from ending this process; what comes waits until somebody looks.
///
/// # Errors
/// None that are known.
pub(crate) fn block() -> Result<SigSet> {
    let mut set = SigSet::empty();
    for signal in [
        Signal::SIGCHLD,
        Signal::SIGTERM,
        Signal::SIGINT,
        Signal::SIGQUIT,
        Signal::SIGUSR1,
        Signal::SIGUSR2,
        Signal::SIGTTIN,
        Signal::SIGTTOU,
        Signal::SIGHUP,
        Signal::SIGPWR,
    ] {
        set.add(signal);
    }
    set.thread_block().context("cannot block signals")?;
    Ok(set)
}
