//! Events: what happens to sessions, for those who watch.
//!
//! The engine tells what has happened, after the store has said that it did.
//! Of each session the last event is one [`Destroyed`](Happening::Destroyed) or
//! one [`Expired`](Happening::Expired). Two operations on one session that run at
//! the same time may be told in either order.

use super::{clock::Moment, id::PublicId, record::Principal};

/// Something that has happened to a session.
#[derive(Debug, Clone, Copy)]
pub struct Event<'a> {
    /// The engine's name.
    pub engine: &'a str,
    pub session: PublicId,
    /// Whom the session belongs to by now, or did until its end.
    pub principal: &'a Principal,
    pub time: Moment,
    pub happening: Happening<'a>,
}

/// What can happen to a session.
#[derive(Debug, Clone, Copy)]
pub enum Happening<'a> {
    Created,
    /// Its id was rolled; `former` is whom it belonged to before.
    Rolled {
        former: &'a Principal,
    },
    /// It was ended while it was live.
    Destroyed(Cause),
    /// Its time was over, and now it is gone.
    Expired,
}

/// Why a live session was ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// A Destroy that presented it.
    Owner,
    /// A Destroy of its principal that presented another session.
    Scope,
    /// An operator revoked it.
    Revoked,
    /// Its principal has a newer one, and may have only so many.
    Limit,
}

/// Whom the engine tells.
pub trait Audience: Send + Sync + 'static {
    /// Nothing is told while nobody listens.
    fn is_listening(&self) -> bool;

    /// Does not wait for anybody: it is called amid an operation.
    fn tell(&self, event: Event<'_>);
}

/// An audience that never listens.
pub struct Nobody;

impl Audience for Nobody {
    fn is_listening(&self) -> bool {
        false
    }

    fn tell(&self, _: Event<'_>) {}
}
