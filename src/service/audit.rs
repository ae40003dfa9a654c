//! The audit log: one line for each call of an operator. It says who called, what for, and how
//! many sessions it concerned; never whose sessions these are.

use super::{
    access::Identity,
    engines::{DEFAULT, Engines},
    fault::Fault,
};

/// The target of the lines, which are logged whatever the level of the log.
pub const TARGET: &str = "sessiond::audit";

/// A call of an operator that is under way. Its line is logged when it ends, also if its caller
/// does not wait for that.
pub struct Audit {
    who: Identity,
    call: Call,
    is_logged: bool,
}

/// What an operator calls.
#[derive(Debug, Clone)]
pub struct Call {
    /// The name of the method.
    pub rpc: &'static str,
    /// Which engine it concerns, as [`one`] or [`any`] names it; empty: none.
    pub engine: String,
    /// What it concerns, in a few words.
    pub what: &'static str,
}

impl Audit {
    /// The call begins.
    pub fn begin(who: Identity, call: Call) -> Self {
        Self { who, call, is_logged: false }
    }

    /// The call ends. `count` says how many it concerned.
    pub fn end<T>(
        mut self,
        outcome: Result<T, Fault>,
        count: impl FnOnce(&T) -> u64,
    ) -> Result<T, Fault> {
        match &outcome {
            Ok(done) => self.log("done", Some(count(done))),
            Err(fault) => self.log(fault.reason.name(), None),
        }
        outcome
    }

    fn log(&mut self, outcome: &'static str, count: Option<u64>) {
        self.is_logged = true;
        let (caller, peer) = (&self.who.caller, &self.who.remote);
        let Call { rpc, engine, what } = &self.call;
        tracing::info!(target: TARGET, %caller, %peer, engine, what, count, outcome, "{rpc}");
    }
}

impl Drop for Audit {
    fn drop(&mut self) {
        if !self.is_logged {
            // Some of it may have been done.
            self.log("the caller did not wait", None);
        }
    }
}

/// The engine of a call that names one, or means [`DEFAULT`]. A name that is not configured is
/// not repeated.
pub fn one(engines: &Engines, name: &str) -> String {
    let known = engines.get(name.as_bytes()).is_ok();
    let name = if name.is_empty() { DEFAULT } else { name };
    if known { name } else { "unknown" }.to_owned()
}

/// The engine of a call that names one, or means all of them.
pub fn any(engines: &Engines, name: &str) -> String {
    if name.is_empty() { "all".to_owned() } else { one(engines, name) }
}
