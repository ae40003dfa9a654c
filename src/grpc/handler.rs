//! What a listener does with a call: whether it is admitted, how long it may take, and
//! which service answers it.

use std::{
    convert::Infallible,
    future::{Future, ready},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::Either::{Left, Right};
use http::{
    HeaderMap, HeaderValue, Method, Request, Response, StatusCode,
    header::{ALLOW, CONTENT_TYPE},
};
use http_body::{Body, Frame};
use http_body_util::Either;
use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep};
use tonic::{Status, service::Routes};
use tower::Service;

use super::{
    auth::BearerAuth,
    session_service::{Call, SessionService, Unary},
    status, trailers,
};

/// The calls of a listener.
pub struct Handler {
    /// Which callers are admitted; `None`: all of them. Health is open to all, because
    /// probes carry no token.
    pub auth: Option<BearerAuth>,
    /// The service whose calls are answered here, without tonic.
    pub sessions: Option<SessionService>,
    /// Answer all other calls.
    pub routes: Routes,
}

const HEALTH: &str = "/grpc.health.v1.Health/";

/// What an answer is made of.
pub type AnswerBody = Either<Unary, tonic::body::Body>;

type Answered = Result<Response<AnswerBody>, Infallible>;

impl Handler {
    /// Answers a call, within the time that the caller gives it.
    // No async fn: that would keep the request in its future, which is moved to
    // the heap for each call.
    pub fn handle<B>(
        self: &Arc<Self>,
        request: Request<B>,
    ) -> impl Future<Output = Answered> + use<B>
    where
        B: Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        if let Some(answer) = no_call(request.method(), request.headers()) {
            return Left(ready(Ok(answer)));
        }
        if let Some(auth) = &self.auth
            && !request.uri().path().starts_with(HEALTH)
            && let Err(status) = auth.admit(request.headers())
        {
            return Left(ready(refused(status)));
        }
        let timeout = timeout(request.headers());
        let handler = Arc::clone(self);
        let call = self.sessions.as_ref().zip(SessionService::find(request.uri().path()));
        match call {
            Some((_, Call::Unary(rpc))) => {
                let body = request.into_body();
                let work = async move {
                    let sessions = handler.sessions.as_ref().expect("it was there above");
                    Ok(sessions.unary(rpc, body).await.map(Either::Left))
                };
                return Right(InTime::new(timeout, Left(work)));
            }
            Some((sessions, Call::Pipeline)) => {
                let answer = sessions.pipeline(request.into_body());
                return Left(ready(Ok(answer.map(|body| in_time(body, end(timeout))))));
            }
            None => {}
        }
        // The answer may be a stream, whose time began with the call.
        let end = end(timeout);
        let work = Box::pin(async move {
            let Ok(answer) = handler.routes.clone().call(request).await;
            Ok(status::name_transport_faults(answer).map(|body| in_time(body, end)))
        });
        Right(InTime::new(timeout, Right(work)))
    }
}

/// The answer to a request that is no gRPC call (gRPC over HTTP2, "Requests"), and that a
/// page of another site could make a browser send; `None`: it is a call.
fn no_call(method: &Method, headers: &HeaderMap) -> Option<Response<AnswerBody>> {
    let (status, allow) = if *method != Method::POST {
        (StatusCode::METHOD_NOT_ALLOWED, Some(HeaderValue::from_static("POST")))
    } else if !headers.get(CONTENT_TYPE).is_some_and(is_grpc) {
        (StatusCode::UNSUPPORTED_MEDIA_TYPE, None)
    } else {
        return None;
    };
    let mut answer = Response::new(Either::Left(Unary::default()));
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

fn refused(status: Status) -> Answered {
    Ok(status.into_http::<Unary>().map(Either::Left))
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

impl<F: Future<Output = Answered>> Future for InTime<F> {
    type Output = Answered;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Answered> {
        let this = self.project();
        if let Poll::Ready(answered) = this.work.poll(cx) {
            return Poll::Ready(answered);
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

/// The body of an answer, which ends at `end` at the latest.
fn in_time<B>(body: B, end: Option<Instant>) -> AnswerBody
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    Either::Right(match end {
        // Nothing is left to wait for where the status is in the headers.
        Some(end) if !body.is_end_stream() => {
            let late = Box::pin(tokio::time::sleep_until(end));
            tonic::body::Body::new(EndsInTime { body: Some(body), late })
        }
        _ => tonic::body::Body::new(body),
    })
}

pin_project! {
    /// A stream of answers that is cut off when its call is late.
    struct EndsInTime<B> {
        // `None`: it was cut off, and what was at work behind it is dropped.
        #[pin]
        body: Option<B>,
        late: Pin<Box<Sleep>>,
    }
}

impl<B: Body<Data = Bytes>> Body for EndsInTime<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let mut this = self.project();
        let Some(body) = this.body.as_mut().as_pin_mut() else {
            return Poll::Ready(None);
        };
        // First: a stream that always has something to give ends all the same.
        if this.late.as_mut().poll(cx).is_ready() {
            this.body.set(None);
            let trailers = trailers::failed(status::late());
            return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
        }
        body.poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }
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
