//! A collector of traces, with the messages that the OpenTelemetry project publishes.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use opentelemetry_proto::tonic::{
    collector::trace::v1::{
        ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
    common::v1::{KeyValue, any_value},
    trace::v1::Span,
};
use tokio::{
    net::{TcpListener, TcpSocket},
    sync::Notify,
    task::JoinHandle,
};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{
    Request, Response, Status,
    metadata::MetadataMap,
    transport::{Identity, Server, ServerTlsConfig},
};

use super::{papers::Papers, program::PATIENCE};

const ANY: &str = "127.0.0.1:0";

/// A running collector. It ends when it is dropped.
pub(crate) struct Collector {
    pub address: SocketAddr,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct Shared {
    exports: Mutex<Vec<(MetadataMap, ExportTraceServiceRequest)>>,
    arrived: Notify,
    /// What it answers instead of taking spans.
    refusal: Mutex<Option<Status>>,
    /// How many spans of an export it does not take.
    rejected: Mutex<i64>,
}

#[derive(Clone)]
struct Service(Arc<Shared>);

#[tonic::async_trait]
impl TraceService for Service {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        if let Some(status) = self.0.refusal.lock().expect("no panic holds it").clone() {
            return Err(status);
        }
        let (metadata, _, message) = request.into_parts();
        self.0.exports.lock().expect("no panic holds it").push((metadata, message));
        self.0.arrived.notify_waiters();
        let rejected_spans = *self.0.rejected.lock().expect("no panic holds it");
        let error_message = "some are too old".to_owned();
        let partly = ExportTracePartialSuccess { rejected_spans, error_message };
        let partial_success = (rejected_spans > 0).then_some(partly);
        Ok(Response::new(ExportTraceServiceResponse { partial_success }))
    }
}

impl Collector {
    pub(crate) async fn start() -> Self {
        Self::serve(TcpListener::bind(ANY).await.expect("a free port"), None)
    }

    /// An address of its own where it does not listen yet: connections are refused.
    pub(crate) fn later() -> (TcpSocket, SocketAddr) {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind(ANY.parse().expect("an address")).expect("a free port");
        let address = socket.local_addr().expect("it is bound");
        (socket, address)
    }

    pub(crate) fn at(socket: TcpSocket) -> Self {
        Self::serve(socket.listen(128).expect("it is bound"), None)
    }

    /// Over TLS.
    pub(crate) async fn with_tls(papers: &Papers) -> Self {
        let identity = Identity::from_pem(papers.text("server.pem"), papers.text("server.key"));
        let tls = ServerTlsConfig::new().identity(identity);
        Self::serve(TcpListener::bind(ANY).await.expect("a free port"), Some(tls))
    }

    fn serve(listener: TcpListener, tls: Option<ServerTlsConfig>) -> Self {
        let address = listener.local_addr().expect("it is bound");
        let shared = Arc::<Shared>::default();
        let mut server = Server::builder();
        if let Some(tls) = tls {
            server = server.tls_config(tls).expect("valid");
        }
        let router = server.add_service(TraceServiceServer::new(Service(Arc::clone(&shared))));
        let task = tokio::spawn(async move {
            let served = router.serve_with_incoming(TcpListenerStream::new(listener)).await;
            served.expect("it serves");
        });
        Self { address, shared, task }
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Refuses all spans from now on; `None`: takes them again.
    pub(crate) fn refuse(&self, status: Option<Status>) {
        *self.shared.refusal.lock().expect("no panic holds it") = status;
    }

    /// Takes all but so many spans of each export from now on.
    pub(crate) fn reject(&self, spans: i64) {
        *self.shared.rejected.lock().expect("no panic holds it") = spans;
    }

    /// What has come with the exports.
    pub(crate) fn exports(&self) -> Vec<(MetadataMap, ExportTraceServiceRequest)> {
        self.shared.exports.lock().expect("no panic holds it").clone()
    }

    pub(crate) fn spans(&self) -> Vec<Span> {
        let requests = self.exports().into_iter().flat_map(|(_, request)| request.resource_spans);
        let scopes = requests.flat_map(|resource| resource.scope_spans);
        scopes.flat_map(|scope| scope.spans).collect()
    }

    /// The spans, as soon as `is_enough`.
    pub(crate) async fn wait_for(
        &self,
        what: &str,
        is_enough: impl Fn(&[Span]) -> bool,
    ) -> Vec<Span> {
        let waiting = async {
            loop {
                let mut arrived = std::pin::pin!(self.shared.arrived.notified());
                arrived.as_mut().enable();
                let spans = self.spans();
                if is_enough(&spans) {
                    return spans;
                }
                arrived.await;
            }
        };
        let waited = tokio::time::timeout(PATIENCE, waiting).await;
        waited.unwrap_or_else(|_| panic!("expected {what}, found {:#?}", self.spans()))
    }

    /// The spans, as soon as there is one of this name.
    pub(crate) async fn wait_for_span(&self, name: &str) -> Vec<Span> {
        self.wait_for(name, |spans| spans.iter().any(|span| span.name == name)).await
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The one span of this name.
#[track_caller]
pub(crate) fn named<'s>(spans: &'s [Span], name: &str) -> &'s Span {
    let found: Vec<_> = spans.iter().filter(|span| span.name == name).collect();
    match found[..] {
        [span] => span,
        _ => panic!("expected one span {name:?}, found {found:#?} among {spans:#?}"),
    }
}

/// An attribute as text.
pub(crate) fn attribute(attributes: &[KeyValue], key: &str) -> Option<String> {
    let found: Vec<_> = attributes.iter().filter(|attribute| attribute.key == key).collect();
    assert!(found.len() <= 1, "expected {key} once: {attributes:?}");
    let value = found.first()?.value.clone()?.value?;
    Some(match value {
        any_value::Value::StringValue(text) => text,
        any_value::Value::IntValue(number) => number.to_string(),
        other => panic!("expected text or a number, found {other:?}"),
    })
}

/// Fails unless the span has these attributes.
#[track_caller]
pub(crate) fn expect_attributes(span: &Span, expected: &[(&str, &str)]) {
    for (key, value) in expected {
        let found = attribute(&span.attributes, key);
        assert_eq!(found.as_deref(), Some(*value), "{key} of {span:#?}");
    }
}
