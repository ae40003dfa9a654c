//! The listener that Prometheus scrapes: plain HTTP, one page.

use std::{convert::Infallible, sync::Arc};

use http::{HeaderValue, Request, Response, StatusCode, header::CONTENT_TYPE};
use http_body_util::Full;
use hyper::{body::Bytes, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{net::TcpListener, sync::Semaphore};

const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Scrapes at a time: there is one Prometheus, or a few.
const MOST_CONNECTIONS: usize = 16;

/// Serves `page` at /metrics until it is dropped.
pub async fn serve(listener: TcpListener, page: Arc<dyn Fn() -> String + Send + Sync>) {
    let places = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "a scrape could not be accepted");
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                continue;
            }
        };
        let page = Arc::clone(&page);
        tokio::spawn(async move {
            let answer = service_fn(|request| {
                let response = answer(&request, page.as_ref());
                async { Ok::<_, Infallible>(response) }
            });
            // With a timer hyper closes a connection that sends no request.
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .serve_connection(TokioIo::new(stream), answer);
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a scrape broke off");
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
