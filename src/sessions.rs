//! `sessiond sessions`: list, count, show and revoke.

use serde::Serialize;
use serde_json::value::RawValue;
use sessiond::grpc::pb::{GetSessionRequest, GetSessionResponse, RevokeSessionsRequest, Session};

use crate::{
    cli::SessionsCommand,
    client::{Caller, Problem},
    table::{columns, printable, time},
};

/// A session as JSON. The keys are those of the message.
#[derive(Serialize)]
struct Line<'s> {
    id: &'s str,
    principal: String,
    label: String,
    version: u64,
    create_time: String,
    last_use_time: String,
    expire_time: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    data_bytes: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<&'s RawValue>,
}

impl<'s> Line<'s> {
    fn of(session: &'s Session) -> Self {
        Self {
            id: &session.id,
            principal: String::from_utf8_lossy(&session.principal).into_owned(),
            label: String::from_utf8_lossy(&session.label).into_owned(),
            version: session.version,
            create_time: time(session.create_time.as_ref()),
            last_use_time: time(session.last_use_time.as_ref()),
            expire_time: time(session.expire_time.as_ref()),
            data_bytes: None,
            data: None,
        }
    }

    fn to_json(&self) -> Result<String, Problem> {
        let json = serde_json::to_string(self).map_err(|error| error.to_string())?;
        Ok(json + "\n")
    }
}

/// Runs the command and returns what to print.
pub(crate) async fn run(called: &Caller, command: SessionsCommand) -> Result<String, Problem> {
    match command {
        SessionsCommand::List { engine, principal, json, .. } => {
            let sessions = called.list(&engine, &principal).await?;
            if json {
                return sessions.iter().map(|session| Line::of(session).to_json()).collect();
            }
            Ok(table(&sessions))
        }
        SessionsCommand::Count { engine, principal: Some(principal), .. } => {
            let sessions = called.list(&engine.unwrap_or_default(), &principal).await?;
            Ok(format!("{}\n", sessions.len()))
        }
        SessionsCommand::Count { engine, principal: None, .. } => count(called, engine).await,
        SessionsCommand::Show { engine, data, json, id, .. } => {
            let request = GetSessionRequest { engine, session_id: id.clone(), with_data: data };
            let found = called.session(request).await?;
            shown(&found, data, json)?.ok_or_else(|| format!("no live session has the id {id}"))
        }
        SessionsCommand::Revoke { engine, ids, all, principal, .. } => {
            let request = RevokeSessionsRequest { engine, session_ids: ids, principal, all };
            Ok(format!("{}\n", called.revoke(request).await?))
        }
    }
}

fn table(sessions: &[Session]) -> String {
    let head = ["ID", "CREATED", "LAST USED", "EXPIRES", "LABEL"].map(str::to_owned);
    let rows = sessions.iter().map(|session| {
        [
            session.id.clone(),
            time(session.create_time.as_ref()),
            time(session.last_use_time.as_ref()),
            time(session.expire_time.as_ref()),
            printable(&session.label),
        ]
    });
    columns(&[head].into_iter().chain(rows).collect::<Vec<_>>())
}

/// What the engines have stored: a table, or of one engine the number alone.
async fn count(called: &Caller, engine: Option<String>) -> Result<String, Problem> {
    let status = called.status().await?;
    let Some(name) = engine else {
        let head = ["ENGINE", "STORED"].map(str::to_owned);
        let rows = status.engines.into_iter().map(|engine| {
            let stored = engine.stored_count.map_or("unknown".to_owned(), |n| n.to_string());
            [engine.name, stored]
        });
        return Ok(columns(&[head].into_iter().chain(rows).collect::<Vec<_>>()));
    };
    let known: Vec<_> = status.engines.iter().map(|engine| engine.name.as_str()).collect();
    let known = known.join(", ");
    let found = status.engines.iter().find(|engine| engine.name == name);
    let found = found
        .ok_or_else(|| format!("no engine of that name is configured; expected one of: {known}"))?;
    let stored = found.stored_count.ok_or_else(|| {
        format!(
            "the {} store does not know how many sessions it has; `sessiond export` counts them",
            status.store
        )
    })?;
    Ok(format!("{stored}\n"))
}

/// `None`: there is no such session.
fn shown(found: &GetSessionResponse, data: bool, json: bool) -> Result<Option<String>, Problem> {
    let Some(session) = &found.session else { return Ok(None) };
    let text = std::str::from_utf8(&session.data).map_err(|error| error.to_string())?;
    if json {
        let raw = data.then(|| serde_json::from_str(text)).transpose();
        let line = Line {
            data_bytes: Some(found.data_bytes),
            data: raw.map_err(|error| error.to_string())?,
            ..Line::of(session)
        };
        return line.to_json().map(Some);
    }
    let mut rows = vec![
        ["id", &session.id].map(str::to_owned),
        ["principal".to_owned(), printable(&session.principal)],
        ["label".to_owned(), printable(&session.label)],
        ["created".to_owned(), time(session.create_time.as_ref())],
        ["last used".to_owned(), time(session.last_use_time.as_ref())],
        ["expires".to_owned(), time(session.expire_time.as_ref())],
        ["version".to_owned(), session.version.to_string()],
        ["data".to_owned(), format!("{} bytes", found.data_bytes)],
    ];
    if session.principal.is_empty() {
        rows[1][1] = "(nobody)".to_owned();
    }
    let mut shown = columns(&rows);
    if data {
        shown += &printable(text.as_bytes());
        shown.push('\n');
    }
    Ok(Some(shown))
}

impl SessionsCommand {
    /// How to call the daemon.
    pub(crate) fn client(&self) -> crate::cli::ClientArgs {
        match self {
            Self::List { client, .. }
            | Self::Count { client, .. }
            | Self::Show { client, .. }
            | Self::Revoke { client, .. } => client.clone(),
        }
    }
}
