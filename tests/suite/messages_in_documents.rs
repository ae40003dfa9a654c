//! The messages that `docs/operations.md` explains must be in the source.
//!
//! A row of its section "Troubleshooting" quotes a message in its first cell, with `…` for the
//! parts that vary, and names the source file in a comment at the end of the row. The text
//! between the `…` must be in that file.

use std::{collections::BTreeMap, fs, path::Path};

/// A shorter piece, such as ": ", could be anywhere.
const SHORTEST: usize = 12;
const LEAST_MESSAGES: usize = 25;

/// The source files below src, with the strings in them as they are printed.
type Sources = BTreeMap<String, String>;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn insert_all(folder: &Path, sources: &mut Sources) {
    for entry in fs::read_dir(folder).expect("a folder of the source") {
        let path = entry.expect("an entry").path();
        if path.ends_with("src/grpc/generated") {
            // It has no messages of ours, and one of its files is no text.
        } else if path.is_dir() {
            insert_all(&path, sources);
        } else {
            let name = path.strip_prefix(root()).expect("expected a path below the root");
            let text = fs::read_to_string(&path).expect("a source file");
            sources.insert(name.display().to_string(), printed(&text));
        }
    }
}

/// Replaces any white space by one space.
fn spaced(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Joins lines that end in a backslash, and replaces escaped quotation marks by plain ones.
fn printed(source: &str) -> String {
    let mut lines = source.split("\\\n");
    let mut joined = lines.next().unwrap_or_default().to_owned();
    joined.extend(lines.map(str::trim_start));
    spaced(&joined.replace("\\\"", "\""))
}

/// The parts of a message that never vary.
fn pieces(message: &str) -> Vec<String> {
    let pieces = message.split('…').map(|piece| piece.trim_matches([' ', ':', ';', ',', '.']));
    pieces.filter(|piece| piece.chars().count() >= SHORTEST).map(spaced).collect()
}

#[test]
fn every_message_that_is_explained_is_in_the_source() {
    let mut sources = Sources::new();
    insert_all(&root().join("src"), &mut sources);
    let page = fs::read_to_string(root().join("docs/operations.md")).expect("docs/operations.md");
    let (_, section) = page.split_once("\n## Troubleshooting\n").expect("a section of that name");
    let (mut messages, mut problems) = (0, Vec::new());
    for row in section.lines().filter(|line| line.starts_with("| `")) {
        let quoted = row.trim_start_matches("| `").split_once("` | ");
        let comment = row.split_once("<!-- ").and_then(|(_, rest)| rest.split_once(" -->"));
        let (Some((message, _)), Some((file, _))) = (quoted, comment) else {
            panic!("expected a message in backticks, and its file in a comment: {row}");
        };
        let pieces = pieces(message);
        assert!(!pieces.is_empty(), "expected a fixed part in this message: {row}");
        for piece in pieces {
            let found = sources.iter().filter(|(_, text)| text.contains(&piece));
            let files: Vec<_> = found.map(|(file, _)| file).collect();
            if !files.iter().any(|found| *found == file) {
                problems
                    .push(format!("{file} does not contain {piece:?}; these files do: {files:?}"));
            }
        }
        messages += 1;
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
    assert!(
        messages >= LEAST_MESSAGES,
        "expected at least {LEAST_MESSAGES} messages, found {messages}"
    );
}
