//! Serving one pool, and leaving it.

use super::Context;
use super::caretaker::{self, Caretaker, FINALIZER, publish, publish_all, reference, set_finalizers};
use super::children;
use super::pods::PoolPods;
use super::serving::Serving;
use crate::health::Health;
use crate::pool::{self, Actor, Options};
use crate::servers::{Commands, Executor, Login, release};
use cluster::kube::{KubeSource, Reader, call, resource};
use cluster::{ClusterSource, Snapshot, SourceError};
use crds::Fault;
use crds::status::{EventRecord, EventType};
use kube::Api;
use kube::api::{DynamicObject, Patch, PatchParams};
use serde_json::json;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::{mpsc, watch};
use tracing::{error, info, warn};

/// After a pool could not be served.
const AGAIN: Duration = Duration::from_secs(2);
/// How long servers that do not answer hold up the deletion of a pool.
const LEAVE_MAX: Duration = Duration::from_secs(60);

/// One pool.
pub(super) struct Pool {
    pub(super) context: Context,
    pub(super) key: String,
    pub(super) namespace: String,
    pub(super) name: String,
}

impl Pool {
    async fn open(&self) -> Result<Arc<KubeSource>, SourceError> {
        let client = self.context.client.clone();
        KubeSource::open(client, &self.namespace, &self.name, Reader::Operator)
            .await
            .map(Arc::new)
    }

