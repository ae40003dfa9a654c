//! The four operations: from a request to its answer.
//!
//! Each operation has two steps, as in `session`: `prepare` checks the request and finds
//! out which sessions it may reach, `run` asks the store. `recall` comes between them: it
//! answers from memory where that is enough. A unary call does one after the other; a
//! pipeline orders operations between the two ([`lanes`](super::lanes)).
//!
//! Requests borrow what they can from the message they are made of: nothing in them
//! outlives `prepare`.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;

use super::{
    answer::Answer,
    engines::Engines,
    fault::{Applied, Fault, Reason},
    input::{self, RawDuration, Set},
    observer::{InFlight, Observer, OperationKind, Outcome, Subject},
};
use crate::{
    session::{
        credential::{Credential, Presented},
        data::Data,
        engine::{Engine, ResolveOptions, WriteOptions},
        error::Error,
        principals::Scope,
        store::StoreError,
    },
    timing::Stopwatch,
    trace,
};

/// Asks for the session of a request.
pub struct ResolveRequest<'r> {
    /// The engine's name; empty: [`DEFAULT`](super::engines::DEFAULT).
    pub engine: &'r [u8],
    /// What the request presents. [`Credential::Absent`] is answered as a state.
    pub credential: Credential<'r>,
    /// Whether to touch, and whether to create.
    pub options: ResolveOptions,
}

/// Asks to move the deadline of a session.
pub struct TouchRequest<'r> {
    /// The engine's name; empty: [`DEFAULT`](super::engines::DEFAULT).
    pub engine: &'r [u8],
    /// What the request presents. [`Credential::Absent`] is answered as a state.
    pub credential: Credential<'r>,
    /// The session's own idle timeout from now on.
    pub duration: Option<RawDuration>,
}

/// Asks to create or change a session.
pub struct WriteRequest<'r> {
    /// The engine's name; empty: [`DEFAULT`](super::engines::DEFAULT).
    pub engine: &'r [u8],
    /// `None`: create a session.
    pub credential: Option<Credential<'r>>,
    /// A JSON object; empty: nothing to set.
    pub set: Bytes,
    /// Keys to remove.
    pub unset: &'r [Bytes],
    /// Drop all data before `unset` and `set` apply.
    pub replace: bool,
    /// Change the session only at this version. `Some(0)` is refused: versions begin at 1.
    pub if_version: Option<u64>,
    /// Give the session a new id even if its principal stays the same.
    pub roll: bool,
    /// The new owner, UTF-8 of at most 256 bytes. `None`: as it was. Empty: anonymous.
    pub principal: Option<&'r [u8]>,
    /// The session's own idle timeout. `None`: as it was, or the engine's at a creation.
    pub duration: Option<RawDuration>,
    /// Whether the cookie is persistent; `None`: as it was.
    pub persistent: Option<bool>,
    /// A text for the list of devices; empty: none; `None`: as it was.
    pub label: Option<&'r [u8]>,
}

/// Asks to end sessions.
pub struct DestroyRequest<'r> {
    /// The engine's name; empty: [`DEFAULT`](super::engines::DEFAULT).
    pub engine: &'r [u8],
    /// What the request presents. [`Credential::Absent`] ends nothing.
    pub credential: Credential<'r>,
    /// Which of the principal's sessions end. [`Scope::This`] beside `session_ids`.
    pub scope: Scope,
    /// Public ids of the sessions to end, at most 1000, instead of a scope.
    pub session_ids: &'r [Bytes],
}

/// An operation whose request is valid.
pub trait Operation: Sized + Send + 'static {
    /// What a listener makes of its message. It may borrow from the message.
    type Request<'r>;
    /// What the observer is told.
    const KIND: OperationKind;

    /// The name of the engine in a request.
    fn engine_name<'r>(request: &'r Self::Request<'_>) -> &'r [u8];

    /// Checks the request and the credential's signatures. Asks no store. Fails if a field has a
    /// value that is not allowed.
    fn prepare(engine: Arc<Engine>, request: Self::Request<'_>) -> Result<Self, Fault>;

    /// Whose sessions it is about.
    fn engine(&self) -> &Arc<Engine>;

    /// What the credential proves: the sessions among which a pipeline keeps the order.
    /// A Destroy of a wider scope also reaches other sessions of the principal.
    fn presented(&self) -> &Presented;

    /// Whether it may change several sessions. Such an operation may fail when it is done in
    /// part.
    fn is_wide(&self) -> bool {
        false
    }

    /// What [`run`](Self::run) would return, if that is known without waiting for a
    /// store.
    fn recall(&self) -> Option<Answer> {
        None
    }

    /// Asks the store. An error may leave an unknown outcome: see [`Fault`].
    fn run(self) -> impl Future<Output = Result<Answer, Error>> + Send;
}

