//! The layer for axum, and what tower-sessions' own tests say of behaviour (a table is in
//! docs/guides/axum.md).

use axum::{
    Json, Router,
    body::Body,
    extract::Form,
    http::{Request, StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use http_body_util::BodyExt;
use sessiond_client::{
    Data, Error, Reason, Result,
    axum::{Session, SessionLayer},
    testing::{EngineOptions, Fake},
};
use tower::ServiceExt;

use crate::support::{data, kept};

fn app(fake: &Fake) -> Router {
    let layer = SessionLayer::new(fake.client());
    Router::new()
        .route("/", get(async |_: Session| "hello"))
        .route("/no-session", get(async || "hello"))
        .route(
            "/insert",
            get(insert).post(insert).put(async |session: Session| -> Result<Response> {
                insert(session).await?;
                Ok((StatusCode::IM_A_TEAPOT, "no tea").into_response())
            }),
        )
        .route(
            "/get",
            get(async |session: Session| -> Result<String> {
                Ok(format!("{:?}", session.get::<u32>("foo")?))
            }),
        )
        .route(
            "/data",
            get(async |session: Session| -> Result<Json<Vec<String>>> {
                Ok(Json(session.data().keys().map(str::to_owned).collect()))
            }),
        )
        .route(
            "/remove",
            get(async |session: Session| {
                session.remove("foo");
            }),
        )
        .route("/cycle", post(async |session: Session| session.roll().await))
        .route("/flush", post(async |session: Session| session.logout().await.map(drop)))
        .route(
            "/pop",
            get(async |session: Session| -> Result<Json<Option<u32>>> {
                Ok(Json(session.pop("foo").await?))
            }),
        )
        .route(
            "/login",
            post(async |session: Session, Form(form): Form<Vec<(String, String)>>| {
                session.login(&form[0].1).await
            }),
        )
        .route(
            "/fails",
            post(async |session: Session| -> Result<()> {
                session.login("ann").await?;
                session.insert("dropped", true)?;
                session.insert("f", f64::NAN)
            }),
        )
        .route(
            "/headers",
            get(async |session: Session| -> Result<Response> {
                insert(session).await?;
                let mut response = "hello".into_response();
                let headers = response.headers_mut();
                headers.append(header::SET_COOKIE, "session=mine".parse().expect("a value"));
                headers.append(header::SET_COOKIE, "other=1".parse().expect("a value"));
                let private = "max-age=60, Private".parse().expect("a value");
                headers.insert(header::CACHE_CONTROL, private);
                Ok(response)
            }),
        )
        .layer(layer)
}

async fn insert(session: Session) -> Result<()> {
    session.insert("foo", 42)
}

struct Answer {
    status: StatusCode,
    headers: axum::http::HeaderMap,
    body: String,
}

impl Answer {
    fn cookies(&self) -> Vec<&str> {
        let lines = self.headers.get_all(header::SET_COOKIE).iter();
        lines.map(|line| line.to_str().expect("a text")).collect()
    }

    fn cookie(&self) -> String {
        let lines = self.cookies();
        assert_eq!(lines.len(), 1, "expected one cookie, found {lines:?}");
        kept(lines[0])
    }

    fn header(&self, name: header::HeaderName) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().expect("a text"))
    }
}

async fn ask(app: &Router, method: &str, path: &str, cookie: &str) -> Answer {
    let mut request = Request::builder().method(method).uri(path);
    for line in cookie.split('\n').filter(|line| !line.is_empty()) {
        request = request.header(header::COOKIE, line);
    }
    let body = if path == "/login" { "user=ann" } else { "" };
    let request = request
        .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
        .body(Body::from(body))
        .expect("a request");
    let response = app.clone().oneshot(request).await.expect("a router does not fail");
    let (parts, body) = response.into_parts();
    let body = body.collect().await.expect("a body").to_bytes();
    let body = String::from_utf8(body.to_vec()).expect("a text");
    Answer { status: parts.status, headers: parts.headers, body }
}

