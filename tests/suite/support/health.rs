//! Health checks, as a probe makes them.

use tonic::{Streaming, transport::Channel};
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse, health_client::HealthClient};

pub(crate) use tonic_health::pb::health_check_response::ServingStatus;

use super::program::PATIENCE;

/// What a probe of the service that holds the sessions asks for.
#[allow(dead_code, reason = "the rigs include this file and ask for the daemon as a whole")]
pub(crate) const SESSIONS: &str = "sessiond.v1.SessionService";

/// Watches until the daemon's health is `status`, for a bounded time.
pub(crate) async fn becomes(channel: Channel, status: ServingStatus) {
    of_service_becomes(channel, "", status).await;
}

/// A watch of the health of one service.
pub(crate) async fn watch(channel: Channel, service: &str) -> Streaming<HealthCheckResponse> {
    let mut client = HealthClient::new(channel);
    let watch = client.watch(HealthCheckRequest { service: service.to_owned() }).await;
    watch.expect("probes are answered").into_inner()
}

/// The same for the health of one service.
pub(crate) async fn of_service_becomes(channel: Channel, service: &str, status: ServingStatus) {
    let mut watch = watch(channel, service).await;
    let watching = async {
        loop {
            let answer = watch.message().await.expect("the watch is open");
            if answer.expect("the daemon still serves probes").status() == status {
                return;
            }
        }
    };
    let watched = tokio::time::timeout(PATIENCE, watching).await;
    watched.unwrap_or_else(|_| panic!("health of {service:?} should be {status:?} by now"));
}
