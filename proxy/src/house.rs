//! What data threads, the control loop, the admin database and HTTP share.
//!
//! Everything here is either immutable and swapped whole, or counted. The plane is put in once, when it runs.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use bytes::Bytes;
use crds::PoolConfig;
use futures::future::{BoxFuture, LocalBoxFuture};
use pgnet::stream::Stream;
use tokio::sync::mpsc;

use crate::http::Report;
use crate::metrics::{self, Edge, Facts, Workers};
use crate::peers::Peers;
use crate::plane::{
    Client, ClientRow, Counters, Door, Doorman, Login, Peer, PinRow, Plane, PoolRow, ServerRow, Topology,
};
use crate::pseudo::{self, Shutdown, Stage};
use crate::startup::Entrance;

/// The control loop says that it lives at least so often.
const HEARTBEAT_MAX: Duration = Duration::from_secs(30);

/// What the program is asked to do while it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Read everything again.
    Reload,
    /// End.
    End(Shutdown),
}

/// See the module.
pub struct House {
    /// Logins.
    pub entrance: Entrance,
    /// Counters of the doors.
    pub edge: Arc<Edge>,
    /// Other proxies; `None`: there is no place to meet.
    pub peers: Option<Peers>,
    /// The settings in force.
    pub config: ArcSwap<PoolConfig>,
    /// What data threads follow.
    pub topology: ArcSwap<Topology>,
    /// What the control loop knows.
    pub facts: Mutex<Facts>,
    /// Why there is no topology yet, for /readyz.
    pub waiting_for: Mutex<String>,
    plane: OnceLock<Arc<Plane>>,
    orders: mpsc::UnboundedSender<Order>,
    /// Some topology with a master was applied.
    serving: AtomicBool,
    draining: AtomicBool,
    started: Instant,
    /// Milliseconds after `started`.
    heartbeat: AtomicU64,
}

impl House {
    /// Before anything runs.
    pub fn new(
        entrance: Entrance,
        edge: Arc<Edge>,
        peers: Option<Peers>,
        orders: mpsc::UnboundedSender<Order>,
    ) -> Self {
        Self {
            config: ArcSwap::new(entrance.config()),
            entrance,
            edge,
            peers,
            topology: ArcSwap::from_pointee(Topology::unknown()),
            facts: Mutex::default(),
            waiting_for: Mutex::new("nothing was read yet".to_owned()),
            plane: OnceLock::new(),
            orders,
            serving: AtomicBool::new(false),
            draining: AtomicBool::new(false),
            started: Instant::now(),
            heartbeat: AtomicU64::new(0),
        }
    }

    /// The plane runs.
    pub fn open(&self, plane: Arc<Plane>) {
        let _ = self.plane.set(plane); // there is only one
    }

    /// The control loop lives.
    pub fn beat(&self) {
        self.heartbeat.store(
            u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX),
            Relaxed,
        );
    }

    /// A master is known and applied: clients may be sent here from now on.
    pub fn serve(&self) {
        self.serving.store(true, Relaxed);
    }

    /// Clients should go elsewhere from now on.
    pub fn drain(&self) {
        self.draining.store(true, Relaxed);
    }

    /// Says why there is no master yet.
    pub fn wait_for(&self, reason: impl Into<String>) {
        *self.waiting_for.lock().unwrap_or_else(PoisonError::into_inner) = reason.into();
    }

    /// Gives an order.
    pub fn order(&self, order: Order) {
        let _ = self.orders.send(order); // it fails only at the very end
    }
}

impl Report for House {
    fn live(&self) -> Result<(), String> {
        let silent = self
            .started
            .elapsed()
            .saturating_sub(Duration::from_millis(self.heartbeat.load(Relaxed)));
        if silent > HEARTBEAT_MAX {
            Err(format!("the control loop is silent for {silent:?}"))
        } else {
            Ok(())
        }
    }

    fn ready(&self) -> Result<(), String> {
        if self.draining.load(Relaxed) {
            return Err("draining".to_owned());
        }
        if self.serving.load(Relaxed) {
            return Ok(());
        }
        Err(self
            .waiting_for
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone())
    }

    fn metrics(&self) -> BoxFuture<'_, Result<String, std::fmt::Error>> {
        Box::pin(async {
            let workers = Workers::of(&self.pools().await);
            let facts = *self.facts.lock().unwrap_or_else(PoisonError::into_inner);
            metrics::encode(&self.edge, facts, &self.counters(), workers)
        })
    }
}

impl Stage for House {
    fn pools(&self) -> BoxFuture<'_, Vec<PoolRow>> {
        Box::pin(async {
            if let Some(plane) = self.plane.get() {
                plane.pools().await
            } else {
                Vec::new()
            }
        })
    }
    fn clients(&self) -> BoxFuture<'_, Vec<ClientRow>> {
        Box::pin(async {
            if let Some(plane) = self.plane.get() {
                plane.clients().await
            } else {
                Vec::new()
            }
        })
    }
    fn servers(&self) -> BoxFuture<'_, Vec<ServerRow>> {
        Box::pin(async {
            if let Some(plane) = self.plane.get() {
                plane.servers().await
            } else {
                Vec::new()
            }
        })
    }
    fn pins(&self) -> BoxFuture<'_, Vec<PinRow>> {
        Box::pin(async {
            if let Some(plane) = self.plane.get() {
                plane.pins().await
            } else {
                Vec::new()
            }
        })
    }
    fn pause(&self, database: Option<String>) -> BoxFuture<'_, ()> {
        Box::pin(async {
            if let Some(plane) = self.plane.get() {
                plane.pause(database).await;
            }
        })
    }
    fn resume(&self, database: Option<String>) -> BoxFuture<'_, ()> {
        Box::pin(async {
            if let Some(plane) = self.plane.get() {
                plane.resume(database).await;
            }
        })
    }
    fn counters(&self) -> Vec<Arc<Counters>> {
        self.plane.get().map(|plane| plane.counters()).unwrap_or_default()
    }
    fn config(&self) -> Arc<PoolConfig> {
        self.config.load_full()
    }
    fn topology(&self) -> Arc<Topology> {
        self.topology.load_full()
    }
    fn reload(&self) {
        self.order(Order::Reload);
    }
    fn shutdown(&self, how: Shutdown) {
        self.order(Order::End(how));
    }
}

/// The doorman that data threads call.
pub struct Porter(pub Arc<House>);

impl Doorman for Porter {
    fn login(&self, stream: Stream, door: Door, peer: Peer) -> LocalBoxFuture<'static, Login> {
        let house = Arc::clone(&self.0);
        Box::pin(async move { house.entrance.login(stream, door, peer).await })
    }

    fn pseudo(&self, client: Box<Client>) -> LocalBoxFuture<'static, ()> {
        Box::pin(pseudo::serve(client, Arc::clone(&self.0) as Arc<dyn Stage>))
    }

    fn forward_cancel(&self, process_id: i32, key: Bytes) -> LocalBoxFuture<'static, ()> {
        let house = Arc::clone(&self.0);
        Box::pin(async move {
            if let Some(peers) = &house.peers {
                house.edge.cancels_forwarded.raise();
                peers.forward(process_id, &key).await;
            }
        })
    }
}
