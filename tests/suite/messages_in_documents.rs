//! The messages that `docs/operations.md` explains are those of the source.
//!
//! A row of its section "Troubleshooting" quotes a message in its first cell, with
//! `…` for what differs each time, and names the file that it comes from in a comment
//! at its end. What stands between these places must be in that file.

use std::{fs, path::Path};

/// A shorter piece, such as ": ", says nothing.
const SHORTEST: usize = 12;
const LEAST_MESSAGES: usize = 25;

fn text(file: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{file} cannot be read: {error}"))
}

/// One space for any white space.
fn spaced(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The strings of a source file as they are printed: joined where a line ends in a
/// backslash, and with plain quotation marks.
fn printed(source: &str) -> String {
    let joined: String = source
        .split("\\\n")
        .enumerate()
        .map(|(number, part)| if number == 0 { part } else { part.trim_start() })
        .collect();
    spaced(&joined.replace("\\\"", "\""))
}

/// The pieces of a message that are always the same.
fn pieces(message: &str) -> impl Iterator<Item = &str> {
    let pieces = message.split('…').map(|piece| piece.trim_matches([' ', ':', ';', ',', '.']));
    pieces.filter(|piece| piece.chars().count() >= SHORTEST)
}

#[test]
fn every_message_in_the_documents_is_in_the_source() {
    let page = text("docs/operations.md");
    let (_, section) = page.split_once("\n## Troubleshooting\n").expect("a section of that name");
    let rows = section.lines().filter(|line| line.starts_with("| `"));
    let mut messages = 0;
    for row in rows {
        let quoted = row.trim_start_matches("| `").split_once("` | ");
        let comment = row.split_once("<!-- ").and_then(|(_, rest)| rest.split_once(" -->"));
        let (Some((message, _)), Some((file, _))) = (quoted, comment) else {
            panic!("expected a message in backticks, and its file in a comment: {row}");
        };
        assert!(file.starts_with("src/"), "expected a file below src: {row}");
        let source = printed(&text(file));
        let mut found = 0;
        for piece in pieces(message) {
            assert!(source.contains(&spaced(piece)), "{file} does not say {piece:?}: {row}");
            found += 1;
        }
        assert!(found > 0, "there is nothing in this message to look for: {row}");
        messages += 1;
    }
    assert!(messages >= LEAST_MESSAGES, "{messages} messages are explained");
}
