//! The smallest HTTP client that can tell a good answer from a broken one.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, Result, bail};

/// Where an app listens, as `--listen` and the stats write it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// `tcp://HOST:PORT`
    Tcp(SocketAddr),
    /// `unix:///PATH`
    Unix(PathBuf),
}

impl FromStr for Address {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        if let Some(address) = text.strip_prefix("tcp://") {
            return Ok(Self::Tcp(address.parse().with_context(|| format!("the address {text}"))?));
        }
        if let Some(path) = text.strip_prefix("unix://") {
            return Ok(Self::Unix(path.split('?').next().unwrap_or(path).into()));
        }
        bail!("{text} is neither tcp:// nor unix://")
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "tcp://{address}"),
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
        }
    }
}

/// A byte stream of either kind.
pub trait Stream: Read + Write + Send + fmt::Debug {}
impl<T: Read + Write + Send + fmt::Debug> Stream for T {}

impl Address {
    /// A new connection. Reads and writes give up after half a minute: an answer that late is a failure.
    ///
    /// # Errors
    /// When it is refused.
    pub fn connect(&self) -> io::Result<Box<dyn Stream>> {
        let patience = Some(Duration::from_secs(30));
        match self {
            Self::Tcp(address) => {
                let stream = TcpStream::connect(address)?;
                stream.set_nodelay(true)?;
                stream.set_read_timeout(patience)?;
                stream.set_write_timeout(patience)?;
                Ok(Box::new(stream))
            }
            Self::Unix(path) => {
                let stream = UnixStream::connect(path)?;
                stream.set_read_timeout(patience)?;
                stream.set_write_timeout(patience)?;
                Ok(Box::new(stream))
            }
        }
    }
}

/// A whole answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The body.
    pub body: String,
    /// The server closes the connection behind it.
    pub close: bool,
}

/// Why there is no whole answer.
#[derive(Debug)]
pub enum Broken {
    /// The connection ended before the first byte of the answer.
    BeforeAnswer(io::Error),
    /// The answer itself is broken.
    Answer(io::Error),
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BeforeAnswer(error) => write!(f, "no answer: {error}"),
            Self::Answer(error) => write!(f, "a broken answer: {error}"),
        }
    }
}

/// Asks for `path` on a connection.
///
/// # Errors
/// [`Broken`], when there is no whole answer.
pub fn ask(stream: &mut dyn Stream, path: &str, close: bool) -> Result<Answer, Broken> {
    let last = if close { "Connection: close\r\n" } else { "" };
    let request = format!("GET {path} HTTP/1.1\r\nHost: site\r\n{last}\r\n");
    stream.write_all(request.as_bytes()).map_err(Broken::BeforeAnswer)?;
    let mut bytes = Vec::new();
    let mut chunk = [0; 8192];
    let end = loop {
        if let Some(at) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break at + 4;
        }
        match stream.read(&mut chunk) {
            Ok(0) if bytes.is_empty() => return Err(Broken::BeforeAnswer(ended())),
            Ok(0) => return Err(Broken::Answer(ended())),
            Ok(read) => bytes.extend_from_slice(&chunk[..read]),
            Err(error) if bytes.is_empty() => return Err(Broken::BeforeAnswer(error)),
            Err(error) => return Err(Broken::Answer(error)),
        }
    };
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let status = head.split(' ').nth(1).and_then(|word| word.parse().ok());
    let field = |name: &str| {
        head.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim().to_ascii_lowercase())
        })
    };
    let length = field("content-length").and_then(|value| value.parse::<usize>().ok());
    let (Some(status), Some(length)) = (status, length) else {
        return Err(Broken::Answer(io::Error::other(format!("not understood: {head}"))));
    };
    while bytes.len() < end + length {
        match stream.read(&mut chunk) {
            Ok(0) => return Err(Broken::Answer(ended())),
            Ok(read) => bytes.extend_from_slice(&chunk[..read]),
            Err(error) => return Err(Broken::Answer(error)),
        }
    }
    let body = String::from_utf8_lossy(&bytes[end..end + length]).into_owned();
    Ok(Answer { status, body, close: field("connection").is_some_and(|value| value == "close") })
}

fn ended() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "the connection ended")
}

/// One request on a connection of its own; the body of a good answer.
///
/// # Errors
/// When it is refused, broken or not 200.
pub fn get(address: &Address, path: &str) -> Result<String> {
    let mut stream = address.connect().with_context(|| format!("connecting to {address}"))?;
    match ask(&mut *stream, path, true) {
        Ok(answer) if answer.status == 200 => Ok(answer.body),
        Ok(answer) => bail!("GET {path}: {} {}", answer.status, answer.body),
        Err(broken) => bail!("GET {path}: {broken}"),
    }
}
