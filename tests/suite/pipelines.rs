//! Pipeline: the order per session, one answer for each request, its limits, and errors within
//! a stream.

use std::{collections::BTreeMap, time::Duration};

use sessiond::{
    grpc::pb::{
        DestroyRequest, DestroyScope, PipelineRequest, PipelineResponse, ResolveRequest,
        SessionState, TouchRequest, WriteRequest, pipeline_request::Operation,
        pipeline_response::Result as Answer,
    },
    server::config::Backend,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Streaming};

use crate::{
    over_every_store,
    support::{
        browser::{Browser, cookie_header},
        daemon::{Daemon, assert_fault, set},
        program::PATIENCE,
    },
};

over_every_store!(
    operations_on_one_session_keep_their_order,
    every_operation_is_answered_once,
    a_bad_operation_does_not_end_the_stream,
    too_many_keys_to_unset_are_a_fault_of_one_operation,
    flow_control_holds_a_sender_that_does_not_read,
    a_stopping_daemon_answers_what_it_took,
    a_deadline_ends_the_stream,
    several_cookies_stand_in_several_lanes,
    wider_scopes_keep_the_order_of_their_own_session,
);

fn request(sequence: u64, operation: Operation) -> PipelineRequest {
    PipelineRequest { sequence, operation: Some(operation), timeout: None }
}

fn resolve(browser: &Browser) -> Operation {
    Operation::Resolve(ResolveRequest { credential: browser.credential(), ..Default::default() })
}

fn write(browser: &Browser, text: &str) -> Operation {
    Operation::Write(WriteRequest { credential: browser.credential(), ..set(text) })
}

async fn open(
    daemon: &Daemon,
    room: usize,
) -> (mpsc::Sender<PipelineRequest>, Streaming<PipelineResponse>) {
    let (sender, receiver) = mpsc::channel(room);
    let answer = daemon.client.clone().pipeline(ReceiverStream::new(receiver)).await;
    (sender, answer.expect("the stream opens").into_inner())
}

/// Sends all requests, closes the stream, and returns the answers by sequence.
async fn all(daemon: &Daemon, requests: Vec<PipelineRequest>) -> BTreeMap<u64, Answer> {
    let (sender, mut answers) = open(daemon, requests.len().max(1)).await;
    let expected = requests.len();
    for request in requests {
        sender.send(request).await.expect("the stream is open");
    }
    drop(sender);
    let mut by_sequence = BTreeMap::new();
    while let Some(answer) = answers.message().await.expect("the stream is open") {
        let result = answer.result.expect("an answer has a result");
        let twice = by_sequence.insert(answer.sequence, result);
        assert!(twice.is_none(), "{} has two answers", answer.sequence);
    }
    assert_eq!(by_sequence.len(), expected, "expected one answer for each operation");
    by_sequence
}

