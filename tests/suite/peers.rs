//! Peers that send in small pieces, cancel, stall, or do not read, and what they may cost.

use std::{process::Command, time::Duration};

use sessiond::{
    grpc::pb::{PipelineRequest, ResolveRequest, WriteRequest, pipeline_request::Operation},
    server::config::Backend,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tonic_reflection::pb::v1;

use crate::support::{
    daemon::{Daemon, assert_fault, set},
    frames::{
        DATA, END_STREAM, GOAWAY, HEADERS, HalfPeer, PIPELINE, RESOLVE, RST_STREAM, RawPeer, call,
        data, frame, message, window,
    },
    frontend::{node_script, or_skip, python_script},
    health::ServingStatus,
    program::{PATIENCE, Program, stderr, stdout},
};

const CHECK: &str = "/grpc.health.v1.Health/Check";
const WATCH: &str = "/grpc.health.v1.Health/Watch";
const LIST: &str = "/sessiond.v1.SessionAdminService/ListSessions";
/// More than is ever in flight.
const MANY: u64 = 2_000;
const LARGE_WINDOW: u32 = 1 << 30;

fn resolve(sequence: u64) -> Vec<u8> {
    let operation = Some(Operation::Resolve(ResolveRequest::default()));
    message(&PipelineRequest { sequence, operation, timeout: None })
}

fn create(sequence: u64) -> Vec<u8> {
    let operation = Some(Operation::Write(WriteRequest { set: "{}".into(), ..Default::default() }));
    message(&PipelineRequest { sequence, operation, timeout: None })
}

/// How many messages these octets hold.
fn count(mut octets: &[u8]) -> u64 {
    let mut count = 0;
    while let Some((&[_, ref len @ ..], rest)) = octets.split_first_chunk::<5>() {
        octets = &rest[u32::from_be_bytes(*len) as usize..];
        count += 1;
    }
    count
}

/// A unary Resolve without a credential.
fn whole_call(stream: u32) -> Vec<u8> {
    let message = message(&ResolveRequest::default());
    [call(stream, RESOLVE, &[]), frame(DATA, END_STREAM, stream, &message)].concat()
}

async fn is_answered(peer: &mut RawPeer, stream: u32) {
    peer.send(&[whole_call(stream)]).await;
    let ended = peer.until_end(&[stream]).await;
    let (octets, end) = &ended[&stream];
    assert_eq!((count(octets), end.kind), (1, HEADERS), "{end:?}");
}

/// Each message is a frame of its own, as grpc-js sends them. All are here before the first is
/// answered.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_small_messages_at_once_are_held_by_flow_control() {
    let daemon = Daemon::start(Backend::Sled).await;
    for streams in [&[1][..], &[1, 3]] {
        let mut peer = RawPeer::connect(&daemon.grpc, LARGE_WINDOW).await;
        let mut frames: Vec<_> = streams.iter().map(|id| call(*id, PIPELINE, &[])).collect();
        for sequence in 0..MANY {
            frames.push(data(streams[sequence as usize % streams.len()], &create(sequence)));
        }
        frames.extend(streams.iter().map(|id| frame(DATA, END_STREAM, *id, b"")));
        peer.send(&frames).await;
        let ended = peer.until_end(streams).await;
        let answers: u64 = ended.values().map(|(octets, _)| count(octets)).sum();
        assert_eq!(answers, MANY, "over {} pipelines", streams.len());
    }
}

fn many_at_once(name: &str, command: Result<Command, String>) {
    let Some(mut command) = or_skip(name, command) else { return };
    let daemon = Program::dev();
    for pipelines in ["1", "2"] {
        command.env("ADDRESS", daemon.address("grpc")).env("PIPELINES", pipelines);
        // gRPC would go through the machine's HTTP proxy, if it has one.
        command.env("no_grpc_proxy", "127.0.0.1");
        let output = command.output().expect("the client can be run");
        let said = stdout(&output);
        assert_eq!(said.trim(), format!("{MANY} answered"), "{name}: {}", stderr(&output));
    }
}

#[test]
fn grpc_js_may_send_many_operations_at_once() {
    many_at_once("grpc-js", node_script("tests/peers/pipelines.js"));
}

#[test]
fn grpcio_may_send_many_operations_at_once() {
    many_at_once("grpcio", python_script("tests/peers/pipelines.py"));
}

