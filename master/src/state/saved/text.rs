//! Paths and output in JSON, with nothing lost: a string, or `{"hex": "2f61ff"}` for what is not UTF-8.

use std::ffi::OsStr;
use std::fmt::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Bytes that are usually text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Text(pub(super) Vec<u8>);

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Form<S> {
    Plain(S),
    Hex { hex: String },
}

impl Text {
    pub(super) fn path(&self) -> &Path {
        Path::new(OsStr::from_bytes(&self.0))
    }
}

impl From<&Path> for Text {
    fn from(path: &Path) -> Self {
        Self(path.as_os_str().as_bytes().to_vec())
    }
}

impl Serialize for Text {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match std::str::from_utf8(&self.0) {
            Ok(text) => Form::Plain(text).serialize(to),
            Err(_) => {
                let mut hex = String::with_capacity(2 * self.0.len());
                for byte in &self.0 {
                    let _ = write!(hex, "{byte:02x}");
                }
                Form::<&str>::Hex { hex }.serialize(to)
            }
        }
    }
}

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        match Form::<String>::deserialize(from)? {
            Form::Plain(text) => Ok(Self(text.into_bytes())),
            Form::Hex { hex } => {
                // Neither a sign nor a character of several bytes, which the parsing of numbers would take or split.
                if hex.len() % 2 == 1 || !hex.bytes().all(|b| b.is_ascii_hexdigit()) {
                    return Err(D::Error::custom("hex digits are not as they should be"));
                }
                let pairs = (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16));
                pairs.collect::<Result<_, _>>().map(Self).map_err(D::Error::custom)
            }
        }
    }
}
