//! Servers that misbehave: a clear error, nothing lost, no answer to the wrong caller.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use sessiond_client::{
    Applied, Client, Credential, Data, Error, Reason, Result, State, WriteOptions, Written,
};
use tokio::sync::Notify;
use tonic::Code;

use crate::{
    pb::{self, SessionState, pipeline_response::Result as Answer},
    support::{
        Daemon, Proxy, create, in_time,
        raw::{Pipe, RawServer, pb_status::status},
    },
};

fn client(server: &RawServer) -> Client {
    Client::builder(&server.address).timeout(Duration::from_secs(3)).build().expect("an address")
}

async fn resolve(client: &Client) -> Result<State> {
    Ok(client.resolve(&Credential::token("some token")).await?.state)
}

async fn write(client: &Client, if_version: Option<u64>) -> Result<Written> {
    let options = WriteOptions { if_version, ..Default::default() };
    client.write(&Credential::token("some token"), options).await
}

/// Answers all Resolves with NONE from now on.
async fn behave(mut pipe: Pipe) {
    while let Some(request) = pipe.next().await {
        pipe.resolved(request.sequence, SessionState::None);
    }
}

#[tokio::test]
async fn answers_can_come_in_any_order() {
    const CALLS: u64 = 40;
    let server = RawServer::start(|mut pipe| async move {
        let mut sequences = Vec::new();
        for _ in 0..CALLS {
            sequences.push(pipe.next().await.expect("a request"));
        }
        for request in sequences.iter().rev() {
            let Some(pb::pipeline_request::Operation::Resolve(resolve)) = &request.operation else {
                panic!("expected a Resolve");
            };
            let state = if resolve.peek { SessionState::Expired } else { SessionState::Invalid };
            pipe.resolved(request.sequence, state);
        }
        pipe.stay().await;
    })
    .await;
    let client = client(&server);
    let calls = (0..CALLS).map(|number| {
        let client = client.clone();
        tokio::spawn(async move {
            let options =
                sessiond_client::ResolveOptions { peek: number % 3 == 0, ..Default::default() };
            let found = client.resolve_with(&Credential::NONE, options).await;
            (number, found.expect("an answer").state)
        })
    });
    for call in calls.collect::<Vec<_>>() {
        let (number, state) = call.await.expect("no panic");
        let expected = if number % 3 == 0 { State::Expired } else { State::Invalid };
        assert_eq!(state, expected, "expected each caller to get its own answer");
    }
}

/// A stream that ends badly, in several ways. What is safe is repeated on the next stream; of a
/// Write nobody knows.
#[tokio::test]
async fn a_stream_that_is_cut_is_told() {
    let cuts: [fn(&mut Pipe); 3] = [
        |pipe| pipe.end_in_a_message(),
        |pipe| pipe.reset(),
        |pipe| pipe.end(status(Code::Unavailable, "OVERLOADED", "unknown", None)),
    ];
    for cut in cuts {
        let server = RawServer::start(move |mut pipe| async move {
            if pipe.number > 0 {
                return behave(pipe).await;
            }
            let first = pipe.next().await.expect("a request");
            pipe.next().await.expect("another request");
            pipe.next().await.expect("a third request");
            // One that was answered is not repeated.
            pipe.resolved(first.sequence, SessionState::None);
            cut(&mut pipe);
            pipe.stay().await;
        })
        .await;
        let client = client(&server);
        let (first, second, written) =
            tokio::join!(resolve(&client), resolve(&client), write(&client, None));
        assert_eq!(first.expect("an answer"), State::None);
        assert_eq!(second.expect("an answer, at the second time"), State::None);
        let error = written.expect_err("nobody knows");
        assert!(error.is_unavailable(), "found {error:?}");
        assert_eq!((error.applied(), error.is_retryable()), (Applied::Unknown, false));
    }
}

#[tokio::test]
async fn what_was_not_applied_is_repeated() {
    let server = RawServer::start(|mut pipe| async move {
        let request = pipe.next().await.expect("a request");
        if pipe.number < 2 {
            pipe.end(status(Code::Unavailable, "SHUTTING_DOWN", "no", None));
            return pipe.stay().await;
        }
        let session = pb::Session { version: 1, ..Default::default() };
        let answer = pb::WriteResponse { session: Some(session), ..Default::default() };
        pipe.answer(request.sequence, Answer::Write(answer));
        pipe.stay().await;
    })
    .await;
    let written = client(&server).write(&Credential::NONE, Data::new().into()).await;
    assert_eq!(written.expect("the third stream answers").session.version, 1);
}

