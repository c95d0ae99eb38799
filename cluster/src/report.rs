//! What each proxy writes: the epoch it has acknowledged, and what it sees of the servers.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// A proxy whose report did not change for so long may have lost its Lease.
pub const LEASE_DURATION: Duration = Duration::from_secs(10);
/// How often a proxy renews its report.
pub const LEASE_RENEWAL: Duration = Duration::from_secs(3);

/// What one proxy acknowledges and sees. The fields of its Lease.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ProxyReport {
    /// Unique: letters, digits, `.`, `-`, `_`, at most 100 (it is a file name).
    pub id: String,
    /// No connection of an older epoch than this is open any more (or it is drained, while paused).
    pub acked_epoch: u64,
    /// Paused or fenced at `acked_epoch`: nothing is in flight at the master any more.
    pub drained: bool,
    /// The number of the budget whose share it keeps to.
    pub budget_number: u64,
    /// What it sees of the master of its epoch.
    pub master_probe: MasterProbe,
    /// What it sees of the replicas.
    pub replicas: Vec<Witness>,
    /// Clients that are connected.
    pub clients: u32,
    /// Clients that wait for a worker.
    pub waiting: u32,
    /// Its own version.
    pub version: String,
    /// The number that is the first byte of the cancel keys it gives out; unique among the living proxies.
    pub proxy_number: u8,
    /// Where the other proxies reach it (`host:port` or the path of a Unix socket); empty: nowhere.
    pub peer_address: String,
    /// Since when it runs, RFC 3339.
    pub started_at: String,
    /// Counts renewals; set by the source. The reader sees that it lives by this changing, never by a wall clock.
    pub renewal: u64,
}

/// What a proxy sees of the master.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct MasterProbe {
    /// The server it means.
    pub name: String,
    /// Successful probes in a row.
    pub ok: u32,
    /// Failed probes in a row.
    pub fails: u32,
    /// The last failure was a refused connection: the process is down, strong evidence.
    pub refused: bool,
    /// The last failure, for people; empty: none.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub error: String,
}

/// What a proxy sees of a replica.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Witness {
    /// The replica.
    pub name: String,
    /// Whether it answered.
    pub reachable: bool,
    /// Whether it streams from the master of this proxy's epoch, on its timeline.
    pub streaming: bool,
    /// Its timeline; 0: not known.
    pub timeline: u32,
}

/// How old the report of a proxy is by the reader's own clock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Age {
    /// The report.
    pub report: ProxyReport,
    /// Since this reader last saw it change. A first sight counts as a change: nobody knows how old it was.
    pub age: Duration,
}

impl Age {
    /// Whether the proxy may count as stopped, given how long a stopped one can go on at most.
    pub fn expired(&self, bound: Duration) -> bool {
        self.age > bound
    }
}

/// Judges the age of reports by the reader's own monotonic clock, as Leases are judged.
#[derive(Debug, Default)]
pub struct LeaseWatch {
    seen: HashMap<String, (ProxyReport, Instant)>,
}

impl LeaseWatch {
    /// Takes what was just read. A report that is gone was withdrawn: that proxy has stopped.
    pub fn observe(&mut self, reports: Vec<ProxyReport>, now: Instant) -> Vec<Age> {
        self.seen
            .retain(|id, _| reports.iter().any(|report| report.id == *id));
        let ages = reports.into_iter().map(|report| {
            let changed_at = match self.seen.get(&report.id) {
                Some((old, changed_at)) if *old == report => *changed_at,
                _ => now,
            };
            self.seen.insert(report.id.clone(), (report.clone(), changed_at));
            Age {
                report,
                age: now.saturating_duration_since(changed_at),
            }
        });
        ages.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_as_old_as_its_last_change_by_the_readers_clock() {
        let mut watch = LeaseWatch::default();
        let start = Instant::now();
        let report = |renewal| ProxyReport {
            id: "p1".into(),
            renewal,
            ..ProxyReport::default()
        };
        let mut age = |renewal, second| {
            let now = start + Duration::from_secs(second);
            watch.observe(vec![report(renewal)], now)[0].age
        };
        assert_eq!(age(7, 0), Duration::ZERO);
        assert_eq!(age(7, 4), Duration::from_secs(4));
        assert_eq!(age(8, 5), Duration::ZERO);
        // A proxy that began anew counts from the start: any change is a sign of life.
        assert_eq!(age(1, 6), Duration::ZERO);
        assert_eq!(age(1, 20), Duration::from_secs(14));
    }

    #[test]
    fn a_withdrawn_report_is_forgotten() {
        let mut watch = LeaseWatch::default();
        let start = Instant::now();
        let report = ProxyReport {
            id: "p1".into(),
            ..ProxyReport::default()
        };
        watch.observe(vec![report.clone()], start);
        assert!(watch.observe(Vec::new(), start).is_empty());
        let later = start + Duration::from_secs(60);
        assert_eq!(watch.observe(vec![report], later)[0].age, Duration::ZERO);
    }
}
