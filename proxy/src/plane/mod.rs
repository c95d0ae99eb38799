//! The data plane: data threads, sessions, workers, pools.
//!
//! Owns every byte between clients and servers. Knows nothing of manifests, files, authentication or HTTP: settings
//! and topology come in as immutable snapshots, clients through a [`Doorman`].

mod alarm;
#[doc(hidden)]
pub mod benches;
mod cancel;
mod card;
mod catalogs;
mod client;
mod counters;
mod ears;
mod error;
mod fifo;
mod greeting;
mod hub;
mod internal;
mod pool;
mod post;
mod rows;
mod script;
mod secrets;
mod session;
mod settings;
mod shared;
mod slot;
mod startups;
mod statement;
mod thread;
mod topology;
mod turn;
mod worker;

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use crds::PoolConfig;
use tokio::sync::{mpsc, oneshot};

pub use client::{Client, Door, Doorman, Login, Peer};
pub use counters::{BUCKETS_US, Counter, Counters, Histogram};
pub use rows::{ClientRow, PinRow, PoolRow, ServerRow};
pub use topology::{Identity, Mode, Replica, Server, Topology};

use shared::Shared;
use thread::Command;

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
pub struct Plane {
    shared: Arc<Shared>,
    counters: Vec<Arc<Counters>>,
}

impl Plane {
    /// Starts the data threads.
    ///
    /// # Errors
    /// When a thread or its runtime cannot be made, or a listener not be shared between threads.
    pub fn start(options: Options) -> io::Result<Arc<Self>> {
        let Options {
            threads,
            proxy_id,
            listeners,
            config,
            doorman,
        } = options;
        let threads = threads.max(1);
        let shared = Arc::new(Shared::new(proxy_id, doorman, threads));
        let counters: Vec<Arc<Counters>> = (0..threads).map(|_| Arc::default()).collect();
        let mut senders = Vec::new();
        let mut receivers = Vec::new();
        for _ in 0..threads {
            let (sender, receiver) = mpsc::unbounded_channel();
            senders.push(sender);
            receivers.push(receiver);
        }
        let _ = shared.threads.set(senders);
        for (index, commands) in receivers.into_iter().enumerate() {
            let mut doors = Vec::new();
            for (listener, door) in &listeners {
                doors.push((listener.try_clone()?, *door));
            }
            let (shared, counters, config) = (shared.clone(), counters[index].clone(), config.clone());
            std::thread::Builder::new()
                .name(format!("data-{index}"))
                .spawn(move || {
                    if let Err(error) = thread::run(index, shared, counters, config, doors, commands) {
                        tracing::error!(%error, index, "A data thread could not start");
                    }
                })?;
        }
        Ok(Arc::new(Self { shared, counters }))
    }

    fn tell(&self, command: impl Fn() -> Command) {
        for thread in self.shared.threads.get().into_iter().flatten() {
            let _ = thread.send(command());
        }
    }

    /// Asks every thread, and gathers what they answer.
    async fn ask<T: Send + 'static>(&self, command: impl Fn(oneshot::Sender<T>) -> Command) -> Vec<T> {
        let mut answers = Vec::new();
        for thread in self.shared.threads.get().into_iter().flatten() {
            let (sender, receiver) = oneshot::channel();
            if thread.send(command(sender)).is_ok() {
                answers.push(receiver);
            }
        }
        futures::future::join_all(answers)
            .await
            .into_iter()
            .flatten()
            .collect()
    }

    /// New settings, at once for what is live.
    pub fn configure(&self, config: Arc<PoolConfig>) {
        self.tell(|| Command::Configure(config.clone()));
    }

    /// A new topology. Returns when every data thread has closed (Fenced) or drained and closed (Paused) what it had
    /// to the master of an older epoch: only then may the epoch be acknowledged. Bounded by `timeouts.drain` in Paused;
    /// `false`: something was still running at the deadline, the epoch is applied but not drained.
    pub async fn apply(&self, topology: Arc<Topology>) -> bool {
        let drained = self.ask(|done| Command::Apply(topology.clone(), done)).await;
        drained.len() == self.counters.len() && drained.into_iter().all(|d| d)
    }

    /// Cancels what the client with this key runs. `false`: no such client here.
    pub async fn cancel(&self, process_id: i32, key: &[u8]) -> bool {
        thread::cancel_here(&self.shared, process_id, key).await
    }

    /// Rows of SHOW POOLS.
    pub async fn pools(&self) -> Vec<PoolRow> {
        self.ask(Command::Pools).await.concat()
    }

    /// Rows of SHOW CLIENTS.
    pub async fn clients(&self) -> Vec<ClientRow> {
        self.ask(Command::Clients).await.concat()
    }

    /// Rows of SHOW SERVERS.
    pub async fn servers(&self) -> Vec<ServerRow> {
        self.ask(Command::Servers).await.concat()
    }

    /// Rows of SHOW PINS.
    pub async fn pins(&self) -> Vec<PinRow> {
        self.ask(Command::Pins).await.concat()
    }

    /// Holds new requests of one database, or of all; returns when what ran has ended.
    pub async fn pause(&self, database: Option<String>) {
        let _ = self.ask(|done| Command::Pause(database.clone(), done)).await;
    }

    /// Lets them go on.
    pub async fn resume(&self, database: Option<String>) {
        self.tell(|| Command::Resume(database.clone()));
    }

    /// Counters of every data thread.
    #[must_use]
    pub fn counters(&self) -> Vec<Arc<Counters>> {
        self.counters.clone()
    }

    /// Clients being served now.
    #[must_use]
    pub fn client_count(&self) -> usize {
        self.shared.clients.load(Relaxed)
    }

    /// Stops accepting, sends idle clients away with 57P01, lets running requests end within `deadline`, closes the rest.
    pub async fn drain(&self, deadline: Duration) {
        self.shared.draining.store(true, Relaxed);
        let _ = self.ask(|done| Command::Drain(deadline, done)).await;
    }
}

impl Listener {
    fn try_clone(&self) -> io::Result<Self> {
        Ok(match self {
            Self::Tcp(listener) => Self::Tcp(listener.try_clone()?),
            Self::Unix(listener) => Self::Unix(listener.try_clone()?),
        })
    }
}
