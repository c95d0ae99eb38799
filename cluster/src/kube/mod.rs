//! The Kubernetes API as the store.
//!
//! The resource is watched by name, its status written by `replace` with the version that was read, and each proxy has a
//! Lease. What is read goes through [`crds::PoolConfig::from_spec`] as a file does; pods become addresses here, so that nobody
//! else knows of them: the operator looks pods up, a proxy takes what the operator wrote. Begin with [`KubeSource`].

mod client;
mod leases;
mod object;
mod own;
mod pods;
mod state;
mod watch;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crds::status::PgPoolStatus;
use crds::{Fault, PoolConfig};
use futures::FutureExt;
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::Pod;
use kube::api::PostParams;
use kube::core::DynamicObject;
use kube::{Api, Client};
use tokio::sync::watch as channel;

use crate::{CasError, ClusterSource, ProxyReport, Snapshot, SourceError, StatusVersion};

pub use client::{CallError, call, client, text};
use leases::Leases;
pub use leases::{Holder, POOL_LABEL, REPLICAS, highest_number};
pub use object::{config_of, resource, status_of, version_of};
pub use own::{environment, own_namespace, own_pod};
pub use pods::{CONTAINER, container_of, foreign_owner, has_guard, host_of, is_stopped, last_words};
use state::State;
pub use state::proxy_secrets;
use watch::Watches;
pub use watch::follow_all;

/// Who reads: what is watched depends on it, and so do the rights it takes.
#[derive(Clone, Debug)]
pub enum Reader {
    /// A proxy: its pool, the Secrets it needs, its Lease.
    Proxy(Holder),
    /// The operator: all Secrets of the pool, its pods, the Leases of its proxies.
    Operator,
    /// Somebody who only looks: the pool and the Leases.
    Person,
}

/// One `PgPool` of the API.
#[derive(Debug)]
pub struct KubeSource {
    inner: Arc<Inner>,
    /// End with the source.
    _watches: Watches,
}

#[derive(Debug)]
struct Inner {
    pool: String,
    namespace: String,
    reader: Reader,
    api: Api<DynamicObject>,
    leases: Leases,
    state: Mutex<State>,
    /// Counts what [`ClusterSource::current`] would show anew.
    changes: channel::Sender<u64>,
    seen: AtomicU64,
    pods: channel::Sender<Arc<BTreeMap<String, Pod>>>,
}

impl KubeSource {
    /// Begins to watch. What is there shows with the first [`ClusterSource::current`].
    ///
    /// # Errors
    /// [`SourceError::Invalid`]: there is no such pool, or it is not valid. [`SourceError::Unavailable`]: no answer.
    pub async fn open(
        client: Client,
        namespace: &str,
        pool: &str,
        reader: Reader,
    ) -> Result<Self, SourceError> {
        let inner = Arc::new(Inner {
            pool: pool.to_owned(),
            namespace: namespace.to_owned(),
            api: Api::namespaced_with(client.clone(), namespace, &resource()),
            leases: Leases {
                api: Api::namespaced(client.clone(), namespace),
                pool: pool.to_owned(),
            },
            state: Mutex::new(State::new(matches!(reader, Reader::Operator))),
            changes: channel::Sender::new(1),
            seen: AtomicU64::new(0),
            pods: channel::Sender::default(),
            reader,
        });
        inner.read().await?;
        let watches = Watches::start(client, &inner);
        let source = Self {
            inner,
            _watches: watches,
        };
        if !matches!(source.inner.reader, Reader::Person) {
            source.inner.settle().await;
        }
        source.current().await.map(|_| source)
    }

    /// The name of the pool.
    pub fn pool(&self) -> &str {
        &self.inner.pool
    }

    /// The namespace of the pool.
    pub fn namespace(&self) -> &str {
        &self.inner.namespace
    }

    /// The object as it was read last.
    pub fn object(&self) -> Option<DynamicObject> {
        self.inner.state().object.clone()
    }

    /// The pods of the pool's servers by name, as they change (operator only).
    pub fn pods(&self) -> channel::Receiver<Arc<BTreeMap<String, Pod>>> {
        self.inner.pods.subscribe()
    }

    /// Tells of each change of what [`KubeSource::view`] shows, to as many as ask.
    pub fn changes(&self) -> channel::Receiver<u64> {
        self.inner.changes.subscribe()
    }

    /// The pool and its status as [`ClusterSource::current`] gives them, without counting as its reader.
    pub fn view(&self) -> Option<(Arc<PoolConfig>, Option<Arc<PgPoolStatus>>)> {
        let snapshot = self.inner.state().snapshot().ok()?;
        Some((snapshot.config, snapshot.status))
    }

    /// The pods of the servers, by name of the server; servers outside of the cluster have none.
    pub fn pod_names(&self) -> BTreeMap<String, String> {
        self.inner.state().pod_names()
    }

    /// Takes a number among the proxies of this pool, at most `most`; `None`: all are taken.
    ///
    /// # Errors
    /// When the API does not answer, or refuses.
    pub async fn claim_number(&self, most: u8) -> Result<Option<u8>, SourceError> {
        let Reader::Proxy(holder) = &self.inner.reader else {
            return Ok(None);
        };
        Ok(self.inner.leases.claim(holder, most).await?)
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        // The state is whole between any two statements that can fail.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn changed(&self) {
        self.changes.send_modify(|changes| *changes += 1);
    }

