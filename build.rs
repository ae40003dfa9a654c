//! Compiles the contract in `proto/` with protox, so that no `protoc` is needed.

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message;
use prost_types::{FileDescriptorSet, field_descriptor_proto::Type};

const FILES: [&str; 2] =
    ["sessiond/v1/session_service.proto", "sessiond/v1/session_admin_service.proto"];

/// String fields that the daemon handles as bytes. The encodings on the wire are
/// the same; only the UTF-8 check moves. If tonic did it, invalid UTF-8 would fail
/// the decoding of the message, and with it a whole pipeline. So the daemon does it:
/// in a Cookie header invalid UTF-8 is a state, elsewhere an error that names the
/// field. Session data also goes from the store to the wire without a copy.
const AS_BYTES: [(&str, &str); 15] = [
    ("Credential", "cookie_header"),
    ("Credential", "token"),
    ("Session", "data"),
    ("Session", "principal"),
    ("ResolveRequest", "engine"),
    ("TouchRequest", "engine"),
    ("WriteRequest", "engine"),
    ("WriteRequest", "set"),
    ("WriteRequest", "unset"),
    ("WriteRequest", "principal"),
    ("DestroyRequest", "engine"),
    ("WatchSessionsResponse", "principal"),
    ("WatchSessionsResponse", "former_principal"),
    ("SessionRecord", "principal"),
    ("SessionRecord", "data"),
];

/// Messages that carry a token, a cookie, session data or a principal. Their
/// `Debug` is written by hand (`src/grpc/wire.rs`) and prints none of these.
const SECRETIVE: [&str; 13] = [
    "Credential",
    "Credential.kind",
    "Session",
    "ResolveResponse",
    "TouchResponse",
    "WriteRequest",
    "WriteResponse",
    "DestroyResponse",
    "ListSessionsRequest",
    "RevokeSessionsRequest",
    "WatchSessionsRequest",
    "WatchSessionsResponse",
    "SessionRecord",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let out = PathBuf::from(env::var("OUT_DIR")?);

    let descriptors = protox::compile(FILES, ["proto"])?;
    fs::write(out.join("descriptor.bin"), descriptors.encode_to_vec())?;

    tonic_prost_build::configure()
        .extern_path(".google.rpc", "::tonic_types::pb")
        .bytes(".sessiond.v1")
        .skip_debug(SECRETIVE.map(|name| format!(".sessiond.v1.{name}")))
        .compile_fds(with_bytes(descriptors))?;
    Ok(())
}

fn with_bytes(mut descriptors: FileDescriptorSet) -> FileDescriptorSet {
    for file in &mut descriptors.file {
        if file.package() != "sessiond.v1" {
            continue;
        }
        for message in &mut file.message_type {
            let name = message.name().to_owned();
            for field in &mut message.field {
                if AS_BYTES.contains(&(name.as_str(), field.name())) {
                    field.set_type(Type::Bytes);
                }
            }
        }
    }
    descriptors
}
