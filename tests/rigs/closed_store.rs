//! A store that was closed by a failed flush: everybody is told, and nobody is
//! told that there is no session.

use sessiond::grpc::wire::{
    DestroyRequest, ResolveRequest, WriteRequest, session_service_client::SessionServiceClient,
};
use tonic::{Code, transport::Endpoint};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use crate::support::{
    browser::Browser,
    victim::{PATIENCE, Setup, Victim},
};

/// The disk refuses to sync from some moment on, and goes on doing so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_sync_is_told_to_callers_to_probes_and_by_the_exit_code() {
    let scratch = tempfile::tempdir().expect("a scratch folder");
    let (root, log) = (scratch.path().join("root"), scratch.path().join("log"));
    std::fs::create_dir(&root).expect("a folder");
    let fault = format!("sync:60:{}:always", libc::EIO);
    let setup = Setup { root: &root, settings: &[], log: Some(&log), fault: Some(&fault) };
    let victim = Victim::start(&setup).expect("it starts before the disk fails");
    let endpoint = Endpoint::from_shared(victim.address.clone()).expect("an address");
    let channel = endpoint.connect().await.expect("it listens");
    let mut client = SessionServiceClient::new(channel.clone());

    let mut kept = None;
    let failure = loop {
        let write = WriteRequest { set: b"{}".as_slice().into(), ..Default::default() };
        let browser = match client.write(write).await {
            Ok(written) => Browser::with(&written.into_inner().set_cookie),
            Err(status) => break status,
        };
        if kept.is_none() {
            kept = Some(browser);
            continue;
        }
        // Each of these waits for a sync.
        let credential = browser.credential();
        let destroy = DestroyRequest { credential, ..Default::default() };
        if let Err(status) = client.destroy(destroy).await {
            break status;
        }
    };
    assert_eq!(failure.code(), Code::Unavailable, "{failure:?}");

    let credential = kept.expect("the first one came before the disk failed").credential();
    let resolve = ResolveRequest { credential, ..Default::default() };
    let refused = client.resolve(resolve).await.expect_err("the store is closed");
    assert_eq!(refused.code(), Code::Unavailable, "never \"no session\": {refused:?}");

    let mut health = HealthClient::new(channel);
    let watch = health.watch(HealthCheckRequest::default()).await;
    let mut watch = watch.expect("probes are answered").into_inner();
    let not_serving = async {
        while let Some(answer) = watch.message().await.expect("the watch goes on") {
            if answer.status() == ServingStatus::NotServing {
                return true;
            }
        }
        false
    };
    let told = tokio::time::timeout(PATIENCE, not_serving).await;
    assert_eq!(told, Ok(true), "health should be NOT_SERVING by now");
    drop((client, health, watch));
    let ended = victim.stop();
    let code = ended.status.and_then(|status| status.code());
    assert_eq!(code, Some(1), "the last sync has failed: {}", ended.log);
}