/// A connection that has answered nothing is an attempt that failed: the pauses grow.
#[tokio::test]
async fn a_server_that_ends_every_stream_is_not_asked_without_pauses() {
    let ends: [fn(&mut Pipe); 2] = [
        |pipe| pipe.end(status(Code::Unavailable, "SHUTTING_DOWN", "no", None)),
        |pipe| pipe.refuse(),
    ];
    for (number, end) in ends.into_iter().enumerate() {
        let streams = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&streams);
        let server = RawServer::start(move |mut pipe| {
            counted.fetch_add(1, Ordering::SeqCst);
            async move {
                pipe.next().await;
                end(&mut pipe);
                pipe.stay().await;
            }
        })
        .await;
        let builder = Client::builder(&server.address).timeout(Duration::from_secs(3));
        let error = resolve(&builder.build().expect("an address")).await.expect_err("no answer");
        assert!(error.is_unavailable(), "{number}: found {error:?}");
        // At least 50, 100, 200, 400 and then 500 ms lie between them.
        let streams = streams.load(Ordering::SeqCst);
        assert!((1..=9).contains(&streams), "{number}: expected 1 to 9 streams, found {streams}");
    }
}

#[tokio::test]
async fn a_stream_that_is_never_accepted_is_given_up() {
    let server = RawServer::accepting_from(1, behave).await;
    let builder = Client::builder(&server.address).timeout(Duration::from_secs(30));
    let found = resolve(&builder.build().expect("an address")).await;
    assert_eq!(found.expect("an answer, over the next stream"), State::None);
}

#[tokio::test]
async fn a_repetition_can_meet_its_own_effect() {
    let server = RawServer::start(|mut pipe| async move {
        let request = pipe.next().await.expect("a request");
        if pipe.number == 0 {
            pipe.reset();
            return pipe.stay().await;
        }
        let refusal = status(Code::Aborted, "VERSION_MISMATCH", "no", None);
        pipe.failed(request.sequence, refusal);
        pipe.stay().await;
    })
    .await;
    let error = write(&client(&server), Some(1)).await.expect_err("a mismatch");
    assert!(matches!(error, Error::VersionMismatch(_)), "found {error:?}");
    assert_eq!((error.applied(), error.is_retryable()), (Applied::Unknown, false));
}

#[tokio::test]
async fn an_overload_is_waited_for_twice() {
    let seen = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&seen);
    let server = RawServer::start(move |mut pipe| {
        let seen = Arc::clone(&counted);
        async move {
            while let Some(request) = pipe.next().await {
                seen.fetch_add(1, Ordering::SeqCst);
                let retry = Some(Duration::from_millis(5));
                let refusal = match request.operation {
                    Some(pb::pipeline_request::Operation::Write(_)) => {
                        status(Code::Unavailable, "STORE_UNAVAILABLE", "unknown", retry)
                    }
                    _ => status(Code::ResourceExhausted, "OVERLOADED", "no", retry),
                };
                pipe.failed(request.sequence, refusal);
            }
        }
    })
    .await;
    let client = client(&server);
    let error = resolve(&client).await.expect_err("an overload");
    assert!(matches!(error, Error::Overloaded(_)), "found {error:?}");
    assert_eq!(seen.swap(0, Ordering::SeqCst), 3, "expected two repetitions");
    let error = write(&client, None).await.expect_err("no store");
    assert_eq!((error.reason(), error.applied()), (Reason::StoreUnavailable, Applied::Unknown));
    assert_eq!(seen.load(Ordering::SeqCst), 1, "expected nobody to repeat it");
}

/// Whatever else comes is an error, also of what waits, and the next stream works.
#[tokio::test]
async fn nonsense_is_a_protocol_error() {
    let nonsense: [fn(&mut Pipe, u64); 5] = [
        |pipe, sequence| pipe.resolved(sequence + 7, SessionState::None),
        |pipe, _| pipe.resolved(0, SessionState::None),
        |pipe, sequence| pipe.resolved(sequence, SessionState::Unspecified),
        |pipe, sequence| pipe.answer(sequence, Answer::Touch(pb::TouchResponse::default())),
        |pipe, _| pipe.octets(b"\0\0\0\0\x04\xff\xff\xff\xff".to_vec()),
    ];
    for (number, say) in nonsense.into_iter().enumerate() {
        let server = RawServer::start(move |mut pipe| async move {
            if pipe.number == 0 {
                let request = pipe.next().await.expect("a request");
                say(&mut pipe, request.sequence);
            }
            behave(pipe).await;
        })
        .await;
        let client = client(&server);
        let error = resolve(&client).await.expect_err("nonsense");
        assert_eq!(error.reason(), Reason::ProtocolError, "{number}: found {error:?}");
        assert!(!error.is_unavailable() && error.status().as_u16() == 500, "{number}");
        assert_eq!(resolve(&client).await.expect("an answer"), State::None, "{number}");
    }
}

