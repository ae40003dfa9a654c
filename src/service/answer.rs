//! What the four operations answer.

use super::observer::Outcome;
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

impl Answer {
    /// How the operation ended, for the metrics, the log and the traces.
    pub fn outcome(&self) -> Outcome {
        match self {
            Self::Resolve(Lookup::Absent(absence)) | Self::Touch(Lookup::Absent(absence)) => {
                Outcome::Absent(*absence)
            }
            Self::Resolve(Lookup::Live(live)) | Self::Touch(Lookup::Live(live)) => of_live(live),
            Self::Write(live) => of_live(live),
            Self::Destroy(Destroyed { absence, .. }) => {
                absence.map_or(Outcome::Active, Outcome::Absent)
            }
        }
    }
}

fn of_live(live: &Live) -> Outcome {
    if live.is_new { Outcome::Created } else { Outcome::Active }
}
