//! The properties that the fuzz targets check. Each target panics if a property fails.
//!
//! They are separate from libFuzzer, so that `tests/rigs/corpora.rs` can replay the corpora in
//! an ordinary test run.
//!
//! | target | input | property |
//! |---|---|---|
//! | [`cookie`] | a Cookie header | bounded candidates; only ids that were signed are proven |
//! | [`token`] | a cookie-value | it verifies exactly if it was signed |
//! | [`record`] | stored bytes | a record that decodes is equal after encoding and decoding again |
//! | [`data`] | two JSON texts and keys | parse and merge agree with serde_json |
//! | [`pipeline`] | a script of requests | one answer for each request, in a valid order |

// The rigs include this file as a module, where nothing outside can reach it.
#![allow(unreachable_pub)]

pub mod cookie;
pub mod data;
pub mod pipeline;
pub mod record;
pub mod token;

/// Accepts any input. Panics if its property fails.
pub type Target = fn(&[u8]);

/// The targets by name. The corpus of a target has the same name.
pub const TARGETS: [(&str, Target); 5] = [
    ("cookie", cookie::run),
    ("token", token::run),
    ("record", record::run),
    ("data", data::run),
    ("pipeline", pipeline::run),
];
