//! The attackers' side of a connection.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    io,
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, BufReader},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
};

use super::{
    stage::Target,
    wire::{
        ACK, Block, DATA, END_STREAM, FIRST_WINDOW, Frame, Frames, GOAWAY, HEADERS, Head,
        INITIAL_WINDOW_SIZE, LARGEST_FRAME, PING, RST_STREAM, SETTINGS, WINDOW_UPDATE,
    },
};

/// A pause before what was refused is tried again.
pub(super) const PAUSE: Duration = Duration::from_millis(5);

/// A connection that keeps to flow control, answers pings and settings, and is otherwise
/// as bad as its owner.
pub(super) struct Peer {
    read: BufReader<OwnedReadHalf>,
    write: OwnedWriteHalf,
    /// What may still be sent, on the connection and on streams.
    window: i64,
    first_window: i64,
    windows: HashMap<u32, i64>,
    /// Streams that the daemon has ended or reset.
    over: HashSet<u32>,
    /// Came while something else was awaited.
    inbox: VecDeque<Frame>,
}

impl Peer {
    pub(super) async fn open(stream: TcpStream, opening: Frames) -> io::Result<Self> {
        let (read, mut write) = stream.into_split();
        write.write_all(&opening.0).await?;
        Ok(Self {
            read: BufReader::new(read),
            write,
            window: FIRST_WINDOW.into(),
            first_window: FIRST_WINDOW.into(),
            windows: HashMap::new(),
            over: HashSet::new(),
            inbox: VecDeque::new(),
        })
    }

    pub(super) async fn send(&mut self, frames: &Frames) -> io::Result<()> {
        self.write.write_all(&frames.0).await
    }

    /// The next frame. GOAWAY and the end of the connection are errors.
    pub(super) async fn next(&mut self) -> io::Result<Frame> {
        match self.inbox.pop_front() {
            Some(frame) => Ok(frame),
            None => self.receive().await,
        }
    }

    async fn receive(&mut self) -> io::Result<Frame> {
        let mut head = [0; Head::LEN];
        self.read.read_exact(&mut head).await?;
        let head = Head::read(head);
        let mut payload = vec![0; head.len];
        self.read.read_exact(&mut payload).await?;
        let frame = Frame { head, payload };
        match head.kind {
            SETTINGS if !head.has(ACK) => {
                for setting in frame.payload.chunks_exact(6) {
                    let name = u16::from_be_bytes([setting[0], setting[1]]);
                    let value =
                        u32::from_be_bytes([setting[2], setting[3], setting[4], setting[5]]);
                    if name == INITIAL_WINDOW_SIZE {
                        let more = i64::from(value) - self.first_window;
                        self.first_window += more;
                        self.windows.values_mut().for_each(|window| *window += more);
                    }
                }
                self.send(&Frames::new().frame(SETTINGS, ACK, 0, &[])).await?;
            }
            PING if !head.has(ACK) => {
                if let Ok(payload) = frame.payload.clone().try_into() {
                    self.send(&Frames::new().ping(ACK, payload)).await?;
                }
            }
            WINDOW_UPDATE if head.stream == 0 => self.window += i64::from(frame.number()),
            WINDOW_UPDATE => {
                let window = self.windows.entry(head.stream).or_insert(self.first_window);
                *window += i64::from(frame.number());
            }
            GOAWAY => return Err(io::Error::other(frame.farewell())),
            RST_STREAM => drop(self.over.insert(head.stream)),
            DATA | HEADERS if head.has(END_STREAM) => drop(self.over.insert(head.stream)),
            _ => {}
        }
        Ok(frame)
    }

    /// Opens a call and sends its body as fast as flow control allows, in frames of at
    /// most `frame_bytes`. Returns false if the daemon ended the call before all was sent.
    pub(super) async fn call(
        &mut self,
        stream: u32,
        headers: &Block,
        body: &[u8],
        end: bool,
    ) -> io::Result<bool> {
        self.send(&Frames::new().headers(stream, headers)).await?;
        self.body(stream, body, LARGEST_FRAME, end).await
    }

