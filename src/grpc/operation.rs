//! The four operations: from a request to its response.
//!
//! Each comes in two steps, as in the session room: `prepare` checks the
//! request and finds out which sessions it may reach, `run` asks the store. A
//! unary call does one after the other; a pipeline orders what lies between.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    answer::Answer,
    convert,
    engines::Engines,
    fault::{Fault, Reason},
    observer::{Observer, Outcome, Rpc},
    wire::{
        DestroyRequest, DestroyScope, ResolveRequest, SessionState, TouchRequest, WriteRequest,
    },
};
use crate::session::{
    CookieUpdate, Live, Lookup,
    credential::{Absence, Credential, Presented},
    engine::{Engine, ResolveOptions, WriteOptions},
    error::Error,
    principals::Scope,
    store::StoreError,
};

/// An operation whose request is in order.
pub trait Operation: Sized + Send + 'static {
    type Request;
    const RPC: Rpc;

    fn prepare(engines: &Engines, request: Self::Request) -> Result<Self, Fault>;

    /// What the credential proves: the sessions among which a pipeline keeps the
    /// order. A Destroy of a wider scope reaches others of the principal besides.
    fn presented(&self) -> &Presented;

    /// What [`run`](Self::run) would give, if no store has to be waited for to know
    /// it.
    fn recall(&self) -> Option<(Answer, Outcome)> {
        None
    }

    fn run(self) -> impl Future<Output = Result<(Answer, Outcome), Error>> + Send;
}

/// Answers an operation from memory, if that is enough, and tells the observer.
pub fn recalled<O: Operation>(operation: &O, observer: &dyn Observer) -> Option<Answer> {
    let (answer, outcome) = operation.recall()?;
    observer.finished(O::RPC, outcome, Duration::ZERO);
    Some(answer)
}

/// Answers an operation, from memory if that is enough, and tells the observer.
pub async fn answered<O: Operation>(
    operation: O,
    observer: &dyn Observer,
) -> Result<Answer, Fault> {
    match recalled(&operation, observer) {
        Some(answer) => Ok(answer),
        // Boxed, so that those answered from memory are small.
        None => Box::pin(observed(operation, observer)).await,
    }
}

/// Runs an operation and tells the observer.
pub async fn observed<O: Operation>(
    operation: O,
    observer: &dyn Observer,
) -> Result<Answer, Fault> {
    let started = Instant::now();
    match operation.run().await {
        Ok((answer, outcome)) => {
            observer.finished(O::RPC, outcome, started.elapsed());
            Ok(answer)
        }
        Err(error) => {
            let fault = Fault::from(error);
            observer.finished(O::RPC, Outcome::Failed(fault.reason), started.elapsed());
            Err(fault)
        }
    }
}

/// [`Operation::prepare`], a refusal being told to the observer.
pub fn prepared<O: Operation>(
    engines: &Engines,
    request: O::Request,
    observer: &dyn Observer,
) -> Result<O, Fault> {
    O::prepare(engines, request).inspect_err(|fault| {
        observer.finished(O::RPC, Outcome::Failed(fault.reason), Duration::ZERO);
    })
}

/// Awaits a change. One that is followed goes on to its end also when its
/// caller has gone; see [`Engine::must_complete`].
pub async fn run_detached<T: Send + 'static>(
    must_complete: bool,
    change: impl Future<Output = Result<T, Error>> + Send + 'static,
) -> Result<T, Error> {
    if !must_complete {
        return change.await;
    }
    tokio::spawn(change).await.unwrap_or_else(|ended| match ended.try_into_panic() {
        Ok(panic) => std::panic::resume_unwind(panic),
        Err(_) => Err(StoreError::unavailable("finish its work", "the daemon has stopped").into()),
    })
}

pub struct Resolve {
    engine: Arc<Engine>,
    presented: Presented,
    options: ResolveOptions,
}

impl Operation for Resolve {
    type Request = ResolveRequest;
    const RPC: Rpc = Rpc::Resolve;

    fn prepare(engines: &Engines, request: ResolveRequest) -> Result<Self, Fault> {
        let engine = Arc::clone(engines.get(&request.engine)?);
        let presented = engine.present(convert::credential(request.credential.as_ref()));
        let options = ResolveOptions { peek: request.peek, create: request.create };
        Ok(Self { engine, presented, options })
    }

    fn presented(&self) -> &Presented {
        &self.presented
    }

    fn recall(&self) -> Option<(Answer, Outcome)> {
        self.engine.recall_resolve(&self.presented, self.options).map(resolved)
    }

    async fn run(self) -> Result<(Answer, Outcome), Error> {
        let Self { engine, presented, options } = self;
        let may_create = options.create || presented.may_be_adopted();
        let must_complete = may_create && engine.must_complete();
        let resolution =
            run_detached(must_complete, async move { engine.resolve(&presented, options).await });
        Ok(resolved(resolution.await?))
    }
}

fn resolved(lookup: Lookup) -> (Answer, Outcome) {
    match lookup {
        Lookup::Live(live) => found(Rpc::Resolve, live),
        Lookup::Absent(absence) => absent(Rpc::Resolve, absence),
    }
}

