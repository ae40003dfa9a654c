//! A reload: the daemon takes over what has changed in its configuration and in the files that
//! this names.

use async_trait::async_trait;

/// Why a reload is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trigger {
    /// The process got SIGHUP.
    Signal,
    /// An operator has called.
    Call,
    /// A file that is watched has changed.
    Watch,
}

impl Trigger {
    /// As the log names it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Signal => "SIGHUP",
            Self::Call => "call",
            Self::Watch => "watch",
        }
    }
}

/// What a reload did.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Reloaded {
    /// What is in force since, a few words each. Empty: nothing has changed.
    pub changed: Vec<String>,
    /// Keys with other values than at the start, which only a restart takes over.
    pub restart_keys: Vec<String>,
}

/// The reload was refused, and what was in force stays. The text says what is wrong. It holds no
/// secret.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the reload is refused, and what was in force stays: {0}")]
pub struct Refused(pub String);

/// Reloads the daemon.
#[async_trait]
pub trait Reload: Send + Sync + 'static {
    /// Returns when all of it is in force.
    async fn reload(&self, trigger: Trigger) -> Result<Reloaded, Refused>;
}
