//! Concurrent requests: no update is lost, and all callers see one order.

use std::{collections::BTreeMap, sync::Arc};

use sessiond::{
    grpc::pb::{SessionState, WriteRequest},
    server::config::Backend,
};
use tonic::Code;

use crate::{
    over_every_store,
    support::daemon::{Daemon, data, set},
};

over_every_store!(
    writes_to_different_keys_all_survive,
    counting_with_if_version_loses_nothing,
    one_of_two_rolls_wins,
);

async fn writes_to_different_keys_all_survive(backend: Backend) {
    let daemon = Arc::new(Daemon::start(backend).await);
    let browser = daemon.visitor("{}").await;
    let writers = (0..16).map(|writer| {
        let (daemon, credential) = (Arc::clone(&daemon), browser.credential());
        tokio::spawn(async move {
            for n in 0..10 {
                let credential = credential.clone();
                let text = format!(r#"{{"k{writer}":{n}}}"#);
                daemon.write(WriteRequest { credential, ..set(&text) }).await;
            }
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.expect("a writer");
    }
    let answer = daemon.resolve(&browser).await;
    let found: BTreeMap<String, u64> = serde_json::from_str(&data(&answer)).expect("JSON");
    let expected = (0..16).map(|writer| (format!("k{writer}"), 9)).collect();
    assert_eq!(found, expected, "each writer's last value");
    assert_eq!(
        answer.session.expect("a session").version,
        161,
        "expected the version to increase by 1 with each Write"
    );
}

async fn counting_with_if_version_loses_nothing(backend: Backend) {
    let daemon = Arc::new(Daemon::start(backend).await);
    let browser = daemon.visitor(r#"{"n":0}"#).await;
    let counters = (0..8).map(|_| {
        let (daemon, browser) = (Arc::clone(&daemon), browser.clone());
        tokio::spawn(async move {
            for _ in 0..10 {
                loop {
                    let answer = daemon.resolve(&browser).await;
                    let now: BTreeMap<String, u64> =
                        serde_json::from_str(&data(&answer)).expect("JSON");
                    let text = format!(r#"{{"n":{}}}"#, now["n"] + 1);
                    let if_version = answer.session.map(|session| session.version);
                    let credential = browser.credential();
                    match daemon
                        .try_write(WriteRequest { credential, if_version, ..set(&text) })
                        .await
                    {
                        Ok(_) => break,
                        Err(status) => assert_eq!(status.code(), Code::Aborted, "{status:?}"),
                    }
                }
            }
        })
    });
    for counter in counters.collect::<Vec<_>>() {
        counter.await.expect("a counter");
    }
    assert_eq!(data(&daemon.resolve(&browser).await), r#"{"n":80}"#);
}

async fn one_of_two_rolls_wins(backend: Backend) {
    let daemon = Arc::new(Daemon::start(backend).await);
    for _ in 0..10 {
        let browser = daemon.visitor("{}").await;
        let rolls = (0..4).map(|_| {
            let (daemon, credential) = (Arc::clone(&daemon), browser.credential());
            tokio::spawn(async move {
                daemon.try_write(WriteRequest { credential, roll: true, ..set("{}") }).await
            })
        });
        let mut won = Vec::new();
        for roll in rolls.collect::<Vec<_>>() {
            match roll.await.expect("a roll") {
                Ok(answer) => won.push(answer.token),
                Err(status) => assert_eq!(status.code(), Code::NotFound, "{status:?}"),
            }
        }
        assert_eq!(won.len(), 1, "expected exactly one roll of an id to succeed");
        assert_eq!(daemon.state(&browser).await, SessionState::Superseded);
        let winner =
            crate::support::browser::Browser { cookie: Some(format!("session={}", won[0])) };
        assert_eq!(daemon.state(&winner).await, SessionState::Active);
    }
}
