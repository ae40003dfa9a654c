//! Compiles the contract in `proto/` with protox, so that no `protoc` is needed.

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message;
use prost_types::{FileDescriptorSet, field_descriptor_proto::Type};

const FILES: [&str; 2] =
    ["sessiond/v1/session_service.proto", "sessiond/v1/session_admin_service.proto"];

/// Strings on the wire that the daemon takes and gives as bytes. The two
/// encodings are the same; what differs is who looks at the UTF-8. Octets that
/// are none would fail the decoding, and with it a whole pipeline: in a Cookie
/// header they must be a state, elsewhere an error that names the field. And
/// session data is handed out from the store without a copy.
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

/// Messages that carry a token, a cookie, session data or a principal. They get
/// a `Debug` by hand (`src/grpc/wire.rs`) that prints none of it.
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
