//! Credentials: from what a request presents to the ids it proves.

use super::{
    cookie::{Cookie, candidates},
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
    /// The answer when none of the proven ids is live.
    absence: Absence,
}

impl Presented {
    pub(super) fn new(credential: Credential<'_>, cookie: &Cookie, keyring: &Keyring) -> Self {
        let mut presented = Self { first: None, rest: Vec::new(), absence: Absence::None };
        match credential {
            Credential::Absent => {}
            Credential::Token(value) => presented.offer(value, keyring),
            Credential::CookieHeader(header) => {
                for value in candidates(header, cookie.name()) {
                    presented.offer(value, keyring);
                }
            }
        }
        presented
    }

    fn offer(&mut self, value: &[u8], keyring: &Keyring) {
        let Some(authentic) = keyring.verify(value) else {
            self.absence = self.absence.max(Absence::Invalid);
            return;
        };
        self.absence = self.absence.max(Absence::NotFound);
        // A text that is no id of ours names no session.
        let Some(id) = authentic.id else { return };
        let proven = Proven { verifier: id.verifier_hash(), id, outdated: authentic.outdated };
        match self.first {
            None => self.first = Some(proven),
            Some(_) => self.rest.push(proven),
        }
    }

    /// The ids, in the order they were presented.
    pub fn proven(&self) -> impl Iterator<Item = &Proven> {
        self.first.iter().chain(&self.rest)
    }

    /// The public ids of the sessions that an operation may reach with this.
    pub fn sessions(&self) -> impl Iterator<Item = PublicId> + '_ {
        self.proven().map(Proven::public)
    }

    pub fn absence(&self) -> Absence {
        self.absence
    }
}
