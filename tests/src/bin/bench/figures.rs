//! Samples, the table that shows them, and the bars.

use std::fmt;

/// Samples of one figure.
#[derive(Clone, Debug, Default)]
pub(crate) struct Samples(Vec<f64>);

impl Samples {
    /// One more.
    pub(crate) fn push(&mut self, sample: f64) {
        self.0.push(sample);
    }

    /// The median; `None` without samples.
    pub(crate) fn median(&self) -> Option<f64> {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        match sorted.len() {
            0 => None,
            length if length % 2 == 1 => Some(sorted[middle]),
            _ => Some(sorted[middle - 1].midpoint(sorted[middle])),
        }
    }
}

impl fmt::Display for Samples {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(median) = self.median() else { return f.pad("-") };
        let least = self.0.iter().copied().fold(f64::INFINITY, f64::min);
        let greatest = self.0.iter().copied().fold(0.0, f64::max);
        if self.0.len() == 1 {
            return f.pad(&figure(median));
        }
        f.pad(&format!("{} ({}-{})", figure(median), figure(least), figure(greatest)))
    }
}

/// Three digits that matter, or all of a whole number.
pub(crate) fn figure(value: f64) -> String {
    match value.abs() {
        0.0 => "0".into(),
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 0.1 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

/// Figures by the number of workers.
pub(crate) struct Table(String);

impl Table {
    /// With a column for each of these numbers of workers.
    pub(crate) fn new(workers: &[u32]) -> Self {
        let mut table = Self(String::new());
        table.line("", workers.iter().map(|n| format!("{n} workers")));
        table
    }

    /// One more row.
    pub(crate) fn row(&mut self, name: &str, samples: &[&Samples]) {
        self.line(name, samples.iter().map(ToString::to_string));
    }

    fn line(&mut self, name: &str, cells: impl Iterator<Item = String>) {
        let cells: String = cells.map(|cell| format!(" {cell:>18}")).collect();
        self.0.push_str(format!("{name:<23}{cells}").trim_end());
        self.0.push('\n');
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Figures and what they should not exceed.
#[derive(Default)]
pub(crate) struct Bars(Vec<(String, f64, f64)>);

impl Bars {
    /// Holds the greatest of these medians against a bar.
    pub(crate) fn hold<'a>(&mut self, name: &str, of: impl IntoIterator<Item = &'a Samples>, bar: f64) {
        let worst =
            of.into_iter().filter_map(Samples::median).fold(None, |a: Option<f64>, b| Some(a.map_or(b, |a| a.max(b))));
        if let Some(worst) = worst {
            self.0.push((name.to_owned(), worst, bar));
        }
    }
}

impl fmt::Display for Bars {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:<52} {:>8} {:>8}", "bar (the worst of the medians above)", "figure", "bar")?;
        for (name, worst, bar) in &self.0 {
            let verdict = if worst <= bar { "holds" } else { "MISSED" };
            writeln!(f, "{name:<52} {:>8} {:>8}  {verdict}", figure(*worst), figure(*bar))?;
        }
        Ok(())
    }
}
