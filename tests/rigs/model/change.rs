//! What a Write changes, and what becomes of the data.

use std::collections::BTreeMap;

use super::{Millis, Rules, TokenNumber};

/// What a Write changes.
#[derive(Debug, Clone, Default)]
pub(crate) struct Change {
    /// If a key occurs twice, the last value counts.
    pub set: Vec<(String, String)>,
    pub unset: Vec<String>,
    pub replace: bool,
    pub if_version: Option<u64>,
    pub roll: bool,
    pub principal: Option<String>,
    pub duration: Option<Millis>,
    pub persistent: Option<bool>,
    pub label: Option<String>,
    /// The number for the token that the change makes, if it makes one.
    pub next_token: TokenNumber,
}

/// The data would be so long.
pub(super) struct TooLarge {
    pub len: usize,
}

impl Change {
    pub(super) fn edited(
        &self,
        before: &BTreeMap<String, String>,
        drop: bool,
        rules: &Rules,
    ) -> Result<BTreeMap<String, String>, TooLarge> {
        let mut data = if self.replace || drop { BTreeMap::new() } else { before.clone() };
        for key in &self.unset {
            data.remove(key);
        }
        for (key, value) in &self.set {
            data.insert(key.clone(), value.clone());
        }
        let len = text_len(&data);
        if len > rules.max_data_bytes && len > text_len(before) {
            return Err(TooLarge { len });
        }
        Ok(data)
    }
}

/// The length of `{"key":value,...}`. The keys of the rigs need no escapes.
fn text_len(data: &BTreeMap<String, String>) -> usize {
    let members: usize = data.iter().map(|(key, value)| key.len() + 3 + value.len()).sum();
    2 + members + data.len().saturating_sub(1)
}
