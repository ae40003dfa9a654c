//! A server that speaks HTTP/2 and does what a test tells it, also what no daemon does.

use std::{future::Future, sync::Arc};

use bytes::{BufMut, Bytes, BytesMut};
use h2::{RecvStream, SendStream, server::SendResponse};
use http::{HeaderMap, Response};
use prost::Message;
use tokio::net::TcpListener;

use crate::pb::{self, pipeline_response::Result as Answer};

/// A server on a free port.
pub(crate) struct RawServer {
    pub(crate) address: String,
}

/// The server's end of a Pipeline.
pub(crate) struct Pipe {
    /// Which Pipeline it is, from 0.
    pub(crate) number: usize,
    requests: RecvStream,
    buffered: BytesMut,
    answers: SendStream<Bytes>,
}

impl RawServer {
    /// Answers Describe as a daemon does, and runs `script` for each Pipeline.
    pub(crate) async fn start<F>(script: impl Fn(Pipe) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        Self::with("0", 0, script).await
    }

    /// A server that accepts no Pipeline before this one.
    pub(crate) async fn accepting_from<F>(
        first: usize,
        script: impl Fn(Pipe) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        Self::with("0", first, script).await
    }

    /// A server whose Describe has this status.
    pub(crate) async fn describing<F>(
        describe_status: &'static str,
        script: impl Fn(Pipe) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        Self::with(describe_status, 0, script).await
    }

    async fn with<F>(
        describe_status: &'static str,
        first: usize,
        script: impl Fn(Pipe) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        let script = Arc::new(script);
        let pipes = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let (script, pipes) = (Arc::clone(&script), Arc::clone(&pipes));
                tokio::spawn(async move {
                    let Ok(mut connection) = h2::server::handshake(socket).await else { return };
                    let mut ignored = Vec::new();
                    while let Some(Ok((request, respond))) = connection.accept().await {
                        match request.uri().path().rsplit('/').next() {
                            Some("Describe") => describe(respond, describe_status),
                            Some("Pipeline") => {
                                let order = std::sync::atomic::Ordering::SeqCst;
                                let number = pipes.fetch_add(1, order);
                                if number < first {
                                    ignored.push((request, respond));
                                    continue;
                                }
                                let pipe = Pipe::new(number, request.into_body(), respond);
                                tokio::spawn(script(pipe));
                            }
                            other => panic!("expected no call of {other:?}"),
                        }
                    }
                });
            }
        });
        Self { address }
    }
}

fn head(respond: &mut SendResponse<Bytes>) -> SendStream<Bytes> {
    let head = Response::builder().header("content-type", "application/grpc");
    respond.send_response(head.body(()).expect("a head"), false).expect("a stream")
}

fn framed(message: &[u8]) -> Bytes {
    let mut frame = BytesMut::new();
    frame.put_u8(0);
    frame.put_u32(message.len() as u32);
    frame.put_slice(message);
    frame.freeze()
}

fn trailers(status: &str) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", status.parse().expect("a value"));
    trailers
}

fn describe(mut respond: SendResponse<Bytes>, status: &str) {
    let mut stream = head(&mut respond);
    if status == "0" {
        let engine = pb::Engine {
            name: "default".to_owned(),
            cookie_name: "session".to_owned(),
            max_data_bytes: 65536,
            ..Default::default()
        };
        let limits = pb::Limits { max_message_bytes: 1 << 20, ..Default::default() };
        let description = pb::DescribeResponse {
            version: "0.0.0".to_owned(),
            limits: Some(limits),
            engines: vec![engine],
        };
        let message = framed(&description.encode_to_vec());
        stream.send_data(message, false).expect("a stream");
    }
    stream.send_trailers(trailers(status)).expect("a stream");
}

impl Pipe {
    fn new(number: usize, requests: RecvStream, mut respond: SendResponse<Bytes>) -> Self {
        let answers = head(&mut respond);
        Self { number, requests, buffered: BytesMut::new(), answers }
    }

    /// The next request. `None`: the client has ended the stream.
    pub(crate) async fn next(&mut self) -> Option<pb::PipelineRequest> {
        loop {
            if let Some(length) = self.buffered.get(1..5) {
                let length = u32::from_be_bytes(length.try_into().expect("4 octets")) as usize;
                if self.buffered.len() >= 5 + length {
                    let frame = self.buffered.split_to(5 + length);
                    return Some(pb::PipelineRequest::decode(&frame[5..]).expect("a request"));
                }
            }
            let chunk = self.requests.data().await?.ok()?;
            self.requests.flow_control().release_capacity(chunk.len()).expect("its capacity");
            self.buffered.extend_from_slice(&chunk);
        }
    }

    /// Waits for the end of the client's side. A pipe that is dropped resets its stream, and what is
    /// not sent yet is lost.
    pub(crate) async fn stay(mut self) {
        while self.next().await.is_some() {}
    }

    pub(crate) fn octets(&mut self, octets: impl Into<Bytes>) {
        // The client may have gone.
        let _ = self.answers.send_data(octets.into(), false);
    }

    pub(crate) fn answer(&mut self, sequence: u64, result: Answer) {
        let response = pb::PipelineResponse { sequence, result: Some(result) };
        self.octets(framed(&response.encode_to_vec()));
    }

    /// Answers a Resolve with this state.
    pub(crate) fn resolved(&mut self, sequence: u64, state: pb::SessionState) {
        let answer = pb::ResolveResponse { state: state.into(), ..Default::default() };
        self.answer(sequence, Answer::Resolve(answer));
    }

    /// Answers with an error.
    pub(crate) fn failed(&mut self, sequence: u64, status: pb_status::Status) {
        self.answer(sequence, Answer::Error(status));
    }

    /// Ends the stream with an error.
    pub(crate) fn end(&mut self, status: pb_status::Status) {
        use base64::{Engine, prelude::BASE64_STANDARD_NO_PAD};
        let mut trailers = trailers(&status.code.to_string());
        let details = BASE64_STANDARD_NO_PAD.encode(status.encode_to_vec());
        trailers.insert("grpc-status-details-bin", details.parse().expect("a value"));
        let _ = self.answers.send_trailers(trailers);
    }

    /// Ends the stream in the middle of a message.
    pub(crate) fn end_in_a_message(&mut self) {
        let _ = self.answers.send_data(Bytes::from_static(b"\0\0\0\0\x64half"), true);
    }

    /// Resets the stream, and says that nothing was processed.
    pub(crate) fn refuse(&mut self) {
        self.answers.send_reset(h2::Reason::REFUSED_STREAM);
    }

    pub(crate) fn reset(&mut self) {
        self.answers.send_reset(h2::Reason::INTERNAL_ERROR);
    }
}

pub(crate) mod pb_status {
    //! Errors as a daemon writes them.

    use std::{collections::HashMap, time::Duration};

    pub(crate) use tonic_types::pb::Status;
    use tonic_types::{ErrorDetails, StatusExt};

    pub(crate) fn status(
        code: tonic::Code,
        reason: &str,
        applied: &str,
        retry: Option<Duration>,
    ) -> Status {
        let metadata = HashMap::from([("applied".to_owned(), applied.to_owned())]);
        let mut details = ErrorDetails::with_error_info(reason, "sessiond", metadata);
        if retry.is_some() {
            details.set_retry_info(retry);
        }
        let status = tonic::Status::with_error_details(code, "told by the test", details);
        prost::Message::decode(status.details()).expect("a status")
    }
}
