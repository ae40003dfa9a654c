//! How long the rigs run, and with which seed.

use std::{
    hash::{BuildHasher, RandomState},
    sync::LazyLock,
};

/// One seed for all rigs of a run. It is short, because people type it.
static FRESH_SEED: LazyLock<u64> =
    LazyLock::new(|| RandomState::new().hash_one("a seed") % 1_000_000);

/// How much a rig does.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Form {
    /// Seconds: part of every test run.
    Short,
    /// Minutes: `SESSIOND_RIG=ci`.
    Ci,
    /// Hours: `SESSIOND_RIG=long`.
    Long,
}

impl Form {
    pub(crate) fn of_environment() -> Self {
        match std::env::var("SESSIOND_RIG").as_deref() {
            Err(_) | Ok("" | "short") => Self::Short,
            Ok("ci") => Self::Ci,
            Ok("long") => Self::Long,
            Ok(other) => panic!("SESSIOND_RIG is {other:?}, expected short, ci or long"),
        }
    }

    pub(crate) fn pick<T>(self, short: T, ci: T, long: T) -> T {
        match self {
            Self::Short => short,
            Self::Ci => ci,
            Self::Long => long,
        }
    }

    /// `SESSIOND_RIG_SEED` if it is set. Otherwise a short run has a fixed seed, so that an
    /// ordinary `cargo test` always gives the same result, and longer runs have a new one.
    pub(crate) fn seed(self) -> u64 {
        match std::env::var("SESSIOND_RIG_SEED") {
            Ok(seed) => seed.parse().expect("SESSIOND_RIG_SEED is a whole number"),
            Err(_) => self.pick(1, *FRESH_SEED, *FRESH_SEED),
        }
    }
}
