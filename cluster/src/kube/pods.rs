//! Pods of PostgreSQL: where they are, and who else looks after them.

use std::collections::BTreeMap;

use crds::status::PgPoolStatus;
use crds::{Address, PoolConfig, ServerConfig};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};

/// The container that holds PostgreSQL, where a pod has several.
pub const CONTAINER: &str = "postgres";

/// Labels by which other operators mark the pods whose failover is theirs.
const FOREIGN: [(&str, &str); 7] = [
    ("cnpg.io/cluster", "CloudNativePG"),
    ("cnpg.io/instanceName", "CloudNativePG"),
    ("spilo-role", "the Zalando operator"),
    (
        "postgres-operator.crunchydata.com/cluster",
        "the Crunchy operator",
    ),
    ("stackgres.io/cluster-name", "StackGres"),
    ("patroni.dev/cluster-name", "Patroni"),
    ("apps.kubeblocks.io/component-name", "KubeBlocks"),
];

/// Where a pod is reached: by the name its StatefulSet gives it, else by its address. `None`: it has neither (yet).
pub fn host_of(pod: &Pod, namespace: &str) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    if let (Some(hostname), Some(subdomain)) = (&spec.hostname, &spec.subdomain) {
        return Some(format!("{hostname}.{subdomain}.{namespace}.svc"));
    }
    pod.status.as_ref()?.pod_ip.clone()
}

/// The state of the container that holds PostgreSQL.
pub fn container_of(pod: &Pod) -> Option<&ContainerStatus> {
    let statuses = pod.status.as_ref()?.container_statuses.as_ref()?;
    statuses
        .iter()
        .find(|status| status.name == CONTAINER)
        .or_else(|| statuses.first())
}

/// Whether it is certain that no PostgreSQL runs in this pod: its kubelet said so.
pub fn is_stopped(pod: &Pod) -> bool {
    // One that has not begun: the one before it is gone, or it could not have been made.
    if pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Pending") {
        return true;
    }
    let state = container_of(pod).and_then(|container| container.state.as_ref());
    state.is_some_and(|state| {
        state.running.is_none() && (state.terminated.is_some() || state.waiting.is_some())
    })
}

/// Why a container ended last, for people.
pub fn last_words(pod: &Pod) -> Option<String> {
    let container = container_of(pod)?;
    let ended = |state: Option<&k8s_openapi::api::core::v1::ContainerState>| {
        let terminated = state?.terminated.as_ref()?;
        let message = terminated
            .message
            .as_deref()
            .unwrap_or_default()
            .trim()
            .to_owned();
        (!message.is_empty()).then_some(message)
    };
    ended(container.state.as_ref()).or_else(|| ended(container.last_state.as_ref()))
}

/// Whether a guard decides what this pod may come up as.
pub fn has_guard(pod: &Pod) -> bool {
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    let mut words = containers.flat_map(|container| {
        let command = container.command.iter().flatten();
        command.chain(container.args.iter().flatten())
    });
    words.any(|word| word.contains("pgstmtpool-guard"))
}

/// Which other operator owns the failover of this pod.
pub fn foreign_owner(pod: &Pod) -> Option<&'static str> {
    let labels = pod.metadata.labels.as_ref()?;
    let known = FOREIGN
        .iter()
        .find(|(label, _)| labels.contains_key(*label))
        .map(|(_, owner)| *owner);
    let patroni = || labels.get("application").is_some_and(|name| name == "patroni");
    known.or_else(|| patroni().then_some("Patroni"))
}

/// Puts hosts in the place of pods, as the operator sees the pods.
pub(super) fn resolve(config: &mut PoolConfig, pods: &BTreeMap<String, Pod>, status: Option<&PgPoolStatus>) {
    let namespace = config.namespace.clone();
    if !config.selector.is_empty() {
        let master = config.master.clone();
        let own = pod_name(&master).map(str::to_owned);
        let found = pods.keys().filter(|name| Some(*name) != own.as_ref());
        // A pod that is just being made anew is no server less.
        let known = status
            .iter()
            .flat_map(|status| &status.servers)
            .map(|server| &server.name);
        let names: std::collections::BTreeSet<&String> = found
            .chain(known)
            .filter(|name| **name != master.name && is_name(name))
            .collect();
        config.replicas = names
            .into_iter()
            .map(|name| ServerConfig {
                name: name.clone(),
                address: Address::Pod {
                    name: name.clone(),
                    port: master.address.port(),
                },
                weight: 100,
                zone: String::new(),
                failover_priority: master.failover_priority,
            })
            .collect();
    }
    for server in std::iter::once(&mut config.master).chain(&mut config.replicas) {
        let Address::Pod { name, port } = &server.address else {
            continue;
        };
        let seen = pods.get(name).and_then(|pod| host_of(pod, &namespace));
        let host = seen
            .or_else(|| known_host(status, &server.name))
            .unwrap_or_else(|| name.clone());
        server.address = Address::Host { host, port: *port };
    }
}

/// Puts in the place of pods what the operator wrote, as a proxy sees it.
pub(super) fn resolve_by_status(config: &mut PoolConfig, status: Option<&PgPoolStatus>) {
    resolve(config, &BTreeMap::new(), status);
}

/// Names of the pods a config means; none where a selector finds them.
pub(super) fn names(config: &PoolConfig) -> Vec<String> {
    let servers = config.servers();
    servers.iter().filter_map(pod_name).map(str::to_owned).collect()
}

