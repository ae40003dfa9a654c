//! One request's view of its session.

mod login;
mod view;

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use serde::{Serialize, de::DeserializeOwned};
use tokio::time::sleep;
use tonic::Code;

pub use self::login::{Device, LoginOptions};
use self::view::View;
use crate::{
    client::Client,
    data::{self, Data, Difference},
    error::{Applied, Error, Reason, Result},
    types::{Credential, Engine, ResolveOptions, SessionInfo, State, WriteOptions},
    wire::{self, MAX_UNSET},
};

/// So often does an update read and write before it gives up. Each time, another request has
/// succeeded.
const MAX_ATTEMPTS: u32 = 20;

/// One request's view of its session: what the layer for axum gives to the handlers, and what
/// an adapter for another framework is made of.
///
/// A clone is the same session. Methods that ask the daemon do so one after another.
///
/// What is inserted and removed is written once, by [`save`](Self::save), as the difference of
/// top-level keys: parallel requests that change other keys lose nothing. To change a value
/// that depends on what is stored (to count, to append, to take), use
/// [`update_value`](Self::update_value), [`pop`](Self::pop) or [`update`](Self::update).
#[derive(Clone)]
pub struct RequestSession(Arc<Inner>);

struct Inner {
    client: Client,
    engine: String,
    /// One call after another: each relies on what the one before has found. Held while the
    /// daemon is asked.
    calls: tokio::sync::Mutex<()>,
    /// Never held while the daemon is asked.
    view: Mutex<View>,
}

impl RequestSession {
    /// Finds the session of a Cookie header (several lines joined with `"; "`; empty: there is
    /// none). The daemon is not asked if the header has no cookie of the engine's name.
    ///
    /// # Errors
    ///
    /// An error means 503, never "nobody": see [`Error`].
    pub async fn open(client: &Client, cookie_header: impl Into<Bytes>) -> Result<Self> {
        Self::open_engine(client, cookie_header, None).await
    }

    /// [`RequestSession::open`] for another engine than that of the client.
    ///
    /// # Errors
    ///
    /// As [`RequestSession::open`].
    pub async fn open_engine(
        client: &Client,
        cookie_header: impl Into<Bytes>,
        engine: Option<&str>,
    ) -> Result<Self> {
        let header: Bytes = cookie_header.into();
        let session = Self(Arc::new(Inner {
            client: client.clone(),
            engine: client.engine(engine.map(str::to_owned)),
            calls: tokio::sync::Mutex::default(),
            view: Mutex::default(),
        }));
        if !header.is_empty() {
            let cookie_name = session.describe().await?.cookie_name;
            if wire::has_cookie(&header, &cookie_name) {
                session.view().credential = Credential::cookie_header(header);
                session.resolve().await?;
            }
        }
        Ok(session)
    }

    fn view(&self) -> MutexGuard<'_, View> {
        self.0.view.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn describe(&self) -> Result<Engine> {
        self.0.client.described_engine(&self.0.engine).await
    }

    /// The client that it goes through.
    pub fn client(&self) -> &Client {
        &self.0.client
    }

    /// What became of the credential. [`State::None`] also after a logout.
    pub fn state(&self) -> State {
        self.view().state
    }

    /// Whether there is a session.
    pub fn is_live(&self) -> bool {
        self.view().info.is_some()
    }

    /// Whether this request created the session.
    pub fn is_new(&self) -> bool {
        self.view().is_new
    }

    /// Whether the id is from before a login: the request is nobody's, and every change is
    /// [`Error::Superseded`].
    pub fn is_superseded(&self) -> bool {
        self.state() == State::Superseded
    }

    /// The session without its data. `None`: there is no session.
    pub fn info(&self) -> Option<SessionInfo> {
        self.view().info.clone()
    }

    /// The public id: not a credential, safe to log. `None`: there is no session.
    pub fn id(&self) -> Option<String> {
        self.view().info.as_ref().map(|info| info.id.clone())
    }

    /// Whom the session belongs to. `None`: nobody.
    pub fn principal(&self) -> Option<String> {
        let view = self.view();
        let principal = view.info.as_ref().map(|info| info.principal.clone());
        principal.filter(|principal| !principal.is_empty())
    }

    /// The version of the session. 0: there is none.
    pub fn version(&self) -> u64 {
        self.view().info.as_ref().map_or(0, |info| info.version)
    }

    /// When the session ends, unless it is used before. `None`: there is no session.
    pub fn expires(&self) -> Option<SystemTime> {
        self.view().info.as_ref().map(|info| info.expire_time)
    }

    /// The value of the one Set-Cookie line to send, before the response head goes out. Ask
    /// when everything else is done.
    pub fn set_cookie(&self) -> Option<String> {
        self.view().set_cookie.clone()
    }

    /// The response head is sent. What needs another cookie fails from now on with reason
    /// `HEAD_SENT`: adapters call it.
    pub fn head_sent(&self) {
        self.view().head_sent = true;
    }

