//! The chart of PostgreSQL by itself.

use std::time::Duration;

use pgstmtpool_tests::kube::{Kube, KubeStage};
use pgstmtpool_tests::wait_for;

const NAMESPACE: &str = "plain";
const VALUES: &str = "
replicas: 2
image: {repository: localhost/postgres, tag: e2e}
guard: {enabled: false}
settings: {shared_buffers: 16MB}
persistence: {size: 1Gi}
resources: {requests: {cpu: 20m, memory: 64Mi}}
";

fn psql(kube: &Kube, pod: &str, sql: &str) -> Result<String, String> {
    let answer = kube.try_kubectl(&[
        "-n", NAMESPACE, "exec", pod, "--", "psql", "-X", "-At", "-h", "/tmp", "-U", "postgres", "-c", sql,
    ]);
    if answer.ok {
        Ok(answer.out.trim().to_owned())
    } else {
        Err(answer.err)
    }
}

#[test]
fn the_chart_of_postgresql_replicates_and_keeps_its_data_when_pods_are_made_anew() {
    let stage = KubeStage::bare("plain");
    let kube = stage.kube;
    kube.kubectl(&["create", "namespace", NAMESPACE]);
    let label = "pod-security.kubernetes.io/enforce=restricted";
    kube.kubectl(&["label", "namespace", NAMESPACE, label]);
    let values = stage.values("plain", VALUES);
    kube.helm(&[
        "install",
        "pg",
        &Kube::chart("postgres"),
        "-n",
        NAMESPACE,
        "-f",
        &values,
        "--wait",
    ]);
    let streams = || {
        let what = "select count(*) from pg_stat_replication where state = 'streaming' and application_name = 'pg-1'";
        wait_for("the replica to stream", Duration::from_secs(60), || {
            match psql(kube, "pg-0", what)?.as_str() {
                "1" => Ok(()),
                other => Err(other.to_owned()),
            }
        });
    };
    streams();
    psql(kube, "pg-0", "create table kept as select 42 as n").unwrap();
    for pod in ["pg-1", "pg-0"] {
        kube.kubectl(&["-n", NAMESPACE, "delete", "pod", pod]);
        let pod = format!("pod/{pod}");
        wait_for("the pod to be there again", Duration::from_secs(60), || {
            let answer = kube.try_kubectl(&[
                "-n",
                NAMESPACE,
                "wait",
                "--for=condition=Ready",
                &pod,
                "--timeout=60s",
            ]);
            answer.ok.then_some(()).ok_or(answer.err)
        });
        streams();
    }
    wait_for("the row on the replica", Duration::from_secs(30), || {
        let seen = psql(kube, "pg-1", "select n, pg_is_in_recovery() from kept")?;
        if seen == "42|t" { Ok(()) } else { Err(seen) }
    });
    // A second installation finds the passwords that are there.
    let secret = || kube.get(NAMESPACE, &["secret", "pg"])["data"]["password"].clone();
    let before = secret();
    kube.helm(&[
        "upgrade",
        "pg",
        &Kube::chart("postgres"),
        "-n",
        NAMESPACE,
        "-f",
        &values,
    ]);
    assert_eq!(before, secret());
    kube.helm(&["uninstall", "pg", "-n", NAMESPACE, "--wait"]);
    let volumes = kube.get(NAMESPACE, &["pvc"]);
    assert_eq!(volumes["items"].as_array().unwrap().len(), 2, "the data stays");
    kube.kubectl(&["delete", "namespace", NAMESPACE]);
}
