//! New versions: the proxies', the chart's, and the end of the operator.

use std::time::Duration;

use pgstmtpool_tests::kube::{Kube, KubeStage, Load, LoadOptions, NAMESPACE, POOL};
use pgstmtpool_tests::wait_for;

use crate::assert_clean;

#[test]
fn a_rolling_update_of_the_proxies_under_load_loses_no_write() {
    let stage = KubeStage::set("rolling-update");
    let load = Load::start(stage.kube, "rolling-update", &LoadOptions::default());
    let label = format!("pgstmtpool.io/pool={POOL}");
    let before = stage.pods(&label);
    for image in ["localhost/pgstmtpool:next", "localhost/pgstmtpool:e2e"] {
        let patch = format!(r#"{{"spec": {{"proxy": {{"image": "{image}"}}}}}}"#);
        stage.patch(&patch);
        let deployment = format!("deployment/{POOL}-proxy");
        wait_for("the new image", Duration::from_secs(60), || {
            let found = stage.kube.get(NAMESPACE, &[&deployment]);
            let found = &found["spec"]["template"]["spec"]["containers"][0]["image"];
            (found == image).then_some(()).ok_or_else(|| found.to_string())
        });
        stage
            .kube
            .kubectl(&["-n", NAMESPACE, "rollout", "status", &deployment]);
        load.wait_progress(200);
    }
    stage.wait_healthy();
    let verdict = load.finish();
    assert_clean(&verdict);
    assert!(
        stage.pods(&label).iter().all(|pod| !before.contains(pod)),
        "all proxies are new"
    );
    // A client whose proxy goes is told so (57P01) between two statements and connects again; nothing in flight is cut.
    for (code, count) in verdict["codes"].as_object().unwrap() {
        assert!(
            code.starts_with("57P01"),
            "{count} times {code}, in a rolling update"
        );
    }
}

#[test]
fn helm_upgrade_and_rollback_of_the_operator_are_not_noticed_by_clients() {
    let stage = KubeStage::set("helm-upgrade");
    let load = Load::start(stage.kube, "helm-upgrade", &LoadOptions::default());
    let values = stage.values("pgstmtpool", stage.operator_values());
    let chart = Kube::chart("pgstmtpool");
    stage.kube.helm(&[
        "upgrade",
        "pgstmtpool",
        &chart,
        "-n",
        NAMESPACE,
        "-f",
        &values,
        "--set",
        "operator.logLevel=debug",
        "--wait",
    ]);
    load.wait_progress(200);
    stage.wait_healthy();
    stage
        .kube
        .helm(&["rollback", "pgstmtpool", "-n", NAMESPACE, "--wait"]);
    load.wait_progress(200);
    stage.wait_healthy();
    let verdict = load.finish();
    assert_clean(&verdict);
    assert_eq!(verdict["errors"], 0, "{verdict}");
}

#[test]
fn helm_test_writes_and_reads_through_the_service() {
    let stage = KubeStage::set("helm-test");
    let values = stage.values("pgstmtpool", stage.operator_values());
    let chart = Kube::chart("pgstmtpool");
    stage.kube.helm(&[
        "upgrade",
        "pgstmtpool",
        &chart,
        "-n",
        NAMESPACE,
        "-f",
        &values,
        "--set",
        &format!("test.pool={POOL},test.secret=pg-app,test.image=localhost/postgres:e2e"),
        "--wait",
    ]);
    stage.kube.helm(&["test", "pgstmtpool", "-n", NAMESPACE]);
    let log = stage.kube.kubectl(&["-n", NAMESPACE, "logs", "pgstmtpool-test"]);
    assert!(log.contains("one row: 1"), "{log}");
}

#[test]
fn uninstalling_the_operator_leaves_postgresql_and_the_proxies_as_they_are() {
    let stage = KubeStage::set("uninstall");
    let master = stage.master();
    let load = Load::start(stage.kube, "uninstall", &LoadOptions::default());
    let pods = ["pg-0", "pg-1", "pg-2"]
        .map(|pod| stage.kube.get(NAMESPACE, &["pod", pod])["metadata"]["uid"].clone());
    stage
        .kube
        .helm(&["uninstall", "pgstmtpool", "-n", NAMESPACE, "--wait"]);
    load.wait_progress(400);
    let after = ["pg-0", "pg-1", "pg-2"]
        .map(|pod| stage.kube.get(NAMESPACE, &["pod", pod])["metadata"]["uid"].clone());
    assert_eq!(pods, after, "no pod of PostgreSQL was touched");
    assert_eq!(
        stage.sql_in(&master, "select pg_is_in_recovery()"),
        "f",
        "and the master is writable"
    );
    stage.helm_install("pgstmtpool", "pgstmtpool", stage.operator_values());
    stage.wait_healthy();
    assert_eq!(stage.master(), master, "the new operator finds what was there");
    let verdict = load.finish();
    assert_clean(&verdict);
    assert_eq!(verdict["errors"], 0, "{verdict}");
}
