//! How long the rigs run, and from which seed.

use std::env;

/// How long a run is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Seconds: part of every test run.
    Short,
    /// Minutes: `SESSIOND_RIG=ci`.
    Ci,
    /// Hours: `SESSIOND_RIG=long`.
    Long,
}

impl Form {
    /// The one that the environment asks for.
    pub fn asked() -> Self {
        match env::var("SESSIOND_RIG").as_deref() {
            Err(_) | Ok("") | Ok("short") => Self::Short,
            Ok("ci") => Self::Ci,
            Ok("long") => Self::Long,
            Ok(other) => panic!("SESSIOND_RIG: expected short, ci or long, found {other:?}"),
        }
    }

    pub fn pick<T>(self, short: T, ci: T, long: T) -> T {
        match self {
            Self::Short => short,
            Self::Ci => ci,
            Self::Long => long,
        }
    }
}

/// `SESSIOND_RIG_SEED`, or a fresh one.
pub fn seed() -> u64 {
    match env::var("SESSIOND_RIG_SEED") {
        Err(_) => rand::random(),
        Ok(text) => text.parse().expect("SESSIOND_RIG_SEED: expected a number"),
    }
}
