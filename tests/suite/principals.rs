//! All sessions of a principal: the wider scopes of Destroy, ListSessions, RevokeSessions, and
//! the limit on sessions.

use std::{collections::BTreeSet, time::Duration};

use sessiond::{
    grpc::pb::{
        DestroyRequest, DestroyScope, ListSessionsRequest, ResolveRequest, RevokeSessionsRequest,
        SessionState, WriteRequest,
    },
    server::config::{Backend, Config},
    session::policy::OnLimit,
};
use tonic::{Code, Status};

use crate::{
    over_every_store,
    support::{
        browser::{Browser, cookie_header},
        daemon::{Daemon, assert_fault, login, millis, set},
    },
};

over_every_store!(
    others_end_and_this_one_stays,
    all_end,
    who_is_anonymous_has_no_others,
    only_who_is_live_speaks_for_a_principal,
    a_scope_takes_in_all_cookies_of_the_header,
    a_list_shows_what_is_live_and_gives_nothing_away,
    pages_hold_each_session_once,
    pages_go_on_while_sessions_come_and_go,
    hostile_page_tokens_are_refused,
    revoked_by_principal,
    revoked_by_id,
    revoked_by_id_and_principal,
    what_cannot_be_meant_is_refused,
    engines_are_apart,
    revocation_outlives_a_restart,
    logins_in_parallel_survive_or_end,
    the_newest_is_refused,
    the_longest_idle_end,
    parallel_logins_keep_the_limit,
    parallel_logins_that_give_up_keep_the_limit,
);

async fn others_end_and_this_one_stays(backend: Backend) {
    let daemon = Daemon::start(backend).await;
    let here = daemon.login("ann").await;
    let mut elsewhere = daemon.visitor("{}").await;
    daemon.change(&mut elsewhere, login("ann")).await;
    let third = daemon.login("ann").await;
    let (bobs, nobodys) = (daemon.login("bob").await, daemon.visitor("{}").await);
    let ended = daemon.destroy_scope(&here, DestroyScope::Others).await;
    assert_eq!(ended.destroyed, 2);
    assert_eq!(ended.set_cookie, [""; 0], "expected the browser to keep its session");
    for gone in [&elsewhere, &third] {
        assert_eq!(daemon.state(gone).await, SessionState::NotFound);
    }
    for live in [&here, &bobs, &nobodys] {
        assert_eq!(daemon.state(live).await, SessionState::Active);
    }
    let again = daemon.destroy_scope(&here, DestroyScope::Others).await;
    assert_eq!(again.destroyed, 0, "expected no sessions left to end");
}

async fn all_end(backend: Backend) {
    let daemon = Daemon::start(backend).await;
    // More sessions than one slice.
    let mut sessions = Vec::new();
    for _ in 0..130 {
        sessions.push(daemon.login("ann").await);
    }
    let bobs = daemon.login("bob").await;
    let ended = daemon.destroy_scope(&sessions[7], DestroyScope::All).await;
    assert_eq!((ended.destroyed, ended.set_cookie.len()), (130, 1));
    for gone in &sessions {
        assert_eq!(daemon.state(gone).await, SessionState::NotFound);
    }
    assert_eq!(daemon.state(&bobs).await, SessionState::Active);
    let again = daemon.destroy_scope(&sessions[7], DestroyScope::All).await;
    assert_eq!((again.destroyed, again.set_cookie.len()), (0, 1), "expected a deletion cookie");
}

async fn who_is_anonymous_has_no_others(backend: Backend) {
    let daemon = Daemon::start(backend).await;
    let (one, two) = (daemon.visitor("{}").await, daemon.visitor("{}").await);
    assert_eq!(daemon.destroy_scope(&one, DestroyScope::Others).await.destroyed, 0);
    assert_eq!(daemon.state(&one).await, SessionState::Active);
    let all = daemon.destroy_scope(&one, DestroyScope::All).await;
    assert_eq!((all.destroyed, all.set_cookie.len()), (1, 1), "expected the effect of THIS");
    assert_eq!(daemon.state(&one).await, SessionState::NotFound);
    assert_eq!(daemon.state(&two).await, SessionState::Active);
    let nothing = daemon.destroy_scope(&Browser::new(), DestroyScope::All).await;
    assert_eq!((nothing.destroyed, nothing.set_cookie.len()), (0, 0));
}

