//! Places: a peer that takes all connections keeps nobody out, and the metrics and the log
//! stay usable whatever comes to them.

use std::time::Duration;

use sessiond::{
    grpc::pb::{
        CleanupRequest, PipelineRequest, ResolveRequest, pipeline_request::Operation,
        session_service_client::SessionServiceClient,
    },
    server::config::{AddrOrOff, Backend, ListenAddr},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::mpsc,
    time::timeout,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use crate::support::{
    daemon::{Daemon, set},
    program::Program,
};

/// What a client says first, and then waits (RFC 9113, section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;

/// Less than any timeout that frees a place by itself.
const SOON: Duration = Duration::from_secs(8);

/// A connection without a call, which has its place.
async fn idle(address: &str) -> TcpStream {
    let mut connection = TcpStream::connect(address).await.expect("a connection");
    connection.write_all(PREFACE).await.expect("sent");
    read_until(&mut connection, SETTINGS).await;
    connection
}

/// Reads frames up to the first one of this type.
async fn read_until(connection: &mut TcpStream, kind: u8) {
    let reading = async {
        loop {
            let mut head = [0; 9];
            connection.read_exact(&mut head).await.expect("a frame, before the end");
            let len = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            connection.read_exact(&mut vec![0; len as usize]).await.expect("all of the frame");
            if head[3] == kind {
                return;
            }
        }
    };
    timeout(SOON, reading).await.unwrap_or_else(|_| panic!("expected a frame of type {kind}"));
}

fn endpoint(address: &str) -> Endpoint {
    Endpoint::from_shared(format!("http://{address}")).expect("an address")
}

#[tokio::test]
async fn idle_connections_make_room_for_newcomers() {
    let daemon = Daemon::with(Backend::Memory, |config| config.limits.max_connections = 3).await;
    let address = daemon.grpc.trim_start_matches("http://");
    let mut held = Vec::new();
    for _ in 0..3 {
        held.push(idle(address).await);
    }
    let answered = timeout(SOON, daemon.client.clone().write(set("{}"))).await;
    answered.expect("expected a place for a newcomer").expect("a Write is taken");
    read_until(&mut held[0], GOAWAY).await;
    // The peers that stay are served as before.
    held[2].write_all(b"\0\0\x08\x06\0\0\0\0\0ping-pon").await.expect("sent");
    const PING: u8 = 6;
    read_until(&mut held[2], PING).await;
}

/// A connection with an open Pipeline.
async fn busy(address: &str) -> impl Sized + use<> {
    let mut client = SessionServiceClient::new(endpoint(address).connect_lazy());
    let (sender, receiver) = mpsc::channel(1);
    let operation = Some(Operation::Resolve(ResolveRequest::default()));
    sender
        .send(PipelineRequest { sequence: 1, operation, timeout: None })
        .await
        .expect("there is room");
    let answer = client.pipeline(ReceiverStream::new(receiver)).await.expect("the stream opens");
    let mut answers = answer.into_inner();
    answers.message().await.expect("an answer").expect("one");
    (sender, answers)
}

#[tokio::test]
async fn admin_unix_sockets_and_probes_get_in_while_all_places_are_busy() {
    let directory = tempfile::tempdir().expect("a scratch folder");
    let socket = directory.path().join("sessiond.sock");
    let daemon = Daemon::with(Backend::Memory, |config| {
        config.limits.max_connections = 2;
        config.listen.grpc.push(ListenAddr::Unix(socket.clone()));
    })
    .await;
    let address = daemon.grpc.trim_start_matches("http://");
    let _busy = (busy(address).await, busy(address).await);

    let cleanup = async { daemon.admin.clone().cleanup(CleanupRequest::default()).await };
    let cleaned =
        timeout(SOON, cleanup).await.expect("expected a place of the admin service's own");
    cleaned.expect("a Cleanup is answered");

    let unix = Endpoint::from_shared(format!("unix://{}", socket.display())).expect("a path");
    let mut local = SessionServiceClient::new(unix.connect_lazy());
    let written = timeout(SOON, local.write(set("{}"))).await;
    written.expect("expected places of the unix socket's own").expect("a Write is taken");

    // As a probe of the orchestrator: from another address.
    let channel = endpoint(address).local_address(Some([127, 0, 0, 2].into())).connect_lazy();
    let mut health = HealthClient::new(channel);
    let probed = timeout(SOON, health.check(HealthCheckRequest::default())).await;
    let probed = probed.expect("expected a spare place for a peer that has none");
    assert_eq!(probed.expect("an answer").into_inner().status(), ServingStatus::Serving);
}

#[tokio::test]
async fn a_peer_with_many_connections_displaces_its_own() {
    let daemon = Daemon::with(Backend::Memory, |config| config.limits.max_connections = 4).await;
    let address = daemon.grpc.trim_start_matches("http://").to_owned();
    let from = |last: u8| -> Channel {
        endpoint(&address).local_address(Some([127, 0, 0, last].into())).connect_lazy()
    };
    // It has been idle for longest of all, but its peer has this one only.
    let mut single = SessionServiceClient::new(from(2));
    single.write(set("{}")).await.expect("a Write is taken");
    let mut first = idle(&address).await;
    let _held = (idle(&address).await, idle(&address).await);
    for _ in 0..3 {
        let mut newcomer = SessionServiceClient::new(endpoint(&address).connect_lazy());
        let answered = timeout(SOON, newcomer.write(set("{}"))).await;
        answered.expect("expected a place").expect("a Write is taken");
    }
    read_until(&mut first, GOAWAY).await;
    single.write(set("{}")).await.expect("its connection is still there");
}

fn with_metrics(config: &mut sessiond::server::config::Config) {
    config.listen.metrics = AddrOrOff(Some(([127, 0, 0, 1], 0).into()));
}

#[tokio::test]
async fn idle_connections_do_not_starve_a_scrape() {
    let daemon = Daemon::with(Backend::Memory, with_metrics).await;
    let address = daemon.metrics.clone().expect("a metrics listener").to_string();
    let mut held = Vec::new();
    for _ in 0..16 {
        held.push(TcpStream::connect(&address).await.expect("a connection"));
    }
    let scraping = async {
        let mut scrape = TcpStream::connect(&address).await.expect("a connection");
        scrape.write_all(b"GET /metrics HTTP/1.1\r\nhost: a\r\n\r\n").await.expect("sent");
        let mut page = String::new();
        scrape.read_to_string(&mut page).await.expect("a page, and then the end");
        page
    };
    let page = timeout(Duration::from_secs(3), scraping).await.expect("expected a place");
    assert!(page.contains("sessiond_connections"), "{page}");
}

#[test]
fn resets_leave_nothing_in_the_log() {
    use std::io::{Read, Write};
    let program = Program::dev();
    // POST, http, / and then a reset, for many streams before any of them can be served.
    let mut flood = PREFACE.to_vec();
    for stream in (1..400u32).step_by(2) {
        flood.extend(b"\0\0\x03\x01\x05");
        flood.extend(stream.to_be_bytes());
        flood.extend([0x83, 0x86, 0x84]);
        flood.extend(b"\0\0\x04\x03\0");
        flood.extend(stream.to_be_bytes());
        flood.extend(8u32.to_be_bytes());
    }
    for _ in 0..3 {
        let mut peer = std::net::TcpStream::connect(program.address("grpc")).expect("a connection");
        peer.set_read_timeout(Some(SOON)).expect("a timeout");
        peer.write_all(&flood).expect("sent");
        peer.shutdown(std::net::Shutdown::Write).expect("it says no more");
        // To the end: the daemon has read all of it. It may also cut the connection.
        let _ = peer.read_to_end(&mut Vec::new());
    }
    let (code, log) = program.stop();
    assert_eq!(code, Some(0), "{log}");
    assert!(!log.contains("h2") && !log.contains("reset"), "expected no line for a reset: {log}");
}
