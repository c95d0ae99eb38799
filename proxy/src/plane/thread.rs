//! A data thread: its own runtime, its clients, its pools. Nothing on it is shared with another thread.

mod doors;
mod listeners;
#[cfg(test)]
mod model;
mod moves;
mod rows;

use std::cell::{Cell, RefCell};
use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet, VecDeque};
use std::net::IpAddr;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use crds::{Effective, PoolConfig};
use nix::time::ClockId;
use pgnet::client::Credential;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::{Notify, oneshot};

use super::Listener;
use super::card::Card;
use super::catalogs::Catalogs;
use super::client::Door;
use super::counters::Counters;
use super::hub::News;
use super::pool::{Pool, Watch};
use super::post::Post;
use super::rows::{ClientRow, PinRow, PoolRow, ServerRow};
use super::secrets::Secrets;
use super::settings::SettingsInterner;
use super::shared::Shared;
use super::startups::Startups;
use super::topology::{Server, Topology};
use crate::classify::Classifier;
use doors::{Traveller, accept, arrive, serve};
pub(super) use listeners::Deaf;
use listeners::Listeners;
use moves::{apply, drain, paused};

/// How long workers of a fenced master are waited for; they are closed, not asked.
const FENCE_WAIT: Duration = Duration::from_secs(2);
/// Different settings of clients that are kept to be shared.
const EFFECTIVE_KEPT: usize = 16;
/// Pools that are found without a look at all of them.
const RECENT_MAX: usize = 8;
/// Read buffers kept for reuse.
const BUFFERS_MAX: usize = 256;
/// First size of a client's read buffer.
pub(super) const CLIENT_BUFFER: usize = 8 * 1024;

/// Set in every process id we make up, and in none of a server: Linux has no process above 2^22.
const VIRTUAL: u32 = 1 << 22;

/// What other threads ask of a data thread.
pub(super) enum Command {
    Admit(Box<Traveller>),
    Configure(Arc<PoolConfig>),
    Apply(Arc<Topology>, oneshot::Sender<bool>),
    Cancel(i32, Bytes, oneshot::Sender<bool>),
    Pools(oneshot::Sender<Vec<PoolRow>>),
    Clients(oneshot::Sender<Vec<ClientRow>>),
    Servers(oneshot::Sender<Vec<ServerRow>>),
    Pins(oneshot::Sender<Vec<PinRow>>),
    Pause(Option<String>, oneshot::Sender<()>),
    Resume(Option<String>),
    Drain(Duration, oneshot::Sender<()>),
    /// Another thread lacks a connection to this server, for this database and user.
    Room(String, String, String),
    /// Of the hub of this database.
    News(Arc<str>, News),
}

/// What requests for the master have to wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hold {
    /// Nothing.
    None,
    /// A planned switchover begins: requests that would hold a worker wait, shared ones run on.
    Leases,
    /// Everything waits. `queryWait` does not run in a planned switchover.
    All {
        /// Whether `queryWait` runs meanwhile.
        clock: bool,
    },
}

/// Who has pools here.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct PoolKey {
    server: String,
    host: String,
    port: u16,
    database: Arc<str>,
    user: Arc<str>,
    /// Of session mode: each worker was opened with its client's startup packet.
    direct: bool,
}

/// See the module.
pub(super) struct Thread {
    pub(super) index: usize,
    pub(super) shared: Arc<Shared>,
    pub(super) counters: Arc<Counters>,
    pub(super) settings: SettingsInterner,
    pub(super) startups: Startups,
    secrets: Secrets,
    pub(super) classifier: RefCell<Classifier>,
    pub(super) catalogs: Catalogs,
    /// Grows with each change of topology: sessions look for their pool again.
    pub(super) generation: Cell<u64>,
    /// Grows with each change of the settings: sessions look what holds for them.
    pub(super) configured: Cell<u64>,
    pub(super) hold: Cell<Hold>,
    pub(super) paused: RefCell<HashSet<Option<String>>>,
    pub(super) changed: Notify,
    config: RefCell<Arc<PoolConfig>>,
    /// What holds for clients, as found last.
    effective: RefCell<VecDeque<Arc<Effective>>>,
    topology: RefCell<Arc<Topology>>,
    pools: RefCell<HashMap<PoolKey, Rc<Pool>>>,
    /// Those of `pools` that were looked for last.
    recent: RefCell<VecDeque<Weak<Pool>>>,
    cards: RefCell<HashMap<u32, Rc<Card>>>,
    next_client: Cell<u32>,
    next_serial: Cell<u64>,
    buffers: RefCell<Vec<BytesMut>>,
    random: Cell<u64>,
    listeners: RefCell<Listeners>,
    pub(super) post: Rc<Post>,
    pub(super) watch: Watch,
}

