//! axum: bare, with tower-sessions on Redis (fred), and with sessiond. The handlers are the same.

use std::{env, error::Error as StdError, future::Future};

use axum::{
    Json, Router,
    extract::FromRequestParts,
    http::request::Parts,
    response::IntoResponse,
    routing::{get, post},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Map, Value, json};
use tower_sessions::{Expiry, SessionManagerLayer, cookie::time};
use tower_sessions_redis_store::{RedisStore, fred::prelude::*};

type Failure = Box<dyn StdError>;

/// As much of a session as the handlers use.
trait Session: FromRequestParts<(), Rejection: IntoResponse> + Send + Sync + 'static {
    fn read<T: DeserializeOwned + Send>(&self, key: &str)
    -> impl Future<Output = Option<T>> + Send;
    fn put(
        &self,
        key: &str,
        value: impl Serialize + Send + Sync,
    ) -> impl Future<Output = ()> + Send;
}

fn data() -> Map<String, Value> {
    serde_json::from_str(include_str!("../../data.json")).expect("a JSON object")
}

struct Bare(Map<String, Value>);

impl FromRequestParts<()> for Bare {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(_: &mut Parts, _: &()) -> Result<Self, Self::Rejection> {
        Ok(Self(data()))
    }
}

impl Session for Bare {
    async fn read<T: DeserializeOwned + Send>(&self, key: &str) -> Option<T> {
        self.0.get(key).map(|value| T::deserialize(value).expect("the right type"))
    }

    async fn put(&self, _: &str, _: impl Serialize + Send + Sync) {}
}

impl Session for tower_sessions::Session {
    async fn read<T: DeserializeOwned + Send>(&self, key: &str) -> Option<T> {
        self.get(key).await.expect("Redis answers")
    }

    async fn put(&self, key: &str, value: impl Serialize + Send + Sync) {
        self.insert(key, value).await.expect("Redis answers");
    }
}

impl Session for sessiond_client::axum::Session {
    async fn read<T: DeserializeOwned + Send>(&self, key: &str) -> Option<T> {
        self.get(key).expect("the right type")
    }

    async fn put(&self, key: &str, value: impl Serialize + Send + Sync) {
        self.insert(key, value).expect("JSON");
    }
}

async fn show<S: Session>(session: S) -> Json<Value> {
    let cart = session.read::<Vec<Value>>("cart").await.unwrap_or_default();
    Json(json!({
        "user": session.read::<String>("user").await,
        "items": cart.len(),
        "count": session.read::<u64>("count").await.unwrap_or_default(),
    }))
}

async fn change<S: Session>(session: S) -> Json<Value> {
    let count = session.read::<u64>("count").await.unwrap_or_default();
    session.put("count", count + 1).await;
    show(session).await
}

async fn begin<S: Session>(session: S) -> Json<Value> {
    for (key, value) in data() {
        session.put(&key, value).await;
    }
    show(session).await
}

fn app<S: Session>() -> Router {
    Router::new()
        .route("/", get(show::<S>))
        .route("/change", post(change::<S>))
        .route("/begin", post(begin::<S>))
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Failure> {
    let app = match env::var("VARIANT")?.as_str() {
        "bare" => app::<Bare>(),
        "today" => {
            let pool = Pool::new(Config::from_url(&env::var("REDIS")?)?, None, None, None, 6)?;
            pool.connect();
            pool.wait_for_connect().await?;
            let layer = SessionManagerLayer::new(RedisStore::new(pool))
                .with_secure(false)
                .with_expiry(Expiry::OnInactivity(time::Duration::minutes(30)));
            app::<tower_sessions::Session>().layer(layer)
        }
        "ours" => {
            let client = sessiond_client::Client::new(env::var("SESSIOND")?)?;
            let layer = sessiond_client::axum::SessionLayer::new(client);
            app::<sessiond_client::axum::Session>().layer(layer)
        }
        other => return Err(format!("no such variant: {other}").into()),
    };
    let listener =
        tokio::net::TcpListener::bind(format!("127.0.0.1:{}", env::var("PORT")?)).await?;
    axum::serve(listener, app).await?;
    Ok(())
}
