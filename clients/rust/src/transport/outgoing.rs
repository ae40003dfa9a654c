//! What a stream sends.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::Instant;
use tokio_stream::Stream;
use tonic::Code;

use super::{Op, Shared, State, codec::Frame};
use crate::{
    error::{Applied, Error, Reason, Result},
    pb, wire,
};

/// Room for the sequence and the timeout of a message.
const ENVELOPE_BYTES: usize = 40;

/// What one stream sends: the queue, until the stream has ended.
pub(super) struct Outgoing {
    pub(super) shared: Arc<Shared>,
    /// That of the stream.
    pub(super) number: u64,
}

impl Stream for Outgoing {
    type Item = Frame;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Frame>> {
        let shared = &self.shared;
        let mut state = shared.state();
        loop {
            if state.stream != Some(self.number) || state.ended {
                return Poll::Ready(None);
            }
            let Some(op) = state.queue.pop_front() else {
                state.sender = Some(context.waker().clone());
                return Poll::Pending;
            };
            if op.answer.is_closed() {
                continue;
            }
            if op.operation.is_empty() {
                op.finish(Ok(None));
                continue;
            }
            if let Err(error) = state.allows(&op) {
                op.fail(error);
                continue;
            }
            // The daemon's answer, which knows whether the operation had begun, shall come
            // before the caller's time is over.
            let left = op.deadline.saturating_duration_since(Instant::now());
            let left = left - (left / 10).min(Duration::from_millis(100));
            if left.is_zero() {
                continue; // The caller wakes in this moment.
            }
            state.sequence += 1;
            let envelope = pb::PipelineRequest {
                sequence: state.sequence,
                timeout: Some(wire::on_wire(left)),
                operation: None,
            };
            let frame = Frame { operation: op.operation.clone(), envelope };
            let sequence = state.sequence;
            op.progress.sent(sequence);
            state.sent.insert(sequence, op);
            return Poll::Ready(Some(frame));
        }
    }
}

impl State {
    /// Refuses what the daemon would refuse by ending the stream, for all, and data that are
    /// too large anyhow.
    fn allows(&self, op: &Op) -> Result<()> {
        let Some(description) = &self.description else { return Ok(()) };
        let refused =
            |reason, message| Err(Error::new(reason, Code::InvalidArgument, Applied::No, message));
        if let Some((engine, length)) = &op.data
            && let Some(engine) = description.engine(engine)
            && *length > engine.max_data_bytes.max(4096)
        {
            let limit = engine.max_data_bytes;
            let message =
                format!("the data are larger than max_data_bytes of the engine ({limit})");
            return refused(Reason::DataTooLarge, message)
                .map_err(|error: Error| error.with_field("set"));
        }
        let limit = description.limits.max_message_bytes;
        if limit > 0 && op.operation.len() + ENVELOPE_BYTES > limit {
            let message = format!("the message is larger than limits.max_message_bytes ({limit})");
            return refused(Reason::MessageTooLarge, message);
        }
        Ok(())
    }
}

const _: () = {
    // The two numbers and their tags.
    assert!(ENVELOPE_BYTES >= (1 + 10) + (2 + (1 + 10) + (1 + 6)));
};

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;

    #[test]
    fn an_operation_and_its_envelope_are_one_message() {
        use pb::pipeline_request::Operation;
        let operation = Operation::Resolve(pb::ResolveRequest { peek: true, ..Default::default() });
        let mut octets = wire::encoded(operation.clone()).to_vec();
        let timeout = Some(wire::on_wire(Duration::MAX));
        let envelope = pb::PipelineRequest { sequence: u64::MAX, timeout, operation: None };
        assert!(envelope.encoded_len() <= ENVELOPE_BYTES, "{}", envelope.encoded_len());
        octets.extend(envelope.encode_to_vec());
        let decoded = pb::PipelineRequest::decode(octets.as_slice()).expect("a message");
        let expected = pb::PipelineRequest { operation: Some(operation), ..envelope };
        assert!(decoded == expected, "expected both parts in one message");
    }
}
