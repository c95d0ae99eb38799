//! Files as the store: a manifest, and beside it what operator and proxies write.
//!
//! `x.yaml` is the user's. `x.status.yaml` is the operator's, `x.proxies/<id>.yaml` each proxy's, `x.secrets/<name>/<key>`
//! Secrets that do not stand in the manifest (with several pools in a file `x.<pool>...`). All of them are replaced by
//! renaming, so nobody ever reads half a file; writers of the status hold a lock while they compare and swap, because
//! renaming alone is no compare-and-swap. One host, or one folder that hosts share with working locks: that is the limit.
//!
//! Changes are found by reading (five times a second, a few kilobytes): that works on every file system and misses no
//! edit within the granularity of a time stamp. Begin with [`FileSource`].

mod atomic;
mod load;
mod paths;
mod reports;
mod status;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crds::status::PgPoolStatus;
use crds::{Fault, PoolConfig};
use futures::FutureExt;
use futures::future::BoxFuture;

use crate::{CasError, ClusterSource, ProxyReport, Secrets, Snapshot, SourceError, StatusVersion};
pub use atomic::Leadership;
use load::Written;
pub use load::{Checked, check};
use paths::Paths;
use status::StatusFile;

/// How often files are looked at.
const POLL: Duration = Duration::from_millis(200);
/// A manifest that is being edited is read again until it stays the same for so long.
const SETTLE: Duration = Duration::from_millis(40);
/// How often at most.
const SETTLE_TRIES: u32 = 10;

/// A manifest and the files beside it.
#[derive(Debug)]
pub struct FileSource {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    config_path: PathBuf,
    pool: String,
    state: Mutex<State>,
}

/// What was read last, and what of it was good.
#[derive(Debug)]
struct State {
    written: Written,
    config: Arc<PoolConfig>,
    secrets: Arc<Secrets>,
    status: Option<Arc<PgPoolStatus>>,
    version: StatusVersion,
    highest_epoch: u64,
    manifest_faults: Vec<Fault>,
    status_faults: Vec<Fault>,
    faults: Arc<Vec<Fault>>,
    warnings: Arc<Vec<String>>,
}

impl FileSource {
    /// Reads a manifest for the first time. `pool` chooses one where the file holds several.
    ///
    /// # Errors
    /// [`SourceError::Invalid`] with every fault, or [`SourceError::Io`].
    pub fn open(config_path: impl Into<PathBuf>, pool: Option<&str>) -> Result<Self, SourceError> {
        let config_path = config_path.into();
        let checked = check(&config_path, pool)?;
        let name = checked.config.name.clone();
        let written = Written::read(&config_path, &name, &Written::default());
        let mut state = State {
            written: Written::default(),
            config: Arc::new(checked.config),
            secrets: Arc::new(checked.secrets),
            status: None,
            version: StatusVersion::ABSENT,
            highest_epoch: 0,
            manifest_faults: Vec::new(),
            status_faults: Vec::new(),
            faults: Arc::default(),
            warnings: Arc::new(checked.warnings),
        };
        state.take_status(&name, &written);
        if !state.status_faults.is_empty() {
            return Err(SourceError::Invalid(state.status_faults));
        }
        // Proxies remember the epochs that were, even where somebody removed the status.
        let acked = reports::read(&written.paths.proxies).unwrap_or_default();
        let acked = acked
            .iter()
            .map(|report| report.acked_epoch)
            .max()
            .unwrap_or_default();
        state.highest_epoch = state.highest_epoch.max(acked);
        state.written = written;
        Ok(Self {
            inner: Arc::new(Inner {
                config_path,
                pool: name,
                state: Mutex::new(state),
            }),
        })
    }

    /// The name of the pool.
    pub fn pool(&self) -> &str {
        &self.inner.pool
    }

    /// Where the status is written.
    pub fn status_path(&self) -> PathBuf {
        self.inner.paths().status
    }

    /// The folder where proxies write, also for their sockets to each other. It may not be there yet.
    pub fn proxies_path(&self) -> PathBuf {
        self.inner.paths().proxies
    }

    /// Becomes the one operator of this pool, for as long as the result lives. `None`: there is another one.
    ///
    /// # Errors
    /// When the lock file cannot be made.
    pub fn lead(&self) -> Result<Option<Leadership>, SourceError> {
        atomic::lead(&self.inner.paths().leader_lock)
    }
}

/// Runs what blocks where it may.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, SourceError> + Send + 'static,
) -> Result<T, SourceError> {
    let result = tokio::task::spawn_blocking(work).await;
    result.unwrap_or_else(|error| Err(SourceError::Unavailable(error.to_string())))
}

