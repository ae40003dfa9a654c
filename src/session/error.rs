//! The errors of operations, with messages for the caller.
//!
//! A missing, malformed or expired credential is not an error but an [`Absence`]; see
//! [`engine`](super::engine).
//!
//! [`Absence`]: super::engine::Absence

use super::{
    data::DataError,
    store::{StoreError, StoreErrorKind},
};

/// Why an operation failed. The messages hold no token, secret or session data.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The credential of a Write is not live. Nothing was changed.
    #[error("the credential names no live session; create one with a Write that has no credential")]
    SessionGone,
    /// Another Write came first. Nothing was changed.
    #[error(
        "the session is at version {current}, if_version asked for {asked}; read it again and repeat"
    )]
    VersionMismatch {
        /// The `if_version` of the Write.
        asked: u64,
        /// The version that is stored.
        current: u64,
    },
    /// Nothing was changed.
    #[error("{0}")]
    InvalidData(#[from] DataError),
    /// The change would make the data larger than the engine allows. Nothing was changed.
    #[error("the data would be {len_bytes} bytes long, the engine takes at most {limit_bytes}")]
    DataTooLarge {
        /// Of the JSON text after the change.
        len_bytes: usize,
        /// The engine's `max_data_bytes`.
        limit_bytes: usize,
    },
    /// The engine refuses another session of the principal. Nothing was changed.
    #[error(
        "the principal has {max} sessions already, as many as the engine allows; end one of them first"
    )]
    TooManySessions {
        /// The engine's `max_sessions_per_principal`.
        max: usize,
    },
    /// A field has a value that is not allowed. Nothing was changed.
    #[error("{problem}")]
    InvalidArgument {
        /// The field of the request that is at fault.
        field: &'static str,
        /// What was found and what was expected.
        problem: String,
    },
    /// The store failed. The operation may have taken effect.
    #[error("{0}")]
    Store(#[from] StoreError),
}

impl Error {
    /// `problem` says what was found and what was expected. It must quote no secret.
    pub fn invalid(field: &'static str, problem: impl Into<String>) -> Self {
        Self::InvalidArgument { field, problem: problem.into() }
    }

    /// Whether a stored record cannot be read.
    pub(super) fn is_unreadable(&self) -> bool {
        matches!(self, Self::Store(error) if error.kind == StoreErrorKind::Unreadable)
    }
}

/// A credential without a live session is no error but an `Absence`.
pub type Result<T> = std::result::Result<T, Error>;
