//! Prints the definition of the resource: `cargo run -p crds --features kube --bin crdgen > crds/pgpools.pgstmtpool.io.yaml`.

use std::process::ExitCode;

fn main() -> ExitCode {
    match crds::definition::yaml() {
        Ok(text) => {
            print!("{text}");
            ExitCode::SUCCESS
        }
        Err(message) => {
            eprintln!("crdgen: {message}");
            ExitCode::FAILURE
        }
    }
}
