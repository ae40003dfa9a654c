//! What the fuzz targets do with an input. Each panics when a property fails.
//!
//! Apart from libFuzzer, so that `tests/rigs/corpora.rs` can replay the corpora
//! in the ordinary test run.
//!
//! | target | input | property |
//! |---|---|---|
//! | [`cookie`] | a Cookie header | bounded candidates; only ids that were signed are proven |
//! | [`token`] | a cookie-value | verifies exactly if it is one that was signed |
//! | [`record`] | stored bytes | what decodes encodes to the same bytes |
//! | [`data`] | two JSON texts and keys | parse and merge agree with serde_json |
//! | [`pipeline`] | a script of requests | one answer for each request, in a valid order |

pub(super) mod cookie;
pub(super) mod data;
pub(super) mod pipeline;
pub(super) mod record;
pub(super) mod token;

/// Takes any input; panics when its property fails.
pub(super) type Target = fn(&[u8]);

/// The targets by name, which is also that of their corpus.
pub(super) const TARGETS: [(&str, Target); 5] = [
    ("cookie", cookie::run),
    ("token", token::run),
    ("record", record::run),
    ("data", data::run),
    ("pipeline", pipeline::run),
];
