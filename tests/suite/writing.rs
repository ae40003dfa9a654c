//! Write: creation, changes, versions, rolling, and requests that are refused.

use std::time::{Duration, Instant};

use sessiond::{
    grpc::pb::{Credential, SessionState, WriteRequest},
    server::config::{Backend, Size},
    session::data::Data,
};
use tonic::Code;

use crate::{
    over_every_store,
    support::{
        browser::{Browser, cookie_header, token},
        daemon::{Daemon, assert_fault, data, set},
    },
};

over_every_store!(
    without_a_credential_it_creates,
    a_credential_never_creates,
    keys_are_changed_one_by_one,
    data_is_kept_to_the_byte,
    a_stale_version_is_refused,
    rolling_gives_a_new_id_to_the_same_session,
    a_new_principal_rolls,
    data_of_one_principal_is_not_shown_to_another,
    a_session_has_its_own_duration,
    a_duration_is_rounded_once,
    a_cookie_is_persistent_as_the_session_says,
    a_label_is_kept,
    bad_requests_name_their_field,
    octets_that_are_no_text_name_their_field,
    a_lower_limit_locks_nobody_out,
    a_message_over_the_limit_is_named,
    large_sessions_are_kept,
    a_write_has_bounds,
);

async fn without_a_credential_it_creates(backend: Backend) {
    let daemon = Daemon::start(backend).await;
    let request = WriteRequest { principal: Some("ann".into()), ..set(r#"{"a":1}"#) };
    let created = daemon.write(request).await;
    let session = created.session.expect("a session");
    assert_eq!((session.version, session.principal.as_ref()), (1, b"ann".as_slice()));
    assert!(session.data.is_empty(), "expected no data from a Write");
    assert_eq!(session.id.len(), 16);
    assert!(created.token.starts_with(&session.id), "expected the public part of the id");
    let browser = Browser::with(&created.set_cookie);
    let answer = daemon.resolve(&browser).await;
    assert_eq!(data(&answer), r#"{"a":1}"#);
    let resolved = answer.session.expect("a session");
    assert_eq!((resolved.id, resolved.principal.as_ref()), (session.id, b"ann".as_slice()));
}

async fn a_credential_never_creates(backend: Backend) {
    let daemon = Daemon::start(backend).await;
    let gone = daemon.visitor("{}").await;
    daemon.destroy(&gone).await;
    let mut rolled = daemon.visitor("{}").await;
    let superseded = rolled.clone();
    daemon.change(&mut rolled, WriteRequest { roll: true, ..set("{}") }).await;
    let expired = daemon.visitor("{}").await;
    daemon.clock.advance(Duration::from_secs(31 * 60));
    for (why, credential) in [
        ("destroyed", gone.credential()),
        ("superseded", superseded.credential()),
        ("expired", expired.credential()),
        ("no cookie", cookie_header("")),
        ("another cookie", cookie_header("theme=dark")),
        ("forged", cookie_header("session=AAAA.BBBB")),
        ("no token", token("")),
    ] {
        let error = daemon.try_write(WriteRequest { credential, ..set("{}") }).await;
        let error = error.expect_err(why);
        assert_fault(&error, Code::NotFound, "SESSION_GONE", None);
    }
    for browser in [gone, superseded, expired] {
        assert_ne!(daemon.state(&browser).await, SessionState::Active);
    }
}

async fn keys_are_changed_one_by_one(backend: Backend) {
    let daemon = Daemon::start(backend).await;
    let mut browser = daemon.visitor(r#"{"a":1,"b":2,"c":3}"#).await;
    let change =
        WriteRequest { unset: vec!["a".into(), "b".into(), "x".into()], ..set(r#"{"b":9,"d":4}"#) };
    let written = daemon.change(&mut browser, change).await;
    assert_eq!(written.session.expect("a session").version, 2);
    assert!(written.set_cookie.is_empty() && written.token.is_empty(), "expected no new cookie");
    assert_eq!(data(&daemon.resolve(&browser).await), r#"{"c":3,"b":9,"d":4}"#);
    daemon.change(&mut browser, WriteRequest { replace: true, ..set(r#"{"z":0}"#) }).await;
    assert_eq!(data(&daemon.resolve(&browser).await), r#"{"z":0}"#);
    daemon.change(&mut browser, WriteRequest { replace: true, ..Default::default() }).await;
    let answer = daemon.resolve(&browser).await;
    assert_eq!(data(&answer), "{}");
    assert_eq!(answer.session.expect("a session").version, 4);
}

async fn data_is_kept_to_the_byte(backend: Backend) {
    let daemon = Daemon::start(backend).await;
    let exact = r#""big":18446744073709551615,"dec":0.1000000000000000055511151231257827,"e":1E+400,"t":"\u00e9\/é","nest":{ "x" : [1 , 2] }"#;
    let mut browser = daemon.visitor(&format!("{{{exact}}}")).await;
    daemon.change(&mut browser, set(r#"{"other":true}"#)).await;
    assert_eq!(data(&daemon.resolve(&browser).await), format!(r#"{{{exact},"other":true}}"#));
}

async fn a_stale_version_is_refused(backend: Backend) {
    let daemon = Daemon::start(backend).await;
    let mut browser = daemon.visitor(r#"{"n":1}"#).await;
    let at = |version| WriteRequest { if_version: Some(version), ..set(r#"{"n":2}"#) };
    daemon.change(&mut browser, at(1)).await;
    let credential = browser.credential();
    let error = daemon.try_write(WriteRequest { credential, ..at(1) }).await;
    let error = error.expect_err("version 1 is stale");
    assert_fault(&error, Code::Aborted, "VERSION_MISMATCH", Some("if_version"));
    daemon.touch(&browser).await;
    let written = daemon.change(&mut browser, at(2)).await;
    assert_eq!(written.session.expect("a session").version, 3, "a touch keeps the version");
}

async fn rolling_gives_a_new_id_to_the_same_session(backend: Backend) {
    let daemon = Daemon::start(backend).await;
    let mut browser = daemon.visitor(r#"{"cart":[1]}"#).await;
    let before = browser.clone();
    let session = daemon.resolve(&browser).await.session.expect("a session");
    let rolled =
        daemon.change(&mut browser, WriteRequest { roll: true, ..Default::default() }).await;
    assert_eq!(rolled.set_cookie.len(), 1, "expected a cookie with the new id");
    assert_eq!(browser.header(), format!("session={}", rolled.token));
    assert_ne!(browser.header(), before.header());
    let answer = daemon.resolve(&browser).await;
    assert_eq!(data(&answer), r#"{"cart":[1]}"#, "expected the data after the roll");
    let after = answer.session.expect("a session");
    assert_eq!((after.id, after.create_time), (session.id, session.create_time));
    assert_eq!(daemon.state(&before).await, SessionState::Superseded, "the old id is superseded");
    assert_eq!(daemon.touch(&before).await.state(), SessionState::Superseded);
    assert_eq!(daemon.state(&browser).await, SessionState::Active);
}

async fn a_new_principal_rolls(backend: Backend) {
    let daemon = Daemon::start(backend).await;
    let mut browser = daemon.visitor("{}").await;
    let principal =
        |name: &str| WriteRequest { principal: Some(name.to_owned().into()), ..set("{}") };
    let anonymous = browser.clone();
    daemon.change(&mut browser, principal("ann")).await;
    assert_eq!(daemon.state(&anonymous).await, SessionState::Superseded, "no fixation");
    let ann = browser.clone();
    let same = daemon.change(&mut browser, principal("ann")).await;
    assert!(same.set_cookie.is_empty(), "expected no roll for the same principal");
    assert_eq!(daemon.state(&ann).await, SessionState::Active);
    daemon.change(&mut browser, principal("")).await;
    assert_eq!(daemon.state(&ann).await, SessionState::Superseded, "a logout rolls, too");
    let session = daemon.resolve(&browser).await.session.expect("a session");
    assert!(session.principal.is_empty());
    let longest = "p".repeat(256);
    daemon.change(&mut browser, principal(&longest)).await;
    let session = daemon.resolve(&browser).await.session.expect("a session");
    assert_eq!(session.principal, longest.as_bytes());
}

fn seconds(seconds: i64) -> Option<prost_types::Duration> {
    Some(prost_types::Duration { seconds, nanos: 0 })
}

async fn a_session_has_its_own_duration(backend: Backend) {
    let daemon = Daemon::start(backend).await;
    let mut browser = daemon.visitor("{}").await;
    let hours = 3600 * 12;
    let longer = WriteRequest { duration: seconds(hours), ..Default::default() };
    let written = daemon.change(&mut browser, longer).await;
    assert_eq!(written.session.expect("a session").duration, seconds(hours));
    assert_eq!(written.set_cookie.len(), 1, "expected a cookie, because the deadline moved");
    daemon.clock.advance(Duration::from_secs(3600 * 11));
    let answer = daemon.resolve(&browser).await;
    assert_eq!(answer.state(), SessionState::Active, "expected the session's own duration");
    browser.learn(&answer.set_cookie);
    daemon.clock.advance(Duration::from_secs(3600 * 11));
    let kept = daemon.write(WriteRequest { credential: browser.credential(), ..set("{}") }).await;
    assert_eq!(kept.session.expect("a session").duration, seconds(hours), "it is kept");
    let shorter = WriteRequest { duration: seconds(60), ..Default::default() };
    daemon.change(&mut browser, shorter).await;
    daemon.clock.advance(Duration::from_secs(62));
    assert_eq!(daemon.state(&browser).await, SessionState::Expired, "a shorter one takes effect");
}

async fn bad_requests_name_their_field(backend: Backend) {
    let daemon = Daemon::with(backend, |config| {
        let engine = config.engine.get_mut("default").expect("the default engine");
        engine.max_data_bytes = Size(100);
    })
    .await;
    let browser = daemon.visitor("{}").await;
    let too_deep = format!("{{\"a\":{}{}}}", "[".repeat(64), "]".repeat(64));
    let too_large = format!(r#"{{"a":"{}"}}"#, "x".repeat(100));
    let duration = |seconds, nanos| WriteRequest {
        duration: Some(prost_types::Duration { seconds, nanos }),
        ..Default::default()
    };
    let no_kind = Some(Credential::default());
    let cases = [
        (set("{"), "INVALID_DATA", "set"),
        (set("[]"), "INVALID_DATA", "set"),
        (set("1"), "INVALID_DATA", "set"),
        (set("{} x"), "INVALID_DATA", "set"),
        (set(&too_deep), "INVALID_DATA", "set"),
        (
            WriteRequest { set: vec![b'{', b'"', 0xff, b'"'].into(), ..Default::default() },
            "INVALID_DATA",
            "set",
        ),
        (set(&too_large), "DATA_TOO_LARGE", "set"),
        (WriteRequest { engine: "nope".into(), ..set("{}") }, "UNKNOWN_ENGINE", "engine"),
        (duration(-1, 0), "INVALID_ARGUMENT", "duration"),
        (duration(0, 0), "INVALID_ARGUMENT", "duration"),
        (duration(0, -5), "INVALID_ARGUMENT", "duration"),
        (duration(1, 1_000_000_000), "INVALID_ARGUMENT", "duration"),
        (duration(400 * 24 * 3600, 1), "INVALID_ARGUMENT", "duration"),
        (duration(i64::MAX, 0), "INVALID_ARGUMENT", "duration"),
        (
            WriteRequest { principal: Some("p".repeat(257).into()), ..set("{}") },
            "INVALID_ARGUMENT",
            "principal",
        ),
        (WriteRequest { if_version: Some(0), ..set("{}") }, "INVALID_ARGUMENT", "if_version"),
    ];
    for (index, (request, reason, field)) in cases.into_iter().enumerate() {
        for credential in [None, browser.credential()] {
            let error = daemon.try_write(WriteRequest { credential, ..request.clone() }).await;
            let error = error.expect_err(&format!("case {index}: expected an error"));
            assert_fault(&error, Code::InvalidArgument, reason, Some(field));
        }
    }
    let versioned = WriteRequest { if_version: Some(1), ..set("{}") };
    let error = daemon.try_write(versioned).await.expect_err("a creation has no version");
    assert_fault(&error, Code::InvalidArgument, "INVALID_ARGUMENT", Some("if_version"));
    let error = daemon.try_write(WriteRequest { credential: no_kind, ..set("{}") }).await;
    let error = error.expect_err("a credential of no kind is ambiguous");
    assert_fault(&error, Code::InvalidArgument, "INVALID_ARGUMENT", Some("credential"));
    let answer = daemon.resolve(&browser).await;
    assert_eq!(answer.session.expect("a session").version, 1, "expected no change by any of them");
}

async fn octets_that_are_no_text_name_their_field(backend: Backend) {
    let daemon = Daemon::start(backend).await;
    // An unpaired surrogate, as some clients encode it.
    let octets = || bytes::Bytes::from_static(b"\xed\xa0\x80");
    for (request, reason, field) in [
        (WriteRequest { engine: octets(), ..set("{}") }, "UNKNOWN_ENGINE", "engine"),
        (WriteRequest { unset: vec![octets()], ..set("{}") }, "INVALID_ARGUMENT", "unset"),
        (WriteRequest { principal: Some(octets()), ..set("{}") }, "INVALID_ARGUMENT", "principal"),
    ] {
        let error = daemon.try_write(request).await.expect_err(field);
        assert_fault(&error, Code::InvalidArgument, reason, Some(field));
    }
}

async fn a_lower_limit_locks_nobody_out(backend: Backend) {
    let daemon = Daemon::start(backend).await;
    let mut browser = daemon.visitor(&format!(r#"{{"a":"{}","b":1}}"#, "x".repeat(300))).await;
    let mut stopped = daemon.stop().await;
    if !backend.kind().outlives_a_stop {
        return; // This store loses its records at a restart.
    }
    stopped.config.engine.get_mut("default").expect("an engine").max_data_bytes = Size(100);
    let daemon = stopped.start().await;
    let login = WriteRequest { principal: Some("ann".into()), roll: true, ..Default::default() };
    daemon.change(&mut browser, login).await;
    daemon
        .change(&mut browser, WriteRequest { unset: vec!["b".into()], ..Default::default() })
        .await;
    let credential = browser.credential();
    let grow = daemon.try_write(WriteRequest { credential, ..set(r#"{"c":1}"#) }).await;
    let error = grow.expect_err("expected an error, it must not grow");
    assert_fault(&error, Code::InvalidArgument, "DATA_TOO_LARGE", Some("set"));
}

async fn a_message_over_the_limit_is_named(backend: Backend) {
    let daemon = Daemon::start(backend).await;
    let huge = format!(r#"{{"a":"{}"}}"#, "x".repeat(2 << 20));
    let error = daemon.try_write(set(&huge)).await.expect_err("it is over 1 MiB");
    assert_fault(&error, Code::InvalidArgument, "MESSAGE_TOO_LARGE", None);
}

async fn large_sessions_are_kept(backend: Backend) {
    let daemon = Daemon::start(backend).await;
    let text = format!(r#"{{"a":"{}"}}"#, "x".repeat(65_000));
    let mut browsers = Vec::new();
    for _ in 0..40 {
        browsers.push(daemon.visitor(&text).await);
    }
    for browser in &mut browsers {
        daemon.change(browser, set(r#"{"b":1}"#)).await;
        let kept = data(&daemon.resolve(browser).await);
        assert!(kept.len() == text.len() + 6 && kept.starts_with(&text[..text.len() - 1]));
    }
}

/// What the bounds of one Write refuse would keep a thread busy for 20 to 90 ms.
async fn a_write_has_bounds(backend: Backend) {
    let daemon = Daemon::start(backend).await;
    let mut browser = daemon.visitor(r#"{"a":1,"b":2}"#).await;
    let unset = |count: usize| WriteRequest {
        unset: (0..count).map(|number| number.to_string().into()).collect(),
        ..Default::default()
    };
    let keys = |count: usize| {
        let members: Vec<_> = (0..count).map(|number| format!("\"{number}\":0")).collect();
        format!("{{{}}}", members.join(","))
    };
    let same_key = format!("{{{}\"a\":1}}", "\"a\":1,".repeat(150_000));
    let empty_keys = WriteRequest { unset: vec![Default::default(); 500_000], ..set("{}") };
    let deep = "[".repeat(60_000);
    for (request, reason, field) in [
        (unset(1001), "INVALID_ARGUMENT", "unset"),
        (unset(100_000), "INVALID_ARGUMENT", "unset"),
        (empty_keys, "INVALID_ARGUMENT", "unset"),
        (set(&same_key), "DATA_TOO_LARGE", "set"),
        (set(&keys(4097)), "INVALID_DATA", "set"),
        (set(&deep), "INVALID_DATA", "set"),
        // Checked on another thread.
        (set(&format!("{{\"a\":\"{}\"", "x".repeat(60_000))), "INVALID_DATA", "set"),
    ] {
        for credential in [None, browser.credential()] {
            let error = daemon.try_write(WriteRequest { credential, ..request.clone() }).await;
            let error = error.expect_err("it is over a bound");
            assert_fault(&error, Code::InvalidArgument, reason, Some(field));
        }
    }
    daemon.change(&mut browser, unset(1000)).await;
    daemon.change(&mut browser, set(&keys(4094))).await;
    let credential = browser.credential();
    let more = WriteRequest { credential, ..set(&keys(4095)) };
    let error = daemon.try_write(more).await.expect_err("with a and b it has one key too many");
    assert_fault(&error, Code::InvalidArgument, "INVALID_DATA", Some("set"));
    let credential = browser.credential();
    let others = WriteRequest { credential, unset: vec!["a".into()], ..set(&keys(4095)) };
    daemon.write(others).await;
}

/// A merge once copied and hashed each key of the session. To check the text is the measure,
/// so that the ratio depends on the machine as little as possible.
#[test]
fn a_small_change_of_many_keys_is_a_scan() {
    let members: Vec<_> = (0..4096).map(|number| format!("\"k{number}\":0")).collect();
    let text = format!("{{{}}}", members.join(","));
    let stored = Data::parse(text.clone().into()).expect("an object");
    let set = Data::parse(r#"{"k7":1}"#.into()).expect("an object");
    let time = |work: &dyn Fn() -> usize| {
        let started = Instant::now();
        assert!(work() > 0);
        started.elapsed()
    };
    let check = || serde_json::from_str::<&serde_json::value::RawValue>(&text).expect("JSON");
    // Both in turn, and for longer on a busy machine: the fastest of each counts.
    let (mut checked, mut merged) = (Duration::MAX, Duration::MAX);
    let mut ratio = f64::MAX;
    for round in 0..1000 {
        checked = checked.min(time(&|| check().get().len()));
        merged = merged.min(time(&|| stored.merge(&[], &set).expect("objects").text().len()));
        ratio = merged.as_secs_f64() / checked.as_secs_f64();
        if round >= 30 && ratio < 4.0 {
            return;
        }
    }
    panic!("expected a scan, found {ratio:.1} times what it takes to check the text");
}

async fn data_of_one_principal_is_not_shown_to_another(backend: Backend) {
    let daemon = Daemon::start(backend).await;
    let mut browser = daemon.visitor(r#"{"cart":[1]}"#).await;
    let give = |name: &str, text: &str| WriteRequest {
        principal: Some(name.to_owned().into()),
        ..set(text)
    };
    daemon.change(&mut browser, give("ann", r#"{"name":"Ann"}"#)).await;
    let found = daemon.resolve(&browser).await;
    let kept = r#"{"cart":[1],"name":"Ann"}"#;
    assert_eq!(data(&found), kept, "expected a login to keep the visitor's data");
    daemon.change(&mut browser, give("ann", r#"{"n":1}"#)).await;
    let found = daemon.resolve(&browser).await;
    let kept = r#"{"cart":[1],"name":"Ann","n":1}"#;
    assert_eq!(data(&found), kept, "expected another login of the same user to keep it, too");
    daemon.change(&mut browser, give("bob", r#"{"name":"Bob"}"#)).await;
    let found = daemon.resolve(&browser).await;
    assert_eq!(data(&found), r#"{"name":"Bob"}"#, "expected nothing of ann's to be left");
    daemon.change(&mut browser, give("", "{}")).await;
    let found = daemon.resolve(&browser).await;
    assert_eq!(data(&found), "{}", "expected nothing of bob's for an anonymous user");
}

/// Stores count in milliseconds. If answers did not, a repeated Write would look like a change.
async fn a_duration_is_rounded_once(backend: Backend) {
    let daemon = Daemon::start(backend).await;
    let mut browser = daemon.visitor("{}").await;
    let odd = || WriteRequest {
        duration: Some(prost_types::Duration { seconds: 5, nanos: 1 }),
        ..set("{}")
    };
    let rounded = Some(prost_types::Duration { seconds: 5, nanos: 1_000_000 });
    let written = daemon.change(&mut browser, odd()).await;
    assert_eq!(written.session.expect("a session").duration, rounded, "expected it from the Write");
    let found = daemon.resolve(&browser).await.session.expect("a session");
    assert_eq!(found.duration, rounded, "expected it from the Resolve");
    let again = daemon.change(&mut browser, odd()).await;
    assert!(again.set_cookie.is_empty(), "expected nothing to have changed: {again:?}");
    assert_eq!(again.session.expect("a session").duration, rounded, "expected it once more");
}

/// "Remember me", over the engine's default.
async fn a_cookie_is_persistent_as_the_session_says(backend: Backend) {
    for default in [true, false] {
        let daemon = Daemon::with(backend, |config| {
            let engine = config.engine.get_mut("default").expect("the default engine");
            engine.cookie.persistent = default;
        })
        .await;
        let persists = |lines: &[String]| match lines {
            [line] => line.contains("; Max-Age=") && line.contains("; Expires="),
            lines => panic!("expected one Set-Cookie, found {lines:?}"),
        };
        let created = daemon.write(set("{}")).await;
        assert_eq!(persists(&created.set_cookie), default, "expected the engine's default");
        let mut browser = Browser::with(&created.set_cookie);
        let turn = |persistent| WriteRequest { persistent: Some(persistent), ..set("{}") };
        let turned = daemon.change(&mut browser, turn(!default)).await;
        assert_eq!(persists(&turned.set_cookie), !default, "expected the browser to be told");
        let again = daemon.change(&mut browser, turn(!default)).await;
        assert!(again.set_cookie.is_empty(), "expected nothing to tell: {again:?}");
        let roll = WriteRequest { roll: true, ..set("{}") };
        let rolled = daemon.change(&mut browser, roll).await;
        assert_eq!(persists(&rolled.set_cookie), !default, "expected a roll to keep it");
        daemon.clock.advance(Duration::from_secs(10 * 60));
        let touched = daemon.touch(&browser).await.set_cookie;
        assert_eq!(touched.len(), usize::from(!default), "expected a later end if it persists");
        let other = daemon.write(turn(!default)).await;
        assert_eq!(persists(&other.set_cookie), !default, "expected it of a new session, too");
    }
}

async fn a_label_is_kept(backend: Backend) {
    let daemon = Daemon::start(backend).await;
    let with = |label: &str| WriteRequest { label: Some(label.to_owned().into()), ..set("{}") };
    let created = daemon.write(with("Firefox on Linux")).await;
    let mut browser = Browser::with(&created.set_cookie);
    let label = async |browser: &Browser| {
        let session = daemon.resolve(browser).await.session.expect("a session");
        String::from_utf8(session.label.to_vec()).expect("text")
    };
    assert_eq!(label(&browser).await, "Firefox on Linux", "expected it after the creation");
    daemon.change(&mut browser, WriteRequest { roll: true, ..set("{}") }).await;
    assert_eq!(label(&browser).await, "Firefox on Linux", "expected a Write to keep it");
    let longest = "\u{e9}".repeat(128);
    daemon.change(&mut browser, with(&longest)).await;
    assert_eq!(label(&browser).await, longest, "expected another one");
    for bad in [vec![b'x'; 257], vec![0xff]] {
        let write =
            WriteRequest { credential: browser.credential(), label: Some(bad.into()), ..set("{}") };
        let error = daemon.try_write(write).await.expect_err("it is too long, or no text");
        assert_fault(&error, Code::InvalidArgument, "INVALID_ARGUMENT", Some("label"));
    }
    daemon.change(&mut browser, with("")).await;
    assert_eq!(label(&browser).await, "", "expected an empty one to remove it");
}
