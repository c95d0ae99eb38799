//! Reads that take longer than expected: those behind them go elsewhere, if there is a free worker.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::{Rc, Weak};
use std::time::{Duration, Instant};

use super::super::alarm::{Alarm, Bell};
use super::super::cancel;
use super::super::worker::State;
use super::Pool;

/// Reads that share a Sync and are not answered after this time are cancelled where they are: well below the second (deadlock_timeout) after
/// which the server would look for a deadlock, and longer than a busy machine keeps a process waiting for its turn.
const HOPELESS: Duration = Duration::from_millis(100);

/// Of a data thread: looks after those of its pools where a known read stands behind another.
pub(in crate::plane) struct Watch {
    alarm: Alarm,
    /// When the alarm rings.
    due: Cell<Option<Instant>>,
    pools: RefCell<Vec<Weak<Pool>>>,
}

impl Watch {
    /// One that looks after no pool.
    ///
    /// # Errors
    /// See [`Alarm::new`].
    pub(in crate::plane) fn new() -> io::Result<(Self, Bell)> {
        let (alarm, bell) = Alarm::new()?;
        let watch = Self {
            alarm,
            due: Cell::new(None),
            pools: RefCell::default(),
        };
        Ok((watch, bell))
    }

    /// Looks when it is due, for ever.
    pub(in crate::plane) async fn run(&self, mut bell: Bell) {
        loop {
            bell.rings().await;
            self.due.set(None);
            for pool in self.pools.take().iter().filter_map(Weak::upgrade) {
                pool.watched.set(None);
                if let Some(due) = pool.look(Instant::now()) {
                    self.add(&pool, due);
                }
            }
        }
    }

    fn add(&self, pool: &Rc<Pool>, due: Instant) {
        if pool.watched.replace(Some(due)).is_none() {
            self.pools.borrow_mut().push(Rc::downgrade(pool));
        }
        if self.due.get().is_none_or(|set| due < set) {
            self.due.set(Some(due));
            self.alarm.set(due.saturating_duration_since(Instant::now()));
        }
    }
}

impl Pool {
    /// A known read comes to stand behind others, or answers are gathered: at the latest then somebody looks whether it takes too long.
    pub(in crate::plane) fn watch(self: &Rc<Self>, due: Instant) {
        if self.watched.get().is_none_or(|set| due < set)
            && let Some(thread) = self.thread.upgrade()
        {
            thread.watch.add(self, due);
        }
    }

    /// Moves reads from behind heads that take too long. When to look again, if reads stand behind others anywhere.
    fn look(self: &Rc<Self>, now: Instant) -> Option<Instant> {
        let limit = self.overrun();
        let workers = self.workers.borrow();
        let mut free = workers.iter().filter(|w| w.is_free()).count();
        let (mut next, mut scarce) = (None::<Instant>, false);
        for worker in workers.iter().filter(|w| w.state.get() == State::Shared) {
            if worker.depth() < 2 {
                continue;
            }
            // On a machine where everybody is late, running it again would only add to the load.
            let age = worker.head_age(now);
            let due = worker.due(now, limit);
            next = Some(next.map_or(due, |next| next.min(due)));
            // What is said to run may have been answered long ago.
            if worker.fetch_if_late(age) {
                continue;
            }
            // Which of those that share a Sync takes so long is unknown, and the answers of those before it are held back.
            let hopeless = age >= limit.max(HOPELESS);
            if worker.head_is_joined() && age >= limit && (free > 0 || hopeless) {
                free = free.saturating_sub(1);
                if worker.give_up_joined(hopeless) {
                    let worker = worker.clone();
                    tokio::task::spawn_local(async move { cancel::on_server(&worker).await });
                }
                continue;
            }
            if free > 0 && age >= limit {
                free -= 1;
                worker.detach_followers();
            }
            scarce |= free == 0 && age >= self.long();
        }
        drop(workers);
        // Perhaps somebody who has a worker no longer counts (`pace.rs`).
        if free > 0 && self.is_asked() {
            self.serve_waiters();
        }
        if scarce {
            self.start_another();
        }
        next
    }
}
