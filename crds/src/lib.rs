//! The `PgPool` resource.
//!
//! * [`raw`]: what a person wrote, exactly: a manifest or an object of the Kubernetes API;
//! * [`PoolConfig`]: what the code uses. To hold one is proof that it is valid; [`parse_manifest`] makes it from a
//!   file, [`PoolConfig::from_spec`] from an object, and both report every [`Fault`] at once;
//! * [`status`]: what the operator writes and the proxies follow;
//! * [`hba`]: one rule in the form of `pg_hba.conf`, parsed.
//!
//! This crate decides nothing at run time, opens nothing, and knows none of our other crates.

mod config;
mod convert;
#[cfg(feature = "kube")]
pub mod definition;
mod fault;
pub mod hba;
mod manifest;
pub mod raw;
pub mod status;
pub mod units;

pub use config::*;
pub use convert::{Checked, Identity, Place};
pub use fault::{Fault, Faults};
pub use manifest::{Manifest, Pool, SecretDocument, parse_manifest, parse_manifest_with, pool_names};

/// The API group of the resource.
pub const GROUP: &str = "pgstmtpool.io";
/// The version of the resource this build reads and writes.
pub const VERSION: &str = "v1alpha1";
/// `apiVersion` of every manifest of ours.
pub const API_VERSION: &str = "pgstmtpool.io/v1alpha1";
/// `kind` of every manifest of ours.
pub const KIND: &str = "PgPool";
