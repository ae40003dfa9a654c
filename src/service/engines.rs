//! The engines of a daemon, by name.

use std::{collections::BTreeMap, ops::Bound, sync::Arc};

use super::fault::{Fault, Reason};
use crate::session::engine::Engine;

/// What an empty engine name in a request means.
pub const DEFAULT: &str = "default";

/// The engines of a daemon, by name.
#[derive(Clone)]
pub struct Engines {
    by_name: Arc<BTreeMap<String, Arc<Engine>>>,
    /// The one called [`DEFAULT`], so that most requests are not looked up.
    default: Option<Arc<Engine>>,
}

impl Engines {
    /// The engines by the name that requests give. The order of names is the order of an export.
    pub fn new(engines: BTreeMap<String, Arc<Engine>>) -> Self {
        let default = engines.get(DEFAULT).cloned();
        Self { by_name: Arc::new(engines), default }
    }

    /// The engine that a request names; an empty name means [`DEFAULT`].
    pub fn get(&self, name: &[u8]) -> Result<&Arc<Engine>, Fault> {
        let engine = match name {
            b"" => self.default.as_ref(),
            _ => std::str::from_utf8(name).ok().and_then(|name| self.by_name.get(name)),
        };
        engine.ok_or_else(|| {
            // Only names of the configuration are repeated, not the caller's.
            let known: Vec<_> = self.by_name.keys().map(String::as_str).collect();
            let known = known.join(", ");
            let message = format!("no engine of that name is configured; expected one of: {known}");
            Fault::at(Reason::UnknownEngine, "engine", message)
        })
    }

    /// The engine whose name comes next after `name`, in the order of names.
    pub fn after(&self, name: &str) -> Option<&Arc<Engine>> {
        let above = (Bound::Excluded(name), Bound::Unbounded);
        self.by_name.range::<str, _>(above).next().map(|(_, engine)| engine)
    }

    /// All engines, in the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Engine>> {
        self.by_name.values()
    }
}
