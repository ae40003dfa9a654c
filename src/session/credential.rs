//! Credentials: turns what a request presents into the session ids that it proves.

use super::{
    cookie::{Cookie, MAX_HEADER_LEN, candidates},
    foreign::ForeignId,
    id::{PublicId, SessionId, VerifierHash},
    token::Keyring,
};

/// What a request presents. It may hold any octets.
#[derive(Clone, Copy)]
pub enum Credential<'a> {
    /// No credential.
    Absent,
    /// The request's Cookie header.
    CookieHeader(&'a [u8]),
    /// A signed session id.
    Token(&'a [u8]),
}

/// An id that a known secret has signed.
#[derive(Debug, Clone)]
pub struct Proven {
    pub id: SessionId,
    pub verifier: VerifierHash,
    /// An older secret signed it. The browser should get a new signature.
    pub outdated: bool,
}

impl Proven {
    pub fn public(&self) -> PublicId {
        self.id.public()
    }
}

/// Why a credential leads to no live session. The most specific reason is the greatest: if a
/// request has several cookies, the greatest is returned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Absence {
    /// No session cookie in the credential.
    None,
    /// Malformed, or not signed by a known secret.
    Invalid,
    /// Authentic, but the session does not exist.
    NotFound,
    /// Authentic, but the id has been rolled since.
    Superseded,
    /// Authentic, but the session has expired.
    Expired,
}

/// Something that an operation may reach. Two operations that reach the same must run in
/// order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reach {
    Session(PublicId),
    /// A session whose public id is not known yet, by the prefix of its verifier's hash.
    Verifier([u8; 12]),
}

/// What a credential proves before a store is read. Holds only signed ids.
#[derive(Debug, Clone)]
pub struct Presented {
    // Kept apart from `rest`, because nearly every request proves one id, which then needs
    // no allocation.
    first: Option<Proven>,
    rest: Vec<Proven>,
    /// Signed texts that may be ids of the application whose sessions are adopted.
    foreign: Vec<ForeignId>,
    /// The reason to return if none of the proven ids is live.
    absence: Absence,
}

impl Presented {
    /// `adopts`: a signed text may be an id of the application.
    pub(super) fn new(
        credential: Credential<'_>,
        cookie: &Cookie,
        keyring: &Keyring,
        adopts: bool,
    ) -> Self {
        let mut presented = Self::nothing(Absence::None);
        match credential {
            Credential::Absent => {}
            Credential::Token(value) => presented.offer(value, keyring, adopts),
            Credential::CookieHeader(header) if header.len() > MAX_HEADER_LEN => {
                presented.absence = Absence::Invalid;
            }
            Credential::CookieHeader(header) => {
                for value in candidates(header, cookie.name()) {
                    presented.offer(value, keyring, adopts);
                }
            }
        }
        presented
    }

    fn nothing(absence: Absence) -> Self {
        Self { first: None, rest: Vec::new(), foreign: Vec::new(), absence }
    }

    /// Only these ids, which belong to adopted sessions.
    pub(super) fn adopted(proven: Vec<Proven>) -> Self {
        let mut presented = Self::nothing(Absence::NotFound);
        proven.into_iter().for_each(|proven| presented.push(proven));
        presented
    }

    /// The same, with these ids added.
    pub(super) fn and(&self, proven: Vec<Proven>) -> Self {
        let mut presented = self.clone();
        proven.into_iter().for_each(|proven| presented.push(proven));
        presented
    }

    fn offer(&mut self, value: &[u8], keyring: &Keyring, adopts: bool) {
        let foreign = |text: &[u8]| adopts.then(|| ForeignId::new(text)).flatten();
        let Some((authentic, foreign)) = keyring.verify_and(value, foreign) else {
            self.absence = self.absence.max(Absence::Invalid);
            return;
        };
        self.absence = self.absence.max(Absence::NotFound);
        self.foreign.extend(foreign);
        // A text without the form of a session id cannot name a session of ours.
        let Some(id) = authentic.id else { return };
        self.push(Proven { verifier: id.verifier_hash(), id, outdated: authentic.outdated });
    }

    fn push(&mut self, proven: Proven) {
        match self.first {
            None => self.first = Some(proven),
            Some(_) => self.rest.push(proven),
        }
    }

    /// The ids, in the order they were presented.
    pub fn proven(&self) -> impl Iterator<Item = &Proven> {
        self.first.iter().chain(&self.rest)
    }

    /// The texts that may be ids of the application, in the order they were presented.
    pub(super) fn foreign(&self) -> &[ForeignId] {
        &self.foreign
    }

    /// Whether an operation may adopt a session for this credential.
    pub fn may_be_adopted(&self) -> bool {
        !self.foreign.is_empty()
    }

    /// What an operation may reach with this credential.
    ///
    /// An adopted session can also be reached by the application's id. From that id only the
    /// verifier of the session's first id can be derived, so verifiers are in here too.
    pub fn reach(&self) -> impl Iterator<Item = Reach> + '_ {
        let ours = self.proven().map(|proven| proven.verifier);
        let theirs = self.foreign.iter().map(|foreign| foreign.derived().verifier_hash());
        let verifiers = ours.filter(|_| self.may_be_adopted()).chain(theirs);
        let sessions = self.proven().map(|proven| Reach::Session(proven.public()));
        sessions.chain(verifiers.map(|verifier| Reach::Verifier(verifier.prefix())))
    }

    pub fn absence(&self) -> Absence {
        self.absence
    }
}
