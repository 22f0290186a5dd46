//! `/proc/PID/task/TID/syscall`: what a thread waits in, for x86-64 and aarch64.

/// The numbers of the calls in which a server waits for connections, on one architecture.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Numbers {
    accept: u64,
    accept4: u64,
    /// Not on aarch64, which has `ppoll` only.
    poll: Option<u64>,
    ppoll: u64,
    /// Not on aarch64, which has `pselect6` only.
    select: Option<u64>,
    pselect6: u64,
    io_uring_enter: u64,
}

/// From Linux's `arch/x86/entry/syscalls/syscall_64.tbl`.
#[cfg(any(test, target_arch = "x86_64"))]
pub(crate) const X86_64: Numbers = Numbers {
    accept: 43,
    accept4: 288,
    poll: Some(7),
    ppoll: 271,
    select: Some(23),
    pselect6: 270,
    io_uring_enter: 426,
};

/// From Linux's `include/uapi/asm-generic/unistd.h`.
#[cfg(any(test, target_arch = "aarch64"))]
pub(crate) const AARCH64: Numbers =
    Numbers { accept: 202, accept4: 242, poll: None, ppoll: 73, select: None, pselect6: 72, io_uring_enter: 426 };

/// This machine's.
#[cfg(target_arch = "x86_64")]
pub(crate) const HERE: Numbers = X86_64;
/// This machine's.
#[cfg(target_arch = "aarch64")]
pub(crate) const HERE: Numbers = AARCH64;
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
compile_error!("readiness is read from system call numbers, which are known for x86-64 and aarch64 only");

/// What a thread does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wait {
    /// It is on a CPU or about to be.
    Running,
    /// It waits in accept or accept4 on this fd.
    Accept(i32),
    /// It waits in poll or ppoll: an array of `struct pollfd` at this address.
    Poll {
        /// Where, in its own memory.
        address: u64,
        /// How many.
        count: u64,
    },
    /// It waits in select or pselect6: a set of fds to read at this address.
    Select {
        /// Where, in its own memory; 0 for none.
        address: u64,
        /// One more than the highest fd in it.
        limit: u64,
    },
    /// It waits for completions of an io_uring.
    Ring,
    /// It waits in something else.
    Other,
}

/// Reads one line: `running`, `-1 SP PC`, or `NUMBER ARG0 … ARG5 SP PC`.
pub(crate) fn parse(line: &[u8], numbers: &Numbers) -> Wait {
    let Ok(line) = std::str::from_utf8(line) else { return Wait::Other };
    let mut words = line.split_ascii_whitespace();
    let number = match words.next() {
        Some("running") => return Wait::Running,
        Some(word) => word.parse::<u64>(),
        None => return Wait::Other,
    };
    let Ok(number) = number else { return Wait::Other };
    let mut args = [0; 6];
    for arg in &mut args {
        match words.next().and_then(|w| u64::from_str_radix(w.strip_prefix("0x")?, 16).ok()) {
            Some(value) => *arg = value,
            None => return Wait::Other,
        }
    }
    // IORING_ENTER_GETEVENTS: without it the call does not wait.
    const GETEVENTS: u64 = 1;
    if number == numbers.accept || number == numbers.accept4 {
        // The kernel takes an int: the upper half of the register may hold anything.
        Wait::Accept(args[0] as u32 as i32)
    } else if Some(number) == numbers.poll || number == numbers.ppoll {
        Wait::Poll { address: args[0], count: args[1] & 0xffff_ffff }
    } else if Some(number) == numbers.select || number == numbers.pselect6 {
        Wait::Select { address: args[1], limit: args[0] & 0xffff_ffff }
    } else if number == numbers.io_uring_enter && args[3] & GETEVENTS != 0 {
        Wait::Ring
    } else {
        Wait::Other
    }
}

/// Whether an array of `struct pollfd { int fd; short events; short revents; }` waits for something to read on one of the fds.
pub(crate) fn poll_holds(array: &[u8], fds: &[i32]) -> bool {
    // POLLIN and POLLRDNORM.
    const READABLE: u16 = 0x41;
    array.as_chunks::<8>().0.iter().any(|[a, b, c, d, e, f, ..]| {
        fds.contains(&i32::from_ne_bytes([*a, *b, *c, *d])) && u16::from_ne_bytes([*e, *f]) & READABLE != 0
    })
}

