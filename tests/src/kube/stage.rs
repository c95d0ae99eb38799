//! What every scenario begins with: PostgreSQL of three servers, the operator and a pool of two proxies, all healthy.

use std::io::Write;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::cluster::Kube;
use super::failed::Evidence;
use crate::wait::wait_for;
use crate::world::World;

/// Where everything is installed.
pub const NAMESPACE: &str = "db";
/// The pool, and its Service.
pub const POOL: &str = "orders";
/// The Secret of the ordinary user.
pub(super) const APP_SECRET: &str = "pg-app";
/// What a namespace with the policy `restricted` asks of a container.
pub(super) const RESTRICTED: &str =
    "{allowPrivilegeEscalation: false, readOnlyRootFilesystem: true, capabilities: {drop: [ALL]}}";
/// How long all of it may take to be healthy again.
const HEALTHY: Duration = Duration::from_secs(150);

const POSTGRES_VALUES: &str = "
image: {repository: localhost/postgres, tag: e2e}
guard: {pool: orders, image: {repository: localhost/pgstmtpool, tag: e2e}}
auth: {password: admin-secret, replicationPassword: replication-secret, appPassword: app-secret}
settings: {max_connections: 100, shared_buffers: 32MB}
persistence: {size: 1Gi}
terminationGracePeriodSeconds: 20
resources: {requests: {cpu: 20m, memory: 64Mi}}
topologySpreadConstraints:
  - maxSkew: 1
    topologyKey: kubernetes.io/hostname
    whenUnsatisfiable: DoNotSchedule
    labelSelector: {matchLabels: {app.kubernetes.io/name: postgres}}
";

const OPERATOR_VALUES: &str = "
image: {repository: localhost/pgstmtpool, tag: e2e}
operator:
  logFormat: text
  resources: {requests: {cpu: 20m, memory: 32Mi}}
";

const MANIFEST: &str = "
apiVersion: pgstmtpool.io/v1alpha1
kind: PgPool
metadata: {name: orders}
spec:
  master: {name: pg-0, podName: pg-0}
  replicas:
    - {name: pg-1, podName: pg-1}
    - {name: pg-2, podName: pg-2}
  adminSecretRef: {name: pg}
  replicationSecretRef: {name: pg-replication}
  durability: {mode: Required, syncReplicas: 1}
  ha: {enabled: true, failureThreshold: 6, probePeriod: 500ms}
  workers: {max: 10}
  proxy: {replicas: 2, threads: 1, resources: {requests: {cpu: 20m, memory: 32Mi}}}
";

/// The superuser's password, as it is in the values, and as the API shows it.
pub const PASSWORD: &str = "admin-secret";
const BASE64_PASSWORD: &str = "YWRtaW4tc2VjcmV0";

/// What scenarios change, as it is in the manifest.
const RESTORED: &str = r#"{"spec": {"adminSecretRef": {"name": "pg", "usernameKey": "username", "passwordKey": "password"},
    "switchover": null, "proxy": {"replicas": 2, "image": ""}}}"#;

/// The stage, held by one scenario at a time.
#[derive(Debug)]
pub struct KubeStage {
    _turn: MutexGuard<'static, ()>,
    _evidence: Evidence<'static>,
    /// The cluster.
    pub kube: &'static Kube,
}

static KUBE: OnceLock<Kube> = OnceLock::new();
static TURN: Mutex<()> = Mutex::new(());

impl KubeStage {
    /// Waits for its turn, starts the cluster if it is the first, installs what is not there and waits until all of it is
    /// healthy.
    pub fn set(scenario: &str) -> Self {
        let stage = Self::bare(scenario);
        stage.install();
        stage.wait_healthy();
        stage
    }

    /// The cluster and nothing in it.
    pub fn bare(scenario: &str) -> Self {
        let guard = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let kube = KUBE.get_or_init(|| Kube::start(&Arc::new(World::new("e2e"))));
        kube.mend();
        Self {
            _turn: guard,
            _evidence: Evidence::new(kube, scenario),
            kube,
        }
    }

    fn install(&self) {
        let kube = self.kube;
        let started = Instant::now();
        if kube.get("default", &["namespace", NAMESPACE]).is_null() {
            kube.kubectl(&["create", "namespace", NAMESPACE]);
            let label = "pod-security.kubernetes.io/enforce=restricted";
            kube.kubectl(&["label", "namespace", NAMESPACE, label]);
            self.helm_install("pg", "postgres", POSTGRES_VALUES);
        }
        if kube
            .get(NAMESPACE, &["deployment", "pgstmtpool-operator"])
            .is_null()
        {
            self.helm_install("pgstmtpool", "pgstmtpool", OPERATOR_VALUES);
        }
        if !kube.get(NAMESPACE, &["pgpool", POOL]).is_null() {
            return self.restore();
        }
        let rollout = [
            "-n",
            NAMESPACE,
            "rollout",
            "status",
            "deployment/pgstmtpool-operator",
        ];
        kube.kubectl(&rollout);
        wait_for("the pods of PostgreSQL", HEALTHY, || {
            let ready = ["pg-0", "pg-1", "pg-2"].map(|pod| {
                kube.get(NAMESPACE, &["pod", pod])["status"]["containerStatuses"][0]["ready"] == true
            });
            ready
                .iter()
                .all(|ready| *ready)
                .then_some(())
                .ok_or_else(|| format!("{ready:?}"))
        });
        println!(
            "PostgreSQL and the operator are up after {:.1} s",
            started.elapsed().as_secs_f64()
        );
        let started = Instant::now();
        kube.apply(NAMESPACE, MANIFEST);
        self.wait_healthy();
        self.number("kubectl apply to all ready", started.elapsed().as_secs_f64(), "s");
    }

