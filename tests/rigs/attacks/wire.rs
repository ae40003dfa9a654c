//! HTTP/2 by hand: frames (RFC 9113, section 6) and header blocks (RFC 7541) as octets, so
//! that a peer can send what no library would.

use prost::Message;

pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
pub(super) const RST_STREAM: u8 = 3;
pub(super) const SETTINGS: u8 = 4;
pub(super) const PING: u8 = 6;
pub(super) const GOAWAY: u8 = 7;
pub(super) const WINDOW_UPDATE: u8 = 8;
pub(super) const CONTINUATION: u8 = 9;

pub(super) const END_STREAM: u8 = 1;
pub(super) const ACK: u8 = 1;
pub(super) const END_HEADERS: u8 = 4;

pub(super) const HEADER_TABLE_SIZE: u16 = 1;
pub(super) const INITIAL_WINDOW_SIZE: u16 = 4;

pub(super) const CANCEL: u32 = 8;

/// The largest window there is.
pub(super) const LARGEST_WINDOW: u32 = (1 << 31) - 1;
/// The window of a connection and of each stream before anybody changes it.
pub(super) const FIRST_WINDOW: u32 = 65_535;
/// The largest payload of a frame that every peer accepts.
pub(super) const LARGEST_FRAME: usize = 16 << 10;

/// What a client says first (RFC 9113, section 3.4), without its SETTINGS.
pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The first nine octets of a frame.
#[derive(Debug, Clone, Copy)]
pub(super) struct Head {
    pub len: usize,
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
}

impl Head {
    pub(super) const LEN: usize = 9;

    pub(super) fn read(octets: [u8; Self::LEN]) -> Self {
        let [a, b, c, kind, flags, s, t, u, v] = octets;
        let len = u32::from_be_bytes([0, a, b, c]) as usize;
        let stream = u32::from_be_bytes([s & 0x7f, t, u, v]);
        Self { len, kind, flags, stream }
    }

    pub(super) fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

/// A frame that came.
#[derive(Debug)]
pub(super) struct Frame {
    pub head: Head,
    pub payload: Vec<u8>,
}

impl Frame {
    /// The number that RST_STREAM and WINDOW_UPDATE consist of.
    pub(super) fn number(&self) -> u32 {
        self.payload.first_chunk().map_or(0, |octets| u32::from_be_bytes(*octets))
    }

    /// Why the peer ends the connection.
    pub(super) fn farewell(&self) -> String {
        let code = self.payload.get(4..8).unwrap_or_default();
        let text = String::from_utf8_lossy(self.payload.get(8..).unwrap_or_default());
        format!("GOAWAY with the code {code:?}, {text:?}")
    }
}

/// Frames to send.
#[derive(Debug, Default, Clone)]
pub(super) struct Frames(pub Vec<u8>);

impl Frames {
    pub(super) fn new() -> Self {
        Self::default()
    }

    /// The preface of a client with these settings.
    pub(super) fn opening(settings: &[(u16, u32)]) -> Self {
        Self(PREFACE.to_vec()).settings(settings)
    }

