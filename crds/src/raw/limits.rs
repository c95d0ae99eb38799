//! How many, how large, how long; for the pool and for single databases and users.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{DurationText, SizeText};
use crate::PoolMode;

/// How many workers (connections to a server) a pool has: per database and user, over all threads and all proxies.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Workers {
    /// The n-th value is the number of workers kept open for n clients; more start on demand, up to max. 1 to 100
    /// values of 0 to 10000.
    #[schemars(length(min = 1, max = 100), inner(range(min = 0, max = 10000)))]
    pub min_by_clients: Vec<i64>,
    /// Beyond the list: last value + ceil((n - length) / this). 1 to 10000.
    #[schemars(range(min = 1, max = 10000))]
    pub clients_per_worker: i64,
    /// At most so many, 1 to 10000. Leased and pinned workers do not count for minByClients, but do here.
    #[schemars(range(min = 1, max = 10000))]
    pub max: i64,
    /// At most so many for one database, all its users together, 0 to 10000. 0 = no limit.
    #[schemars(range(min = 0, max = 10000))]
    pub max_per_database: i64,
    /// At most so many for one user, in all databases together, 0 to 10000. 0 = no limit.
    #[schemars(range(min = 0, max = 10000))]
    pub max_per_user: i64,
    /// Extra workers for clients who wait longer than reserveAfter, 0 to 10000.
    #[schemars(range(min = 0, max = 10000))]
    pub reserve: i64,
    /// See reserve. 0s to 1h.
    pub reserve_after: DurationText,
    /// A worker idle for so long is closed. 0s = never.
    pub idle_timeout: DurationText,
    /// A worker of this age, with 10 % jitter, is replaced. 0s = never, else at least 1s.
    pub lifetime: DurationText,
    /// For connecting to a server and logging in there. 10ms to 10m.
    pub connect_timeout: DurationText,
    /// While the server confirms late what costs it nothing, because its processors are busy, and clients wait anyway, fewer workers
    /// are given out at once to clients that want one for themselves: down to 10, or half of them if that is less. false = always all.
    pub adaptive: bool,
    /// How many statements are in flight on one worker.
    pub pipeline: Pipeline,
}

impl Default for Workers {
    fn default() -> Self {
        let default = crate::Workers::default();
        Self {
            min_by_clients: default.min_by_clients.into_iter().map(i64::from).collect(),
            clients_per_worker: default.clients_per_worker.into(),
            max: default.max.into(),
            max_per_database: default.max_per_database.into(),
            max_per_user: default.max_per_user.into(),
            reserve: default.reserve.into(),
            reserve_after: default.reserve_after.into(),
            idle_timeout: default.idle_timeout.into(),
            lifetime: default.lifetime.into(),
            connect_timeout: default.connect_timeout.into(),
            adaptive: default.adaptive,
            pipeline: Pipeline::default(),
        }
    }
}

/// Bounds of multiplexing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Pipeline {
    /// Statements in flight on one worker, 1 to 1000. 1 = no multiplexing.
    #[schemars(range(min = 1, max = 1000))]
    pub max_depth: i64,
    /// Nothing is queued behind statements expected to take longer than this together. 0s to 10s.
    pub max_expected_wait: DurationText,
    /// Short reads of one shape that leave for a server together share one Sync, and so one transaction of the server: half the work for it.
    /// Only known reads, only where the isolation level is read committed. false = a transaction each.
    pub join_reads: bool,
}

impl Default for Pipeline {
    fn default() -> Self {
        let default = crate::Pipeline::default();
        Self {
            max_depth: default.max_depth.into(),
            max_expected_wait: default.max_expected_wait.into(),
            join_reads: default.join_reads,
        }
    }
}

/// How many connections of each server are for the proxies, shared out evenly. A new one gets its share when the others have let go of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Budget {
    /// Connections left to others, 0 to 100000. A proxy that has just begun uses one of them until it has its share.
    #[schemars(range(min = 0, max = 100_000))]
    pub reserve_connections: i64,
    /// Connections per server, 0 to 100000. 0 = max_connections of the server minus its reserved ones minus
    /// reserveConnections.
    #[schemars(range(min = 0, max = 100_000))]
    pub per_server: i64,
}

impl Default for Budget {
    fn default() -> Self {
        let default = crate::Budget::default();
        Self {
            reserve_connections: default.reserve_connections.into(),
            per_server: default.per_server.into(),
        }
    }
}

/// Bounds on clients.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Limits {
    /// Clients per proxy, 1 to 1000000. More: 53300.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub max_clients: i64,
    /// Clients of one user per proxy, 0 to 1000000. 0 = no limit.
    #[schemars(range(min = 0, max = 1_000_000))]
    pub max_clients_per_user: i64,
    /// Clients of one database per proxy, 0 to 1000000. 0 = no limit.
    #[schemars(range(min = 0, max = 1_000_000))]
    pub max_clients_per_database: i64,
    /// Prepared statements per client, 1 to 1000000; per worker an LRU of the same size.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub max_prepared_statements: i64,
    /// A larger request gets 54000, the client stays. 1KiB to 1GiB.
    pub max_query_size: SizeText,
    /// Unsent reply per client before its worker stops reading. 4KiB to 1GiB.
    pub client_buffer: SizeText,
}