    /// Takes back what a scenario that failed may have left changed.
    fn restore(&self) {
        let nodes = self.kube.get(NAMESPACE, &["nodes"]);
        for node in nodes["items"].as_array().into_iter().flatten() {
            if node["spec"]["unschedulable"] == true {
                let name = node["metadata"]["name"].as_str().unwrap_or_default();
                self.kube.kubectl(&["uncordon", name]);
            }
        }
        let loads = [
            "-n",
            NAMESPACE,
            "delete",
            "pods",
            "-l",
            "app=load",
            "--timeout=60s",
        ];
        self.kube.kubectl(&loads);
        let scaler = "delete hpa by-cpu --ignore-not-found --timeout=60s";
        let others = "delete pgpool managed --ignore-not-found --timeout=60s";
        let labels = "label pods pg-0 pg-1 pg-2 cnpg.io/cluster- application-";
        for args in [scaler, others, labels] {
            let args: Vec<&str> = ["-n", NAMESPACE].into_iter().chain(args.split(' ')).collect();
            self.kube.try_kubectl(&args); // a pod may be on its way
        }
        let password = serde_json::json!(BASE64_PASSWORD);
        if self.kube.get(NAMESPACE, &["secret", "pg"])["data"]["password"] != password {
            self.set_password(PASSWORD);
        }
        self.patch(RESTORED);
    }

    /// Gives the superuser another password, in PostgreSQL and in the Secret.
    pub fn set_password(&self, password: &str) {
        let sql = format!("alter role postgres password '{password}'");
        self.sql_in(&self.master(), &sql);
        let patch = format!(r#"{{"stringData": {{"password": "{password}"}}}}"#);
        self.kube
            .kubectl(&["-n", NAMESPACE, "patch", "secret", "pg", "-p", &patch]);
    }

    /// Changes the pool: a merge patch.
    pub fn patch(&self, patch: &str) {
        let args = [
            "-n",
            NAMESPACE,
            "patch",
            "pgpool",
            POOL,
            "--type=merge",
            "-p",
            patch,
        ];
        self.kube.kubectl(&args);
    }

    /// Makes the API know the resource, as helm does at the first installation.
    pub fn install_definition(&self) {
        let definition = format!("{}/crds", Kube::chart("pgstmtpool"));
        let name = "pgpools.pgstmtpool.io";
        self.kube
            .kubectl(&["apply", "--server-side", "--force-conflicts", "-f", &definition]);
        self.kube.kubectl(&[
            "wait",
            "--for=condition=Established",
            &format!("crd/{name}"),
            "--timeout=60s",
        ]);
    }

    /// Installs a chart of ours.
    pub fn helm_install(&self, release: &str, chart: &str, values: &str) {
        let file = self.values(release, values);
        self.kube.helm(&[
            "upgrade",
            "--install",
            release,
            &Kube::chart(chart),
            "-n",
            NAMESPACE,
            "-f",
            &file,
        ]);
    }

    /// A file with these values; its path.
    pub fn values(&self, name: &str, values: &str) -> String {
        let file = self.kube.world().write(&format!("{name}-values.yaml"), values);
        file.to_str().expect("UTF-8").to_owned()
    }

    /// The values the operator was installed with.
    pub fn operator_values(&self) -> &'static str {
        OPERATOR_VALUES
    }

