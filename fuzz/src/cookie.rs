//! The Cookie header: any octets, and the ids that they prove.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use sessiond::{
    session::{
        clock::{Clock, Moment},
        cookie::{Cookie, CookieAttributes, MAX_HEADER_LEN, values},
        credential::{Absence, Credential, MAX_CANDIDATES},
        engine::Engine,
        id::Entropy,
        lifetime::{Granularity, Lifetime},
        policy::Policy,
        store::Store,
    },
    store::memory::MemoryStore,
};

use super::token::{KEYRING, TOKENS, expand};

pub(crate) const NAME: &str = "sid";

/// A clock that never moves.
pub(crate) struct Stopped;

impl Clock for Stopped {
    fn now(&self) -> Moment {
        Moment::from_unix_millis(1_800_000_000_000)
    }

    fn follow(&self, _: Moment, _: Moment) {}
}

/// Entropy that returns different octets for each call, and the same sequence for each input.
#[derive(Default)]
pub(crate) struct Counting(std::sync::atomic::AtomicU64);

impl Entropy for Counting {
    fn fill(&self, bytes: &mut [u8]) {
        let next = self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        bytes.fill(0);
        bytes[..8].copy_from_slice(&next.to_be_bytes());
    }
}

/// An engine with cookies called [`NAME`].
pub(crate) fn engine(store: Arc<dyn Store>) -> Engine {
    let cookie =
        Cookie::new(CookieAttributes { name: NAME.to_owned(), ..CookieAttributes::default() });
    let policy = Policy {
        keyring: KEYRING.clone(),
        cookie: cookie.expect("valid attributes"),
        lifetime: Lifetime {
            duration: Duration::from_secs(1800),
            granularity: Granularity::Auto,
            absolute: None,
        },
        roll_grace: Duration::from_secs(60),
        automatic_touch: true,
        max_data_bytes: 256,
        limit: None,
    };
    Engine::new("default", policy, store, Arc::new(Stopped), Arc::new(Counting::default()))
}

static ENGINE: LazyLock<Engine> = LazyLock::new(|| engine(Arc::new(MemoryStore::default())));

pub fn run(input: &[u8]) {
    let header = expand(input);
    let found: Vec<_> = values(&header, NAME).collect();
    for value in &found {
        assert!(!value.contains(&b';'), "expected no separator within a value");
        let whole = header.as_ptr_range();
        let part = value.as_ptr_range();
        assert!(whole.start <= part.start && part.end <= whole.end, "expected part of the header");
    }

    let presented = ENGINE.present(Credential::CookieHeader(&header));
    if header.len() > MAX_HEADER_LEN {
        let seen = (presented.absence(), presented.proven().count());
        assert_eq!(seen, (Absence::Invalid, 0), "expected nothing of a header that is too long");
        return;
    }
    // A value in a header proves an id exactly if it does so as a token alone.
    let alone: Vec<_> = found
        .iter()
        .flat_map(|value| ENGINE.present(Credential::Token(value)).reach().collect::<Vec<_>>())
        .collect();
    let together: Vec<_> = presented.reach().collect();
    assert!(alone.starts_with(&together), "expected the ids of the candidates, in their order");
    assert!(together.len() <= MAX_CANDIDATES, "expected at most {MAX_CANDIDATES} ids");
    if found.len() <= MAX_CANDIDATES {
        assert_eq!(together, alone, "expected the ids of all candidates");
    }
    for proven in presented.proven() {
        let text = proven.id.to_text();
        let signed = TOKENS.iter().any(|token| token.expose().as_bytes().starts_with(&text));
        assert!(signed, "expected only ids that were signed");
    }
    let nothing = presented.absence() == Absence::None;
    assert_eq!(nothing, found.is_empty(), "expected NONE exactly when there is no such cookie");

    // A cookie is found after any other text, unless too many candidates come before it.
    let mut longer = header.clone();
    longer.extend_from_slice(b"; sid=");
    longer.extend_from_slice(TOKENS[0].expose().as_bytes());
    if found.len() < MAX_CANDIDATES && longer.len() <= MAX_HEADER_LEN {
        let last = values(&longer, NAME).last();
        assert_eq!(last, Some(TOKENS[0].expose().as_bytes()), "expected the cookie at the end");
        let more = ENGINE.present(Credential::CookieHeader(&longer)).proven().count();
        assert_eq!(more, presented.proven().count() + 1, "expected the id of that cookie");
    }
}
