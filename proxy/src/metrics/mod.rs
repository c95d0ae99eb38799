//! What `/metrics` tells.
//!
//! Two sources: [`Edge`], counted here at the doors, and the counters of the data threads, which are summed when they
//! are read. Labels come from closed sets; never from names or texts of clients. Begin at [`encode`].

mod edge;
mod plane;

use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use crate::plane::Counters;

pub use edge::{Edge, InLogin, Refusal};
pub use plane::Workers;

/// The prefix of every name.
const PREFIX: &str = "pgstmtpool";

/// What the control loop knows at the time of a scrape.
#[derive(Debug, Clone, Copy, Default)]
pub struct Facts {
    /// The epoch this proxy follows.
    pub epoch: u64,
    /// Whether requests are served: the mode is Open and a master is known.
    pub open: bool,
    /// Whether the last probe of the master was answered.
    pub master_reachable: bool,
    /// Consecutive probes of the master that failed.
    pub master_fails: u64,
    /// Read-eligible replicas.
    pub replicas: u64,
}

/// The whole text of a scrape, in the format of OpenMetrics.
///
/// # Errors
/// Never in practice: writing to a string cannot fail.
pub fn encode(
    edge: &Edge,
    facts: Facts,
    counters: &[std::sync::Arc<Counters>],
    workers: Workers,
) -> Result<String, std::fmt::Error> {
    let mut registry = Registry::with_prefix(PREFIX);
    registry.register(
        "build",
        "The program",
        Info::new([("version", env!("CARGO_PKG_VERSION"))]),
    );
    let gauges = [
        ("epoch", "The epoch this proxy follows", facts.epoch),
        (
            "open",
            "1: requests for the master are served, 0: they are held",
            u64::from(facts.open),
        ),
        (
            "master_reachable",
            "1: the last probe of the master was answered",
            u64::from(facts.master_reachable),
        ),
        (
            "master_probe_fails",
            "Consecutive probes of the master that failed",
            facts.master_fails,
        ),
        ("replicas", "Replicas that may take reads", facts.replicas),
        (
            "clients_in_login",
            "Clients that have not logged in yet",
            edge.in_login(),
        ),
    ];
    for (name, help, value) in gauges {
        registry.register(name, help, ConstGauge::new(value));
    }
    let counted = [
        (
            "auth_lookups",
            "Look-ups of verifiers on the master",
            edge.lookups.read(),
        ),
        (
            "auth_lookup_failures",
            "Look-ups that could not be answered",
            edge.lookup_failures.read(),
        ),
        (
            "cancels_forwarded",
            "CancelRequests handed to another proxy",
            edge.cancels_forwarded.read(),
        ),
    ];
    for (name, help, value) in counted {
        registry.register(name, help, ConstCounter::new(value));
    }
    registry.register_collector(Box::new(edge.refusals()));
    registry.register_collector(Box::new(plane::Sum::of(counters, workers)));
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;

    fn scrape(edge: &Edge, counters: &[Arc<Counters>]) -> String {
        encode(
            edge,
            Facts {
                epoch: 7,
                open: true,
                ..Facts::default()
            },
            counters,
            Workers::default(),
        )
        .unwrap()
    }

    #[test]
    fn counters_of_all_threads_are_added() {
        let threads = [Arc::new(Counters::default()), Arc::new(Counters::default())];
        threads[0].logins.add(2);
        threads[1].logins.add(3);
        threads[1].errors[2].add(4);
        let text = scrape(&Edge::default(), &threads);
        assert!(text.contains("pgstmtpool_logins_total 5\n"), "{text}");
        assert!(
            text.contains("pgstmtpool_errors_total{class=\"53\"} 4\n"),
            "{text}"
        );
        assert!(text.contains("pgstmtpool_epoch 7\n"), "{text}");
    }

    #[test]
    fn histograms_are_cumulative_and_in_seconds() {
        let thread = Arc::new(Counters::default());
        thread.queue_wait.observe(Duration::from_micros(80));
        thread.queue_wait.observe(Duration::from_secs(100));
        let text = scrape(&Edge::default(), &[thread]);
        for line in [
            "pgstmtpool_queue_wait_seconds_bucket{le=\"0.0001\"} 1\n",
            "pgstmtpool_queue_wait_seconds_bucket{le=\"30.0\"} 1\n",
            "pgstmtpool_queue_wait_seconds_bucket{le=\"+Inf\"} 2\n",
            "pgstmtpool_queue_wait_seconds_count 2\n",
        ] {
            assert!(text.contains(line), "{line}{text}");
        }
    }

    #[test]
    fn a_login_in_progress_is_counted_until_its_guard_is_gone() {
        let edge = Arc::new(Edge::default());
        let guard = edge.enter(1);
        assert!(guard.is_some());
        assert!(edge.enter(1).is_none(), "the bound holds");
        drop(guard);
        assert!(edge.enter(1).is_some());
        edge.refused(Refusal::Password);
        assert!(scrape(&edge, &[]).contains("pgstmtpool_logins_refused_total{reason=\"password\"} 1\n"));
    }

    #[test]
    fn every_metric_has_a_help_text_and_the_text_ends_properly() {
        let text = scrape(&Edge::default(), &[]);
        assert!(text.ends_with("# EOF\n"), "{text}");
        let types = text.lines().filter(|line| line.starts_with("# TYPE")).count();
        let helps = text.lines().filter(|line| line.starts_with("# HELP")).count();
        assert_eq!(types, helps);
    }
}
