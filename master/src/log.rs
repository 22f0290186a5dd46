//! The log on stderr, as text or JSON. A reader that stops reading must not stop the master.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::sync::{Mutex, OnceLock};
use std::time::SystemTime;

use nix::libc::O_NONBLOCK;
use nix::sys::socket::{MsgFlags, send};
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, MakeWriter};
use tracing_subscriber::registry::LookupSpan;

/// The master's name, once it is known.
static NAME: OnceLock<String> = OnceLock::new();

/// Sets the process's log up.
pub(crate) fn init(json: bool) {
    tracing_subscriber::fmt().event_format(Lines { json }).with_writer(Stderr::open()).init();
}

/// From now on lines carry the master's name.
pub(crate) fn set_name(name: &str) {
    let _ = NAME.set(name.into());
}

/// One event, one line: `TIME LEVEL NAME: MESSAGE`, or an object with these keys.
struct Lines {
    json: bool,
}

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut message = Message(String::new());
        event.record(&mut message);
        let time = humantime::format_rfc3339_millis(SystemTime::now());
        let level = event.metadata().level();
        let name = NAME.get().map_or("master", String::as_str);
        if self.json {
            let line = serde_json::json!({
                "time": time.to_string(), "level": level.as_str(), "name": name, "message": message.0,
            });
            writeln!(writer, "{line}")
        } else {
            writeln!(writer, "{time} {level:5} {name}: {}", message.0)
        }
    }
}

/// The message of an event; this program gives its events no other fields.
struct Message(String);

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            self.0 = format!("{value:?}");
        }
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
