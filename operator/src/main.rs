//! The program `pgstmtpool-operator`.

fn main() -> std::process::ExitCode {
    pgstmtpool_operator::app::main()
}
