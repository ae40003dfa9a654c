//! The task that connects, carries the stream, and connects again.

use std::sync::Arc;

use http::uri::PathAndQuery;
use tokio::time::{sleep, timeout};
use tonic::{Streaming, client::Grpc, transport::Channel};
use tonic_prost::ProstCodec;

use super::{
    Settings, Shared, backoff, codec::PipelineCodec, outgoing::Outgoing, settings::CONNECT_TIMEOUT,
};
use crate::{
    error::{Applied, Error, Reason, Result},
    pb, status, wire,
};

const DESCRIBE: &str = "/sessiond.v1.SessionService/Describe";
const LIST_SESSIONS: &str = "/sessiond.v1.SessionService/ListSessions";
const PIPELINE: &str = "/sessiond.v1.SessionService/Pipeline";

/// Marks the end of the task, also if its runtime drops it.
struct Running(Arc<Shared>);

impl Drop for Running {
    fn drop(&mut self) {
        // Not by `end`: a client that is not closed starts another task.
        self.0.cut(&status::unreachable(self.0.address(), "its runtime has ended"));
        self.0.state().running = false;
        let error = status::unreachable(self.0.address(), "the runtime of the client has ended");
        self.0.fail_all(&error);
        self.0.idle.notify_waiters();
    }
}

pub(super) async fn run(shared: Arc<Shared>) {
    let running = Running(Arc::clone(&shared));
    let mut failures = 0;
    while !shared.has_ended() {
        if !shared.is_wanted() {
            shared.work.notified().await;
            continue;
        }
        let carried = tokio::select! {
            carried = carry(&shared) => carried,
            () = ended(&shared) => break,
        };
        match carried {
            // A connection that worked has ended. The first attempt to replace it comes at
            // once.
            Ok(()) => {
                failures = 0;
                continue;
            }
            Err(error) if is_fatal(&error) => shared.fail_all(&error),
            Err(_) => {}
        }
        tokio::select! {
            () = sleep(backoff(failures)) => {}
            () = ended(&shared) => break,
        }
        failures += 1;
    }
    drop(running);
}

async fn ended(shared: &Shared) {
    while !shared.has_ended() {
        shared.work.notified().await;
    }
}

/// Whether the next attempt would end in the same way.
fn is_fatal(error: &Error) -> bool {
    matches!(error, Error::Authentication(_))
        || matches!(error.reason(), Reason::DaemonTooOld | Reason::ProtocolError)
}

/// Opens a stream and carries it until it ends. An error says that it was of no use.
async fn carry(shared: &Arc<Shared>) -> Result<()> {
    let address = shared.address();
    let (channel, description) = match open(shared).await {
        Ok(opened) => opened,
        Err(error) => {
            let before = shared.state().last_error.replace(error.clone());
            if before.is_none() {
                tracing::warn!(
                    address,
                    reason = error.reason().as_str(),
                    error = %error,
                    "cannot connect to sessiond"
                );
            }
            return Err(error);
        }
    };
    let version = description.version.clone();
    let outgoing = {
        let mut state = shared.state();
        let description = wire::description(description);
        state.description = Some(Arc::new(description));
        state.channel = Some(channel.clone());
        state.streams += 1;
        state.stream = Some(state.streams);
        if state.last_error.take().is_some() {
            tracing::info!(address, "connected to sessiond again");
        }
        Outgoing { shared: Arc::clone(shared), number: state.streams }
    };
    tracing::debug!(address, version, "connected to sessiond");

    let mut answers = 0_u64;
    let error = match opened(&shared.settings, channel, outgoing).await {
        Ok(stream) => receive(shared, stream, &mut answers).await,
        Err(error) => error,
    };
    // A daemon that stops has told what it did with each operation.
    let error = match error.reason() {
        Reason::ShuttingDown
        | Reason::TokenRequired
        | Reason::TokenUnknown
        | Reason::RoleRequired => error,
        _ => error.with_applied(Applied::Unknown),
    };
    shared.cut(&error);
    tracing::debug!(
        address,
        reason = error.reason().as_str(),
        error = %error,
        "disconnected from sessiond"
    );
    if answers == 0 || is_fatal(&error) {
        shared.state().last_error = Some(error.clone());
        return Err(error);
    }
    Ok(())
}