#[tokio::test]
async fn a_visitor_costs_nothing() {
    let fake = Fake::new();
    let app = app(&fake);
    // The first request asks what the daemon is; one without a cookie does not.
    fake.fail(Reason::StoreUnavailable);
    for path in ["/", "/no-session", "/get", "/remove", "/pop"] {
        let answer = ask(&app, "GET", path, "").await;
        assert_eq!((answer.status, answer.cookies().len()), (StatusCode::OK, 0), "{path}");
        assert_eq!(answer.header(header::CACHE_CONTROL), None, "{path}");
    }
    assert!(ask(&app, "GET", "/", "other=1").await.status.is_success());
    assert!(fake.sessions("default").is_empty());
}

#[tokio::test]
async fn what_a_handler_inserts_is_stored() {
    let fake = Fake::new();
    let app = app(&fake);
    let answer = ask(&app, "GET", "/insert", "").await;
    assert_eq!(answer.header(header::CACHE_CONTROL), Some("no-store"));
    let cookie = answer.cookie();
    assert!(cookie.starts_with("session="), "found {cookie}");
    // Beside octets of others, on two header lines.
    let header = format!("a=\"; ;; =\nb=2; {cookie}; c");
    let answer = ask(&app, "GET", "/get", &header).await;
    assert_eq!((answer.body.as_str(), answer.cookies().len()), ("Some(42)", 0));
    ask(&app, "GET", "/remove", &cookie).await;
    assert_eq!(ask(&app, "GET", "/get", &cookie).await.body, "None");
    // Whatever the status: it is the handler's answer.
    let answer = ask(&app, "PUT", "/insert", "").await;
    assert_eq!((answer.status, answer.body.as_str()), (StatusCode::IM_A_TEAPOT, "no tea"));
    assert_eq!(ask(&app, "GET", "/get", &answer.cookie()).await.body, "Some(42)");
}

#[tokio::test]
async fn a_bogus_cookie_is_a_visitors() {
    let fake = Fake::new();
    let app = app(&fake);
    for cookie in ["session=AAAAAAAAAAAAAAAAAAAAAA", "session=malformed", "session="] {
        let answer = ask(&app, "GET", "/", cookie).await;
        assert_eq!((answer.status, answer.cookies().len()), (StatusCode::OK, 0), "{cookie}");
        let answer = ask(&app, "GET", "/insert", cookie).await;
        assert_ne!(answer.cookie(), cookie);
    }
}

#[tokio::test]
async fn an_id_is_cycled_and_flushed() {
    let fake = Fake::new();
    let app = app(&fake);
    let first = ask(&app, "GET", "/insert", "").await.cookie();
    let second = ask(&app, "POST", "/cycle", &first).await.cookie();
    assert_ne!(first, second);
    assert_eq!(ask(&app, "GET", "/get", &second).await.body, "Some(42)");
    assert_eq!(ask(&app, "GET", "/get", &first).await.body, "None");
    let answer = ask(&app, "POST", "/flush", &second).await;
    let line = answer.cookies()[0].to_owned();
    for part in ["session=;", "Max-Age=0", "Path=/"] {
        assert!(line.contains(part), "expected {part} in {line}");
    }
    assert_eq!(ask(&app, "GET", "/get", &second).await.body, "None");
}

#[tokio::test]
async fn one_cookie_line_of_the_name_goes_out() {
    let fake = Fake::new();
    let app = app(&fake);
    let answer = ask(&app, "GET", "/headers", "").await;
    let lines = answer.cookies();
    assert_eq!((lines.len(), lines[0]), (2, "other=1"), "found {lines:?}");
    assert!(lines[1].starts_with("session=") && !lines[1].contains("mine"), "found {lines:?}");
    assert_eq!(answer.header(header::CACHE_CONTROL), Some("max-age=60, Private"));
}

