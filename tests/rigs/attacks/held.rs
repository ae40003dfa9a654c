//! What a peer with a token can make the daemon hold: messages that never end, and answers
//! that are never read.

use std::sync::Arc;

use sessiond::grpc::pb::{PipelineRequest, ResolveRequest, pipeline_request::Operation};

use super::{
    health::settle,
    peer::{Peer, hold},
    stage::{Attack, PIPELINE, RESOLVE, Target, WRITE},
    wire::{Block, Frames, INITIAL_WINDOW_SIZE, message, stream},
};

/// A length that max_message_bytes allows.
const ANNOUNCED_BYTES: u32 = 1 << 20;

/// Nearly all of a message, so that it has to be kept, and never its end.
fn half_message() -> Vec<u8> {
    let mut half = vec![0];
    half.extend_from_slice(&ANNOUNCED_BYTES.to_be_bytes());
    half.resize(half.len() + ANNOUNCED_BYTES as usize - 1, b'x');
    half
}

/// All calls of a connection wait for the rest of their message.
pub(super) const HALF_MESSAGES: Attack =
    Attack::with_token("half_messages", |target| Box::pin(half_messages(target)));

async fn half_messages(target: Arc<Target>) {
    let half = half_message();
    let connections = target.form.pick(2, 2, 8);
    hold(&target, connections, async |target: &Target, _| {
        let mut peer = Peer::open(target.connect().await?, Frames::opening(&[])).await?;
        send_halves(target, &mut peer, &half, 0..250).await?;
        Ok(peer)
    })
    .await;
}

async fn send_halves(
    target: &Target,
    peer: &mut Peer,
    half: &[u8],
    numbers: std::ops::Range<u32>,
) -> std::io::Result<()> {
    let headers = Block::call(WRITE, Some(&target.token));
    for number in numbers {
        // One that is refused ends early, and the next may still be taken.
        let _ = peer.call(stream(number), &headers, half, false).await?;
    }
    Ok(())
}

/// All calls of a connection have a large answer, and none is read.
pub(super) const UNREAD_ANSWERS: Attack =
    Attack::with_token("unread_answers", |target| Box::pin(unread_answers(target)));

async fn unread_answers(target: Arc<Target>) {
    let connections = target.form.pick(16, 16, 64);
    hold(&target, connections, async |target: &Target, _| {
        let mut peer = Peer::open(target.connect().await?, unreading()).await?;
        ask_much(target, &mut peer, 0..250).await?;
        Ok(peer)
    })
    .await;
}

/// The opening of a peer that lets nothing be sent on its streams.
fn unreading() -> Frames {
    Frames::opening(&[(INITIAL_WINDOW_SIZE, 0)])
}

async fn ask_much(
    target: &Target,
    peer: &mut Peer,
    numbers: std::ops::Range<u32>,
) -> std::io::Result<()> {
    let resolve = ResolveRequest { credential: target.large_credential(), ..Default::default() };
    let (headers, body) = (Block::call(RESOLVE, Some(&target.token)), message(&resolve));
    let call = |frames: Frames, number| {
        frames.headers(stream(number), &headers).last_data(stream(number), &body)
    };
    peer.send(&numbers.fold(Frames::new(), call)).await?;
    settle(peer).await
}

/// Pipelines whose answers are large and not read.
pub(super) const UNREAD_PIPELINES: Attack =
    Attack::with_token("unread_pipelines", |target| Box::pin(unread_pipelines(target)));

async fn unread_pipelines(target: Arc<Target>) {
    let connections = target.form.pick(16, 16, 64);
    let resolve = ResolveRequest { credential: target.large_credential(), ..Default::default() };
    let operation = Some(Operation::Resolve(resolve));
    let request = message(&PipelineRequest { sequence: 1, operation, timeout: None });
    // As many as fit into the window of the connection beside each other.
    let requests = request.repeat(4);
    hold(&target, connections, async |target: &Target, _| {
        let mut peer = Peer::open(target.connect().await?, unreading()).await?;
        let headers = Block::call(PIPELINE, Some(&target.token));
        for number in 0..100 {
            peer.call(stream(number), &headers, &requests, false).await?;
        }
        settle(&mut peer).await?;
        Ok(peer)
    })
    .await;
}

/// Two hundred connections with some of each. They may hold what docs/operations.md says for
/// the worst case: `limits.max_held_bytes`, and 384 KiB for each connection.
pub(super) const CROWD: Attack = Attack {
    more_bytes: (64 << 20) + CROWD_CONNECTIONS as u64 * CONNECTION_BYTES,
    ..Attack::with_token("crowd", |target| Box::pin(crowd(target)))
};
const CROWD_CONNECTIONS: usize = 200;
/// The futures of a build without optimization are larger: 168 to 187 MiB in all, where the release
/// build has 151.
const CONNECTION_BYTES: u64 = if cfg!(debug_assertions) { 512 << 10 } else { 384 << 10 };

async fn crowd(target: Arc<Target>) {
    let half = half_message();
    hold(&target, CROWD_CONNECTIONS, async |target: &Target, _| {
        let mut peer = Peer::open(target.connect().await?, unreading()).await?;
        ask_much(target, &mut peer, 0..100).await?;
        send_halves(target, &mut peer, &half, 100..108).await?;
        Ok(peer)
    })
    .await;
}
