//! What the operator owns for a pool, built from its config alone: a function without I/O, with golden files.

use super::serving::SERVING_LABEL;
use cluster::kube::{POOL_LABEL, REPLICAS, highest_number, proxy_secrets};
use crds::{PoolConfig, ServiceType};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;

/// What a container gets beyond the drain time before it is killed.
const GRACE: Duration = Duration::from_secs(15);
/// How long the Service is given to forget a pod that goes.
const LEAVE: u64 = 5;
/// Ports inside the pods.
const PORT: u16 = 5432;
const PORT_RO: u16 = 5433;
const PORT_HTTP: u16 = 9187;
/// The user of the image.
const USER: u32 = 65532;

/// What is known beside the config.
#[derive(Clone, Debug)]
pub(super) struct Facts {
    /// `metadata.uid` of the PgPool: it owns all of it.
    pub uid: String,
    /// The image of the proxies where the manifest names none.
    pub image: String,
    /// How many proxies there are asked for now, where nobody but an autoscaler says it.
    pub replicas: Option<u32>,
}

/// One object to be applied.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Child {
    /// `apiVersion`.
    pub api_version: &'static str,
    /// `kind`.
    pub kind: &'static str,
    /// Plural of the kind, as in the path of the API.
    pub plural: &'static str,
    /// `metadata.name`.
    pub name: String,
    /// The object; `None`: it must not be there.
    pub object: Option<Value>,
}

/// The label selector of the pods of the proxies, as text.
pub(super) fn selector(pool: &str) -> String {
    format!("app.kubernetes.io/instance={pool},app.kubernetes.io/name=pgstmtpool-proxy")
}

/// Everything, in the order it is applied.
pub(super) fn children(config: &PoolConfig, facts: &Facts) -> Vec<Child> {
    let build = Build { config, facts };
    let managed = config.proxy.managed;
    let when = |wanted: bool, object: Value| (managed && wanted).then_some(object);
    let name = format!("{}-proxy", config.name);
    let child = |api_version, kind, plural, name: &str, object| Child {
        api_version,
        kind,
        plural,
        name: name.to_owned(),
        object,
    };
    let rbac = "rbac.authorization.k8s.io/v1";
    let ro = format!("{}-ro", config.name);
    vec![
        child(
            "v1",
            "ServiceAccount",
            "serviceaccounts",
            &name,
            when(true, build.account()),
        ),
        child(rbac, "Role", "roles", &name, when(true, build.role())),
        child(
            rbac,
            "RoleBinding",
            "rolebindings",
            &name,
            when(true, build.binding()),
        ),
        child(
            "v1",
            "Service",
            "services",
            &config.name,
            when(true, build.service(PORT)),
        ),
        child(
            "v1",
            "Service",
            "services",
            &ro,
            when(true, build.service(PORT_RO)),
        ),
        child(
            "apps/v1",
            "Deployment",
            "deployments",
            &name,
            when(true, build.deployment()),
        ),
        child(
            "policy/v1",
            "PodDisruptionBudget",
            "poddisruptionbudgets",
            &name,
            when(true, build.disruption()),
        ),
        child(
            "autoscaling/v2",
            "HorizontalPodAutoscaler",
            "horizontalpodautoscalers",
            &name,
            when(config.proxy.autoscaling.is_some(), build.autoscaler()),
        ),
    ]
}

struct Build<'a> {
    config: &'a PoolConfig,
    facts: &'a Facts,
}

