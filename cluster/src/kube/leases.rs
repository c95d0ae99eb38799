//! One Lease a proxy: that it lives, and in annotations what it acknowledges and sees.
//!
//! It is called `pgp-<pool>-<number>` by the number the proxy has among its peers, not by its pod: so a Role can name the
//! Leases a proxy may change, and taking the Lease is taking the number.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference};
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions};
use tracing::{debug, info};

use super::client::{CallError, call};
use crate::{LEASE_DURATION, ProxyReport};

/// The label that says which pool an object belongs to.
pub const POOL_LABEL: &str = "pgstmtpool.io/pool";
const REPORT: &str = "pgstmtpool.io/report";
const ACKED: &str = "pgstmtpool.io/acked-epoch";
const DRAINED: &str = "pgstmtpool.io/drained";
const MASTER: &str = "pgstmtpool.io/master-probe";
/// How often all numbers are tried before a proxy gives up: a Lease of a dead pod runs out meanwhile.
const ROUNDS: u32 = 6;

/// Proxies at the start, where neither the manifest nor an autoscaler says how many.
pub const REPLICAS: u32 = 2;

/// The highest number a proxy of this pool may take: twice as many as there may be, for those that come while others go.
pub fn highest_number(config: &crds::PoolConfig) -> u8 {
    let asked = config.proxy.replicas.unwrap_or(REPLICAS);
    let scaled = config.proxy.autoscaling.map_or(0, |scaling| scaling.max_replicas);
    u8::try_from(asked.max(scaled).saturating_mul(2).saturating_add(14)).unwrap_or(u8::MAX)
}

/// The pod a proxy runs in.
#[derive(Clone, Debug)]
pub struct Holder {
    /// `metadata.name`.
    pub pod: String,
    /// `metadata.uid`: the Lease goes when the pod goes. Empty: it is left to run out.
    pub uid: String,
}

/// The Leases of one pool.
#[derive(Clone, Debug)]
pub(super) struct Leases {
    pub(super) api: Api<Lease>,
    pub(super) pool: String,
}

impl Leases {
    pub(super) fn selector(&self) -> String {
        format!("{POOL_LABEL}={}", self.pool)
    }

    fn name(&self, number: u8) -> String {
        format!("pgp-{}-{number}", self.pool)
    }

    /// Takes a number nobody else has: the one this pod had before, else the smallest that is free.
    pub(super) async fn claim(&self, holder: &Holder, most: u8) -> Result<Option<u8>, CallError> {
        let mut seen: BTreeMap<u8, Option<MicroTime>> = BTreeMap::new();
        for round in 0..ROUNDS {
            if round > 0 {
                tokio::time::sleep(LEASE_DURATION / 2 + Duration::from_millis(500)).await;
            }
            let list = ListParams::default().labels(&self.selector());
            let leases = call(self.api.list(&list)).await?.items;
            let of = |number: u8| {
                leases
                    .iter()
                    .find(|lease| lease.metadata.name.as_deref() == Some(&self.name(number)))
            };
            for number in 0..=most {
                let Some(lease) = of(number) else {
                    match call(
                        self.api
                            .create(&PostParams::default(), &self.empty(number, holder)),
                    )
                    .await
                    {
                        Ok(_) => return Ok(Some(number)),
                        Err(error) if error.is_conflict() => continue,
                        Err(error) => return Err(error),
                    }
                };
                let spec = lease.spec.clone().unwrap_or_default();
                let renewed = spec.renew_time.clone();
                let is_mine = spec.holder_identity.as_deref() == Some(&holder.pod);
                // Run out: it did not change for two rounds of ours, whatever its clock says.
                let is_dead = round >= 2 && seen.get(&number) == Some(&renewed);
                if (is_mine || is_dead) && self.take_over(number, lease, holder).await? {
                    return Ok(Some(number));
                }
                if round.is_multiple_of(2) {
                    seen.insert(number, renewed);
                }
            }
            info!(
                pool = self.pool,
                "Every number is taken: waiting for a Lease to run out"
            );
        }
        Ok(None)
    }

