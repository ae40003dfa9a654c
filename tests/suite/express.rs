//! Migrates a real Express application: `tests/express`, with express-session and connect-redis
//! from npm. `tests/express/run` runs this test. The tests in `adoption` adopt the session that
//! it recorded.

use std::fs;

use serde::{Deserialize, Serialize};

use crate::support::{
    daemon::SECRET,
    frontend::{Frontend, Page, Visitor, express, shop},
    program::Program,
    redis::{RedisServer, is_missing},
};

const RECORDED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/express/recorded.json");

/// A session of the application, as its browser and its Redis have it.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Recorded {
    /// The secret that signs the cookies.
    pub secret: String,
    /// The Cookie header.
    pub cookie: String,
    pub key: String,
    pub value: String,
}

impl Recorded {
    /// The recorded session, of ann, who logged in after two visits.
    pub(crate) fn read() -> Self {
        let text = fs::read_to_string(RECORDED).expect("tests/express/recorded.json");
        serde_json::from_str(&text).expect("what `tests/express/run record` writes")
    }

    fn write(&self) {
        let text = serde_json::to_string_pretty(self).expect("texts are JSON") + "\n";
        fs::write(RECORDED, text).expect("tests/express/recorded.json can be written");
    }

    /// The values that do not differ between recordings.
    fn shape(&self) -> (usize, usize, serde_json::Value) {
        let mut value: serde_json::Value = serde_json::from_str(&self.value).expect("JSON");
        value["cookie"]["expires"].take();
        // express-session computes it anew from `expires`, so a busy machine takes some milliseconds
        // off.
        let max_age = &mut value["cookie"]["originalMaxAge"];
        if let Some(millis) = max_age.as_u64() {
            *max_age = millis.next_multiple_of(60_000).into();
        }
        (self.key.len(), self.cookie.replace("%2F", "/").replace("%2B", "+").len(), value)
    }
}

fn only_key(redis: &RedisServer) -> String {
    let answer = redis.ask(&["KEYS", "*"]);
    let lines: Vec<_> = answer.lines().collect();
    let ["*1", _, key] = lines[..] else { panic!("expected one session: {answer:?}") };
    key.to_owned()
}

fn value(redis: &RedisServer, key: &str) -> String {
    let answer = redis.ask(&["GET", key]);
    answer.lines().nth(1).unwrap_or_else(|| panic!("expected a record: {answer:?}")).to_owned()
}

/// Counts a visit in the shop behind sessiond, which must show it and the user then.
#[track_caller]
fn visit(visitor: &Visitor, visits: u32, user: Option<&str>, when: &str) -> Page {
    let page = visitor.visit_shop();
    page.says(&format!(r#"{{"visits":{visits}}}"#), when);
    let user = serde_json::json!(user);
    let shown = format!(r#"{{"user":{user},"visits":{visits},"cart":[],"live":true}}"#);
    visitor.session().says(&shown, when);
    page
}

#[test]
#[ignore = "needs npm and its registry: tests/express/run"]
fn who_is_logged_in_there_is_logged_in_here() {
    assert!(!is_missing(), "expected redis-server");
    let mut redis = RedisServer::start();
    let mut before = express().expect("expected the application to be installed");
    before.env("REDIS", redis.url()).env("SECRET", SECRET);
    let mut after = shop();

    let there = Frontend::start(before);
    let ann = Visitor::new(&there);
    ann.visit().shows(1, "nobody", "on ann's first visit to the application");
    ann.visit().shows(2, "nobody", "on ann's second visit to the application");
    ann.login("ann").is_ok("login there");
    let key = only_key(&redis);
    let found = Recorded {
        secret: SECRET.to_owned(),
        cookie: ann.cookie(),
        value: value(&redis, &key),
        key,
    };
    if std::env::var_os("SESSIOND_TEST_BLESS").is_some() {
        found.write();
    }
    assert_eq!(
        found.shape(),
        Recorded::read().shape(),
        "expected the recorded form; `tests/express/run record` records it again"
    );

    let bob = Visitor::new(&there);
    bob.visit().shows(1, "nobody", "on bob's first visit to the application");
    let cat = Visitor::new(&there);
    cat.login("cat").is_ok("login there");
    let stolen = cat.cookie();
    cat.logout().is_ok("logout there");
    let dan = Visitor::new(&there);
    dan.login("dan").is_ok("login there");
    drop(there);
    println!("in the application: ann has 2 visits and is logged in, bob has 1, cat is logged out");

    let daemon = Program::serve(&[
        "--dev",
        "--set=engine.default.touch_granularity=30m",
        "--set=engine.default.cookie.name=connect.sid",
        "--set=engine.default.cookie.format=express",
        &format!("--set=engine.default.cookie.secrets={SECRET}"),
        "--set=engine.default.adopt.from=express-session",
        "--set=engine.default.adopt.principal=/user",
        &format!("--set=engine.default.adopt.url={}", redis.url()),
    ]);
    after.env("SESSIOND", daemon.address("grpc"));
    let here = Frontend::start(after);

    let ann = ann.at(&here);
    let page = visit(&ann, 3, Some("ann"), "on ann's first visit behind sessiond: still logged in");
    assert!(!page.set_cookie.is_empty(), "expected a cookie of sessiond: {page:?}");
    assert_ne!(ann.cookie(), found.cookie, "expected a cookie of sessiond");
    let page = visit(&ann, 4, Some("ann"), "on ann's second visit behind sessiond");
    page.sets_no_cookie("the browser has it already");
    let bob = bob.at(&here);
    visit(&bob, 2, None, "on bob's first visit behind sessiond");
    let stolen = Visitor::with(&here, &stolen);
    visit(&stolen, 1, None, "with a cookie that was logged out in the application");
    println!(
        "behind sessiond: ann is logged in on visits 3 and 4, bob is on visit 2, cat is logged out"
    );

    // Another browser with ann's old cookie has the same session, until it ends.
    visit(&Visitor::with(&here, &found.cookie), 5, Some("ann"), "with the old cookie");
    ann.logout().is_ok("logout here");
    let replay = Visitor::with(&here, &found.cookie);
    visit(&replay, 1, None, "with the old cookie, after the logout behind sessiond");
    assert_eq!(
        value(&redis, &found.key),
        found.value,
        "expected no change of the application's record"
    );
    println!(
        "logged out behind sessiond: the old cookie gives no access, the application's record is unchanged"
    );

    redis.kill();
    let dan = dan.at(&here);
    let before = dan.cookie();
    let page = dan.visit_shop();
    assert_eq!(page.status, 503, "expected 503 while dan's session cannot be read: {page:?}");
    page.sets_no_cookie("the state of the session is unknown");
    assert_eq!(dan.cookie(), before, "expected dan to keep the session");
    visit(&bob, 3, None, "on a visit with an adopted session");
    println!(
        "the application's Redis is gone: dan gets 503 and keeps the cookie, bob's session works"
    );
}
