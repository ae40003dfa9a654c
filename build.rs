//! Compiles the contract in `proto/` with protox, so that no `protoc` is needed, and lists
//! the methods of SessionService, which no generated code serves.

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message;
use prost_types::{FileDescriptorSet, field_descriptor_proto::Type};

const FILES: [&str; 2] =
    ["sessiond/v1/session_service.proto", "sessiond/v1/session_admin_service.proto"];

/// The service that `src/grpc/session_service.rs` serves itself.
const SESSION_SERVICE: &str = "SessionService";

/// String fields that the daemon handles as bytes. The encodings on the wire are
/// the same; only the UTF-8 check moves. If tonic did it, invalid UTF-8 would fail
/// the decoding of the message, and with it a whole pipeline. So the daemon does it:
/// in a Cookie header invalid UTF-8 is a state, elsewhere an error that names the
/// field. Session data also goes from the store to the wire without a copy.
const AS_BYTES: [(&str, &str); 18] = [
    ("Session", "data"),
    ("Session", "principal"),
    ("Session", "label"),
    ("ResolveRequest", "engine"),
    ("TouchRequest", "engine"),
    ("WriteRequest", "engine"),
    ("WriteRequest", "set"),
    ("WriteRequest", "unset"),
    ("WriteRequest", "principal"),
    ("WriteRequest", "label"),
    ("DestroyRequest", "engine"),
    ("DestroyRequest", "session_ids"),
    ("SessionServiceListSessionsRequest", "engine"),
    ("WatchSessionsResponse", "principal"),
    ("WatchSessionsResponse", "former_principal"),
    ("SessionRecord", "principal"),
    ("SessionRecord", "data"),
    ("SessionRecord", "label"),
];

/// Messages that carry a token, a cookie, session data or a principal. Their
/// `Debug` is written by hand (`src/grpc/pb.rs`) and prints none of these.
const SECRETIVE: [&str; 16] = [
    "Credential",
    "Credential.kind",
    "Session",
    "ResolveResponse",
    "TouchResponse",
    "WriteRequest",
    "WriteResponse",
    "DestroyResponse",
    "SessionServiceListSessionsRequest",
    "SessionServiceListSessionsResponse",
    "ListSessionsRequest",
    "GetSessionResponse",
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
    fs::write(out.join("methods.rs"), methods(&descriptors)?)?;

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

/// An enum of the methods of SessionService. The code that serves them matches it, so a
/// method that is added to the contract does not compile until it is served.
fn methods(descriptors: &FileDescriptorSet) -> Result<String, Box<dyn Error>> {
    let mut services = descriptors.file.iter().flat_map(|file| {
        file.service
            .iter()
            .map(|service| (format!("{}.{}", file.package(), service.name()), service))
    });
    let (name, service) = services
        .find(|(_, service)| service.name() == SESSION_SERVICE)
        .ok_or_else(|| format!("expected a service {SESSION_SERVICE} in proto/"))?;
    let (mut variants, mut paths) = (String::new(), String::new());
    for method in &service.method {
        let method = method.name();
        variants += &format!("    {method},\n");
        paths += &format!("            \"/{name}/{method}\" => Self::{method},\n");
    }
    Ok(format!(
        "/// The methods of `{name}`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum {SESSION_SERVICE}Method {{
{variants}}}

impl {SESSION_SERVICE}Method {{
    /// The full name of the service.
    pub const SERVICE: &str = \"{name}\";

    /// The method that is called with this path; `None`: it is not one of this service.
    pub fn from_path(path: &str) -> Option<Self> {{
        Some(match path {{
{paths}            _ => return None,
        }})
    }}
}}
"
    ))
}
