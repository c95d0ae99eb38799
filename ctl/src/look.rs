//! `logs` and `doctor`.

use crate::Exit;
use crate::place::Place;
use cluster::Snapshot;
use cluster::kube::{CallError, POOL_LABEL, call, container_of, has_guard, last_words};
use crds::status::{ConditionStatus, PgPoolStatus};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{ListParams, LogParams};
use kube::{Api, Client};

/// Labels of the operator's pods, as the chart gives them.
const OPERATOR: &str = "app.kubernetes.io/name=pgstmtpool-operator";

/// The last lines of the operator and of every proxy.
pub(crate) async fn logs(place: &Place, tail: i64) -> Exit {
    let Place::Cluster { source, client } = place else {
        eprintln!("pgstmtpool: logs are of Kubernetes; elsewhere they are where the programs' output goes");
        return Exit::Invalid;
    };
    let proxies = format!("{POOL_LABEL}={},app.kubernetes.io/component=proxy", source.pool());
    let here: Api<Pod> = Api::namespaced(client.clone(), source.namespace());
    let everywhere: Api<Pod> = Api::all(client.clone());
    let mut exit = Exit::Good;
    for (what, pods) in [
        ("operator", found(&[&everywhere, &here], OPERATOR).await),
        ("proxy", found(&[&here], &proxies).await),
    ] {
        match pods {
            Ok(pods) if pods.is_empty() => {
                eprintln!("pgstmtpool: no pod of the {what} is to be seen");
                exit = Exit::Failed;
            }
            Ok(pods) => {
                for pod in pods {
                    if let Err(error) = print_log(client, &pod, tail).await {
                        eprintln!("pgstmtpool: {error}");
                        exit = Exit::Failed;
                    }
                }
            }
            Err(error) => {
                eprintln!("pgstmtpool: pods of the {what}: {error}");
                exit = Exit::Failed;
            }
        }
    }
    exit
}

/// From the first of these that may be listed.
async fn found(places: &[&Api<Pod>], labels: &str) -> Result<Vec<Pod>, CallError> {
    let params = ListParams::default().labels(labels);
    let mut last = Ok(Vec::new());
    for api in places {
        last = call(api.list(&params)).await.map(|pods| pods.items);
        if last.is_ok() {
            break;
        }
    }
    last
}

async fn print_log(client: &Client, pod: &Pod, tail: i64) -> Result<(), String> {
    let name = pod.metadata.name.clone().unwrap_or_default();
    let namespace = pod.metadata.namespace.clone().unwrap_or_default();
    let api: Api<Pod> = Api::namespaced(client.clone(), &namespace);
    let params = LogParams {
        tail_lines: Some(tail),
        ..LogParams::default()
    };
    let text = call(api.logs(&name, &params))
        .await
        .map_err(|error| format!("{name}: {error}"))?;
    println!("==> {namespace}/{name} <==");
    print!("{text}");
    Ok(())
}

/// Prints what is wrong, each with its remedy.
pub(crate) async fn doctor(place: &Place, snapshot: &Snapshot) -> Exit {
    let mut findings: Vec<String> = snapshot.faults.iter().map(ToString::to_string).collect();
    findings.extend(snapshot.warnings.iter().cloned());
    match snapshot.status.as_deref() {
        None => findings.push(
            "there is no status: is the operator running, and does it watch this namespace?".to_owned(),
        ),
        Some(status) => findings.extend(of_status(snapshot, status)),
    }
    if let Place::Cluster { source, client } = place {
        let api: Api<Pod> = Api::namespaced(client.clone(), source.namespace());
        for (server, name) in source.pod_names() {
            match call(api.get_opt(&name)).await {
                Ok(pod) => findings.extend(of_pod(&server, &name, pod.as_ref())),
                Err(error) => findings.push(format!("pod {name}: {error}")),
            }
        }
    }
    if findings.is_empty() {
        println!("nothing wrong was found");
        return Exit::Good;
    }
    for finding in &findings {
        println!("- {finding}");
    }
    Exit::Degraded
}

fn of_status(snapshot: &Snapshot, status: &PgPoolStatus) -> Vec<String> {
    let mut findings = Vec::new();
    let generation = snapshot.config.generation;
    if status.observed_generation < generation {
        findings.push(format!(
            "the operator has not taken generation {generation} up yet (it is at {}): look at its log",
            status.observed_generation
        ));
    }
    let bad_if_true = ["FailoverBlocked", "SplitBrainSuspected", "RejoinRequired"];
    for condition in status
        .conditions
        .iter()
        .filter(|condition| condition.kind != "Progressing")
    {
        let good = !bad_if_true.contains(&condition.kind.as_str());
        if (condition.status == ConditionStatus::True) != good {
            let (kind, reason, message) = (&condition.kind, &condition.reason, &condition.message);
            let colon = if message.is_empty() { "" } else { ": " };
            findings.push(format!(
                "{kind}={:?} ({reason}){colon}{message}",
                condition.status
            ));
        }
    }
    if status.proxies.ready == 0 {
        findings.push("no proxy has a live report: nobody can connect through the pool".to_owned());
    }
    findings
}

fn of_pod(server: &str, name: &str, pod: Option<&Pod>) -> Vec<String> {
    let Some(pod) = pod else {
        return vec![format!("server {server}: there is no pod {name}")];
    };
    let mut findings = Vec::new();
    let container = container_of(pod);
    if container.is_some_and(|container| !container.ready) {
        let words = last_words(pod)
            .map(|words| format!("; it last said: {words}"))
            .unwrap_or_default();
        findings.push(format!("server {server}: pod {name} is not ready{words}"));
    }
    let restarts = container.map_or(0, |container| container.restart_count);
    if restarts > 3 {
        findings.push(format!(
            "server {server}: the container of pod {name} was restarted {restarts} times"
        ));
    }
    if !has_guard(pod) {
        findings.push(format!(
            "server {server}: pod {name} has no pgstmtpool-guard: after a failover it may need a person (docs/KUBERNETES.md)"
        ));
    }
    findings
}
