//! What the rigs have in common.

#[path = "../../suite/support/browser.rs"]
#[allow(dead_code, reason = "the suite uses more of it")]
pub mod browser;
pub mod disk;
pub mod oplog;
pub mod random;
pub mod story;
pub mod victim;

/// How long a rig may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    Short,
    Ci,
    Long,
}

impl Form {
    pub fn of_environment() -> Self {
        match std::env::var("SESSIOND_RIG").as_deref() {
            Err(_) | Ok("") => Self::Short,
            Ok("ci") => Self::Ci,
            Ok("long") => Self::Long,
            Ok(other) => panic!("SESSIOND_RIG is {other:?}; it can be ci or long"),
        }
    }

    /// What this form chooses.
    pub fn of<T>(self, short: T, ci: T, long: T) -> T {
        match self {
            Self::Short => short,
            Self::Ci => ci,
            Self::Long => long,
        }
    }
}