async fn operations_on_one_session_keep_their_order(backend: Backend) {
    let daemon = Daemon::start(backend).await;
    let mut browsers = Vec::new();
    for _ in 0..5 {
        browsers.push(daemon.visitor(r#"{"n":0}"#).await);
    }
    let mut requests = Vec::new();
    for n in 1..=30 {
        for browser in &browsers {
            let sequence = requests.len() as u64;
            requests.push(request(sequence, write(browser, &format!(r#"{{"n":{n}}}"#))));
            requests.push(request(sequence + 1, resolve(browser)));
        }
    }
    for browser in &browsers {
        let credential = browser.credential();
        let sequence = requests.len() as u64;
        let destroy = DestroyRequest { credential, ..Default::default() };
        requests.push(request(sequence, Operation::Destroy(destroy)));
        requests.push(request(sequence + 1, resolve(browser)));
    }
    let answers = all(&daemon, requests).await;
    let mut resolved = answers.values().filter_map(|answer| match answer {
        Answer::Resolve(resolved) => Some(resolved),
        _ => None,
    });
    for n in 1..=30 {
        for _ in &browsers {
            let session = resolved.next().expect("an answer").session.clone();
            let session = session.expect("each Resolve comes before the Destroy");
            assert_eq!(session.data, format!(r#"{{"n":{n}}}"#), "the Write before it");
            assert_eq!(session.version, n + 1);
        }
    }
    for late in resolved {
        assert_eq!(late.state(), SessionState::NotFound, "expected NOT_FOUND after the Destroy");
    }
}

async fn every_operation_is_answered_once(backend: Backend) {
    let daemon = Daemon::start(backend).await;
    let browser = daemon.visitor("{}").await;
    let touch = TouchRequest { credential: browser.credential(), ..Default::default() };
    let answers = all(
        &daemon,
        vec![
            request(7, resolve(&browser)),
            request(5, Operation::Touch(touch)),
            request(3, write(&browser, r#"{"a":1}"#)),
            request(1, Operation::Write(set("{}"))),
            request(9, Operation::Resolve(ResolveRequest { create: true, ..Default::default() })),
            request(
                2,
                Operation::Destroy(DestroyRequest {
                    credential: browser.credential(),
                    ..Default::default()
                }),
            ),
        ],
    )
    .await;
    let kinds: Vec<_> = answers
        .iter()
        .map(|(sequence, answer)| {
            (
                *sequence,
                match answer {
                    Answer::Resolve(resolved) => {
                        format!("resolve {}", resolved.state().as_str_name())
                    }
                    Answer::Touch(touched) => format!("touch {}", touched.state().as_str_name()),
                    Answer::Write(written) => {
                        format!("write {}", written.session.as_ref().expect("a session").version)
                    }
                    Answer::Destroy(destroyed) => format!("destroy {}", destroyed.destroyed),
                    Answer::Error(error) => format!("error {}", error.message),
                },
            )
        })
        .collect();
    let expected = [
        (1, "write 1"),
        (2, "destroy 1"),
        (3, "write 2"),
        (5, "touch SESSION_STATE_ACTIVE"),
        (7, "resolve SESSION_STATE_ACTIVE"),
        (9, "resolve SESSION_STATE_CREATED"),
    ];
    assert_eq!(kinds, expected.map(|(sequence, kind)| (sequence, kind.to_owned())));
}

async fn a_bad_operation_does_not_end_the_stream(backend: Backend) {
    let daemon = Daemon::start(backend).await;
    let gone = Browser { cookie: Some("session=x.y".to_owned()) };
    let unary = daemon.try_write(set("[")).await.expect_err("no JSON object");
    let answers = all(
        &daemon,
        vec![
            request(1, Operation::Write(set("["))),
            PipelineRequest { sequence: 2, operation: None, timeout: None },
            request(3, write(&gone, "{}")),
            request(
                4,
                Operation::Touch(TouchRequest { engine: "nope".into(), ..Default::default() }),
            ),
            request(5, Operation::Write(set("{}"))),
        ],
    )
    .await;
    for (sequence, code, reason, field) in [
        (1, Code::InvalidArgument, "INVALID_DATA", Some("set")),
        (2, Code::InvalidArgument, "INVALID_ARGUMENT", Some("operation")),
        (3, Code::NotFound, "SESSION_GONE", None),
        (4, Code::InvalidArgument, "UNKNOWN_ENGINE", Some("engine")),
    ] {
        let Answer::Error(error) = &answers[&sequence] else {
            panic!("expected {sequence} to fail, found {:?}", answers[&sequence]);
        };
        let details = prost::Message::encode_to_vec(error);
        let status = tonic::Status::with_details(error.code.into(), &error.message, details.into());
        assert_fault(&status, code, reason, field);
        if sequence == 1 {
            assert_eq!(status.details(), unary.details(), "expected the details of the unary call");
        }
    }
    assert!(matches!(answers[&5], Answer::Write(_)), "expected the stream to continue");
}

/// Answers are not read: the daemon must stop reading requests, and go on when
/// they are.
async fn too_many_keys_to_unset_are_a_fault_of_one_operation(backend: Backend) {
    let daemon = Daemon::start(backend).await;
    let browser = daemon.visitor(r#"{"a":1}"#).await;
    let unset = |count| {
        let unset = vec!["a".into(); count];
        Operation::Write(WriteRequest { unset, credential: browser.credential(), ..set("{}") })
    };
    let requests = vec![
        request(7, unset(1001)),
        request(8, unset(200_000)),
        request(9, resolve(&browser)),
        request(10, unset(1000)),
    ];
    let answers = all(&daemon, requests).await;
    for sequence in [7, 8] {
        let Answer::Error(error) = &answers[&sequence] else {
            panic!("expected operation {sequence} to be refused, found {:?}", answers[&sequence]);
        };
        assert!(error.message.contains("at most 1000 keys"), "{error:?}");
    }
    assert!(matches!(&answers[&9], Answer::Resolve(found) if found.session.is_some()));
    assert!(matches!(&answers[&10], Answer::Write(_)), "1000 keys are taken");
}

async fn flow_control_holds_a_sender_that_does_not_read(backend: Backend) {
    let daemon = Daemon::with(backend, |config| config.limits.pipeline_in_flight = 8).await;
    let browser = daemon.visitor(&format!(r#"{{"a":"{}"}}"#, "x".repeat(30_000))).await;
    let (sender, mut answers) = open(&daemon, 1).await;
    let mut sent = 0;
    // Only a sender that is held waits this long. What it sends before fills the windows and
    // buffers on the way.
    let held = loop {
        let next = sender.send(request(sent, resolve(&browser)));
        match tokio::time::timeout(Duration::from_millis(500), next).await {
            Ok(result) => result.expect("the stream is open"),
            Err(_) => break true,
        }
        sent += 1;
        if sent == 20_000 {
            break false;
        }
    };
    assert!(held, "20,000 requests were read without a read answer");
    let reader = tokio::spawn(async move {
        let mut read = 0;
        while let Some(answer) = answers.message().await.expect("the stream goes on") {
            assert!(matches!(answer.result, Some(Answer::Resolve(_))));
            read += 1;
        }
        read
    });
    for more in 0..50 {
        sender.send(request(sent + more, resolve(&browser))).await.expect("it goes on");
    }
    drop(sender);
    assert_eq!(reader.await.expect("a reader"), sent + 50, "expected an answer to each request");
}

async fn a_stopping_daemon_answers_what_it_took(backend: Backend) {
    let mut daemon = Daemon::start(backend).await;
    let browser = daemon.visitor("{}").await;
    let (sender, mut answers) = open(&daemon, 4).await;
    sender.send(request(1, write(&browser, r#"{"a":1}"#))).await.expect("the stream is open");
    let first = answers.message().await.expect("answered").expect("an answer");
    assert_eq!(first.sequence, 1);
    daemon.ask_to_stop();
    let status = loop {
        match answers.message().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("expected the stream to end with UNAVAILABLE"),
            Err(status) => break status,
        }
    };
    assert_fault(&status, Code::Unavailable, "SHUTTING_DOWN", None);
    let _stopped = daemon.stop().await;
}

async fn a_deadline_ends_the_stream(backend: Backend) {
    let daemon = Daemon::start(backend).await;
    let browser = daemon.visitor("{}").await;
    // A busy machine may need more time for the first answer.
    for seconds in [2, 10, 40] {
        let (sender, receiver) = mpsc::channel(4);
        let mut call = Request::new(ReceiverStream::new(receiver));
        call.set_timeout(Duration::from_secs(seconds));
        sender.send(request(1, write(&browser, r#"{"a":1}"#))).await.expect("there is room");
        let Ok(opened) = daemon.client.clone().pipeline(call).await else { continue };
        let mut answers = opened.into_inner();
        let Ok(first) = answers.message().await else { continue };
        assert_eq!(first.expect("an answer").sequence, 1);
        let ended = tokio::time::timeout(PATIENCE, answers.message()).await;
        let status = ended.expect("the stream ends in time").expect_err("with a status");
        assert_fault(&status, Code::DeadlineExceeded, "TIMEOUT", None);
        return;
    }
    panic!("expected an answer before the deadline");
}

async fn several_cookies_stand_in_several_lanes(backend: Backend) {
    let daemon = Daemon::start(backend).await;
    let (one, two) = (daemon.visitor(r#"{"n":1}"#).await, daemon.visitor(r#"{"n":2}"#).await);
    let both = cookie_header(format!("{}; {}", one.header(), two.header()));
    let destroy = DestroyRequest { credential: both, ..Default::default() };
    let answers = all(
        &daemon,
        vec![
            request(1, write(&one, r#"{"a":1}"#)),
            request(2, write(&two, r#"{"a":1}"#)),
            request(3, Operation::Destroy(destroy)),
            request(4, resolve(&one)),
            request(5, resolve(&two)),
        ],
    )
    .await;
    assert!(matches!(&answers[&1], Answer::Write(_)) && matches!(&answers[&2], Answer::Write(_)));
    for late in [4, 5] {
        let Answer::Resolve(resolved) = &answers[&late] else { panic!("a Resolve") };
        assert_eq!(resolved.state(), SessionState::NotFound, "{late}: after the Destroy");
    }
}

fn destroy(browser: &Browser, scope: DestroyScope) -> Operation {
    let credential = browser.credential();
    Operation::Destroy(DestroyRequest { credential, scope: scope.into(), ..Default::default() })
}

/// A Destroy is ordered with the operations on its own session. Other sessions that it ends
/// have ended when it is answered.
async fn wider_scopes_keep_the_order_of_their_own_session(backend: Backend) {
    let daemon = Daemon::start(backend).await;
    let here = daemon.login("ann").await;
    let mut others = Vec::new();
    for _ in 0..40 {
        others.push(daemon.login("ann").await);
    }
    let bobs = daemon.login("bob").await;
    let (sender, mut answers) = open(&daemon, 16).await;
    let mut next = async || answers.message().await.expect("the stream goes on").expect("one");
    sender.send(request(1, write(&here, r#"{"a":1}"#))).await.expect("the stream is open");
    sender.send(request(2, destroy(&here, DestroyScope::Others))).await.expect("open");
    sender.send(request(3, write(&here, r#"{"a":2}"#))).await.expect("open");
    let mut seen = Vec::new();
    for _ in 0..3 {
        let answer = next().await;
        seen.push(answer.sequence);
        match answer.result.expect("a result") {
            Answer::Destroy(destroyed) => assert_eq!(destroyed.destroyed, 40),
            Answer::Write(written) => {
                let version = written.session.expect("a session").version;
                assert_eq!(version, 2 + u64::from(answer.sequence == 3), "in the order sent");
            }
            other => panic!("expected a Write or a Destroy, found {other:?}"),
        }
    }
    assert_eq!(seen, [1, 2, 3], "expected the order of one lane");
    for (at, other) in others.iter().enumerate() {
        sender.send(request(10 + at as u64, resolve(other))).await.expect("open");
        let Some(Answer::Resolve(resolved)) = next().await.result else { panic!("a Resolve") };
        assert_eq!(resolved.state(), SessionState::NotFound, "expected the end before the answer");
    }
    sender.send(request(60, destroy(&here, DestroyScope::All))).await.expect("open");
    sender.send(request(61, resolve(&here))).await.expect("open");
    sender.send(request(62, resolve(&bobs))).await.expect("open");
    drop(sender);
    let mut states = BTreeMap::new();
    while let Some(answer) = answers.message().await.expect("the stream goes on") {
        if let Some(Answer::Resolve(resolved)) = answer.result {
            states.insert(answer.sequence, resolved.state());
        }
    }
    assert_eq!(states[&61], SessionState::NotFound, "expected NOT_FOUND after the Destroy");
    assert_eq!(states[&62], SessionState::Active, "expected bob's session to stay live");
}
