//! Streams that are opened to be reset.

use std::sync::Arc;

use rustix::process::Signal;
use sessiond::grpc::pb::ResolveRequest;
use tokio::time::{Duration, sleep, timeout};
use tonic_health::pb::HealthCheckRequest;

use super::{
    peer::{Peer, flood},
    stage::{Attack, HEALTH_CHECK, RESOLVE, Target},
    wire::{Block, Frames, LARGEST_WINDOW, message, stream},
};

/// The client resets what it has just opened (CVE-2023-44487).
pub(super) const RAPID: Attack =
    Attack::by_anybody("rapid_reset", |target| Box::pin(rapid(target)));

async fn rapid(target: Arc<Target>) {
    let headers = Block::call(HEALTH_CHECK, None);
    let chunk = |turn: u32| {
        let pair =
            |frames: Frames, number| frames.headers(stream(number), &headers).reset(stream(number));
        Some((turn * 100..(turn + 1) * 100).fold(Frames::new(), pair))
    };
    let one = |_| flood(&target, Frames::opening(&[]), chunk);
    futures_util::future::join_all((0..4).map(one)).await;
}

/// The client makes the daemon reset it: a window that overflows (CVE-2025-8671).
pub(super) const MADE_YOU: Attack =
    Attack::by_anybody("made_you_reset", |target| Box::pin(made_you(target)));

async fn made_you(target: Arc<Target>) {
    let headers = Block::call(HEALTH_CHECK, None);
    let chunk = |turn: u32| {
        let pair = |frames: Frames, number| {
            frames.headers(stream(number), &headers).window_update(stream(number), LARGEST_WINDOW)
        };
        Some((turn * 100..(turn + 1) * 100).fold(Frames::new(), pair))
    };
    let one = |_| flood(&target, Frames::opening(&[]), chunk);
    futures_util::future::join_all((0..4).map(one)).await;
}

/// Clients cancel what is late, and all of it at once when the daemon stood still.
pub(super) const CANCELLED: Attack =
    Attack::with_token("cancelled_calls", |target| Box::pin(cancelling(target)))
        .with_errand(|target| Box::pin(stopped(target)));

/// The daemon stands still while calls with short deadlines are made and cancelled: those
/// that wait longer are answered all the same, on the same connection.
async fn stopped(target: Arc<Target>) -> Result<(), String> {
    // 25 with 150 ms and 5 with 5 s; then all that may be open at a time.
    for (cancelled, patient) in [(25, 5), (250, 5)] {
        let outcome = stand_still(&target, cancelled, patient).await;
        outcome.map_err(|problem| {
            format!("{cancelled} calls were cancelled while the daemon stood still: {problem}")
        })?;
    }
    Ok(())
}

async fn stand_still(target: &Target, cancelled: u32, patient: u32) -> Result<(), String> {
    let lost = |error: std::io::Error| format!("the other {patient} calls died, too: {error}");
    let connection = target.connect().await.map_err(lost)?;
    let mut peer = Peer::open(connection, Frames::opening(&[])).await.map_err(lost)?;
    let resolve = ResolveRequest { credential: target.credential(), ..Default::default() };
    let (headers, body) = (Block::call(RESOLVE, Some(&target.token)), message(&resolve));
    let call = |frames: Frames, number| {
        frames.headers(stream(number), &headers).last_data(stream(number), &body)
    };
    // One that is answered: the connection is in use.
    peer.send(&call(Frames::new(), 0)).await.map_err(lost)?;
    peer.answer(stream(0)).await.map_err(lost)?;
    target.signal(Signal::STOP);
    let waiting = async {
        let calls = (1..=cancelled + patient).fold(Frames::new(), call);
        peer.send(&calls).await?;
        sleep(Duration::from_millis(150)).await;
        let cancel = |frames: Frames, number| frames.reset(stream(number));
        peer.send(&(1..=cancelled).fold(Frames::new(), cancel)).await?;
        sleep(Duration::from_millis(250)).await;
        std::io::Result::Ok(())
    }
    .await;
    target.signal(Signal::CONT);
    waiting.map_err(lost)?;
    for number in cancelled + 1..=cancelled + patient {
        let answer = timeout(Duration::from_secs(5), peer.answer(stream(number))).await;
        let answer = answer.map_err(|_| "a call with 5 s is not answered".to_owned())?;
        if answer.map_err(lost)?.is_empty() {
            return Err("a call with 5 s is answered without a message".to_owned());
        }
    }
    Ok(())
}

