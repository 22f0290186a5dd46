//! What an fd in the loop's epoll set stands for, packed into the 64 bits that epoll keeps.

use proto::Incarnation;

/// The meaning of an fd.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Token {
    /// Signals.
    Signals,
    /// The control socket.
    Control,
    /// The watch on Unix sockets' paths.
    Paths,
    /// A listening socket of the app, by position.
    Listener(usize),
    /// A control client.
    Client(u64),
    /// A worker's reports.
    Reports(Incarnation),
    /// A worker's commands, when they could not all be written.
    Commands(Incarnation),
    /// The end of a worker that is no child of ours.
    Death(Incarnation),
    /// The end of a process that such a worker has left behind.
    Stray(i32),
}

const KIND_BITS: u32 = 4;

impl Token {
    pub(crate) fn pack(self) -> u64 {
        let (kind, value) = match self {
            Self::Signals => (0, 0),
            Self::Control => (1, 0),
            Self::Paths => (2, 0),
            Self::Listener(n) => (3, n as u64),
            Self::Client(n) => (4, n),
            Self::Reports(id) => (5, id.0),
            Self::Commands(id) => (6, id.0),
            Self::Death(id) => (7, id.0),
            Self::Stray(pid) => (8, u64::from(pid.unsigned_abs())),
        };
        value << KIND_BITS | kind
    }

    pub(crate) fn unpack(bits: u64) -> Option<Self> {
        let value = bits >> KIND_BITS;
        Some(match bits & ((1 << KIND_BITS) - 1) {
            0 => Self::Signals,
            1 => Self::Control,
            2 => Self::Paths,
            3 => Self::Listener(value as usize),
            4 => Self::Client(value),
            5 => Self::Reports(Incarnation(value)),
            6 => Self::Commands(Incarnation(value)),
            7 => Self::Death(Incarnation(value)),
            8 => Self::Stray(value as i32),
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_survive_packing() {
        for token in [
            Token::Signals,
            Token::Control,
            Token::Paths,
            Token::Listener(7),
            Token::Client(9),
            Token::Reports(Incarnation(1 << 40)),
            Token::Commands(Incarnation(3)),
            Token::Death(Incarnation(4)),
            Token::Stray(4711),
        ] {
            assert_eq!(Token::unpack(token.pack()), Some(token));
        }
        assert_eq!(Token::unpack(15), None);
    }
}