impl Build<'_> {
    fn proxy(&self) -> String {
        format!("{}-proxy", self.config.name)
    }

    fn selector(&self) -> Value {
        json!({
            "app.kubernetes.io/name": "pgstmtpool-proxy",
            "app.kubernetes.io/instance": self.config.name,
        })
    }

    fn labels(&self) -> Value {
        let mut labels = self.selector();
        labels["app.kubernetes.io/component"] = json!("proxy");
        labels["app.kubernetes.io/part-of"] = json!("pgstmtpool");
        labels["app.kubernetes.io/managed-by"] = json!("pgstmtpool-operator");
        labels[POOL_LABEL] = json!(self.config.name);
        labels
    }

    fn metadata(&self, name: &str) -> Value {
        json!({
            "name": name,
            "namespace": self.config.namespace,
            "labels": self.labels(),
            "ownerReferences": [{
                "apiVersion": crds::API_VERSION,
                "kind": crds::KIND,
                "name": self.config.name,
                "uid": self.facts.uid,
                "controller": true,
                "blockOwnerDeletion": false,
            }],
        })
    }

    fn object(&self, api_version: &str, kind: &str, name: &str) -> Value {
        json!({ "apiVersion": api_version, "kind": kind, "metadata": self.metadata(name) })
    }

    fn account(&self) -> Value {
        self.object("v1", "ServiceAccount", &self.proxy())
    }

    /// Its one PgPool, the Secrets it works with, and its own Lease: by their names, but for what has none yet.
    fn role(&self) -> Value {
        let config = self.config;
        let leases: Vec<String> = (0..=highest_number(config))
            .map(|number| format!("pgp-{}-{number}", config.name))
            .collect();
        let mut rules = vec![
            json!({
                "apiGroups": [crds::GROUP],
                "resources": ["pgpools"],
                "resourceNames": [config.name],
                "verbs": ["get", "list", "watch"],
            }),
            json!({
                "apiGroups": ["coordination.k8s.io"],
                "resources": ["leases"],
                "verbs": ["create", "list"],
            }),
            json!({
                "apiGroups": ["coordination.k8s.io"],
                "resources": ["leases"],
                "resourceNames": leases,
                "verbs": ["get", "update", "patch", "delete"],
            }),
        ];
        let secrets = proxy_secrets(config);
        if !secrets.is_empty() {
            rules.push(json!({
                "apiGroups": [""],
                "resources": ["secrets"],
                "resourceNames": secrets,
                "verbs": ["get", "list", "watch"],
            }));
        }
        let mut role = self.object("rbac.authorization.k8s.io/v1", "Role", &self.proxy());
        role["rules"] = json!(rules);
        role
    }

    fn binding(&self) -> Value {
        let mut binding = self.object("rbac.authorization.k8s.io/v1", "RoleBinding", &self.proxy());
        binding["roleRef"] = json!({
            "apiGroup": "rbac.authorization.k8s.io",
            "kind": "Role",
            "name": self.proxy(),
        });
        binding["subjects"] = json!([{
            "kind": "ServiceAccount",
            "name": self.proxy(),
            "namespace": self.config.namespace,
        }]);
        binding
    }

    fn service(&self, target: u16) -> Value {
        let mut selector = self.selector();
        selector[SERVING_LABEL] = json!("true");
        let service = &self.config.proxy.service;
        let read_only = target == PORT_RO;
        let name = if read_only {
            format!("{}-ro", self.config.name)
        } else {
            self.config.name.clone()
        };
        let mut object = self.object("v1", "Service", &name);
        object["metadata"]["annotations"] = json!(service.annotations);
        object["spec"] = json!({
            "type": match service.service_type {
                ServiceType::ClusterIP => "ClusterIP",
                ServiceType::NodePort => "NodePort",
                ServiceType::LoadBalancer => "LoadBalancer",
            },
            "selector": selector,
            "ports": [{
                "name": "postgres",
                "port": service.port,
                "targetPort": target,
                "protocol": "TCP",
            }],
        });
        object
    }

    fn deployment(&self) -> Value {
        let config = self.config;
        let mut object = self.object("apps/v1", "Deployment", &self.proxy());
        let mut labels = self.labels();
        labels[SERVING_LABEL] = json!("true");
        let template = json!({
            "metadata": { "labels": labels },
            "spec": self.pod(),
        });
        object["spec"] = json!({
            "replicas": config.proxy.replicas.or(self.facts.replicas).unwrap_or(REPLICAS),
            "selector": { "matchLabels": self.selector() },
            "strategy": {
                "type": "RollingUpdate",
                // Half of them at once: a client that is sent away by one that goes should not often meet another that goes.
                "rollingUpdate": { "maxUnavailable": 0, "maxSurge": "50%" },
            },
            "template": merged(template, &config.proxy.pod_template),
        });
        object
    }

    fn pod(&self) -> Value {
        let grace = self.config.timeouts.drain + GRACE + Duration::from_secs(LEAVE);
        let spread = |key: &str| {
            json!({
                "maxSkew": 1,
                "topologyKey": key,
                "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": { "matchLabels": self.selector() },
                "matchLabelKeys": ["pod-template-hash"],
            })
        };
        json!({
            "serviceAccountName": self.proxy(),
            "terminationGracePeriodSeconds": grace.as_secs(),
            "securityContext": {
                "runAsNonRoot": true,
                "runAsUser": USER,
                "runAsGroup": USER,
                "fsGroup": USER,
                "seccompProfile": { "type": "RuntimeDefault" },
            },
            "topologySpreadConstraints": [
                spread("kubernetes.io/hostname"),
                spread("topology.kubernetes.io/zone"),
            ],
            "containers": [self.container()],
        })
    }

    fn container(&self) -> Value {
        let config = self.config;
        let image = if config.proxy.image.is_empty() {
            &self.facts.image
        } else {
            &config.proxy.image
        };
        let mut args = vec![
            "--kubernetes".to_owned(),
            format!("--namespace={}", config.namespace),
            format!("--pool={}", config.name),
            format!("--listen=0.0.0.0:{PORT}"),
            format!("--listen-ro=0.0.0.0:{PORT_RO}"),
            format!("--http-listen=0.0.0.0:{PORT_HTTP}"),
            "--log-format=json".to_owned(),
        ];
        if config.proxy.threads > 0 {
            args.push(format!("--threads={}", config.proxy.threads));
        }
        let field = |name: &str, path: &str| json!({ "name": name, "valueFrom": { "fieldRef": { "fieldPath": path } } });
        let probe = |path: &str, period: u32, failures: u32| {
            json!({
                "httpGet": { "path": path, "port": "http" },
                "periodSeconds": period,
                "failureThreshold": failures,
                "timeoutSeconds": 5,
            })
        };
        let resources = match config
            .proxy
            .resources
            .as_object()
            .is_some_and(|given| !given.is_empty())
        {
            true => config.proxy.resources.clone(),
            false => json!({ "requests": { "cpu": "50m", "memory": "32Mi" } }),
        };
        json!({
            "name": "proxy",
            "image": image,
            "command": ["pgstmtpool-proxy"],
            "args": args,
            "env": [
                field("POD_NAME", "metadata.name"),
                field("POD_NAMESPACE", "metadata.namespace"),
                field("POD_UID", "metadata.uid"),
                field("POD_IP", "status.podIP"),
            ],
            "ports": [
                { "name": "postgres", "containerPort": PORT },
                { "name": "postgres-ro", "containerPort": PORT_RO },
                { "name": "http", "containerPort": PORT_HTTP },
            ],
            "startupProbe": probe("/livez", 2, 60),
            "livenessProbe": probe("/livez", 10, 6),
            "readinessProbe": probe("/readyz", 2, 3),
            "lifecycle": { "preStop": { "sleep": { "seconds": LEAVE } } },
            "resources": resources,
            "securityContext": {
                "allowPrivilegeEscalation": false,
                "readOnlyRootFilesystem": true,
                "capabilities": { "drop": ["ALL"] },
            },
        })
    }

    fn disruption(&self) -> Value {
        let mut object = self.object("policy/v1", "PodDisruptionBudget", &self.proxy());
        object["spec"] = json!({
            "maxUnavailable": self.config.proxy.pdb.max_unavailable,
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
            "selector": { "matchLabels": self.selector() },
        });
        object
    }

    fn autoscaler(&self) -> Value {
        let Some(scaling) = self.config.proxy.autoscaling else {
            return Value::Null;
        };
        let mut object = self.object("autoscaling/v2", "HorizontalPodAutoscaler", &self.proxy());
        object["spec"] = json!({
            "minReplicas": scaling.min_replicas,
            "maxReplicas": scaling.max_replicas,
            "scaleTargetRef": { "apiVersion": "apps/v1", "kind": "Deployment", "name": self.proxy() },
            "metrics": [{
                "type": "Pods",
                "pods": {
                    "metric": { "name": "pgstmtpool_clients" },
                    "target": { "type": "AverageValue", "averageValue": scaling.target_clients.to_string() },
                },
            }],
        });
        object
    }
}

