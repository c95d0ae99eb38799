//! What Kubernetes sees of a pool beside its status: objects the operator owns, role labels, Events, the finalizer.
//!
//! It decides nothing about servers. It looks whenever the pool, its status or its pods change, and every half minute.

use super::children::{Child, Facts, children};
use super::pods::{Names, Seen};
use crate::pool::ProxyPods;
use cluster::kube::{CallError, KubeSource, call, resource};
use crds::PoolConfig;
use crds::status::{
    Condition, ConditionStatus, EventRecord, EventType, PgPoolStatus, RoutingMode, ServerRole,
};
use k8s_openapi::api::core::v1::{ObjectReference, Pod};
use kube::api::{ApiResource, DeleteParams, DynamicObject, Patch, PatchParams, Preconditions};
use kube::runtime::events::{self, Recorder};
use kube::{Api, Client};
use serde_json::json;
use std::sync::{Arc, PoisonError};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tracing::{debug, info, warn};

/// Who applies.
pub(super) const MANAGER: &str = "pgstmtpool-operator";
/// The label by which people and Services find the master's pod.
pub(super) const ROLE_LABEL: &str = "pgstmtpool.io/role";
/// Deleting a pool waits for us where we changed something on its servers.
pub(super) const FINALIZER: &str = "pgstmtpool.io/cleanup";
/// How often everything is looked at again.
const AGAIN: Duration = Duration::from_secs(30);
/// The longest text of an Event.
const NOTE_MAX: usize = 1000;

/// See the module.
pub(super) struct Caretaker {
    pub(super) client: Client,
    pub(super) source: Arc<KubeSource>,
    /// The image of the proxies where the manifest names none.
    pub(super) image: String,
    pub(super) names: Names,
    pub(super) pods: Seen,
    /// The proxies' pods; `None`: they were not looked at yet.
    pub(super) proxies: watch::Receiver<Option<ProxyPods>>,
    /// Conditions the actor publishes with its own.
    pub(super) conditions: watch::Sender<Vec<Condition>>,
}

impl Caretaker {
    /// Looks after the pool until the future is dropped.
    pub(super) async fn run(mut self) {
        let mut changes = self.source.changes();
        let mut applied: Option<(Arc<PoolConfig>, Instant)> = None;
        // Pods of an older template get the label first by which the Services look for them.
        let mut proxies = self.proxies.clone();
        let _ = proxies.wait_for(Option::is_some).await; // it fails only at the very end
        loop {
            self.learn_names();
            if let Some((config, status)) = self.source.view() {
                self.label(status.as_deref()).await;
                if let Err(error) = self.guard(&config).await {
                    warn!(%error, "The finalizer");
                }
                let due = applied
                    .as_ref()
                    .is_none_or(|(before, at)| *before != config || at.elapsed() >= AGAIN);
                if due {
                    let condition = self.apply(&config).await;
                    self.conditions.send_replace(vec![condition]);
                    applied = Some((config, Instant::now()));
                }
            }
            tokio::select! {
                _ = changes.changed() => {}
                _ = self.pods.changed() => {}
                () = tokio::time::sleep(AGAIN) => {}
            }
        }
    }

    /// Before anything is done to a pod: which is whose.
    pub(super) fn learn_names(&self) {
        *self.names.lock().unwrap_or_else(PoisonError::into_inner) = self.source.pod_names();
    }

    // --- labels

