//! What data threads share: written rarely, under short locks, never on the path of a statement.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use tokio::sync::mpsc::UnboundedSender;

use super::client::Doorman;
use super::hub::Hubs;
use super::thread::Command;

/// Share of a data thread's time above which a pool spreads to a further thread, in thousandths.
const SATURATED: u32 = 850;
/// The same above which a further thread helps to accept connections.
const BUSY: u32 = 700;
/// Logins that went to one other thread, more than went elsewhere, for which the door moves there.
const MOVES_AT: u32 = 32;

/// See the module.
pub(super) struct Shared {
    pub(super) proxy_id: u8,
    pub(super) doorman: Arc<dyn Doorman>,
    pub(super) budget: Budget,
    pub(super) hubs: Hubs,
    pub(super) clients: AtomicUsize,
    pub(super) draining: AtomicBool,
    pub(super) threads: OnceLock<Vec<UnboundedSender<Command>>>,
    /// CPU time of each data thread in the last half second, in thousandths of it.
    pub(super) busy: Vec<AtomicU32>,
    /// Clients on each data thread.
    pub(super) load: Vec<AtomicUsize>,
    homes: Mutex<HashMap<(Arc<str>, Arc<str>), Vec<usize>>>,
    /// The thread that accepts connections.
    keeper: AtomicUsize,
    votes: Mutex<Votes>,
}

impl Shared {
    pub(super) fn new(proxy_id: u8, doorman: Arc<dyn Doorman>, threads: usize) -> Self {
        Self {
            proxy_id,
            doorman,
            budget: Budget::default(),
            hubs: Hubs::default(),
            clients: AtomicUsize::new(0),
            draining: AtomicBool::new(false),
            threads: OnceLock::new(),
            busy: (0..threads).map(|_| AtomicU32::new(0)).collect(),
            load: (0..threads).map(|_| AtomicUsize::new(0)).collect(),
            homes: Mutex::default(),
            keeper: AtomicUsize::new(0),
            votes: Mutex::default(),
        }
    }

    /// Whether this thread accepts connections: the keeper of the door does, each further one when the one before it is busy.
    pub(super) fn accepts(&self, thread: usize) -> bool {
        let threads = self.busy.len();
        let before = (thread + threads - 1) % threads;
        thread == self.keeper.load(Relaxed) || self.busy[before].load(Relaxed) >= BUSY
    }

    /// The thread a client goes to that logged in on thread `at`. The door moves to where most of them go: on the way from
    /// one thread to another a login costs half as much again.
    pub(super) fn place(&self, at: usize, database: &Arc<str>, user: &Arc<str>) -> usize {
        let home = self.home(database, user);
        let keeper = self.keeper.load(Relaxed);
        if at == keeper {
            let mut votes = self.votes.lock().unwrap_or_else(PoisonError::into_inner);
            if votes.cast(home, keeper) {
                self.keeper.store(home, Relaxed);
            }
        }
        home
    }

    /// One that serves its pool already, unless all of those are saturated; batching is worth more than balance.
    fn home(&self, database: &Arc<str>, user: &Arc<str>) -> usize {
        let mut homes = self.homes.lock().unwrap_or_else(PoisonError::into_inner);
        let home = homes.entry((database.clone(), user.clone())).or_default();
        let busy = |thread: &usize| self.busy[*thread].load(Relaxed);
        let load = |thread: &usize| self.load[*thread].load(Relaxed);
        if let Some(thread) = home
            .iter()
            .filter(|t| busy(t) < SATURATED)
            .min_by_key(|t| load(t))
        {
            return *thread;
        }
        let idlest = (0..self.busy.len()).min_by_key(|t| (busy(t) / 100, load(t)));
        match idlest {
            Some(thread) if home.is_empty() || busy(&thread) < SATURATED => {
                if !home.contains(&thread) {
                    home.push(thread);
                }
                thread
            }
            _ => home.iter().min_by_key(|t| load(t)).copied().unwrap_or(0),
        }
    }
}

/// Which other thread clients go to, as far as one stands out.
#[derive(Default)]
struct Votes {
    other: usize,
    lead: u32,
}

impl Votes {
    /// A client went to `home`. True: more than enough went there, and not to `keeper`.
    fn cast(&mut self, home: usize, keeper: usize) -> bool {
        if home != keeper && (self.lead == 0 || self.other == home) {
            self.other = home;
            self.lead += 1;
        } else {
            self.lead = self.lead.saturating_sub(1);
        }
        let moves = self.lead >= MOVES_AT;
        if moves {
            self.lead = 0;
        }
        moves
    }
}

