//! What the repository has of the contract is what `proto/` says.

use std::fs;

#[test]
fn generated_code_is_that_of_the_contract() {
    let files = sessiond_generate::generate().expect("a contract that compiles");
    assert!(!files.is_empty(), "expected files to compare");
    for file in files {
        let found = fs::read(&file.path).unwrap_or_default();
        assert!(
            found == file.content,
            "{} is not what proto/ says: run `cargo run -p sessiond-generate`",
            file.path.display()
        );
    }
}