fn found(rpc: Rpc, Live { session, cookie, is_new }: Live) -> (Answer, Outcome) {
    let (state, outcome) = if is_new {
        (SessionState::Created, Outcome::Created)
    } else {
        (SessionState::Active, Outcome::Active)
    };
    let answer = Answer { rpc, number: state as u32, session: Some(session), notice: cookie };
    (answer, outcome)
}

fn absent(rpc: Rpc, absence: Absence) -> (Answer, Outcome) {
    let number = convert::absence(absence) as u32;
    let answer = Answer { rpc, number, session: None, notice: CookieUpdate::default() };
    (answer, Outcome::Absent(absence))
}

pub struct Touch {
    engine: Arc<Engine>,
    presented: Presented,
}

impl Operation for Touch {
    type Request = TouchRequest;
    const RPC: Rpc = Rpc::Touch;

    fn prepare(engines: &Engines, request: TouchRequest) -> Result<Self, Fault> {
        let engine = Arc::clone(engines.get(&request.engine)?);
        let presented = engine.present(convert::credential(request.credential.as_ref()));
        Ok(Self { engine, presented })
    }

    fn presented(&self) -> &Presented {
        &self.presented
    }

    fn recall(&self) -> Option<(Answer, Outcome)> {
        self.engine.recall_touch(&self.presented).map(touched)
    }

    async fn run(self) -> Result<(Answer, Outcome), Error> {
        let Self { engine, presented } = self;
        let must_complete = presented.may_be_adopted() && engine.must_complete();
        let touching = run_detached(must_complete, async move { engine.touch(&presented).await });
        Ok(touched(touching.await?))
    }
}

fn touched(lookup: Lookup) -> (Answer, Outcome) {
    match lookup {
        Lookup::Live(mut live) => {
            // A TouchResponse has no place for a token; the Set-Cookie line holds it.
            live.cookie.token = None;
            found(Rpc::Touch, live)
        }
        Lookup::Absent(absence) => absent(Rpc::Touch, absence),
    }
}

pub struct Write {
    engine: Arc<Engine>,
    presented: Presented,
    /// No credential was given.
    create: bool,
    options: WriteOptions,
}

impl Operation for Write {
    type Request = WriteRequest;
    const RPC: Rpc = Rpc::Write;

    fn prepare(engines: &Engines, mut request: WriteRequest) -> Result<Self, Fault> {
        let engine = Arc::clone(engines.get(&request.engine)?);
        let credential = convert::credential(request.credential.as_ref());
        if request.credential.is_some() && matches!(credential, Credential::Absent) {
            let problem = "expected cookie_header or token, or no credential at all to create";
            return Err(Fault::at(Reason::InvalidArgument, "credential", problem));
        }
        let presented = engine.present(credential);
        let create = request.credential.is_none();
        let options = convert::write_options(&mut request)?;
        Ok(Self { engine, presented, create, options })
    }

    fn presented(&self) -> &Presented {
        &self.presented
    }

    async fn run(self) -> Result<(Answer, Outcome), Error> {
        let Self { engine, presented, create, options } = self;
        let change = run_detached(engine.must_complete(), async move {
            if create {
                engine.create(options).await
            } else {
                engine.write(&presented, options).await
            }
        });
        let Live { session, cookie: notice, .. } = change.await?;
        let outcome = if create { Outcome::Created } else { Outcome::Active };
        Ok((Answer { rpc: Rpc::Write, number: 0, session: Some(session), notice }, outcome))
    }
}

pub struct Destroy {
    engine: Arc<Engine>,
    presented: Presented,
    scope: Scope,
}

impl Operation for Destroy {
    type Request = DestroyRequest;
    const RPC: Rpc = Rpc::Destroy;

    fn prepare(engines: &Engines, request: DestroyRequest) -> Result<Self, Fault> {
        let engine = Arc::clone(engines.get(&request.engine)?);
        let scope = match DestroyScope::try_from(request.scope) {
            Ok(DestroyScope::Unspecified | DestroyScope::This) => Scope::This,
            Ok(DestroyScope::Others) => Scope::Others,
            Ok(DestroyScope::All) => Scope::All,
            Err(_) => {
                let problem = format!("expected a DestroyScope, found {}", request.scope);
                return Err(Fault::at(Reason::InvalidArgument, "scope", problem));
            }
        };
        let presented = engine.present(convert::credential(request.credential.as_ref()));
        Ok(Self { engine, presented, scope })
    }

    fn presented(&self) -> &Presented {
        &self.presented
    }

    async fn run(self) -> Result<(Answer, Outcome), Error> {
        let Self { engine, presented, scope } = self;
        let absence = presented.absence();
        let change =
            run_detached(
                engine.must_complete(),
                async move { engine.destroy(&presented, scope).await },
            );
        let destroyed = change.await?;
        let outcome = if destroyed.was_live { Outcome::Active } else { Outcome::Absent(absence) };
        let notice = CookieUpdate { set_cookie: destroyed.set_cookie, token: None };
        let number = destroyed.count;
        Ok((Answer { rpc: Rpc::Destroy, number, session: None, notice }, outcome))
    }
}
