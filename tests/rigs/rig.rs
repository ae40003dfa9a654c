//! What the rigs share: how long they run, their seed, and their sources of time and
//! randomness.

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
/// The time at which each rig begins.
pub(crate) const START: Millis = 1_800_000_000_000;

/// Prints one line. `println!` would be captured by `cargo test` if the test passes.
pub(crate) fn report(line: &str) {
    let _ = std::io::stderr().write_all(format!("{line}\n").as_bytes());
}

/// Session ids that depend on a seed only.
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

/// A clock that returns the time which the calling task was given. So the time that an
/// operation used is known, even if many run at once.
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

/// Secret number `epoch` signs. That one and all earlier ones verify.
pub(crate) fn keyring(epoch: u8) -> Keyring {
    let secrets: Vec<_> = (0..=epoch).rev().map(|number| Secret::new([number; 32])).collect();
    Keyring::new(&secrets).expect("32 bytes are enough")
}

/// As the daemon does it: from memory, if that is possible.
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

/// As the daemon does it: from memory, if that is possible.
pub(crate) async fn touch(
    engine: &Engine,
    presented: &Presented,
    duration: Option<Millis>,
) -> Result<Lookup> {
    let duration = duration.map(Duration::from_millis);
    match engine.recall_touch(presented, duration) {
        Some(lookup) => Ok(lookup),
        None => engine.touch(presented, duration).await,
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
