//! What the core is told: settings, samples of servers, reports of proxies.

use std::fmt;
use std::time::Duration;

/// The name of a server in the manifest; also its `application_name` as a standby.
pub type Name = String;

/// A position in the write-ahead log, in bytes from the start of the cluster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(pub u64);

impl Lsn {
    /// Reads PostgreSQL's form `16/B374D848`. `None` for anything else.
    pub fn parse(text: &str) -> Option<Self> {
        let (high, low) = text.split_once('/')?;
        let (high, low) = (
            u32::from_str_radix(high, 16).ok()?,
            u32::from_str_radix(low, 16).ok()?,
        );
        Some(Self(u64::from(high) << 32 | u64::from(low)))
    }

    /// Bytes from `earlier` to this position, 0 when it is not earlier.
    pub fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xffff_ffff)
    }
}

/// One server of the manifest, as far as decisions need it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// Its name.
    pub name: Name,
    /// Host name, address, or folder of a Unix socket.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// 0 = never promoted; decides only between equally new candidates.
    pub priority: u8,
}

/// `spec.durability.mode`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// Commits wait for nobody.
    #[default]
    Async,
    /// Commits wait for standbys while there are any.
    Preferred,
    /// Commits wait, and nothing is promoted that could lack an acknowledged commit.
    Required,
}

/// `spec.ha.rejoin`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RejoinPolicy {
    /// Follow, else rewind where there is a way, else say that a person is needed.
    #[default]
    Auto,
    /// Only fence; a person does the rest.
    Manual,
}

/// A planned switchover somebody asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SwitchoverRequest {
    /// Who shall be master.
    pub to: Name,
    /// Makes the request one request, however often it is read.
    pub id: String,
    /// Goes on when the proxies do not drain in time: those statements are cut.
    pub force: bool,
}

/// What the manifest and the command line say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Every server, the seed master among them, each once.
    pub servers: Vec<Server>,
    /// `spec.master`: counts only while there is no status.
    pub seed: Name,
    /// Whether to act at all: `false` only follows whoever is master.
    pub ha: bool,
    /// `spec.ha.paused`: starts no operation.
    pub paused: bool,
    /// Consecutive failed probes before the master counts as dead.
    pub threshold: u32,
    /// Time between two probes of a server.
    pub probe_period: Duration,
    /// How long a server that says "starting up" is waited for.
    pub crash_grace: Duration,
    /// How long an election waits for servers before it says `Blocked`.
    pub election_timeout: Duration,
    /// Bytes a candidate may lack (Async); 0 = any.
    pub max_lag: u64,
    /// Whether commits wait for standbys.
    pub durability: Durability,
    /// For how many they wait.
    pub sync_replicas: u32,
    /// What happens to an old master.
    pub rejoin: RejoinPolicy,
    /// How long a planned switchover waits for transactions to end.
    pub drain: Duration,
    /// The request at hand, if any.
    pub switchover: Option<SwitchoverRequest>,
    /// The id of a blocked operation that may lose data.
    pub force: Option<String>,
    /// There is a command that starts and stops servers.
    pub can_restart: bool,
    /// There is a command that rewinds a server.
    pub can_rewind: bool,
    /// How long a proxy's report counts, on our own clock.
    pub lease: Duration,
}

impl Settings {
    /// The server of this name.
    pub fn server(&self, name: &str) -> Option<&Server> {
        self.servers.iter().find(|server| server.name == name)
    }

    /// Every server but `name`.
    pub fn others<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Server> {
        self.servers.iter().filter(move |server| server.name != name)
    }
}

/// The slot a server uses on its master. Slot names know no hyphen.
pub fn slot_name(server: &str) -> String {
    format!("pgp_{}", server.replace('-', "_").to_ascii_lowercase())
}

/// Where the WAL receiver of a standby gets its log from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Receiver {
    /// `streaming` and not `starting`, `waiting` or the like.
    pub streaming: bool,
    /// The timeline it receives.
    pub timeline: u32,
    /// The sender, as the standby names it.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// Since the sender was last heard.
    pub message_age: Duration,
}

/// `primary_conninfo`, as far as decisions need it. Passwords stay on the server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Upstream {
    /// The host; [`DETACHED_HOST`] when we took the standby off its master.
    pub host: String,
    /// The port.
    pub port: u16,
    /// The name under which it streams.
    pub application_name: String,
}

/// The host a detached standby is pointed at: a folder that does not exist, so that a connection fails at once and
/// without a look-up, while user, password and TLS settings stay in the standby's own `primary_conninfo`.
pub const DETACHED_HOST: &str = "/pgstmtpool-detached";

impl Upstream {
    /// Whether the standby looks for no master.
    pub fn is_detached(&self) -> bool {
        self.host.is_empty() || self.host == DETACHED_HOST
    }
}

