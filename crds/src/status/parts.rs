//! The parts of the status but for operations.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// For people only: derived from the conditions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Phase {
    /// Not looked at yet.
    #[default]
    Pending,
    /// All is well.
    Healthy,
    /// It serves, but something is missing.
    Degraded,
    /// A failover is under way.
    FailingOver,
    /// A planned switchover is under way.
    SwitchingOver,
    /// A failover cannot go on without help.
    Blocked,
    /// There is no master.
    Down,
    /// Written by a newer version.
    #[serde(other)]
    Unknown,
}

/// Who is master now.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct MasterStatus {
    /// Its name in the spec.
    pub name: String,
    /// Where it is: `host:port`, `[v6]:port` or `/folder:port`.
    pub address: String,
    /// The timeline it writes. A server on another one is not our master.
    pub timeline: u32,
    /// The system identifier of the cluster. A server with another one is not ours. Text: JSON numbers lose digits.
    pub system_identifier: String,
    /// Since when, RFC 3339.
    pub since: String,
    /// Its `server_version_num`.
    pub version_num: u32,
}

/// Whether requests may reach the master.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct RoutingStatus {
    /// Whether they may.
    pub mode: RoutingMode,
    /// While paused: only requests that would lease a worker are held; shared ones still run.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub leases_only: bool,
    /// Leases are cut off now instead of waited for (a forced switchover).
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub force: bool,
    /// Since when, RFC 3339.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub since: String,
    /// Until when at most (paused), RFC 3339. For people: the operator aborts, nobody else acts on it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deadline: Option<String>,
}

/// Whether requests may reach the master.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum RoutingMode {
    /// They may.
    #[default]
    Open,
    /// They are held; those under way may end; then connections to the master are closed and `drained` is said.
    Paused,
    /// Connections to the master are dropped at once, writes are held, reads go on at replicas. Also what a mode
    /// means that this version does not know.
    #[serde(other)]
    Fenced,
}

/// One server.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ServerStatus {
    /// Its name in the spec.
    pub name: String,
    /// Where it is: `host:port`, `[v6]:port` or `/folder:port`.
    pub address: String,
    /// What it is.
    pub role: ServerRole,
    /// How it is.
    pub state: ServerState,
    /// Its timeline; 0: not known.
    pub timeline: u32,
    /// How far behind: `0`, `<1MiB`, `<16MiB`, `<256MiB`, `more`; empty: not known.
    pub lag: String,
    /// `sync_state` of pg_stat_replication: `async`, `potential`, `sync`, `quorum`; empty: not known.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub sync_state: String,
    /// Its replication slot on the master.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub slot: String,
    /// Whether proxies may read from it.
    pub read_eligible: bool,
    /// What is wrong with it, for people.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// Its data directory, as it said when it last ran. The operator's restart command is told it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub data_directory: String,
    /// It has to come back as a replica: how far that is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rejoin: Option<RejoinStatus>,
}

/// A former master, or another server with log that the master has not, on its way back.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct RejoinStatus {
    /// Rewinds begun.
    pub attempts: u32,
    /// One is under way.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub rewinding: bool,
    /// A person has to bring it back.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub given_up: bool,
    /// It was seen taking writes beside the master.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub zombie: bool,
    /// Its promotion was ordered when it was on this timeline, and another server was promoted instead.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub suspect_timeline: Option<u32>,
}

/// What a server is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum ServerRole {
    /// It takes writes.
    Master,
    /// It follows.
    Replica,
    /// Nobody knows.
    #[default]
    #[serde(other)]
    Unknown,
}

/// How a server is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum ServerState {
    /// It is the master and answers.
    Running,
    /// It follows and is near.
    Streaming,
    /// It follows and is far behind.
    CatchingUp,
    /// Taken off its master for an election.
    Detached,
    /// It has what the master has not: it must be rewound or rebuilt.
    Diverged,
    /// It does not answer.
    Unreachable,
    /// It says that it is starting up.
    StartingUp,
    /// It may not be written to.
    Fenced,
    /// It is being brought back.
    Rejoining,
    /// It answers, but follows nobody.
    NotStreaming,
    /// Not looked at yet.
    #[default]
    #[serde(other)]
    Unknown,
}

