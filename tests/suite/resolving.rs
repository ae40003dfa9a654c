//! Resolve and Touch: the states, and requests that store nothing.

use std::time::Duration;

use sessiond::{
    grpc::pb::{DestroyRequest, ResolveRequest, SessionState, TouchRequest, WriteRequest},
    server::config::{Backend, SecretText},
    session::{cookie::CookieFormat, id::SessionId, token::Token},
};

use crate::{
    over_every_store,
    support::{
        browser::{Browser, cookie_header, token},
        daemon::{Daemon, SECRET, data, set, swept},
    },
};

over_every_store!(
    every_state_has_its_cause,
    nothing_is_stored_for_a_visitor,
    create_makes_a_session_with_an_id_of_its_own,
    create_makes_nothing_in_the_grace_of_a_roll,
    the_first_live_cookie_wins,
    junk_before_a_cookie_does_not_hide_it,
    a_token_is_a_credential,
    all_four_spellings_are_read,
    an_older_secret_is_signed_again,
    engines_are_worlds_of_their_own,
    a_touch_reads_no_data,
    any_octets_are_a_state,
    a_header_that_no_server_takes_is_a_state,
);

async fn every_state_has_its_cause(backend: Backend) {
    let daemon = Daemon::start(backend).await;
    let browser = daemon.visitor(r#"{"a":1}"#).await;
    let answer = daemon.resolve(&browser).await;
    assert_eq!(answer.state(), SessionState::Active);
    assert_eq!(data(&answer), r#"{"a":1}"#);
    assert!(
        answer.set_cookie.is_empty() && answer.token.is_empty(),
        "expected no cookie and no token"
    );

    assert_eq!(daemon.state(&Browser::new()).await, SessionState::None);
    let other = ResolveRequest { credential: cookie_header("theme=dark"), ..Default::default() };
    assert_eq!(daemon.resolve_with(other).await.state(), SessionState::None);
    let absent = daemon.resolve_with(ResolveRequest::default()).await;
    assert_eq!(absent.state(), SessionState::None, "expected NONE without a credential");
    assert!(absent.session.is_none());

    let mut forged = browser.clone();
    forged.cookie = browser.cookie.as_deref().map(|cookie| format!("{cookie}A"));
    assert_eq!(daemon.state(&forged).await, SessionState::Invalid);
    let id = browser.header().split('.').next().expect("an id").to_owned();
    forged.cookie = Some(id);
    assert_eq!(
        daemon.state(&forged).await,
        SessionState::Invalid,
        "expected INVALID for an unsigned id"
    );

    let mut rolled = browser.clone();
    daemon.change(&mut rolled, WriteRequest { roll: true, ..set("{}") }).await;
    assert_eq!(daemon.state(&browser).await, SessionState::Superseded);
    assert_eq!(daemon.state(&rolled).await, SessionState::Active);

    let gone = daemon.visitor("{}").await;
    daemon.destroy(&gone).await;
    assert_eq!(daemon.state(&gone).await, SessionState::NotFound);

    daemon.clock.advance(Duration::from_secs(31 * 60));
    let answer = daemon.resolve(&rolled).await;
    assert_eq!(answer.state(), SessionState::Expired);
    assert!(answer.set_cookie.is_empty(), "expected no deletion cookie from a Resolve");
    daemon.cleanup().await;
    if swept(backend, 1) == 1 {
        assert_eq!(daemon.state(&rolled).await, SessionState::NotFound, "swept");
    }
}

async fn nothing_is_stored_for_a_visitor(backend: Backend) {
    let daemon = Daemon::start(backend).await;
    for header in ["", "theme=dark", "session=bot", "session=s%3Aabc.def"] {
        let credential = cookie_header(header);
        let answer = daemon.resolve_with(ResolveRequest { credential, ..Default::default() }).await;
        assert!(answer.session.is_none() && answer.set_cookie.is_empty(), "{header}");
    }
    daemon.clock.advance(Duration::from_secs(365 * 24 * 3600));
    assert_eq!(daemon.cleanup().await, 0, "expected nothing to sweep");
    if let Some(redis) = daemon.redis() {
        assert_eq!(redis.ask(&["DBSIZE"]), ":0\r\n", "expected no key");
    }
}

async fn create_makes_a_session_with_an_id_of_its_own(backend: Backend) {
    let daemon = Daemon::start(backend).await;
    let create = |credential| ResolveRequest { credential, create: true, ..Default::default() };
    let first = daemon.resolve_with(create(None)).await;
    assert_eq!(first.state(), SessionState::Created);
    assert_eq!(data(&first), "{}");
    assert_eq!(first.token.len(), Token::LEN);
    assert!(first.set_cookie[0].contains(&first.token));
    let browser = Browser::with(&first.set_cookie);
    let again = daemon.resolve_with(create(browser.credential())).await;
    assert_eq!(again.state(), SessionState::Active, "expected the live session, no new one");

    // A signed id that is not stored is not adopted, whether its session ended or never
    // existed.
    daemon.destroy(&browser).await;
    let other = daemon.resolve_with(create(browser.credential())).await;
    assert_eq!(other.state(), SessionState::Created);
    let (old, new) = (first.session.expect("a session"), other.session.expect("a session"));
    assert_ne!(old.id, new.id, "expected a new id, not the presented one");
    assert_eq!(daemon.state(&browser).await, SessionState::NotFound);
}

/// A request that was sent before a login must not bring a cookie that replaces the login's.
async fn create_makes_nothing_in_the_grace_of_a_roll(backend: Backend) {
    let daemon = Daemon::start(backend).await;
    let create = |credential| ResolveRequest { credential, create: true, ..Default::default() };
    let mut browser = daemon.visitor("{}").await;
    let before = browser.clone();
    let over = daemon.visitor("{}").await;
    daemon.clock.advance(Duration::from_secs(20 * 60));
    daemon.change(&mut browser, WriteRequest { roll: true, ..set("{}") }).await;
    daemon.clock.advance(Duration::from_secs(15 * 60));
    assert_eq!(daemon.state(&over).await, SessionState::Expired);
    let later = daemon.visitor("{}").await;
    daemon.change(&mut browser, WriteRequest { roll: true, ..set("{}") }).await;
    for elapsed in [0, 59_999] {
        daemon.clock.advance(Duration::from_millis(elapsed));
        for header in [before.header(), format!("{}; {}", over.header(), before.header())] {
            let answer = daemon.resolve_with(create(cookie_header(header))).await;
            let found = (answer.state(), answer.set_cookie.len(), answer.token.len());
            let expected = (SessionState::Superseded, 0, 0);
            assert_eq!(found, expected, "state, cookies and token {elapsed} ms after the roll");
        }
        let both = cookie_header(format!("{}; {}", before.header(), later.header()));
        let answer = daemon.resolve_with(create(both)).await;
        assert_eq!(answer.state(), SessionState::Active, "expected the live session");
    }
    daemon.clock.advance(Duration::from_millis(1));
    let answer = daemon.resolve_with(create(before.credential())).await;
    assert_eq!(answer.state(), SessionState::Created, "expected a new session after roll_grace");
    assert_eq!(daemon.state(&browser).await, SessionState::Active);
}

async fn the_first_live_cookie_wins(backend: Backend) {
    let daemon = Daemon::start(backend).await;
    let one = daemon.visitor(r#"{"n":1}"#).await.header();
    let two = daemon.visitor(r#"{"n":2}"#).await.header();
    let dead = daemon.visitor("{}").await;
    daemon.destroy(&dead).await;
    let dead = dead.header();
    let resolve = async |header: String| {
        let credential = cookie_header(header);
        daemon.resolve_with(ResolveRequest { credential, ..Default::default() }).await
    };
    assert_eq!(data(&resolve(format!("{two}; a=b;{one}")).await), r#"{"n":2}"#);
    assert_eq!(data(&resolve(format!("{dead}; session=junk; {one}; {two}")).await), r#"{"n":1}"#);
    let none_live = resolve(format!("session=junk; {dead}; session=x")).await;
    assert_eq!(none_live.state(), SessionState::NotFound, "the most telling state is given");
    let forged = format!("session={}.{}A; ", "f".repeat(SessionId::TEXT_LEN), "f".repeat(42));
    let flood = forged.repeat(7);
    assert_eq!(resolve(format!("{flood}{one}")).await.state(), SessionState::Active, "the eighth");
    let flood = forged.repeat(8);
    assert_eq!(resolve(format!("{flood}{one}")).await.state(), SessionState::Invalid, "the ninth");
}

/// Junk cookies of the same name, which any site below the domain can set, must not log users
/// out.
async fn junk_before_a_cookie_does_not_hide_it(backend: Backend) {
    let daemon = Daemon::start(backend).await;
    let browser = daemon.visitor(r#"{"n":1}"#).await;
    let cookie = browser.header();
    let (_, token) = cookie.split_once('=').expect("a pair");
    for junk in [
        "junk",
        "",
        "s%3Aabc.def",
        "\"",
        &"x".repeat(Token::LEN),
        &token[1..],
        &token[..Token::LEN - 1],
    ] {
        let header = format!("{}{cookie}", format!("session={junk}; ").repeat(100));
        let credential = cookie_header(header);
        let answer = daemon.resolve_with(ResolveRequest { credential, ..Default::default() }).await;
        assert_eq!(
            answer.state(),
            SessionState::Active,
            "expected the session behind 100 cookies {junk:?}"
        );
    }
    let junk = "session=junk; ".repeat(8);
    let credential = cookie_header(format!("{junk}{cookie}"));
    let write = WriteRequest { credential, ..set(r#"{"n":2}"#) };
    assert_eq!(daemon.write(write).await.session.expect("the session").version, 2);
    let credential = cookie_header(format!("{junk}{cookie}"));
    let destroy = DestroyRequest { credential, ..Default::default() };
    let destroyed = daemon.client.clone().destroy(destroy).await.expect("answered").into_inner();
    assert_eq!(destroyed.destroyed, 1, "expected the session behind the junk to end");
}

async fn a_token_is_a_credential(backend: Backend) {
    let daemon = Daemon::start(backend).await;
    let created = daemon.write(set(r#"{"a":1}"#)).await;
    let credential = token(created.token.clone());
    let answer = daemon.resolve_with(ResolveRequest { credential, ..Default::default() }).await;
    assert_eq!(data(&answer), r#"{"a":1}"#);
    let touched = TouchRequest { credential: token(created.token), ..Default::default() };
    let touched = daemon.client.clone().touch(touched).await.expect("answered").into_inner();
    assert_eq!(touched.state(), SessionState::Active);
    for junk in ["", ".", "x.y", &"A".repeat(32)] {
        let credential = token(junk);
        let answer = daemon.resolve_with(ResolveRequest { credential, ..Default::default() }).await;
        assert_eq!(answer.state(), SessionState::Invalid, "{junk:?}");
    }
}

async fn all_four_spellings_are_read(backend: Backend) {
    let daemon = Daemon::with(backend, |config| {
        let engine = config.engine.get_mut("default").expect("the default engine");
        engine.cookie.format = CookieFormat::Express;
    })
    .await;
    let created = daemon.write(set("{}")).await;
    let emitted = Browser::with(&created.set_cookie).header();
    assert_eq!(emitted, format!("session=s:{}", created.token), "express-session's prefix");
    let raw = created.token;
    let encoded = raw.replace('+', "%2B").replace('/', "%2F");
    for value in [&raw, &format!("s:{raw}"), &encoded, &format!("s%3A{encoded}")] {
        let browser = Browser { cookie: Some(format!("session={value}")) };
        assert_eq!(daemon.state(&browser).await, SessionState::Active, "{value}");
    }
}

async fn an_older_secret_is_signed_again(backend: Backend) {
    let daemon = Daemon::start(backend).await;
    let mut browser = daemon.visitor(r#"{"a":1}"#).await;
    let old = browser.header();
    let mut stopped = daemon.stop().await;
    if !backend.kind().outlives_a_stop {
        return;
    }
    let engine = stopped.config.engine.get_mut("default").expect("the default engine");
    let fresh = "a newer secret that now signs, long enough";
    engine.cookie.secrets = [fresh, SECRET].map(|text| SecretText(text.to_owned())).into();
    let daemon = stopped.start().await;
    let answer = daemon.resolve(&browser).await;
    assert_eq!(answer.state(), SessionState::Active);
    assert_eq!(answer.set_cookie.len(), 1, "expected a cookie with the new signature");
    browser.learn(&answer.set_cookie);
    assert_ne!(browser.header(), old);
    assert_eq!(browser.header(), format!("session={}", answer.token));
    let again = daemon.resolve(&browser).await;
    assert_eq!(again.state(), SessionState::Active);
    assert!(again.set_cookie.is_empty(), "expected the new cookie only once");
}

async fn engines_are_worlds_of_their_own(backend: Backend) {
    let daemon = Daemon::with(backend, |config| {
        let engine = config.engine["default"].clone();
        config.engine.insert("shop".to_owned(), engine);
    })
    .await;
    let browser = daemon.visitor(r#"{"a":1}"#).await;
    let engine = "shop".into();
    let credential = browser.credential();
    let elsewhere =
        daemon.resolve_with(ResolveRequest { engine, credential, ..Default::default() }).await;
    assert_eq!(
        elsewhere.state(),
        SessionState::NotFound,
        "expected NOT_FOUND in another engine with the same secret"
    );
    let named = ResolveRequest {
        engine: "default".into(),
        credential: browser.credential(),
        ..Default::default()
    };
    assert_eq!(daemon.resolve_with(named).await.state(), SessionState::Active);
}

async fn a_touch_reads_no_data(backend: Backend) {
    let daemon = Daemon::start(backend).await;
    let browser = daemon.visitor(r#"{"a":1}"#).await;
    let touched = daemon.touch(&browser).await;
    assert_eq!(touched.state(), SessionState::Active);
    let session = touched.session.expect("a session");
    assert!(session.data.is_empty());
    assert_eq!(session.version, 1);
    assert_eq!(daemon.touch(&Browser::new()).await.state(), SessionState::None);
}

async fn any_octets_are_a_state(backend: Backend) {
    let daemon = Daemon::start(backend).await;
    let valid = daemon.visitor("{}").await.header();
    let all: Vec<u8> = (0..=255).collect();
    let headers: Vec<Vec<u8>> = vec![
        all.clone(),
        b"session=\xff\xfe.\x00\xc3".to_vec(),
        [b"session=", all.as_slice()].concat(),
        b"session=%".to_vec(),
        b"session=%zz%0".to_vec(),
        b";;;===;;".to_vec(),
        vec![b';'; 100_000],
        [b"\xff\xff; ", valid.as_bytes()].concat(),
    ];
    for header in headers {
        for credential in [cookie_header(header.clone()), token(header.clone())] {
            let request = ResolveRequest { credential, ..Default::default() };
            let state = daemon.resolve_with(request).await.state();
            assert_ne!(state, SessionState::Unspecified);
        }
    }
    let last = cookie_header([b"\xff\xff; ", valid.as_bytes()].concat());
    let answer = daemon.resolve_with(ResolveRequest { credential: last, ..Default::default() });
    assert_eq!(answer.await.state(), SessionState::Active, "junk before it hides no cookie");
}

async fn a_header_that_no_server_takes_is_a_state(backend: Backend) {
    let daemon = Daemon::start(backend).await;
    let browser = daemon.visitor("{}").await;
    let with_header_of = |len: usize| {
        let own = browser.header();
        let others = "x".repeat(len - own.len() - "others=; ".len());
        let credential = cookie_header(format!("others={others}; {own}"));
        ResolveRequest { credential, ..Default::default() }
    };
    let most = daemon.resolve_with(with_header_of(64 << 10)).await;
    assert_eq!(most.state(), SessionState::Active);
    let more = daemon.resolve_with(with_header_of((64 << 10) + 1)).await;
    assert_eq!(more.state(), SessionState::Invalid, "more than 64 KiB are not looked at");
}
