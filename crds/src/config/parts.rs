//! Modes, login, durability and high availability.

use std::time::Duration;

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{KeyRef, PairRef, SecretRef};

/// When a client holds a server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum PoolMode {
    /// Never longer than a statement: BEGIN is refused.
    Statement,
    /// Single statements are multiplexed, BEGIN leases a worker.
    #[default]
    Transaction,
    /// One worker per client for its life.
    Session,
}

impl PoolMode {
    /// As the manifest writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Statement => "statement",
            Self::Transaction => "transaction",
            Self::Session => "session",
        }
    }
}

/// Which application_name servers see.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ApplicationName {
    /// The client's.
    #[default]
    Follow,
    /// The pool's: no SET when clients differ.
    Pool,
    /// The client's and its address.
    Address,
}

/// What a listener gets when its hub connection was lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ListenGap {
    /// A notification that says so.
    #[default]
    Notify,
    /// The end of its connection.
    Disconnect,
}

/// What currval and lastval do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum SequenceState {
    /// They see the client's own nextval.
    #[default]
    Pin,
    /// They may see another client's.
    Ignore,
}

/// Which clients a rule is for. What is `None` matches everybody; all that is given must match.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Matcher {
    /// The database the client asked for.
    pub database: Option<String>,
    /// The user.
    pub user: Option<String>,
    /// Its application_name at the time.
    pub application_name: Option<String>,
    /// Where it comes from. Clients of a Unix socket come from nowhere.
    pub address: Option<IpNet>,
}

impl Matcher {
    /// Whether this client is meant.
    pub fn matches(
        &self,
        database: &str,
        user: &str,
        application_name: &str,
        address: Option<std::net::IpAddr>,
    ) -> bool {
        let same = |rule: &Option<String>, value: &str| rule.as_deref().is_none_or(|rule| rule == value);
        same(&self.database, database)
            && same(&self.user, user)
            && same(&self.application_name, application_name)
            && self
                .address
                .is_none_or(|net| address.is_some_and(|address| net.contains(&address.to_canonical())))
    }
}

/// Clients to whom `timeouts.clientIdle` does not apply.
pub type IdleExemption = Matcher;

/// Who may log in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Auth {
    /// Lines of pg_hba, each known to be good: [`crate::hba::parse`] gives the rule. The first match wins.
    pub hba: Vec<String>,
    /// Secrets with users, asked first.
    pub user_secrets: Vec<SecretRef>,
    /// Whether verifiers are asked of the master.
    pub auth_query: bool,
    /// How long an answer of the master is good.
    pub cache_for: Duration,
}

impl Default for Auth {
    fn default() -> Self {
        Self {
            hba: vec![
                "local all all scram-sha-256".to_owned(),
                "host all all all scram-sha-256".to_owned(),
            ],
            user_secrets: Vec::new(),
            auth_query: true,
            cache_for: Duration::from_secs(60),
        }
    }
}

/// TLS towards clients.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientFacingTls {
    /// Whether it is offered or demanded.
    pub mode: ClientTlsMode,
    /// Our certificate; without one `allow` offers nothing. Never `None` for `require`.
    pub cert_secret: Option<PairRef>,
    /// The authorities of client certificates.
    pub client_ca_secret: Option<KeyRef>,
    /// The oldest version we speak.
    pub min_version: TlsVersion,
}

/// Whether TLS is offered to clients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ClientTlsMode {
    /// Never.
    Disable,
    /// To those who ask, when we have a certificate.
    #[default]
    Allow,
    /// Others are turned away, except on Unix sockets.
    Require,
}

/// A version of TLS.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
pub enum TlsVersion {
    /// 1.2.
    #[serde(rename = "1.2")]
    #[default]
    V1_2,
    /// 1.3.
    #[serde(rename = "1.3")]
    V1_3,
}

/// Failover.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ha {
    /// false: follow whoever is master, never promote.
    pub enabled: bool,
    /// Consecutive failed probes before a master is dead.
    pub failure_threshold: u32,
    /// How far apart probes are.
    pub probe_period: Duration,
    /// How long one may take.
    pub probe_timeout: Duration,
    /// How long a server that says "starting up" is waited for.
    pub crash_recovery_grace: Duration,
    /// How long replicas may take to answer what they have.
    pub election_timeout: Duration,
    /// Async only: a candidate further behind than so many bytes is not promoted; `None`: any is.
    pub max_lag_on_failover: Option<u64>,
    /// What happens to a former master.
    pub rejoin: Rejoin,
    /// Also probe that a write commits.
    pub write_probe: bool,
    /// Nothing is promoted for the time being.
    pub paused: bool,
}

impl Default for Ha {
    fn default() -> Self {
        Self {
            enabled: false,
            failure_threshold: 10,
            probe_period: Duration::from_millis(500),
            probe_timeout: Duration::from_secs(1),
            crash_recovery_grace: Duration::from_secs(30),
            election_timeout: Duration::from_secs(10),
            max_lag_on_failover: None,
            rejoin: Rejoin::default(),
            write_probe: false,
            paused: false,
        }
    }
}

/// What happens to a former master.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Rejoin {
    /// Follow, else rewind where there is a way, else condition RejoinRequired.
    #[default]
    Auto,
    /// Always condition RejoinRequired.
    Manual,
    /// Its volume is thrown away and copied anew.
    Rebuild,
}

/// What a commit promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Durability {
    /// The promise.
    pub mode: DurabilityMode,
    /// How many replicas must have it. 1 or more; smaller than the number of servers unless the mode is Async.
    pub sync_replicas: u32,
}

impl Default for Durability {
    fn default() -> Self {
        Self {
            mode: DurabilityMode::default(),
            sync_replicas: 1,
        }
    }
}

/// The promise of a commit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum DurabilityMode {
    /// It is on the master.
    #[default]
    Async,
    /// On replicas too while one streams.
    Preferred,
    /// On replicas too, or the commit waits.
    Required,
}

/// A planned switchover; done when `status.lastSwitchoverRequest` is its `request_id`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Switchover {
    /// The server that becomes master.
    pub to: String,
    /// Any text; another text asks again.
    pub request_id: String,
    /// Clients that do not finish in time are cut off.
    pub force: bool,
}

/// The user's word to go on with a blocked failover.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailoverRequest {
    /// `status.operation.id` of the blocked operation: this one and no other may lose data.
    pub force: String,
}
