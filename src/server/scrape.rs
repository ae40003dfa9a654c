//! The listener that Prometheus scrapes: plain HTTP, one page.

use std::{convert::Infallible, sync::Arc, time::Duration};

use http::{HeaderValue, Request, Response, StatusCode, header::CONTENT_TYPE};
use http_body_util::Full;
use hyper::{body::Bytes, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{net::TcpListener, sync::Semaphore};

const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Connections at a time. There is usually one Prometheus, or a few.
const MAX_CONNECTIONS: usize = 16;

/// How long a connection may last. Prometheus reconnects if necessary.
const MAX_DURATION: Duration = Duration::from_secs(60);

/// Serves `page` at /metrics until the future is dropped.
pub async fn serve(listener: TcpListener, page: Arc<dyn Fn() -> String + Send + Sync>) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a scrape");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let page = Arc::clone(&page);
        tokio::spawn(async move {
            let answer = service_fn(|request| {
                let response = answer(&request, page.as_ref());
                async { Ok::<_, Infallible>(response) }
            });
            // hyper needs the timer to close connections that send no request.
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .serve_connection(TokioIo::new(stream), answer);
            match tokio::time::timeout(MAX_DURATION, connection).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::debug!(%error, "a scrape failed"),
                // A client that reads slowly, or not at all, must not occupy the place.
                Err(_) => tracing::debug!("a scrape took too long and was closed"),
            }
            drop(place);
        });
    }
}

fn answer<B>(request: &Request<B>, page: &dyn Fn() -> String) -> Response<Full<Bytes>> {
    if request.uri().path() == "/metrics" {
        let mut response = Response::new(Full::from(page()));
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(OPENMETRICS));
        return response;
    }
    let mut response = Response::new(Full::from("the metrics are at /metrics\n"));
    *response.status_mut() = StatusCode::NOT_FOUND;
    response
}