/// The smallest frames there are, and more of them than fit into what h2 allows unread.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_may_come_octet_by_octet() {
    let daemon = Daemon::start(Backend::Memory).await;
    let mut peer = RawPeer::connect(&daemon.grpc, LARGE_WINDOW).await;
    let mut frames = vec![call(1, PIPELINE, &[])];
    for sequence in 0..400 {
        frames.extend(resolve(sequence).iter().map(|octet| data(1, &[*octet])));
    }
    frames.push(frame(DATA, END_STREAM, 1, b""));
    peer.send(&frames).await;
    let ended = peer.until_end(&[1]).await;
    assert_eq!(count(&ended[&1].0), 400);
}

/// As after a pause of the daemon: the calls and their ends arrive together.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cancelling_all_that_may_be_open_is_no_attack() {
    let daemon = Daemon::start(Backend::Memory).await;
    let mut peer = RawPeer::connect(&daemon.grpc, LARGE_WINDOW).await;
    let mut stream = 1;
    peer.send(&[call(stream, PIPELINE, &[])]).await;
    for _round in 0..4 {
        let mut frames = Vec::new();
        for _ in 0..daemon.config.limits.max_concurrent_streams - 1 {
            stream += 2;
            frames.push(call(stream, RESOLVE, &[]));
            frames.push(frame(RST_STREAM, 0, stream, &8u32.to_be_bytes()));
        }
        peer.send(&frames).await;
    }
    is_answered(&mut peer, stream + 2).await;
    peer.send(&[data(1, &resolve(1))]).await;
    peer.until("an answer of the pipeline", |frame| frame.kind == DATA && frame.stream == 1).await;
}

/// What comes for a call that has ended for the daemon is answered with a reset.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_that_are_late_end_no_pipeline() {
    let daemon = Daemon::start(Backend::Memory).await;
    let mut peer = RawPeer::connect(&daemon.grpc, LARGE_WINDOW).await;
    peer.send(&[call(1, PIPELINE, &[])]).await;
    let mut stream = 1;
    for _round in 0..30 {
        let ids: Vec<u32> = (0..50).map(|n| stream + 2 * (n + 1)).collect();
        stream += 100;
        let timeout = [("grpc-timeout", "1n")];
        peer.send(&ids.iter().map(|id| call(*id, RESOLVE, &timeout)).collect::<Vec<_>>()).await;
        peer.until_end(&ids).await;
        // The message was on its way.
        peer.send(&ids.iter().map(|id| data(*id, b"\0")).collect::<Vec<_>>()).await;
    }
    peer.send(&[data(1, &resolve(1))]).await;
    peer.until("an answer of the pipeline", |frame| frame.kind == DATA && frame.stream == 1).await;
}

