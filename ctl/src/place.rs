//! Where a pool is: a manifest with files beside it, or an object of the Kubernetes API. What differs is here.

use crate::Exit;
use crate::cli::Cli;
use cluster::kube::{KubeSource, Reader, call, client, resource};
use cluster::{ClusterSource, FileSource, Request, SourceError};
use kube::api::{DynamicObject, ListParams, Patch, PatchParams};
use kube::{Api, Client};
use serde_json::json;
use std::path::{Path, PathBuf};

/// The manifest that is taken without being named.
const USUAL: &str = "pgpool.yaml";

/// See the module.
pub(crate) enum Place {
    /// Files.
    Files(FileSource),
    /// The API.
    Cluster { source: KubeSource, client: Client },
}

/// The manifest that is meant; `None`: the API.
fn manifest(cli: &Cli) -> Option<PathBuf> {
    let program = std::env::args_os().next().unwrap_or_default();
    let is_plugin = Path::new(&program)
        .file_name()
        .is_some_and(|name| name == "kubectl-pgpool");
    let elsewhere = is_plugin || cli.namespace.is_some() || cli.context.is_some();
    match &cli.config {
        Some(config) => Some(config.clone()),
        None if !elsewhere && Path::new(USUAL).exists() => Some(USUAL.into()),
        None => None,
    }
}

impl Place {
    /// Finds the pool that is meant.
    ///
    /// # Errors
    /// What is wrong is printed.
    pub(crate) async fn open(cli: &Cli) -> Result<Self, Exit> {
        let name = cli.command.name().or(cli.pool.as_deref());
        if let Some(config) = manifest(cli) {
            return FileSource::open(config, name).map(Self::Files).map_err(faults);
        }
        let client = client(cli.context.as_deref()).await.map_err(|error| {
            eprintln!("pgstmtpool: no --config, no {USUAL} here, and no Kubernetes: {error}");
            Exit::Invalid
        })?;
        let namespace = cli
            .namespace
            .clone()
            .unwrap_or_else(|| client.default_namespace().to_owned());
        let name = match name {
            Some(name) => name.to_owned(),
            None => only(&client, &namespace).await?,
        };
        let source = KubeSource::open(client.clone(), &namespace, &name, Reader::Person)
            .await
            .map_err(|error| match error {
                SourceError::Unavailable(why) => {
                    eprintln!("pgstmtpool: {why}");
                    Exit::Failed
                }
                other => {
                    eprintln!("pgstmtpool: PgPool {namespace}/{name}:");
                    faults(other)
                }
            })?;
        Ok(Self::Cluster { source, client })
    }

    /// What is written.
    pub(crate) fn source(&self) -> &dyn ClusterSource {
        match self {
            Self::Files(source) => source,
            Self::Cluster { source, .. } => source,
        }
    }

    /// Leaves a request for the operator.
    ///
    /// # Errors
    /// Why not.
    pub(crate) async fn ask(&self, request: &Request) -> Result<(), String> {
        match self {
            Self::Files(source) => {
                let path = Request::path(&source.status_path());
                // What is paused stays so while something else is asked.
                let before = Request::read(&path).ok().flatten().unwrap_or_default();
                let request = Request {
                    paused: request.paused.or(before.paused),
                    ..request.clone()
                };
                request
                    .write(&path)
                    .map_err(|error| format!("{}: {error}", path.display()))
            }
            Self::Cluster { source, client } => {
                let api: Api<DynamicObject> =
                    Api::namespaced_with(client.clone(), source.namespace(), &resource());
                let patch = Patch::Merge(json!({ "spec": spec(request) }));
                match call(api.patch(source.pool(), &PatchParams::default(), &patch)).await {
                    Ok(_) => Ok(()),
                    Err(error) => Err(error.to_string()),
                }
            }
        }
    }
}

/// The part of the spec that says the same.
fn spec(request: &Request) -> serde_json::Value {
    let mut spec = json!({});
    if let Some(switchover) = &request.switchover {
        spec["switchover"] = json!({
            "to": switchover.to,
            "requestId": switchover.request_id,
            "force": switchover.force,
        });
    }
    if let Some(failover) = &request.failover {
        spec["failover"] = json!({ "force": failover.force });
    }
    if let Some(paused) = request.paused {
        spec["ha"] = json!({ "paused": paused });
    }
    spec
}

async fn only(client: &Client, namespace: &str) -> Result<String, Exit> {
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &resource());
    let list = call(api.list(&ListParams::default())).await.map_err(|error| {
        eprintln!("pgstmtpool: {error}");
        Exit::Failed
    })?;
    let names: Vec<String> = list
        .items
        .into_iter()
        .filter_map(|object| object.metadata.name)
        .collect();
    match names.as_slice() {
        [name] => Ok(name.clone()),
        [] => {
            eprintln!("pgstmtpool: there is no PgPool in namespace {namespace}");
            Err(Exit::Invalid)
        }
        names => {
            eprintln!(
                "pgstmtpool: which PgPool? namespace {namespace} has {}",
                names.join(", ")
            );
            Err(Exit::Invalid)
        }
    }
}

/// Every fault on a line of its own.
pub(crate) fn faults(error: SourceError) -> Exit {
    for fault in error.into_faults() {
        eprintln!("{fault}");
    }
    Exit::Invalid
}

#[cfg(test)]
mod tests {
    use super::*;
    use cluster::SwitchoverRequest;

    #[test]
    fn a_request_changes_what_it_means_and_nothing_else_of_the_spec() {
        let request = Request {
            switchover: Some(SwitchoverRequest {
                to: "b".into(),
                request_id: "1".into(),
                force: false,
            }),
            ..Request::default()
        };
        let expected = json!({ "switchover": { "to": "b", "requestId": "1", "force": false } });
        assert_eq!(spec(&request), expected);
        let request = Request {
            paused: Some(true),
            ..Request::default()
        };
        assert_eq!(spec(&request), json!({ "ha": { "paused": true } }));
    }
}
