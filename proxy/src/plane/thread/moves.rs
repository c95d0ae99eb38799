//! What happens to pools and clients when the master moves, a database is paused, or the proxy goes away.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tracing::info;

use super::super::card::Kill;
use super::super::pool::Pool;
use super::super::topology::{Mode, Server, Topology};
use super::super::worker::State;
use super::{Command, FENCE_WAIT, Hold, PoolKey, Thread};

/// A client that asks for nothing for so long leaves a draining proxy at once. Pools of connections test what they have not
/// used for about so long before they give it out: they find it closed, and nobody hears of it.
const QUIET: Duration = Duration::from_secs(1);

/// Makes a topology true on this thread; see [`super::Plane::apply`].
pub(super) async fn apply(thread: Rc<Thread>, topology: Arc<Topology>, done: oneshot::Sender<bool>) {
    let old = thread.topology();
    if topology.epoch < old.epoch {
        let _ = done.send(true);
        return;
    }
    let drain = thread.config().timeouts.drain;
    *thread.topology.borrow_mut() = topology.clone();
    let mut drained = true;
    match topology.mode {
        Mode::Open => {
            thread.hold.set(Hold::None);
            thread.retire_pools(&topology);
        }
        Mode::Fenced => {
            thread.hold.set(Hold::All { clock: true });
            if let Some(master) = old.master.as_ref().or(topology.master.as_ref()) {
                thread.close_pools_of(master, true, FENCE_WAIT).await;
            }
        }
        Mode::HoldingLeases => {
            thread.hold.set(Hold::Leases);
            if let Some(master) = old.master.clone().or_else(|| topology.master.clone()) {
                drained = thread.drain_leases(&master, drain, topology.force).await;
            }
        }
        Mode::Paused => {
            if let Some(master) = old.master.clone().or_else(|| topology.master.clone()) {
                drained = thread.drain_master(&master, drain, topology.force).await;
            }
        }
    }
    thread.generation.set(thread.generation.get() + 1);
    thread.changed.notify_waiters();
    let _ = done.send(drained);
}