/// `over` laid over `base`: maps key by key, lists of named things by their names, anything else replaced.
fn merged(base: Value, over: &Value) -> Value {
    match (base, over) {
        (Value::Object(mut base), Value::Object(over)) => {
            for (key, value) in over {
                let old = base.remove(key).unwrap_or(Value::Null);
                base.insert(key.clone(), merged(old, value));
            }
            Value::Object(base)
        }
        (Value::Array(base), Value::Array(over)) if over.iter().all(|item| name_of(item).is_some()) => {
            Value::Array(by_name(base, over))
        }
        (_, over) => over.clone(),
    }
}

fn name_of(item: &Value) -> Option<&str> {
    item.get("name").and_then(Value::as_str)
}

fn by_name(base: Vec<Value>, over: &[Value]) -> Vec<Value> {
    let mut rest: BTreeMap<&str, &Value> = over
        .iter()
        .filter_map(|item| Some((name_of(item)?, item)))
        .collect();
    let mut items: Vec<Value> = base
        .into_iter()
        .map(|item| match name_of(&item).and_then(|name| rest.remove(name)) {
            Some(over) => merged(item, over),
            None => item,
        })
        .collect();
    let new = over
        .iter()
        .filter(|item| name_of(item).is_some_and(|name| rest.contains_key(name)));
    items.extend(new.cloned());
    items
}

