//! One's own sessions: SessionService.ListSessions, and Destroy by their ids.

use std::{collections::BTreeSet, time::Duration};

use sessiond::{
    grpc::pb::{
        DestroyRequest, DestroyResponse, DestroyScope, SessionServiceListSessionsRequest,
        SessionServiceListSessionsResponse, SessionState, WriteRequest,
    },
    server::config::Backend,
};
use tonic::{Code, Status};

use crate::{
    over_every_store,
    support::{
        browser::Browser,
        daemon::{Daemon, applied, assert_fault, login, millis, set},
    },
};

over_every_store!(
    the_list_is_of_the_own_principal_and_gives_nothing_away,
    the_list_moves_no_deadline,
    an_anonymous_session_is_alone,
    a_dead_credential_lists_nothing,
    pages_hold_each_session_once,
    named_sessions_end_and_no_others,
    the_own_session_ends_if_it_is_named,
    only_a_live_session_speaks_for_its_principal,
    ids_that_cannot_be_meant_are_refused,
);

async fn try_list(
    daemon: &Daemon,
    browser: &Browser,
    page_size: i32,
    page_token: &str,
) -> Result<SessionServiceListSessionsResponse, Status> {
    let request = SessionServiceListSessionsRequest {
        credential: browser.credential(),
        page_size,
        page_token: page_token.to_owned(),
        ..Default::default()
    };
    daemon.client.clone().list_sessions(request).await.map(tonic::Response::into_inner)
}

async fn list(daemon: &Daemon, browser: &Browser) -> SessionServiceListSessionsResponse {
    try_list(daemon, browser, 0, "").await.expect("it is listed")
}

fn ids(listed: &SessionServiceListSessionsResponse) -> BTreeSet<String> {
    listed.sessions.iter().map(|session| session.id.clone()).collect()
}

async fn try_end(
    daemon: &Daemon,
    browser: &Browser,
    session_ids: &[&str],
) -> Result<DestroyResponse, Status> {
    let request = DestroyRequest {
        credential: browser.credential(),
        session_ids: session_ids.iter().map(|id| (*id).to_owned().into()).collect(),
        ..Default::default()
    };
    daemon.client.clone().destroy(request).await.map(tonic::Response::into_inner)
}

async fn end(daemon: &Daemon, browser: &Browser, session_ids: &[&str]) -> DestroyResponse {
    try_end(daemon, browser, session_ids).await.expect("they are ended")
}

