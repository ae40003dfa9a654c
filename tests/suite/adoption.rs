//! Adoption: an old cookie of an application goes on as a session here, once.

use std::time::Duration;

use base64::{Engine as _, prelude::BASE64_STANDARD_NO_PAD as BASE64};
use futures_util::future::{join, join_all};
use hmac::{Hmac, KeyInit, Mac};
use sessiond::{
    grpc::pb::{
        DestroyScope, ExportSessionsRequest, ImportSessionsRequest, PipelineRequest,
        ResolveRequest, ResolveResponse, SessionState, WriteRequest, pipeline_request::Operation,
        session_service_client::SessionServiceClient,
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
        program::{PATIENCE, Program, run, stderr, stdout},
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
struct There {
    redis: RedisServer,
}

const ID: &str = "Zm9vYmFyYmF6cXV4XzAxMjM0NTY3ODlh";
const ANN: &str = r#"{"cookie":{"originalMaxAge":1800000,"path":"/"},"user":"ann","visits":2}"#;

impl There {
    fn start() -> Self {
        Self { redis: RedisServer::start() }
    }

    fn adopt(&self, config: &mut Config) {
        let engine = config.engine.get_mut("default").expect("the default engine");
        engine.adopt.from = AdoptFrom::ExpressSession;
        engine.adopt.url = self.redis.url().parse().expect("a URL");
        engine.adopt.principal = "/user".to_owned();
        // So that a busy machine is no failure.
        engine.adopt.timeout = Span::secs(30);
        engine.adopt.connect_timeout = Span::secs(10);
    }

    async fn daemon(&self, backend: Backend) -> Daemon {
        Daemon::with(backend, |config| self.adopt(config)).await
    }

    /// Keeps a session there for ten minutes, and gives the browser that has it.
    fn keep(&self, id: &str, record: &str) -> Browser {
        let key = format!("sess:{id}");
        assert_eq!(self.redis.ask(&["SET", &key, record, "PX", "600000"]), "+OK\r\n");
        browser(id)
    }

    fn record(&self, id: &str) -> String {
        self.redis.ask(&["GET", &format!("sess:{id}")])
    }

    /// How often the application's sessions were read.
    fn reads(&self) -> u64 {
        let stats = self.redis.ask(&["INFO", "commandstats"]);
        let line = stats.lines().find_map(|line| line.strip_prefix("cmdstat_getrange:calls="));
        let calls = line.and_then(|line| line.split(',').next());
        calls.map_or(0, |calls| calls.parse().expect("a number"))
    }
}

fn signed(id: &str) -> String {
    let mac = Hmac::<Sha256>::new_from_slice(SECRET.as_bytes()).expect("any length will do");
    let signature = mac.chain_update(id).finalize().into_bytes();
    format!("{id}.{}", BASE64.encode(signature))
}

/// A browser with the application's cookie of this id.
pub(crate) fn browser(id: &str) -> Browser {
    let value = signed(id).replace('/', "%2F").replace('+', "%2B");
    Browser { cookie: Some(format!("session=s%3A{value}")) }
}

fn id(answer: &ResolveResponse) -> &str {
    &answer.session.as_ref().expect("a live session").id
}

async fn refused(daemon: &Daemon, browser: &Browser) -> Status {
    let request = ResolveRequest { credential: browser.credential(), ..Default::default() };
    daemon.client.clone().resolve(request).await.expect_err("nobody can know the session")
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
    assert_eq!(first.state(), SessionState::Active, "logged in there, still logged in here");
    assert_eq!(data(&first), r#"{"visits":2,"user":"ann"}"#, "without the library's cookie");
    let session = first.session.as_ref().expect("a live session");
    assert_eq!((&*session.principal, session.version), (&b"ann"[..], 1));
    let duration = session.duration.expect("a duration");
    assert_eq!(duration.seconds, 600, "its own maxAge, not the engine's 30 minutes");
    assert_eq!(daemon.list("ann").await, std::slice::from_ref(&session.id));

    let new = Browser::with(&first.set_cookie);
    let (name, token) =
        new.cookie.as_deref().and_then(|pair| pair.split_once('=')).expect("a pair");
    assert_eq!((name, token), ("connect.sid", &first.token[..]));
    assert!(!recorded.cookie.contains(&token[..32]), "an id of ours");
    let again = daemon.resolve(&new).await;
    assert_eq!(id(&again), id(&first), "the new cookie is of the same session");
    assert_eq!((again.set_cookie.len(), again.token.len()), (0, 0), "the browser knows it all");
    let late = daemon.resolve(&old).await;
    assert_eq!(id(&late), id(&first), "a request on its way with the old cookie");
    assert_eq!(late.set_cookie, first.set_cookie, "is told the same");
    assert_eq!(there.reads(), 1, "the record is read once");
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
    // Never seen before: it ends all the same.
    let unseen = there.keep("unseen-until-its-logout", ANN);
    let answer = daemon.destroy(&unseen).await;
    assert_eq!((answer.destroyed, answer.set_cookie.len()), (1, 1));
    let revoked = there.keep("revoked", ANN);
    assert_eq!(daemon.state(&revoked).await, SessionState::Active);
    assert_eq!(daemon.revoke("ann", &[]).await, 1);

    let daemon = match in_force(backend) {
        Backend::Memory => daemon,
        Backend::Sled | Backend::Redis => daemon.stop().await.start().await,
    };
    let reads = there.reads();
    for (what, browser) in
        [("old", &old), ("new", &new), ("unseen", &unseen), ("revoked", &revoked)]
    {
        assert_eq!(daemon.state(browser).await, SessionState::NotFound, "the {what} cookie");
        assert_eq!(daemon.destroy(browser).await.destroyed, 0, "the {what} cookie");
    }
    let request = WriteRequest { credential: old.credential(), ..set("{}") };
    let gone = daemon.try_write(request).await.expect_err("it has ended");
    assert_fault(&gone, Code::NotFound, "SESSION_GONE", None);
    let create =
        ResolveRequest { credential: old.credential(), create: true, ..Default::default() };
    let created = daemon.resolve_with(create).await;
    assert_eq!((created.state(), &*data(&created)), (SessionState::Created, "{}"));
    assert!(daemon.list("ann").await.is_empty());
    assert!(there.record(ID).contains("ann"), "the record there is as it was");
    // The ids that we gave are looked up there; those that were adopted are not.
    assert_eq!(there.reads() - reads, 2, "of the new cookie, for a Resolve and a Destroy");
}

/// The marks come along, or what ended would be adopted once more.
async fn what_moves_stays_adopted(backend: Backend) {
    if is_missing() {
        return;
    }
    let there = There::start();
    let (one, other) = (there.daemon(backend).await, there.daemon(backend).await);
    let (alive, ended) = (there.keep("alive", ANN), there.keep("ended", ANN));
    // So its mark is for ever.
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
    assert_eq!(id(&other.resolve(&alive).await), id(&before), "the old cookie is good for it");
    assert_eq!(other.state(&ended).await, SessionState::NotFound);
    assert_eq!(there.reads(), reads, "nothing was adopted again");
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
    assert!((1..=600_000).contains(&left), "as long as it had to live there: {left} ms");
    let resolved = daemon.resolve(&browser).await;
    let session = resolved.session.as_ref().expect("a live session");
    let left = millis(session.expire_time.as_ref()) - START.unix_millis();
    assert!(left >= 1_800_000, "a Resolve moves the deadline: {left} ms");

    let all = daemon.destroy_scope(&there.keep("all", ANN), DestroyScope::All).await;
    assert_eq!(all.destroyed, 4, "its own and those of the same principal");

    let unknown = browser_of_nobody(&daemon).await;
    assert_eq!(daemon.state(&unknown).await, SessionState::NotFound);
    let reads = there.reads();
    let forged = Browser { cookie: Some(format!("session=s%3A{ID}.{}", "A".repeat(43))) };
    there.keep(ID, ANN);
    assert_eq!(daemon.state(&forged).await, SessionState::Invalid);
    assert_eq!(there.reads(), reads, "nothing is asked for what is not authentic");
    // Of several cookies the first that is live wins, and what is ours is tried first.
    let own = daemon.visitor("{}").await;
    let both = format!("{}; {}", browser_header(ID), own.header());
    let both = ResolveRequest { credential: cookie_header(both), ..Default::default() };
    assert_eq!(id(&daemon.resolve_with(both).await), daemon.id(&own).await);
}

fn browser_header(id: &str) -> String {
    browser(id).header()
}

/// Signed, and known nowhere.
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
            let answer = answer.expect("a Write by the old cookie is taken");
            assert_eq!(&answer.session.expect("a session").id, session);
        }
        let kept = data(&daemon.resolve(&old).await);
        for number in 0..8 {
            assert!(kept.contains(&format!(r#""k{number}":1"#)), "a Write is lost: {kept}");
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
    // A logout from before the roll, until the grace ends.
    daemon.clock.advance(Duration::from_secs(60));
    assert_eq!(daemon.destroy(&old).await.destroyed, 0);
    assert_eq!(daemon.state(&new).await, SessionState::Active, "a replay ends nothing");
    let credential = new.credential();
    let rolled = daemon.write(WriteRequest { credential, roll: true, ..Default::default() }).await;
    assert_eq!(daemon.destroy(&new).await.destroyed, 1, "expected a late logout to hold");
    let newest = Browser::with(&rolled.set_cookie);
    assert_eq!(daemon.state(&newest).await, SessionState::NotFound, "expected it to be ended");
}

/// `JSON.stringify` writes half an emoji as an escape, and any number that it read.
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
    assert_eq!(daemon.revoke("ann", &[]).await, odd.len() as u32, "log out everywhere ends all");

    // passport serializes the id of a user as the number that it is in the database.
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
        assert_eq!(there.record(name), found, "{name} stays as it was");
        // Once it is in order, it goes on.
        there.keep(name, ANN);
        assert_eq!(daemon.state(&browser).await, SessionState::Active, "{name}");
    }
    there.redis.ask(&["HSET", "sess:hash", "user", "ann"]);
    let status = refused(&daemon, &browser("hash")).await;
    assert_fault(&status, Code::DataLoss, "RECORD_UNREADABLE", None);
    assert!(!status.message().contains("hash"), "an id is a secret: {status:?}");
    assert_eq!(there.redis.ask(&["TYPE", "sess:hash"]), "+hash\r\n");
    assert_eq!(daemon.list("ann").await.len(), 6, "and nothing else was made");
    // One that cannot be read stands in nobody's way.
    let good = there.keep("good", ANN).header();
    let both = cookie_header(format!("{}; {good}", browser("hash").header()));
    let both = daemon.resolve_with(ResolveRequest { credential: both, ..Default::default() }).await;
    assert_eq!(both.state(), SessionState::Active);
}

/// Otherwise a user whose record cannot be read could not get rid of its cookie.
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
        assert_eq!(daemon.state(&browser).await, SessionState::NotFound, "it has ended for good");
        assert!(there.record(name).contains("ann"), "the record there is as it was");
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
    let refused = daemon.try_write(request).await.expect_err("nobody can know");
    assert_fault(&refused, Code::Unavailable, "STORE_UNAVAILABLE", None);
    let refused = daemon.try_destroy(&old).await.expect_err("nobody can know");
    assert_fault(&refused, Code::Unavailable, "STORE_UNAVAILABLE", None);
    assert_eq!(daemon.state(&own).await, SessionState::Active, "what is here goes on");
    assert_eq!(daemon.state(&adopted).await, SessionState::Active, "by the old cookie, too");
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
    tokio::time::timeout(PATIENCE, answered).await.expect("it is reached again");
    assert_eq!(daemon.list("ann").await.len(), 2);
}

/// The cookie of the application and the one that replaces it are of one session.
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
        PipelineRequest { sequence, operation: Some(Operation::Write(write)) }
    });
    let requests = tokio_stream::iter(requests.collect::<Vec<_>>());
    let answers = daemon.client.clone().pipeline(requests).await.expect("the stream opens");
    let mut answers = answers.into_inner();
    let mut order = Vec::new();
    while let Some(answer) = answers.message().await.expect("the stream goes on to its end") {
        order.push(answer.sequence);
    }
    assert_eq!(order, (1..=WRITES).collect::<Vec<_>>(), "one after the other");
    assert!(data(&daemon.resolve(&new).await).contains(&format!(r#""n":{WRITES}"#)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_daemons_at_once_make_one_session() {
    if is_missing() {
        return;
    }
    let (there, shared) = (There::start(), RedisServer::start());
    let start = || {
        Daemon::with(Backend::Redis, |config| {
            there.adopt(config);
            config.store.redis.url = shared.url().parse().expect("a URL");
        })
    };
    let daemons = [start().await, start().await];
    for round in 0..20 {
        let old = there.keep(&format!("round-{round}"), ANN);
        let answers = join_all((0..6).map(|number| daemons[number % 2].resolve(&old))).await;
        let listed = daemons[0].list("ann").await;
        let [session] = &listed[..] else { panic!("expected one session: {listed:?}") };
        for answer in &answers {
            assert_eq!((answer.state(), id(answer)), (SessionState::Active, session.as_str()));
        }
        assert_eq!(daemons[1].destroy(&old).await.destroyed, 1);
        assert_eq!(daemons[0].state(&old).await, SessionState::NotFound);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_of_hyper_express_are_adopted() {
    if is_missing() {
        return;
    }
    let there = There::start();
    let daemon = Daemon::with(Backend::Memory, |config| {
        there.adopt(config);
        let engine = config.engine.get_mut("default").expect("the default engine");
        engine.adopt.from = AdoptFrom::HyperExpressSession;
        engine.adopt.principal = "/user_id".to_owned();
    })
    .await;
    // Ids are what the application makes them.
    let name = "65f2c9a0-5d5b-4f0e-9d0e-6f5c3d1c1b11";
    let record = r#"{"user_id":9007199254740993,"cookie":"a biscuit","__cust_dur":3600000}"#;
    there.redis.ask(&["SET", &format!("session:{name}"), record]);
    let old = Browser { cookie: Some(format!("session={}", signed(name))) };
    let answer = daemon.resolve(&old).await;
    assert_eq!(data(&answer), r#"{"user_id":9007199254740993,"cookie":"a biscuit"}"#);
    let session = answer.session.as_ref().expect("a live session");
    assert_eq!(&*session.principal, b"9007199254740993");
    assert_eq!(session.duration.expect("a duration").seconds, 3600);
    let left = millis(session.expire_time.as_ref()) - START.unix_millis();
    assert!(left >= 3_600_000, "there it had no end: {left} ms");
}

/// Long enough, and not for ever; unless the record is there for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn marks_are_swept() {
    if is_missing() || in_force(Backend::Sled) != Backend::Sled {
        return;
    }
    let there = There::start();
    let daemon = Daemon::with(Backend::Sled, |config| {
        there.adopt(config);
        let engine = config.engine.get_mut("default").expect("the default engine");
        engine.adopt.remember = Span::secs(3600);
    })
    .await;
    let (short, long, endless) =
        (there.keep("short", ANN), there.keep("long", ANN), there.keep("endless", ANN));
    there.redis.ask(&["PEXPIRE", "sess:long", "7200000"]);
    there.redis.ask(&["PERSIST", "sess:endless"]);
    for browser in [&short, &long, &endless] {
        assert_eq!(daemon.destroy(browser).await.destroyed, 1);
    }
    daemon.clock.advance(Duration::from_secs(3599));
    daemon.cleanup().await;
    assert_eq!(daemon.state(&short).await, SessionState::NotFound);
    daemon.clock.advance(Duration::from_secs(1));
    assert_eq!(daemon.cleanup().await, 0, "a mark is no session");
    assert_eq!(daemon.state(&short).await, SessionState::Active, "it was remembered for an hour");
    assert_eq!(daemon.state(&long).await, SessionState::NotFound, "its record had two to live");
    daemon.clock.advance(Duration::from_secs(400 * 24 * 3600));
    daemon.cleanup().await;
    assert_eq!(daemon.state(&endless).await, SessionState::NotFound);
}

/// Its session goes on. But no list finds it, so the operator is told: once, and not who it is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_that_cannot_be_a_principal_is_logged_once() {
    if is_missing() {
        return;
    }
    let there = There::start();
    let settings = [
        "--dev".to_owned(),
        format!("--set=engine.default.cookie.secrets={SECRET}"),
        "--set=engine.default.adopt.from=express-session".to_owned(),
        format!("--set=engine.default.adopt.url={}", there.redis.url()),
        "--set=engine.default.adopt.principal=/user".to_owned(),
        "--set=engine.default.adopt.timeout=30s".to_owned(),
    ];
    let program = Program::serve(&settings.each_ref().map(String::as_str));
    let address = format!("http://{}", program.address("grpc"));
    let mut client = SessionServiceClient::connect(address).await.expect("the daemon answers");
    for name in ["one", "two"] {
        let long = "hunter2".repeat(40);
        let browser = there.keep(name, &format!(r#"{{"cookie":{{}},"user":"{long}"}}"#));
        let request = ResolveRequest { credential: browser.credential(), ..Default::default() };
        let answer = client.resolve(request).await.expect("answered").into_inner();
        assert_eq!(answer.state(), SessionState::Active, "nobody is locked out");
        assert!(answer.session.expect("a live session").principal.is_empty());
    }
    let (code, log) = tokio::task::spawn_blocking(|| program.stop()).await.expect("it ends");
    assert_eq!(code, Some(0), "{log}");
    let lines: Vec<_> = log.lines().filter(|line| line.contains("adopt.principal")).collect();
    assert_eq!(lines.len(), 1, "expected one line for both: {log}");
    for part in ["WARN", "/user", "280 bytes", "at most 256"] {
        assert!(lines[0].contains(part), "expected {part:?} in {:?}", lines[0]);
    }
    assert!(!log.contains("hunter2"), "{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn few_rights_are_enough_there_and_without_them_nobody_is_logged_out() {
    if is_missing() {
        return;
    }
    let there = There::start();
    let rights = ["ACL", "SETUSER", "old", "on", ">a-password", "~sess:*"];
    let allowed = ["+getrange", "+pttl", "+time"];
    assert_eq!(there.redis.ask(&[&rights[..], &allowed].concat()), "+OK\r\n");
    let daemon = Daemon::with(Backend::Memory, |config| {
        there.adopt(config);
        let engine = config.engine.get_mut("default").expect("the default engine");
        engine.adopt.username = "old".to_owned();
        engine.adopt.password = SecretText("a-password".to_owned());
    })
    .await;
    assert_eq!(daemon.state(&there.keep(ID, ANN)).await, SessionState::Active);
    there.redis.ask(&["ACL", "SETUSER", "old", "-getrange"]);
    let status = refused(&daemon, &there.keep("another", ANN)).await;
    assert_fault(&status, Code::Unavailable, "STORE_UNAVAILABLE", None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_adopted_unless_it_is_asked_for() {
    if is_missing() {
        return;
    }
    let there = There::start();
    let daemon = Daemon::with(Backend::Memory, |config| {
        there.adopt(config);
        let engine = config.engine.get_mut("default").expect("the default engine");
        engine.adopt.from = AdoptFrom::Off;
    })
    .await;
    assert_eq!(daemon.state(&there.keep(ID, ANN)).await, SessionState::NotFound);
    assert_eq!(there.reads(), 0);
}
