//! The proxies the operator runs.

use serde_json::Value;

use crate::raw;
use crate::{Autoscaling, DisruptionBudget, Faults, Proxy, Service};

pub(super) fn proxy(faults: &mut Faults, written: raw::Proxy) -> Proxy {
    let raw::Proxy {
        managed,
        replicas,
        image,
        resources,
        threads,
        service,
        on_api_loss,
        pod_template,
        pdb,
        autoscaling,
    } = written;
    if image.len() > 512 || image.chars().any(|c| c.is_control() || c.is_whitespace()) {
        faults.add("image", "must be at most 512 bytes without white space");
    }
    let raw::PodTemplate { metadata, spec } = pod_template;
    let parts = [("metadata", metadata), ("spec", spec)]
        .into_iter()
        .filter(|(_, part)| !part.is_empty());
    let pod_template = parts
        .map(|(key, part)| (key.to_owned(), Value::Object(part)))
        .collect();
    let raw::Service {
        service_type,
        port,
        annotations,
    } = service;
    let raw::Pdb { max_unavailable } = pdb;
    Proxy {
        managed,
        replicas: replicas.map(|replicas| faults.range("replicas", replicas, 0..=250)),
        image,
        resources: Value::Object(resources),
        threads: faults.range("threads", threads, 0..=256),
        service: Service {
            service_type,
            port: faults.range("service.port", port, 1..=u16::MAX),
            annotations,
        },
        on_api_loss,
        pod_template: Value::Object(pod_template),
        pdb: DisruptionBudget {
            max_unavailable: faults.range("pdb.maxUnavailable", max_unavailable, 0..=250),
        },
        autoscaling: autoscaling
            .and_then(|written| faults.within("autoscaling", |faults| autoscaler(faults, written))),
    }
}

fn autoscaler(faults: &mut Faults, written: raw::Autoscaling) -> Option<Autoscaling> {
    let raw::Autoscaling {
        min_replicas,
        max_replicas,
        target_clients,
    } = written;
    let mut count = |key, value: Option<i64>, max: u32| match value {
        Some(value) => Some(faults.range(key, value, 1..=max)),
        None => {
            faults.add(key, "is missing");
            None
        }
    };
    let min_replicas = count("minReplicas", min_replicas, 250);
    let max_replicas = count("maxReplicas", max_replicas, 250);
    let target_clients = count("targetClients", target_clients, 1_000_000);
    if min_replicas.zip(max_replicas).is_some_and(|(min, max)| min > max) {
        faults.add("minReplicas", "must be at most maxReplicas");
    }
    Some(Autoscaling {
        min_replicas: min_replicas?,
        max_replicas: max_replicas?,
        target_clients: target_clients?,
    })
}
