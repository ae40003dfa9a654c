//! The errors of operations, with messages for the caller.
//!
//! A missing, malformed or expired credential is not an error but an [`Absence`]; see
//! [`engine`](super::engine).
//!
//! [`Absence`]: super::engine::Absence

use super::{data::DataError, store::StoreError};

/// Why an operation failed. The messages hold no token, secret or session data.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the credential names no live session; create one with a Write that has no credential")]
    SessionGone,
    #[error(
        "the session is at version {current}, if_version asked for {asked}; read it again and repeat"
    )]
    VersionMismatch { asked: u64, current: u64 },
    #[error("{0}")]
    InvalidData(#[from] DataError),
    #[error("the data would be {len_bytes} bytes long, the engine takes at most {limit_bytes}")]
    DataTooLarge { len_bytes: usize, limit_bytes: usize },
    #[error(
        "the principal has {max} sessions already, as many as the engine allows; end one of them first"
    )]
    TooManySessions { max: usize },
    #[error("{problem}")]
    InvalidArgument {
        /// The field of the request that is at fault.
        field: &'static str,
        /// What was found and what was expected.
        problem: String,
    },
    #[error("{0}")]
    Store(#[from] StoreError),
}

impl Error {
    pub fn invalid(field: &'static str, problem: impl Into<String>) -> Self {
        Self::InvalidArgument { field, problem: problem.into() }
    }
}

pub type Result<T> = std::result::Result<T, Error>;
