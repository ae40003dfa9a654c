//! Spans: what an operation did and how long each part of it took, for those who follow a request
//! through several services.
//!
//! A [`Tracer`] decides which traces are recorded, and gives each span that has ended to a
//! [`Sink`]. An operation that is not recorded has no span, which costs it a look at an `Option`.
//! This module knows no protocol and no store: names and attributes come from its callers.
//!
//! | file | holds |
//! |---|---|
//! | this one | [`Tracer`], [`Span`] and what a sink is given |
//! | [`context`] | the place of a span in its trace, as `traceparent` tells it |
//! | [`current`] | the span under which a task works |

mod context;
mod current;

use std::{
    borrow::Cow,
    fmt,
    num::NonZeroU64,
    sync::Arc,
    time::{Duration, Instant},
};

pub use self::{
    context::Context,
    current::{Within, carried, child, under, within},
};

/// What a span is to its caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A part of an operation.
    Internal,
    /// The answer to a request.
    Server,
    /// A request to another service.
    Client,
}

/// The value of an attribute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// Text.
    Text(Cow<'static, str>),
    /// A whole number.
    Number(i64),
}

impl From<&'static str> for Value {
    fn from(text: &'static str) -> Self {
        Self::Text(text.into())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(text.into())
    }
}

impl From<u16> for Value {
    fn from(number: u16) -> Self {
        Self::Number(number.into())
    }
}

impl From<u32> for Value {
    fn from(number: u32) -> Self {
        Self::Number(number.into())
    }
}

/// A span that has ended.
#[derive(Debug, Clone)]
pub struct Finished {
    /// Its place.
    pub context: Context,
    /// The span above it. `None`: it begins its trace.
    pub parent: Option<u64>,
    /// Whether the span above it is another service's.
    pub has_remote_parent: bool,
    /// A span of another trace that has led to this one.
    pub link: Option<Context>,
    /// What was done, of few different values.
    pub name: Cow<'static, str>,
    /// What it is to its caller.
    pub kind: Kind,
    /// When it began, in Unix time.
    pub start: Duration,
    /// How long it took.
    pub took: Duration,
    /// More about it.
    pub attributes: Vec<(&'static str, Value)>,
    /// Whether it has failed.
    pub is_error: bool,
}

/// Takes the spans that have ended.
pub trait Sink: Send + Sync + 'static {
    /// Takes one. Never waits.
    fn take(&self, span: Finished);
}

/// Decides which traces are recorded.
pub struct Tracer {
    /// Traces whose id has a lower half below this are recorded, which other services that
    /// record the same share decide in the same way.
    threshold: u64,
    wall: fn() -> Duration,
    sink: Box<dyn Sink>,
}

/// The half of a random number, as `TraceIdRatioBased` of OpenTelemetry compares it.
const HALF: u64 = 1 << 63;

impl Tracer {
    /// Records a share of the traces that begin here, from 0 to 1; and those of callers who record
    /// them. `wall` gives the time of the system, in Unix time.
    pub fn new(ratio: f64, wall: fn() -> Duration, sink: impl Sink) -> Arc<Self> {
        let threshold = (ratio.clamp(0.0, 1.0) * HALF as f64) as u64;
        Arc::new(Self { threshold, wall, sink: Box::new(sink) })
    }

    /// Begins a span below one of the caller's, or a trace. `None`: it is not recorded.
    #[inline]
    pub fn begin(
        self: &Arc<Self>,
        parent: Option<Context>,
        kind: Kind,
        name: impl FnOnce() -> Cow<'static, str>,
    ) -> Option<Span> {
        let trace = match parent {
            Some(Context { is_sampled: false, .. }) => return None,
            Some(parent) => parent.trace,
            None => {
                let low = rand::random::<u64>();
                if low >> 1 >= self.threshold {
                    return None;
                }
                u128::from(random_id()) << 64 | u128::from(low)
            }
        };
        Some(self.span(trace, parent.map(|parent| parent.span), kind, name()))
    }

    #[cold]
    fn span(
        self: &Arc<Self>,
        trace: u128,
        parent: Option<u64>,
        kind: Kind,
        name: Cow<'static, str>,
    ) -> Span {
        let scope = Arc::new(Scope { tracer: Arc::clone(self), trace, span: random_id() });
        Span::new(scope, parent, parent.is_some(), kind, name)
    }
}

/// Not 0, which is no id.
fn random_id() -> u64 {
    rand::random::<NonZeroU64>().get()
}

impl fmt::Debug for Tracer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tracer").field("threshold", &self.threshold).finish_non_exhaustive()
    }
}

/// A span under which others may begin.
#[derive(Debug)]
pub struct Scope {
    tracer: Arc<Tracer>,
    trace: u128,
    span: u64,
}

impl Scope {
    /// Begins a span below this one.
    pub fn child(&self, kind: Kind, name: impl Into<Cow<'static, str>>) -> Span {
        let scope =
            Scope { tracer: Arc::clone(&self.tracer), trace: self.trace, span: random_id() };
        Span::new(Arc::new(scope), Some(self.span), false, kind, name.into())
    }
}

