//! The log on stderr, as text or JSON. A reader that stops reading must not stop the master.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::sync::Mutex;
use std::time::SystemTime;

use nix::libc::O_NONBLOCK;
use nix::sys::socket::{MsgFlags, send};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;

/// Sets the process's log up; lines carry the master's name.
pub(crate) fn init(json: bool) {
    let builder = tracing_subscriber::fmt().with_timer(Rfc3339).with_target(false).with_writer(Stderr::open());
    if json {
        builder.json().flatten_event(true).with_span_list(false).with_current_span(true).init();
    } else {
        builder.init();
    }
}

struct Rfc3339;

impl FormatTime for Rfc3339 {
    fn format_time(&self, w: &mut Writer<'_>) -> fmt::Result {
        write!(w, "{}", humantime::format_rfc3339_millis(SystemTime::now()))
    }
}

/// Stderr, never waited for. `O_NONBLOCK` belongs to the open file, which others share, so a pipe or a terminal is
/// opened a second time through `/proc`; a socket is asked call by call; a file does not block.
enum Sink {
    Own(File),
    Socket,
    Plain,
}

struct Stderr {
    sink: Sink,
    lost: Mutex<u64>,
}

impl Stderr {
    fn open() -> Self {
        let kind = std::fs::metadata("/proc/self/fd/2").map(|m| m.file_type());
        let sink = match kind {
            Ok(kind) if kind.is_socket() => Sink::Socket,
            Ok(kind) if kind.is_fifo() || kind.is_char_device() => OpenOptions::new()
                .write(true)
                .custom_flags(O_NONBLOCK)
                .open("/proc/self/fd/2")
                .map_or(Sink::Plain, Sink::Own),
            _ => Sink::Plain,
        };
        Self { sink, lost: Mutex::new(0) }
    }

    fn put(&self, bytes: &[u8]) -> io::Result<usize> {
        match &self.sink {
            Sink::Own(file) => (&*file).write(bytes),
            Sink::Socket => {
                let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
                let stderr = io::stderr();
                Ok(send(std::os::fd::AsRawFd::as_raw_fd(&stderr.as_fd()), bytes, flags)?)
            }
            Sink::Plain => io::stderr().write(bytes),
        }
    }
}

impl Write for &Stderr {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut lost = self.lost.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if *lost > 0 && self.put(format!("({lost} log lines lost: nobody read them)\n").as_bytes()).is_ok() {
            *lost = 0;
        }
        if self.put(bytes).is_err() {
            *lost += 1;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Stderr {
    type Writer = &'a Stderr;

    fn make_writer(&'a self) -> Self::Writer {
        self
    }
}
