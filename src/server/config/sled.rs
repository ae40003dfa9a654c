//! `[store.sled]`: what may be set, and the options that it makes.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{ConfigError, Size, SizeOrNone, Span};
use crate::store::sled::{Durability, OnDamage, SledOptions};

/// `[store.sled]`: the database in the process.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SledConfig {
    /// The data directory, created if it does not exist. One daemon owns it.
    pub path: PathBuf,
    /// Memory for records and pages. The process takes more; `config/sessiond.toml` has the sum.
    pub cache_bytes: Size,
    /// The longest that a buffered change stays in memory.
    pub flush_interval: Span,
    /// Threads that work on the disk.
    pub threads: u32,
    /// Operations that may wait for these threads at a time. More are refused.
    pub max_pending: u32,
    /// With less than this free on the disk, creations and changes are refused.
    pub min_free_bytes: SizeOrNone,
    /// What happens to a database that is damaged beyond repair.
    pub on_damage: OnDamage,
    /// When changes are acknowledged.
    pub durability: DurabilityConfig,
}

impl Default for SledConfig {
    fn default() -> Self {
        Self {
            path: PathBuf::from("data"),
            cache_bytes: Size::mib(64),
            flush_interval: Span(std::time::Duration::from_millis(100)),
            threads: 4,
            max_pending: 4096,
            min_free_bytes: SizeOrNone(Size::mib(64).0),
            on_damage: OnDamage::Refuse,
            durability: DurabilityConfig::default(),
        }
    }
}

/// `[store.sled.durability]`: when a change is acknowledged. Touches are always buffered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DurabilityConfig {
    /// Of creations and changes.
    pub write: Durability,
    /// Of the removal of a session.
    pub destroy: Durability,
    /// Of changes that roll the id.
    pub roll: Durability,
}

impl Default for DurabilityConfig {
    fn default() -> Self {
        Self { write: Durability::Flushed, destroy: Durability::Synced, roll: Durability::Synced }
    }
}

/// Checks the values.
pub(super) fn check(sled: &SledConfig) -> Result<(), ConfigError> {
    let key = |key: &str| format!("store.sled.{key}");
    if sled.path.as_os_str().is_empty() {
        return Err(ConfigError::new(key("path"), "expected a directory, found \"\""));
    }
    for (name, value) in [("max_pending", sled.max_pending), ("threads", sled.threads)] {
        if value == 0 {
            return Err(ConfigError::new(key(name), "expected at least 1, found 0"));
        }
    }
    if sled.threads > 1024 {
        let problem = format!("expected at most 1024, found {}", sled.threads);
        return Err(ConfigError::new(key("threads"), problem));
    }
    Ok(())
}

/// What the store takes.
pub(super) fn options(sled: &SledConfig) -> SledOptions {
    SledOptions {
        path: sled.path.clone(),
        cache_bytes: sled.cache_bytes.0,
        flush_interval: sled.flush_interval.0,
        threads: sled.threads as usize,
        max_pending: sled.max_pending as usize,
        min_free_bytes: sled.min_free_bytes.0,
        on_damage: sled.on_damage,
        write: sled.durability.write,
        destroy: sled.durability.destroy,
        roll: sled.durability.roll,
    }
}