/// Opens nearly as many calls as are allowed, cancels all of them, and again.
async fn cancelling(target: Arc<Target>) {
    let resolve = ResolveRequest { credential: target.credential(), ..Default::default() };
    let (headers, body) = (Block::call(RESOLVE, Some(&target.token)), message(&resolve));
    let chunk = |turn: u32| {
        let wave = turn * 200..(turn + 1) * 200;
        let open = |frames: Frames, number| {
            frames.headers(stream(number), &headers).data(stream(number), &body)
        };
        let opened = wave.clone().fold(Frames::new(), open);
        Some(wave.fold(opened, |frames, number| frames.reset(stream(number))))
    };
    let one = |_| flood(&target, Frames::opening(&[]), chunk);
    futures_util::future::join_all((0..4).map(one)).await;
}

/// The daemon ends calls that are late before their bodies have come.
pub(super) const LATE: Attack = Attack::by_anybody("late_calls", |target| Box::pin(late(target)))
    .with_errand(|target| Box::pin(many_late_calls(target)));

/// More late calls than h2 forgives in the life of a connection, at a pace that an honest
/// client has. A call that comes in time is answered between them, and after them.
async fn many_late_calls(target: Arc<Target>) -> Result<(), String> {
    const AT_ONCE: u32 = 10;
    let lost = |error: std::io::Error| format!("a connection with many late calls: {error}");
    let calls = target.form.pick(1_200, 1_200, 3_000);
    let pause = Duration::from_millis(target.form.pick(20, 50, 100));
    let connection = target.connect().await.map_err(lost)?;
    let mut peer = Peer::open(connection, Frames::opening(&[])).await.map_err(lost)?;
    let resolve = ResolveRequest { credential: target.credential(), ..Default::default() };
    let (headers, body) = (Block::call(RESOLVE, Some(&target.token)), message(&resolve));
    let short = headers.clone().literal("grpc-timeout", "1m");
    let mut number = 0;
    while number < calls {
        let late = number..number + AT_ONCE;
        let open = |frames: Frames, number| frames.headers(stream(number), &short);
        peer.send(&late.clone().fold(Frames::new(), open)).await.map_err(lost)?;
        for number in late.clone() {
            peer.answer(stream(number)).await.map_err(lost)?;
        }
        // The client has not read yet that these are over.
        let rest = |frames: Frames, number| frames.last_data(stream(number), &body);
        peer.send(&late.fold(Frames::new(), rest)).await.map_err(lost)?;
        number += AT_ONCE;
        peer.call(stream(number), &headers, &body, true).await.map_err(lost)?;
        if peer.answer(stream(number)).await.map_err(lost)?.is_empty() {
            return Err(format!("after {number} late calls, one in time has no answer"));
        }
        number += 1;
        sleep(pause).await;
    }
    Ok(())
}

async fn late(target: Arc<Target>) {
    let headers = Block::call(HEALTH_CHECK, None).literal("grpc-timeout", "1n");
    let body = message(&HealthCheckRequest::default());
    let chunk = |turn: u32| {
        let wave = turn * 100..(turn + 1) * 100;
        let open = |frames: Frames, number| frames.headers(stream(number), &headers);
        let opened = wave.clone().fold(Frames::new(), open);
        // The bodies of the wave before.
        let before = (turn.max(1) - 1) * 100..turn * 100;
        let rest = |frames: Frames, number| frames.last_data(stream(number), &body);
        Some(before.fold(opened, rest))
    };
    let one = |_| flood(&target, Frames::opening(&[]), chunk);
    futures_util::future::join_all((0..4).map(one)).await;
}
