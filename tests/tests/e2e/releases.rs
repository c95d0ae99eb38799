//! New versions: the proxies', the chart's, and the end of the operator.

use std::time::Duration;

use pgstmtpool_tests::kube::{Kube, KubeStage, Load, LoadOptions, NAMESPACE, POOL};
use pgstmtpool_tests::wait_for;

use crate::{assert_clean, figure};

/// Installs the operator's chart once more, with values beside its own.
fn upgrade(stage: &KubeStage, set: &str) {
    let values = stage.values("pgstmtpool", stage.operator_values());
    let chart = Kube::chart("pgstmtpool");
    let release = ["upgrade", "pgstmtpool", &chart, "-n", NAMESPACE];
    let with = ["-f", &values, "--set", set, "--wait"];
    stage.kube.helm(&[release.as_slice(), &with].concat());
}

#[test]
fn a_rolling_update_of_the_proxies_under_load_loses_no_write() {
    let stage = KubeStage::set("rolling-update");
    let load = Load::start(stage.kube, "rolling-update", &LoadOptions::default());
    // Clients as in a pool of connections: seldom busy, and they try a connection before they use it.
    let pooled = LoadOptions {
        args: ["--looks", "--pause", "1500", "--first-client", "100"]
            .map(str::to_owned)
            .into(),
        ..LoadOptions::default()
    };
    let pooled = Load::start_nowait(stage.kube, "rolling-update-pooled", &pooled);
    let label = format!("pgstmtpool.io/pool={POOL}");
    let before = stage.pods(&label);
    for image in ["localhost/pgstmtpool:next", "localhost/pgstmtpool:e2e"] {
        let old = stage.pods(&label);
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
        // Until the last client has been sent away, which is after half of the drain for those that never rest.
        wait_for("the old proxies to be gone", Duration::from_secs(90), || {
            let left: Vec<String> = stage
                .pods(&label)
                .into_iter()
                .filter(|pod| old.contains(pod))
                .collect();
            left.is_empty().then_some(()).ok_or_else(|| format!("{left:?}"))
        });
        load.wait_progress(200);
    }
    stage.wait_healthy();
    let verdict = load.finish();
    assert_clean(&verdict);
    let pooled = pooled.finish();
    assert_clean(&pooled);
    assert_eq!(pooled["errors"], 0, "what a pool of connections hears: {pooled}");
    assert!(
        stage.pods(&label).iter().all(|pod| !before.contains(pod)),
        "all proxies are new"
    );
    // A busy client whose proxy goes is told so (57P01) between two statements and connects again; nothing in flight is cut.
    for (code, count) in verdict["codes"].as_object().unwrap() {
        assert!(
            code.starts_with("57P01"),
            "{count} times {code}, in a rolling update"
        );
    }
    // Eight clients, two updates, two proxies each: at most once for each proxy that goes.
    assert!(figure(&verdict, "errors") <= 32.0, "{verdict}");
    stage.number(
        "rolling update of two proxies: 57P01 that eight clients saw which never rest",
        figure(&verdict, "errors") / 2.0,
        "",
    );
    stage.number(
        "the same, eight clients that try a connection before they use it",
        figure(&pooled, "errors"),
        "",
    );
}

#[test]
fn helm_upgrade_and_rollback_of_the_operator_are_not_noticed_by_clients() {
    let stage = KubeStage::set("helm-upgrade");
    let load = Load::start(stage.kube, "helm-upgrade", &LoadOptions::default());
    upgrade(&stage, "operator.logLevel=debug");
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
    upgrade(
        &stage,
        &format!("test.pool={POOL},test.secret=pg-app,test.image=localhost/postgres:e2e"),
    );
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
