//! The answer to an HTTP check, as far as it has been read.

use proto::worker::Bytes;

/// How much of a body is read: what is shown, and room for the lengths of chunks.
const RAW_BODY: usize = 4 << 10;

/// The head of an answer, as far as it matters here.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Head {
    /// Its first line, and where it redirects to.
    pub(crate) message: String,
    is_chunked: bool,
    /// `Content-Length`.
    length: Option<usize>,
}

impl Head {
    /// What was answered, of what has been read behind the head.
    pub(crate) fn body(&self, read: &[u8]) -> Bytes {
        if self.is_chunked { unchunked(read).0 } else { read.to_vec() }
    }

    /// No more of the body is wanted.
    pub(crate) fn is_whole(&self, body: &[u8]) -> bool {
        body.len() >= RAW_BODY
            || self.length.is_some_and(|length| body.len() >= length)
            || (self.is_chunked && unchunked(body).1)
    }
}

/// The status, the head, and its length; `None` while it is not whole.
///
/// # Errors
/// It is not HTTP.
pub(crate) fn head(read: &[u8]) -> Result<Option<(u16, Head, usize)>, httparse::Error> {
    let mut headers = [httparse::EMPTY_HEADER; 128];
    let mut response = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(end) = response.parse(read)? else { return Ok(None) };
    let status = response.code.unwrap_or(0);
    let header = |name: &str| {
        let found = response.headers.iter().find(|h| h.name.eq_ignore_ascii_case(name));
        found.map(|h| String::from_utf8_lossy(h.value).into_owned())
    };
    let short = |text: &str| text.chars().filter(|c| !c.is_control()).take(200).collect::<String>();
    let first = read.split(|b| *b == b'\n').map(<[u8]>::trim_ascii).find(|line| !line.is_empty()).unwrap_or_default();
    let mut message = short(&String::from_utf8_lossy(first));
    if let Some(to) = header("location").filter(|_| (300..400).contains(&status)) {
        message += &format!(" (to {})", short(&to));
    }
    let is_chunked = header("transfer-encoding").is_some_and(|v| v.to_ascii_lowercase().contains("chunked"));
    let length = header("content-length").and_then(|v| v.trim().parse().ok()).filter(|_| !is_chunked);
    Ok(Some((status, Head { message, is_chunked, length }, end)))
}

/// What chunks hold (RFC 9112 §7.1), as far as they have come, and whether the last has.
fn unchunked(mut raw: &[u8]) -> (Bytes, bool) {
    let mut body = Bytes::new();
    while let Ok(httparse::Status::Complete((at, size))) = httparse::parse_chunk_size(raw) {
        if size == 0 {
            return (body, true);
        }
        let rest = &raw[at..];
        let size = usize::try_from(size).unwrap_or(usize::MAX);
        body.extend_from_slice(&rest[..size.min(rest.len())]);
        raw = rest.get(size.saturating_add(2)..).unwrap_or_default();
    }
    (body, false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_put_together() {
        assert_eq!(unchunked(b"3\r\nno \r\n5;x=y\r\nroute\r\n0\r\n\r\n"), (b"no route".to_vec(), true));
        assert_eq!(unchunked(b"3\r\nno \r\n50\r\nrou"), (b"no rou".to_vec(), false));
        assert_eq!(unchunked(b"3\r\nno"), (b"no".to_vec(), false));
        assert_eq!(unchunked(b"ffffffffffffffff\r\nx"), (b"x".to_vec(), false));
        assert_eq!(unchunked(b"nonsense"), (Vec::new(), false));
    }

    #[test]
    fn heads() {
        assert_eq!(head(b"HTTP/1.1 200 OK\r\nA: b\r\n"), Ok(None));
        let read = b"\r\nHTTP/1.1 404 No\tt here\r\ncontent-length: 7\r\n\r\nbody";
        let (status, found, length) = head(read).unwrap().unwrap();
        let wanted = Head { message: "HTTP/1.1 404 Not here".into(), is_chunked: false, length: Some(7) };
        assert_eq!((status, found, &read[length..]), (404, wanted, &b"body"[..]));
        assert!(head(b"SSH-2.0-OpenSSH\r\n").is_err());
    }
}
