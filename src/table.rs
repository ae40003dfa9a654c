//! Text in columns, and values as people read them.

use std::time::{Duration, SystemTime};

use prost_types::Timestamp;

/// Columns that are as wide as they must be, two spaces apart. The last one is not padded.
pub(crate) fn columns<const N: usize>(rows: &[[String; N]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
    let widths: Vec<_> = (0..N).map(|column| width(column).unwrap_or(0)).collect();
    let mut text = String::new();
    for row in rows {
        let cells = row.iter().zip(&widths).map(|(cell, &width)| format!("{cell:<width$}"));
        text += cells.collect::<Vec<_>>().join("  ").trim_end();
        text.push('\n');
    }
    text
}

/// A time as RFC 3339 writes it, to seconds; empty if there is none.
pub(crate) fn time(time: Option<&Timestamp>) -> String {
    system_time(time)
        .map_or_else(String::new, |time| humantime::format_rfc3339_seconds(time).to_string())
}

pub(crate) fn system_time(time: Option<&Timestamp>) -> Option<SystemTime> {
    // What is out of range has no text.
    let last = SystemTime::UNIX_EPOCH + Duration::from_secs(253_402_300_799);
    time.and_then(|time| SystemTime::try_from(*time).ok()).filter(|time| *time <= last)
}

/// The time from one to the other, in its two largest units: `3days 4h`.
pub(crate) fn span(from: Option<&Timestamp>, to: Option<&Timestamp>) -> String {
    let elapsed = system_time(from).zip(system_time(to));
    let elapsed = elapsed.and_then(|(from, to)| to.duration_since(from).ok());
    elapsed.map_or_else(|| "unknown".to_owned(), rough)
}

/// A duration in its two largest units, to seconds.
pub(crate) fn rough(duration: Duration) -> String {
    let whole = sessiond::server::config::Span(Duration::from_secs(duration.as_secs())).to_string();
    whole.split(' ').take(2).collect::<Vec<_>>().join(" ")
}

/// Bytes as people read them: `1.5 MiB`.
pub(crate) fn bytes(count: f64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let (mut count, mut at) = (count, 0);
    while count >= 1024.0 && at + 1 < units.len() {
        (count, at) = (count / 1024.0, at + 1);
    }
    if at == 0 { format!("{count:.0} B") } else { format!("{count:.1} {}", units[at]) }
}

/// A text of a user, who may not write to the terminal of an operator.
pub(crate) fn printable(text: &[u8]) -> String {
    let safe = |c: char| if c.is_control() || is_format(c) { '\u{fffd}' } else { c };
    String::from_utf8_lossy(text).chars().map(safe).collect()
}

/// Characters that change the direction or the look of what follows.
fn is_format(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned() {
        let rows = [["a", "bb", "c"], ["aaa", "b", ""]].map(|row| row.map(str::to_owned));
        assert_eq!(columns(&rows), "a    bb  c\naaa  b\n");
    }

    #[test]
    fn values_are_short() {
        assert_eq!(rough(Duration::from_secs(90_061)), "1day 1h");
        assert_eq!(rough(Duration::from_millis(1500)), "1s");
        assert_eq!(rough(Duration::ZERO), "0s");
        assert_eq!(bytes(0.0), "0 B");
        assert_eq!(bytes(1536.0), "1.5 KiB");
        assert_eq!(bytes(3.0 * 1024.0 * 1024.0 * 1024.0), "3.0 GiB");
    }

    #[test]
    fn a_label_cannot_write_to_the_terminal() {
        assert_eq!(printable(b"a\x1b[2Jb\n\xe2\x80\xaec"), "a\u{fffd}[2Jb\u{fffd}\u{fffd}c");
        assert_eq!(printable("Firefox é".as_bytes()), "Firefox é");
    }
}
