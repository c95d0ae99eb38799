//! The workload in a pod of its own: an application that uses the Service by its name.

use std::time::Duration;

use serde_json::Value;

use super::cluster::Kube;
use super::stage::{APP_SECRET, NAMESPACE, POOL, RESTRICTED};
use crate::wait::wait_for;

/// How far apart looks at a workload are.
const LOOK: Duration = Duration::from_millis(500);

/// What a workload shall be like.
#[derive(Clone, Debug)]
pub struct LoadOptions {
    /// Where its clients connect.
    pub to: String,
    /// How many there are.
    pub clients: usize,
    /// Further arguments of `e2e-load run`.
    pub args: Vec<String>,
    /// On this node, and it stays there whatever happens to the node.
    pub node: Option<String>,
}

impl Default for LoadOptions {
    fn default() -> Self {
        Self {
            to: format!("{POOL}.{NAMESPACE}.svc:5432"),
            clients: 8,
            args: Vec::new(),
            node: None,
        }
    }
}

/// A running workload.
#[derive(Debug)]
pub struct Load<'a> {
    kube: &'a Kube,
    name: String,
}

impl<'a> Load<'a> {
    /// Starts one and waits until it has written.
    pub fn start(kube: &'a Kube, name: &str, options: &LoadOptions) -> Self {
        let load = Self::start_nowait(kube, name, options);
        load.wait_progress(200);
        load
    }

    /// Starts one.
    pub fn start_nowait(kube: &'a Kube, name: &str, options: &LoadOptions) -> Self {
        let name = format!("load-{name}");
        let clients = options.clients.to_string();
        let mut args = vec!["--to", &options.to, "--clients", &clients];
        args.extend(options.args.iter().map(String::as_str));
        let args = serde_json::to_string(&args).expect("JSON");
        let place = options.node.as_ref().map_or_else(String::new, |node| {
            format!("  nodeName: {node}\n  tolerations: [{{operator: Exists}}]\n")
        });
        kube.apply(
            NAMESPACE,
            &format!(
                "apiVersion: v1
kind: Pod
metadata: {{name: {name}, labels: {{app: load}}}}
spec:
  restartPolicy: Never
  terminationGracePeriodSeconds: 1
  automountServiceAccountToken: false
{place}  securityContext: {{runAsNonRoot: true, seccompProfile: {{type: RuntimeDefault}}}}
  containers:
    - name: load
      image: localhost/pgstmtpool:e2e
      command: [e2e-load, run]
      args: {args}
      env: [{{name: PGPASSWORD, valueFrom: {{secretKeyRef: {{name: {APP_SECRET}, key: password}}}}}}]
      securityContext: {RESTRICTED}
      volumeMounts: [{{name: tmp, mountPath: /tmp}}]
  volumes: [{{name: tmp, emptyDir: {{}}}}]
"
            ),
        );
        Self { kube, name }
    }

    /// How it goes; `Null` while nothing can be said.
    pub fn status(&self) -> Value {
        let args = ["-n", NAMESPACE, "exec", &self.name, "--", "e2e-load", "status"];
        serde_json::from_str(&self.kube.try_kubectl(&args).out).unwrap_or(Value::Null)
    }

    /// Waits until so many more statements have succeeded.
    pub fn wait_progress(&self, more: u64) {
        let mut goal = None;
        wait_for("the workload to make progress", Duration::from_secs(120), || {
            let status = self.status();
            let done = status["done"].as_u64().ok_or_else(|| self.log())?;
            let goal = *goal.get_or_insert(done + more);
            if done >= goal {
                return Ok(());
            }
            std::thread::sleep(LOOK); // each look is a process here and one in the pod
            Err(status.to_string())
        });
    }

    /// Stops it; its verdict, after it has read back what it wrote.
    pub fn finish(self) -> Value {
        self.kube
            .kubectl(&["-n", NAMESPACE, "exec", &self.name, "--", "e2e-load", "stop"]);
        self.verdict()
    }

    /// The verdict of one that stops by itself.
    pub fn verdict(self) -> Value {
        wait_for("the verdict of the workload", Duration::from_secs(180), || {
            let pod = self.kube.get(NAMESPACE, &["pod", &self.name]);
            match pod["status"]["phase"].as_str() {
                Some("Succeeded") => Ok(()),
                Some("Failed") => panic!("the workload failed:\n{}", self.log()),
                other => Err(format!("{other:?}")),
            }
        });
        let log = self.log();
        log.lines()
            .rev()
            .find_map(|line| serde_json::from_str::<Value>(line).ok())
            .unwrap_or_else(|| panic!("no verdict in the log:\n{log}"))
    }

    fn log(&self) -> String {
        let log = self
            .kube
            .try_kubectl(&["-n", NAMESPACE, "logs", "--tail=30", &self.name]);
        log.out + &log.err
    }
}

/// One that a failed scenario leaves behind would write into the table of the next.
impl Drop for Load<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- {}: {}\n{}", self.name, self.status(), self.log());
        }
        // Not by force: it is gone when its kubelet says so. One whose machine is cut off is left to the next scenario.
        let args = ["-n", NAMESPACE, "delete", "pod", &self.name, "--timeout=20s"];
        self.kube.try_kubectl(&args);
    }
}
