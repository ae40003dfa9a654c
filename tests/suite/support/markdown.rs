//! Parses the Markdown that the documents use: fenced blocks, inline links, and headings that
//! begin with `#`.

use std::{
    collections::{BTreeSet, HashMap},
    fs,
    path::Path,
};

/// A Markdown file.
pub(crate) struct Document {
    /// Its path in the repository.
    pub name: String,
    /// The lines outside blocks, with their numbers.
    pub prose: Vec<(usize, String)>,
    pub blocks: Vec<Block>,
}

/// A fenced block.
pub(crate) struct Block {
    /// The number of its first line.
    pub line: usize,
    pub info: String,
    pub text: String,
}

impl Document {
    pub(crate) fn read(name: &str) -> Self {
        let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name))
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        let (mut prose, mut blocks) = (Vec::new(), Vec::<Block>::new());
        let mut is_open = false;
        for (number, line) in (1..).zip(text.lines()) {
            if let Some(info) = line.trim_start().strip_prefix("```") {
                if !is_open {
                    let info = info.trim().to_owned();
                    blocks.push(Block { line: number, info, text: String::new() });
                }
                is_open = !is_open;
            } else if let Some(block) = blocks.last_mut().filter(|_| is_open) {
                block.text += line;
                block.text.push('\n');
            } else {
                prose.push((number, line.to_owned()));
            }
        }
        assert!(!is_open, "{name}: the last block has no end");
        Self { name: name.to_owned(), prose, blocks }
    }

    /// The blocks with exactly this info string.
    pub(crate) fn blocks(&self, info: &str) -> impl Iterator<Item = &Block> {
        self.blocks.iter().filter(move |block| block.info == info)
    }

    /// The targets of links with their line numbers. A link in code is not a link.
    pub(crate) fn links(&self) -> Vec<(usize, String)> {
        let mut links = Vec::new();
        let mut in_code = false;
        for (number, line) in &self.prose {
            // Code may continue in the next line, but not in the next paragraph.
            in_code &= !line.trim().is_empty();
            let mut text = String::new();
            for (at, piece) in line.split('`').enumerate() {
                in_code ^= at > 0;
                if !in_code {
                    text += piece;
                }
            }
            for link in text.split("](").skip(1) {
                let target = link.split([')', ' ']).next().unwrap_or_default();
                links.push((*number, target.to_owned()));
            }
        }
        links
    }

    /// The anchors of the headings.
    pub(crate) fn anchors(&self) -> BTreeSet<String> {
        let mut anchors = BTreeSet::new();
        let mut seen = HashMap::<String, usize>::new();
        for (_, line) in &self.prose {
            let text = line.trim_start_matches('#');
            if (1..=6).contains(&(line.len() - text.len())) && text.starts_with(' ') {
                let anchor = anchor(text);
                let before = seen.entry(anchor.clone()).or_default();
                anchors.insert(match *before {
                    0 => anchor,
                    _ => format!("{anchor}-{before}"),
                });
                *before += 1;
            }
        }
        anchors
    }
}

/// The anchor that GitHub makes for the first heading with this text.
fn anchor(heading: &str) -> String {
    // For a link, only its text counts.
    let mut pieces = heading.split("](");
    let mut text = pieces.next().unwrap_or_default().to_owned();
    text.extend(pieces.filter_map(|piece| piece.split_once(')')).map(|(_, after)| after));
    let kept = |c: &char| c.is_alphanumeric() || [' ', '-', '_'].contains(c);
    text.trim().to_lowercase().chars().filter(kept).collect::<String>().replace(' ', "-")
}
