//! The command `pgstmtpool`.
fn main() {}
