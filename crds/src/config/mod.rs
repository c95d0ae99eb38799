//! The validated side: what the code uses. To hold a [`PoolConfig`] is proof that every field is in range.
//!
//! Nothing here reads or checks anything; that is the work of [`crate::PoolConfig::from_spec`]. The values of
//! `Default` are the defaults of the resource, and the only place where they stand.

mod effective;
mod parts;
mod proxy;
mod reads;
mod servers;
mod workers;

use std::collections::BTreeMap;

pub use effective::{ClientRule, DatabaseOverride, DatabaseUser, Effective, Overrides, UserOverride};
pub use parts::{
    ApplicationName, Auth, ClientFacingTls, ClientTlsMode, Durability, DurabilityMode, FailoverRequest, Ha,
    IdleExemption, ListenGap, Matcher, PoolMode, Rejoin, SequenceState, Switchover, TlsVersion,
};
pub use proxy::{ApiLoss, Autoscaling, DisruptionBudget, Proxy, Service, ServiceType};
pub use reads::{Cache, CacheDisk, CacheRule, Consistency, ReadSplit, RouteTo, Routing, RoutingRule};
pub use servers::{Address, KeyRef, PairRef, SecretRef, ServerConfig, ServerTls, ServerTlsMode};
pub use workers::{Budget, Limits, Pipeline, Timeouts, Workers};

/// One pool, valid in every field.
#[derive(Clone, Debug, PartialEq)]
pub struct PoolConfig {
    /// `metadata.name`.
    pub name: String,
    /// `metadata.namespace`; `default` where the manifest says none.
    pub namespace: String,
    /// `metadata.generation`; 0 where the manifest says none (a file).
    pub generation: i64,
    /// Who is master on the first start; afterwards status says. With a [`PoolConfig::selector`] its address may be
    /// the pod of the same name.
    pub master: ServerConfig,
    /// The other servers in the order written. A name may stand here several times, and so may the master's:
    /// [`PoolConfig::servers`] is the list without repetitions.
    pub replicas: Vec<ServerConfig>,
    /// Labels of the PostgreSQL pods instead of names; empty: none.
    pub selector: BTreeMap<String, String>,
    /// The operator's login.
    pub admin_secret: Option<SecretRef>,
    /// The least-privilege login for the proxies' own look-ups; `None`: `admin_secret`.
    pub proxy_admin_secret: Option<SecretRef>,
    /// The login of `primary_conninfo`; `None`: what the standby has is kept.
    pub replication_secret: Option<SecretRef>,
    /// TLS towards the servers. (new)
    pub server_tls: ServerTls,
    /// When a client holds a server. (new)
    pub pool_mode: PoolMode,
    /// How many workers a pool has. (live)
    pub workers: Workers,
    /// How many connections of the servers are ours. (live)
    pub budget: Budget,
    /// Bounds on clients. (live)
    pub limits: Limits,
    /// Bounds on time. (live)
    pub timeouts: Timeouts,
    /// A plain BEGIN is answered by the proxy and sent together with the next statement, the end of a transaction that only read ahead of
    /// the server. (new)
    pub defer_begin: bool,
    /// Which application_name servers see. (new)
    pub application_name: ApplicationName,
    /// Settings per database. (new)
    pub databases: Vec<DatabaseOverride>,
    /// Settings per user. (new)
    pub users: Vec<UserOverride>,
    /// Session mode: what is run between two clients; empty: the smart clean-up. (new)
    pub reset_query: String,
    /// What a listener gets when its hub connection was lost. (live)
    pub on_listen_gap: ListenGap,
    /// What currval and lastval do. (new)
    pub sequence_state: SequenceState,
    /// Clients to whom `timeouts.clientIdle` does not apply. (live)
    pub idle_exemptions: Vec<IdleExemption>,
    /// Limits and timeouts of single clients, the first match counts. (live)
    pub client_rules: Vec<ClientRule>,
    /// Replication connections are passed through. (new)
    pub allow_replication: bool,
    /// Who may log in. (live)
    pub auth: Auth,
    /// TLS towards clients. (live)
    pub tls: ClientFacingTls,
    /// Where reads go. (live)
    pub routing: Routing,
    /// The result cache. (live)
    pub cache: Cache,
    /// Failover.
    pub ha: Ha,
    /// What a commit promises.
    pub durability: Durability,
    /// A planned switchover that the user asks for.
    pub switchover: Option<Switchover>,
    /// The user's word to go on with a blocked failover.
    pub failover: Option<FailoverRequest>,
    /// The proxies the operator runs (Kubernetes only).
    pub proxy: Proxy,
}

impl PoolConfig {
    /// A pool with the defaults everywhere: what a manifest with only a name and a master gives.
    pub fn minimal(name: impl Into<String>, master: ServerConfig) -> Self {
        Self {
            name: name.into(),
            namespace: "default".to_owned(),
            generation: 0,
            master,
            replicas: Vec::new(),
            selector: BTreeMap::new(),
            admin_secret: None,
            proxy_admin_secret: None,
            replication_secret: None,
            server_tls: ServerTls::default(),
            pool_mode: PoolMode::default(),
            workers: Workers::default(),
            budget: Budget::default(),
            limits: Limits::default(),
            timeouts: Timeouts::default(),
            defer_begin: true,
            application_name: ApplicationName::default(),
            databases: Vec::new(),
            users: Vec::new(),
            reset_query: String::new(),
            on_listen_gap: ListenGap::default(),
            sequence_state: SequenceState::default(),
            idle_exemptions: Vec::new(),
            client_rules: Vec::new(),
            allow_replication: false,
            auth: Auth::default(),
            tls: ClientFacingTls::default(),
            routing: Routing::default(),
            cache: Cache::default(),
            ha: Ha::default(),
            durability: Durability::default(),
            switchover: None,
            failover: None,
            proxy: Proxy::default(),
        }
    }

    /// Every server once, the master of the spec first, then in the order written; weights of a server that is
    /// listed several times are added.
    ///
    /// The master of the spec has weight 0 (takes no reads) unless it stands among the replicas too.
    pub fn servers(&self) -> Vec<ServerConfig> {
        let mut servers = vec![ServerConfig {
            weight: 0,
            ..self.master.clone()
        }];
        for replica in &self.replicas {
            match servers.iter_mut().find(|server| server.name == replica.name) {
                Some(server) => server.weight = server.weight.saturating_add(replica.weight),
                None => servers.push(replica.clone()),
            }
        }
        servers
    }

    /// The server of this name, with its summed weight.
    pub fn server(&self, name: &str) -> Option<ServerConfig> {
        self.servers().into_iter().find(|server| server.name == name)
    }

    /// The login for the proxies' own look-ups: `proxyAdminSecretRef`, else `adminSecretRef`.
    pub fn lookup_secret(&self) -> Option<&SecretRef> {
        self.proxy_admin_secret.as_ref().or(self.admin_secret.as_ref())
    }
}

impl Default for PoolConfig {
    /// A pool `test` with a master `a` at 127.0.0.1:5432: for tests and examples.
    fn default() -> Self {
        Self::minimal("test", ServerConfig::host("a", "127.0.0.1", 5432))
    }
}
