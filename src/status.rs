//! `sessiond status`: how a running daemon is.

use serde::Serialize;
use serde_json::{Map, Value, json};
use sessiond::grpc::pb::{DaemonState, GetStatusResponse};

use crate::{
    openmetrics::Page,
    table::{bytes, columns, span, time},
};

/// The word for a state.
pub(crate) fn word(state: DaemonState) -> &'static str {
    match state {
        DaemonState::Unspecified => "unknown",
        DaemonState::Serving => "serving",
        DaemonState::Reading => "reading only",
        DaemonState::NotServing => "not serving",
        DaemonState::Stopping => "stopping",
    }
}

/// The lines for people.
pub(crate) fn text(status: &GetStatusResponse) -> String {
    let page = Page::parse(&status.metrics);
    let number = |name: &str| page.sum(name, &[]).unwrap_or_default();
    let state = match status.reason.as_str() {
        "" => word(status.state()).to_owned(),
        reason => format!("{}: {reason}", word(status.state())),
    };
    let up = span(status.start_time.as_ref(), status.status_time.as_ref());
    let started = time(status.start_time.as_ref());
    let mut rows = vec![
        ["sessiond".to_owned(), status.version.clone()],
        ["state".to_owned(), state],
        ["up".to_owned(), format!("{up}, since {started}")],
        ["store".to_owned(), status.store.clone()],
    ];
    for kind in ["grpc", "admin", "metrics"] {
        let found = status.listeners.iter().filter(|listener| listener.kind == kind);
        let addresses: Vec<_> = found.map(|listener| listener.address.as_str()).collect();
        let addresses = if addresses.is_empty() { "off".to_owned() } else { addresses.join(", ") };
        rows.push([kind.to_owned(), addresses]);
    }
    rows.push(["connections".to_owned(), number("sessiond_connections").to_string()]);
    rows.push(["watchers".to_owned(), number("sessiond_watchers").to_string()]);
    rows.push(["held for peers".to_owned(), bytes(number("sessiond_held_bytes"))]);
    let mut text = columns(&rows) + "\n";
    let head = ["ENGINE", "STORED", "CREATED", "ENDED", "REVOKED", "SWEPT"].map(str::to_owned);
    let engines = status.engines.iter().map(|engine| {
        let labels = [("engine", engine.name.as_str())];
        let of = |name: &str| page.sum(name, &labels).unwrap_or_default().to_string();
        [
            engine.name.clone(),
            engine.stored_count.map_or("unknown".to_owned(), |count| count.to_string()),
            of("sessiond_sessions_created_total"),
            of("sessiond_sessions_destroyed_total"),
            of("sessiond_sessions_revoked_total"),
            of("sessiond_sessions_swept_total"),
        ]
    });
    text += &columns(&[head].into_iter().chain(engines).collect::<Vec<_>>());
    text
}

#[derive(Serialize)]
struct Engine<'s> {
    name: &'s str,
    stored: Option<u64>,
}

/// One object, for programs. Keys are added, and none is renamed.
pub(crate) fn json(status: &GetStatusResponse) -> String {
    let mut listeners = Map::new();
    for kind in ["grpc", "admin", "metrics"] {
        let found = status.listeners.iter().filter(|listener| listener.kind == kind);
        let addresses = found.map(|listener| Value::from(listener.address.as_str())).collect();
        listeners.insert(kind.to_owned(), Value::Array(addresses));
    }
    let engines: Vec<_> = status
        .engines
        .iter()
        .map(|engine| Engine { name: &engine.name, stored: engine.stored_count })
        .collect();
    let state = status.state().as_str_name().trim_start_matches("DAEMON_STATE_");
    let object = json!({
        "version": status.version,
        "state": state,
        "reason": status.reason,
        "start_time": time(status.start_time.as_ref()),
        "status_time": time(status.status_time.as_ref()),
        "store": status.store,
        "listeners": listeners,
        "engines": engines,
        "metrics": Page::parse(&status.metrics).to_json(),
    });
    format!("{object}\n")
}