/// What synchronous_standby_names says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct SyncStatus {
    /// The last set that was seen in force. Absent: none was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub confirmed: Option<SyncSet>,
    /// The set that is being put in force.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pending: Option<SyncSet>,
    /// Were pending and may have been in force, but were never confirmed: an election asks them too.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub superseded: Vec<SyncSet>,
}

/// `ANY k (names)`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct SyncSet {
    /// Names of servers.
    pub names: Vec<String>,
    /// How many of them must confirm; 0 with no names: asynchronous.
    pub k: u32,
}

/// The proxies.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ProxiesStatus {
    /// How many there are.
    pub replicas: u32,
    /// How many have a live Lease.
    pub ready: u32,
    /// How many of those have acknowledged the present epoch.
    pub acked: u32,
    /// Label selector of their pods, as text.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub selector: String,
}

/// How the connections of the servers are shared out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct BudgetStatus {
    /// Connections of each server that are for all proxies together.
    pub servers: BTreeMap<String, u32>,
    /// The share of each proxy, by its id. A proxy that is not named has nothing but the least ([`Share::LEAST`]), unless there is no
    /// operator that shares out (`number` is 0): then it has it all.
    pub shares: BTreeMap<String, Share>,
    /// Grows with each change of `shares`. Proxies acknowledge it when they keep to their share.
    pub number: u64,
    /// Proxies that may still have more than their share, because they have not acknowledged it yet. Nobody else gets it.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub held: BTreeMap<String, Share>,
}

/// The share of one proxy: `parts` of `of`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Share {
    /// Its parts.
    pub parts: u32,
    /// Of so many.
    pub of: u32,
}

impl Share {
    /// Everything: a lone proxy.
    pub const ALL: Self = Self { parts: 1, of: 1 };
    /// Nothing but the least.
    pub const NONE: Self = Self { parts: 0, of: 1 };
    /// Workers of a pool that every proxy may have, whatever its share.
    pub const LEAST: u32 = 2;

    /// The share of a pool's `workers.max`: rounded up and at least [`Share::LEAST`], so that the sum may exceed it.
    pub fn workers(self, max: u32) -> u32 {
        let share = u64::from(max) * u64::from(self.parts.min(self.of));
        u32::try_from(share.div_ceil(u64::from(self.of.max(1))))
            .unwrap_or(max)
            .max(Self::LEAST)
    }

    /// The share of a server's connections: rounded down, so that the sum never exceeds them.
    pub fn connections(self, total: u32) -> u32 {
        let share = u64::from(total) * u64::from(self.parts.min(self.of)) / u64::from(self.of.max(1));
        u32::try_from(share).unwrap_or(total)
    }
}

/// A condition, as `metav1.Condition`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Condition {
    /// `Ready`, `MasterReachable`, `ReplicationHealthy`, ...
    #[serde(rename = "type")]
    pub kind: String,
    /// Whether it is the case.
    pub status: ConditionStatus,
    /// One word in CamelCase.
    pub reason: String,
    /// For people: cause and remedy.
    pub message: String,
    /// When `status` last changed, RFC 3339.
    pub last_transition_time: String,
    /// The generation of the spec it was found for.
    pub observed_generation: i64,
}

/// Whether a condition is the case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum ConditionStatus {
    /// It is.
    True,
    /// It is not.
    False,
    /// Nobody knows.
    #[default]
    #[serde(other)]
    Unknown,
}

/// Something that happened.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct EventRecord {
    /// When, RFC 3339.
    pub time: String,
    /// How bad.
    #[serde(rename = "type")]
    pub kind: EventType,
    /// `FailoverStarted`, `ReplicaElected`, ...
    pub reason: String,
    /// For people.
    pub message: String,
    /// The epoch at the time.
    pub epoch: u64,
}

/// How bad an event is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum EventType {
    /// Not at all.
    #[default]
    Normal,
    /// Somebody should know.
    #[serde(other)]
    Warning,
}
