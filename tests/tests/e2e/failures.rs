//! What goes wrong: pods that are deleted, machines that are cut off or freeze, an operator that dies, no API server.

use std::time::{Duration, Instant};

use pgstmtpool_tests::kube::{KubeStage, Load, LoadOptions, NAMESPACE, POOL};
use pgstmtpool_tests::wait_for;

use crate::{assert_clean, figure};

/// How long until somebody else is master: detection, fencing, promotion, on a busy machine.
const FAILOVER: Duration = Duration::from_secs(60);

/// At every look at most one server may be written to.
fn writable(stage: &KubeStage) -> Vec<String> {
    let pods = ["pg-0", "pg-1", "pg-2"].into_iter();
    let master = pods.filter(|pod| {
        let sql = "select pg_is_in_recovery()";
        let args = [
            "-n", NAMESPACE, "exec", pod, "-c", "postgres", "--", "psql", "-X", "-At", "-h", "/tmp", "-U",
            "postgres", "-c", sql,
        ];
        stage.kube.try_kubectl(&args).out.trim() == "f"
    });
    master.map(str::to_owned).collect()
}

/// Deletes a pod whose node takes no new one, so that it stays away until [`let_back`].
///
/// Never by force: two servers on one volume would be the price.
fn delete_and_keep_away(stage: &KubeStage, pod: &str) -> String {
    let node = stage.node_of(pod);
    stage.kube.kubectl(&["cordon", &node]);
    stage.kube.kubectl(&[
        "-n",
        NAMESPACE,
        "delete",
        "pod",
        pod,
        "--grace-period=1",
        "--wait=false",
    ]);
    node
}

fn let_back(stage: &KubeStage, node: &str) {
    stage.kube.kubectl(&["uncordon", node]);
}

/// A workload on another machine than this, which soon gives up an answer that does not come.
fn elsewhere(node: &str) -> LoadOptions {
    let other = ["n1", "n2", "n3"].into_iter().find(|other| *other != node);
    LoadOptions {
        node: other.map(str::to_owned),
        args: ["--patience", "8000"].map(str::to_owned).into(),
        ..LoadOptions::default()
    }
}

#[test]
fn a_deleted_master_pod_is_replaced_and_comes_back_as_a_replica() {
    let stage = KubeStage::set("delete-master");
    let load = Load::start(stage.kube, "delete-master", &LoadOptions::default());
    let old = stage.master();
    let started = Instant::now();
    let node = delete_and_keep_away(&stage, &old);
    let new = stage.wait_master_not(&old, FAILOVER);
    println!(
        "{new} is master {:.1} s after {old} was deleted",
        started.elapsed().as_secs_f64()
    );
    load.wait_progress(200);
    let_back(&stage, &node);
    stage.wait_healthy();
    assert_eq!(writable(&stage), [new.as_str()]);
    let verdict = load.finish();
    assert_clean(&verdict);
    // Detection is failureThreshold x probePeriod of the manifest: 3 s.
    stage.number(
        "master's pod deleted: longest time without a write (3 s of it detection)",
        figure(&verdict, "gapMs") / 1000.0,
        "s",
    );
    stage.number(
        "master's pod deleted: errors clients saw (08006 or 08007, in flight)",
        figure(&verdict, "errors"),
        "",
    );
}

