//! The listener of the metrics, which asks nobody for a token.

use std::sync::Arc;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::sleep,
};

use super::{
    peer::PAUSE,
    stage::{Attack, Target},
};

/// Scrapes as fast as they are answered, over a few connections.
pub(super) const FLOOD: Attack =
    Attack::by_anybody("metrics_flood", |target| Box::pin(flood(target)));

async fn flood(target: Arc<Target>) {
    let requests = "GET /metrics HTTP/1.1\r\nhost: rig\r\n\r\n".repeat(50);
    let one = async |_| {
        loop {
            let scraping = async {
                let (mut read, mut write) = target.connect_to_metrics().await?.into_split();
                let drain = async {
                    let mut buffer = vec![0; 64 << 10];
                    while read.read(&mut buffer).await.is_ok_and(|len| len > 0) {}
                };
                let ask = async {
                    while write.write_all(requests.as_bytes()).await.is_ok() {
                        target.did(1);
                    }
                };
                tokio::select! {
                    () = drain => {}
                    () = ask => {}
                }
                std::io::Result::Ok(())
            };
            let _ = scraping.await;
            sleep(PAUSE).await;
        }
    };
    futures_util::future::join_all((0..8).map(one)).await;
}

/// More connections than there are places, and not a word on any of them.
pub(super) const IDLE: Attack = Attack::by_anybody("metrics_idle", |target| Box::pin(idle(target)));

async fn idle(target: Arc<Target>) {
    const CONNECTIONS: usize = 24;
    let one = async |_| {
        let mut first = true;
        loop {
            if let Ok(mut stream) = target.connect_to_metrics().await {
                if std::mem::take(&mut first) {
                    target.occupied(CONNECTIONS);
                    target.did(1);
                }
                let _ = stream.read_u8().await;
            }
            sleep(PAUSE).await;
        }
    };
    futures_util::future::join_all((0..CONNECTIONS).map(one)).await;
}
