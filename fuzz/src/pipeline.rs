//! The Pipeline stream: a script of requests runs through the service as it is served, on a
//! memory store that sometimes yields to other tasks.
//!
//! Each step of a script is three octets: what to do, with which credential, and how. The
//! meaning of an octet is not a stable format: an old corpus may mean something else today.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::{Buf, BufMut, Bytes};
use http_body_util::{BodyExt, Full};
use prost::Message;
use sessiond::{
    grpc::{
        handler::Handler,
        health::{HealthService, Serving},
        pb::{
            Credential, DestroyRequest, PipelineRequest, PipelineResponse, ResolveRequest,
            SessionState, TouchRequest, WriteRequest, credential::Kind,
            pipeline_request::Operation, pipeline_response::Result as Answer,
        },
        peer::{Peer, ReleasedWhenRead},
        session_service::SessionService,
        spans::Traces,
    },
    service::{
        engines::Engines,
        observer::{Observer, Outcome, Subject},
    },
    session::{
        id::PublicId,
        record::Record,
        store::{Layer, Store, StoreFuture, Verb},
    },
    store::memory::MemoryStore,
};
use tokio::sync::watch;
use tonic::{Code, Status, service::Routes};

use super::cookie::{NAME, engine};

/// Sessions that exist when the script begins.
const SESSIONS: usize = 3;
/// How many steps are read. A longer script shows nothing new.
const MAX_STEPS: usize = 64;
/// Fewer than the steps, so that flow control takes part.
const IN_FLIGHT: usize = 8;

pub fn run(input: &[u8]) {
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    runtime.expect("a runtime without drivers").block_on(drive(input));
}

