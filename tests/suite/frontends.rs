//! The example frontends, as a browser sees them.
//!
//! The packages of an example are downloaded once, into the target directory. A machine that
//! cannot run an example skips its test with a message on stderr. With
//! SESSIOND_TEST_REQUIRE_FRONTENDS=1, as in CI, the test fails instead.

use std::{collections::BTreeSet, process::Command, sync::Barrier, thread};

use crate::support::{
    frontend::{Frontend, Page, Visitor, node, or_skip, python, text},
    program::Program,
};

/// The number of requests at the same time.
const PARALLEL: u32 = 10;
/// How often each race is repeated.
const ROUNDS: u32 = 20;

#[test]
fn python_wsgi() {
    check("python-wsgi", python());
}

#[test]
fn node_express() {
    check("node-express", node());
}

fn check(name: &str, command: Result<Command, String>) {
    let Some(mut command) = or_skip(name, command) else { return };
    // With this granularity no deadline moves during the test, even on a slow machine. So the
    // only Set-Cookie lines are those that the visitor's actions cause.
    let daemon = Program::serve(&["--dev", "--set=engine.default.touch_granularity=30m"]);
    command.env("SESSIOND", daemon.address("grpc"));
    let frontend = Frontend::start(command);

    visits_are_counted(&frontend);
    visitors_are_apart(&frontend);
    a_login_rolls(&frontend);
    a_login_survives_parallel_requests(&frontend);
    a_login_needs_no_visit_before(&frontend);
    a_logout_is_final(&frontend);
    no_parallel_visit_is_lost(&frontend);
    no_parallel_item_is_lost(&frontend);
    an_outage_is_no_logout(&frontend, daemon);
}

fn visits_are_counted(frontend: &Frontend) {
    let visitor = Visitor::new(frontend);
    let first = visitor.visit();
    first.shows(1, "nobody", "on the first visit");
    assert_eq!(first.set_cookie.len(), 1, "expected one Set-Cookie on the first visit: {first:?}");
    let cookie = visitor.cookie();
    for visits in 2..=3 {
        let page = visitor.visit();
        page.shows(visits, "nobody", "with the cookie of the first visit");
        page.sets_no_cookie("the browser has the cookie already");
    }
    assert_eq!(visitor.cookie(), cookie, "expected the same session all along");
}

fn visitors_are_apart(frontend: &Frontend) {
    let (ann, other) = (Visitor::new(frontend), Visitor::new(frontend));
    ann.login("ann").is_ok("login");
    ann.visit().shows(1, "ann", "after the login");
    other.visit().shows(1, "nobody", "for another visitor");
    other.login("bob").is_ok("login");
    other.visit().shows(2, "bob", "for the other visitor, after a login");
    ann.visit().shows(2, "ann", "not affected by the other visitor");
    assert_ne!(ann.cookie(), other.cookie(), "expected a session for each visitor");
}

fn a_login_rolls(frontend: &Frontend) {
    let visitor = Visitor::new(frontend);
    visitor.visit().shows(1, "nobody", "before the login");
    visitor.visit().shows(2, "nobody", "before the login");
    let before = visitor.cookie();

    let login = visitor.login("ann");
    login.is_ok("login");
    assert_eq!(login.set_cookie.len(), 1, "expected one Set-Cookie on login: {login:?}");
    let after = visitor.cookie();
    assert_ne!(after, before, "expected login to give the browser a new id");
    visitor.visit().shows(3, "ann", "after the login, which keeps the visits");

    let replay = Visitor::with(frontend, &before);
    replay.visit().comes_too_early("with the cookie from before the login");
    let page = visitor.visit();
    page.shows(4, "ann", "after the replay, which must not count");
    page.sets_no_cookie("a replay changes nothing for the owner");

    visitor.login("ann").is_ok("a second login");
    assert_ne!(visitor.cookie(), after, "expected every login to roll, of the same user too");
    visitor.visit().shows(5, "ann", "after the second login");
}

/// Requests that were sent before the browser had its new cookie. If the answer to one of them
/// set a cookie and came last, the user would be logged out.
fn a_login_survives_parallel_requests(frontend: &Frontend) {
    for round in 0..ROUNDS {
        let visitor = Visitor::new(frontend);
        visitor.visit().shows(1, "nobody", "before the login");
        let before = visitor.cookie();
        let mut pages = thread::scope(|scope| {
            let late = scope.spawn(|| in_parallel(frontend, &before, Visitor::visit));
            visitor.login("ann").is_ok("login");
            late.join().expect("the pages")
        });
        // This one certainly comes after the login.
        pages.push(Visitor::with(frontend, &before).visit());
        for page in &pages {
            page.sets_no_cookie(&format!("the login has set a new one, round {round}"));
        }
        let page = visitor.visit();
        assert!(page.text.ends_with("user: ann\n"), "expected ann to be logged in: {page:?}");
        // A logout that was sent before the answer to the login came.
        Visitor::with(frontend, &before).logout().is_ok("a logout with the id from before");
        let page = visitor.visit();
        assert_eq!(page.text, text(1, "nobody"), "expected the logout to hold: {page:?}");
    }
}

