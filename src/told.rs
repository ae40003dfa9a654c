//! What `serve` says outside of its log, and the line of the log about a start.

use std::time::{Duration, SystemTime};

use serde_json::json;
use sessiond::server::{
    Addresses, Server,
    config::{Backend, Config, ListenAddr, LogFormat},
    system::wall_time,
};

use crate::cli::ConfigArgs;

/// The line on standard output when the daemon is ready. As text a `key=address[,address]` for
/// each kind of listener.
pub(crate) fn ready(format: LogFormat, addresses: &Addresses) -> String {
    let texts = |list: &[ListenAddr]| list.iter().map(ToString::to_string).collect::<Vec<_>>();
    let listeners = [
        ("grpc", texts(&addresses.grpc)),
        ("admin", texts(&addresses.admin)),
        ("metrics", texts(addresses.metrics.as_slice())),
    ];
    let version = env!("CARGO_PKG_VERSION");
    match format {
        LogFormat::Text => {
            let given = listeners.iter().filter(|(_, list)| !list.is_empty());
            let given: String =
                given.map(|(name, list)| format!(" {name}={}", list.join(","))).collect();
            format!("sessiond {version} ready:{given}\n")
        }
        LogFormat::Json => {
            let mut line = line("INFO", "ready");
            line["version"] = version.into();
            for (name, list) in listeners {
                line[name] = list.into();
            }
            format!("{line}\n")
        }
    }
}

/// A line on standard error about why a command has failed. The log may not have begun.
pub(crate) fn failure(format: LogFormat, problem: &str) -> String {
    match format {
        LogFormat::Text => format!("sessiond: {problem}"),
        LogFormat::Json => line("ERROR", problem).to_string(),
    }
}

/// With the keys of a line of the log.
fn line(level: &str, message: &str) -> serde_json::Value {
    let time = SystemTime::UNIX_EPOCH + Duration::from_millis(wall_time().unix_millis());
    let time = humantime::format_rfc3339_millis(time).to_string();
    json!({"timestamp": time, "level": level, "message": message, "target": "sessiond"})
}

/// Logs what has been started, in one line.
pub(crate) fn log_start(arguments: &ConfigArgs, config: &Config, server: &Server) {
    let file = arguments.file().map_or("none".to_owned(), |file| file.display().to_string());
    let engines: Vec<_> = config.engine.keys().map(String::as_str).collect();
    let store = &config.store;
    let place = match store.backend {
        Backend::Sled => {
            let path = std::path::absolute(&store.sled.path);
            path.unwrap_or_else(|_| store.sled.path.clone()).display().to_string()
        }
        Backend::Redis => store.redis.url.to_string(),
        Backend::Memory => "none".to_owned(),
    };
    let tls = &config.listen.tls;
    let tls =
        match (tls.cert_file.as_os_str().is_empty(), tls.client_ca_file.as_os_str().is_empty()) {
            (true, _) => "off",
            (false, true) => "on",
            (false, false) => "on, with certificates of clients",
        };
    // A store that several daemons share does not count.
    let sessions = server.sessions().map_or("unknown".to_owned(), |count| count.to_string());
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        configuration = file,
        engines = engines.join(","),
        store = store.backend.kind().name,
        path = place,
        tls,
        sessions,
        "started"
    );
}