    /// See `call`.
    pub(super) async fn body(
        &mut self,
        stream: u32,
        mut body: &[u8],
        frame_bytes: usize,
        end: bool,
    ) -> io::Result<bool> {
        while !self.over.contains(&stream) {
            let mut frames = Frames::new();
            // What the windows allow leaves in one piece, as a client library does it.
            loop {
                let window = self.windows.entry(stream).or_insert(self.first_window);
                let most = usize::try_from(self.window.min(*window)).unwrap_or(0);
                let part = &body[..body.len().min(most).min(frame_bytes)];
                if part.is_empty() && !body.is_empty() {
                    break;
                }
                self.window -= part.len() as i64;
                *window -= part.len() as i64;
                body = &body[part.len()..];
                frames = match body.is_empty() && end {
                    true => frames.last_data(stream, part),
                    false => frames.data(stream, part),
                };
                if body.is_empty() {
                    self.send(&frames).await?;
                    return Ok(true);
                }
            }
            self.send(&frames).await?;
            let frame = self.receive().await?;
            self.inbox.push_back(frame);
        }
        Ok(false)
    }

    /// Waits until the daemon has ended the call, and returns its DATA.
    pub(super) async fn answer(&mut self, stream: u32) -> io::Result<Vec<u8>> {
        let mut answer = Vec::new();
        let mut others = VecDeque::new();
        loop {
            // Nothing more comes of a stream that is over, but what came may be in the inbox.
            if self.over.contains(&stream) && self.inbox.is_empty() {
                self.inbox = others;
                return Ok(answer);
            }
            let frame = self.next().await?;
            match (frame.head.stream == stream, frame.head.kind) {
                (true, DATA) => answer.extend_from_slice(&frame.payload),
                (true, _) => {}
                (false, DATA | HEADERS | RST_STREAM) => others.push_back(frame),
                (false, _) => {}
            }
        }
    }

    /// Stays, answers pings, and does nothing else.
    pub(super) async fn stay(&mut self) -> io::Error {
        loop {
            self.inbox.clear();
            if let Err(error) = self.receive().await {
                return error;
            }
        }
    }
}

/// Sends what `next` makes, again and again, drops what is answered, and connects anew when
/// the daemon closes. `next` is given the number of its turn on this connection; `None`
/// ends the connection.
pub(super) async fn flood(
    target: &Target,
    opening: Frames,
    mut next: impl FnMut(u32) -> Option<Frames>,
) {
    loop {
        let Ok(stream) = target.connect().await else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        let (mut read, mut write) = stream.into_split();
        let drain = async {
            let mut buffer = vec![0; 64 << 10];
            while read.read(&mut buffer).await.is_ok_and(|len| len > 0) {}
        };
        let send = async {
            write.write_all(&opening.0).await?;
            let mut turn = 0;
            while let Some(frames) = next(turn) {
                write.write_all(&frames.0).await?;
                target.did(1);
                turn += 1;
            }
            io::Result::Ok(())
        };
        tokio::select! {
            () = drain => {}
            _ = send => {}
        }
    }
}

/// Opens connections, has `occupy` do on each what is then kept, and keeps them. A
/// connection that the daemon closes is opened and occupied again.
pub(super) async fn hold<'a>(
    target: &'a Target,
    connections: usize,
    occupy: impl AsyncFn(&'a Target, usize) -> io::Result<Peer> + Copy,
) {
    let one = async |number| {
        let mut first = true;
        loop {
            let occupied = occupy(target, number).await;
            if std::mem::take(&mut first) {
                target.occupied(connections);
            }
            if let Ok(mut peer) = occupied {
                target.did(1);
                peer.stay().await;
            }
            tokio::time::sleep(PAUSE).await;
        }
    };
    futures_util::future::join_all((0..connections).map(one)).await;
}
