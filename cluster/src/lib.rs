//! Where the `PgPool` resource, its status and its Secrets come from, and how a proxy acknowledges.
//!
//! [`ClusterSource`] is the one way to all of that, for proxies and operator alike; it is used as
//! `Arc<dyn ClusterSource>`. Behind it are files ([`FileSource`]); the Kubernetes API (`kube`) is only another implementation.
//!
//! Begin with [`Snapshot`] (what is read), [`ClusterSource::compare_and_swap`] (what the operator writes) and
//! [`ProxyReport`] (what each proxy writes). Nothing here decides anything about servers.

mod file;
#[cfg(feature = "kube")]
pub mod kube;
mod memory;
mod report;
mod request;
mod secrets;
mod source;

pub use file::{Checked, FileSource, Leadership, check};
pub use memory::MemorySource;
pub use report::{Age, LEASE_DURATION, LEASE_RENEWAL, LeaseWatch, MasterProbe, ProxyReport, Witness};
pub use request::{FailoverRequest, Request, SwitchoverRequest};
pub use secrets::{Login, LoginError, Secrets};
pub use source::{CasError, ClusterSource, Snapshot, SourceError, StatusVersion};
