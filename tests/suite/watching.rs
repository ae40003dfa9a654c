//! WatchSessions: which events are sent to whom, and what happens to slow watchers.

use std::time::Duration;

use sessiond::{
    grpc::pb::{
        DestroyScope, RevokeSessionsRequest, SessionEndCause as Cause, SessionEventKind as Kind,
        WatchSessionsRequest, WatchSessionsResponse, WriteRequest,
        session_admin_service_client::SessionAdminServiceClient,
    },
    server::config::{AddrOrOff, Backend},
    session::policy::OnLimit,
};
use tonic::{Code, Request, Status, Streaming};

use crate::{
    over_every_store,
    support::{
        daemon::{Daemon, START, assert_fault, login, millis, set, swept},
        program::PATIENCE,
    },
};

over_every_store!(
    a_life_is_told,
    every_cause_is_told,
    what_expires_is_told_once,
    filters_hold,
    a_session_that_changes_hands_is_told_to_both,
    a_slow_watcher_is_dropped_and_holds_nobody_up,
    many_watch,
    more_than_the_limit_are_refused,
    a_stop_ends_it,
    a_deadline_ends_it,
    what_callers_gave_up_is_told,
);

type Events = Streaming<WatchSessionsResponse>;

async fn try_watch(daemon: &Daemon, engine: &str, principal: &str) -> Result<Events, Status> {
    let (engine, principal) = (engine.to_owned(), principal.to_owned());
    let request = WatchSessionsRequest { engine, principal };
    let mut admin = daemon.admin.clone();
    let opened = tokio::time::timeout(PATIENCE, admin.watch_sessions(request)).await;
    Ok(opened.expect("an answer in time")?.into_inner())
}

async fn watch(daemon: &Daemon, engine: &str, principal: &str) -> Events {
    try_watch(daemon, engine, principal).await.expect("it watches")
}

async fn next(events: &mut Events) -> WatchSessionsResponse {
    let next = tokio::time::timeout(PATIENCE, events.message()).await;
    next.expect("an event in time").expect("the stream is open").expect("an event")
}

/// The next event, in a short form.
async fn told(events: &mut Events) -> (Kind, String, Cause) {
    let event = next(events).await;
    let principal = String::from_utf8(event.principal.to_vec()).expect("text");
    (event.kind(), principal, event.cause())
}

fn destroyed(principal: &str, cause: Cause) -> (Kind, String, Cause) {
    (Kind::Destroyed, principal.to_owned(), cause)
}

