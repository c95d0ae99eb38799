//! A store in memory: for tests of what uses a [`ClusterSource`], with time paused and without files.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crds::status::PgPoolStatus;
use crds::{Fault, PoolConfig};
use futures::FutureExt;
use futures::future::{BoxFuture, ready};
use tokio::sync::watch;

use crate::{CasError, ClusterSource, ProxyReport, Secrets, Snapshot, SourceError, StatusVersion};

/// A store in memory. Clones share it, and each clone is a reader of its own.
#[derive(Debug)]
pub struct MemorySource {
    shared: Arc<Shared>,
    /// How many changes this reader has seen.
    seen: Mutex<u64>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    changes: watch::Sender<u64>,
}

#[derive(Debug)]
struct State {
    config: Arc<PoolConfig>,
    secrets: Arc<Secrets>,
    status: Option<Arc<PgPoolStatus>>,
    version: u64,
    proxies: BTreeMap<String, ProxyReport>,
    renewals: u64,
    unavailable: bool,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl MemorySource {
    /// A store with a pool and its Secrets, and no status yet.
    pub fn new(config: PoolConfig, secrets: Secrets) -> Self {
        let state = State {
            config: Arc::new(config),
            secrets: Arc::new(secrets),
            status: None,
            version: 0,
            proxies: BTreeMap::new(),
            renewals: 0,
            unavailable: false,
        };
        let shared = Shared {
            state: Mutex::new(state),
            changes: watch::Sender::new(0),
        };
        Self {
            shared: Arc::new(shared),
            seen: Mutex::new(0),
        }
    }

    /// What the user does who edits the manifest.
    pub fn set_config(&self, config: PoolConfig) {
        self.state().config = Arc::new(config);
        self.shared.changes.send_modify(|changes| *changes += 1);
    }

    /// Takes the store away, or gives it back: every call fails meanwhile.
    pub fn set_unavailable(&self, unavailable: bool) {
        self.state().unavailable = unavailable;
        self.shared.changes.send_modify(|changes| *changes += 1);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        locked(&self.shared.state)
    }

    fn with<T>(&self, act: impl FnOnce(&mut State) -> T) -> Result<T, SourceError> {
        let mut state = self.state();
        match state.unavailable {
            true => Err(SourceError::Unavailable("taken away".to_owned())),
            false => Ok(act(&mut state)),
        }
    }
}

impl Clone for MemorySource {
    fn clone(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
            seen: Mutex::new(0),
        }
    }
}

impl State {
    fn version(&self) -> StatusVersion {
        match self.version {
            0 => StatusVersion::ABSENT,
            version => StatusVersion::new(version.to_string()),
        }
    }

    fn swap(&mut self, seen: &StatusVersion, new: PgPoolStatus) -> Result<StatusVersion, CasError> {
        if self.version() != *seen {
            return Err(CasError::Conflict {
                current: self.version(),
            });
        }
        let epoch = self.status.as_ref().map_or(0, |status| status.epoch);
        if new.epoch < epoch {
            return Err(CasError::EpochBackwards {
                new: new.epoch,
                seen: epoch,
            });
        }
        self.status = Some(Arc::new(new));
        self.version += 1;
        Ok(self.version())
    }
}

impl ClusterSource for MemorySource {
    fn current(&self) -> BoxFuture<'_, Result<Snapshot, SourceError>> {
        *locked(&self.seen) = *self.shared.changes.borrow();
        let snapshot = self.with(|state| Snapshot {
            config: Arc::clone(&state.config),
            status: state.status.clone(),
            secrets: Arc::clone(&state.secrets),
            version: state.version(),
            highest_epoch: state.status.as_ref().map_or(0, |status| status.epoch),
            faults: Arc::default(),
            warnings: Arc::default(),
        });
        ready(snapshot).boxed()
    }

    fn changed(&self) -> BoxFuture<'_, ()> {
        let mut changes = self.shared.changes.subscribe();
        async move {
            let seen = *locked(&self.seen);
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
        let result = self
            .with(|state| state.swap(seen, new))
            .unwrap_or_else(|error| Err(CasError::Failed(error)));
        if result.is_ok() {
            self.shared.changes.send_modify(|changes| *changes += 1);
        }
        ready(result).boxed()
    }

    fn acknowledge(&self, mut report: ProxyReport) -> BoxFuture<'_, Result<(), SourceError>> {
        let result = self.with(|state| {
            state.renewals += 1;
            report.renewal = state.renewals;
            state.proxies.insert(report.id.clone(), report);
        });
        ready(result).boxed()
    }

    fn withdraw<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<(), SourceError>> {
        ready(self.with(|state| _ = state.proxies.remove(id))).boxed()
    }

    fn proxies(&self) -> BoxFuture<'_, Result<Vec<ProxyReport>, SourceError>> {
        ready(self.with(|state| state.proxies.values().cloned().collect())).boxed()
    }

    fn last_faults(&self) -> Arc<Vec<Fault>> {
        Arc::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn of_two_writers_one_wins_and_each_reader_hears_of_it() {
        let one = MemorySource::new(PoolConfig::default(), Secrets::default());
        let two = one.clone();
        let seen = one.current().await.unwrap().version;
        assert_eq!(two.current().await.unwrap().version, seen);
        let status = PgPoolStatus {
            epoch: 1,
            ..PgPoolStatus::default()
        };
        one.compare_and_swap(&seen, status.clone()).await.unwrap();
        let lost = two.compare_and_swap(&seen, status.clone()).await;
        assert!(matches!(lost, Err(CasError::Conflict { .. })), "{lost:?}");
        one.changed().await;
        two.changed().await;
        let snapshot = two.current().await.unwrap();
        assert_eq!(snapshot.status.as_deref(), Some(&status));
        let back = two
            .compare_and_swap(&snapshot.version, PgPoolStatus::default())
            .await;
        assert!(
            matches!(back, Err(CasError::EpochBackwards { new: 0, seen: 1 })),
            "{back:?}"
        );
        assert!(two.changed().now_or_never().is_none());
    }
}
