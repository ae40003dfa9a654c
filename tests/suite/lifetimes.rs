//! Lifetimes: sliding, granularity, absolute ends, and when a cookie is sent.

use std::time::Duration;

use sessiond::{
    grpc::pb::{ResolveRequest, Session, SessionState, TouchRequest, WriteRequest},
    server::config::{Backend, Config, EngineConfig, Span, SpanOrAuto, SpanOrNone},
};

use tonic::Code;

use crate::{
    over_every_store,
    support::{
        browser::Browser,
        daemon::{Daemon, START, assert_fault, in_force, millis, set, swept},
    },
};

over_every_store!(
    a_busy_session_is_written_once_per_granularity,
    without_automatic_touch_only_touch_slides,
    peek_moves_nothing,
    a_touch_sets_the_sessions_own_duration,
    the_last_use_is_exact_to_the_granularity,
    the_absolute_end_is_kept,
    a_session_cookie_is_not_sent_again,
    an_expired_session_is_not_revived,
    a_clock_that_was_set_back_goes_on_where_it_was,
);

fn engine(config: &mut Config) -> &mut EngineConfig {
    config.engine.get_mut("default").expect("the default engine")
}

/// An idle lifetime of 100 s, with a granularity of 10 s.
async fn daemon(backend: Backend, change: impl FnOnce(&mut EngineConfig)) -> Daemon {
    Daemon::with(backend, |config| {
        let engine = engine(config);
        engine.duration = Span::secs(100);
        engine.touch_granularity = SpanOrAuto(Some(Duration::from_secs(10)));
        change(engine);
    })
    .await
}

async fn a_busy_session_is_written_once_per_granularity(backend: Backend) {
    let daemon = daemon(backend, |_| {}).await;
    let browser = daemon.visitor("{}").await;
    let mut sent = 0;
    for second in 1..=60 {
        daemon.clock.advance(Duration::from_secs(1));
        let answer = daemon.resolve(&browser).await;
        let expire_time = millis(answer.session.expect("a session").expire_time.as_ref());
        let from_now = expire_time - START.unix_millis() - second * 1000;
        assert!((100_000..=110_000).contains(&from_now), "{from_now} ms left at second {second}");
        sent += answer.set_cookie.len();
        assert!(answer.token.is_empty(), "expected no new token");
        for line in answer.set_cookie {
            let header = format!("{}; Max-Age=110; ", browser.header());
            assert!(line.starts_with(&header), "expected {line} to start with {header}");
        }
    }
    assert_eq!(sent, 5, "expected a cookie once in 11 seconds");
    daemon.clock.advance(Duration::from_millis(99_999));
    assert_eq!(daemon.state(&browser).await, SessionState::Active, "never early");
    daemon.clock.advance(Duration::from_millis(110_000));
    assert_eq!(
        daemon.state(&browser).await,
        SessionState::Expired,
        "expected the expiry at most a granularity late"
    );
}

async fn without_automatic_touch_only_touch_slides(backend: Backend) {
    let daemon = daemon(backend, |engine| engine.automatic_touch = false).await;
    let browser = daemon.visitor("{}").await;
    daemon.clock.advance(Duration::from_secs(60));
    let resolved = daemon.resolve(&browser).await;
    assert_eq!(
        millis(resolved.session.expect("a session").expire_time.as_ref()),
        START.unix_millis() + 110_000
    );
    assert!(resolved.set_cookie.is_empty());
    let touched = daemon.touch(&browser).await;
    assert_eq!(touched.set_cookie.len(), 1, "expected a cookie, because the deadline moved");
    assert_eq!(
        millis(touched.session.expect("a session").expire_time.as_ref()),
        START.unix_millis() + 170_000
    );
    daemon.clock.advance(Duration::from_secs(60));
    daemon.write(WriteRequest { credential: browser.credential(), ..set("{}") }).await;
    daemon.clock.advance(Duration::from_secs(99));
    assert_eq!(
        daemon.state(&browser).await,
        SessionState::Active,
        "expected a Write to touch the session"
    );
    daemon.clock.advance(Duration::from_secs(11));
    assert_eq!(
        daemon.state(&browser).await,
        SessionState::Expired,
        "expected a Resolve not to touch it"
    );
}

/// As in a Write, but the version stays.
async fn a_touch_sets_the_sessions_own_duration(backend: Backend) {
    let daemon = daemon(backend, |_| {}).await;
    let browser = daemon.visitor("{}").await;
    let touch = async |seconds, nanos| {
        let request = TouchRequest {
            credential: browser.credential(),
            duration: Some(prost_types::Duration { seconds, nanos }),
            ..Default::default()
        };
        daemon.client.clone().touch(request).await.map(|answer| answer.into_inner())
    };
    for (seconds, nanos, rounded) in [(1_000, 0, 1_000_000), (20, 1, 20_001)] {
        let touched = touch(seconds, nanos).await.expect("it is taken");
        assert_eq!(touched.set_cookie.len(), 1, "expected the browser to learn the new end");
        for session in [touched.session, daemon.resolve(&browser).await.session] {
            let session = session.expect("a session");
            let duration = session.duration.expect("a duration");
            let millis = duration.seconds * 1000 + i64::from(duration.nanos / 1_000_000);
            assert_eq!((millis, session.version), (rounded, 1), "duration in ms, and version");
        }
        let again = touch(seconds, nanos).await.expect("it is taken");
        assert!(again.set_cookie.is_empty(), "expected nothing to have changed: {again:?}");
    }
    let error = touch(0, 0).await.expect_err("it is no duration");
    assert_fault(&error, Code::InvalidArgument, "INVALID_ARGUMENT", Some("duration"));
    daemon.clock.advance(Duration::from_secs(31));
    assert_eq!(daemon.state(&browser).await, SessionState::Expired, "expected the shorter one");
}