    /// Changes the state and tells of it where it shows.
    fn update(&self, change: impl FnOnce(&mut State)) {
        let shows = {
            let mut state = self.state();
            change(&mut state);
            state.rebuild()
        };
        if shows {
            self.changed();
        }
    }

    /// A read of the latest version, past every cache.
    async fn read(&self) -> Result<(), SourceError> {
        let object = match call(self.api.get(&self.pool)).await {
            Ok(object) => Some(object),
            Err(error) if error.is_missing() => None,
            Err(error) => return Err(error.into()),
        };
        self.update(|state| {
            state.take_object(object);
            state.stale = false;
        });
        Ok(())
    }

    /// Waits until Secrets and pods that are meant were looked for once.
    async fn settle(&self) {
        let mut changes = self.changes.subscribe();
        let settled = async {
            while !self.state().is_settled() {
                _ = tokio::time::timeout(std::time::Duration::from_millis(50), changes.changed()).await;
            }
        };
        _ = tokio::time::timeout(std::time::Duration::from_secs(5), settled).await;
    }

    async fn swap(&self, seen: &StatusVersion, new: PgPoolStatus) -> Result<StatusVersion, CasError> {
        let (highest, version, uid) = {
            let state = self.state();
            let object = state.object.as_ref();
            let uid = object.and_then(|object| object.metadata.uid.clone());
            (
                state.highest_epoch,
                object.map(version_of).unwrap_or_default(),
                uid,
            )
        };
        if new.epoch < highest {
            return Err(CasError::EpochBackwards {
                new: new.epoch,
                seen: highest,
            });
        }
        // A pool without a status has a version all the same: the one it was read at.
        let expected = seen.as_str().map_or(version, str::to_owned);
        let mut object = DynamicObject::new(&self.pool, &resource());
        object.metadata.namespace = Some(self.namespace.clone());
        object.metadata.resource_version = Some(expected);
        object.metadata.uid = uid;
        let status = serde_json::to_value(&new)
            .map_err(|error| CasError::Failed(SourceError::Unavailable(error.to_string())))?;
        object.data = serde_json::json!({ "status": status });
        let written = call(
            self.api
                .replace_status(&self.pool, &PostParams::default(), &object),
        )
        .await;
        match written {
            Ok(object) => {
                let version = StatusVersion::new(version_of(&object));
                self.update(|state| state.take_object(Some(object)));
                Ok(version)
            }
            Err(error) => {
                self.state().stale = true;
                match error.is_conflict() {
                    true => Err(CasError::Conflict {
                        current: StatusVersion::new("newer"),
                    }),
                    false => Err(CasError::Failed(error.into())),
                }
            }
        }
    }
}

impl ClusterSource for KubeSource {
    fn current(&self) -> BoxFuture<'_, Result<Snapshot, SourceError>> {
        async move {
            self.inner
                .seen
                .store(*self.inner.changes.borrow(), Ordering::Relaxed);
            if self.inner.state().stale {
                self.inner.read().await?;
            }
            self.inner.state().snapshot()
        }
        .boxed()
    }

    fn changed(&self) -> BoxFuture<'_, ()> {
        let mut changes = self.inner.changes.subscribe();
        async move {
            let seen = self.inner.seen.load(Ordering::Relaxed);
            // The sender lives as long as `self`.
            _ = changes.wait_for(|changes| *changes != seen).await;
        }
        .boxed()
    }

    fn compare_and_swap<'a>(
        &'a self,
        seen: &'a StatusVersion,
        new: PgPoolStatus,
    ) -> BoxFuture<'a, Result<StatusVersion, CasError>> {
        self.inner.swap(seen, new).boxed()
    }

    fn acknowledge(&self, report: ProxyReport) -> BoxFuture<'_, Result<(), SourceError>> {
        async move {
            match &self.inner.reader {
                Reader::Proxy(holder) => Ok(self.inner.leases.renew(holder, &report).await?),
                _ => Err(SourceError::Unavailable("only a proxy has a Lease".to_owned())),
            }
        }
        .boxed()
    }

    fn withdraw<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<(), SourceError>> {
        async move {
            let Reader::Proxy(holder) = &self.inner.reader else {
                return Ok(());
            };
            let reports = self.inner.leases.reports().await?;
            match reports.iter().find(|report| report.id == id) {
                Some(report) => Ok(self.inner.leases.withdraw(report.proxy_number, holder).await?),
                None => Ok(()),
            }
        }
        .boxed()
    }

    fn proxies(&self) -> BoxFuture<'_, Result<Vec<ProxyReport>, SourceError>> {
        async move {
            // Only the operator asks often enough to watch them.
            if !matches!(self.inner.reader, Reader::Operator) {
                return Ok(self.inner.leases.reports().await?);
            }
            let state = self.inner.state();
            match &state.reports {
                Some(reports) => Ok(reports.values().cloned().collect()),
                None => Err(SourceError::Unavailable(
                    "the proxies' Leases were not read yet".to_owned(),
                )),
            }
        }
        .boxed()
    }

    fn last_faults(&self) -> Arc<Vec<Fault>> {
        self.inner.state().faults()
    }
}