async fn only_who_is_live_speaks_for_a_principal(backend: Backend) {
    let daemon = Daemon::start(backend).await;
    let mut rolled = daemon.login("ann").await;
    let replayed = rolled.clone();
    daemon.change(&mut rolled, WriteRequest { roll: true, ..set("{}") }).await;
    let short = prost_types::Duration { seconds: 60, nanos: 0 };
    let expired = daemon.write(WriteRequest { duration: Some(short), ..login("ann") }).await;
    let expired = Browser::with(&expired.set_cookie);
    let destroyed = daemon.login("ann").await;
    daemon.destroy(&destroyed).await;
    daemon.clock.advance(Duration::from_secs(120));
    for scope in [DestroyScope::Others, DestroyScope::All] {
        for dead in [&replayed, &expired, &destroyed, &Browser::new()] {
            assert_eq!(daemon.destroy_scope(dead, scope).await.destroyed, 0, "{scope:?}");
        }
    }
    assert_eq!(
        daemon.state(&rolled).await,
        SessionState::Active,
        "expected the session to stay live"
    );
}

async fn a_scope_takes_in_all_cookies_of_the_header(backend: Backend) {
    let daemon = Daemon::start(backend).await;
    let (anns, bobs) = (daemon.login("ann").await, daemon.login("bob").await);
    let (other_anns, other_bobs) = (daemon.login("ann").await, daemon.login("bob").await);
    let both = Browser { cookie: Some(format!("{}; {}", anns.header(), bobs.header())) };
    assert_eq!(daemon.destroy_scope(&both, DestroyScope::Others).await.destroyed, 2);
    for (browser, state) in [
        (&anns, SessionState::Active),
        (&bobs, SessionState::Active),
        (&other_anns, SessionState::NotFound),
        (&other_bobs, SessionState::NotFound),
    ] {
        assert_eq!(daemon.state(browser).await, state);
    }
    daemon.login("ann").await;
    assert_eq!(daemon.destroy_scope(&both, DestroyScope::All).await.destroyed, 3);
}

async fn list(
    daemon: &Daemon,
    principal: &str,
    page_size: i32,
    page_token: &str,
) -> Result<(Vec<sessiond::grpc::pb::Session>, String), Status> {
    let (principal, page_token) = (principal.to_owned(), page_token.to_owned());
    let request = ListSessionsRequest { principal, page_size, page_token, ..Default::default() };
    let page = daemon.admin.clone().list_sessions(request).await?.into_inner();
    Ok((page.sessions, page.next_page_token))
}

async fn a_list_shows_what_is_live_and_gives_nothing_away(backend: Backend) {
    let daemon = Daemon::start(backend).await;
    let (first, bobs) = (daemon.login("ann").await, daemon.login("bob").await);
    let short = Some(prost_types::Duration { seconds: 60, nanos: 0 });
    daemon.write(WriteRequest { duration: short, ..login("ann") }).await;
    let gone = daemon.login("ann").await;
    daemon.destroy(&gone).await;
    daemon.clock.advance(Duration::from_secs(120));
    let long = Some(prost_types::Duration { seconds: 7200, nanos: 0 });
    let set = r#"{"secret":"hunter2"}"#.into();
    daemon.write(WriteRequest { duration: long, set, ..login("ann") }).await;
    let (mut sessions, next) = list(&daemon, "ann", 0, "").await.expect("answered");
    assert_eq!((sessions.len(), next.as_str()), (2, ""), "expected live sessions only");
    sessions.sort_by_key(|session| millis(session.create_time.as_ref()));
    let resolved = daemon.resolve(&first).await.session.expect("the session is live");
    let (old, new) = (&sessions[0], &sessions[1]);
    assert_eq!((&old.id, old.version, &old.create_time), (&resolved.id, 1, &resolved.create_time));
    assert_eq!(old.principal, "ann");
    assert_eq!(new.duration, long);
    assert!(millis(new.expire_time.as_ref()) >= millis(new.create_time.as_ref()) + 7_200_000);
    assert!(sessions.iter().all(|session| session.data.is_empty()), "expected no data in a list");
    assert_eq!(daemon.list("bob").await, [daemon.id(&bobs).await]);
    assert_eq!(daemon.list("nobody").await, [""; 0]);
}

