//! End to end on Kubernetes, as a user would: `make e2e`. One cluster, one scenario at a time; each begins and ends with
//! everything healthy. `KUBECONFIG` names a cluster of your own; the scenarios with faults of nodes need the local one.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod manifests;
mod plain;
