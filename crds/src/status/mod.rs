//! The status of a `PgPool`: what the operator writes by compare-and-swap and every proxy follows.
//!
//! Proxies read [`PgPoolStatus::epoch`], `master`, `routing`, `servers` and `budget` only; begin there. LSNs do not
//! live here (except in `operation.candidates`), or every second would wake every proxy. Read leniently: an older
//! proxy survives a newer field.

mod operation;
mod parts;

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use operation::{
    Candidate, Detached, FencingLevel, Operation, OperationKind, OperationOutcome, OperationRecord,
    OperationStep,
};
pub use parts::{
    BudgetStatus, Condition, ConditionStatus, EventRecord, EventType, MasterStatus, Phase, ProxiesStatus,
    RejoinStatus, RoutingMode, RoutingStatus, ServerRole, ServerState, ServerStatus, Share, SyncSet,
    SyncStatus,
};

/// Most operations kept in [`PgPoolStatus::history`].
pub const HISTORY_MAX: usize = 10;
/// Most events kept in [`PgPoolStatus::events`].
pub const EVENTS_MAX: usize = 30;

/// What is true now. Written by the operator only.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct PgPoolStatus {
    /// The generation of the spec that this status takes into account.
    pub observed_generation: i64,
    /// Grows with every change of who may be written to. A proxy never goes back to a smaller one.
    pub epoch: u64,
    /// For people only: derived from the conditions.
    pub phase: Phase,
    /// Who is master now. Absent until the operator has seen it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub master: Option<MasterStatus>,
    /// Whether requests may reach the master.
    pub routing: RoutingStatus,
    /// Every server of the spec, the master too.
    pub servers: Vec<ServerStatus>,
    /// What synchronous_standby_names says, and what it is about to say.
    pub sync: SyncStatus,
    /// The failover or switchover that is under way.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub operation: Option<Operation>,
    /// The last operations, the newest first.
    pub history: Vec<OperationRecord>,
    /// `spec.switchover.requestId` of the last request that was carried out or refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_switchover_request: Option<String>,
    /// The last requests that were carried out or refused, the newest first: none is served twice.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub served_requests: Vec<String>,
    /// The proxies.
    pub proxies: ProxiesStatus,
    /// How the connections of the servers are shared out among the proxies.
    pub budget: BudgetStatus,
    /// Replicas that stream, of those there are: `2/2`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub replicas_ready: String,
    /// Proxies that are ready, of those there are: `3/3`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub proxies_ready: String,
    /// The largest lag of a replica: `0`, `<1MiB`, `<16MiB`, ...
    #[serde(skip_serializing_if = "String::is_empty")]
    pub max_lag: String,
    /// What is the case, one entry a type.
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// What happened, the newest first (files only; on Kubernetes these are Events).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub events: Vec<EventRecord>,
    /// What a newer version wrote and this one does not know: kept when the status is written again.
    #[serde(flatten)]
    #[schemars(skip)]
    pub unknown: BTreeMap<String, serde_json::Value>,
}

impl PgPoolStatus {
    /// The server of this name.
    pub fn server(&self, name: &str) -> Option<&ServerStatus> {
        self.servers.iter().find(|server| server.name == name)
    }

    /// The condition of this type.
    pub fn condition(&self, kind: &str) -> Option<&Condition> {
        self.conditions.iter().find(|condition| condition.kind == kind)
    }

    /// Sets a condition; its `last_transition_time` moves to `now` only if its status changes. `true`: something
    /// changed that is worth writing.
    pub fn set_condition(&mut self, new: Condition, now: &str) -> bool {
        match self
            .conditions
            .iter_mut()
            .find(|condition| condition.kind == new.kind)
        {
            Some(old) => {
                let moved = old.status != new.status;
                let last_transition_time = if moved {
                    now.to_owned()
                } else {
                    std::mem::take(&mut old.last_transition_time)
                };
                let changed = moved || old.reason != new.reason || old.message != new.message;
                *old = Condition {
                    last_transition_time,
                    ..new
                };
                changed
            }
            None => {
                self.conditions.push(Condition {
                    last_transition_time: now.to_owned(),
                    ..new
                });
                true
            }
        }
    }

    /// Puts an event first and forgets the oldest beyond [`EVENTS_MAX`].
    pub fn record(&mut self, event: EventRecord) {
        self.events.insert(0, event);
        self.events.truncate(EVENTS_MAX);
    }

    /// Ends the operation: it goes first into the history, the oldest beyond [`HISTORY_MAX`] is forgotten.
    pub fn conclude(&mut self, record: OperationRecord) {
        self.operation = None;
        self.history.insert(0, record);
        self.history.truncate(HISTORY_MAX);
    }
}
