//! The app's sockets, watched: what an app has broken is mended for the others.

use std::os::fd::AsFd;

use nix::sys::epoll::EpollFlags;
use rollout::Event;

use crate::listener::Mended;
use crate::shell::Shell;
use crate::token::Token;

impl Shell {
    pub(crate) fn watch_listener(&self, n: usize) {
        let Some(listener) = self.listeners.get(n) else { return };
        // No readiness is asked for: only a hang-up is news.
        self.watch(Some(listener.fd.as_fd()), EpollFlags::EPOLLRDHUP, Token::Listener(n));
        listener.watch(&self.inotify);
    }

    pub(crate) fn mend_listener(&mut self, n: usize) {
        let Some(listener) = self.listeners.get_mut(n) else { return };
        let _ = self.epoll.delete(&listener.fd);
        match listener.mend() {
            Ok(Mended::Revived) => {
                tracing::error!("an app shut {} down: it listens again", listener.address());
                self.watch_listener(n);
            }
            Ok(Mended::Replaced) => {
                self.watch_listener(n);
                self.feed(Event::ListenerLost);
            }
            Err(error) => tracing::error!("an app shut {} down: {error:#}", listener.address()),
        }
    }

    pub(crate) fn restore_paths(&mut self) {
        while self.inotify.read_events().is_ok_and(|events| !events.is_empty()) {}
        for listener in &self.listeners {
            if listener.restore_path() {
                tracing::warn!("an app removed {}: put back", listener.address());
            }
        }
    }
}
