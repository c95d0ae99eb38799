//! Failover and switchover as they are written down before each step, so that another operator can go on.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The failover or switchover that is under way.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Operation {
    /// Unique.
    pub id: String,
    /// What it is.
    #[serde(rename = "type")]
    pub kind: OperationKind,
    /// The master it began with.
    pub from: String,
    /// The new master, once chosen. Never replaced silently.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// The step that is being done: written before it is done.
    pub step: OperationStep,
    /// When the operation began, RFC 3339.
    pub started_at: String,
    /// When the step began, RFC 3339.
    pub step_started_at: String,
    /// Which attempt of the election this is, from 1.
    pub attempt: u32,
    /// When the promotion was issued, RFC 3339. Afterwards nothing is aborted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub promote_issued_at: Option<String>,
    /// What was measured for this attempt.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub candidates: Vec<Candidate>,
    /// How certain it is that the old master takes no more writes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fencing_level: Option<FencingLevel>,
    /// What was taken off its master, and what puts it back.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub detached: Vec<Detached>,
    /// `spec.switchover.requestId` it answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// Clients that do not finish in time are cut off.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub force: bool,
    /// WAL position of the old master when it was told to stop (L0), `X/Y`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub master_lsn: Option<String>,
    /// Why it does not go on: `QuorumLost`, `NoCandidate`, `LagLimit`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// For people.
    pub message: String,
    /// What else the operator wants to remember.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub notes: BTreeMap<String, String>,
}

/// What an operation is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum OperationKind {
    /// The master is dead.
    #[default]
    Failover,
    /// The user asked.
    Switchover,
    /// Written by a newer version: nobody touches it.
    #[serde(other)]
    Unknown,
}

/// The steps of a failover (first block), those only a switchover has (second), and where both may stand still.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
pub enum OperationStep {
    /// Written down, the epoch raised.
    #[default]
    Declared,
    /// Proxies acknowledge the epoch.
    FencingProxies,
    /// Best effort on the old master.
    FencingMaster,
    /// Replicas are taken off the old master.
    Detaching,
    /// What each replica has.
    Measuring,
    /// The newest is chosen.
    Elected,
    /// It is promoted.
    Promoting,
    /// Slots for the others, a checkpoint.
    Preparing,
    /// The epoch raised, routing open.
    Opening,
    /// The others follow it.
    Repointing,
    /// Labels, sync names, orphan slots.
    Labelling,
    /// Over.
    Done,

    /// Switchover: the target is fit; checkpoints before anything is held.
    Validating,
    /// Switchover: requests that would lease a worker are held.
    HoldingLeases,
    /// Switchover: everything is held, proxies say `drained`.
    Pausing,
    /// Switchover: the target has all that the old master wrote.
    CatchingUp,
    /// Switchover: the old master will come back as a replica.
    Converting,
    /// Switchover: the old master is stopped.
    Stopping,
    /// Switchover: the target got the old master's last record.
    Confirming,

    /// It cannot go on: see `reason`.
    Blocked,
    /// It is being undone: routing opens to the old master.
    Aborting,
    /// Written by a newer version: nobody touches it.
    #[serde(other)]
    Unknown,
}

/// What a replica had when it was measured.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Candidate {
    /// Its name.
    pub name: String,
    /// Its timeline.
    pub timeline: u32,
    /// The greater of received and replayed, `X/Y`.
    pub lsn: String,
    /// Replayed, `X/Y`.
    pub replay: String,
    /// Its recovery_min_apply_delay in milliseconds.
    pub delay_ms: u64,
    /// Its failoverPriority.
    pub priority: u8,
    /// Why it cannot be chosen; empty: it can.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub unfit: String,
}

/// How certain it is that the old master takes no more writes, from the weakest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum FencingLevel {
    /// No proxy sends it any.
    ProxiesOnly,
    /// And no replica follows it.
    ReplicasDetached,
    /// And it is read-only.
    SqlFenced,
    /// It does not run.
    ProcessDead,
}

/// A replica that was taken off its master, and what puts it back.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Detached {
    /// Its name.
    pub name: String,
    /// Its primary_conninfo without the password.
    pub conninfo: String,
    /// Its primary_slot_name.
    pub slot: String,
}

/// An operation that is over.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct OperationRecord {
    /// Its id.
    pub id: String,
    /// What it was.
    #[serde(rename = "type")]
    pub kind: OperationKind,
    /// The master it began with.
    pub from: String,
    /// The master it ended with.
    pub to: String,
    /// When it began, RFC 3339.
    pub started_at: String,
    /// When it ended, RFC 3339.
    pub finished_at: String,
    /// How long it took.
    pub duration_ms: u64,
    /// The epoch it ended with.
    pub epoch: u64,
    /// How it ended.
    pub outcome: OperationOutcome,
    /// For people.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
}

/// How an operation ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum OperationOutcome {
    /// There is a new master.
    #[default]
    Completed,
    /// The old master is master again.
    Aborted,
    /// Somebody else had promoted a server: it is followed.
    Adopted,
    /// The request was refused before anything was done.
    #[serde(other)]
    Refused,
}
