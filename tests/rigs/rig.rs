//! What the rigs have in common: how long they run, with which seed, and where
//! time and randomness come from.

use std::{io::Write, sync::Arc, time::Duration};

use parking_lot::Mutex;
use sessiond::session::{
    Lookup,
    clock::{Clock, Moment},
    cookie::{Cookie, CookieAttributes},
    credential::Presented,
    engine::{Engine, ResolveOptions},
    error::Result,
    id::Entropy,
    lifetime::{Granularity, Lifetime},
    policy::{Limit, OnLimit, Policy},
    store::Store,
    token::{Keyring, Secret},
};

use crate::model::{Millis, Rules};
pub(crate) use crate::{form::Form, random::Random};

pub(crate) const COOKIE_NAME: &str = "sid";
/// When time begins in the rigs.
pub(crate) const START: Millis = 1_800_000_000_000;

/// Prints one line. Not with `println!`, which `cargo test` keeps to itself
/// when the test passes.
pub(crate) fn report(line: &str) {
    let _ = std::io::stderr().write_all(format!("{line}\n").as_bytes());
}

/// Ids of a seed.
pub(crate) struct SeededEntropy(Mutex<Random>);

impl SeededEntropy {
    pub(crate) fn new(seed: u64) -> Arc<Self> {
        Arc::new(Self(Mutex::new(Random::stream(seed, u64::MAX))))
    }
}

impl Entropy for SeededEntropy {
    fn fill(&self, bytes: &mut [u8]) {
        let mut random = self.0.lock();
        bytes.fill_with(|| random.next() as u8);
    }
}

tokio::task_local! {
    static NOW: Millis;
}

/// Tells the time that the asking task was given. So the moment that an
/// operation saw is known, also when many run at a time.
pub(crate) struct TaskClock;

impl TaskClock {
    pub(crate) async fn at<F: Future>(now: Millis, work: F) -> F::Output {
        NOW.scope(now, work).await
    }
}

impl Clock for TaskClock {
    fn now(&self) -> Moment {
        Moment::from_unix_millis(NOW.get())
    }

    /// The rigs start no daemon.
    fn follow(&self, _: Moment, _: Moment) {}
}

/// Secret number `epoch` signs, it and all before it verify.
pub(crate) fn keyring(epoch: u8) -> Keyring {
    let secrets: Vec<_> = (0..=epoch).rev().map(|number| Secret::new([number; 32])).collect();
    Keyring::new(&secrets).expect("32 bytes are enough")
}

/// As the daemon does it: from memory, if that is enough.
pub(crate) async fn resolve(
    engine: &Engine,
    presented: &Presented,
    options: ResolveOptions,
) -> Result<Lookup> {
    match engine.recall_resolve(presented, options) {
        Some(lookup) => Ok(lookup),
        None => engine.resolve(presented, options).await,
    }
}

/// As the daemon does it: from memory, if that is enough.
pub(crate) async fn touch(engine: &Engine, presented: &Presented) -> Result<Lookup> {
    match engine.recall_touch(presented) {
        Some(lookup) => Ok(lookup),
        None => engine.touch(presented).await,
    }
}

/// An engine with these rules.
pub(crate) fn engine(
    rules: &Rules,
    epoch: u8,
    store: Arc<dyn Store>,
    entropy: Arc<dyn Entropy>,
) -> Engine {
    let attributes = CookieAttributes {
        name: COOKIE_NAME.into(),
        persistent: rules.persistent,
        ..CookieAttributes::default()
    };
    let granularity = match rules.granularity {
        Some(fixed) => Granularity::Fixed(Duration::from_millis(fixed)),
        None => Granularity::Auto,
    };
    let policy = Policy {
        keyring: keyring(epoch),
        cookie: Cookie::new(attributes).expect("a valid cookie"),
        lifetime: Lifetime {
            duration: Duration::from_millis(rules.duration),
            granularity,
            absolute: rules.absolute.map(Duration::from_millis),
        },
        roll_grace: Duration::from_millis(rules.roll_grace),
        automatic_touch: rules.automatic_touch,
        max_data_bytes: rules.max_data_bytes,
        limit: rules.limit.map(|limit| Limit {
            sessions: limit.sessions,
            on_limit: if limit.end_idlest { OnLimit::EndIdlest } else { OnLimit::RefuseNewest },
        }),
    };
    Engine::new("rig", policy, store, Arc::new(TaskClock), entropy)
}
