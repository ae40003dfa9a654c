//! The messages that `docs/operations.md` explains are those of the source.
//!
//! A row of its section "Troubleshooting" quotes a message in its first cell, with
//! `…` for what differs each time, and names the file that it comes from in a comment
//! at its end. What stands between these places must be in that file.

use std::{collections::BTreeMap, fs, path::Path};

/// A shorter piece, such as ": ", says nothing.
const SHORTEST: usize = 12;
const LEAST_MESSAGES: usize = 25;

/// The source files below src, and the strings in them as they are printed.
type Sources = BTreeMap<String, String>;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn insert_all(folder: &Path, sources: &mut Sources) {
    for entry in fs::read_dir(folder).expect("a folder of the source") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            insert_all(&path, sources);
        } else {
            let name = path.strip_prefix(root()).expect("it is below the root");
            let text = fs::read_to_string(&path).expect("a source file");
            sources.insert(name.display().to_string(), printed(&text));
        }
    }
}

/// One space for any white space.
fn spaced(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Joined where a line ends in a backslash, and with plain quotation marks.
fn printed(source: &str) -> String {
    let mut lines = source.split("\\\n");
    let mut joined = lines.next().unwrap_or_default().to_owned();
    joined.extend(lines.map(str::trim_start));
    spaced(&joined.replace("\\\"", "\""))
}

/// The pieces of a message that are always the same.
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
        assert!(!pieces.is_empty(), "there is nothing in this message to look for: {row}");
        for piece in pieces {
            let found = sources.iter().filter(|(_, text)| text.contains(&piece));
            let files: Vec<_> = found.map(|(file, _)| file).collect();
            if !files.iter().any(|found| *found == file) {
                problems.push(format!("{file} does not say {piece:?}; these do: {files:?}"));
            }
        }
        messages += 1;
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
    assert!(messages >= LEAST_MESSAGES, "{messages} messages are explained");
}