impl ClusterSource for FileSource {
    fn current(&self) -> BoxFuture<'_, Result<Snapshot, SourceError>> {
        let inner = Arc::clone(&self.inner);
        async move {
            let mut written = inner.read().await?;
            if inner.state().written.manifest != written.manifest {
                // Perhaps an editor is in the middle of it.
                for _ in 0..SETTLE_TRIES {
                    tokio::time::sleep(SETTLE).await;
                    let again = inner.read().await?;
                    let settled = again.manifest == written.manifest;
                    written = again;
                    if settled {
                        break;
                    }
                }
            }
            let inner = Arc::clone(&inner);
            blocking(move || Ok(inner.take(written))).await
        }
        .boxed()
    }

    fn changed(&self) -> BoxFuture<'_, ()> {
        let inner = Arc::clone(&self.inner);
        async move {
            loop {
                tokio::time::sleep(POLL).await;
                match inner.read().await {
                    Ok(written) if written == inner.state().written => {}
                    _ => return,
                }
            }
        }
        .boxed()
    }

    fn compare_and_swap<'a>(
        &'a self,
        seen: &'a StatusVersion,
        new: PgPoolStatus,
    ) -> BoxFuture<'a, Result<StatusVersion, CasError>> {
        let inner = Arc::clone(&self.inner);
        let seen = seen.clone();
        async move {
            let work = move || Ok(inner.swap(&seen, new));
            blocking(work)
                .await
                .unwrap_or_else(|error| Err(CasError::Failed(error)))
        }
        .boxed()
    }

    fn acknowledge(&self, report: ProxyReport) -> BoxFuture<'_, Result<(), SourceError>> {
        let folder = self.inner.paths().proxies;
        blocking(move || reports::write(&folder, report)).boxed()
    }

    fn withdraw<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<(), SourceError>> {
        let (folder, id) = (self.inner.paths().proxies, id.to_owned());
        blocking(move || reports::remove(&folder, &id)).boxed()
    }

    fn proxies(&self) -> BoxFuture<'_, Result<Vec<ProxyReport>, SourceError>> {
        let folder = self.inner.paths().proxies;
        blocking(move || reports::read(&folder)).boxed()
    }

    fn last_faults(&self) -> Arc<Vec<Fault>> {
        Arc::clone(&self.inner.state().faults)
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        // The state is whole between any two statements that can fail.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn paths(&self) -> Paths {
        self.state().written.paths.clone()
    }

    async fn read(self: &Arc<Self>) -> Result<Written, SourceError> {
        let inner = Arc::clone(self);
        let before = self.state().written.clone();
        blocking(move || Ok(Written::read(&inner.config_path, &inner.pool, &before))).await
    }

    /// Takes what was read over into the state, as far as it is good.
    fn take(&self, written: Written) -> Snapshot {
        let mut state = self.state();
        if state.written != written {
            if state.written.manifest != written.manifest || state.written.secrets != written.secrets {
                state.take_manifest(&self.config_path, &self.pool);
            }
            state.take_status(&self.pool, &written);
            state.written = written;
            let faults = state
                .manifest_faults
                .iter()
                .chain(&state.status_faults)
                .cloned()
                .collect();
            state.faults = Arc::new(faults);
        }
        state.snapshot()
    }

    fn swap(&self, seen: &StatusVersion, new: PgPoolStatus) -> Result<StatusVersion, CasError> {
        let highest = self.state().highest_epoch;
        if new.epoch < highest {
            return Err(CasError::EpochBackwards {
                new: new.epoch,
                seen: highest,
            });
        }
        let epoch = new.epoch;
        let version = status::swap(&self.paths(), &self.pool, seen, new)?;
        let mut state = self.state();
        state.highest_epoch = state.highest_epoch.max(epoch);
        Ok(version)
    }
}

impl State {
    fn take_manifest(&mut self, path: &Path, pool: &str) {
        match check(path, Some(pool)) {
            Ok(checked) => {
                self.config = Arc::new(checked.config);
                self.secrets = Arc::new(checked.secrets);
                self.warnings = Arc::new(checked.warnings);
                self.manifest_faults.clear();
            }
            Err(error) => self.manifest_faults = error.into_faults(),
        }
    }

    fn take_status(&mut self, pool: &str, written: &Written) {
        let source = written.paths.status.display().to_string();
        let refused = match StatusFile::parse(&written.status, pool) {
            Ok(None) if self.status.is_none() => {
                self.version = StatusVersion::ABSENT;
                None
            }
            // The version says that it is gone, so that the operator can write it anew; proxies keep to what was.
            Ok(None) => {
                self.version = StatusVersion::ABSENT;
                Some("is gone: what it said last goes on".to_owned())
            }
            // Its version is taken all the same, so that the operator can write over it.
            Ok(Some(file)) if file.status.epoch < self.highest_epoch => {
                self.version = file.version;
                let (old, seen) = (file.status.epoch, self.highest_epoch);
                Some(format!(
                    "epoch {old} is smaller than {seen}, which was seen before: not believed"
                ))
            }
            Ok(Some(file)) => {
                self.highest_epoch = file.status.epoch;
                self.version = file.version;
                if self.status.as_deref() != Some(&file.status) {
                    self.status = Some(Arc::new(file.status));
                }
                None
            }
            Err(message) => Some(message),
        };
        self.status_faults = refused
            .into_iter()
            .map(|text| Fault::new("", text).in_file(&source))
            .collect();
    }

    fn snapshot(&self) -> Snapshot {
        Snapshot {
            config: Arc::clone(&self.config),
            status: self.status.clone(),
            secrets: Arc::clone(&self.secrets),
            version: self.version.clone(),
            highest_epoch: self.highest_epoch,
            faults: Arc::clone(&self.faults),
            warnings: Arc::clone(&self.warnings),
        }
    }
}

#[cfg(test)]
mod tests;
