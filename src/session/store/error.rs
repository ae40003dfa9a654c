//! How a store fails.

use std::{error::Error, fmt};

/// Absence is no error: an operation that finds nothing returns `Ok`.
pub type Result<T> = std::result::Result<T, StoreError>;

/// A store failed. The text names the operation. The source is the cause, for the log.
#[derive(Debug)]
pub struct StoreError {
    /// What the caller can do about it.
    pub kind: StoreErrorKind,
    doing: &'static str,
    source: Box<dyn Error + Send + Sync>,
}

/// What a caller can do about a failed store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreErrorKind {
    /// The store may work again later.
    Unavailable,
    /// More operations are waiting than allowed. Nothing was done.
    Overloaded,
    /// There is no room for more. Nothing was done. Records can still be read and
    /// destroyed.
    Full,
    /// The record exists, but cannot be decoded. Trying again does not help.
    Unreadable,
}

impl StoreErrorKind {
    /// For programs that tell the kinds apart.
    pub fn name(self) -> &'static str {
        match self {
            Self::Unavailable => "unavailable",
            Self::Overloaded => "overloaded",
            Self::Full => "full",
            Self::Unreadable => "unreadable",
        }
    }
}

impl StoreError {
    /// The store could not do `doing`, for example `"write a record"`.
    pub fn unavailable(
        doing: &'static str,
        source: impl Into<Box<dyn Error + Send + Sync>>,
    ) -> Self {
        Self { kind: StoreErrorKind::Unavailable, doing, source: source.into() }
    }

    /// Too many operations are waiting already.
    pub fn overloaded(
        doing: &'static str,
        source: impl Into<Box<dyn Error + Send + Sync>>,
    ) -> Self {
        Self { kind: StoreErrorKind::Overloaded, doing, source: source.into() }
    }

    /// There is no room for more.
    pub fn full(doing: &'static str, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self { kind: StoreErrorKind::Full, doing, source: source.into() }
    }

    /// What is stored cannot be decoded.
    pub fn unreadable(
        doing: &'static str,
        source: impl Into<Box<dyn Error + Send + Sync>>,
    ) -> Self {
        Self { kind: StoreErrorKind::Unreadable, doing, source: source.into() }
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let advice = match self.kind {
            StoreErrorKind::Unavailable => "this says nothing about the session; try again",
            StoreErrorKind::Overloaded => "it has too much to do; try again in a moment",
            StoreErrorKind::Full => "there is no room; make some, it goes on by itself",
            StoreErrorKind::Unreadable => "what is stored is damaged; trying again does not help",
        };
        write!(f, "the store could not {}: {advice}", self.doing)
    }
}

impl Error for StoreError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(self.source.as_ref())
    }
}
