//! What concerns the user of a session: login, logout, devices.

use std::time::{Duration, SystemTime};

use super::RequestSession;
use crate::{
    error::{Error, Result},
    types::{DestroyOptions, Destroyed, ListOptions, Scope, State, TouchOptions, WriteOptions},
    wire,
};

/// Options of a login.
#[derive(Debug, Clone, Default)]
pub struct LoginOptions {
    /// Whether the cookie outlives the browser ("remember me"). `None`: as the engine says.
    pub persistent: Option<bool>,
    /// A text for the user's list of devices, such as `"Firefox on Linux"`, at most 256 octets.
    pub label: Option<String>,
    /// The session's own idle timeout. `None`: as the engine says.
    pub duration: Option<Duration>,
}

/// One of a user's sessions.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Device {
    /// The public id: pass it to [`RequestSession::end`].
    pub id: String,
    /// Whether it is the session of this request.
    pub current: bool,
    /// What a login has set. Empty: nothing.
    pub label: String,
    /// When the session was created.
    pub create_time: SystemTime,
    /// When it was last used.
    pub last_use_time: SystemTime,
    /// When it ends, unless it is used before.
    pub expire_time: SystemTime,
}

impl RequestSession {
    /// Gives the session to a user, under a new id: somebody who knows the old one gains
    /// nothing. The session is created if there is none. What an anonymous visitor has stored
    /// stays; what another user has stored is dropped. What is not saved is written with it.
    ///
    /// `principal` is whom the session belongs to from now on, such as a user id: 1 to 256
    /// octets.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`], [`Error::TooManySessions`], [`Error::Superseded`] if the id
    /// is from before another login, and others: see [`Error`].
    pub async fn login(&self, principal: &str) -> Result<()> {
        self.login_with(principal, LoginOptions::default()).await
    }

    /// [`login`](Self::login) with options.
    ///
    /// # Errors
    ///
    /// As [`login`](Self::login).
    pub async fn login_with(&self, principal: &str, options: LoginOptions) -> Result<()> {
        if principal.is_empty() {
            return Err(Error::invalid("principal", "expected a text that is not empty"));
        }
        let _calls = self.0.calls.lock().await;
        let mut attempts = 0;
        loop {
            attempts += 1;
            if self.is_superseded() {
                return Err(Error::superseded());
            }
            let is_foreign = self.principal().is_some_and(|owner| owner != principal);
            let LoginOptions { mut persistent, mut label, mut duration } = options.clone();
            let difference = if is_foreign {
                // Nothing of the user before is left.
                let engine = self.describe().await?;
                persistent = persistent.or(Some(engine.persistent));
                label = label.or(Some(String::new()));
                duration = duration.or(Some(engine.duration));
                Default::default()
            } else {
                self.view().difference()
            };
            let write = WriteOptions {
                set: difference.set.clone(),
                unset: difference.unset.clone(),
                roll: self.is_live(),
                principal: Some(principal.to_owned()),
                duration,
                persistent,
                label,
                ..Default::default()
            };
            match self.write(write).await {
                Ok(()) => {
                    let mut view = self.view();
                    view.ended = false;
                    if is_foreign {
                        view.forget();
                    } else {
                        view.written(&difference);
                    }
                    return Ok(());
                }
                // Whoever logs in wants a session, also if the anonymous one has just ended.
                Err(Error::SessionGone(_)) if attempts < 3 => self.gone().await?,
                Err(error) => return Err(error),
            }
        }
    }

    /// Ends this session and deletes the cookie, also with an id from just before a login.
    /// Returns whether there was one. What is inserted afterwards begins a new session.
    ///
    /// # Errors
    ///
    /// See [`Error`].
    pub async fn logout(&self) -> Result<bool> {
        let _calls = self.0.calls.lock().await;
        Ok(self.destroy(Scope::This).await? > 0)
    }

    /// Ends the user's other sessions. Returns how many there were.
    ///
    /// # Errors
    ///
    /// [`Error::Superseded`] if the id is from before a login, and others: see [`Error`].
    pub async fn logout_others(&self) -> Result<u32> {
        let _calls = self.0.calls.lock().await;
        if self.is_superseded() {
            return Err(Error::superseded());
        }
        if !self.is_live() {
            return Ok(0);
        }
        Ok(self.ask_to_destroy(Scope::Others).await?.count)
    }

    /// Ends all of the user's sessions, this one too, and deletes the cookie. Returns how many
    /// there were.
    ///
    /// # Errors
    ///
    /// As [`logout_others`](Self::logout_others).
    pub async fn logout_everywhere(&self) -> Result<u32> {
        let _calls = self.0.calls.lock().await;
        if self.is_superseded() {
            return Err(Error::superseded());
        }
        self.destroy(Scope::All).await
    }

