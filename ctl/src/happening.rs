//! `ctl events`: what happened, a line each.

use proto::Happening;
use proto::control::Fact;
use proto::json::time;
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};

use crate::render::inline;

/// For people: when, and what. `None`: another one says it in words.
pub(crate) fn text(happening: &Happening) -> Option<String> {
    if happening.message.is_empty() {
        return None;
    }
    let at = time(happening.at);
    let at = at.split_once('.').map_or(at.as_str(), |(seconds, _)| seconds);
    Some(format!("{at}Z {}\n", inline(&happening.message)))
}

/// For scripts: `number`, `at`, `type`, what belongs to that, and `message`.
pub(crate) struct Document<'a>(pub(crate) &'a Happening);

impl Serialize for Document<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Happening { number, at, kind, facts, message } = self.0;
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("number", number)?;
        map.serialize_entry("at", &time(*at))?;
        map.serialize_entry("type", kind)?;
        for (key, fact) in facts {
            entry(&mut map, key, fact)?;
        }
        let message = Some(message.as_str()).filter(|message| !message.is_empty());
        map.serialize_entry("message", &message)?;
        map.end()
    }
}

/// A fact under its key.
pub(crate) fn entry<M: SerializeMap>(map: &mut M, key: &str, fact: &Fact) -> Result<(), M::Error> {
    match fact {
        Fact::Text(text) => map.serialize_entry(key, text),
        Fact::Number(number) => map.serialize_entry(key, number),
        Fact::Null => map.serialize_entry(key, &()),
        Fact::Micros(micros) => map.serialize_entry(key, &(*micros as f64 / 1e6)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_each() {
        let mut happening = Happening {
            number: 1_795_386_673_242_001,
            at: 1_795_386_673_242,
            kind: "worker-ready".into(),
            facts: vec![
                ("slot".into(), Fact::Number(0)),
                ("seconds".into(), Fact::Micros(120_500)),
                ("signal".into(), Fact::Null),
                ("release".into(), Fact::Text("/r/\n42".into())),
            ],
            message: String::new(),
        };
        assert_eq!(
            crate::json::line(&Document(&happening)),
            "{\"number\":1795386673242001,\"at\":\"2026-11-22T22:31:13.242Z\",\"type\":\"worker-ready\",\"slot\":0,\
             \"seconds\":0.1205,\"signal\":null,\"release\":\"/r/\\n42\",\"message\":null}\n"
        );
        assert_eq!(text(&happening), None);
        happening.message = "slot 0:\n\x1b[31mready".into();
        assert_eq!(text(&happening).unwrap(), "2026-11-22T22:31:13Z slot 0: ready\n");
    }
}