/// Connects, and asks what the daemon is.
async fn open(shared: &Shared) -> Result<(Channel, pb::DescribeResponse)> {
    let settings = &shared.settings;
    settings.token.reload()?;
    let channel = settings.connect().await?;
    let mut described = describe(settings, channel.clone()).await;
    // The file may have been replaced meanwhile.
    if matches!(described, Err(Error::Authentication(_))) && settings.token.reload()? {
        described = describe(settings, channel.clone()).await;
    }
    // Nobody's operation was under way yet.
    Ok((channel, described.map_err(|error| error.with_applied(Applied::No))?))
}

async fn describe(settings: &Settings, channel: Channel) -> Result<pb::DescribeResponse> {
    let call = unary(settings, channel, DESCRIBE, pb::DescribeRequest {});
    timeout(CONNECT_TIMEOUT, call).await.unwrap_or_else(|_| {
        let why = format!("no answer within {CONNECT_TIMEOUT:?}");
        Err(status::unreachable(&settings.address, &why))
    })
}

pub(super) async fn list(
    settings: &Settings,
    channel: Channel,
    request: pb::SessionServiceListSessionsRequest,
) -> Result<pb::SessionServiceListSessionsResponse> {
    unary(settings, channel, LIST_SESSIONS, request).await
}

async fn unary<Q, A>(
    settings: &Settings,
    channel: Channel,
    path: &'static str,
    request: Q,
) -> Result<A>
where
    Q: prost::Message + Send + Sync + 'static,
    A: prost::Message + Default + Send + Sync + 'static,
{
    let mut grpc = grpc(channel);
    ready(settings, &mut grpc).await?;
    let request = settings.token.request(request);
    let codec = ProstCodec::<Q, A>::default();
    let answer = grpc.unary(request, PathAndQuery::from_static(path), codec).await;
    answer
        .map(tonic::Response::into_inner)
        .map_err(|status| status::called(&status, &settings.address))
}

/// A Pipeline that the daemon has accepted, which it does at once. Without a limit, a call that is
/// made while its connection ends could wait for ever: tokio's channel keeps what is sent into it at
/// the moment in which its receiver is dropped, and that is how hyper hands a call to a connection.
async fn opened(
    settings: &Settings,
    channel: Channel,
    outgoing: Outgoing,
) -> Result<Streaming<pb::PipelineResponse>> {
    let call = pipeline(settings, channel, outgoing);
    timeout(CONNECT_TIMEOUT, call).await.unwrap_or_else(|_| {
        let why = format!("it has not accepted a Pipeline within {CONNECT_TIMEOUT:?}");
        Err(status::unreachable(&settings.address, &why))
    })
}

async fn pipeline(
    settings: &Settings,
    channel: Channel,
    outgoing: Outgoing,
) -> Result<Streaming<pb::PipelineResponse>> {
    let mut grpc = grpc(channel);
    ready(settings, &mut grpc).await?;
    let request = settings.token.request(outgoing);
    let opened = grpc.streaming(request, PathAndQuery::from_static(PIPELINE), PipelineCodec).await;
    opened
        .map(tonic::Response::into_inner)
        .map_err(|status| status::called(&status, &settings.address))
}

/// The daemon bounds what a session can hold; an answer has no other limit here.
fn grpc(channel: Channel) -> Grpc<Channel> {
    Grpc::new(channel).max_decoding_message_size(usize::MAX).max_encoding_message_size(usize::MAX)
}

async fn ready(settings: &Settings, grpc: &mut Grpc<Channel>) -> Result<()> {
    grpc.ready().await.map_err(|error| {
        status::unreachable(&settings.address, &status::causes(&error)).with_source(error)
    })
}

/// Takes the answers until the stream ends, and says why it did.
async fn receive(
    shared: &Arc<Shared>,
    mut stream: Streaming<pb::PipelineResponse>,
    answers: &mut u64,
) -> Error {
    let address = shared.address();
    loop {
        match stream.message().await {
            Ok(Some(response)) => {
                *answers += 1;
                if let Err(error) = shared.answered(response) {
                    return error;
                }
            }
            Ok(None) => return status::unreachable(address, "it has ended the stream"),
            Err(status) => return status::called(&status, address),
        }
    }
}