    /// Serves it until the future is dropped.
    pub(super) async fn serve(self) {
        let mut said = Vec::new();
        loop {
            match self.serve_once().await {
                Ok(()) => {}
                Err(SourceError::Invalid(faults)) => {
                    if said != faults {
                        self.complain(&faults).await;
                        said = faults;
                    }
                }
                Err(error) => warn!(pool = self.key, %error, "Not served"),
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    async fn serve_once(&self) -> Result<(), SourceError> {
        let source = self.open().await?;
        let (events, records) = mpsc::unbounded_channel();
        let (conditions, published) = watch::channel(Vec::new());
        let names = Arc::default();
        let (proxies, seen) = watch::channel(None);
        let serving = Serving {
            client: self.context.client.clone(),
            source: Arc::clone(&source),
            events: events.clone(),
            seen: proxies,
        };
        let caretaker = Caretaker {
            client: self.context.client.clone(),
            source: Arc::clone(&source),
            image: self.context.image.clone(),
            names: Arc::clone(&names),
            pods: source.pods(),
            proxies: seen.clone(),
            conditions,
        };
        caretaker.learn_names();
        let pods = PoolPods {
            api: Api::namespaced(self.context.client.clone(), &self.namespace),
            seen: source.pods(),
            names,
        };
        let options = Options {
            commands: Commands {
                pods: Some(Arc::new(pods)),
                ..Commands::default()
            },
            request_path: None,
            events: Some(events),
            selector: children::selector(&self.name),
            conditions: Some(published),
            proxies: Some(seen),
        };
        let health = Arc::new(Health::new(&self.name, Some(&self.namespace)));
        let actor = Actor::open(
            Arc::clone(&source) as Arc<dyn ClusterSource>,
            options,
            Arc::clone(&health),
        )
        .await?;
        self.context.reports.insert(&self.key, health);
        // Held, so that the actor goes on until it is dropped.
        let (_stop, stopped) = watch::channel(false);
        tokio::select! {
            () = actor.run(stopped) => {}
            () = caretaker.run() => {}
            () = serving.run() => {}
            () = publish_all(self.context.recorder.clone(), source, records) => {}
        }
        Ok(())
    }

    /// A manifest the API took and we cannot: said where people look.
    async fn complain(&self, faults: &[Fault]) {
        let message = faults
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join("; ");
        error!(pool = self.key, message, "The manifest is wrong");
        let api: Api<DynamicObject> =
            Api::namespaced_with(self.context.client.clone(), &self.namespace, &resource());
        let Ok(object) = call(api.get(&self.name)).await else {
            return;
        };
        let time = crds::units::rfc3339(SystemTime::now());
        let record = EventRecord {
            time: time.clone(),
            kind: EventType::Warning,
            reason: "ConfigInvalid".to_owned(),
            message: message.clone(),
            epoch: 0,
        };
        publish(&self.context.recorder, &reference(&object), &record).await;
        let condition = |kind: &str| {
            json!({
                "type": kind,
                "status": "False",
                "reason": "Invalid",
                "message": message,
                "lastTransitionTime": time,
                "observedGeneration": object.metadata.generation,
            })
        };
        let patch = Patch::Merge(json!({ "status": {
            "observedGeneration": object.metadata.generation,
            "conditions": [condition("Ready"), condition("ConfigValid")],
        } }));
        if let Err(error) = call(api.patch_status(&self.name, &PatchParams::default(), &patch)).await {
            warn!(pool = self.key, %error, "The condition was not written");
        }
    }

    /// The pool is being deleted: its servers are left as they would be without us.
    pub(super) async fn leave(self) {
        let released = tokio::time::timeout(LEAVE_MAX, self.release()).await;
        match released {
            Ok(Ok(true)) => info!(pool = self.key, "Its servers are released"),
            Ok(Ok(false)) | Err(_) => warn!(
                pool = self.key,
                "Some servers could not be released: reset synchronous_standby_names and drop slots pgp_* there by hand"
            ),
            Ok(Err(error)) => warn!(pool = self.key, %error, "Its servers could not be released"),
        }
        loop {
            match self.unfinalize().await {
                Ok(()) => return,
                Err(error) => warn!(pool = self.key, %error, "The finalizer"),
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    async fn release(&self) -> Result<bool, SourceError> {
        let source = self.open().await?;
        let Some(object) = source.object().filter(is_ours) else {
            return Ok(true);
        };
        let Snapshot {
            config,
            status,
            secrets,
            ..
        } = source.current().await?;
        self.unlabel(&source).await;
        let login =
            Login::of(&config, &secrets).map_err(|error| SourceError::Unavailable(error.to_string()))?;
        let settings = pool::plain_settings(&config);
        let executor = Executor::new(login.clone(), Commands::default(), settings.clone());
        let master = status.as_ref().and_then(|status| status.master.as_ref());
        let master = master.map(|master| master.name.as_str());
        let mut done = false;
        // A standby needs a moment to let go of its slot.
        for _ in 0..3 {
            done = release(&executor, &login, &settings.servers, master).await;
            if done {
                break;
            }
        }
        let record = EventRecord {
            time: crds::units::rfc3339(SystemTime::now()),
            kind: if done {
                EventType::Normal
            } else {
                EventType::Warning
            },
            reason: if done { "Released" } else { "NotReleased" }.to_owned(),
            message: "synchronous_standby_names and slots of the pool's servers".to_owned(),
            epoch: 0,
        };
        publish(&self.context.recorder, &reference(&object), &record).await;
        Ok(done)
    }

    async fn unlabel(&self, source: &KubeSource) {
        let api: Api<k8s_openapi::api::core::v1::Pod> =
            Api::namespaced(self.context.client.clone(), &self.namespace);
        for pod in source.pod_names().into_values() {
            let label = json!({ "metadata": { "labels": { caretaker::ROLE_LABEL: null } } });
            let patch = Patch::Merge(label);
            match call(api.patch_metadata(&pod, &PatchParams::default(), &patch)).await {
                Err(error) if !error.is_missing() => warn!(pod, %error, "The label stays"),
                _ => {}
            }
        }
    }

    async fn unfinalize(&self) -> Result<(), SourceError> {
        let api: Api<DynamicObject> =
            Api::namespaced_with(self.context.client.clone(), &self.namespace, &resource());
        let object = match call(api.get_opt(&self.name)).await? {
            Some(object) if is_ours(&object) => object,
            _ => return Ok(()),
        };
        let mut finalizers = object.metadata.finalizers.clone().unwrap_or_default();
        finalizers.retain(|finalizer| finalizer != FINALIZER);
        set_finalizers(&self.context.client, &object, finalizers).await?;
        match call(api.get_opt(&self.name)).await? {
            Some(object) if is_ours(&object) => Err(SourceError::Unavailable("written meanwhile".to_owned())),
            _ => Ok(()),
        }
    }
}

/// Whether deletion waits for us.
fn is_ours(object: &DynamicObject) -> bool {
    let leaving = object.metadata.deletion_timestamp.is_some();
    let mut finalizers = object.metadata.finalizers.iter().flatten();
    leaving && finalizers.any(|finalizer| finalizer == FINALIZER)
}
