//! The way of spans to the collector.
//!
//! Whoever records a span puts it into a queue of a fixed length and never waits. If the collector
//! is away or slow, the queue fills and what comes then is counted and lost. A task takes batches out
//! of the queue and sends one at a time. A batch that the collector did not get is sent again; one
//! that it does not want is given up. The log has one line when this begins and one when it is over.

use std::{collections::HashSet, time::Duration};

use http::uri::PathAndQuery;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, timeout, timeout_at},
};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Status, client::Grpc, transport::Channel};
use tonic_prost::ProstCodec;
use tonic_types::StatusExt;

use super::{
    TraceMetrics, TraceOptions,
    otlp::{self, ExportTraceServiceRequest, ExportTraceServiceResponse, Resource},
};
use crate::trace::{Finished, Sink};

const EXPORT: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";

/// Spans that wait, at most: some 2 MiB.
const QUEUE: usize = 4096;
/// Spans in one batch, at most.
const BATCH: usize = 512;
/// How long the first span of a batch waits for others.
const INTERVAL: Duration = Duration::from_secs(1);
/// How long one export may take.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Pauses between two attempts, which grow.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// How long a stop waits for what is left.
const FLUSH: Duration = Duration::from_secs(3);

/// Where spans wait.
struct Queue {
    spans: mpsc::Sender<Finished>,
    metrics: TraceMetrics,
}

impl Sink for Queue {
    fn take(&self, span: Finished) {
        if self.spans.try_send(span).is_err() {
            self.metrics.overflowed.inc();
        }
    }
}

pub(super) fn queue(
    options: TraceOptions,
    resource: Resource,
    metrics: TraceMetrics,
) -> (impl Sink, Exporter) {
    let (spans, waiting) = mpsc::channel(QUEUE);
    let queue = Queue { spans, metrics: metrics.clone() };
    (
        queue,
        Exporter { options, resource, metrics, waiting, is_away: false, refusals: HashSet::new() },
    )
}

/// Takes the spans to the collector.
pub(in crate::server) struct Exporter {
    options: TraceOptions,
    resource: Resource,
    metrics: TraceMetrics,
    waiting: mpsc::Receiver<Finished>,
    /// The last attempt has failed, and the log says so.
    is_away: bool,
    /// Why the collector did not want spans, as far as it is logged.
    refusals: HashSet<Code>,
}

/// What has become of a batch.
enum Sent {
    Done,
    /// Try again after this time, or when the exporter thinks best.
    Later(Status, Option<Duration>),
    Refused(Status),
}

impl Exporter {
    /// Exports until `stop`, and then what is left, for a bounded time.
    pub(in crate::server) async fn run(mut self, stop: CancellationToken) {
        let channel = self.options.endpoint.connect_lazy();
        let mut batch = Vec::new();
        let until_stop = stop.run_until_cancelled(async {
            while self.collect(&mut batch).await {
                self.deliver(&channel, &mut batch).await;
            }
        });
        until_stop.await;
        let end = Instant::now() + FLUSH;
        // Whoever still works has no one to tell.
        self.waiting.close();
        let flushed = timeout_at(end, async {
            while !batch.is_empty() || self.waiting.recv_many(&mut batch, BATCH).await > 0 {
                self.deliver(&channel, &mut batch).await;
            }
        });
        let _ = flushed.await;
        let left = batch.len() + self.waiting.len();
        if left > 0 {
            self.metrics.left.inc_by(left as u64);
            let collector = &self.options.name;
            tracing::warn!(collector, left, "spans are lost: the collector did not take them");
        }
    }

    /// Fills a batch. False: there will be no more spans.
    async fn collect(&mut self, batch: &mut Vec<Finished>) -> bool {
        if batch.is_empty() && self.waiting.recv_many(batch, BATCH).await == 0 {
            return false;
        }
        let end = Instant::now() + INTERVAL;
        while batch.len() < BATCH {
            let room = BATCH - batch.len();
            match timeout_at(end, self.waiting.recv_many(batch, room)).await {
                Ok(0) | Err(_) => break,
                Ok(_) => {}
            }
        }
        true
    }

