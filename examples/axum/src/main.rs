//! A small shop: visits, a cart, a flash message, login, devices. sessiond owns the sessions.

use std::{env, error::Error as StdError, time::Duration};

use axum::{
    Json, Router,
    extract::{Form, Query},
    http::{HeaderValue, StatusCode, header},
    middleware::map_response,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde::Deserialize;
use serde_json::{Value, json};
use sessiond_client::{
    Client, Error, Result,
    axum::{Session, SessionLayer},
};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};

#[tokio::main]
async fn main() -> Result<(), Box<dyn StdError>> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let daemon = env::var("SESSIOND").unwrap_or_else(|_| "127.0.0.1:50051".to_owned());
    let client = Client::new(daemon)?;
    let app = Router::new()
        .route("/session", get(session))
        .route("/visit", post(visit))
        .route("/cart", post(add_to_cart))
        .route("/flash", get(take_flash).post(keep_flash))
        .route("/login", post(login))
        .route("/theme", post(set_theme))
        .route("/logout", post(logout))
        .route("/logout-others", post(logout_others))
        .route("/logout-everywhere", post(logout_everywhere))
        .route("/slow", get(slow))
        .route("/devices", get(devices))
        .layer(SessionLayer::new(client.clone()))
        .layer(map_response(no_store));

    let port = env::var("PORT").unwrap_or_else(|_| "3000".to_owned());
    let listener = TcpListener::bind(format!("127.0.0.1:{port}")).await?;
    println!("listening on http://{}", listener.local_addr()?);
    let mut ends = signal(SignalKind::terminate())?;
    axum::serve(listener, app)
        .with_graceful_shutdown(async move { ends.recv().await.unwrap_or_default() })
        .await?;
    client.close().await;
    Ok(())
}

async fn session(session: Session) -> Result<Json<Value>> {
    Ok(Json(json!({
        "user": session.principal(),
        "visits": session.get::<u64>("visits")?.unwrap_or_default(),
        "cart": session.get::<Vec<String>>("cart")?.unwrap_or_default(),
        "live": session.is_live(),
    })))
}

async fn visit(session: Session) -> Result<Json<Value>> {
    Ok(Json(json!({ "visits": count_visit(&session).await? })))
}

async fn add_to_cart(session: Session, Form(form): Form<CartForm>) -> Result<Json<Value>> {
    let add = |cart: &mut Vec<String>| {
        cart.push(form.item.clone());
        cart.len()
    };
    Ok(Json(json!({ "items": session.update_value("cart", add).await? })))
}

async fn keep_flash(session: Session, Form(form): Form<FlashForm>) -> Result<Json<Value>> {
    session.insert("flash", form.text)?;
    Ok(Json(json!({})))
}

async fn take_flash(session: Session) -> Result<Json<Value>> {
    Ok(Json(json!({ "flash": session.pop::<String>("flash").await? })))
}

async fn login(session: Session, Form(form): Form<LoginForm>) -> Response {
    // A real application checks a password here.
    match session.login(&form.user).await {
        Ok(()) => Json(json!({ "user": form.user })).into_response(),
        Err(Error::InvalidArgument(_)) => {
            (StatusCode::BAD_REQUEST, Json(json!({}))).into_response()
        }
        Err(error) => error.into_response(),
    }
}

async fn set_theme(session: Session, Form(form): Form<ThemeForm>) -> Result<Json<Value>> {
    session.insert("theme", &form.theme)?;
    Ok(Json(json!({ "theme": form.theme })))
}

async fn logout(session: Session) -> Result<Json<Value>> {
    session.logout().await?;
    Ok(Json(json!({})))
}

async fn logout_others(session: Session) -> Result<Json<Value>> {
    Ok(Json(json!({ "ended": session.logout_others().await? })))
}

async fn logout_everywhere(session: Session) -> Result<Json<Value>> {
    Ok(Json(json!({ "ended": session.logout_everywhere().await? })))
}

async fn slow(session: Session, Query(query): Query<SlowQuery>) -> Result<Json<Value>> {
    if !session.is_live() {
        return Ok(Json(json!({ "written": false })));
    }
    tokio::time::sleep(Duration::from_millis(query.ms)).await;
    match count_visit(&session).await {
        Ok(_) => Ok(Json(json!({ "written": true }))),
        // It has ended meanwhile, or a parallel login has replaced its id.
        Err(Error::SessionGone(_) | Error::Superseded(_)) => Ok(Json(json!({ "written": false }))),
        Err(error) => Err(error),
    }
}

async fn devices(session: Session) -> Result<Response> {
    if session.principal().is_none() {
        return Ok((StatusCode::UNAUTHORIZED, Json(json!({}))).into_response());
    }
    let devices = session.devices().await?.into_iter();
    let devices = devices.map(|device| json!({ "id": device.id, "current": device.current }));
    Ok(Json(json!({ "devices": devices.collect::<Vec<_>>() })).into_response())
}

async fn count_visit(session: &Session) -> Result<u64> {
    let count = |visits: &mut u64| {
        *visits += 1;
        *visits
    };
    session.update_value("visits", count).await
}

async fn no_store(mut response: Response) -> Response {
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct CartForm {
    item: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct FlashForm {
    text: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct LoginForm {
    user: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct ThemeForm {
    theme: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct SlowQuery {
    ms: u64,
}
