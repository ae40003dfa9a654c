//! The cost of the parts of an operation: `cargo bench --bench parts`
//!
//! Besides the parts, it measures a whole Resolve of a hot session in the process, from the
//! request message to the response message (target: at most 1.0 µs), and 64 of them in one
//! Pipeline. Neither a socket nor HTTP/2 is involved.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    hint::black_box,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::{BufMut, Bytes, BytesMut};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use http::{HeaderMap, Response, Uri};
use http_body::Body;
use http_body_util::{BodyExt, Full};
use prost::Message;
use sessiond::{
    grpc::{
        pb::{PipelineRequest, ResolveRequest, pipeline_request},
        peer::{Peer, ReleasedWhenRead},
        session_service::{SessionService, UnaryCall},
        spans::Traces,
    },
    server::{clock::SystemClock, metrics::Metrics, system::SystemEntropy},
    service::{engines::Engines, observer::OperationKind},
    session::{
        clock::{Clock, Moment, WallOffset},
        cookie::values,
        credential::Credential,
        data::{Data, MAX_KEYS},
        engine::{Engine, WriteOptions},
        id::{PublicId, SessionId, VerifierHash},
        policy::Policy,
        record::{Record, Touch},
        store::{Certainty, Store},
    },
    store::{
        codec::{self, Layout},
        sled::{Durability, SledDatabase, SledOptions},
    },
    trace::{Finished, Sink, Tracer},
};
use tokio::runtime::Runtime;

#[path = "support/mod.rs"]
mod support;

use support::{
    daemon::{data, resolve},
    engine::{COOKIE, LIFETIME, cookie, keyring},
};

const DATA_BYTES: usize = 400;
const SESSIONS: usize = 10_000;
const PIPELINED: usize = 64;
const NOW: Moment = Moment::from_unix_millis(1_800_000_000_000);

criterion_group! {
    name = benches;
    config = Criterion::default()
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(3));
    targets = tokens_and_cookies, records, stores, resolves
}
criterion_main!(benches);

fn tokens_and_cookies(criterion: &mut Criterion) {
    let keyring = keyring();
    let id = SessionId::generate(&SystemEntropy);
    let token = keyring.sign(&id).expose().to_owned();
    let mut group = criterion.benchmark_group("token");
    group.bench_function("generate an id", |bench| {
        bench.iter(|| SessionId::generate(&SystemEntropy));
    });
    group.bench_function("sign", |bench| bench.iter(|| keyring.sign(black_box(&id))));
    group.bench_function("verify", |bench| {
        bench.iter(|| keyring.verify(black_box(token.as_bytes())).expect("it is authentic"));
    });
    group.finish();

    let alone = format!("{COOKIE}={token}");
    let others = "_ga=GA1.1.1234567890.1700000000; theme=dark; consent=all; locale=en-GB";
    let among = format!("{others}; {COOKIE}={token}; cart=3");
    let mut group = criterion.benchmark_group("cookie");
    for (what, header) in [("scan, alone", &alone), ("scan, among others", &among)] {
        group.bench_function(what, |bench| {
            bench.iter(|| values(black_box(header.as_bytes()), COOKIE).count());
        });
    }
    let (cookie, token) = (cookie(), keyring.sign(&id));
    group.bench_function("set-cookie", |bench| {
        bench.iter(|| {
            cookie.set(black_box(&token), true, NOW + LIFETIME.duration, NOW, WallOffset::ZERO)
        });
    });
    group.finish();
}

fn record() -> Record {
    Record {
        verifier: VerifierHash::from_bytes([1; 32]),
        version: 1,
        create_time: NOW,
        deadline: LIFETIME.deadline(NOW, None, NOW),
        duration: None,
        principal: Default::default(),
        data: Data::parse(data(DATA_BYTES).into()).expect("JSON"),
        extension: Default::default(),
    }
}

