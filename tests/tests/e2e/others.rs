//! Servers that somebody else looks after: another operator, or a provider outside of the cluster.

use std::time::Duration;

use pgstmtpool_tests::kube::{KubeStage, NAMESPACE};
use pgstmtpool_tests::wait_for;

/// What is there of `spec.master` and `spec.replicas` for a manifest by host: the same servers, seen from outside.
const BY_HOST: &str = "
apiVersion: pgstmtpool.io/v1alpha1
kind: PgPool
metadata: {name: managed}
spec:
  master: {name: pg-0, host: pg-0.pg-pods.db.svc}
  replicas:
    - {name: pg-1, host: pg-1.pg-pods.db.svc}
    - {name: pg-2, host: pg-2.pg-pods.db.svc}
  adminSecretRef: {name: pg}
  ha: {enabled: true}
  workers: {max: 4}
  proxy:
    threads: 1
    autoscaling: {minReplicas: 1, maxReplicas: 3, targetClients: 50}
    resources: {requests: {cpu: 20m, memory: 32Mi}}
";

fn condition(stage: &KubeStage, pool: &str, kind: &str) -> (String, String) {
    let pool = stage.kube.get(NAMESPACE, &["pgpool", pool]);
    let all = pool["status"]["conditions"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    let found = all.iter().find(|condition| condition["type"] == kind);
    let text = |field: &str| {
        let value = found.and_then(|condition| condition[field].as_str());
        value.unwrap_or_default().to_owned()
    };
    (text("status"), text("message"))
}

fn wait_condition(stage: &KubeStage, pool: &str, kind: &str, status: &str, words: &str) {
    wait_for(
        &format!("{kind}={status}: {words}"),
        Duration::from_secs(60),
        || {
            let (is, message) = condition(stage, pool, kind);
            let good = is == status && message.contains(words);
            good.then_some(()).ok_or_else(|| format!("{is}: {message}"))
        },
    );
}

fn wait_proxies(stage: &KubeStage, ready: &str) {
    wait_for(&format!("{ready} proxies"), Duration::from_secs(60), || {
        let pool = stage.kube.get(NAMESPACE, &["pgpool", "managed"]);
        let now = &pool["status"]["proxiesReady"];
        (now == ready).then_some(()).ok_or_else(|| now.to_string())
    });
}

#[test]
fn servers_by_host_are_followed_and_never_promoted_and_an_autoscaler_is_obeyed() {
    let stage = KubeStage::set("by-host");
    let master = stage.master();
    stage.kube.apply(NAMESPACE, BY_HOST);
    wait_condition(&stage, "managed", "Ready", "True", "");
    wait_condition(&stage, "managed", "FailoverPossible", "False", "outside");
    let pool = stage.kube.get(NAMESPACE, &["pgpool", "managed"]);
    assert_eq!(
        pool["status"]["master"]["name"],
        master.as_str(),
        "who takes the writes is master"
    );
    wait_proxies(&stage, "2/2");
    let client = stage.replica();
    // Its pods count as ready for the Service a probe later than for the operator.
    wait_for(
        "psql through the Service of the pool by host",
        Duration::from_secs(30),
        || {
            let answer = stage.psql_from(&client, "managed", "select pg_is_in_recovery()");
            let good = answer.ok && answer.out.trim() == "f";
            good.then_some(()).ok_or(answer.out + &answer.err)
        },
    );

    let scaler = stage.kube.get(NAMESPACE, &["hpa", "managed-proxy"]);
    assert_eq!(scaler["spec"]["scaleTargetRef"]["name"], "managed-proxy");
    assert_eq!(
        (&scaler["spec"]["minReplicas"], &scaler["spec"]["maxReplicas"]),
        (&1.into(), &3.into())
    );
    // As an autoscaler does: the operator leaves the number as it is.
    let scale = [
        "-n",
        NAMESPACE,
        "scale",
        "deployment/managed-proxy",
        "--replicas=3",
    ];
    stage.kube.kubectl(&scale);
    wait_proxies(&stage, "3/3");

    stage
        .kube
        .kubectl(&["-n", NAMESPACE, "delete", "pgpool", "managed", "--timeout=60s"]);
    wait_for("what was owned to go", Duration::from_secs(60), || {
        let left = stage.kube.get(
            NAMESPACE,
            &["deploy,svc,hpa,pdb,role", "-l", "pgstmtpool.io/pool=managed"],
        );
        let left = left["items"].as_array().map_or(0, Vec::len);
        (left == 0)
            .then_some(())
            .ok_or_else(|| format!("{left} objects are left"))
    });
    stage.wait_healthy();
    assert_eq!(stage.master(), master);
}

#[test]
fn where_another_operator_looks_after_failover_nobody_is_promoted() {
    let stage = KubeStage::set("foreign");
    let (old, epoch) = (stage.master(), stage.pool()["status"]["epoch"].clone());
    let label = |with: &str| {
        let args = [
            "-n",
            NAMESPACE,
            "label",
            "pods",
            "--overwrite",
            "pg-0",
            "pg-1",
            "pg-2",
            with,
        ];
        stage.kube.kubectl(&args);
    };
    for (with, without, owner) in [
        ("cnpg.io/cluster=pg", "cnpg.io/cluster-", "CloudNativePG"),
        ("application=patroni", "application-", "Patroni"),
    ] {
        label(with);
        wait_condition(&stage, "orders", "FailoverPossible", "False", owner);
        label(without);
        wait_condition(&stage, "orders", "FailoverPossible", "True", "");
    }
    label("application=patroni");
    wait_condition(&stage, "orders", "FailoverPossible", "False", "Patroni");
    // Its pod goes and comes back; nobody else becomes master meanwhile. The new pod has no label: the others keep theirs.
    stage.kube.kubectl(&["-n", NAMESPACE, "delete", "pod", &old]);
    wait_for("the master to be back", Duration::from_secs(90), || {
        let pod = stage.kube.get(NAMESPACE, &["pod", &old]);
        let ready = pod["status"]["containerStatuses"][0]["ready"] == true;
        ready
            .then_some(())
            .ok_or_else(|| pod["status"]["phase"].to_string())
    });
    label("application-");
    stage.wait_healthy();
    assert_eq!(stage.master(), old);
    let history = stage.pool()["status"]["history"].to_string();
    assert_eq!(stage.pool()["status"]["epoch"], epoch, "{history}");
}
