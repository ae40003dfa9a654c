//! Passwords and certificates, which may change while the daemon runs.

use std::{error::Error, fmt, sync::Arc};

use zeroize::Zeroizing;

use super::failure::Failure;

/// A value, or a way to read it. What can be read is read anew for each connection, so that
/// it can be changed without a restart.
#[derive(Clone)]
pub enum Source<T> {
    /// The value itself.
    Fixed(T),
    /// Reads it. May wait for the disk.
    Read(Arc<dyn Fn() -> Result<T, SourceError> + Send + Sync>),
}

/// Why a value cannot be read. The text is for the log.
pub type SourceError = Box<dyn Error + Send + Sync>;

impl<T> Source<T> {
    /// A value that `read` reads at each connection. It may wait for the disk.
    pub fn read(read: impl Fn() -> Result<T, SourceError> + Send + Sync + 'static) -> Self {
        Self::Read(Arc::new(read))
    }
}

impl<T: Clone + Send + 'static> Source<T> {
    pub(super) async fn get(&self) -> Result<T, Failure> {
        let unread = |why: &dyn fmt::Display| Failure::Unreached(why.to_string());
        match self {
            Self::Fixed(value) => Ok(value.clone()),
            Self::Read(read) => {
                let read = Arc::clone(read);
                let outcome = tokio::task::spawn_blocking(move || read()).await;
                outcome.map_err(|error| unread(&error))?.map_err(|error| unread(&error))
            }
        }
    }
}

impl<T: Default> Default for Source<T> {
    fn default() -> Self {
        Self::Fixed(T::default())
    }
}

impl From<String> for Source<Zeroizing<String>> {
    fn from(text: String) -> Self {
        Self::Fixed(Zeroizing::new(text))
    }
}
