//! End to end on Kubernetes, as a user would: `make e2e`. One cluster, one scenario at a time; each begins and ends with
//! everything healthy. `KUBECONFIG` names a cluster of your own; the scenarios with faults of nodes need the local one.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod conditions;
mod daily;
mod failures;
mod manifests;
mod others;
mod plain;
mod releases;
mod sidecar;

use serde_json::Value;

/// What must hold after every scenario, whatever happened: nothing acknowledged is lost, nothing invented.
fn assert_clean(verdict: &Value) {
    println!("verdict: {verdict}");
    assert_eq!(verdict["clean"], true, "{verdict}");
    assert!(
        verdict["acknowledged"].as_u64().unwrap_or_default() > 20,
        "too few writes to say anything: {verdict}"
    );
}

/// The number in a field of a verdict.
fn figure(verdict: &Value, field: &str) -> f64 {
    verdict[field]
        .as_f64()
        .unwrap_or_else(|| panic!("no {field} in {verdict}"))
}
