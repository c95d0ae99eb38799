//! Where reads go, and what is kept of their results.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{DurationText, SizeText};
use crate::{Consistency, ReadSplit, RouteTo};

/// Where reads go. Writes, and whatever is not surely a read, go to the master.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Routing {
    /// Which reads go to replicas: "off" (none; in quotes, YAML takes it for false), hint (those with a hint, a suffix,
    /// a rule, or through the read-only Service), auto (all known reads outside transactions).
    pub read_split: ReadSplit,
    /// What a client that wrote may miss on a replica: eventual (anything within maxLag), session (nothing of its own),
    /// strict (nothing of anybody who wrote through a proxy).
    pub consistency: Consistency,
    /// A replica further behind takes no reads. 0 = any does.
    pub max_lag: SizeText,
    /// A user whose name ends so reads from replicas: _r. Empty: none.
    #[schemars(length(max = 16))]
    pub user_suffix: String,
    /// A database whose name ends so is read from replicas: @ro. Empty: none.
    #[schemars(length(max = 16))]
    pub database_suffix: String,
    /// The first that matches decides.
    #[schemars(length(max = 64))]
    pub rules: Vec<RoutingRule>,
}

impl Default for Routing {
    fn default() -> Self {
        let default = crate::Routing::default();
        Self {
            read_split: default.read_split,
            consistency: default.consistency,
            max_lag: default.max_lag.unwrap_or_default().into(),
            user_suffix: default.user_suffix,
            database_suffix: default.database_suffix,
            rules: Vec::new(),
        }
    }
}

/// Sends some reads to replicas or to the master. All that is given must match.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["to"]))]
pub struct RoutingRule {
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
    /// A regular expression, found anywhere in the statement.
    #[schemars(length(min = 1, max = 1024))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub query: Option<String>,
    /// master or replica. Required.
    #[schemars(required)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<RouteTo>,
}

/// The result cache.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Cache {
    /// Whether hints and rules are obeyed.
    pub enabled: bool,
    /// Memory of one proxy. 0 to 1024GiB.
    pub max_bytes: SizeText,
    /// A larger result is not kept. At most maxBytes.
    pub max_entry: SizeText,
    /// Also on disk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk: Option<CacheDisk>,
    /// The first that matches decides; a hint wins over all.
    #[schemars(length(max = 64))]
    pub rules: Vec<CacheRule>,
}

impl Default for Cache {
    fn default() -> Self {
        let default = crate::Cache::default();
        Self {
            enabled: default.enabled,
            max_bytes: default.max_bytes.into(),
            max_entry: default.max_entry.into(),
            disk: None,
            rules: Vec::new(),
        }
    }
}

/// Where results are kept that do not fit into memory.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["path", "maxBytes"]))]
pub struct CacheDisk {
    /// A folder of this proxy alone, absolute. Required.
    #[schemars(required, length(min = 1, max = 4096))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Bytes in it. Required.
    #[schemars(required)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_bytes: Option<SizeText>,
}

/// Caches some reads without a hint. All that is given must match.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["ttl"]))]
pub struct CacheRule {
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
    /// A regular expression, found anywhere in the statement.
    #[schemars(length(min = 1, max = 1024))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub query: Option<String>,
    /// Only statements that read no other tables than these: schema.table or table.
    #[schemars(length(max = 64), inner(length(min = 1, max = 130)))]
    pub tables: Vec<String>,
    /// How long a result is good. 0s = it is not cached at all. Required.
    #[schemars(required)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ttl: Option<DurationText>,
}
