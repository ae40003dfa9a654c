//! The trailers of a call: its status.

use http::{HeaderMap, HeaderName, HeaderValue};
use tonic::Status;

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const OK: HeaderValue = HeaderValue::from_static("0");

/// The trailers of a call that succeeded.
pub(super) fn ok() -> HeaderMap {
    let mut trailers = HeaderMap::with_capacity(1);
    trailers.insert(GRPC_STATUS, OK);
    trailers
}

/// The trailers of a call that ends with this status.
pub(super) fn failed(status: Status) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    // What cannot be written as a header is left out.
    let _ = status.add_header(&mut trailers);
    trailers
}
