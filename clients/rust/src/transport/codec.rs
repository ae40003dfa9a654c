//! The codec of the Pipeline. Operations are encoded where they are called, once, also if they
//! are sent again; the stream puts their sequence and timeout behind them.

use bytes::{BufMut, Bytes};
use prost::Message;
use tonic::{
    Status,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
};

use crate::pb;

/// A PipelineRequest, its operation encoded.
pub(crate) struct Frame {
    pub(crate) operation: Bytes,
    /// The rest.
    pub(crate) envelope: pb::PipelineRequest,
}

#[derive(Default)]
pub(crate) struct PipelineCodec;

impl Codec for PipelineCodec {
    type Encode = Frame;
    type Decode = pb::PipelineResponse;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for PipelineCodec {
    type Item = Frame;
    type Error = Status;

    fn encode(&mut self, frame: Frame, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        // Fields of a message may come in any order.
        out.reserve(frame.operation.len() + frame.envelope.encoded_len());
        out.put_slice(&frame.operation);
        frame.envelope.encode(out).map_err(|_| Status::internal("no room for a message"))
    }
}

impl Decoder for PipelineCodec {
    type Item = pb::PipelineResponse;
    type Error = Status;

    fn decode(&mut self, octets: &mut DecodeBuf<'_>) -> Result<Option<Self::Item>, Status> {
        let response = pb::PipelineResponse::decode(octets);
        // The octets can be anything, so the error does not quote them.
        response.map(Some).map_err(|_| Status::internal("an answer that cannot be decoded"))
    }
}
