//! What the four operations answer.

use crate::session::{Live, Lookup, engine::Destroyed};

/// What an operation answers.
#[derive(Debug)]
pub enum Answer {
    Resolve(Lookup),
    /// The session's data is no part of the answer.
    Touch(Lookup),
    /// The session's data is no part of the answer.
    Write(Live),
    Destroy(Destroyed),
}
