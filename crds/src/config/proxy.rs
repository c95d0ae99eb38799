//! The proxies the operator runs on Kubernetes.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The proxies the operator runs (Kubernetes only).
#[derive(Clone, Debug, PartialEq)]
pub struct Proxy {
    /// Whether the operator owns a Deployment, Services and a disruption budget for this pool.
    pub managed: bool,
    /// How many; `None`: left to an autoscaler (2 at the start).
    pub replicas: Option<u32>,
    /// Empty: the operator's own version. (roll)
    pub image: String,
    /// Of the container, as Kubernetes writes them. (roll)
    pub resources: serde_json::Value,
    /// Data threads; 0 = CPUs of the quota. (roll)
    pub threads: u32,
    /// The Service.
    pub service: Service,
    /// What a proxy does that cannot reach the API.
    pub on_api_loss: ApiLoss,
    /// Merged into the pod template: `metadata` and `spec`. (roll)
    pub pod_template: serde_json::Value,
    /// The disruption budget.
    pub pdb: DisruptionBudget,
    /// An autoscaler by clients.
    pub autoscaling: Option<Autoscaling>,
}

impl Default for Proxy {
    fn default() -> Self {
        Self {
            managed: true,
            replicas: None,
            image: String::new(),
            resources: serde_json::Value::Object(serde_json::Map::new()),
            threads: 0,
            service: Service::default(),
            on_api_loss: ApiLoss::default(),
            pod_template: serde_json::Value::Object(serde_json::Map::new()),
            pdb: DisruptionBudget::default(),
            autoscaling: None,
        }
    }
}

/// The Service of the proxies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Its type.
    pub service_type: ServiceType,
    /// Its port.
    pub port: u16,
    /// Copied to its metadata.
    pub annotations: BTreeMap<String, String>,
}

impl Default for Service {
    fn default() -> Self {
        Self {
            service_type: ServiceType::default(),
            port: 5432,
            annotations: BTreeMap::new(),
        }
    }
}

/// The type of a Service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum ServiceType {
    /// Inside the cluster only.
    #[default]
    ClusterIP,
    /// And at a port of every node.
    NodePort,
    /// And through a load balancer of the provider.
    LoadBalancer,
}

/// What a proxy does that cannot reach the API.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum ApiLoss {
    /// It goes on while it sees every server, and every replica still streaming from its master.
    #[default]
    Failsafe,
    /// It stops writing.
    Fence,
    /// It goes on, at the user's own risk.
    Continue,
}

/// The disruption budget of the proxies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DisruptionBudget {
    /// How many may be evicted at a time.
    pub max_unavailable: u32,
}

impl Default for DisruptionBudget {
    fn default() -> Self {
        Self { max_unavailable: 1 }
    }
}

/// An autoscaler of the proxies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Autoscaling {
    /// At least.
    pub min_replicas: u32,
    /// At most.
    pub max_replicas: u32,
    /// Clients per proxy it aims at.
    pub target_clients: u32,
}
