//! Which proxies the Services lead to, and how many are ready.
//!
//! A pod whose machine is cut off stays in its Service until the control plane has given the machine up, most of a minute by
//! default. Its Lease is silent long before: its label is taken away, and the Services lead to the others. Never the last one.

use super::caretaker::MANAGER;
use super::children;
use crate::pool::ProxyPods;
use cluster::kube::{KubeSource, call, follow_all};
use cluster::{ClusterSource, ProxyReport};
use crds::status::{EventRecord, EventType};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tracing::{info, warn};

/// The label by which the Services find proxies.
pub(super) const SERVING_LABEL: &str = "pgstmtpool.io/serving";
/// A proxy speaks up every three seconds: two words that did not come, and some.
const SILENT: Duration = Duration::from_secs(7);
/// How often it is looked at.
const LOOK: Duration = Duration::from_secs(1);

/// See the module.
pub(super) struct Serving {
    pub(super) client: Client,
    pub(super) source: Arc<KubeSource>,
    pub(super) events: mpsc::UnboundedSender<EventRecord>,
    /// What is seen; `None`: not looked yet.
    pub(super) seen: watch::Sender<Option<ProxyPods>>,
}

/// What matters of a proxy's pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Proxy {
    ready: bool,
    leaving: bool,
    label: Option<String>,
}

impl Serving {
    /// Looks after it until the future is dropped.
    pub(super) async fn run(self) {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), self.source.namespace());
        let (sender, pods) = watch::channel(None);
        let selector = children::selector(self.source.pool());
        tokio::select! {
            () = follow_all(api.clone(), &selector, |pods| {
                let pods = pods.iter().map(|(name, pod)| (name.clone(), proxy(pod)));
                sender.send_replace(Some(pods.collect()));
            }) => {}
            () = self.look_after(&api, pods) => {}
        }
    }

    async fn look_after(&self, api: &Api<Pod>, mut pods: watch::Receiver<Option<BTreeMap<String, Proxy>>>) {
        let mut heard = Heard::default();
        loop {
            let known = pods.borrow_and_update().clone();
            if let (Some(pods), Some((config, _))) = (known, self.source.view()) {
                let now = Instant::now();
                heard.take(&self.source.proxies().await.unwrap_or_default(), now);
                if config.proxy.managed {
                    for (pod, serves) in heard.changes(&pods, now) {
                        self.label(api, &pod, serves, pods[&pod].label.is_some()).await;
                    }
                }
                let counts = heard.count(&pods, config.proxy.replicas, now);
                self.seen
                    .send_if_modified(|seen| seen.replace(counts) != Some(counts));
            }
            tokio::select! {
                _ = pods.changed() => {}
                () = tokio::time::sleep(LOOK) => {}
            }
        }
    }

    async fn label(&self, api: &Api<Pod>, pod: &str, serves: bool, tell: bool) {
        let label = json!({ "metadata": { "labels": { SERVING_LABEL: serves.to_string() } } });
        let params = PatchParams {
            field_manager: Some(MANAGER.to_owned()),
            ..PatchParams::default()
        };
        match call(api.patch_metadata(pod, &params, &Patch::Merge(label))).await {
            Ok(_) if tell => self.tell(pod, serves),
            Ok(_) => {}
            Err(error) if error.is_missing() => {}
            Err(error) => warn!(pod, %error, "Not labelled"),
        }
    }

    fn tell(&self, pod: &str, serves: bool) {
        let (kind, reason, message) = match serves {
            true => (
                EventType::Normal,
                "ProxyHeard",
                "is heard of again: back in the Services",
            ),
            false => (
                EventType::Warning,
                "ProxySilent",
                "did not renew its Lease: out of the Services while others serve",
            ),
        };
        let message = format!("proxy {pod} {message}");
        info!(pool = self.source.pool(), reason, "{message}");
        let record = EventRecord {
            time: crds::units::rfc3339(SystemTime::now()),
            kind,
            reason: reason.to_owned(),
            message,
            epoch: 0,
        };
        let _ = self.events.send(record); // it fails only at the very end
    }
}

fn proxy(pod: &Pod) -> Proxy {
    let status = pod.status.as_ref();
    let mut conditions = status
        .and_then(|status| status.conditions.as_ref())
        .into_iter()
        .flatten();
    let labels = pod.metadata.labels.as_ref();
    Proxy {
        ready: conditions.any(|condition| condition.type_ == "Ready" && condition.status == "True"),
        leaving: pod.metadata.deletion_timestamp.is_some(),
        label: labels.and_then(|labels| labels.get(SERVING_LABEL).cloned()),
    }
}