#[test]
fn a_master_that_is_cut_off_acknowledges_nothing_that_is_lost() {
    let stage = KubeStage::set("partition");
    let old = stage.master();
    let node = stage.node_of(&old);
    let lease = stage.kube.get(NAMESPACE, &["lease", "pgstmtpool-operator"]);
    let leader = lease["spec"]["holderIdentity"].as_str().unwrap_or_default();
    let leader_too = stage.node_of(leader) == node;
    let load = Load::start(stage.kube, "majority", &elsewhere(&node));
    // On the same machine as the master, past the proxies: it sees a healthy server all the time.
    let pod = stage.kube.get(NAMESPACE, &["pod", &old]);
    let address = pod["status"]["podIP"].as_str().unwrap().to_owned();
    let beside = LoadOptions {
        to: format!("{address}:5432"),
        clients: 4,
        args: ["--first-client", "100", "--seconds", "45", "--patience", "5000"]
            .map(str::to_owned)
            .into(),
        node: Some(node.clone()),
    };
    let judge = format!("{POOL}.{NAMESPACE}.svc:5432");
    let beside = LoadOptions {
        args: beside
            .args
            .iter()
            .cloned()
            .chain(["--judge".to_owned(), judge])
            .collect(),
        ..beside
    };
    let isolated = Load::start(stage.kube, "minority", &beside);
    stage.kube.node(&node, "cut");
    let new = stage.wait_master_not(&old, FAILOVER);
    load.wait_progress(400);
    stage.kube.node(&node, "join");
    stage.wait_healthy();
    assert_eq!(writable(&stage), [new.as_str()]);
    let verdict = load.finish();
    assert_clean(&verdict);
    stage.number(
        if leader_too {
            "master's machine cut off, the leading operator on it: longest time without a write (18 s of it Lease and detection)"
        } else {
            "master's machine cut off: longest time without a write for clients elsewhere (3 s of it detection)"
        },
        figure(&verdict, "gapMs") / 1000.0,
        "s",
    );
    assert_clean(&isolated.verdict());
}

/// A proxy that is not on the master's machine, and its machine.
fn proxy_beside_the_master(stage: &KubeStage) -> (String, String) {
    let masters = stage.node_of(&stage.master());
    let label = format!("pgstmtpool.io/pool={POOL}");
    let find = || {
        let pods = stage.pods(&label).into_iter();
        let mut places = pods.map(|pod| (stage.node_of(&pod), pod));
        places.find(|(node, _)| *node != masters)
    };
    if let Some((node, pod)) = find() {
        return (pod, node);
    }
    // Both came up beside the master while the others were away.
    stage.kube.kubectl(&["cordon", &masters]);
    let pod = stage.pods(&label).remove(0);
    stage.kube.kubectl(&["-n", NAMESPACE, "delete", "pod", &pod]);
    stage.wait_healthy();
    let_back(stage, &masters);
    let (node, pod) = find().expect("a proxy on another machine than the master's");
    (pod, node)
}

/// Sees to it that no operator is on this machine: one that leads from there is cut off, too, and the next waits for its Lease.
fn lead_from_elsewhere(stage: &KubeStage, node: &str) {
    stage.kube.kubectl(&["cordon", node]);
    for pod in stage.pods("app.kubernetes.io/name=pgstmtpool-operator") {
        if stage.node_of(&pod) == node {
            stage.kube.kubectl(&["-n", NAMESPACE, "delete", "pod", &pod]);
        }
    }
    let operator = "deployment/pgstmtpool-operator";
    stage
        .kube
        .kubectl(&["-n", NAMESPACE, "rollout", "status", operator]);
    let_back(stage, node);
    stage.wait_healthy();
}

fn is_in_the_service(stage: &KubeStage, address: &str) -> bool {
    let of = format!("kubernetes.io/service-name={POOL}");
    let slices = stage.kube.get(NAMESPACE, &["endpointslices", "-l", &of]);
    slices["items"].to_string().contains(&format!("\"{address}\""))
}

