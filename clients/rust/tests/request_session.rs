//! The session of a request: the same over the fake and over the daemon.

use std::time::Duration;

use sessiond_client::{
    Applied, Credential, Data, Error, LoginOptions, Reason, RequestSession, Result, State,
    testing::Fake,
};

use crate::support::{World, data, in_both_worlds, kept, someone};

in_both_worlds! {
    nothing_is_stored_for_a_visitor
    a_save_writes_what_changed
    of_parallel_updates_none_is_lost
    what_is_not_saved_stays_beside_an_update
    an_id_from_before_a_login_changes_nothing
    what_has_ended_is_not_made_again
    another_user_finds_nothing
    a_value_is_popped_once
    devices_are_listed_and_ended
    plans_are_kept_for_the_session_that_comes
    a_new_id_is_the_same_session
    nothing_needs_a_cookie_after_the_head
    many_keys_can_go
}

async fn open(world: &World, header: &str) -> Result<RequestSession> {
    RequestSession::open(&world.client, header.to_owned()).await
}

/// A stored session, and the Cookie header of its browser.
async fn stored(world: &World, json: &str) -> Result<(RequestSession, String)> {
    let session = open(world, "").await?;
    for (key, value) in data(json).keys().map(|key| (key, data(json).get_text(key).map(raw))) {
        session.insert(key, value.expect("a value"))?;
    }
    session.insert("stored", true)?;
    assert!(session.save().await?, "expected it to be stored");
    let header = cookie(&session);
    Ok((session, header))
}

fn raw(text: &str) -> serde_json::Value {
    serde_json::from_str(text).expect("JSON")
}

fn cookie(session: &RequestSession) -> String {
    kept(&session.set_cookie().expect("a cookie to set"))
}

async fn nothing_is_stored_for_a_visitor(world: &World) -> Result<()> {
    let session = open(world, "a=b; sessions=1").await?;
    assert_eq!((session.state(), session.is_live()), (State::None, false));
    assert_eq!((session.id(), session.principal(), session.version()), (None, None, 0));
    session.remove("nothing");
    assert!(!session.is_changed() && session.save().await?, "expected nothing to save");
    assert_eq!((session.set_cookie(), session.is_new()), (None, false));
    assert_eq!(session.get::<u8>("nothing")?, None);
    assert!(session.devices().await?.is_empty() && !session.logout().await?);
    assert_eq!(session.logout_others().await? + session.logout_everywhere().await?, 0);
    session.roll().await?;
    // What the daemon would have to take to say no costs nothing here.
    let emptied = session.update(|data| Ok(data.len())).await?;
    assert_eq!((emptied, session.is_live()), (0, false));
    Ok(())
}