fn a_login_needs_no_visit_before(frontend: &Frontend) {
    // An invented id. No session has it, and no store may take it over.
    let planted = format!("session={}.{}", "A".repeat(40), "A".repeat(43));
    let visitor = Visitor::with(frontend, &planted);
    visitor.login("ann").is_ok("login with an invented cookie");
    assert_ne!(visitor.cookie(), planted, "expected an id that the daemon made");
    visitor.visit().shows(1, "ann", "after a login without a session");
    let nameless = Visitor::new(frontend).login("");
    assert_eq!(nameless.status, 400, "expected a login without a user to fail: {nameless:?}");
    nameless.sets_no_cookie("the login failed");
}

fn a_logout_is_final(frontend: &Frontend) {
    let visitor = Visitor::new(frontend);
    let created = visitor.visit();
    visitor.login("ann").is_ok("login");
    visitor.visit().shows(2, "ann", "before the logout");
    let before = visitor.cookie();

    let logout = visitor.logout();
    logout.is_ok("logout");
    let [deletion] = logout.set_cookie.as_slice() else {
        panic!("expected the deletion cookie on logout: {logout:?}");
    };
    assert_eq!(attribute(deletion, "Max-Age"), Some("0"), "expected a deletion: {deletion}");
    assert_eq!(
        attribute(deletion, "Path"),
        attribute(&created.set_cookie[0], "Path"),
        "expected the Path it was set with, or the browser keeps the cookie: {deletion}"
    );
    assert_eq!(visitor.cookie(), "", "expected the browser to drop the cookie: {deletion}");

    visitor.visit().shows(1, "nobody", "after the logout");
    let replay = Visitor::with(frontend, &before);
    replay.visit().shows(1, "nobody", "with the cookie from before the logout");
    visitor.visit().shows(2, "nobody", "after the replay");
    Visitor::new(frontend).logout().sets_no_cookie("there is no cookie to delete");
}

/// The answers to several requests with this cookie, sent at the same time.
fn in_parallel(
    frontend: &Frontend,
    cookie: &str,
    request: impl Fn(&Visitor) -> Page + Sync,
) -> Vec<Page> {
    let start = Barrier::new(PARALLEL as usize);
    let tab = || {
        let tab = Visitor::with(frontend, cookie);
        start.wait();
        request(&tab)
    };
    thread::scope(|scope| {
        let tabs: Vec<_> = (0..PARALLEL).map(|_| scope.spawn(tab)).collect();
        tabs.into_iter().map(|tab| tab.join().expect("a page")).collect()
    })
}

fn no_parallel_visit_is_lost(frontend: &Frontend) {
    let visitor = Visitor::new(frontend);
    visitor.visit().shows(1, "nobody", "on the first visit");
    let pages = in_parallel(frontend, &visitor.cookie(), Visitor::visit);
    let shown: BTreeSet<_> = pages.iter().map(|page| page.text.clone()).collect();
    let expected: BTreeSet<_> = (2..2 + PARALLEL).map(|visits| text(visits, "nobody")).collect();
    assert_eq!(shown, expected, "expected each parallel visit to count once");
    for page in &pages {
        page.sets_no_cookie("parallel visits change nothing in the browser");
    }
    visitor.visit().shows(2 + PARALLEL, "nobody", "after the parallel visits");
}

/// The cart is a list under one key. Only `if_version` prevents that parallel additions are
/// lost.
fn no_parallel_item_is_lost(frontend: &Frontend) {
    let visitor = Visitor::new(frontend);
    assert_eq!(
        visitor.add_to_cart("a book").text,
        "items: 1\n",
        "expected the first item to create a session"
    );
    let pages = in_parallel(frontend, &visitor.cookie(), |tab| tab.add_to_cart("tea"));
    let shown: BTreeSet<_> = pages.iter().map(|page| page.text.clone()).collect();
    let expected: BTreeSet<_> =
        (2..2 + PARALLEL).map(|items| format!("items: {items}\n")).collect();
    assert_eq!(shown, expected, "expected each parallel item in the cart");
    visitor.visit().shows(1, "nobody", "with a cart");
    let nothing = visitor.add_to_cart("");
    assert_eq!(nothing.status, 400, "expected an addition without an item to fail: {nothing:?}");
    let last = visitor.add_to_cart("milk").text;
    assert_eq!(last, format!("items: {}\n", 2 + PARALLEL), "after the parallel additions");
}

fn an_outage_is_no_logout(frontend: &Frontend, daemon: Program) {
    let visitor = Visitor::new(frontend);
    visitor.login("ann").is_ok("login");
    let cookie = visitor.cookie();
    daemon.kill();
    let pages = [
        ("a visit", visitor.visit()),
        ("a login", visitor.login("bob")),
        ("a logout", visitor.logout()),
        ("a first visit", Visitor::new(frontend).visit()),
    ];
    for (what, page) in pages {
        assert_eq!(page.status, 503, "expected 503 for {what} without the daemon: {page:?}");
        assert_eq!(page.retry_after.as_deref(), Some("1"), "expected Retry-After: 1 for {what}");
        page.sets_no_cookie("the state of the session is unknown");
    }
    assert_eq!(visitor.cookie(), cookie, "expected the browser to keep its session");
}

/// The value of an attribute of a Set-Cookie line.
fn attribute<'l>(line: &'l str, name: &str) -> Option<&'l str> {
    let mut pairs = line.split(';').skip(1).filter_map(|pair| pair.trim().split_once('='));
    pairs.find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value)
}
