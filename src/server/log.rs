//! The log: messages with fields, on standard error.

use tracing_subscriber::{
    Layer,
    filter::{LevelFilter, Targets},
    fmt,
    layer::SubscriberExt,
    util::SubscriberInitExt,
};

use super::config::{LogConfig, LogFormat, LogLevel};

/// Starts the log of this process. Call it once.
pub fn start(config: &LogConfig) {
    let level = match config.level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    };
    // Libraries log at "warn" at most, because their debug output contains headers and
    // frames: tokens, cookies and session data. rustls and h2 are off: they return every
    // error that they log, and any peer could fill the log with them.
    let filter = Targets::new()
        .with_default(level.min(LevelFilter::WARN))
        .with_target("rustls", LevelFilter::OFF)
        .with_target("h2", LevelFilter::OFF)
        .with_target("sessiond", level);
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
}
