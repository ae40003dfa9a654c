//! All places are taken, and kept.

use std::{net::Ipv4Addr, sync::Arc};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::{Duration, sleep, timeout},
};

use super::{
    health::settle,
    peer::{PAUSE, Peer, hold},
    stage::{Attack, Target},
    wire::{Frames, PREFACE},
};

/// Fewer than usual, so that few connections are enough.
const PLACES: &[&str] = &["--set=limits.max_connections=64"];
/// More than there are.
const CONNECTIONS: usize = 96;

/// One peer opens connections, says nothing, and answers pings.
pub(super) const PINGS: Attack =
    Attack::by_anybody("places_pings", |target| Box::pin(pings(target))).with_settings(PLACES);

async fn pings(target: Arc<Target>) {
    hold(&target, CONNECTIONS, async |target: &Target, _| {
        occupy(target, Ipv4Addr::new(127, 0, 0, 2)).await
    })
    .await;
}

async fn occupy(target: &Target, from: Ipv4Addr) -> std::io::Result<Peer> {
    let stream = target.connect_from(from).await?;
    let mut peer = Peer::open(stream, Frames::opening(&[])).await?;
    // One that finds no place is not answered.
    let _ = timeout(Duration::from_millis(200), settle(&mut peer)).await;
    Ok(peer)
}

/// The same from as many addresses as there are connections: no share of one address
/// helps, only that those make room that have been idle for longest.
pub(super) const SPREAD: Attack =
    Attack::by_anybody("places_spread", |target| Box::pin(spread(target))).with_settings(PLACES);

async fn spread(target: Arc<Target>) {
    hold(&target, CONNECTIONS, async |target: &Target, number| {
        occupy(target, Ipv4Addr::new(127, 0, 1, number as u8 + 1)).await
    })
    .await;
}

/// Half a preface, and an octet of the rest every now and then.
pub(super) const HALF_PREFACE: Attack =
    Attack::by_anybody("places_half_preface", |target| Box::pin(half_preface(target)))
        .with_settings(PLACES)
        .with_errand(|target| Box::pin(the_whole_preface_is_due(target)));

async fn half_preface(target: Arc<Target>) {
    let one = async |number| {
        let mut first = true;
        loop {
            let stuttered = async {
                let mut stream = target.connect().await?;
                stream.write_all(&PREFACE[..12]).await?;
                if std::mem::take(&mut first) {
                    target.occupied(CONNECTIONS);
                    target.did(1);
                }
                stutter(&mut stream, Duration::from_millis(500 + number)).await
            };
            if stuttered.await.is_err() {
                sleep(PAUSE).await;
            }
        }
    };
    futures_util::future::join_all((0..CONNECTIONS as u64).map(one)).await;
}

/// Sends the rest an octet at a time, until the daemon closes.
async fn stutter(stream: &mut tokio::net::TcpStream, pause: Duration) -> std::io::Result<()> {
    for octet in &PREFACE[12..PREFACE.len() - 1] {
        let heard = timeout(pause, stream.read_u8()).await;
        if let Ok(Err(error)) = heard {
            return Err(error);
        }
        stream.write_all(std::slice::from_ref(octet)).await?;
    }
    // And never the last one.
    loop {
        stream.read_u8().await?;
    }
}

/// A connection whose preface is not whole after ten seconds is closed.
async fn the_whole_preface_is_due(target: Arc<Target>) -> Result<(), String> {
    if target.form.pick(true, false, false) {
        // Ten seconds are too much for the short form.
        return Ok(());
    }
    let mut stream = target.connect().await.map_err(|error| error.to_string())?;
    stream.write_all(&PREFACE[..12]).await.map_err(|error| error.to_string())?;
    let closed = timeout(Duration::from_secs(13), stutter(&mut stream, Duration::from_secs(1)));
    match closed.await {
        Ok(_) => Ok(()),
        Err(_) => Err("a peer with half a preface still had its place after 13 s".to_owned()),
    }
}
