//! Credentials: turns what a request presents into the session ids that it proves.

use super::{
    cookie::{self, Cookie},
    foreign::ForeignId,
    id::{PublicId, SessionId, VerifierHash},
    token::{Keyring, Signed},
};

/// The most cookies of the engine's name that are verified in one header. Only values of a
/// token's shape count; further ones of that shape are ignored. What has another shape costs no
/// hash, so it can crowd out no session.
pub const MAX_CANDIDATES: usize = 8;

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
    /// The whole id, with its secret half.
    pub id: SessionId,
    /// The hash that the record must have for the id to be the valid one.
    pub verifier: VerifierHash,
    /// An older secret signed it. The browser should get a new signature.
    pub outdated: bool,
}

impl Proven {
    /// The key of the record.
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
    /// As [`Superseded`](Self::Superseded), and the session was rolled within `roll_grace`. The
    /// browser has the new id, or is about to get it: nothing may replace its cookie.
    JustSuperseded,
}

/// Something that an operation may reach. Two operations that reach the same must run in
/// order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reach {
    /// The session of a proven id.
    Session(PublicId),
    /// A session whose public id is not known yet, by the prefix of its verifier's hash.
    Verifier([u8; 12]),
}

/// The value, if it has the shape of a token. `adopts`: a signed text of any form may be an id of
/// the application.
fn candidate(value: &[u8], adopts: bool) -> Option<Signed<'_>> {
    let signed = Signed::parse(value, 1..=ForeignId::MAX_LEN)?;
    (adopts || signed.is_of_an_id()).then_some(signed)
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
            Credential::Token(value) => presented.offer(candidate(value, adopts), keyring, adopts),
            Credential::CookieHeader(header) if header.len() > cookie::MAX_HEADER_LEN => {
                presented.absence = Absence::Invalid;
            }
            Credential::CookieHeader(header) => {
                let mut left = MAX_CANDIDATES;
                for value in cookie::values(header, cookie.name()) {
                    let candidate = candidate(value, adopts);
                    left -= usize::from(candidate.is_some());
                    presented.offer(candidate, keyring, adopts);
                    if left == 0 {
                        break;
                    }
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

    /// `None`: a value without the shape of a token.
    fn offer(&mut self, candidate: Option<Signed<'_>>, keyring: &Keyring, adopts: bool) {
        let verified = candidate.and_then(|signed| {
            let authentic = keyring.verify_signed(&signed)?;
            Some((authentic, adopts.then(|| ForeignId::new(signed.text())).flatten()))
        });
        let Some((authentic, foreign)) = verified else {
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

    /// The reason to return if none of the ids is live, as far as it is known without a store.
    pub fn absence(&self) -> Absence {
        self.absence
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::session::{
        cookie::{CookieAttributes, MAX_HEADER_LEN},
        token::{Secret, Token},
    };

    const NAME: &str = "sid";

    fn keyring() -> Keyring {
        Keyring::new(&[Secret::new([7; 32])]).expect("long enough")
    }

    fn cookie() -> Cookie {
        let attributes = CookieAttributes { name: NAME.to_owned(), ..CookieAttributes::default() };
        Cookie::new(attributes).expect("valid")
    }

    fn id(number: u8) -> SessionId {
        SessionId::from_text(&[b'A' + number; SessionId::TEXT_LEN]).expect("base64url")
    }

    fn presented(header: &[u8], adopts: bool) -> Presented {
        Presented::new(Credential::CookieHeader(header), &cookie(), &keyring(), adopts)
    }

    fn header(values: &[String]) -> String {
        values.iter().map(|value| format!("{NAME}={value}")).collect::<Vec<_>>().join("; ")
    }

    /// Of the shape of a token, and signed by nobody.
    fn forged(text: &str) -> String {
        format!("{text}.{}A", "b".repeat(42))
    }

    #[test]
    fn junk_does_not_count_and_forged_tokens_do() {
        let token = keyring().sign(&id(0)).expose().to_owned();
        let junk: Vec<_> = ["", "junk", "a.b", "s:", "\"\"", "%", "%41%2e", &token[1..]]
            .iter()
            .map(|&junk| junk.to_owned())
            .chain([format!("{token}="), forged("x"), token.replace('.', "")])
            .collect();
        let found =
            presented(header(&[junk.clone(), vec![token.clone()]].concat()).as_bytes(), false);
        assert_eq!(found.proven().count(), 1, "behind {} junk cookies", junk.len());
        assert_eq!(presented(header(&junk).as_bytes(), false).absence(), Absence::Invalid);

        let own = forged(&"i".repeat(SessionId::TEXT_LEN));
        for (before, proven) in [(MAX_CANDIDATES - 1, 1), (MAX_CANDIDATES, 0)] {
            let header = header(&[vec![own.clone(); before], vec![token.clone()]].concat());
            let found = presented(header.as_bytes(), false);
            assert_eq!(found.proven().count(), proven, "behind {before} forged tokens");
        }
    }

    #[test]
    fn an_id_of_the_application_counts_where_it_may_be_adopted() {
        let token = keyring().sign(&id(0)).expose().to_owned();
        let theirs = forged("65f2c9a0-5d5b-4f0e-9d0e-6f5c3d1c1b11");
        let header = header(&[vec![theirs; MAX_CANDIDATES], vec![token]].concat());
        assert_eq!(presented(header.as_bytes(), false).proven().count(), 1);
        assert_eq!(presented(header.as_bytes(), true).proven().count(), 0, "the ninth candidate");
    }

    /// How much a header may cost: no signature is computed beyond the eighth candidate.
    #[test]
    fn a_flood_is_not_verified() {
        let token = keyring().sign(&id(0));
        for (adopts, junk) in [
            (false, format!("{NAME}={};", forged(&"i".repeat(SessionId::TEXT_LEN)))),
            (true, format!("{NAME}={};", forged("x"))),
        ] {
            let flood = junk.repeat((MAX_HEADER_LEN - Token::LEN - 100) / junk.len());
            let header = format!("{flood}{NAME}={}", token.expose());
            assert_eq!(presented(header.as_bytes(), adopts).proven().count(), 0);
        }
        let valid = format!("{NAME}={};", token.expose()).repeat(500);
        let found = presented(valid.as_bytes(), true);
        assert_eq!(
            (found.proven().count(), found.foreign().len()),
            (MAX_CANDIDATES, MAX_CANDIDATES)
        );
    }

    fn junk() -> impl Strategy<Value = Vec<u8>> {
        let damaged = (0..Token::LEN, any::<u8>()).prop_map(|(at, how)| {
            let mut token = keyring().sign(&id(1)).expose().as_bytes().to_vec();
            match how % 3 {
                0 => drop(token.remove(at)),
                1 => token.insert(at, b'A'),
                _ => token.truncate(at),
            }
            token
        });
        let any_octets = proptest::collection::vec(any::<u8>(), 0..200).prop_map(|mut octets| {
            octets.retain(|&octet| octet != b';');
            octets
        });
        let near = "(s:|s%3A|\"|%)?[A-Za-z0-9_-]{0,50}[.%]?[A-Za-z0-9+/]{0,50}(=|\")?";
        prop_oneof![damaged, any_octets, near.prop_map(String::into_bytes)].prop_filter(
            "without the shape of a token",
            |value| {
                let header = [&b"sid="[..], &value[..]].concat();
                cookie::values(&header, NAME).all(|value| candidate(value, false).is_none())
            },
        )
    }

    proptest! {
        #[test]
        fn a_token_among_junk_of_its_name_is_found(
            junk in proptest::collection::vec(junk(), 0..40), at in any::<proptest::sample::Index>(),
            spelling in 0..5u8,
        ) {
            let raw = keyring().sign(&id(0)).expose().to_owned();
            let encoded = raw.replace('+', "%2B").replace('/', "%2f");
            let token = match spelling {
                0 => raw,
                1 => format!("s:{raw}"),
                2 => encoded,
                3 => format!("s%3a{encoded}"),
                _ => format!("\"{raw}\""),
            };
            let mut values = junk;
            values.insert(at.index(values.len() + 1), token.into_bytes());
            let pairs: Vec<_> = values.iter().map(|value| [&b"sid="[..], &value[..]].concat()).collect();
            let found = presented(&pairs.join(&b"; "[..]), false);
            let ids: Vec<_> = found.proven().map(|proven| proven.id.to_text()).collect();
            prop_assert_eq!(ids, [id(0).to_text()]);
            prop_assert_eq!(found.absence(), Absence::NotFound);
        }
    }
}