async fn drive(input: &[u8]) {
    let store = Arc::new(Hesitant::new(input));
    let engine = Arc::new(engine(store));
    let engines = Engines::new(BTreeMap::from([("default".to_owned(), engine)]));
    let service = SessionService {
        engines,
        observer: Arc::new(Unseen),
        max_message_bytes: 64 << 10,
        pipeline_in_flight: IN_FLIGHT,
    };
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
    let handler = Arc::new(handler);

    let create = |sequence| PipelineRequest {
        sequence,
        operation: Some(Operation::Write(WriteRequest {
            set: Bytes::from_static(br#"{"n":0}"#),
            ..Default::default()
        })),
        timeout: None,
    };
    let creations: Vec<_> =
        (0..SESSIONS as u64).map(|n| frame(&create(n).encode_to_vec())).collect();
    let (made, status) = call(&handler, creations.concat()).await;
    assert_eq!(status, Code::Ok, "expected the stream of creations to end well");
    let token = |answer: &PipelineResponse| match &answer.result {
        Some(Answer::Write(write)) => write.token.clone(),
        _ => panic!("expected each creation to be answered with a session"),
    };
    let tokens: Vec<_> = made.iter().map(token).collect();

    let script = Script::read(input, &tokens);
    let frames: Vec<_> = script.messages.iter().map(|message| frame(message)).collect();
    let (answers, status) = call(&handler, frames.concat()).await;
    script.judge(&answers, status);
}

/// An uncompressed gRPC frame: its header with the length, and the message.
fn frame(message: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(5 + message.len());
    frame.put_u8(0);
    frame.put_u32(message.len() as u32);
    frame.put_slice(message);
    frame
}

/// Sends a whole stream. Returns all answers and the final status.
async fn call(handler: &Arc<Handler>, body: Vec<u8>) -> (Vec<PipelineResponse>, Code) {
    let request = http::Request::post("/sessiond.v1.SessionService/Pipeline")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(ReleasedWhenRead(Full::new(Bytes::from(body))));
    let request = request.expect("a valid request");
    let answer = handler.handle(request, &Peer::unbounded()).await;
    // A stream without answers may end in the headers.
    let early = Status::from_header_map(answer.headers());
    let collected = answer.into_body().collect().await.expect("the body ends in order");
    let late = collected.trailers().and_then(Status::from_header_map);
    let status = late.or(early).expect("expected a status at the end of the stream");

    let mut bytes = collected.to_bytes();
    let mut answers = Vec::new();
    while !bytes.is_empty() {
        assert_eq!(bytes.get_u8(), 0, "expected answers that are not compressed");
        let len = bytes.get_u32() as usize;
        let message = bytes.split_to(len);
        answers.push(PipelineResponse::decode(message).expect("expected valid answers"));
    }
    (answers, status.code())
}

/// What is sent, and the properties of the answers.
#[derive(Default)]
struct Script {
    messages: Vec<Vec<u8>>,
    /// The requests before the first one that cannot be decoded.
    requests: Vec<PipelineRequest>,
    /// Whether a message that cannot be decoded ends the stream.
    malformed: bool,
    /// For each Resolve with the first token of a session: its sequence, if it was sent after a
    /// Destroy with the same token.
    must_be_gone: Vec<u64>,
}

impl Script {
    fn read(mut input: &[u8], tokens: &[String]) -> Self {
        let mut script = Self::default();
        let mut destroyed = [false; SESSIONS];
        while let [what, whom, how, rest @ ..] = input {
            input = rest;
            if script.messages.len() == MAX_STEPS {
                break;
            }
            let sequence = script.messages.len() as u64;
            let whole = usize::from(*whom) % 8;
            let credential = credential(whole, tokens, &mut input);
            let operation = match what % 8 {
                0 | 1 => {
                    if destroyed.get(whole) == Some(&true) {
                        script.must_be_gone.push(sequence);
                    }
                    let (peek, create) = (how & 1 != 0, how & 2 != 0);
                    let engine = engine_name(*how);
                    Some(Operation::Resolve(ResolveRequest { engine, credential, peek, create }))
                }
                2 => Some(Operation::Touch(TouchRequest {
                    engine: engine_name(*how),
                    credential,
                    duration: None,
                })),
                3..=5 => Some(Operation::Write(write(*how, credential, &mut input))),
                6 => {
                    let scope = i32::from(how & 3);
                    let engine = engine_name(*how);
                    if scope < 2 && engine.is_empty() && whole < SESSIONS {
                        destroyed[whole] = true;
                    }
                    Some(Operation::Destroy(DestroyRequest {
                        engine,
                        credential,
                        scope,
                        session_ids: Vec::new(),
                    }))
                }
                // The octets of the input without a change.
                _ if *how & 1 == 0 => {
                    let raw = take(&mut input, usize::from(*whom)).to_vec();
                    script.push_raw(raw);
                    continue;
                }
                _ => None,
            };
            let request = PipelineRequest { sequence, operation, timeout: None };
            script.messages.push(request.encode_to_vec());
            if !script.malformed {
                script.requests.push(request);
            }
        }
        script
    }

    fn push_raw(&mut self, raw: Vec<u8>) {
        match PipelineRequest::decode(&raw[..]) {
            Ok(request) if !self.malformed => self.requests.push(request),
            Ok(_) => {}
            Err(_) => self.malformed = true,
        }
        self.messages.push(raw);
    }

    fn judge(&self, answers: &[PipelineResponse], status: Code) {
        let expected = if self.malformed { Code::InvalidArgument } else { Code::Ok };
        assert_eq!(status, expected, "how the stream ends");
        let sorted = |mut all: Vec<u64>| {
            all.sort_unstable();
            all
        };
        let asked = sorted(self.requests.iter().map(|request| request.sequence).collect());
        let told = sorted(answers.iter().map(|answer| answer.sequence).collect());
        assert_eq!(told, asked, "expected one answer for each request");
        // A raw message may repeat a sequence. Then an answer cannot be assigned to its
        // request.
        let unique = |sequence: u64| asked.iter().filter(|one| **one == sequence).count() == 1;
        for answer in answers.iter().filter(|answer| unique(answer.sequence)) {
            let request = self.requests.iter().find(|one| one.sequence == answer.sequence);
            let operation = request.and_then(|request| request.operation.as_ref());
            let fits = matches!(
                (operation, &answer.result),
                (_, Some(Answer::Error(_)))
                    | (Some(Operation::Resolve(_)), Some(Answer::Resolve(_)))
                    | (Some(Operation::Touch(_)), Some(Answer::Touch(_)))
                    | (Some(Operation::Write(_)), Some(Answer::Write(_)))
                    | (Some(Operation::Destroy(_)), Some(Answer::Destroy(_)))
            );
            assert!(fits, "expected request {} to be answered by its own kind", answer.sequence);
            if let Some(Answer::Error(error)) = &answer.result {
                let fault = Code::from(error.code);
                let known = matches!(
                    fault,
                    Code::InvalidArgument | Code::NotFound | Code::Aborted | Code::Unimplemented
                );
                assert!(known, "expected an error of the caller's, found {fault:?}");
            }
            if self.must_be_gone.contains(&answer.sequence)
                && let Some(Answer::Resolve(resolve)) = &answer.result
            {
                let state = resolve.state();
                assert_ne!(state, SessionState::Active, "expected nothing after a Destroy");
            }
        }
    }
}

fn take<'i>(input: &mut &'i [u8], len: usize) -> &'i [u8] {
    let (taken, rest) = input.split_at(len.min(input.len()));
    *input = rest;
    taken
}

