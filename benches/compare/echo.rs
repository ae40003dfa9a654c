//! The lower bound: a tonic server that only answers.
//!
//! It decodes a ResolveRequest and answers with a ResolveResponse of the same size as the
//! daemon's. It is plain tonic, on one thread.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    path::Path,
    pin::Pin,
    process::{Command, Stdio},
};

use futures_util::{Stream, StreamExt};
use prost::Message;
use sessiond::grpc::pb::{
    DescribeRequest, DescribeResponse, DestroyRequest, DestroyResponse, PipelineRequest,
    PipelineResponse, ResolveRequest, ResolveResponse, SessionServiceListSessionsRequest,
    SessionServiceListSessionsResponse, TouchRequest, TouchResponse, WriteRequest, WriteResponse,
    pipeline_response,
    session_service_server::{SessionService, SessionServiceServer},
};
use tonic::{
    Request, Response, Status, Streaming,
    transport::{Server, server::TcpIncoming},
};

use crate::support::{Problem, machine::Process};

/// The argument that makes this program the server. Its value is a file with the answer.
pub(crate) const SERVE: &str = "--serve-echo";

/// A running echo server.
pub(crate) struct Echo {
    pub process: Process,
    pub tcp: String,
}

impl Echo {
    /// Starts this program again as the server.
    pub(crate) fn start(
        cores: &[usize],
        directory: &Path,
        answer: &ResolveResponse,
    ) -> Result<Self, Problem> {
        let file = directory.join("answer");
        let written = fs::write(&file, answer.encode_to_vec());
        written.map_err(|error| format!("{} cannot be written: {error}", file.display()))?;
        let own = std::env::current_exe().map_err(|error| error.to_string())?;
        let mut serve = Command::new(own);
        serve.arg(SERVE).arg(file).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut process = Process::spawn(serve, cores)?;
        let out = process.child().stdout.take().expect("it is piped");
        let mut line = String::new();
        let read = BufReader::new(out).read_line(&mut line);
        read.map_err(|error| format!("the echo's standard output: {error}"))?;
        if line.trim().is_empty() {
            return Err("expected the echo to print its address".to_owned());
        }
        Ok(Self { process, tcp: line.trim().to_owned() })
    }
}

/// Serves until it is killed.
pub(crate) fn serve(answer: &Path) -> Result<(), Problem> {
    let answer = fs::read(answer).map_err(|error| error.to_string())?;
    let answer = ResolveResponse::decode(&*answer).map_err(|error| error.to_string())?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| error.to_string())?.block_on(async {
        let any = "127.0.0.1:0".parse().expect("an address");
        let incoming = TcpIncoming::bind(any).map_err(|error| error.to_string())?;
        let incoming = incoming.with_nodelay(Some(true));
        let address = incoming.local_addr().map_err(|error| error.to_string())?;
        let mut out = std::io::stdout();
        writeln!(out, "{address}").and_then(|()| out.flush()).map_err(|error| error.to_string())?;
        let server = Server::builder().add_service(SessionServiceServer::new(Same(answer)));
        server.serve_with_incoming(incoming).await.map_err(|error| error.to_string())
    })
}

/// Answers each Resolve with the same message.
struct Same(ResolveResponse);

#[tonic::async_trait]
impl SessionService for Same {
    async fn resolve(
        &self,
        request: Request<ResolveRequest>,
    ) -> Result<Response<ResolveResponse>, Status> {
        drop(request);
        Ok(Response::new(self.0.clone()))
    }

    type PipelineStream = Pin<Box<dyn Stream<Item = Result<PipelineResponse, Status>> + Send>>;

    async fn pipeline(
        &self,
        request: Request<Streaming<PipelineRequest>>,
    ) -> Result<Response<Self::PipelineStream>, Status> {
        let answer = self.0.clone();
        let answers = request.into_inner().map(move |request| {
            let result = Some(pipeline_response::Result::Resolve(answer.clone()));
            request.map(|request| PipelineResponse { sequence: request.sequence, result })
        });
        Ok(Response::new(Box::pin(answers)))
    }

    async fn list_sessions(
        &self,
        _: Request<SessionServiceListSessionsRequest>,
    ) -> Result<Response<SessionServiceListSessionsResponse>, Status> {
        Err(Status::unimplemented("the echo answers Resolve only"))
    }

    async fn describe(
        &self,
        _: Request<DescribeRequest>,
    ) -> Result<Response<DescribeResponse>, Status> {
        Err(Status::unimplemented("the echo answers Resolve only"))
    }

    async fn touch(&self, _: Request<TouchRequest>) -> Result<Response<TouchResponse>, Status> {
        Err(Status::unimplemented("the echo answers Resolve only"))
    }

    async fn write(&self, _: Request<WriteRequest>) -> Result<Response<WriteResponse>, Status> {
        Err(Status::unimplemented("the echo answers Resolve only"))
    }

    async fn destroy(
        &self,
        _: Request<DestroyRequest>,
    ) -> Result<Response<DestroyResponse>, Status> {
        Err(Status::unimplemented("the echo answers Resolve only"))
    }
}
