//! What the four operations answer.

use crate::session::{
    cookie::SetCookie,
    credential::Absence,
    engine::{CookieUpdate, Session},
};

/// What an operation answers.
#[derive(Debug)]
pub enum Answer {
    Resolve {
        state: State,
        /// Present if the state is `Active` or `Created`.
        session: Option<Session>,
        cookie: CookieUpdate,
    },
    /// The session's data is no part of the answer.
    Touch {
        state: State,
        /// Present if the state is `Active`.
        session: Option<Session>,
        cookie: CookieUpdate,
    },
    /// The session's data is no part of the answer.
    Write { session: Session, cookie: CookieUpdate },
    Destroy {
        /// Live sessions that were ended.
        destroyed: u32,
        /// The deletion cookie.
        set_cookie: Option<SetCookie>,
    },
}

/// What became of a credential.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It is live.
    Active,
    /// A session was created, because the request allowed it.
    Created,
    /// There is no session, and why.
    Absent(Absence),
}
