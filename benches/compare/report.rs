//! The tables: the cost of each row, and the ratios.

use std::io::Write;

use crate::{
    Args,
    bed::{DATA_BYTES, IN_FLIGHT},
    machine,
    rows::{RATIOS, Ratio, Row, Sample},
    support::{
        Problem,
        numbers::{Spread, Table},
    },
};

pub(crate) struct Report {
    rows: Vec<(Row, Vec<Sample>)>,
    /// Of the binary that `--beside` names.
    beside: Vec<(Row, Vec<Sample>)>,
    notes: Vec<String>,
}

impl Report {
    pub(crate) fn new(args: &Args, mut notes: Vec<String>) -> Self {
        notes.insert(0, machine::in_words());
        notes.push(format!(
            "{} sessions of {DATA_BYTES} bytes, no deadline due to be moved, {IN_FLIGHT} in flight, \
             {} rounds of {} s for each row",
            args.sessions, args.rounds, args.seconds
        ));
        Self { rows: Vec::new(), beside: Vec::new(), notes }
    }

    pub(crate) fn add(&mut self, row: Row, sample: Sample) {
        add(&mut self.rows, row, sample);
    }

    /// A sample of the binary that `--beside` names.
    pub(crate) fn add_beside(&mut self, row: Row, sample: Sample) {
        add(&mut self.beside, row, sample);
    }

    pub(crate) fn print(&self, args: &Args) -> Result<(), Problem> {
        let text = if args.json { self.json() } else { self.text(args.markdown) };
        let mut out = std::io::stdout().lock();
        let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
        written.map_err(|error| format!("cannot write to standard output: {error}"))
    }

    fn samples(&self, row: Row) -> &[Sample] {
        let found = self.rows.iter().find(|(known, _)| *known == row);
        found.map_or(&[], |(_, samples)| samples)
    }

    /// For each row of both binaries: its cost, that of the binary beside it, and the ratio of
    /// each round.
    fn both(&self) -> impl Iterator<Item = (Row, [Spread; 3])> {
        self.beside.iter().filter_map(|(row, beside)| {
            let costs = |samples: &[Sample]| Spread::of(samples.iter().map(|s| s.cpu_us));
            let own = self.samples(*row);
            let pairs = own.iter().zip(beside);
            let ratio = Spread::of(pairs.map(|(own, beside)| own.cpu_us / beside.cpu_us))?;
            Some((*row, [costs(own)?, costs(beside)?, ratio]))
        })
    }

    /// The ratio of each round. `None` if a row was not measured.
    fn ratio(&self, ratio: &Ratio) -> Option<Spread> {
        let pairs = self.samples(ratio.over).iter().zip(self.samples(ratio.under));
        Spread::of(pairs.map(|(over, under)| (ratio.of)(over) / (ratio.of)(under)))
    }

    fn text(&self, markdown: bool) -> String {
        let mut costs = Table::new(&[
            "server CPU for each operation",
            "µs",
            "min..max",
            "operations/s",
            "cores busy",
        ]);
        for (row, samples) in &self.rows {
            let of = |part: fn(&Sample) -> f64| Spread::of(samples.iter().map(part));
            let measured = of(|sample| sample.cpu_us).zip(of(|sample| sample.per_second));
            let Some(((cpu, rate), busy)) = measured.zip(of(|sample| sample.busy)) else {
                continue;
            };
            costs.lines.push(vec![
                row.what(),
                format!("{:.2}", cpu.median),
                format!("{:.2}..{:.2}", cpu.min, cpu.max),
                format!("{:.0}", rate.median),
                format!("{:.2}", busy.median),
            ]);
        }
        let mut ratios = Table::new(&["ratio", "median", "min..max", "wanted"]);
        for ratio in &RATIOS {
            let Some(found) = self.ratio(ratio) else { continue };
            ratios.lines.push(vec![
                ratio.what.to_owned(),
                format!("{:.2}", found.median),
                format!("{:.2}..{:.2}", found.min, found.max),
                ratio.wanted.to_string(),
            ]);
        }
        let mut tables = vec![costs, ratios];
        if !self.beside.is_empty() {
            let mut both =
                Table::new(&["CPU for each operation", "µs", "beside it", "ratio", "min..max"]);
            for (row, [own, beside, ratio]) in self.both() {
                both.lines.push(vec![
                    row.what(),
                    format!("{:.2}", own.median),
                    format!("{:.2}", beside.median),
                    format!("{:.2}", ratio.median),
                    format!("{:.2}..{:.2}", ratio.min, ratio.max),
                ]);
            }
            tables.push(both);
        }
        let as_text = if markdown { Table::markdown } else { Table::plain };
        let tables: Vec<_> = tables.iter().map(as_text).collect();
        let end = if markdown { "." } else { "" };
        format!("{}{end}\n\n{}", self.notes.join("; "), tables.join("\n"))
    }

    fn json(&self) -> String {
        let rows = self.rows.iter().map(|(row, samples)| {
            let cpu_us = Spread::of(samples.iter().map(|sample| sample.cpu_us));
            serde_json::json!({ "row": row.name(), "cpu_us": cpu_us, "rounds": samples })
        });
        let ratios = RATIOS.iter().filter_map(|ratio| {
            let found = self.ratio(ratio)?;
            let Spread { median, min, max } = found;
            Some(serde_json::json!({
                "ratio": ratio.what, "median": median, "min": min, "max": max,
                "wanted": ratio.wanted,
            }))
        });
        let (rows, ratios): (Vec<_>, Vec<_>) = (rows.collect(), ratios.collect());
        let beside = self.both().map(|(row, [own, beside, ratio])| {
            serde_json::json!({
                "row": row.name(), "cpu_us": own, "beside_cpu_us": beside, "ratio": ratio,
            })
        });
        let report = serde_json::json!({
            "notes": self.notes, "rows": rows, "ratios": ratios,
            "beside": beside.collect::<Vec<_>>(),
        });
        format!("{report:#}\n")
    }
}

fn add(rows: &mut Vec<(Row, Vec<Sample>)>, row: Row, sample: Sample) {
    match rows.iter_mut().find(|(known, _)| *known == row) {
        Some((_, samples)) => samples.push(sample),
        None => rows.push((row, vec![sample])),
    }
}
