//! What callers see when a store fails or waits.

use std::{
    convert::Infallible,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use futures_util::future::BoxFuture;
use http::Request;
use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use sessiond::{
    grpc::{
        handler::Handler,
        health::{HealthService, Serving},
        pb::{
            DestroyRequest, PipelineRequest, ResolveRequest, SessionState, TouchRequest,
            WriteRequest, pipeline_request::Operation, pipeline_response::Result as Answer,
            session_service_client::SessionServiceClient,
        },
        peer::{Peer, ReleasedWhenRead},
        session_service::SessionService,
        spans::Traces,
    },
    server::{
        cleanup,
        config::{Backend, Config, SecretText, SizeOrNone, check},
        system::SystemEntropy,
    },
    service::{
        engines::Engines,
        observer::{Observer, Outcome, Subject},
    },
    session::{
        CookieUpdate, Live, Lookup,
        adoption::{Adoption, Application},
        credential::Credential,
        data::Data,
        engine::{Engine, ResolveOptions, WriteOptions},
        error::Error,
        foreign::{Foreign, ForeignId, Source},
        principals::{Scope, Target},
        record::Principal,
        store,
    },
};
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, service::Routes, transport::Channel};
use tonic_types::StatusExt;

use crate::{
    adoption,
    support::{
        browser::Browser,
        daemon::{Daemon, SECRET, TestClock, applied, assert_fault, in_force, login, set},
        flaky::{Faults, FlakyStore},
        program::PATIENCE,
    },
};

struct Nobody;

