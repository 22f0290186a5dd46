//! Metrics as text, in the two dialects that there are.
//!
//! They differ in how a counter is declared, and no document satisfies both: OpenMetrics names its family without `_total`, and
//! then Prometheus' older format, which node_exporter's textfile collector and `promtool check metrics` read, takes the samples
//! for something of unknown type. A library writes one of the two.

use std::fmt::Write;

use serde::ser::{SerializeMap, SerializeSeq};
use serde::{Serialize, Serializer};

/// What is declared of a family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// May rise and fall.
    Gauge,
    /// Rises, and begins anew with whatever it counts for.
    Counter,
    /// Cumulative buckets.
    Histogram,
}

/// A number.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub(crate) enum Value {
    /// A count, bytes.
    Whole(u64),
    /// Seconds. Always finite.
    Real(f64),
}

/// One line.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Sample {
    /// What a histogram's samples have behind the name.
    pub(crate) suffix: &'static str,
    /// Beside the family's own.
    pub(crate) labels: Vec<(&'static str, String)>,
    /// The value.
    pub(crate) value: Value,
}

/// All samples of one name.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Family {
    /// A counter's without its `_total`.
    pub(crate) name: &'static str,
    /// What it is.
    pub(crate) kind: Kind,
    /// The last part of the name, where that is a unit.
    pub(crate) unit: Option<&'static str>,
    /// One line, without backslashes and quotes.
    pub(crate) help: &'static str,
    /// No two with the same labels.
    pub(crate) samples: Vec<Sample>,
}

/// How it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// Prometheus' text format 0.0.4, ended by OpenMetrics' `# EOF`, which is a comment in it. Prometheus' own reader of OpenMetrics
    /// takes it, too.
    Prometheus,
    /// OpenMetrics 1.0, by the letter.
    OpenMetrics,
}

impl Dialect {
    /// The Content-Type.
    pub(crate) fn content_type(self) -> &'static str {
        match self {
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

impl Family {
    /// A family without samples.
    pub(crate) fn new(name: &'static str, kind: Kind, unit: Option<&'static str>, help: &'static str) -> Self {
        Self { name, kind, unit, help, samples: Vec::new() }
    }

    /// One more sample.
    pub(crate) fn add(&mut self, labels: &[(&'static str, &str)], value: Value) {
        let labels = labels.iter().map(|(key, value)| (*key, (*value).to_owned())).collect();
        self.samples.push(Sample { suffix: "", labels, value });
    }

    /// The same with one only, that has no labels of its own.
    pub(crate) fn with(mut self, value: Value) -> Self {
        self.add(&[], value);
        self
    }

    /// What every sample's name has behind the family's.
    fn suffix(&self) -> &'static str {
        match self.kind {
            Kind::Counter => "_total",
            Kind::Gauge | Kind::Histogram => "",
        }
    }

    /// OpenMetrics' further types (`info`, `stateset`) are an error in Prometheus' format, and its gauges do as well.
    fn word(&self) -> &'static str {
        match self.kind {
            Kind::Gauge => "gauge",
            Kind::Counter => "counter",
            Kind::Histogram => "histogram",
        }
    }
}

/// The whole document. Every sample is labelled with `site` first.
pub(crate) fn text(families: &[Family], site: &str, dialect: Dialect) -> String {
    let mut out = String::new();
    for family in families.iter().filter(|family| !family.samples.is_empty()) {
        let Family { name, help, samples, .. } = family;
        let suffix = family.suffix();
        let declared = match dialect {
            Dialect::Prometheus => format!("{name}{suffix}"),
            Dialect::OpenMetrics => (*name).to_owned(),
        };
        let _ = writeln!(out, "# HELP {declared} {help}\n# TYPE {declared} {}", family.word());
        // A unit that does not end the name is an error to whoever reads it as OpenMetrics.
        if let Some(unit) = family.unit.filter(|unit| declared.ends_with(unit)) {
            let _ = writeln!(out, "# UNIT {declared} {unit}");
        }
        for sample in samples {
            let _ = write!(out, "{name}{suffix}{}{{site=\"{}\"", sample.suffix, escaped(site));
            for (key, value) in &sample.labels {
                let _ = write!(out, ",{key}=\"{}\"", escaped(value));
            }
            let _ = match sample.value {
                Value::Whole(number) => writeln!(out, "}} {number}"),
                Value::Real(number) => writeln!(out, "}} {number}"),
            };
        }
    }
    out.push_str("# EOF\n");
    out
}

fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// The same for `--json`.
#[derive(Serialize)]
pub(crate) struct Document<'a> {
    ok: bool,
    site: &'a str,
    metrics: Vec<Object<'a>>,
}

impl<'a> Document<'a> {
    /// Of these.
    pub(crate) fn new(families: &'a [Family], site: &'a str) -> Self {
        Self { ok: true, site, metrics: families.iter().map(Object::from).collect() }
    }
}

#[derive(Serialize)]
struct Object<'a> {
    name: String,
    #[serde(rename = "type")]
    kind: &'static str,
    help: &'a str,
    samples: Samples<'a>,
}

