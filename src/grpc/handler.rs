//! What a listener does with a call: whether it is admitted, how long it may take, and
//! which service answers it.

use std::{
    future::{Future, ready},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::future::Either::{Left, Right};
use http::{
    HeaderMap, HeaderValue, Method, Request, Response, StatusCode,
    header::{ALLOW, CONTENT_TYPE},
};
use http_body_util::Full;
use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep};
use tonic::{Status, service::Routes};
use tower::Service;

use super::{
    auth::Guard,
    body::AnswerBody,
    health::{self, HealthService},
    messages::{Messages, PREFIX_LEN},
    peer::{Peer, ReadOnce, RequestBody},
    session_service::{Call, SessionService, Unary, begun},
    spans::{CallSpan, Traces},
    status,
};
use crate::service::access::{Caller, Identity};

/// The calls of a listener.
pub struct Handler {
    /// Which callers are admitted; `None`: all of them. Health is open to all, because
    /// probes carry no token.
    pub auth: Option<Guard>,
    /// Answers probes.
    pub health: HealthService,
    /// The service whose calls are answered here, without tonic.
    pub sessions: Option<SessionService>,
    /// The service whose requests are single messages, and that tonic answers.
    pub unary: Option<UnaryRequests>,
    /// Answer all other calls.
    pub routes: Routes,
    /// What a caller is told whose service or method is not served here.
    pub unserved: &'static str,
    /// Whether the calls of `sessions` and `unary` are traced.
    pub traces: Traces,
}

/// Which calls have requests of a single message. It is read before tonic sees the call, so
/// that a message that does not come holds nothing.
pub struct UnaryRequests {
    /// The name of the service.
    pub service: &'static str,
    /// The largest request.
    pub max_message_bytes: usize,
}

impl UnaryRequests {
    fn covers(&self, path: &str) -> bool {
        let rest = path.strip_prefix('/').and_then(|path| path.strip_prefix(self.service));
        rest.is_some_and(|rest| rest.starts_with('/'))
    }
}

/// How many header fields a call may have. Each costs some 200 bytes while the call is under
/// way, even if it is written as one octet.
const MAX_HEADERS: usize = 100;

impl Handler {
    /// Answers a call, within the time that the caller gives it.
    // No async fn: that would keep the request in its future, which is moved to
    // the heap for each call.
    pub fn handle<B: RequestBody>(
        self: &Arc<Self>,
        request: Request<B>,
        peer: &Arc<Peer>,
    ) -> impl Future<Output = Response<AnswerBody<B>>> + use<B> {
        if let Some(answer) = no_call(request.method(), request.headers()) {
            return Left(ready(answer.map(AnswerBody::unary)));
        }
        let path = request.uri().path();
        let mut caller = Caller::Anybody;
        if let Some(auth) = &self.auth
            && !path.starts_with(health::PREFIX)
        {
            match auth.admit(request.headers(), &peer.origin) {
                Ok(admitted) => caller = admitted,
                Err(status) => return Left(ready(refused(status))),
            }
        }
        let timeout = timeout(request.headers());
        let (handler, peer) = (Arc::clone(self), Arc::clone(peer));
        let call = self.sessions.as_ref().zip(SessionService::find(path));
        match call {
            Some((_, Call::Unary(call))) => {
                let span = self.traces.call(request.headers(), request.uri(), &peer, timeout);
                let body = request.into_body();
                let work = async move {
                    let sessions = handler.sessions.as_ref().expect("it was there above");
                    sessions.unary(call, body, &peer, span).await.map(AnswerBody::unary)
                };
                return Right(InTime::new(timeout, Left(work)));
            }
            Some((sessions, Call::Pipeline)) => {
                let traces = self.traces.stream(request.headers(), request.uri(), &peer);
                let answer = sessions.pipeline(request.into_body(), &peer, traces);
                return Left(ready(answer.map(|body| AnswerBody::pipeline(body, end(timeout)))));
            }
            None => {}
        }
        // The answer may be a stream, whose time began with the call.
        let end = end(timeout);
        let mut request = request;
        request.extensions_mut().insert(Identity { caller, remote: peer.origin.remote });
        let work = Box::pin(async move { handler.other(request, peer, timeout, end).await });
        Right(InTime::new(timeout, Right(work)))
    }

