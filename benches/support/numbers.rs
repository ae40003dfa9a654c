//! Medians, and how they are printed.

/// The values of one row over all rounds.
#[derive(Clone, Copy, Debug, serde::Serialize)]
pub(crate) struct Spread {
    pub median: f64,
    pub min: f64,
    pub max: f64,
}

impl Spread {
    /// `None` if there are no values.
    pub(crate) fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let (min, max) = (*values.first()?, *values.last()?);
        let (low, high) = (values[(values.len() - 1) / 2], values[values.len() / 2]);
        Some(Self { median: (low + high) / 2.0, min, max })
    }
}

/// A table of text. The first column is left-aligned, the others are right-aligned.
pub(crate) struct Table {
    pub head: Vec<String>,
    pub lines: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new(head: &[&str]) -> Self {
        Self { head: head.iter().map(|cell| (*cell).to_owned()).collect(), lines: Vec::new() }
    }

    pub(crate) fn plain(&self) -> String {
        let all = || std::iter::once(&self.head).chain(&self.lines);
        let width = |column: usize| all().map(|line| line[column].chars().count()).max();
        let widths: Vec<usize> = (0..self.head.len()).filter_map(width).collect();
        let mut text = String::new();
        for line in all() {
            let cells = line.iter().zip(&widths).enumerate().map(|(column, (cell, width))| {
                let width = *width;
                if column == 0 { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
            });
            text += cells.collect::<Vec<_>>().join("  ").trim_end();
            text.push('\n');
        }
        text
    }

    pub(crate) fn markdown(&self) -> String {
        let rule = (0..self.head.len()).map(|column| if column == 0 { "---" } else { "--:" });
        let rule: Vec<_> = rule.map(str::to_owned).collect();
        let lines = [&self.head, &rule].into_iter().chain(&self.lines);
        lines.map(|line| format!("| {} |\n", line.join(" | "))).collect()
    }
}
