//! Destroy: what it ends, and that no call brings the session back.

use std::time::Duration;

use sessiond::{
    grpc::pb::{DestroyRequest, DestroyScope, ResolveRequest, SessionState, WriteRequest},
    server::config::Backend,
};
use tonic::Code;

use crate::{
    over_every_store,
    support::{
        browser::{Browser, cookie_header},
        daemon::{Daemon, assert_fault, login, set},
    },
};

over_every_store!(
    the_deletion_cookie_matches_the_cookie,
    what_is_destroyed_stays_destroyed,
    writes_under_way_bring_nothing_back,
    every_session_of_the_header_ends,
    there_are_three_scopes,
    a_logout_from_before_a_roll_holds,
    a_roll_and_a_logout_at_once_leave_nothing,
    the_grace_of_a_roll_ends,
    a_former_id_speaks_for_no_principal,
);

fn rolled() -> WriteRequest {
    WriteRequest { roll: true, ..set("{}") }
}

fn scope_of(line: &str) -> Vec<&str> {
    let attributes = line.split("; ").skip(1);
    attributes.filter(|it| !it.starts_with("Max-Age=") && !it.starts_with("Expires=")).collect()
}

async fn the_deletion_cookie_matches_the_cookie(backend: Backend) {
    let daemon = Daemon::with(backend, |config| {
        let engine = config.engine.get_mut("default").expect("the default engine");
        engine.cookie.domain = "example.com".to_owned();
        engine.cookie.path = "/app".to_owned();
        engine.cookie.secure = true;
        engine.cookie.partitioned = true;
    })
    .await;
    let created = daemon.write(set("{}")).await;
    let destroyed = daemon.destroy(&Browser::with(&created.set_cookie)).await;
    assert_eq!(destroyed.destroyed, 1);
    let (set, deleted) = (&created.set_cookie[0], &destroyed.set_cookie[0]);
    assert!(deleted.starts_with("session=; Max-Age=0; Expires=Thu, 01 Jan 1970"), "{deleted}");
    let expected =
        ["Domain=example.com", "Path=/app", "HttpOnly", "Secure", "SameSite=Lax", "Partitioned"];
    assert_eq!(scope_of(deleted), expected);
    assert_eq!(
        scope_of(set),
        expected,
        "expected equal attributes, or the browser would keep both cookies"
    );
}

async fn what_is_destroyed_stays_destroyed(backend: Backend) {
    let daemon = Daemon::start(backend).await;
    let browser = daemon.visitor("{}").await;
    let destroyed = daemon.destroy(&browser).await;
    assert_eq!((destroyed.destroyed, destroyed.set_cookie.len()), (1, 1));
    assert_eq!(daemon.state(&browser).await, SessionState::NotFound);
    assert_eq!(daemon.touch(&browser).await.state(), SessionState::NotFound);
    let write = WriteRequest { credential: browser.credential(), ..set("{}") };
    let error = daemon.try_write(write).await.expect_err("expected a Write to create nothing");
    assert_fault(&error, Code::NotFound, "SESSION_GONE", None);
    let again = daemon.destroy(&browser).await;
    assert_eq!((again.destroyed, again.set_cookie.len()), (0, 1), "expected a deletion cookie");
    let nothing = daemon.destroy(&Browser::new()).await;
    assert_eq!(
        (nothing.destroyed, nothing.set_cookie.len()),
        (0, 0),
        "expected no cookie without a credential"
    );
}

/// A logout during writes, touches and reads, many times.
async fn writes_under_way_bring_nothing_back(backend: Backend) {
    let daemon = Daemon::start(backend).await;
    for round in 0..20 {
        let browser = daemon.visitor("{}").await;
        let others = (0..6).map(|number| {
            let (mut client, credential) = (daemon.client.clone(), browser.credential());
            tokio::spawn(async move {
                for _ in 0..4 {
                    let credential = credential.clone();
                    if number % 2 == 0 {
                        let set = br#"{"late":true}"#.as_slice().into();
                        let write = WriteRequest { credential, set, ..Default::default() };
                        let _ = client.write(write).await;
                    } else {
                        let _ = client
                            .resolve(ResolveRequest { credential, ..Default::default() })
                            .await;
                    }
                }
            })
        });
        let others: Vec<_> = others.collect();
        assert_eq!(daemon.destroy(&browser).await.destroyed, 1, "round {round}");
        assert_eq!(daemon.state(&browser).await, SessionState::NotFound, "round {round}");
        for other in others {
            other.await.expect("a request");
        }
        assert_eq!(daemon.state(&browser).await, SessionState::NotFound, "round {round}, later");
    }
}

