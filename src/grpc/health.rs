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

/// The service.
pub struct HealthService {
    /// The names of the services that it knows. They are healthy together.
    pub services: Vec<&'static str>,
    /// Whether they serve.
    pub serving: watch::Receiver<bool>,
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
            let knows = self.knows(body, peer).await?;
            let unknown = || Status::not_found("the service is not known");
            knows.then(|| encoded(status(*self.serving.borrow()))).ok_or_else(unknown)
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
        let knows = self.knows(body, peer).await?;
        Ok(HealthWatch {
            serving: knows.then(|| self.serving.clone()),
            told: None,
            changed: None,
            closing: Box::pin(peer.closing.clone().cancelled_owned()),
            _call: call,
        })
    }

    /// Reads the request. True: it is about a service that is known.
    async fn knows<B: RequestBody>(&self, body: B, peer: &Peer) -> Result<bool, Status> {
        let message = Messages::new(body, MAX_MESSAGE_BYTES, peer).only().await?;
        let mut request = HealthCheckRequest::default();
        messages::decode(message, &mut request)?;
        Ok(self.services.contains(&request.service.as_str()))
    }
}

fn status(serving: bool) -> ServingStatus {
    if serving { ServingStatus::Serving } else { ServingStatus::NotServing }
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
    /// `None`: the service is not known. The stream stays open, as the protocol asks, because
    /// elsewhere such a service may appear one day.
    serving: Option<watch::Receiver<bool>>,
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
            let now = match &mut self.serving {
                Some(serving) => status(*serving.borrow_and_update()),
                None => ServingStatus::ServiceUnknown,
            };
            if self.told.replace(now) != Some(now) {
                return Poll::Ready(Some(encoded(now)));
            }
            if self.closing.as_mut().poll(cx).is_ready() {
                return Poll::Ready(None);
            }
            let Some(serving) = &self.serving else {
                return Poll::Pending;
            };
            let changed = self.changed.get_or_insert_with(|| {
                let mut serving = serving.clone();
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