async fn pages_hold_each_session_once(backend: Backend) {
    let daemon = Daemon::start(backend).await;
    let mut expected = BTreeSet::new();
    for _ in 0..120 {
        expected.insert(daemon.id(&daemon.login("ann").await).await);
        daemon.login("bob").await;
    }
    for (size, pages) in [(1, 120), (7, 18), (40, 3), (119, 2), (120, 1), (0, 3), (5000, 1)] {
        let (mut found, mut token, mut count) = (Vec::new(), String::new(), 0);
        loop {
            let (sessions, next) = list(&daemon, "ann", size, &token).await.expect("answered");
            found.extend(sessions.into_iter().map(|session| session.id));
            (token, count) = (next, count + 1);
            if token.is_empty() {
                break;
            }
        }
        assert_eq!(count, pages, "pages of {size}");
        assert_eq!(found.len(), 120, "pages of {size}: expected each session once");
        assert_eq!(found.into_iter().collect::<BTreeSet<_>>(), expected, "pages of {size}");
    }
}

async fn pages_go_on_while_sessions_come_and_go(backend: Backend) {
    let daemon = Daemon::start(backend).await;
    let (mut staying, mut leaving) = (BTreeSet::new(), Vec::new());
    for _ in 0..20 {
        staying.insert(daemon.id(&daemon.login("ann").await).await);
        leaving.push(daemon.login("ann").await);
    }
    let (mut found, mut token) = (Vec::new(), String::new());
    loop {
        let (sessions, next) = list(&daemon, "ann", 3, &token).await.expect("answered");
        found.extend(sessions.into_iter().map(|session| session.id));
        token = next;
        if token.is_empty() {
            break;
        }
        daemon.login("ann").await;
        if let Some(browser) = leaving.pop() {
            daemon.destroy(&browser).await;
        }
    }
    let distinct: BTreeSet<_> = found.iter().cloned().collect();
    assert_eq!(distinct.len(), found.len(), "expected no session in two pages");
    assert!(distinct.is_superset(&staying), "expected each session that stayed in a page");
}

async fn hostile_page_tokens_are_refused(backend: Backend) {
    let daemon = Daemon::with(backend, two_engines).await;
    for _ in 0..3 {
        daemon.login("ann").await;
        daemon.login("bob").await;
    }
    let (_, token) = list(&daemon, "ann", 1, "").await.expect("answered");
    let refused = |error: Status| {
        assert_fault(&error, Code::InvalidArgument, "INVALID_ARGUMENT", Some("page_token"));
        assert!(!error.message().contains(&token), "expected no token in the error: {error:?}");
    };
    let mut changed = token.clone().into_bytes();
    changed[5] ^= 1;
    let changed = String::from_utf8(changed).expect("ASCII");
    for hostile in [
        "x",
        "AAAAAAAAAAAAAAAAAAAAAAAAAAAA",
        "../../../../etc/passwd\u{0}",
        "\u{1f980}\u{1f980}\u{1f980}\u{1f980}\u{1f980}\u{1f980}\u{1f980}",
        &token[1..],
        &format!("{token}{token}"),
        &changed,
        &"A".repeat(500_000),
    ] {
        refused(list(&daemon, "ann", 1, hostile).await.expect_err("expected an invalid token"));
    }
    refused(
        list(&daemon, "bob", 1, &token)
            .await
            .expect_err("expected ann's token to be refused for bob"),
    );
    let shop = ListSessionsRequest {
        engine: "shop".to_owned(),
        principal: "ann".to_owned(),
        page_token: token.clone(),
        ..Default::default()
    };
    refused(daemon.admin.clone().list_sessions(shop).await.expect_err("another engine's"));
    let (rest, _) =
        list(&daemon, "ann", 9, &token).await.expect("a token is valid with another page size");
    assert_eq!(rest.len(), 2);
    if !backend.kind().outlives_a_stop {
        return;
    }
    let daemon = daemon.stop().await.start().await;
    let (rest, _) =
        list(&daemon, "ann", 9, &token).await.expect("a token is valid after a restart");
    assert_eq!(rest.len(), 2);
}

async fn revoked_by_principal(backend: Backend) {
    let daemon = Daemon::start(backend).await;
    let mut anns = Vec::new();
    for _ in 0..110 {
        anns.push(daemon.login("ann").await);
    }
    let bobs = daemon.login("bob").await;
    assert_eq!(daemon.revoke("ann", &[]).await, 110);
    assert_eq!(daemon.revoke("ann", &[]).await, 0, "expected 0 and no error");
    for gone in &anns {
        assert_eq!(daemon.state(gone).await, SessionState::NotFound);
    }
    assert_eq!(daemon.state(&bobs).await, SessionState::Active);
}

