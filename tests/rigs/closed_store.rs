//! A store that a failed flush has closed: every caller gets an error, and no caller gets "no
//! session".

use sessiond::grpc::pb::{
    DestroyRequest, ResolveRequest, WriteRequest, session_service_client::SessionServiceClient,
};
use tonic::{Code, transport::Endpoint};

use crate::{
    rig,
    support::{
        browser::Browser,
        health::{self, ServingStatus},
        victim::{Setup, Victim},
    },
};

/// The disk refuses to sync from some moment on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_sync_is_told_to_callers_to_probes_and_by_the_exit_code() {
    the_disk_refuses("sync:60").await;
}

/// Flushes succeed, but fdatasync fails, so the data never reach the disk.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_fdatasync_is_told_as_well() {
    the_disk_refuses("datasync:8").await;
}

async fn the_disk_refuses(what: &str) {
    let scratch = tempfile::tempdir().expect("a scratch folder");
    let (root, log) = (scratch.path().join("root"), scratch.path().join("log"));
    std::fs::create_dir(&root).expect("a folder");
    let fault = format!("{what}:{}:always", libc::EIO);
    let setup = Setup { root: &root, settings: &[], log: Some(&log), fault: Some(&fault) };
    let victim = Victim::start(&setup).expect("expected a start before the disk fails");
    let endpoint = Endpoint::from_shared(victim.address.clone()).expect("an address");
    let channel = endpoint.connect().await.expect("it listens");
    let mut client = SessionServiceClient::new(channel.clone());

    let (mut kept, mut turns) = (None, 0);
    let failure = loop {
        turns += 1;
        assert!(
            turns < 200,
            "{what}: expected an error, calls are still acknowledged though no sync succeeds"
        );
        let write = WriteRequest { set: b"{}".as_slice().into(), ..Default::default() };
        let browser = match client.write(write).await {
            Ok(written) => Browser::with(&written.into_inner().set_cookie),
            Err(status) => break status,
        };
        if kept.is_none() {
            kept = Some(browser);
            continue;
        }
        // Each of these calls waits for a sync.
        let credential = browser.credential();
        let destroy = DestroyRequest { credential, ..Default::default() };
        if let Err(status) = client.destroy(destroy).await {
            break status;
        }
    };
    assert_eq!(failure.code(), Code::Unavailable, "{failure:?}");

    let credential = kept.expect("the first one came before the disk failed").credential();
    let resolve = ResolveRequest { credential, ..Default::default() };
    let refused =
        client.resolve(resolve).await.expect_err("expected an error from the closed store");
    assert_eq!(refused.code(), Code::Unavailable, "never \"no session\": {refused:?}");

    health::becomes(channel, ServingStatus::NotServing).await;
    drop(client);
    let ended = victim.stop();
    let code = ended.status.and_then(|status| status.code());
    assert_eq!(code, Some(1), "expected exit code 1 after a failed last sync: {}", ended.log);
    rig::report(&format!(
        "rig closed store: after {turns} calls, a failed {what} gives UNAVAILABLE to callers, NOT_SERVING to probes, and exit code 1",
    ));
}
