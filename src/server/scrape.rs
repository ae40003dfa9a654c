//! The listener that Prometheus scrapes: plain HTTP, the page of metrics, and the health for
//! probes.
//!
//! It has a thread of its own and makes a bounded number of pages a second, so whatever
//! comes to it delays no request. A connection is closed after its answer.

use std::{convert::Infallible, io, net::SocketAddr, sync::Arc, time::Duration};

use http::{
    HeaderMap, HeaderValue, Request, Response, StatusCode,
    header::{ACCEPT, CONTENT_TYPE},
};
use http_body_util::Full;
use hyper::{
    body::{Bytes, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Mutex,
    time::{Interval, MissedTickBehavior, interval, timeout},
};

use super::{
    listen::{self, Accept},
    metrics::to_classic,
    places::{PlaceHandle, Places},
    status::{ProbeAnswer, Probes},
    workers::RuntimeExecutors,
};

const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The format from before OpenMetrics.
const CLASSIC: &str = "text/plain; version=0.0.4; charset=utf-8";

const TEXT: &str = "text/plain; charset=utf-8";

/// Connections at a time. There is usually one Prometheus, or a few.
const MAX_CONNECTIONS: usize = 16;

/// The time from one answer to the next, of all connections together.
const PACE: Duration = Duration::from_millis(10);

/// How long a request may take to arrive.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a connection may last.
const MAX_DURATION: Duration = Duration::from_secs(60);

/// The bound listener, and the thread that will serve it.
pub(super) struct Scraper {
    listener: TcpListener,
    thread: RuntimeExecutors,
}

impl Scraper {
    pub(super) fn new(listener: TcpListener) -> io::Result<Self> {
        let thread = RuntimeExecutors::start_one("sessiond-metrics")?;
        let listener = listener.into_std()?;
        let registered = thread.runtimes().next().map(|runtime| {
            let _entered = runtime.enter();
            TcpListener::from_std(listener)
        });
        let listener = registered.expect("it has one thread")?;
        Ok(Self { listener, thread })
    }

    pub(super) fn address(&self) -> Option<SocketAddr> {
        self.listener.local_addr().ok()
    }

    /// Serves `page` at /metrics, and the probes, until the thread is dropped.
    pub(super) fn serve(
        self,
        page: impl Fn() -> String + Send + Sync + 'static,
        probes: Probes,
    ) -> RuntimeExecutors {
        let Self { listener, thread } = self;
        let accepting = async move {
            let pages = Pages::new(page, probes);
            let places = Places::new("metrics", MAX_CONNECTIONS);
            let accept = listen::accept(listener, places, |stream, place| {
                let pages = Arc::clone(&pages);
                match <TcpListener as Accept>::arrive(stream) {
                    Ok(stream) => drop(tokio::spawn(async move {
                        let handle = place.handle();
                        handle.until_displaced(serve(stream, &pages, &handle)).await;
                        drop(place);
                    })),
                    Err(error) => tracing::warn!(%error, "cannot take over a scrape"),
                }
            });
            accept.await;
        };
        let runtime = thread.runtimes().next().expect("it has one thread");
        runtime.spawn(accepting);
        thread
    }
}

/// The pages, at a pace.
struct Pages {
    page: Box<dyn Fn() -> String + Send + Sync>,
    probes: Probes,
    pace: Mutex<Interval>,
}

impl Pages {
    fn new(page: impl Fn() -> String + Send + Sync + 'static, probes: Probes) -> Arc<Self> {
        let mut pace = interval(PACE);
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Arc::new(Self { page: Box::new(page), probes, pace: Mutex::new(pace) })
    }

    async fn answer(&self, path: String, reads_openmetrics: bool) -> Response<Full<Bytes>> {
        // In the order of arrival, whatever is asked for.
        self.pace.lock().await.tick().await;
        if path == "/metrics" {
            let (page, format) = match reads_openmetrics {
                true => ((self.page)(), OPENMETRICS),
                false => (to_classic(&(self.page)()), CLASSIC),
            };
            let mut response = Response::new(Full::from(page));
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(format));
            return response;
        }
        let (status, text) = match self.probes.answer(&path) {
            Some(ProbeAnswer { is_good: true, text }) => (StatusCode::OK, text),
            Some(ProbeAnswer { is_good: false, text }) => (StatusCode::SERVICE_UNAVAILABLE, text),
            None => (
                StatusCode::NOT_FOUND,
                "the metrics are at /metrics, and the health is at /healthz and /readyz\n",
            ),
        };
        let mut response = Response::new(Full::from(text));
        *response.status_mut() = status;
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(TEXT));
        response
    }
}

/// Prometheus says so. What says nothing, such as curl, gets what everything can read.
fn reads_openmetrics(headers: &HeaderMap) -> bool {
    let mut accepted = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    accepted.any(|value| value.contains("application/openmetrics-text"))
}

async fn serve(stream: TcpStream, pages: &Pages, place: &PlaceHandle) {
    let answer = service_fn(|request: Request<Incoming>| {
        let (path, open) = (request.uri().path().to_owned(), place.call_begins());
        let reads_openmetrics = reads_openmetrics(request.headers());
        async move {
            let answer = pages.answer(path, reads_openmetrics).await;
            drop(open);
            Ok::<_, Infallible>(answer)
        }
    });
    // hyper needs the timer to close connections that send no request.
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(REQUEST_TIMEOUT)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), answer);
    match timeout(MAX_DURATION, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "a scrape failed"),
        // A client that reads slowly, or not at all, must not occupy the place.
        Err(_) => tracing::debug!("a scrape took too long and was closed"),
    }
}

#[cfg(test)]
mod tests {
    use futures_util::future::join_all;
    use tokio::{sync::watch, time::Instant};
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::{grpc::health::Serving, server::status::Pulse};

    #[tokio::test(start_paused = true)]
    async fn pages_have_a_pace_and_an_order() {
        let probes = Probes {
            pulse: Pulse::new(),
            serving: watch::channel(Serving::default()).1,
            stopping: CancellationToken::new(),
        };
        let pages = Pages::new(|| "a 1\n".to_owned(), probes);
        let started = Instant::now();
        let answers = (0..8).map(|number| {
            let path = if number == 3 { "/" } else { "/metrics" };
            let pages = Arc::clone(&pages);
            async move { (pages.answer(path.to_owned(), true).await.status(), started.elapsed()) }
        });
        let answers = join_all(answers).await;
        for (at, (status, elapsed)) in answers.into_iter().enumerate() {
            assert_eq!(status.is_success(), at != 3, "only the page is there");
            assert!(elapsed >= PACE * at as u32, "answer {at} came after {elapsed:?}");
        }
    }
}
