//! How much a connection may cost the thread that serves it.
//!
//! Two bounds, both on what is read:
//!
//! - **A turn.** After so many octets and frames the connection lets the others of its thread
//!   go first.
//! - **A rate** of frames that cost work and bring nothing: SETTINGS, PING, resets, window
//!   updates, tiny frames of data. Where they come faster, the connection is not read for some
//!   milliseconds. TCP holds the sender, and nothing is ended: a client that cancels all its
//!   calls at once, however often, is slowed down at most.

use std::{
    sync::{
        OnceLock,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

/// What a connection may read in one turn: octets, and more for each frame.
pub(super) const TURN_COST: usize = 64 << 10;

/// What a frame costs beside its octets; a call and its end cost more than a frame of data.
const FRAME_COST: usize = 64;
const CALL_COST: usize = 256;
const HEADER_COST: usize = 3;

/// What frames that bring nothing may cost in a second and at once. A unit is about half a
/// microsecond of the thread.
const TOLL_PER_SECOND: f64 = 40_000.0;
const TOLL_AT_ONCE: f64 = 16_000.0;
/// A paused connection goes on with this much.
const TOLL_TO_GO_ON: f64 = 400.0;

/// A reset costs as much as the call that it ends.
const RESET_TOLL: f64 = 8.0;
/// SETTINGS may change the window of each open stream.
const SETTINGS_TOLL: f64 = 4.0;
const SETTINGS_TOLL_PER_STREAM: f64 = 0.125;
/// A peer acknowledges what is sent with window updates, a few for each frame.
const EARNED_BY_ANSWERS: f64 = 3.0;

/// Frames of data below this length cost more than they bring.
const TINY_BYTES: usize = 32;

// RFC 9113, section 6.
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;

const SETTINGS: u8 = 4;
const CONTINUATION: u8 = 9;

const END_STREAM: u8 = 1;

/// The head of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FrameHead {
    pub len: usize,
    pub kind: u8,
    pub flags: u8,
}

/// Finds the heads of frames in a stream of octets.
#[derive(Debug)]
pub(super) struct FrameHeads {
    /// Octets up to the next head.
    skip: usize,
    /// A head of which only a part has come.
    begun: [u8; FRAME_HEAD_LEN],
    begun_len: usize,
}

const FRAME_HEAD_LEN: usize = 9;

impl FrameHeads {
    /// Of a stream that begins with `preface` octets that are no frame.
    pub(super) fn after(preface: usize) -> Self {
        Self { skip: preface, begun: [0; FRAME_HEAD_LEN], begun_len: 0 }
    }

    /// The frames that begin in the next octets of the stream.
    pub(super) fn in_next(&mut self, mut octets: &[u8], mut each: impl FnMut(FrameHead)) {
        loop {
            let skipped = self.skip.min(octets.len());
            octets = &octets[skipped..];
            self.skip -= skipped;
            if octets.is_empty() {
                return;
            }
            let (here, rest) = octets.split_at(octets.len().min(FRAME_HEAD_LEN - self.begun_len));
            self.begun[self.begun_len..][..here.len()].copy_from_slice(here);
            self.begun_len += here.len();
            octets = rest;
            if self.begun_len < FRAME_HEAD_LEN {
                return;
            }
            let [a, b, c, kind, flags, ..] = self.begun;
            let len = u32::from_be_bytes([0, a, b, c]) as usize;
            self.begun_len = 0;
            self.skip = len;
            each(FrameHead { len, kind, flags });
        }
    }
}

/// What a frame that was read takes of the turn.
pub(super) fn cost(frame: FrameHead) -> usize {
    match frame.kind {
        // An octet may stand for a whole header (RFC 7541, section 6.1).
        HEADERS | CONTINUATION => CALL_COST + HEADER_COST * frame.len,
        RST_STREAM => CALL_COST,
        _ => FRAME_COST,
    }
}

/// How much of what brings nothing is let through.
#[derive(Debug)]
pub(super) struct Toll {
    left: f64,
    as_of: Instant,
}

impl Toll {
    pub(super) fn new() -> Self {
        Self { left: TOLL_AT_ONCE, as_of: Instant::now() }
    }

    /// A frame was read, while so many streams were open.
    pub(super) fn read(&mut self, frame: FrameHead, streams: usize) {
        self.left -= match frame.kind {
            DATA if frame.len >= TINY_BYTES || frame.flags & END_STREAM != 0 => 0.0,
            HEADERS => 0.0,
            RST_STREAM => RESET_TOLL,
            SETTINGS => SETTINGS_TOLL + SETTINGS_TOLL_PER_STREAM * streams as f64,
            _ => 1.0,
        };
    }

    /// A frame was written.
    pub(super) fn wrote(&mut self, frame: FrameHead) {
        match frame.kind {
            DATA | HEADERS => self.left = (self.left + EARNED_BY_ANSWERS).min(TOLL_AT_ONCE),
            // The peer has made the daemon reset a stream.
            RST_STREAM => self.left -= RESET_TOLL,
            _ => {}
        }
    }

    /// How long nothing is to be read; `None`: go on.
    pub(super) fn pause(&mut self) -> Option<Duration> {
        if self.left > 0.0 {
            return None;
        }
        let now = Instant::now();
        let since = now.duration_since(self.as_of).as_secs_f64();
        self.left = (self.left + since * TOLL_PER_SECOND).min(TOLL_AT_ONCE);
        self.as_of = now;
        if self.left > 0.0 {
            return None;
        }
        Some(Duration::from_secs_f64((TOLL_TO_GO_ON - self.left) / TOLL_PER_SECOND))
    }
}

/// What the loop of a connection and its reader tell each other. They run on one task.
#[derive(Debug, Default)]
pub(super) struct Pace {
    turn: AtomicUsize,
    streams: AtomicUsize,
    began: OnceLock<Instant>,
    /// When something was last heard of the peer, in milliseconds since `began`.
    heard: AtomicU64,
}

impl Pace {
    /// A turn begins, while so many streams are open.
    pub(super) fn begin_turn(&self, streams: usize) {
        self.turn.store(self.turn().wrapping_add(1), Ordering::Relaxed);
        self.streams.store(streams, Ordering::Relaxed);
    }

    /// The number of the current turn.
    pub(super) fn turn(&self) -> usize {
        self.turn.load(Ordering::Relaxed)
    }

    /// How many streams were open when the turn began.
    pub(super) fn streams(&self) -> usize {
        self.streams.load(Ordering::Relaxed)
    }

    /// Octets have come.
    pub(super) fn hear(&self) {
        let since = self.began.get_or_init(Instant::now).elapsed();
        self.heard.store(since.as_millis() as u64, Ordering::Relaxed);
    }

    /// When octets have last come.
    pub(super) fn heard(&self) -> Instant {
        let began = *self.began.get_or_init(Instant::now);
        began + Duration::from_millis(self.heard.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let [_, a, b, c] = (payload.len() as u32).to_be_bytes();
        [&[a, b, c, kind, flags, 0, 0, 0, 1], payload].concat()
    }

    #[test]
    fn frames_are_found_in_any_pieces() {
        let stream = [
            b"preface".to_vec(),
            frame(SETTINGS, 0, b""),
            frame(DATA, END_STREAM, b"hello"),
            frame(DATA, 0, &[b'x'; 300]),
            frame(RST_STREAM, 0, &[0; 4]),
        ]
        .concat();
        let expected =
            [(0, SETTINGS, 0), (5, DATA, END_STREAM), (300, DATA, 0), (4, RST_STREAM, 0)];
        for piece in [1, 2, 7, 8, 9, 10, 64, stream.len()] {
            let mut heads = FrameHeads::after(b"preface".len());
            let mut found = Vec::new();
            for octets in stream.chunks(piece) {
                heads.in_next(octets, |head| found.push((head.len, head.kind, head.flags)));
            }
            assert_eq!(found, expected, "in pieces of {piece}");
        }
    }

    /// How many of these frames are let through at once.
    fn at_once(head: FrameHead, streams: usize) -> usize {
        let mut toll = Toll::new();
        (0..100_000)
            .take_while(|_| {
                toll.read(head, streams);
                toll.left > 0.0
            })
            .count()
    }

    #[test]
    fn cancelling_all_that_may_be_open_is_no_attack_and_flipping_windows_is_one() {
        let head = |kind| FrameHead { len: 4, kind, flags: 0 };
        assert!(at_once(head(RST_STREAM), 256) > 4 * 256, "of 256 streams, several times");
        assert!(at_once(head(SETTINGS), 256) < 500, "each changes 256 windows");
        let whole = FrameHead { len: 200, kind: DATA, flags: 0 };
        assert_eq!(at_once(whole, 256), 100_000, "what is asked for is free");
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_is_short_and_then_it_goes_on() {
        let mut toll = Toll::new();
        let settings = FrameHead { len: 6, kind: SETTINGS, flags: 0 };
        while toll.left > 0.0 {
            toll.read(settings, 256);
        }
        let pause = toll.pause().expect("it has cost too much");
        assert!(pause < Duration::from_millis(50), "{pause:?}");
        tokio::time::advance(pause + Duration::from_millis(1)).await;
        assert_eq!(toll.pause(), None);
    }
}
