//! Drivers of Rust, straight at PostgreSQL and through the proxy.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod sqlx_check;
mod tokio_postgres_check;

use pgstmtpool_tests::DriverStage;

/// Runs checks on a runtime of their own; each says what it has checked.
fn matrix(name: &str, checks: impl AsyncFn(u16) -> Vec<&'static str>) {
    let stage = DriverStage::start(name, "transaction");
    stage.check_here(name, |port| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(checks(port))
    });
}

#[test]
fn tokio_postgres() {
    matrix("tokio-postgres", tokio_postgres_check::all);
}

#[test]
fn sqlx() {
    matrix("sqlx", sqlx_check::all);
}
