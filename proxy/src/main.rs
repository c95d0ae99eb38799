//! `pgstmtpool-proxy`: see the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    pgstmtpool_proxy::app::main()
}
