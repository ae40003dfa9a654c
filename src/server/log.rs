//! The log: sentences and fields, on standard error.

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
    // The libraries stay at "warn" at the most, because what they trace are
    // headers and frames: tokens, cookies and session data. What rustls says it also
    // returns; here each peer could fill the log with it.
    let filter = Targets::new()
        .with_default(level.min(LevelFilter::WARN))
        .with_target("rustls", LevelFilter::OFF)
        .with_target("sessiond", level);
    let lines = fmt::layer().with_writer(std::io::stderr);
    let lines = match config.format {
        LogFormat::Text => {
            use std::io::IsTerminal;
            lines.with_ansi(std::io::stderr().is_terminal()).with_filter(filter).boxed()
        }
        LogFormat::Json => lines.json().flatten_event(true).with_filter(filter).boxed(),
    };
    // Takes what the libraries give to `log` along: of a thread of sled's that ends
    // nobody would learn otherwise.
    tracing_subscriber::registry().with(lines).init();
}