/// When each proxy's Lease changed last, on our clock.
#[derive(Debug, Default)]
struct Heard {
    last: BTreeMap<String, (u64, Instant)>,
}

impl Heard {
    fn take(&mut self, reports: &[ProxyReport], now: Instant) {
        let mut old = std::mem::take(&mut self.last);
        for report in reports {
            let since = match old.remove(&report.id) {
                Some((renewal, since)) if renewal == report.renewal => since,
                _ => now,
            };
            self.last.insert(report.id.clone(), (report.renewal, since));
        }
    }

    /// One without a Lease has not begun: its probe keeps it out.
    fn is_silent(&self, name: &str, now: Instant) -> bool {
        let last = self.last.get(name);
        last.is_some_and(|(_, since)| now.saturating_duration_since(*since) >= SILENT)
    }

    fn works(&self, name: &str, proxy: &Proxy, now: Instant) -> bool {
        proxy.ready && !proxy.leaving && self.last.contains_key(name) && !self.is_silent(name, now)
    }

    /// Pods whose label is not what it should be, and what that is.
    fn changes(&self, pods: &BTreeMap<String, Proxy>, now: Instant) -> Vec<(String, bool)> {
        // Where none is heard of it may be us who hear nothing.
        let others = pods.iter().any(|(name, proxy)| self.works(name, proxy, now));
        let stay = pods.iter().filter(|(_, proxy)| !proxy.leaving);
        let changes = stay.filter_map(|(name, proxy)| {
            let label = proxy.label.as_deref();
            let serves = match self.is_silent(name, now) {
                true if others => false,
                true if label.is_some() => return None,
                _ => true,
            };
            (label != Some(if serves { "true" } else { "false" })).then(|| (name.clone(), serves))
        });
        changes.collect()
    }

    fn count(&self, pods: &BTreeMap<String, Proxy>, wanted: Option<u32>, now: Instant) -> ProxyPods {
        let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        let there = count(pods.values().filter(|proxy| !proxy.leaving).count());
        ProxyPods {
            ready: count(
                pods.iter()
                    .filter(|(name, proxy)| self.works(name, proxy, now))
                    .count(),
            ),
            wanted: wanted.unwrap_or(there),
            there,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ready(label: &str) -> Proxy {
        Proxy {
            ready: true,
            leaving: false,
            label: (!label.is_empty()).then(|| label.to_owned()),
        }
    }

    fn report(id: &str, renewal: u64) -> ProxyReport {
        ProxyReport {
            id: id.to_owned(),
            renewal,
            ..ProxyReport::default()
        }
    }

    fn pods(labels: [&str; 2]) -> BTreeMap<String, Proxy> {
        [
            ("a".to_owned(), ready(labels[0])),
            ("b".to_owned(), ready(labels[1])),
        ]
        .into()
    }

    #[test]
    fn a_silent_proxy_leaves_the_services_and_comes_back_when_it_is_heard() {
        let (start, mut heard) = (Instant::now(), Heard::default());
        heard.take(&[report("a", 1), report("b", 1)], start);
        let all = pods(["true", "true"]);
        assert_eq!(heard.changes(&all, start), []);
        let later = start + SILENT;
        heard.take(&[report("a", 1), report("b", 2)], later);
        assert_eq!(heard.changes(&all, later), [("a".to_owned(), false)]);
        assert_eq!(
            heard.count(&all, Some(2), later),
            ProxyPods {
                ready: 1,
                wanted: 2,
                there: 2
            }
        );
        let all = pods(["false", "true"]);
        assert_eq!(heard.changes(&all, later), []);
        heard.take(&[report("a", 2), report("b", 2)], later);
        assert_eq!(heard.changes(&all, later), [("a".to_owned(), true)]);
    }

    #[test]
    fn where_nobody_is_heard_of_nobody_is_taken_out_or_brought_back() {
        let (start, mut heard) = (Instant::now(), Heard::default());
        heard.take(&[report("a", 1), report("b", 1)], start);
        let later = start + SILENT;
        assert_eq!(heard.changes(&pods(["true", "true"]), later), []);
        assert_eq!(heard.changes(&pods(["false", "true"]), later), []);
    }

    #[test]
    fn a_pod_of_an_older_template_gets_the_label_and_one_that_leaves_is_left_alone() {
        let (now, heard) = (Instant::now(), Heard::default());
        let mut all = pods(["", "true"]);
        assert_eq!(heard.changes(&all, now), [("a".to_owned(), true)]);
        for proxy in all.values_mut() {
            proxy.leaving = true;
        }
        assert_eq!(heard.changes(&all, now), []);
    }
}
