//! The spans of commands, with the names of OpenTelemetry's semantic conventions for Redis.
//!
//! A span has the name of its command, and never a key or a value.

use redis::{Arg, Cmd, Value};

use super::{connect::Place, failure::Failure, url::Endpoint};
use crate::trace::{self, Kind, Span};

/// Where a server is, as far as its configuration says.
pub(super) struct Origin {
    /// A host, or the path of a socket.
    address: Option<String>,
    port: Option<u16>,
    database: u32,
}

impl Origin {
    pub(super) fn of(place: &Place) -> Self {
        let (endpoint, database) = match place {
            Place::Server { endpoint, database } => (Some(endpoint.clone()), *database),
            // Sentinels name it, and may name another one at any time.
            Place::Primary { database, .. } => (None, *database),
            Place::Node(address, _) => (Some(Endpoint::Tcp(address.clone())), 0),
        };
        let (address, port) = match endpoint {
            Some(Endpoint::Tcp(address)) => (Some(address.host), Some(address.port)),
            Some(Endpoint::Unix(path)) => (Some(path.display().to_string()), None),
            None => (None, None),
        };
        Self { address, port, database }
    }

    /// The span of a command, from its sending to its answer. `None`: it is not recorded.
    pub(super) fn span(&self, cmd: &Cmd) -> Option<Span> {
        let scope = trace::under()?;
        let name = match cmd.args_iter().next() {
            Some(Arg::Simple(name)) => String::from_utf8_lossy(name).into_owned(),
            _ => "command".to_owned(),
        };
        let mut span = scope.child(Kind::Client, name.clone());
        span.set("db.system.name", "redis");
        span.set("db.operation.name", name);
        span.set("db.namespace", self.database.to_string());
        if let Some(address) = &self.address {
            span.set("server.address", address.clone());
        }
        if let Some(port) = self.port {
            span.set("server.port", port);
        }
        Some(span)
    }
}

/// Ends a span with what has become of its command.
pub(super) fn end(span: Option<Span>, outcome: &Result<Value, Failure>) {
    let (Some(mut span), Err(why)) = (span, outcome) else { return };
    match why {
        Failure::Refused { code, .. } => {
            span.set("db.response.status_code", code.clone());
            span.fail(code.clone());
        }
        Failure::Unreached(_) => span.fail("unreached"),
        Failure::Lost(_) => span.fail("lost"),
        Failure::Unreplicated { .. } => span.fail("unreplicated"),
        Failure::Lacking(_) => span.fail("lacking"),
        Failure::Moving => span.fail("moving"),
        Failure::Absurd => span.fail("absurd"),
    }
}