async fn a_life_is_told(backend: Backend) {
    let daemon = Daemon::start(backend).await;
    let mut events = watch(&daemon, "", "").await;
    let mut browser = daemon.visitor("{}").await;
    let id = daemon.id(&browser).await;
    let created = next(&mut events).await;
    assert_eq!((created.kind(), &created.session_id), (Kind::Created, &id));
    assert_eq!((created.engine.as_str(), created.principal.len()), ("default", 0));
    assert_eq!(millis(created.event_time.as_ref()), START.unix_millis());
    // A change of data is not an event.
    daemon.change(&mut browser, set(r#"{"a":1}"#)).await;
    daemon.clock.advance(Duration::from_secs(5));
    daemon.change(&mut browser, login("ann")).await;
    let rolled = next(&mut events).await;
    assert_eq!((rolled.kind(), &rolled.session_id), (Kind::Rolled, &id));
    assert_eq!((&rolled.principal[..], &rolled.former_principal[..]), (&b"ann"[..], &b""[..]));
    assert_eq!(millis(rolled.event_time.as_ref()), START.unix_millis() + 5000);
    daemon.destroy(&browser).await;
    let ended = next(&mut events).await;
    assert_eq!((ended.kind(), ended.cause()), (Kind::Destroyed, Cause::Owner));
    assert_eq!((&ended.session_id, &ended.principal[..]), (&id, &b"ann"[..]));
    daemon.destroy(&browser).await;
    daemon.visitor("{}").await;
    assert_eq!(next(&mut events).await.kind(), Kind::Created, "expected one event for one end");
}

async fn every_cause_is_told(backend: Backend) {
    let daemon = Daemon::with(backend, |config| {
        let engine = config.engine.get_mut("default").expect("the default engine");
        engine.max_sessions_per_principal = 2;
        engine.on_limit = OnLimit::EndIdlest;
    })
    .await;
    daemon.login("ann").await;
    let here = daemon.login("ann").await;
    let mut events = watch(&daemon, "default", "ann").await;
    daemon.destroy_scope(&here, DestroyScope::Others).await;
    assert_eq!(told(&mut events).await, destroyed("ann", Cause::Scope));
    let there = daemon.login("ann").await;
    assert_eq!(next(&mut events).await.kind(), Kind::Created);
    daemon.destroy_scope(&there, DestroyScope::All).await;
    assert_eq!(told(&mut events).await, destroyed("ann", Cause::Scope));
    assert_eq!(told(&mut events).await, destroyed("ann", Cause::Owner));
    for _ in 0..3 {
        daemon.login("ann").await;
        assert_eq!(next(&mut events).await.kind(), Kind::Created);
    }
    assert_eq!(told(&mut events).await, destroyed("ann", Cause::Limit));
    daemon.revoke("ann", &[]).await;
    for _ in 0..2 {
        assert_eq!(told(&mut events).await, destroyed("ann", Cause::Revoked));
    }
}

async fn what_expires_is_told_once(backend: Backend) {
    let daemon = Daemon::with(backend, |config| config.cleanup.slice = 3).await;
    let mut expected = Vec::new();
    for _ in 0..7 {
        expected.push(daemon.id(&daemon.login("ann").await).await);
    }
    let late = daemon.login("ann").await;
    let mut events = watch(&daemon, "", "ann").await;
    daemon.clock.advance(Duration::from_secs(4000));
    // The session has expired, but no cleanup has removed it yet.
    assert_eq!(daemon.destroy(&late).await.destroyed, 0);
    assert_eq!(told(&mut events).await, (Kind::Expired, "ann".to_owned(), Cause::Unspecified));
    assert_eq!(daemon.cleanup().await, swept(backend, 7));
    if swept(backend, 1) == 0 {
        return; // This store removes expired sessions itself and sends no events.
    }
    let mut found = Vec::new();
    for _ in 0..7 {
        let event = next(&mut events).await;
        assert_eq!(event.kind(), Kind::Expired);
        found.push(event.session_id);
    }
    found.sort();
    expected.sort();
    assert_eq!(found, expected);
    assert_eq!(daemon.cleanup().await, 0);
    daemon.login("ann").await;
    assert_eq!(next(&mut events).await.kind(), Kind::Created, "expected each event once");
}

async fn filters_hold(backend: Backend) {
    let daemon = Daemon::with(backend, |config| {
        let engine = config.engine["default"].clone();
        config.engine.insert("shop".to_owned(), engine);
    })
    .await;
    let mut anns = watch(&daemon, "", "ann").await;
    let mut shops = watch(&daemon, "shop", "").await;
    let mut both = watch(&daemon, "shop", "ann").await;
    daemon.login("bob").await;
    daemon.login("ann").await;
    daemon.write(WriteRequest { engine: "shop".into(), ..login("bob") }).await;
    daemon.write(WriteRequest { engine: "shop".into(), ..login("ann") }).await;
    let seen = async |events: &mut Events| {
        let event = next(events).await;
        (event.engine, String::from_utf8(event.principal.to_vec()).expect("text"))
    };
    let pair = |engine: &str, principal: &str| (engine.to_owned(), principal.to_owned());
    assert_eq!(seen(&mut anns).await, pair("default", "ann"));
    assert_eq!(seen(&mut anns).await, pair("shop", "ann"));
    assert_eq!(seen(&mut shops).await, pair("shop", "bob"));
    assert_eq!(seen(&mut shops).await, pair("shop", "ann"));
    assert_eq!(seen(&mut both).await, pair("shop", "ann"));
    let unknown = try_watch(&daemon, "nope", "").await.expect_err("no such engine");
    assert_fault(&unknown, Code::InvalidArgument, "UNKNOWN_ENGINE", Some("engine"));
    let long = try_watch(&daemon, "", &"a".repeat(257)).await.expect_err("too long");
    assert_fault(&long, Code::InvalidArgument, "INVALID_ARGUMENT", Some("principal"));
}

async fn a_session_that_changes_hands_is_told_to_both(backend: Backend) {
    let daemon = Daemon::start(backend).await;
    let mut browser = daemon.login("ann").await;
    let (mut anns, mut bobs) = (watch(&daemon, "", "ann").await, watch(&daemon, "", "bob").await);
    daemon.change(&mut browser, login("bob")).await;
    for events in [&mut anns, &mut bobs] {
        let event = next(events).await;
        let hands = (&event.former_principal[..], &event.principal[..]);
        assert_eq!((event.kind(), hands), (Kind::Rolled, (&b"ann"[..], &b"bob"[..])));
    }
    daemon.destroy(&browser).await;
    assert_eq!(told(&mut bobs).await, destroyed("bob", Cause::Owner));
    daemon.login("ann").await;
    assert_eq!(
        next(&mut anns).await.kind(),
        Kind::Created,
        "expected no event for a session that ann no longer owns"
    );
}

/// One watcher does not read. It is told so, and no other watcher is affected.
async fn a_slow_watcher_is_dropped_and_holds_nobody_up(backend: Backend) {
    let daemon = Daemon::with(backend, |config| {
        config.limits.watch_queue = 16;
        config.listen.metrics = AddrOrOff(Some(([127, 0, 0, 1], 0).into()));
    })
    .await;
    // A connection of its own with small windows, so that unread events stay in the daemon.
    let address = format!("http://{}", daemon.admin_address());
    let endpoint = tonic::transport::Channel::from_shared(address).expect("an address");
    let channel = endpoint.initial_stream_window_size(1024).initial_connection_window_size(1024);
    let mut slow = SessionAdminServiceClient::new(channel.connect_lazy());
    let slow = slow.watch_sessions(WatchSessionsRequest::default()).await.expect("it watches");
    let mut slow = slow.into_inner();
    let mut quick = watch(&daemon, "", "").await;
    // The quick watcher reads each event before the next login. So it is never too slow, even
    // on a busy machine.
    for _ in 0..600 {
        daemon.login(&"a".repeat(200)).await;
        while next(&mut quick).await.kind() != Kind::Created {}
    }
    let mut before = 0;
    let status = loop {
        match tokio::time::timeout(PATIENCE, slow.message()).await.expect("an answer in time") {
            Ok(Some(_)) => before += 1,
            Ok(None) => panic!("expected the stream to end with a status"),
            Err(status) => break status,
        }
    };
    assert_fault(&status, Code::ResourceExhausted, "WATCHER_TOO_SLOW", None);
    assert!(
        (16..600).contains(&before),
        "expected the queued events before the status, found {before}"
    );
    daemon.visitor("{}").await;
    assert_eq!(
        next(&mut quick).await.kind(),
        Kind::Created,
        "expected the other watcher to continue"
    );
    let mut again = watch(&daemon, "", "").await;
    daemon.visitor("{}").await;
    assert_eq!(
        next(&mut again).await.kind(),
        Kind::Created,
        "expected a watcher that returns to get events"
    );
}

async fn many_watch(backend: Backend) {
    let daemon = Daemon::with(backend, |config| {
        config.limits.max_watchers = 300;
        config.limits.max_concurrent_streams = 400;
    })
    .await;
    let mut watchers = Vec::new();
    for number in 0..300 {
        let principal = if number % 3 == 0 { "ann" } else { "bob" };
        watchers.push((principal, watch(&daemon, "", principal).await));
    }
    for _ in 0..5 {
        daemon.login("ann").await;
        daemon.login("bob").await;
    }
    for (principal, events) in &mut watchers {
        for _ in 0..5 {
            assert_eq!(next(events).await.principal, principal.as_bytes());
        }
    }
}

async fn more_than_the_limit_are_refused(backend: Backend) {
    let daemon = Daemon::with(backend, |config| config.limits.max_watchers = 2).await;
    let first = watch(&daemon, "", "").await;
    let _second = watch(&daemon, "", "").await;
    let refused = try_watch(&daemon, "", "").await.expect_err("a third");
    assert_fault(&refused, Code::ResourceExhausted, "TOO_MANY_WATCHERS", None);
    drop(first);
    // The daemon notices the closed stream after some time.
    let again = async {
        loop {
            match try_watch(&daemon, "", "").await {
                Ok(events) => return events,
                Err(_) => tokio::task::yield_now().await,
            }
        }
    };
    tokio::time::timeout(PATIENCE, again).await.expect("expected its slot to be free again");
}

async fn a_deadline_ends_it(backend: Backend) {
    let daemon = Daemon::start(backend).await;
    // A busy machine may need more time for the first event.
    for seconds in [2, 10, 40] {
        let mut call = Request::new(WatchSessionsRequest::default());
        call.set_timeout(Duration::from_secs(seconds));
        let Ok(opened) = daemon.admin.clone().watch_sessions(call).await else { continue };
        let mut events = opened.into_inner();
        daemon.login("ann").await;
        let first = tokio::time::timeout(PATIENCE, events.message()).await;
        let Ok(first) = first.expect("in time") else { continue };
        assert_eq!(first.expect("an event").kind(), Kind::Created);
        let ended = tokio::time::timeout(PATIENCE, events.message()).await;
        let status = ended.expect("expected the stream to end in time").expect_err("with a status");
        assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
        // Its slot is free again, and the daemon no longer sends to it.
        assert!(try_watch(&daemon, "", "").await.is_ok());
        return;
    }
    panic!("expected an event before the deadline");
}

async fn a_stop_ends_it(backend: Backend) {
    let mut daemon = Daemon::start(backend).await;
    let mut events = watch(&daemon, "", "").await;
    daemon.visitor("{}").await;
    daemon.ask_to_stop();
    assert_eq!(next(&mut events).await.kind(), Kind::Created, "expected the queued event first");
    let end = tokio::time::timeout(PATIENCE, events.message()).await.expect("it ends");
    let status = end.expect_err("expected the stream to end with a status");
    assert_fault(&status, Code::Unavailable, "SHUTTING_DOWN", None);
    let _stopped = daemon.stop().await;
}

/// The end by a revocation is sent to watchers even if its caller has gone.
async fn what_callers_gave_up_is_told(backend: Backend) {
    let daemon = Daemon::start(backend).await;
    for round in 0..20 {
        // Each round has its own principal, in case a call arrives late.
        let principal = format!("ann {round}");
        daemon.login(&principal).await;
        let mut events = watch(&daemon, "", &principal).await;
        let request = RevokeSessionsRequest { principal: principal.clone(), ..Default::default() };
        let mut admin = daemon.admin.clone();
        let patience = Duration::from_micros(round * 100);
        let _ = tokio::time::timeout(patience, admin.revoke_sessions(request)).await;
        // The call may have reached the daemon or not. In both cases the session ends once.
        daemon.revoke(&principal, &[]).await;
        assert_eq!(told(&mut events).await, destroyed(&principal, Cause::Revoked));
    }
}
