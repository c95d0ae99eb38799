//! The pods of one pool: deleted where a server must be made anew, and labelled by their role.
//!
//! Never `exec`: that right is root in the database pod. Never forced: two writers on one volume would be the price.

use crate::servers::{Pods, Purpose};
use cluster::kube::{call, container_of, has_guard, is_stopped, last_words};
use futures::FutureExt;
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{DeleteParams, Preconditions};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::timeout;
use tracing::info;

/// How long a pod is waited for that has to go and come back: its grace period, its volume, its image.
const COME_BACK: Duration = Duration::from_secs(300);
/// How long its guard may rewind or copy.
const REWIND: Duration = Duration::from_secs(3600);

/// All pods of a pool, by name, as they change.
pub(super) type Seen = watch::Receiver<Arc<BTreeMap<String, Pod>>>;
/// The pod of each server.
pub(super) type Names = Arc<Mutex<BTreeMap<String, String>>>;

/// The pods of one pool.
#[derive(Debug)]
pub(super) struct PoolPods {
    /// The API.
    pub api: Api<Pod>,
    /// What is seen of them.
    pub seen: Seen,
    /// Which is whose.
    pub names: Names,
}

impl PoolPods {
    fn name(&self, server: &str) -> Option<String> {
        let names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        names.get(server).cloned()
    }

    fn pod(&self, server: &str) -> Option<Pod> {
        self.seen.borrow().get(&self.name(server)?).cloned()
    }

    /// Deletes this very pod, with its own grace period.
    async fn delete(&self, pod: &Pod) -> Result<(), String> {
        let name = pod.metadata.name.clone().unwrap_or_default();
        let this = DeleteParams {
            preconditions: Some(Preconditions {
                uid: pod.metadata.uid.clone(),
                resource_version: None,
            }),
            ..DeleteParams::default()
        };
        info!(pod = name, "Pod deleted");
        match call(self.api.delete(&name, &this)).await {
            Err(error) if !error.is_missing() && !error.is_conflict() => Err(format!("pod {name}: {error}")),
            _ => Ok(()),
        }
    }

    /// Waits for another pod of the same name that is what `done` wants.
    async fn replaced(&self, old: &Pod, limit: Duration, done: impl Fn(&Pod) -> bool) -> Result<(), String> {
        let name = old.metadata.name.clone().unwrap_or_default();
        let mut seen = self.seen.clone();
        let uid = &old.metadata.uid;
        let waited = timeout(
            limit,
            seen.wait_for(|pods| {
                pods.get(&name)
                    .is_some_and(|pod| pod.metadata.uid != *uid && done(pod))
            }),
        );
        match waited.await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err("the pool is not watched any more".to_owned()),
            Err(_) => {
                let words = self
                    .seen
                    .borrow()
                    .get(&name)
                    .and_then(last_words)
                    .unwrap_or_default();
                Err(format!("pod {name} did not come back within {limit:?}: {words}"))
            }
        }
    }

    async fn act(&self, server: &str, purpose: Purpose) -> Result<(), String> {
        let Some(pod) = self.pod(server) else {
            // Its StatefulSet makes it anew; there is nothing to hurry.
            return Ok(());
        };
        let leaving = pod.metadata.deletion_timestamp.is_some();
        match purpose {
            // A container that runs, or is about to, needs nobody; one that its kubelet holds back does.
            Purpose::Start if leaving || !is_held_back(&pod) => Ok(()),
            Purpose::Start | Purpose::Stop => self.delete(&pod).await,
            Purpose::Restart => {
                self.delete(&pod).await?;
                self.replaced(&pod, COME_BACK, is_ready).await
            }
            Purpose::Rewind => {
                if !leaving {
                    self.delete(&pod).await?;
                }
                self.replaced(&pod, REWIND, |pod| is_ready(pod) || is_held_back(pod))
                    .await?;
                match self
                    .pod(server)
                    .filter(is_held_back)
                    .as_ref()
                    .and_then(last_words)
                {
                    Some(words) => Err(words),
                    None => Ok(()),
                }
            }
        }
    }
}

/// Its kubelet waits longer and longer between two starts.
fn is_held_back(pod: &Pod) -> bool {
    let waiting = container_of(pod)
        .and_then(|container| container.state.as_ref())
        .and_then(|state| state.waiting.as_ref());
    waiting.is_some_and(|waiting| waiting.reason.as_deref() == Some("CrashLoopBackOff"))
}

fn is_ready(pod: &Pod) -> bool {
    container_of(pod).is_some_and(|container| container.ready)
}

impl Pods for PoolPods {
    fn can_rewind(&self) -> bool {
        let pods = self.seen.borrow();
        !pods.is_empty() && pods.values().all(has_guard)
    }

    fn is_stopped(&self, server: &str) -> bool {
        self.name(server).is_some() && self.pod(server).is_none_or(|pod| is_stopped(&pod))
    }

    fn trouble(&self, server: &str) -> Option<String> {
        let name = self.name(server)?;
        let Some(pod) = self.pod(server) else {
            return Some(format!("there is no pod {name}"));
        };
        let words = last_words(&pod)
            .map(|words| format!(", it last said: {words}"))
            .unwrap_or_default();
        let phase = pod
            .status
            .as_ref()
            .and_then(|status| status.phase.as_deref())
            .unwrap_or("Unknown");
        match (is_held_back(&pod), is_ready(&pod)) {
            (true, _) => Some(format!("pod {name} is held back by its kubelet{words}")),
            (false, false) => Some(format!("pod {name} is {phase} and not ready{words}")),
            (false, true) => None,
        }
    }

    fn run<'a>(&'a self, server: &'a str, purpose: Purpose) -> BoxFuture<'a, Result<(), String>> {
        self.act(server, purpose).boxed()
    }
}
