//! What a listener does with a call: who may make it, how long it may take, and
//! who answers it.

use std::{convert::Infallible, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body::Body;
use http_body_util::Either;
use tonic::{Status, service::Routes};
use tower::Service;

use super::{
    auth::BearerAuth,
    fault,
    unary::{Answer, UnaryCalls},
};
use crate::session::store::Store;

/// The calls of a listener.
pub struct Handler<S> {
    /// Who may call; `None`: everybody. Health is open to all: probes carry no
    /// token.
    pub auth: Option<BearerAuth>,
    /// Answered here.
    pub unary: Option<UnaryCalls<S>>,
    /// Answer all the rest.
    pub routes: Routes,
}

const HEALTH: &str = "/grpc.health.v1.Health/";

impl<S: Store> Handler<S> {
    /// Answers a call, within the time that the caller gives it.
    pub async fn handle<B>(
        self: Arc<Self>,
        request: Request<B>,
    ) -> Result<Response<Either<Answer, tonic::body::Body>>, Infallible>
    where
        B: Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        if let Some(auth) = &self.auth
            && !request.uri().path().starts_with(HEALTH)
            && let Err(status) = auth.admit(request.headers())
        {
            return Ok(status.into_http::<Answer>().map(Either::Left));
        }
        let timeout = timeout(request.headers());
        let answer = self.answer(request);
        let Some(timeout) = timeout else {
            return Ok(answer.await);
        };
        Ok(tokio::time::timeout(timeout, answer).await.unwrap_or_else(|_| {
            let status = Status::deadline_exceeded("the deadline of the call has passed");
            status.into_http::<Answer>().map(Either::Left)
        }))
    }

    async fn answer<B>(&self, request: Request<B>) -> Response<Either<Answer, tonic::body::Body>>
    where
        B: Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        if let Some(unary) = &self.unary
            && let Some(rpc) = UnaryCalls::<S>::find(request.uri().path())
        {
            return unary.answer(rpc, request.into_body()).await.map(Either::Left);
        }
        // Boxed, for it is large, and rare.
        let Ok(response) = Box::pin(self.routes.clone().call(request)).await;
        fault::name_transport_faults(response).map(Either::Right)
    }
}

/// What `grpc-timeout` says; what makes no sense is passed over.
fn timeout(headers: &HeaderMap) -> Option<Duration> {
    let (unit, digits) = headers.get("grpc-timeout")?.as_bytes().split_last()?;
    // "at most 8 digits": gRPC over HTTP2.
    if digits.len() > 8 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let value: u64 = std::str::from_utf8(digits).ok()?.parse().ok()?;
    Some(match unit {
        b'H' => Duration::from_secs(value * 3600),
        b'M' => Duration::from_secs(value * 60),
        b'S' => Duration::from_secs(value),
        b'm' => Duration::from_millis(value),
        b'u' => Duration::from_micros(value),
        b'n' => Duration::from_nanos(value),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeout_is_a_number_and_a_unit() {
        let of = |text: &str| {
            timeout(&HeaderMap::from_iter([(
                "grpc-timeout".parse().unwrap(),
                text.parse().unwrap(),
            )]))
        };
        assert_eq!(of("2H"), Some(Duration::from_secs(7200)));
        assert_eq!(of("3M"), Some(Duration::from_secs(180)));
        assert_eq!(of("4S"), Some(Duration::from_secs(4)));
        assert_eq!(of("00000005m"), Some(Duration::from_millis(5)));
        assert_eq!(of("6u"), Some(Duration::from_micros(6)));
        assert_eq!(of("99999999n"), Some(Duration::from_nanos(99_999_999)));
        for junk in ["", "S", "5", "5s", "-5S", "123456789S", "5 S", "1.5S"] {
            assert_eq!(of(junk), None, "{junk:?}");
        }
    }
}