async fn the_list_is_of_the_own_principal_and_gives_nothing_away(backend: Backend) {
    let daemon = Daemon::start(backend).await;
    let here = WriteRequest { label: Some("Firefox on Linux".into()), ..login("ann") };
    let here = WriteRequest { set: r#"{"secret":1}"#.into(), ..here };
    let here = Browser::with(&daemon.write(here).await.set_cookie);
    let there = daemon.login("ann").await;
    daemon.login("bob").await;
    daemon.visitor("{}").await;
    let listed = list(&daemon, &here).await;
    assert_eq!(listed.state(), SessionState::Active);
    assert_eq!(listed.current_session_id, daemon.id(&here).await);
    assert_eq!(ids(&listed), BTreeSet::from([daemon.id(&here).await, daemon.id(&there).await]));
    for session in &listed.sessions {
        assert_eq!((&session.data[..], &session.principal[..]), (&b""[..], &b"ann"[..]));
        let label: &[u8] = match session.id == listed.current_session_id {
            true => b"Firefox on Linux",
            false => b"",
        };
        assert_eq!(session.label, label);
    }
}

async fn the_list_moves_no_deadline(backend: Backend) {
    let daemon = Daemon::start(backend).await;
    let here = daemon.login("ann").await;
    let before = daemon.resolve(&here).await.session.expect("a session");
    daemon.clock.advance(Duration::from_secs(600));
    let listed = list(&daemon, &here).await;
    let session = &listed.sessions[0];
    assert_eq!(millis(session.expire_time.as_ref()), millis(before.expire_time.as_ref()));
    assert_eq!(millis(session.last_use_time.as_ref()), millis(before.last_use_time.as_ref()));
}

async fn an_anonymous_session_is_alone(backend: Backend) {
    let daemon = Daemon::start(backend).await;
    let (one, two) = (daemon.visitor("{}").await, daemon.visitor("{}").await);
    let listed = list(&daemon, &one).await;
    let own = daemon.id(&one).await;
    assert_eq!((ids(&listed), &listed.current_session_id), ([own.clone()].into(), &own));
    let theirs = daemon.id(&two).await;
    assert_eq!(end(&daemon, &one, &[&theirs]).await.destroyed, 0, "nobody is no principal");
    assert_eq!(daemon.state(&two).await, SessionState::Active);
    assert_eq!(end(&daemon, &one, &[&theirs, &own]).await.destroyed, 1);
    assert_eq!(daemon.state(&one).await, SessionState::NotFound);
}

async fn a_dead_credential_lists_nothing(backend: Backend) {
    let daemon = Daemon::start(backend).await;
    let mut rolled = daemon.login("ann").await;
    let replayed = rolled.clone();
    daemon.change(&mut rolled, WriteRequest { roll: true, ..set("{}") }).await;
    let ended = daemon.login("ann").await;
    daemon.destroy(&ended).await;
    for (dead, state) in [
        (replayed, SessionState::Superseded),
        (ended, SessionState::NotFound),
        (Browser::new(), SessionState::None),
        (Browser { cookie: Some("__Host-session=junk".to_owned()) }, SessionState::None),
    ] {
        let listed = list(&daemon, &dead).await;
        // A value of another shape than a token's may be INVALID, or none at all.
        assert!(listed.state() == state || listed.state() == SessionState::Invalid, "{listed:?}");
        assert_eq!((listed.sessions.len(), listed.current_session_id.as_str()), (0, ""));
    }
}

async fn pages_hold_each_session_once(backend: Backend) {
    let daemon = Daemon::start(backend).await;
    let mut expected = BTreeSet::new();
    let here = daemon.login("ann").await;
    expected.insert(daemon.id(&here).await);
    for _ in 0..6 {
        let there = daemon.login("ann").await;
        expected.insert(daemon.id(&there).await);
    }
    let (mut found, mut token) = (Vec::new(), String::new());
    loop {
        let page = try_list(&daemon, &here, 3, &token).await.expect("it is listed");
        assert!(page.sessions.len() <= 3);
        assert_eq!(page.current_session_id, daemon.id(&here).await, "on every page");
        found.extend(page.sessions.into_iter().map(|session| session.id));
        token = page.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    assert_eq!(found.len(), expected.len(), "expected each session once");
    assert_eq!(found.into_iter().collect::<BTreeSet<_>>(), expected);
    let error = try_list(&daemon, &here, 3, "junk").await.expect_err("no token of ours");
    assert_fault(&error, Code::InvalidArgument, "INVALID_ARGUMENT", Some("page_token"));
    let error = try_list(&daemon, &here, -1, "").await.expect_err("less than none");
    assert_fault(&error, Code::InvalidArgument, "INVALID_ARGUMENT", Some("page_size"));
    assert_eq!(applied(&error).as_deref(), Some("no"));
}

async fn named_sessions_end_and_no_others(backend: Backend) {
    let daemon = Daemon::start(backend).await;
    let here = daemon.login("ann").await;
    let (second, third) = (daemon.login("ann").await, daemon.login("ann").await);
    let (bobs, nobodys) = (daemon.login("bob").await, daemon.visitor("{}").await);
    let second_id = daemon.id(&second).await;
    let (bobs_id, nobodys_id) = (daemon.id(&bobs).await, daemon.id(&nobodys).await);
    let named = [second_id.as_str(), &bobs_id, &nobodys_id, "AAAAAAAAAAAAAAAA", &second_id];
    let ended = end(&daemon, &here, &named).await;
    assert_eq!((ended.destroyed, ended.set_cookie.len()), (1, 0));
    assert_eq!(daemon.state(&second).await, SessionState::NotFound);
    for live in [&here, &third, &bobs, &nobodys] {
        assert_eq!(daemon.state(live).await, SessionState::Active);
    }
}

async fn the_own_session_ends_if_it_is_named(backend: Backend) {
    let daemon = Daemon::start(backend).await;
    let (here, there) = (daemon.login("ann").await, daemon.login("ann").await);
    let (own, other) = (daemon.id(&here).await, daemon.id(&there).await);
    let ended = end(&daemon, &here, &[&own, &other]).await;
    assert_eq!((ended.destroyed, ended.set_cookie.len()), (2, 1), "expected a deletion cookie");
    for gone in [&here, &there] {
        assert_eq!(daemon.state(gone).await, SessionState::NotFound);
    }
}

async fn only_a_live_session_speaks_for_its_principal(backend: Backend) {
    let daemon = Daemon::start(backend).await;
    let mut rolled = daemon.login("ann").await;
    let replayed = rolled.clone();
    daemon.change(&mut rolled, WriteRequest { roll: true, ..set("{}") }).await;
    let ended = daemon.login("ann").await;
    daemon.destroy(&ended).await;
    let id = daemon.id(&rolled).await;
    for dead in [&replayed, &ended, &Browser::new()] {
        let answer = end(&daemon, dead, &[&id]).await;
        assert_eq!((answer.destroyed, answer.set_cookie.len()), (0, 0));
    }
    assert_eq!(daemon.state(&rolled).await, SessionState::Active);
}

async fn ids_that_cannot_be_meant_are_refused(backend: Backend) {
    let daemon = Daemon::start(backend).await;
    let here = daemon.login("ann").await;
    let id = daemon.id(&here).await;
    let token = here.header();
    let many = vec![id.as_str(); 1001];
    for named in [&["junk"][..], &[token.as_str()], &[&id, ""], &many] {
        let error = try_end(&daemon, &here, named).await.expect_err("they cannot be meant");
        assert_fault(&error, Code::InvalidArgument, "INVALID_ARGUMENT", Some("session_ids"));
        assert!(!error.message().contains(&id), "the fault repeats an id: {error:?}");
    }
    for scope in [DestroyScope::Others, DestroyScope::All] {
        let request = DestroyRequest {
            credential: here.credential(),
            scope: scope.into(),
            session_ids: vec![id.clone().into()],
            ..Default::default()
        };
        let error = daemon.client.clone().destroy(request).await.expect_err("two answers to one");
        assert_fault(&error, Code::InvalidArgument, "INVALID_ARGUMENT", Some("scope"));
    }
    assert_eq!(daemon.state(&here).await, SessionState::Active);
}
