//! The harness itself: clusters start, replicate, die and leave nothing behind.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::sync::Arc;

use pgstmtpool_tests::{Cluster, DEADLINE, StopMode, World, psql, wait_until};

#[test]
fn a_cluster_replicates_and_survives_kill_and_restart() {
    let world = Arc::new(World::new("harness"));
    let cluster = Cluster::builder(&world).replicas(1).scram().start();
    cluster.master().sql("create table t (n int)");
    cluster.master().sql("insert into t values (1)");
    cluster.wait_caught_up();
    assert_eq!(cluster.server(1).value("select n from t"), "1");
    cluster.master().kill();
    assert!(!cluster.master().is_running());
    cluster.master().start();
    cluster.server(1).wait_streaming(DEADLINE);
    assert_eq!(cluster.writable().unwrap().name, "pg-0");
    let conninfo = format!(
        "host=127.0.0.1 port={} user=postgres password=postgres",
        cluster.master().port
    );
    assert_eq!(psql(&conninfo, &["select 2"]).expect_ok("psql").out.trim(), "2");
}

#[test]
fn a_frozen_server_does_not_answer_until_thawed() {
    let world = Arc::new(World::new("freeze"));
    let cluster = Cluster::single(&world);
    let mut connection = cluster.master().connect("postgres");
    connection.set_timeout(std::time::Duration::from_millis(200));
    cluster.master().freeze();
    assert!(connection.query("select 1").is_err());
    cluster.master().thaw();
    connection.set_timeout(DEADLINE);
    connection.collect().unwrap();
    cluster.master().stop(StopMode::Fast);
}

#[test]
fn a_world_leaves_nothing_behind() {
    let world = Arc::new(World::new("gone"));
    let cluster = Cluster::single(&world);
    let (pid, path) = (cluster.master().pid().unwrap(), world.path().to_owned());
    drop((cluster, world));
    wait_until("the server to be gone", DEADLINE, || {
        !std::path::Path::new(&format!("/proc/{pid}/cwd")).exists()
    });
    assert!(!path.exists());
}