/// Computed from the deadline.
async fn the_last_use_is_exact_to_the_granularity(backend: Backend) {
    let daemon = daemon(backend, |_| {}).await;
    let browser = daemon.visitor("{}").await;
    let seconds = |session: Option<Session>| {
        let session = session.expect("a session");
        let time = |time: Option<prost_types::Timestamp>| time.expect("a time").seconds;
        time(session.last_use_time) - time(session.create_time)
    };
    assert_eq!(seconds(daemon.resolve(&browser).await.session), 0, "seconds after the creation");
    daemon.clock.advance(Duration::from_secs(50));
    assert_eq!(seconds(daemon.resolve(&browser).await.session), 50, "seconds after the creation");
    daemon.clock.advance(Duration::from_secs(5));
    let found = seconds(daemon.resolve(&browser).await.session);
    assert!((50..=55).contains(&found), "expected it to be exact to 10 s, found {found} s");
}

async fn peek_moves_nothing(backend: Backend) {
    let daemon = daemon(backend, |_| {}).await;
    let browser = daemon.visitor("{}").await;
    daemon.clock.advance(Duration::from_secs(60));
    let credential = browser.credential();
    let peek = ResolveRequest { credential, peek: true, ..Default::default() };
    let answer = daemon.resolve_with(peek).await;
    assert_eq!(answer.state(), SessionState::Active);
    assert!(answer.set_cookie.is_empty());
    daemon.clock.advance(Duration::from_secs(50));
    assert_eq!(daemon.state(&browser).await, SessionState::Expired);
}

async fn the_absolute_end_is_kept(backend: Backend) {
    let absolute = SpanOrNone(Some(Duration::from_secs(250)));
    let daemon = daemon(backend, |engine| engine.absolute_duration = absolute).await;
    let mut browser = daemon.visitor("{}").await;
    for _ in 0..4 {
        daemon.clock.advance(Duration::from_secs(60));
        let answer = daemon.resolve(&browser).await;
        assert_eq!(answer.state(), SessionState::Active);
        let expire_time = millis(answer.session.expect("a session").expire_time.as_ref());
        assert!(expire_time <= START.unix_millis() + 250_000, "{expire_time}");
        browser.learn(&answer.set_cookie);
    }
    let own = WriteRequest {
        duration: Some(prost_types::Duration { seconds: 10_000, nanos: 0 }),
        ..Default::default()
    };
    daemon.change(&mut browser, own).await;
    daemon.clock.advance(Duration::from_millis(9_999));
    assert_eq!(daemon.state(&browser).await, SessionState::Active);
    daemon.clock.advance(Duration::from_millis(1));
    assert_eq!(
        daemon.state(&browser).await,
        SessionState::Expired,
        "expected the absolute lifetime to end a session with any duration"
    );
    assert_eq!(daemon.cleanup().await, swept(backend, 1));
}

async fn a_session_cookie_is_not_sent_again(backend: Backend) {
    let daemon = daemon(backend, |engine| engine.cookie.persistent = false).await;
    let created = daemon.write(set("{}")).await;
    let line = &created.set_cookie[0];
    assert!(!line.contains("Max-Age") && !line.contains("Expires"), "{line}");
    let browser = Browser::with(&created.set_cookie);
    daemon.clock.advance(Duration::from_secs(60));
    let answer = daemon.resolve(&browser).await;
    assert_eq!(answer.state(), SessionState::Active);
    assert!(answer.set_cookie.is_empty(), "expected no cookie, because this one has no deadline");
}

async fn an_expired_session_is_not_revived(backend: Backend) {
    let daemon = daemon(backend, |_| {}).await;
    let browser = daemon.visitor("{}").await;
    daemon.clock.advance(Duration::from_secs(110));
    assert_eq!(daemon.touch(&browser).await.state(), SessionState::Expired);
    assert_eq!(daemon.state(&browser).await, SessionState::Expired);
    assert_eq!(daemon.destroy(&browser).await.destroyed, 0, "expected no live session to be ended");
}

async fn a_clock_that_was_set_back_goes_on_where_it_was(backend: Backend) {
    let daemon = daemon(backend, |_| {}).await;
    let browser = daemon.visitor("{}").await;
    daemon.clock.advance(Duration::from_secs(60));
    let mut stopped = daemon.stop().await;
    if in_force(backend) != Backend::Sled {
        return; // Memory keeps nothing over a restart, and Redis has a clock of its own.
    }
    stopped.set_clock_back();
    let daemon = stopped.start().await;
    daemon.clock.advance(Duration::from_secs(49));
    assert_eq!(peek(&daemon, &browser).await, SessionState::Active);
    daemon.clock.advance(Duration::from_secs(1));
    let state = peek(&daemon, &browser).await;
    assert_eq!(state, SessionState::Expired, "expected the expiry 110 s after the creation");
}

async fn peek(daemon: &Daemon, browser: &Browser) -> SessionState {
    let credential = browser.credential();
    let request = ResolveRequest { credential, peek: true, ..Default::default() };
    daemon.resolve_with(request).await.state()
}
