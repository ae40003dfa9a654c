//! The spans of a store.

use std::sync::Arc;

use async_trait::async_trait;

use crate::{
    session::store::{Layer, Store, StoreFuture, Verb},
    trace::{self, Kind},
};

/// A store whose operations are spans, if what they belong to is recorded.
pub(super) struct TracedStore {
    pub store: Arc<dyn Store>,
    pub engine: String,
    /// As in `store.backend`.
    pub backend: &'static str,
}

#[async_trait]
impl Layer for TracedStore {
    fn inner(&self) -> &dyn Store {
        self.store.as_ref()
    }

    fn around<'a, T: Send + 'a>(
        &'a self,
        verb: Verb,
        operation: StoreFuture<'a, T>,
    ) -> StoreFuture<'a, T> {
        let Some(scope) = trace::under() else { return operation };
        let mut span = scope.child(Kind::Internal, format!("store {}", verb.name()));
        span.set("sessiond.engine", self.engine.clone());
        span.set("sessiond.store", self.backend);
        Box::pin(async move {
            let outcome = trace::within(Some(&span), operation).await;
            if let Err(error) = &outcome {
                span.fail(error.kind.name());
            }
            outcome
        })
    }
}
