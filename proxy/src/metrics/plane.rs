//! The counters of the data threads, summed at the moment of a scrape.

use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;

use crate::plane::{BUCKETS_US, Counters, Histogram, PoolRow};

/// The classes of SQLSTATE in the order of [`Counters::errors`].
const CLASSES: [&str; 5] = ["08", "25", "53", "57", "other"];

/// Connections to servers, by what they do.
#[derive(Debug, Clone, Copy, Default)]
pub struct Workers {
    idle: u64,
    shared: u64,
    leased: u64,
    connecting: u64,
}

impl Workers {
    /// Those of all pools.
    pub fn of(pools: &[PoolRow]) -> Self {
        let sum = |of: fn(&PoolRow) -> usize| pools.iter().map(of).sum::<usize>() as u64;
        Self {
            idle: sum(|pool| pool.workers_idle),
            shared: sum(|pool| pool.workers_shared),
            leased: sum(|pool| pool.workers_leased),
            connecting: sum(|pool| pool.workers_connecting),
        }
    }
}

/// What all data threads counted.
#[derive(Debug)]
pub(super) struct Sum {
    threads: Vec<Arc<Counters>>,
    workers: Workers,
}

impl Sum {
    pub(super) fn of(threads: &[Arc<Counters>], workers: Workers) -> Self {
        Self {
            threads: threads.to_vec(),
            workers,
        }
    }

    fn sum(&self, of: impl Fn(&Counters) -> u64) -> u64 {
        self.threads
            .iter()
            .fold(0, |sum, thread| sum.wrapping_add(of(thread)))
    }

    fn histogram(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
        name: &str,
        help: &str,
        of: impl Fn(&Counters) -> &Histogram,
    ) -> Result<(), std::fmt::Error> {
        let bounds = BUCKETS_US
            .iter()
            .map(|us| *us as f64 / 1e6)
            .chain([f64::INFINITY]);
        let buckets: Vec<(f64, u64)> = bounds
            .enumerate()
            .map(|(index, bound)| (bound, self.sum(|thread| of(thread).buckets[index].read())))
            .collect();
        let count = buckets.iter().map(|(_, count)| count).sum();
        let seconds = self.sum(|thread| of(thread).sum_us.read()) as f64 / 1e6;
        encoder
            .encode_descriptor(name, help, Some(&Unit::Seconds), MetricType::Histogram)?
            .encode_histogram::<NoLabelSet>(seconds, count, &buckets, None)
    }
}

impl Collector for Sum {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let gauges = [
            ("clients", "Clients being served", self.sum(|c| c.clients.read())),
            (
                "clients_waiting",
                "Requests that wait for a worker",
                self.sum(|c| c.waiting.read()),
            ),
        ];
        for (name, help, value) in gauges {
            ConstGauge::new(value).encode(encoder.encode_descriptor(
                name,
                help,
                None,
                MetricType::Gauge,
            )?)?;
        }
        let mut family = encoder.encode_descriptor(
            "workers",
            "Connections to servers, by state",
            None,
            MetricType::Gauge,
        )?;
        let Workers {
            idle,
            shared,
            leased,
            connecting,
        } = self.workers;
        for (state, count) in [
            ("idle", idle),
            ("shared", shared),
            ("leased", leased),
            ("connecting", connecting),
        ] {
            ConstGauge::new(count).encode(family.encode_family(&[("state", state)])?)?;
        }
        let counted = [
            ("logins", "Clients that logged in", self.sum(|c| c.logins.read())),
            (
                "repeats",
                "Reads that were run again elsewhere",
                self.sum(|c| c.repeats.read()),
            ),
            (
                "joined_reads",
                "Reads that shared the transaction of one behind them",
                self.sum(|c| c.reads_joined.read()),
            ),
            (
                "early_ends",
                "Transactions that only read, ended ahead of the server",
                self.sum(|c| c.ended_early.read()),
            ),
            (
                "server_errors",
                "Errors of servers that were passed on",
                self.sum(|c| c.server_errors.read()),
            ),
            (
                "cancels",
                "CancelRequests that found their target",
                self.sum(|c| c.cancels.read()),
            ),
            (
                "connects",
                "Connections to servers that were opened",
                self.sum(|c| c.connects.read()),
            ),
            (
                "connect_failures",
                "Connections to servers that failed",
                self.sum(|c| c.connect_failures.read()),
            ),
            (
                "misfits",
                "Workers closed for an answer nobody asked",
                self.sum(|c| c.misfits.read()),
            ),
            (
                "received_bytes",
                "Bytes from clients",
                self.sum(|c| c.bytes_in.read()),
            ),
            ("sent_bytes", "Bytes to clients", self.sum(|c| c.bytes_out.read())),
        ];
        for (name, help, value) in counted {
            ConstCounter::new(value).encode(encoder.encode_descriptor(
                name,
                help,
                None,
                MetricType::Counter,
            )?)?;
        }
        let mut family = encoder.encode_descriptor(
            "requests",
            "Requests, by how they were run",
            None,
            MetricType::Counter,
        )?;
        let kinds = [
            ("shared", self.sum(|c| c.requests_shared.read())),
            ("leased", self.sum(|c| c.requests_leased.read())),
            ("local", self.sum(|c| c.requests_local.read())),
        ];
        for (kind, count) in kinds {
            ConstCounter::new(count).encode(family.encode_family(&[("kind", kind)])?)?;
        }
        let help = "Errors this proxy made, by class of SQLSTATE";
        let mut family = encoder.encode_descriptor("errors", help, None, MetricType::Counter)?;
        for (index, class) in CLASSES.into_iter().enumerate() {
            let count = self.sum(|c| c.errors[index].read());
            ConstCounter::new(count).encode(family.encode_family(&[("class", class)])?)?;
        }
        self.histogram(
            &mut encoder,
            "queue_wait",
            "Time a request waited for a worker",
            |c| &c.queue_wait,
        )?;
        self.histogram(
            &mut encoder,
            "service",
            "Time from a request's start on a server to its end",
            |c| &c.service,
        )
    }
}
