//! Daemons with records of another release and with unreadable records.

use sessiond::{
    grpc::pb::{DestroyRequest, DestroyScope, ResolveRequest, SessionState, WriteRequest},
    server::config::Backend,
};
use tonic::Code;

use crate::support::{
    browser::{Browser, cookie_header},
    daemon::{Daemon, assert_fault, data, login, set},
    redis::{RedisServer, ask_octets, is_missing},
};

async fn daemon_on(redis: &RedisServer, record_layout: u8) -> Daemon {
    Daemon::with(Backend::Redis, |config| {
        config.store.redis.url = redis.url().parse().expect("a URL");
        config.store.redis.record_layout = record_layout;
    })
    .await
}

/// The layout of the record under a session's key.
fn layout(redis: &RedisServer, id: &str) -> String {
    redis.ask(&["GETRANGE", &format!("sessiond:default:{id}"), "0", "0"])
}

/// A rolling upgrade and the way back: daemons with two layouts share a Redis.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn daemons_of_two_layouts_are_one_service() {
    if is_missing() {
        return;
    }
    let redis = RedisServer::start();
    let daemons = [daemon_on(&redis, 1).await, daemon_on(&redis, 2).await];
    for (one, other) in [(0, 1), (1, 0)] {
        let (own, its) = (&daemons[one], &daemons[other]);
        let what = format!("a session of the daemon that writes layout {}", one + 1);
        let mut browser = own.login("ann").await;
        let id = own.id(&browser).await;
        assert_eq!(layout(&redis, &id), format!("$1\r\n{}\r\n", (one as u8 + 1) as char));
        assert_eq!(its.state(&browser).await, SessionState::Active, "{what}");
        assert_eq!(its.touch(&browser).await.state(), SessionState::Active, "{what}");
        its.change(&mut browser, set(r#"{"a":1}"#)).await;
        let before = browser.clone();
        own.change(&mut browser, WriteRequest { roll: true, ..set(r#"{"b":2}"#) }).await;
        assert_eq!(data(&its.resolve(&browser).await), r#"{"a":1,"b":2}"#, "{what}");
        assert_eq!(its.state(&before).await, SessionState::Superseded, "{what}");
        assert_eq!(its.list("ann").await, [id], "{what}");
        assert_eq!(
            its.destroy(&browser).await.destroyed,
            1,
            "{what}: expected the logout to succeed"
        );
        assert_eq!(own.state(&browser).await, SessionState::NotFound, "{what}");
    }
}

/// Octets that replace a record, so that no release can read it.
const DAMAGED: [(&str, &[u8]); 3] =
    [("of another layout", b"\x09later"), ("cut short", b"\x02cut"), ("empty", b"")];

struct Damaged {
    redis: RedisServer,
    daemon: Daemon,
}

impl Damaged {
    async fn start() -> Self {
        let redis = RedisServer::start();
        let daemon = daemon_on(&redis, 2).await;
        Self { redis, daemon }
    }

    /// A browser of ann whose record is replaced, and the id of its session.
    async fn browser(&self, octets: &[u8]) -> (Browser, String) {
        let browser = self.daemon.login("ann").await;
        let id = self.daemon.id(&browser).await;
        let key = format!("sessiond:default:{id}");
        ask_octets(self.redis.port, &[b"SET", key.as_bytes(), octets]);
        (browser, id)
    }
}

/// The user of an unreadable record can log out, and log in again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unreadable_record_locks_nobody_out() {
    if is_missing() {
        return;
    }
    let damaged = Damaged::start().await;
    let daemon = &damaged.daemon;
    for (what, octets) in DAMAGED {
        let (browser, _) = damaged.browser(octets).await;
        let credential = browser.credential();
        for create in [false, true] {
            let request =
                ResolveRequest { credential: credential.clone(), create, ..Default::default() };
            let error = daemon.client.clone().resolve(request).await.expect_err(what);
            assert_fault(&error, Code::DataLoss, "RECORD_UNREADABLE", None);
        }
        let write = WriteRequest { credential: credential.clone(), ..set("{}") };
        let error = daemon.try_write(write).await.expect_err(what);
        assert_fault(&error, Code::DataLoss, "RECORD_UNREADABLE", None);
        let ended = daemon.destroy(&browser).await;
        let found = (ended.destroyed, ended.set_cookie.len());
        assert_eq!(found, (1, 1), "{what}: expected it to be ended, and the cookie deleted");
        assert_eq!(daemon.state(&browser).await, SessionState::NotFound, "{what}");
        assert_eq!(daemon.list("ann").await, [""; 0], "{what}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_live_session_is_found_behind_an_unreadable_one() {
    if is_missing() {
        return;
    }
    let damaged = Damaged::start().await;
    let daemon = &damaged.daemon;
    for (what, octets) in DAMAGED {
        let (browser, _) = damaged.browser(octets).await;
        let live = daemon.visitor(r#"{"n":1}"#).await;
        let both = || cookie_header(format!("{}; {}", browser.header(), live.header()));
        let resolve = ResolveRequest { credential: both(), ..Default::default() };
        assert_eq!(data(&daemon.resolve_with(resolve).await), r#"{"n":1}"#, "{what}");
        daemon.write(WriteRequest { credential: both(), ..set("{}") }).await;
        for scope in [DestroyScope::Others, DestroyScope::All] {
            let request = DestroyRequest {
                credential: both(),
                scope: scope.into(),
                ..DestroyRequest::default()
            };
            let ended = daemon.client.clone().destroy(request).await.expect(what).into_inner();
            let expected = if scope == DestroyScope::All { 2 } else { 0 };
            assert_eq!(ended.destroyed, expected, "{what}, {scope:?}");
        }
        assert_eq!(daemon.state(&live).await, SessionState::NotFound, "{what}");
        assert_eq!(daemon.state(&browser).await, SessionState::NotFound, "{what}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revocation_ends_what_cannot_be_read() {
    if is_missing() {
        return;
    }
    let damaged = Damaged::start().await;
    let daemon = &damaged.daemon;
    for (what, octets) in DAMAGED {
        let (by_id, id) = damaged.browser(octets).await;
        assert_eq!(daemon.revoke("", &[id]).await, 1, "{what}, by its id");
        assert_eq!(daemon.state(&by_id).await, SessionState::NotFound, "{what}, by its id");
        let (by_principal, _) = damaged.browser(octets).await;
        let (as_other, _) = damaged.browser(octets).await;
        let live = daemon.write(login("ann")).await;
        let live = Browser::with(&live.set_cookie);
        let ended = daemon.destroy_scope(&live, DestroyScope::Others).await;
        assert_eq!(ended.destroyed, 2, "{what}: expected the others to be ended");
        assert_eq!(daemon.state(&as_other).await, SessionState::NotFound, "{what}");
        assert_eq!(daemon.state(&by_principal).await, SessionState::NotFound, "{what}");
        let (last, _) = damaged.browser(octets).await;
        assert_eq!(daemon.revoke("ann", &[]).await, 2, "{what}, by the principal");
        assert_eq!(daemon.state(&last).await, SessionState::NotFound, "{what}");
    }
}