impl Thread {
    fn new(
        index: usize,
        shared: Arc<Shared>,
        counters: Arc<Counters>,
        config: Arc<PoolConfig>,
    ) -> std::io::Result<Rc<Self>> {
        let post = Post::start(counters.clone());
        let (watch, bell) = Watch::new()?;
        let mut seed = [0u8; 8];
        let _ = getrandom::fill(&mut seed);
        let thread = Rc::new(Self {
            index,
            shared,
            counters,
            settings: SettingsInterner::default(),
            startups: Startups::default(),
            secrets: Secrets::default(),
            classifier: RefCell::new(Classifier::new(crate::classify::Limits::default())),
            catalogs: Catalogs::default(),
            generation: Cell::new(0),
            configured: Cell::new(0),
            hold: Cell::new(Hold::All { clock: true }),
            paused: RefCell::default(),
            changed: Notify::new(),
            config: RefCell::new(config),
            effective: RefCell::default(),
            topology: RefCell::new(Arc::new(Topology::unknown())),
            pools: RefCell::default(),
            recent: RefCell::default(),
            cards: RefCell::default(),
            next_client: Cell::new(0),
            next_serial: Cell::new(0),
            buffers: RefCell::default(),
            random: Cell::new(u64::from_le_bytes(seed) | 1),
            listeners: RefCell::default(),
            post,
            watch,
        });
        let watching = thread.clone();
        tokio::task::spawn_local(async move { watching.watch.run(bell).await });
        Ok(thread)
    }

    /// Settings now.
    pub(super) fn config(&self) -> Arc<PoolConfig> {
        self.config.borrow().clone()
    }

    /// One of the settings, for those who ask with every statement.
    pub(super) fn setting<R>(&self, read: impl FnOnce(&PoolConfig) -> R) -> R {
        read(&self.config.borrow())
    }

    /// What holds for a client. Those for whom the same holds share it.
    pub(super) fn effective_of(
        &self,
        database: &str,
        user: &str,
        application_name: &str,
        address: Option<IpAddr>,
    ) -> Arc<Effective> {
        let found = self
            .config
            .borrow()
            .effective_of(database, user, application_name, address);
        let mut known = self.effective.borrow_mut();
        if let Some(same) = known.iter().find(|known| ***known == found) {
            return same.clone();
        }
        if known.len() == EFFECTIVE_KEPT {
            known.pop_front();
        }
        let new = Arc::new(found);
        known.push_back(new.clone());
        new
    }

    /// Topology now.
    pub(super) fn topology(&self) -> Arc<Topology> {
        self.topology.borrow().clone()
    }

    /// A number no other worker or session of this thread has or had.
    pub(super) fn next_serial(&self) -> u64 {
        self.next_serial.set(self.next_serial.get() + 1);
        self.next_serial.get()
    }

    /// A number in 0..1 for jitter and weights; not for secrets.
    pub(super) fn random_fraction(&self) -> f64 {
        let mut x = self.random.get();
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        self.random.set(x);
        (x >> 11) as f64 / (1u64 << 53) as f64
    }

    /// An empty read buffer.
    pub(super) fn buffer(&self) -> BytesMut {
        self.buffers
            .borrow_mut()
            .pop()
            .unwrap_or_else(|| BytesMut::with_capacity(CLIENT_BUFFER))
    }

    /// Takes a read buffer back.
    pub(super) fn recycle(&self, mut buffer: BytesMut) {
        let mut buffers = self.buffers.borrow_mut();
        if buffers.len() < BUFFERS_MAX && buffer.capacity() <= 4 * CLIENT_BUFFER {
            buffer.clear();
            buffers.push(buffer);
        }
    }