    async fn label(&self, status: Option<&PgPoolStatus>) {
        let Some(status) = status else { return };
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), self.source.namespace());
        for (server, name) in self.source.pod_names() {
            let wanted = role(status, &server);
            let known = self.pods.borrow().get(&name).cloned();
            let Some(pod) = known else { continue };
            let has = pod
                .metadata
                .labels
                .as_ref()
                .and_then(|labels| labels.get(ROLE_LABEL));
            if has.map(String::as_str) == wanted {
                continue;
            }
            let patch = Patch::Merge(json!({ "metadata": { "labels": { ROLE_LABEL: wanted } } }));
            match call(pods.patch_metadata(&name, &PatchParams::default(), &patch)).await {
                Ok(_) => debug!(pod = name, role = wanted, "Labelled"),
                Err(error) if error.is_missing() => {}
                Err(error) => warn!(pod = name, %error, "Not labelled"),
            }
        }
    }

    // --- the finalizer

    /// Puts the finalizer on once the operator may change servers.
    async fn guard(&self, config: &PoolConfig) -> Result<(), CallError> {
        let Some(object) = self.source.object().filter(|_| config.ha.enabled) else {
            return Ok(());
        };
        let mut finalizers = object.metadata.finalizers.clone().unwrap_or_default();
        let leaving = object.metadata.deletion_timestamp.is_some();
        if leaving || finalizers.iter().any(|known| known == FINALIZER) {
            return Ok(());
        }
        finalizers.push(FINALIZER.to_owned());
        set_finalizers(&self.client, &object, finalizers).await
    }

    // --- owned objects

    async fn apply(&self, config: &PoolConfig) -> Condition {
        match self.apply_all(config).await {
            Ok(()) if config.proxy.managed => condition(true, "Applied", String::new()),
            Ok(()) => condition(true, "NotManaged", "proxy.managed is false".to_owned()),
            Err((reason, message)) => {
                warn!(reason, message, "The proxies' objects");
                condition(false, reason, message)
            }
        }
    }

    async fn apply_all(&self, config: &PoolConfig) -> Result<(), (&'static str, String)> {
        let uid = self
            .source
            .object()
            .and_then(|object| object.metadata.uid)
            .unwrap_or_default();
        let mut facts = Facts {
            uid,
            image: self.image.clone(),
            replicas: None,
        };
        if config.proxy.replicas.is_none() {
            facts.replicas = self.live_replicas(config).await;
        }
        let mut first = Ok(());
        for child in children(config, &facts) {
            if let Err(error) = self.apply_one(&child, &facts.uid).await {
                first = first.and(Err(error));
            }
        }
        first
    }

    fn api(&self, child: &Child) -> Api<DynamicObject> {
        let (group, version) = child
            .api_version
            .rsplit_once('/')
            .unwrap_or(("", child.api_version));
        let resource = ApiResource {
            group: group.to_owned(),
            version: version.to_owned(),
            api_version: child.api_version.to_owned(),
            kind: child.kind.to_owned(),
            plural: child.plural.to_owned(),
        };
        Api::namespaced_with(self.client.clone(), self.source.namespace(), &resource)
    }

    /// What an autoscaler, or a person, asked for.
    async fn live_replicas(&self, config: &PoolConfig) -> Option<u32> {
        let api: Api<k8s_openapi::api::apps::v1::Deployment> =
            Api::namespaced(self.client.clone(), self.source.namespace());
        let deployment = call(api.get_opt(&format!("{}-proxy", config.name)))
            .await
            .ok()??;
        u32::try_from(deployment.spec?.replicas?).ok()
    }

    /// Applies or removes one object; never one that is not ours.
    async fn apply_one(&self, child: &Child, uid: &str) -> Result<(), (&'static str, String)> {
        let api = self.api(child);
        let what = format!("{} {}", child.kind, child.name);
        let failed = |error: CallError| ("ApplyFailed", format!("{what}: {error}"));
        let there = call(api.get_opt(&child.name)).await.map_err(failed)?;
        let owner = |object: &DynamicObject| {
            let owners = object.metadata.owner_references.iter().flatten();
            owners
                .filter(|owner| owner.controller == Some(true))
                .map(|owner| owner.uid.clone())
                .next()
        };
        let ours = there
            .as_ref()
            .is_none_or(|object| owner(object).as_deref() == Some(uid));
        match (&child.object, there) {
            (Some(_), Some(_)) if !ours => {
                let message =
                    format!("{what} is there and not of this pool: rename one of them, or delete it");
                Err(("NameConflict", message))
            }
            (Some(object), before) => {
                let patch = Patch::Apply(object);
                let params = PatchParams::apply(MANAGER).force();
                call(api.patch(&child.name, &params, &patch))
                    .await
                    .map_err(failed)?;
                if before.is_none() {
                    info!(what, "Made");
                }
                Ok(())
            }
            (None, Some(object)) if ours => {
                let this = DeleteParams {
                    preconditions: Some(Preconditions {
                        uid: object.metadata.uid.clone(),
                        resource_version: None,
                    }),
                    ..DeleteParams::background()
                };
                match call(api.delete(&child.name, &this)).await {
                    Err(error) if !error.is_missing() && !error.is_conflict() => Err(failed(error)),
                    _ => {
                        info!(what, "Removed");
                        Ok(())
                    }
                }
            }
            (None, _) => Ok(()),
        }
    }
}

