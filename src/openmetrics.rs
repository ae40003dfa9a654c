//! Reads the text format of OpenMetrics, as a daemon writes it.

use std::collections::BTreeMap;

/// The samples of a page.
#[derive(Debug, Clone, Default)]
pub(crate) struct Page {
    samples: Vec<Sample>,
}

/// A line of a page.
#[derive(Debug, Clone, PartialEq)]
struct Sample {
    name: String,
    labels: BTreeMap<String, String>,
    value: f64,
}

impl Page {
    /// Lines that have another form are left out.
    pub(crate) fn parse(text: &str) -> Self {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        Self { samples: lines.filter_map(sample).collect() }
    }

    /// The sum of the samples with this name and these labels, whatever others they have.
    /// `None`: there is none.
    pub(crate) fn sum(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let mut found = self.samples(name, labels).map(|sample| sample.value).peekable();
        found.peek().is_some().then(|| found.sum())
    }

    /// The sums of the samples with this name and these labels, by the value of another label.
    pub(crate) fn by(
        &self,
        name: &str,
        labels: &[(&str, &str)],
        label: &str,
    ) -> BTreeMap<String, f64> {
        let mut sums = BTreeMap::new();
        for sample in self.samples(name, labels) {
            if let Some(value) = sample.labels.get(label) {
                *sums.entry(value.clone()).or_default() += sample.value;
            }
        }
        sums
    }

    /// The cumulative counts of a histogram, by their upper bounds in the order of these.
    pub(crate) fn buckets(&self, name: &str, labels: &[(&str, &str)]) -> Vec<(f64, f64)> {
        let counts = self.by(&format!("{name}_bucket"), labels, "le");
        let bound = |text: &str| match text {
            "+Inf" => Some(f64::INFINITY),
            text => text.parse().ok(),
        };
        let mut buckets: Vec<_> =
            counts.iter().filter_map(|(le, count)| Some((bound(le)?, *count))).collect();
        buckets.sort_by(|one, other| one.0.total_cmp(&other.0));
        buckets
    }

    /// All samples, as a list of objects with name, labels and value.
    pub(crate) fn to_json(&self) -> serde_json::Value {
        self.samples
            .iter()
            .map(|Sample { name, labels, value }| {
                serde_json::json!({ "name": name, "labels": labels, "value": value })
            })
            .collect()
    }

    fn samples<'p>(
        &'p self,
        name: &'p str,
        labels: &'p [(&str, &str)],
    ) -> impl Iterator<Item = &'p Sample> {
        self.samples.iter().filter(move |sample| {
            let has = |(label, value): &(&str, &str)| {
                sample.labels.get(*label).is_some_and(|found| found == value)
            };
            sample.name == name && labels.iter().all(has)
        })
    }
}

fn sample(line: &str) -> Option<Sample> {
    let at = line.find(['{', ' '])?;
    let (name, mut rest) = line.split_at(at);
    let mut labels = BTreeMap::new();
    if let Some(mut inside) = rest.strip_prefix('{') {
        while !inside.starts_with('}') {
            let (label, value) = inside.trim_start_matches(',').split_once("=\"")?;
            let (value, after) = quoted(value)?;
            labels.insert(label.to_owned(), value);
            inside = after;
        }
        rest = &inside[1..];
    }
    let value = rest.split_whitespace().next()?.parse().ok()?;
    Some(Sample { name: name.to_owned(), labels, value })
}

/// The text up to a quotation mark, and what follows.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => match chars.next()?.1 {
                'n' => value.push('\n'),
                other => value.push(other),
            },
            other => value.push(other),
        }
    }
    None
}

/// A quantile of what came between two looks at a histogram, as PromQL's `histogram_quantile`
/// finds it: linear within a bucket. `None`: nothing came.
pub(crate) fn quantile(quantile: f64, before: &[(f64, f64)], now: &[(f64, f64)]) -> Option<f64> {
    let earlier =
        |bound: f64| before.iter().find(|(it, _)| *it == bound).map_or(0.0, |(_, count)| *count);
    let counts: Vec<_> =
        now.iter().map(|(bound, count)| (*bound, count - earlier(*bound))).collect();
    let all = counts.last().map(|(_, count)| *count).filter(|count| *count > 0.0)?;
    let rank = quantile * all;
    let (mut lower, mut below) = (0.0, 0.0);
    for (bound, count) in counts {
        if count >= rank {
            // Above the last bound nothing is known.
            return Some(match bound.is_finite() && count > below {
                true => lower + (bound - lower) * (rank - below) / (count - below),
                false => lower,
            });
        }
        (lower, below) = (bound, count);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "# HELP x_requests Operations.\n# TYPE x_requests counter\n\
        x_requests_total{rpc=\"Write\",state=\"CREATED\"} 2\n\
        x_requests_total{rpc=\"Write\",state=\"ACTIVE\"} 3\n\
        x_requests_total{rpc=\"Resolve\",state=\"ACTIVE\"} 5\n\
        x_plain 1.5\nx_odd{a=\"q\\\"\\\\\\n,}\"} 7\n\
        junk\nx_broken{a=\"\n\
        x_time_bucket{le=\"0.1\"} 1\nx_time_bucket{le=\"1.0\"} 3\nx_time_bucket{le=\"+Inf\"} 4\n\
        # EOF\n";

    #[test]
    fn samples_are_found_by_name_and_labels() {
        let page = Page::parse(PAGE);
        assert_eq!(page.sum("x_requests_total", &[]), Some(10.0));
        assert_eq!(page.sum("x_requests_total", &[("rpc", "Write")]), Some(5.0));
        assert_eq!(page.sum("x_requests_total", &[("rpc", "Destroy")]), None);
        assert_eq!(page.sum("x_plain", &[]), Some(1.5));
        assert_eq!(page.sum("x_odd", &[("a", "q\"\\\n,}")]), Some(7.0));
        assert_eq!(page.sum("x_broken", &[]), None);
        let states = page.by("x_requests_total", &[], "state");
        assert_eq!(states, [("ACTIVE".to_owned(), 8.0), ("CREATED".to_owned(), 2.0)].into());
    }

    #[test]
    fn a_quantile_is_of_what_came_in_between() {
        let now = Page::parse(PAGE).buckets("x_time", &[]);
        assert_eq!(now, [(0.1, 1.0), (1.0, 3.0), (f64::INFINITY, 4.0)]);
        assert_eq!(quantile(0.25, &[], &now), Some(0.1));
        let is_near = |found: Option<f64>| found.is_some_and(|it| (it - 0.55).abs() < 1e-9);
        assert!(is_near(quantile(0.5, &[], &now)));
        assert_eq!(quantile(0.99, &[], &now), Some(1.0), "above the last bound nothing is known");
        let before = [(0.1, 1.0), (1.0, 1.0), (f64::INFINITY, 1.0)];
        assert!(is_near(quantile(1.0 / 3.0, &before, &now)));
        assert_eq!(quantile(0.5, &now, &now), None);
        assert_eq!(quantile(0.5, &[], &[]), None);
    }
}