    /// The manifest as it was applied.
    pub fn manifest(&self) -> &'static str {
        MANIFEST
    }

    /// The pool as the API has it.
    pub fn pool(&self) -> Value {
        self.kube.get(NAMESPACE, &["pgpool", POOL])
    }

    /// Who is master.
    pub fn master(&self) -> String {
        let pool = self.pool();
        pool["status"]["master"]["name"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    }

    /// A replica that streams.
    pub fn replica(&self) -> String {
        let pool = self.pool();
        let servers = pool["status"]["servers"].as_array().cloned().unwrap_or_default();
        let streaming = servers.iter().find(|server| server["state"] == "Streaming");
        let name = streaming.and_then(|server| server["name"].as_str());
        name.unwrap_or_else(|| panic!("no replica streams: {servers:?}"))
            .to_owned()
    }

    /// The node a pod is on.
    pub fn node_of(&self, pod: &str) -> String {
        let pod = self.kube.get(NAMESPACE, &["pod", pod]);
        pod["spec"]["nodeName"].as_str().unwrap_or_default().to_owned()
    }

    /// Resident memory of a pod's first container in MiB, as its kubelet has it.
    pub fn memory_of(&self, pod: &str) -> Option<f64> {
        // A pod that was made just now has none yet.
        let node = Some(self.node_of(pod)).filter(|node| !node.is_empty())?;
        let path = format!("/api/v1/nodes/{node}/proxy/stats/summary");
        let summary: Value = serde_json::from_str(&self.kube.kubectl(&["get", "--raw", &path])).ok()?;
        let pods = summary["pods"].as_array()?;
        let found = pods.iter().find(|found| found["podRef"]["name"] == pod)?;
        let bytes = found["containers"][0]["memory"]["rssBytes"].as_f64()?;
        Some(bytes / f64::from(1 << 20))
    }

    /// Names of the pods with this label.
    pub fn pods(&self, label: &str) -> Vec<String> {
        let pods = self.kube.get(NAMESPACE, &["pods", "-l", label]);
        let items = pods["items"].as_array().cloned().unwrap_or_default();
        let names = items.iter().filter_map(|pod| pod["metadata"]["name"].as_str());
        names.map(str::to_owned).collect()
    }

    /// Waits until master, replicas and proxies are all there, and nothing is under way.
    pub fn wait_healthy(&self) {
        wait_for("the pool to be healthy", HEALTHY, || {
            let pool = self.pool();
            let status = &pool["status"];
            let replicas = pool["spec"]["replicas"].as_array().map_or(0, Vec::len);
            let proxies = pool["spec"]["proxy"]["replicas"].as_u64().unwrap_or_default();
            let good = status["phase"] == "Healthy"
                && status["operation"].is_null()
                && status["routing"]["mode"] == "Open"
                && status["replicasReady"] == format!("{replicas}/{replicas}").as_str()
                && status["proxiesReady"] == format!("{proxies}/{proxies}").as_str();
            good.then_some(()).ok_or_else(|| {
                format!(
                    "phase {} master {} replicas {} proxies {} operation {} conditions {}",
                    status["phase"],
                    status["master"]["name"],
                    status["replicasReady"],
                    status["proxiesReady"],
                    status["operation"],
                    not_as_should_be(&status["conditions"])
                )
            })
        });
    }

    /// Waits until somebody else is master and statements may go there.
    pub fn wait_master_not(&self, old: &str, limit: Duration) -> String {
        wait_for(&format!("another master than {old}"), limit, || {
            let pool = self.pool();
            let status = &pool["status"];
            let name = status["master"]["name"].as_str().unwrap_or_default();
            if !name.is_empty() && name != old && status["routing"]["mode"] == "Open" {
                return Ok(name.to_owned());
            }
            Err(format!(
                "master {name}, phase {}, operation {}",
                status["phase"], status["operation"]
            ))
        })
    }

    /// Runs SQL in a PostgreSQL pod as superuser; what psql printed.
    pub fn sql_in(&self, pod: &str, sql: &str) -> String {
        let args = [
            "-n", NAMESPACE, "exec", pod, "-c", "postgres", "--", "psql", "-X", "-At", "-h", "/tmp", "-U",
            "postgres", "-c", sql,
        ];
        self.kube.kubectl(&args).trim().to_owned()
    }

    /// Runs psql in a PostgreSQL pod as the ordinary user, through a name.
    pub fn psql_from(&self, pod: &str, host: &str, sql: &str) -> crate::tools::Output {
        let conninfo = format!("host={host} user=app dbname=app password=app-secret connect_timeout=10");
        let args = [
            "-n", NAMESPACE, "exec", pod, "-c", "postgres", "--", "psql", "-X", "-At", "-d", &conninfo, "-c",
            sql,
        ];
        self.kube.try_kubectl(&args)
    }

    /// Notes a measured figure: printed, and kept in the file `E2E_NUMBERS` names.
    pub fn number(&self, what: &str, figure: f64, unit: &str) {
        record(what, figure, unit);
    }
}

/// See [`KubeStage::number`].
pub(super) fn record(what: &str, figure: f64, unit: &str) {
    println!("measured: {what}: {figure:.1} {unit}");
    if let Some(path) = std::env::var_os("E2E_NUMBERS") {
        let figure = match unit {
            "" => format!("{figure:.0}"),
            unit => format!("{figure:.1} {unit}"),
        };
        let file = std::fs::File::options().create(true).append(true).open(path);
        let written = file.and_then(|mut file| writeln!(file, "| {what} | {figure} |"));
        written.expect("E2E_NUMBERS");
    }
}

fn not_as_should_be(conditions: &Value) -> String {
    let all = conditions.as_array().cloned().unwrap_or_default();
    let shown = all.iter().map(|condition| {
        format!(
            "{}={} ({}: {})",
            condition["type"].as_str().unwrap_or_default(),
            condition["status"].as_str().unwrap_or_default(),
            condition["reason"].as_str().unwrap_or_default(),
            condition["message"].as_str().unwrap_or_default()
        )
    });
    shown.collect::<Vec<_>>().join("; ")
}
