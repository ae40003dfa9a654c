//! What a peer without a token can make the daemon hold: calls of the health service.

use std::sync::Arc;

use super::{
    peer::{Peer, hold},
    stage::{Attack, HEALTH_CHECK, HEALTH_WATCH, Target},
    wire::{Block, Frames, framed, stream},
};

/// What max_concurrent_streams allows on a connection.
const STREAMS: u32 = 256;

/// Health/Check with as many short headers as fit, and no message.
pub(super) const HEADERS: Attack =
    Attack::by_anybody("health_headers", |target| Box::pin(headers(target)));

async fn headers(target: Arc<Target>) {
    let short = |block: Block, number| block.literal(&format!("x{number}"), "");
    let block = (0..420).fold(Block::call(HEALTH_CHECK, None), short);
    let connections = target.form.pick(6, 6, 32);
    hold(&target, connections, async |target: &Target, _| {
        let mut peer = Peer::open(target.connect().await?, Frames::opening(&[])).await?;
        for number in 0..STREAMS {
            peer.send(&Frames::new().long_headers(stream(number), &block)).await?;
        }
        settle(&mut peer).await?;
        Ok(peer)
    })
    .await;
}

/// Health/Watch, which is never over.
pub(super) const WATCHES: Attack =
    Attack::by_anybody("health_watches", |target| Box::pin(watches(target)));

async fn watches(target: Arc<Target>) {
    let block = Block::call(HEALTH_WATCH, None);
    let connections = target.form.pick(40, 40, 100);
    hold(&target, connections, async |target: &Target, _| {
        let mut peer = Peer::open(target.connect().await?, Frames::opening(&[])).await?;
        let watch = |frames: Frames, number| {
            frames.headers(stream(number), &block).last_data(stream(number), &framed(&[]))
        };
        peer.send(&(0..STREAMS).fold(Frames::new(), watch)).await?;
        settle(&mut peer).await?;
        Ok(peer)
    })
    .await;
}

/// Waits until the daemon has read all that was sent: it answers pings in order.
pub(super) async fn settle(peer: &mut Peer) -> std::io::Result<()> {
    const OURS: [u8; 8] = *b"settled?";
    peer.send(&Frames::new().ping(0, OURS)).await?;
    loop {
        let frame = peer.next().await?;
        if frame.head.kind == super::wire::PING && frame.payload == OURS {
            return Ok(());
        }
    }
}
