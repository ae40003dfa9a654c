//! What the daemon and its client for Rust have of the contract in `proto/`: the messages, the
//! services, the methods, and the descriptors for reflection. All of it is in the repository, so
//! that neither needs a compiler of protocols when it is built.
//!
//! If you have changed `proto/`, write it again: `cargo run -p sessiond-generate`. A test compares
//! what is in the repository with what [`generate`] makes.

use std::{
    error::Error,
    fs,
    path::{Path, PathBuf},
};

use prost::Message;
use prost_types::{FileDescriptorSet, field_descriptor_proto::Type};

const SESSION_SERVICE_FILE: &str = "sessiond/v1/session_service.proto";
const FILES: [&str; 2] = [SESSION_SERVICE_FILE, "sessiond/v1/session_admin_service.proto"];

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

/// A file of the repository.
#[derive(Debug)]
pub struct Generated {
    pub path: PathBuf,
    pub content: Vec<u8>,
}

/// All that is generated. Writes nothing.
///
/// # Errors
///
/// If `proto/` is not what a compiler of protocols accepts.
pub fn generate() -> Result<Vec<Generated>, Box<dyn Error>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize()?;
    let proto = root.join("proto");
    let daemon = root.join("src/grpc/generated");

    let descriptors = protox::compile(FILES, [&proto])?;
    let for_client = protox::compile([SESSION_SERVICE_FILE], [&proto])?;
    let file = |path: PathBuf, content| Generated { path, content };
    Ok(vec![
        file(daemon.join("descriptor.bin"), descriptors.encode_to_vec()),
        file(daemon.join("methods.rs"), methods(&descriptors)?.into_bytes()),
        file(daemon.join("sessiond.v1.rs"), code_of_daemon(descriptors)?),
        file(root.join("clients/rust/src/pb.rs"), code_of_client(for_client)?),
    ])
}

fn code_of_daemon(descriptors: FileDescriptorSet) -> Result<Vec<u8>, Box<dyn Error>> {
    let out = tempfile::tempdir()?;
    tonic_prost_build::configure()
        .out_dir(out.path())
        .extern_path(".google.rpc", "::tonic_types::pb")
        .bytes(".sessiond.v1")
        .skip_debug(SECRETIVE.map(|name| format!(".sessiond.v1.{name}")))
        .compile_fds(with_bytes(descriptors))?;
    Ok(fs::read(out.path().join("sessiond.v1.rs"))?)
}

/// Messages only: the client has a transport of its own.
fn code_of_client(descriptors: FileDescriptorSet) -> Result<Vec<u8>, Box<dyn Error>> {
    let out = tempfile::tempdir()?;
    prost_build::Config::new()
        .out_dir(out.path())
        .bytes(["."])
        // Tokens, cookies and data are in many of them.
        .skip_debug(["."])
        .extern_path(".google.rpc", "::tonic_types::pb")
        .compile_fds(descriptors)?;
    Ok(fs::read(out.path().join("sessiond.v1.rs"))?)
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
