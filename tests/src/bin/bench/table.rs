//! Samples, their medians, and ratios between peers.

use std::collections::BTreeMap;

use pgstmtpool_tests::median;

use crate::measure::Sample;

/// All samples: by workload and peer.
#[derive(Debug, Default)]
pub(crate) struct Samples {
    taken: BTreeMap<(&'static str, &'static str), Vec<Sample>>,
    failed: BTreeMap<(&'static str, &'static str), String>,
}

/// A figure of a sample.
pub(crate) type Figure = fn(&Sample) -> f64;

/// Statements a second.
pub(crate) const TPS: Figure = |s| s.tps;
/// CPU of the peer.
pub(crate) const CPU: Figure = |s| s.cpu_us;
/// CPU of the server.
pub(crate) const SERVER: Figure = |s| s.server_us;
/// The median latency.
pub(crate) const P50: Figure = |s| s.p50;
/// The 99th percentile.
pub(crate) const P99: Figure = |s| s.p99;

/// A ratio of two peers: of the medians, and the least and greatest of the rounds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ratio {
    /// Of the medians.
    pub(crate) median: f64,
    /// The least of all rounds.
    pub(crate) least: f64,
    /// The greatest.
    pub(crate) greatest: f64,
}

impl Samples {
    /// Takes in what a run gave.
    pub(crate) fn add(&mut self, workload: &'static str, peer: &'static str, taken: Result<Sample, String>) {
        let key = (workload, peer);
        match taken {
            Ok(sample) => self.taken.entry(key).or_default().push(sample),
            Err(fault) => {
                self.failed.insert(key, fault);
            }
        }
    }

    /// The median of a figure.
    pub(crate) fn median(&self, workload: &'static str, peer: &'static str, of: Figure) -> Option<f64> {
        let all: Vec<f64> = self.taken.get(&(workload, peer))?.iter().map(of).collect();
        Some(median(&all))
    }

    /// How a peer stands to another.
    pub(crate) fn ratio(
        &self,
        workload: &'static str,
        peer: &'static str,
        to: &'static str,
        of: Figure,
    ) -> Option<Ratio> {
        let (own, other) = (
            self.taken.get(&(workload, peer))?,
            self.taken.get(&(workload, to))?,
        );
        let rounds: Vec<f64> = own.iter().zip(other).map(|(a, b)| of(a) / of(b)).collect();
        let median = self.median(workload, peer, of)? / self.median(workload, to, of)?;
        median.is_finite().then_some(Ratio {
            median,
            least: rounds.iter().copied().fold(median, f64::min),
            greatest: rounds.iter().copied().fold(median, f64::max),
        })
    }

    /// Why a peer could not run a workload, the last time it could not.
    pub(crate) fn failure(&self, workload: &'static str, peer: &'static str) -> Option<&str> {
        self.failed.get(&(workload, peer)).map(String::as_str)
    }

    /// Workloads a peer failed in.
    pub(crate) fn failed_of(&self, peer: &str) -> Vec<(&'static str, &str)> {
        let own = self.failed.iter().filter(|((_, name), _)| *name == peer);
        own.map(|((workload, _), why)| (*workload, why.as_str()))
            .collect()
    }
}
