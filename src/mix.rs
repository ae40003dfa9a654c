//! The mix of a load: which operations it has, and how many of each.

use std::str::FromStr;

use rand::{RngExt, rngs::SmallRng};
use serde::Serialize;

/// What an operation of the load does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Operation {
    Resolve,
    Touch,
    Write,
    Create,
}

/// The operations, by their names.
pub(crate) const OPERATIONS: [(&str, Operation); 4] = [
    ("resolve", Operation::Resolve),
    ("touch", Operation::Touch),
    ("write", Operation::Write),
    ("create", Operation::Create),
];

/// The relative share of each operation, such as `resolve=9,write=1`.
#[derive(Debug, Clone)]
pub(crate) struct Mix(Vec<(Operation, u32)>);

impl FromStr for Mix {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected = || {
            let names = OPERATIONS.map(|(name, _)| name).join(", ");
            format!("expected shares such as resolve=9,write=1 of {names}")
        };
        let mut shares = Vec::new();
        for item in text.split(',') {
            let (name, share) = item.split_once('=').unwrap_or((item, "1"));
            let known = OPERATIONS.iter().find(|(known, _)| *known == name.trim());
            let share = share.trim().parse::<u32>().ok().filter(|share| (1..=1000).contains(share));
            let ((_, operation), share) = known.zip(share).ok_or_else(expected)?;
            shares.push((*operation, share));
        }
        Ok(Self(shares))
    }
}

impl Mix {
    /// One of the operations, at random, as often as its share says.
    pub(crate) fn pick(&self, random: &mut SmallRng) -> Operation {
        let all = self.0.iter().map(|(_, share)| share).sum();
        let mut at = random.random_range(0..all);
        for (operation, share) in &self.0 {
            if at < *share {
                return *operation;
            }
            at -= share;
        }
        Operation::Resolve
    }
}