impl<'a> From<&'a Family> for Object<'a> {
    fn from(family: &'a Family) -> Self {
        let name = format!("{}{}", family.name, family.suffix());
        Self { name, kind: family.word(), help: family.help, samples: Samples(family) }
    }
}

struct Samples<'a>(&'a Family);

impl Serialize for Samples<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut all = serializer.serialize_seq(Some(self.0.samples.len()))?;
        for sample in &self.0.samples {
            let name = format!("{}{}{}", self.0.name, self.0.suffix(), sample.suffix);
            all.serialize_element(&Line { name, labels: Labels(&sample.labels), value: sample.value })?;
        }
        all.end()
    }
}

#[derive(Serialize)]
struct Line<'a> {
    name: String,
    labels: Labels<'a>,
    value: Value,
}

struct Labels<'a>(&'a [(&'static str, String)]);

impl Serialize for Labels<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (key, value) in self.0 {
            map.serialize_entry(key, value)?;
        }
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn families() -> Vec<Family> {
        let mut info = Family::new("x_release_info", Kind::Gauge, None, "Releases.");
        info.add(&[("release", "/r/a \"b\"\\c\nd"), ("role", "dir")], Value::Whole(1));
        let cpu = Family::new("x_cpu_seconds", Kind::Counter, Some("seconds"), "CPU.").with(Value::Real(1.5));
        let age = Family::new("x_age_seconds", Kind::Gauge, Some("seconds"), "Age.").with(Value::Real(0.0));
        vec![info, cpu, age, Family::new("x_none", Kind::Gauge, None, "Nothing.")]
    }

    #[test]
    fn a_document_that_prometheus_and_node_exporter_read() {
        let wanted = "# HELP x_release_info Releases.\n\
                      # TYPE x_release_info gauge\n\
                      x_release_info{site=\"s\",release=\"/r/a \\\"b\\\"\\\\c\\nd\",role=\"dir\"} 1\n\
                      # HELP x_cpu_seconds_total CPU.\n\
                      # TYPE x_cpu_seconds_total counter\n\
                      x_cpu_seconds_total{site=\"s\"} 1.5\n\
                      # HELP x_age_seconds Age.\n\
                      # TYPE x_age_seconds gauge\n\
                      # UNIT x_age_seconds seconds\n\
                      x_age_seconds{site=\"s\"} 0\n\
                      # EOF\n";
        assert_eq!(text(&families(), "s", Dialect::Prometheus), wanted);
    }

    #[test]
    fn a_document_by_the_letter_of_open_metrics() {
        let wanted = "# HELP x_release_info Releases.\n\
                      # TYPE x_release_info gauge\n\
                      x_release_info{site=\"s\",release=\"/r/a \\\"b\\\"\\\\c\\nd\",role=\"dir\"} 1\n\
                      # HELP x_cpu_seconds CPU.\n\
                      # TYPE x_cpu_seconds counter\n\
                      # UNIT x_cpu_seconds seconds\n\
                      x_cpu_seconds_total{site=\"s\"} 1.5\n\
                      # HELP x_age_seconds Age.\n\
                      # TYPE x_age_seconds gauge\n\
                      # UNIT x_age_seconds seconds\n\
                      x_age_seconds{site=\"s\"} 0\n\
                      # EOF\n";
        assert_eq!(text(&families(), "s", Dialect::OpenMetrics), wanted);
    }

    #[test]
    fn a_document_for_scripts() {
        let all = families();
        let json = serde_json::to_value(Document::new(&all[1..2], "s")).unwrap();
        let wanted = serde_json::json!({ "ok": true, "site": "s", "metrics": [{
            "name": "x_cpu_seconds_total", "type": "counter", "help": "CPU.",
            "samples": [{ "name": "x_cpu_seconds_total", "labels": {}, "value": 1.5 }],
        }]});
        assert_eq!(json, wanted);
    }
}
