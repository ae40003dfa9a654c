//! Credentials: from what a request presents to the ids it proves.

use super::{
    cookie::{Cookie, candidates},
    foreign::ForeignId,
    id::{PublicId, SessionId, VerifierHash},
    token::Keyring,
};

/// What a request presents. Any octets may come.
#[derive(Clone, Copy)]
pub enum Credential<'a> {
    /// Nothing at all.
    Absent,
    /// The request's Cookie header.
    CookieHeader(&'a [u8]),
    /// The signed session id.
    Token(&'a [u8]),
}

/// An id that a known secret has signed.
#[derive(Debug, Clone)]
pub struct Proven {
    pub id: SessionId,
    pub verifier: VerifierHash,
    /// An older secret signed it: the browser should get a fresh signature.
    pub outdated: bool,
}

impl Proven {
    pub fn public(&self) -> PublicId {
        self.id.public()
    }
}

/// Why a credential leads to no live session. In the order of how much it
/// tells, so that of several cookies the most telling answer is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Absence {
    /// No session cookie in the credential.
    None,
    /// Malformed, or signed by no known secret.
    Invalid,
    /// Authentic, but there is no such session.
    NotFound,
    /// Authentic, but the id was rolled since.
    Superseded,
    /// Authentic, but its time is over.
    Expired,
}

/// What a credential proves, before a store is asked. Nothing unsigned is in it.
#[derive(Debug, Clone)]
pub struct Presented {
    // Nearly every request proves one id: it needs no allocation.
    first: Option<Proven>,
    rest: Vec<Proven>,
    /// What may be ids of the application's, whose sessions are adopted.
    foreign: Vec<ForeignId>,
    /// The answer when none of the proven ids is live.
    absence: Absence,
}

impl Presented {
    /// `adopts`: what is signed may be an id of the application's.
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

    /// These ids alone: of sessions that were adopted.
    pub(super) fn adopted(proven: Vec<Proven>) -> Self {
        let mut presented = Self::nothing(Absence::NotFound);
        proven.into_iter().for_each(|proven| presented.push(proven));
        presented
    }

    /// These ids, too.
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
        // A text that is no id of ours names no session of ours.
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

    /// What may be ids of the application's, in the order they were presented.
    pub(super) fn foreign(&self) -> &[ForeignId] {
        &self.foreign
    }

    /// Whether an operation may make a session of this.
    pub fn may_be_adopted(&self) -> bool {
        !self.foreign.is_empty()
    }

    /// What an operation may reach with this: the public ids of sessions. An adopted
    /// session may be reached by the application's id, too, and that knows only what
    /// the first id of the session ends in: so that stands for the session as well.
    pub fn sessions(&self) -> impl Iterator<Item = PublicId> + '_ {
        let ours = self.proven().map(|proven| proven.verifier);
        let theirs = self.foreign.iter().map(|foreign| foreign.derived().verifier_hash());
        let ends = ours.filter(|_| self.may_be_adopted()).chain(theirs);
        self.proven().map(Proven::public).chain(ends.map(|hash| hash.shortened()))
    }

    pub fn absence(&self) -> Absence {
        self.absence
    }
}