async fn stalling() -> Daemon {
    Daemon::with(Backend::Memory, |config| {
        config.limits.stall_timeout = "300ms".parse().expect("a time");
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_rest_of_a_message_must_come_in_time() {
    let daemon = stalling().await;
    let half = &resolve(1)[..3];
    let mut peer = HalfPeer::connect(&daemon.grpc).await;
    let mut admin = HalfPeer::connect(daemon.admin_address()).await;
    let (_, end) = admin.begin(LIST, b"", &[]).answer().await;
    assert_eq!(end.code(), Code::DeadlineExceeded, "{end:?}");
    for (path, sent) in
        [(CHECK, &[][..]), (WATCH, &[]), (RESOLVE, &[]), (RESOLVE, half), (PIPELINE, half)]
    {
        let (_, end) = peer.begin(path, sent, &[]).answer().await;
        assert_eq!(end.code(), Code::DeadlineExceeded, "{path}: {end:?}");
        assert!(end.message().contains("limits.stall_timeout"), "{path}: {end:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_must_be_read_in_time() {
    let daemon = stalling().await;
    // No stream has a window.
    let mut peer = RawPeer::connect(&daemon.grpc, 0).await;
    peer.send(&[whole_call(1), call(3, PIPELINE, &[]), data(3, &resolve(1))]).await;
    for _ in 0..2 {
        peer.until("the reset of a call", |frame| frame.kind == RST_STREAM).await;
    }
    peer.send(&[window(LARGE_WINDOW)]).await;
    is_answered(&mut peer, 5).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_peers_hold_is_bounded_and_given_back() {
    let daemon = Daemon::with(Backend::Memory, |config| {
        config.limits.max_held_bytes = "2MiB".parse().expect("a size");
    })
    .await;
    // The beginning of a message of 512 KiB.
    let begun = [&[0][..], &(512u32 << 10).to_be_bytes(), &[0; 100]].concat();
    let mut greedy = HalfPeer::connect(&daemon.grpc).await;
    let mut calls: Vec<_> = (0..20).map(|_| greedy.begin(RESOLVE, &begun, &[])).collect();
    // Four fit into the budget.
    for call in calls.split_off(5) {
        let (_, refused) = call.answer().await;
        assert_fault(&refused, Code::ResourceExhausted, "OVERLOADED", None);
    }
    daemon.client.clone().write(set("{}")).await.expect("those who hold little are served");
    // The rest would be waited for. Once the daemon has noticed that nobody is there, there is
    // room again.
    drop((calls, greedy));
    let mut other = HalfPeer::connect(&daemon.grpc).await;
    let again = async {
        loop {
            let call = other.begin(RESOLVE, &begun, &[]).answer();
            if tokio::time::timeout(Duration::from_secs(1), call).await.is_err() {
                return;
            }
        }
    };
    tokio::time::timeout(PATIENCE, again).await.expect("the memory is given back");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn too_many_headers_are_refused() {
    let daemon = Daemon::start(Backend::Memory).await;
    let mut peer = HalfPeer::connect(&daemon.grpc).await;
    // Compressed: refused, but as a call.
    let (status, end) = peer.begin(RESOLVE, b"\x01\0\0\0\0", &[("a", "b"); 90]).answer().await;
    assert_eq!((status.as_u16(), end.code()), (200, Code::Unimplemented), "90 are few");
    let (status, _) = peer.begin(CHECK, b"", &[("a", "b"); 120]).answer().await;
    assert_eq!(status.as_u16(), 431);
}

fn health(daemon: &Daemon) -> HealthClient<tonic::transport::Channel> {
    let endpoint = tonic::transport::Channel::from_shared(daemon.grpc.clone()).expect("an address");
    HealthClient::new(endpoint.connect_lazy())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_may_watch_health_a_few_times() {
    let daemon = Daemon::start(Backend::Memory).await;
    let mut health = health(&daemon);
    let mut watches = Vec::new();
    for _ in 0..8 {
        let watch = health.watch(HealthCheckRequest::default()).await.expect("watched");
        watches.push(watch.into_inner());
    }
    let refused = health.watch(HealthCheckRequest::default()).await.expect_err("it watches enough");
    assert_fault(&refused, Code::ResourceExhausted, "OVERLOADED", None);
    watches.pop();
    let again = async {
        while health.watch(HealthCheckRequest::default()).await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, again).await.expect("a place is free");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_tells_changes_only_and_keeps_the_stream_of_an_unknown_service() {
    let mut daemon = Daemon::start(Backend::Memory).await;
    let mut health = health(&daemon);
    let known = HealthCheckRequest::default();
    let unknown = HealthCheckRequest { service: "nope".to_owned() };
    let mut known = health.watch(known).await.expect("watched").into_inner();
    let mut unknown = health.watch(unknown).await.expect("watched").into_inner();
    for (watch, status) in
        [(&mut known, ServingStatus::Serving), (&mut unknown, ServingStatus::ServiceUnknown)]
    {
        let first = watch.message().await.expect("an answer").expect("a status");
        assert_eq!(first.status(), status);
    }
    // Longer than the stores are asked for.
    let quiet = Duration::from_millis(1_500);
    let (more, other) = tokio::join!(
        tokio::time::timeout(quiet, known.message()),
        tokio::time::timeout(quiet, unknown.message()),
    );
    assert!(more.is_err() && other.is_err(), "nothing has changed: {more:?} {other:?}");
    daemon.ask_to_stop();
    let last = known.message().await.expect("an answer").expect("a status");
    assert_eq!(last.status(), ServingStatus::NotServing);
    for watch in [&mut known, &mut unknown] {
        let end = watch.message().await.expect_err("the daemon stops");
        assert_fault(&end, Code::Unavailable, "SHUTTING_DOWN", None);
    }
    let _stopped = daemon.stop().await;
}

/// A daemon that would wait for an hour.
async fn patient() -> Daemon {
    Daemon::with(Backend::Memory, |config| {
        config.runtime.shutdown_grace = "1h".parse().expect("a time");
    })
    .await
}

async fn stops(daemon: Daemon) {
    tokio::time::timeout(PATIENCE, daemon.stop()).await.expect("the stop waits for nobody");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_ignores_goaway_does_not_hold_a_stop() {
    let daemon = patient().await;
    let mut peer = RawPeer::connect(&daemon.grpc, LARGE_WINDOW).await;
    is_answered(&mut peer, 1).await;
    peer.is_polite = false;
    let stop = tokio::spawn(stops(daemon));
    // It goes on calling, and answers no ping.
    let mut stream = 3;
    while let Some(frame) = peer.next().await {
        if frame.kind == GOAWAY || frame.flags & END_STREAM != 0 {
            if !peer.try_send(&[whole_call(stream)]).await {
                break;
            }
            stream += 2;
        }
    }
    stop.await.expect("the daemon stops");
}

/// A reset would make the system of the peer forget what it has not read yet: the last answers, and why
/// its streams have ended.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_comes_after_the_end_resets_no_connection() {
    // The daemon reads for 200 ms more. A busy machine may not bring the frames there by then.
    for _ in 0..5 {
        let daemon = patient().await;
        let mut peer = RawPeer::connect(&daemon.grpc, LARGE_WINDOW).await;
        is_answered(&mut peer, 1).await;
        let stop = tokio::spawn(stops(daemon));
        while peer.next().await.is_some() {}
        let sent = peer.try_send(&[whole_call(3)]).await;
        stop.await.expect("the daemon stops");
        if sent && !peer.was_reset() {
            return;
        }
    }
    panic!("expected a connection that was closed without a reset");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_a_preface_does_not_hold_a_stop() {
    use tokio::io::AsyncWriteExt;
    let daemon = patient().await;
    let address = daemon.grpc.trim_start_matches("http://");
    let mut connection = tokio::net::TcpStream::connect(address).await.expect("a connection");
    connection.write_all(b"PRI * HTTP/2.0\r\n").await.expect("sent");
    daemon.client.clone().write(set("{}")).await.expect("the daemon is up");
    stops(daemon).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reflection_stream_does_not_hold_a_stop() {
    let daemon = patient().await;
    let endpoint = tonic::transport::Channel::from_shared(daemon.grpc.clone()).expect("an address");
    let mut client =
        v1::server_reflection_client::ServerReflectionClient::new(endpoint.connect_lazy());
    let (sender, receiver) = mpsc::channel(1);
    let request = v1::ServerReflectionRequest {
        message_request: Some(v1::server_reflection_request::MessageRequest::ListServices(
            String::new(),
        )),
        ..Default::default()
    };
    sender.send(request).await.expect("the stream is open");
    let answers = client.server_reflection_info(ReceiverStream::new(receiver)).await;
    let mut answers = answers.expect("answered").into_inner();
    answers.message().await.expect("an answer").expect("a list");
    stops(daemon).await;
    let end = answers.message().await.expect_err("the daemon has stopped");
    assert_fault(&end, Code::Unavailable, "SHUTTING_DOWN", None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_streams_of_an_old_connection_end() {
    let daemon = Daemon::with(Backend::Memory, |config| {
        config.limits.max_connection_age = "500ms".parse().expect("a time");
    })
    .await;
    let (sender, receiver) = mpsc::channel(1);
    let request = |sequence| PipelineRequest {
        sequence,
        operation: Some(Operation::Resolve(ResolveRequest::default())),
        timeout: None,
    };
    sender.send(request(1)).await.expect("the stream is open");
    let answers = daemon.client.clone().pipeline(ReceiverStream::new(receiver)).await;
    let mut answers = answers.expect("the stream opens").into_inner();
    assert_eq!(answers.message().await.expect("answered").expect("an answer").sequence, 1);
    let ended = tokio::time::timeout(PATIENCE, answers.message()).await;
    let end = ended.expect("it ends in time").expect_err("with a status");
    assert_fault(&end, Code::Unavailable, "SHUTTING_DOWN", None);
    // The client may choose a connection in the moment of its end.
    let again = async { while daemon.client.clone().write(set("{}")).await.is_err() {} };
    tokio::time::timeout(PATIENCE, again).await.expect("another connection is taken");
}
