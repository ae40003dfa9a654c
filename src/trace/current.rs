//! The span under which a task works.
//!
//! It is known to the code that a future calls while it is polled, and to nothing else: the thread
//! may work for other requests in between.

use std::{
    borrow::Cow,
    cell::RefCell,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use pin_project_lite::pin_project;

use super::{Kind, Scope, Span};

thread_local! {
    static CURRENT: RefCell<Option<Arc<Scope>>> = const { RefCell::new(None) };
}

/// The span under which the caller works. `None`: nothing is recorded.
pub fn under() -> Option<Arc<Scope>> {
    CURRENT.with_borrow(Option::clone)
}

/// Begins a span below the one under which the caller works. `None`: nothing is recorded.
pub fn child(kind: Kind, name: impl Into<Cow<'static, str>>) -> Option<Span> {
    Some(under()?.child(kind, name))
}

/// Work under a span. Without one it stays under the span that it is polled under, if any.
pub fn within<F: Future>(span: Option<&Span>, work: F) -> Within<F> {
    Within { scope: span.map(Span::scope), work }
}

/// Work that another task does, under the span of the caller.
pub fn carried<F: Future>(work: F) -> Within<F> {
    Within { scope: under(), work }
}

pin_project! {
    /// Work under a span.
    #[must_use]
    pub struct Within<F> {
        scope: Option<Arc<Scope>>,
        #[pin]
        work: F,
    }
}

impl<F: Future> Future for Within<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        match this.scope {
            None => this.work.poll(cx),
            Some(scope) => {
                let _restored = Entered::new(Arc::clone(scope));
                this.work.poll(cx)
            }
        }
    }
}

/// Gives the thread back the span that it had, also after a panic.
struct Entered(Option<Arc<Scope>>);

impl Entered {
    fn new(scope: Arc<Scope>) -> Self {
        Self(CURRENT.replace(Some(scope)))
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        CURRENT.set(self.0.take());
    }
}
