//! How many, how large, how long.

use std::time::Duration;

/// Sizing of a pool (database and user) over all threads and all proxies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workers {
    /// The n-th value is the number of workers kept open for n clients. Never empty.
    pub min_by_clients: Vec<u32>,
    /// Beyond the list: last value + ceil((n - length) / this).
    pub clients_per_worker: u32,
    /// 1 to 10000. Leased and pinned workers do not count for `min_by_clients`, but do here.
    pub max: u32,
    /// Of one database; 0 = no limit.
    pub max_per_database: u32,
    /// Of one user; 0 = no limit.
    pub max_per_user: u32,
    /// Extra workers for clients who wait longer than `reserve_after`.
    pub reserve: u32,
    /// See `reserve`.
    pub reserve_after: Duration,
    /// A worker idle for so long is closed; `None`: never.
    pub idle_timeout: Option<Duration>,
    /// A worker of this age (with 10 % jitter) is replaced; `None`: never.
    pub lifetime: Option<Duration>,
    /// For connecting to a server and logging in there.
    pub connect_timeout: Duration,
    /// Fewer are given out at once while the server's processors are busy and clients wait anyway.
    pub adaptive: bool,
    /// How many statements are in flight on one worker.
    pub pipeline: Pipeline,
}

impl Workers {
    /// How many workers are kept open for so many clients.
    pub fn wanted(&self, clients: u32) -> u32 {
        let length = u32::try_from(self.min_by_clients.len()).unwrap_or(u32::MAX);
        let wanted = match clients.checked_sub(1) {
            None => 0,
            Some(index) => match self.min_by_clients.get(index as usize) {
                Some(count) => *count,
                None => {
                    let last = self.min_by_clients.last().copied().unwrap_or(1);
                    last.saturating_add((clients - length).div_ceil(self.clients_per_worker.max(1)))
                }
            },
        };
        wanted.min(self.max)
    }
}

impl Default for Workers {
    fn default() -> Self {
        Self {
            min_by_clients: vec![1, 1, 2, 2, 2, 2, 3, 3, 3, 3],
            clients_per_worker: 10,
            max: 20,
            max_per_database: 0,
            max_per_user: 0,
            reserve: 0,
            reserve_after: Duration::from_secs(5),
            idle_timeout: Some(Duration::from_secs(24 * 3600)),
            lifetime: Some(Duration::from_secs(3600)),
            connect_timeout: Duration::from_secs(15),
            adaptive: true,
            pipeline: Pipeline::default(),
        }
    }
}

/// Bounds of multiplexing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pipeline {
    /// Requests in the queue of one worker, sent or not; 1 = no multiplexing.
    pub max_depth: u32,
    /// Nothing is queued behind statements expected to take longer than this together.
    pub max_expected_wait: Duration,
    /// Short known reads of one shape that leave together share one Sync, and so one transaction.
    pub join_reads: bool,
}

impl Default for Pipeline {
    fn default() -> Self {
        Self {
            max_depth: 256,
            max_expected_wait: Duration::from_millis(5),
            join_reads: true,
        }
    }
}

/// How many connections of a server are ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Connections left to others.
    pub reserve_connections: u32,
    /// Connections per server; 0 = max_connections minus its reserved ones minus `reserve_connections`.
    pub per_server: u32,
}

impl Default for Budget {
    fn default() -> Self {
        Self {
            reserve_connections: 10,
            per_server: 0,
        }
    }
}

/// Bounds on clients. Counts of 0 are no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Clients of one proxy.
    pub max_clients: u32,
    /// Clients of one user at one proxy.
    pub max_clients_per_user: u32,
    /// Clients of one database at one proxy.
    pub max_clients_per_database: u32,
    /// Prepared statements per client; per worker an LRU of the same size.
    pub max_prepared_statements: usize,
    /// Bytes of one request; larger: 54000, the client stays.
    pub max_query_size: usize,
    /// Bytes of unsent reply per client before its worker stops reading.
    pub client_buffer: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_clients: 10_000,
            max_clients_per_user: 0,
            max_clients_per_database: 0,
            max_prepared_statements: 1_000,
            max_query_size: 64 << 20,
            client_buffer: 256 << 10,
        }
    }
}

/// Bounds on time; `None` = never.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// From accept to the end of the login.
    pub login: Duration,
    /// One statement: 57014.
    pub query: Option<Duration>,
    /// Waiting for a worker: 53300, the session stays.
    pub query_wait: Option<Duration>,
    /// One transaction.
    pub transaction: Option<Duration>,
    /// A transaction whose client sends nothing: 25P03.
    pub idle_in_transaction: Option<Duration>,
    /// A client that sends nothing outside a transaction: 57P05.
    pub client_idle: Option<Duration>,
    /// A client that does not read.
    pub client_write: Option<Duration>,
    /// SIGTERM and switchover: idle clients leave at once, others have this long.
    pub drain: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            login: Duration::from_secs(15),
            query: None,
            query_wait: Some(Duration::from_secs(30)),
            transaction: None,
            idle_in_transaction: Some(Duration::from_secs(300)),
            client_idle: None,
            client_write: Some(Duration::from_secs(60)),
            drain: Duration::from_secs(30),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_grow_by_the_list_and_then_without_a_plateau() {
        let workers = Workers {
            max: 100,
            ..Workers::default()
        };
        let table = [
            (0, 0),
            (1, 1),
            (2, 1),
            (3, 2),
            (10, 3),
            (11, 4),
            (20, 4),
            (21, 5),
            (30, 5),
            (1000, 100),
        ];
        for (clients, wanted) in table {
            assert_eq!(workers.wanted(clients), wanted, "{clients} clients");
        }
    }
}
