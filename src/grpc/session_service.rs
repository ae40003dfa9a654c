//! `sessiond.v1.SessionService`.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use super::{
    engines::Engines,
    fault::Fault,
    observer::Observer,
    operation::{self, Operation},
    pipeline::Pipeline,
    wire::{
        DestroyRequest, DestroyResponse, PipelineRequest, ResolveRequest, ResolveResponse,
        TouchRequest, TouchResponse, WriteRequest, WriteResponse, session_service_server,
    },
};
use crate::session::store::Store;

/// The service, over the engines of a daemon. There only `pipeline` is called: the
/// unary calls are answered by [`unary`](super::unary) before they come this far.
pub struct SessionService<S> {
    pub engines: Engines<S>,
    pub observer: Arc<dyn Observer>,
    /// Operations of one pipeline in flight.
    pub pipeline_in_flight: usize,
    /// Cancelled when the daemon stops: pipelines end.
    pub stopping: CancellationToken,
}

impl<S: Store> SessionService<S> {
    async fn unary<O: Operation<S>>(
        &self,
        request: Request<O::Request>,
    ) -> Result<Response<O::Response>, Status> {
        let observer = self.observer.as_ref();
        let operation = operation::prepared::<S, O>(&self.engines, request.into_inner(), observer)
            .map_err(Fault::into_status)?;
        let response = operation::answered(operation, observer).await;
        response.map(Response::new).map_err(Fault::into_status)
    }
}

#[tonic::async_trait]
impl<S: Store> session_service_server::SessionService for SessionService<S> {
    async fn resolve(
        &self,
        request: Request<ResolveRequest>,
    ) -> Result<Response<ResolveResponse>, Status> {
        self.unary::<operation::Resolve<S>>(request).await
    }

    async fn touch(
        &self,
        request: Request<TouchRequest>,
    ) -> Result<Response<TouchResponse>, Status> {
        self.unary::<operation::Touch<S>>(request).await
    }

    async fn write(
        &self,
        request: Request<WriteRequest>,
    ) -> Result<Response<WriteResponse>, Status> {
        self.unary::<operation::Write<S>>(request).await
    }

    async fn destroy(
        &self,
        request: Request<DestroyRequest>,
    ) -> Result<Response<DestroyResponse>, Status> {
        self.unary::<operation::Destroy<S>>(request).await
    }

    type PipelineStream = Pipeline<S, Streaming<PipelineRequest>>;

    async fn pipeline(
        &self,
        request: Request<Streaming<PipelineRequest>>,
    ) -> Result<Response<Self::PipelineStream>, Status> {
        Ok(Response::new(Pipeline::new(
            self.engines.clone(),
            Arc::clone(&self.observer),
            self.pipeline_in_flight,
            request.into_inner(),
            self.stopping.clone(),
        )))
    }
}
