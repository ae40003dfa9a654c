//! What the larger measurements share.
//!
//! | file | holds |
//! |---|---|
//! | [`machine`] | what it runs on, processes on cores of their own |
//! | [`daemon`] | a daemon to measure, and sessions in it |
//! | [`generator`] | the load on it |
//! | [`engine`] | its rules, for what is measured in this process |
//! | [`numbers`] | medians and how they are printed |

// Each measurement is a crate of its own and uses a part of this.
#![allow(dead_code)]

use std::path::Path;

use tempfile::TempDir;

pub(crate) mod daemon;
pub(crate) mod engine;
pub(crate) mod generator;
pub(crate) mod machine;
pub(crate) mod numbers;

/// What went wrong, in a sentence for whoever typed the command.
pub(crate) type Problem = String;

/// A directory on the disk that the build is on: a temporary one may be in memory.
pub(crate) fn scratch() -> Result<TempDir, Problem> {
    let made = tempfile::tempdir_in(Path::new(env!("CARGO_TARGET_TMPDIR")));
    let made = made.or_else(|_| tempfile::tempdir());
    made.map_err(|error| format!("no directory can be made: {error}"))
}
