//! What happens on every day: psql, kubectl, scaling, a switchover, a new password.

use std::time::Duration;

use pgstmtpool_tests::kube::{KubeStage, Load, LoadOptions, NAMESPACE, PASSWORD, POOL};
use pgstmtpool_tests::wait_for;

use crate::{assert_clean, figure};

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
    for (what, label) in [
        ("operator", "app.kubernetes.io/name=pgstmtpool-operator"),
        ("proxy", "app.kubernetes.io/name=pgstmtpool-proxy"),
    ] {
        let most = wait_for("the kubelets' figures", Duration::from_secs(60), || {
            let pods = stage.pods(label);
            let figures: Option<Vec<f64>> = pods.iter().map(|pod| stage.memory_of(pod)).collect();
            figures
                .map(|all| all.into_iter().fold(0.0, f64::max))
                .ok_or_else(|| format!("{pods:?}"))
        });
        stage.number(
            &format!("memory of the {what}, idle (anonymous pages)"),
            most,
            "MiB",
        );
    }
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

/// By what the proxies' processors do: they work for the load, and the target says how much each may.
fn scaler(target: &str) -> String {
    format!(
        "
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {{name: by-cpu}}
spec:
  scaleTargetRef: {{apiVersion: pgstmtpool.io/v1alpha1, kind: PgPool, name: {POOL}}}
  minReplicas: 2
  maxReplicas: 3
  metrics: [{{type: Resource, resource: {{name: cpu, target: {{type: AverageValue, averageValue: {target}}}}}}}]
  behavior: {{scaleDown: {{stabilizationWindowSeconds: 0}}}}
"
    )
}

#[test]
fn an_autoscaler_by_cpu_scales_the_pool_up_and_down() {
    let stage = KubeStage::set("autoscaler");
    wait_for("metrics-server to know the pods", Duration::from_secs(90), || {
        let shown = stage.kube.try_kubectl(&["-n", NAMESPACE, "top", "pods"]);
        shown.ok.then_some(()).ok_or(shown.err)
    });
    let load = Load::start(stage.kube, "autoscaler", &LoadOptions::default());
    for (target, count) in [("1m", 3), ("10", 2)] {
        stage.kube.apply(NAMESPACE, &scaler(target));
        wait_for(
            &format!("{count} proxies asked for by the autoscaler"),
            Duration::from_secs(120),
            || {
                let asked = stage.pool()["spec"]["proxy"]["replicas"].clone();
                if asked == count {
                    return Ok(());
                }
                let scaler = stage.kube.get(NAMESPACE, &["hpa", "by-cpu"]);
                Err(format!("{asked}; {}", scaler["status"]))
            },
        );
        stage.wait_healthy();
        load.wait_progress(200);
    }
    stage.kube.kubectl(&["-n", NAMESPACE, "delete", "hpa", "by-cpu"]);
    assert_clean(&load.finish());
}

#[test]
fn a_planned_switchover_under_load_fails_no_statement() {
    let stage = KubeStage::set("switchover");
    let load = Load::start(stage.kube, "switchover", &LoadOptions::default());
    let (old, new) = (stage.master(), stage.replica());
    let request = format!("e2e-{}", std::process::id());
    let patch = format!(r#"{{"spec": {{"switchover": {{"to": "{new}", "requestId": "{request}"}}}}}}"#);
    stage.patch(&patch);
    assert_eq!(stage.wait_master_not(&old, Duration::from_secs(60)), new);
    load.wait_progress(200);
    stage.wait_healthy();
    let verdict = load.finish();
    assert_clean(&verdict);
    assert_eq!(verdict["errors"], 0, "{verdict}");
    assert_eq!(
        stage.pool()["status"]["lastSwitchoverRequest"],
        request.as_str(),
        "the request is answered"
    );
    stage.number(
        "planned switchover: statements failed",
        figure(&verdict, "errors"),
        "",
    );
    stage.number(
        "planned switchover: longest statement",
        figure(&verdict, "longestMs") / 1000.0,
        "s",
    );
    let patch = r#"{"spec": {"switchover": null}}"#;
    stage.patch(patch);
}

#[test]
fn the_plugin_shows_a_pool_its_logs_and_what_is_wrong_and_moves_its_master() {
    let stage = KubeStage::set("plugin");
    let plugin = |args: &[&str]| stage.kube.try_plugin(&[args, &["-n", NAMESPACE]].concat());
    let (old, new) = (stage.master(), stage.replica());
    let shown = plugin(&["status", POOL]).expect_ok("status").out;
    let first = shown.lines().nth(1).unwrap_or_default();
    assert!(first.starts_with('*') && first.contains(&old), "{shown}");
    let said = plugin(&["doctor", POOL]).expect_ok("doctor").out;
    assert!(said.contains("nothing wrong"), "{said}");
    let logs = plugin(&["logs", POOL, "--tail", "1"]).expect_ok("logs").out;
    for label in [
        "app.kubernetes.io/name=pgstmtpool-operator",
        "pgstmtpool.io/pool=orders",
    ] {
        for pod in stage.pods(label) {
            assert!(
                logs.contains(&format!("==> {NAMESPACE}/{pod} <==")),
                "{pod}: {logs}"
            );
        }
    }
    let moved = plugin(&["switchover", POOL, "--to", &new, "--wait"]).expect_ok("switchover");
    assert!(moved.out.starts_with("Completed"), "{}", moved.out);
    assert!(
        moved.err.contains("switchover-"),
        "the steps are shown: {}",
        moved.err
    );
    assert_eq!(stage.master(), new);
    stage.wait_healthy();
    stage.patch(r#"{"spec": {"switchover": null}}"#);
}

#[test]
fn a_new_password_in_a_secret_is_followed() {
    let stage = KubeStage::set("rotation");
    let load = Load::start(stage.kube, "rotation", &LoadOptions::default());
    let master = stage.master();
    for password in ["rotated-secret", PASSWORD] {
        stage.set_password(password);
        // A new connection of the operator and of the proxies' look-ups: theirs of before end.
        stage.sql_in(
            &master,
            "select pg_terminate_backend(pid) from pg_stat_activity where usename = 'postgres' and pid <> pg_backend_pid() and backend_type = 'client backend'",
        );
        load.wait_progress(200);
        stage.wait_healthy();
        let client = stage.replica();
        let answer = stage.psql_from(&client, POOL, "select 1").expect_ok("psql");
        assert_eq!(answer.out.trim(), "1");
        assert_eq!(stage.master(), master, "nobody was promoted for a password");
    }
    assert_clean(&load.finish());
}
