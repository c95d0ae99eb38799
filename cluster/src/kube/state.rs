//! What was read of the API, and what of it was good.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crds::status::PgPoolStatus;
use crds::{Fault, PoolConfig};
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::core::DynamicObject;

use super::object::{config_of, is_older, status_of, version_of};
use super::pods;
use crate::{ProxyReport, Secrets, Snapshot, SourceError, StatusVersion};

/// What was read last. Begin with [`State::rebuild`].
#[derive(Debug)]
pub(super) struct State {
    operator: bool,
    pub(super) object: Option<DynamicObject>,
    /// Somebody wrote, or may have written, what the watch has not brought yet.
    pub(super) stale: bool,
    /// By name; `None`: looked for, and not there.
    pub(super) secrets: BTreeMap<String, Option<Secret>>,
    pub(super) pods: BTreeMap<String, Pod>,
    /// Whether pods were looked for once.
    pub(super) pods_seen: bool,
    /// By name of the Lease; `None`: they were not read yet, which is not the same as no proxy at all.
    pub(super) reports: Option<BTreeMap<String, ProxyReport>>,
    pub(super) highest_epoch: u64,
    /// The spec as written, checked; pods are not resolved in it.
    written: Option<Arc<PoolConfig>>,
    config: Option<Arc<PoolConfig>>,
    values: Arc<Secrets>,
    status: Option<Arc<PgPoolStatus>>,
    version: StatusVersion,
    faults: Arc<Vec<Fault>>,
    warnings: Arc<Vec<String>>,
}

impl State {
    pub(super) fn new(operator: bool) -> Self {
        Self {
            operator,
            object: None,
            stale: false,
            secrets: BTreeMap::new(),
            pods: BTreeMap::new(),
            pods_seen: false,
            reports: None,
            highest_epoch: 0,
            written: None,
            config: None,
            values: Arc::default(),
            status: None,
            version: StatusVersion::ABSENT,
            faults: Arc::default(),
            warnings: Arc::default(),
        }
    }

    /// The spec as it was last valid.
    pub(super) fn written(&self) -> Option<Arc<PoolConfig>> {
        self.written.clone()
    }

    pub(super) fn faults(&self) -> Arc<Vec<Fault>> {
        Arc::clone(&self.faults)
    }

    /// Takes the object as it is now, unless we know of a later one.
    pub(super) fn take_object(&mut self, new: Option<DynamicObject>) {
        match (&self.object, new) {
            (Some(old), Some(new)) if is_older(&new, old) => {}
            (_, new) => self.object = new,
        }
    }

    /// Whether everything that is meant was looked for.
    pub(super) fn is_settled(&self) -> bool {
        let Some(written) = &self.written else { return true };
        let secrets = secret_names(written, self.operator);
        let of_operator = self.pods_seen && self.reports.is_some();
        secrets.iter().all(|name| self.secrets.contains_key(name)) && (!self.operator || of_operator)
    }

    /// Makes what is shown from what was read. `true`: it differs from what was shown before.
    pub(super) fn rebuild(&mut self) -> bool {
        let mut faults = Vec::new();
        let mut warnings = Vec::new();
        self.take_spec(&mut faults, &mut warnings);
        let before = (self.status.clone(), self.version.clone());
        self.take_status(&mut faults);
        let mut shows = before != (self.status.clone(), self.version.clone());
        if let Some(written) = self.written.clone() {
            let config = self.resolved(&written, &mut warnings);
            if self.config.as_deref() != Some(&config) {
                self.config = Some(Arc::new(config));
                shows = true;
            }
            let values = self.values(&written, &mut faults);
            if *self.values != values {
                self.values = Arc::new(values);
                shows = true;
            }
        }
        shows |= *self.faults != faults || *self.warnings != warnings;
        self.faults = Arc::new(faults);
        self.warnings = Arc::new(warnings);
        shows
    }

    fn take_spec(&mut self, faults: &mut Vec<Fault>, warnings: &mut Vec<String>) {
        let Some(object) = &self.object else {
            return faults.push(Fault::new(
                "",
                "there is no such PgPool: what it said last goes on",
            ));
        };
        match config_of(object) {
            Ok(checked) => {
                warnings.extend(checked.warnings.iter().map(ToString::to_string));
                if self.written.as_deref() != Some(&checked.config) {
                    self.written = Some(Arc::new(checked.config));
                }
            }
            Err(found) => faults.extend(found),
        }
    }

    fn take_status(&mut self, faults: &mut Vec<Fault>) {
        let Some(object) = &self.object else { return };
        self.version = StatusVersion::new(version_of(object));
        match status_of(object) {
            Ok(None) if self.status.is_some() => {
                faults.push(Fault::new("status", "is gone: what it said last goes on"));
            }
            Ok(None) => {}
            // An older backup of the API's store: its version is taken all the same, so that it can be written over.
            Ok(Some(status)) if status.epoch < self.highest_epoch => {
                let (old, seen) = (status.epoch, self.highest_epoch);
                let text = format!("epoch {old} is smaller than {seen}, which was seen before: not believed");
                faults.push(Fault::new("status.epoch", text));
            }
            Ok(Some(status)) => {
                self.highest_epoch = status.epoch;
                if self.status.as_deref() != Some(&status) {
                    self.status = Some(Arc::new(status));
                }
            }
            Err(fault) => faults.push(fault),
        }
    }

