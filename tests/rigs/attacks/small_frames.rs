//! Many small DATA frames. An honest client that sends thousands of Writes at once is held
//! by flow control; one that sends each octet in a frame of its own is only slow.

use std::{collections::BTreeSet, sync::Arc};

use prost::Message;
use sessiond::grpc::pb::{
    PipelineRequest, PipelineResponse, ResolveRequest, WriteRequest, pipeline_request::Operation,
    pipeline_response::Result as Answer,
};

use super::{
    peer::{Peer, flood},
    stage::{Attack, PIPELINE, Target},
    wire::{Block, Frames, INITIAL_WINDOW_SIZE, LARGEST_WINDOW, message, stream, unframed},
};

pub(super) const ATTACK: Attack =
    Attack::with_token("small_frames", |target| Box::pin(play(target)))
        .with_errand(|target| Box::pin(honest(target)));

/// A Pipeline of 2,000 Writes, and two of 1,000 each beside each other, all sent at once
/// as grpc-js does it: each Write in a frame of its own.
async fn honest(target: Arc<Target>) -> Result<(), String> {
    for (pipelines, writes) in [(1, 2_000), (2, 1_000)] {
        let sent = all_are_answered(&target, pipelines, writes).await;
        sent.map_err(|problem| {
            format!("{pipelines} honest Pipelines of {writes} Writes at once: {problem}")
        })?;
    }
    Ok(())
}

async fn all_are_answered(target: &Target, pipelines: u32, writes: u64) -> Result<(), String> {
    let lost = |error: std::io::Error| error.to_string();
    let opening = Frames::opening(&[(INITIAL_WINDOW_SIZE, LARGEST_WINDOW)])
        .window_update(0, LARGEST_WINDOW / 2);
    let connection = target.connect().await.map_err(lost)?;
    let mut peer = Peer::open(connection, opening).await.map_err(lost)?;
    let headers = Block::call(PIPELINE, Some(&target.token));
    for number in 0..pipelines {
        peer.send(&Frames::new().headers(stream(number), &headers)).await.map_err(lost)?;
    }
    for sequence in 1..=writes {
        let write = WriteRequest { set: br#"{"n":1}"#.as_slice().into(), ..Default::default() };
        let operation = Some(Operation::Write(write));
        let request = message(&PipelineRequest { sequence, operation, timeout: None });
        for number in 0..pipelines {
            let end = sequence == writes;
            let sent = peer.body(stream(number), &request, request.len(), end).await;
            if !sent.map_err(lost)? {
                return Err("the daemon ended a stream before all was sent".to_owned());
            }
        }
    }
    for number in 0..pipelines {
        let answer = peer.answer(stream(number)).await.map_err(lost)?;
        let (mut answered, mut rest) = (BTreeSet::new(), answer.as_slice());
        while let Some((message, more)) = unframed(rest) {
            let response = PipelineResponse::decode(message).map_err(|error| error.to_string())?;
            match response.result {
                Some(Answer::Write(_)) => drop(answered.insert(response.sequence)),
                other => return Err(format!("expected the answer of a Write, found {other:?}")),
            }
            rest = more;
        }
        if answered.len() as u64 != writes {
            return Err(format!("{} were answered", answered.len()));
        }
    }
    Ok(())
}

/// Resolves in a Pipeline, an octet in each frame, as many as the first window allows.
async fn play(target: Arc<Target>) {
    let resolve = ResolveRequest { credential: target.credential(), ..Default::default() };
    let operation = Some(Operation::Resolve(resolve));
    let request = message(&PipelineRequest { sequence: 1, operation, timeout: None });
    let octets: Vec<u8> = request.iter().copied().cycle().take(60_000).collect();
    let opening = Frames::opening(&[]).headers(1, &Block::call(PIPELINE, Some(&target.token)));
    let chunk = |turn: u32| {
        let part = octets.chunks(1_000).nth(turn as usize)?;
        let frame = |frames: Frames, octet: &u8| frames.data(1, std::slice::from_ref(octet));
        Some(part.iter().fold(Frames::new(), frame))
    };
    futures_util::future::join_all((0..4).map(|_| flood(&target, opening.clone(), chunk))).await;
}
