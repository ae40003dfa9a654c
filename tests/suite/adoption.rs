//! Adoption: the old cookie of an application becomes a session of sessiond, once.

use std::time::Duration;

use base64::{Engine as _, prelude::BASE64_STANDARD_NO_PAD as BASE64};
use futures_util::future::{join, join_all};
use hmac::{Hmac, KeyInit, Mac};
use sessiond::{
    grpc::pb::{
        DestroyScope, ExportSessionsRequest, ImportSessionsRequest, PipelineRequest,
        ResolveRequest, ResolveResponse, SessionState, WriteRequest, pipeline_request::Operation,
    },
    server::config::{AdoptFrom, Backend, Config, SecretText, Span},
};
use sha2::Sha256;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::{
    express::Recorded,
    over_every_store,
    support::{
        browser::{Browser, cookie_header},
        daemon::{Daemon, SECRET, START, assert_fault, data, in_force, millis, set},
        program::{PATIENCE, run, stderr, stdout},
        redis::{RedisServer, is_missing},
    },
};

over_every_store!(
    a_recorded_session_of_express_goes_on,
    what_ended_here_is_not_adopted_again,
    what_moves_stays_adopted,
    an_old_cookie_is_good_for_every_operation,
    many_requests_at_once_make_one_session,
    a_rolled_session_is_not_reached_by_the_old_cookie,
    whatever_express_writes_keeps_its_owner,
    rubbish_is_an_error_and_stays_as_it_is,
    a_logout_needs_no_readable_record,
    an_outage_there_is_no_logout,
    operations_by_both_cookies_keep_their_order,
);

/// The application's Redis.
pub(crate) struct There {
    pub redis: RedisServer,
}

pub(crate) const ID: &str = "Zm9vYmFyYmF6cXV4XzAxMjM0NTY3ODlh";
pub(crate) const ANN: &str =
    r#"{"cookie":{"originalMaxAge":1800000,"path":"/"},"user":"ann","visits":2}"#;

impl There {
    pub(crate) fn start() -> Self {
        Self { redis: RedisServer::start() }
    }

    pub(crate) fn adopt(&self, config: &mut Config) {
        let engine = config.engine.get_mut("default").expect("the default engine");
        engine.adopt.from = AdoptFrom::ExpressSession;
        engine.adopt.url = self.redis.url().parse().expect("a URL");
        engine.adopt.principal = "/user".to_owned();
        // Long enough for a busy machine.
        engine.adopt.timeout = Span::secs(30);
        engine.adopt.connect_timeout = Span::secs(10);
    }

    pub(crate) async fn daemon(&self, backend: Backend) -> Daemon {
        Daemon::with(backend, |config| self.adopt(config)).await
    }

    /// Stores a session in the application's Redis for ten minutes, and returns its browser.
    pub(crate) fn keep(&self, id: &str, record: &str) -> Browser {
        let key = format!("sess:{id}");
        assert_eq!(self.redis.ask(&["SET", &key, record, "PX", "600000"]), "+OK\r\n");
        browser(id)
    }

    pub(crate) fn record(&self, id: &str) -> String {
        self.redis.ask(&["GET", &format!("sess:{id}")])
    }

    /// How often the application's sessions were read.
    pub(crate) fn reads(&self) -> u64 {
        let stats = self.redis.ask(&["INFO", "commandstats"]);
        let line = stats.lines().find_map(|line| line.strip_prefix("cmdstat_getrange:calls="));
        let calls = line.and_then(|line| line.split(',').next());
        calls.map_or(0, |calls| calls.parse().expect("a number"))
    }
}

pub(crate) fn signed(id: &str) -> String {
    let mac = Hmac::<Sha256>::new_from_slice(SECRET.as_bytes()).expect("any length will do");
    let signature = mac.chain_update(id).finalize().into_bytes();
    format!("{id}.{}", BASE64.encode(signature))
}

/// A browser with the application's cookie for this id.
pub(crate) fn browser(id: &str) -> Browser {
    let value = signed(id).replace('/', "%2F").replace('+', "%2B");
    Browser { cookie: Some(format!("session=s%3A{value}")) }
}