    /// The user's live sessions, ordered by id; that of an anonymous visitor alone; none if
    /// there is no session.
    ///
    /// # Errors
    ///
    /// See [`Error`].
    pub async fn devices(&self) -> Result<Vec<Device>> {
        if !self.is_live() {
            return Ok(vec![]);
        }
        let credential = self.view().credential.clone();
        let options = ListOptions { engine: Some(self.0.engine.clone()) };
        let listed = self.0.client.list_sessions_with(&credential, options).await?;
        let current = listed.current_session_id;
        let devices = listed.sessions.into_iter().map(|session| Device {
            current: session.id == current,
            id: session.id,
            label: session.label,
            create_time: session.create_time,
            last_use_time: session.last_use_time,
            expire_time: session.expire_time,
        });
        Ok(devices.collect())
    }

    /// Ends sessions of the same user by their public ids. Other ids are ignored. Returns how
    /// many were live.
    ///
    /// # Errors
    ///
    /// As [`logout_others`](Self::logout_others), and [`Error::InvalidArgument`] for more than
    /// 1000 ids, or for a text that is none.
    pub async fn end(&self, ids: impl IntoIterator<Item = impl Into<String>>) -> Result<u32> {
        let ids: Vec<String> = ids.into_iter().map(Into::into).collect();
        let _calls = self.0.calls.lock().await;
        if self.is_superseded() {
            return Err(Error::superseded());
        }
        let Some(own) = self.id() else { return Ok(0) };
        if ids.is_empty() {
            return Ok(0);
        }
        if ids.contains(&own) {
            return self.destroy(Scope::Ids(ids)).await;
        }
        Ok(self.ask_to_destroy(Scope::Ids(ids)).await?.count)
    }

    /// Gives the browser a new id for the same session: do it at every change of privilege;
    /// [`login`](Self::login) does it itself. What is not saved is written with it. Nothing
    /// happens if there is no session.
    ///
    /// # Errors
    ///
    /// As [`update`](Self::update).
    pub async fn roll(&self) -> Result<()> {
        let _calls = self.0.calls.lock().await;
        let difference = self.view().difference();
        let (set, unset) = (difference.set.clone(), difference.unset.clone());
        if self.change(WriteOptions { roll: true, set, unset, ..Default::default() }).await? {
            self.view().written(&difference);
        }
        Ok(())
    }

    /// Says whether the cookie outlives the browser ("remember me"). Without a session, it is
    /// kept for the one that this request creates.
    ///
    /// # Errors
    ///
    /// As [`update`](Self::update).
    pub async fn set_persistent(&self, persistent: bool) -> Result<()> {
        let _calls = self.0.calls.lock().await;
        self.view().planned_persistent = Some(persistent);
        let options = WriteOptions { persistent: Some(persistent), ..Default::default() };
        self.change(options).await.map(drop)
    }

    /// Moves the deadline. `duration` is the session's own idle timeout from now on; `None`: as
    /// it was. Without a session, it is kept for the one that this request creates. Returns
    /// whether there is a session.
    ///
    /// # Errors
    ///
    /// [`Error::Superseded`], [`Error::InvalidArgument`], and others: see [`Error`].
    pub async fn touch(&self, duration: Option<Duration>) -> Result<bool> {
        let _calls = self.0.calls.lock().await;
        if self.is_superseded() {
            return Err(Error::superseded());
        }
        wire::duration(duration)?;
        let credential = {
            let mut view = self.view();
            view.planned_duration = duration.or(view.planned_duration);
            view.credential.clone()
        };
        if !self.is_live() {
            return Ok(false);
        }
        let options = TouchOptions { engine: Some(self.0.engine.clone()), duration };
        let touched = self.0.client.touch_with(&credential, options).await?;
        Ok(self.view().touched(touched))
    }

    /// Reads the session again. What is not saved is dropped. Returns whether there is a
    /// session.
    ///
    /// # Errors
    ///
    /// See [`Error`].
    pub async fn reload(&self) -> Result<bool> {
        let _calls = self.0.calls.lock().await;
        if !self.view().credential.is_none() {
            self.resolve().await?;
        }
        let mut view = self.view();
        view.changes.clear();
        Ok(view.info.is_some())
    }

    /// A change of the live session that is no change of its data by itself. Returns whether
    /// there is one.
    async fn change(&self, options: WriteOptions) -> Result<bool> {
        if self.is_superseded() {
            return Err(Error::superseded());
        }
        if !self.is_live() {
            return Ok(false);
        }
        match self.write(options).await {
            Ok(()) => Ok(true),
            Err(error @ Error::SessionGone(_)) => {
                self.gone().await?;
                Err(error)
            }
            Err(error) => Err(error),
        }
    }

    async fn ask_to_destroy(&self, scope: Scope) -> Result<Destroyed> {
        let credential = self.view().credential.clone();
        let options = DestroyOptions { engine: Some(self.0.engine.clone()), scope };
        self.0.client.destroy_with(&credential, options).await
    }

    /// Ends sessions, this one among them.
    async fn destroy(&self, scope: Scope) -> Result<u32> {
        if self.view().credential.is_none() {
            self.view().over(State::None);
            return Ok(0);
        }
        let destroyed = self.ask_to_destroy(scope).await?;
        let mut view = self.view();
        view.over(State::None);
        view.took(destroyed.set_cookie);
        view.credential = crate::Credential::NONE;
        Ok(destroyed.count)
    }
}