/// The pods a config names, by name of the server.
pub(super) fn by_server(config: &PoolConfig) -> BTreeMap<String, String> {
    let servers = config.servers();
    servers
        .iter()
        .filter_map(|server| Some((server.name.clone(), pod_name(server)?.to_owned())))
        .collect()
}

/// Whether a server stands outside of the cluster.
pub(super) fn has_hosts(config: &PoolConfig) -> bool {
    config.servers().iter().any(|server| pod_name(server).is_none())
}

fn pod_name(server: &ServerConfig) -> Option<&str> {
    match &server.address {
        Address::Pod { name, .. } => Some(name),
        Address::Host { .. } => None,
    }
}

/// As names of servers must be.
fn is_name(name: &str) -> bool {
    name.len() <= 40
        && name
            .chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
}

fn known_host(status: Option<&PgPoolStatus>, name: &str) -> Option<String> {
    let (host, _) = status?.server(name)?.address.rsplit_once(':')?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    (!host.is_empty() && !host.starts_with("pod/")).then(|| host.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crds::status::ServerStatus;

    fn pod(value: serde_json::Value) -> Pod {
        serde_json::from_value(value).unwrap()
    }

    fn config(selector: bool) -> PoolConfig {
        let address = Address::Pod {
            name: "pg-0".to_owned(),
            port: 5432,
        };
        let master = ServerConfig {
            address,
            ..ServerConfig::host("pg-0", "x", 5432)
        };
        let mut config = PoolConfig::minimal("orders", master);
        config.namespace = "db".to_owned();
        if selector {
            config.selector.insert("app".to_owned(), "pg".to_owned());
        }
        config
    }

    #[test]
    fn a_pod_of_a_statefulset_is_found_by_its_name_and_another_by_its_address() {
        let by_name =
            pod(serde_json::json!({"spec": {"hostname": "pg-0", "subdomain": "pg", "containers": []}}));
        assert_eq!(host_of(&by_name, "db").as_deref(), Some("pg-0.pg.db.svc"));
        let by_address =
            pod(serde_json::json!({"spec": {"containers": []}, "status": {"podIP": "10.0.0.7"}}));
        assert_eq!(host_of(&by_address, "db").as_deref(), Some("10.0.0.7"));
        assert_eq!(
            host_of(&pod(serde_json::json!({"spec": {"containers": []}})), "db"),
            None
        );
    }

    #[test]
    fn a_selector_finds_replicas_and_forgets_none_that_is_just_being_made_anew() {
        let mut pods = BTreeMap::new();
        for name in ["pg-0", "pg-1"] {
            let written =
                serde_json::json!({"spec": {"hostname": name, "subdomain": "pg", "containers": []}});
            pods.insert(name.to_owned(), pod(written));
        }
        let status = PgPoolStatus {
            servers: vec![ServerStatus {
                name: "pg-2".to_owned(),
                address: "pg-2.pg.db.svc:5432".to_owned(),
                ..ServerStatus::default()
            }],
            ..PgPoolStatus::default()
        };
        let mut config = config(true);
        resolve(&mut config, &pods, Some(&status));
        let servers: Vec<String> = config
            .servers()
            .iter()
            .map(|server| format!("{} {}", server.name, server.address))
            .collect();
        assert_eq!(
            servers,
            [
                "pg-0 pg-0.pg.db.svc:5432",
                "pg-1 pg-1.pg.db.svc:5432",
                "pg-2 pg-2.pg.db.svc:5432"
            ]
        );
    }

    #[test]
    fn a_proxy_goes_where_the_operator_says() {
        let status = PgPoolStatus {
            servers: vec![ServerStatus {
                name: "pg-0".to_owned(),
                address: "[fd00::1]:5432".to_owned(),
                ..ServerStatus::default()
            }],
            ..PgPoolStatus::default()
        };
        let mut config = config(false);
        resolve_by_status(&mut config, Some(&status));
        assert_eq!(config.master.address.to_string(), "[fd00::1]:5432");
    }

    #[test]
    fn pods_of_other_operators_are_known_by_their_labels() {
        let of = |label: &str, value: &str| pod(serde_json::json!({"metadata": {"labels": {label: value}}}));
        assert_eq!(foreign_owner(&of("cnpg.io/cluster", "x")), Some("CloudNativePG"));
        assert_eq!(foreign_owner(&of("application", "patroni")), Some("Patroni"));
        assert_eq!(foreign_owner(&of("app", "pg")), None);
    }

    #[test]
    fn only_a_kubelet_that_said_so_makes_it_certain_that_postgresql_is_stopped() {
        let state = |state: serde_json::Value| {
            let status = serde_json::json!({"name": "postgres", "image": "", "imageID": "", "ready": false,
                "restartCount": 0, "state": state});
            is_stopped(&pod(
                serde_json::json!({"status": {"containerStatuses": [status]}}),
            ))
        };
        assert!(state(
            serde_json::json!({"waiting": {"reason": "CrashLoopBackOff"}})
        ));
        assert!(state(serde_json::json!({"terminated": {"exitCode": 137}})));
        assert!(!state(serde_json::json!({"running": {}})) && !state(serde_json::json!({})));
        assert!(!is_stopped(&Pod::default()));
        assert!(is_stopped(&pod(
            serde_json::json!({"status": {"phase": "Pending"}})
        )));
    }
}