pub(crate) fn id(answer: &ResolveResponse) -> &str {
    &answer.session.as_ref().expect("a live session").id
}

pub(crate) async fn refused(daemon: &Daemon, browser: &Browser) -> Status {
    let request = ResolveRequest { credential: browser.credential(), ..Default::default() };
    daemon.client.clone().resolve(request).await.expect_err("an unreadable session")
}

async fn a_recorded_session_of_express_goes_on(backend: Backend) {
    if is_missing() {
        return;
    }
    let recorded = Recorded::read();
    let there = There::start();
    there.redis.ask(&["SET", &recorded.key, &recorded.value, "PX", "600000"]);
    let daemon = Daemon::with(backend, |config| {
        there.adopt(config);
        let engine = config.engine.get_mut("default").expect("the default engine");
        engine.cookie.name = "connect.sid".to_owned();
        engine.cookie.secrets = vec![SecretText(recorded.secret.clone())];
    })
    .await;
    let old = Browser { cookie: Some(recorded.cookie.clone()) };
    let first = daemon.resolve(&old).await;
    assert_eq!(first.state(), SessionState::Active, "expected ann to stay logged in");
    assert_eq!(data(&first), r#"{"visits":2,"user":"ann"}"#, "data without the cookie");
    let session = first.session.as_ref().expect("a live session");
    assert_eq!((&*session.principal, session.version), (&b"ann"[..], 1));
    let duration = session.duration.expect("a duration");
    assert_eq!(duration.seconds, 600, "expected the session's own maxAge");
    assert_eq!(daemon.list("ann").await, std::slice::from_ref(&session.id));

    let new = Browser::with(&first.set_cookie);
    let (name, token) =
        new.cookie.as_deref().and_then(|pair| pair.split_once('=')).expect("a pair");
    assert_eq!((name, token), ("connect.sid", &first.token[..]));
    assert!(!recorded.cookie.contains(&token[..32]), "expected an id of sessiond");
    let again = daemon.resolve(&new).await;
    assert_eq!(id(&again), id(&first), "expected the same session with the new cookie");
    assert_eq!((again.set_cookie.len(), again.token.len()), (0, 0), "expected no new cookie");
    let late = daemon.resolve(&old).await;
    assert_eq!(id(&late), id(&first), "expected the same session with the old cookie");
    assert_eq!(late.set_cookie, first.set_cookie, "expected the same Set-Cookie");
    assert_eq!(there.reads(), 1, "expected one read of the application's record");
    let kept = there.redis.ask(&["GET", &recorded.key]);
    assert_eq!(kept, format!("${}\r\n{}\r\n", recorded.value.len(), recorded.value));
}

async fn what_ended_here_is_not_adopted_again(backend: Backend) {
    if is_missing() {
        return;
    }
    let there = There::start();
    let daemon = there.daemon(backend).await;
    let old = there.keep(ID, ANN);
    let answer = daemon.resolve(&old).await;
    assert_eq!(answer.state(), SessionState::Active);
    let new = Browser::with(&answer.set_cookie);
    assert_eq!(daemon.destroy(&new).await.destroyed, 1);
    // This cookie was never presented before. A Destroy must end its session too.
    let unseen = there.keep("unseen-until-its-logout", ANN);
    let answer = daemon.destroy(&unseen).await;
    assert_eq!((answer.destroyed, answer.set_cookie.len()), (1, 1));
    let revoked = there.keep("revoked", ANN);
    assert_eq!(daemon.state(&revoked).await, SessionState::Active);
    assert_eq!(daemon.revoke("ann", &[]).await, 1);

    let daemon = match in_force(backend).kind().outlives_a_stop {
        true => daemon.stop().await.start().await,
        false => daemon,
    };
    let reads = there.reads();
    for (what, browser) in
        [("old", &old), ("new", &new), ("unseen", &unseen), ("revoked", &revoked)]
    {
        assert_eq!(daemon.state(browser).await, SessionState::NotFound, "the {what} cookie");
        assert_eq!(daemon.destroy(browser).await.destroyed, 0, "the {what} cookie");
    }
    let request = WriteRequest { credential: old.credential(), ..set("{}") };
    let gone = daemon.try_write(request).await.expect_err("expected an ended session");
    assert_fault(&gone, Code::NotFound, "SESSION_GONE", None);
    let create =
        ResolveRequest { credential: old.credential(), create: true, ..Default::default() };
    let created = daemon.resolve_with(create).await;
    assert_eq!((created.state(), &*data(&created)), (SessionState::Created, "{}"));
    assert!(daemon.list("ann").await.is_empty());
    assert!(there.record(ID).contains("ann"), "expected the application's record unchanged");
    // Ids that sessiond made are looked up there, too. Ids that were adopted are not.
    assert_eq!(there.reads() - reads, 2, "expected reads for the new cookie only");
}

/// An export includes the marks. Otherwise ended sessions would be adopted again.
async fn what_moves_stays_adopted(backend: Backend) {
    if is_missing() {
        return;
    }
    let there = There::start();
    let (one, other) = (there.daemon(backend).await, there.daemon(backend).await);
    let (alive, ended) = (there.keep("alive", ANN), there.keep("ended", ANN));
    // This makes its mark permanent.
    there.redis.ask(&["PERSIST", "sess:ended"]);
    let before = one.resolve(&alive).await;
    one.resolve(&ended).await;
    one.destroy(&ended).await;
    let exported = {
        let address = one.admin_address().to_owned();
        let export = move || run(["export", "--address", &address]);
        tokio::task::spawn_blocking(export).await.expect("it ends")
    };
    assert_eq!(exported.status.code(), Some(0), "{}", stderr(&exported));
    assert!(stdout(&exported).contains("\"idle_deadline\":\"9999-12-31T23:59:59.999Z\""));
    let page = one.admin.clone().export_sessions(ExportSessionsRequest::default()).await;
    let records = page.expect("a page").into_inner().records;
    assert_eq!(records.iter().filter(|record| record.adoption_mark).count(), 2);
    let plain = Daemon::start(backend).await;
    for (daemon, dropped) in [(&other, 0), (&plain, 2)] {
        let request = ImportSessionsRequest { records: records.clone() };
        let imported = daemon.admin.clone().import_sessions(request).await;
        let imported = imported.expect("an import is answered").into_inner();
        assert_eq!((imported.created_count, imported.dropped_count), (3 - dropped, dropped));
    }
    let reads = there.reads();
    assert_eq!(id(&other.resolve(&alive).await), id(&before), "the same session");
    assert_eq!(other.state(&ended).await, SessionState::NotFound);
    assert_eq!(there.reads(), reads, "expected no second adoption");
    assert_eq!(plain.state(&Browser::with(&before.set_cookie)).await, SessionState::Active);
}

async fn an_old_cookie_is_good_for_every_operation(backend: Backend) {
    if is_missing() {
        return;
    }
    let there = There::start();
    let daemon = there.daemon(backend).await;

    let touched = daemon.touch(&there.keep("touched", ANN)).await;
    assert_eq!((touched.state(), touched.set_cookie.len()), (SessionState::Active, 1));
    assert_eq!(daemon.state(&Browser::with(&touched.set_cookie)).await, SessionState::Active);

    let credential = there.keep("written", ANN).credential();
    let written = daemon.write(WriteRequest { credential, ..set(r#"{"visits":3}"#) }).await;
    let after = daemon.resolve(&Browser::with(&written.set_cookie)).await;
    assert_eq!(data(&after), r#"{"user":"ann","visits":3}"#);

    let browser = there.keep("peeked", ANN);
    let peek =
        ResolveRequest { credential: browser.credential(), peek: true, ..Default::default() };
    let peeked = daemon.resolve_with(peek).await;
    let session = peeked.session.as_ref().expect("a live session");
    let left = millis(session.expire_time.as_ref()) - START.unix_millis();
    assert!((1..=600_000).contains(&left), "expected the time that it had left there: {left} ms");
    let resolved = daemon.resolve(&browser).await;
    let session = resolved.session.as_ref().expect("a live session");
    let left = millis(session.expire_time.as_ref()) - START.unix_millis();
    assert!(left >= 1_800_000, "expected a Resolve to move the deadline: {left} ms");

    let all = daemon.destroy_scope(&there.keep("all", ANN), DestroyScope::All).await;
    assert_eq!(all.destroyed, 4, "expected all sessions of the principal to end");

    let unknown = browser_of_nobody(&daemon).await;
    assert_eq!(daemon.state(&unknown).await, SessionState::NotFound);
    let reads = there.reads();
    let forged = Browser { cookie: Some(format!("session=s%3A{ID}.{}", "A".repeat(43))) };
    there.keep(ID, ANN);
    assert_eq!(daemon.state(&forged).await, SessionState::Invalid);
    assert_eq!(there.reads(), reads, "expected no read for a cookie that is not authentic");
    // Of several cookies, the first live one wins, and sessions of sessiond are tried first.
    let own = daemon.visitor("{}").await;
    let both = format!("{}; {}", browser_header(ID), own.header());
    let both = ResolveRequest { credential: cookie_header(both), ..Default::default() };
    assert_eq!(id(&daemon.resolve_with(both).await), daemon.id(&own).await);
}

fn browser_header(id: &str) -> String {
    browser(id).header()
}

/// A browser with a signed id that is stored nowhere.
async fn browser_of_nobody(daemon: &Daemon) -> Browser {
    let gone = daemon.visitor("{}").await;
    daemon.destroy(&gone).await;
    gone
}

async fn many_requests_at_once_make_one_session(backend: Backend) {
    if is_missing() {
        return;
    }
    let there = There::start();
    let daemon = there.daemon(backend).await;
    for round in 0..10 {
        let old = there.keep(&format!("round-{round}"), ANN);
        let resolves = join_all((0..8).map(|_| daemon.resolve(&old)));
        let writes = join_all((0..8).map(|number| {
            let credential = old.credential();
            daemon.try_write(WriteRequest { credential, ..set(&format!(r#"{{"k{number}":1}}"#)) })
        }));
        let (resolved, written) = join(resolves, writes).await;
        let listed = daemon.list("ann").await;
        let [session] = &listed[..] else { panic!("expected one session: {listed:?}") };
        for answer in &resolved {
            assert_eq!((answer.state(), id(answer)), (SessionState::Active, session.as_str()));
        }
        for answer in written {
            let answer = answer.expect("a Write with the old cookie succeeds");
            assert_eq!(&answer.session.expect("a session").id, session);
        }
        let kept = data(&daemon.resolve(&old).await);
        for number in 0..8 {
            assert!(kept.contains(&format!(r#""k{number}":1"#)), "expected each Write in {kept}");
        }
        assert_eq!(daemon.destroy(&old).await.destroyed, 1);
    }
}

async fn a_rolled_session_is_not_reached_by_the_old_cookie(backend: Backend) {
    if is_missing() {
        return;
    }
    let there = There::start();
    let daemon = there.daemon(backend).await;
    let old = there.keep(ID, ANN);
    let credential = old.credential();
    let rolled = daemon.write(WriteRequest { credential, roll: true, ..Default::default() }).await;
    let new = Browser::with(&rolled.set_cookie);
    assert_eq!(daemon.state(&new).await, SessionState::Active);
    assert_eq!(daemon.state(&old).await, SessionState::Superseded);
    // A logout with the id from before the roll works until roll_grace ends.
    daemon.clock.advance(Duration::from_secs(60));
    assert_eq!(daemon.destroy(&old).await.destroyed, 0);
    assert_eq!(daemon.state(&new).await, SessionState::Active, "a replay ends nothing");
    let credential = new.credential();
    let rolled = daemon.write(WriteRequest { credential, roll: true, ..Default::default() }).await;
    assert_eq!(daemon.destroy(&new).await.destroyed, 1, "expected a late logout to succeed");
    let newest = Browser::with(&rolled.set_cookie);
    assert_eq!(daemon.state(&newest).await, SessionState::NotFound, "expected it to be ended");
}

/// `JSON.stringify` may write half of a surrogate pair as an escape, and any number that it
/// read.
async fn whatever_express_writes_keeps_its_owner(backend: Backend) {
    if is_missing() {
        return;
    }
    let there = There::start();
    let daemon = Daemon::with(backend, |config| {
        there.adopt(config);
        let engine = config.engine.get_mut("default").expect("the default engine");
        engine.adopt.principal = "/passport/user".to_owned();
    })
    .await;
    let odd = [
        r#""nick":"ab\ud83d""#,
        r#""deep":[{"a":{"b":["\udc00"]}}]"#,
        r#""deep":{"\ud83d":1}"#,
        r#""n":1e999"#,
        r#""n":[[-1e999]]"#,
    ];
    for (number, odd) in odd.iter().enumerate() {
        let record = format!(
            r#"{{"cookie":{{"originalMaxAge":600000,"expires":"2001-01-01T00:00:00.000Z"}},"passport":{{"user":"ann"}},{odd}}}"#
        );
        let answer = daemon.resolve(&there.keep(&format!("odd-{number}"), &record)).await;
        let session = answer.session.as_ref().expect("a live session");
        assert_eq!(&*session.principal, b"ann", "beside {odd}");
        assert_eq!(session.duration.expect("a duration").seconds, 600, "beside {odd}");
        assert_eq!(data(&answer), format!(r#"{{"passport":{{"user":"ann"}},{odd}}}"#));
    }
    assert_eq!(daemon.revoke("ann", &[]).await, odd.len() as u32, "expected all of them to end");

    // passport may store a user's id as a number.
    let numbers = ["7", "9007199254740993", "340282366920938463463374607431768211456"];
    for number in numbers {
        let record =
            format!(r#"{{"cookie":{{"originalMaxAge":null}},"passport":{{"user":{number}}}}}"#);
        let answer = daemon.resolve(&there.keep(&format!("number-{number}"), &record)).await;
        assert_eq!(answer.session.expect("a live session").principal, number.as_bytes());
    }
}

async fn rubbish_is_an_error_and_stays_as_it_is(backend: Backend) {
    if is_missing() {
        return;
    }
    let there = There::start();
    let daemon = there.daemon(backend).await;
    let large = format!(r#"{{"text":"{}"}}"#, "x".repeat(100 << 10));
    for (name, record) in [
        ("no-json", "a:1:{s:4:\"user\"}"),
        ("cut", &ANN[..20]),
        ("list", "[1]"),
        ("large", &large),
        ("half-a-name", r#"{"cookie":{},"user":"ann\ud83d"}"#),
        ("half-a-key", r#"{"cookie":{},"user":"ann","\ud83d":1}"#),
    ] {
        let browser = there.keep(name, record);
        let found = there.record(name);
        assert_fault(&refused(&daemon, &browser).await, Code::DataLoss, "RECORD_UNREADABLE", None);
        assert_eq!(there.record(name), found, "expected {name} unchanged");
        // When the record can be read, the session is adopted.
        there.keep(name, ANN);
        assert_eq!(daemon.state(&browser).await, SessionState::Active, "{name}");
    }
    there.redis.ask(&["HSET", "sess:hash", "user", "ann"]);
    let status = refused(&daemon, &browser("hash")).await;
    assert_fault(&status, Code::DataLoss, "RECORD_UNREADABLE", None);
    assert!(!status.message().contains("hash"), "an id is a secret: {status:?}");
    assert_eq!(there.redis.ask(&["TYPE", "sess:hash"]), "+hash\r\n");
    assert_eq!(daemon.list("ann").await.len(), 6, "and nothing else was made");
    // A session that cannot be read does not hide a live one.
    let good = there.keep("good", ANN).header();
    let both = cookie_header(format!("{}; {good}", browser("hash").header()));
    let both = daemon.resolve_with(ResolveRequest { credential: both, ..Default::default() }).await;
    assert_eq!(both.state(), SessionState::Active);
}

/// Otherwise a user whose record cannot be read could not delete the cookie.
async fn a_logout_needs_no_readable_record(backend: Backend) {
    if is_missing() {
        return;
    }
    let there = There::start();
    let daemon = there.daemon(backend).await;
    for (name, scope) in [("this", DestroyScope::This), ("all", DestroyScope::All)] {
        let browser = there.keep(name, "rubbish");
        let answer = daemon.destroy_scope(&browser, scope).await;
        assert_eq!((answer.destroyed, answer.set_cookie.len()), (0, 1), "the cookie is deleted");
        there.keep(name, ANN);
        assert_eq!(daemon.state(&browser).await, SessionState::NotFound, "the session stays ended");
        assert!(there.record(name).contains("ann"), "expected the application's record unchanged");
    }
    assert!(daemon.list("ann").await.is_empty());
}

async fn an_outage_there_is_no_logout(backend: Backend) {
    if is_missing() {
        return;
    }
    let mut there = There::start();
    let daemon = there.daemon(backend).await;
    let own = daemon.visitor("{}").await;
    let old = there.keep(ID, ANN);
    let adopted = there.keep("adopted", ANN);
    assert_eq!(daemon.state(&adopted).await, SessionState::Active);
    there.redis.kill();
    let status = refused(&daemon, &old).await;
    assert_fault(&status, Code::Unavailable, "STORE_UNAVAILABLE", None);
    assert!(status.get_error_details().retry_info().is_some(), "{status:?}");
    let request = WriteRequest { credential: old.credential(), ..set("{}") };
    let refused = daemon.try_write(request).await.expect_err("an unreadable session");
    assert_fault(&refused, Code::Unavailable, "STORE_UNAVAILABLE", None);
    let refused = daemon.try_destroy(&old).await.expect_err("an unreadable session");
    assert_fault(&refused, Code::Unavailable, "STORE_UNAVAILABLE", None);
    assert_eq!(daemon.state(&own).await, SessionState::Active, "our own session works");
    assert_eq!(daemon.state(&adopted).await, SessionState::Active, "the adopted session works");
    assert_eq!(daemon.state(&Browser::new()).await, SessionState::None);
    there.redis.restart();
    there.keep(ID, ANN);
    let answered = async {
        let request = || ResolveRequest { credential: old.credential(), ..Default::default() };
        while let Err(status) = daemon.client.clone().resolve(request()).await {
            assert_eq!(status.code(), Code::Unavailable, "{status:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, answered).await.expect("expected the Redis to be reached again");
    assert_eq!(daemon.list("ann").await.len(), 2);
}

/// The application's cookie and the cookie that replaces it belong to one session.
async fn operations_by_both_cookies_keep_their_order(backend: Backend) {
    if is_missing() {
        return;
    }
    const WRITES: u64 = 40;
    let there = There::start();
    let daemon = there.daemon(backend).await;
    let old = there.keep(ID, ANN);
    let new = Browser::with(&daemon.resolve(&old).await.set_cookie);
    let requests = (1..=WRITES).map(|sequence| {
        let credential = if sequence % 2 == 1 { &old } else { &new }.credential();
        let write = WriteRequest { credential, ..set(&format!(r#"{{"n":{sequence}}}"#)) };
        PipelineRequest { sequence, operation: Some(Operation::Write(write)), timeout: None }
    });
    let requests = tokio_stream::iter(requests.collect::<Vec<_>>());
    let answers = daemon.client.clone().pipeline(requests).await.expect("the stream opens");
    let mut answers = answers.into_inner();
    let mut order = Vec::new();
    while let Some(answer) = answers.message().await.expect("the stream is open") {
        order.push(answer.sequence);
    }
    assert_eq!(order, (1..=WRITES).collect::<Vec<_>>(), "expected the Writes in order");
    assert!(data(&daemon.resolve(&new).await).contains(&format!(r#""n":{WRITES}"#)));
}
