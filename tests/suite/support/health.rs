//! Health checks, as a probe makes them.

use tonic::transport::Channel;
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

pub(crate) use tonic_health::pb::health_check_response::ServingStatus;

use super::program::PATIENCE;

/// Watches until the daemon's health is `status`, for a bounded time.
pub(crate) async fn becomes(channel: Channel, status: ServingStatus) {
    let mut client = HealthClient::new(channel);
    let watch = client.watch(HealthCheckRequest::default()).await;
    let mut watch = watch.expect("probes are answered").into_inner();
    let watching = async {
        loop {
            let answer = watch.message().await.expect("the watch is open");
            if answer.expect("the daemon still serves probes").status() == status {
                return;
            }
        }
    };
    let watched = tokio::time::timeout(PATIENCE, watching).await;
    watched.unwrap_or_else(|_| panic!("health should be {status:?} by now"));
}