#[test]
fn a_proxy_whose_machine_is_cut_off_leaves_the_service_and_comes_back() {
    let stage = KubeStage::set("proxy-cut-off");
    let (pod, node) = proxy_beside_the_master(&stage);
    lead_from_elsewhere(&stage, &node);
    let address = stage.kube.get(NAMESPACE, &["pod", &pod])["status"]["podIP"].clone();
    let address = address.as_str().unwrap();
    assert!(is_in_the_service(&stage, address));
    let load = Load::start(stage.kube, "proxy-cut-off", &elsewhere(&node));
    let started = Instant::now();
    stage.kube.node(&node, "cut");
    let in_service = |expected: bool| {
        wait_for(
            &format!("{pod} in the Service: {expected}"),
            Duration::from_secs(30),
            || {
                let labels = &stage.kube.get(NAMESPACE, &["pod", &pod])["metadata"]["labels"];
                let is = is_in_the_service(&stage, address);
                (is == expected).then_some(()).ok_or_else(|| labels.to_string())
            },
        );
    };
    in_service(false);
    let gone = started.elapsed().as_secs_f64();
    let ready = stage.kube.get(NAMESPACE, &["pod", &pod])["status"]["conditions"].to_string();
    stage.kube.node(&node, "join");
    in_service(true);
    load.wait_progress(200);
    stage.wait_healthy();
    assert_clean(&load.finish());
    let by_us = ready.contains(r#""status":"True","type":"Ready""#);
    assert!(by_us, "the operator is quicker than the control plane: {ready}");
    stage.number(
        "proxy's machine cut off: the Service leads to the others after",
        gone,
        "s",
    );
}

#[test]
fn a_frozen_master_is_replaced_and_harmless_when_it_thaws() {
    let stage = KubeStage::set("freeze");
    let old = stage.master();
    let node = stage.node_of(&old);
    let load = Load::start(stage.kube, "freeze", &elsewhere(&node));
    stage.kube.node(&node, "freeze");
    let new = stage.wait_master_not(&old, FAILOVER);
    stage.kube.node(&node, "thaw");
    load.wait_progress(400);
    stage.wait_healthy();
    assert_eq!(writable(&stage), [new.as_str()]);
    let verdict = load.finish();
    assert_clean(&verdict);
    stage.number(
        "master's machine frozen: the same",
        figure(&verdict, "gapMs") / 1000.0,
        "s",
    );
}

#[test]
fn an_operator_killed_in_mid_failover_is_continued_by_its_successor() {
    let stage = KubeStage::set("operator-killed");
    let load = Load::start(stage.kube, "operator-killed", &LoadOptions::default());
    let old = stage.master();
    let node = delete_and_keep_away(&stage, &old);
    let operation = wait_for("the failover to begin", FAILOVER, || {
        let operation = stage.pool()["status"]["operation"].clone();
        let id = operation["id"].as_str().map(str::to_owned);
        id.ok_or_else(|| operation.to_string())
    });
    stage.kube.kubectl(&[
        "-n",
        NAMESPACE,
        "delete",
        "pod",
        "-l",
        "app.kubernetes.io/name=pgstmtpool-operator",
        "--grace-period=0",
        "--force",
    ]);
    let new = stage.wait_master_not(&old, FAILOVER);
    load.wait_progress(200);
    let_back(&stage, &node);
    stage.wait_healthy();
    let history = stage.pool()["status"]["history"].clone();
    assert_eq!(
        history[0]["id"],
        operation.as_str(),
        "the same operation was finished: {history}"
    );
    assert_eq!(writable(&stage), [new.as_str()]);
    let verdict = load.finish();
    assert_clean(&verdict);
    stage.number(
        "operator's pods deleted in mid-failover: longest time without a write",
        figure(&verdict, "gapMs") / 1000.0,
        "s",
    );
}

#[test]
fn a_minute_without_the_api_server_fails_no_statement() {
    let stage = KubeStage::set("no-api");
    let load = Load::start(stage.kube, "no-api", &LoadOptions::default());
    let before = load.status();
    stage.kube.api("stop");
    let end = Instant::now() + Duration::from_secs(60);
    while Instant::now() < end {
        std::thread::sleep(Duration::from_millis(500));
    }
    stage.kube.api("start");
    wait_for("the workload to be reachable", Duration::from_secs(60), || {
        let status = load.status();
        status["done"].as_u64().map(drop).ok_or("not yet".to_owned())
    });
    let after = load.status();
    let done = after["done"].as_u64().unwrap() - before["done"].as_u64().unwrap();
    assert!(done > 1000, "statements were served meanwhile: {done}");
    stage.wait_healthy();
    let verdict = load.finish();
    assert_clean(&verdict);
    assert_eq!(verdict["errors"], 0, "{verdict}");
    stage.number(
        "API server away for a minute: errors clients saw",
        figure(&verdict, "errors"),
        "",
    );
    stage.number(
        "API server away for a minute: longest statement",
        figure(&verdict, "longestMs") / 1000.0,
        "s",
    );
}
