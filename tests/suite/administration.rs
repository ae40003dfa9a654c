//! The admin service, the periodic cleanup, and the metrics.

use std::time::Duration;

use sessiond::{
    grpc::pb::{CleanupRequest, RevokeSessionsRequest, SessionState, WriteRequest},
    server::config::{AddrOrOff, Backend, Span},
};
use tonic::Code;

use crate::{
    over_every_store,
    support::{
        daemon::{Daemon, assert_fault, swept},
        metrics::{expect_lines, scrape},
    },
};

over_every_store!(
    cleanup_says_how_many_it_removed,
    cleanup_can_be_for_one_engine,
    the_task_sweeps_by_itself,
    metrics_tell_and_give_nothing_away,
    admin_is_not_beside_sessions,
);

async fn cleanup_says_how_many_it_removed(backend: Backend) {
    let daemon = Daemon::with(backend, |config| config.cleanup.slice = 3).await;
    for _ in 0..10 {
        daemon.visitor("{}").await;
    }
    assert_eq!(daemon.cleanup().await, 0, "no session has expired");
    daemon.clock.advance(Duration::from_secs(1000));
    let alive = daemon.visitor("{}").await;
    daemon.clock.advance(Duration::from_secs(1000));
    assert_eq!(daemon.cleanup().await, swept(backend, 10));
    assert_eq!(daemon.cleanup().await, 0);
    assert_eq!(daemon.state(&alive).await, SessionState::Active);
}

async fn cleanup_can_be_for_one_engine(backend: Backend) {
    let daemon = Daemon::with(backend, |config| {
        let engine = config.engine["default"].clone();
        config.engine.insert("shop".to_owned(), engine);
    })
    .await;
    daemon.visitor("{}").await;
    daemon.clock.advance(Duration::from_secs(4000));
    let sweep = async |engine: &str| {
        let request = CleanupRequest { engine: engine.to_owned() };
        daemon.admin.clone().cleanup(request).await.map(|answer| answer.into_inner().removed)
    };
    assert_eq!(sweep("shop").await.expect("answered"), 0);
    assert_eq!(sweep("default").await.expect("answered"), swept(backend, 1));
    let error = sweep("nope").await.expect_err("no such engine");
    assert_fault(&error, Code::InvalidArgument, "UNKNOWN_ENGINE", Some("engine"));
}

async fn the_task_sweeps_by_itself(backend: Backend) {
    if swept(backend, 1) == 0 {
        return; // This store removes expired sessions itself.
    }
    let daemon = Daemon::with(backend, |config| {
        config.cleanup.interval = Span(Duration::from_millis(20));
        config.cleanup.slice = 4;
        config.listen.metrics = AddrOrOff(Some(([127, 0, 0, 1], 0).into()));
    })
    .await;
    for _ in 0..10 {
        daemon.visitor("{}").await;
    }
    daemon.clock.advance(Duration::from_secs(4000));
    wait_for_metric(&daemon, r#"sessiond_sessions_swept_total{engine="default"} 10"#).await;
    wait_for_metric(&daemon, r#"sessiond_sessions{engine="default"} 0"#).await;
    assert_eq!(daemon.cleanup().await, 0, "expected nothing left to remove");
}

async fn page(daemon: &Daemon) -> String {
    scrape(daemon.metrics.clone().expect("a metrics listener")).await
}

async fn wait_for_metric(daemon: &Daemon, line: &str) {
    let waiting = async {
        while !page(daemon).await.lines().any(|found| found == line) {
            tokio::task::yield_now().await;
        }
    };
    let waited = tokio::time::timeout(crate::support::program::PATIENCE, waiting).await;
    if waited.is_err() {
        panic!("expected the line {line} in:\n{}", page(daemon).await);
    }
}

async fn metrics_tell_and_give_nothing_away(backend: Backend) {
    let daemon = Daemon::with(backend, |config| {
        config.listen.metrics = AddrOrOff(Some(([127, 0, 0, 1], 0).into()));
    })
    .await;
    let browser = daemon.visitor(r#"{"hunter2":"hunter2"}"#).await;
    let id = daemon.resolve(&browser).await.session.expect("a session").id;
    daemon.state(&Default::default()).await;
    daemon.try_write(crate::support::daemon::set("[")).await.expect_err("no object");
    daemon.destroy(&browser).await;
    let ann = WriteRequest { principal: Some("ann@example.com".into()), ..Default::default() };
    daemon.write(ann).await;
    let revoke =
        RevokeSessionsRequest { principal: "ann@example.com".to_owned(), ..Default::default() };
    daemon.admin.clone().revoke_sessions(revoke).await.expect("answered");
    let page = page(&daemon).await;
    let lines = [
        r#"sessiond_requests_total{engine="default",rpc="Write",state="CREATED"} 2"#,
        r#"sessiond_requests_total{engine="default",rpc="Write",state="INVALID_DATA"} 1"#,
        r#"sessiond_requests_total{engine="default",rpc="Resolve",state="ACTIVE"} 1"#,
        r#"sessiond_requests_total{engine="default",rpc="Resolve",state="NONE"} 1"#,
        r#"sessiond_requests_total{engine="default",rpc="Destroy",state="ACTIVE"} 1"#,
        r#"sessiond_request_duration_seconds_count{engine="default",rpc="Resolve"} 2"#,
        r#"sessiond_sessions_created_total{engine="default"} 2"#,
        r#"sessiond_sessions_destroyed_total{engine="default"} 2"#,
        r#"sessiond_sessions_revoked_total{engine="default"} 1"#,
        r#"sessiond_store_duration_seconds_count{engine="default",operation="create"} 2"#,
        r#"sessiond_store_duration_seconds_count{engine="default",operation="list"} 2"#,
        "sessiond_watchers 0",
        "sessiond_watchers_dropped_total 0",
        r#"sessiond_store_errors_total{engine="default",operation="create"} 0"#,
        r#"sessiond_cleanup_lag_seconds{engine="default"} 0.0"#,
    ];
    expect_lines(&page, lines);
    let counted = page.lines().any(|found| found == r#"sessiond_sessions{engine="default"} 0"#);
    let known = swept(backend, 1) == 1;
    assert_eq!(
        counted, known,
        "expected the line only from stores that know the number of sessions"
    );
    for secret in [id.as_str(), "hunter2", "ann@", browser.header().as_str()] {
        assert!(!page.contains(secret), "the page gives {secret} away");
    }
}

async fn admin_is_not_beside_sessions(backend: Backend) {
    let daemon = Daemon::start(backend).await;
    let uri = tonic::transport::Channel::from_shared(daemon.grpc.clone()).expect("an address");
    let channel = uri.connect().await.expect("the daemon listens");
    let mut misled =
        sessiond::grpc::pb::session_admin_service_client::SessionAdminServiceClient::new(channel);
    let error = misled
        .cleanup(CleanupRequest::default())
        .await
        .expect_err("expected no admin service on the session listener");
    assert_eq!(error.code(), Code::Unimplemented);
}
