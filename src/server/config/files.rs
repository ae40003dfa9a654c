//! The files that a configuration names: secrets, tokens, passwords.

use std::{fs, path::Path};

use zeroize::Zeroizing;

use super::ConfigError;

/// The text of a file. `None`: no file is named.
pub(super) fn read(key: &str, path: &Path) -> Result<Option<Zeroizing<String>>, ConfigError> {
    if path.as_os_str().is_empty() {
        return Ok(None);
    }
    // The path is not repeated: it may be a secret, put here by mistake.
    let text = fs::read_to_string(path)
        .map_err(|error| ConfigError::new(key, format!("the file cannot be read: {error}")))?;
    Ok(Some(Zeroizing::new(text)))
}

/// The lines that say something, without the white space round them.
pub(super) fn lines(text: &str) -> impl Iterator<Item = &str> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    text.lines().map(str::trim).filter(|line| !line.is_empty())
}