/// How many workers there may be at one server; 0 = no limit, except for the pool.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Shares {
    pub(super) pool: usize,
    /// Of the database, all its users together.
    pub(super) database: usize,
    /// Of the user, in all databases together.
    pub(super) user: usize,
    /// In all.
    pub(super) server: usize,
}

/// How many workers each server, database and user has over all threads, and each server in all.
#[derive(Default)]
pub(super) struct Budget(Mutex<Used>);

#[derive(Default)]
struct Used {
    pools: HashMap<(String, String, String), usize>,
    servers: HashMap<String, usize>,
}

impl Budget {
    /// One more, if that exceeds none of the shares.
    pub(super) fn acquire(&self, server: &str, database: &str, user: &str, shares: Shares) -> bool {
        let Shares {
            pool: max,
            database: per_database,
            user: per_user,
            server: per_server,
        } = shares;
        let mut used = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let sum = |whose: &dyn Fn(&str, &str) -> bool| -> usize {
            let pools = used.pools.iter();
            let counts = pools.filter(|((s, d, u), _)| s == server && whose(d, u));
            counts.map(|(_, count)| *count).sum()
        };
        if per_database != 0 && sum(&|d, _| d == database) >= per_database
            || per_user != 0 && sum(&|_, u| u == user) >= per_user
        {
            return false;
        }
        let on_server = used.servers.get(server).copied().unwrap_or(0);
        let pool = used
            .pools
            .entry((server.to_owned(), database.to_owned(), user.to_owned()))
            .or_default();
        let allowed = *pool < max && (per_server == 0 || on_server < per_server);
        if allowed {
            *pool += 1;
            *used.servers.entry(server.to_owned()).or_default() += 1;
        }
        allowed
    }

    /// How many there are above the share of this server.
    pub(super) fn surplus(&self, server: &str, per_server: usize) -> usize {
        if per_server == 0 {
            return 0;
        }
        let used = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = used.servers.get(server).copied().unwrap_or(0);
        count.saturating_sub(per_server)
    }

    /// One less.
    pub(super) fn release(&self, server: &str, database: &str, user: &str) {
        let mut used = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (server.to_owned(), database.to_owned(), user.to_owned());
        if let Some(count) = used.pools.get_mut(&key) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                used.pools.remove(&key);
            }
        }
        if let Some(count) = used.servers.get_mut(server) {
            *count = count.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_door_moves_to_where_most_clients_go_and_stays_where_they_differ() {
        let mut votes = Votes::default();
        assert!((0..1000).all(|_| !votes.cast(0, 0)));
        assert!((0..1000).all(|n| !votes.cast(n % 2, 0)), "half of them stay");
        assert!((0..1000).all(|n| !votes.cast(1 + n % 2, 0)), "two other threads");
        let needed = (1..=1000).find(|_| votes.cast(1, 0));
        assert!(needed.is_some_and(|n| n <= MOVES_AT + 1), "{needed:?}");
        assert!((0..1000).all(|_| !votes.cast(1, 1)), "there it stays");
    }

    #[test]
    fn a_server_never_gets_more_workers_than_its_share_however_many_pools_want_some() {
        let budget = Budget::default();
        let shares = Shares {
            pool: 2,
            server: 3,
            ..Shares::default()
        };
        assert!(budget.acquire("a", "d", "u", shares));
        assert!(budget.acquire("a", "d", "u", shares));
        assert!(!budget.acquire("a", "d", "u", shares), "the pool has its maximum");
        assert!(budget.acquire("a", "d", "v", shares));
        assert!(!budget.acquire("a", "e", "w", shares), "the server has its share");
        assert!(budget.acquire("b", "e", "w", shares));
        assert_eq!(
            (
                budget.surplus("a", 1),
                budget.surplus("a", 3),
                budget.surplus("a", 0)
            ),
            (2, 0, 0)
        );
        budget.release("a", "d", "u");
        assert!(budget.acquire("a", "e", "w", shares));
    }

    #[test]
    fn a_database_and_a_user_have_their_shares_over_all_their_pools() {
        let budget = Budget::default();
        let shares = Shares {
            pool: 9,
            database: 2,
            user: 3,
            server: 0,
        };
        assert!(budget.acquire("a", "d", "u", shares) && budget.acquire("a", "d", "v", shares));
        assert!(
            !budget.acquire("a", "d", "w", shares),
            "the database has its share"
        );
        assert!(budget.acquire("a", "e", "u", shares) && budget.acquire("a", "f", "u", shares));
        assert!(!budget.acquire("a", "g", "u", shares), "the user has its share");
        assert!(
            budget.acquire("b", "d", "u", shares),
            "at another server they begin anew"
        );
    }
}
