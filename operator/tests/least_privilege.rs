//! An operator that is no superuser (PostgreSQL 15 and later): the roles of `sql/` are enough for a failover and a switchover.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod common;

use common::{World, master_of};
use crds::status::OperationOutcome;

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_without_superuser_switches_over_and_fails_over() {
    let mut world = World::new("").await;
    let mut admin = world.server("a").connect().await.unwrap();
    if admin.server_version_num().is_none_or(|version| version < 150_000) {
        return;
    }
    admin.query(include_str!("../../sql/00_role.sql")).await.unwrap();
    admin
        .query(include_str!("../../sql/10_schema.sql"))
        .await
        .unwrap();
    admin
        .query("create role op login replication in role pgstmtpool_operator")
        .await
        .unwrap();
    for server in ["b", "c"] {
        world
            .server(server)
            .until("select count(*) from pg_roles where rolname = 'op'", "1")
            .await;
    }
    world.admin = "op".into();
    world.write_manifest("");
    let _operator = world.operator().await;
    world.until_settled().await;
    world.switchover("b", "1");
    let status = world.until("switched", |status| !status.history.is_empty()).await;
    assert_eq!(
        (status.history[0].outcome, master_of(&status)),
        (OperationOutcome::Completed, "b")
    );
    world.until_settled().await;
    world
        .server("b")
        .until("select count(*) > 0 from pgstmtpool.epoch", "t")
        .await;
    world.server("b").kill();
    world
        .until("failed over", |status| master_of(status) != "b")
        .await;
    world.until_settled().await;
}