    /// The pool of this server, database and user.
    pub(super) fn pool(
        self: &Rc<Self>,
        server: &Arc<Server>,
        database: &Arc<str>,
        user: &Arc<str>,
        credential: Option<&Arc<Credential>>,
        direct: bool,
    ) -> Rc<Pool> {
        let learn = |pool: &Pool| {
            if let Some(credential) = credential {
                pool.learn(credential);
            }
        };
        let mut recent = self.recent.borrow_mut();
        let found = recent.iter().find_map(|pool| {
            let pool = pool.upgrade()?;
            let same = pool.is_of(server, database, user) && pool.direct == direct;
            same.then_some(pool)
        });
        if let Some(pool) = found {
            learn(&pool);
            return pool;
        }
        let key = PoolKey {
            server: server.name.clone(),
            host: server.target.host.clone(),
            port: server.target.port,
            database: database.clone(),
            user: user.clone(),
            direct,
        };
        let mut pools = self.pools.borrow_mut();
        let pool = pools.entry(key).or_insert_with(|| {
            Pool::new(
                self,
                server.clone(),
                database.clone(),
                user.clone(),
                credential.map_or(Credential::None, |own| (**own).clone()),
                direct,
            )
        });
        learn(pool);
        recent.truncate(RECENT_MAX - 1);
        recent.push_front(Rc::downgrade(pool));
        pool.clone()
    }

    /// Whether requests of `database` for the master may go on.
    pub(super) fn is_open(&self, database: &str, opens_lease: bool) -> bool {
        let held = match self.hold.get() {
            Hold::None => false,
            Hold::Leases => opens_lease,
            Hold::All { .. } => true,
        };
        !held && !self.is_paused(database)
    }

    /// The master, unless nothing at all may go to it now.
    pub(super) fn open_master(&self) -> Option<Arc<Server>> {
        let open = !matches!(self.hold.get(), Hold::All { .. });
        self.topology().master.clone().filter(|_| open)
    }

    fn is_paused(&self, database: &str) -> bool {
        let paused = self.paused.borrow();
        !paused.is_empty() && (paused.contains(&None) || paused.iter().flatten().any(|d| d == database))
    }

    fn register(&self, make: impl FnOnce(u32) -> Rc<Card>) -> Rc<Card> {
        let threads = u32::try_from(self.shared.busy.len()).unwrap_or(1);
        let index = u32::try_from(self.index).unwrap_or(0);
        let mut cards = self.cards.borrow_mut();
        loop {
            let n = self.next_client.get();
            let place = n.wrapping_mul(threads) + index;
            let id = VIRTUAL | place;
            self.next_client
                .set(if place + 2 * threads > VIRTUAL { 0 } else { n + 1 });
            if place < VIRTUAL
                && let Entry::Vacant(free) = cards.entry(id)
            {
                return free.insert(make(id)).clone();
            }
        }
    }
}

/// A turn of the reactor ends when every task that had something to do was run, so that what they write goes out together;
/// at the latest after so many.
const TASKS_PER_TURN: u32 = 4096;

/// Runs a data thread until its commands end.
pub(super) fn run(
    index: usize,
    shared: Arc<Shared>,
    counters: Arc<Counters>,
    config: Arc<PoolConfig>,
    listeners: Vec<(Listener, Door)>,
    commands: UnboundedReceiver<Command>,
) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .event_interval(TASKS_PER_TURN)
        .on_thread_park(super::turn::end)
        .on_thread_unpark(super::turn::begin)
        .build_local(tokio::runtime::LocalOptions::default())?;
    runtime.block_on(async move {
        let thread = Thread::new(index, shared, counters, config)?;
        for (listener, door) in listeners {
            tokio::task::spawn_local(accept(thread.clone(), listener, door));
        }
        tokio::task::spawn_local(sweep(thread.clone()));
        obey(thread, commands).await;
        Ok(())
    })
}

/// Finds the client of a CancelRequest on this proxy or hands the request to the proxy it names.
pub(super) async fn cancel_anywhere(shared: &Arc<Shared>, process_id: i32, key: Bytes) {
    let pid = u32::try_from(process_id).unwrap_or(0);
    let is_virtual = pid & VIRTUAL != 0;
    let ours = is_virtual && (pid >> 23) as u8 == shared.proxy_id;
    // A process id of no proxy is a server's: of a client in session mode, here or at another proxy.
    let done = (ours || !is_virtual) && cancel_here(shared, process_id, &key).await;
    if !done && !ours {
        shared.doorman.forward_cancel(process_id, key).await;
    }
}