/// Finds the engine, and calls [`Operation::prepare`]; the observer is told of a refusal.
/// `request` is the fault where a listener could make no request of its message. `watch` was
/// started when the message had come.
pub fn prepared<O: Operation>(
    engines: &Engines,
    request: Result<O::Request<'_>, Fault>,
    observer: &dyn Observer,
    watch: &mut Stopwatch,
) -> Result<O, Fault> {
    let mut found = None;
    let prepared = request.and_then(|request| {
        let engine = engines.get(O::engine_name(&request))?;
        found = Some(engine);
        O::prepare(Arc::clone(engine), request)
    });
    prepared.inspect_err(|fault| {
        let subject = Subject { kind: O::KIND, engine: found.map(Arc::as_ref) };
        observer.finished(subject, Outcome::Failed(fault.reason), watch.lap());
    })
}

/// Answers an operation from memory, if that is enough, and tells the observer.
pub fn recalled<O: Operation>(
    operation: &O,
    observer: &dyn Observer,
    watch: &mut Stopwatch,
) -> Option<Answer> {
    let answer = operation.recall()?;
    observer.finished(subject_of::<O>(operation.engine()), answer.outcome(), watch.lap());
    Some(answer)
}

/// Answers an operation, from memory if that is enough, and tells the observer.
pub async fn answered<O: Operation>(
    operation: O,
    observer: &dyn Observer,
    mut watch: Stopwatch,
) -> Result<Answer, Fault> {
    match recalled(&operation, observer, &mut watch) {
        Some(answer) => Ok(answer),
        // Boxed, so that the futures of those answered from memory are small.
        None => Box::pin(observed(operation, observer, watch)).await,
    }
}

/// Runs an operation and tells the observer.
pub async fn observed<O: Operation>(
    operation: O,
    observer: &dyn Observer,
    watch: Stopwatch,
) -> Result<Answer, Fault> {
    let engine = Arc::clone(operation.engine());
    let subject = subject_of::<O>(&engine);
    let _in_flight = InFlight::begin(subject, observer);
    let is_wide = operation.is_wide();
    match operation.run().await {
        Ok(answer) => {
            observer.finished(subject, answer.outcome(), watch.elapsed());
            Ok(answer)
        }
        Err(error) => {
            let mut fault = Fault::from(error);
            if is_wide && fault.reason.is_of_store() {
                fault = fault.with_applied(Applied::Unknown);
            }
            observer.finished(subject, Outcome::Failed(fault.reason), watch.elapsed());
            Err(fault)
        }
    }
}

fn subject_of<O: Operation>(engine: &Engine) -> Subject<'_> {
    Subject { kind: O::KIND, engine: Some(engine) }
}

/// Awaits a change. One that must complete runs in a task of its own, and so to its end
/// even if its caller has gone; see [`Engine::must_complete`].
pub(super) async fn run_detached<T: Send + 'static>(
    must_complete: bool,
    change: impl Future<Output = Result<T, Error>> + Send + 'static,
) -> Result<T, Error> {
    if !must_complete {
        return change.await;
    }
    tokio::spawn(trace::carried(change)).await.unwrap_or_else(|ended| {
        match ended.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => {
                Err(StoreError::unavailable("finish its work", "the daemon has stopped").into())
            }
        }
    })
}

/// Finds the session of a request.
pub struct Resolve {
    engine: Arc<Engine>,
    presented: Presented,
    options: ResolveOptions,
}

impl Operation for Resolve {
    type Request<'r> = ResolveRequest<'r>;
    const KIND: OperationKind = OperationKind::Resolve;

    fn engine_name<'r>(request: &'r ResolveRequest<'_>) -> &'r [u8] {
        request.engine
    }

    fn prepare(engine: Arc<Engine>, request: ResolveRequest<'_>) -> Result<Self, Fault> {
        let presented = engine.present(request.credential);
        Ok(Self { engine, presented, options: request.options })
    }

    fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    fn presented(&self) -> &Presented {
        &self.presented
    }

    fn recall(&self) -> Option<Answer> {
        let lookup = self.engine.recall_resolve(&self.presented, self.options)?;
        Some(Answer::Resolve(lookup))
    }

    async fn run(self) -> Result<Answer, Error> {
        let Self { engine, presented, options } = self;
        let may_create = options.create || presented.may_be_adopted();
        let must_complete = may_create && engine.must_complete();
        let resolving =
            run_detached(must_complete, async move { engine.resolve(&presented, options).await });
        resolving.await.map(Answer::Resolve)
    }
}

/// Moves the deadline of a session.
pub struct Touch {
    engine: Arc<Engine>,
    presented: Presented,
    duration: Option<Duration>,
}

