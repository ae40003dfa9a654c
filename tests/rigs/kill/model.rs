//! The acknowledged state, and what may be found after a crash.

use sessiond::{grpc::pb::Session, session::id::PublicId};

/// A session that only one client changes.
pub(super) struct Held {
    /// The token of the last acknowledged create or roll.
    pub token: String,
    /// Tokens from before acknowledged rolls. They stay superseded.
    pub old: Vec<String>,
    /// Identifies the session; part of its data.
    pub number: u64,
    /// As acknowledged. Each change increments both.
    pub n: u64,
    pub version: u64,
    /// Whether it is acknowledged that the session belongs to its client's principal.
    pub listed: bool,
    /// The change that was sent and not acknowledged, at most one. It may have taken effect or
    /// not.
    pub doubt: Option<Doubt>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Doubt {
    Write,
    Roll,
    Destroy,
}

/// A token that must not be live.
pub(super) struct Gone {
    pub token: String,
    pub why: Why,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Why {
    /// The end of its session was acknowledged.
    Destroyed,
    /// A roll took effect, but its answer with the new id was lost.
    Rolled,
    /// As [`Self::Rolled`], and then a call that ends all sessions of the principal got no
    /// answer.
    RolledOrDestroyed,
}

/// Counts, and the violations that were found.
#[derive(Default)]
pub(super) struct Tally {
    /// Acknowledged creates, writes, rolls and ends.
    pub acknowledged: u64,
    /// The Resolves that verified them.
    pub resolved: u64,
    pub lost: u64,
    pub back: u64,
    pub violations: Vec<String>,
}

/// As many as a reader needs to see what happened.
const MOST_VIOLATIONS: usize = 20;

impl Tally {
    pub(super) fn violate(&mut self, what: String) {
        if self.violations.len() < MOST_VIOLATIONS {
            self.violations.push(what);
        }
    }

    pub(super) fn lose(&mut self, what: String) {
        self.lost += 1;
        self.violate(format!("lost: {what}"));
    }

    pub(super) fn see_back(&mut self, what: String) {
        self.back += 1;
        self.violate(format!("back: {what}"));
    }

    pub(super) fn add(&mut self, other: Tally) {
        self.acknowledged += other.acknowledged;
        self.resolved += other.resolved;
        self.lost += other.lost;
        self.back += other.back;
        for what in other.violations {
            self.violate(what);
        }
    }
}

impl Held {
    /// The public id, which is the first part of a token.
    pub(super) fn id(&self) -> &str {
        &self.token[..PublicId::TEXT_LEN]
    }

    /// The data of change `n`, as a Write sets them.
    pub(super) fn set(number: u64, n: u64) -> String {
        format!(r#"{{"n":{n},"pad":"{}"}}"#, pad(number, n))
    }

    /// The data of a new session, with the key `who`, which later Writes do not set.
    pub(super) fn initial(number: u64) -> String {
        format!(r#"{{"who":{number},"n":0,"pad":"{}"}}"#, pad(number, 0))
    }

    /// Compares the session that was found with the acknowledged state, and decides the change
    /// with an unknown result. An error says what is wrong.
    pub(super) fn settle(&mut self, found: &Session) -> Result<(), String> {
        let Self { number, n, version, doubt, .. } = &*self;
        let doubtful = u64::from(matches!(doubt, Some(Doubt::Write)));
        let expected = |n: u64| {
            format!(r#"{{"who":{number},"n":{n},"pad":"{}"}}"#, pad(*number, n)).into_bytes()
        };
        // A roll without an acknowledgement that took effect is found as SUPERSEDED, not here.
        for more in 0..=doubtful {
            if found.version == version + more && found.data == expected(n + more) {
                self.n += more;
                self.version += more;
                self.doubt = None;
                return Ok(());
            }
        }
        let data = String::from_utf8_lossy(&found.data);
        let start: String = data.chars().take(60).collect();
        Err(format!(
            "session {number}: expected version {version} with n {n} (unacknowledged: {doubt:?}), found \
             version {} with {} bytes of data that begin with {start:?}",
            found.version,
            data.len()
        ))
    }
}

/// Text whose length and letters depend on the session and the change, so that a record mixed
/// from two of them is noticed. Most sessions are small. One in ten has 30 to 60 KiB, so that
/// sled fills segments and reuses them.
fn pad(number: u64, n: u64) -> String {
    let mixed = (number * 1_000_003 + n).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
    let len = match number % 10 {
        0 => 30 * 1024 + mixed % (29 * 1024),
        1..=3 => 1024 + mixed % (7 * 1024),
        _ => mixed % 300,
    };
    let letter = char::from(b'a' + (mixed % 26) as u8);
    std::iter::repeat_n(letter, len as usize).collect()
}