/// Cancels what the client of this key runs, if it is one of ours.
pub(super) async fn cancel_here(shared: &Arc<Shared>, process_id: i32, key: &[u8]) -> bool {
    let Some(threads) = shared.threads.get() else {
        return false;
    };
    for thread in threads {
        let (done, wait) = oneshot::channel();
        if thread
            .send(Command::Cancel(process_id, Bytes::copy_from_slice(key), done))
            .is_ok()
            && wait.await.unwrap_or(false)
        {
            return true;
        }
    }
    false
}

async fn obey(thread: Rc<Thread>, mut commands: UnboundedReceiver<Command>) {
    while let Some(command) = commands.recv().await {
        match command {
            Command::Admit(traveller) => {
                if let Some(client) = arrive(*traveller) {
                    serve(&thread, Box::new(client));
                }
            }
            Command::Configure(config) => {
                for (key, pool) in thread.pools.borrow().iter() {
                    pool.configure(config.effective(&key.database, &key.user));
                }
                *thread.config.borrow_mut() = config;
                thread.configured.set(thread.configured.get() + 1);
                for card in thread.cards.borrow().values() {
                    card.wake();
                }
            }
            Command::Apply(topology, done) => {
                tokio::task::spawn_local(apply(thread.clone(), topology, done));
            }
            Command::Cancel(process_id, key, done) => cancel(&thread, process_id, &key, done),
            Command::Pools(reply) => drop(reply.send(thread.pool_rows())),
            Command::Clients(reply) => drop(reply.send(thread.client_rows())),
            Command::Servers(reply) => drop(reply.send(thread.server_rows())),
            Command::Pins(reply) => drop(reply.send(thread.pin_rows())),
            Command::Pause(database, done) => {
                thread.paused.borrow_mut().insert(database.clone());
                tokio::task::spawn_local(paused(thread.clone(), database, done));
            }
            Command::Resume(database) => {
                match database {
                    None => thread.paused.borrow_mut().clear(),
                    some => drop(thread.paused.borrow_mut().remove(&some)),
                }
                thread.changed.notify_waiters();
            }
            Command::Room(server, database, user) => {
                thread.make_room_here(&server, &database, &user);
            }
            Command::News(database, news) => thread.hear(&database, news),
            Command::Drain(deadline, done) => {
                tokio::task::spawn_local(drain(thread.clone(), deadline, done));
            }
        }
    }
}

/// Cancels what a client runs: at once where the proxy still has the request, else on the server.
fn cancel(thread: &Rc<Thread>, process_id: i32, key: &[u8], done: oneshot::Sender<bool>) {
    let Ok(pid) = u32::try_from(process_id) else {
        let _ = done.send(false);
        return;
    };
    let cards = thread.cards.borrow();
    let card = if pid & VIRTUAL != 0 {
        cards.get(&(pid & 0x7f_ffff)).cloned()
    } else {
        cards.values().find(|c| c.is_meant(process_id, key)).cloned()
    };
    drop(cards);
    let Some(card) = card.filter(|c| c.is_meant(process_id, key)) else {
        let _ = done.send(false);
        return;
    };
    thread.counters.cancels.add(1);
    tokio::task::spawn_local(async move {
        super::cancel::cancel(&card).await;
        let _ = done.send(true);
    });
}

/// Each second: closes what nobody needs, and measures how busy the thread is.
async fn sweep(thread: Rc<Thread>) {
    let mut ticks = tokio::time::interval(Duration::from_millis(500));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut before = (Instant::now(), cpu_time());
    loop {
        ticks.tick().await;
        let now = Instant::now();
        let cpu = cpu_time();
        let passed = now.saturating_duration_since(before.0).as_nanos().max(1);
        let share = cpu.saturating_sub(before.1).as_nanos() * 1000 / passed;
        thread.shared.busy[thread.index].store(u32::try_from(share).unwrap_or(1000), Relaxed);
        before = (now, cpu);
        let pools: Vec<Rc<Pool>> = thread.pools.borrow().values().cloned().collect();
        for pool in pools {
            pool.sweep(now);
            if pool.clients.get() > 0 {
                thread.catalogs.refresh(&pool);
            }
        }
    }
}

/// CPU time of this thread.
fn cpu_time() -> Duration {
    ClockId::CLOCK_THREAD_CPUTIME_ID
        .now()
        .map_or(Duration::ZERO, Duration::from)
}