async fn revoked_by_id(backend: Backend) {
    let daemon = Daemon::start(backend).await;
    let (one, two) = (daemon.visitor("{}").await, daemon.login("ann").await);
    let third = daemon.visitor("{}").await;
    let ids = [daemon.id(&one).await, daemon.id(&two).await];
    let named = [ids[0].clone(), "AAAAAAAAAAAAAAAA".to_owned(), ids[1].clone(), ids[0].clone()];
    assert_eq!(daemon.revoke("", &named).await, 2, "expected unknown ids to be ignored");
    assert_eq!(daemon.state(&one).await, SessionState::NotFound);
    assert_eq!(daemon.state(&two).await, SessionState::NotFound);
    assert_eq!(daemon.state(&third).await, SessionState::Active);
    let write = WriteRequest { credential: one.credential(), ..set("{}") };
    let error = daemon.try_write(write).await.expect_err("expected no Write to an ended session");
    assert_fault(&error, Code::NotFound, "SESSION_GONE", None);
    let expired = daemon.visitor("{}").await;
    let id = daemon.id(&expired).await;
    daemon.clock.advance(Duration::from_secs(4000));
    assert_eq!(daemon.revoke("", &[id]).await, 0, "expected only live sessions to count");
}

async fn revoked_by_id_and_principal(backend: Backend) {
    let daemon = Daemon::start(backend).await;
    let (anns, bobs) = (daemon.login("ann").await, daemon.login("bob").await);
    let kept = daemon.login("ann").await;
    let ids = [daemon.id(&anns).await, daemon.id(&bobs).await];
    assert_eq!(daemon.revoke("ann", &ids).await, 1);
    assert_eq!(daemon.state(&anns).await, SessionState::NotFound);
    assert_eq!(
        daemon.state(&bobs).await,
        SessionState::Active,
        "expected bob's session to stay live"
    );
    assert_eq!(
        daemon.state(&kept).await,
        SessionState::Active,
        "expected the session that was not named to stay live"
    );
}

async fn what_cannot_be_meant_is_refused(backend: Backend) {
    let daemon = Daemon::start(backend).await;
    let browser = daemon.login("ann").await;
    let revoke = async |principal: String, session_ids: Vec<String>| {
        let request = RevokeSessionsRequest { principal, session_ids, ..Default::default() };
        daemon.admin.clone().revoke_sessions(request).await.expect_err("expected an error")
    };
    let token = browser.header();
    for (principal, ids, field) in [
        ("", vec![], "session_ids"),
        ("", vec![token.clone()], "session_ids"),
        ("ann", vec!["A".repeat(15)], "session_ids"),
        ("", vec!["A".repeat(16); 1001], "session_ids"),
        (&"a".repeat(257), vec![], "principal"),
    ] {
        let error = revoke(principal.to_owned(), ids).await;
        assert_fault(&error, Code::InvalidArgument, "INVALID_ARGUMENT", Some(field));
        assert!(!error.message().contains(&token), "expected no token in the error");
    }
    for (principal, size, field) in
        [("", 0, "principal"), ("ann", -1, "page_size"), (&"a".repeat(257), 0, "principal")]
    {
        let error = list(&daemon, principal, size, "").await.expect_err("expected an error");
        assert_fault(&error, Code::InvalidArgument, "INVALID_ARGUMENT", Some(field));
    }
    assert_eq!(daemon.state(&browser).await, SessionState::Active);
}

fn two_engines(config: &mut Config) {
    let engine = config.engine["default"].clone();
    config.engine.insert("shop".to_owned(), engine);
}

async fn engines_are_apart(backend: Backend) {
    let daemon = Daemon::with(backend, two_engines).await;
    let here = daemon.login("ann").await;
    let there = WriteRequest { engine: "shop".into(), ..login("ann") };
    let there = Browser::with(&daemon.write(there).await.set_cookie);
    assert_eq!(daemon.revoke("ann", &[]).await, 1);
    assert_eq!(daemon.state(&here).await, SessionState::NotFound);
    let (engine, credential) = ("shop".into(), there.credential());
    let found =
        daemon.resolve_with(ResolveRequest { engine, credential, ..Default::default() }).await;
    assert_eq!(
        found.state(),
        SessionState::Active,
        "expected the other engine's session to stay live"
    );
    let unknown = ListSessionsRequest { engine: "nope".to_owned(), ..Default::default() };
    let error = daemon.admin.clone().list_sessions(unknown).await.expect_err("no such engine");
    assert_fault(&error, Code::InvalidArgument, "UNKNOWN_ENGINE", Some("engine"));
}

