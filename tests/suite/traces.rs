//! Traces: what a collector gets, and what a daemon does without one.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use opentelemetry_proto::tonic::trace::v1::{Span, span::SpanKind as Kind, status::StatusCode};
use sessiond::{
    grpc::pb::{
        DescribeRequest, GetStatusRequest, ListSessionsRequest, PipelineRequest, ResolveRequest,
        SessionState, WriteRequest, pipeline_request::Operation, pipeline_response,
        session_service_client::SessionServiceClient,
    },
    server::config::{AddrOrOff, Backend, Config},
};
use tonic::{Code, Request, Status, transport::Endpoint};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tonic_types::{ErrorDetails, StatusExt};

use crate::support::{
    browser::Browser,
    collector::{Collector, attribute, expect_attributes, named},
    daemon::{Daemon, login, set},
    metrics::scrape,
    papers::Papers,
    program::{PATIENCE, Program},
    redis::{RedisServer, is_missing},
};

const RESOLVE: &str = "sessiond.v1.SessionService/Resolve";
const WRITE: &str = "sessiond.v1.SessionService/Write";
const DESTROY: &str = "sessiond.v1.SessionService/Destroy";
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";

fn tracing(collector: &Collector, ratio: f64) -> impl FnOnce(&mut Config) + use<> {
    let endpoint = collector.endpoint();
    move |config| {
        config.traces.endpoint = endpoint;
        config.traces.ratio = ratio;
        config.listen.metrics = AddrOrOff(Some("127.0.0.1:0".parse().expect("an address")));
    }
}

/// A request below a span of the caller's.
fn below<T>(message: T, flags: &str) -> Request<T> {
    let mut request = Request::new(message);
    let traceparent = format!("00-{TRACE}-{PARENT}-{flags}").parse().expect("ASCII");
    request.metadata_mut().insert("traceparent", traceparent);
    request
}

fn hex(id: &[u8]) -> String {
    id.iter().map(|octet| format!("{octet:02x}")).collect()
}

fn is_error(span: &Span) -> bool {
    span.status.as_ref().is_some_and(|status| status.code() == StatusCode::Error)
}

/// The line of a counter, as far as its value.
async fn counter(daemon: &Daemon, name: &str) -> u64 {
    let page = scrape(daemon.metrics.clone().expect("it is on")).await;
    let line = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("expected {name} in {page}")).parse().expect("a number")
}

#[tokio::test]
async fn a_call_is_a_trace_of_its_parts() {
    let collector = Collector::start().await;
    let daemon = Daemon::with(Backend::Sled, |config| {
        tracing(&collector, 0.0)(config);
        config.traces.service_name = "sessions of the shop".to_owned();
        config.traces.attributes = vec!["deployment.environment.name=test".to_owned()];
    })
    .await;
    let answer = daemon.client.clone().write(below(login("ann of the secrets"), "01")).await;
    let answer = answer.expect("it is taken").into_inner();
    let id = answer.session.as_ref().expect("a session").id.clone();
    let spans = collector.wait_for_span(WRITE).await;

    let call = named(&spans, WRITE);
    assert_eq!((hex(&call.trace_id), hex(&call.parent_span_id)), (TRACE.into(), PARENT.into()));
    assert_eq!(call.kind(), Kind::Server);
    assert_eq!(call.flags & 0x301, 0x301, "it is recorded, and its parent is another service's");
    let authority = daemon.grpc.strip_prefix("http://").expect("an address");
    expect_attributes(
        call,
        &[
            ("rpc.system.name", "grpc"),
            ("rpc.method", WRITE),
            ("rpc.response.status_code", "OK"),
            ("server.address", "127.0.0.1"),
            ("server.port", authority.rsplit(':').next().expect("a port")),
            ("network.transport", "tcp"),
            ("network.peer.address", "127.0.0.1"),
            ("sessiond.state", "CREATED"),
            ("sessiond.session.id", &id),
        ],
    );
    assert!(!is_error(call) && attribute(&call.attributes, "error.type").is_none(), "{call:?}");
    let store = named(&spans, "store create");
    assert_eq!(store.parent_span_id, call.span_id);
    expect_attributes(store, &[("sessiond.engine", "default")]);
    let mut parts = vec![call, store];
    if daemon.redis().is_none() {
        expect_attributes(store, &[("sessiond.store", "sled")]);
        let commit = named(&spans, "commit");
        assert_eq!(commit.parent_span_id, store.span_id);
        expect_attributes(commit, &[("sessiond.durability", "flushed")]);
        parts.push(commit);
    }
    for part in &parts {
        assert_eq!(part.trace_id, call.trace_id);
        assert_eq!((part.span_id.len(), part.flags & 1), (8, 1));
        assert!(call.start_time_unix_nano <= part.start_time_unix_nano, "{part:?}");
        assert!(part.start_time_unix_nano <= part.end_time_unix_nano, "{part:?}");
        assert!(part.end_time_unix_nano <= call.end_time_unix_nano, "{part:?}");
    }

    let (_, export) = collector.exports().remove(0);
    let resource = export.resource_spans[0].resource.clone().expect("who it is");
    let of = |key| attribute(&resource.attributes, key);
    assert_eq!(of("service.name").as_deref(), Some("sessions of the shop"));
    assert_eq!(of("service.version").as_deref(), Some(env!("CARGO_PKG_VERSION")));
    assert_eq!(of("service.instance.id").map(|id| id.len()), Some(32));
    assert_eq!(of("deployment.environment.name").as_deref(), Some("test"));
    let scope = export.resource_spans[0].scope_spans[0].scope.clone().expect("what it is");
    assert_eq!((&*scope.name, &*scope.version), ("sessiond", env!("CARGO_PKG_VERSION")));
    // Neither the token nor its verifier, nor whose the session is.
    let all = format!("{:?}", collector.exports());
    assert!(!all.contains("ann of the secrets") && !all.contains(&answer.token[16..40]), "{all}");
    assert!(!all.contains("\"session.id\""), "{all}");
}

