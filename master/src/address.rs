//! Addresses as `--listen` takes them: `[NAME=]tcp://HOST:PORT` and `[NAME=]unix:///PATH[?mode=0660&group=NAME]`.

use std::fmt;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;

/// One `--listen`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    /// What `LISTEN_FDNAMES` and `{fd:NAME}` call it.
    pub(crate) name: Option<String>,
    /// Where it listens.
    pub(crate) place: Place,
}

/// Where a socket listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Tcp(SocketAddr),
    Unix { path: PathBuf, mode: Option<u32>, group: Option<String> },
}

impl Address {
    /// Reads one `--listen`; a host name is resolved here.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let (name, rest) = match text.split_once('=') {
            Some((name, rest)) if !name.contains(['/', ':']) => (Some(name), rest),
            _ => (None, text),
        };
        if let Some(name) = name {
            let good = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
            if name.is_empty() || !name.chars().all(good) {
                return Err(format!("'{name}' is not a socket's name: letters, digits and ._- only"));
            }
        }
        let place = if let Some(rest) = rest.strip_prefix("tcp://") {
            Place::Tcp(tcp(rest)?)
        } else if let Some(rest) = rest.strip_prefix("unix://") {
            unix(rest)?
        } else {
            return Err("tcp://HOST:PORT or unix:///PATH".into());
        };
        Ok(Self { name: name.map(Into::into), place })
    }
}

fn tcp(text: &str) -> Result<SocketAddr, String> {
    let text = text.strip_suffix('/').unwrap_or(text);
    let mut found = text.to_socket_addrs().map_err(|e| format!("'{text}': {e} (HOST:PORT, [::1]:8080)"))?;
    found.next().ok_or_else(|| format!("'{text}' has no address"))
}

fn unix(text: &str) -> Result<Place, String> {
    let (path, query) = text.split_once('?').unwrap_or((text, ""));
    if !path.starts_with('/') || path.ends_with('/') {
        return Err("a Unix socket's path is absolute: unix:///run/app.sock".into());
    }
    let (mut mode, mut group) = (None, None);
    for pair in query.split('&').filter(|p| !p.is_empty()) {
        match pair.split_once('=') {
            Some(("mode", octal)) => {
                let bits = u32::from_str_radix(octal, 8).ok().filter(|m| *m <= 0o777);
                mode = Some(bits.ok_or_else(|| format!("mode={octal}: octal digits, 0660"))?);
            }
            Some(("group", name)) if !name.is_empty() => group = Some(name.into()),
            _ => return Err(format!("'{pair}': mode=0660 and group=NAME are known")),
        }
    }
    Ok(Place::Unix { path: path.into(), mode, group })
}

impl Address {
    /// Whether the kernel is to choose the port.
    pub(crate) fn is_any_port(&self) -> bool {
        matches!(self.place, Place::Tcp(address) if address.port() == 0)
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "tcp://{address}"),
            Self::Unix { path, .. } => write!(f, "unix://{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read() {
        let web = Address::parse("web=tcp://127.0.0.1:8080").unwrap();
        assert_eq!(web.name.as_deref(), Some("web"));
        assert_eq!(web.place.to_string(), "tcp://127.0.0.1:8080");
        assert_eq!(Address::parse("tcp://[::1]:80").unwrap().place.to_string(), "tcp://[::1]:80");
        let unix = Address::parse("unix:///run/a=b.sock?mode=0660&group=www-data").unwrap();
        assert_eq!(
            unix.place,
            Place::Unix { path: "/run/a=b.sock".into(), mode: Some(0o660), group: Some("www-data".into()) }
        );
    }

    #[test]
    fn bad_addresses_are_refused_with_words() {
        for bad in [
            "8080",
            "tcp://",
            "tcp://127.0.0.1",
            "tcp://127.0.0.1:99999",
            "unix://relative",
            "unix:///",
            "unix:///x?mode=9",
            "unix:///x?owner=me",
            "a b=tcp://127.0.0.1:1",
        ] {
            assert!(Address::parse(bad).is_err(), "{bad}");
        }
    }
}
