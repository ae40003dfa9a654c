//! What the larger benchmarks share.
//!
//! | file | holds |
//! |---|---|
//! | [`machine`] | the machine, and processes with cores of their own |
//! | [`daemon`] | a daemon to measure, with sessions |
//! | [`generator`] | the load |
//! | [`engine`] | the default rules, for what is measured within the process |
//! | [`numbers`] | medians and how they are printed |

// Each benchmark is a crate of its own and uses a part of this module.
#![allow(dead_code)]

use std::path::Path;

use tempfile::TempDir;

pub(crate) mod daemon;
pub(crate) mod engine;
pub(crate) mod generator;
pub(crate) mod machine;
pub(crate) mod numbers;

/// An error, as a sentence for the person who ran the command.
pub(crate) type Problem = String;

/// A directory on the disk of the build, because the temporary directory may be in memory.
pub(crate) fn scratch() -> Result<TempDir, Problem> {
    let made = tempfile::tempdir_in(Path::new(env!("CARGO_TARGET_TMPDIR")));
    let made = made.or_else(|_| tempfile::tempdir());
    made.map_err(|error| format!("cannot make a directory: {error}"))
}