fn records(criterion: &mut Criterion) {
    let record = record();
    let mut encoded = Vec::new();
    codec::encode(&record, Layout::LATEST, &mut encoded);
    let encoded = Bytes::from(encoded);
    let mut group = criterion.benchmark_group("record");
    group.bench_function("encode", |bench| {
        let mut bytes = Vec::new();
        bench.iter(|| {
            bytes.clear();
            codec::encode(black_box(&record), Layout::LATEST, &mut bytes);
            bytes.len()
        });
    });
    group.bench_function("decode", |bench| {
        bench.iter(|| codec::decode(black_box(encoded.clone())).expect("our own bytes"));
    });
    group.finish();

    // Some members, as in real sessions.
    let members = (0..8).map(|number| format!(r#""member{number}":"{}""#, "x".repeat(32)));
    let members = format!("{{{}}}", members.collect::<Vec<_>>().join(","));
    let stored = Data::parse(members.clone().into()).expect("JSON");
    let set = Data::parse(r#"{"member3":[1,2,3]}"#.into()).expect("JSON");
    let mut group = criterion.benchmark_group("data");
    let text = Bytes::from(members);
    group.bench_function("parse", |bench| {
        bench.iter(|| Data::parse(black_box(text.clone())).expect("JSON"));
    });
    group.bench_function("merge", |bench| {
        bench.iter(|| black_box(&stored).merge(&[], &set).expect("objects"));
    });
    // As many as there may be, and the worst that a caller can send.
    let keys = |count: usize| {
        let members: Vec<_> = (0..count).map(|number| format!(r#""k{number}":0"#)).collect();
        format!("{{{}}}", members.join(","))
    };
    let many = Bytes::from(keys(MAX_KEYS));
    let stored = Data::parse(many.clone()).expect("JSON");
    let one = Data::parse(r#"{"k7":[1,2,3]}"#.into()).expect("JSON");
    let unset: Vec<_> = (0..1000).map(|number| format!("k{}", number * 4)).collect();
    group.bench_function("parse, 4096 keys", |bench| {
        bench.iter(|| Data::parse(black_box(many.clone())).expect("JSON"));
    });
    group.bench_function("merge, one key of 4096", |bench| {
        bench.iter(|| black_box(&stored).merge(&[], &one).expect("objects"));
    });
    group.bench_function("merge, 1000 unset and 3000 set of 4096", |bench| {
        let set = Data::parse(keys(3000).into()).expect("JSON");
        bench.iter(|| black_box(&stored).merge(&unset, &set).expect("objects"));
    });
    group.finish();
}

fn database(directory: &std::path::Path, cache_bytes: u64) -> SledDatabase {
    SledDatabase::open(SledOptions {
        path: directory.to_owned(),
        cache_bytes,
        flush_interval: Duration::from_millis(100),
        threads: 2,
        max_pending: 4096,
        on_damage: sessiond::store::sled::OnDamage::Refuse,
        min_free_bytes: 0,
        write: Durability::Flushed,
        destroy: Durability::Synced,
        roll: Durability::Synced,
    })
    .expect("a fresh database opens")
}

fn public_id(number: usize) -> PublicId {
    let mut bytes = [0; 12];
    bytes[..8].copy_from_slice(&(number as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
    PublicId::from_bytes(bytes)
}

/// The next index, in a scattered order.
fn next(turn: &AtomicUsize, of: usize) -> usize {
    turn.fetch_add(7919, Ordering::Relaxed) % of
}

fn stores(criterion: &mut Criterion) {
    let runtime = runtime();
    let (small, large) = (tempfile::tempdir(), tempfile::tempdir());
    let (small, large) = (small.expect("a directory"), large.expect("a directory"));
    // In one, all records fit into the table. In the other, almost none do.
    let hot = database(large.path(), 64 << 20);
    let cold = database(small.path(), 256 << 10);
    let hot = hot.store("default").expect("a store");
    let cold = cold.store("default").expect("a store");
    for number in 0..SESSIONS {
        for store in [&hot, &cold] {
            let created = runtime.block_on(store.create(public_id(number), record()));
            created.expect("the store works").expect("the id is free");
        }
    }
    let turn = AtomicUsize::new(0);
    let verifier = record().verifier;
    let touch = |now| Touch { lifetime: LIFETIME, verifier, now, duration: None };
    let mut group = criterion.benchmark_group("sled");
    group.bench_function("recall, in the table", |bench| {
        bench.iter(|| hot.recall(public_id(next(&turn, SESSIONS))).expect("it is there"));
    });
    let any = black_box::<&dyn Store>(&hot);
    group.bench_function("recall, in the table, as dyn Store", |bench| {
        bench.iter(|| any.recall(public_id(next(&turn, SESSIONS))).expect("it is there"));
    });
    // These two go to a thread of the store, even if the record is in memory.
    group.bench_function("read, in the table", |bench| {
        bench
            .to_async(&runtime)
            .iter(|| hot.read(public_id(next(&turn, SESSIONS)), Certainty::Current));
    });
    group.bench_function("touch that moves nothing, in the table", |bench| {
        bench.to_async(&runtime).iter(|| hot.touch(public_id(next(&turn, SESSIONS)), touch(NOW)));
    });
    let later = AtomicUsize::new(1);
    group.bench_function("touch that moves the deadline", |bench| {
        bench.to_async(&runtime).iter(|| {
            // Each touch is more than a granularity later.
            let step = Duration::from_secs(60) * later.fetch_add(1, Ordering::Relaxed) as u32;
            let touched = hot.touch(public_id(0), touch(NOW + step));
            async {
                let touched = touched.await.expect("the store works").expect("it is there");
                assert!(touched.moved, "expected the deadline to be due");
            }
        });
    });
    group.bench_function("read, in neither cache", |bench| {
        bench
            .to_async(&runtime)
            .iter(|| cold.read(public_id(next(&turn, SESSIONS)), Certainty::Current));
    });
    group.bench_function("read, no such record", |bench| {
        bench
            .to_async(&runtime)
            .iter(|| hot.read(public_id(SESSIONS + next(&turn, SESSIONS)), Certainty::Current));
    });
    group.finish();
}

fn runtime() -> Runtime {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime")
}

/// Reads the complete answer, as the code that sends it would. Returns its number of octets.
async fn read(answer: Response<impl Body<Data = Bytes, Error = Infallible> + Unpin>) -> usize {
    let mut body = answer.into_body();
    let mut len = 0;
    while let Some(Ok(frame)) = body.frame().await {
        match frame.into_data() {
            Ok(data) => len += data.len(),
            Err(frame) => {
                let status = frame.trailers_ref().and_then(|trailers| trailers.get("grpc-status"));
                assert!(status.is_some_and(|status| status == "0"), "it has failed: {status:?}");
            }
        }
    }
    len
}

/// Where no span arrives.
struct Nowhere;

impl Sink for Nowhere {
    fn take(&self, _: Finished) {
        unreachable!("no trace is recorded")
    }
}

fn resolves(criterion: &mut Criterion) {
    let runtime = runtime();
    let directory = tempfile::tempdir().expect("a directory");
    let metrics = Metrics::new();
    let store = database(directory.path(), 64 << 20).store("default").expect("a store");
    let policy = Policy {
        limit: None,
        keyring: keyring(),
        cookie: cookie(),
        lifetime: LIFETIME,
        roll_grace: Duration::from_secs(60),
        automatic_touch: true,
        max_data_bytes: 64 << 10,
    };
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::start());
    let store = Arc::new(metrics.measured("default", Arc::new(store)));
    let engine = Arc::new(Engine::new("default", policy, store, clock, Arc::new(SystemEntropy)));
    let requests: Vec<ResolveRequest> = (0..SESSIONS)
        .map(|_| {
            let set = Data::parse(data(DATA_BYTES).into()).expect("JSON");
            let options = WriteOptions { set, ..Default::default() };
            let created = runtime.block_on(engine.create(options)).expect("the store works");
            let line = created.cookie.set_cookie.expect("a new session's");
            resolve(line.expose().split(';').next().expect("it has a pair"))
        })
        .collect();
    let turn = AtomicUsize::new(0);
    let request = || requests[next(&turn, SESSIONS)].clone();
    let engines = Engines::new(BTreeMap::from([("default".to_owned(), Arc::clone(&engine))]));
    let service = SessionService {
        observer: Arc::new(metrics.of_requests(&engines)),
        engines,
        max_message_bytes: 64 << 10,
        pipeline_in_flight: 256,
    };
    let peer = Peer::unbounded();

    let mut group = criterion.benchmark_group("resolve");
    group.bench_function("present: scan and verify", |bench| {
        bench.iter_batched(
            request,
            |request| {
                let kind = request.credential.and_then(|credential| credential.kind);
                let Some(sessiond::grpc::pb::credential::Kind::CookieHeader(header)) = kind else {
                    unreachable!("it was made so");
                };
                engine.present(Credential::CookieHeader(&header))
            },
            BatchSize::SmallInput,
        );
    });

    let framed = |message: &[u8]| {
        let mut framed = BytesMut::new();
        framed.put_u8(0);
        framed.put_u32(message.len() as u32);
        framed.put_slice(message);
        framed.freeze()
    };
    let unary: Vec<Bytes> =
        requests.iter().map(|request| framed(&request.encode_to_vec())).collect();
    // With traces, and a call that is not recorded, as nearly all are.
    let traced = Traces::by(Tracer::new(0.0, || Duration::ZERO, Nowhere));
    let traces = [("", Traces::default()), (", traced", traced)];
    let (headers, uri) = (HeaderMap::new(), Uri::from_static("http://localhost/a/b"));
    for (name, traces) in &traces {
        group.bench_function(format!("in the process, hot{name}"), |bench| {
            bench.to_async(&runtime).iter(async || {
                let body = ReleasedWhenRead(Full::new(unary[next(&turn, SESSIONS)].clone()));
                let span = traces.call(&headers, &uri, &peer, None);
                let call = UnaryCall::Operation(OperationKind::Resolve);
                read(service.unary(call, body, &peer, span).await).await
            });
        });
    }
    let streams: Vec<Bytes> = requests
        .chunks_exact(PIPELINED)
        .map(|requests| {
            let message = |(sequence, request): (u64, &ResolveRequest)| {
                let operation = Some(pipeline_request::Operation::Resolve(request.clone()));
                framed(&PipelineRequest { sequence, operation, timeout: None }.encode_to_vec())
            };
            let messages: Vec<Bytes> = (0..).zip(requests).map(message).collect();
            messages.concat().into()
        })
        .collect();
    group.throughput(Throughput::Elements(PIPELINED as u64));
    for (name, traces) in &traces {
        group.bench_function(format!("64 in one Pipeline{name}"), |bench| {
            bench.to_async(&runtime).iter(async || {
                let body = ReleasedWhenRead(Full::new(streams[next(&turn, streams.len())].clone()));
                read(service.pipeline(body, &peer, traces.stream(&headers, &uri, &peer))).await
            });
        });
    }
    group.finish();
}