impl Operation for Touch {
    type Request<'r> = TouchRequest<'r>;
    const KIND: OperationKind = OperationKind::Touch;

    fn engine_name<'r>(request: &'r TouchRequest<'_>) -> &'r [u8] {
        request.engine
    }

    fn prepare(engine: Arc<Engine>, request: TouchRequest<'_>) -> Result<Self, Fault> {
        let presented = engine.present(request.credential);
        let duration = request.duration.map(input::duration).transpose()?;
        Ok(Self { engine, presented, duration })
    }

    fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    fn presented(&self) -> &Presented {
        &self.presented
    }

    fn recall(&self) -> Option<Answer> {
        let lookup = self.engine.recall_touch(&self.presented, self.duration)?;
        Some(Answer::Touch(lookup))
    }

    async fn run(self) -> Result<Answer, Error> {
        let Self { engine, presented, duration } = self;
        let must_complete = presented.may_be_adopted() && engine.must_complete();
        let touching =
            run_detached(must_complete, async move { engine.touch(&presented, duration).await });
        touching.await.map(Answer::Touch)
    }
}

/// Creates or changes a session.
pub struct Write {
    engine: Arc<Engine>,
    presented: Presented,
    /// No credential was given.
    create: bool,
    set: Set,
    /// All but `set`.
    options: WriteOptions,
}

impl Operation for Write {
    type Request<'r> = WriteRequest<'r>;
    const KIND: OperationKind = OperationKind::Write;

    fn engine_name<'r>(request: &'r WriteRequest<'_>) -> &'r [u8] {
        request.engine
    }

    fn prepare(engine: Arc<Engine>, request: WriteRequest<'_>) -> Result<Self, Fault> {
        if let Some(Credential::Absent) = request.credential {
            let problem = "expected cookie_header or token, or no credential at all to create";
            return Err(Fault::at(Reason::InvalidArgument, "credential", problem));
        }
        let create = request.credential.is_none();
        let presented = engine.present(request.credential.unwrap_or(Credential::Absent));
        let set = input::set(request.set, engine.max_data_bytes())?;
        let options = WriteOptions {
            set: Data::EMPTY,
            unset: input::unset(request.unset)?,
            replace: request.replace,
            if_version: request.if_version.map(input::if_version).transpose()?,
            roll: request.roll,
            principal: request.principal.map(input::principal).transpose()?,
            duration: request.duration.map(input::duration).transpose()?,
            persistent: request.persistent,
            label: request.label.map(input::label).transpose()?,
        };
        Ok(Self { engine, presented, create, set, options })
    }

    fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    fn presented(&self) -> &Presented {
        &self.presented
    }

    // A login may end other sessions of the principal.
    fn is_wide(&self) -> bool {
        self.options.principal.is_some() && self.engine.policy().limit.is_some()
    }

    async fn run(self) -> Result<Answer, Error> {
        let Self { engine, presented, create, set, options } = self;
        let options = WriteOptions { set: set.checked().await?, ..options };
        let change = run_detached(engine.must_complete(), async move {
            if create {
                engine.create(options).await
            } else {
                engine.write(&presented, options).await
            }
        });
        change.await.map(Answer::Write)
    }
}

/// Ends sessions.
pub struct Destroy {
    engine: Arc<Engine>,
    presented: Presented,
    scope: Scope,
}

impl Operation for Destroy {
    type Request<'r> = DestroyRequest<'r>;
    const KIND: OperationKind = OperationKind::Destroy;

    fn engine_name<'r>(request: &'r DestroyRequest<'_>) -> &'r [u8] {
        request.engine
    }

    fn prepare(engine: Arc<Engine>, request: DestroyRequest<'_>) -> Result<Self, Fault> {
        let presented = engine.present(request.credential);
        let ids = request.session_ids;
        let scope = match request.scope {
            scope if ids.is_empty() => scope,
            Scope::This => Scope::Named(input::session_ids(ids.iter().map(Bytes::as_ref))?),
            _ => {
                let problem = "expected no scope beside session_ids, which name what ends";
                return Err(Fault::at(Reason::InvalidArgument, "scope", problem));
            }
        };
        Ok(Self { engine, presented, scope })
    }

    fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    fn presented(&self) -> &Presented {
        &self.presented
    }

    fn is_wide(&self) -> bool {
        self.scope != Scope::This
    }

    async fn run(self) -> Result<Answer, Error> {
        let Self { engine, presented, scope } = self;
        let must_complete = engine.must_complete();
        let change =
            run_detached(must_complete, async move { engine.destroy(&presented, scope).await });
        change.await.map(Answer::Destroy)
    }
}