/// Whether an fd set, an array of words in native order, holds one of the fds below `limit`.
pub(crate) fn set_holds(set: &[u8], limit: u64, fds: &[i32]) -> bool {
    fds.iter().filter_map(|fd| usize::try_from(*fd).ok()).filter(|fd| (*fd as u64) < limit).any(|fd| {
        // Both architectures are little-endian, where bytes and words hold their bits in the same order.
        set.get(fd / 8).is_some_and(|byte| byte >> (fd % 8) & 1 == 1)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn x86_64() {
        let parse = |line: &str| parse(line.as_bytes(), &X86_64);
        let tail = "0x0 0x7ffd 0x7f00";
        assert_eq!(parse("running\n"), Wait::Running);
        assert_eq!(parse("-1 0x7ffd 0x7f00\n"), Wait::Other);
        assert_eq!(parse(&format!("43 0x3 0x7f 0x7e 0x0 0x0 {tail}")), Wait::Accept(3));
        assert_eq!(parse(&format!("288 0xdeadbeef00000003 0x7f 0x7e 0x80000 0x0 {tail}")), Wait::Accept(3));
        assert_eq!(parse(&format!("7 0x7f10 0x2 0xffffffff 0x0 0x0 {tail}")), Wait::Poll { address: 0x7f10, count: 2 });
        assert_eq!(parse(&format!("271 0x7f10 0x1 0x0 0x0 0x8 {tail}")), Wait::Poll { address: 0x7f10, count: 1 });
        assert_eq!(parse(&format!("23 0x8 0x7f10 0x0 0x0 0x7f20 {tail}")), Wait::Select { address: 0x7f10, limit: 8 });
        assert_eq!(parse(&format!("270 0x8 0x7f10 0x0 0x0 0x0 {tail}")), Wait::Select { address: 0x7f10, limit: 8 });
        assert_eq!(parse(&format!("426 0x5 0x0 0x1 0x1 0x0 {tail}")), Wait::Ring);
        assert_eq!(parse(&format!("426 0x5 0x1 0x0 0x0 0x0 {tail}")), Wait::Other);
        assert_eq!(parse(&format!("232 0x5 0x0 0x1 0x1 0x0 {tail}")), Wait::Other);
    }

    #[test]
    fn aarch64() {
        let parse = |line: &str| parse(line.as_bytes(), &AARCH64);
        let tail = "0x0 0xffffd 0xffff";
        assert_eq!(parse(&format!("202 0x4 0x7f 0x7e 0x0 0x0 {tail}")), Wait::Accept(4));
        assert_eq!(parse(&format!("242 0x4 0x7f 0x7e 0x0 0x0 {tail}")), Wait::Accept(4));
        assert_eq!(parse(&format!("73 0x7f10 0x1 0x0 0x0 0x8 {tail}")), Wait::Poll { address: 0x7f10, count: 1 });
        assert_eq!(parse(&format!("72 0x8 0x7f10 0x0 0x0 0x0 {tail}")), Wait::Select { address: 0x7f10, limit: 8 });
        assert_eq!(parse(&format!("43 0x3 0x0 0x0 0x0 0x0 {tail}")), Wait::Other, "statfs here");
        assert_eq!(parse(&format!("7 0x3 0x1 0x0 0x0 0x0 {tail}")), Wait::Other, "fsetxattr here");
    }

    #[test]
    fn nonsense() {
        for line in ["", "43", "43 0x3", "43 3 4 5 6 7 8", "x y"] {
            assert_eq!(parse(line.as_bytes(), &X86_64), Wait::Other, "{line}");
        }
        assert_eq!(parse(b"\xff", &X86_64), Wait::Other);
    }

    #[test]
    fn poll_arrays() {
        let entry = |fd: i32, events: u16| [&fd.to_ne_bytes()[..], &events.to_ne_bytes(), &[0, 0]].concat();
        let array = [entry(7, 1), entry(3, 1)].concat();
        assert!(poll_holds(&array, &[3]));
        assert!(!poll_holds(&array, &[4]));
        assert!(!poll_holds(&entry(3, 4), &[3]), "for writing only");
        assert!(!poll_holds(&entry(-3, 1), &[3]), "masked by its sign");
        assert!(!poll_holds(&array[..12], &[3]), "cut short");
    }

    #[test]
    fn fd_sets() {
        let mut set = [0u8; 128];
        set[0] = 1 << 3;
        set[8] = 1 << 1;
        assert!(set_holds(&set, 4, &[3]));
        assert!(!set_holds(&set, 3, &[3]), "beyond nfds");
        assert!(set_holds(&set, 66, &[65]));
        assert!(!set_holds(&set[..8], 66, &[65]), "cut short");
        assert!(!set_holds(&set, 66, &[4, -1]));
    }
}