    /// Sends a batch until the collector has it or does not want it. Leaves it as it is if it is
    /// dropped before.
    async fn deliver(&mut self, channel: &Channel, batch: &mut Vec<Finished>) {
        let spans = batch.iter().cloned().map(Into::into).collect();
        let request = otlp::request(&self.resource, spans);
        let mut pause = FIRST_PAUSE;
        loop {
            match self.send(channel, request.clone(), batch.len()).await {
                Sent::Done => break,
                Sent::Refused(status) => {
                    self.metrics.refused.inc_by(batch.len() as u64);
                    self.log_refusal(&status);
                    break;
                }
                Sent::Later(status, after) => {
                    if !std::mem::replace(&mut self.is_away, true) {
                        let collector = &self.options.name;
                        tracing::warn!(
                            collector,
                            "spans cannot be exported, trying again; what does not fit into the \
                             queue is lost: {}",
                            told(&status)
                        );
                    }
                    sleep(after.unwrap_or(pause).min(LONGEST_PAUSE)).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
        batch.clear();
    }

    async fn send(
        &mut self,
        channel: &Channel,
        message: ExportTraceServiceRequest,
        count: usize,
    ) -> Sent {
        let mut request = Request::new(message);
        *request.metadata_mut() = self.options.headers.clone();
        let exported = timeout(TIMEOUT, export(channel.clone(), request)).await;
        let late = |_| Err(Status::deadline_exceeded(format!("no answer within {TIMEOUT:?}")));
        match exported.unwrap_or_else(late) {
            Ok(answer) => {
                if std::mem::take(&mut self.is_away) {
                    let lost = self.metrics.overflowed.get();
                    let collector = &self.options.name;
                    tracing::info!(collector, lost, "spans are exported again");
                }
                let partly = answer.partial_success.unwrap_or_default();
                let rejected = u64::try_from(partly.rejected_spans).unwrap_or(0).min(count as u64);
                self.metrics.exported.inc_by(count as u64 - rejected);
                self.metrics.refused.inc_by(rejected);
                if rejected > 0 {
                    self.log_refusal(&Status::ok(partly.error_message));
                }
                Sent::Done
            }
            Err(status) => {
                let after = status.get_details_retry_info().and_then(|info| info.retry_delay);
                match status.code() {
                    // The codes of OTLP after which a client tries again.
                    Code::Cancelled
                    | Code::DeadlineExceeded
                    | Code::Aborted
                    | Code::OutOfRange
                    | Code::Unavailable
                    | Code::DataLoss => Sent::Later(status, after),
                    Code::ResourceExhausted if after.is_some() => Sent::Later(status, after),
                    // The connection broke in the middle of the answer.
                    Code::Unknown if std::error::Error::source(&status).is_some() => {
                        Sent::Later(status, None)
                    }
                    _ => Sent::Refused(status),
                }
            }
        }
    }

    /// Once for each kind.
    fn log_refusal(&mut self, status: &Status) {
        if self.refusals.insert(status.code()) {
            let collector = &self.options.name;
            tracing::warn!(
                collector,
                "the collector does not take spans, they are lost; logged once: {}",
                told(status)
            );
        }
    }
}

async fn export(
    channel: Channel,
    request: Request<ExportTraceServiceRequest>,
) -> Result<ExportTraceServiceResponse, Status> {
    let mut grpc = Grpc::new(channel);
    grpc.ready().await.map_err(|error| Status::unavailable(causes(&error)))?;
    let codec = ProstCodec::default();
    let answer = grpc.unary(request, PathAndQuery::from_static(EXPORT), codec).await;
    answer.map(tonic::Response::into_inner)
}

/// A status in a line of the log: what another program says is cut.
fn told(status: &Status) -> String {
    const MAX_LEN: usize = 300;
    let (code, causes) = (status.code(), causes(status));
    let text: String =
        format!("{code:?}: {}: {causes}", status.message()).chars().take(MAX_LEN).collect();
    text.trim_end_matches(": ").to_owned()
}

fn causes(error: &dyn std::error::Error) -> String {
    let mut texts = Vec::new();
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        if texts.last() != Some(&text) {
            texts.push(text);
        }
        cause = error.source();
    }
    texts.join(": ")
}
