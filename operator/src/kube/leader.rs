//! Who of several operators works: a Lease, taken and kept by `replace` with the version that was read.
//!
//! Nobody's wall clock is believed: a Lease has run out when it did not change for its duration on our own clock. Whoever
//! cannot renew for [`DEADLINE`] ends before anybody else can begin.

use cluster::kube::{CallError, call};
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::{Api, Client};
use std::time::Duration;
use tokio::time::Instant;
use tracing::{debug, info, warn};

/// The name of the Lease, in the operator's own namespace.
pub(super) const NAME: &str = "pgstmtpool-operator";
/// A Lease that did not change for so long is nobody's.
const DURATION: Duration = Duration::from_secs(15);
/// Who could not renew for so long works no longer.
const DEADLINE: Duration = Duration::from_secs(10);
/// How often it is renewed, and looked at.
const PERIOD: Duration = Duration::from_secs(2);

/// One candidate.
#[derive(Clone, Debug)]
pub(super) struct Candidate {
    api: Api<Lease>,
    identity: String,
}

/// What a look at the Lease says.
#[derive(Debug, PartialEq, Eq)]
enum Look {
    /// It is ours, or nobody's: write it.
    Take,
    /// Somebody else has it.
    Wait,
}

/// When the Lease of another last changed, on our clock.
#[derive(Debug, Default)]
struct Observed {
    version: Option<String>,
    since: Option<Instant>,
}

impl Observed {
    fn look(&mut self, lease: &Lease, identity: &str, now: Instant) -> Look {
        let holder = lease
            .spec
            .as_ref()
            .and_then(|spec| spec.holder_identity.as_deref());
        if holder.is_none_or(|holder| holder.is_empty() || holder == identity) {
            return Look::Take;
        }
        if self.version != lease.metadata.resource_version {
            self.version.clone_from(&lease.metadata.resource_version);
            self.since = Some(now);
        }
        match self.since {
            Some(since) if now.duration_since(since) >= DURATION => Look::Take,
            _ => Look::Wait,
        }
    }
}

impl Candidate {
    /// In `namespace`; `identity` is unique among all candidates that ever were.
    pub(super) fn new(client: Client, namespace: &str, identity: String) -> Self {
        Self {
            api: Api::namespaced(client, namespace),
            identity,
        }
    }

    /// Waits until the Lease is ours. `told` hears of each contact with the API.
    pub(super) async fn acquire(&self, told: impl Fn(Result<(), String>)) -> Lease {
        let mut observed = Observed::default();
        loop {
            match self.try_once(&mut observed).await {
                Ok(Some(lease)) => {
                    told(Ok(()));
                    info!(identity = self.identity, "This operator leads");
                    return lease;
                }
                Ok(None) => told(Ok(())),
                Err(error) => {
                    debug!(%error, "The leader's Lease");
                    told(Err(format!("the leader's Lease: {error}")));
                }
            }
            tokio::time::sleep(PERIOD).await;
        }
    }

    async fn try_once(&self, observed: &mut Observed) -> Result<Option<Lease>, CallError> {
        let lease = match call(self.api.get_opt(NAME)).await? {
            None => {
                let new = self.written(&Lease::default());
                return lost_race(call(self.api.create(&PostParams::default(), &new)).await);
            }
            Some(lease) => lease,
        };
        match observed.look(&lease, &self.identity, Instant::now()) {
            Look::Wait => Ok(None),
            Look::Take => {
                let new = self.written(&lease);
                lost_race(call(self.api.replace(NAME, &PostParams::default(), &new)).await)
            }
        }
    }

