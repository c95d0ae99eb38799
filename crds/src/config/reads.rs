//! Where reads go, and what is kept of their results.

use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Matcher;

/// Where reads go.
#[derive(Clone, Debug, PartialEq)]
pub struct Routing {
    /// Which reads go to replicas.
    pub read_split: ReadSplit,
    /// What a client that wrote may miss on a replica.
    pub consistency: Consistency,
    /// A replica further behind than so many bytes takes no reads; `None`: any does.
    pub max_lag: Option<u64>,
    /// A user whose name ends so reads from replicas (`_r`); empty: none.
    pub user_suffix: String,
    /// A database whose name ends so is read from replicas (`@ro`); empty: none.
    pub database_suffix: String,
    /// The first that matches decides.
    pub rules: Vec<RoutingRule>,
}

impl Default for Routing {
    fn default() -> Self {
        Self {
            read_split: ReadSplit::default(),
            consistency: Consistency::default(),
            max_lag: Some(16 << 20),
            user_suffix: String::new(),
            database_suffix: String::new(),
            rules: Vec::new(),
        }
    }
}

/// Which reads go to replicas.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ReadSplit {
    /// None, not even with a hint.
    Off,
    /// Those with a hint, a suffix, a rule, or through the read-only door.
    #[default]
    Hint,
    /// All known reads outside transactions.
    Auto,
}

/// What a client that wrote may miss on a replica.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Consistency {
    /// Anything within `max_lag`.
    Eventual,
    /// Nothing of its own.
    #[default]
    Session,
    /// Nothing of anybody who wrote through a proxy.
    Strict,
}

/// A rule of [`Routing`].
#[derive(Clone, Debug, PartialEq)]
pub struct RoutingRule {
    /// For whom.
    pub clients: Matcher,
    /// A regular expression, found anywhere in the text of the statement; `None`: every known read. Known to compile.
    pub query: Option<String>,
    /// Where to.
    pub to: RouteTo,
}

/// Where a [`RoutingRule`] sends a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RouteTo {
    /// To the master.
    Master,
    /// To a replica, while one is healthy.
    Replica,
}

/// The result cache. Nothing is cached without a hint or a rule.
#[derive(Clone, Debug, PartialEq)]
pub struct Cache {
    /// Whether hints and rules are obeyed.
    pub enabled: bool,
    /// Bytes of one proxy.
    pub max_bytes: u64,
    /// Bytes of one result; larger ones are not kept.
    pub max_entry: u64,
    /// Also on disk.
    pub disk: Option<CacheDisk>,
    /// The first that matches decides.
    pub rules: Vec<CacheRule>,
}

impl Default for Cache {
    fn default() -> Self {
        Self {
            enabled: true,
            max_bytes: 64 << 20,
            max_entry: 1 << 20,
            disk: None,
            rules: Vec::new(),
        }
    }
}

/// Where results are kept that do not fit into memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheDisk {
    /// A folder of this proxy alone.
    pub path: PathBuf,
    /// Bytes in it.
    pub max_bytes: u64,
}

/// A rule of [`Cache`].
#[derive(Clone, Debug, PartialEq)]
pub struct CacheRule {
    /// For whom.
    pub clients: Matcher,
    /// A regular expression, found anywhere in the text of the statement; `None`: every known read. Known to compile.
    pub query: Option<String>,
    /// Only statements that read no other tables than these (`schema.table` or `table`); empty: any.
    pub tables: Vec<String>,
    /// How long a result is good; `None`: it is not cached at all.
    pub ttl: Option<Duration>,
}
