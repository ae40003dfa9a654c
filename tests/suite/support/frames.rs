//! HTTP/2, frame by frame: a peer that does what no client library would.

use std::{collections::BTreeMap, io};

use bytes::Bytes;
use prost::Message;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::program::PATIENCE;

// RFC 9113, section 6.
pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;

pub(crate) const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;

/// SETTINGS_INITIAL_WINDOW_SIZE.
const INITIAL_WINDOW_SIZE: u16 = 4;
pub(crate) const RESOLVE: &str = "/sessiond.v1.SessionService/Resolve";
pub(crate) const PIPELINE: &str = "/sessiond.v1.SessionService/Pipeline";

/// A frame.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

/// A frame as it is sent.
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let [_, a, b, c] = (payload.len() as u32).to_be_bytes();
    let mut frame = vec![a, b, c, kind, flags];
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// SETTINGS that change the window of each stream.
pub(crate) fn window(bytes: u32) -> Vec<u8> {
    let mut payload = INITIAL_WINDOW_SIZE.to_be_bytes().to_vec();
    payload.extend(bytes.to_be_bytes());
    frame(SETTINGS, 0, 0, &payload)
}

/// The HEADERS of a call. `more` are headers beside those that a call must have.
pub(crate) fn call(stream: u32, path: &str, more: &[(&str, &str)]) -> Vec<u8> {
    // HPACK (RFC 7541): :method POST, :scheme http, then literals without indexing.
    let mut block = vec![0x83, 0x86];
    fn text(block: &mut Vec<u8>, text: &str) {
        assert!(text.len() < 127, "one octet tells the length");
        block.push(text.len() as u8);
        block.extend(text.as_bytes());
    }
    for (name, value) in [(0x04, path), (0x01, "localhost")] {
        block.push(name);
        text(&mut block, value);
    }
    for (name, value) in
        [("content-type", "application/grpc"), ("te", "trailers")].iter().chain(more)
    {
        block.push(0x00);
        text(&mut block, name);
        text(&mut block, value);
    }
    frame(HEADERS, END_HEADERS, stream, &block)
}

/// A message with its prefix.
pub(crate) fn message(message: &impl Message) -> Vec<u8> {
    let encoded = message.encode_to_vec();
    [&[0], &(encoded.len() as u32).to_be_bytes()[..], &encoded].concat()
}

pub(crate) fn data(stream: u32, octets: &[u8]) -> Vec<u8> {
    frame(DATA, 0, stream, octets)
}

/// A peer that sends half a call, and understands the answer.
pub(crate) struct HalfPeer(h2::client::SendRequest<Bytes>);

/// A call of which the rest may follow.
pub(crate) struct HalfCall {
    answer: h2::client::ResponseFuture,
    _rest: h2::SendStream<Bytes>,
}

impl HalfPeer {
    pub(crate) async fn connect(address: &str) -> Self {
        let address = address.trim_start_matches("http://");
        let connection = TcpStream::connect(address).await.expect("the daemon listens");
        let handshake = h2::client::handshake(connection).await;
        let (requests, connection) = handshake.expect("it speaks HTTP/2");
        tokio::spawn(connection);
        Self(requests)
    }

