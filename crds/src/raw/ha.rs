//! Failover, durability, switchover.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{DurationText, SizeText};
use crate::{DurabilityMode, Rejoin};

/// Failover.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Ha {
    /// false: follow whoever is master, never promote. true: carry out failover. Needs adminSecretRef.
    pub enabled: bool,
    /// Consecutive failed probes before a master is dead, 1 to 1000.
    #[schemars(range(min = 1, max = 1000))]
    pub failure_threshold: i64,
    /// How far apart probes are. 20ms to 1m.
    pub probe_period: DurationText,
    /// How long a probe may take. 20ms to 1m.
    pub probe_timeout: DurationText,
    /// How long a server that says "starting up" is waited for. 0s to 24h.
    pub crash_recovery_grace: DurationText,
    /// How long replicas may take to say what they have. 100ms to 10m.
    pub election_timeout: DurationText,
    /// Mode Async only: a candidate further behind is not promoted. 0 = any is.
    pub max_lag_on_failover: SizeText,
    /// What happens to a former master. Auto: follow, else rewind where there is a way, else condition RejoinRequired.
    /// Manual: always RejoinRequired. Rebuild: its volume is copied anew.
    pub rejoin: Rejoin,
    /// Also probe that a write commits.
    pub write_probe: bool,
    /// Nothing is promoted for the time being.
    pub paused: bool,
}

impl Default for Ha {
    fn default() -> Self {
        let default = crate::Ha::default();
        Self {
            enabled: default.enabled,
            failure_threshold: default.failure_threshold.into(),
            probe_period: default.probe_period.into(),
            probe_timeout: default.probe_timeout.into(),
            crash_recovery_grace: default.crash_recovery_grace.into(),
            election_timeout: default.election_timeout.into(),
            max_lag_on_failover: default.max_lag_on_failover.unwrap_or_default().into(),
            rejoin: default.rejoin,
            write_probe: default.write_probe,
            paused: default.paused,
        }
    }
}

/// What a commit promises.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Durability {
    /// Async: it is on the master. Preferred: on replicas too while one streams. Required: on replicas too, or the
    /// commit waits; then no acknowledged write is lost in a failover.
    pub mode: DurabilityMode,
    /// How many replicas must have it, 1 to 63; fewer than there are servers.
    #[schemars(range(min = 1, max = 63))]
    pub sync_replicas: i64,
}

impl Default for Durability {
    fn default() -> Self {
        let default = crate::Durability::default();
        Self {
            mode: default.mode,
            sync_replicas: default.sync_replicas.into(),
        }
    }
}

/// A planned switchover.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["to", "requestId"]))]
pub struct Switchover {
    /// The server that becomes master. Required.
    #[schemars(required, length(min = 1, max = 40))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// Any text, at most 100; another text asks again. Required.
    #[schemars(required, length(min = 1, max = 100))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// Clients that do not finish within timeouts.drain are cut off; else the switchover gives up.
    pub force: bool,
}

/// Goes on with a blocked failover.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["force"]))]
pub struct Failover {
    /// status.operation.id of the blocked failover: this one and no other may lose data. Required.
    #[schemars(required, length(min = 1, max = 100))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub force: Option<String>,
}
