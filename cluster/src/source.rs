//! The trait and what passes through it.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use crds::status::PgPoolStatus;
use crds::{Fault, PoolConfig};
use futures::future::BoxFuture;

use crate::{ProxyReport, Secrets};

/// What is written, all of one moment.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// The pool. When the manifest became invalid this is the last valid one, and `faults` says what is wrong.
    pub config: Arc<PoolConfig>,
    /// What the operator wrote; `None`: nothing yet (the first start).
    pub status: Option<Arc<PgPoolStatus>>,
    /// The Secrets the pool refers to.
    pub secrets: Arc<Secrets>,
    /// The version of `status`, for [`ClusterSource::compare_and_swap`].
    pub version: StatusVersion,
    /// The highest epoch this source knows of, in any status or acknowledgement. A new status needs at least this;
    /// where the status was lost, one more.
    pub highest_epoch: u64,
    /// What is wrong with what is written now, if it is not what `config`, `status` and `secrets` hold.
    pub faults: Arc<Vec<Fault>>,
    /// What is allowed but probably not meant. Worth a line in the log when it changes.
    pub warnings: Arc<Vec<String>>,
}

/// A version of the status. Two are equal if and only if nothing was written between them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct StatusVersion(Option<String>);

impl StatusVersion {
    /// There is no status yet.
    pub const ABSENT: Self = Self(None);

    /// The version a store calls so.
    pub fn new(version: impl Into<String>) -> Self {
        Self(Some(version.into()))
    }

    /// What the store calls it; `None`: there is no status yet.
    pub fn as_str(&self) -> Option<&str> {
        self.0.as_deref()
    }
}

impl fmt::Display for StatusVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str().unwrap_or("absent"))
    }
}

/// Why nothing could be read or written.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// A file could not be read or written.
    #[error("{}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        cause: io::Error,
    },
    /// What is written is wrong, and nothing valid was read before.
    #[error("{} fault(s), the first: {}", .0.len(), .0.first().map(ToString::to_string).unwrap_or_default())]
    Invalid(Vec<Fault>),
    /// The store cannot be reached now.
    #[error("cannot reach the store: {0}")]
    Unavailable(String),
}

impl SourceError {
    /// The faults of [`SourceError::Invalid`], else the error as one fault of the whole file.
    pub fn into_faults(self) -> Vec<Fault> {
        match self {
            Self::Invalid(faults) => faults,
            Self::Io { path, cause } => vec![Fault::new("", format!("{}: {cause}", path.display()))],
            other @ Self::Unavailable(_) => vec![Fault::new("", other.to_string())],
        }
    }
}

/// Why a status was not written.
#[derive(Debug, thiserror::Error)]
pub enum CasError {
    /// Somebody else wrote first: read again, decide again.
    #[error("the status is at version {current} by now")]
    Conflict {
        /// What it is now.
        current: StatusVersion,
    },
    /// The epoch is smaller than one that was seen: a mistake, or somebody put an old file back.
    #[error("epoch {new} is smaller than {seen}, which was seen before")]
    EpochBackwards {
        /// The epoch that was to be written.
        new: u64,
        /// The highest ever seen.
        seen: u64,
    },
    /// It is not known whether it was written: read again.
    #[error("could not write the status")]
    Failed(#[source] SourceError),
}

/// Where the resource, its status and its Secrets come from. Used as `Arc<dyn ClusterSource>`.
///
/// One consumer per source reads with [`ClusterSource::current`] and waits with [`ClusterSource::changed`]; anybody may
/// write. Futures may be dropped: a read has then not happened; a write may still be carried out as a whole, or not at all.
pub trait ClusterSource: Send + Sync + fmt::Debug {
    /// What is written now. Cheap when nothing changed.
    ///
    /// A status whose epoch is smaller than one this source has seen is not given: the last one is, with a fault.
    ///
    /// # Errors
    /// Only as long as nothing valid was ever read; afterwards faults are in the snapshot.
    fn current(&self) -> BoxFuture<'_, Result<Snapshot, SourceError>>;

    /// Returns when something is written that the last [`ClusterSource::current`] did not see. May return without.
    fn changed(&self) -> BoxFuture<'_, ()>;

    /// Writes the status if it is still at version `seen`. A quorum write: what it returns is durable.
    ///
    /// # Errors
    /// [`CasError`]; only with [`CasError::Failed`] may the status have been written all the same.
    fn compare_and_swap<'a>(
        &'a self,
        seen: &'a StatusVersion,
        new: PgPoolStatus,
    ) -> BoxFuture<'a, Result<StatusVersion, CasError>>;

    /// Writes what this proxy acknowledges and sees, and renews its Lease. To be called at least every
    /// [`crate::LEASE_RENEWAL`], and at once when something changes. `renewal` of the report is counted by the source.
    ///
    /// # Errors
    /// When it was not written: after [`crate::LEASE_DURATION`] without success the rules of `spec.proxy.onApiLoss`
    /// apply.
    fn acknowledge(&self, report: ProxyReport) -> BoxFuture<'_, Result<(), SourceError>>;

    /// Takes the Lease of a proxy back: it has stopped and holds no server connection any more.
    ///
    /// # Errors
    /// When it could not be taken back; it then runs out.
    fn withdraw<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<(), SourceError>>;

    /// What every proxy wrote last. Whether one still lives is the reader's judgement: [`crate::LeaseWatch`].
    ///
    /// # Errors
    /// When nothing could be read. A single unreadable report is left out with a warning.
    fn proxies(&self) -> BoxFuture<'_, Result<Vec<ProxyReport>, SourceError>>;

    /// What is wrong with what is written now; as in the last [`Snapshot`].
    fn last_faults(&self) -> Arc<Vec<Fault>>;
}