#[tokio::test]
async fn an_outage_is_503_and_not_nobody() {
    let fake = Fake::new();
    let app = app(&fake);
    let cookie = fake.cookie("ann", data(r#"{"foo":1}"#));
    for (operation, path) in [("Resolve", "/get"), ("Write", "/insert"), ("Write", "/pop")] {
        fake.fail_next(Reason::StoreUnavailable, operation, 1);
        let answer = ask(&app, "GET", path, &cookie).await;
        assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE, "{path}");
        assert_eq!(answer.header(header::RETRY_AFTER), Some("1"), "{path}");
        assert_eq!(answer.header(header::CACHE_CONTROL), Some("no-store"), "{path}");
        assert_eq!((answer.body.as_str(), answer.cookies().len()), ("{}", 0), "{path}");
    }
    assert_eq!(ask(&app, "GET", "/get", &cookie).await.body, "Some(1)");
}

#[tokio::test]
async fn an_id_from_before_a_login_is_nobodys() {
    let fake = Fake::new();
    let app = app(&fake);
    let old = ask(&app, "GET", "/insert", "").await.cookie();
    let new = ask(&app, "POST", "/login", &old).await.cookie();
    for (method, path, status) in [
        ("GET", "/get", 200),
        ("GET", "/insert", 200),
        ("GET", "/pop", 200),
        ("POST", "/insert", 409),
        ("POST", "/login", 409),
        ("POST", "/cycle", 409),
    ] {
        let answer = ask(&app, method, path, &old).await;
        assert_eq!(answer.status.as_u16(), status, "{method} {path}");
        assert!(answer.cookies().is_empty(), "{method} {path}: expected no cookie");
    }
    assert_eq!(fake.sessions("default").len(), 1, "expected nothing to be created");
    assert_eq!(fake.sessions("default")[0].principal, "ann");
    assert_eq!(ask(&app, "GET", "/get", &new).await.body, "Some(42)");
    let answer = ask(&app, "POST", "/flush", &old).await;
    assert_eq!((answer.status, answer.cookies().len()), (StatusCode::OK, 1));
    assert!(fake.sessions("default").is_empty(), "expected the logout to end the session");
}

#[tokio::test]
async fn what_a_handler_that_fails_has_not_saved_is_dropped() {
    let fake = Fake::new();
    let app = app(&fake);
    let answer = ask(&app, "POST", "/fails", "").await;
    assert_eq!((answer.status.as_u16(), answer.body.as_str()), (500, "{}"));
    // The browser learns of the login that was done.
    let cookie = answer.cookie();
    let sessions = fake.sessions("default");
    assert_eq!((sessions.len(), sessions[0].data.len()), (1, 0));
    assert_eq!(sessions[0].principal, "ann");
    assert_eq!(ask(&app, "GET", "/data", &cookie).await.body, "[]");
}

#[tokio::test]
async fn a_page_of_ones_own_and_another_engine() {
    let options = EngineOptions { cookie_name: "admin".to_owned(), ..Default::default() };
    let fake = Fake::with_engines([("default", EngineOptions::default()), ("admin", options)]);
    let layer = SessionLayer::new(fake.client())
        .engine("admin")
        .on_error(|error: &Error| (error.status(), "sorry").into_response());
    let app = Router::new().route("/insert", post(insert)).layer(layer);
    let cookie = ask(&app, "POST", "/insert", "").await.cookie();
    assert!(cookie.starts_with("admin="), "found {cookie}");
    assert_eq!((fake.sessions("admin").len(), fake.sessions("default").len()), (1, 0));
    fake.fail(Reason::Overloaded);
    let answer = ask(&app, "POST", "/insert", &cookie).await;
    assert_eq!((answer.status.as_u16(), answer.body.as_str()), (503, "sorry"));
    assert_eq!(answer.header(header::RETRY_AFTER), Some("1"));
    fake.recover();
    let user = fake.engine_cookie("admin", "ann", Data::new());
    assert!(ask(&app, "POST", "/insert", &user).await.cookies().is_empty());
}

#[tokio::test]
async fn a_route_without_the_layer_says_so() {
    let app = Router::new()
        .route("/", get(async |_: Session| "hello"))
        .route("/maybe", get(async |session: Option<Session>| session.is_some().to_string()));
    let answer = ask(&app, "GET", "/", "").await;
    assert_eq!(answer.status, StatusCode::INTERNAL_SERVER_ERROR);
    assert_eq!(ask(&app, "GET", "/maybe", "").await.body, "false");
}