    /// Reads the value of a key, with what is not saved yet. `None`: there is no such key.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] with reason `INVALID_DATA` if the value is none of a `T`.
    pub fn get<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>> {
        let text = self.view().text(key);
        text.map(|text| data::read(key, &text)).transpose()
    }

    /// A copy of the data, with what is not saved yet.
    pub fn data(&self) -> Data {
        self.view().data()
    }

    /// Whether there is such a key.
    pub fn contains_key(&self, key: &str) -> bool {
        self.view().text(key).is_some()
    }

    /// Keeps a value under a key, until [`save`](Self::save) stores it.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] with reason `INVALID_DATA` if the value is not what JSON can
    /// hold. The data stay as they were.
    pub fn insert(&self, key: impl Into<String>, value: impl Serialize) -> Result<()> {
        let key = key.into();
        let text = data::write(&key, &value)?;
        self.view().changes.insert(key, Some(text));
        Ok(())
    }

    /// Removes a key, until [`save`](Self::save) stores that. Of two parallel requests both can
    /// see the value before; see [`pop`](Self::pop).
    pub fn remove(&self, key: &str) {
        self.view().changes.insert(key.to_owned(), None);
    }

    /// Removes all keys. The session stays.
    pub fn clear(&self) {
        let mut view = self.view();
        view.changes = view.base.keys().map(|key| (key.to_owned(), None)).collect();
    }

    /// Whether [`save`](Self::save) would write something.
    pub fn is_changed(&self) -> bool {
        !self.view().difference().is_empty()
    }

    /// Writes the top-level keys that changed, in one write, and only if something changed. The
    /// layer for axum calls it before the response head goes out. It creates a session if there
    /// is none and something was inserted.
    ///
    /// Returns `false` if the session ended during this request. Then the change is dropped,
    /// because a logout must not be undone; `tracing` is told.
    ///
    /// # Errors
    ///
    /// [`Error::Superseded`] if the id is from before a login, [`Error::DataTooLarge`], and
    /// others: see [`Error`].
    pub async fn save(&self) -> Result<bool> {
        if !self.is_changed() {
            return Ok(true);
        }
        let _calls = self.0.calls.lock().await;
        let mut is_first = true;
        loop {
            let (difference, state, is_live, ended) = {
                let view = self.view();
                (view.difference(), view.state, view.info.is_some(), view.ended)
            };
            if difference.is_empty() {
                return Ok(true);
            }
            if state == State::Superseded {
                return Err(Error::superseded());
            }
            if ended {
                return Ok(self.drop_changes("it ended during the request"));
            }
            if !is_live {
                self.write(difference.set.clone().into()).await?;
                self.view().written(&difference);
                return Ok(true);
            }
            match self.save_live(&difference).await {
                Ok(()) => {
                    self.view().written(&difference);
                    return Ok(true);
                }
                Err(Error::SessionGone(_)) => self.gone().await?,
                Err(error) => return Err(error),
            }
            // The header may have another session of the visitor. That is asked for once.
            if !self.is_live() || !is_first {
                return Ok(self.drop_changes("it ended during the request"));
            }
            is_first = false;
        }
    }

    async fn save_live(&self, difference: &Difference) -> Result<()> {
        // The daemon removes so many keys in one write.
        let mut chunks = difference.unset.chunks(MAX_UNSET).map(<[String]>::to_vec).peekable();
        loop {
            let unset = chunks.next().unwrap_or_default();
            if chunks.peek().is_some() {
                self.write(WriteOptions { unset, ..Default::default() }).await?;
            } else {
                let set = difference.set.clone();
                return self.write(WriteOptions { set, unset, ..Default::default() }).await;
            }
        }
    }

    /// Forgets what was changed, and tells. Returns `false`, for [`RequestSession::save`].
    pub(crate) fn drop_changes(&self, why: &str) -> bool {
        let mut view = self.view();
        let keys: Vec<_> = view.changes.keys().cloned().collect();
        let state = view.state;
        view.forget();
        drop(view);
        tracing::warn!(?state, ?keys, why, "the change of a session is dropped");
        false
    }

