//! The program `pgstmtpool-guard`.

fn main() -> std::process::ExitCode {
    pgstmtpool_operator::guard::main()
}
