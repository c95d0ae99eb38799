//! Counters of one data thread. One writer, many readers: plain loads and stores, no lock prefix.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A number only its own thread changes and any thread reads.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`. Only the owning thread may call it.
    #[inline]
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }
    /// Takes `n` off (gauges). Only the owning thread may call it.
    #[inline]
    pub fn sub(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_sub(n), Relaxed);
    }
    /// Sets it. Only the owning thread may call it.
    #[inline]
    pub fn set(&self, n: u64) {
        self.0.store(n, Relaxed);
    }
    /// What it is now.
    #[must_use]
    pub fn read(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Upper bounds of the duration histograms, in microseconds; one bucket more takes the rest.
pub const BUCKETS_US: [u64; 14] = [
    50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 100_000, 250_000, 1_000_000, 5_000_000,
    30_000_000,
];

/// A histogram of durations.
#[derive(Debug, Default)]
pub struct Histogram {
    /// Count per bucket of [`BUCKETS_US`] and the rest.
    pub buckets: [Counter; BUCKETS_US.len() + 1],
    /// Sum in microseconds.
    pub sum_us: Counter,
}

impl Histogram {
    /// Records one duration.
    #[inline]
    pub fn observe(&self, duration: std::time::Duration) {
        let us = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        let bucket = BUCKETS_US
            .iter()
            .position(|bound| us <= *bound)
            .unwrap_or(BUCKETS_US.len());
        self.buckets[bucket].add(1);
        self.sum_us.add(us);
    }
}

/// What one data thread counts.
#[derive(Debug, Default)]
pub struct Counters {
    /// Gauge: clients served now.
    pub clients: Counter,
    /// Gauge: requests waiting for a worker.
    pub waiting: Counter,
    /// Gauge: workers connected.
    pub workers: Counter,
    /// Gauge: workers leased or pinned.
    pub workers_leased: Counter,
    /// Clients ever logged in.
    pub logins: Counter,
    /// Requests that ran in a shared queue.
    pub requests_shared: Counter,
    /// Of these, reads that shared the Sync of one behind them.
    pub reads_joined: Counter,
    /// Transactions whose end was answered ahead of the server: they only read.
    pub ended_early: Counter,
    /// Requests that ran on a worker held alone.
    pub requests_leased: Counter,
    /// Requests the proxy answered itself.
    pub requests_local: Counter,
    /// Reads run again elsewhere (overrun, death of a worker).
    pub repeats: Counter,
    /// Errors the proxy made, by class of SQLSTATE: 08, 25, 53, 57, others.
    pub errors: [Counter; 5],
    /// Error answers of servers that were passed on.
    pub server_errors: Counter,
    /// CancelRequests that found their target.
    pub cancels: Counter,
    /// Worker connections opened.
    pub connects: Counter,
    /// Worker connections that failed.
    pub connect_failures: Counter,
    /// Workers closed because they answered what nobody asked.
    pub misfits: Counter,
    /// Bytes from clients.
    pub bytes_in: Counter,
    /// Bytes to clients.
    pub bytes_out: Counter,
    /// Time requests waited for a worker.
    pub queue_wait: Histogram,
    /// Time from a request's start on a server to its end.
    pub service: Histogram,
}

impl Counters {
    /// Counts an error the proxy made by the class of its SQLSTATE. Only the owning thread may call it.
    pub(super) fn error(&self, code: pgnet::sqlstate::SqlState) {
        let class = match &code.as_str().as_bytes()[..2] {
            b"08" => 0,
            b"25" => 1,
            b"53" => 2,
            b"57" => 3,
            _ => 4,
        };
        self.errors[class].add(1);
    }
}
