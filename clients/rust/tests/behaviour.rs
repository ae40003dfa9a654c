//! What the operations do: the same with the fake and with the daemon.

use std::time::Duration;

use sessiond_client::{
    Applied, Client, Credential, Data, DestroyOptions, Error, Reason, ResolveOptions, Result,
    Scope, State, TouchOptions, WriteOptions,
};

use crate::support::{World, data, in_both_worlds, kept, someone};

in_both_worlds! {
    whatever_a_browser_sends_breaks_nothing
    a_write_keeps_what_it_does_not_name
    of_parallel_writes_none_is_lost
    a_login_replaces_the_id
    a_users_sessions_are_listed_and_ended
    limits_are_told
    a_session_ends_with_its_time
    cookies_say_what_the_browser_must_learn
    a_resolve_can_create
    what_is_wrong_is_refused_before_it_is_sent
    the_daemon_describes_itself
}

async fn write(client: &Client, token: &str, options: WriteOptions) -> Result<Option<String>> {
    let credential =
        if token.is_empty() { Credential::NONE } else { Credential::token(token.to_owned()) };
    Ok(client.write(&credential, options).await?.token)
}

async fn state(client: &Client, token: &str) -> Result<State> {
    Ok(client.resolve(&Credential::token(token.to_owned())).await?.state)
}

async fn json(client: &Client, token: &str) -> Result<String> {
    let found = client.resolve(&Credential::token(token.to_owned())).await?;
    Ok(found.session.map(|session| session.data.to_json()).unwrap_or_default())
}

/// Creates a session, and returns its token.
async fn create(client: &Client, options: WriteOptions) -> Result<String> {
    Ok(write(client, "", options).await?.expect("a token of a new session"))
}

fn of(engine: &str) -> WriteOptions {
    WriteOptions { engine: Some(engine.to_owned()), ..Default::default() }
}

fn principal(name: &str) -> WriteOptions {
    WriteOptions { principal: Some(name.to_owned()), ..Default::default() }
}

async fn whatever_a_browser_sends_breaks_nothing(world: &World) -> Result<()> {
    let client = &world.client;
    assert_eq!(client.resolve(&Credential::NONE).await?.state, State::None);
    let found = client.resolve(&Credential::cookie_header("other=1; sessions=2; =; ;;")).await?;
    assert_eq!(found.state, State::None);
    let long = [b"session=".as_slice(), &[b'x'; 70_000]].concat();
    for header in [b"session=junk".as_slice(), b"session=", b"session=\xff\x00\x80", &long] {
        let found = client.resolve(&Credential::cookie_header(header.to_vec())).await?;
        assert_eq!(found.state, State::Invalid, "{:?}", header.get(..20));
        assert!(found.session.is_none() && found.set_cookie.is_empty(), "expected no session");
    }
    Ok(())
}