async fn revocation_outlives_a_restart(backend: Backend) {
    if !backend.kind().outlives_a_stop {
        return;
    }
    let daemon = Daemon::start(backend).await;
    let (gone, kept) = (daemon.login("ann").await, daemon.login("bob").await);
    assert_eq!(daemon.revoke("ann", &[]).await, 1);
    let daemon = daemon.stop().await.start().await;
    assert_eq!(daemon.state(&gone).await, SessionState::NotFound);
    assert_eq!(daemon.list("ann").await, [""; 0]);
    assert_eq!(daemon.list("bob").await, [daemon.id(&kept).await]);
    assert_eq!(daemon.destroy_scope(&kept, DestroyScope::All).await.destroyed, 1);
}

/// A revocation during logins: every earlier session has ended, and every session that is live
/// after it is in the list.
async fn logins_in_parallel_survive_or_end(backend: Backend) {
    let daemon = Daemon::start(backend).await;
    for round in 0..10 {
        let mut before = Vec::new();
        for _ in 0..5 {
            before.push(daemon.login("ann").await);
        }
        let logins = (0..10).map(|_| {
            let mut client = daemon.client.clone();
            tokio::spawn(async move {
                let answer = client.write(login("ann")).await.expect("a login succeeds");
                Browser::with(&answer.into_inner().set_cookie)
            })
        });
        let logins: Vec<_> = logins.collect();
        let revoked = daemon.revoke("ann", &[]).await;
        let mut survivors = BTreeSet::new();
        for login in logins {
            let browser = login.await.expect("a login");
            let answer = daemon.resolve(&browser).await;
            survivors.extend(answer.session.map(|session| session.id));
        }
        assert_eq!(
            revoked as usize,
            15 - survivors.len(),
            "round {round}: expected each session to be ended or listed"
        );
        for gone in &before {
            assert_eq!(daemon.state(gone).await, SessionState::NotFound, "round {round}");
        }
        let listed: BTreeSet<_> = daemon.list("ann").await.into_iter().collect();
        assert_eq!(listed, survivors, "round {round}");
        daemon.revoke("ann", &[]).await;
    }
}

fn limited(on_limit: OnLimit) -> impl FnOnce(&mut Config) {
    move |config| {
        let engine = config.engine.get_mut("default").expect("the default engine");
        engine.max_sessions_per_principal = 3;
        engine.on_limit = on_limit;
    }
}