    /// The config with hosts in the place of pods, and with hands off where somebody else fails over.
    fn resolved(&self, written: &PoolConfig, warnings: &mut Vec<String>) -> PoolConfig {
        let mut config = written.clone();
        if !self.operator {
            pods::resolve_by_status(&mut config, self.status.as_deref());
            return config;
        }
        let foreign = self
            .pods
            .values()
            .find_map(|pod| Some((pod.metadata.name.clone()?, pods::foreign_owner(pod)?)));
        let why = match foreign {
            Some((pod, owner)) => Some(format!("failover of pod {pod} belongs to {owner}")),
            None if pods::has_hosts(written) => {
                Some("there are servers outside of the cluster (host)".to_owned())
            }
            None => None,
        };
        if let Some(why) = why.filter(|_| config.ha.enabled) {
            warnings.push(format!(
                "ha.enabled is not carried out: {why}; the pool follows whoever is master"
            ));
            config.ha.enabled = false;
        }
        if config.proxy_admin_secret.is_none() && config.admin_secret.is_some() {
            warnings.push(
                "no proxyAdminSecretRef: the proxies look users up with the operator's own login (sql/00_role.sql makes a lesser one)"
                    .to_owned(),
            );
        }
        pods::resolve(&mut config, &self.pods, self.status.as_deref());
        config
    }

    /// Which pod each server is.
    pub(super) fn pod_names(&self) -> BTreeMap<String, String> {
        let Some(written) = &self.written else {
            return BTreeMap::new();
        };
        let mut names = pods::by_server(written);
        if !written.selector.is_empty() {
            let taken: BTreeSet<String> = names.values().cloned().collect();
            let found = self.pods.keys().filter(|name| !taken.contains(*name));
            names.extend(found.map(|name| (name.clone(), name.clone())));
            // Who does not watch pods knows those the operator saw.
            let known = self.status.iter().flat_map(|status| &status.servers);
            for server in known {
                names
                    .entry(server.name.clone())
                    .or_insert_with(|| server.name.clone());
            }
        }
        names
    }

    /// The values of the Secrets that are there. One that is gone keeps what it said last.
    fn values(&self, written: &PoolConfig, faults: &mut Vec<Fault>) -> Secrets {
        let mut values = Secrets::default();
        for name in secret_names(written, self.operator) {
            match self.secrets.get(&name) {
                Some(Some(secret)) => insert(&mut values, &name, secret),
                Some(None) => {
                    faults.push(Fault::new(
                        "",
                        format!("there is no Secret {name:?} in namespace {}", written.namespace),
                    ));
                    values.keep(&name, &self.values);
                }
                None => values.keep(&name, &self.values),
            }
        }
        values
    }

    pub(super) fn snapshot(&self) -> Result<Snapshot, SourceError> {
        let Some(config) = &self.config else {
            return Err(SourceError::Invalid(self.faults.as_ref().clone()));
        };
        let reports = self.reports.iter().flat_map(BTreeMap::values);
        let acked = reports.map(|report| report.acked_epoch).max();
        Ok(Snapshot {
            config: Arc::clone(config),
            status: self.status.clone(),
            secrets: Arc::clone(&self.values),
            version: self.version.clone(),
            // Proxies remember the epochs that were, even where somebody removed the status.
            highest_epoch: self.highest_epoch.max(acked.unwrap_or_default()),
            faults: Arc::clone(&self.faults),
            warnings: Arc::clone(&self.warnings),
        })
    }
}

fn insert(values: &mut Secrets, name: &str, secret: &Secret) {
    let texts = secret.data.iter().flatten().filter_map(|(key, value)| {
        let text = std::str::from_utf8(&value.0).ok()?;
        Some((key.clone(), text.to_owned()))
    });
    values.insert(name, secret.type_.as_deref().unwrap_or_default(), texts);
}

/// The Secrets a pool names: all of them for the operator, for a proxy those it works with.
pub(super) fn secret_names(config: &PoolConfig, operator: bool) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let mut add = |name: Option<&String>| names.extend(name.cloned());
    add(config.lookup_secret().map(|secret| &secret.name));
    if operator {
        add(config.admin_secret.as_ref().map(|secret| &secret.name));
        add(config.replication_secret.as_ref().map(|secret| &secret.name));
    }
    add(config.server_tls.ca_secret.as_ref().map(|secret| &secret.name));
    add(config
        .server_tls
        .client_cert_secret
        .as_ref()
        .map(|secret| &secret.name));
    add(config.tls.cert_secret.as_ref().map(|secret| &secret.name));
    add(config.tls.client_ca_secret.as_ref().map(|secret| &secret.name));
    names.extend(config.auth.user_secrets.iter().map(|secret| secret.name.clone()));
    names
}

/// The Secrets a proxy of this pool must be able to read.
pub fn proxy_secrets(config: &PoolConfig) -> BTreeSet<String> {
    secret_names(config, false)
}