fn condition(is: bool, reason: &str, message: String) -> Condition {
    Condition {
        kind: "ProxiesDeployed".to_owned(),
        status: if is {
            ConditionStatus::True
        } else {
            ConditionStatus::False
        },
        reason: reason.to_owned(),
        message,
        ..Condition::default()
    }
}

/// The label of a server's pod; `None`: nobody should be sent there by it.
fn role(status: &PgPoolStatus, server: &str) -> Option<&'static str> {
    let is_master = status.master.as_ref().is_some_and(|master| master.name == server);
    if is_master {
        return (status.routing.mode != RoutingMode::Fenced).then_some("master");
    }
    let role = status.server(server)?.role;
    (role == ServerRole::Replica).then_some("replica")
}

/// Writes the list of finalizers, unless somebody else wrote the object meanwhile.
pub(super) async fn set_finalizers(
    client: &Client,
    object: &DynamicObject,
    finalizers: Vec<String>,
) -> Result<(), CallError> {
    let (Some(namespace), Some(name)) = (&object.metadata.namespace, &object.metadata.name) else {
        return Ok(());
    };
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &resource());
    let patch = Patch::Merge(json!({ "metadata": {
        "finalizers": finalizers,
        "resourceVersion": object.metadata.resource_version,
    } }));
    match call(api.patch_metadata(name, &PatchParams::default(), &patch)).await {
        Err(error) if !error.is_missing() && !error.is_conflict() => Err(error),
        _ => Ok(()),
    }
}

/// What an Event is about.
pub(super) fn reference(object: &DynamicObject) -> ObjectReference {
    ObjectReference {
        api_version: Some(crds::API_VERSION.to_owned()),
        kind: Some(crds::KIND.to_owned()),
        name: object.metadata.name.clone(),
        namespace: object.metadata.namespace.clone(),
        uid: object.metadata.uid.clone(),
        ..ObjectReference::default()
    }
}

/// Publishes one Event. One that cannot be written is in the log, no more.
pub(super) async fn publish(recorder: &Recorder, about: &ObjectReference, record: &EventRecord) {
    let mut note = record.message.clone();
    while note.len() > NOTE_MAX {
        note.pop();
    }
    let event = events::Event {
        type_: match record.kind {
            EventType::Normal => events::EventType::Normal,
            EventType::Warning => events::EventType::Warning,
        },
        reason: record.reason.clone(),
        note: Some(note),
        action: record.reason.clone(),
        secondary: None,
    };
    match tokio::time::timeout(Duration::from_secs(5), recorder.publish(&event, about)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => warn!(
            reason = record.reason,
            error = cluster::kube::text(&error),
            "Event not written"
        ),
        Err(_) => warn!(reason = record.reason, "Event not written in time"),
    }
}

/// Publishes what the actor tells, in order.
pub(super) async fn publish_all(
    recorder: Recorder,
    source: Arc<KubeSource>,
    mut records: mpsc::UnboundedReceiver<EventRecord>,
) {
    while let Some(record) = records.recv().await {
        if let Some(object) = source.object() {
            publish(&recorder, &reference(&object), &record).await;
        }
    }
    std::future::pending().await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crds::status::{MasterStatus, ServerStatus};

    #[test]
    fn the_label_of_a_fenced_master_goes_and_nobody_unknown_is_labelled() {
        let mut status = PgPoolStatus {
            master: Some(MasterStatus {
                name: "a".to_owned(),
                ..MasterStatus::default()
            }),
            servers: vec![ServerStatus {
                name: "b".to_owned(),
                role: ServerRole::Replica,
                ..ServerStatus::default()
            }],
            ..PgPoolStatus::default()
        };
        assert_eq!(
            (role(&status, "a"), role(&status, "b"), role(&status, "c")),
            (Some("master"), Some("replica"), None)
        );
        status.routing.mode = RoutingMode::Fenced;
        assert_eq!((role(&status, "a"), role(&status, "b")), (None, Some("replica")));
    }
}