async fn the_newest_is_refused(backend: Backend) {
    let daemon = Daemon::with(backend, limited(OnLimit::RefuseNewest)).await;
    let mut first = daemon.login("ann").await;
    let short = Some(prost_types::Duration { seconds: 60, nanos: 0 });
    daemon.write(WriteRequest { duration: short, ..login("ann") }).await;
    daemon.login("ann").await;
    let full = |error: Status| {
        assert_fault(&error, Code::FailedPrecondition, "TOO_MANY_SESSIONS", Some("principal"));
    };
    full(daemon.try_write(login("ann")).await.expect_err("a fourth"));
    let visitor = daemon.visitor(r#"{"cart":[1]}"#).await;
    let credential = visitor.credential();
    let enter = WriteRequest { credential: credential.clone(), ..login("ann") };
    full(daemon.try_write(enter).await.expect_err("a fourth"));
    let resolved = daemon.resolve(&visitor).await.session.expect("the session stays live");
    assert_eq!((resolved.version, resolved.principal.len()), (1, 0));
    daemon.login("bob").await;
    daemon.change(&mut first, WriteRequest { roll: true, ..login("ann") }).await;
    assert_eq!(
        daemon.list("ann").await.len(),
        3,
        "expected a login with a live session to replace it"
    );
    let gone = Browser { cookie: Some("session=x.y".to_owned()) };
    let gone = WriteRequest { credential: gone.credential(), ..login("ann") };
    let error = daemon.try_write(gone).await.expect_err("expected an ended session");
    assert_fault(&error, Code::NotFound, "SESSION_GONE", None);
    daemon.clock.advance(Duration::from_secs(120));
    daemon.write(WriteRequest { credential, ..login("ann") }).await;
    full(
        daemon
            .try_write(login("ann"))
            .await
            .expect_err("expected one free place, from the expired session"),
    );
    daemon.destroy(&first).await;
    daemon.login("ann").await;
}

async fn the_longest_idle_end(backend: Backend) {
    let daemon = Daemon::with(backend, limited(OnLimit::EndIdlest)).await;
    let second = Duration::from_secs(100);
    let mut browsers = Vec::new();
    for _ in 0..3 {
        browsers.push(daemon.login("ann").await);
        daemon.clock.advance(second);
    }
    // The oldest session is now the one that was used last.
    daemon.touch(&browsers[0]).await;
    let visitor = daemon.visitor("{}").await;
    daemon.clock.advance(second);
    let fourth = daemon.login("ann").await;
    assert_eq!(
        daemon.state(&browsers[1]).await,
        SessionState::NotFound,
        "expected the session that was idle for longest to end"
    );
    for live in [&browsers[0], &browsers[2], &fourth, &visitor] {
        assert_eq!(daemon.state(live).await, SessionState::Active);
    }
    let mut fifth = visitor;
    daemon.clock.advance(second);
    for browser in [&browsers[0], &browsers[2]] {
        daemon.touch(browser).await;
    }
    daemon.change(&mut fifth, login("ann")).await;
    assert_eq!(daemon.state(&fourth).await, SessionState::NotFound);
    assert_eq!(daemon.list("ann").await.len(), 3);
}

async fn parallel_logins_keep_the_limit(backend: Backend) {
    for on_limit in [OnLimit::RefuseNewest, OnLimit::EndIdlest] {
        let daemon = Daemon::with(backend, limited(on_limit)).await;
        let logins = (0..20).map(|number| {
            let mut client = daemon.client.clone();
            tokio::spawn(async move {
                let mut request = login("ann");
                if number % 2 == 0 {
                    let visitor = client.write(set("{}")).await.expect("taken").into_inner();
                    request.credential = Browser::with(&visitor.set_cookie).credential();
                }
                client.write(request).await.is_ok()
            })
        });
        let mut taken = 0;
        for login in logins.collect::<Vec<_>>() {
            taken += u32::from(login.await.expect("a login"));
        }
        let expected = if on_limit == OnLimit::RefuseNewest { 3 } else { 20 };
        assert_eq!(taken, expected, "{on_limit:?}");
        assert_eq!(daemon.list("ann").await.len(), 3, "{on_limit:?}");
    }
}

/// Logins whose callers have gone continue, and still respect the limit.
async fn parallel_logins_that_give_up_keep_the_limit(backend: Backend) {
    let daemon = Daemon::with(backend, limited(OnLimit::RefuseNewest)).await;
    for round in 0..20 {
        let logins = (0..8).map(|number| {
            let mut client = daemon.client.clone();
            let patience = Duration::from_micros(number * 150 + round * 20);
            tokio::spawn(async move {
                let _ = tokio::time::timeout(patience, client.write(login("ann"))).await;
            })
        });
        for login in logins.collect::<Vec<_>>() {
            login.await.expect("a login");
        }
        // Runs after the logins that are still in progress, or finds none.
        let last = daemon.try_write(login("ann")).await;
        let count = daemon.list("ann").await.len();
        assert!(count <= 3, "round {round}: {count} sessions");
        assert!(last.is_ok() || count == 3, "round {round}: refused with {count} sessions");
        daemon.revoke("ann", &[]).await;
    }
}

/// `pipelines` tests a credential with two cookies in a pipeline. This test is about unary
/// calls, which also accept a token.
#[tokio::test]
async fn a_token_speaks_for_its_principal() {
    let daemon = Daemon::start(Backend::Memory).await;
    let here = daemon.write(login("ann")).await;
    daemon.login("ann").await;
    let request = DestroyRequest {
        credential: crate::support::browser::token(here.token),
        scope: DestroyScope::All.into(),
        ..Default::default()
    };
    let ended = daemon.client.clone().destroy(request).await.expect("answered").into_inner();
    assert_eq!(ended.destroyed, 2);
    let nothing = DestroyRequest {
        credential: cookie_header("other=1"),
        scope: DestroyScope::All.into(),
        ..Default::default()
    };
    let ended = daemon.client.clone().destroy(nothing).await.expect("answered").into_inner();
    assert_eq!((ended.destroyed, ended.set_cookie.len()), (0, 0));
}
