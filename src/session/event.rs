//! Events: what happens to sessions, for those who watch.
//!
//! The engine emits an event after the store has acknowledged the change. The last event
//! of a session is one [`Destroyed`](EventKind::Destroyed) or one
//! [`Expired`](EventKind::Expired). Two operations on one session that run at the same
//! time may emit their events in either order.

use super::{clock::WallTime, id::PublicId, record::Principal};

/// Something that has happened to a session.
#[derive(Debug, Clone, Copy)]
pub struct Event<'a> {
    /// The engine's name.
    pub engine: &'a str,
    /// Its public id, which is no credential.
    pub session: PublicId,
    /// The principal after the event; of a session that has ended, its last one.
    pub principal: &'a Principal,
    /// When it happened, by the wall clock.
    pub time: WallTime,
    /// What happened.
    pub kind: EventKind<'a>,
}

/// What can happen to a session.
#[derive(Debug, Clone, Copy)]
pub enum EventKind<'a> {
    /// By a Write, by a Resolve with `create`, or by an adoption.
    Created,
    /// Its id was rolled; `former` is the principal before that.
    Rolled {
        /// Empty: it was anonymous.
        former: &'a Principal,
    },
    /// It was ended while it was live.
    Destroyed(Cause),
    /// Its time was over, and now it is removed.
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
    /// Its principal has a newer session, and reached the limit on their number.
    Limit,
}

/// Receives the events of an engine.
pub trait EventSink: Send + Sync + 'static {
    /// While nobody listens, no event is made.
    fn is_listening(&self) -> bool;

    /// Takes an event. Never waits, because it is called in the middle of an operation.
    fn emit(&self, event: Event<'_>);
}

/// A sink that never listens.
pub struct NoopSink;

impl EventSink for NoopSink {
    fn is_listening(&self) -> bool {
        false
    }

    fn emit(&self, _: Event<'_>) {}
}