async fn a_save_writes_what_changed(world: &World) -> Result<()> {
    let (session, header) = stored(world, r#"{"a":{"x":1,"y":2},"b":1}"#).await?;
    assert!(session.is_live() && session.is_new() && session.state() == State::Created);
    let (mine, theirs) = (open(world, &header).await?, open(world, &header).await?);
    assert_eq!((mine.state(), mine.is_new()), (State::Active, false));
    mine.insert("a", serde_json::json!({"y": 2, "x": 1}))?;
    assert!(!mine.is_changed(), "expected the same value in another order to change nothing");
    mine.insert("b", 2)?;
    mine.remove("stored");
    theirs.insert("c", 3)?;
    assert!(mine.save().await? && theirs.save().await?);
    assert!(!mine.is_changed() && mine.save().await?, "expected nothing more to save");
    assert_eq!(mine.version(), 2);
    let all = open(world, &header).await?.data();
    assert_eq!(all, data(r#"{"a":{"x":1,"y":2},"b":2,"c":3}"#));
    mine.clear();
    assert!(mine.save().await?);
    assert_eq!(open(world, &header).await?.data(), data(r#"{"c":3}"#));
    let error = mine.insert("f", f64::INFINITY).expect_err("no JSON");
    assert!(matches!(error, Error::InvalidArgument(_)) && !mine.is_changed(), "{error:?}");
    Ok(())
}

async fn of_parallel_updates_none_is_lost(world: &World) -> Result<()> {
    let (_, header) = stored(world, r#"{"n":1}"#).await?;
    let many: Vec<_> = (0..12)
        .map(|_| {
            let (client, header) = (world.client.clone(), header.clone());
            tokio::spawn(async move {
                let session = RequestSession::open(&client, header).await?;
                session.update_value("n", |n: &mut u32| *n += 1).await
            })
        })
        .collect();
    for one in many {
        one.await.expect("no panic")?;
    }
    assert_eq!(open(world, &header).await?.get("n")?, Some(13));
    // One that creates the session.
    let session = open(world, "").await?;
    let visits = session.update_value("visits", |visits: &mut u32| {
        *visits += 1;
        *visits
    });
    assert_eq!((visits.await?, session.is_new()), (1, true));
    Ok(())
}

async fn what_is_not_saved_stays_beside_an_update(world: &World) -> Result<()> {
    let (_, header) = stored(world, r#"{"n":13}"#).await?;
    let session = open(world, &header).await?;
    session.insert("mine", 1)?;
    session.insert("n", 14)?;
    session.update(|data| data.insert("theirs", true)).await?;
    let failed = session
        .update(|data| {
            data.clear();
            data.insert("f", f32::NAN)
        })
        .await;
    assert!(matches!(failed, Err(Error::InvalidArgument(_))), "found {failed:?}");
    let stored = open(world, &header).await?.data();
    assert_eq!(stored, data(r#"{"n":13,"stored":true,"theirs":true}"#));
    assert!(session.save().await?);
    let stored = open(world, &header).await?.data();
    assert_eq!(stored, data(r#"{"mine":1,"n":14,"stored":true,"theirs":true}"#));
    Ok(())
}

async fn an_id_from_before_a_login_changes_nothing(world: &World) -> Result<()> {
    let (session, header) = stored(world, "{}").await?;
    let under_way = open(world, &header).await?;
    let ann = someone();
    session.login(&ann).await?;
    let after = cookie(&session);
    assert_ne!(after, header);
    let late = open(world, &header).await?;
    assert!(late.is_superseded() && !late.is_live() && late.set_cookie().is_none());
    for session in [late, under_way] {
        session.insert("x", 1)?;
        for changed in [
            session.save().await.map(drop),
            session.update(|data| data.insert("y", 1)).await,
            session.login(&ann).await,
            session.roll().await,
            session.touch(None).await.map(drop),
            session.logout_others().await.map(drop),
        ] {
            assert!(matches!(changed, Err(Error::Superseded(_))), "found {changed:?}");
        }
        assert_eq!(session.pop::<u8>("stored").await?, None);
        assert_eq!(session.set_cookie(), None, "expected the newer cookie to stay");
    }
    assert_eq!(open(world, &after).await?.principal(), Some(ann));
    // A logout that was sent before the login's answer came.
    let late = open(world, &header).await?;
    assert!(late.logout().await?, "expected it to end the session");
    assert_eq!(open(world, &after).await?.state(), State::NotFound);
    Ok(())
}

async fn what_has_ended_is_not_made_again(world: &World) -> Result<()> {
    let (session, header) = stored(world, "{}").await?;
    let under_way = open(world, &header).await?;
    assert!(session.logout().await?);
    assert!(cookie(&session).ends_with('='), "expected a deletion");
    under_way.insert("x", 1)?;
    assert!(!under_way.save().await?, "expected the change to be dropped");
    assert!(!under_way.is_changed() && !under_way.is_live());
    let error = under_way.update(|data| data.insert("y", 1)).await.expect_err("it has ended");
    assert!(matches!(error, Error::SessionGone(_)), "found {error:?}");
    assert_eq!(open(world, &header).await?.state(), State::NotFound);
    // Whoever logs in wants a session all the same.
    under_way.login(&someone()).await?;
    assert!(under_way.is_live() && under_way.is_new());
    // After a logout, what is inserted begins a new session.
    session.insert("x", 1)?;
    assert!(session.save().await? && session.is_new());
    Ok(())
}

async fn another_user_finds_nothing(world: &World) -> Result<()> {
    let (session, header) = stored(world, r#"{"cart":["tea"]}"#).await?;
    let (ann, bob) = (someone(), someone());
    session.insert("unsaved", 1)?;
    session
        .login_with(&ann, LoginOptions { label: Some("Firefox".to_owned()), ..Default::default() })
        .await?;
    assert_eq!(session.data().len(), 3, "expected an anonymous cart to stay");
    session.insert("secret", 1)?;
    session.login(&bob).await?;
    assert!(session.data().is_empty(), "found {:?}", session.data());
    let found = open(world, &cookie(&session)).await?;
    assert_eq!((found.principal(), found.data().is_empty()), (Some(bob), true));
    assert_eq!(found.info().expect("a session").label, "", "expected no label of the other");
    assert!(open(world, &header).await?.is_superseded());
    let error = session.login("").await.expect_err("nobody logs in");
    assert_eq!(error.field(), Some("principal"));
    Ok(())
}

async fn a_value_is_popped_once(world: &World) -> Result<()> {
    let (_, header) = stored(world, r#"{"flash":"hi"}"#).await?;
    let many: Vec<_> = (0..8)
        .map(|_| {
            let (client, header) = (world.client.clone(), header.clone());
            tokio::spawn(async move {
                let session = RequestSession::open(&client, header).await?;
                session.pop::<String>("flash").await
            })
        })
        .collect();
    let mut found = Vec::new();
    for one in many {
        found.extend(one.await.expect("no panic")?);
    }
    assert_eq!(found, ["hi"], "expected one of them to get it");
    let session = open(world, &header).await?;
    session.insert("flash", "unsaved")?;
    assert_eq!(session.pop("flash").await?, Some("unsaved".to_owned()));
    assert!(!session.contains_key("flash") && !session.is_changed());
    Ok(())
}

async fn devices_are_listed_and_ended(world: &World) -> Result<()> {
    let ann = someone();
    let mut sessions = Vec::new();
    for label in ["one", "two", "three"] {
        let session = open(world, "").await?;
        let options = LoginOptions { label: Some(label.to_owned()), ..Default::default() };
        session.login_with(&ann, options).await?;
        sessions.push(session);
    }
    let devices = sessions[0].devices().await?;
    let current: Vec<_> = devices.iter().filter(|device| device.current).collect();
    assert_eq!((devices.len(), current.len()), (3, 1));
    assert_eq!(current[0].label, "one");
    assert_eq!(Some(current[0].id.clone()), sessions[0].id());
    let second = sessions[1].id().expect("a session");
    assert_eq!(sessions[0].end([second.as_str(), "AAAAAAAAAAAAAAAA"]).await?, 1);
    assert_eq!(sessions[0].end(Vec::<String>::new()).await?, 0);
    let error = sessions[0].end(["no id"]).await.expect_err("no public id");
    assert_eq!(error.field(), Some("session_ids"));
    assert!(sessions[0].is_live());
    assert_eq!(sessions[0].logout_others().await?, 1);
    let own = sessions[0].id().expect("a session");
    assert_eq!(sessions[0].end([own]).await?, 1);
    assert!(!sessions[0].is_live() && cookie(&sessions[0]).ends_with('='));
    assert_eq!(sessions[2].logout_everywhere().await?, 0, "expected it to have ended");
    Ok(())
}

async fn plans_are_kept_for_the_session_that_comes(world: &World) -> Result<()> {
    let session = open(world, "").await?;
    session.set_persistent(false).await?;
    assert!(!session.touch(Some(Duration::from_secs(77))).await?);
    assert!(session.touch(Some(Duration::ZERO)).await.is_err());
    session.insert("a", 1)?;
    assert!(session.save().await?);
    let line = session.set_cookie().expect("a cookie to set");
    assert!(!line.contains("Max-Age"), "expected a cookie that goes with the browser in {line}");
    let info = session.info().expect("a session");
    assert_eq!(info.duration, Duration::from_secs(77));
    assert!(session.touch(Some(Duration::from_secs(88))).await?);
    assert_eq!(session.info().map(|info| info.duration), Some(Duration::from_secs(88)));
    session.set_persistent(true).await?;
    assert!(session.set_cookie().is_some_and(|line| line.contains("Max-Age=")));
    Ok(())
}

async fn a_new_id_is_the_same_session(world: &World) -> Result<()> {
    let (session, header) = stored(world, "{}").await?;
    let id = session.id();
    session.insert("with", "it")?;
    session.roll().await?;
    assert!(!session.is_changed(), "expected what was not saved to be written with it");
    assert_eq!(session.id(), id);
    let found = open(world, &cookie(&session)).await?;
    assert_eq!((found.id(), found.get("with")?), (id, Some("it".to_owned())));
    assert!(open(world, &header).await?.is_superseded());
    found.insert("x", 1)?;
    session.insert("y", 1)?;
    assert!(session.save().await? && found.reload().await?);
    assert_eq!((found.contains_key("x"), found.contains_key("y")), (false, true));
    Ok(())
}

async fn nothing_needs_a_cookie_after_the_head(world: &World) -> Result<()> {
    let (session, header) = stored(world, "{}").await?;
    session.head_sent();
    session.insert("x", 1)?;
    assert!(session.save().await?, "expected a change without a cookie to be saved");
    let none = open(world, "").await?;
    none.head_sent();
    none.insert("x", 1)?;
    for failed in [
        session.login(&someone()).await,
        session.roll().await,
        session.set_persistent(false).await,
        none.save().await.map(drop),
    ] {
        let error = failed.expect_err("the browser would not get it");
        assert_eq!(error.reason(), Reason::HeadSent);
    }
    assert_eq!(open(world, &header).await?.principal(), None);
    Ok(())
}

async fn many_keys_can_go(world: &World) -> Result<()> {
    let session = open(world, "").await?;
    for number in 0..2500 {
        session.insert(number.to_string(), number)?;
    }
    assert!(session.save().await?);
    let header = cookie(&session);
    session.clear();
    session.insert("last", 1)?;
    assert!(session.save().await?, "expected more than one write to remove them");
    assert_eq!(open(world, &header).await?.data(), data(r#"{"last":1}"#));
    Ok(())
}

#[tokio::test]
async fn failures_are_never_nobody() -> Result<()> {
    let fake = Fake::new();
    let client = fake.client();
    let header = fake.cookie("ann", data(r#"{"n":1}"#));
    fake.fail_next(Reason::StoreUnavailable, "Resolve", 1);
    let error = RequestSession::open(&client, header.clone()).await.expect_err("no store");
    assert!(error.is_unavailable() && error.retry_after().is_some(), "found {error:?}");
    assert_eq!(error.status().as_u16(), 503);

    // With an unknown outcome an update does not run again: it could count twice.
    let session = RequestSession::open(&client, header).await?;
    fake.fail(Reason::StoreUnavailable);
    let mut runs = 0;
    let failed = session
        .update(|data| {
            runs += 1;
            data.insert("n", 2)
        })
        .await;
    let error = failed.expect_err("no store");
    assert_eq!((error.applied(), runs), (Applied::Unknown, 1));
    fake.recover();
    assert_eq!(session.update_value("n", |n: &mut u8| *n).await?, 1);
    fake.client().close().await;
    let error = session.reload().await.expect_err("it is closed");
    assert_eq!(error.reason(), Reason::Closed);
    Ok(())
}

#[tokio::test]
async fn the_clock_of_the_fake_can_be_set() -> Result<()> {
    let fake = Fake::new();
    let header = fake.cookie("", Data::new());
    assert_eq!(fake.sessions("default").len(), 1);
    fake.advance(Duration::from_secs(29 * 60));
    assert!(RequestSession::open(&fake.client(), header.clone()).await?.is_live());
    fake.advance(Duration::from_secs(29 * 60));
    assert!(
        RequestSession::open(&fake.client(), header.clone()).await?.is_live(),
        "expected its use to count"
    );
    fake.advance(Duration::from_secs(31 * 60));
    let found = fake.client().resolve(&Credential::cookie_header(header)).await?;
    assert_eq!((found.state, fake.sessions("default").len()), (State::Expired, 0));
    Ok(())
}