impl Default for Limits {
    fn default() -> Self {
        let default = crate::Limits::default();
        let count = |value: usize| i64::try_from(value).unwrap_or(i64::MAX);
        Self {
            max_clients: default.max_clients.into(),
            max_clients_per_user: default.max_clients_per_user.into(),
            max_clients_per_database: default.max_clients_per_database.into(),
            max_prepared_statements: count(default.max_prepared_statements),
            max_query_size: (default.max_query_size as u64).into(),
            client_buffer: (default.client_buffer as u64).into(),
        }
    }
}

/// Bounds on time. 0s = never, unless said otherwise.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Timeouts {
    /// From accept (when the client has spoken, or has been silent for a second) to the end of the login. 100ms to 10m.
    pub login: DurationText,
    /// One statement: 57014.
    pub query: DurationText,
    /// Waiting for a worker: 53300, the session stays.
    pub query_wait: DurationText,
    /// One transaction: 25P04.
    pub transaction: DurationText,
    /// A transaction whose client sends nothing: 25P03.
    pub idle_in_transaction: DurationText,
    /// A client that sends nothing outside a transaction: 57P05.
    pub client_idle: DurationText,
    /// A client that does not read.
    pub client_write: DurationText,
    /// SIGTERM: idle clients leave at once, others have this long. 0s to 24h; 0s = at once.
    pub drain: DurationText,
}

impl Default for Timeouts {
    fn default() -> Self {
        let default = crate::Timeouts::default();
        Self {
            login: default.login.into(),
            query: default.query.into(),
            query_wait: default.query_wait.into(),
            transaction: default.transaction.into(),
            idle_in_transaction: default.idle_in_transaction.into(),
            client_idle: default.client_idle.into(),
            client_write: default.client_write.into(),
            drain: default.drain.into(),
        }
    }
}

/// Settings of one database.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["name"]))]
pub struct Database {
    /// The name clients ask for. Required, unique.
    #[schemars(required, length(min = 1, max = 63))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Its name on the servers. Absent: the same.
    #[schemars(length(min = 1, max = 63))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_name: Option<String>,
    /// As spec.poolMode.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pool_mode: Option<PoolMode>,
    /// As spec.workers: max of each pool, and maxTotal of all together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workers: Option<WorkersOverride>,
    /// As spec.limits; maxClients is of this database.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limits: Option<LimitsOverride>,
    /// As spec.timeouts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeouts: Option<TimeoutsOverride>,
    /// Users of this database with settings of their own.
    #[schemars(length(max = 256))]
    pub users: Vec<User>,
}

/// Settings of one user.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["name"]))]
pub struct User {
    /// The user. Required, unique in its list.
    #[schemars(required, length(min = 1, max = 63))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// As spec.poolMode.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pool_mode: Option<PoolMode>,
    /// As spec.workers: max of each pool, and maxTotal of all together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workers: Option<WorkersOverride>,
    /// As spec.limits; maxClients is of this user.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limits: Option<LimitsOverride>,
    /// As spec.timeouts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeouts: Option<TimeoutsOverride>,
}

/// Workers of one database or user.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct WorkersOverride {
    /// As spec.workers.max.
    #[schemars(range(min = 1, max = 10000))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max: Option<i64>,
    /// At most so many for this database, all its users together, or this user, in all databases together, 0 to 10000. 0 =
    /// no limit.
    #[schemars(range(min = 0, max = 10000))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_total: Option<i64>,
}

/// Limits and timeouts of the clients that match. All that is given must match; at least one must be given.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ClientRule {
    /// This user.
    #[schemars(length(min = 1, max = 63))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// This database.
    #[schemars(length(min = 1, max = 63))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub database: Option<String>,
    /// This application_name.
    #[schemars(length(min = 1, max = 63))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub application_name: Option<String>,
    /// From this network or address: 10.0.0.0/8.
    #[schemars(length(min = 1, max = 64))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// As spec.limits; maxClients is of the clients that this rule was the first to match at their login.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limits: Option<LimitsOverride>,
    /// As spec.timeouts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeouts: Option<TimeoutsOverride>,
}

/// Limits of one database or user. What is absent is as in the spec.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct LimitsOverride {
    /// Clients of this database or user per proxy, 0 to 1000000. 0 = no limit.
    #[schemars(range(min = 0, max = 1_000_000))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_clients: Option<i64>,
    /// As spec.limits.maxClientsPerUser.
    #[schemars(range(min = 0, max = 1_000_000))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_clients_per_user: Option<i64>,
    /// As spec.limits.maxClientsPerDatabase.
    #[schemars(range(min = 0, max = 1_000_000))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_clients_per_database: Option<i64>,
    /// As spec.limits.maxPreparedStatements.
    #[schemars(range(min = 1, max = 1_000_000))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_prepared_statements: Option<i64>,
    /// As spec.limits.maxQuerySize.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_query_size: Option<SizeText>,
    /// As spec.limits.clientBuffer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_buffer: Option<SizeText>,
}

/// Timeouts of one database or user. What is absent is as in the spec.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct TimeoutsOverride {
    /// As spec.timeouts.query.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub query: Option<DurationText>,
    /// As spec.timeouts.queryWait.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub query_wait: Option<DurationText>,
    /// As spec.timeouts.transaction.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub transaction: Option<DurationText>,
    /// As spec.timeouts.idleInTransaction.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle_in_transaction: Option<DurationText>,
    /// As spec.timeouts.clientIdle.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_idle: Option<DurationText>,
    /// As spec.timeouts.clientWrite.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_write: Option<DurationText>,
}
