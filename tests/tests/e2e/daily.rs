//! What happens on every day: psql, kubectl, scaling.

use std::time::Duration;

use pgstmtpool_tests::kube::{KubeStage, Load, LoadOptions, NAMESPACE, POOL};
use pgstmtpool_tests::wait_for;

use crate::assert_clean;

#[test]
fn psql_through_the_service_by_its_name_reaches_the_master() {
    let stage = KubeStage::set("psql");
    let client = stage.replica();
    for host in [
        POOL.to_owned(),
        format!("{POOL}.{NAMESPACE}"),
        format!("{POOL}.{NAMESPACE}.svc.cluster.local"),
    ] {
        let sql = "create table if not exists seen (n int); insert into seen values (1); select pg_is_in_recovery()";
        let answer = stage.psql_from(&client, &host, sql).expect_ok(&host);
        assert!(answer.out.trim().ends_with('f'), "{host}: {}", answer.out);
    }
    let read_only = format!("{POOL}-ro.{NAMESPACE}.svc");
    let answer = stage
        .psql_from(&client, &read_only, "select pg_is_in_recovery()")
        .expect_ok(&read_only);
    assert_eq!(answer.out.trim(), "t", "the read-only Service asks a replica");
}

#[test]
fn kubectl_get_pgpools_prints_who_is_master_and_how_it_is() {
    let stage = KubeStage::set("columns");
    let shown = stage.kube.kubectl(&["-n", NAMESPACE, "get", "pgpools"]);
    let mut lines = shown.lines();
    let head: Vec<&str> = lines.next().unwrap().split_whitespace().collect();
    assert_eq!(
        head,
        [
            "NAME", "MASTER", "EPOCH", "READY", "PHASE", "REPLICAS", "PROXIES", "AGE"
        ]
    );
    let row: Vec<&str> = lines.next().unwrap().split_whitespace().collect();
    assert_eq!(row[0], POOL);
    assert_eq!(row[1], stage.master());
    assert_eq!(row[3..7], ["True", "Healthy", "2/2", "2/2"]);
    let manual = stage
        .kube
        .kubectl(&["explain", "pgpool.spec.ha.failureThreshold"]);
    assert!(manual.contains("probe"), "{manual}");
}

#[test]
fn the_operator_labels_the_pods_and_one_of_it_holds_the_lease() {
    let stage = KubeStage::set("labels");
    assert_eq!(stage.pods("pgstmtpool.io/role=master"), [stage.master()]);
    assert_eq!(stage.pods("pgstmtpool.io/role=replica").len(), 2);
    let lease = stage.kube.get(NAMESPACE, &["lease", "pgstmtpool-operator"]);
    let holder = lease["spec"]["holderIdentity"].as_str().unwrap();
    assert!(!holder.is_empty());
}

#[test]
fn kubectl_scale_gives_more_proxies_and_takes_them_away() {
    let stage = KubeStage::set("scale");
    let load = Load::start(stage.kube, "scale", &LoadOptions::default());
    for count in ["3", "2"] {
        let replicas = format!("--replicas={count}");
        stage
            .kube
            .kubectl(&["-n", NAMESPACE, "scale", "pgpool", POOL, &replicas]);
        stage.wait_healthy();
        wait_for("the pods of the proxies", Duration::from_secs(60), || {
            let pods = stage.pods(&format!("pgstmtpool.io/pool={POOL}"));
            let enough = pods.len().to_string() == count;
            enough.then_some(()).ok_or_else(|| format!("{pods:?}"))
        });
        load.wait_progress(200);
    }
    assert_clean(&load.finish());
}
