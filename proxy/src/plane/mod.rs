//! The data plane: data threads, sessions, workers, pools.
//!
//! Owns every byte between clients and servers. Knows nothing of manifests, files, authentication or HTTP: settings
//! and topology come in as immutable snapshots, clients through a [`Doorman`].

mod client;
mod counters;
mod rows;
mod topology;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use crds::PoolConfig;

pub use client::{Client, Door, Doorman, Login, Peer};
pub use counters::{BUCKETS_US, Counter, Counters, Histogram};
pub use rows::{ClientRow, PinRow, PoolRow, ServerRow};
pub use topology::{Identity, Mode, Replica, Server, Topology};

/// A bound listening socket, handed to every data thread.
pub enum Listener {
    /// TCP.
    Tcp(std::net::TcpListener),
    /// Unix socket.
    Unix(std::os::unix::net::UnixListener),
}

/// What the plane needs at its start.
pub struct Options {
    /// Number of data threads, at least 1.
    pub threads: usize,
    /// This proxy among its peers: the top 8 bits of every process id it gives out.
    pub proxy_id: u8,
    /// Doors.
    pub listeners: Vec<(Listener, Door)>,
    /// Settings; [`Plane::configure`] changes them.
    pub config: Arc<PoolConfig>,
    /// Lets clients in.
    pub doorman: Arc<dyn Doorman>,
}

/// The running data plane.
pub struct Plane {}

impl Plane {
    /// Starts the data threads.
    ///
    /// # Errors
    /// When a thread or its runtime cannot be made.
    pub fn start(_options: Options) -> io::Result<Arc<Self>> {
        Ok(Arc::new(Self {}))
    }
    /// New settings, at once for what is live.
    pub fn configure(&self, _config: Arc<PoolConfig>) {}
    /// A new topology. Returns when every data thread has closed (Fenced) or drained and closed (Paused) what it had
    /// to the master of an older epoch: only then may the epoch be acknowledged. Bounded by `timeouts.drain` in Paused;
    /// `false`: something was still running at the deadline, the epoch is applied but not drained.
    pub async fn apply(&self, _topology: Arc<Topology>) -> bool {
        true
    }
    /// Cancels what the client with this key runs. `false`: no such client here.
    pub async fn cancel(&self, _process_id: i32, _key: &[u8]) -> bool {
        false
    }
    /// Rows of SHOW POOLS.
    pub async fn pools(&self) -> Vec<PoolRow> {
        Vec::new()
    }
    /// Rows of SHOW CLIENTS.
    pub async fn clients(&self) -> Vec<ClientRow> {
        Vec::new()
    }
    /// Rows of SHOW SERVERS.
    pub async fn servers(&self) -> Vec<ServerRow> {
        Vec::new()
    }
    /// Rows of SHOW PINS.
    pub async fn pins(&self) -> Vec<PinRow> {
        Vec::new()
    }
    /// Holds new requests of one database, or of all; returns when what ran has ended.
    pub async fn pause(&self, _database: Option<String>) {}
    /// Lets them go on.
    pub async fn resume(&self, _database: Option<String>) {}
    /// Counters of every data thread.
    #[must_use]
    pub fn counters(&self) -> Vec<Arc<Counters>> {
        Vec::new()
    }
    /// Clients being served now.
    #[must_use]
    pub fn client_count(&self) -> usize {
        0
    }
    /// Stops accepting, sends idle clients away with 57P01, lets running requests end within `deadline`, closes the rest.
    pub async fn drain(&self, _deadline: Duration) {}
}