#[tokio::test]
async fn a_state_is_called_as_in_the_metrics() {
    let collector = Collector::start().await;
    let daemon = Daemon::with(Backend::Memory, tracing(&collector, 1.0)).await;
    let browser = daemon.visitor("{}").await;
    daemon.destroy(&browser).await;
    daemon.destroy(&browser).await;
    // Spans arrive in the order in which they ended.
    daemon.state(&browser).await;
    let spans = collector.wait_for_span(RESOLVE).await;
    let destroys = spans.iter().filter(|span| span.name == DESTROY);
    let states: Vec<_> =
        destroys.filter_map(|span| attribute(&span.attributes, "sessiond.state")).collect();
    assert_eq!(states, ["ACTIVE", "NOT_FOUND"]);
    for state in states {
        let name = format!(
            "sessiond_requests_total{{engine=\"default\",rpc=\"Destroy\",state=\"{state}\"}}"
        );
        assert_eq!(counter(&daemon, &name).await, 1, "{name}");
    }
}

#[tokio::test]
async fn a_command_of_redis_is_a_span() {
    if is_missing() {
        return;
    }
    let collector = Collector::start().await;
    let daemon = Daemon::with(Backend::Redis, tracing(&collector, 1.0)).await;
    let browser = daemon.visitor(r#"{"cart":"tea"}"#).await;
    assert_eq!(daemon.state(&browser).await, SessionState::Active);
    let spans = collector.wait_for_span(RESOLVE).await;
    let port = daemon.redis().expect("it is there").port.to_string();
    let commands: Vec<_> = spans.iter().filter(|span| span.kind() == Kind::Client).collect();
    for command in &commands {
        expect_attributes(
            command,
            &[
                ("db.system.name", "redis"),
                ("db.operation.name", &command.name),
                ("db.namespace", "0"),
                ("server.address", "127.0.0.1"),
                ("server.port", &port),
            ],
        );
    }
    let (created, found) = (named(&spans, "store create"), named(&spans, "store touch"));
    assert_eq!(named(&spans, "SET").parent_span_id, created.span_id);
    let touches = commands.iter().filter(|span| span.parent_span_id == found.span_id);
    // The first one tells that the script is not known there yet.
    let touches: Vec<_> = touches.map(|span| &*span.name).collect();
    assert_eq!(touches, ["EVALSHA", "EVAL"]);
    let refused = named(&spans, "EVALSHA");
    let code = [("db.response.status_code", "NOSCRIPT"), ("error.type", "NOSCRIPT")];
    expect_attributes(refused, &code);
    assert!(is_error(refused));
}

#[tokio::test]
async fn the_caller_and_the_ratio_decide() {
    let collector = Collector::start().await;
    let daemon = Daemon::with(Backend::Memory, tracing(&collector, 1.0)).await;
    let resolve = || ResolveRequest { peek: true, ..Default::default() };
    let mut client = daemon.client.clone();
    client.resolve(below(resolve(), "00")).await.expect("answered");
    let channel = Endpoint::from_shared(daemon.grpc.clone()).expect("an address").connect_lazy();
    let mut health = HealthClient::new(channel);
    health.check(HealthCheckRequest::default()).await.expect("answered");
    client.describe(DescribeRequest {}).await.expect("answered");
    let spans = collector.wait_for_span("sessiond.v1.SessionService/Describe").await;
    assert_eq!(spans.len(), 1, "neither what its caller does not record, nor a probe: {spans:#?}");
    assert!(spans[0].parent_span_id.is_empty(), "it begins a trace: {spans:?}");

    let none = Daemon::with(Backend::Memory, tracing(&collector, 0.0)).await;
    let mut client = none.client.clone();
    for _ in 0..100 {
        client.resolve(resolve()).await.expect("answered");
    }
    client.resolve(below(resolve(), "01")).await.expect("answered");
    let spans = collector.wait_for_span(RESOLVE).await;
    assert_eq!(spans.len(), 2, "only what its caller records: {spans:#?}");
    assert_eq!(hex(&named(&spans, RESOLVE).parent_span_id), PARENT);
    assert_eq!(attribute(&spans[1].attributes, "sessiond.state").as_deref(), Some("NONE"));
}

#[tokio::test]
async fn each_operation_of_a_pipeline_is_a_trace() {
    let collector = Collector::start().await;
    let daemon = Daemon::with(Backend::Sled, tracing(&collector, 1.0)).await;
    let browser = daemon.visitor(r#"{"n":1}"#).await;
    let operations = [
        Operation::Resolve(ResolveRequest {
            credential: browser.credential(),
            ..Default::default()
        }),
        Operation::Write(WriteRequest { credential: browser.credential(), ..set(r#"{"n":2}"#) }),
        Operation::Write(WriteRequest {
            credential: browser.credential(),
            if_version: Some(7),
            ..Default::default()
        }),
    ];
    let requests = (1..).zip(operations).map(|(sequence, operation)| PipelineRequest {
        sequence,
        operation: Some(operation),
        ..Default::default()
    });
    let requests: Vec<_> = requests.collect();
    // What is recorded of an operation does not depend on the span that opened the stream.
    let stream = below(tokio_stream::iter(requests), "00");
    let mut answers = daemon.client.clone().pipeline(stream).await.expect("it opens").into_inner();
    let mut failed = 0;
    while let Some(answer) = answers.message().await.expect("it goes on") {
        failed += u32::from(matches!(answer.result, Some(pipeline_response::Result::Error(_))));
    }
    assert_eq!(failed, 1, "expected the stale Write to fail");
    let is_of = |span: &&Span| span.name.starts_with("sessiond.v1.SessionService/Pipeline ");
    let enough = |spans: &[Span]| spans.iter().filter(is_of).count() == 3;
    let spans = collector.wait_for("three operations", enough).await;
    let spans: Vec<_> = spans.iter().filter(is_of).collect();
    for span in &spans {
        let operation = span.name.rsplit(' ').next().expect("a name");
        assert_eq!((span.kind(), &*span.parent_span_id), (Kind::Server, &[][..]));
        expect_attributes(
            span,
            &[
                ("rpc.method", "sessiond.v1.SessionService/Pipeline"),
                ("sessiond.operation", operation),
            ],
        );
        let [link] = &span.links[..] else { panic!("expected one link in {span:#?}") };
        assert_eq!((hex(&link.trace_id), hex(&link.span_id)), (TRACE.into(), PARENT.into()));
    }
    assert!(spans[0].trace_id != spans[1].trace_id, "expected a trace for each");
    let codes = spans
        .iter()
        .map(|span| attribute(&span.attributes, "rpc.response.status_code").expect("it is known"));
    let codes: Vec<_> = codes.collect();
    assert_eq!(codes.iter().filter(|code| *code == "OK").count(), 2, "{codes:?}");
    let stale = spans.iter().find(|span| {
        attribute(&span.attributes, "rpc.response.status_code").as_deref() == Some("ABORTED")
    });
    let stale = stale.expect("the stale Write");
    expect_attributes(stale, &[("sessiond.reason", "VERSION_MISMATCH")]);
    assert!(!is_error(stale), "it is no fault of the daemon: {stale:?}");
}

#[tokio::test]
async fn a_failure_is_told_as_one() {
    if is_missing() {
        return;
    }
    let collector = Collector::start().await;
    let mut redis = RedisServer::start();
    let url = redis.url();
    let daemon = Daemon::with(Backend::Memory, |config| {
        tracing(&collector, 1.0)(config);
        config.store.backend = Backend::Redis;
        config.store.redis.url = url.parse().expect("a URL");
    })
    .await;
    let browser = daemon.visitor("{}").await;
    redis.kill();
    let resolve = ResolveRequest { credential: browser.credential(), ..Default::default() };
    let failed = daemon.client.clone().resolve(resolve).await;
    let status = failed.expect_err("there is no redis");
    assert_eq!(status.code(), Code::Unavailable);
    let spans = collector.wait_for_span(RESOLVE).await;
    let call = named(&spans, RESOLVE);
    expect_attributes(
        call,
        &[
            ("rpc.response.status_code", "UNAVAILABLE"),
            ("error.type", "UNAVAILABLE"),
            ("sessiond.reason", "STORE_UNAVAILABLE"),
        ],
    );
    let store = named(&spans, "store touch");
    expect_attributes(store, &[("error.type", "unavailable")]);
    assert!(is_error(call) && is_error(store));
}

#[tokio::test]
async fn calls_of_operators_are_traced() {
    let collector = Collector::start().await;
    let daemon = Daemon::with(Backend::Memory, tracing(&collector, 1.0)).await;
    let mut admin = daemon.admin.clone();
    admin.get_status(GetStatusRequest {}).await.expect("answered");
    let listed = admin.list_sessions(ListSessionsRequest::default()).await;
    assert_eq!(listed.expect_err("it names nobody").code(), Code::InvalidArgument);
    let spans = collector.wait_for("two calls", |spans| spans.len() >= 2).await;
    let status = named(&spans, "sessiond.v1.SessionAdminService/GetStatus");
    expect_attributes(status, &[("rpc.response.status_code", "OK")]);
    let listed = named(&spans, "sessiond.v1.SessionAdminService/ListSessions");
    let expected =
        [("rpc.response.status_code", "INVALID_ARGUMENT"), ("sessiond.reason", "INVALID_ARGUMENT")];
    expect_attributes(listed, &expected);
}

#[tokio::test]
async fn a_stop_exports_what_is_left() {
    let collector = Collector::start().await;
    let daemon = Daemon::with(Backend::Memory, tracing(&collector, 1.0)).await;
    for _ in 0..700 {
        daemon.state(&Browser::new()).await;
    }
    daemon.stop().await;
    let resolves = collector.spans().iter().filter(|span| span.name == RESOLVE).count();
    assert_eq!(resolves, 700, "expected every span after a clean stop");
}

/// The queue has 4096 places, and a batch 512.
const MORE_THAN_FITS: u64 = 4096 + 512 + 100;

/// A daemon that records everything for a collector at this address.
fn program(collector: SocketAddr) -> Program {
    let endpoint = format!("--set=traces.endpoint=http://{collector}");
    Program::serve(&["--dev", "--set=traces.ratio=1", &endpoint])
}

/// Makes more spans than it keeps. Returns how many it has dropped.
async fn overflow(program: &Program) -> u64 {
    let grpc = format!("http://{}", program.address("grpc"));
    let mut client = SessionServiceClient::connect(grpc).await.expect("it listens");
    let requests = (1..=MORE_THAN_FITS).map(|sequence| PipelineRequest {
        sequence,
        operation: Some(Operation::Resolve(ResolveRequest::default())),
        ..Default::default()
    });
    let requests = tokio_stream::iter(requests.collect::<Vec<_>>());
    let mut answers = client.pipeline(requests).await.expect("it opens").into_inner();
    for _ in 0..MORE_THAN_FITS {
        let answer = tokio::time::timeout(PATIENCE, answers.message()).await;
        let answer = answer.expect("nobody waits for the collector").expect("no failure");
        assert!(matches!(
            answer.expect("one for each").result,
            Some(pipeline_response::Result::Resolve(_))
        ));
    }
    let page = scrape(program.address("metrics").to_owned()).await;
    let name = "sessiond_spans_dropped_total{reason=\"queue_full\"} ";
    let dropped = page.lines().find_map(|line| line.strip_prefix(name)).expect("a counter");
    let dropped = dropped.parse().expect("a number");
    assert!(dropped > 0, "expected spans to be dropped:\n{page}");
    dropped
}

#[tokio::test]
async fn a_collector_that_is_away_costs_its_spans_only() {
    let (socket, address) = Collector::later();
    let program = program(address);
    let kept = (MORE_THAN_FITS - overflow(&program).await) as usize;
    let collector = Collector::at(socket);
    let spans = collector.wait_for("what was kept", |spans| spans.len() >= kept).await;
    assert_eq!(spans.len(), kept, "each is exported once");
    let log = program.wait_for_log("spans are exported again", 1);
    assert_eq!(log.matches("spans cannot be exported").count(), 1, "{log}");
    let (code, _) = tokio::task::spawn_blocking(|| program.stop()).await.expect("it stops");
    assert_eq!(code, Some(0));
}

#[tokio::test]
async fn a_collector_that_hangs_holds_nothing_up() {
    // It takes connections, and never answers.
    let hanging = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let program = program(hanging.local_addr().expect("it is bound"));
    overflow(&program).await;
    let asked = Instant::now();
    let (code, log) = tokio::task::spawn_blocking(|| program.stop()).await.expect("it stops");
    assert_eq!(code, Some(0), "{log}");
    // 3 s for the spans. An export would wait for 10 s.
    assert!(asked.elapsed() < Duration::from_secs(9), "it took {:?}", asked.elapsed());
    assert_eq!(log.matches("spans are lost: the collector did not take them").count(), 1, "{log}");
}

#[tokio::test]
async fn what_a_collector_does_not_want_is_counted() {
    let collector = Collector::start().await;
    let daemon = Daemon::with(Backend::Memory, tracing(&collector, 1.0)).await;
    let (exported, refused) =
        ("sessiond_spans_exported_total", "sessiond_spans_dropped_total{reason=\"refused\"}");
    // The exporter counts after the answer of the collector, which only the page tells.
    let until = async |expected: (u64, u64)| {
        let end = Instant::now() + PATIENCE;
        loop {
            let found = (counter(&daemon, exported).await, counter(&daemon, refused).await);
            if found.0 + found.1 >= expected.0 + expected.1 || Instant::now() > end {
                return assert_eq!(found, expected, "exported, refused");
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    collector.refuse(Some(Status::invalid_argument("no")));
    daemon.state(&Browser::new()).await;
    until((0, 1)).await;
    // One that has too much to do, and says when to come again.
    let details = ErrorDetails::with_retry_info(Some(Duration::from_millis(20)));
    let busy = Status::with_error_details(Code::ResourceExhausted, "busy", details);
    collector.refuse(Some(busy));
    daemon.state(&Browser::new()).await;
    collector.refuse(None);
    until((1, 1)).await;
    let before = collector.exports().len();
    collector.reject(1);
    for _ in 0..3 {
        daemon.state(&Browser::new()).await;
    }
    collector.wait_for("all", |spans| spans.len() == 1 + 3).await;
    // One, or more if the calls were made slowly.
    let exports = (collector.exports().len() - before) as u64;
    until((1 + 3 - exports, 1 + exports)).await;
    assert_eq!(counter(&daemon, "sessiond_spans_dropped_total{reason=\"queue_full\"}").await, 0);
}

#[tokio::test]
async fn a_collector_may_ask_for_tls_and_a_token() {
    let papers = Papers::new();
    let headers = papers.write("headers", "authorization=Bearer of the traces\n");
    let collector = Collector::with_tls(&papers).await;
    let daemon = Daemon::with(Backend::Memory, |config| {
        tracing(&collector, 1.0)(config);
        config.traces.endpoint = format!("https://localhost:{}", collector.address.port());
        config.traces.ca_file = papers.path("ca.pem");
        config.traces.headers_file = headers;
    })
    .await;
    daemon.state(&Browser::new()).await;
    collector.wait_for_span(RESOLVE).await;
    let (metadata, _) = collector.exports().remove(0);
    assert_eq!(metadata.get("authorization").expect("a token"), "Bearer of the traces");
}