async fn a_write_keeps_what_it_does_not_name(world: &World) -> Result<()> {
    let client = &world.client;
    let stored = data(r#"{"big":12345678901234567890,"e":1.50,"b":{"c":2}}"#);
    let written = client.write(&Credential::NONE, stored.into()).await?;
    assert_eq!(written.session.version, 1);
    let (token, line) = (written.token.expect("a token"), &written.set_cookie[0]);
    assert_eq!(kept(line), format!("session={token}"));
    let change = WriteOptions {
        set: data(r#"{"b":"<new>","t":"é"}"#),
        unset: vec!["e".to_owned(), "never there".to_owned()],
        ..Default::default()
    };
    assert_eq!(write(client, &token, change).await?, None, "expected no new token");
    // Octets that are no UTF-8 beside it.
    let header = [b"a=\xff; ".as_slice(), kept(line).as_bytes(), b"; b=\""].concat();
    let found = client.resolve(&Credential::cookie_header(header)).await?;
    let session = found.session.expect("a live session");
    assert_eq!(session.version, 2);
    assert_eq!(session.data, data(r#"{"big":12345678901234567890,"b":"<new>","t":"é"}"#));
    assert_eq!(session.data.get_text("big"), Some("12345678901234567890"));
    let replace = WriteOptions { replace: true, ..data(r#"{"only":1}"#).into() };
    write(client, &token, replace).await?;
    assert_eq!(json(client, &token).await?, r#"{"only":1}"#);
    Ok(())
}

async fn of_parallel_writes_none_is_lost(world: &World) -> Result<()> {
    let client = &world.client;
    let token = create(client, WriteOptions::default()).await?;
    let many: Vec<_> = (0..20)
        .map(|number| {
            let (client, token) = (client.clone(), token.clone());
            let options = data(&format!(r#"{{"k{number}":{number}}}"#)).into();
            tokio::spawn(async move { write(&client, &token, options).await })
        })
        .collect();
    for one in many {
        one.await.expect("no panic")?;
    }
    let found = client.resolve(&Credential::token(token.clone())).await?;
    let session = found.session.expect("a live session");
    assert_eq!((session.version, session.data.len()), (21, 20));
    let mut passed = 0;
    for _ in 0..3 {
        let options = WriteOptions { if_version: Some(21), ..data(r#"{"n":1}"#).into() };
        match write(client, &token, options).await {
            Ok(_) => passed += 1,
            Err(error) => {
                assert!(matches!(error, Error::VersionMismatch(_)), "found {error:?}");
                assert_eq!((error.applied(), error.is_retryable()), (Applied::No, true));
            }
        }
    }
    assert_eq!(passed, 1, "expected one of the writes with if_version to pass");
    Ok(())
}

async fn a_login_replaces_the_id(world: &World) -> Result<()> {
    let client = &world.client;
    let (ann, bob) = (someone(), someone());
    let anonymous = create(client, data(r#"{"cart":["tea"]}"#).into()).await?;
    let login = WriteOptions { roll: true, ..principal(&ann) };
    let token = write(client, &anonymous, login).await?.expect("a new token");
    assert_eq!(json(client, &token).await?, r#"{"cart":["tea"]}"#);
    assert_eq!(state(client, &anonymous).await?, State::Superseded);
    let error = write(client, &anonymous, Data::new().into()).await.expect_err("an old id");
    assert!(matches!(error, Error::SessionGone(_)), "found {error:?}");
    let found = client
        .resolve_with(
            &Credential::token(anonymous.clone()),
            ResolveOptions { create: true, ..Default::default() },
        )
        .await?;
    assert_eq!(found.state, State::Superseded, "expected nothing to be created");
    // Another user's data are not his.
    let token = write(client, &token, principal(&bob)).await?.expect("a new token");
    assert_eq!(json(client, &token).await?, "{}");
    // A logout that was sent before the login's answer came.
    let destroyed = client.destroy(&Credential::token(anonymous)).await?;
    assert_eq!((destroyed.count, destroyed.set_cookie.len()), (1, 1));
    assert_eq!(state(client, &token).await?, State::NotFound);
    Ok(())
}

async fn a_users_sessions_are_listed_and_ended(world: &World) -> Result<()> {
    let client = &world.client;
    let ann = someone();
    let mut tokens = Vec::new();
    for number in 0..3 {
        let label = Some(format!("device {number}"));
        tokens.push(create(client, WriteOptions { label, ..principal(&ann) }).await?);
    }
    let own = Credential::token(tokens[0].clone());
    let listed = client.list_sessions(&own).await?;
    assert_eq!((listed.state, listed.sessions.len()), (State::Active, 3));
    let mut labels: Vec<_> = listed.sessions.iter().map(|one| one.label.as_str()).collect();
    labels.sort_unstable();
    assert_eq!(labels, ["device 0", "device 1", "device 2"]);
    let ids: Vec<_> = listed.sessions.iter().map(|one| one.id.as_str()).collect();
    assert!(ids.contains(&listed.current_session_id.as_str()), "expected its own id among {ids:?}");

    let second = client.resolve(&Credential::token(tokens[1].clone())).await?;
    let second = second.session.expect("a live session").id;
    let destroy = |scope| {
        let own = own.clone();
        async move { client.destroy_with(&own, DestroyOptions { scope, engine: None }).await }
    };
    let ids = vec![second, "AAAAAAAAAAAAAAAA".to_owned()];
    let destroyed = destroy(Scope::Ids(ids)).await?;
    assert_eq!((destroyed.count, destroyed.set_cookie.len()), (1, 0));
    let destroyed = destroy(Scope::Others).await?;
    assert_eq!((destroyed.count, destroyed.set_cookie.len()), (1, 0));
    let destroyed = destroy(Scope::All).await?;
    assert_eq!(destroyed.count, 1);
    let deletion = "session=; Max-Age=0; Expires=Thu, 01 Jan 1970 00:00:00 GMT; \
                    Path=/; HttpOnly; SameSite=Lax";
    assert_eq!(destroyed.set_cookie, [deletion]);
    assert_eq!(state(client, &tokens[2]).await?, State::NotFound);
    assert_eq!(client.list_sessions(&own).await?.state, State::NotFound);
    Ok(())
}

async fn limits_are_told(world: &World) -> Result<()> {
    let client = &world.client;
    let ann = Some(someone());
    for _ in 0..2 {
        create(client, WriteOptions { principal: ann.clone(), ..of("two") }).await?;
    }
    let third = create(client, WriteOptions { principal: ann, ..of("two") }).await;
    let error = third.expect_err("one session too many");
    assert!(matches!(error, Error::TooManySessions(_)), "found {error:?}");

    let mut large = Data::new();
    large.insert("secret", "x".repeat(5000))?;
    let refused = create(client, WriteOptions { set: large, ..of("small") }).await;
    let error = refused.expect_err("more than max_data_bytes");
    assert!(matches!(error, Error::DataTooLarge(_)), "found {error:?}");
    assert_eq!((error.reason(), error.field()), (Reason::DataTooLarge, Some("set")));
    assert_eq!((error.applied(), error.status().as_u16()), (Applied::No, 413));

    let unknown = create(client, of("none")).await.expect_err("no such engine");
    assert_eq!(unknown.reason(), Reason::UnknownEngine);
    let deep = format!(r#"{{"a":{}1{}}}"#, "[".repeat(64), "]".repeat(64));
    let deep = create(client, data(&deep).into()).await.expect_err("too deep");
    assert_eq!((deep.reason(), deep.code()), (Reason::InvalidData, "INVALID_ARGUMENT"));
    Ok(())
}

async fn a_session_ends_with_its_time(world: &World) -> Result<()> {
    let client = &world.client;
    let engine = Some("short".to_owned());
    let brief = create(client, of("short")).await?;
    let rolled = write(client, &brief, WriteOptions { roll: true, ..of("short") }).await?;
    let rolled = Credential::token(rolled.expect("a new token"));
    let duration = Some(Duration::from_micros(1_500_001));
    let options = TouchOptions { engine: engine.clone(), duration };
    let touched = client.touch_with(&rolled, options).await?.session.expect("a live session");
    assert_eq!(touched.duration, Duration::from_millis(1501), "expected it to be rounded up");
    assert!(touched.expire_time > touched.last_use_time, "{touched:?}");
    world.pass(Duration::from_millis(1600)).await;
    let options = ResolveOptions { engine: engine.clone(), ..Default::default() };
    let found = client.resolve_with(&rolled, options).await?;
    assert!(matches!(found.state, State::Expired | State::NotFound), "found {:?}", found.state);
    let options = DestroyOptions { engine, ..Default::default() };
    let destroyed = client.destroy_with(&Credential::token(brief), options).await?;
    assert_eq!(destroyed.count, 0);
    Ok(())
}

async fn cookies_say_what_the_browser_must_learn(world: &World) -> Result<()> {
    let client = &world.client;
    let created = client.write(&Credential::NONE, Data::new().into()).await?;
    let line = &created.set_cookie[0];
    for part in ["; Max-Age=", "; Expires=", "; Path=/; HttpOnly; SameSite=Lax"] {
        assert!(line.contains(part), "expected {part} in {line}");
    }
    let credential = Credential::token(created.token.expect("a token"));
    let found = client.resolve(&credential).await?;
    assert!(found.set_cookie.is_empty() && found.token.is_none(), "expected nothing to learn");
    let until_it_closes = WriteOptions { persistent: Some(false), ..Default::default() };
    let written = client.write(&credential, until_it_closes).await?;
    let line = &written.set_cookie[0];
    assert!(!line.contains("Max-Age") && !line.contains("Expires"), "found {line}");
    assert!(client.touch(&credential).await?.set_cookie.is_empty(), "expected nothing to learn");
    Ok(())
}

async fn a_resolve_can_create(world: &World) -> Result<()> {
    let options = ResolveOptions { create: true, ..Default::default() };
    let found = world.client.resolve_with(&Credential::NONE, options.clone()).await?;
    assert_eq!((found.state, found.set_cookie.len()), (State::Created, 1));
    let token = found.token.expect("a token");
    let again = world.client.resolve_with(&Credential::token(token), options).await?;
    assert_eq!(again.state, State::Active);
    assert_eq!(again.session.map(|session| session.id), found.session.map(|session| session.id));
    Ok(())
}

async fn what_is_wrong_is_refused_before_it_is_sent(world: &World) -> Result<()> {
    let client = &world.client;
    let token = create(client, WriteOptions::default()).await?;
    let long = "secret".repeat(50);
    let many = vec!["secret".to_owned(); 1001];
    for (field, options) in [
        ("principal", principal(&long)),
        ("label", WriteOptions { label: Some(long.clone()), ..Default::default() }),
        ("unset", WriteOptions { unset: many.clone(), ..Default::default() }),
        ("if_version", WriteOptions { if_version: Some(0), ..Default::default() }),
        ("duration", WriteOptions { duration: Some(Duration::ZERO), ..Default::default() }),
        ("duration", WriteOptions { duration: Some(Duration::MAX), ..Default::default() }),
    ] {
        let error = write(client, &token, options).await.expect_err("a wrong argument");
        assert!(matches!(error, Error::InvalidArgument(_)), "{field}: found {error:?}");
        assert_eq!(error.field(), Some(field));
        assert!(!error.to_string().contains("secret"), "expected no data in {error}");
    }
    let options = WriteOptions { if_version: Some(1), ..Default::default() };
    let error = write(client, "", options).await.expect_err("if_version of nothing");
    assert_eq!(error.field(), Some("if_version"));
    for ids in [vec![], many] {
        let options = DestroyOptions { scope: Scope::Ids(ids), engine: None };
        let destroyed = client.destroy_with(&Credential::token(token.clone()), options).await;
        let error = destroyed.expect_err("no list of ids");
        assert_eq!(error.field(), Some("session_ids"));
    }
    assert_eq!(state(client, &token).await?, State::Active, "expected it to be untouched");
    Ok(())
}

async fn the_daemon_describes_itself(world: &World) -> Result<()> {
    let described = world.client.describe().await?;
    let names: Vec<_> = described.engines.iter().map(|engine| engine.name.as_str()).collect();
    assert_eq!(names, ["default", "short", "small", "two"]);
    let engine = described.engine("").expect("the default engine");
    assert_eq!((engine.cookie_name.as_str(), engine.express_format), ("session", false));
    assert_eq!(described.engine("small").map(|engine| engine.max_data_bytes), Some(5000));
    assert_eq!((described.limits.max_keys, described.limits.max_unset), (4096, 1000));
    assert_eq!(described.limits.max_duration, Duration::from_secs(400 * 24 * 3600));
    Ok(())
}
