//! Control clients, from their connection until they are forgotten.

use nix::sys::epoll::{EpollEvent, EpollFlags};

use crate::control::{Heard, REQUEST_DEADLINE};
use crate::shell::{Deadline, Shell};
use crate::token::Token;

impl Shell {
    pub(crate) fn accept(&mut self) {
        while let Some(accepted) = self.control.accept() {
            if let Ok(id) = accepted {
                self.watch(self.control.client_fd(id), EpollFlags::EPOLLIN, Token::Client(id));
                self.timers.arm(Deadline::Client(id), REQUEST_DEADLINE);
                // Most have sent everything by now: one turn of the loop less, for them and for us.
                self.hear_client(id);
            }
        }
    }

    pub(crate) fn hear_client(&mut self, id: u64) {
        match self.control.hear(id) {
            Heard::Request(request) => {
                self.timers.disarm(Deadline::Client(id));
                self.request(id, request);
                self.flush_client(id);
            }
            Heard::Nothing => self.flush_client(id),
            Heard::Closed => self.forget(id),
        }
    }

    pub(crate) fn flush_client(&mut self, id: u64) {
        self.give_more(id);
        match self.control.flush(id) {
            None => self.forget(id),
            // It takes what it gets: as long as there is more, it gets that.
            Some(false) if self.give_more(id) => self.flush_client(id),
            Some(left) => {
                let flags = if left { EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT } else { EpollFlags::EPOLLIN };
                if let Some(fd) = self.control.client_fd(id) {
                    let _ = self.epoll.modify(fd, &mut EpollEvent::new(flags, Token::Client(id).pack()));
                }
            }
        }
    }

    /// Everybody who waits may have been told something.
    pub(crate) fn flush_clients(&mut self) {
        for id in self.waiting.clone() {
            self.flush_client(id);
        }
    }

    pub(crate) fn forget(&mut self, id: u64) {
        self.timers.disarm(Deadline::Client(id));
        self.waiting.remove(&id);
        self.record.forget(id);
        self.control.forget(id);
    }
}
