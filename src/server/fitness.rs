//! Whether the stores can serve, which health tells.

use std::{sync::Arc, time::Duration};

use tokio::sync::watch;

use super::phase::{Phase, Supervisor};
use crate::{
    grpc::health::Serving,
    service::engines::Engines,
    session::{engine::Engine, error::Error},
};

/// How often the stores are asked.
const INTERVAL: Duration = Duration::from_secs(1);

/// What the stores can do, and why no more.
pub(super) enum Fitness {
    Fit,
    OnlyReads(Error),
    Unfit(Error),
}

impl Fitness {
    pub(super) fn of(engines: &Engines) -> Self {
        let failure = |check: fn(&Engine) -> Result<(), Error>| {
            engines.iter().find_map(|engine| check(engine).err())
        };
        match (failure(Engine::check_reading), failure(Engine::check)) {
            (Some(error), _) => Self::Unfit(error),
            (None, Some(error)) => Self::OnlyReads(error),
            (None, None) => Self::Fit,
        }
    }

    /// Services also count as serving while they can only read.
    pub(super) fn serving(&self) -> Serving {
        match self {
            Self::Fit => Serving { whole: true, services: true },
            Self::OnlyReads(_) => Serving { whole: false, services: true },
            Self::Unfit(_) => Serving { whole: false, services: false },
        }
    }

    fn tell(&self, supervisor: &Supervisor) {
        supervisor(match self {
            Self::Fit => Phase::Serving,
            Self::OnlyReads(error) => Phase::OnlyReads(error),
            Self::Unfit(error) => Phase::NotServing(error),
        });
    }

    /// The store has logged the cause.
    fn log(&self) {
        match self {
            Self::Fit => tracing::info!("serving again"),
            Self::OnlyReads(error) => {
                tracing::error!("only what reads is served from now on: {error}");
            }
            Self::Unfit(error) => tracing::error!("not serving from now on: {error}"),
        }
    }
}

/// Keeps health as the stores report it: NOT_SERVING while a store cannot serve. If a
/// store can no longer keep its promises, that is permanent.
pub(super) async fn watch(
    engines: Engines,
    health: Arc<watch::Sender<Serving>>,
    supervisor: Supervisor,
) {
    let mut before = Fitness::Fit.serving();
    loop {
        let fitness = Fitness::of(&engines);
        let now = fitness.serving();
        if now != before {
            fitness.log();
            fitness.tell(&supervisor);
        }
        before = now;
        // Watchers are told changes only.
        health.send_if_modified(|serving| std::mem::replace(serving, now) != now);
        tokio::time::sleep(INTERVAL).await;
    }
}
