//! The log: messages with fields, on standard error.

use tracing_subscriber::{
    Layer, Registry,
    filter::{LevelFilter, Targets},
    fmt,
    layer::SubscriberExt,
    reload,
    util::SubscriberInitExt,
};

use super::config::{LogConfig, LogFormat, LogLevel};
use crate::service::audit;

/// The level of the log of this process, which may be changed while it runs.
#[derive(Clone)]
pub struct Level(reload::Handle<Targets, Registry>);

impl Level {
    /// Less severe lines are left out from now on.
    pub fn set(&self, level: LogLevel) {
        // The log lives as long as the process.
        if let Err(error) = self.0.reload(filter(level)) {
            tracing::error!(%error, "the level of the log cannot be changed");
        }
    }
}

fn filter(level: LogLevel) -> Targets {
    let level = match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    };
    // Libraries log at "warn" at most, because their debug output contains headers and
    // frames: tokens, cookies and session data. rustls and h2 are off: they return every
    // error that they log, and any peer could fill the log with them.
    Targets::new()
        .with_default(level.min(LevelFilter::WARN))
        .with_target("rustls", LevelFilter::OFF)
        .with_target("h2", LevelFilter::OFF)
        .with_target("sessiond", level)
        // Who has called as an operator is always wanted to be known afterwards.
        .with_target(audit::TARGET, level.max(LevelFilter::INFO))
}

/// Starts the log of this process. Call it once.
pub fn start(config: &LogConfig) -> Level {
    let (filter, handle) = reload::Layer::new(filter(config.level));
    let lines = fmt::layer().with_writer(std::io::stderr);
    let lines = match config.format {
        LogFormat::Text => {
            use std::io::IsTerminal;
            lines.with_ansi(std::io::stderr().is_terminal()).with_filter(filter).boxed()
        }
        LogFormat::Json => lines.json().flatten_event(true).with_filter(filter).boxed(),
    };
    // This also receives the messages of the `log` crate. Without them, the end of a
    // thread of sled would go unnoticed.
    tracing_subscriber::registry().with(lines).init();
    Level(handle)
}
