//! Failover and rejoin on real clusters.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod common;

use common::{Operator, World, is_true, master_of};
use crds::status::{OperationOutcome, OperationStep, RoutingMode};
use std::collections::BTreeSet;

const MANY: &str = "insert into t select generate_series(1, 1000)";

#[tokio::test(flavor = "multi_thread")]
async fn the_newest_replica_becomes_master_and_the_old_master_its_replica() {
    let world = World::new("").await;
    let _operator = world.operator().await;
    world.until_settled().await;
    // c is held back: b alone has the rows.
    world.server("c").signal_receiver("STOP").await;
    world.server("a").value(MANY).await;
    let master = world.server("a").value("select pg_current_wal_flush_lsn()").await;
    let caught = format!("select pg_last_wal_receive_lsn() >= '{master}'");
    world.server("b").until(&caught, "t").await;
    world.server("a").kill();
    world.server("c").signal_receiver("CONT").await;
    let status = world
        .until("a new master", |status| master_of(status) != "a")
        .await;
    assert_eq!(
        (master_of(&status), status.master.as_ref().unwrap().timeline),
        ("b", 2)
    );
    world.until_settled().await;
    for replica in ["a", "c"] {
        world.until_replica(replica, "b").await;
    }
    world.server("b").value("insert into t values (5000)").await;
    let status = world.status().await;
    assert_eq!(status.history[0].outcome, OperationOutcome::Completed);
    assert!(status.history[0].duration_ms < 60_000);
    assert!(
        status
            .events
            .iter()
            .any(|event| event.reason == "FailoverCompleted")
    );
    for server in ["a", "b", "c"] {
        world.server(server).until("select count(*) from t", "1001").await;
    }
    // Slots of the old master hold back no log anywhere.
    let slots = "select count(*) from pg_replication_slots where not active";
    world
        .until("no orphan slots", |status| status.operation.is_none())
        .await;
    world.server("a").until(slots, "0").await;
}

/// The old master has rows that nobody else has: it must not keep them. The operator looks away meanwhile.
async fn diverge(world: &World) -> Operator {
    let operator = world.operator().await;
    world.until_settled().await;
    operator.kill().await;
    for replica in ["b", "c"] {
        let server = world.server(replica);
        server
            .value("alter system set primary_conninfo = 'host=/nowhere user=postgres'")
            .await;
        server.value("select pg_reload_conf()").await;
        server
            .until("select count(*) from pg_stat_wal_receiver", "0")
            .await;
    }
    world.server("a").value(MANY).await;
    world.server("a").kill();
    world.operator().await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_master_that_went_its_own_way_is_rewound() {
    let world = World::new("").await;
    let _operator = diverge(&world).await;
    world
        .until("a new master", |status| master_of(status) != "a")
        .await;
    let status = world.until_settled().await;
    world.until_replica("a", master_of(&status)).await;
    assert_eq!(world.server("a").value("select count(*) from t").await, "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_rewind_command_a_person_is_asked_and_nobody_is_hurt() {
    let mut world = World::new("").await;
    world.rewind = None;
    let _operator = diverge(&world).await;
    let status = world
        .until("a person is asked", |status| is_true(status, "RejoinRequired"))
        .await;
    assert_eq!(status.routing.mode, RoutingMode::Open);
    let master = world.server(master_of(&status));
    master.value("insert into t values (1)").await;
    assert!(!status.server("a").unwrap().read_eligible);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_master_that_comes_back_by_itself_is_fenced() {
    let mut world = World::new("").await;
    world.restart = None;
    world.rewind = None;
    let _operator = world.operator().await;
    world.until_settled().await;
    world.server("a").kill();
    world
        .until("a new master", |status| {
            master_of(status) != "a" && status.operation.is_none()
        })
        .await;
    world.server("a").start();
    let status = world
        .until("noticed", |status| {
            status.events.iter().any(|e| e.reason == "ZombieMaster")
        })
        .await;
    assert_ne!(master_of(&status), "a");
    world
        .until("given to a person", |status| is_true(status, "RejoinRequired"))
        .await;
    let end = std::time::Instant::now() + common::DEADLINE;
    let insert = "insert into t select coalesce(max(id), 0) + 1 from t";
    while !world
        .server("a")
        .ask(insert)
        .await
        .is_err_and(|why| why.contains("read-only"))
    {
        assert!(std::time::Instant::now() < end, "a takes writes for ever");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_killed_at_every_step_is_continued_by_the_next() {
    let world = World::new("  durability: {mode: Required}\n").await;
    let mut operator = world.operator().await;
    world
        .until("sync confirmed", |status| {
            status.sync.confirmed.is_some() && status.replicas_ready == "2/2"
        })
        .await;
    world.server("a").value("insert into t values (1)").await;
    world.server("a").kill();
    let mut killed = BTreeSet::new();
    let end = std::time::Instant::now() + common::DEADLINE;
    loop {
        let status = world.status().await;
        if let Some(step) = status.operation.as_ref().map(|op| op.step)
            && killed.insert(step)
        {
            operator.kill().await;
            operator = world.operator().await;
        }
        if status.operation.is_none() && master_of(&status) != "a" {
            break;
        }
        assert!(std::time::Instant::now() < end, "never ended");
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    }
    assert!(
        killed.contains(&OperationStep::Measuring) || killed.len() >= 3,
        "killed only at {killed:?}"
    );
    let status = world.until_settled().await;
    assert_eq!(status.history.len(), 1);
    assert_eq!(status.history[0].outcome, OperationOutcome::Completed);
    let promoted: Vec<&str> = status
        .servers
        .iter()
        .filter(|s| s.timeline == 2)
        .map(|s| s.name.as_str())
        .collect();
    assert_eq!((promoted.len(), status.master.as_ref().unwrap().timeline), (3, 2));
    assert_eq!(
        world
            .server(master_of(&status))
            .value("select count(*) from t")
            .await,
        "1"
    );
    drop(operator);
}

#[tokio::test(flavor = "multi_thread")]
async fn commits_wait_and_nobody_is_promoted_who_may_lack_one() {
    let mut world = World::new("  durability: {mode: Required}\n").await;
    world.restart = None;
    let _operator = world.operator().await;
    let both = |status: &crds::status::PgPoolStatus| {
        status
            .sync
            .confirmed
            .as_ref()
            .is_some_and(|set| set.names == ["b", "c"])
            && status.sync.pending.is_none()
    };
    world.until("both confirm", both).await;
    assert_eq!(
        world.server("a").value("show synchronous_standby_names").await,
        "ANY 1 (\"b\",\"c\")"
    );
    // One replica less: the set follows. The other dies together with the master: nobody may be promoted.
    world.server("b").stop();
    world
        .until("the set shrinks", |status| {
            status
                .sync
                .confirmed
                .as_ref()
                .is_some_and(|set| set.names == ["c"])
                && status.sync.pending.is_none()
        })
        .await;
    world.server("c").stop();
    world.server("a").kill();
    world.server("b").start();
    let status = world
        .until("blocked", |status| is_true(status, "FailoverBlocked"))
        .await;
    assert_eq!(status.condition("FailoverBlocked").unwrap().reason, "QuorumLost");
    assert_eq!(
        (status.routing.mode, master_of(&status)),
        (RoutingMode::Fenced, "a")
    );
    world.server("c").start();
    let status = world
        .until("a new master", |status| master_of(status) != "a")
        .await;
    assert!(["b", "c"].contains(&master_of(&status)));
}
