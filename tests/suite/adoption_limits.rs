//! Adoption: two daemons, other libraries, marks, and what an operator sees of it.

use std::time::Duration;

use futures_util::future::join_all;
use sessiond::{
    grpc::pb::{ResolveRequest, SessionState, session_service_client::SessionServiceClient},
    server::config::{AdoptFrom, Backend, SecretText, Span},
};
use tonic::Code;

use crate::{
    adoption::{ANN, ID, There, id, refused, signed},
    support::{
        browser::Browser,
        daemon::{Daemon, SECRET, START, assert_fault, data, in_force, millis},
        program::Program,
        redis::{RedisServer, is_missing},
    },
};

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
    // The application decides the shape of its ids.
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
    assert!(left >= 3_600_000, "expected the engine's duration: {left} ms");
}

/// A mark is kept long enough but not for ever, unless the application's record has no expiry.
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
    assert_eq!(daemon.cleanup().await, 0, "expected marks not to count as sessions");
    assert_eq!(daemon.state(&short).await, SessionState::Active, "its mark is kept for one hour");
    assert_eq!(daemon.state(&long).await, SessionState::NotFound, "its record has two hours left");
    daemon.clock.advance(Duration::from_secs(400 * 24 * 3600));
    daemon.cleanup().await;
    assert_eq!(daemon.state(&endless).await, SessionState::NotFound);
}

/// Its session works. But no list finds it, so the operator gets a warning, once and without
/// the name.
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
        assert_eq!(answer.state(), SessionState::Active, "expected the session to work");
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