/// Active without a session would read as "nobody".
#[tokio::test]
async fn a_state_without_its_session_is_refused() {
    let server = RawServer::start(|mut pipe| async move {
        while let Some(request) = pipe.next().await {
            pipe.resolved(request.sequence, SessionState::Active);
        }
    })
    .await;
    let error = resolve(&client(&server)).await.expect_err("no session");
    assert_eq!(error.reason(), Reason::ProtocolError);
}

#[tokio::test]
async fn a_late_answer_goes_to_nobody() {
    let may_answer = Arc::new(Notify::new());
    let given = Arc::clone(&may_answer);
    let server = RawServer::start(move |mut pipe| {
        let may_answer = Arc::clone(&given);
        async move {
            let first = pipe.next().await.expect("a request");
            let timeout = first.timeout.expect("a timeout");
            assert_eq!(timeout.seconds, 0, "expected less than a second");
            may_answer.notified().await;
            pipe.resolved(first.sequence, SessionState::Invalid);
            behave(pipe).await;
        }
    })
    .await;
    let builder = Client::builder(&server.address).timeout(Duration::from_millis(200));
    let client = builder.build().expect("an address");
    // On a busy machine its time may be over before it is sent.
    let error = loop {
        let error = resolve(&client).await.expect_err("no answer");
        if error.applied() == Applied::Unknown {
            break error;
        }
    };
    assert_eq!(error.reason(), Reason::Timeout);
    assert!(error.is_unavailable() && error.retry_after().is_some(), "found {error:?}");
    may_answer.notify_one();
    let found = loop {
        match resolve(&client).await {
            Err(error) if error.reason() == Reason::Timeout => {}
            found => break found,
        }
    };
    assert_eq!(found.expect("its own answer"), State::None);
}

#[tokio::test]
async fn an_old_daemon_is_named() {
    let server = RawServer::describing("12", behave).await;
    let client = client(&server);
    for _ in 0..2 {
        let error = resolve(&client).await.expect_err("it is too old");
        assert_eq!((error.reason(), error.applied()), (Reason::DaemonTooOld, Applied::No));
        let text = error.to_string();
        for part in [server.address.as_str(), "older", "update the daemon"] {
            assert!(text.contains(part), "expected {part} in {text}");
        }
    }
    let listed = client.list_sessions(&Credential::token("some token")).await;
    assert_eq!(listed.expect_err("it is too old").reason(), Reason::DaemonTooOld);
}

#[tokio::test]
async fn a_server_of_another_kind_is_told() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            use tokio::io::AsyncWriteExt;
            let answer = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n";
            let _ = socket.write_all(answer).await;
        }
    });
    let builder = |timeout| Client::builder(&address).timeout(timeout).build();
    let error = in_time(|timeout| builder(timeout).expect("an address")).await;
    let reason = error.reason();
    assert!(matches!(reason, Reason::ConnectionFailed | Reason::ProtocolError), "{error:?}");
    assert_eq!(error.applied(), Applied::No);
}

/// The connection is cut at each octet of an answer in turn.
#[tokio::test]
async fn a_connection_cut_in_a_frame_loses_nothing() {
    let daemon = Daemon::start(&[]);
    let proxy = Proxy::start(&daemon.address).await;
    let client = Client::new(&proxy.address).expect("an address");
    let credential = Credential::token(create(&client).await.expect("a session"));
    let mut unknown = 0;
    for octets in (0..60).step_by(7) {
        proxy.cut_after(octets);
        let found = client.resolve(&credential).await;
        let found = found.unwrap_or_else(|error| panic!("after {octets} octets: {error:?}"));
        let data = found.session.expect("a live session").data;
        assert_eq!(data.get("a").expect("a number"), Some(1));
        proxy.cut_after(octets);
        match client.write(&credential, Data::new().into()).await {
            // What came of the answer was enough, or the cut came before the Write was sent.
            Ok(_) => {}
            Err(error) => {
                unknown += 1;
                assert_eq!(error.applied(), Applied::Unknown, "{error:?}");
                assert!(error.is_unavailable() && !error.is_retryable(), "{error:?}");
            }
        }
    }
    assert!(unknown > 0, "expected a Write of which nobody knows");
}
