//! What a person would want to see when a scenario failed, in one folder.

use std::fs;
use std::path::{Path, PathBuf};

use super::cluster::Kube;
use super::stage::NAMESPACE;

/// Collects logs, events and manifests when it is dropped by a panic.
#[derive(Debug)]
pub struct Evidence<'a> {
    kube: &'a Kube,
    scenario: String,
}

impl<'a> Evidence<'a> {
    /// For one scenario.
    pub fn new(kube: &'a Kube, scenario: &str) -> Self {
        Self {
            kube,
            scenario: scenario.to_owned(),
        }
    }

    fn folder(&self) -> PathBuf {
        let base = std::env::var_os("E2E_EVIDENCE").map_or_else(
            || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/e2e-failed"),
            PathBuf::from,
        );
        base.join(&self.scenario)
    }

    fn collect(&self, folder: &Path) -> std::io::Result<()> {
        fs::create_dir_all(folder)?;
        for (file, args) in [
            ("pgpools.yaml", "get pgpools -o yaml"),
            ("events.txt", "get events --sort-by=.lastTimestamp"),
            ("objects.txt", "get all,leases,pvc,endpointslices -o wide"),
            ("pods.txt", "describe pods"),
            ("leases.yaml", "get leases -o yaml"),
        ] {
            let mut line = vec!["-n", NAMESPACE];
            line.extend(args.split(' '));
            let shown = self.kube.try_kubectl(&line);
            fs::write(folder.join(file), shown.out + &shown.err)?;
        }
        let nodes = self.kube.try_kubectl(&["describe", "nodes"]);
        fs::write(folder.join("nodes.txt"), nodes.out)?;
        let pods = self.kube.get(NAMESPACE, &["pods"]);
        for pod in pods["items"].as_array().into_iter().flatten() {
            let name = pod["metadata"]["name"].as_str().unwrap_or_default();
            for (suffix, extra) in [("", None), (".previous", Some("--previous"))] {
                let mut line = vec!["-n", NAMESPACE, "logs", "--all-containers", "--timestamps", name];
                line.extend(extra);
                let log = self.kube.try_kubectl(&line);
                if log.ok {
                    fs::write(folder.join(format!("{name}{suffix}.log")), log.out)?;
                }
            }
        }
        let logs = self.kube.world().path().join("cluster/log");
        for log in fs::read_dir(logs).into_iter().flatten().flatten() {
            fs::copy(log.path(), folder.join(log.file_name()))?;
        }
        Ok(())
    }
}

impl Drop for Evidence<'_> {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        let folder = self.folder();
        match self.collect(&folder) {
            Ok(()) => eprintln!("logs, events and manifests of this failure: {}", folder.display()),
            Err(error) => eprintln!("{}: {error}", folder.display()),
        }
    }
}