/// One row of `pg_stat_replication`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sender {
    /// The standby's application name.
    pub name: Name,
    /// State `streaming`.
    pub streaming: bool,
    /// `sync_state`: async, potential, sync or quorum.
    pub sync_state: String,
    /// Up to where the standby has it on disk.
    pub flushed: Lsn,
}

impl Sender {
    /// Whether its confirmations count.
    pub fn counts(&self) -> bool {
        matches!(self.sync_state.as_str(), "sync" | "quorum")
    }
}

/// A line of a timeline history: the timeline ended at this position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fork {
    /// The timeline that was left.
    pub timeline: u32,
    /// Where it was left.
    pub at: Lsn,
}

/// What one status query of a server told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sample {
    /// `server_version_num`.
    pub version: u32,
    /// The system identifier: servers of one cluster share it.
    pub system: String,
    /// In recovery, so a standby.
    pub recovery: bool,
    /// The timeline it writes or follows.
    pub timeline: u32,
    /// Master: flushed. Standby: greatest of received and replayed.
    pub lsn: Lsn,
    /// Standby: replayed.
    pub replay: Lsn,
    /// Standby that was restarted: it still applies log of its own, and nobody knows how much more of it there is.
    pub replaying: bool,
    /// The WAL receiver, if it runs.
    pub receiver: Option<Receiver>,
    /// Where `primary_conninfo` points.
    pub upstream: Option<Upstream>,
    /// `primary_slot_name`.
    pub slot: String,
    /// `synchronous_standby_names`.
    pub sync_names: String,
    /// `recovery_min_apply_delay` is not 0.
    pub delayed: bool,
    /// `default_transaction_read_only` of the cluster: our fence by SQL.
    pub read_only: bool,
    /// The file `standby.signal` exists.
    pub standby_signal: bool,
    /// We may write its files and stop it by SQL.
    pub can_stop: bool,
    /// Sessions of clients other than ours.
    pub clients: u32,
    /// Standbys that stream from it.
    pub senders: Vec<Sender>,
    /// Physical slots of ours (`pgp_…`), with whether someone uses them.
    pub slots: Vec<(String, bool)>,
    /// How its timeline came about, oldest first.
    pub history: Vec<Fork>,
    /// The data directory, where we may see it.
    pub data_directory: String,
    /// `max_connections` without those reserved for superusers.
    pub connections: u32,
}

impl Sample {
    /// Where this server's line left `timeline`. `None`: `timeline` is its own, or none of its ancestors.
    pub fn left(&self, timeline: u32) -> Option<Lsn> {
        self.history
            .iter()
            .rev()
            .find(|fork| fork.timeline == timeline)
            .map(|fork| fork.at)
    }

    /// Whether this server's timeline is `timeline` or grew out of it.
    pub fn descends_from(&self, timeline: u32) -> bool {
        self.timeline == timeline || self.left(timeline).is_some()
    }

    /// Whether two servers carry the same timeline number for different timelines: both were promoted from the same
    /// one. `pg_rewind` sees no difference between them.
    pub fn is_twin(&self, other: &Self) -> bool {
        let forks = (self.history.last(), other.history.last());
        self.timeline == other.timeline && matches!(forks, (Some(mine), Some(theirs)) if mine != theirs)
    }

    /// Whether `standby` holds log that this server's line does not: it can never follow without a rewind.
    pub fn is_diverged(&self, standby: &Self) -> bool {
        if standby.timeline == self.timeline {
            return self.is_twin(standby);
        }
        match self.left(standby.timeline) {
            Some(at) => standby.lsn > at,
            // A higher timeline of its own, or one we know nothing about.
            None => !self.history.is_empty() || standby.timeline > self.timeline,
        }
    }
}

/// What came of one probe (OPERATOR A5).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Probe {
    /// It answered.
    Up(Box<Sample>),
    /// It lives but does not let us in: too many connections, login refused, no such database.
    Odd(String),
    /// 57P03: starting up, or in crash recovery.
    Starting,
    /// The port is closed: the process is gone.
    Refused,
    /// No answer in time, unreachable, reset.
    Silent,
    /// It answers, but a write does not come back: its storage hangs.
    WriteHung,
}

/// What a proxy says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProxyFacts {
    /// Its id.
    pub id: String,
    /// The epoch it follows; every server connection of older ones is closed.
    pub acked: u64,
    /// Nothing is in flight towards the master.
    pub drained: bool,
    /// The number of the budget whose share it keeps to.
    pub budget: u64,
    /// Consecutive failures it saw on the master.
    pub master_fails: u32,
    /// Its last failure was a closed port.
    pub master_refused: bool,
    /// Changes with every report, so that a living proxy is told from a file that was left behind.
    pub beat: String,
}
