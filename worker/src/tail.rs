//! The last of what an app printed, for reports.

use std::collections::VecDeque;

use proto::worker::{Bytes, TAIL_BYTES};

/// Keeps the last [`TAIL_BYTES`]; grows only as far as the app prints.
#[derive(Debug, Default)]
pub(crate) struct Tail {
    bytes: VecDeque<u8>,
    /// Whether the first byte kept begins no line.
    cut: bool,
}

impl Tail {
    /// Takes in what was printed.
    pub(crate) fn push(&mut self, printed: &[u8]) {
        let over = (self.bytes.len() + printed.len()).saturating_sub(TAIL_BYTES);
        if over > 0 {
            let last = if over <= self.bytes.len() {
                self.bytes.drain(..over).next_back()
            } else {
                printed[..over - self.bytes.len()].last().copied()
            };
            self.cut = last != Some(b'\n');
        }
        if printed.len() >= TAIL_BYTES {
            self.bytes.clear();
        }
        let kept = &printed[printed.len().saturating_sub(TAIL_BYTES)..];
        if self.bytes.capacity() < self.bytes.len() + kept.len() {
            // Never more than the limit, where doubling would go past it.
            let wanted = ((self.bytes.len() + kept.len()) * 2).clamp(512, TAIL_BYTES);
            self.bytes.reserve_exact(wanted - self.bytes.len());
        }
        self.bytes.extend(kept);
    }

    /// What is kept, from the first whole line on; from the first byte when there is but one line.
    pub(crate) fn bytes(&self) -> Bytes {
        let mut out: Bytes = self.bytes.iter().copied().collect();
        if self.cut
            && let Some(end) = out.iter().position(|b| *b == b'\n').filter(|end| end + 1 < out.len())
        {
            out.drain(..=end);
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_all_of_a_little() {
        let mut tail = Tail::default();
        tail.push(b"one\n");
        tail.push(b"two\n");
        assert_eq!(tail.bytes(), b"one\ntwo\n");
    }

    #[test]
    fn cuts_at_a_line_s_start() {
        let mut tail = Tail::default();
        for i in 0..20_000 {
            tail.push(format!("line {i}\n").as_bytes());
        }
        let kept = tail.bytes();
        assert!(kept.len() <= TAIL_BYTES && kept.len() > TAIL_BYTES - 20, "{}", kept.len());
        assert!(kept.starts_with(b"line ") && kept.ends_with(b"line 19999\n"));
        assert!(tail.bytes.capacity() <= TAIL_BYTES);
    }

    #[test]
    fn a_whole_line_at_the_cut_stays() {
        let mut tail = Tail::default();
        tail.push(&[b'x'; 9]);
        tail.push(b"\n");
        let line = [&[b'y'; TAIL_BYTES - 1][..], b"\n"].concat();
        tail.push(&line);
        assert_eq!(tail.bytes(), line);
    }

    #[test]
    fn one_endless_line_is_cut_anywhere() {
        let mut tail = Tail::default();
        tail.push(&vec![b'x'; TAIL_BYTES * 2 + 5]);
        assert_eq!(tail.bytes().len(), TAIL_BYTES);
        tail.push(b"y");
        assert_eq!(tail.bytes().len(), TAIL_BYTES);
        assert!(tail.bytes().ends_with(b"xy"));
    }
}
