//! What was acknowledged, and what may be found after a crash.

use sessiond::{grpc::pb::Session, session::id::PublicId};

/// A session of one client, who alone changes it.
pub(super) struct Held {
    /// Of the last acknowledged change of the id.
    pub token: String,
    /// Tokens of before acknowledged rolls: superseded for ever.
    pub old: Vec<String>,
    /// Says who it is; kept in its data.
    pub number: u64,
    /// As acknowledged. Each change adds one to both.
    pub n: u64,
    pub version: u64,
    /// It is its client's principal's, as acknowledged.
    pub listed: bool,
    /// The one change that was sent and not acknowledged: it may have taken
    /// effect or not.
    pub doubt: Option<Doubt>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Doubt {
    Write,
    Roll,
    Destroy,
}

/// A token that must not be live any more.
pub(super) struct Gone {
    pub token: String,
    pub why: Why,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Why {
    /// Its end was acknowledged.
    Destroyed,
    /// A roll took effect whose answer, with the new id, nobody has.
    Rolled,
    /// The same, and then a call that ends all of its principal's was not answered.
    RolledOrDestroyed,
}

/// What was counted and what was wrong.
#[derive(Default)]
pub(super) struct Tally {
    /// Creates, writes, rolls and ends that were acknowledged.
    pub acknowledged: u64,
    /// Resolves that verified them.
    pub resolved: u64,
    pub lost: u64,
    pub back: u64,
    pub violations: Vec<String>,
}

/// Enough to see what happened.
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
    /// The public id, which a token begins with.
    pub(super) fn id(&self) -> &str {
        &self.token[..PublicId::TEXT_LEN]
    }

    /// The data of change `n`: what a Write sets.
    pub(super) fn set(number: u64, n: u64) -> String {
        format!(r#"{{"n":{n},"pad":"{}"}}"#, pad(number, n))
    }

    /// Of a new session: who it is besides, which no Write names again.
    pub(super) fn initial(number: u64) -> String {
        format!(r#"{{"who":{number},"n":0,"pad":"{}"}}"#, pad(number, 0))
    }

    /// Holds what was found to what was acknowledged and settles the doubt. An
    /// error says what is wrong.
    pub(super) fn settle(&mut self, found: &Session) -> Result<(), String> {
        let Self { number, n, version, doubt, .. } = &*self;
        let doubtful = u64::from(matches!(doubt, Some(Doubt::Write)));
        let expected = |n: u64| {
            format!(r#"{{"who":{number},"n":{n},"pad":"{}"}}"#, pad(*number, n)).into_bytes()
        };
        // An unacknowledged roll that took effect is found as SUPERSEDED.
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
            "session {number}: expected version {version} with n {n} (in doubt: {doubt:?}), found \
             version {} with {} bytes of data that begin {start:?}",
            found.version,
            data.len()
        ))
    }
}

/// Text whose length and letters follow from the session and the change, so
/// that a record of half of one and half of another is noticed. Most sessions
/// are small; each tenth has 30 to 60 KiB, so that segments fill and are used
/// again.
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