#[cfg(test)]
mod tests {
    use super::*;
    use crds::{Autoscaling, SecretRef, ServerConfig};

    fn facts() -> Facts {
        Facts {
            uid: "u".to_owned(),
            image: "proxy:1".to_owned(),
            replicas: None,
        }
    }

    fn config() -> PoolConfig {
        let mut config = PoolConfig::minimal("orders", ServerConfig::host("a", "h", 5432));
        config.namespace = "db".to_owned();
        config.admin_secret = Some(SecretRef::new("orders-admin"));
        config
    }

    fn find(children: &[Child], kind: &str, name: &str) -> Option<Value> {
        let child = children
            .iter()
            .find(|child| child.kind == kind && child.name == name);
        child.and_then(|child| child.object.clone())
    }

    #[test]
    fn what_is_owned_is_as_in_the_golden_file() {
        let mut config = config();
        config.proxy.autoscaling = Some(Autoscaling {
            min_replicas: 2,
            max_replicas: 6,
            target_clients: 500,
        });
        let objects: Vec<Value> = children(&config, &facts())
            .into_iter()
            .filter_map(|child| child.object)
            .collect();
        let written = serde_json::to_string_pretty(&objects).unwrap() + "\n";
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/children.json");
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(path, &written).unwrap();
        }
        assert_eq!(
            std::fs::read_to_string(path).unwrap_or_default(),
            written,
            "UPDATE_GOLDEN=1 writes {path} anew: read the difference"
        );
    }

    #[test]
    fn a_proxy_may_change_no_object_but_by_name() {
        let role = find(&children(&config(), &facts()), "Role", "orders-proxy").unwrap();
        for rule in role["rules"].as_array().unwrap() {
            let verbs: Vec<&str> = rule["verbs"]
                .as_array()
                .unwrap()
                .iter()
                .filter_map(Value::as_str)
                .collect();
            assert!(
                rule.get("resourceNames").is_some() || verbs == ["create", "list"],
                "{rule}"
            );
        }
    }

    #[test]
    fn a_pool_that_is_not_managed_owns_nothing() {
        let mut config = config();
        config.proxy.managed = false;
        assert!(
            children(&config, &facts())
                .iter()
                .all(|child| child.object.is_none())
        );
    }

    #[test]
    fn what_an_autoscaler_asked_for_is_not_undone() {
        let of = |replicas, live| {
            let mut config = config();
            config.proxy.replicas = replicas;
            let facts = Facts {
                replicas: live,
                ..facts()
            };
            find(&children(&config, &facts), "Deployment", "orders-proxy").unwrap()["spec"]["replicas"]
                .clone()
        };
        assert_eq!(of(None, None), 2);
        assert_eq!(of(None, Some(5)), 5);
        assert_eq!(of(Some(3), Some(5)), 3);
    }

    #[test]
    fn a_pod_template_is_laid_over_ours_container_by_container() {
        let mut config = config();
        config.proxy.pod_template = json!({
            "metadata": { "labels": { "team": "a" } },
            "spec": {
                "nodeSelector": { "disk": "ssd" },
                "containers": [
                    { "name": "proxy", "env": [{ "name": "RUST_LOG", "value": "debug" }] },
                    { "name": "other", "image": "x" },
                ],
            },
        });
        let deployment = find(&children(&config, &facts()), "Deployment", "orders-proxy").unwrap();
        let template = &deployment["spec"]["template"];
        assert_eq!(template["metadata"]["labels"]["team"], "a");
        assert_eq!(template["metadata"]["labels"][POOL_LABEL], "orders");
        let containers = template["spec"]["containers"].as_array().unwrap();
        assert_eq!(
            (containers.len(), &containers[0]["image"]),
            (2, &json!("proxy:1"))
        );
        assert_eq!(containers[0]["env"].as_array().unwrap().len(), 5);
    }
}
