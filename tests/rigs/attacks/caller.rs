//! A caller that behaves: a connection of its own, one call at a time, on the thread that
//! asks. No runtime stands between the answer and the clock.

use std::{
    io::{BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use prost::Message;

use super::wire::{
    ACK, Block, DATA, END_STREAM, Frames, GOAWAY, Head, LARGEST_FRAME, LARGEST_WINDOW, PING,
    RST_STREAM, SETTINGS, message, unframed,
};

/// How long a call may take before it counts as not answered.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

pub(super) struct Caller {
    read: BufReader<TcpStream>,
    write: TcpStream,
    next_stream: u32,
    unreturned: usize,
}

/// What to call, made once.
pub(super) struct Request {
    headers: Block,
    body: Vec<u8>,
}

impl Request {
    pub(super) fn new(path: &str, token: Option<&str>, request: &impl Message) -> Self {
        Self { headers: Block::call(path, token), body: message(request) }
    }
}

impl Caller {
    /// Connects, and waits no longer than `patience` for this and for each later answer.
    pub(super) fn connect(address: SocketAddr, patience: Duration) -> Result<Self, String> {
        let failed = |error: std::io::Error| format!("cannot connect: {error}");
        let mut write = TcpStream::connect_timeout(&address, patience).map_err(failed)?;
        write.set_nodelay(true).map_err(failed)?;
        write.set_read_timeout(Some(patience)).map_err(failed)?;
        write.set_write_timeout(Some(patience)).map_err(failed)?;
        let opening = Frames::opening(&[]).window_update(0, LARGEST_WINDOW / 2);
        write.write_all(&opening.0).map_err(failed)?;
        let read = BufReader::new(write.try_clone().map_err(failed)?);
        Ok(Self { read, write, next_stream: 1, unreturned: 0 })
    }

    /// Calls, and returns the encoded answer. An error of gRPC is one here, too.
    pub(super) fn call(&mut self, request: &Request) -> Result<Vec<u8>, String> {
        self.exchange(request).map_err(|problem| format!("a call of a bystander: {problem}"))
    }

    fn exchange(&mut self, request: &Request) -> Result<Vec<u8>, String> {
        let lost = |error: std::io::Error| format!("the connection is lost: {error}");
        let stream = self.next_stream;
        self.next_stream += 2;
        let mut frames = Frames::new().headers(stream, &request.headers);
        let mut parts = request.body.chunks(LARGEST_FRAME).peekable();
        while let Some(part) = parts.next() {
            frames = match parts.peek() {
                Some(_) => frames.data(stream, part),
                None => frames.last_data(stream, part),
            };
        }
        self.write.write_all(&frames.0).map_err(lost)?;
        let deadline = Instant::now() + PATIENCE;
        let mut answer = Vec::new();
        loop {
            if Instant::now() > deadline {
                return Err(format!("not answered within {PATIENCE:?}"));
            }
            let mut head = [0; Head::LEN];
            self.read.read_exact(&mut head).map_err(lost)?;
            let head = Head::read(head);
            let mut payload = vec![0; head.len];
            self.read.read_exact(&mut payload).map_err(lost)?;
            let frame = super::wire::Frame { head, payload };
            match head.kind {
                SETTINGS if !head.has(ACK) => {
                    self.write
                        .write_all(&Frames::new().frame(SETTINGS, ACK, 0, &[]).0)
                        .map_err(lost)?;
                }
                PING if !head.has(ACK) => {
                    let payload = frame.payload.try_into().map_err(|_| "a PING of a wrong size")?;
                    self.write.write_all(&Frames::new().ping(ACK, payload).0).map_err(lost)?;
                }
                GOAWAY => return Err(frame.farewell()),
                RST_STREAM if head.stream == stream => {
                    return Err(format!("the stream is reset with the code {}", frame.number()));
                }
                DATA => {
                    self.unreturned += head.len;
                    answer.extend_from_slice(&frame.payload);
                }
                _ => {}
            }
            if head.stream == stream
                && matches!(head.kind, DATA | super::wire::HEADERS)
                && head.has(END_STREAM)
            {
                break;
            }
        }
        if self.unreturned > 1 << 20 {
            let increment = u32::try_from(self.unreturned).expect("a few MiB");
            self.write.write_all(&Frames::new().window_update(0, increment).0).map_err(lost)?;
            self.unreturned = 0;
        }
        let (message, _) = unframed(&answer).ok_or("answered with an error, expected a message")?;
        Ok(message.to_vec())
    }
}