    /// Reads, changes and writes the data so that parallel requests lose nothing: the way to
    /// count, to append or to take. `change` gets the stored data, and what it returns is
    /// returned. It may run again, up to 20 times, while other requests write first. If it
    /// fails, or changes nothing, nothing is written. The session is created if there is none.
    ///
    /// What was inserted and not saved stays as it is, except for the keys that `change`
    /// changes.
    ///
    /// # Errors
    ///
    /// Those of `change`; [`Error::SessionGone`] if the session ended during this request,
    /// [`Error::Superseded`] if the id is from before a login, [`Error::VersionMismatch`] if 20
    /// parallel requests were faster, and others: see [`Error`].
    pub async fn update<T>(&self, mut change: impl FnMut(&mut Data) -> Result<T>) -> Result<T> {
        let _calls = self.0.calls.lock().await;
        let mut attempt = 1;
        loop {
            if self.view().needs_reading() {
                self.resolve().await?;
                let mut view = self.view();
                view.ended = view.info.is_none() && view.state != State::Superseded;
            }
            let (before, if_version) = {
                let view = self.view();
                if view.state == State::Superseded {
                    return Err(Error::superseded());
                }
                if view.ended {
                    return Err(Error::gone());
                }
                (view.base.clone(), view.info.as_ref().map(|info| info.version))
            };
            let mut after = before.clone();
            let value = change(&mut after)?;
            let difference = before.difference(&after);
            if difference.is_empty() {
                return Ok(value);
            }
            let Difference { set, unset } = difference.clone();
            match self.write(WriteOptions { set, unset, if_version, ..Default::default() }).await {
                Ok(()) => {
                    self.view().updated(after, &difference);
                    return Ok(value);
                }
                Err(error @ Error::SessionGone(_)) => {
                    self.gone().await?;
                    return Err(error);
                }
                // With an unknown outcome the change may be there already. Another attempt
                // could count twice.
                Err(error)
                    if matches!(error, Error::VersionMismatch(_))
                        && error.applied() == Applied::No
                        && attempt < MAX_ATTEMPTS => {}
                Err(error) => return Err(error),
            }
            self.view().exact = false;
            let longest = Duration::from_millis(1 << attempt.min(6)).min(Duration::from_millis(50));
            sleep(longest.mul_f64(fastrand::f64())).await;
            attempt += 1;
        }
    }

    /// [`update`](Self::update) for the value of one key. `change` gets the stored value, or
    /// the default.
    ///
    /// ```no_run
    /// # async fn run(session: sessiond_client::RequestSession) -> sessiond_client::Result<()> {
    /// let items = session
    ///     .update_value("cart", |cart: &mut Vec<String>| {
    ///         cart.push("tea".to_owned());
    ///         cart.len()
    ///     })
    ///     .await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`update`](Self::update), and [`Error::InvalidArgument`] if the stored value is none
    /// of a `V`.
    pub async fn update_value<V, T>(
        &self,
        key: &str,
        mut change: impl FnMut(&mut V) -> T,
    ) -> Result<T>
    where
        V: DeserializeOwned + Serialize + Default,
    {
        self.update(|data| {
            let mut value: V = data.get(key)?.unwrap_or_default();
            let result = change(&mut value);
            data.insert(key, value)?;
            Ok(result)
        })
        .await
    }

    /// Takes the value of a key from the stored session at once: of parallel requests one gets
    /// it. `None`: there is no such key, or no session any more, or it is not this visitor's.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] if the value is none of a `T`, and others: see [`Error`].
    pub async fn pop<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>> {
        if !self.contains_key(key) {
            return Ok(None);
        }
        let taken = match self.update(|data| data.take::<T>(key)).await {
            Ok(taken) => taken,
            Err(Error::SessionGone(_) | Error::Superseded(_)) => return Ok(None),
            Err(error) => return Err(error),
        };
        // It may be inserted in this request, and not be stored yet.
        let taken = match taken {
            Some(taken) => Some(taken),
            None => self.get(key)?,
        };
        self.view().changes.remove(key);
        Ok(taken)
    }

    /// Asks for the session. What was not saved stays.
    async fn resolve(&self) -> Result<()> {
        let credential = self.view().credential.clone();
        let options = ResolveOptions { engine: Some(self.0.engine.clone()), ..Default::default() };
        let found = self.0.client.resolve_with(&credential, options).await?;
        self.view().resolved(found);
        Ok(())
    }

    /// Changes the session, or creates one if there is none.
    async fn write(&self, mut options: WriteOptions) -> Result<()> {
        options.engine = Some(self.0.engine.clone());
        let (credential, created) = {
            let view = self.view();
            let creates = view.info.is_none();
            if view.head_sent && (creates || options.roll || options.persistent.is_some()) {
                return Err(Error::new(
                    Reason::HeadSent,
                    Code::FailedPrecondition,
                    Applied::No,
                    "the response head was sent already: the browser would not get its cookie",
                ));
            }
            if creates {
                options.duration = options.duration.or(view.planned_duration);
                options.persistent = options.persistent.or(view.planned_persistent);
                options.unset.clear();
                (Credential::NONE, true)
            } else {
                (view.credential.clone(), false)
            }
        };
        let written = self.0.client.write(&credential, options).await?;
        self.view().wrote(written, created);
        Ok(())
    }

    /// Asks what became of a credential that was not live. If it was superseded, that is the
    /// error.
    async fn gone(&self) -> Result<()> {
        self.resolve().await?;
        let mut view = self.view();
        if view.state == State::Superseded {
            return Err(Error::superseded());
        }
        view.ended = view.info.is_none();
        Ok(())
    }
}

/// Prints no data and no cookie.
impl fmt::Debug for RequestSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let view = self.view();
        f.debug_struct("RequestSession")
            .field("state", &view.state)
            .field("id", &view.info.as_ref().map(|info| info.id.as_str()))
            .finish_non_exhaustive()
    }
}