/// A span that is recorded. It ends when it is dropped.
#[derive(Debug)]
pub struct Span {
    scope: Arc<Scope>,
    parent: Option<u64>,
    has_remote_parent: bool,
    link: Option<Context>,
    name: Cow<'static, str>,
    kind: Kind,
    start: Duration,
    began: Instant,
    attributes: Vec<(&'static str, Value)>,
    is_error: bool,
}

impl Span {
    fn new(
        scope: Arc<Scope>,
        parent: Option<u64>,
        has_remote_parent: bool,
        kind: Kind,
        name: Cow<'static, str>,
    ) -> Self {
        let start = (scope.tracer.wall)();
        let (began, attributes) = (Instant::now(), Vec::with_capacity(8));
        let (link, is_error) = (None, false);
        Self {
            scope,
            parent,
            has_remote_parent,
            link,
            name,
            kind,
            start,
            began,
            attributes,
            is_error,
        }
    }

    /// For what runs below it.
    pub fn scope(&self) -> Arc<Scope> {
        Arc::clone(&self.scope)
    }

    /// How long it has been under way.
    pub fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    /// Says more about it. Call it once for each key.
    pub fn set(&mut self, key: &'static str, value: impl Into<Value>) {
        self.attributes.push((key, value.into()));
    }

    /// Gives it another name.
    pub fn rename(&mut self, name: impl Into<Cow<'static, str>>) {
        self.name = name.into();
    }

    /// Names a span of another trace that has led to this one.
    pub fn link(&mut self, context: Context) {
        self.link = Some(context);
    }

    /// It has failed. `kind` is one of few values. Call it once.
    pub fn fail(&mut self, kind: impl Into<Value>) {
        self.is_error = true;
        self.set("error.type", kind);
    }
}

impl Drop for Span {
    fn drop(&mut self) {
        let Scope { tracer, trace, span } = &*self.scope;
        tracer.sink.take(Finished {
            context: Context { trace: *trace, span: *span, is_sampled: true },
            parent: self.parent,
            has_remote_parent: self.has_remote_parent,
            link: self.link,
            name: std::mem::take(&mut self.name),
            kind: self.kind,
            start: self.start,
            took: self.began.elapsed(),
            attributes: std::mem::take(&mut self.attributes),
            is_error: self.is_error,
        });
    }
}

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;

    use super::*;

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<Finished>>>);

    impl Sink for Kept {
        fn take(&self, span: Finished) {
            self.0.lock().push(span);
        }
    }

    fn wall() -> Duration {
        Duration::from_secs(1_800_000_000)
    }

    fn tracer(ratio: f64) -> (Arc<Tracer>, Kept) {
        let kept = Kept::default();
        (Tracer::new(ratio, wall, kept.clone()), kept)
    }

    fn begin(tracer: &Arc<Tracer>, parent: Option<Context>) -> Option<Span> {
        tracer.begin(parent, Kind::Server, || "a call".into())
    }

    #[test]
    fn a_share_of_the_traces_is_recorded() {
        for (ratio, least, most) in [(0.0, 0, 0), (0.25, 2_000, 3_000), (1.0, 10_000, 10_000)] {
            let (tracer, kept) = tracer(ratio);
            let recorded = (0..10_000).filter(|_| begin(&tracer, None).is_some()).count();
            assert!((least..=most).contains(&recorded), "{recorded} of 10000 at {ratio}");
            assert_eq!(kept.0.lock().len(), recorded);
            let lower = |span: &Finished| span.context.trace as u64;
            let limit = (ratio * u64::MAX as f64) as u64;
            assert!(kept.0.lock().iter().all(|span| lower(span) <= limit));
        }
    }

    #[test]
    fn the_caller_decides_for_its_trace() {
        let parent = |is_sampled| Some(Context { trace: 7 << 64, span: 9, is_sampled });
        let (all, kept) = tracer(1.0);
        assert!(begin(&all, parent(false)).is_none(), "the caller does not record it");
        assert!(kept.0.lock().is_empty());
        let (none, kept) = tracer(0.0);
        drop(begin(&none, parent(true)).expect("the caller records it"));
        let span = kept.0.lock().pop().expect("it has ended");
        assert_eq!((span.context.trace, span.parent), (7 << 64, Some(9)));
        assert!(span.has_remote_parent && span.context.span != 9);
    }

    #[tokio::test]
    async fn what_runs_within_a_span_is_below_it() {
        let (tracer, kept) = tracer(1.0);
        let root = begin(&tracer, None);
        let work = async {
            tokio::task::yield_now().await;
            let carried = tokio::spawn(carried(async {
                drop(child(Kind::Client, "in another task").expect("it is carried there"));
            }));
            carried.await.expect("it ends");
            let mut failed = child(Kind::Internal, "a part").expect("a part of the root");
            failed.set("n", 7_u16);
            failed.fail("broken");
        };
        within(root.as_ref(), work).await;
        assert!(child(Kind::Internal, "outside").is_none(), "nothing is current any more");
        drop(root);
        let spans = kept.0.lock();
        let names: Vec<_> = spans.iter().map(|span| &*span.name).collect();
        assert_eq!(names, ["in another task", "a part", "a call"]);
        let root = &spans[2];
        assert_eq!((root.parent, root.is_error), (None, false));
        for span in &spans[..2] {
            assert_eq!(span.context.trace, root.context.trace);
            assert_eq!(span.parent, Some(root.context.span));
            assert!(!span.has_remote_parent);
        }
        let expected = [("n", Value::Number(7)), ("error.type", "broken".into())];
        assert_eq!((&spans[1].attributes[..], spans[1].is_error), (&expected[..], true));
        assert_eq!(root.start, wall());
    }

    #[tokio::test]
    async fn without_a_span_nothing_is_recorded() {
        let work = async { child(Kind::Internal, "a part").is_none() };
        assert!(within(None, carried(work)).await);
    }
}