    pub(super) fn frame(mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Self {
        let len = u32::try_from(payload.len()).expect("a frame is small");
        self.0.extend_from_slice(&len.to_be_bytes()[1..]);
        self.0.extend_from_slice(&[kind, flags]);
        self.0.extend_from_slice(&stream.to_be_bytes());
        self.0.extend_from_slice(payload);
        self
    }

    pub(super) fn settings(self, settings: &[(u16, u32)]) -> Self {
        let mut payload = Vec::new();
        for (name, value) in settings {
            payload.extend_from_slice(&name.to_be_bytes());
            payload.extend_from_slice(&value.to_be_bytes());
        }
        self.frame(SETTINGS, 0, 0, &payload)
    }

    /// The headers of a request whose body follows.
    pub(super) fn headers(self, stream: u32, block: &Block) -> Self {
        self.frame(HEADERS, END_HEADERS, stream, &block.0)
    }

    /// Any header block, split over CONTINUATION frames where that is needed.
    pub(super) fn long_headers(mut self, stream: u32, block: &Block) -> Self {
        let mut parts = block.0.chunks(LARGEST_FRAME).peekable();
        let mut kind = HEADERS;
        while let Some(part) = parts.next() {
            let flags = if parts.peek().is_none() { END_HEADERS } else { 0 };
            self = self.frame(kind, flags, stream, part);
            kind = CONTINUATION;
        }
        self
    }

    pub(super) fn data(self, stream: u32, payload: &[u8]) -> Self {
        self.frame(DATA, 0, stream, payload)
    }

    /// The last of a request's body.
    pub(super) fn last_data(self, stream: u32, payload: &[u8]) -> Self {
        self.frame(DATA, END_STREAM, stream, payload)
    }

    pub(super) fn reset(self, stream: u32) -> Self {
        self.frame(RST_STREAM, 0, stream, &CANCEL.to_be_bytes())
    }

    pub(super) fn window_update(self, stream: u32, increment: u32) -> Self {
        self.frame(WINDOW_UPDATE, 0, stream, &increment.to_be_bytes())
    }

    pub(super) fn ping(self, flags: u8, payload: [u8; 8]) -> Self {
        self.frame(PING, flags, 0, &payload)
    }
}

/// A header block. Nothing of it is Huffman-coded.
#[derive(Debug, Default, Clone)]
pub(super) struct Block(pub Vec<u8>);

impl Block {
    /// The headers of a gRPC call.
    pub(super) fn call(path: &str, token: Option<&str>) -> Self {
        // The static table (RFC 7541, appendix A): 3 is ":method: POST", 6 ":scheme: http".
        let block = Self::default()
            .indexed(3)
            .indexed(6)
            .literal(":path", path)
            .literal(":authority", "localhost")
            .literal("content-type", "application/grpc")
            .literal("te", "trailers");
        match token {
            Some(token) => block.literal("authorization", &format!("Bearer {token}")),
            None => block,
        }
    }

    /// An entry of the tables, which begin with 1. The newest dynamic one is 62.
    pub(super) fn indexed(mut self, index: usize) -> Self {
        self.integer(0x80, 7, index);
        self
    }

    /// A header that is not kept.
    pub(super) fn literal(mut self, name: &str, value: &str) -> Self {
        self.integer(0, 4, 0);
        self.text(name);
        self.text(value);
        self
    }

    /// A header that is kept in the dynamic table.
    pub(super) fn kept(mut self, name: &str, value: &str) -> Self {
        self.integer(0x40, 6, 0);
        self.text(name);
        self.text(value);
        self
    }

    fn text(&mut self, text: &str) {
        self.integer(0, 7, text.len());
        self.0.extend_from_slice(text.as_bytes());
    }

    /// RFC 7541, section 5.1.
    fn integer(&mut self, pattern: u8, prefix_bits: u8, value: usize) {
        let most = (1 << prefix_bits) - 1;
        if value < most {
            return self.0.push(pattern | value as u8);
        }
        self.0.push(pattern | most as u8);
        let mut rest = value - most;
        while rest >= 0x80 {
            self.0.push(rest as u8 | 0x80);
            rest >>= 7;
        }
        self.0.push(rest as u8);
    }
}

/// A message as gRPC frames it: not compressed, its length, itself.
pub(super) fn message(message: &impl Message) -> Vec<u8> {
    framed(&message.encode_to_vec())
}

pub(super) fn framed(encoded: &[u8]) -> Vec<u8> {
    let mut octets = vec![0];
    octets.extend_from_slice(&u32::try_from(encoded.len()).expect("4 GiB at most").to_be_bytes());
    octets.extend_from_slice(encoded);
    octets
}

/// The first message in what came, and what follows it; `None`: it has not come whole.
pub(super) fn unframed(octets: &[u8]) -> Option<(&[u8], &[u8])> {
    let (head, rest) = octets.split_first_chunk::<5>()?;
    let len = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
    rest.split_at_checked(len)
}

/// The ids of a client's streams, in the order of their opening.
pub(super) fn stream(number: u32) -> u32 {
    2 * number + 1
}

#[test]
fn integers_and_frames_are_those_of_the_standards() {
    // RFC 7541, appendix C.1.
    let mut block = Block::default();
    block.integer(0, 5, 10);
    block.integer(0, 5, 1337);
    block.integer(0, 8, 42);
    assert_eq!(block.0, [10, 0b11111, 0b1001_1010, 0b1010, 42]);
    let frames = Frames::new().last_data(5, b"ab");
    assert_eq!(frames.0, [0, 0, 2, DATA, END_STREAM, 0, 0, 0, 5, b'a', b'b']);
    let head = Head::read(*frames.0.first_chunk().expect("nine octets"));
    assert_eq!((head.len, head.stream, head.has(END_STREAM)), (2, 5, true));
}
