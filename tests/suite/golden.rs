//! Golden files: what users see, so that no change of it happens by accident.
//!
//! `SESSIOND_TEST_BLESS=1 cargo test` writes them again.

use std::{fs, path::Path};

use prost::Message;
use prost_types::{DescriptorProto, FileDescriptorSet, field_descriptor_proto::Type};
use sessiond::{grpc::pb::FILE_DESCRIPTOR_SET, server::config::Config};

use crate::support::program::{run, stdout};

#[track_caller]
pub(crate) fn assert_golden(name: &str, found: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    if std::env::var_os("SESSIOND_TEST_BLESS").is_some() {
        fs::write(&path, found).expect("the golden file can be written");
    }
    let expected = fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(found, expected, "tests/golden/{name}; if you meant this change, bless the file");
}

#[test]
fn help() {
    let mut text = String::new();
    for arguments in [
        vec!["--help"],
        vec!["serve", "--help"],
        vec!["check", "--help"],
        vec!["health", "--help"],
        vec!["reload", "--help"],
        vec!["cleanup", "--help"],
        vec!["clock", "--help"],
        vec!["config", "--help"],
        vec!["secret", "--help"],
        vec!["status", "--help"],
        vec!["top", "--help"],
        vec!["completions", "--help"],
        vec!["man", "--help"],
        vec!["sessions", "--help"],
        vec!["sessions", "list", "--help"],
        vec!["sessions", "count", "--help"],
        vec!["sessions", "show", "--help"],
        vec!["sessions", "revoke", "--help"],
        vec!["export", "--help"],
        vec!["import", "--help"],
        vec!["bench", "--help"],
    ] {
        text +=
            &format!("$ sessiond {}\n{}\n", arguments.join(" "), stdout(&run(arguments.clone())));
    }
    assert_golden("help.txt", &text);
}

#[test]
fn default_configuration() {
    assert_golden("defaults.toml", &Config::defaults().to_toml());
}

/// The numbers and types of all fields: clients that are built today depend on them.
#[test]
fn descriptor() {
    let set = FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).expect("our own descriptor");
    let mut lines = Vec::new();
    for file in set.file.iter().filter(|file| file.package() == "sessiond.v1") {
        for service in &file.service {
            for method in &service.method {
                lines.push(format!(
                    "rpc {}.{}({}{}) {}{}",
                    service.name(),
                    method.name(),
                    if method.client_streaming() { "stream " } else { "" },
                    method.input_type(),
                    if method.server_streaming() { "stream " } else { "" },
                    method.output_type(),
                ));
            }
        }
        for one in &file.enum_type {
            for value in &one.value {
                lines.push(format!("enum {}.{} = {}", one.name(), value.name(), value.number()));
            }
        }
        for message in &file.message_type {
            lines.extend(fields(message));
        }
    }
    assert_golden("descriptor.txt", &(lines.join("\n") + "\n"));
}

fn fields(message: &DescriptorProto) -> Vec<String> {
    let kind = |kind: Type| kind.as_str_name().trim_start_matches("TYPE_").to_lowercase();
    let fields = message.field.iter().map(|field| {
        let repeated = if field.label.is_some_and(|label| label == 3) { "repeated " } else { "" };
        let of = if field.type_name().is_empty() {
            kind(field.r#type())
        } else {
            field.type_name().to_owned()
        };
        format!("field {}.{} = {} {repeated}{of}", message.name(), field.name(), field.number())
    });
    fields.collect()
}
