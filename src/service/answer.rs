//! What the four operations answer.

use crate::session::{Live, Lookup, engine::Destroyed};

/// What an operation answers.
#[derive(Debug)]
pub enum Answer {
    /// The state, and the session with its data if there is one.
    Resolve(Lookup),
    /// The session's data is no part of the answer.
    Touch(Lookup),
    /// The session's data is no part of the answer.
    Write(Live),
    /// Says how many sessions were ended, and whether the browser must drop its cookie.
    Destroy(Destroyed),
}