    /// Answers a call that is made rarely.
    async fn other<B: RequestBody>(
        &self,
        request: Request<B>,
        peer: Arc<Peer>,
        timeout: Option<Duration>,
        end: Option<Instant>,
    ) -> Response<AnswerBody<B>> {
        match HealthService::find(request.uri().path()) {
            Some(health::Call::Check) => {
                let answer = self.health.check(request.into_body(), &peer);
                return answer.await.map(AnswerBody::unary);
            }
            Some(health::Call::Watch) => {
                let watch = self.health.watch(request.into_body(), &peer).await;
                let answer = watch.map(|watch| begun(AnswerBody::health(watch, end)));
                return answer.unwrap_or_else(refused);
            }
            None => {}
        }
        let unary = self.unary.as_ref().filter(|unary| unary.covers(request.uri().path()));
        let mut span = CallSpan::default();
        let mut held = None;
        let called = match unary {
            Some(UnaryRequests { max_message_bytes, .. }) => {
                span = self.traces.call(request.headers(), request.uri(), &peer, timeout);
                let (parts, body) = request.into_parts();
                let message = Messages::new(body, *max_message_bytes, &peer).only().await;
                let admitted = message.and_then(|message| {
                    held = Some(peer.memory.hold(message.len())?);
                    Ok(message)
                });
                match admitted {
                    Ok(message) => {
                        let request = Request::from_parts(parts, Full::new(framed(&message)));
                        span.within(self.routes.clone().call(request)).await
                    }
                    Err(status) => {
                        span.end_call(Err(&status));
                        return refused(status);
                    }
                }
            }
            None => self.routes.clone().call(request.map(ReadOnce)).await,
        };
        let Ok(answer) = called;
        drop(held);
        let answer = status::name_transport_faults(answer, self.unserved);
        span.end_by_head(answer.headers());
        answer.map(|body| AnswerBody::routed(body, peer, end))
    }
}

/// A message with its prefix, as tonic reads it.
fn framed(message: &Bytes) -> Bytes {
    let mut framed = BytesMut::with_capacity(PREFIX_LEN + message.len());
    framed.put_u8(0);
    framed.put_u32(message.len() as u32);
    framed.put_slice(message);
    framed.freeze()
}

/// The answer to a request that is no gRPC call (gRPC over HTTP2, "Requests"), and that a
/// page of another site could make a browser send, or that has too many headers; `None`: it
/// is a call.
fn no_call(method: &Method, headers: &HeaderMap) -> Option<Response<Unary>> {
    let (status, allow) = if *method != Method::POST {
        (StatusCode::METHOD_NOT_ALLOWED, Some(HeaderValue::from_static("POST")))
    } else if !headers.get(CONTENT_TYPE).is_some_and(is_grpc) {
        (StatusCode::UNSUPPORTED_MEDIA_TYPE, None)
    } else if headers.len() > MAX_HEADERS {
        (StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, None)
    } else {
        return None;
    };
    let mut answer = Response::new(Unary::default());
    *answer.status_mut() = status;
    answer.headers_mut().extend(allow.map(|method| (ALLOW, method)));
    Some(answer)
}

/// A type that only begins like this one is refused: application/grpc-web is another
/// protocol.
fn is_grpc(content_type: &HeaderValue) -> bool {
    let rest = content_type.as_bytes().strip_prefix(b"application/grpc");
    rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
}

fn refused<B: RequestBody>(status: Status) -> Response<AnswerBody<B>> {
    status.into_http::<Unary>().map(AnswerBody::unary)
}

pin_project! {
    /// Work that must be done in time.
    struct InTime<F> {
        #[pin]
        work: F,
        timeout: Option<Duration>,
        // Made when there is something to wait for, which is rare.
        late: Option<Pin<Box<Sleep>>>,
    }
}

impl<F> InTime<F> {
    fn new(timeout: Option<Duration>, work: F) -> Self {
        Self { work, timeout, late: None }
    }
}

impl<F, B> Future for InTime<F>
where
    F: Future<Output = Response<AnswerBody<B>>>,
    B: RequestBody,
{
    type Output = Response<AnswerBody<B>>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        if let Poll::Ready(answer) = this.work.poll(cx) {
            return Poll::Ready(answer);
        }
        let Some(timeout) = *this.timeout else {
            return Poll::Pending;
        };
        let late = this.late.get_or_insert_with(|| Box::pin(tokio::time::sleep(timeout)));
        late.as_mut().poll(cx).map(|()| refused(status::late()))
    }
}

/// When a call that begins now is late; `None`: never.
fn end(timeout: Option<Duration>) -> Option<Instant> {
    Instant::now().checked_add(timeout?)
}

/// What `grpc-timeout` says; a malformed value is ignored.
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
                "grpc-timeout".parse().expect("a name"),
                text.parse().expect("a value"),
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

    #[test]
    fn only_the_type_of_grpc_makes_a_call() {
        let is = |text: &'static str| is_grpc(&HeaderValue::from_static(text));
        for good in ["application/grpc", "application/grpc+proto", "application/grpc; a=b"] {
            assert!(is(good), "{good:?}");
        }
        for bad in ["", "text/plain", "application/grp", "application/grpc-web+proto"] {
            assert!(!is(bad), "{bad:?}");
        }
    }
}