    /// `false`: somebody else was first.
    async fn take_over(&self, number: u8, lease: &Lease, holder: &Holder) -> Result<bool, CallError> {
        let mut new = self.empty(number, holder);
        new.metadata.resource_version = lease.metadata.resource_version.clone();
        match call(self.api.replace(&self.name(number), &PostParams::default(), &new)).await {
            Ok(_) => Ok(true),
            Err(error) if error.is_conflict() || error.is_missing() => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn empty(&self, number: u8, holder: &Holder) -> Lease {
        Lease {
            metadata: ObjectMeta {
                name: Some(self.name(number)),
                namespace: self.api.namespace().map(str::to_owned),
                labels: Some([(POOL_LABEL.to_owned(), self.pool.clone())].into()),
                owner_references: (!holder.uid.is_empty()).then(|| {
                    vec![OwnerReference {
                        api_version: "v1".to_owned(),
                        kind: "Pod".to_owned(),
                        name: holder.pod.clone(),
                        uid: holder.uid.clone(),
                        ..OwnerReference::default()
                    }]
                }),
                ..ObjectMeta::default()
            },
            spec: Some(spec(&holder.pod)),
        }
    }

    /// Writes a report and renews.
    pub(super) async fn renew(&self, holder: &Holder, report: &ProxyReport) -> Result<(), CallError> {
        let number = report.proxy_number;
        let mut lease = self.empty(number, holder);
        lease.metadata.annotations = Some(annotations(report));
        // A number belongs to its pod: a merge that would take it from another is refused by our own look at the answer.
        let patch = Patch::Merge(serde_json::json!({
            "metadata": {"annotations": lease.metadata.annotations, "labels": lease.metadata.labels},
            "spec": lease.spec,
        }));
        match call(
            self.api
                .patch(&self.name(number), &PatchParams::default(), &patch),
        )
        .await
        {
            Err(error) if error.is_missing() => {
                debug!(number, "The Lease is gone: made anew");
                call(self.api.create(&PostParams::default(), &lease))
                    .await
                    .map(drop)
            }
            other => other.map(drop),
        }
    }

    /// What all proxies wrote last, as it stands in the API.
    pub(super) async fn reports(&self) -> Result<Vec<ProxyReport>, CallError> {
        let list = ListParams::default().labels(&self.selector());
        let leases = call(self.api.list(&list)).await?;
        Ok(leases.iter().map(report_of).collect())
    }

    /// Gives a number back.
    pub(super) async fn withdraw(&self, number: u8, holder: &Holder) -> Result<(), CallError> {
        let name = self.name(number);
        let lease = match call(self.api.get(&name)).await {
            Ok(lease) => lease,
            Err(error) if error.is_missing() => return Ok(()),
            Err(error) => return Err(error),
        };
        let held_by = lease
            .spec
            .as_ref()
            .and_then(|spec| spec.holder_identity.as_deref());
        if held_by != Some(&holder.pod) {
            return Ok(());
        }
        let only_this = DeleteParams {
            preconditions: Some(Preconditions {
                resource_version: lease.metadata.resource_version.clone(),
                uid: None,
            }),
            ..DeleteParams::default()
        };
        match call(self.api.delete(&name, &only_this)).await {
            Err(error) if !error.is_missing() && !error.is_conflict() => Err(error),
            _ => Ok(()),
        }
    }
}

fn spec(holder: &str) -> LeaseSpec {
    LeaseSpec {
        holder_identity: Some(holder.to_owned()),
        lease_duration_seconds: i32::try_from(LEASE_DURATION.as_secs()).ok(),
        renew_time: Some(MicroTime(Timestamp::now())),
        ..LeaseSpec::default()
    }
}

/// The whole report for programs, and what people ask for beside it.
fn annotations(report: &ProxyReport) -> BTreeMap<String, String> {
    let master = &report.master_probe;
    let probe = match master.fails {
        0 => format!("{} ok {}", master.name, master.ok),
        fails => format!("{} failed {fails}: {}", master.name, master.error),
    };
    let text = serde_json::to_string(report).unwrap_or_default();
    [
        (REPORT.to_owned(), text),
        (ACKED.to_owned(), report.acked_epoch.to_string()),
        (DRAINED.to_owned(), report.drained.to_string()),
        (MASTER.to_owned(), probe),
    ]
    .into()
}

/// What a Lease says. One that is claimed only counts as a proxy that has acknowledged nothing: it may have begun to work.
pub(super) fn report_of(lease: &Lease) -> ProxyReport {
    let text = lease
        .metadata
        .annotations
        .as_ref()
        .and_then(|all| all.get(REPORT));
    let holder = lease.spec.as_ref().and_then(|spec| spec.holder_identity.clone());
    let mut report = text
        .and_then(|text| serde_json::from_str(text).ok())
        .unwrap_or_else(|| ProxyReport {
            id: holder.or_else(|| lease.metadata.name.clone()).unwrap_or_default(),
            ..ProxyReport::default()
        });
    // Any write is a sign of life.
    let version = lease.metadata.resource_version.as_deref();
    report.renewal = version
        .and_then(|version| version.parse().ok())
        .unwrap_or(report.renewal);
    report
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_proxy_writes_is_what_the_operator_reads() {
        let report = ProxyReport {
            id: "orders-proxy-x".to_owned(),
            acked_epoch: 7,
            drained: true,
            proxy_number: 3,
            ..ProxyReport::default()
        };
        let lease = Lease {
            metadata: ObjectMeta {
                annotations: Some(annotations(&report)),
                resource_version: Some("99".to_owned()),
                ..ObjectMeta::default()
            },
            spec: None,
        };
        let expected = ProxyReport {
            renewal: 99,
            ..report
        };
        assert_eq!(report_of(&lease), expected);
        let claimed = Lease {
            spec: Some(spec("orders-proxy-y")),
            ..Lease::default()
        };
        let report = report_of(&claimed);
        assert_eq!((report.id.as_str(), report.acked_epoch), ("orders-proxy-y", 0));
    }
}