    /// Begins a call with these octets of its request.
    pub(crate) fn begin(&mut self, path: &str, octets: &[u8], more: &[(&str, &str)]) -> HalfCall {
        let mut request = http::Request::post(format!("http://localhost{path}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        for (name, value) in more {
            request = request.header(*name, *value);
        }
        let request = request.body(()).expect("a valid request");
        let begun = self.0.send_request(request, false);
        let (answer, mut rest) = begun.expect("the connection is open");
        rest.send_data(Bytes::copy_from_slice(octets), false).expect("the call is open");
        HalfCall { answer, _rest: rest }
    }
}

impl HalfCall {
    /// The HTTP status and the gRPC status, once they come. The latter is OK if a message
    /// was answered.
    pub(crate) async fn answer(self) -> (http::StatusCode, tonic::Status) {
        let answering = async {
            let answer = self.answer.await.expect("an answer");
            let early = tonic::Status::from_header_map(answer.headers());
            let (head, mut body) = answer.into_parts();
            while let Some(data) = body.data().await {
                let data = data.expect("the answer goes on");
                body.flow_control().release_capacity(data.len()).expect("it was received");
            }
            let trailers = body.trailers().await.expect("the answer ends");
            let late = trailers.as_ref().and_then(tonic::Status::from_header_map);
            let nothing = || tonic::Status::unknown("no status");
            (head.status, early.or(late).unwrap_or_else(nothing))
        };
        let answered = tokio::time::timeout(PATIENCE, answering).await;
        answered.expect("expected an answer by now")
    }
}

/// A peer of a daemon.
pub(crate) struct RawPeer {
    connection: TcpStream,
    /// Acknowledge what must be acknowledged.
    pub is_polite: bool,
    /// Reading has ended with an error, and not with the end of the connection.
    is_broken: bool,
}

impl RawPeer {
    /// Connects, and sets the window of its streams.
    pub(crate) async fn connect(address: &str, stream_window: u32) -> Self {
        let address = address.trim_start_matches("http://");
        let connection = TcpStream::connect(address).await.expect("the daemon listens");
        connection.set_nodelay(true).expect("it can be set");
        let mut peer = Self { connection, is_polite: true, is_broken: false };
        let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        // The connection's own window is no bound.
        let more = frame(WINDOW_UPDATE, 0, 0, &(1u32 << 30).to_be_bytes());
        peer.send(&[preface, window(stream_window), more]).await;
        peer
    }

    /// Sends frames.
    pub(crate) async fn send(&mut self, frames: &[Vec<u8>]) {
        assert!(self.try_send(frames).await, "the connection is closed");
    }

    /// Sends frames. False: the connection is closed.
    pub(crate) async fn try_send(&mut self, frames: &[Vec<u8>]) -> bool {
        self.connection.write_all(&frames.concat()).await.is_ok()
    }

    /// Whether the other end has reset the connection.
    pub(crate) fn was_reset(&self) -> bool {
        let error = self.connection.take_error().expect("it can be asked");
        self.is_broken || error.is_some()
    }

    /// The next frame; `None`: the connection is closed.
    pub(crate) async fn next(&mut self) -> Option<Frame> {
        let next = tokio::time::timeout(PATIENCE, self.read());
        next.await.expect("expected a frame or the end of the connection")
    }

    async fn read(&mut self) -> Option<Frame> {
        let mut head = [0; 9];
        let read = self.connection.read_exact(&mut head).await;
        self.is_broken |=
            read.as_ref().is_err_and(|error| error.kind() != io::ErrorKind::UnexpectedEof);
        read.ok()?;
        let [a, b, c, kind, flags, id @ ..] = head;
        let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
        self.connection.read_exact(&mut payload).await.ok()?;
        if self.is_polite && flags & ACK == 0 && (kind == SETTINGS || kind == PING) {
            let ack = frame(kind, ACK, 0, if kind == PING { &payload } else { b"" });
            // The daemon may have closed the connection already.
            let _ = self.connection.write_all(&ack).await;
        }
        Some(Frame { kind, flags, stream: u32::from_be_bytes(id), payload })
    }

    /// Reads until `wanted` says that this is the frame.
    pub(crate) async fn until(&mut self, what: &str, wanted: impl Fn(&Frame) -> bool) -> Frame {
        loop {
            let frame = self.next().await;
            let frame = frame.unwrap_or_else(|| panic!("closed before {what}"));
            if wanted(&frame) {
                return frame;
            }
            assert_ne!(frame.kind, GOAWAY, "the connection is ended before {what}: {frame:?}");
        }
    }

    /// Reads until these streams have ended. Gives the octets of each one's DATA, and its end.
    pub(crate) async fn until_end(&mut self, streams: &[u32]) -> BTreeMap<u32, (Vec<u8>, Frame)> {
        let mut open: BTreeMap<u32, Vec<u8>> = streams.iter().map(|id| (*id, Vec::new())).collect();
        let mut ended = BTreeMap::new();
        while !open.is_empty() {
            let frame = self.until("the end of all calls", |frame| frame.stream != 0).await;
            let Some(octets) = open.get_mut(&frame.stream) else {
                continue;
            };
            match frame.kind {
                DATA => octets.extend(&frame.payload),
                HEADERS if frame.flags & END_STREAM == 0 => {}
                HEADERS | RST_STREAM => {
                    let octets = open.remove(&frame.stream).expect("it was open");
                    ended.insert(frame.stream, (octets, frame));
                }
                _ => {}
            }
        }
        ended
    }
}
