//! What a person wrote, exactly: the fields of a manifest with their defaults, and nothing checked but their types.
//!
//! The comments here are the manual: `kubectl explain pgpool.spec` shows them. Defaults are taken from
//! [`crate::PoolConfig`]. Objects of the API are read leniently (unknown fields are left out); files strictly, by
//! [`crate::parse_manifest`]. [`crate::PoolConfig::from_spec`] does the checking.
#![allow(
    rustdoc::broken_intra_doc_links,
    reason = "the marks [live], [new] and [roll] are no links"
)]

mod access;
mod ha;
mod limits;
mod proxy;
mod reads;
mod servers;
mod text;

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use access::{Auth, ClientTls, IdleExemption};
pub use ha::{Durability, Failover, Ha, Switchover};
pub use limits::{
    Budget, ClientRule, Database, Limits, LimitsOverride, Pipeline, Timeouts, TimeoutsOverride, User,
    Workers, WorkersOverride,
};
pub use proxy::{Autoscaling, Pdb, PodTemplate, Proxy, Service};
pub use reads::{Cache, CacheDisk, CacheRule, Routing, RoutingRule};
pub use servers::{KeySecretRef, LoginSecretRef, Server, ServerTls, TlsSecretRef};
pub use text::{DURATION_PATTERN, DurationText, SizeText};

use crate::{ApplicationName, ListenGap, PoolMode, SequenceState};

/// One pool: the servers behind it, how many connections it keeps to them, who may log in, and what happens when the
/// master dies. Marks: [live] applies at once to running proxies; [new] to new connections; [roll] rolls the proxy
/// Deployment. Durations: 500ms, 30s, 5m, 24h; 0s = never / no limit. Sizes: 64KiB, 256MiB, 1GiB.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[cfg_attr(feature = "kube", derive(kube::CustomResource))]
#[cfg_attr(
    feature = "kube",
    kube(
        group = "pgstmtpool.io",
        version = "v1alpha1",
        kind = "PgPool",
        plural = "pgpools",
        shortname = "pgp",
        namespaced,
        status = "crate::status::PgPoolStatus",
        scale(
            spec_replicas_path = ".spec.proxy.replicas",
            status_replicas_path = ".status.proxies.replicas",
            label_selector_path = ".status.proxies.selector"
        )
    )
)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["master"]))]
pub struct PgPoolSpec {
    /// The server that is master on the first start. Afterwards status.master says who is. Required.
    #[schemars(required)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub master: Option<Server>,
    /// The other servers. A server may be listed twice: its weights add. The master's name here: it takes reads too.
    #[schemars(length(max = 64))]
    pub replicas: Vec<Server>,
    /// Instead of naming pods: labels of the PostgreSQL pods; then only master.name is needed.
    #[schemars(extend("maxProperties" = 16))]
    pub selector: BTreeMap<String, String>,
    /// The Secret with the operator's login. Needed by ha and authQuery only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub admin_secret_ref: Option<LoginSecretRef>,
    /// The Secret with the least-privilege role of sql/ for the proxies' own look-ups. Absent: adminSecretRef, with a
    /// warning condition.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proxy_admin_secret_ref: Option<LoginSecretRef>,
    /// The Secret with the login for primary_conninfo. Absent: what the standby already has is kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replication_secret_ref: Option<LoginSecretRef>,
    /// [new] TLS towards the servers.
    pub server_tls: ServerTls,
    /// [new] When a client holds a server: statement (BEGIN is refused), transaction (single statements are
    /// multiplexed, BEGIN leases a worker), session.
    pub pool_mode: PoolMode,
    /// [live] How many connections to the servers there are: per pool (database and user), over all proxies.
    pub workers: Workers,
    /// [live] How many connections of each server are for the proxies.
    pub budget: Budget,
    /// [live] Bounds on clients.
    pub limits: Limits,
    /// [live] Bounds on time.
    pub timeouts: Timeouts,
    /// [new] A plain BEGIN is answered by the proxy and sent together with the next statement; the COMMIT or ROLLBACK of a transaction that only
    /// read is answered before the server has it, and its locks may be held that much longer. false = every BEGIN and COMMIT waits for the
    /// server.
    pub defer_begin: bool,
    /// [new] Which application_name servers see: follow (the client's), pool (the pool's: no SET when clients differ),
    /// address (name and client address).
    pub application_name: ApplicationName,
    /// [new] Settings per database; databases that are not listed work too.
    #[schemars(length(max = 256))]
    pub databases: Vec<Database>,
    /// [new] Settings per user; user wins over database over pool.
    #[schemars(length(max = 256))]
    pub users: Vec<User>,
    /// [new] Session mode: what is run between two clients. Empty: the smart clean-up.
    #[schemars(length(max = 4096))]
    pub reset_query: String,
    /// [live] What a listener gets when its hub connection was lost: notify or disconnect.
    pub on_listen_gap: ListenGap,
    /// [new] currval and lastval: pin (they see the client's own nextval) or ignore.
    pub sequence_state: SequenceState,
    /// [live] Clients to whom timeouts.clientIdle does not apply.
    #[schemars(length(max = 64))]
    pub idle_exemptions: Vec<IdleExemption>,
    /// [live] Limits and timeouts by user, database, application_name and address; the first match wins over databases and
    /// users.
    #[schemars(length(max = 64))]
    pub client_rules: Vec<ClientRule>,
    /// [new] Replication connections are passed through to the master, each on a server connection of its own. false: refused.
    pub allow_replication: bool,
    /// [live] Who may log in.
    pub auth: Auth,
    /// [live] TLS towards clients.
    pub tls: ClientTls,
    /// [live] Where reads go.
    pub routing: Routing,
    /// [live] The result cache. Nothing is cached without a hint or a rule.
    pub cache: Cache,
    /// Failover.
    pub ha: Ha,
    /// What a commit promises.
    pub durability: Durability,
    /// A planned switchover; done when status.lastSwitchoverRequest is its requestId.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub switchover: Option<Switchover>,
    /// Goes on with a blocked failover. The only override that may lose data.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failover: Option<Failover>,
    /// The proxies the operator runs (Kubernetes only).
    pub proxy: Proxy,
}

impl Default for PgPoolSpec {
    fn default() -> Self {
        let crate::PoolConfig {
            pool_mode,
            defer_begin,
            application_name,
            reset_query,
            on_listen_gap,
            sequence_state,
            allow_replication,
            ..
        } = crate::PoolConfig::default();
        Self {
            master: None,
            replicas: Vec::new(),
            selector: BTreeMap::new(),
            admin_secret_ref: None,
            proxy_admin_secret_ref: None,
            replication_secret_ref: None,
            server_tls: ServerTls::default(),
            pool_mode,
            workers: Workers::default(),
            budget: Budget::default(),
            limits: Limits::default(),
            timeouts: Timeouts::default(),
            defer_begin,
            application_name,
            databases: Vec::new(),
            users: Vec::new(),
            reset_query,
            on_listen_gap,
            sequence_state,
            idle_exemptions: Vec::new(),
            client_rules: Vec::new(),
            allow_replication,
            auth: Auth::default(),
            tls: ClientTls::default(),
            routing: Routing::default(),
            cache: Cache::default(),
            ha: Ha::default(),
            durability: Durability::default(),
            switchover: None,
            failover: None,
            proxy: Proxy::default(),
        }
    }
}