/// A text from the input, which begins with its length.
fn text(input: &mut &[u8]) -> Bytes {
    let len = take(input, 1).first().copied().unwrap_or_default();
    Bytes::copy_from_slice(take(input, usize::from(len) % 64))
}

fn engine_name(how: u8) -> Bytes {
    Bytes::from_static(if how & 0xf0 == 0xf0 { b"another" } else { b"" })
}

/// A number below [`SESSIONS`] is the first token of that session. Others give unusual
/// credentials.
fn credential(whole: usize, tokens: &[String], input: &mut &[u8]) -> Option<Credential> {
    let kind = match whole {
        ..SESSIONS => Kind::Token(tokens[whole].clone().into()),
        3 => return None,
        4 => return Some(Credential { kind: None }),
        5 => Kind::CookieHeader(text(input)),
        6 => Kind::Token(text(input)),
        // A credential with several sessions is in several lanes.
        _ => {
            let all: Vec<_> = tokens.iter().map(|token| format!("{NAME}={token}")).collect();
            Kind::CookieHeader(all.join("; ").into())
        }
    };
    Some(Credential { kind: Some(kind) })
}

fn write(how: u8, credential: Option<Credential>, input: &mut &[u8]) -> WriteRequest {
    let set = match how & 3 {
        0 => Bytes::new(),
        1 => Bytes::from_static(br#"{"n":1}"#),
        2 => Bytes::from_static(br#"{"m":[1,2,{"deep":null}]}"#),
        _ => text(input),
    };
    WriteRequest {
        engine: engine_name(how),
        credential,
        set,
        unset: if how & 4 != 0 { vec![text(input)] } else { Vec::new() },
        replace: how & 8 != 0,
        if_version: (how & 16 != 0).then(|| take(input, 1).first().copied().unwrap_or(1).into()),
        roll: how & 32 != 0,
        principal: (how & 64 != 0).then(|| text(input)),
        duration: (how & 128 != 0).then(|| {
            let millis = take(input, 1).first().copied().unwrap_or_default();
            prost_types_duration(Duration::from_millis(millis.into()))
        }),
        persistent: (how & 2 != 0).then_some(how & 1 != 0),
        label: (how & 12 == 12).then(|| text(input)),
    }
}

fn prost_types_duration(duration: Duration) -> prost_types::Duration {
    duration.try_into().expect("less than a second")
}

struct Unseen;

impl Observer for Unseen {
    fn finished(&self, _: Subject<'_>, _: Outcome, _: Duration) {}
}

/// A memory store that lets other tasks run before and after each operation, as often as the
/// input says. So operations overtake each other.
struct Hesitant {
    store: MemoryStore,
    pauses: Vec<u8>,
    next: AtomicUsize,
}

impl Hesitant {
    fn new(input: &[u8]) -> Self {
        Self { store: MemoryStore::default(), pauses: input.to_vec(), next: AtomicUsize::new(0) }
    }

    async fn pause(&self) {
        let at = self.next.fetch_add(7, Ordering::Relaxed);
        let pauses = self.pauses.get(at % self.pauses.len().max(1)).map_or(0, |octet| octet % 4);
        for _ in 0..pauses {
            tokio::task::yield_now().await;
        }
    }
}

impl Layer for Hesitant {
    fn inner(&self) -> &dyn Store {
        &self.store
    }

    fn around<'a, T: Send + 'a>(
        &'a self,
        _: Verb,
        operation: StoreFuture<'a, T>,
    ) -> StoreFuture<'a, T> {
        // Before and after the operation, because the answers must be correct in both orders.
        Box::pin(async {
            self.pause().await;
            let done = operation.await;
            self.pause().await;
            done
        })
    }

    /// Always `None`: an answer from memory could not be overtaken.
    fn recall(&self, _: PublicId) -> Option<Arc<Record>> {
        None
    }
}
