//! The random steps of the state machine, and the random rules for them.

use proptest::prelude::*;
use sessiond::store::sled::Durability;

use crate::model::{Limit, Millis, Rules, Scope};

pub(crate) const KEYS: [&str; 4] = ["a", "b", "cart", "n"];
pub(crate) const VALUES: [&str; 6] =
    ["1", "9007199254740993", "1.50", "null", r#""zo\u00eb""#, r#"[1,{"x": 2}]"#];
pub(crate) const PRINCIPALS: [&str; 3] = ["", "ann", "bob"];
pub(crate) const LABELS: [&str; 2] = ["", "Firefox on Linux"];
pub(crate) const DURATIONS: [Millis; 3] = [1, 20_000, 640_000];

/// A step of a case.
#[derive(Debug, Clone)]
pub(crate) enum Step {
    Create(Request),
    Resolve {
        who: Who,
        peek: bool,
        create: bool,
    },
    /// With a duration by index.
    Touch(Who, Option<usize>),
    Write(Who, Request),
    Destroy(Who, Ends),
    /// Lists the credential's own sessions, in pages of this size.
    ListOwn(Who, usize),
    /// Lists all sessions of a principal (by index), in pages of this size.
    List(usize, usize),
    /// Ends sessions by principal, by numbers of sessions that were ever created, or by both.
    Revoke {
        principal: Option<usize>,
        sessions: Option<Vec<usize>>,
    },
    Cleanup {
        slice: usize,
    },
    Sweep {
        slice: usize,
    },
    Advance(Millis),
    /// A new secret signs from now on.
    Rotate,
    /// Closes the database and opens it again.
    Restart,
}

/// What a Write asks for. Numbers are indexes into the lists above.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub set: Vec<(usize, usize)>,
    pub unset: Vec<usize>,
    pub replace: bool,
    pub if_version: Guess,
    pub roll: bool,
    pub principal: Option<usize>,
    pub duration: Option<usize>,
    pub persistent: Option<bool>,
    pub label: Option<usize>,
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum Guess {
    None,
    Current,
    Next,
}

/// What a Destroy ends.
#[derive(Debug, Clone)]
pub(crate) enum Ends {
    Scope(Scope),
    /// Sessions that were ever created.
    Named(Vec<usize>),
}

/// The credential of a step.
#[derive(Debug, Clone)]
pub(crate) enum Who {
    Nobody,
    Token(Piece),
    /// A Cookie header with these pieces, in order.
    Cookies(Vec<Piece>),
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum Piece {
    /// The newest token of an existing session, in one of its spellings.
    Newest(usize, u8),
    /// Any token that was ever given.
    Any(usize),
    Junk(u8),
    /// An authentic token of a session that never existed.
    Stranger,
}

fn piece() -> impl Strategy<Value = Piece> {
    prop_oneof![
        10 => (0..1000usize, 0..5u8).prop_map(|(at, spelling)| Piece::Newest(at, spelling)),
        5 => (0..1000usize).prop_map(Piece::Any),
        2 => (0..5u8).prop_map(Piece::Junk),
        1 => Just(Piece::Stranger),
    ]
}

fn who() -> impl Strategy<Value = Who> {
    prop_oneof![
        1 => Just(Who::Nobody),
        8 => piece().prop_map(Who::Token),
        4 => prop::collection::vec(piece(), 0..4).prop_map(Who::Cookies),
        1 => prop::collection::vec(piece(), 8..11).prop_map(Who::Cookies),
    ]
}

fn request() -> impl Strategy<Value = Request> {
    (
        prop::collection::vec((0..KEYS.len(), 0..VALUES.len()), 0..4),
        prop::collection::vec(0..KEYS.len(), 0..3),
        prop::bool::weighted(0.1),
        prop_oneof![4 => Just(Guess::None), 3 => Just(Guess::Current), 1 => Just(Guess::Next)],
        prop::bool::weighted(0.2),
        prop::option::weighted(0.5, 0..PRINCIPALS.len()),
        prop::option::weighted(0.2, 0..DURATIONS.len()),
        prop::option::weighted(0.2, any::<bool>()),
        prop::option::weighted(0.2, 0..LABELS.len()),
    )
        .prop_map(|parts| {
            let (set, unset, replace, if_version, roll, principal, duration, persistent, label) =
                parts;
            Request {
                set,
                unset,
                replace,
                if_version,
                roll,
                principal,
                duration,
                persistent,
                label,
            }
        })
}

fn ends() -> impl Strategy<Value = Ends> {
    prop_oneof![
        3 => Just(Ends::Scope(Scope::This)),
        1 => Just(Ends::Scope(Scope::Others)),
        1 => Just(Ends::Scope(Scope::All)),
        2 => prop::collection::vec(0..1000usize, 1..4).prop_map(Ends::Named),
    ]
}

fn revoke() -> impl Strategy<Value = Step> {
    let sessions = || prop::collection::vec(0..1000usize, 1..4);
    prop_oneof![
        sessions().prop_map(|sessions| (None, Some(sessions))),
        (1..PRINCIPALS.len()).prop_map(|principal| (Some(principal), None)),
        (1..PRINCIPALS.len(), sessions())
            .prop_map(|(principal, sessions)| (Some(principal), Some(sessions))),
    ]
    .prop_map(|(principal, sessions)| Step::Revoke { principal, sessions })
}

pub(crate) fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => request().prop_map(Step::Create),
        8 => (who(), prop::bool::weighted(0.3), prop::bool::weighted(0.2))
            .prop_map(|(who, peek, create)| Step::Resolve { who, peek, create }),
        4 => (who(), prop::option::weighted(0.2, 0..DURATIONS.len()))
            .prop_map(|(who, duration)| Step::Touch(who, duration)),
        10 => (who(), request()).prop_map(|(who, request)| Step::Write(who, request)),
        4 => (who(), ends()).prop_map(|(who, ends)| Step::Destroy(who, ends)),
        2 => (who(), 1..4usize).prop_map(|(who, size)| Step::ListOwn(who, size)),
        3 => (1..PRINCIPALS.len(), 1..4usize).prop_map(|(whose, size)| Step::List(whose, size)),
        1 => revoke(),
        2 => (1..4usize).prop_map(|slice| Step::Cleanup { slice }),
        1 => (1..4usize).prop_map(|slice| Step::Sweep { slice }),
        6 => prop_oneof![0..3u64, 1_000..9_000u64, 10_000..60_000u64, Just(200_000)]
            .prop_map(Step::Advance),
        1 => Just(Step::Rotate),
        1 => Just(Step::Restart),
    ]
}

pub(crate) fn rules() -> impl Strategy<Value = Rules> {
    (
        prop::sample::select(vec![64_000, 100_001, 6_400_000]),
        prop::sample::select(vec![None, Some(0), Some(7_000), Some(900_000)]),
        prop::option::of(Just(300_000)),
        prop::sample::select(vec![0, 5_000, 60_000]),
        prop::bool::weighted(0.8),
        any::<bool>(),
        prop::option::weighted(0.5, (1..3usize, any::<bool>())),
    )
        .prop_map(
            |(duration, granularity, absolute, roll_grace, automatic_touch, persistent, limit)| {
                Rules {
                    limit: limit.map(|(sessions, end_idlest)| Limit { sessions, end_idlest }),
                    duration,
                    granularity,
                    absolute,
                    roll_grace,
                    automatic_touch,
                    persistent,
                    max_data_bytes: 48,
                }
            },
        )
}

pub(crate) fn durability() -> impl Strategy<Value = Durability> {
    prop_oneof![
        6 => Just(Durability::Buffered),
        3 => Just(Durability::Flushed),
        1 => Just(Durability::Synced),
    ]
}
