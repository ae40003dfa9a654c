//! Writes the code that is generated from the contract, below `src/grpc/generated/` and
//! `clients/rust/src/`: `cargo run -p sessiond-generate`.

use std::{error::Error, fs};

fn main() -> Result<(), Box<dyn Error>> {
    for file in sessiond_generate::generate()? {
        fs::create_dir_all(file.path.parent().expect("it is in a folder"))?;
        fs::write(&file.path, &file.content)?;
        println!("{}", file.path.display());
    }
    Ok(())
}