async fn every_session_of_the_header_ends(backend: Backend) {
    let daemon = Daemon::start(backend).await;
    let (one, two) = (daemon.visitor("{}").await, daemon.visitor("{}").await);
    let credential = cookie_header(format!("{}; {}", one.header(), two.header()));
    let request = DestroyRequest { credential, ..Default::default() };
    let answer = daemon.client.clone().destroy(request).await.expect("answered").into_inner();
    assert_eq!(answer.destroyed, 2, "expected both sessions to be ended");
    assert_eq!(daemon.state(&one).await, SessionState::NotFound);
    assert_eq!(daemon.state(&two).await, SessionState::NotFound);
}

async fn there_are_three_scopes(backend: Backend) {
    let daemon = Daemon::start(backend).await;
    let browser = daemon.visitor("{}").await;
    let request =
        DestroyRequest { credential: browser.credential(), scope: 9, ..Default::default() };
    let error = daemon
        .client
        .clone()
        .destroy(request)
        .await
        .expect_err("expected an error for the unknown scope 9");
    assert_fault(&error, Code::InvalidArgument, "INVALID_ARGUMENT", Some("scope"));
    assert_eq!(
        daemon.state(&browser).await,
        SessionState::Active,
        "expected the session to stay live"
    );
}

async fn a_logout_from_before_a_roll_holds(backend: Backend) {
    let daemon = Daemon::start(backend).await;
    let mut browser = daemon.visitor("{}").await;
    let first = browser.clone();
    daemon.change(&mut browser, rolled()).await;
    let second = browser.clone();
    daemon.change(&mut browser, login("ann")).await;
    for (former, which) in [(&second, "second"), (&first, "first")] {
        assert_eq!(daemon.state(former).await, SessionState::Superseded, "the {which} id");
        assert_eq!(daemon.touch(former).await.state(), SessionState::Superseded, "the {which} id");
    }
    let destroyed = daemon.destroy(&first).await;
    let found = (destroyed.destroyed, destroyed.set_cookie.len());
    assert_eq!(found, (1, 1), "expected the logout to end the session and to delete the cookie");
    assert_eq!(
        daemon.state(&browser).await,
        SessionState::NotFound,
        "expected the session to be ended"
    );
    assert_eq!(daemon.list("ann").await, [""; 0], "expected no live session of ann");
}

/// Two requests of a browser at the same time: one rolls the id, the other logs out.
async fn a_roll_and_a_logout_at_once_leave_nothing(backend: Backend) {
    let daemon = Daemon::start(backend).await;
    for round in 0..40 {
        let browser = daemon.visitor("{}").await;
        let write = WriteRequest { credential: browser.credential(), ..rolled() };
        let (written, destroyed) =
            tokio::join!(daemon.try_write(write), daemon.try_destroy(&browser));
        assert_eq!(destroyed.expect("answered").destroyed, 1, "round {round}");
        if let Ok(written) = written {
            let rolled = Browser::with(&written.set_cookie);
            let state = daemon.state(&rolled).await;
            assert_eq!(
                state,
                SessionState::NotFound,
                "round {round}: expected the session to be ended"
            );
        }
    }
}

async fn the_grace_of_a_roll_ends(backend: Backend) {
    let daemon = Daemon::with(backend, |config| {
        let engine = config.engine.get_mut("default").expect("the default engine");
        engine.roll_grace = "10s".parse().expect("a duration");
    })
    .await;
    let mut browser = daemon.visitor("{}").await;
    let before = browser.clone();
    daemon.change(&mut browser, rolled()).await;
    daemon.clock.advance(Duration::from_secs(10));
    let destroyed = daemon.destroy(&before).await;
    let found = (destroyed.destroyed, destroyed.set_cookie.len());
    assert_eq!(found, (0, 1), "expected the old id to end nothing after roll_grace");
    assert_eq!(daemon.state(&browser).await, SessionState::Active);
}

/// The wider scopes need a live session. So a former id ends its own session and no others.
async fn a_former_id_speaks_for_no_principal(backend: Backend) {
    let daemon = Daemon::start(backend).await;
    let other = daemon.login("ann").await;
    let mut browser = daemon.visitor("{}").await;
    let before = browser.clone();
    daemon.change(&mut browser, login("ann")).await;
    let destroyed = daemon.destroy_scope(&before, DestroyScope::Others).await;
    assert_eq!(destroyed.destroyed, 0, "expected no session to be ended");
    let destroyed = daemon.destroy_scope(&before, DestroyScope::All).await;
    assert_eq!(destroyed.destroyed, 1, "expected its own session to be ended");
    assert_eq!(daemon.state(&browser).await, SessionState::NotFound);
    assert_eq!(
        daemon.state(&other).await,
        SessionState::Active,
        "expected the other session to stay live"
    );
}
