//! `src/pb.rs` is what prost makes of `proto/`. It is in the repository, so that the crate builds
//! without a compiler of protocols.

use std::{env, fs, path::Path};

/// Makes it again: `UPDATE=1 cargo test -p sessiond-client --all-features generated`.
#[test]
fn the_messages_are_those_of_the_contract() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let out = tempfile::tempdir().expect("a folder");
    let files = protox::compile(["sessiond/v1/session_service.proto"], [here.join("../../proto")])
        .expect("the contract");
    prost_build::Config::new()
        .out_dir(out.path())
        .bytes(["."])
        // Tokens, cookies and data are in many of them.
        .skip_debug(["."])
        .extern_path(".google.rpc", "::tonic_types::pb")
        .compile_fds(files)
        .expect("code");
    let made = fs::read_to_string(out.path().join("sessiond.v1.rs")).expect("a file");
    let kept = here.join("src/pb.rs");
    if env::var_os("UPDATE").is_some() {
        fs::write(&kept, &made).expect("a file that can be written");
    }
    let found = fs::read_to_string(&kept).expect("a file");
    assert!(found == made, "src/pb.rs is not what proto/ says: run this test with UPDATE=1");
}