/// Waits until what ran in a paused database has ended.
pub(super) async fn paused(thread: Rc<Thread>, database: Option<String>, done: oneshot::Sender<()>) {
    loop {
        let busy = thread.pools.borrow().iter().any(|(key, pool)| {
            database.as_deref().is_none_or(|d| *key.database == *d)
                && pool
                    .workers
                    .borrow()
                    .iter()
                    .any(|w| !matches!(w.state.get(), State::Idle | State::Closed))
        });
        if !busy {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let _ = done.send(());
}

/// Sends clients away: first those that are [`QUIET`], after half of the time all whose request or transaction has ended, the
/// rest at the deadline.
pub(super) async fn drain(thread: Rc<Thread>, deadline: Duration, done: oneshot::Sender<()>) {
    thread.changed.notify_waiters();
    let begun = Instant::now();
    let until = begun + deadline;
    // How many requests each had made, and since when it has made no further one.
    let mut resting: HashMap<u64, (u64, Instant)> = HashMap::new();
    info!(
        thread = thread.index,
        clients = thread.cards.borrow().len(),
        "Draining"
    );
    loop {
        let now = Instant::now();
        let late = now >= until;
        for card in thread.cards.borrow().values() {
            let requests = card.requests.get();
            let rest = resting.entry(card.serial).or_insert((requests, card.since.get()));
            if !card.rests() || rest.0 != requests {
                *rest = (requests, now);
            }
            if late {
                card.kill(Kill::Now);
            } else if now >= begun + deadline / 2 || now.saturating_duration_since(rest.1) >= QUIET {
                card.kill(Kill::WhenIdle);
            }
        }
        if thread.cards.borrow().is_empty() || Instant::now() >= until + Duration::from_secs(1) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let _ = done.send(());
}

impl Thread {
    pub(super) fn pools_of(&self, server: &Server) -> Vec<Rc<Pool>> {
        self.pools
            .borrow()
            .values()
            .filter(|p| p.server.name == server.name)
            .cloned()
            .collect()
    }

    /// A pool may have no further worker because of what others have: one of those closes an idle one, here or on another
    /// thread.
    pub(in crate::plane) fn make_room(&self, server: &str, database: &str, user: &str) {
        if self.make_room_here(server, database, user) {
            return;
        }
        let threads = self.shared.threads.get().into_iter().flatten().enumerate();
        for (_, thread) in threads.filter(|(at, _)| *at != self.index) {
            let _ = thread.send(Command::Room(
                server.to_owned(),
                database.to_owned(),
                user.to_owned(),
            ));
        }
    }

    /// Of the pools with the same database or user first: it may be their share that is used up.
    pub(super) fn make_room_here(&self, server: &str, database: &str, user: &str) -> bool {
        let pools: Vec<Rc<Pool>> = self.pools.borrow().values().cloned().collect();
        let mut others: Vec<Rc<Pool>> = pools
            .into_iter()
            .filter(|p| p.server.name == server && (*p.database != *database || *p.user != *user))
            .collect();
        others.sort_by_key(|p| *p.database != *database && *p.user != *user);
        others.iter().any(|pool| pool.stand_back())
    }

    /// ALTER ROLE or ALTER DATABASE ... SET: connections opened before know nothing of it.
    pub(in crate::plane) fn renew(&self, database: &str) {
        info!(
            database,
            "Settings of roles or of the database have changed: workers are replaced"
        );
        let pools: Vec<Rc<Pool>> = self.pools.borrow().values().cloned().collect();
        for pool in pools.iter().filter(|p| *p.database == *database) {
            pool.recycle();
        }
    }

    /// Closes pools of servers the topology no longer names.
    pub(super) fn retire_pools(&self, topology: &Topology) {
        let named = |key: &PoolKey| {
            topology
                .master
                .iter()
                .chain(topology.replicas.iter().map(|r| &r.server))
                .any(|s| s.name == key.server && s.target.host == key.host && s.target.port == key.port)
        };
        let gone: Vec<Rc<Pool>> = {
            self.recent.borrow_mut().clear();
            let mut pools = self.pools.borrow_mut();
            let keys: Vec<PoolKey> = pools.keys().filter(|k| !named(k)).cloned().collect();
            keys.iter().filter_map(|k| pools.remove(k)).collect()
        };
        for pool in gone {
            pool.close(false);
        }
    }

    pub(super) async fn close_pools_of(&self, server: &Server, now: bool, wait: Duration) -> bool {
        let pools = self.pools_of(server);
        self.recent.borrow_mut().clear();
        self.pools
            .borrow_mut()
            .retain(|_, p| p.server.name != server.name);
        for pool in &pools {
            pool.close(now);
        }
        let deadline = Instant::now() + wait;
        while pools.iter().any(|p| !p.is_empty()) {
            if Instant::now() >= deadline {
                return false;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        true
    }

    /// Waits until no session holds a worker of the master; those that keep one without using it are sent away. `force`: all
    /// are cut off at once.
    pub(super) async fn drain_leases(&self, master: &Server, limit: Duration, force: bool) -> bool {
        let deadline = Instant::now() + limit;
        loop {
            for card in self.cards.borrow().values() {
                if (force || card.is_pinned_and_idle())
                    && card.worker().is_some_and(|w| w.server.name == master.name)
                {
                    card.kill(if force && card.holds() {
                        Kill::Now
                    } else {
                        Kill::Moving
                    });
                }
            }
            let leased = |pool: &Rc<Pool>| {
                pool.workers
                    .borrow()
                    .iter()
                    .any(|w| matches!(w.state.get(), State::Leased | State::Pinned))
            };
            if !self.pools_of(master).iter().any(leased) {
                return true;
            }
            if Instant::now() >= deadline {
                return false;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// Leases first, then everything; then the connections to the master are closed.
    pub(super) async fn drain_master(&self, master: &Server, limit: Duration, force: bool) -> bool {
        let deadline = Instant::now() + limit;
        if self.hold.get() == Hold::None {
            self.hold.set(Hold::Leases);
        }
        if !self.drain_leases(master, limit, force).await {
            return false;
        }
        self.hold.set(Hold::All { clock: false });
        let left = deadline.saturating_duration_since(Instant::now());
        self.close_pools_of(master, false, left).await
    }
}