impl Observer for Nobody {
    fn finished(&self, _: Subject<'_>, _: Outcome, _: Duration) {}
}

/// A service on a store that fails or waits when the test says so.
pub(crate) struct Service {
    pub client: SessionServiceClient<Channel>,
    engine: Arc<Engine>,
    pub faults: Arc<Faults>,
    clock: Arc<TestClock>,
}

const IN_FLIGHT: usize = 5;

fn engine(store: FlakyStore, clock: Arc<TestClock>) -> Engine {
    let mut config = Config::dev();
    let engine = config.engine.get_mut("default").expect("the default engine");
    engine.cookie.secrets = vec![SecretText(SECRET.to_owned())];
    let policy = check(&config).expect("it is valid").engines.remove("default");
    let policy = policy.expect("the default engine");
    Engine::new("default", policy, Arc::new(store), clock, Arc::new(SystemEntropy))
}

async fn service() -> Service {
    service_with(Arc::new(Nobody)).await
}

pub(crate) async fn service_with(observer: Arc<dyn Observer>) -> Service {
    let (faults, clock) = (Faults::new(), TestClock::new());
    let engine = Arc::new(engine(FlakyStore::new(Arc::clone(&faults)), Arc::clone(&clock)));
    let service = SessionService {
        engines: Engines::new([("default".to_owned(), Arc::clone(&engine))].into()),
        observer,
        max_message_bytes: 64 << 10,
        pipeline_in_flight: IN_FLIGHT,
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let uri = format!("http://{}", listener.local_addr().expect("an address"));
    let handler = Handler {
        auth: None,
        health: HealthService {
            services: Vec::new(),
            serving: watch::channel(Serving::default()).1,
        },
        sessions: Some(service),
        unary: None,
        routes: Routes::default(),
        unserved: "not served here",
        traces: Traces::default(),
    };
    tokio::spawn(serve(listener, Arc::new(handler)));
    let client = SessionServiceClient::connect(uri).await.expect("the service is there");
    Service { client, engine, faults, clock }
}

async fn serve(listener: TcpListener, handler: Arc<Handler>) {
    while let Ok((connection, _)) = listener.accept().await {
        connection.set_nodelay(true).expect("it can be set");
        let handler = Arc::clone(&handler);
        let peer = Peer::unbounded();
        let answer = service_fn(move |request: Request<Incoming>| {
            let answering = handler.handle(request.map(ReleasedWhenRead), &peer);
            async { Ok::<_, Infallible>(answering.await) }
        });
        let http = http2::Builder::new(TokioExecutor::new());
        tokio::spawn(http.serve_connection(TokioIo::new(connection), answer));
    }
}

impl Service {
    pub(crate) async fn visitor(&mut self) -> Browser {
        let created = self.client.write(set("{}")).await.expect("a Write is taken").into_inner();
        Browser::with(&created.set_cookie)
    }

    pub(crate) async fn resolve(&mut self, browser: &Browser) -> Result<SessionState, Status> {
        let credential = browser.credential();
        let request = ResolveRequest { credential, ..Default::default() };
        self.client.resolve(request).await.map(|answer| answer.into_inner().state())
    }
}

#[tokio::test]
async fn a_store_that_fails_logs_nobody_out() {
    let mut service = service().await;
    let browser = service.visitor().await;
    service.faults.fail(true);
    let credential = browser.credential();
    let mut client = service.client.clone();
    let touch = TouchRequest { credential: credential.clone(), ..Default::default() };
    let peek = ResolveRequest { credential: credential.clone(), peek: true, ..Default::default() };
    let create = ResolveRequest { create: true, ..Default::default() };
    let write = WriteRequest { credential: credential.clone(), ..set("{}") };
    let destroy = DestroyRequest { credential, ..Default::default() };
    let failures = [
        ("Resolve", service.resolve(&browser).await.err()),
        ("Resolve that peeks", client.resolve(peek).await.err()),
        ("Resolve that creates", client.resolve(create).await.err()),
        ("Touch", client.touch(touch).await.err()),
        ("Write", client.write(write).await.err()),
        ("Write that creates", client.write(set("{}")).await.err()),
        ("Destroy", client.destroy(destroy).await.err()),
    ];
    for (call, failure) in failures {
        let status = failure.unwrap_or_else(|| panic!("{call} must fail, and not say NONE"));
        assert_fault(&status, Code::Unavailable, "STORE_UNAVAILABLE", None);
        assert_eq!(applied(&status).as_deref(), Some("unknown"), "{call}");
        let retry = status.get_details_retry_info().and_then(|retry| retry.retry_delay);
        assert_eq!(retry, Some(Duration::from_millis(250)), "{call} says when to try again");
        assert!(!status.message().contains("hunter2"), "expected no cause in an error");
    }
    // Without a credential the store is not needed.
    assert_eq!(service.resolve(&Browser::new()).await.ok(), Some(SessionState::None));
    service.faults.fail(false);
    assert_eq!(service.resolve(&browser).await.ok(), Some(SessionState::Active), "still logged in");
}

/// More sessions than are ended at once, and one of the first ones fails.
#[tokio::test]
async fn a_session_that_cannot_be_ended_keeps_no_other_alive() {
    let mut service = service().await;
    for _ in 0..50 {
        service.client.write(login("ann")).await.expect("a Write is taken");
    }
    let ann = Principal::new(b"ann").expect("short");
    let listed = async || {
        let page = service.engine.list(&ann, None, 1000).await.expect("the store works");
        page.sessions.into_iter().map(|session| session.id).collect::<Vec<_>>()
    };
    let first = listed().await[0];
    *service.faults.endless.lock() = Some(first);
    let revoked = service.engine.revoke(Target::Principal(ann.clone())).await;
    assert!(
        matches!(revoked, Err(Error::Store(_))),
        "expected the failure as the answer: {revoked:?}"
    );
    assert_eq!(listed().await, [first], "expected all other sessions to end");
    *service.faults.endless.lock() = None;
    let revoked = service.engine.revoke(Target::Principal(ann.clone())).await;
    assert_eq!(revoked.expect("the store works"), 1);
}

/// An application that has the same session of ann for every id.
struct Anns;

impl Source for Anns {
    fn fetch<'a>(&'a self, _: &'a ForeignId) -> BoxFuture<'a, store::Result<Option<Foreign>>> {
        let principal = Principal::new(b"ann").expect("short");
        let found = Foreign { data: Data::EMPTY, principal, duration: None, life: None };
        Box::pin(async { Ok(Some(found)) })
    }
}

#[derive(Debug, Clone, Copy)]
enum Way {
    Destroy,
    Roll,
    DestroyByTheNewToken,
}

/// The mark of an adoption may be unconfirmed and then lost with its server. In a cluster the
/// session is on another server. A session that has ended or was rolled must not be adopted
/// again after such a loss.
#[tokio::test]
async fn a_mark_lasts_before_its_session_ends_or_changes() {
    let cookie = adoption::browser("theirs").cookie.expect("a cookie");
    for way in [Way::Destroy, Way::Roll, Way::DestroyByTheNewToken] {
        let faults = Faults::new();
        let marks = Arc::new(FlakyStore::new(Arc::clone(&faults)));
        let from = Application { source: Arc::new(Anns), remember: Duration::from_secs(3600) };
        let engine = engine(FlakyStore::new(Faults::new()), TestClock::new());
        let engine = engine.adopting(Adoption { marks: Arc::clone(&marks) as _, from: Some(from) });
        let presented = engine.present(Credential::CookieHeader(cookie.as_bytes()));
        let resolve = || engine.resolve(&presented, ResolveOptions::default());

        faults.confirm(false);
        assert!(matches!(resolve().await, Err(Error::Store(_))), "the mark is not confirmed");
        faults.confirm(true);
        let roll = WriteOptions { roll: true, ..WriteOptions::default() };
        match way {
            Way::Destroy => {
                let ended = engine.destroy(&presented, Scope::This).await;
                assert_eq!(ended.expect("the store works").absence, None, "it was adopted");
            }
            Way::Roll => drop(engine.write(&presented, roll).await.expect("it was adopted")),
            Way::DestroyByTheNewToken => {
                let found = resolve().await.expect("the store works");
                let Lookup::Live(Live { cookie: CookieUpdate { token: Some(token), .. }, .. }) =
                    found
                else {
                    panic!("expected a new token, found {found:?}");
                };
                let own = engine.present(Credential::Token(token.expose().as_bytes()));
                let ended = engine.destroy(&own, Scope::This).await.expect("the store works");
                assert_eq!(ended.absence, None, "expected the same session");
            }
        }
        marks.fail_over().await;
        let found = resolve().await.expect("the store works");
        assert!(
            matches!(found, Lookup::Absent(_)),
            "{way:?}: expected the old cookie to be used up, found {found:?}"
        );
    }
}

/// Below the floor of free space, creations and changes are refused. Below half of it,
/// deadlines do not move. Below a quarter, nothing is written.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_refuses_more_and_ends_what_is_there() {
    if in_force(Backend::Sled) != Backend::Sled {
        return; // Only sled has a floor of free space.
    }
    let daemon = Daemon::start(Backend::Sled).await;
    let (browser, _other) = (daemon.visitor("{}").await, daemon.visitor("{}").await);
    let third = daemon.visitor("{}").await;
    let mut stopped = daemon.stop().await;
    let disk = rustix::fs::statvfs(&stopped.config.store.sled.path).expect("it tells");
    let free_bytes = disk.f_bavail * disk.f_frsize;

    // So large that nothing may be written.
    stopped.config.store.sled.min_free_bytes = SizeOrNone(u64::MAX);
    let daemon = stopped.start().await;
    daemon.clock.advance(Duration::from_secs(60));
    let answer = daemon.resolve(&browser).await;
    assert_eq!(answer.state(), SessionState::Active);
    assert!(answer.set_cookie.is_empty(), "expected its deadline to stay");
    let refused = daemon.try_destroy(&browser).await.expect_err("there is no space");
    assert_fault(&refused, Code::ResourceExhausted, "STORE_FULL", None);
    assert_eq!(daemon.resolve(&browser).await.state(), SessionState::Active, "it was not ended");

    // A third of the floor is free.
    let mut stopped = daemon.stop().await;
    stopped.config.store.sled.min_free_bytes = SizeOrNone(free_bytes * 3);
    let daemon = stopped.start().await;
    daemon.clock.advance(Duration::from_secs(60));
    assert!(daemon.resolve(&browser).await.set_cookie.is_empty(), "expected its deadline to stay");
    assert_eq!(daemon.destroy(&third).await.destroyed, 1);

    // Two thirds of the floor are free.
    let mut stopped = daemon.stop().await;
    stopped.config.store.sled.min_free_bytes = SizeOrNone(free_bytes / 2 * 3);
    let daemon = stopped.start().await;
    let credential = browser.credential();
    for request in [set("{}"), WriteRequest { credential, ..set("{}") }] {
        let error = daemon.try_write(request).await.expect_err("there is no space");
        assert_fault(&error, Code::ResourceExhausted, "STORE_FULL", None);
    }
    daemon.clock.advance(Duration::from_secs(60));
    let answer = daemon.resolve(&browser).await;
    assert_eq!(answer.state(), SessionState::Active);
    assert_eq!(answer.set_cookie.len(), 1, "expected its deadline to move");
    assert_eq!(daemon.destroy(&browser).await.destroyed, 1);
    daemon.clock.advance(Duration::from_secs(4000));
    assert_eq!(daemon.cleanup().await, 1, "expected one expired session");
}

/// While the store waits, a pipeline reads exactly as many operations as may be in flight.
#[tokio::test]
async fn a_pipeline_takes_in_no_more_than_its_limit() {
    let mut service = service().await;
    let mut browsers = Vec::new();
    for _ in 0..IN_FLIGHT * 4 {
        browsers.push(service.visitor().await);
    }
    let before = service.faults.reached.load(Ordering::SeqCst);
    let reached = |service: &Service| service.faults.reached.load(Ordering::SeqCst) - before;
    service.faults.stop(true);
    let (sender, receiver) = mpsc::channel(browsers.len());
    for (sequence, browser) in browsers.iter().enumerate() {
        let credential = browser.credential();
        let resolve = Operation::Resolve(ResolveRequest { credential, ..Default::default() });
        let operation = Some(resolve);
        let request = PipelineRequest { sequence: sequence as u64, operation, timeout: None };
        sender.send(request).await.expect("there is room");
    }
    drop(sender);
    let opened = service.client.pipeline(ReceiverStream::new(receiver)).await;
    let mut answers = opened.expect("the stream opens").into_inner();
    let waited = tokio::time::timeout(PATIENCE, async {
        while reached(&service) < IN_FLIGHT {
            tokio::task::yield_now().await;
        }
    });
    waited.await.expect("the first operations reach the store");
    // All requests have arrived by now, in the same few packets. The wait gives the daemon time
    // to read more.
    tokio::time::timeout(Duration::from_millis(200), answers.message())
        .await
        .expect_err("nothing is answered while the store is stopped");
    assert_eq!(reached(&service), IN_FLIGHT, "expected the limit");
    service.faults.stop(false);
    let mut answered = 0;
    while answers.message().await.expect("the stream goes on").is_some() {
        answered += 1;
    }
    assert_eq!(answered, browsers.len(), "expected an answer to every operation");
}

/// One that runs goes on, and those behind it still come after it. One that waits behind
/// another never begins.
#[tokio::test]
async fn an_operation_that_takes_too_long_is_answered_in_time() {
    let mut service = service().await;
    let (slow, other) = (service.visitor().await, service.visitor().await);
    let write = |text: &str| WriteRequest { credential: slow.credential(), ..set(text) };
    let resolve = |browser: &Browser| {
        let credential = browser.credential();
        Operation::Resolve(ResolveRequest { credential, ..Default::default() })
    };
    let short = Some(prost_types::Duration { seconds: 0, nanos: 50_000_000 });
    let (sender, receiver) = mpsc::channel(8);
    let send = async |sequence, operation, timeout| {
        let request = PipelineRequest { sequence, operation: Some(operation), timeout };
        sender.send(request).await.expect("there is room");
    };
    let opened = service.client.clone().pipeline(ReceiverStream::new(receiver)).await;
    let mut answers = opened.expect("the stream opens").into_inner();

    service.faults.stop(true);
    send(1, Operation::Write(write(r#"{"first":1}"#)), short).await;
    send(2, Operation::Write(write(r#"{"second":2}"#)), short).await;
    send(3, resolve(&other), None).await;
    for _ in 0..2 {
        let answer = tokio::time::timeout(PATIENCE, answers.message()).await;
        let answer = answer.expect("in time").expect("the stream goes on").expect("an answer");
        let Some(Answer::Error(error)) = answer.result else {
            panic!("expected a fault, found {answer:?}");
        };
        let details = prost::Message::encode_to_vec(&error).into();
        let status = Status::with_details(error.code.into(), error.message, details);
        assert_fault(&status, Code::DeadlineExceeded, "TIMEOUT", None);
        let expected = if answer.sequence == 1 { "unknown" } else { "no" };
        assert_eq!(applied(&status).as_deref(), Some(expected), "operation {}", answer.sequence);
    }
    send(4, resolve(&slow), Some(prost_types::Duration { seconds: 60, nanos: 0 })).await;
    service.faults.stop(false);
    let mut found = std::collections::BTreeMap::new();
    drop(sender);
    while let Some(answer) = answers.message().await.expect("the stream ends well") {
        found.insert(answer.sequence, answer.result);
    }
    assert_eq!(found.keys().collect::<Vec<_>>(), [&3, &4], "expected each to be answered once");
    let Some(Some(Answer::Resolve(resolved))) = found.remove(&4) else {
        panic!("expected a session, found {found:?}");
    };
    let data = resolved.session.expect("it is live").data;
    assert_eq!(data, r#"{"first":1}"#, "expected the first one, and not the second one");
}

#[tokio::test]
async fn a_timeout_that_is_none_is_a_fault_of_one_operation() {
    let mut service = service().await;
    let timeouts = [(0, 0), (-1, 0), (0, -1), (0, 1_000_000_000), (i64::MAX, 0), (1, 0)];
    let requests: Vec<_> = (1..)
        .zip(timeouts)
        .map(|(sequence, (seconds, nanos))| PipelineRequest {
            sequence,
            operation: Some(Operation::Resolve(ResolveRequest::default())),
            timeout: Some(prost_types::Duration { seconds, nanos }),
        })
        .collect();
    let last = requests.len() as u64;
    let opened = service.client.pipeline(tokio_stream::iter(requests)).await;
    let mut answers = opened.expect("the stream opens").into_inner();
    while let Some(answer) = answers.message().await.expect("the stream goes on") {
        let is_fault = matches!(&answer.result, Some(Answer::Error(error))
            if error.message.contains("more than zero"));
        assert_eq!(is_fault, answer.sequence != last, "{answer:?}");
    }
}

#[tokio::test]
async fn the_cleanup_outlives_a_failing_store() {
    let mut service = service().await;
    service.visitor().await;
    service.clock.advance(Duration::from_secs(4000));
    service.faults.fail(true);
    let before = service.faults.reached.load(Ordering::SeqCst);
    let entropy = Arc::new(SystemEntropy);
    let engine = Arc::clone(&service.engine);
    let task = tokio::spawn(cleanup::run(engine, Duration::from_millis(5), 10, entropy));
    let waited = tokio::time::timeout(PATIENCE, async {
        while service.faults.reached.load(Ordering::SeqCst) < before + 3 {
            tokio::task::yield_now().await;
        }
        assert_eq!(service.engine.count(), Some(1), "expected no session to be removed yet");
        service.faults.fail(false);
        while service.engine.count() > Some(0) {
            tokio::task::yield_now().await;
        }
    });
    waited.await.expect("expected retries until the store works");
    assert!(!task.is_finished(), "expected the task to run for ever");
    task.abort();
}