    /// Renews until that fails for too long, or somebody else took it.
    pub(super) async fn keep(&self, mut lease: Lease, told: impl Fn(Result<(), String>)) {
        let mut renewed = Instant::now();
        loop {
            tokio::time::sleep(PERIOD).await;
            let new = self.written(&lease);
            let began = Instant::now();
            let params = PostParams::default();
            let replaced = tokio::time::timeout(PERIOD, call(self.api.replace(NAME, &params, &new)));
            match replaced.await.unwrap_or(Err(CallError::Timeout)) {
                Ok(written) => {
                    (lease, renewed) = (written, began);
                    told(Ok(()));
                }
                // A write whose answer got lost looks the same: whose it is now decides.
                Err(error) if error.is_conflict() => match call(self.api.get(NAME)).await {
                    Ok(now) if holder(&now) == Some(&self.identity) => lease = now,
                    Ok(_) => return warn!("Another operator leads now"),
                    Err(error) => told(Err(error.to_string())),
                },
                Err(error) => {
                    warn!(%error, "The leader's Lease was not renewed");
                    told(Err(error.to_string()));
                }
            }
            if renewed.elapsed() >= DEADLINE {
                return warn!("The leader's Lease could not be renewed in time");
            }
        }
    }

    /// Gives it back, so that the next one need not wait.
    pub(super) async fn release(&self) {
        let released = async {
            let mut lease = call(self.api.get(NAME)).await?;
            if holder(&lease) == Some(&self.identity) {
                lease.spec.get_or_insert_default().holder_identity = Some(String::new());
                call(self.api.replace(NAME, &PostParams::default(), &lease)).await?;
            }
            Ok::<_, CallError>(())
        };
        if let Err(error) = released.await {
            warn!(%error, "The leader's Lease is left to run out");
        }
    }

    fn written(&self, old: &Lease) -> Lease {
        let before = old.spec.clone().unwrap_or_default();
        let same = before.holder_identity.as_ref() == Some(&self.identity);
        let now = MicroTime(Timestamp::now());
        let transitions = before.lease_transitions.unwrap_or(0);
        Lease {
            metadata: ObjectMeta {
                name: Some(NAME.to_owned()),
                resource_version: old.metadata.resource_version.clone(),
                ..ObjectMeta::default()
            },
            spec: Some(LeaseSpec {
                holder_identity: Some(self.identity.clone()),
                lease_duration_seconds: i32::try_from(DURATION.as_secs()).ok(),
                acquire_time: if same {
                    before.acquire_time
                } else {
                    Some(now.clone())
                },
                renew_time: Some(now),
                lease_transitions: Some(if same { transitions } else { transitions + 1 }),
                ..LeaseSpec::default()
            }),
        }
    }
}

fn holder(lease: &Lease) -> Option<&String> {
    lease.spec.as_ref()?.holder_identity.as_ref()
}

/// Somebody else was first: that is no error.
fn lost_race(written: Result<Lease, CallError>) -> Result<Option<Lease>, CallError> {
    match written {
        Ok(lease) => Ok(Some(lease)),
        Err(error) if error.is_conflict() => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(holder: &str, version: &str) -> Lease {
        Lease {
            metadata: ObjectMeta {
                resource_version: Some(version.to_owned()),
                ..ObjectMeta::default()
            },
            spec: Some(LeaseSpec {
                holder_identity: Some(holder.to_owned()),
                ..LeaseSpec::default()
            }),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_of_another_is_taken_only_when_it_stood_still_for_its_duration_on_our_clock() {
        let mut observed = Observed::default();
        let start = Instant::now();
        let mut look =
            |lease: &Lease, second| observed.look(lease, "me", start + Duration::from_secs(second));
        assert_eq!(look(&lease("other", "1"), 0), Look::Wait);
        assert_eq!(look(&lease("other", "1"), 14), Look::Wait);
        assert_eq!(look(&lease("other", "2"), 15), Look::Wait, "it was renewed");
        assert_eq!(look(&lease("other", "2"), 29), Look::Wait);
        assert_eq!(look(&lease("other", "2"), 30), Look::Take);
    }

    #[test]
    fn a_lease_that_was_given_back_or_is_ours_is_taken_at_once() {
        let mut observed = Observed::default();
        for holder in ["", "me"] {
            assert_eq!(
                observed.look(&lease(holder, "1"), "me", Instant::now()),
                Look::Take
            );
        }
    }
}
