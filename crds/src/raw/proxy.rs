//! The proxies the operator runs on Kubernetes.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{ApiLoss, ServiceType};

/// The proxies the operator runs (Kubernetes only).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Proxy {
    /// Whether the operator owns a Deployment, Services and a PodDisruptionBudget for this pool.
    pub managed: bool,
    /// How many, 0 to 250. Absent: left to an autoscaler, 2 at the start.
    #[schemars(range(min = 0, max = 250))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replicas: Option<i64>,
    /// [roll] Empty: the operator's own version.
    #[schemars(length(max = 512))]
    pub image: String,
    /// [roll] Requests and limits of the container.
    #[schemars(extend("x-kubernetes-preserve-unknown-fields" = true))]
    pub resources: Map<String, Value>,
    /// [roll] Data threads, 0 to 256. 0 = CPUs of the quota.
    #[schemars(range(min = 0, max = 256))]
    pub threads: i64,
    /// The Service.
    pub service: Service,
    /// What a proxy does that cannot reach the API. Failsafe: it goes on while it sees every server, and every replica
    /// still streaming from its master. Fence: it stops writing. Continue: it goes on, at your own risk.
    pub on_api_loss: ApiLoss,
    /// [roll] metadata and spec, merged into the pods of the proxies.
    pub pod_template: PodTemplate,
    /// The PodDisruptionBudget.
    pub pdb: Pdb,
    /// An autoscaler by clients.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub autoscaling: Option<Autoscaling>,
}

impl Default for Proxy {
    fn default() -> Self {
        let default = crate::Proxy::default();
        Self {
            managed: default.managed,
            replicas: default.replicas.map(i64::from),
            image: default.image,
            resources: Map::new(),
            threads: default.threads.into(),
            service: Service::default(),
            on_api_loss: default.on_api_loss,
            pod_template: PodTemplate::default(),
            pdb: Pdb::default(),
            autoscaling: None,
        }
    }
}

/// Merged into the pods of the proxies.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct PodTemplate {
    /// Labels and annotations.
    #[serde(skip_serializing_if = "Map::is_empty")]
    #[schemars(extend("x-kubernetes-preserve-unknown-fields" = true))]
    pub metadata: Map<String, Value>,
    /// As the spec of a pod.
    #[serde(skip_serializing_if = "Map::is_empty")]
    #[schemars(extend("x-kubernetes-preserve-unknown-fields" = true))]
    pub spec: Map<String, Value>,
}

/// The Service of the proxies.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Service {
    /// ClusterIP, NodePort or LoadBalancer.
    #[serde(rename = "type")]
    pub service_type: ServiceType,
    /// Its port, 1 to 65535.
    #[schemars(range(min = 1, max = 65535))]
    pub port: i64,
    /// Copied to its metadata.
    #[schemars(extend("maxProperties" = 64))]
    pub annotations: BTreeMap<String, String>,
}

impl Default for Service {
    fn default() -> Self {
        let default = crate::Service::default();
        Self {
            service_type: default.service_type,
            port: default.port.into(),
            annotations: default.annotations,
        }
    }
}

/// The PodDisruptionBudget of the proxies.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Pdb {
    /// How many may be evicted at a time, 0 to 250.
    #[schemars(range(min = 0, max = 250))]
    pub max_unavailable: i64,
}

impl Default for Pdb {
    fn default() -> Self {
        Self {
            max_unavailable: crate::DisruptionBudget::default().max_unavailable.into(),
        }
    }
}

/// An autoscaler of the proxies.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["minReplicas", "maxReplicas", "targetClients"]))]
pub struct Autoscaling {
    /// At least so many, 1 to 250. Required.
    #[schemars(required, range(min = 1, max = 250))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_replicas: Option<i64>,
    /// At most so many, 1 to 250. Required.
    #[schemars(required, range(min = 1, max = 250))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_replicas: Option<i64>,
    /// Clients per proxy it aims at, 1 to 1000000. Required.
    #[schemars(required, range(min = 1, max = 1_000_000))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target_clients: Option<i64>,
}
