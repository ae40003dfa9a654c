//! `grpc.health.v1.Health`: whether the daemon can serve.
//!
//! It is open to peers without a token, so a call keeps nothing of its headers, its message
//! is small, and a connection may have few of them. A watcher is told changes only.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::Response;
use prost::Message;
use tokio::sync::watch;
use tokio_util::sync::WaitForCancellationFutureOwned;
use tonic::Status;
use tonic_health::pb::{
    HealthCheckRequest, HealthCheckResponse, health_check_response::ServingStatus,
};

use super::{
    messages::{self, Messages, put_prefix},
    peer::{HealthCall, Peer, RequestBody},
    session_service::{Unary, begun},
};

/// All methods of the service have paths that begin with this.
pub(super) const PREFIX: &str = "/grpc.health.v1.Health/";

/// The largest request.
const MAX_MESSAGE_BYTES: usize = 4 << 10;

/// What can be served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Serving {
    /// All that the daemon does: what the empty name asks for.
    pub whole: bool,
    /// What its services do at least.
    pub services: bool,
}

/// The service.
pub struct HealthService {
    /// The names of the services that it knows.
    pub services: Vec<&'static str>,
    /// What they serve now.
    pub serving: watch::Receiver<Serving>,
}

/// What a caller asks about.
#[derive(Debug, Clone, Copy)]
enum Asked {
    Whole,
    Service,
    Unknown,
}

/// A call of the service.
#[derive(Debug, Clone, Copy)]
pub(super) enum Call {
    Check,
    Watch,
}

impl HealthService {
    /// The call that is made with this path; `None`: it is not one of this service.
    pub(super) fn find(path: &str) -> Option<Call> {
        match path.strip_prefix(PREFIX)? {
            "Check" => Some(Call::Check),
            "Watch" => Some(Call::Watch),
            _ => None,
        }
    }

    /// Answers a Check.
    pub(super) async fn check<B: RequestBody>(&self, body: B, peer: &Peer) -> Response<Unary> {
        let checked = async {
            let _call = peer.health_call()?;
            match status(self.asked(body, peer).await?, *self.serving.borrow()) {
                ServingStatus::ServiceUnknown => Err(Status::not_found("the service is not known")),
                status => Ok(encoded(status)),
            }
        };
        checked.await.map_or_else(Status::into_http, |message| begun(Unary::of(message)))
    }

    /// Answers a Watch.
    pub(super) async fn watch<B: RequestBody>(
        &self,
        body: B,
        peer: &Peer,
    ) -> Result<HealthWatch, Status> {
        let call = peer.health_call()?;
        Ok(HealthWatch {
            asked: self.asked(body, peer).await?,
            serving: self.serving.clone(),
            told: None,
            changed: None,
            closing: Box::pin(peer.closing.clone().cancelled_owned()),
            _call: call,
        })
    }

    /// Reads the request.
    async fn asked<B: RequestBody>(&self, body: B, peer: &Peer) -> Result<Asked, Status> {
        let message = Messages::new(body, MAX_MESSAGE_BYTES, peer).only().await?;
        let mut request = HealthCheckRequest::default();
        messages::decode(message, &mut request)?;
        Ok(match request.service.as_str() {
            "" => Asked::Whole,
            service if self.services.contains(&service) => Asked::Service,
            _ => Asked::Unknown,
        })
    }
}

fn status(asked: Asked, serving: Serving) -> ServingStatus {
    let serves = match asked {
        Asked::Whole => serving.whole,
        Asked::Service => serving.services,
        Asked::Unknown => return ServingStatus::ServiceUnknown,
    };
    if serves { ServingStatus::Serving } else { ServingStatus::NotServing }
}

/// The message that tells a status, with its prefix.
fn encoded(status: ServingStatus) -> Bytes {
    let message = HealthCheckResponse { status: status.into() };
    let mut encoded = Vec::new();
    put_prefix(message.encoded_len(), &mut encoded);
    message.encode_raw(&mut encoded);
    encoded.into()
}

/// The answers of a Watch: the status, and then its changes.
pub(super) struct HealthWatch {
    /// The stream of a service that is not known stays open, too, as the protocol asks:
    /// elsewhere such a service may appear one day.
    asked: Asked,
    serving: watch::Receiver<Serving>,
    /// The status that was sent last.
    told: Option<ServingStatus>,
    /// Waits for the next change. False: there will be none.
    changed: Option<Pin<Box<dyn Future<Output = bool> + Send>>>,
    closing: Pin<Box<WaitForCancellationFutureOwned>>,
    _call: HealthCall,
}

impl HealthWatch {
    /// The next message, with its prefix; `None`: the stream must end.
    pub(super) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        loop {
            let now = status(self.asked, *self.serving.borrow_and_update());
            if self.told.replace(now) != Some(now) {
                return Poll::Ready(Some(encoded(now)));
            }
            if self.closing.as_mut().poll(cx).is_ready() {
                return Poll::Ready(None);
            }
            let changed = self.changed.get_or_insert_with(|| {
                let mut serving = self.serving.clone();
                Box::pin(async move { serving.changed().await.is_ok() })
            });
            match changed.as_mut().poll(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(true) => self.changed = None,
                Poll::Ready(false) => return Poll::Ready(None),
            }
        }
    }
}
