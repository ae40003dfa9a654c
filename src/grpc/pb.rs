//! The messages, services and methods generated from `proto/` by `proto/generate`.

// The contract explains all messages. What is generated beside them, such as the variants of
// the methods, has no text there.
#![allow(missing_docs)]

use std::fmt;

include!("generated/sessiond.v1.rs");
include!("generated/methods.rs");

/// The descriptors of `sessiond.v1` and what it imports, for reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!("generated/descriptor.bin");

/// These hold a token, a cookie, session data or a principal: `Debug` prints their type and
/// nothing else, so that no log statement can give one away.
macro_rules! secretive {
    ($($name:ty => $text:literal),+ $(,)?) => {
        $(impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str($text)
            }
        })+
    };
}

secretive! {
    Credential => "Credential",
    credential::Kind => "Credential.Kind",
    Session => "Session",
    ResolveResponse => "ResolveResponse",
    TouchResponse => "TouchResponse",
    WriteRequest => "WriteRequest",
    WriteResponse => "WriteResponse",
    DestroyResponse => "DestroyResponse",
    SessionServiceListSessionsRequest => "SessionServiceListSessionsRequest",
    SessionServiceListSessionsResponse => "SessionServiceListSessionsResponse",
    ListSessionsRequest => "ListSessionsRequest",
    GetSessionResponse => "GetSessionResponse",
    RevokeSessionsRequest => "RevokeSessionsRequest",
    WatchSessionsRequest => "WatchSessionsRequest",
    WatchSessionsResponse => "WatchSessionsResponse",
    SessionRecord => "SessionRecord",
}
