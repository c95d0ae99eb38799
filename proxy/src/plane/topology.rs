//! Who is master and who is replica, as data threads see it: an immutable snapshot.

use std::sync::Arc;

use pgnet::client::Target;
use pgnet::tls::ClientTls;

/// One PostgreSQL server.
#[derive(Clone, Debug)]
pub struct Server {
    /// Name in the resource.
    pub name: String,
    /// Where it listens.
    pub target: Target,
    /// How to speak TLS to it.
    pub tls: Arc<ClientTls>,
    /// What it has to be, where that is known: another server at its address is never written to.
    pub identity: Option<Identity>,
}

/// Which cluster and which history a server belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// `system_identifier` of pg_control_system().
    pub system_identifier: String,
    /// The timeline a master writes.
    pub timeline: u32,
}

/// What proxies may do with requests for the master.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Serve.
    Open,
    /// A planned switchover begins: requests that would lease a worker are held, shared ones still run.
    HoldingLeases,
    /// A planned switchover: finish what runs, hold what comes (`queryWait` does not run), close connections to the master.
    Paused,
    /// A failover: drop connections to the old master at once, hold what comes.
    Fenced,
}

/// A replica that may take reads.
#[derive(Clone, Debug)]
pub struct Replica {
    /// The server.
    pub server: Arc<Server>,
    /// Share of reads; 0 takes none.
    pub weight: u32,
}

/// The truth proxies follow. Only [`Plane::apply`](super::Plane::apply) changes it.
#[derive(Clone, Debug)]
pub struct Topology {
    /// Grows with each change of the master or the mode.
    pub epoch: u64,
    /// See [`Mode`].
    pub mode: Mode,
    /// While not open: leases are cut off at once instead of waited for (a forced switchover).
    pub force: bool,
    /// `None`: unknown yet, requests wait and end in 57P03.
    pub master: Option<Arc<Server>>,
    /// Read-eligible replicas (the master among them where the resource lists it there).
    pub replicas: Vec<Replica>,
}

impl Topology {
    /// Before anything is known: everything waits.
    #[must_use]
    pub fn unknown() -> Self {
        Self {
            epoch: 0,
            mode: Mode::Fenced,
            force: false,
            master: None,
            replicas: Vec::new(),
        }
    }
}
