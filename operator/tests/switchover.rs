//! Planned switchover on real clusters.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod common;

use common::{World, master_of, obedient_proxy};
use crds::status::{OperationOutcome, RoutingMode};

#[tokio::test(flavor = "multi_thread")]
async fn the_master_moves_there_and_back_without_a_rewind() {
    let mut world = World::new("  durability: {mode: Required}\n").await;
    world.rewind = None;
    let proxy = obedient_proxy(&world);
    let _operator = world.operator().await;
    world
        .until("sync confirmed", |status| {
            status.sync.confirmed.is_some() && status.replicas_ready == "2/2"
        })
        .await;
    for (at, to) in ["b", "a"].into_iter().enumerate() {
        let row = format!("insert into t values ({at})");
        let master = master_of(&world.status().await).to_owned();
        world.server(&master).value(&row).await;
        world.switchover(to, &format!("request {at}"));
        let status = world
            .until("switched", |status| status.history.len() == at + 1)
            .await;
        assert_eq!(
            (status.history[0].outcome, master_of(&status)),
            (OperationOutcome::Completed, to)
        );
        world.until_settled().await;
        for replica in ["a", "b", "c"].into_iter().filter(|name| *name != to) {
            world.until_replica(replica, to).await;
        }
        let count = (at + 1).to_string();
        assert_eq!(world.server(to).value("select count(*) from t").await, count);
    }
    proxy.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_by_sql_alone_when_somebody_restarts_what_stops() {
    let mut world = World::new("").await;
    world.restart = None;
    let _operator = world.operator().await;
    world.until_settled().await;
    world.write_manifest("  switchover: {to: c, requestId: first}\n");
    // The supervisor of this machine.
    let a = world.server("a");
    let old = a.pid();
    let end = std::time::Instant::now() + common::DEADLINE;
    while a.pid() == old {
        assert!(std::time::Instant::now() < end, "a was never stopped");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    a.start();
    let status = world.until("switched", |status| !status.history.is_empty()).await;
    assert_eq!(
        (status.history[0].outcome, master_of(&status)),
        (OperationOutcome::Completed, "c")
    );
    world.until_settled().await;
    world.until_replica("a", "c").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_dies_after_the_old_master_stopped_gives_the_part_back() {
    let mut world = World::new("").await;
    // Whoever stops a kills c: the target is gone at the worst moment.
    let pid_file = world.server("c").data.join("postmaster.pid");
    let restart = world.restart.take().unwrap();
    world.restart = Some(format!(
        "({restart}) && if [ $PGSTMTPOOL_ACTION$PGSTMTPOOL_SERVER = stopa ]; then kill -9 $(head -n 1 {}); fi",
        pid_file.display()
    ));
    let _operator = world.operator().await;
    world.until_settled().await;
    world.server("a").value("insert into t values (1)").await;
    world.switchover("c", "x");
    let status = world.until("over", |status| !status.history.is_empty()).await;
    assert_eq!(
        status.history[0].outcome,
        OperationOutcome::Aborted,
        "{:?}",
        status.history[0]
    );
    assert_ne!(master_of(&status), "c");
    assert_eq!(status.routing.mode, RoutingMode::Open);
    assert_eq!(
        world
            .server(master_of(&status))
            .value("select count(*) from t")
            .await,
        "1"
    );
    world
        .server(master_of(&status))
        .value("insert into t values (2)")
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_does_not_drain_keeps_the_old_master() {
    use cluster::{ClusterSource, FileSource, ProxyReport};
    let world = World::new("").await;
    let source = FileSource::open(&world.manifest, None).unwrap();
    let proxy = tokio::spawn(async move {
        loop {
            let epoch = source
                .current()
                .await
                .unwrap()
                .status
                .map_or(0, |status| status.epoch);
            let report = ProxyReport {
                id: "p1".into(),
                acked_epoch: epoch,
                ..ProxyReport::default()
            };
            source.acknowledge(report).await.unwrap();
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
    });
    let _operator = world.operator().await;
    world.until_settled().await;
    world.switchover("b", "y");
    let status = world.until("over", |status| !status.history.is_empty()).await;
    assert_eq!(
        (status.history[0].outcome, master_of(&status)),
        (OperationOutcome::Aborted, "a")
    );
    assert_eq!(status.routing.mode, RoutingMode::Open);
    world.server("a").value("insert into t values (1)").await;
    proxy.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_switchover_to_nobody_is_refused_and_changes_nothing() {
    let world = World::new("").await;
    let _operator = world.operator().await;
    world.until_settled().await;
    world.switchover("a", "z");
    let status = world.until("refused", |status| !status.history.is_empty()).await;
    assert_eq!(
        (status.history[0].outcome, status.epoch),
        (OperationOutcome::Refused, 1)
    );
}
