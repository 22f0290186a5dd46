//! The connection to the master: two pipes at first, later the stream on which another master has adopted this worker.

use std::io::ErrorKind;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use proto::Inbox;
use proto::worker::ToWorker;

use crate::sys;

/// The end on which orders arrive. Of a stream, it is the end for reports, too.
pub(crate) struct Master {
    orders: Rc<OwnedFd>,
    inbox: Inbox<ToWorker>,
    greeted: bool,
}

impl Master {
    /// One that is yet to say `Hello` here.
    pub(crate) fn new(orders: OwnedFd) -> Self {
        Self { orders: Rc::new(orders), inbox: Inbox::default(), greeted: false }
    }

    /// What to poll.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.orders.as_fd()
    }

    /// The same end, where reports go to it as well.
    pub(crate) fn stream(&self) -> Rc<OwnedFd> {
        Rc::clone(&self.orders)
    }

    /// Reads once. False: it has closed the connection.
    pub(crate) fn read(&mut self) -> bool {
        let mut buffer = [0; 4096];
        match sys::read(self.fd(), &mut buffer) {
            Ok(0) => return false,
            Ok(length) => self.inbox.push(&buffer[..length]),
            Err(e) => return matches!(e.kind(), ErrorKind::Interrupted | ErrorKind::WouldBlock),
        }
        true
    }

    /// The next order that has been read, behind the `Hello`.
    ///
    /// # Errors
    /// Why the connection cannot be understood any more.
    pub(crate) fn order(&mut self) -> Result<Option<ToWorker>, String> {
        loop {
            match self.inbox.take().map_err(|e| e.to_string())? {
                Some(ToWorker::Hello(hello)) => {
                    hello.check().map_err(|mismatch| mismatch.to_string())?;
                    self.greeted = true;
                }
                Some(_) if !self.greeted => return Err("an order came before Hello".into()),
                order => return Ok(order),
            }
        }
    }
}
